"""A node may die after any write: what it finds then folds on to the same chain."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from journal.entries import NOOP, pack_compaction, pack_membership
from journal.errors import RecordDamaged
from journal.limits import Limits
from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Mutation,
    Offer,
    Put,
    SetAdd,
)
from journal.paxos.membership import Member, Membership
from journal.space import Space
from journal.storage.leveldb import LevelDBStorage
from journal.storage.log import LogStore
from journal.storage.memory import MemoryStorage
from journal.types import NodeId, Revision, Slot
from tests.space.world import World, batch, entry

MAP = b"\x82\xa3cpu\x04\xa5ports\x90"  # {"cpu": 4, "ports": []}


def history(seed: int, slots: int) -> list[bytes]:
    """A mixed history: clients with sessions, conditions that fail, leases, compactions, no-ops."""
    rng = random.Random(seed)
    entries = [entry(batch(Offer(tuple(Put(b"m%d" % index, MAP) for index in range(4)))))]
    sequences = {b"x": 0, b"y": 0, b"": 0}
    revision = 1
    for _ in range(slots):
        kind = rng.random()
        if kind < 0.05:
            entries.append(NOOP)
        elif kind < 0.12:
            entries.append(pack_compaction(Revision(max(0, revision - rng.randrange(8)))))
        else:
            batches = []
            for _ in range(rng.randrange(1, 4)):
                client = rng.choice([b"x", b"y", b""])
                offers = [some_offer(rng, revision) for _ in range(rng.randrange(1, 4))]
                first = sequences[client]
                acked = max(0, first - rng.randrange(5)) if client else 0
                if client and rng.random() < 0.2:
                    first = acked  # sends again what it sent before, with other content
                batches.append(batch(*offers, client=client, first=first, acked=acked, base=revision))
                sequences[client] = max(sequences[client], first + len(offers))
                revision += len(offers) // 2
            entries.append(entry(*batches))
    return entries


def some_offer(rng: random.Random, revision: int) -> Offer:
    key = b"k%d" % rng.randrange(6)
    mutations: list[Mutation] = [
        Put(key, b"%d" % revision),
        Put(key, b"leased", rng.choice([0, 1, 2])),
        Delete(key),
        DeleteRange(b"k0", b"k3"),
        Adjust(b"m%d" % rng.randrange(4), {"cpu": -1}, {"cpu": 0}),
        SetAdd(b"m%d" % rng.randrange(4), "ports", (rng.randrange(20),)),
        LeaseGrant(rng.choice([1, 2]), 1000),
        LeaseRevoke(rng.choice([1, 2])),
    ]
    mutation = rng.choice(mutations)
    at = max(0, revision - rng.randrange(3))
    if rng.random() < 0.3:
        return Offer((mutation,), reads=(key,), at=at)
    if rng.random() < 0.2:
        return Offer((mutation,), ranges=((b"k0", b"k2"),), at=at)
    return Offer((mutation,))


@pytest.mark.parametrize("seed", range(4))
def test_restart_at_every_point(seed: int) -> None:
    """Fold some, write a prefix of the batches, die, load, fold again: the chain is the same."""
    entries = history(seed, 30)
    reference = World()
    for value in entries:
        reference.fold(value)
    assert reference.space.revision > 30

    for folded in range(len(entries) + 1):
        for written in {0, folded // 2, folded - 1, folded} - {-1}:
            world = World(cache_records_max=4)
            for value in entries[:folded]:
                world.fold(value)
            world.flush(written)
            world.crash()
            for value in entries[folded:]:
                world.fold(value)
            assert world.chains == reference.chains
            assert everything(world.space) == everything(reference.space)


def test_flush_may_come_at_any_time() -> None:
    entries = history(7, 60)
    quiet, rough = World(), World(cache_records_max=1)
    rng = random.Random(3)
    for value in entries:
        assert quiet.fold(value) == rough.fold(value)
        if rng.random() < 0.5:
            rough.flush(rng.randrange(4), report=rng.random() < 0.5)
        rough.compact_step(rng.randrange(1, 5))
        assert everything(quiet.space) == everything(rough.space)


def everything(space: Space) -> list[object]:
    """All that a reader can learn."""
    found: list[object] = [space.revision, space.applied, space.chain, space.compacted]
    found.extend(space.scan(b"", b"", at, 1000, 1 << 20) for at in range(space.compacted, space.revision + 1))
    found.extend(space.outcome(client, sequence) for client in (b"x", b"y") for sequence in range(200))
    found.append([(lease, terms.ttl_ms, sorted(terms.keys)) for lease, terms in sorted(space.leases.items())])
    found.append([space.slots.of_revision(Revision(revision)) for revision in range(1, space.revision + 1)])
    found.append([space.slots.chain_at(Slot(slot)) for slot in range(space.applied + 2)])
    return found


async def test_leveldb_and_memory_come_to_the_same(tmp_path: Path) -> None:
    """The same history over LevelDB, reopened again and again, and over memory."""
    reference = World()
    path = tmp_path / "db"
    storage = LevelDBStorage(path)
    space = Space.load(storage, cache_records_max=3)
    rng = random.Random(5)
    for number, value in enumerate(history(11, 80), 1):
        folded = space.fold(Slot(number), value)
        assert folded == reference.fold(value)
        reference.flush()
        await storage.write(folded.writes, sync=False)
        space.flushed(folded.slot)
        await storage.write(space.compact_step(5), sync=False)
        if rng.random() < 0.15:
            assert everything(space) == everything(reference.space)
            storage.close()
            storage = LevelDBStorage(path)
            space = Space.load(storage, cache_records_max=3)
    assert everything(space) == everything(reference.space)
    storage.close()


def test_a_fold_that_failed_is_not_gone_on_from() -> None:
    world = World()
    world.offer(Offer((Put(b"a", b"1"),)))
    world.flush()
    world.crash()
    world.storage.write_now([(b"ka", b"damaged")], sync=True)
    with pytest.raises(RecordDamaged):
        world.offer(Offer((Put(b"b", b"1"), Put(b"a", b"2"))))
    with pytest.raises(AssertionError, match="load the space again"):
        world.offer(Offer((Put(b"b", b"1"),)))


def test_slots_are_folded_in_order() -> None:
    space = Space(MemoryStorage())
    with pytest.raises(AssertionError):
        space.fold(Slot(2), NOOP)
    space.fold(Slot(1), NOOP)
    with pytest.raises(AssertionError):
        space.fold(Slot(1), NOOP)


def test_a_membership_is_kept_at_the_slot_that_chose_it() -> None:
    first = Membership(voters=(Member(NodeId(1), "h:1"),), learners=())
    second = Membership(voters=first.voters, learners=(Member(NodeId(2), "h:2"),))
    world = World()
    world.fold(NOOP)
    world.fold(pack_membership(second.pack()))
    world.flush()
    found = LogStore(world.storage, Limits()).recover(world.space.applied, first, 32)
    assert found.memberships == ((Slot(1), first), (Slot(34), second))


@pytest.mark.parametrize("family", list(b"zslbmw"), ids=lambda family: chr(family))
def test_a_damaged_record_stops_the_load_at_every_byte(family: int) -> None:
    world = World()
    world.offer(
        Offer((LeaseGrant(1, 1000), Put(b"a", b"1", 1))),
        Offer((Delete(b"b"),), expect=((b"b", 1),)),
        client=b"x",
    )
    world.offer(Offer((Delete(b"a"),)))
    world.offer(Offer((Put(b"b", b"1", 1),)))
    world.compact(2)
    world.flush()
    while world.space.is_compacting:
        world.compact_step(100)
        world.flush()
    key, sealed = next(iter(world.storage.iterate(bytes([family]), bytes([family + 1]))))
    for index in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[index] ^= 0x10
        world.storage.write_now([(key, bytes(damaged))], sync=True)
        with pytest.raises(RecordDamaged):
            Space.load(world.storage)
    world.storage.write_now([(key, sealed)], sync=True)
    assert Space.load(world.storage).chain == world.space.chain


def test_a_damaged_key_or_version_or_outcome_is_not_believed() -> None:
    world = World()
    world.offer(Offer((Put(b"a", b"1"),)))
    world.offer(Offer((Put(b"a", b"2"),)))
    world.flush()
    reads: dict[bytes, Callable[[Space], object]] = {
        b"k": lambda space: space.get(b"a"),
        b"v": lambda space: space.get(b"a", Revision(1)),
        b"o": lambda space: space.slots.chain_at(Slot(1)),
    }
    for family, read in reads.items():
        key, sealed = next(iter(world.storage.iterate(family, bytes([family[0] + 1]))))
        for index in range(len(sealed)):
            damaged = bytearray(sealed)
            damaged[index] ^= 0x01
            world.storage.write_now([(key, bytes(damaged))], sync=True)
            with pytest.raises(RecordDamaged):
                read(Space.load(world.storage))
            if family == b"k":
                with pytest.raises(RecordDamaged):
                    Space.load(world.storage).scan(b"", b"", None, 10, 1000)
        world.storage.write_now([(key, sealed)], sync=True)
        assert read(Space.load(world.storage))
