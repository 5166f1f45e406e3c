"""One node of the journal: the loop around the pure parts.

::

    inbox -> core -> write (one synced batch) -> send what had to be durable
               |-> send what need not be       |-> own acceptance back into the inbox
               |-> chosen -> fold -> verdicts, tails, reads

Two tasks of one nursery do it. The *loop* never waits for the disk: it steps messages,
proposes, sends, folds and answers. The *writer* takes all that has gathered since its
last write and makes it durable in one batch; while it is away, everything that arrives
gathers for the next (natural batching: under load batches grow, alone an offer waits
for nobody). A third task only ticks.

What the fold writes to the space rides in the next batch of the log. It need not be
synced before an answer: the entry it came from is durable on a quorum, and the fold is
deterministic. Storage applies batches in order, so the applied slot on disk never runs
ahead of what it folds.

The node takes storage, transport, clock and randomness as arguments; a simulator swaps
all four. Its methods are synchronous, take a callback where the answer comes later, and
may be called from the node's own OS thread in or outside of trio (grpc.aio's handlers run
there in guest mode). Callbacks run inside the loop: they must not block nor raise.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio
from structlog.typing import FilteringBoundLogger

from journal.admission import Admission, Reply
from journal.barriers import ReadBarriers, ReadReply
from journal.counters import Counters
from journal.disk_care import DiskCare
from journal.entries import KIND_OFFERS, NOOP, kind_of, pack_compaction, pack_membership
from journal.errors import (
    ChangeRefused,
    Disowned,
    InvalidRequest,
    JournalError,
    LeaseNotFound,
    NotLeader,
    Overloaded,
    ProtocolViolation,
    RecordDamaged,
    RevisionInFuture,
    SpaceFull,
    StorageError,
    Unavailable,
)
from journal.gate import unpack_batch
from journal.identities import Identities, PeerReply
from journal.lease_clock import LeaseClock
from journal.node_config import Clock, Transport
from journal.node_config import NodeConfig as NodeConfig
from journal.node_config import TrioClock as TrioClock
from journal.offers import GROWING, LeaseRevoke, Offer, Verdict, pack_batch, pack_offer
from journal.paxos import Paxos, Recovered, Role
from journal.paxos.changes import MemberChange, Remove, changed
from journal.paxos.effects import SendEntries
from journal.paxos.membership import Membership
from journal.paxos.messages import (
    REPAIR_MESSAGES,
    SNAPSHOT_MESSAGES,
    AcceptedValue,
    Envelope,
    Learned,
    Message,
    SnapshotAsk,
    SnapshotChunk,
    SnapshotRefused,
    Trimmed,
)
from journal.pending_change import PendingChange
from journal.retention import Retention
from journal.snapshots.catchup import CatchUp
from journal.snapshots.fetch import read_transfer
from journal.snapshots.format import FORMAT, Header
from journal.snapshots.records import End
from journal.snapshots.serve import Server, SnapshotPart
from journal.space import MISSING, Space
from journal.status import Alarm, LinkStatus, PeerStatus, alarms_of, health_of, not_ready
from journal.status import NodeMember as NodeMember
from journal.status import NodeStatus as NodeStatus
from journal.storage import Storage, View, Write
from journal.storage.log import LogStore, trimmed_slot
from journal.tail import TailHub
from journal.types import NodeId, Revision, Slot


@dataclass(slots=True)
class _Command:
    """An entry that is not made of offers, and who waits for it."""

    value: bytes
    reply: Callable[[Revision | JournalError], None]


INBOX_MESSAGES_MAX = 20_000
"""Envelopes that wait for the loop; more are dropped, which the protocol tolerates."""

FOLD_OFFERS_PER_TURN = 2_000
"""A node that catches up folds this many offers, then lets the loop turn."""

COMPACT_RECORDS_PER_TURN = 500

TO_FOLD_SLOTS_MAX = 256
"""Slots that are learned while a snapshot is installed, to be folded then."""


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
    ) -> None:
        """``membership`` is the cluster's first one; later ones are found in the log.

        ``incarnation``: which data folder this is (``storage.identity``), for a transport that asks.
        ``links`` and ``disk_free`` say how the streams to the peers are and how many bytes are left on
        the disk, where somebody knows: for those who watch the node, nothing is decided by them.
        """
        config.validate()
        self.config = config
        self._storage = storage
        self._transport = transport
        self._clock = clock
        self._logger = log
        self._started = clock.now()
        self.links = links
        self._disk_free = disk_free
        self.counters = Counters()

        self._log = LogStore(storage, config.limits)
        cache_records_max, window = config.limits.space_cache_records_max, config.limits.window_slots_max
        transfer = read_transfer(storage)
        snapshot = transfer.end if transfer is not None else None
        trimmed = trimmed_slot(storage)
        if snapshot is None:
            self.space = Space.load(storage, cache_records_max=cache_records_max)
        if snapshot is not None or self.space.applied < trimmed:
            # What is there of a space is half of an old and half of a new one, or cannot go on because the
            # log behind it was trimmed: a snapshot must come into its place.
            self.space = Space(MISSING, cache_records_max=cache_records_max)
        applied = max(self.space.applied, trimmed, Slot(0) if snapshot is None else snapshot.slot)
        found = self._log.recover(applied, membership, window)
        memberships = found.memberships if snapshot is None else snapshot.history(membership)
        self._core = Paxos(
            config.paxos,
            Recovered(found.promised, applied, found.accepted, memberships, found.lost),
            rng=rng,
            now=self._started,
        )
        self._core.abstains = self.space.applied < applied
        self._catch_up = CatchUp(
            storage,
            config.limits,
            self,
            transfer,
            needed=applied if self._core.abstains else Slot(0),
            retry_s=config.paxos.election_timeout_s,
            rng=rng,
            log=log,
        )
        self.snapshots = Server(storage, config.limits, membership, window)
        """The snapshots that other nodes fetch from this one."""
        self.exports = Server(storage, config.limits, membership, window)
        """Those that clients save."""
        self._reading: View | None = None
        self._retention = Retention(config.retain_revisions, config.retain_s)
        self._compacting = False
        self._is_trimming = False
        self._identities = Identities(storage, config.node, incarnation, log)
        self.tails = TailHub(self.space, self._log, config.limits)
        self._admission = Admission(self.space, config.limits, self.tails.label_of)
        self._leases = LeaseClock()

        self._inbox: list[Envelope] = []
        self._to_fold: deque[AcceptedValue] = deque()
        self._commands: deque[_Command] = deque()
        self._commands_inflight: dict[Slot, _Command] = {}
        self._reads = ReadBarriers(config.limits.reads_inflight_max, config.read_timeout_s)

        self._care = DiskCare(
            config.node,
            storage,
            self._log,
            config.limits,
            retry_s=config.paxos.retry_interval_s,
            now=self._started,
            log=log,
        )

        self._flushed = self.space.applied
        self._log_writes: list[Write] = list(found.mended)
        self._space_writes: list[Write] = []
        self._space_writes_since = 0.0
        self._after_write: list[Envelope] = []
        self._when_written: list[Callable[[], None]] = []
        self._learners: list[SendEntries] = []
        self._writing = False
        self._write_since = 0.0
        self._flush_wanted = False
        self._write_ready = trio.Event()

        self._work = trio.Event()
        self._tick_due = False
        self._stopping = False
        self._stopped = trio.Event()
        self._handed_to: NodeId | None = None
        self._changing_members = False
        self._change: PendingChange | None = None
        self._was_leading: tuple[bool, object] = (False, None)
        self._leader_known: NodeId | None = None
        self._membership: tuple[Slot, Membership] | None = None
        self._transfer_reply: tuple[float, NodeId, Callable[[NodeId | JournalError], None]] | None = None

    # -- running --------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until ``stop`` has finished, or raise ``StorageError``: a failed write, a damaged record.

        Every callback that still waits is answered with ``Unavailable`` on the way out.
        """
        self._follow_membership()
        self._catch_up.resume(self._clock.now())
        self._transport.start(self._deliver)
        failure: StorageError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ticker)
                nursery.start_soon(self._writer)
                nursery.start_soon(self._loop)
                task_status.started()
                await self._stopped.wait()
                nursery.cancel_scope.cancel()
        except* StorageError as group:
            failure = _first(group)
        finally:
            self._fail_all(Unavailable("the node is stopping"))
            self.snapshots.close()
            self.exports.close()
        if failure is not None:
            raise failure
        # What was folded last goes to disk too; without it a restart would fold it again.
        self._flush_wanted = True
        self._record_identities()
        await self._write_batch()

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
            self._work.set()

    def _wake(self) -> None:
        """Make the loop turn. In guest mode also from the host: trio's synchronous calls work there."""
        self._work.set()

    async def _loop(self) -> None:
        stop_deadline: float | None = None
        while True:
            if not self._to_fold or self._catch_up.is_installing:
                await self._work.wait()
                self._work = trio.Event()
            else:
                await trio.lowlevel.checkpoint()
            now = self._clock.now()
            self._record_identities()
            self._step_inbox(now)
            if self._tick_due:
                self._tick_due = False
                self._tick(now)
            if (number := self._reads.next_round()) is not None:
                self._core.read(number, now)
            self._propose(now)
            self._drain(now)
            self._fold(now)
            if self._catch_up.work(now):
                self._work.set()
            self._reads.answer(self.space.applied, self.space.revision)
            if self._admission.waiting or self._commands:
                # Folding may have freed a slot or unparked an offer.
                self._propose(now)
                self._drain(now)
            if self._stopping:
                if stop_deadline is None:
                    stop_deadline = now + self.config.stop_timeout_s
                    self._hand_over(now)
                done = self._core.role is not Role.LEADER or (
                    self._handed_to is None and self._admission.idle
                )
                if done or self._identities.disowned or now >= stop_deadline:
                    self._stopped.set()

    # -- the loop's steps, in their order -----------------------------------------

    def _deliver(self, envelope: Envelope) -> None:
        if len(self._inbox) < INBOX_MESSAGES_MAX:
            self._inbox.append(envelope)
            self._wake()
        else:
            self.counters.inbox_dropped += 1

    def _step_inbox(self, now: float) -> None:
        inbox, self._inbox = self._inbox, []
        if self._identities.disowned:
            return
        for envelope in inbox:
            try:
                if isinstance(envelope.message, SNAPSHOT_MESSAGES):
                    self._step_snapshot(envelope, now)
                elif isinstance(envelope.message, REPAIR_MESSAGES):
                    answers, repaired = self._care.step(envelope.sender, envelope.message, self.space)
                    self._send(answers)
                    self._queue_log_writes(repaired)
                elif not (isinstance(envelope.message, Learned) and self._is_full):
                    self._core.step(envelope, now)
            except ProtocolViolation as violation:
                self._logger.warning("peer.violation", peer=envelope.sender, reason=str(violation))

    def _tick(self, now: float) -> None:
        if not self._identities.disowned:
            self._core.tick(now)
            for lease in self._leases.tick(self.space.leases, now):
                self._expire(lease)
        if self._space_writes and now - self._space_writes_since >= self.config.flush_interval_s:
            self._flush_wanted = True
            self._write_ready.set()
        self._reads.expire(now, self.space.revision)
        self._check_transfer(now)
        self._weigh_change(now)
        self._catch_up.tick(now)
        self.snapshots.tick(now)
        self.exports.tick(now)
        self._tend_disk(now)
        if self._catch_up.is_installing:
            return
        self._compact_what_is_old(now)
        if not self._space_writes:
            self._queue_space_writes(self.space.compact_step(COMPACT_RECORDS_PER_TURN), now)
            trimmed = self._trim_step()
            self._queue_space_writes(trimmed, now)
            self._is_trimming = bool(trimmed)

    def _tend_disk(self, now: float) -> None:
        """Look for damage, mend what was found, see how much space is left."""
        care, core = self._care, self._core
        self._queue_log_writes(care.tick(now, core, self.space, scrubs=not self._catch_up.is_installing))
        if care.failure is not None:
            raise care.failure
        if care.repair.damaged and not self._identities.disowned:
            self._send(care.ask(now, core.membership.nodes))
        if care.is_space_due(now):
            care.watch_space(now, self._free())
            core.full = care.is_full

    def _free(self) -> int | None:
        free = self._disk_free()
        return self._storage.free_bytes() if free is None else free

    def _queue_log_writes(self, writes: list[Write]) -> None:
        if writes:
            self._log_writes.extend(writes)
            self._write_ready.set()

    def damaged(self, error: RecordDamaged) -> None:
        """Tell the node that a reader of its space met a damaged record."""
        self._care.notice(error)
        self._wake()

    def _trim_step(self) -> list[Write]:
        """Let a little of the log go: what is folded, on the disk, compacted, and needed by nobody."""
        limits = self.config.limits
        keep_from = min(self._flushed, self.space.applied - limits.log_slots_retained_min) + 1
        view = self.snapshots.oldest_slot
        if view is not None:  # who installs it goes on with the slots behind it
            keep_from = min(keep_from, view + 1)
        return self.space.slots.trim_step(Slot(keep_from), limits.log_trim_step_slots)

    def _compact_what_is_old(self, now: float) -> None:
        leads = self._leads and not self._stopping and not self._compacting
        space = self.space
        revision = self._retention.due(now, space.revision, space.compacted, leads=leads)
        if revision is None:
            return
        self._compacting = True

        def done(_result: Revision | JournalError) -> None:
            self._compacting = False

        self.compact(revision, done)

    def _propose(self, now: float) -> None:
        core, config = self._core, self.config
        if self._identities.disowned:
            return
        while core.can_propose and self._commands:
            command = self._commands.popleft()
            slot = core.propose(command.value, now)
            assert slot is not None
            self._commands_inflight[slot] = command
        while core.can_propose and self._membership_lags():
            core.propose(NOOP, now)
        while core.can_propose and self._admission.waiting:
            # Natural batching: while a write is under way, or enough slots are in flight, offers gather.
            busy = self._writing or core.slots_in_flight >= config.pipeline_slots_max
            if busy and self._admission.waiting_bytes < config.limits.batch_bytes_max // 2:
                return
            proposal = self._admission.next_entry(self._clock.wall_ms())
            if proposal is None:
                return
            slot = core.propose(proposal.value, now)
            assert slot is not None
            self._admission.proposed(slot, proposal, now)
            counters = self.counters
            offers = proposal.offers
            counters.entries_proposed += 1
            counters.offers_proposed += offers
            counters.entry_offers.observe(offers)
            self._drain(now)

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
                self._log_writes.extend(self._log.writes_for(effects))
            if effects.send_durable:
                self._after_write.extend(effects.send_durable)
            if effects.send_entries:
                self._learners.extend(effects.send_entries)
            if effects.must_persist or effects.send_durable or effects.send_entries:
                self._write_ready.set()
            self._to_fold.extend(effects.chosen)
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
            decoded = self._admission.decoded(entry.slot, entry.value)
            proposed_at = self._admission.proposed_at(entry.slot)
            started = clock.now()
            folded = self.space.fold(entry.slot, entry.value, decoded)
            ended = clock.now()
            counters.entries_applied += 1
            counters.fold_s.observe(ended - started)
            if proposed_at is not None:
                counters.commit_s.observe(ended - proposed_at)
            self._queue_space_writes(folded.writes, now)
            self.tails.publish(entry, folded)
            self._admission.folded(folded, entry.value)
            command = self._commands_inflight.pop(entry.slot, None)
            if command is not None:
                command.reply(self.space.revision)
            if kind_of(entry.value) == KIND_OFFERS:
                count = sum(len(verdicts) for verdicts in folded.verdicts)
                accepted = folded.revision - folded.before
                offers += count
                counters.offers_applied += count
                counters.offers_accepted += accepted
                if accepted != count:
                    counters.verdicts(folded.verdicts)
        if self._core.newest_membership != self._membership:
            self._follow_membership()

    def _queue_space_writes(self, writes: Iterable[Write], now: float) -> None:
        if not self._space_writes:
            self._space_writes_since = now
        self._space_writes.extend(writes)

    def _send_entries(self, requests: list[SendEntries]) -> None:
        """Answer peers that learn. Only behind the write of what was drained with the request: until then
        the log may hold, for a slot that is known chosen, an older value that was never chosen."""
        for to, first, last in requests:
            try:
                entries = self._log.read(first, last, self.config.limits.learn_bytes_max)
            except RecordDamaged:
                continue  # noticed: it is repaired, and the peer asks again, or another
            if not entries and first < self.space.slots.first and not self._catch_up.is_installing:
                trimmed = Trimmed(self.space.slots.first, self._core.chosen)
                self._send([Envelope(self.config.node, to, trimmed)])
            if entries:
                learned = Learned(self._core.chosen, tuple(entries))
                self._send([Envelope(self.config.node, to, learned)])

    # -- snapshots (``journal.snapshots``) --------------------------------------------

    def _step_snapshot(self, envelope: Envelope, now: float) -> None:
        sender, _to, message = envelope
        if isinstance(message, Trimmed):
            self._catch_up.on_trimmed(sender, message, now)
        elif isinstance(message, SnapshotChunk):
            self.counters.snapshot_received_bytes += len(message.records)
            self._catch_up.on_chunk(sender, message, now)
        elif isinstance(message, SnapshotRefused):
            self._catch_up.on_refused(sender, message, now)
        elif isinstance(message, SnapshotAsk):
            answer = self._snapshot_answer(sender, message, now)
            if isinstance(answer, SnapshotChunk):
                self.counters.snapshot_sent_bytes += len(answer.records)
            self.send(sender, answer)

    def _snapshot_answer(self, sender: NodeId, ask: SnapshotAsk, now: float) -> Message:
        if self._catch_up.is_installing:
            return SnapshotRefused(ask.view, True, "a snapshot is being installed here")
        try:
            return self.snapshots.answer(sender, ask, now)
        except RecordDamaged as damage:
            self._logger.error("snapshot.damaged", asker=sender, reason=str(damage))
            return SnapshotRefused(ask.view, True, "a record is damaged here")

    def read_snapshot(
        self, view: int, after: bytes, reply: Callable[[SnapshotPart | JournalError], None]
    ) -> None:
        """Give a client what follows ``after`` in the view that it calls ``view``; with an empty ``after``
        the view is taken now, of all that is folded. ``reply`` may get ``Unavailable``."""
        if self._catch_up.is_installing:
            raise Unavailable(f"no snapshot can be read here: {self._catch_up.described}")

        def answer() -> None:
            ask = SnapshotAsk(view, after)
            try:
                found = self.exports.answer(NodeId(view), ask, self._clock.now())
            except RecordDamaged as damage:
                self._logger.error("snapshot.damaged", reason=str(damage))
                reply(Unavailable("a record is damaged on this node: ask another"))
                return
            if isinstance(found, SnapshotRefused):
                reply(Unavailable(f"snapshot: {found.reason}"))
                return
            state = self.exports.state_of(NodeId(view))
            header = Header(
                FORMAT,
                self.config.cluster,
                self.config.node,
                state.applied,
                state.revision,
                state.chain,
                state.compacted,
                self.config.limits.window_slots_max,
                self._clock.wall_ms(),
            )
            end = End.unpack(found.end) if found.end else None
            reply(SnapshotPart(header, found.records, end))

        if after:
            answer()
        else:
            self.write([], sync=False, written=answer)  # what is folded must be on the disk to be in the view
            self._wake()

    @property
    def _is_full(self) -> bool:
        """Whether enough waits to be folded once the snapshot is there."""
        return self._catch_up.is_installing and len(self._to_fold) >= TO_FOLD_SLOTS_MAX

    @property
    def chosen(self) -> Slot:
        return self._core.chosen

    @property
    def peers(self) -> list[NodeId]:
        return sorted(node for node in self._core.endpoints if node != self.config.node)

    def send(self, to: NodeId, message: Message) -> None:
        self._send([Envelope(self.config.node, to, message)])

    def write(self, writes: list[Write], *, sync: bool, written: Callable[[], None]) -> None:
        """Queue a batch of ``snapshots.catchup``."""
        (self._log_writes if sync else self._space_writes).extend(writes)
        self._when_written.append(written)
        self._flush_wanted = True
        self._write_ready.set()

    def begin_install(self, end: End, marker: Write, written: Callable[[], None]) -> None:
        now = self._clock.now()
        self._core.abstains = True
        self._core.install(end.slot, end.ballot, end.memberships, now)
        # What the core persisted before this, and the promise that it has made now, are in the log's writes
        # before the marker: whoever finds the marker finds the promise.
        self._drain(now)
        self.write([marker], sync=True, written=written)

    def keep_reading(self) -> None:
        self._reading = self._storage.view()
        self.space.read_from(self._reading)
        self.tails.read_from(LogStore(self._reading, self.config.limits))

    def installed(self, end: End) -> None:
        self.counters.snapshots_installed += 1
        self._to_fold = deque(entry for entry in self._to_fold if entry.slot > end.slot)
        self.space.reload(self._storage)
        self.tails.reload(self._log)
        self._flushed = self.space.applied
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        self._core.abstains = False
        self._wake()

    def check_readable(self) -> None:
        """Raise ``Unavailable`` where this node has no space to read from, not even an old one."""
        if self._catch_up.is_installing and self._reading is None and self.space.applied == 0:
            raise Unavailable(f"this node cannot be read from yet: {self._catch_up.described}")

    def _send(self, envelopes: Sequence[Envelope]) -> None:
        """The only way out."""
        if not self._identities.disowned:
            self._transport.send(envelopes)

    # -- the writer ---------------------------------------------------------------

    async def _writer(self) -> None:
        while True:
            await self._write_ready.wait()
            self._write_ready = trio.Event()
            await self._write_batch()
            self._wake()

    async def _write_batch(self) -> None:
        """Make everything gathered so far durable, then do what waited for it."""
        after, self._after_write = self._after_write, []
        learners, self._learners = self._learners, []
        written, self._when_written = self._when_written, []
        sync = bool(self._log_writes)
        if sync or self._flush_wanted:
            writes = self._log_writes + self._space_writes
            flushed = self.space.applied
            self._log_writes, self._space_writes = [], []
            self._flush_wanted = False
            self._writing = True
            self._write_since = self._clock.now()
            # Shielded: a batch that was taken and not written would leave a hole below the next one.
            with trio.CancelScope(shield=True):
                await self._storage.write(writes, sync=sync)
            self._writing = False
            if sync:
                self.counters.sync_s.observe(self._clock.now() - self._write_since)
            self.space.flushed(flushed)
            self.tails.flushed(flushed)
            self._flushed = flushed
        for call in written:
            call()
        outside = []
        for envelope in after:
            if envelope.to == self.config.node:
                self._inbox.append(envelope)
            else:
                outside.append(envelope)
        if outside:
            self._send(outside)
        self._send_entries(learners)

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
                self._leases.lead(self.space.leases, now)
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

    @property
    def _leads(self) -> bool:
        return self._core.role is Role.LEADER and not self._identities.disowned

    def _leader_error(self) -> Unavailable:
        if self._identities.disowned:
            return Unavailable(f"this node takes no part any more: {self._identities.disowned}")
        leader = self._core.leader
        if leader == self.config.node:  # phase 1 is not done yet, or this node is stopping
            leader = None
        return NotLeader(leader, self._endpoint_of(leader))

    def _endpoint_of(self, node: NodeId | None) -> str | None:
        return None if node is None else self._core.endpoints.get(node)

    def _fail_offers(self) -> None:
        inflight = Unavailable(
            "the leadership moved while the offer was in flight: it may be accepted or not;"
            " offer it again under the same id, or ask for its outcome"
        )
        self._admission.fail(self._leader_error(), inflight)
        self._drop_change(self._leader_error())
        commands = [*self._commands, *self._commands_inflight.values()]
        self._commands.clear()
        self._commands_inflight.clear()
        for command in commands:
            command.reply(inflight)

    def _fail_all(self, error: JournalError) -> None:
        self._identities.fail(error)
        self._admission.fail(error, error)
        self._drop_change(error)
        for command in [*self._commands, *self._commands_inflight.values()]:
            command.reply(error)
        self._commands.clear()
        self._commands_inflight.clear()
        self._reads.fail(error)
        if self._transfer_reply is not None:
            _deadline, _to, reply = self._transfer_reply
            self._transfer_reply = None
            reply(error)

    # -- identities -------------------------------------------------------------------

    @property
    def incarnation(self) -> bytes:
        return self._identities.incarnation

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
            self._fail_all(self._leader_error())
            self._wake()

    def _record_identities(self) -> None:
        if self._identities.has_writes:
            writes, written = self._identities.take_writes()
            self._log_writes.extend(writes)
            self._when_written.append(written)
            self._write_ready.set()

    # -- offers ---------------------------------------------------------------------

    def submit(self, data: bytes, reply: Reply) -> None:
        """Take in one packed batch; ``reply`` gets its verdicts, in order, or an error.

        Raises ``OfferInvalid``, ``NotLeader``, ``Overloaded`` or ``SpaceFull`` at once; then nothing was
        taken in.
        """
        if not self._leads or self._stopping:
            raise self._leader_error()
        batch = unpack_batch(data, self.config.limits)
        full = self._full()
        if full is not None and any(
            any(mutation[0] in GROWING for mutation in offer[-1])
            and (not batch.client or self.space.outcome(batch.client, offer[0]) is None)
            for offer in batch.offers
        ):
            raise full
        self._admission.submit(batch, reply)
        self._wake()

    def _full(self) -> SpaceFull | None:
        """Why nothing that grows the space is taken in: this disk or that of a voter is full. None: it is.

        A voter that runs out of space stops, and with it goes its vote, so its alarm counts like this
        node's own; that of a voter which is not heard any more does not.
        """
        reserve = self.config.limits.disk_reserve_bytes
        if self._care.is_full:
            return SpaceFull(self.config.node, self._care.free_bytes, reserve)
        progress = self._core.peers_progress
        if any(peer.full for peer in progress.values()):
            for node in sorted(self._alive(self._clock.now()) & self._core.membership.voter_ids):
                if progress[node].full:
                    return SpaceFull(node, None, reserve)
        return None

    def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        """Return what became of an offer id, as far as this node has folded. None: not seen."""
        self.check_readable()
        return self.space.outcome(client, sequence)

    def compact(self, revision: Revision, reply: Callable[[Revision | JournalError], None]) -> None:
        """Forget history below ``revision`` on all nodes. Raises ``NotLeader``, ``RevisionInFuture``."""
        if not self._leads or self._stopping:
            raise self._leader_error()
        if revision > self.space.revision:
            raise RevisionInFuture(revision, self.space.revision)
        self._commands.append(_Command(pack_compaction(revision), reply))
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
            raise self._leader_error()
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
        if not self._leads:
            raise self._leader_error()
        since = self._clock.now()

        def confirmed(result: Revision | JournalError) -> None:
            if isinstance(result, JournalError):
                reply(result)
                return
            term = self.space.leases.get(lease)
            if term is None:
                reply(LeaseNotFound(lease))
            elif not self._leads:
                reply(self._leader_error())
            elif self._leases.is_expiring(lease):
                reply(Unavailable(f"lease {lease} is expiring"))
            else:
                self._leases.renew(lease, term.ttl_ms, since)
                reply(term.ttl_ms)

        self.read_barrier(confirmed)

    def _expire(self, lease: int) -> None:
        offer = pack_offer(0, Offer(mutations=(LeaseRevoke(lease),), label=f"lease {lease} expired"))
        batch = unpack_batch(pack_batch(b"", 0, self.space.revision, [offer]), self.config.limits)

        def folded(result: list[Verdict] | JournalError) -> None:
            if isinstance(result, JournalError):
                self._leases.retry(lease)
            else:
                self.counters.leases_expired += 1
                self._logger.info("lease.expired", lease=lease, revision=self.space.revision)

        try:
            self._admission.submit(batch, folded)
        except Overloaded:
            self._leases.retry(lease)

    # -- leadership -------------------------------------------------------------------

    def transfer_leadership(self, to: NodeId | None, reply: Callable[[NodeId | JournalError], None]) -> None:
        """Hand the leadership to ``to`` (None: to the peer that knows most).

        ``reply`` gets the new leader, or ``Unavailable`` if it did not come about in time.
        Raises ``NotLeader``; ``Unavailable`` where ``to`` cannot lead, with the reason.
        """
        if not self._leads:
            raise self._leader_error()
        now = self._clock.now()
        if to == self.config.node:
            reply(to)
            return
        if self._transfer_reply is not None:
            raise Unavailable("another transfer of the leadership is under way")
        target = to if to is not None else self._best_peer(now)
        if target is None:
            raise Unavailable("no other voter has been heard from: there is nobody to hand over to")
        try:
            self._core.transfer(target, now)
        except ValueError as error:
            raise Unavailable(f"leadership cannot go to node {target}: {error}") from None
        deadline = now + 2 * self.config.paxos.election_timeout_s
        self._transfer_reply = (deadline, target, reply)
        self._wake()

    def change_members(self, change: MemberChange, reply: Callable[[Revision | JournalError], None]) -> None:
        """Add, promote or remove one node; ``reply`` is called when the change is chosen, or with
        ``ChangeRefused`` where it would do harm as things are: the learner lags, the majority would be
        lost. A leader that is asked to remove itself hands over first, and replies with ``NotLeader``,
        which says who leads then: ask that one.

        Raises ``NotLeader``, ``InvalidRequest`` (the change makes no sense) or ``Unavailable`` (another
        one is under way).
        """
        if not self._leads or self._stopping:
            raise self._leader_error()
        now = self._clock.now()
        first, newest = self._core.newest_membership
        if self._changing_members or first > self._core.chosen + 1:
            raise Unavailable("another change of the members is under way: try again when it rules")
        try:
            after = changed(newest, change)
        except ValueError as error:
            raise InvalidRequest("change", str(error)) from None
        self._changing_members = True

        def done(result: Revision | JournalError) -> None:
            self._changing_members = False
            reply(result)

        patience = self.config.paxos.election_timeout_s
        self._change = PendingChange(change, after, now, now + patience, done)
        self._weigh_change(now)

    def _weigh_change(self, now: float) -> None:
        """Make the change that waits once enough is heard of the peers, or refuse it."""
        pending = self._change
        if pending is None:
            return
        objection = pending.objection(
            self.config.node,
            self._core.chosen,
            self._core.peers_progress,
            self.config.limits.window_slots_max,
        )
        if objection and now < pending.deadline:
            return
        self._change = None
        if objection:
            pending.reply(ChangeRefused(objection))
        elif isinstance(pending.change, Remove) and pending.change.node == self.config.node:
            target = self._best_peer(now)
            try:
                self.transfer_leadership(target, lambda _result: None)
            except Unavailable as error:
                pending.reply(error)
            else:
                pending.reply(NotLeader(target, self._endpoint_of(target)))
        else:
            self._commands.append(_Command(pack_membership(pending.after.pack()), pending.reply))
            self._wake()

    def _drop_change(self, error: JournalError) -> None:
        pending, self._change = self._change, None
        if pending is not None:
            pending.reply(error)

    def _alive(self, now: float) -> set[NodeId]:
        """The peers that this leader has heard from within an election timeout."""
        return {
            node
            for node, progress in self._core.peers_progress.items()
            if now - progress.last_heard < self.config.paxos.election_timeout_s
        }

    def _best_peer(self, now: float) -> NodeId | None:
        progress = self._core.peers_progress
        alive = self._alive(now) & self._core.membership.voter_ids
        return max(sorted(alive), key=lambda node: progress[node].chosen, default=None)

    def _check_transfer(self, now: float) -> None:
        if self._transfer_reply is None:
            return
        deadline, _to, reply = self._transfer_reply
        leader = self._core.leader
        if leader is not None and leader != self.config.node:
            self._transfer_reply = None
            reply(leader)
        elif now >= deadline:
            self._transfer_reply = None
            reply(Unavailable("the leadership did not move in time"))

    def _hand_over(self, now: float) -> None:
        """On a stop: queued offers are refused, those in flight get until the deadline."""
        target = self._best_peer(now) if self._leads else None
        if target is not None:
            try:
                self._core.transfer(target, now)
            except ValueError as error:
                self._logger.info("leader.handover_refused", to=target, reason=str(error))
            else:
                self._handed_to = target

    # -- status -----------------------------------------------------------------------

    @property
    def leader_endpoint(self) -> tuple[NodeId | None, str | None]:
        if self._identities.disowned:
            return None, None
        return self._core.leader, self._endpoint_of(self._core.leader)

    @property
    def newest_members(self) -> tuple[NodeMember, ...]:
        """The members of the membership that was chosen last."""
        return _members(self._core.newest_membership[1])

    def alarms(self) -> tuple[Alarm, ...]:
        """Return what is wrong with this node, the gravest first."""
        core, node = self._core, self.config.node
        leaderless = ""
        if core.leader is None:
            refused = [f"; refused by node {by}: {why}" for by, why in self._identities.refused.items()]
            joining = "" if node in core.endpoints else " and not a member: `synod member add` lets it in"
            leaderless = f"no leader{joining}{''.join(sorted(refused))}"
        return alarms_of(
            stopping=self._stopping,
            disowned=self._identities.disowned,
            removed=node in core.newest_membership[1].retired,
            leaderless=leaderless,
            lag=self._lag,
            lag_max=self.config.limits.window_slots_max,
            snapshot=self._catch_up.described,
            disk_free_bytes=self._free(),
            disk_full=self._disk_full_text(),
            damaged=self._damage_text(),
            disk_free_bytes_min=self.config.disk_free_bytes_min,
            write_s=self.write_under_way_s,
        )

    def _disk_full_text(self) -> str:
        full = self._full()
        if full is None:
            return ""
        if full.node == self.config.node and not self._leads:
            return "disk full: the leader is told, and takes no offers that grow the space"
        return f"disk of node {full.node} full: no offers that grow the space are taken"

    def _damage_text(self) -> str:
        core, repair = self._core, self._care.repair
        found = []
        if core.waits_for is not None:
            found.append(
                f"slot {core.waits_for} waits for an intact copy: damaged on too many nodes that answer"
            )
        damaged = len(core.lost) + len(repair.damaged)
        if damaged:
            found.append(f"{damaged} damaged log records wait for a peer's copy")
        return "; ".join(found)

    def not_ready(self) -> str:
        """Return why this node should be sent no clients at present; empty where it is ready."""
        return not_ready(self.alarms(), self._lag)

    @property
    def _lag(self) -> int:
        return max(0, self._core.known_chosen - self.space.applied)

    @property
    def write_under_way_s(self) -> float:
        """How long the present write to the disk takes already; 0 where there is none."""
        return self._clock.now() - self._write_since if self._writing else 0.0

    @property
    def slots_in_flight(self) -> int:
        return self._core.slots_in_flight

    @property
    def is_compacting(self) -> bool:
        """Whether history that is compacted, or a log from which nobody is served, is still being removed."""
        return self._is_trimming or self.space.is_compacting

    @property
    def is_fetching_snapshot(self) -> bool:
        return not self._catch_up.is_idle

    @property
    def rejected_early(self) -> Mapping[str, int]:
        """Offers that the early check answered, by reason."""
        return self._admission.rejected_early

    def _peers(self) -> tuple[PeerStatus, ...]:
        """What is known of each other member: of its streams, and of how far it has learned."""
        core, links = self._core, self.links()
        known = core.peers_known
        nobody = LinkStatus(connected=False, heard_ago_s=None, round_trip_s=None)
        found = []
        for node in sorted(core.endpoints):
            if node != self.config.node:
                link, chosen = links.get(node, nobody), known.get(node, Slot(0))
                lag = max(0, core.chosen - chosen) if chosen else 0
                heard = (link.connected, link.heard_ago_s, link.round_trip_s)
                found.append(PeerStatus(node, *heard, chosen, lag, link.why))
        return tuple(found)

    def status(self) -> NodeStatus:
        core, space = self._core, self.space
        membership = core.membership
        disowned = self._identities.disowned
        node = self.config.node
        return NodeStatus(
            node=node,
            cluster=self.config.cluster,
            endpoint=self._endpoint_of(node) or self.config.endpoint,
            role="follower" if disowned else core.role.name.lower(),
            leader=None if disowned else core.leader,
            ballot=str(core.ballot),
            revision=space.revision,
            applied=space.applied,
            chosen=core.chosen,
            lag=self._lag,
            chain=space.chain.hex(),
            compacted=space.compacted,
            disk_bytes=self._storage.size_bytes(),
            offers_inflight=self._admission.offers,
            tails=self.tails.open,
            leases=len(space.leases),
            uptime_s=self._clock.now() - self._started,
            members=_members(membership),
            health=health_of(self.alarms()),
            peers=self._peers(),
            disk_free_bytes=self._free(),
        )


def _members(membership: Membership) -> tuple[NodeMember, ...]:
    kinds = ((membership.voters, True), (membership.learners, False))
    return tuple(NodeMember(*member, voter) for members, voter in kinds for member in members)


def _first(group: BaseExceptionGroup[StorageError]) -> StorageError:
    """Return the first leaf of a group: one failed disk may be noticed by several tasks."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, StorageError)
    return leaf
