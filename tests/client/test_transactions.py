"""Transactions: what was read still holds, or it runs again."""

from __future__ import annotations

import random

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from journal.client import OfferRejected, Transaction
from journal.errors import InvalidRequest
from journal.offers import Offer, Put, Reason

from .fake import FakeCluster, Fate, Faults, client


async def increment(transaction: Transaction) -> int:
    count = int(await transaction.get(b"count") or b"0") + 1
    transaction.put(b"count", b"%d" % count)
    return count


async def test_concurrent_increments_all_count(autojump_clock: object) -> None:
    cluster = FakeCluster(faults=Faults(rate=0.1, rng=random.Random(1), fates=[Fate.REPLY_LOST, Fate.TWICE]))
    async with client(cluster) as journal, client(cluster, seed=2) as other:
        counts: list[int] = []

        async def one(which: int) -> None:
            counts.append(await (journal, other)[which % 2].transact(increment))

        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(one, i)
        assert sorted(counts) == list(range(1, 21))
        assert journal.counters.conflicts + other.counters.conflicts > 10


async def test_planted_untracked_reads_lose_updates(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Transaction.offer

    def blind(self: Transaction) -> object:
        self._keys.clear()
        return original(self)

    monkeypatch.setattr(Transaction, "offer", blind)
    cluster = FakeCluster()
    async with client(cluster) as journal:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(journal.transact, increment)
        record = await journal.get(b"count")
        assert record is not None
        assert int(record.value) < 10


async def test_all_reads_are_of_one_revision(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal, client(cluster, seed=2) as other:
        await journal.put(b"a", b"1")
        await journal.put(b"b", b"1")

        async def look(transaction: Transaction) -> tuple[bytes | None, bytes | None]:
            a = await transaction.get(b"a")
            await other.put(b"a", b"2")
            await other.put(b"b", b"2")
            return a, await transaction.get(b"b")

        assert await journal.transact(look) == (b"1", b"1")
        assert journal.counters.conflicts == 0, "it writes nothing, so nothing can be in conflict"


async def test_a_range_that_was_read_is_watched(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal, client(cluster, seed=2) as other:
        await journal.put(b"task/1", b"")
        runs = 0

        async def count_tasks(transaction: Transaction) -> None:
            nonlocal runs
            runs += 1
            found = await transaction.scan(b"task/", b"task0")
            if runs == 1:
                await other.put(b"task/2", b"")  # a phantom
            transaction.put(b"tasks", b"%d" % len(found))

        await journal.transact(count_tasks)
        assert runs == 2
        record = await journal.get(b"tasks")
        assert record is not None
        assert record.value == b"2"


async def test_with_a_limit_only_what_was_looked_at_is_watched(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal, client(cluster, seed=2) as other:
        for i in range(5):
            await journal.put(b"k%d" % i, b"")
        runs = 0

        async def first_two(transaction: Transaction) -> list[bytes]:
            nonlocal runs
            runs += 1
            found = await transaction.scan(b"k", b"l", limit=2)
            await other.put(b"k4", b"far away")
            transaction.put(b"other", b"")
            return [key for key, _value in found]

        assert await journal.transact(first_two) == [b"k0", b"k1"]
        assert runs == 1


async def test_what_it_writes_it_reads(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        await journal.put(b"a", b"1")
        await journal.put(b"b", b"1")
        await journal.put(b"m", msgpack.packb({"n": 1}))

        async def function(transaction: Transaction) -> None:
            transaction.put(b"c", b"3")
            transaction.delete(b"a")
            assert await transaction.get(b"c") == b"3"
            assert await transaction.get(b"a") is None
            assert await transaction.scan(b"a", b"d") == [(b"b", b"1"), (b"c", b"3")]
            transaction.delete_range(b"b", b"d")
            assert await transaction.scan(b"a", b"d") == []
            transaction.put(b"b", b"2")
            assert await transaction.scan(b"a", b"d") == [(b"b", b"2")]
            assert await transaction.scan(b"a", b"d", limit=1) == [(b"b", b"2")]
            transaction.adjust(b"m", {"n": 2}, maximum={"n": 10})
            with pytest.raises(InvalidRequest, match="adjusted"):
                await transaction.get(b"m")
            with pytest.raises(InvalidRequest, match="adjusted"):
                await transaction.scan(b"m", b"n")
            record = await transaction.record(b"a")
            assert record is not None
            assert record.value == b"1", "the record is the one from before"

        await journal.transact(function)
        reply = await journal.scan(b"", b"")
        assert [(key, record.value) for key, record in reply.items] == [
            (b"b", b"2"),
            (b"m", msgpack.packb({"n": 3})),
        ]


async def test_an_exception_ends_it_without_effect(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:

        async def function(transaction: Transaction) -> None:
            transaction.put(b"a", b"")
            raise LookupError("no")

        with pytest.raises(LookupError):
            await journal.transact(function)
    assert cluster.journal.revision == 0


async def test_what_reading_again_cannot_cure_is_raised_at_once(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        await journal.put(b"capacity", msgpack.packb({"cpu": 1}))
        runs = 0

        async def claim(transaction: Transaction) -> None:
            nonlocal runs
            runs += 1
            transaction.adjust(b"capacity", {"cpu": -2}, minimum={"cpu": 0})

        with pytest.raises(OfferRejected, match="would leave its bounds") as caught:
            await journal.transact(claim)
        assert caught.value.receipt.reason is Reason.BOUNDS
        assert runs == 1


async def test_endless_conflicts_end(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster, conflict_attempts_max=5) as journal, client(cluster, seed=2) as other:

        async def unlucky(transaction: Transaction) -> None:
            await transaction.get(b"a")
            await other.put(b"a", b"")
            transaction.put(b"b", b"")

        with pytest.raises(OfferRejected):
            await journal.transact(unlucky)
        assert journal.counters.conflicts == 5


async def test_a_rejection_of_the_functions_own_offers_is_its_own_affair(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        await journal.put(b"a", b"")
        runs = 0

        async def function(transaction: Transaction) -> None:
            nonlocal runs
            runs += 1
            await journal.offer(Offer((Put(b"b", b""),), reads=(b"a",), at=0))

        with pytest.raises(OfferRejected):
            await journal.transact(function)
        assert runs == 1


async def test_a_transaction_overtaken_by_compaction_runs_again(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await journal.put(b"a", b"1")
        runs = 0

        async def function(transaction: Transaction) -> bytes | None:
            nonlocal runs
            runs += 1
            await transaction.get(b"b")
            if runs == 1:
                await journal.put(b"a", b"2")
                await journal.compact(2)
            return await transaction.get(b"a")

        assert await journal.transact(function) == b"2"
        assert runs == 2


async def test_its_revision_and_label(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await journal.put(b"a", b"")
        seen: list[Transaction] = []

        async def function(transaction: Transaction) -> None:
            seen.append(transaction)
            await transaction.get(b"a")
            transaction.put(b"a", b"2")

        await journal.transact(function, label="why")
        assert seen[0].revision == 2
        assert cluster.journal.commits[-1].label == "why"


KEYS = st.integers(0, 7).map(lambda i: b"k%d" % i)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=2)),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("delete_range"), KEYS, KEYS),
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("scan"), KEYS, KEYS, st.one_of(st.none(), st.integers(1, 4))),
    ),
    max_size=12,
)


@given(st.dictionaries(KEYS, st.binary(max_size=2)), STEPS)
def test_reads_in_a_transaction_against_a_dict(
    base: dict[bytes, bytes], steps: list[tuple[object, ...]]
) -> None:
    """A transaction reads like a plain dict that is written to, and commits to the same."""

    async def main() -> None:
        async with client(FakeCluster()) as journal:
            for key, value in base.items():
                await journal.put(key, value)
            model = dict(base)

            async def run(transaction: Transaction) -> None:
                for step in steps:
                    match step:
                        case ("put", bytes(key), bytes(value)):
                            transaction.put(key, value)
                            model[key] = value
                        case ("delete", bytes(key)):
                            transaction.delete(key)
                            model.pop(key, None)
                        case ("delete_range", bytes(start), bytes(end)) if start < end:
                            transaction.delete_range(start, end)
                            for key in [key for key in model if start <= key < end]:
                                del model[key]
                        case ("get", bytes(key)):
                            assert await transaction.get(key) == model.get(key)
                        case ("scan", bytes(start), bytes(end), None | int() as limit) if start < end:
                            expected = sorted((k, v) for k, v in model.items() if start <= k < end)
                            found = await transaction.scan(start, end, limit)
                            assert found == expected[:limit]

            await journal.transact(run)
            reply = await journal.scan(b"", b"")
            assert {key: record.value for key, record in reply.items} == model

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
