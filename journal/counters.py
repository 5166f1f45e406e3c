"""What a node counts while it works: plain numbers, which somebody reads now and then. PURE.

The node's shell counts, never the parts that decide. What is counted costs an addition or two
for an entry (a batch of offers), a write or a request, and nothing for each offer of a batch.
``journal.metrics`` turns the numbers into metrics, at the time of a scrape and not before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from journal.offers import Rejected, Verdict

LATENCY_BOUNDS_S = (
    0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0
)  # fmt: skip
"""From a fold of one offer (tens of microseconds) to a disk that makes a leader step down."""

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Histogram:
    """How often values fell at or below each of ``bounds``, and their sum."""

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.total = 0.0
        """Of the values."""
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """Return (bound, how many values are at or below it), infinity last."""
        found, so_far = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self._counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found


def _latencies() -> Histogram:
    return Histogram(LATENCY_BOUNDS_S)


@dataclass(slots=True)
class Counters:
    """Of one node, since it started. They only grow."""

    leader_changes: int = 0
    """How often another leader became known, this node included."""
    entries_proposed: int = 0
    """By this node as leader, of offers."""
    entries_committed: int = 0
    """Chosen, of all kinds, as far as this node knows."""
    entries_applied: int = 0
    offers_proposed: int = 0
    offers_applied: int = 0
    """Offers of the entries applied, with whatever verdict."""
    offers_accepted: int = 0
    offers_rejected: Counter[str] = field(default_factory=Counter)
    """By reason, in the fold."""
    requests_refused: Counter[str] = field(default_factory=Counter)
    """By the name of the error, at the gRPC edge."""
    limits_hit: Counter[str] = field(default_factory=Counter)
    """By the name of the limit."""
    reads: Counter[str] = field(default_factory=Counter)
    """By consistency."""
    leases_expired: int = 0
    snapshots_installed: int = 0
    snapshot_sent_bytes: int = 0
    """Records of snapshots, packed, that others fetched from this node."""
    snapshot_received_bytes: int = 0
    inbox_dropped: int = 0
    """Envelopes that found the inbox full."""
    entry_offers: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    """Offers in an entry that this node proposed."""
    commit_s: Histogram = field(default_factory=_latencies)
    """On the leader: from the proposal of an entry to its fold here."""
    sync_s: Histogram = field(default_factory=_latencies)
    """A synced write of the log, as the node waits for it."""
    fold_s: Histogram = field(default_factory=_latencies)
    """Of one entry."""

    def verdicts(self, batches: Iterable[Iterable[Verdict]]) -> None:
        """Count the rejections among the verdicts of an entry that has some."""
        for batch in batches:
            for verdict in batch:
                if type(verdict) is not int:
                    rejected = verdict.reason.value.lower() if isinstance(verdict, Rejected) else "expired"
                    self.offers_rejected[rejected] += 1
