"""What happened when, counted from the recording: the numbers behind the report's picture.

Nothing here judges: a torn or strange line is left out.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

BUCKETS_MAX = 400
PARTS = re.compile(r"-(setup|tail|direct).*")
"""What a client's name ends with where it does several things."""
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
    silence_s: float = 0.0
    """The longest time in it without any acknowledged offer."""
    back_s: float | None = None
    """After so long an offer was acknowledged again when it was over. None: never, in this run."""


@dataclass(slots=True)
class Kind:
    """What the clients of one kind went through."""

    clients: set[str] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    others: int = 0
    """Reads, keep-alives and tails."""
    latencies_s: list[float] = field(default_factory=list)


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
    rss: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """By node: (when, bytes of memory)."""
    kinds: dict[str, Kind] = field(default_factory=dict)
    acknowledged_s: list[float] = field(default_factory=list)
    longest_gap_s: float = 0.0
    """The longest time without any acknowledged offer."""

    @property
    def latencies_s(self) -> list[float]:
        return sorted(latency for bucket in self.buckets for latency in bucket.latencies_s)


def read(folder: Path, clients: Mapping[str, str]) -> Timeline:
    """Return the timeline of a run's folder. ``clients``: the kind of each client."""
    return draw(_objects(folder / "history.jsonl"), _objects(folder / "samples.jsonl"), clients)


def draw(
    history: Iterable[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]],
    clients: Mapping[str, str] | None = None,
) -> Timeline:
    events = [*history]
    timeline = Timeline()
    times = [event["t"] for event in events if event["event"] in ("invoke", "complete")]
    if not times:
        return timeline
    zero, last = min(times), max(times)
    timeline.seconds = max(1.0, (last - zero) / 1e9)
    timeline.bucket_s = max(0.5, timeline.seconds / BUCKETS_MAX)
    timeline.buckets = [Bucket() for _ in range(int(timeline.seconds / timeline.bucket_s) + 1)]
    _operations(timeline, events, zero, clients or {})
    _notes(timeline, events, zero)
    _states(timeline, samples, zero)
    return timeline


def _operations(
    timeline: Timeline, events: Iterable[Mapping[str, Any]], zero: int, clients: Mapping[str, str]
) -> None:
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
            name = PARTS.sub("", event["client"])
            kind = timeline.kinds.setdefault(clients[name], Kind()) if name in clients else Kind()
            kind.clients.add(name)
            if invoked["kind"] in ("get", "scan"):
                bucket.reads += "revision" in event
            if invoked["kind"] != "offer":
                kind.others += 1
                continue
            outcome = next((word for word in OUTCOMES if word in event), "unknown")
            bucket.outcomes[outcome] += 1
            kind.outcomes[outcome] += 1
            if outcome == "accepted":
                latency_s = (event["t"] - invoked["t"]) / 1e9
                bucket.latencies_s.append(latency_s)
                kind.latencies_s.append(latency_s)
                acknowledged.append(event["t"])
    timeline.acknowledged_s = sorted((at - zero) / 1e9 for at in acknowledged)
    gaps = (later - earlier for earlier, later in pairwise(timeline.acknowledged_s))
    timeline.longest_gap_s = max(gaps, default=0.0)
    for each in timeline.kinds.values():
        each.latencies_s.sort()
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
            timeline.faults.append(_harm(timeline, begin, at, first))
        elif "problem" in event:
            timeline.problems.append(Span(at, at, "problem", event["problem"]))
        elif "recovery_s" in event:
            timeline.recoveries_s.append(event["recovery_s"])
    for first in begun.values():
        begin = (first["t"] - zero) / 1e9
        timeline.faults.append(_harm(timeline, begin, timeline.seconds, first))
    timeline.faults.sort(key=lambda span: span.begin)


def _harm(timeline: Timeline, begin: float, end: float, first: Mapping[str, Any]) -> Span:
    times = timeline.acknowledged_s
    inside = times[bisect_left(times, begin) : bisect_right(times, end)]
    silence_s = max(later - earlier for earlier, later in pairwise([begin, *inside, end]))
    after = bisect_right(times, end)
    back_s = times[after] - end if after < len(times) else None
    return Span(begin, end, first["fault"], first["text"], silence_s, back_s)


def _states(timeline: Timeline, samples: Iterable[Mapping[str, Any]], zero: int) -> None:
    open_: dict[str, tuple[float, str, str]] = {}
    for sample in samples:
        at = (sample["t"] - zero) / 1e9
        for node in open_.keys() - sample["nodes"].keys():  # it was removed
            begin, state, ballot = open_.pop(node)
            timeline.states.setdefault(node, []).append(Span(begin, at, state, ballot))
        for node, facts in sample["nodes"].items():
            if rss := facts.get("rss", 0):
                timeline.rss_max[node] = max(timeline.rss_max.get(node, 0), rss)
                timeline.rss.setdefault(node, []).append((at, rss))
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
