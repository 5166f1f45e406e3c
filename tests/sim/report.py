"""What a person sees of a run: a line for one that went well, columns for one that did not."""

from __future__ import annotations

import textwrap

from tests.sim.run import Result
from tests.sim.world import Line

COLUMN_WIDTH = 34
LINES_SHOWN = 120


def summary(result: Result) -> str:
    counts = result.counts
    what = "ok" if result.ok else f"FAILED  {result.rule}"
    return (
        f"seed {result.options.seed}: {what}  ({result.options.nodes} nodes, {result.virtual_s:.1f} virtual s"
        f" in {result.cpu_s:.2f} s, {counts.get('revisions', 0)} revisions, {counts.get('lives', 0)} lives,"
        f" {counts.get('sent', 0)} messages)"
    )


def failure(result: Result, *, replay: str, lines: int = LINES_SHOWN) -> str:
    """Everything that is needed to understand and to repeat a failure."""
    last = result.violations[0].time if result.violations else 0.0
    shown = [line for line in result.lines if line.time <= last + 0.001] or result.lines
    parts = [
        summary(result),
        "",
        "drawn options:",
        *textwrap.wrap(str(result.options), 110, initial_indent="  ", subsequent_indent="  "),
        "",
        *([columns(shown[-lines:], result.options.nodes), ""] if lines else []),
        "violations:",
        *[f"  {violation.time:9.4f}  {violation}" for violation in result.violations],
    ]
    if result.details:
        parts += ["", result.details]
    parts += ["", f"replay: {replay}"]
    return "\n".join(parts)


def columns(lines: list[Line], nodes: int) -> str:
    """time | world and clients | node 1 | node 2 | ... (those that joined later, too)"""
    nodes = max([nodes, *(line.column for line in lines)])
    names = ["world", *(f"node {number}" for number in range(1, nodes + 1))]
    width = COLUMN_WIDTH if nodes <= 3 else 26
    rows = [" | ".join([f"{'time':>9}", *(f"{name:<{width}}" for name in names)]).rstrip()]
    for line in lines:
        for index, part in enumerate(textwrap.wrap(line.text, width) or [""]):
            cells = [""] * len(names)
            cells[line.column if 0 <= line.column <= nodes else 0] = part
            when = f"{line.time:9.4f}" if index == 0 else " " * 9
            rows.append(" | ".join([when, *(f"{cell:<{width}}" for cell in cells)]).rstrip())
    return "\n".join(rows)
