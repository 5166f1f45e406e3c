"""Offers on their way: each rule of the submitter, on virtual time, against a journal that misbehaves."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
import trio

from journal.client import (
    Journal,
    OfferRejected,
    OffersUnresolved,
    OfferUnknown,
    connect,
)
from journal.client import submitter as submitter_module
from journal.connection import LOCAL, NotSent
from journal.errors import JournalError, OfferInvalid, Overloaded, Unavailable, WrongCluster
from journal.gate import unpack_batch
from journal.limits import Limits
from journal.offers import Adjust, Offer, Put, RawBatch, Reason, Rejected, Verdict, pack_batch, pack_offer
from journal.types import Revision

from .fake import LATENCY_S, FakeCluster, Fate, Faults, client


def put(key: bytes, value: bytes = b"") -> Offer:
    return Offer((Put(key, value),))


def faulty(*script: Fate) -> FakeCluster:
    return FakeCluster(faults=Faults(script=list(script)))


def acked(journal: Journal) -> int:
    return journal._submitter.acked


def next_sequence(journal: Journal) -> int:
    return journal._submitter._next


# -- the plain way -------------------------------------------------------------------------


async def test_an_offer_gets_its_revision(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        assert await journal.put(b"a", b"1") == 1
        assert await journal.put(b"a", b"2") == 2
        assert journal.seen == 2


async def test_a_rejection_carries_the_receipt(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        await journal.put(b"a", b"1")
        with pytest.raises(OfferRejected, match="a is at revision 1") as caught:
            await journal.offer(Offer((Put(b"a", b"2"),), expect=((b"a", 0),)))
        assert caught.value.receipt.reason is Reason.EXPECT
        assert caught.value.receipt.revision == 1


@pytest.mark.parametrize("reason", [Reason.READ, Reason.EXPECT, Reason.COMPACTED, Reason.FUTURE])
async def test_a_revision_that_a_receipt_names_was_seen(autojump_clock: object, reason: Reason) -> None:
    """A client that was told of revision 3, if only by a rejection, reads nothing older from then on."""
    async with client(FakeCluster()) as journal:
        for value in (b"1", b"2", b"3"):
            await journal.put(b"a", value)
        offers = {
            Reason.READ: Offer((Put(b"b", b""),), reads=(b"a",), at=1),
            Reason.EXPECT: Offer((Put(b"b", b""),), expect=((b"a", 1),)),
            Reason.COMPACTED: Offer((Put(b"b", b""),), reads=(b"b",), at=1),
            Reason.FUTURE: Offer((Put(b"b", b""),), reads=(b"b",), at=99),
        }
        if reason is Reason.COMPACTED:
            await journal.compact(3)
        journal._router.seen = Revision(0)  # as if those offers had been another client's
        with pytest.raises(OfferRejected) as caught:
            await journal.offer(offers[reason])
        assert (caught.value.receipt.reason, caught.value.receipt.revision) == (reason, 3)
        assert journal.seen == 3


async def test_an_exception_of_the_body_is_not_wrapped(autojump_clock: object) -> None:
    cluster = FakeCluster()
    with pytest.raises(OfferRejected):
        async with connect(cluster.endpoints, connector=cluster) as journal:
            await journal.offer(Offer((Put(b"a", b"2"),), expect=((b"a", 7),)))


async def test_cancellation_passes_through_a_client(autojump_clock: object) -> None:
    cluster = FakeCluster()
    cluster.lead(None)
    with trio.move_on_after(1) as scope:
        async with connect(cluster.endpoints, connector=cluster) as journal:
            await journal.put(b"a", b"1")
    assert scope.cancelled_caught
    assert trio.current_time() < 3  # closing did not hang


async def test_concurrent_offers_share_messages(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster, messages_inflight_max=4) as journal, trio.open_nursery() as nursery:
        for i in range(640):
            nursery.start_soon(journal.put, b"%d" % i, b"")
    messages = [len(batch.offers) for batch in cluster.journal.submissions]
    assert sum(messages) == 640
    assert len(messages) <= 3, messages  # all callers of one moment travel together
    assert cluster.max_submits <= 4


async def test_messages_keep_within_their_limits_and_order(autojump_clock: object) -> None:
    cluster = FakeCluster()
    settings = {"messages_inflight_max": 3, "message_offers_max": 10, "message_bytes_max": 4_000}
    async with client(cluster, **settings) as journal:
        offers = [put(b"%d" % i, bytes(i * 7)) for i in range(100)]
        revisions = await journal.offer_many(offers)
        lone = await journal.put(b"large", bytes(10_000))  # over the limit by itself: goes alone
    assert revisions == list(range(1, 101)), "one client's offers are decided in their order"
    assert lone == 101
    batches = cluster.journal.submissions
    assert max(len(batch.offers) for batch in batches) == 10
    assert all(len(batch.data) <= 4_000 + 100 for batch in batches if len(batch.offers) > 1)
    assert cluster.max_submits <= 3


async def test_a_long_list_does_not_keep_single_offers_waiting(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster, messages_inflight_max=1, message_offers_max=1_000) as journal:
        done_at: dict[str, int] = {}

        async def many() -> None:
            await journal.offer_many([put(b"m%d" % i) for i in range(30_000)])
            done_at["many"] = cluster.journal.revision

        async with trio.open_nursery() as nursery:
            nursery.start_soon(many)
            await trio.sleep(LATENCY_S)
            done_at["one"] = await journal.put(b"one", b"")
    assert done_at["one"] <= submitter_module.MANY_OUTSTANDING_MAX + 1_000
    assert done_at["many"] == 30_001


async def test_the_sequence_never_runs_out_of_the_session_window(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitter_module, "FOLD_SESSION_WINDOW_OFFERS_MAX", 100)
    cluster = faulty(Fate.SILENT_REPLY)  # the first message stays without an answer for long
    async with client(cluster, message_offers_max=7, messages_inflight_max=4) as journal:
        await journal.offer_many([put(b"%d" % i) for i in range(1_000)])
        assert acked(journal) == next_sequence(journal) == 1_001
    for batch in cluster.journal.submissions:
        assert all(batch.acked <= offer[0] < batch.acked + 100 for offer in batch.offers)


async def test_invalid_offers_harm_nobody_else(autojump_clock: object) -> None:
    cluster = FakeCluster()
    results: dict[int, object] = {}
    async with client(cluster) as journal:

        async def one(i: int) -> None:
            key = b"x" * 5_000 if i % 10 == 3 else b"%d" % i
            try:
                results[i] = await journal.put(key, b"")
            except OfferInvalid as error:
                results[i] = error

        async with trio.open_nursery() as nursery:
            for i in range(100):
                nursery.start_soon(one, i)
        assert acked(journal) == next_sequence(journal)
    refused = {i for i, result in results.items() if isinstance(result, OfferInvalid)}
    assert refused == {i for i in range(100) if i % 10 == 3}
    assert "KEY_BYTES_MAX" in str(results[3])
    assert str(results[3]).startswith("mutations[0].key")


async def test_a_message_that_is_refused_as_a_whole_is_taken_apart(autojump_clock: object) -> None:
    """The nodes' own limits may be lower than what the client knows, and some errors name no offer."""
    cluster = FakeCluster()
    for node in cluster.nodes.values():
        node.limits = Limits(batch_offers_max=5, entry_offers_max=5)
    async with client(cluster) as journal:
        verdicts = await journal.offer_many([put(b"%d" % i) for i in range(64)])
    assert verdicts == list(range(1, 65))


async def test_what_cannot_be_packed_is_refused_at_once(autojump_clock: object) -> None:
    async with client(FakeCluster()) as journal:
        with pytest.raises(OfferInvalid, match="cannot be packed"):
            await journal.offer(Offer((Put(b"a", object()),)))  # type: ignore[arg-type]
        with pytest.raises(OfferInvalid, match="offer_bytes_max"):
            await journal.put(b"a", bytes(2_000_000))
        assert await journal.put(b"a", b"") == 1
        with pytest.raises(OffersUnresolved) as caught:
            await journal.offer_many([put(b"b"), Offer((Put(b"a", 1.5j),)), put(b"c")])  # type: ignore[arg-type]
        assert caught.value.verdicts[0] == 2
        assert isinstance(caught.value.verdicts[1], OfferInvalid)
        assert caught.value.verdicts[2] == 3


# -- the leader ----------------------------------------------------------------------------


async def test_a_redirect_is_followed(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        for endpoint in ("n2:1", "n3:1", "n1:1"):
            cluster.lead(endpoint)
            before = trio.current_time()
            await journal.put(b"a", b"")
            assert trio.current_time() - before < 6 * LATENCY_S, "the first redirect waits for nothing"
    assert set(cluster.journal.applied.values()) == {1}


async def test_a_redirect_may_name_a_node_that_was_not_given(autojump_clock: object) -> None:
    cluster = FakeCluster()
    cluster.lead("n3:1")
    async with connect(["n1:1"], connector=cluster) as journal:
        assert await journal.put(b"a", b"") == 1


async def test_searching_for_a_leader_makes_no_storm(autojump_clock: object) -> None:
    """6,400 callers, no leader for 10 s: a handful of probes a second, not one a caller."""
    cluster = FakeCluster()
    async with client(cluster, timeout_s=60.0) as journal:
        cluster.lead(None)
        async with trio.open_nursery() as nursery:
            for i in range(6_400):
                nursery.start_soon(journal.put, b"%d" % i, b"")
            await trio.sleep(10)
            probes = sum(node.submits for node in cluster.nodes.values())
            cluster.lead("n2:1")
    assert 10 * 2 < probes < 10 * 12, probes
    assert cluster.journal.revision == 6_400


async def test_misleading_hints_make_no_storm(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        cluster.lead(None)
        cluster.nodes["n1:1"].hint, cluster.nodes["n2:1"].hint = "n2:1", "n1:1"
        cluster.nodes["n3:1"].up = False
        with pytest.raises(Unavailable, match="will not be"):
            await journal.put(
                b"a",
                b"",
            )
    assert sum(node.submits for node in cluster.nodes.values()) < 120


async def test_when_a_leader_dies_its_messages_go_to_the_next_one_once(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster, message_offers_max=10) as journal, trio.open_nursery() as nursery:
        nursery.start_soon(journal.offer_many, [put(b"%d" % i) for i in range(1_000)])
        await trio.sleep(5 * LATENCY_S)
        cluster.nodes["n1:1"].up = False
        cluster.lead(None)
        await trio.sleep(2)
        cluster.lead("n3:1")
    assert cluster.journal.revision == 1_000
    assert set(cluster.journal.applied.values()) == {1}


async def test_a_paused_leader_is_left_when_it_does_not_answer(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await journal.put(b"a", b"")
        cluster.nodes["n1:1"].silent = True
        cluster.lead("n2:1")
        before = trio.current_time()
        await journal.put(b"b", b"")
        assert 3 <= trio.current_time() - before < 7


async def test_nodes_of_another_cluster_are_left_alone(autojump_clock: object) -> None:
    cluster = FakeCluster()
    cluster.lead("n2:1")
    cluster.nodes["n1:1"].cluster = "other"
    async with client(cluster) as journal:
        for i in range(10):
            await journal.put(b"%d" % i, b"")
        for node in cluster.nodes.values():
            node.cluster = "other"
        with pytest.raises(WrongCluster):
            await journal.put(b"a", b"")
        with pytest.raises(WrongCluster):
            await journal.get(b"a")


# -- exactly once --------------------------------------------------------------------------


@pytest.mark.parametrize("fate", list(Fate))
async def test_one_lost_message_changes_nothing(autojump_clock: object, fate: Fate) -> None:
    cluster = faulty(fate)
    async with client(cluster, timeout_s=30.0) as journal:
        assert await journal.put(b"a", b"1") == 1
        await trio.sleep(10)  # late copies arrive
        assert await journal.put(b"a", b"2") == 2
        assert acked(journal) == next_sequence(journal) == 3
    assert cluster.journal.applied == {(journal._submitter.client, 1): 1, (journal._submitter.client, 2): 1}


async def test_a_resubmission_keeps_id_and_base(autojump_clock: object) -> None:
    cluster = faulty(Fate.REPLY_LOST, Fate.REPLY_LOST)
    async with client(cluster, messages_inflight_max=2) as journal:
        await journal.revision()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.put, b"a", b"")
            await trio.sleep(LATENCY_S / 2)
            nursery.start_soon(journal.put, b"b", b"")
    first = [batch for batch in cluster.journal.submissions if batch.offers[0][0] == 1]
    assert len(first) >= 2
    assert {batch.base for batch in first} == {0}, "though the client had seen revision 2 meanwhile"
    assert set(cluster.journal.applied.values()) == {1}


async def test_a_verdict_lost_and_forgotten_is_unknown_not_doubled(autojump_clock: object) -> None:
    """The offer took effect, the reply was lost, and then the journal forgot the client."""
    cluster = faulty(Fate.SILENT_REPLY)
    async with client(cluster, timeout_s=30.0) as journal, trio.open_nursery() as nursery:

        async def lost() -> None:
            with pytest.raises(OfferUnknown, match="forgotten"):
                await journal.put(b"a", b"")

        nursery.start_soon(lost)
        await trio.sleep(1)
        cluster.journal.forget(journal._submitter.client)
        cluster.journal.fold(foreign_batch())
    assert cluster.journal.applied[journal._submitter.client, 1] == 1


async def test_planted_a_fresh_base_doubles_an_offer(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug that the kept base prevents, to show that the test above would catch it."""
    original = submitter_module.Submitter._learn_base

    async def renewing(self: Any, connection: Any, message: Any) -> None:
        message.base = None
        reply = await connection.get([], at=None, consistency=LOCAL)
        self._router.saw(reply.revision)
        await original(self, connection, message)

    monkeypatch.setattr(submitter_module.Submitter, "_learn_base", renewing)
    cluster = faulty(Fate.SILENT_REPLY)
    async with client(cluster, timeout_s=30.0) as journal, trio.open_nursery() as nursery:
        nursery.start_soon(journal.put, b"a", b"")
        await trio.sleep(1)
        cluster.journal.forget(journal._submitter.client)
        cluster.journal.fold(foreign_batch())
        await trio.sleep(0.1)
    assert cluster.journal.applied[journal._submitter.client, 1] == 2


async def test_a_forgotten_client_offers_anew_under_a_newer_base(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        await journal.put(b"a", b"")
        cluster.journal.forget(journal._submitter.client)
        cluster.journal.fold(foreign_batch())
        assert await journal.put(b"b", b"") == 3
        assert await journal.offer_many([put(b"c"), put(b"d")]) == [4, 5]


async def test_a_forgotten_client_waits_for_a_revision_that_is_believed(autojump_clock: object) -> None:
    """The floor is above the present revision: to offer again under the same base would be in vain."""
    cluster = FakeCluster()
    async with client(cluster) as journal, trio.open_nursery() as nursery:
        await journal.put(b"a", b"")
        cluster.journal.forget(journal._submitter.client)
        sent = len(cluster.journal.submissions)
        nursery.start_soon(journal.put, b"b", b"")
        await trio.sleep(0.5)
        assert len(cluster.journal.submissions) == sent + 1, "it was refused once, and waits"
        cluster.journal.fold(foreign_batch())
    assert [commit.changes[0].key for commit in cluster.journal.commits] == [b"a", b"foreign", b"b"]
    assert len(cluster.journal.submissions) == sent + 3


async def test_a_client_that_is_forgotten_for_ever_is_told_so(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster()
    fold = cluster.journal.fold

    def forgetful(raw: RawBatch) -> list[Verdict]:
        """Somebody else is always faster, and is forgotten at once."""
        verdicts = fold(raw)
        fold(foreign_batch(cluster.journal.revision))
        cluster.journal.forgotten_floor = cluster.journal.revision + 1
        return verdicts

    async with client(cluster) as journal:
        cluster.journal.forgotten_floor = 1
        monkeypatch.setattr(cluster.journal, "fold", forgetful)
        with pytest.raises(Unavailable, match="was not committed"):
            await journal.put(b"a", b"")
        assert acked(journal) == next_sequence(journal)
    assert {client for client, _sequence in cluster.journal.applied} == {b"foreign"}


async def test_a_client_whose_base_is_never_believed_gives_up_at_its_deadline(autojump_clock: object) -> None:
    cluster = FakeCluster()
    async with client(cluster) as journal:
        cluster.journal.forgotten_floor = 1_000
        with pytest.raises(Unavailable, match="will not be committed"):
            await journal.put(b"a", b"")
        assert acked(journal) == next_sequence(journal)
    assert cluster.journal.revision == 0


def foreign_batch(sequence: int = 0) -> Any:
    """A batch of another client, which moves the revision."""
    packed = [pack_offer(sequence, put(b"foreign"))]
    return unpack_batch(pack_batch(b"foreign", sequence, 10**6, packed), Limits())


# -- deadlines, cancellation, withdrawal ---------------------------------------------------


async def test_an_offer_that_was_never_sent_is_definitely_not_committed(autojump_clock: object) -> None:
    cluster = FakeCluster()
    cluster.lead(None)
    async with client(cluster) as journal:
        with pytest.raises(Unavailable, match="will not be committed; the last trouble: this node is not"):
            await journal.offer(put(b"a"), timeout_s=1.0)
        assert trio.current_time() == pytest.approx(1.0, abs=0.02)
        cluster.lead("n2:1")
        assert await journal.put(b"b", b"") == 1
        await trio.sleep(10)
        assert cluster.journal.revision == 1
        assert acked(journal) == next_sequence(journal)


async def test_an_offer_without_an_answer_is_unknown_and_then_settled(autojump_clock: object) -> None:
    cluster = faulty(Fate.SILENT_REPLY)
    async with client(cluster) as journal:
        with pytest.raises(OfferUnknown, match="may still be committed") as caught:
            await journal.offer(put(b"a"), timeout_s=1.0)
        assert str(caught.value.id).endswith(":1")
        assert await journal.outcome(caught.value.id) == 1, "it had been committed"
        assert acked(journal) == next_sequence(journal)


async def test_an_abandoned_offer_is_withdrawn_not_pushed_through(autojump_clock: object) -> None:
    cluster = faulty(Fate.SILENT_REQUEST)
    async with client(cluster) as journal:
        with pytest.raises(OfferUnknown) as caught:
            await journal.offer(put(b"a"), timeout_s=1.0)
        assert await journal.outcome(caught.value.id) is None, "it was not committed and never will be"
        assert acked(journal) == next_sequence(journal)
        assert journal.counters.withdrawals == 1
        assert await journal.get(b"a") is None


async def test_a_late_copy_of_a_withdrawn_offer_has_no_effect(autojump_clock: object) -> None:
    cluster = faulty(Fate.LATE, Fate.OVERLOADED)
    cluster.faults.late_s = 20.0
    async with client(cluster) as journal:
        cluster.lead("n1:1")
        with pytest.raises(OfferUnknown) as caught:
            await journal.offer(put(b"a"), timeout_s=0.005)
        assert await journal.outcome(caught.value.id) is None
        await trio.sleep(60)  # the late copy has arrived
        assert len(cluster.journal.submissions) == 2
        assert await journal.get(b"a") is None


async def test_planted_without_withdrawal_an_abandoned_offer_is_committed_later(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitter_module.Submitter, "_withdrawal", lambda self, pending: pending.packed)
    cluster = faulty(Fate.SILENT_REQUEST)
    async with client(cluster) as journal:
        with pytest.raises(OfferUnknown) as caught:
            await journal.offer(put(b"a"), timeout_s=1.0)
        assert await journal.outcome(caught.value.id) == 1


async def test_cancelled_callers_leak_nothing(autojump_clock: object) -> None:
    cluster = FakeCluster(faults=Faults(rate=0.3, rng=random.Random(5)))
    rng = random.Random(7)
    async with client(cluster) as journal:

        async def hasty(i: int) -> None:
            with trio.move_on_after(rng.uniform(0, 6 * LATENCY_S)):
                await journal.put(b"%d" % i, b"")

        async with trio.open_nursery() as nursery:
            for i in range(500):
                nursery.start_soon(hasty, i)
                await trio.sleep(0.0002)
        cluster.faults.rate = 0.0
        await trio.sleep(30)
        assert await journal.put(b"last", b"")
        assert acked(journal) == next_sequence(journal)
        assert not journal._submitter._unsettled
        assert not journal._submitter._queue
    assert set(cluster.journal.applied.values()) == {1}


async def test_an_offer_cancelled_in_the_queue_is_never_sent(autojump_clock: object) -> None:
    cluster = FakeCluster()
    cluster.lead(None)
    async with client(cluster) as journal:
        with trio.move_on_after(1):
            await journal.put(b"a", b"")
        assert not journal._submitter._unsettled
        cluster.lead("n2:1")
        await trio.sleep(5)
        assert await journal.put(b"b", b"") == 1
    assert cluster.journal.applied == {(journal._submitter.client, 2): 1}


async def test_the_queue_does_not_grow_while_callers_come_and_go(autojump_clock: object) -> None:
    cluster = FakeCluster()
    cluster.lead(None)
    async with client(cluster, messages_inflight_max=1, message_offers_max=1) as journal:

        async def impatient(i: int) -> None:
            with pytest.raises(Unavailable):
                await journal.offer(put(b"%d" % i), timeout_s=0.01)

        for _ in range(50):
            async with trio.open_nursery() as nursery:
                for i in range(100):
                    nursery.start_soon(impatient, i)
        assert len(journal._submitter._queue) < 2_500
        assert len(journal._submitter._window) < 2_500


async def test_many_deadlines_cost_few_sweeps(autojump_clock: object) -> None:
    cluster = FakeCluster()
    cluster.lead(None)
    async with client(cluster) as journal:
        ended: list[float] = []

        async def one(timeout_s: float) -> None:
            with pytest.raises((Unavailable, OfferUnknown)):  # the latter while a probe carries it
                await journal.offer(put(b"a"), timeout_s=timeout_s)
            ended.append(trio.current_time() - timeout_s)

        async with trio.open_nursery() as nursery:
            for i in range(500):
                nursery.start_soon(one, 1.0 + i / 1000)
    assert all(0 <= late <= 0.02 for late in ended), max(ended)


async def test_offer_many_tells_each_fate(autojump_clock: object) -> None:
    cluster = faulty(Fate.WELL, Fate.SILENT_REPLY)
    async with client(cluster, message_offers_max=2, messages_inflight_max=1) as journal:
        with pytest.raises(OffersUnresolved, match="4 of 6") as caught:
            await journal.offer_many([put(b"%d" % i) for i in range(6)], timeout_s=1.0)
    verdicts = caught.value.verdicts
    assert verdicts[:2] == [1, 2]
    assert all(isinstance(verdict, OfferUnknown) for verdict in verdicts[2:4])
    assert all(isinstance(verdict, Unavailable) for verdict in verdicts[4:])


async def test_an_outcome_can_only_be_asked_of_what_was_given_up(autojump_clock: object) -> None:
    from journal.client import OfferId
    from journal.errors import InvalidRequest

    async with client(FakeCluster()) as journal:
        await journal.put(b"a", b"")
        with pytest.raises(InvalidRequest, match="not waiting to be settled"):
            await journal.outcome(OfferId(journal._submitter.client, 1))
        assert await journal.outcome(OfferId(b"somebody", 1)) is None


# -- overload ------------------------------------------------------------------------------


async def test_overloaded_waits_as_told_and_goes_on(autojump_clock: object) -> None:
    cluster = faulty(*[Fate.OVERLOADED] * 5)
    async with client(cluster) as journal:
        assert await journal.put(b"a", b"") == 1
        assert trio.current_time() >= 5 * 0.010
        assert journal.counters.overloads == 5


async def test_overloaded_to_the_end_says_so(autojump_clock: object) -> None:
    cluster = FakeCluster(faults=Faults(rate=1.0, fates=[Fate.OVERLOADED]))
    async with client(cluster) as journal:
        with pytest.raises(Overloaded, match="offers_inflight_max"):
            await journal.put(b"a", b"")
        assert cluster.nodes["n1:1"].submits < 30, "the waits grow"
        assert acked(journal) == next_sequence(journal)


async def test_a_message_over_the_nodes_limit_is_taken_apart(autojump_clock: object) -> None:
    cluster = FakeCluster()
    for node in cluster.nodes.values():
        node.limits = Limits(offers_inflight_max=100)
    async with client(cluster, messages_inflight_max=1) as journal:
        verdicts = await journal.offer_many([put(b"%d" % i) for i in range(500)])
    assert verdicts == list(range(1, 501))


# -- closing -------------------------------------------------------------------------------


async def test_closing_tells_everyone_who_waits(autojump_clock: object) -> None:
    cluster = faulty(Fate.SILENT_REPLY)
    errors: dict[str, JournalError] = {}
    async with trio.open_nursery() as nursery:
        closing = trio.Event()

        async def wait_for(journal: Journal, name: str) -> None:
            try:
                await journal.put(name.encode(), b"")
            except JournalError as error:
                errors[name] = error

        async with client(cluster, messages_inflight_max=1) as journal:
            nursery.start_soon(wait_for, journal, "sent")
            await trio.sleep(0.1)
            nursery.start_soon(wait_for, journal, "queued")
            await trio.sleep(0.1)
        closing.set()
    assert isinstance(errors["sent"], OfferUnknown)
    assert isinstance(errors["queued"], NotSent)
    with pytest.raises(NotSent, match="closed"):
        await journal.put(b"a", b"")


# -- everything at once --------------------------------------------------------------------


async def storm(seed: int) -> tuple[FakeCluster, dict[str, int]]:
    """Many callers, deadlines and cancellations, faults of all kinds, and a leader that moves.

    Checks what was promised to each caller against what took effect.
    """
    rng = random.Random(seed)
    cluster = FakeCluster(faults=Faults(rate=0.25, rng=random.Random(seed + 1), late_s=3.0))
    truth: dict[bytes, Any] = {}
    tally = {"accepted": 0, "rejected": 0, "not": 0, "unknown": 0, "cancelled": 0}
    async with client(cluster, seed, attempt_timeout_s=0.2, messages_inflight_max=3) as journal:

        async def caller(number: int) -> None:
            for i in range(12):
                key = b"%d/%d" % (number, i)
                impossible = rng.random() < 0.1
                offer = Offer((Put(key, b""),), expect=((b"never", 9),) if impossible else ())
                try:
                    with trio.move_on_after(rng.choice([0.003, 0.05, 1e9, 1e9])) as scope:
                        truth[key] = await journal.offer(offer, timeout_s=rng.choice([0.01, 0.5, 60.0]))
                        tally["accepted"] += 1
                    if scope.cancelled_caught:
                        tally["cancelled"] += 1
                except OfferRejected as rejected:
                    truth[key] = rejected.receipt
                    tally["rejected"] += 1
                except OfferUnknown as unknown:
                    truth[key] = unknown
                    tally["unknown"] += 1
                except (Unavailable, Overloaded) as never:
                    truth[key] = never
                    tally["not"] += 1
                await trio.sleep(rng.uniform(0, 0.01))

        async def unrest() -> None:
            while True:
                await trio.sleep(rng.uniform(0, 0.3))
                cluster.lead(rng.choice([*cluster.endpoints, None]), hints=rng.random() < 0.7)
                for node in cluster.nodes.values():
                    node.up = rng.random() < 0.9

        async with trio.open_nursery() as nursery:
            nursery.start_soon(unrest)
            async with trio.open_nursery() as callers:
                for number in range(25):
                    callers.start_soon(caller, number)
            nursery.cancel_scope.cancel()
        cluster.lead("n1:1")
        cluster.faults.rate = 0.0
        for node in cluster.nodes.values():
            node.up = True
        await trio.sleep(60)  # everything settles, every late copy arrives
        assert await journal.put(b"last", b"")
        assert acked(journal) == next_sequence(journal), "the window leaks"
        for key, result in truth.items():
            record = cluster.journal.get(key)
            if isinstance(result, int):
                assert record is not None, f"{key!r} was acknowledged at {result} and is not there"
                assert record.mod == result
            elif isinstance(result, OfferUnknown):
                settled = await journal.outcome(result.id)
                assert (settled if isinstance(settled, int) else None) == (record.mod if record else None)
            else:
                assert record is None, f"{key!r} is there, though its caller was told: {result}"
    doubled = {offer_id: times for offer_id, times in cluster.journal.applied.items() if times != 1}
    assert not doubled, doubled
    return cluster, tally


@pytest.mark.parametrize("seed", range(30))
async def test_storm(autojump_clock: object, seed: int) -> None:
    _cluster, tally = await storm(seed * 1000)
    assert tally["accepted"] > 50, tally


async def test_the_storm_reaches_every_case(autojump_clock: object) -> None:
    total: dict[str, int] = {}
    withdrawals = 0
    for seed in range(5):
        cluster, tally = await storm(seed)
        total = {name: total.get(name, 0) + count for name, count in tally.items()}
        withdrawals += sum(
            offer[1].startswith("withdrawn")
            for batch in cluster.journal.submissions
            for offer in batch.offers
        )
    assert all(total.values()), total
    assert withdrawals, "no offer was ever withdrawn"


def plant_new_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resubmit under a new client id."""
    original = submitter_module.Submitter._sending

    def sending(self: Any, message: Any) -> Any:
        if message.tries > 1:
            self.client = random.randbytes(16)
        return original(self, message)

    monkeypatch.setattr(submitter_module.Submitter, "_sending", sending)


def plant_eager_acked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that verdicts were read which are still on their way."""

    def pack(client_id: bytes, acked_: int, base: int, packed: Any) -> bytes:
        return pack_batch(client_id, msgpack.unpackb(packed[0])[0], base, packed)

    monkeypatch.setattr(submitter_module, "pack_batch", pack)


def plant_sure_when_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell a caller "not committed" about what was sent and not answered."""
    original = submitter_module.Submitter._abandon

    def abandon(self: Any, pending: Any) -> bool:
        if pending.message is not None:
            pending.message.maybe = pending.message.in_flight = False
        return original(self, pending)

    monkeypatch.setattr(submitter_module.Submitter, "_abandon", abandon)


@pytest.mark.parametrize(
    "plant", [plant_new_ids, plant_eager_acked, plant_sure_when_it_is_not], ids=lambda plant: plant.__name__
)
async def test_the_storm_catches_planted_bugs(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, plant: Any
) -> None:
    plant(monkeypatch)
    with pytest.raises(BaseException) as caught:
        for seed in range(8):
            await storm(seed)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, AssertionError), error


def test_the_withdrawn_offer_is_always_rejected() -> None:
    assert isinstance(submitter_module.WITHDRAWN.mutations[1], Adjust)
    receipt = FakeCluster().journal._apply(b"c", 1, submitter_module.WITHDRAWN)
    assert isinstance(receipt, Rejected)
    assert receipt.reason is Reason.ABSENT
