"""What happened when, counted from the recording: the numbers behind the report's picture.

Nothing here judges: a torn or strange line is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

BUCKETS_MAX = 400
OUTCOMES = ("accepted", "rejected", "unknown", "refused")


@dataclass(slots=True)
class Bucket:
    """One stretch of time."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    reads: int = 0
    latencies_s: list[float] = field(default_factory=list)
    """Of accepted offers, sorted in the end."""

    def percentile(self, part: float) -> float | None:
        if not self.latencies_s:
            return None
        return self.latencies_s[min(len(self.latencies_s) - 1, int(len(self.latencies_s) * part))]


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted, in seconds from the begin."""

    begin: float
    end: float
    what: str
    text: str


@dataclass(slots=True)
class Timeline:
    seconds: float = 0.0
    bucket_s: float = 1.0
    buckets: list[Bucket] = field(default_factory=list)
    states: dict[str, list[Span]] = field(default_factory=dict)
    """By node: what it said it was, or was known to be."""
    faults: list[Span] = field(default_factory=list)
    problems: list[Span] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)
    rss_max: dict[str, int] = field(default_factory=dict)
    longest_gap_s: float = 0.0
    """The longest time without any acknowledged offer."""

    @property
    def latencies_s(self) -> list[float]:
        return sorted(latency for bucket in self.buckets for latency in bucket.latencies_s)


def read(folder: Path) -> Timeline:
    """Return the timeline of a run's folder."""
    return draw(_objects(folder / "history.jsonl"), _objects(folder / "samples.jsonl"))


def draw(history: Iterable[Mapping[str, Any]], samples: Iterable[Mapping[str, Any]]) -> Timeline:
    events = [*history]
    timeline = Timeline()
    times = [event["t"] for event in events if event["event"] in ("invoke", "complete")]
    if not times:
        return timeline
    zero, last = min(times), max(times)
    timeline.seconds = max(1.0, (last - zero) / 1e9)
    timeline.bucket_s = max(0.5, timeline.seconds / BUCKETS_MAX)
    timeline.buckets = [Bucket() for _ in range(int(timeline.seconds / timeline.bucket_s) + 1)]
    _operations(timeline, events, zero)
    _notes(timeline, events, zero)
    _states(timeline, samples, zero)
    return timeline


def _operations(timeline: Timeline, events: Iterable[Mapping[str, Any]], zero: int) -> None:
    asked: dict[tuple[str, int], Mapping[str, Any]] = {}
    acknowledged: list[int] = []
    for event in events:
        if event["event"] == "invoke":
            asked[(event["client"], event["op"])] = event
        elif event["event"] == "complete":
            invoked = asked.pop((event["client"], event["op"]), None)
            if invoked is None:
                continue
            bucket = timeline.buckets[int((event["t"] - zero) / 1e9 / timeline.bucket_s)]
            if invoked["kind"] in ("get", "scan"):
                bucket.reads += "revision" in event
            if invoked["kind"] != "offer":
                continue
            outcome = next((word for word in OUTCOMES if word in event), "unknown")
            bucket.outcomes[outcome] += 1
            if outcome == "accepted":
                bucket.latencies_s.append((event["t"] - invoked["t"]) / 1e9)
                acknowledged.append(event["t"])
    acknowledged.sort()
    gaps = (later - earlier for earlier, later in pairwise(acknowledged))
    timeline.longest_gap_s = max(gaps, default=0) / 1e9
    for bucket in timeline.buckets:
        bucket.latencies_s.sort()


def _notes(timeline: Timeline, events: Iterable[Mapping[str, Any]], zero: int) -> None:
    begun: dict[int, Mapping[str, Any]] = {}
    for event in events:
        if event["event"] != "note":
            continue
        at = (event["t"] - zero) / 1e9
        if event.get("phase") == "begin":
            begun[event["number"]] = event
        elif event.get("phase") == "end" and event["number"] in begun:
            first = begun.pop(event["number"])
            begin = (first["t"] - zero) / 1e9
            timeline.faults.append(Span(begin, at, first["fault"], first["text"]))
        elif "problem" in event:
            timeline.problems.append(Span(at, at, "problem", event["problem"]))
        elif "recovery_s" in event:
            timeline.recoveries_s.append(event["recovery_s"])
    for first in begun.values():
        begin = (first["t"] - zero) / 1e9
        timeline.faults.append(Span(begin, timeline.seconds, first["fault"], first["text"]))
    timeline.faults.sort(key=lambda span: span.begin)


def _states(timeline: Timeline, samples: Iterable[Mapping[str, Any]], zero: int) -> None:
    open_: dict[str, tuple[float, str, str]] = {}
    for sample in samples:
        at = (sample["t"] - zero) / 1e9
        for node in open_.keys() - sample["nodes"].keys():  # it was removed
            begin, state, ballot = open_.pop(node)
            timeline.states.setdefault(node, []).append(Span(begin, at, state, ballot))
        for node, facts in sample["nodes"].items():
            timeline.rss_max[node] = max(timeline.rss_max.get(node, 0), facts.get("rss", 0))
            begin, state, ballot = open_.get(node, (at, "", ""))
            if (facts["state"], facts.get("ballot", ballot)) != (state, ballot):
                if state:
                    timeline.states.setdefault(node, []).append(Span(begin, at, state, ballot))
                open_[node] = (at, facts["state"], facts.get("ballot", ballot))
    for node, (begin, state, ballot) in open_.items():
        end = max(begin, timeline.seconds)
        timeline.states.setdefault(node, []).append(Span(begin, end, state, ballot))


def _objects(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                parsed = json.loads(line)
            except ValueError:
                continue
            if isinstance(parsed, dict) and "t" in parsed and "event" in parsed:
                yield parsed
