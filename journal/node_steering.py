"""What a leader does for operators: it hands over, and changes the members, one at a time.

Both wait: a transfer until another node leads, a change until enough was heard of the peers to know
whether a majority of the voters that it leaves is there (``pending_change``).
"""

from __future__ import annotations

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from journal.entries import pack_membership
from journal.errors import ChangeRefused, InvalidRequest, JournalError, NotLeader, Unavailable
from journal.node_commands import CommandReply
from journal.node_config import Clock, NodeConfig
from journal.paxos import Paxos
from journal.paxos.changes import MemberChange, Remove, changed
from journal.pending_change import PendingChange, is_settled
from journal.standing import Standing
from journal.types import NodeId, Revision

Command = Callable[[bytes, CommandReply], None]
"""Proposes an entry that is not made of offers, and says what became of it."""


class Steering:
    """At most one transfer and one change at a time."""

    def __init__(
        self,
        config: NodeConfig,
        core: Paxos,
        standing: Standing,
        clock: Clock,
        command: Command,
        log: FilteringBoundLogger,
    ) -> None:
        self.handed_to: NodeId | None = None
        """Whom this node hands the leadership to because it stops."""
        self._config = config
        self._core = core
        self._standing = standing
        self._clock = clock
        self._command = command
        self._logger = log
        self._changing_members = False
        self._change: PendingChange | None = None
        self._settling: tuple[CommandReply, Revision] | None = None
        """Who asked for a change that is made, until those who left with it are needed no more."""
        self._transfer_reply: tuple[float, NodeId, Callable[[NodeId | JournalError], None]] | None = None

    def tick(self, now: float) -> None:
        self._check_transfer(now)
        self._weigh_change(now)

    # -- the leadership ---------------------------------------------------------------

    def transfer(self, to: NodeId | None, reply: Callable[[NodeId | JournalError], None]) -> None:
        """See ``Node.transfer_leadership``."""
        if not self._standing.leads:
            raise self._standing.leader_error()
        now = self._clock.now()
        if to == self._config.node:
            reply(to)
            return
        if self._transfer_reply is not None:
            raise Unavailable("another transfer of the leadership is under way")
        target = to if to is not None else self._standing.best_peer(now)
        if target is None:
            raise Unavailable("no other voter has been heard from: there is nobody to hand over to")
        try:
            self._core.transfer(target, now)
        except ValueError as error:
            raise Unavailable(f"leadership cannot go to node {target}: {error}") from None
        deadline = now + 2 * self._config.paxos.election_timeout_s
        self._transfer_reply = (deadline, target, reply)

    def _check_transfer(self, now: float) -> None:
        if self._transfer_reply is None:
            return
        deadline, _to, reply = self._transfer_reply
        leader = self._core.leader
        if leader is not None and leader != self._config.node:
            self._transfer_reply = None
            reply(leader)
        elif now >= deadline:
            self._transfer_reply = None
            reply(Unavailable("the leadership did not move in time"))

    def hand_over(self, now: float) -> None:
        """On a stop: queued offers are refused, those in flight get until the deadline."""
        target = self._standing.best_peer(now) if self._standing.leads else None
        if target is not None:
            try:
                self._core.transfer(target, now)
            except ValueError as error:
                self._logger.info("leader.handover_refused", to=target, reason=str(error))
            else:
                self.handed_to = target

    # -- the members ------------------------------------------------------------------

    def change_members(self, change: MemberChange, reply: CommandReply) -> None:
        """See ``Node.change_members``."""
        now = self._clock.now()
        _first, newest = self._core.newest_membership
        if self._changing_members or not self._is_settled:
            raise Unavailable("another change of the members is under way: try again when it rules")
        try:
            after = changed(newest, change)
        except ValueError as error:
            raise InvalidRequest("change", str(error)) from None
        self._changing_members = True

        def done(result: Revision | JournalError) -> None:
            self._changing_members = False
            reply(result)

        def made(result: Revision | JournalError) -> None:
            if isinstance(result, JournalError):
                done(result)
            else:
                self._settling = done, result

        patience = self._config.paxos.election_timeout_s
        self._change = PendingChange(change, after, now, now + patience, made)
        self._weigh_change(now)

    @property
    def _is_settled(self) -> bool:
        """Whether the change before needs nobody any more who has left with it."""
        core = self._core
        first, newest = core.newest_membership
        return is_settled(self._config.node, core.chosen, core.peers_progress, first, newest)

    def _weigh_change(self, now: float) -> None:
        """Make the change that waits once enough is heard of the peers, or refuse it; tell when one that was
        made is settled."""
        if self._settling is not None and self._is_settled:
            (reply, revision), self._settling = self._settling, None
            reply(revision)
        pending = self._change
        if pending is None:
            return
        objection = pending.objection(
            self._config.node,
            self._core.chosen,
            self._core.peers_progress,
            self._config.limits.window_slots_max,
        )
        if objection and now < pending.deadline:
            return
        self._change = None
        if objection:
            pending.reply(ChangeRefused(objection))
        elif isinstance(pending.change, Remove) and pending.change.node == self._config.node:
            target = self._standing.best_peer(now)
            try:
                self.transfer(target, lambda _result: None)
            except Unavailable as error:
                pending.reply(error)
            else:
                pending.reply(NotLeader(target, self._standing.endpoint_of(target)))
        else:
            self._command(pack_membership(pending.after.pack()), pending.reply)

    # -- the end ----------------------------------------------------------------------

    def drop_change(self, error: JournalError) -> None:
        """This node leads no more: the change that waits is not made."""
        pending, self._change = self._change, None
        if pending is not None:
            pending.reply(error)
        settling, self._settling = self._settling, None
        if settling is not None:
            settling[0](Unavailable("the change is made, but who left may be needed still: ask once more"))

    def fail(self, error: JournalError) -> None:
        """Answer everybody who waits."""
        self.drop_change(error)
        if self._transfer_reply is not None:
            _deadline, _to, reply = self._transfer_reply
            self._transfer_reply = None
            reply(error)
