"""Who agrees on which slot. PURE.

A membership is the value of a slot like any other (``entries.KIND_MEMBERSHIP``).
Chosen at slot s it rules the slots from s + ``window_slots_max`` on, and a leader
proposes slot n only when every slot up to n - ``window_slots_max`` is chosen. So
whoever may propose a slot knows the one membership that rules it, and all who may
propose it know the same one (Lamport, "Paxos Made Simple", section 3: the
configuration for instance i + alpha is decided by the state after instance i).

Rejected: Raft's "the latest configuration in the log rules at once". It would rule
slots that are open when it is proposed, so which quorum counts for a slot would
depend on who counts and when.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from journal.entries import KIND_MEMBERSHIP, kind_of
from journal.errors import ProtocolViolation
from journal.paxos.quorum import majority
from journal.types import NodeId, Slot

_FORMAT = 1


class Member(NamedTuple):
    """A node and where its peers reach it (``host:port``)."""

    node: NodeId
    endpoint: str


@dataclass(frozen=True, slots=True)
class Membership:
    """The nodes that agree on a range of slots: voters count, learners only listen."""

    voters: tuple[Member, ...]
    learners: tuple[Member, ...] = ()
    retired: tuple[NodeId, ...] = ()
    """Nodes that were members once. Their numbers are never given again: a node that comes back
    under an old one, with an empty folder, would vote as if it had promised nothing."""
    # Derived once, because the hot path asks for them with every slot.
    voter_ids: frozenset[NodeId] = field(init=False, repr=False, compare=False)
    nodes: tuple[NodeId, ...] = field(init=False, repr=False, compare=False)
    """Voters and learners, sorted."""
    quorum: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise ``ValueError`` where there is no voter, or a node is invalid or named twice."""
        if not self.voters:
            raise ValueError("a membership needs at least one voter")
        nodes = sorted(member.node for member in self.voters + self.learners)
        for node in nodes:
            if not 1 <= node < 2**32:
                raise ValueError(f"a node must be 1 to 2**32 - 1, not {node}")
        if len(set(nodes)) != len(nodes):
            raise ValueError(f"a node is named twice in the membership: {nodes}")
        if back := sorted(set(nodes) & set(self.retired)):
            raise ValueError(f"node {back[0]} was removed once: its number is never given again")
        object.__setattr__(self, "voter_ids", frozenset(member.node for member in self.voters))
        object.__setattr__(self, "nodes", tuple(nodes))
        object.__setattr__(self, "quorum", majority(len(self.voters)))

    def endpoints(self) -> dict[NodeId, str]:
        """Return the endpoint of every node, voters first."""
        return {member.node: member.endpoint for member in self.voters + self.learners}

    def pack(self) -> bytes:
        """Return the form that a membership entry carries after its kind byte."""
        packed: bytes = msgpack.packb([_FORMAT, self.voters, self.learners, self.retired])
        return packed

    @staticmethod
    def unpack(data: bytes) -> Membership:
        """Raise ``ProtocolViolation`` where ``data`` is not what ``pack`` makes."""
        try:
            form, voters, learners, retired = msgpack.unpackb(data)
            if form != _FORMAT:
                raise ValueError(f"format {form!r} is unknown")
            if not all(type(node) is int for node in retired):
                raise TypeError(f"not nodes: {retired!r}")
            return Membership(_members(voters), _members(learners), tuple(map(NodeId, retired)))
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ProtocolViolation(f"membership does not decode: {error}") from error


def _members(packed: Any) -> tuple[Member, ...]:
    members = []
    for node, endpoint in packed:
        if type(node) is not int or not isinstance(endpoint, str):
            raise TypeError(f"not a member: {node!r}, {endpoint!r}")
        members.append(Member(NodeId(node), endpoint))
    return tuple(members)


def membership_of(entry: bytes) -> Membership | None:
    """Return the membership that ``entry`` carries, None for another kind.

    Raises ``ProtocolViolation`` where a membership entry does not decode.
    """
    return Membership.unpack(entry[1:]) if kind_of(entry) == KIND_MEMBERSHIP else None


class MembershipHistory:
    """Which membership rules which slot, as far as the chosen prefix decides it."""

    def __init__(self, memberships: Iterable[tuple[Slot, Membership]]) -> None:
        self._firsts: list[int] = []
        self._memberships: list[Membership] = []
        for first, membership in memberships:
            self.add(first, membership)
        if not self._firsts:
            raise ValueError("a node needs at least one membership to start from")

    def add(self, first: Slot, membership: Membership) -> None:
        """``membership`` rules from slot ``first`` on. Adding a known one again changes nothing."""
        if self._firsts and first <= self._firsts[-1]:
            # After a restart, entries between the applied slot and the present are learned again.
            assert self.at(first) == membership, f"slot {first} would be ruled by two memberships"
            return
        self._firsts.append(first)
        self._memberships.append(membership)

    @property
    def entries(self) -> list[tuple[Slot, Membership]]:
        """Return (the first slot it rules, membership) of all that are known, oldest first."""
        return [(Slot(first), rules) for first, rules in zip(self._firsts, self._memberships, strict=True)]

    @property
    def latest(self) -> Membership:
        return self._memberships[-1]

    @property
    def newest(self) -> tuple[Slot, Membership]:
        """(The first slot it rules, the membership that was chosen last)."""
        return Slot(self._firsts[-1]), self._memberships[-1]

    def at(self, slot: int) -> Membership:
        """Return the membership that rules ``slot``."""
        if slot >= self._firsts[-1]:
            return self._memberships[-1]
        index = bisect_right(self._firsts, slot) - 1
        return self._memberships[max(index, 0)]

    def since(self, slot: int) -> list[Membership]:
        """Return every membership that rules ``slot`` or a later one, oldest first."""
        index = bisect_right(self._firsts, slot) - 1
        return self._memberships[max(index, 0) :]

    def nodes_since(self, slot: int) -> tuple[NodeId, ...]:
        """Return all nodes, voters and learners, of ``since(slot)``, sorted."""
        ruling = self.since(slot)
        if len(ruling) == 1:
            return ruling[0].nodes
        return tuple(sorted({node for membership in ruling for node in membership.nodes}))

    def voters_since(self, slot: int) -> tuple[NodeId, ...]:
        """Return all voters of ``since(slot)``, sorted."""
        return tuple(sorted({node for membership in self.since(slot) for node in membership.voter_ids}))

    def forget_below(self, slot: int) -> None:
        """Drop the memberships that rule only slots below ``slot``."""
        keep = max(bisect_right(self._firsts, slot) - 1, 0)
        del self._firsts[:keep]
        del self._memberships[:keep]
