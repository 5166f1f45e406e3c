"""``make bench-check``: how much Python an offer runs, counted and not timed.

Three whole nodes run in one thread on virtual time, in memory, from one seed, and every bytecode
instruction that the journal's own code runs is counted: the same on every machine and at any load, for
one version of Python. ``costs.json`` keeps what it was; it fails where an offer has become dearer by more
than ``SLACK``. What C code takes (LevelDB, msgpack, gRPC) is not in it, nor is waiting: see ``make bench``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from journal.offers import Offer, Put
from tests.node.cluster import Cluster, running, submit
from tests.sim import determinism

ROOT = Path(__file__).parents[2]
COSTS = Path(__file__).with_name("costs.json")
SLACK = 0.05
"""How much dearer an offer may have become."""

CASES = {"lone": (1, 150), "hundred": (100, 10)}
"""Offers a batch, and batches one after the other."""


@contextmanager
def counted(counts: Counter[str]) -> Iterator[None]:
    """Count the instructions of the journal's code, by module."""
    journal = str(ROOT / "journal")

    def instruction(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            counts[frame.f_code.co_filename] += 1
        return instruction

    def call(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(journal):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return instruction

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


async def _offer(cluster: Cluster, together: int, batches: int) -> None:
    leader = await cluster.leader()
    at = leader.space.revision
    for number in range(batches):
        offers = [
            Offer((Put(b"cost/%d" % index, bytes(256)),), reads=(b"cost/%d" % index,), at=at)
            for index in range(together)
        ]
        verdicts = await submit(leader, *offers, client=b"bench-check", first=1 + number * together)
        assert all(isinstance(verdict, int) for verdict in verdicts), verdicts
        at = leader.space.revision


def measure(together: int, batches: int) -> dict[str, float]:
    """Return the instructions an offer costs all three nodes, by module."""
    counts: Counter[str] = Counter()

    async def main() -> None:
        async with running(3) as cluster:
            await _offer(cluster, together, 3)  # what is done once is not counted
            with counted(counts):
                await _offer(cluster, together, batches)

    determinism.run(1, main)
    offers = together * batches
    found = {str(Path(name).relative_to(ROOT)): round(count / offers, 1) for name, count in counts.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def show(console: Console, case: str, now: dict[str, float], before: dict[str, float]) -> None:
    table = Table(title=f"{case}: instructions an offer, three nodes together")
    for name in ("module", "before", "now"):
        table.add_column(name, justify="left" if name == "module" else "right")
    for module in sorted(now.keys() | before.keys(), key=lambda name: -now.get(name, 0.0))[:15]:
        table.add_row(module, f"{before.get(module, 0.0):,.0f}", f"{now.get(module, 0.0):,.0f}")
    table.add_section()
    table.add_row("in all", f"{sum(before.values()):,.0f}", f"{sum(now.values()):,.0f}")
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make bench-check",
        description="Count the instructions that an offer runs; compare them with what is kept.",
        epilog="Exit code 0: no dearer than before; 1: dearer; 2: nothing is kept for this Python.",
    )
    parser.add_argument("--keep", action="store_true", help="write what is counted now into costs.json")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept: dict[str, dict[str, dict[str, float]]] = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    now = {case: measure(*size) for case, size in CASES.items()}
    if options.json:
        print(json.dumps({"python": version, "now": now, "kept": kept.get(version)}))
    if options.keep:
        COSTS.write_text(json.dumps({**kept, version: now}, indent=1, sort_keys=True) + "\n")
        console.print(f"kept for Python {version}")
        return 0
    if version not in kept:
        console.print(f"bench-check: nothing is kept for Python {version}: ARGS=--keep keeps what is counted")
        return 2
    dearer = []
    for case, found in now.items():
        before = kept[version].get(case, {})
        if not options.json:
            show(console, case, found, before)
        if sum(found.values()) > sum(before.values()) * (1 + SLACK):
            dearer.append(case)
    if dearer:
        console.print(f"dearer by over {SLACK:.0%}: {', '.join(dearer)}. If that is worth it: ARGS=--keep")
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
