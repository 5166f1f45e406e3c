"""Quorum arithmetic against twins so naive that they are plainly right."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from journal.paxos.quorum import is_quorum, majority, quorum_reached
from journal.types import NodeId

NODES = st.integers(1, 9).map(NodeId)
VOTERS = st.frozensets(NODES, min_size=1, max_size=7)


def naive_is_quorum(answers: set[NodeId], voters: frozenset[NodeId]) -> bool:
    """More of the voters said yes than did not."""
    yes = [voter for voter in voters if voter in answers]
    no = [voter for voter in voters if voter not in answers]
    return len(yes) > len(no)


def naive_quorum_reached(reached: dict[NodeId, int], voters: frozenset[NodeId]) -> int:
    """The highest number such that the voters at it or above it are a quorum."""
    return max(
        number
        for number in (0, *reached.values())
        if naive_is_quorum({voter for voter in voters if reached.get(voter, 0) >= number}, voters)
    )


@given(st.sets(NODES), VOTERS)
def test_is_quorum_against_naive(answers: set[NodeId], voters: frozenset[NodeId]) -> None:
    assert is_quorum(answers, voters) == naive_is_quorum(answers, voters)


@given(st.dictionaries(NODES, st.integers(0, 5)), VOTERS)
def test_quorum_reached_against_naive(reached: dict[NodeId, int], voters: frozenset[NodeId]) -> None:
    assert quorum_reached(reached, voters, 0) == naive_quorum_reached(reached, voters)


def test_any_two_quorums_share_a_voter() -> None:
    """What all of Paxos rests on."""
    for count in range(1, 8):
        voters = frozenset(NodeId(node) for node in range(1, count + 1))
        quorums = [
            set(nodes)
            for size in range(count + 1)
            for nodes in combinations(sorted(voters), size)
            if is_quorum(nodes, voters)
        ]
        assert all(one & other for one in quorums for other in quorums)
        assert min(len(quorum) for quorum in quorums) == majority(count)


def test_majorities() -> None:
    assert [majority(voters) for voters in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]
