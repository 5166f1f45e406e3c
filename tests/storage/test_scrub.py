"""The sweep misses what is gone, and nothing that is rightly not there."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from journal.errors import RecordDamaged
from journal.limits import Limits
from journal.offers import Delete, LeaseGrant, Offer, Put
from journal.scrub import Scrub
from journal.storage.memory import MemoryStorage
from journal.storage.records import (
    ACCEPTED,
    BINDING,
    CURRENT,
    ENDED,
    HISTORY,
    IDENTIFIER,
    OUTCOME,
    RECENT,
    family_end,
)
from journal.types import Revision
from tests.node.cluster import Cluster, put, running, submit
from tests.node.test_node import call

LIMITS = Limits(
    log_slots_retained_min=8,
    log_reach_bytes=1_500,
    log_trim_step_slots=5,
    scrub_interval_s=1,
    scrub_records_per_step=97,
)


def sweep(storage: MemoryStorage) -> list[RecordDamaged]:
    scrub, found = Scrub(storage), []
    while not scrub.passes:
        found += scrub.step(31)
    return found


async def story(cluster: Cluster) -> MemoryStorage:
    """Keys made, changed, deleted and made again; leases; compaction in the middle of a slot; trimming."""
    leader = await cluster.leader()
    for number in range(60):
        name = b"key%d" % (number % 11)
        mutation = Delete(name) if number % 7 == 3 else Put(name, b"%d" % number)
        await submit(
            leader, Offer((mutation,)), put(f"once{number}"), Offer((Delete(b"key%d" % (number % 5)),))
        )
    await submit(leader, Offer((LeaseGrant(7, 60_000), Put(b"bound", b"1", 7))))
    await call(leader.compact, Revision(100))
    for number in range(12):
        await submit(leader, put(f"key{number % 3}", "again"), put(f"later{number}"))
    await cluster.until(lambda: not leader.is_compacting and leader.space.slots.first > 1)
    await trio.sleep(1)
    storage = cluster.storages[1]
    assert isinstance(storage, MemoryStorage)
    return storage


async def test_what_is_whole_is_found_whole_while_it_is_compacted(autojump_clock: MockClock) -> None:
    async with running(1, LIMITS) as cluster:
        await story(cluster)
        node = cluster.nodes[1]
        passes = node._care.scrub.passes
        await cluster.until(lambda: node._care.scrub.passes > passes + 1)
        assert node._care.found == 0 and not cluster.failures


async def test_a_deletion_that_is_compacted_within_its_slot_is_not_missed(autojump_clock: MockClock) -> None:
    async with running(1, LIMITS) as cluster:
        leader = await cluster.leader()
        await submit(leader, put("gone"))
        deleted, _other = await submit(leader, Offer((Delete(b"gone"),)), put("stays"))
        assert isinstance(deleted, int)
        await call(leader.compact, Revision(deleted))
        await cluster.until(lambda: not leader.is_compacting)
        await trio.sleep(1)
        storage = cluster.storages[1]
        assert isinstance(storage, MemoryStorage) and storage.get(CURRENT + b"gone") is None
        assert sweep(storage) == []


@pytest.mark.parametrize("family", [IDENTIFIER, ACCEPTED, OUTCOME, HISTORY, ENDED, BINDING, RECENT, CURRENT])
async def test_what_is_gone_is_missed(autojump_clock: MockClock, family: bytes) -> None:
    async with running(1, LIMITS) as cluster:
        storage = await story(cluster)
        compacted = cluster.nodes[1].space.compacted
        await cluster.kill(1)
    missed: Counter[bool] = Counter()
    assert sweep(storage) == []
    for key, sealed in list(storage.iterate(family, family_end(family))):
        storage.write_now([(key, None)], sync=True)
        found = {error.key for error in sweep(storage)}
        storage.write_now([(key, sealed)], sync=True)
        if family == ENDED:  # what is missed is the version, wherever it was kept
            assert {older[:1] for older in found} <= {HISTORY}
        else:
            assert found <= {key}
        missed[bool(found)] += 1
        if family in (ACCEPTED, OUTCOME):
            assert found, key
        if family == CURRENT and int.from_bytes(sealed[12:20], "big") > compacted + 3:
            assert found, key  # it was changed since the compaction
    if family in (IDENTIFIER, RECENT, BINDING):
        assert not missed[True], "it is not needed, or nothing speaks of it"
    else:
        assert missed[True] > (2 if family in (ENDED, HISTORY) else 5)
    assert sweep(storage) == []
    # Both records of a slot at once: the outcome speaks of them.
    if family == IDENTIFIER:
        slot = next(iter(storage.iterate(ACCEPTED, family_end(ACCEPTED))))[0][1:]
        storage.write_now([(ACCEPTED + slot, None), (IDENTIFIER + slot, None)], sync=True)
        assert [error.key for error in sweep(storage)] == [ACCEPTED + slot]
