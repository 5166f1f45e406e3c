"""What a node does beside serving: it looks after its disk, and lets go of what is compacted.

``disk_care`` finds and mends damage and watches the space left; ``retention`` says what the leader is to
compact. What was compacted is removed in small steps, between other work.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import trio

from journal.disk_care import DiskCare
from journal.errors import JournalError, SpaceFull
from journal.node_config import Clock, NodeConfig
from journal.node_snapshots import SnapshotHost
from journal.node_writer import Writer
from journal.paxos import Paxos
from journal.paxos.messages import Envelope
from journal.retention import Retention
from journal.space import Space
from journal.standing import Standing
from journal.storage import Storage, Write
from journal.types import Revision, Slot

COMPACT_RECORDS_PER_STEP = 200
COMPACT_STEPS_PER_TURN = 5
LOGGED_PARTS = 16
"""There is a look at what is left on the disk whenever values of this part of its reserve were logged. Each
is written about four times: to the log and the space, and again when LevelDB makes tables and merges them."""
COMPACT_TURN_S = 0.001
"""No further step is begun in a tick after this long. So letting go takes a twenty-fifth of the loop's time
at most, and lets go of up to 40,000 records a second where the machine has nothing else to do."""


class Upkeep:
    """Called at every tick of the node."""

    def __init__(
        self,
        config: NodeConfig,
        storage: Storage,
        care: DiskCare,
        core: Paxos,
        space: Space,
        standing: Standing,
        writer: Writer,
        snapshots: SnapshotHost,
        clock: Clock,
        disk_free: Callable[[], int | None],
    ) -> None:
        """``disk_free``: the bytes left on the disk, where somebody knows better than the storage."""
        self._config = config
        self._storage = storage
        self._care = care
        self._core = core
        self._space = space
        self._standing = standing
        self._writer = writer
        self._snapshots = snapshots
        self._clock = clock
        self._disk_free = disk_free
        self._retention = Retention(config.retain_revisions, config.retain_s)
        self._is_proposing = False
        self._is_due = trio.Event()
        self._logged_at_look = 0
        self.size_bytes = 0
        """What the data takes on the disk, as of the last look."""
        self._looked(*self._look())
        self._is_trimming = False
        self._let_go_at = 0

    # -- the disk ---------------------------------------------------------------------

    def tend_disk(self, now: float, *, is_silent: bool) -> list[Envelope]:
        """Look for damage, mend what was found, see how much space is left; return what to ask the peers.

        ``is_silent``: this node says nothing any more. Raises ``RecordDamaged`` where it cannot go on.
        """
        care, core = self._care, self._core
        installing = self._snapshots.catch_up.is_installing
        self._writer.log(care.tick(now, core, self._space))
        if care.failure is not None:
            raise care.failure
        asked: list[Envelope] = []
        if care.repair.damaged and not is_silent:
            asked = care.ask(now, core.membership.nodes)
        if self._is_space_due(now) or (care.is_scrub_due(now) and not installing):
            self._is_due.set()
        return asked

    async def run(self) -> None:
        """Look at the disk when it is due, where it holds nobody up: a file system may take its time."""
        care, storage = self._care, self._storage
        while True:
            await self._is_due.wait()
            self._is_due = trio.Event()
            if self._is_space_due(self._clock.now()):
                self._logged_at_look = self._writer.logged_bytes
                self._looked(*await storage.aside(self._look))
            catch_up = self._snapshots.catch_up
            if care.is_scrub_due(self._clock.now()) and not catch_up.is_installing:
                # The view is taken here: a moment later a snapshot may be half in the space's place.
                with closing(storage.view()) as view:
                    found = await storage.aside(partial(care.scrub_step, view))
                care.scrubbed([] if catch_up.is_installing else found, self._clock.now())

    def _is_space_due(self, now: float) -> bool:
        """Whether to ask how much is left: now and then, and when much was written since.

        A fast journal writes more between two looks than the reserve holds.
        """
        reserve = self._config.limits.disk_reserve_bytes
        logged = self._writer.logged_bytes - self._logged_at_look
        return self._care.is_space_due(now) or logged * LOGGED_PARTS > reserve > 0

    def _look(self) -> tuple[int | None, int]:
        free = self._disk_free()
        return self._storage.free_bytes() if free is None else free, self._storage.size_bytes()

    def _looked(self, free_bytes: int | None, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._care.watch_space(self._clock.now(), free_bytes)
        self._core.full = self._care.is_full

    @property
    def free_bytes(self) -> int | None:
        """What is left on the file system, as of the last look. None: nobody can say."""
        return self._care.free_bytes

    def full(self, now: float) -> SpaceFull | None:
        """Why nothing that grows the space is taken in: this disk or that of a voter is full. None: it is.

        A voter that runs out of space stops, and with it goes its vote, so its alarm counts like this
        node's own; that of a voter which is not heard any more does not.
        """
        reserve = self._config.limits.disk_reserve_bytes
        if self._care.is_full:
            return SpaceFull(self._config.node, self._care.free_bytes, reserve)
        progress = self._core.peers_progress
        if any(peer.full for peer in progress.values()):
            for node in sorted(self._standing.alive(now) & self._core.membership.voter_ids):
                if progress[node].full:
                    return SpaceFull(node, None, reserve)
        return None

    # -- compaction -------------------------------------------------------------------

    def propose_compaction(
        self,
        now: float,
        compact: Callable[[Revision, Callable[[Revision | JournalError], None]], None],
        *,
        may_propose: bool,
    ) -> None:
        """Have the leader compact what is older than the settings keep."""
        space = self._space
        leads = may_propose and self._standing.leads and not self._is_proposing
        revision = self._retention.due(now, space.revision, space.compacted, leads=leads)
        if revision is None:
            return
        self._is_proposing = True

        def done(_result: Revision | JournalError) -> None:
            self._is_proposing = False

        compact(revision, done)

    def let_go(self, now: float) -> None:
        """Remove a little of what is compacted: history, and the log from which nobody is served."""
        if self._writer.space_writes and self._writer.batches == self._let_go_at:
            return  # what was let go of last is still on its way to the disk
        self._let_go_at, began = self._writer.batches, self._clock.now()
        for _ in range(COMPACT_STEPS_PER_TURN):
            removed = self._space.compact_step(COMPACT_RECORDS_PER_STEP)
            self._writer.space(removed, now)
            if not removed or self._clock.now() - began > COMPACT_TURN_S:
                break
        trimmed = self._trim_step()
        self._writer.space(trimmed, now)
        self._is_trimming = bool(trimmed)

    @property
    def is_compacting(self) -> bool:
        """Whether history that is compacted, or a log from which nobody is served, is still being removed."""
        return self._is_trimming or self._space.is_compacting

    def _trim_step(self) -> list[Write]:
        """Let a little of the log go: what is folded, on the disk, compacted, and needed by nobody."""
        limits = self._config.limits
        keep_from = min(self._writer.flushed, self._space.applied - limits.log_slots_retained_min) + 1
        view = self._snapshots.peers_views.oldest_slot
        if view is not None:  # who installs it goes on with the slots behind it
            keep_from = min(keep_from, view + 1)
        return self._space.slots.trim_step(Slot(keep_from), limits.log_trim_step_slots)
