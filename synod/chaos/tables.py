"""The tables of the report page: what was judged, who was at work, what was done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from synod.chaos.timeline import Kind, Timeline

WHAT = {
    "mixed": "every kind of condition and mutation on few keys",
    "register": "reads and conditional writes of single keys",
    "bank": "transfers between accounts",
    "lists": "appends to lists that only grow",
    "counters": "adjust within bounds",
    "sets": "adds to and removes from sets",
    "leases": "grants, keeps alive, revokes or forgets",
    "schedulers": "several schedulers claim cpu and ports of the same instances",
    "readers": "asks each node by itself, leader or not",
    "tails": "follows from anywhere, with and without filters",
}
"""What the clients of each kind do."""


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def rules_table(rules: Mapping[str, int]) -> str:
    """Return what was judged, each with its outcome."""
    items = [
        f"<li><b class='{'bad' if count else 'good'}'>{f'violated {count} times' if count else 'holds'}</b> "
        f"{escape(rule)}</li>"
        for rule, count in rules.items()
    ]
    return f"<ul class='rules'>{''.join(items)}</ul>" if items else ""


def kinds_table(timeline: Timeline) -> str:
    """Return what the clients of each kind have asked for and got."""
    if not timeline.kinds:
        return ""
    names = ["clients", "accepted", "rejected", "unknown", "refused", "reads, tails, …", "median", "99 %"]
    head = "<th>kind</th><th>what they do</th>" + "".join(f"<th class='n'>{name}</th>" for name in names)
    rows = "".join(_kind(name, timeline.kinds[name]) for name in WHAT if name in timeline.kinds)
    return f"<h2>Who was at work</h2><table><tr>{head}</tr>{rows}</table>"


def _kind(name: str, kind: Kind) -> str:
    latencies = kind.latencies_s
    times = [duration(latencies[int(len(latencies) * part)]) if latencies else "" for part in (0.5, 0.99)]
    numbers = [f"{number:,}" for number in (len(kind.clients), *kind.outcomes.values(), kind.others)]
    cells = _cells([*numbers, *times])
    return f"<tr><td>{escape(name)}</td><td>{escape(WHAT[name])}</td>{cells}</tr>"


def faults_table(timeline: Timeline) -> str:
    rows = "".join(
        f"<tr>{_cells([f'{span.begin:.1f} s', f'{span.end - span.begin:.1f} s'])}"
        f"<td>{escape(span.what)}</td><td>{escape(span.text)}</td>"
        f"{_cells([duration(span.silence_s), '' if span.back_s is None else duration(span.back_s)])}</tr>"
        for span in timeline.faults
    )
    numbers = "<th class='n'>from</th><th class='n'>for</th>"
    answers = "<th class='n'>longest silence in it</th><th class='n'>back after</th>"
    head = f"<tr>{numbers}<th>kind</th><th>what was done</th>{answers}</tr>"
    note = (
        "<p class='note'>Silence: no offer of any client was acknowledged. Back after: from its end to the"
        " next acknowledgement; where faults overlap, the other one may still go on.</p>"
    )
    return f"<h2>Faults</h2>{note}<table>{head}{rows}</table>"


def facts(cells: Iterable[tuple[str, str]]) -> str:
    """Return numbers with what they are."""
    shown = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in cells)
    return f"<div class='facts'>{shown}</div>"


def _cells(numbers: Iterable[Any]) -> str:
    return "".join(f"<td class='n'>{escape(str(number))}</td>" for number in numbers)
