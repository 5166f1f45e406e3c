"""The report page: one HTML file that needs nothing else, with the run's timeline as an SVG picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from synod.chaos import timeline as timelines
from synod.chaos.tables import duration, facts, faults_table, kinds_table, rules_table
from synod.chaos.timeline import OUTCOMES, Span, Timeline

WIDTH = 1200
LEFT, RIGHT = 118, 16
PLOT = WIDTH - LEFT - RIGHT
COLOURS = {
    "accepted": "#2a7f62",
    "rejected": "#e0a526",
    "unknown": "#c2452d",
    "refused": "#7a6a8a",
    "leader": "#1f5fa8",
    "follower": "#b9cfe6",
    "candidate": "#e0a526",
    "learner": "#d5c7e6",
    "down": "#c2452d",
    "paused": "#8a8a8a",
    "unreachable": "#f1d3cb",
}
FAULT_COLOUR = "#b0563c"
NODE_COLOURS = ("#1f5fa8", "#2a7f62", "#c2452d", "#e0a526", "#7a6a8a", "#4c9bb5", "#8a8a8a")
SAMPLES_APART_S = 2.0
LATENCIES = ((0.5, "median", "#2a7f62"), (0.95, "95 %", "#e0a526"), (0.99, "99 %", "#c2452d"))
STYLE = """
 body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; background: #fff; margin: 2rem auto;
   max-width: 1240px; padding: 0 1rem }
 h1 { font-size: 1.5rem; margin: 0 0 .3rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
 .verdict { display: inline-block; padding: .15rem .7rem; border-radius: .3rem; color: #fff;
   font-weight: 600 }
 .pass { background: #2a7f62 } .fail { background: #c2452d }
 .facts { display: flex; flex-wrap: wrap; gap: .4rem 2.2rem; margin: 1rem 0 }
 .facts div { min-width: 7rem } .facts b { display: block; font-size: 1.35rem; font-weight: 600 }
 .facts span { color: #5a646e; font-size: .85rem }
 pre { background: #f5f6f7; padding: .8rem; overflow-x: auto; font-size: 13px; white-space: pre-wrap }
 table { border-collapse: collapse; font-size: 14px }
 td, th { padding: .15rem .9rem .15rem 0; text-align: left;
   vertical-align: top } th { color: #5a646e; font-weight: 500; border-bottom: 1px solid #d9dde1 }
 td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } svg { width: 100%; height: auto }
 .good { color: #2a7f62; font-weight: 600 } .bad { color: #c2452d; font-weight: 600 }
 .rules { columns: 2 34rem; column-gap: 2.5rem; list-style: none; padding: 0; font-size: 14px }
 .rules li { break-inside: avoid; padding: .1rem 0 .1rem 3.4rem; text-indent: -3.4rem }
 .rules b { display: inline-block; min-width: 3rem; text-indent: 0 }
 .note { color: #5a646e; margin: .2rem 0 .6rem; font-size: .9rem }
 code { background: #f5f6f7; padding: .1rem .3rem }
"""


def write_page(folder: Path) -> Path:
    """Write ``report.html`` from what a run left in ``folder``; return its path."""
    about = json.loads((folder / "run.json").read_text())
    path = folder / "report.html"
    path.write_text(page(about, timelines.read(folder, about["clients"])), encoding="utf-8")
    return path


def page(about: dict[str, Any], timeline: Timeline) -> str:
    """Return the whole page."""
    good = about["ok"]
    word, style = ("PASSED", "pass") if good else ("FAILED", "fail")
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>",
        f"Synod chaos, seed {about['seed']}: {word.lower()}</title><style>{STYLE}</style>",
        f"<h1>Synod chaos <span class='verdict {style}'>{word}</span></h1>",
        f"<div>{about['nodes']} nodes, seed {about['seed']}, {about['rounds']} rounds of faults in ",
        f"{timeline.seconds:.0f} s. Again: <code>{escape(about['again'])}</code></div>",
        _facts(about, timeline),
    ]
    if about["problems"]:
        parts.append("<h2>What is wrong</h2>")
        parts.extend(f"<pre>{escape(problem)}</pre>" for problem in about["problems"])
    parts += ["<h2>Timeline</h2>", picture(timeline), "<h2>What was judged</h2>"]
    parts += [f"<pre>{escape(about['verdict'])}</pre>", rules_table(about.get("rules", {}))]
    parts += [kinds_table(timeline), faults_table(timeline), "</html>\n"]
    return "".join(parts)


def _facts(about: dict[str, Any], timeline: Timeline) -> str:
    latencies = timeline.latencies_s
    counts = about["counts"]
    median = latencies[len(latencies) // 2] if latencies else 0.0
    slow = latencies[int(len(latencies) * 0.99)] if latencies else 0.0
    rss = max(timeline.rss_max.values(), default=0) / 2**20
    led = {(span.what, span.text) for spans in timeline.states.values() for span in spans}
    elections = max(0, len([1 for state, _ballot in led if state == "leader"]) - 1)
    return facts(
        [
            (f"{counts.get('offers', 0):,}", "offers"),
            (f"{counts.get('accepted', 0):,}", "acknowledged"),
            (f"{counts.get('rejected', 0):,}", "rejected, each receipt judged"),
            (f"{counts.get('unknown', 0):,}", "of unknown outcome"),
            (f"{counts.get('reads', 0):,}", "reads judged"),
            (f"{counts.get('keep-alives', 0):,}", "keep-alives judged"),
            (duration(median), "median latency"),
            (duration(slow), "99 % latency"),
            (f"{timeline.longest_gap_s:.1f} s", "longest time without an acknowledgement"),
            (f"{max(timeline.recoveries_s, default=0.0):.1f} s", "slowest return after harm"),
            (f"{rss:.0f} MiB", "most memory of a node"),
            (f"{elections}", "changes of the leader"),
        ]
    )


# -- the picture --------------------------------------------------------------------


class _Picture:
    """Collects shapes from top to bottom; x is time."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.shapes: list[str] = []
        self.y = 8.0

    def x(self, seconds: float) -> float:
        return LEFT + PLOT * min(1.0, max(0.0, seconds / self.timeline.seconds))

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "end", size: int = 12, fill: str = "#5a646e"
    ) -> None:
        self.shapes.append(
            f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}' fill='{fill}'>"
            f"{escape(words)}</text>"
        )

    def box(
        self, begin: float, end: float, y: float, height: float, fill: str, title: str, opacity: float = 1
    ) -> None:
        left, right = self.x(begin), self.x(end)
        self.shapes.append(
            f"<rect x='{left:.1f}' y='{y:.1f}' width='{max(1.2, right - left):.1f}' height='{height:.1f}' "
            f"fill='{fill}' fill-opacity='{opacity}'><title>{escape(title)}</title></rect>"
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str = "#e3e6e9") -> None:
        self.shapes.append(
            f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{stroke}'/>"
        )

    def shade(self, height: float) -> None:
        """Show behind a panel when harm was done."""
        for span in self.timeline.faults:
            self.box(span.begin, span.end, self.y, height, FAULT_COLOUR, span.text, 0.09)

    def heading(self, words: str, legend: Sequence[tuple[str, str]] = ()) -> None:
        self.y += 20
        self.text(LEFT, self.y, words, anchor="start", size=14, fill="#1d2329")
        x = LEFT + 20.0 + 7.4 * len(words)
        for name, colour in legend:
            self.shapes.append(
                f"<rect x='{x:.1f}' y='{self.y - 10:.1f}' width='11' height='11' fill='{colour}'/>"
            )
            self.text(x + 16, self.y, name, anchor="start")
            x += 32 + 7.0 * len(name)
        self.y += 8


def picture(timeline: Timeline) -> str:
    """Return the timeline as an SVG element."""
    if not timeline.buckets:
        return "<p>Nothing was recorded.</p>"
    drawn = _Picture(timeline)
    _throughput(drawn)
    _latency(drawn)
    _nodes(drawn)
    _memory(drawn)
    _faults(drawn)
    _axis(drawn)
    height = drawn.y + 10
    body = "\n".join(drawn.shapes)
    return (
        f"<svg viewBox='0 0 {WIDTH} {height:.0f}' xmlns='http://www.w3.org/2000/svg' role='img' "
        f"font-family='system-ui, sans-serif'><title>Timeline of the run</title>\n{body}\n</svg>"
    )


def _throughput(drawn: _Picture) -> None:
    timeline, height = drawn.timeline, 150.0
    drawn.heading("Offers per second", [(name, COLOURS[name]) for name in OUTCOMES])
    drawn.shade(height)
    rates = [sum(bucket.outcomes.values()) / timeline.bucket_s for bucket in timeline.buckets]
    top = _nice(max(rates, default=1.0))
    bottom = drawn.y + height
    for part in (0.0, 0.5, 1.0):
        y = bottom - height * part
        drawn.line(LEFT, y, WIDTH - RIGHT, y)
        drawn.text(LEFT - 8, y + 4, f"{top * part:g}")
    for number, bucket in enumerate(timeline.buckets):
        begin = number * timeline.bucket_s
        base = bottom
        for name in OUTCOMES:
            rate = bucket.outcomes[name] / timeline.bucket_s
            if rate:
                tall = height * rate / top
                base -= tall
                title = f"{begin:.1f} s: {rate:.0f} {name} a second"
                drawn.box(begin, begin + timeline.bucket_s * 0.92, base, tall, COLOURS[name], title)
    drawn.y = bottom + 6


def _latency(drawn: _Picture) -> None:
    timeline, height = drawn.timeline, 130.0
    drawn.heading("Latency of acknowledged offers", [(name, colour) for _, name, colour in LATENCIES])
    drawn.shade(height)
    bottom = drawn.y + height
    low, high = -3.0, 1.3  # 1 ms to 20 s, by tens

    def y(seconds: float) -> float:
        place = (math.log10(max(1e-3, seconds)) - low) / (high - low)
        return bottom - height * min(1.0, max(0.0, place))

    for seconds in (0.001, 0.01, 0.1, 1.0, 10.0):
        drawn.line(LEFT, y(seconds), WIDTH - RIGHT, y(seconds))
        drawn.text(LEFT - 8, y(seconds) + 4, duration(seconds))
    for part, name, colour in LATENCIES:
        for run in _runs(timeline, part):
            points = " ".join(f"{drawn.x(at):.1f},{y(value):.1f}" for at, value in run)
            drawn.shapes.append(
                f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.6'>"
                f"<title>{name}</title></polyline>"
            )
            if len(run) == 1:
                at, value = run[0]
                drawn.shapes.append(
                    f"<circle cx='{drawn.x(at):.1f}' cy='{y(value):.1f}' r='1.6' fill='{colour}'/>"
                )
    drawn.y = bottom + 6


def _runs(timeline: Timeline, part: float) -> Iterator[list[tuple[float, float]]]:
    """Yield stretches without a gap: where nothing was acknowledged no line is drawn."""
    run: list[tuple[float, float]] = []
    for number, bucket in enumerate(timeline.buckets):
        value = bucket.percentile(part)
        if value is None:
            if run:
                yield run
            run = []
        else:
            run.append(((number + 0.5) * timeline.bucket_s, value))
    if run:
        yield run


def _nodes(drawn: _Picture) -> None:
    timeline = drawn.timeline
    seen = {span.what for spans in timeline.states.values() for span in spans}
    drawn.heading("Nodes", [(name, colour) for name, colour in COLOURS.items() if name in seen])
    drawn.shade(22.0 * len(timeline.states))
    for node, spans in sorted(timeline.states.items(), key=lambda item: int(item[0])):
        drawn.text(LEFT - 8, drawn.y + 15, f"node {node}")
        for span in spans:
            title = f"node {node}: {span.what}, ballot {span.text}, {span.begin:.1f} to {span.end:.1f} s"
            drawn.box(span.begin, span.end, drawn.y + 2, 17, COLOURS.get(span.what, "#ddd"), title)
        drawn.y += 22


def _memory(drawn: _Picture) -> None:
    timeline, height = drawn.timeline, 70.0
    names = sorted(timeline.rss, key=int)
    if not names:
        return
    colours = {name: NODE_COLOURS[number % len(NODE_COLOURS)] for number, name in enumerate(names)}
    drawn.heading("Memory, MiB", [(f"node {name}", colours[name]) for name in names])
    drawn.shade(height)
    top = _nice(max(timeline.rss_max.values()) / 2**20)
    bottom = drawn.y + height
    for part in (0.0, 0.5, 1.0):
        drawn.line(LEFT, bottom - height * part, WIDTH - RIGHT, bottom - height * part)
        drawn.text(LEFT - 8, bottom - height * part + 4, f"{top * part:g}")
    for name in names:
        for run in _unbroken(timeline.rss[name]):
            points = " ".join(
                f"{drawn.x(at):.1f},{bottom - height * rss / 2**20 / top:.1f}" for at, rss in run
            )
            drawn.shapes.append(
                f"<polyline points='{points}' fill='none' stroke='{colours[name]}' stroke-width='1.4'>"
                f"<title>node {escape(name)}</title></polyline>"
            )
    drawn.y = bottom + 6


def _unbroken(samples: Sequence[tuple[float, int]]) -> Iterator[list[tuple[float, int]]]:
    """Yield stretches in which the process ran without a pause between samples."""
    run: list[tuple[float, int]] = []
    for at, rss in samples:
        if run and at - run[-1][0] > SAMPLES_APART_S:
            yield run
            run = []
        run.append((at, rss))
    if run:
        yield run


def _faults(drawn: _Picture) -> None:
    timeline = drawn.timeline
    drawn.heading("Faults")
    kinds = sorted({span.what for span in timeline.faults})
    for kind in kinds:
        drawn.text(LEFT - 8, drawn.y + 13, kind)
        drawn.line(LEFT, drawn.y + 18, WIDTH - RIGHT, drawn.y + 18, "#f0f2f3")
        for span in timeline.faults:
            if span.what == kind:
                title = f"{span.begin:.1f} to {span.end:.1f} s: {span.text}"
                drawn.box(span.begin, span.end, drawn.y + 3, 12, FAULT_COLOUR, title)
        drawn.y += 18
    for span in timeline.problems:
        _mark(drawn, span)


def _mark(drawn: _Picture, span: Span) -> None:
    x = drawn.x(span.begin)
    drawn.shapes.append(
        f"<line x1='{x:.1f}' y1='20' x2='{x:.1f}' y2='{drawn.y:.1f}' stroke='#c2452d' stroke-width='2' "
        f"stroke-dasharray='5 3'><title>{escape(span.text)}</title></line>"
    )


def _axis(drawn: _Picture) -> None:
    step = next(
        s
        for s in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 36000)
        if drawn.timeline.seconds / s <= 14
    )
    drawn.y += 4
    drawn.line(LEFT, drawn.y, WIDTH - RIGHT, drawn.y, "#9aa3ab")
    for number in range(int(drawn.timeline.seconds / step) + 1):
        x = drawn.x(number * step)
        drawn.line(x, drawn.y, x, drawn.y + 5, "#9aa3ab")
        drawn.text(x, drawn.y + 19, f"{number * step} s", anchor="middle")
    drawn.y += 24


def _nice(value: float) -> float:
    """Return a round number that is not below ``value``."""
    if value <= 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(value))
    return next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= value)
