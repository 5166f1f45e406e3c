"""Snapshots at a node: it serves them to peers and clients, and takes one in when it lags too far.

The rules are in ``journal.snapshots`` (``serve``, ``fetch``, ``catchup``); this is the node's side of them:
what its core, its space and its writer have to do when a snapshot comes into the place of the space.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from journal.counters import Counters
from journal.errors import JournalError, RecordDamaged, Unavailable
from journal.node_config import Clock, NodeConfig
from journal.node_recovery import Start
from journal.node_writer import Writer
from journal.paxos.membership import Membership
from journal.paxos.messages import (
    AcceptedValue,
    Envelope,
    Message,
    SnapshotAsk,
    SnapshotChunk,
    SnapshotRefused,
    Trimmed,
)
from journal.snapshots.catchup import CatchUp
from journal.snapshots.format import FORMAT, Header
from journal.snapshots.records import End
from journal.snapshots.serve import Server, SnapshotPart
from journal.storage import Storage, View, Write
from journal.storage.log import LogStore
from journal.tail import TailHub
from journal.types import NodeId, Slot

TO_FOLD_SLOTS_MAX = 256
"""Slots that are learned while a snapshot is installed, to be folded then."""


class SnapshotHost:
    """Implements ``snapshots.catchup.Host``."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        storage: Storage,
        tails: TailHub,
        writer: Writer,
        to_fold: deque[AcceptedValue],
        send: Callable[[NodeId, Message], None],
        drain: Callable[[float], None],
        wake: Callable[[], None],
        membership: Membership,
        start: Start,
        counters: Counters,
        clock: Clock,
        rng: random.Random,
        log: FilteringBoundLogger,
    ) -> None:
        """``membership``: the cluster's first."""
        self._config = config
        self._storage = storage
        self._log_store, self._core, self._space = start.log, start.core, start.space
        self._tails = tails
        self._writer = writer
        self._to_fold = to_fold
        self._send = send
        self._drain = drain
        self._wake = wake
        self._counters = counters
        self._clock = clock
        self._logger = log
        self._reading: View | None = None
        self.catch_up = CatchUp(
            storage,
            config.limits,
            self,
            start.transfer,
            needed=start.needed,
            retry_s=config.paxos.election_timeout_s,
            rng=rng,
            log=log,
        )
        window = config.limits.window_slots_max
        self.peers_views = Server(storage, config.limits, membership, window)
        """The snapshots that other nodes fetch from this one."""
        self.clients_views = Server(storage, config.limits, membership, window)
        """Those that clients save."""

    def tick(self, now: float) -> None:
        self.catch_up.tick(now)
        enough = self._core.chosen - self._config.limits.log_slots_retained_min
        self.peers_views.caught_up(self._core.peers_known, enough)
        self.peers_views.tick(now)
        self.clients_views.tick(now)

    def close(self) -> None:
        self.peers_views.close()
        self.clients_views.close()

    # -- messages ---------------------------------------------------------------------

    def step(self, envelope: Envelope, now: float) -> None:
        """Take a message about snapshots. Raises ``ProtocolViolation``."""
        sender, _to, message = envelope
        if isinstance(message, Trimmed):
            self.catch_up.on_trimmed(sender, message, now)
        elif isinstance(message, SnapshotChunk):
            self._counters.snapshot_received_bytes += len(message.records)
            self.catch_up.on_chunk(sender, message, now)
        elif isinstance(message, SnapshotRefused):
            self.catch_up.on_refused(sender, message, now)
        elif isinstance(message, SnapshotAsk):
            answer = self._answer(sender, message, now)
            if isinstance(answer, SnapshotChunk):
                self._counters.snapshot_sent_bytes += len(answer.records)
            self._send(sender, answer)

    def _answer(self, sender: NodeId, ask: SnapshotAsk, now: float) -> Message:
        if self.catch_up.is_installing:
            return SnapshotRefused(ask.view, True, "a snapshot is being installed here")
        try:
            return self.peers_views.answer(sender, ask, now)
        except RecordDamaged as damage:
            self._logger.error("snapshot.damaged", asker=sender, reason=str(damage))
            return SnapshotRefused(ask.view, True, "a record is damaged here")

    # -- clients ----------------------------------------------------------------------

    def read(self, view: int, after: bytes, reply: Callable[[SnapshotPart | JournalError], None]) -> None:
        """See ``Node.read_snapshot``."""
        if self.catch_up.is_installing:
            raise Unavailable(f"no snapshot can be read here: {self.catch_up.described}")

        def answer() -> None:
            reply(self._part(NodeId(view), after))

        if after:
            answer()
        else:  # what is folded must be on the disk to be in the view
            self._writer.batch([], sync=False, written=answer)
            self._wake()

    def _part(self, view: NodeId, after: bytes) -> SnapshotPart | JournalError:
        try:
            found = self.clients_views.answer(view, SnapshotAsk(view, after), self._clock.now())
        except RecordDamaged as damage:
            self._logger.error("snapshot.damaged", reason=str(damage))
            return Unavailable("a record is damaged on this node: ask another")
        if isinstance(found, SnapshotRefused):
            return Unavailable(f"snapshot: {found.reason}")
        state = self.clients_views.state_of(view)
        header = Header(
            FORMAT,
            self._config.cluster,
            self._config.node,
            state.applied,
            state.revision,
            state.chain,
            state.compacted,
            self._config.limits.window_slots_max,
            self._clock.wall_ms(),
        )
        return SnapshotPart(header, found.records, End.unpack(found.end) if found.end else None)

    # -- while one is installed -------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether enough waits to be folded once the snapshot is there."""
        return self.catch_up.is_installing and len(self._to_fold) >= TO_FOLD_SLOTS_MAX

    def check_readable(self) -> None:
        """Raise ``Unavailable`` where this node has no space to read from, not even an old one."""
        if self.catch_up.is_installing and self._reading is None and self._space.applied == 0:
            raise Unavailable(f"this node cannot be read from yet: {self.catch_up.described}")

    # -- what the course of catching up demands (``catchup.Host``) ----------------------

    @property
    def chosen(self) -> Slot:
        return self._core.chosen

    @property
    def peers(self) -> list[NodeId]:
        return sorted(node for node in self._core.endpoints if node != self._config.node)

    def send(self, to: NodeId, message: Message) -> None:
        self._send(to, message)

    def write(self, writes: list[Write], *, sync: bool, written: Callable[[], None]) -> None:
        self._writer.batch(writes, sync=sync, written=written)

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
        self._space.read_from(self._reading)
        self._tails.read_from(LogStore(self._reading, self._config.limits))

    def installed(self, end: End) -> None:
        self._counters.snapshots_installed += 1
        while self._to_fold and self._to_fold[0].slot <= end.slot:
            self._to_fold.popleft()
        self._space.reload(self._storage)
        self._tails.reload(self._log_store)
        self._writer.flushed = self._space.applied
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        self._core.abstains = False
        self._wake()
