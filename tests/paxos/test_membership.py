"""Memberships: their packed form, and which one rules a slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.entries import NOOP, pack_membership, pack_offers
from journal.errors import ProtocolViolation
from journal.paxos import Member, Membership, MembershipHistory
from journal.paxos.membership import membership_of
from journal.types import NodeId, Slot
from tests.paxos.harness import members

NODES = st.lists(st.integers(1, 2**32 - 1), min_size=1, max_size=9, unique=True)


@given(NODES, st.integers(0, 8), st.text(max_size=30))
def test_packing_there_and_back(nodes: list[int], learners: int, endpoint: str) -> None:
    split = min(learners, len(nodes) - 1)
    membership = Membership(
        tuple(Member(NodeId(node), endpoint) for node in nodes[split:]),
        tuple(Member(NodeId(node), endpoint) for node in nodes[:split]),
    )
    assert Membership.unpack(membership.pack()) == membership
    assert membership_of(pack_membership(membership.pack())) == membership
    assert membership.nodes == tuple(sorted(nodes))


@given(st.binary(max_size=40))
def test_any_bytes_are_a_membership_or_a_violation(data: bytes) -> None:
    try:
        Membership.unpack(data)
    except ProtocolViolation:
        pass


def test_other_entries_carry_none() -> None:
    assert membership_of(NOOP) is None
    assert membership_of(pack_offers(1, [])) is None


@pytest.mark.parametrize(
    ("voters", "learners", "why"),
    [
        ((), (), "at least one voter"),
        ((1, 1), (), "named twice"),
        ((1, 2), (2,), "named twice"),
        ((0,), (), "must be 1 to"),
        ((2**32,), (), "must be 1 to"),
    ],
)
def test_what_is_no_membership(voters: tuple[int, ...], learners: tuple[int, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Membership(members(*voters), members(*learners))


FIRSTS = st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True).map(sorted)


@given(FIRSTS, st.integers(0, 70), st.integers(0, 70))
def test_history_against_naive(firsts: list[int], slot: int, forgotten: int) -> None:
    known = [(Slot(first), Membership(members(first))) for first in firsts]
    history = MembershipHistory(known)

    def naive(slot: int) -> Membership:
        ruling = [membership for first, membership in known if first <= slot]
        return ruling[-1] if ruling else known[0][1]

    assert history.at(slot) == naive(slot)
    assert history.since(slot) == list(dict.fromkeys(naive(later) for later in range(slot, 71)))
    history.forget_below(forgotten)
    assert all(history.at(later) == naive(later) for later in range(forgotten, 71))


def test_a_node_needs_a_membership_to_start_from() -> None:
    with pytest.raises(ValueError, match="at least one membership"):
        MembershipHistory(())
