"""What people read: a table, a line of JSON, and a picture of throughput against latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from scripts.bench.results import Result


def table(results: Sequence[Result], machine: dict[str, Any]) -> Table:
    found = Table(title="medians of alternating rounds on this machine, three synced nodes each")
    found.add_column("row")
    found.add_column("what")
    for name in ("Synod", "beside", "ratio", "goal"):
        found.add_column(name, justify="right")
    found.add_column("")
    for result in results:
        ours, peer = result.our_median, result.peer_median
        sign = "≥" if result.more_is_better else "≤"
        found.add_row(
            result.row,
            result.what,
            f"{_number(ours)} {result.unit}",
            f"{_number(peer)} ({result.peer_name})" if peer is not None else "",
            f"{result.ratio:.2f}" if result.ratio is not None else "",
            f"{sign} {result.goal:g}" if result.goal is not None else "",
            {True: "reached", False: "[bold]missed[/bold]", None: ""}[result.reached],
        )
    found.add_section()
    disk, echo = machine["synced_append"], machine["echo"]
    found.add_row(
        "machine", f"append and sync {disk['bytes']} B", f"{disk['latency_ms']['p50']:.2f} ms", *[""] * 4
    )
    found.add_row("machine", "bare gRPC stream echo, lone", f"{echo['stream_us'] / 1000:.2f} ms", *[""] * 4)
    found.add_row(
        "machine", "bare gRPC unary echo, 256 in flight", f"{echo['unary_per_s']:,.0f} calls/s", *[""] * 4
    )
    loop = f"{machine['python_loop_ms']:.0f} ms"
    found.add_row("machine", f"Python {machine['python']}, 10^6 rounds of a bare loop", loop, *[""] * 4)
    return found


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


WIDTH, HEIGHT, MARGIN = 720, 420, 64


def curves(series: dict[str, Sequence[tuple[int, float, float]]]) -> str:
    """Return an SVG: for each name (offers in flight, offers/s, p50 in ms), throughput against latency."""
    points = [point for curve in series.values() for point in curve]
    rate_max = max(rate for _, rate, _ in points) * 1.08
    latency_max = max(latency for _, _, latency in points) * 1.08
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="system-ui, sans-serif" font-size="12" role="img">',
        "<title>Throughput against latency</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    inner_w, inner_h = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
    for step in range(6):
        x, y = MARGIN + inner_w * step / 5, HEIGHT - MARGIN - inner_h * step / 5
        parts.append(f'<line x1="{MARGIN}" y1="{y:.0f}" x2="{WIDTH - MARGIN}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{MARGIN - 6}" y="{y + 4:.0f}" text-anchor="end">{latency_max * step / 5:.1f}</text>'
        )
        parts.append(
            f'<text x="{x:.0f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">'
            f"{rate_max * step / 5:,.0f}</text>"
        )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 16}" text-anchor="middle">committed offers a second</text>'
    )
    parts.append(f'<text x="16" y="{MARGIN - 16}">p50 latency, ms</text>')
    for (name, curve), colour in zip(series.items(), ("#1f5fa8", "#c0561f", "#2e7d32"), strict=False):
        placed = [
            (MARGIN + inner_w * rate / rate_max, HEIGHT - MARGIN - inner_h * latency / latency_max, inflight)
            for inflight, rate, latency in curve
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, inflight in placed:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
            parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}" fill="{colour}">{inflight}</text>')
        x, y, _ = placed[-1]
        parts.append(
            f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="end" fill="{colour}" font-weight="bold">'
            f"{name}</text>"
        )
    return "\n".join([*parts, "</svg>", ""])
