"""Changes of the membership, one node at a time. PURE.

A change is proposed only when the one before it rules already, so two memberships that
follow each other differ in one voter at most, and any two of their quorums share a node
(Ongaro, "Consensus: bridging theory and practice", 4.1). The core does not rely on it: it
counts every slot in the membership that rules it, and a leader collects promises from
the voters of each (``Leadership``). It keeps the majority from hanging on several new nodes
at once, which is what an operator wants as well.

A node joins as a learner, is promoted when it has caught up, and leaves by being removed.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from journal.paxos.membership import Member, Membership
from journal.paxos.quorum import is_quorum
from journal.types import NodeId

MEMBERS_MAX = 15
"""Voters and learners together: each costs the leader a stream of everything."""


@dataclass(frozen=True, slots=True)
class AddLearner:
    """A new node, under a number that was never used: it learns, and does not vote."""

    node: NodeId
    endpoint: str


@dataclass(frozen=True, slots=True)
class Promote:
    """A learner becomes a voter."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Remove:
    """A voter or learner leaves; its number is never given again."""

    node: NodeId


MemberChange = AddLearner | Promote | Remove


def changed(membership: Membership, change: MemberChange) -> Membership:
    """Return the membership after ``change``. Raises ``ValueError`` with the reason where it cannot be."""
    voters, learners = membership.voters, membership.learners
    node = change.node
    if isinstance(change, AddLearner):
        if node in membership.nodes:
            raise ValueError(f"node {node} is a member already")
        for member in voters + learners:
            if member.endpoint == change.endpoint:
                raise ValueError(f"node {member.node} is at {change.endpoint} already")
        host, _colon, port = change.endpoint.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"the endpoint must be host:port, not {change.endpoint!r}")
        if len(membership.nodes) >= MEMBERS_MAX:
            raise ValueError(f"MEMBERS_MAX={MEMBERS_MAX} is reached")
        return Membership(voters, (*learners, Member(node, change.endpoint)), membership.retired)
    found = next((member for member in voters + learners if member.node == node), None)
    if found is None:
        gone = "was removed before" if node in membership.retired else "is not a member"
        raise ValueError(f"node {node} {gone}")
    if isinstance(change, Promote):
        if found in voters:
            raise ValueError(f"node {node} is a voter already")
        rest = tuple(member for member in learners if member != found)
        return Membership(tuple(sorted((*voters, found))), rest, membership.retired)
    if voters == (found,):
        raise ValueError(f"node {node} is the last voter")
    return Membership(
        tuple(member for member in voters if member != found),
        tuple(member for member in learners if member != found),
        (*membership.retired, node),
    )


def check_alive(after: Membership, alive: Collection[NodeId]) -> None:
    """Raise ``ValueError`` where the nodes heard from of late are no quorum of ``after``."""
    if not is_quorum(alive, after.voter_ids):
        heard = ", ".join(str(node) for node in sorted(after.voter_ids & set(alive))) or "none"
        raise ValueError(
            f"the majority would be lost: of the voters {sorted(after.voter_ids)} only these answer: {heard}"
        )
