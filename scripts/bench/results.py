"""What was measured: rounds of ours and of the peer's, their medians, and how they compare to the goal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Result:
    """One line of the table. ``unit`` is what ``ours`` and ``peer`` count, such as ``offers/s``."""

    row: str
    what: str
    unit: str
    goal: float | None
    """What the ratio ours/peer should reach (``more_is_better``) or stay below. None: only shown."""
    more_is_better: bool = True
    peer_name: str = "etcd"
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def our_median(self) -> float | None:
        return statistics.median(self.ours) if self.ours else None

    @property
    def peer_median(self) -> float | None:
        return statistics.median(self.peer) if self.peer else None

    @property
    def ratio(self) -> float | None:
        ours, peer = self.our_median, self.peer_median
        return ours / peer if ours is not None and peer else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached. None: there is no goal, or no peer to compare with."""
        if self.goal is None or self.ratio is None:
            return None
        return self.ratio >= self.goal if self.more_is_better else self.ratio <= self.goal

    def as_json(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "what": self.what,
            "unit": self.unit,
            "ours": [round(value, 3) for value in self.ours],
            self.peer_name: [round(value, 3) for value in self.peer],
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "goal": self.goal,
            "more_is_better": self.more_is_better,
            "reached": self.reached,
            **({"details": self.details} if self.details else {}),
        }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and the maximum."""
    if not values:
        return {}
    ordered = sorted(values)
    found = {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}
    return {name: round(value, 3) for name, value in {**found, "max": ordered[-1]}.items()}
