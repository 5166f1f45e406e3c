"""The course of catching up by a snapshot, on the node that is behind. PURE: its host does what it says.

::

    Learn -> Trimmed: ask for a snapshot
      idle -> fetching: ask, stage, ask, stage, ... the last chunk
           -> checking: read it all back
           -> installing: marker (synced), core on to its slot; remove, copy; state (synced); load
           -> clearing: remove what is staged -> idle

Nothing here blocks: each step is a message, a batch for the writer, or a bounded look at staged records
in one turn of the host's loop. While records are fetched and checked the node goes on as before; while
they are installed it votes, but folds nothing and does not stand, and its readers see the old state.
What goes wrong (a view that is gone, a checksum) is answered by throwing the staged records away
and beginning again, with another peer where one offers itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Protocol

from journal.errors import ProtocolViolation, RecordDamaged
from journal.limits import Limits
from journal.log_port import Log
from journal.paxos.messages import Message, SnapshotChunk, SnapshotRefused, Trimmed
from journal.snapshots.fetch import Check, Fetch, Phase, Transfer, last_staged
from journal.snapshots.install import clearing, installation
from journal.snapshots.records import End
from journal.storage import Storage, Write
from journal.storage.records import TRANSFER
from journal.types import NodeId, Slot

NOTHING = Slot(0)

STALL_RETRIES = 10
"""So many unanswered questions, and another peer that has a snapshot is taken instead."""

UNWRITTEN_MAX = 2
"""Chunks in memory: one is written while the next one is fetched."""


class Host(Protocol):
    """The node."""

    @property
    def chosen(self) -> Slot:
        """How far it knows the chosen slots."""
        ...

    @property
    def peers(self) -> list[NodeId]:
        """Who else is a member."""
        ...

    def send(self, to: NodeId, message: Message) -> None: ...

    def write(self, writes: list[Write], *, sync: bool, written: Callable[[], None]) -> None:
        """Store a batch behind all that was queued before; then call ``written``."""
        ...

    def begin_install(self, end: End, marker: Write, written: Callable[[], None]) -> None:
        """Queue ``marker``, synced, behind all that the core wants persisted; stop folding, and move the core
        on to ``end.slot`` in the same turn, so that nothing is accepted at or below it any more."""
        ...

    def keep_reading(self) -> None:
        """The marker is durable: the space is to be read from a view of now until it is loaded again."""
        ...

    def installed(self, end: End) -> None:
        """All is in place and durable: load the space, and fold on."""
        ...


class CatchUp:
    """At most one transfer at a time."""

    def __init__(
        self,
        storage: Storage,
        limits: Limits,
        host: Host,
        found: Transfer | None,
        *,
        needed: Slot = NOTHING,
        retry_s: float,
        rng: random.Random,
        log: Log,
    ) -> None:
        """``found``: what a restart found (``fetch.read_transfer``); ``resume`` goes on with it.

        ``needed``: there is no space to go on with, and none can be folded: it takes a snapshot of this
        slot or a later one.
        """
        self._storage = storage
        self._limits = limits
        self._host = host
        self._found = found
        self._retry_s = retry_s
        self._rng = rng
        self._log = log
        self._fetch: Fetch | None = None
        self._end: End | None = found.end if found is not None else None
        self._check: Check | None = None
        self._steps: Iterator[list[Write]] = iter(())
        self._clearing = False
        self._avoided: tuple[NodeId, float] | None = None
        self._now = 0.0
        self.fetched = 0
        """Snapshots that were installed since the start."""
        self._needed = needed
        self._asked = 0
        self.is_installing = needed > 0 or (found is not None and found.phase is Phase.INSTALLING)
        """From the marker to the loading, or without a space from the start: nothing is to be folded."""

    @property
    def is_idle(self) -> bool:
        return self._fetch is None and self._end is None and not self._clearing

    @property
    def described(self) -> str:
        """What it is about, for people; empty where it is idle."""
        if self.is_installing and self._end is not None and self._check is None:
            return f"installing a snapshot of revision {self._end.revision}"
        if self._check is not None and self._end is not None:
            return f"checking a snapshot of revision {self._end.revision}"
        if self._fetch is not None:
            size = self._fetch.bytes / 1_000_000
            return f"fetching a snapshot from node {self._fetch.source}: {size:.1f} MB so far"
        return "waiting for a snapshot" if self._needed else ""

    def resume(self, now: float) -> None:
        """Go on with what a restart found."""
        self._now = now
        found, self._found = self._found, None
        if found is None:
            return
        if found.phase is Phase.FETCHING:
            after = last_staged(self._storage)
            self._fetch = Fetch(found.source, found.view, after, now, now)
            self._log.info("snapshot.resumed", source=found.source, after=after[:64].hex())
        elif found.phase is Phase.INSTALLING:
            assert found.end is not None
            self._log.info("snapshot.installing_again", slot=found.end.slot, revision=found.end.revision)
            self._install()
        else:
            self._clear(lambda: None)

    # -- messages ---------------------------------------------------------------------

    def on_trimmed(self, sender: NodeId, message: Trimmed, now: float) -> None:
        """``sender`` has what this node lacks as a snapshot only."""
        self._now = now
        if message.first <= self._host.chosen + 1:
            return  # late: it is learned meanwhile
        if self._avoided is not None and self._avoided[0] == sender and now < self._avoided[1]:
            return
        if self.is_idle:
            self._begin(sender)
        elif self._is_stalled and self._fetch is not None and sender != self._fetch.source:
            self._log.warning("snapshot.stalled", source=self._fetch.source, next=sender)
            self._throw_away(lambda: self._begin(sender))

    @property
    def _is_stalled(self) -> bool:
        fetch = self._fetch
        patience = STALL_RETRIES * self._retry_s
        return fetch is not None and self._check is None and self._now - fetch.heard_at > patience

    def _begin(self, source: NodeId) -> None:
        view = self._rng.getrandbits(62) + 1
        transfer = Transfer(Phase.FETCHING, source, view)
        self._log.info("snapshot.fetching", source=source, chosen=self._host.chosen)
        self._fetch = Fetch(source, view, b"", self._now, float("inf"))
        self._host.write([transfer.write()], sync=False, written=self._ask_next)

    def _ask_next(self) -> None:
        if self._fetch is not None:
            self._fetch.ask_at = self._now
            self.tick(self._now)

    def on_chunk(self, sender: NodeId, chunk: SnapshotChunk, now: float) -> None:
        """An answer. A damaged one counts as lost. Raises ``ProtocolViolation`` to have it logged."""
        self._now = now
        fetch = self._fetch
        if fetch is None or sender != fetch.source:
            return
        taken = fetch.take(chunk, now)
        if taken is None:
            return
        writes, end = taken
        fetch.unwritten += 1

        def staged() -> None:
            fetch.unwritten -= 1
            if self._fetch is not fetch:
                return
            if end is not None:
                self._end = end
                self._check = Check(self._storage, end)
            elif fetch.ask_at == float("inf"):
                self._ask_next()

        self._host.write(writes, sync=False, written=staged)
        if end is None and fetch.unwritten < UNWRITTEN_MAX:
            self._ask_next()

    def on_refused(self, sender: NodeId, message: SnapshotRefused, now: float) -> None:
        self._now = now
        fetch = self._fetch
        if fetch is None or sender != fetch.source or message.view != fetch.view:
            return
        if self._check is not None or fetch.ask_at == float("inf"):
            return  # to a question that was answered
        self._log.info("snapshot.refused", source=sender, gone=message.is_gone, reason=message.reason)
        if message.is_gone:
            self._discard(avoid=sender)
        elif not fetch.after:
            # Nothing is lost with it: whoever else has a snapshot may give it.
            self._discard(avoid=sender)
        else:
            fetch.ask_at = now + self._retry_s

    def tick(self, now: float) -> None:
        """Ask (again) what is due."""
        self._now = now
        fetch = self._fetch
        if fetch is not None:
            ask = fetch.ask(now, self._retry_s)
            if ask is not None:
                self._host.send(fetch.source, ask)
            if self._needed and self._is_stalled:
                self._discard(avoid=None)
        elif self._needed and self.is_idle:
            # Nobody will say that this node lags: its core does not. So it asks one peer after the other.
            peers = self._host.peers
            if peers:
                self._asked += 1
                self._begin(peers[self._asked % len(peers)])

    # -- checking -----------------------------------------------------------------------

    def work(self, now: float) -> bool:
        """Do a bounded piece of what needs no waiting; return whether there is more."""
        self._now = now
        check, end, fetch = self._check, self._end, self._fetch
        if check is None or end is None or fetch is None:
            return False
        try:
            if not check.step(self._limits.snapshot_step_records):
                return True
        except (ProtocolViolation, RecordDamaged) as error:
            self._log.error("snapshot.wrong", source=fetch.source, reason=str(error))
            self._discard(avoid=fetch.source)
            return False
        self._check, self._fetch = None, None
        if end.slot < self._needed if self._needed else end.slot <= self._host.chosen:
            self._log.info("snapshot.late", slot=end.slot, chosen=self._host.chosen)
            self._discard(avoid=None)
            return False
        self._log.info(
            "snapshot.installing",
            slot=end.slot,
            revision=end.revision,
            records=end.records,
            bytes=fetch.bytes,
        )
        self.is_installing = True
        marker = Transfer(Phase.INSTALLING, fetch.source, fetch.view, end).write()
        self._host.begin_install(end, marker, self._marked)
        return False

    # -- installing ---------------------------------------------------------------------

    def _marked(self) -> None:
        self._host.keep_reading()
        self._install()

    def _install(self) -> None:
        assert self._end is not None
        self._steps = installation(self._storage, self._end, self._limits.snapshot_step_records)
        self._install_next()

    def _install_next(self) -> None:
        writes = next(self._steps)
        if writes and writes[-1][0] == TRANSFER:
            self._host.write(writes, sync=True, written=self._installed)
        else:
            self._host.write(writes, sync=False, written=self._install_next)

    def _installed(self) -> None:
        end = self._end
        assert end is not None
        self._end = None
        self._needed = NOTHING
        self.is_installing = False
        self.fetched += 1
        self._log.info("snapshot.installed", slot=end.slot, revision=end.revision)
        self._host.installed(end)
        self._clear(lambda: None)

    # -- clearing -----------------------------------------------------------------------

    def _discard(self, avoid: NodeId | None) -> None:
        if avoid is not None:
            self._avoided = avoid, self._now + STALL_RETRIES * self._retry_s
        self._throw_away(lambda: None)

    def _throw_away(self, then: Callable[[], None]) -> None:
        self._fetch, self._check, self._end = None, None, None
        self._clearing = True
        self._host.write([Transfer(Phase.CLEARING).write()], sync=False, written=lambda: self._clear(then))

    def _clear(self, then: Callable[[], None]) -> None:
        self._clearing = True
        self._steps = clearing(self._storage, self._limits.snapshot_step_records)
        self._clear_next(then)

    def _clear_next(self, then: Callable[[], None]) -> None:
        writes = next(self._steps, None)
        if writes is not None:
            self._host.write(writes, sync=False, written=lambda: self._clear_next(then))
            return

        def cleared() -> None:
            self._clearing = False
            then()

        self._host.write([(TRANSFER, None)], sync=False, written=cleared)
