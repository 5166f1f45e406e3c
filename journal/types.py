"""Numbers that must not be mixed up, each with a type of its own. PURE.

A ``Ballot`` orders leaderships, a ``Slot`` numbers the Paxos instances, and a
``Revision`` numbers the accepted offers. One slot carries many offers, so slots
and revisions advance at different speeds and never stand in for each other.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, NewType

NodeId = NewType("NodeId", int)
"""A node of the journal: 1 to 2**32 - 1. Zero is nobody."""

Slot = NewType("Slot", int)
"""One Paxos instance. The first is 1; zero is "before the first"."""

Revision = NewType("Revision", int)
"""The dense number of an accepted offer. The first is 1; zero is the empty space."""

NOBODY = NodeId(0)


class _Ballot(NamedTuple):
    round: int
    node: NodeId


class Ballot(_Ballot):
    """The number of a leadership: ordered by round, ties broken by node.

    Source: Lamport, "Paxos Made Simple" (2001), section 2.2 ("different proposers
    choose their numbers from disjoint sets of numbers").
    """

    __slots__ = ()

    ZERO: ClassVar[Ballot]

    def next_for(self, node: NodeId) -> Ballot:
        """Return the lowest ballot of ``node`` that is above this one's round."""
        return Ballot(self.round + 1, node)

    def __str__(self) -> str:
        return f"{self.round}.{self.node}"


Ballot.ZERO = Ballot(0, NOBODY)
