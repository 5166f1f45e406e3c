"""What a node does beside serving: it looks after its disk, and lets go of what is compacted.

``disk_care`` finds and mends damage and watches the space left; ``retention`` says what the leader is to
compact. What was compacted is removed in small steps, between other work.
"""

from __future__ import annotations

from collections.abc import Callable

from journal.disk_care import DiskCare
from journal.errors import JournalError, SpaceFull
from journal.node_config import NodeConfig
from journal.node_snapshots import SnapshotHost
from journal.node_writer import Writer
from journal.paxos import Paxos
from journal.paxos.messages import Envelope
from journal.retention import Retention
from journal.space import Space
from journal.standing import Standing
from journal.storage import Storage, Write
from journal.types import Revision, Slot

COMPACT_RECORDS_PER_TURN = 500


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
        self._disk_free = disk_free
        self._retention = Retention(config.retain_revisions, config.retain_s)
        self._is_proposing = False
        self._is_trimming = False

    # -- the disk ---------------------------------------------------------------------

    def tend_disk(self, now: float, *, is_silent: bool) -> list[Envelope]:
        """Look for damage, mend what was found, see how much space is left; return what to ask the peers.

        ``is_silent``: this node says nothing any more. Raises ``RecordDamaged`` where it cannot go on.
        """
        care, core = self._care, self._core
        installing = self._snapshots.catch_up.is_installing
        self._writer.log(care.tick(now, core, self._space, scrubs=not installing))
        if care.failure is not None:
            raise care.failure
        asked: list[Envelope] = []
        if care.repair.damaged and not is_silent:
            asked = care.ask(now, core.membership.nodes)
        if care.is_space_due(now):
            care.watch_space(now, self.free_bytes())
            core.full = care.is_full
        return asked

    def free_bytes(self) -> int | None:
        free = self._disk_free()
        return self._storage.free_bytes() if free is None else free

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
        if not self._writer.space_writes:
            self._writer.space(self._space.compact_step(COMPACT_RECORDS_PER_TURN), now)
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
