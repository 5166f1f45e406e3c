"""Planted bugs in changes of the members, snapshots, trimming, and the care of disks. See ``hunt``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from journal import node_recovery
from journal.client.router import Router
from journal.errors import StorageFailed
from journal.identities import Identities
from journal.node import Node
from journal.node_upkeep import Upkeep
from journal.node_writer import Writer
from journal.paxos.leader import Leadership
from journal.paxos.membership import Membership
from journal.slots import Slots
from journal.snapshots import serve
from journal.snapshots.records import FAMILIES, walk
from journal.storage import Reader, Write
from journal.storage.log import LogStore
from journal.storage.records import SESSION, SPACE_FAMILIES
from journal.tail import TailHub
from journal.types import NodeId, Revision, Slot
from journal.versions import Versions
from tests.sim.disk import SimDisk
from tests.sim.hunt import core_mutant, mutant
from tests.sim.options import only_slow_disks

MEMBERS = ("members_s=0.3", "voters_max=5", "lull=0")
BEHIND = (
    *("log_slots_retained=1", "retain_revisions=1", "compact_s=0.2"),
    *("outage_s=0.8", "snapshot_idle_s=0.5"),
)
SPOILED = ("damage_s=0.4", "crash_s=0.8", "spoiled_max=1")
WIPED = ("wipe_s=1", "wiped_returns=yes", "members_s=0", "spoiled_max=1")

# -- members -----------------------------------------------------------------------------------------

core_mutant("a_new_membership_rules_at_once", 200, *MEMBERS)


@mutant(100, *MEMBERS, "window_slots=32")
def counts_a_commit_from_two_memberships(patch: pytest.MonkeyPatch) -> None:
    """Beside the voters of the slot those count that were chosen since, and rule later ones."""

    def on_accepted(self: Leadership, sender: NodeId, slots: Iterable[Slot], now: float) -> None:
        told = list(slots)
        for slot in told:
            if slot in self._in_flight and sender in self._memberships.latest.voter_ids:
                self._in_flight[slot].acks.add(sender)
        original(self, sender, told, now)

    original = Leadership.on_accepted
    patch.setattr(Leadership, "on_accepted", on_accepted)


@mutant(100, *MEMBERS, "crash_s=0.5")
def memberships_are_forgotten_on_restart(patch: pytest.MonkeyPatch) -> None:
    def memberships(self: LogStore, mended: list[Write]) -> list[tuple[Slot, Membership]]:
        return []

    patch.setattr(LogStore, "_memberships", memberships)


# -- snapshots and trimming ------------------------------------------------------------------------------


@mutant(100, *BEHIND)
def a_snapshot_without_the_dedupe_table(patch: pytest.MonkeyPatch) -> None:
    def forgetful(view: Reader, after: bytes = b"", families: Iterable[bytes] = FAMILIES) -> Any:
        return walk(view, after, [family for family in families if family != SESSION])

    patch.setattr(serve, "walk", forgetful)


@mutant(100, *BEHIND, "flush_interval_s=1", "power_s=0.5", "power_at_the_end=yes", "log_trim_step_slots=50")
def compacts_what_is_not_applied_on_the_disk(patch: pytest.MonkeyPatch) -> None:
    """The log of slots goes whose folds are in memory only: with the log's own writes, which do not wait for
    those of the space."""

    def trim_step(self: Upkeep) -> list[Write]:
        end = Slot(self._space.applied + 1)
        self._writer.log(self._space.slots.trim_step(end, self._config.limits.log_trim_step_slots))
        return []

    def take(self: Writer) -> Any:
        if not self.log_writes or self._flush_wanted:
            return original(self)
        waiting, self.space_writes = self.space_writes, []
        batch = original(self)
        self.space_writes, batch.folded = waiting, self.flushed
        return batch

    original = Writer._take
    patch.setattr(Writer, "_take", take)
    patch.setattr(Upkeep, "_trim_step", trim_step)


@mutant(200, "log_slots_retained=1", "retain_revisions=10", "log_reach_bytes=3000")
def the_log_goes_while_older_versions_are_read_from_it(patch: pytest.MonkeyPatch) -> None:
    def log_needed_after(self: Versions, compacted: int) -> int:
        return compacted

    patch.setattr(Versions, "log_needed_after", log_needed_after)


@mutant(100, *BEHIND, "log_reach_bytes=134217728")
def values_are_looked_for_in_a_log_from_before_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    def restore(self: Slots) -> None:
        original(self)
        self.base = Revision(0)

    original = Slots.restore
    patch.setattr(Slots, "restore", restore)


@mutant(200, *BEHIND, "install_crash=1", "snapshot_step_records=3")
def a_half_installed_snapshot_is_taken_for_a_whole(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(node_recovery, "read_transfer", lambda storage: None)


# -- damaged and lost disks --------------------------------------------------------------------------------

core_mutant("takes_a_damaged_acceptance_for_none", 200, *SPOILED)
core_mutant("believes_a_record_with_a_bad_checksum", 100, *SPOILED)
core_mutant("does_not_look_at_identifiers", 200, *SPOILED)


@mutant(60, *WIPED)
def votes_after_its_disk_was_wiped(patch: pytest.MonkeyPatch) -> None:
    """Peers take whoever has the number for the node that they knew."""

    def admit(self: Identities, peer: NodeId, incarnation: bytes, *rest: Any) -> None:
        if peer in self._known:
            self._known[peer] = incarnation
        original(self, peer, incarnation, *rest)

    original = Identities.admit
    patch.setattr(Identities, "admit", admit)


@mutant(200, *WIPED, "crash_s=0.5")
def forgets_on_restart_whom_it_has_met(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("journal.identities.load_peers", lambda storage: {})


@mutant(60, *SPOILED)
def a_damaged_label_ends_the_node(patch: pytest.MonkeyPatch) -> None:
    """What was fixed, planted again: any damaged entry of the log does."""

    def label_of(self: TailHub, revision: int) -> str:
        found = self.read(type(self._space.revision)(revision - 1), 1).commits if revision else []
        return found[0].label if found else ""

    patch.setattr(TailHub, "label_of", label_of)


@mutant(300, *SPOILED)
def a_space_folded_anew_begins_half_way(patch: pytest.MonkeyPatch) -> None:
    """What is there of the old space is not removed before the log is folded again."""
    patch.setattr("journal.rebuild.SPACE_FAMILIES", SPACE_FAMILIES[:1])


@mutant(60, "sync_error_s=0.5", "power_s=0.8", "power_at_the_end=yes")
def a_failed_sync_is_tried_again(patch: pytest.MonkeyPatch) -> None:
    """And works: but what was written before the first try is gone."""

    async def write(self: SimDisk, writes: Iterable[Write], *, sync: bool) -> None:
        batch = list(writes)
        try:
            await original(self, batch, sync=sync)
        except StorageFailed:
            if self._dead.is_set():
                raise
            await original(self, batch, sync=sync)

    original = SimDisk.write
    patch.setattr(SimDisk, "write", write)


# -- slow disks ---------------------------------------------------------------------------------------


@mutant(100, shape=only_slow_disks)
def keep_alives_wait_for_the_disk(patch: pytest.MonkeyPatch) -> None:
    """A lease expires because a disk is slow: it is renewed when the leader's next write has ended."""

    def keep_alive(self: Node, lease: int, reply: Callable[[Any], None]) -> None:
        def written() -> None:
            try:
                original(self, lease, reply)
            except Exception as error:
                reply(error)

        self._writer.batch([], sync=True, written=written)

    original = Node.keep_alive
    patch.setattr(Node, "keep_alive", keep_alive)


@mutant(100, shape=only_slow_disks)
def keep_alives_wait_behind_offers(patch: pytest.MonkeyPatch) -> None:
    """What was fixed, planted again: an offer that waits for a disk is taken for a search for the leader."""

    async def at_leader(self: Any, call: Any, timeout_s: float, *, is_urgent: bool = False) -> Any:
        return await original(self, call, timeout_s)

    original = Router.at_leader
    patch.setattr(Router, "at_leader", at_leader)


@mutant(200, shape=only_slow_disks)
def a_leader_waits_for_its_own_disk(patch: pytest.MonkeyPatch) -> None:
    """What was fixed, planted again, with the client as it was: offers gather until its write ends."""
    patch.setattr("journal.pace.GATHER_S_MAX", 1e9)
    keep_alives_wait_behind_offers(patch)
