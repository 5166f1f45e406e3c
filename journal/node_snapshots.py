"""Snapshots at a node: it serves them to peers and clients, and takes one in when it lags too far.

The rules are in ``journal.snapshots`` (``serve``, ``fetch``, ``catchup``); this is the node's side of them:
what its core, its space and its writer have to do when a snapshot comes into the place of the space.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial

import trio
from structlog.typing import FilteringBoundLogger

from journal.backlog import Backlog
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
from journal.state import State
from journal.storage import Storage, View, Write
from journal.storage.log import LogStore
from journal.tail import TailHub
from journal.types import NodeId, Slot

_Question = tuple[SnapshotAsk, Callable[[SnapshotChunk | SnapshotRefused, State | None], None]]
"""And who waits for the answer, and for the state that it is of. An asker has one question open: a later
one takes its place."""


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
        backlog: Backlog,
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
        self._to_fold, self._backlog = to_fold, backlog
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
        self._asked: dict[tuple[Server, NodeId], _Question] = {}
        self._is_asked = trio.Event()
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
        """The node has ended: answer who waits, give up all views."""
        asked, self._asked = self._asked, {}
        for ask, reply in asked.values():
            reply(SnapshotRefused(ask.view, True, "the node is stopping"), None)
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
            self._asked[self.peers_views, sender] = message, partial(self._answer_peer, sender)
            self._is_asked.set()

    def _answer_peer(
        self, peer: NodeId, answer: SnapshotChunk | SnapshotRefused, _state: State | None
    ) -> None:
        if isinstance(answer, SnapshotChunk):
            self._counters.snapshot_sent_bytes += len(answer.records)
        self._send(peer, answer)

    # -- reading ----------------------------------------------------------------------

    async def run(self) -> None:
        """Answer questions, one after the other: what is read for one must not hold up the node's loop."""
        while True:
            await self._is_asked.wait()
            self._is_asked = trio.Event()
            while self._asked:
                server, asker = next(iter(self._asked))
                question = self._asked.pop((server, asker))
                await self._answer(server, asker, question)

    async def _answer(self, server: Server, asker: NodeId, question: _Question) -> None:
        ask, reply = question
        if self.catch_up.is_installing:
            reply(SnapshotRefused(ask.view, True, "a snapshot is being installed here"), None)
            return
        found = server.open_for(asker, ask, self._clock.now())
        if isinstance(found, SnapshotRefused):
            reply(found, None)
            return
        answer: SnapshotChunk | SnapshotRefused
        try:
            with found.being_read() as source:
                answer = await self._storage.aside(partial(server.chunk, source, ask))
        except RecordDamaged as damage:
            self._logger.error("snapshot.damaged", asker=asker, reason=str(damage))
            answer = SnapshotRefused(ask.view, True, "a record is damaged here")
        reply(answer, found.state)

    # -- clients ----------------------------------------------------------------------

    def read(self, view: int, after: bytes, reply: Callable[[SnapshotPart | JournalError], None]) -> None:
        """See ``Node.read_snapshot``."""
        if self.catch_up.is_installing:
            raise Unavailable(f"no snapshot can be read here: {self.catch_up.described}")

        def ask() -> None:
            key = self.clients_views, NodeId(view)
            earlier = self._asked.pop(key, None)
            self._asked[key] = SnapshotAsk(view, after), partial(self._answer_client, reply)
            self._is_asked.set()
            if earlier is not None:
                earlier[1](SnapshotRefused(view, False, "it was asked for again meanwhile"), None)

        if after:
            ask()
        else:  # what is folded must be on the disk to be in the view
            self._writer.batch([], sync=False, written=ask)
            self._wake()

    def _answer_client(
        self,
        reply: Callable[[SnapshotPart | JournalError], None],
        answer: SnapshotChunk | SnapshotRefused,
        state: State | None,
    ) -> None:
        if isinstance(answer, SnapshotRefused):
            reply(Unavailable(f"snapshot: {answer.reason}"))
            return
        assert state is not None
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
        reply(SnapshotPart(header, answer.records, End.unpack(answer.end) if answer.end else None))

    # -- while one is installed -------------------------------------------------------

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
        self._backlog.stored(end.slot)
        self._space.reload(self._storage)
        self._tails.reload(self._log_store)
        self._writer.flushed = self._space.applied
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        self._core.abstains = False
        self._wake()
