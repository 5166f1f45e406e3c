"""Every limit by name, the unit last. PURE.

Two kinds. ``Limits`` are settings: each node may have its own, because they only
decide what a node takes in. The ``FOLD_*`` constants decide verdicts, so they are
part of the journal's format: all nodes must agree on them and changing one is a
change of format.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

FOLD_SESSIONS_MAX = 10_000
"""Clients whose offer ids are remembered at once; the longest idle goes first."""

FOLD_SESSION_IDLE_REVISIONS_MAX = 1_000_000
"""A client that offered nothing for this many revisions is forgotten."""

FOLD_SESSION_WINDOW_OFFERS_MAX = 65_536
"""How far a client's sequence may run ahead of its lowest unacknowledged one."""

FOLD_DELETE_RANGE_KEYS_MAX = 10_000
"""Keys that one ``delete_range`` may delete; more is rejected."""

FOLD_SESSION_BYTES_MAX = 64 * 1024 * 1024
"""Remembered verdicts of all clients together, packed; past it the longest idle client goes."""

FOLD_RECENT_BYTES_MAX = 8 * 1024 * 1024
"""Keys of recent changes that are kept to check ranges with; older ``at`` revisions need a scan."""

FOLD_SCAN_RECORDS_MAX = 100_000
"""Records that the fold looks at for one range (of an old ``at``, or of a ``delete_range``)."""

FOLD_VALUE_BYTES_MAX = 1024 * 1024
"""How far ``adjust`` and ``set`` mutations may let a value grow."""

FOLD_LEASES_MAX = 100_000
FOLD_LEASE_KEYS_MAX = 10_000
"""Keys bound to one lease: they are all deleted at one revision when it ends."""

FOLD_BINDINGS_MAX = 1_000_000
"""Keys bound to all leases together."""

LEASE_TTL_MS_MIN = 500
LEASE_TTL_MS_MAX = 24 * 3600 * 1000

KEY_BYTES_MAX = 4_096
LABEL_BYTES_MAX = 256
CLIENT_ID_BYTES_MAX = 64
FIELD_BYTES_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one node takes in. ``validate`` checks them against each other."""

    value_bytes_max: int = 512 * 1024
    offer_bytes_max: int = 1024 * 1024
    offer_operations_max: int = 1_024
    """Conditions and mutations of one offer together."""

    batch_offers_max: int = 4_096
    """Offers of one client message."""
    batch_bytes_max: int = 2 * 1024 * 1024
    """A client message, packed."""

    entry_offers_max: int = 4_096
    entry_bytes_max: int = 2 * 1024 * 1024 + 64 * 1024
    """An entry may always carry one whole client batch."""

    window_slots_max: int = 32
    """Slots in flight. A membership entry takes effect this many slots later, so it is
    fixed when a cluster is created (it is checked between peers)."""

    offers_inflight_max: int = 65_536
    inflight_bytes_max: int = 64 * 1024 * 1024
    """Offers taken in and not yet answered; past either comes ``Overloaded``."""

    reads_inflight_max: int = 65_536
    peer_queue_bytes_max: int = 64 * 1024 * 1024
    write_queue_bytes_max: int = 64 * 1024 * 1024
    """Accepted values that wait for a slow disk. With more, a node proposes nothing, and accepts and learns
    nothing: the others go on without it, and it learns later what it dropped."""
    learn_bytes_max: int = 1024 * 1024
    """Entries sent to a lagging peer in one message."""
    learned_bytes_max: int = 8 * 1024 * 1024
    """Entries that a node has learned, and not folded and stored yet; past it, it asks for no more."""

    log_slots_retained_min: int = 4_096
    """The last so many slots stay in the log whatever is compacted: who is less behind learns them."""
    log_reach_bytes: int = 128 * 1024 * 1024
    """So much more of the log may be kept than history reaches back to: the value of a key that is put again
    while the one before is within so much of the log is read from there (``ended``), and is not stored again.
    1: it always is."""
    snapshot_chunk_bytes_max: int = 512 * 1024
    """Records in one message of a snapshot (a single one may be bigger)."""
    snapshot_views_max: int = 2
    """Snapshots that are sent at once; each keeps what is overwritten meanwhile on the disk."""
    snapshot_idle_s: float = 60.0
    """A snapshot that nobody asked for so long is given up, and the log behind it may be trimmed."""
    snapshot_step_records: int = 2_000
    """Records of a snapshot that are checked or put into place at once, between other work."""
    log_trim_step_slots: int = 500

    scan_keys_max: int = 10_000
    scan_bytes_max: int = 1024 * 1024
    """One page of a scan ends at whichever comes first."""

    tails_max: int = 10_000
    tail_message_bytes_max: int = 1024 * 1024
    tail_recent_bytes_max: int = 32 * 1024 * 1024
    """Recent commits kept decoded for the tails that are up to date."""

    space_cache_records_max: int = 1_200_000
    """Records of the space kept decoded in memory (a cache, not a limit on the space). A put to any other
    key costs each node twice as much: LevelDB takes many gets for a sign that it should merge."""

    disk_reserve_bytes: int = 64 * 1024 * 1024
    """With less than this free on the data folder's file system, offers that grow the space are refused;
    deletes, compaction, elections and learning go on from it."""

    scrub_records_per_step: int = 25
    """Records whose checksums are looked at in one step of the sweep over all of them..."""
    scrub_step_ms: int = 50
    """...the pause after each step..."""
    scrub_interval_s: int = 3_600
    """...and how often a sweep begins, if it does not take longer."""

    def validate(self) -> None:
        """Raise ``ValueError`` where a limit is not positive or two contradict."""
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive, not {getattr(self, field.name)}")
        if self.value_bytes_max > self.offer_bytes_max:
            raise ValueError("value_bytes_max must not exceed offer_bytes_max")
        if self.offer_bytes_max > self.batch_bytes_max:
            raise ValueError("offer_bytes_max must not exceed batch_bytes_max")
        if self.batch_bytes_max + 1024 > self.entry_bytes_max:
            raise ValueError("entry_bytes_max must hold one whole batch (batch_bytes_max + 1024)")
        if self.batch_offers_max > self.entry_offers_max:
            raise ValueError("batch_offers_max must not exceed entry_offers_max")
