"""What is drawn for a run, before it begins: swarm testing.

Each run draws *which* kinds of faults are on, and how strong each is, instead of running all of
them a little: many bugs need one kind to be frequent and another to be absent (Groce et al.,
"Swarm Testing", 2012). The same goes for limits: small ones are where the edges are.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

LULL_PERIOD_S = 2.0

FAULTS = (
    *(
        "loss",
        "repeat",
        "reorder",
        "edge_loss",
        "edge_late",
        "edge_repeat",
        "partition_s",
        "picky_s",
        "coup_s",
    ),
    *("clog_s", "crash_s", "power_s", "sync_error_s", "pause_node_s", "clock_jump_s", "transfer_s", "stop_s"),
    *(
        "outage_s",
        "install_crash",
        "members_s",
        "damage_s",
        "wipe_s",
        "full_disk_s",
        "clock_rates",
        "power_at_the_end",
    ),
    "client_death_s",
)
"""What goes wrong beside slow disks."""

KINDS = ("register", "bank", "counter", "set", "range", "lease", "scan", "many", "read", "outcome", "direct")
"""What workers may do; a run draws a weight for each."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """One run. Every field can be set from the command line with ``--set name=value``."""

    seed: int
    nodes: int = 3
    clients: int = 3
    workers: int = 2
    """Concurrent loops of operations in each client."""
    storm_s: float = 8.0
    """How long faults happen, in virtual seconds. Then all is healed."""
    pause_s: float = 0.08
    """The mean pause between two operations of a worker."""
    timeout_s: float = 4.0
    """How long a client waits for an operation in all."""
    values_bytes: int = 16
    weights: tuple[int, ...] = (1,) * len(KINDS)
    tails: int = 1
    """Tails that follow the history while it is made."""
    slow_tails_s: float = 0.0
    replicas: int = 0

    # -- the nodes ---------------------------------------------------------------------
    election_timeout_s: float = 0.5
    window_slots: int = 8
    pipeline_slots: int = 4
    entry_offers: int = 64
    offers_inflight: int = 4096
    reads_inflight: int = 4096
    accept_ahead_windows: int = 4
    paxos_message_bytes: int = 4096
    learn_bytes: int = 16384
    learn_slots: int = 64
    tail_recent_bytes: int = 65536
    tail_message_bytes: int = 16384
    scan_keys: int = 100
    cache_records: int = 1000
    flush_interval_s: float = 0.1
    write_queue_bytes: int = 1_000_000
    log_slots_retained: int = 4096
    """The log behind is trimmed where it is compacted: who is farther behind needs a snapshot."""
    log_reach_bytes: int = 1 << 27
    """Of so much of the log the values of older versions are not stored again."""
    log_trim_step_slots: int = 50
    snapshot_chunk_bytes: int = 100_000
    snapshot_step_records: int = 500
    snapshot_idle_s: float = 60.0
    retain_revisions: int = 0
    """The leader compacts what is older by itself. 0: it does not."""
    disk_reserve_bytes: int = 4096
    scrub_interval_s: int = 3600
    # Of the journal's format, the same on all nodes.
    sessions: int = 10_000
    session_idle_revisions: int = 1_000_000
    recent_bytes: int = 8 * 1024 * 1024

    # -- the network: per message ------------------------------------------------------
    latency_s: float = 0.001
    loss: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    """How many messages are delayed by up to ``reorder_s``, past those sent after them."""
    reorder_s: float = 0.05
    edge_loss: float = 0.0
    """Requests or replies between clients and nodes that are lost."""
    edge_late: float = 0.0
    """Requests that arrive seconds later, when the client has long turned elsewhere."""
    edge_repeat: float = 0.0
    """Submits that arrive twice."""

    # -- faults: mean seconds between two of a kind; 0: none ---------------------------
    partition_s: float = 0.0
    picky_s: float = 0.0
    coup_s: float = 0.0
    clog_s: float = 0.0
    crash_s: float = 0.0
    crash_leader: float = 0.5
    """How many crashes hit the leader."""
    power_s: float = 0.0
    """Power loss of one node, some or all."""
    sync_error_s: float = 0.0
    slow_disk_s: float = 0.0
    pause_node_s: float = 0.0
    clock_jump_s: float = 0.0
    transfer_s: float = 0.0
    compact_s: float = 0.0
    stop_s: float = 0.0
    outage_s: float = 0.0
    """A node is away for so long that others trim what it lacks."""
    install_crash: float = 0.0
    """How many installations of a snapshot a crash comes into."""
    members_s: float = 0.0
    """An operator changes the members: grows, shrinks, replaces, removes who leads."""
    damage_s: float = 0.0
    """Records are damaged at rest: flipped bits, lost or swapped records, unreadable blocks."""
    wipe_s: float = 0.0
    """A disk is lost as a whole."""
    wiped_returns: bool = False
    """A wiped node comes back under its old number, by mistake; else it stays away, to be replaced."""
    full_disk_s: float = 0.0
    client_death_s: float = 0.0
    down_s: float = 0.5
    """How long a node stays down, on average."""
    disk_s: float = 0.0003
    """What a synced write takes, on average."""
    clock_rates: float = 0.0
    """How far a node's clock may run from true, as a fraction."""
    spoiled_max: int = 1
    """How many nodes in all may lose or damage what is on their disks: never more than a minority."""
    only_slow_disks: bool = False
    """Nothing goes wrong but that disks are slow: then no lease that is kept alive may be lost."""
    voters_max: int = 5
    """How far the operator grows the cluster."""
    lull: float = 0.0
    """The part of each ``LULL_PERIOD_S`` in which no new fault comes, so that work gets done."""
    power_at_the_end: bool = False
    """After the storm all nodes lose power once more."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def with_settings(self, settings: list[str]) -> Options:
        """Apply ``name=value`` settings. Raises ``ValueError`` for an unknown name or a bad value."""
        types = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        changed: dict[str, Any] = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals or name not in types:
                raise ValueError(f"{setting!r}: must be name=value, with one of {', '.join(sorted(types))}")
            kind = types[name]
            if kind is tuple:
                changed[name] = tuple(int(part) for part in value.split(","))
            elif kind is bool:
                changed[name] = value.lower() in ("1", "true", "yes")
            else:
                changed[name] = kind(value)
        return replace(self, **changed)

    def __str__(self) -> str:
        plain = Options(seed=self.seed)
        return " ".join(
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name in ("seed", "nodes") or getattr(self, field.name) != getattr(plain, field.name)
        )


def draw(seed: int, *, pressure: bool | None = None) -> Options:
    """Draw the options of the run with this seed. ``pressure``: whether much is in flight among
    leaders that come and go (None: that is drawn, too)."""
    rng = random.Random(f"synod-sim/options/{seed}")

    def on(probability: float, *values: float) -> float:
        """One of ``values`` with ``probability``, else 0."""
        value = rng.choice(values)
        return value if rng.random() < probability else 0.0

    timeout_s = rng.choice((0.15, 0.3, 0.3, 0.6))

    def every(probability: float, *timeouts: float) -> float:
        """How often a kind of fault comes, in election timeouts: the cluster's own measure of time."""
        return round(on(probability, *timeouts) * timeout_s, 4)

    options = Options(
        seed=seed,
        nodes=rng.choice((3, 3, 3, 3, 5, 5, 7)),
        clients=rng.choice((1, 2, 3, 4)),
        workers=rng.choice((1, 2, 3)),
        storm_s=rng.choice((4.0, 6.0, 8.0)),
        pause_s=rng.choice((0.03, 0.08, 0.2)),
        timeout_s=rng.choice((1.0, 3.0, 6.0)),
        values_bytes=rng.choice((4, 16, 64, 600)),
        weights=tuple(rng.choice((0, 0, 1, 2, 4)) for _ in KINDS),
        tails=rng.choice((0, 1, 2)),
        slow_tails_s=on(0.4, 0.2, 1.0),
        replicas=rng.choice((0, 0, 1)),
        election_timeout_s=timeout_s,
        window_slots=rng.choice((2, 4, 8, 32)),
        pipeline_slots=rng.choice((1, 2)),
        entry_offers=rng.choice((16, 16, 64)),
        offers_inflight=rng.choice((16, 64, 4096)),
        reads_inflight=rng.choice((2, 16, 4096)),
        accept_ahead_windows=rng.choice((1, 2, 4)),
        paxos_message_bytes=rng.choice((200, 2000, 100_000)),
        learn_bytes=rng.choice((200, 2000, 100_000)),
        learn_slots=rng.choice((2, 16, 256)),
        tail_recent_bytes=rng.choice((500, 5000, 500_000)),
        tail_message_bytes=rng.choice((200, 2000, 100_000)),
        scan_keys=rng.choice((2, 10, 1000)),
        cache_records=rng.choice((4, 40, 10_000)),
        flush_interval_s=rng.choice((0.02, 0.1, 1.0)),
        sessions=rng.choice((3, 10_000, 10_000, 10_000)),
        session_idle_revisions=rng.choice((30, 1_000_000, 1_000_000, 1_000_000)),
        recent_bytes=rng.choice((300, 8 * 1024 * 1024, 8 * 1024 * 1024)),
        latency_s=rng.choice((0.0005, 0.002, 0.01)),
        loss=on(0.5, 0.005, 0.03, 0.1),
        repeat=on(0.4, 0.02, 0.2),
        reorder=on(0.4, 0.02, 0.2),
        reorder_s=rng.choice((0.02, 0.2, 1.0)),
        edge_loss=on(0.5, 0.01, 0.1),
        edge_late=on(0.3, 0.01, 0.1),
        edge_repeat=on(0.3, 0.02, 0.2),
        partition_s=every(0.45, 3, 8, 16),
        picky_s=every(0.4, 1, 3, 8),
        coup_s=every(0.2, 4, 10),
        clog_s=every(0.2, 2, 8),
        crash_s=every(0.4, 4, 8, 16),
        crash_leader=rng.choice((0.2, 0.5, 0.9)),
        power_s=every(0.35, 6, 12),
        sync_error_s=every(0.2, 8),
        slow_disk_s=every(0.2, 4, 12),
        pause_node_s=every(0.2, 5, 12),
        clock_jump_s=every(0.15, 5),
        transfer_s=every(0.25, 3, 8),
        compact_s=every(0.35, 1, 4),
        stop_s=every(0.15, 8),
        client_death_s=on(0.25, 1.0, 3.0),
        down_s=round(timeout_s * rng.choice((0.1, 1.0, 4.0)), 4),
        lull=rng.choice((0.0, 0.3, 0.6)),
        disk_s=rng.choice((0.0003, 0.002, 0.02)),
        clock_rates=on(0.3, 0.01, 0.05),
        power_at_the_end=rng.random() < 0.3,
    )
    is_drawn = rng.random() < 0.35
    if is_drawn if pressure is None else pressure:
        options = replace(
            options,
            clients=3,
            workers=rng.choice((2, 4)),
            pause_s=rng.choice((0.005, 0.02)),
            weights=tuple(
                {"register": 4, "read": 1, "direct": 4, "bank": rng.choice((0, 1))}.get(kind, 0)
                for kind in KINDS
            ),
            tails=rng.choice((0, 1)),
            replicas=0,
            values_bytes=4,
            storm_s=rng.choice((2.0, 4.0)),
            election_timeout_s=rng.choice((0.1, 0.2)),
            pipeline_slots=rng.choice((2, 8, 32)),
            entry_offers=rng.choice((1, 2, 16)),
            latency_s=rng.choice((0.002, 0.008)),
            picky_s=round(rng.choice((1, 3)) * 0.15, 4),
            coup_s=round(on(0.5, 2, 5) * 0.15, 4),
            transfer_s=round(on(0.5, 1, 3) * 0.15, 4),
            partition_s=round(on(0.5, 2, 5) * 0.15, 4),
            crash_s=round(on(0.5, 3, 8) * 0.15, 4),
            disk_s=rng.choice((0.0003, 0.005)),
            lull=rng.choice((0.0, 0.3)),
        )
    options = _with_disks_and_members(options, rng)
    if rng.random() < 0.03:
        options = only_slow_disks(options)
    if options.nodes == 7:  # keep a run's cost in bounds
        options = replace(options, storm_s=min(options.storm_s, 4.0), clients=min(options.clients, 2))
    if not any(options.weights):
        options = replace(options, weights=(1,) * len(KINDS))
    return options


def _with_disks_and_members(options: Options, rng: random.Random) -> Options:
    """Draw what takes away logs, disks and members: each in a part of the runs, in all combinations."""
    timeout_s = options.election_timeout_s

    def every(probability: float, *timeouts: float) -> float:
        value = rng.choice(timeouts)
        return round(value * timeout_s, 4) if rng.random() < probability else 0.0

    members_s = every(0.35, 1, 2, 5)
    if rng.random() < 0.4:
        options = replace(
            options,
            log_slots_retained=rng.choice((1, 10, 40)),
            log_trim_step_slots=rng.choice((3, 50)),
            snapshot_chunk_bytes=rng.choice((200, 2000, 100_000)),
            snapshot_step_records=rng.choice((3, 20, 500)),
            snapshot_idle_s=rng.choice((0.5, 2.0, 5.0)),
            retain_revisions=rng.choice((0, 1, 10, 40)),
            compact_s=options.compact_s or round(rng.choice((1, 3)) * timeout_s, 4),
            outage_s=every(0.8, 3, 8),
            install_crash=rng.choice((0.0, 0.5)),
            log_reach_bytes=rng.choice((1, 500, 3_000, 1 << 27)),
        )
    return replace(
        options,
        members_s=members_s,
        # With members that come and go, a minority of the fewest there may be.
        spoiled_max=1 if members_s else (options.nodes - 1) // 2,
        voters_max=max(options.nodes, rng.choice((4, 5))),
        damage_s=every(0.25, 1, 3, 8),
        scrub_interval_s=rng.choice((1, 3, 3600)),
        write_queue_bytes=rng.choice((300, 5000, 1_000_000)),
        wipe_s=every(0.15, 8),
        wiped_returns=not members_s and rng.random() < 0.7,
        full_disk_s=every(0.12, 4, 10),
        disk_reserve_bytes=rng.choice((500, 4096, 20_000)),
    )


def only_slow_disks(options: Options) -> Options:
    plain = Options(seed=options.seed)
    faults = {name: getattr(plain, name) for name in FAULTS}
    weights = tuple(
        2 if kind == "lease" else weight for kind, weight in zip(KINDS, options.weights, strict=True)
    )
    timeout_s = options.election_timeout_s
    return replace(
        options,
        **{**faults, "slow_disk_s": 3 * timeout_s, "only_slow_disks": True, "weights": weights},
    )
