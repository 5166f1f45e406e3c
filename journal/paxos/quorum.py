"""Counting quorums: majorities of the voters of one membership. PURE.

Everything that makes Paxos safe rests on one fact: two majorities of the same
voters share a node. So a quorum is always counted among the voters of the
membership that rules the slot in question, never among "whoever answered".
``tests/paxos/test_quorum.py`` compares these with deliberately naive twins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from journal.types import NodeId


def majority(voters: int) -> int:
    """Return how many of ``voters`` make a quorum: 1 of 1, 2 of 2, 2 of 3, 3 of 4, 3 of 5."""
    assert voters >= 1
    return voters // 2 + 1


def is_quorum(answers: Collection[NodeId], voters: frozenset[NodeId]) -> bool:
    """Whether ``answers`` (nodes, voters or not) hold a majority of ``voters``."""
    return sum(1 for voter in voters if voter in answers) >= majority(len(voters))


def is_blocking(answers: Collection[NodeId], voters: frozenset[NodeId]) -> bool:
    """Whether every quorum of ``voters`` holds one of ``answers``: 1 of 1, 1 of 2, 2 of 3, 2 of 4, 3 of 5."""
    return sum(1 for voter in voters if voter not in answers) < majority(len(voters))


def quorum_reached(reached: Mapping[NodeId, float], voters: frozenset[NodeId], nothing: float) -> float:
    """Return the highest number that a quorum of ``voters`` has reached.

    ``reached`` says how far each node is (a probe's number, a time); a voter that is
    not in it has reached ``nothing``.
    """
    numbers = sorted((reached.get(voter, nothing) for voter in voters), reverse=True)
    return numbers[majority(len(voters)) - 1]
