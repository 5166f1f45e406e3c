"""What a node does about its own disk beside using it: find damage, repair it, watch the space left. PURE.

Damage is found by whoever reads a record (the fold, a read, a tail, a peer that learns), when the node
starts, and by ``Scrub``, which reads everything once in a while, slowly. What is then done depends
on what the record is for:

* a value of the log that is folded: ``LogRepair`` gets it from a peer; until then nobody is served it;
* a value above that, an identifier, a copy of the promise or of a membership: written again from what
  this node knows;
* a record of the space: nothing that was read is believed any more. ``failure`` ends the node, which
  is begun again with a space that is folded anew from its log (``rebuild``), or fetched;
* the identity, or a vote of which both records are damaged: the node ends, and must be replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from journal.errors import RecordDamaged
from journal.limits import Limits
from journal.log_port import Log
from journal.paxos.effects import Effects
from journal.paxos.messages import AcceptedValue, Envelope, RepairMessage, Show, Shown
from journal.repair import LogRepair
from journal.scrub import Scrub
from journal.slots import Slots
from journal.storage import Storage, View, Write
from journal.storage.log import LogStore
from journal.storage.records import (
    ACCEPTED,
    IDENTIFIER,
    MEMBERSHIP,
    MEMBERSHIP_AGAIN,
    PROMISED,
    PROMISED_AGAIN,
    number_of,
)
from journal.types import Ballot, NodeId, Slot

SPACE_CHECK_INTERVAL_S = 1.0


class Core(Protocol):
    """What the core knows."""

    @property
    def ballot(self) -> Ballot: ...
    @property
    def chosen(self) -> Slot: ...
    def held(self, slot: Slot) -> AcceptedValue | None: ...


class Space(Protocol):
    """What the space knows."""

    @property
    def applied(self) -> Slot: ...
    @property
    def slots(self) -> Slots: ...


class DiskCare:
    """Owned by the node, which calls it from its loop and writes and sends what it returns."""

    def __init__(
        self,
        node: NodeId,
        storage: Storage,
        log_store: LogStore,
        limits: Limits,
        *,
        retry_s: float,
        now: float,
        log: Log,
    ) -> None:
        self.failure: RecordDamaged | None = None
        """What this node cannot go on with."""
        self.is_full = False
        """Less than ``disk_reserve_bytes`` is free: what would grow the space is refused."""
        self.free_bytes: int | None = None
        self.repair = LogRepair(node, log_store, retry_s)
        self.scrub = Scrub(storage)
        self.found = 0
        """Damaged records found since the start."""
        self._node = node
        self._log_store = log_store
        self._limits = limits
        self._log = log
        self._damages: list[RecordDamaged] = []
        self._scrub_at = now
        self._pass_began = now
        self._passes = 0
        self._space_at = now
        log_store.on_damage = self.notice

    # -- damage -----------------------------------------------------------------------------

    def notice(self, error: RecordDamaged) -> None:
        """Somebody has read a damaged record. It is dealt with at the next ``tick``."""
        self._damages.append(error)

    def tick(self, now: float, core: Core, space: Space) -> list[Write]:
        """Return what mends the damage that was found; ``failure`` may be set."""
        self.repair.trimmed(space.slots.first)
        damages, self._damages = self._damages, []
        writes: list[Write] = []
        for error in damages:
            writes.extend(self._mend(error, core, space))
        return writes

    def is_scrub_due(self, now: float) -> bool:
        """So many records a second, then a pause until the next pass. Only while the space on the disk is
        one: not while a snapshot is installed."""
        return now >= self._scrub_at

    def scrub_step(self, view: View) -> list[RecordDamaged]:
        """Look at some records of ``view``; what is found goes to ``scrubbed``. Another thread may do it."""
        return self.scrub.look_at(view, self._limits.scrub_records_per_step)

    def scrubbed(self, found: list[RecordDamaged], now: float) -> None:
        self._damages.extend(found)
        self._scrub_at = now + self._limits.scrub_step_ms / 1000
        if self.scrub.passes != self._passes:
            self._passes = self.scrub.passes
            self._scrub_at = max(self._scrub_at, self._pass_began + self._limits.scrub_interval_s)
            self._pass_began = self._scrub_at

    def _mend(self, error: RecordDamaged, core: Core, space: Space) -> list[Write]:
        key = error.key
        family = key[:1]
        if family in (ACCEPTED, IDENTIFIER) and len(key) == 9:
            return self._mend_slot(error, number_of(key), core, space)
        if family in (PROMISED, PROMISED_AGAIN):
            self._tell(error, "it is written again")
            return self._log_store.writes_for(Effects(promised=core.ballot))
        if family in (MEMBERSHIP, MEMBERSHIP_AGAIN):
            self._tell(error, "it is written again from its copy")
            try:
                return self._log_store.mended_memberships()
            except RecordDamaged as twice:
                error = twice
        if self.failure is None:
            self.found += 1
            self.failure = error
        return []

    def _mend_slot(self, error: RecordDamaged, slot: Slot, core: Core, space: Space) -> list[Write]:
        if slot < space.slots.first:
            return []  # trimmed
        if slot > core.chosen:
            held = core.held(slot)
            if held is None:
                return []  # known lost already, or not this node's
            self._tell(error, "it is written again")
            return self._log_store.writes_for(Effects(accepted=[held]))
        if slot > space.applied:
            return []  # in a moment it is folded; the next look finds it again
        whole = self._log_store.held(slot, slot, 1)
        if whole and space.slots.vouches(slot, whole[0].value):
            self._tell(error, "it is written again")
            return self._log_store.writes_for(Effects(accepted=whole))
        if self.repair.noticed(slot):
            self._tell(error, "the peers are asked for it")
        return []

    def _tell(self, error: RecordDamaged, what: str) -> None:
        self.found += 1
        self._log.error("disk.damaged", record=error.key[:40].hex(), reason=str(error), action=what)

    # -- repair ------------------------------------------------------------------------------

    def ask(self, now: float, peers: Iterable[NodeId]) -> list[Envelope]:
        """Return the question that is due."""
        return self.repair.ask(now, peers)

    def step(
        self, sender: NodeId, message: RepairMessage, space: Space
    ) -> tuple[list[Envelope], list[Write]]:
        """Answer a peer whose log is damaged, or take its answer."""
        if isinstance(message, Show):
            held = self._log_store.held(message.first, message.last, self._limits.learn_bytes_max)
            return [Envelope(self._node, sender, Shown(tuple(held)))] if held else [], []
        before = self.repair.repaired
        writes = self.repair.take(message, space.slots.vouches)
        if self.repair.repaired > before:
            self._log.info("disk.repaired", slots=self.repair.repaired - before, source=sender)
        return [], writes

    # -- space left ----------------------------------------------------------------------------

    def watch_space(self, now: float, free_bytes: int | None) -> None:
        """Once in a while: how much is free, and whether that is less than the reserve."""
        self._space_at = now + SPACE_CHECK_INTERVAL_S
        self.free_bytes = free_bytes
        reserve = self._limits.disk_reserve_bytes
        if free_bytes is None:
            self.is_full = False
        elif free_bytes < reserve and not self.is_full:
            self.is_full = True
            self._log.error("disk.full", free_bytes=free_bytes, disk_reserve_bytes=reserve)
        elif free_bytes >= reserve + reserve // 4 and self.is_full:
            self.is_full = False
            self._log.info("disk.has_space_again", free_bytes=free_bytes)

    def is_space_due(self, now: float) -> bool:
        return now >= self._space_at
