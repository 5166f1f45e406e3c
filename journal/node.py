"""One node of the journal: the shell around the pure parts.

::

    inbox -> core -> write (one synced batch) -> send what had to be durable
               |-> send what need not be       |-> own acceptance back into the inbox
               |-> chosen -> fold -> verdicts, tails, reads

All of it happens in *turns*: plain functions that never wait (``_turn``). A turn steps messages, proposes,
sends, folds and answers, and at its end has the *writer* make durable, in one batch, all that has gathered
since its last write; while that is under way, everything that arrives gathers for the next (natural batching:
under load batches grow, alone an offer waits for nobody). Who gives the turns and carries the batches is
the *driver*. Tasks only tick, and read what takes long, where it holds nobody up: for peers that are sent a
snapshot, and of the disk.

What the fold writes to the space rides in the next batch of the log. It need not be
synced before an answer: the entry it came from is durable on a quorum, and the fold is
deterministic. Storage applies batches in order, so the applied slot on disk never runs
ahead of what it folds.

The node takes storage, transport, driver, clock and randomness as arguments; a simulator swaps
them all. Its methods are synchronous, take a callback where the answer comes later, and
may be called from the node's own OS thread in or outside of trio (grpc.aio's handlers run
there in guest mode). Callbacks run inside a turn: they must not block nor raise.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf

import trio
from structlog.typing import FilteringBoundLogger

from journal.admission import Admission, Reply
from journal.backlog import Backlog
from journal.barriers import ReadBarriers, ReadReply
from journal.checked import Checked
from journal.counters import Counters
from journal.disk_care import DiskCare
from journal.driver import Driver, TrioDriver
from journal.entries import KIND_OFFERS, NOOP, kind_of, pack_compaction
from journal.errors import (
    Disowned,
    EntryUnreadable,
    JournalError,
    ProtocolViolation,
    RecordDamaged,
    RevisionInFuture,
    StorageError,
    Unavailable,
)
from journal.gate import unpack_batch
from journal.identities import Identities, PeerReply
from journal.node_commands import CommandReply, Commands
from journal.node_config import Clock, Transport
from journal.node_config import NodeConfig as NodeConfig
from journal.node_config import TrioClock as TrioClock
from journal.node_floor import FloorKeeper
from journal.node_leases import LeaseKeeper
from journal.node_recovery import recover
from journal.node_report import Report, members_of
from journal.node_snapshots import SnapshotHost
from journal.node_steering import Steering
from journal.node_upkeep import Upkeep
from journal.node_writer import Writer
from journal.offers import GROWING, Verdict
from journal.pace import Pace
from journal.paxos import Role
from journal.paxos.changes import MemberChange
from journal.paxos.effects import SendEntries
from journal.paxos.membership import Membership
from journal.paxos.messages import (
    REPAIR_MESSAGES,
    SNAPSHOT_MESSAGES,
    Accept,
    AcceptedValue,
    Envelope,
    Learned,
    Message,
    Trimmed,
    message_bytes,
)
from journal.snapshots.serve import SnapshotPart
from journal.standing import Standing
from journal.status import Alarm, LinkStatus, not_ready
from journal.status import NodeMember as NodeMember
from journal.status import NodeStatus as NodeStatus
from journal.storage import Storage
from journal.tail import TailHub
from journal.types import NodeId, Revision, Slot

INBOX_MESSAGES_MAX = 20_000
"""Envelopes that wait for the loop; more are dropped, which the protocol tolerates."""

FOLD_OFFERS_PER_TURN = 2_000
"""A node that catches up folds this many offers, then lets the loop turn."""


UNREADABLE = (ProtocolViolation, ValueError, TypeError, LookupError, OverflowError)
"""What a fold may raise over an entry that never was checked (``checked``)."""


class Node:
    """One node. Build it, ``run`` it in a nursery, talk to it through its methods."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        storage: Storage,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        log: FilteringBoundLogger,
        membership: Membership,
        incarnation: bytes = b"",
        links: Callable[[], Mapping[NodeId, LinkStatus]] = dict,
        disk_free: Callable[[], int | None] = lambda: None,
        driver: Driver | None = None,
    ) -> None:
        """``membership`` is the cluster's first one; later ones are found in the log.

        ``incarnation``: which data folder this is (``storage.identity``), for a transport that asks.
        ``links`` and ``disk_free`` say how the streams to the peers are and how many bytes are left on
        the disk, where somebody knows: for those who watch the node, nothing is decided by them.
        ``driver``: who gives it its turns; None: a task of trio.
        """
        config.validate()
        self.config = config
        self._transport = transport
        self._clock = clock
        self._logger = log
        self.links = links
        self.counters = Counters()

        self._checked = Checked()
        start = recover(config, storage, membership, self._checked, rng=rng, now=clock.now())
        self._log, self.space, self._core = start.log, start.space, start.core
        self._identities = Identities(storage, config.node, incarnation, log)
        self._standing = Standing(config, self._core, self._identities)
        self._inbox: list[Envelope] = []
        self._hung_up: list[NodeId] = []
        self._to_fold: deque[AcceptedValue] = deque()
        self._backlog = Backlog()
        self._commands = Commands()
        self._reads = ReadBarriers(config.limits.reads_inflight_max, config.read_timeout_s)
        self._driver = driver or TrioDriver()
        self._wake = self._driver.wake
        self._writer = Writer(storage, self._driver, clock, self.counters, config.flush_interval_s, self)
        self._writer.log_writes.extend(start.mended)
        self.tails = TailHub(self.space, self._log, config.limits)
        self._admission = Admission(self.space, config.limits, self.tails.label_of)
        self._pace = Pace(slots_max=config.pipeline_slots_max, full_bytes=config.limits.batch_bytes_max // 2)
        self._leases = LeaseKeeper(
            self.space, self._standing, self._admission, config.limits, clock, self.counters, log
        )
        self._floor = FloorKeeper(self.space, self._standing, self._admission, config.limits)
        self._steering = Steering(config, self._core, self._standing, clock, self._command, log)
        self._care = DiskCare(
            config.node,
            storage,
            self._log,
            config.limits,
            retry_s=config.paxos.retry_interval_s,
            now=clock.now(),
            log=log,
        )
        self._snapshots = SnapshotHost(
            config,
            storage=storage,
            tails=self.tails,
            writer=self._writer,
            to_fold=self._to_fold,
            backlog=self._backlog,
            send=self._send_to,
            drain=self._drain,
            wake=self._wake,
            membership=membership,
            start=start,
            counters=self.counters,
            clock=clock,
            rng=rng,
            log=log,
        )
        self._catch_up = self._snapshots.catch_up
        self._upkeep = Upkeep(
            config,
            storage,
            self._care,
            self._core,
            self.space,
            self._standing,
            self._writer,
            self._snapshots,
            clock,
            disk_free,
        )
        self._report = Report(
            config,
            core=self._core,
            space=self.space,
            standing=self._standing,
            identities=self._identities,
            admission=self._admission,
            care=self._care,
            upkeep=self._upkeep,
            snapshots=self._snapshots,
            writer=self._writer,
            tails=self.tails,
            links=links,
            clock=clock,
        )

        self._tick_due = False
        self._stopping = False
        self._stop_deadline: float | None = None
        self._stopped = trio.Event()
        self._was_leading: tuple[bool, object] = (False, None)
        self._leader_known: NodeId | None = None
        self._membership: tuple[Slot, Membership] | None = None

    # -- running --------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until ``stop`` has finished, or raise ``StorageError``: a failed write, a damaged record.

        Every callback that still waits is answered with ``Unavailable`` on the way out.
        """
        self._follow_membership()
        self._catch_up.resume(self._clock.now())
        self._transport.start(self._deliver, self._peer_hung_up)
        failure: StorageError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ticker)
                nursery.start_soon(self._driver.run, self._turn)
                nursery.start_soon(self._snapshots.run)
                nursery.start_soon(self._upkeep.run)
                task_status.started()
                await self._stopped.wait()
                nursery.cancel_scope.cancel()
        except* StorageError as group:
            failure = _first(group)
        finally:
            self._fail_all(Unavailable("the node is stopping"))
            self._snapshots.close()
        if failure is not None:
            raise failure
        # What was folded last goes to disk too; without it a restart would fold it again.
        self._writer.flush()
        self._record_identities()
        await self._writer.write_rest()

    def stop(self) -> None:
        """Begin a graceful stop: hand the leadership over, finish what is in flight, return from ``run``."""
        if not self._stopping:
            self._stopping = True
            self._logger.info("node.stopping")
            self._wake()

    async def _ticker(self) -> None:
        deadline = self._clock.now()
        while True:
            deadline = max(deadline + self.config.tick_interval_s, self._clock.now())
            await self._clock.sleep_until(deadline)
            self._tick_due = True
            self._wake()

    def _turn(self) -> None:
        """Do all that there is to do at this moment. It never waits."""
        now = self._clock.now()
        self._record_identities()
        self._core.sated = self._backlog.bytes >= self.config.limits.learned_bytes_max
        self._step_inbox(now)
        while self._hung_up:
            self._core.hung_up(self._hung_up.pop(), now)
        if self._tick_due:
            self._tick_due = False
            self._tick(now)
        if (number := self._reads.next_round()) is not None:
            self._core.read(number, now)
        self._propose(now)
        self._drain(now)
        self._fold(now)
        if self._catch_up.work(now) or (self._to_fold and not self._catch_up.is_installing):
            self._wake()
        self._reads.answer(self.space.applied, self.space.revision)
        if self._reads.is_due:
            self._wake()
        if self._admission.waiting or self._commands:
            # Folding may have freed a slot or unparked an offer.
            self._propose(now)
            self._drain(now)
        if self._stopping:
            self._go_on_stopping(now)
        self._writer.kick()

    def _go_on_stopping(self, now: float) -> None:
        if self._stop_deadline is None:
            self._stop_deadline = now + self.config.stop_timeout_s
            self._steering.hand_over(now)
        done = self._core.role is not Role.LEADER or (
            self._steering.handed_to is None and self._admission.idle
        )
        if done or self._identities.disowned or now >= self._stop_deadline:
            self._stopped.set()

    # -- a turn's steps, in their order -----------------------------------------

    def _deliver(self, envelope: Envelope) -> None:
        if len(self._inbox) < INBOX_MESSAGES_MAX:
            self._inbox.append(envelope)
            self._wake()
        else:
            self.counters.inbox_dropped += 1

    def _peer_hung_up(self, peer: NodeId) -> None:
        """A peer's connection has ended. What it said before that is stepped first."""
        self._hung_up.append(peer)
        self._wake()

    def _step_inbox(self, now: float) -> None:
        inbox, self._inbox = self._inbox, []
        if self._identities.disowned:
            return
        taken = 0
        for envelope in inbox:
            try:
                if isinstance(envelope.message, SNAPSHOT_MESSAGES):
                    self._snapshots.step(envelope, now)
                elif isinstance(envelope.message, REPAIR_MESSAGES):
                    answers, repaired = self._care.step(envelope.sender, envelope.message, self.space)
                    self._send(answers)
                    self._writer.log(repaired)
                elif not self._has_no_room_for(envelope.message, taken):
                    taken += message_bytes(envelope.message)
                    self._core.step(envelope, now)
            except ProtocolViolation as violation:
                self._logger.warning("peer.violation", peer=envelope.sender, reason=str(violation))

    def _has_no_room_for(self, message: Message, taken: int) -> bool:
        """Whether it brings what would wait for the disk for too long. It comes again, or is asked for.

        ``taken``: bytes of this turn's messages, which are queued for the disk at its end only.
        """
        waiting = self._writer.log_bytes + taken
        return waiting >= self.config.limits.write_queue_bytes_max and isinstance(message, (Accept, Learned))

    @property
    def _is_behind_its_disk(self) -> bool:
        return self._writer.log_bytes >= self.config.limits.write_queue_bytes_max

    def _tick(self, now: float) -> None:
        if not self._identities.disowned:
            self._core.tick(now)
            self._leases.tick(now)
            self._floor.tend()
        self._writer.tick(now)
        self._reads.expire(now, self.space.revision)
        self._steering.tick(now)
        self._snapshots.tick(now)
        self._send(self._upkeep.tend_disk(now, is_silent=bool(self._identities.disowned)))
        if self._catch_up.is_installing:
            return
        self._upkeep.propose_compaction(now, self.compact, may_propose=not self._stopping)
        self._upkeep.let_go(now)

    def damaged(self, error: RecordDamaged) -> None:
        """Tell the node that a reader of its space met a damaged record."""
        self._care.notice(error)
        self._wake()

    def _propose(self, now: float) -> None:
        core = self._core
        if self._identities.disowned or self._is_behind_its_disk:
            return
        while core.can_propose and self._commands:
            command = self._commands.next()
            slot = core.propose(command.value, now)
            assert slot is not None
            self._commands.proposed(slot, command)
        while core.can_propose and self._membership_lags():
            core.propose(NOOP, now)
        while core.can_propose and self._admission.waiting and not self._is_behind_its_disk:
            if (wait_s := self._wait_s(now)) > 0:
                if wait_s < inf:
                    self._driver.wake_in(wait_s)
                return
            proposal = self._admission.next_entry(self._clock.wall_ms())
            if proposal is None:
                return
            slot = core.propose(proposal.value, now)
            assert slot is not None
            self._admission.proposed(slot, proposal, now)
            counters = self.counters
            offers = proposal.offers
            self._pace.proposed(len(proposal.parts), now)
            counters.entries_proposed += 1
            counters.offers_proposed += offers
            counters.entry_offers.observe(offers)
            self._drain(now)

    def _wait_s(self, now: float) -> float:
        """Return how long offers that wait are to wait for others to share a slot with (``pace``)."""
        return self._pace.wait_s(
            now,
            bytes=self._admission.waiting_bytes,
            slots_in_flight=self._core.slots_in_flight,
            write_s=self._writer.under_way_s if self._writer.is_writing else None,
        )

    def _membership_lags(self) -> bool:
        """Whether no-ops are needed before the newest membership rules the next slot to be proposed."""
        first, _membership = self._core.newest_membership
        return self._core.chosen + self._core.slots_in_flight + 1 < first and first > 1

    def _drain(self, now: float) -> None:
        effects = self._core.drain()
        if effects:
            if effects.send_now:
                self._send(effects.send_now)
            if effects.must_persist:
                self._writer.log(self._log.writes_for(effects))
            if effects.send_durable or effects.send_entries:
                self._writer.when_durable(effects.send_durable, effects.send_entries)
            self._to_fold.extend(effects.chosen)
            self._backlog.chosen(effects.chosen)
            self.counters.entries_committed += len(effects.chosen)
            for number, slot in effects.reads:
                self._reads.confirmed(number, slot)
        self._note_role(now)

    def _fold(self, now: float) -> None:
        if self._catch_up.is_installing:
            return
        offers = 0
        counters, clock = self.counters, self._clock
        while self._to_fold and offers < FOLD_OFFERS_PER_TURN:
            entry = self._to_fold.popleft()
            decoded = self._admission.decoded(entry.slot, entry.value) or self._checked.take(entry.value)
            proposed_at = self._admission.proposed_at(entry.slot)
            started = clock.now()
            try:
                folded = self.space.fold(entry.slot, entry.value, decoded)
            except UNREADABLE as error:
                raise EntryUnreadable(
                    f"slot {entry.slot} holds an entry that this version cannot fold: {error!r}"
                ) from error
            ended = clock.now()
            counters.entries_applied += 1
            counters.fold_s.observe(ended - started)
            if proposed_at is not None:
                counters.commit_s.observe(ended - proposed_at)
            self._writer.space(folded.writes, now)
            self.tails.publish(entry, folded)
            self._admission.folded(folded, entry.value)
            self._commands.folded(entry.slot, self.space.revision)
            if kind_of(entry.value) == KIND_OFFERS:
                count = sum(len(verdicts) for verdicts in folded.verdicts)
                accepted = folded.revision - folded.before
                offers += count
                counters.offers_applied += count
                counters.offers_accepted += accepted
                if accepted != count:
                    counters.verdicts(folded.verdicts)
        if offers:
            self._floor.tend()
        if self._core.newest_membership != self._membership:
            self._follow_membership()

    def _send_entries(self, requests: list[SendEntries]) -> None:
        """Answer peers that learn. Only behind the write of what was drained with the request: until then
        the log may hold, for a slot that is known chosen, an older value that was never chosen."""
        for to, first, last in requests:
            try:
                entries = self._log.read(first, last, self.config.limits.learn_bytes_max)
            except RecordDamaged:
                continue  # noticed: it is repaired, and the peer asks again, or another
            if not entries and not self._catch_up.is_installing:
                if first < self.space.slots.first:
                    trimmed = Trimmed(self.space.slots.first, self._core.chosen)
                    self._send([Envelope(self.config.node, to, trimmed)])
                elif first <= self._writer.flushed:
                    self._log.missing(first)  # noticed: it is repaired, and the peer asks again
            if entries:
                learned = Learned(self._core.chosen, tuple(entries))
                self._send([Envelope(self.config.node, to, learned)])

    # -- what the writer asks and tells (``node_writer.Host``) ----------------------

    def folded(self) -> Slot:
        return self.space.applied

    def flushed(self, slot: Slot) -> None:
        self.space.flushed(slot)
        self.tails.flushed(slot)
        self._backlog.stored(slot)

    def is_durable(self, envelopes: Sequence[Envelope]) -> None:
        outside = []
        for envelope in envelopes:
            if envelope.to == self.config.node:
                self._inbox.append(envelope)
            else:
                outside.append(envelope)
        if outside:
            self._send(outside)

    def answer_learners(self, requests: list[SendEntries]) -> None:
        self._send_entries(requests)

    def wake(self) -> None:
        self._wake()

    def _send_to(self, to: NodeId, message: Message) -> None:
        self._send([Envelope(self.config.node, to, message)])

    def _send(self, envelopes: Sequence[Envelope]) -> None:
        """The only way out."""
        if not self._identities.disowned:
            self._transport.send(envelopes)

    # -- roles ----------------------------------------------------------------------

    def _note_role(self, now: float) -> None:
        """Act on what changed of role, ballot and leader since the last look."""
        core = self._core
        leading = (core.role is Role.LEADER, core.ballot if core.role is Role.LEADER else None)
        if leading != self._was_leading:
            was, self._was_leading = self._was_leading, leading
            if was[0]:
                self._fail_offers()
                self._leases.follow()
                self._logger.warning("leader.lost", ballot=str(core.ballot), slot=core.chosen)
            if leading[0]:
                self._leases.lead(now)
                self._logger.info(
                    "leader.elected", ballot=str(core.ballot), slot=core.chosen, revision=self.space.revision
                )
        if core.leader != self._leader_known:
            self._leader_known = core.leader
            if core.leader is not None:
                self.counters.leader_changes += 1
            if core.leader != self.config.node:
                self._logger.info("leader.known", leader=core.leader, ballot=str(core.ballot))

    def _follow_membership(self) -> None:
        first, membership = self._membership = self._core.newest_membership
        self._transport.set_peers(
            {node: at for node, at in self._core.endpoints.items() if node != self.config.node}
        )
        voters = ",".join(str(member.node) for member in membership.voters)
        learners = ",".join(str(member.node) for member in membership.learners)
        self._logger.info("membership", voters=voters, learners=learners, from_slot=first)

    def _fail_offers(self) -> None:
        inflight = Unavailable(
            "the leadership moved while the offer was in flight: it may be accepted or not;"
            " offer it again under the same id, or ask for its outcome"
        )
        error = self._standing.leader_error()
        self._admission.fail(error, inflight)
        self._steering.drop_change(error)
        self._commands.fail(inflight)

    def _fail_all(self, error: JournalError) -> None:
        self._identities.fail(error)
        self._admission.fail(error, error)
        self._steering.fail(error)
        self._commands.fail(error)
        self._reads.fail(error)

    # -- identities -------------------------------------------------------------------

    @property
    def disowned(self) -> str:
        """Why the peers do not take it for itself any more, so that it keeps still; empty where they do."""
        return self._identities.disowned

    @property
    def incarnation(self) -> bytes:
        return self._identities.incarnation

    @property
    def member_endpoint(self) -> str:
        """Where this node is reached as the members have it; empty where it is none, as far as it knows."""
        return self._core.endpoints.get(self.config.node, "")

    def admit_peer(self, peer: NodeId, incarnation: bytes, reply: PeerReply) -> None:
        """Call ``reply`` once ``peer`` is durably known as the one with this ``incarnation``.

        Raises ``Disowned`` where it was met with another one, ``WrongCluster`` where it was removed.
        """
        core = self._core
        self._identities.admit(peer, incarnation, frozenset(core.endpoints), core.newest_membership[1], reply)
        if self._identities.has_writes:
            self._wake()

    def peer_refused(self, peer: NodeId, error: JournalError | None) -> None:
        """``peer`` does not take this node's stream, or (None) takes it again.

        Where it knows another incarnation of this node, this one has forgotten what it promised.
        From here on it says nothing more, to anybody.
        """
        if error is None:
            self._identities.refused.pop(peer, None)
            return
        self._identities.refused[peer] = str(error)
        if isinstance(error, Disowned) and not self._identities.disowned:
            self._identities.disown(str(error))
            self._fail_all(self._standing.leader_error())
            self._wake()

    def _record_identities(self) -> None:
        if self._identities.has_writes:
            writes, written = self._identities.take_writes()
            self._writer.batch(writes, sync=True, written=written)

    # -- offers ---------------------------------------------------------------------

    def submit(self, data: bytes, reply: Reply) -> None:
        """Take in one packed batch; ``reply`` gets its verdicts, in order, or an error.

        Raises ``OfferInvalid``, ``NotLeader``, ``Overloaded`` or ``SpaceFull`` at once; then nothing was
        taken in.
        """
        if not self._standing.leads or self._stopping:
            raise self._standing.leader_error()
        batch = unpack_batch(data, self.config.limits)
        full = self._upkeep.full(self._clock.now())
        if full is not None and any(
            any(mutation[0] in GROWING for mutation in offer[-1])
            and (not batch.client or self.space.outcome(batch.client, offer[0]) is None)
            for offer in batch.offers
        ):
            raise full
        self._admission.submit(batch, reply)
        wait_s = self._wait_s(self._clock.now())
        if wait_s == 0:
            self._wake()
        elif wait_s < inf:
            self._driver.wake_in(wait_s)

    def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        """Return what became of an offer id, as far as this node has folded. None: not seen."""
        self.check_readable()
        return self.space.outcome(client, sequence)

    def compact(self, revision: Revision, reply: CommandReply) -> None:
        """Forget history below ``revision`` on all nodes. Raises ``NotLeader``, ``RevisionInFuture``."""
        if not self._standing.leads or self._stopping:
            raise self._standing.leader_error()
        if revision > self.space.revision:
            raise RevisionInFuture(revision, self.space.revision)
        self._command(pack_compaction(revision), reply)

    def _command(self, value: bytes, reply: CommandReply) -> None:
        self._commands.add(value, reply)
        self._wake()

    # -- reads ----------------------------------------------------------------------

    def read_barrier(
        self,
        reply: ReadReply,
        *,
        at_least: Revision | None = None,
        linearizable: bool = True,
    ) -> None:
        """Call ``reply`` with this node's revision once ``space`` may be read.

        ``linearizable``: it shows every offer that was answered before this call.
        ``at_least``: it stands at that revision or later. Both need not be given; then the
        reply comes at once. Raises ``Overloaded``.
        """
        self.check_readable()
        at_least = at_least or Revision(0)
        if linearizable and self._identities.disowned:
            raise self._standing.leader_error()
        if not linearizable and self.space.revision >= at_least:
            reply(self.space.revision)
            return
        self._reads.add(reply, self._clock.now(), at_least=at_least, linearizable=linearizable)
        self._wake()

    # -- leases -----------------------------------------------------------------------

    def keep_alive(self, lease: int, reply: Callable[[int | JournalError], None]) -> None:
        """Give ``lease`` a new term from now; ``reply`` gets its length in ms.

        Raises ``NotLeader``, ``LeaseNotFound`` (if no later fold can bring it), ``Overloaded``.
        """
        self._leases.keep_alive(lease, self.read_barrier, reply)

    # -- leadership -------------------------------------------------------------------

    def transfer_leadership(self, to: NodeId | None, reply: Callable[[NodeId | JournalError], None]) -> None:
        """Hand the leadership to ``to`` (None: to the peer that knows most).

        ``reply`` gets the new leader, or ``Unavailable`` if it did not come about in time.
        Raises ``NotLeader``; ``Unavailable`` where ``to`` cannot lead, with the reason.
        """
        self._steering.transfer(to, reply)
        self._wake()

    def change_members(self, change: MemberChange, reply: CommandReply) -> None:
        """Add, promote or remove one node. ``reply`` is called when the change rules and those who have left
        are needed no more (``pending_change.is_settled``), or with ``ChangeRefused`` where it would do harm
        as things are: the learner lags, the majority would be lost. A leader that is asked to remove itself
        hands over first, and replies with ``NotLeader``, which says who leads then: ask that one.

        Raises ``NotLeader``, ``InvalidRequest`` (the change makes no sense) or ``Unavailable`` (another
        one is under way).
        """
        if not self._standing.leads or self._stopping:
            raise self._standing.leader_error()
        self._steering.change_members(change, reply)

    # -- snapshots --------------------------------------------------------------------

    def read_snapshot(
        self, view: int, after: bytes, reply: Callable[[SnapshotPart | JournalError], None]
    ) -> None:
        """Give a client what follows ``after`` in the view that it calls ``view``; with an empty ``after``
        the view is taken now, of all that is folded. ``reply`` may get ``Unavailable``."""
        self._snapshots.read(view, after, reply)

    def check_readable(self) -> None:
        """Raise ``Unavailable`` where this node has no space to read from, not even an old one."""
        self._snapshots.check_readable()

    # -- status -----------------------------------------------------------------------

    @property
    def leader_endpoint(self) -> tuple[NodeId | None, str | None]:
        return self._standing.leader_endpoint

    @property
    def newest_members(self) -> tuple[NodeMember, ...]:
        """The members of the membership that was chosen last."""
        return members_of(self._core.newest_membership[1])

    def alarms(self) -> tuple[Alarm, ...]:
        """Return what is wrong with this node, the gravest first."""
        return self._report.alarms(stopping=self._stopping)

    def not_ready(self) -> str:
        """Return why this node should be sent no clients at present; empty where it is ready."""
        return not_ready(self.alarms(), self._report.lag)

    def status(self) -> NodeStatus:
        return self._report.status(stopping=self._stopping)

    @property
    def write_under_way_s(self) -> float:
        """How long the present write to the disk takes already; 0 where there is none."""
        return self._writer.under_way_s

    @property
    def slots_in_flight(self) -> int:
        return self._core.slots_in_flight

    @property
    def is_compacting(self) -> bool:
        """Whether history that is compacted, or a log from which nobody is served, is still being removed."""
        return self._upkeep.is_compacting

    @property
    def is_fetching_snapshot(self) -> bool:
        return not self._catch_up.is_idle

    @property
    def rejected_early(self) -> Mapping[str, int]:
        """Offers that the early check answered, by reason."""
        return self._admission.rejected_early


def _first(group: BaseExceptionGroup[StorageError]) -> StorageError:
    """Return the first leaf of a group: one failed disk may be noticed by several tasks."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, StorageError)
    return leaf
