"""A change of the members that waits until the leader knows who is alive now. PURE.

A peer may have died a moment ago, and to a new leader all of them count as alive for a while.
A change that leaves a majority of the dead cannot be taken back, so it is weighed only by what
was heard since it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from journal.errors import JournalError
from journal.paxos.changes import MemberChange, Promote, check_alive
from journal.paxos.config import PeerProgress
from journal.paxos.membership import Membership
from journal.paxos.quorum import is_quorum
from journal.types import NodeId, Revision


@dataclass(frozen=True, slots=True)
class PendingChange:
    """What was asked for, and when."""

    change: MemberChange
    after: Membership
    """The membership that it makes."""
    asked: float
    deadline: float
    """When what was not heard by then counts as dead."""
    reply: Callable[[Revision | JournalError], None]

    def objection(
        self, leader: NodeId, chosen: int, progress: Mapping[NodeId, PeerProgress], window_slots_max: int
    ) -> str:
        """Return why it must not be made as far as is known now; empty where it may be."""
        heard = {leader, *(node for node, peer in progress.items() if peer.last_heard > self.asked)}
        if isinstance(self.change, Promote):
            learner = self.change.node
            if learner not in heard or not progress[learner].chosen:
                return f"learner {learner} was not heard from of late"
            lag = chosen - progress[learner].chosen
            if lag > window_slots_max:
                return f"learner {learner} is {lag} slots behind: promote it when it caught up"
        try:
            check_alive(self.after, heard)
        except ValueError as error:
            return str(error)
        return ""


def is_settled(
    leader: NodeId, chosen: int, progress: Mapping[NodeId, PeerProgress], first: int, newest: Membership
) -> bool:
    """Whether a quorum of ``newest``, which rules from slot ``first`` on, knows all slots before that.

    Only then do those who have left matter no more. Until then a slot may be open, or known chosen to
    few, in which *their* votes count: with one of them switched off and one of the others lost, it
    could never be learned nor chosen again.
    """
    know = {node for node, peer in progress.items() if peer.chosen >= first - 1}
    if chosen >= first - 1:
        know.add(leader)
    return is_quorum(know, newest.voter_ids)
