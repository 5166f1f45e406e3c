"""Reads: from any node, at one revision, never backwards."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from journal.client import LINEARIZABLE, LOCAL, ClientConfig, at_least, connect
from journal.client import reads as reads_module
from journal.connection import Level, NotSent
from journal.errors import InvalidRequest, RevisionCompacted, RevisionInFuture, Unavailable
from journal.limits import Limits
from journal.types import Revision

from .fake import FakeCluster, client


async def test_get_returns_the_record_or_none(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        await journal.put(b"a", b"1")
        await journal.put(b"a", b"2")
        record = await journal.get(b"a")
        assert record is not None
        assert (record.value, record.create, record.mod, record.version) == (b"2", 1, 2, 2)
        assert await journal.get(b"b") is None
        reply = await journal.get_many([b"b", b"a"])
        assert reply.revision == 2
        assert [found and found.value for found in reply.records] == [None, b"2"]


async def test_the_past_can_be_read_and_has_two_ends(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        for i in range(1, 10):
            await journal.put(b"a", b"%d" % i)
        past = await journal.get(b"a", at=4)
        assert past is not None
        assert past.value == b"4"
        with pytest.raises(RevisionInFuture):
            await journal.get(b"a", at=11)
        await journal.compact(6)
        with pytest.raises(RevisionCompacted):
            await journal.get(b"a", at=4)
        with pytest.raises(RevisionInFuture):
            await journal.compact(600)


async def test_a_node_that_has_not_got_to_a_known_revision_is_not_the_last_word(
    autojump_clock: object,
) -> None:
    """The client has seen revision 5; a cut-off node that calls 5 the future is behind."""
    cluster = FakeCluster()
    async with client(cluster) as journal:
        for i in range(1, 6):
            await journal.put(b"a", b"%d" % i)
        for node in cluster.nodes.values():
            node.frozen_at = None if node.leads else Revision(2)
        for _ in range(5):
            record = await journal.get(b"a", at=5, consistency=LOCAL)
            assert record is not None
            assert record.value == b"5"


@pytest.mark.parametrize("level", [LINEARIZABLE, LOCAL, at_least(3)])
async def test_reads_never_go_backwards(autojump_clock: object, level: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        for i in range(1, 6):
            await journal.put(b"a", b"%d" % i)
        for node in cluster.nodes.values():
            node.spoil_read = lambda revision: min(revision, 4)
        healthy = cluster.nodes["n3:1"]
        healthy.spoil_read = lambda revision: revision
        for _ in range(10):
            assert (await journal.get_many([b"a"], consistency=level)).revision == 5  # type: ignore[arg-type]
            assert (await journal.scan(b"", b"", consistency=level)).revision == 5  # type: ignore[arg-type]
            cluster.nodes["n1:1"].frozen_at = Revision(1)
        assert journal.counters.stale_answers


async def test_planted_without_the_check_a_read_goes_backwards(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads_module.Reads, "_floor", lambda self, consistency: 0)
    cluster = FakeCluster()
    async with client(cluster) as journal:
        for i in range(1, 6):
            await journal.put(b"a", b"%d" % i)
        for node in cluster.nodes.values():
            node.spoil_read = lambda revision: min(revision, 4)
        assert (await journal.get_many([b"a"], consistency=LOCAL)).revision == 4


async def test_a_local_read_of_a_new_client_takes_what_the_node_has(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        for i in range(1, 6):
            await journal.put(b"a", b"%d" % i)
    for node in cluster.nodes.values():
        node.frozen_at = Revision(2)
    async with client(cluster) as newcomer:
        assert (await newcomer.get_many([b"a"], consistency=LOCAL)).revision == 2
        with pytest.raises(Unavailable):
            await newcomer.get_many([b"a"], timeout_s=20)


async def test_a_scan_is_of_one_revision_while_others_write(autojump_clock: object) -> None:
    cluster = FakeCluster()
    for node in cluster.nodes.values():
        node.limits = Limits(scan_keys_max=7)
    async with client(cluster) as journal:
        for i in range(50):
            await journal.put(b"k%02d" % i, b"old")

        async def overwrite() -> None:
            for i in reversed(range(50)):
                await journal.put(b"k%02d" % i, b"new")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(overwrite)
            reply = await journal.scan(b"k", b"l")
            assert len(reply.items) == 50
            assert max(record.mod for _key, record in reply.items) <= reply.revision
            pages = [page async for page in journal.scan_pages(b"k", b"l", at=50)]
        assert [len(page.items) for page in pages] == [7] * 7 + [1]
        assert all(record.value == b"old" for page in pages for _key, record in page.items)
        limited = await journal.scan(b"k", b"l", limit=10)
        assert [key for key, _record in limited.items] == [b"k%02d" % i for i in range(10)]
        assert limited.next_key == b"k10"
        page = await journal.scan_page(b"k", b"l", limit_keys=3)
        assert len(page.items) == 3


async def test_pages_of_a_scan_may_come_from_several_nodes(autojump_clock: object) -> None:
    cluster = FakeCluster()
    for node in cluster.nodes.values():
        node.limits = Limits(scan_keys_max=2)
    async with client(cluster) as journal:
        for i in range(12):
            await journal.put(b"k%02d" % i, b"")
        found = []
        async for page in journal.scan_pages(b"", b""):
            found += [key for key, _record in page.items]
            for node in cluster.nodes.values():
                node.up = not node.up if len(found) > 2 else node.endpoint != "n1:1"
            cluster.nodes["n2:1"].up = True
        assert found == [b"k%02d" % i for i in range(12)]


async def test_reads_go_on_while_one_node_runs(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await journal.put(b"a", b"")
        cluster.nodes["n1:1"].up = False
        cluster.nodes["n2:1"].silent = True
        for _ in range(5):
            assert await journal.get(b"a", consistency=at_least(1)) is not None
        assert trio.current_time() < 7, "a dead node is not asked again and again"


async def test_no_node_at_all(autojump_clock: object) -> None:
    cluster = FakeCluster()
    for node in cluster.nodes.values():
        node.up = False
    async with client(cluster) as journal:
        with pytest.raises(Unavailable, match=r"no node answered within 2 s.*connection refused"):
            await journal.get(b"a", timeout_s=2.0)
        assert trio.current_time() == pytest.approx(2.0, abs=0.01)
        assert sum(node.calls for node in cluster.nodes.values()) < 40
        with trio.move_on_after(5) as scope:
            await journal.get(b"a", timeout_s=None)
        assert scope.cancelled_caught
        statuses = await journal.statuses()
        assert all(isinstance(status, Unavailable) for status in statuses.values())


async def test_a_closed_client_says_so_at_once(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        pass
    for call in (
        journal.get(b"a"),
        journal.revision(timeout_s=None),
        journal.compact(1),
        journal.keep_alive(1, timeout_s=None),
        journal.status("n1:1"),
    ):
        with pytest.raises(NotSent, match="closed"):
            await call
    with pytest.raises(Unavailable, match="closed"):
        async with journal.tail(0):
            pass
    assert trio.current_time() < 1


async def test_status_and_leadership(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        roles = {endpoint: status.role for endpoint, status in (await journal.statuses()).items()}  # type: ignore[union-attr]
        assert roles == {"n1:1": "leader", "n2:1": "follower", "n3:1": "follower"}
        await journal.transfer_leadership(3)
        assert (await journal.status("n3:1")).role == "leader"
        await journal.transfer_leadership()
        assert (await journal.status("n2:1")).role == "leader"
        assert (await journal.status()).cluster == "c"


def test_a_client_needs_an_endpoint() -> None:
    cluster = FakeCluster()
    with pytest.raises(InvalidRequest, match="endpoints"):
        connect([], connector=cluster)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("timeout_s", 0),
        ("backoff_min_s", 3.0),
        ("tail_silence_max_s", 0.5),
        ("message_offers_max", 10**6),
        ("message_bytes_max", 10**9),
        ("messages_inflight_max", -1),
    ],
)
def test_settings_are_checked(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        connect(["n1:1"], connector=FakeCluster(), config=ClientConfig(**{setting: value}))


def test_levels_have_names() -> None:
    assert LINEARIZABLE.level is Level.LINEARIZABLE
    assert at_least(7).revision == 7
