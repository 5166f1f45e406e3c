"""An entry that no node could fold is not accepted, so it is not chosen. If one is there anyway, the node
stops and says so."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from journal.checked import DECODED_BYTES_MAX, Checked, check_entry
from journal.entries import KIND_COMPACTION, KIND_MEMBERSHIP, KIND_OFFERS, NOOP, pack_compaction, pack_offers
from journal.errors import EntryUnreadable, ProtocolViolation
from journal.node import UNREADABLE
from journal.offers import Adjust, DeleteRange, LeaseGrant, Offer, Put, pack_batch, pack_offer
from journal.paxos.acceptor import Acceptor
from journal.paxos.membership import membership_of
from journal.space import Space
from journal.storage.memory import MemoryStorage
from journal.types import Revision, Slot

from .cluster import put, running, submit

OFFERS = (
    Offer((Put(b"a", b"1"),), reads=(b"a",)),
    Offer((Adjust(b"a", {"n": 1}),), ranges=((b"a", b"b"),)),
    Offer((DeleteRange(b"a", b""), LeaseGrant(7, 5_000)), expect=((b"x", 0),)),
)
GOOD = pack_offers(5, [pack_batch(b"me", 0, 0, [pack_offer(i, offer) for i, offer in enumerate(OFFERS)])])


def offers(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value)
    return bytes([KIND_OFFERS]) + packed


BAD = {
    "a kind of a later version": b"\x2anew",
    "offers that are no msgpack": bytes([KIND_OFFERS]) + b"\xc1",
    "offers that end too early": GOOD[:-1],
    "offers and something behind": GOOD + b"\x00",
    "offers that are no batches": offers([1, 2]),
    "an offer without mutations": offers([1, [[b"me", 0, 0, [[0, "", 0, [], [], []]]]]]),
    "an unknown mutation": offers([1, [[b"me", 0, 0, [[0, "", 0, [], [], [], [[99, b"k"]]]]]]]),
    "a key that is text": offers([1, [[b"me", 0, 0, [[0, "", 0, [], [], [], [[0, "k", b"", 0]]]]]]]),
    "a membership that is none": bytes([KIND_MEMBERSHIP]) + b"\x01",
    "a compaction to nowhere": bytes([KIND_COMPACTION]) + msgpack.packb("x"),
    "a compaction that is no msgpack": bytes([KIND_COMPACTION]) + b"\xc1",
}


@pytest.mark.parametrize("entry", BAD.values(), ids=BAD.keys())
def test_what_cannot_be_folded_is_refused(entry: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        check_entry(entry)
    checked = Checked()
    with pytest.raises(ProtocolViolation):
        checked.check(entry)
    assert checked.take(entry) is None


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_spoiled_entry_is_refused_or_folds(position: int, flip: int) -> None:
    entry = bytearray(GOOD)
    entry[position] ^= flip
    try:
        batches = check_entry(bytes(entry))
    except ProtocolViolation:
        return
    Space(MemoryStorage()).fold(Slot(1), bytes(entry), batches)


def test_what_was_decoded_is_used_once_and_not_for_ever() -> None:
    checked = Checked()
    for entry in (NOOP, pack_compaction(Revision(3))):
        checked.check(entry)
        assert checked.take(entry) is None
    checked.check(GOOD)
    batches = checked.take(GOOD)
    assert batches is not None and checked.take(GOOD) is None
    there, again = Space(MemoryStorage()), Space(MemoryStorage())
    assert there.fold(Slot(1), GOOD, batches).chain == again.fold(Slot(1), GOOD).chain
    big = [
        pack_offers(n, [pack_batch(b"", 0, 0, [pack_offer(0, Offer((Put(b"k", b"x" * 900_000),)))])])
        for n in range(9)
    ]
    for entry in big:
        checked.check(entry)
    kept = [entry for entry in big if checked.take(entry) is not None]
    assert sum(map(len, kept)) <= DECODED_BYTES_MAX and kept == big[-len(kept) :] and kept


async def _propose_what_no_node_folds(cluster: Any) -> Slot:
    leader = await cluster.leader()
    await cluster.converge()
    slot = leader._core.propose(BAD["a kind of a later version"], trio.current_time())
    assert slot is not None
    leader._wake()
    return Slot(slot)


async def test_a_bad_entry_of_a_leader_is_not_chosen(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        await submit(await cluster.leader(), put("a"))
        leader = await cluster.leader()
        slot = await _propose_what_no_node_folds(cluster)
        await trio.sleep(10)
        assert not cluster.failures
        assert all(node._core.chosen < slot for node in cluster.nodes.values())
        # Whoever leads without it finds the slot open, and goes on.
        await cluster.kill(int(leader.config.node))
        await submit(await cluster.leader(), put("b"))


async def test_planted_without_the_check_every_node_stops_and_says_why(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what becomes of an entry that was chosen all the same."""
    original = Acceptor.__init__

    def init(self: Acceptor, *rest: Any) -> None:
        original(self, *rest)
        self.check_value = membership_of

    monkeypatch.setattr(Acceptor, "__init__", init)
    monkeypatch.setattr("journal.checked.Checked.check", lambda _self, entry: membership_of(entry))
    async with running(3) as cluster:
        await submit(await cluster.leader(), put("a"))
        slot = await _propose_what_no_node_folds(cluster)
        await cluster.until(lambda: len(cluster.failures) == 3)
        for failure in cluster.failures.values():
            assert isinstance(failure, EntryUnreadable)
            assert f"slot {slot} holds an entry that this version cannot fold" in str(failure)
    assert ProtocolViolation in UNREADABLE
