"""The command line of ``make bench``."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from journal.client import run
from journal.collector import calm_the_collector
from scripts.bench import etcd, h2load, report
from scripts.bench.etcd import Etcd
from scripts.bench.machine import UNARY, echo_server, python_loop_ms, stream_echo_us, synced_appends
from scripts.bench.nodes import check_nodes
from scripts.bench.results import Result, percentiles
from scripts.bench.rows import ROWS, Bench, chosen
from synod.local import LocalCluster

CURVE = (1, 8, 32, 64, 256, 512, 1_024)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="make bench",
        description="Measure Synod and etcd side by side, three synced nodes each, in alternating rounds.",
        epilog="Examples: make bench; make bench CASE=lone; make bench ARGS='--rounds 5 --seconds 4'. "
        "Exit code 0: it was measured, whatever the goals; 2: it could not be.",
    )
    found.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    found.add_argument("--seconds", type=float, default=3.0, help="measured time of each round")
    found.add_argument("--rounds", type=int, default=3, help="rounds of each row; medians are shown")
    found.add_argument("--value-bytes", type=int, default=256)
    found.add_argument("--dir", type=Path, help="where the nodes' data goes (default: a temporary folder)")
    found.add_argument(
        "--out", type=Path, default=Path("bench-out"), help="where results.json and curves.svg go"
    )
    found.add_argument("--moto", type=Path, help="where moto_server is (row api), if not on the PATH")
    found.add_argument("--no-etcd", action="store_true", help="measure ours alone")
    found.add_argument(
        "--full", action="store_true", help="at full size, and what takes long: minutes, where it is seconds"
    )
    found.add_argument("--curves", action="store_true", help="draw throughput against latency as well")
    found.add_argument("--json", action="store_true", help="print the JSON instead of the table")
    return found


async def machine_limits(folder: Path, seconds: float) -> dict[str, Any]:
    """Measure what the machine itself needs."""
    disk = synced_appends(folder, min(2.0, seconds))
    async with echo_server() as echo:
        stream_us = await stream_echo_us(echo)
        unary = await h2load.run(echo, UNARY, bytes(300), inflight=256, seconds=seconds)
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "python_loop_ms": round(python_loop_ms(), 1),
        "system": platform.system(),
        "synced_append": disk,
        "echo": {"stream_us": round(stream_us, 1), "unary_per_s": round(unary.per_s)},
    }


async def draw(bench: Bench) -> str:
    """Measure each concurrency once on both sides; return the picture."""
    series: dict[str, list[tuple[int, float, float]]] = {"Synod": []}
    if bench.etcd is not None:
        series["etcd"] = []
    for inflight in CURVE:
        with bench.console.status(f"curves: {inflight} in flight"):
            level = await bench.client_level(inflight)
            series["Synod"].append((inflight, level.rate, percentiles(level.latencies_ms)["p50"]))
            if bench.etcd is not None:
                load = await bench.etcd_puts(inflight)
                series["etcd"].append((inflight, load.per_s, percentiles(load.latencies_ms)["p50"]))
    return report.curves({name: tuple(curve) for name, curve in series.items()})


async def measure(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, Any], list[Result], str]:
    with bench.console.status("what the machine itself needs"):
        machine = await machine_limits(bench.folder, bench.seconds)
    results: list[Result] = []
    calm_the_collector()  # as schedulers and the API do
    for name, row in chosen(options.rows):
        began = time.monotonic()
        with bench.console.status(f"{name}: {bench.rounds} rounds of {bench.seconds:g} s on each side"):
            gc.collect()
            results += await row(bench)
        bench.console.print(f"{name}: measured in {time.monotonic() - began:.0f} s")
    return machine, results, await draw(bench) if options.curves else ""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 140)
    try:
        chosen(options.rows)
    except ValueError as error:
        console.print(f"bench: {error}")
        return 2
    if problem := h2load.missing():
        console.print(f"bench: not installed: {problem}")
        return 2
    without = options.no_etcd or bool(etcd.missing())
    if without:
        console.print(f"etcd is not measured: {etcd.missing() or '--no-etcd'}. Ours alone has no ratios.")
    folder = Path(tempfile.mkdtemp(prefix="synod-bench-", dir=options.dir))
    cluster = LocalCluster.create(folder / "synod", nodes=3)
    peer = None if without else Etcd(folder / "etcd")
    try:
        with console.status("three nodes of each start"):
            cluster.start()
            cluster.wait_ready()
            if peer is not None:
                peer.start()
        value = os.urandom(options.value_bytes)
        bench = Bench(
            cluster,
            peer,
            folder,
            options.seconds,
            options.rounds,
            value,
            console,
            full=options.full,
            moto=options.moto,
        )
        machine, results, picture = run(measure, bench, options)
        check_nodes(cluster)
    except (h2load.LoadFailed, RuntimeError) as error:
        console.print(f"bench: {error}")
        return 2
    finally:
        cluster.stop()
        if peer is not None:
            peer.stop()
        shutil.rmtree(folder, ignore_errors=True)
    whole = {"machine": machine, "rows": [result.as_json() for result in results]}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(whole, indent=1) + "\n")
    if picture:
        (options.out / "curves.svg").write_text(picture)
    if options.json:
        print(json.dumps(whole))
    else:
        console.print(report.table(results, machine))
        console.print(f"{options.out}/: results.json{' and curves.svg' if picture else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
