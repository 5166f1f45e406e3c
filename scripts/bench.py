"""How many offers a second, and how long one takes: three synced nodes on this machine.

``make bench`` starts a fresh cluster of real processes, offers for a few seconds at each level of
concurrency, and prints a table and one line of JSON. Next to it stands what the machine itself
needs for one synced append, measured in the same run and on the same disk: no journal can commit
faster than its disk, and no number means anything without the machine it was measured on.

An offer has one read condition and puts one value of 256 bytes (see ``--value-bytes``). Two ways in:

* ``wire``: packed batches over one connection: what the journal can do;
* ``client``: ``journal.client``, each offer awaited by its own call or in ``offer_many`` of 100: what a
  program gets from it.

The load and all nodes share this machine's cores, so the table also says how busy each process was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import trio
from rich.console import Console
from rich.table import Table

from journal.client import ClientConfig, Journal, connect
from journal.connection import LINEARIZABLE, Connection
from journal.errors import JournalError, NotLeader
from journal.offers import Offer, Put, pack_batch, pack_offer
from journal.rpc.connection import GrpcConnector
from synod.local import LocalCluster

APPEND_BYTES = 4096
MESSAGE_OFFERS = 100
WARM_UP_S = 0.5


@dataclass(slots=True)
class Level:
    """One line of the table: so many offers in flight, in messages of so many."""

    way: str
    inflight: int
    a_message: int
    offers: int = 0
    failed: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    """Cores used by each process meanwhile."""

    @property
    def rate(self) -> float:
        return self.offers / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "way": self.way,
            "inflight": self.inflight,
            "offers_a_message": self.a_message,
            "offers_per_s": round(self.rate),
            "latency_ms": percentiles(self.latencies_ms),
            "offers": self.offers,
            "failed": self.failed,
            "seconds": round(self.seconds, 2),
            "cores": {name: round(used, 2) for name, used in self.cpu.items()},
            "cpu_us_an_offer": {name: round(used, 1) for name, used in self.cpu_us().items()},
        }

    def cpu_us(self) -> dict[str, float]:
        """Return the processor time that one offer costs each process, in microseconds."""
        return {name: used / self.rate * 1e6 if self.rate else 0.0 for name, used in self.cpu.items()}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and the maximum."""
    if not values:
        return {}
    ordered = sorted(values)
    found = {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}
    return {name: round(value, 3) for name, value in {**found, "max": ordered[-1]}.items()}


def synced_appends(folder: Path, seconds: float) -> dict[str, Any]:
    """Append 4 KiB and sync, again and again: what this disk needs for what a node must do."""
    latencies: list[float] = []
    block = os.urandom(APPEND_BYTES)
    path = folder / "append"
    with path.open("wb", buffering=0) as file:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            file.write(block)
            os.fdatasync(file.fileno())
            latencies.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return {
        "bytes": APPEND_BYTES,
        "appends_per_s": round(len(latencies) / (sum(latencies) / 1000)),
        "latency_ms": percentiles(latencies),
    }


class Cores:
    """How many cores each process used between two moments."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._began = time.monotonic()
        self._at = self._seconds()

    def _seconds(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: used.user + used.system for name, used in times.items()}

    def used(self) -> dict[str, float]:
        elapsed = time.monotonic() - self._began
        return {name: (now - self._at[name]) / elapsed for name, now in self._seconds().items()}


Work = Callable[[int], Awaitable[tuple[int, int]]]
"""One round of a worker: (offers accepted, offers not)."""


async def measure(level: Level, workers: int, work: Work, seconds: float, processes: dict[str, int]) -> None:
    """Run ``workers`` loops of ``work`` and count what ends within the measured time."""
    began = trio.current_time() + WARM_UP_S
    end = began + seconds

    async def loop(worker: int) -> None:
        while (started := trio.current_time()) < end:
            accepted, failed = await work(worker)
            now = trio.current_time()
            if started >= began and now <= end:
                level.offers += accepted
                level.failed += failed
                level.latencies_ms.append((now - started) * 1000)

    async with trio.open_nursery() as nursery:
        for worker in range(workers):
            nursery.start_soon(loop, worker)
        await trio.sleep_until(began)
        cores = Cores(processes)
        await trio.sleep_until(end)
        level.cpu = cores.used()
    level.seconds = seconds


class Wire:
    """Workers that send packed batches over one connection. Each has keys and an identity of its own."""

    def __init__(self, connection: Connection, workers: int, a_message: int, value: bytes, base: int) -> None:
        self._connection = connection
        self._value = value
        self._base = base
        self._sequence = [0] * workers
        self._at = [base] * workers
        self._client = [os.urandom(8) for _ in range(workers)]
        self._keys = [[b"bench/%d/%d" % (w, i) for i in range(a_message)] for w in range(workers)]

    async def round(self, worker: int) -> tuple[int, int]:
        first, at = self._sequence[worker], self._at[worker]
        packed = [
            pack_offer(first + i, Offer((Put(key, self._value),), reads=(key,), at=at))
            for i, key in enumerate(self._keys[worker])
        ]
        self._sequence[worker] = first + len(packed)
        verdicts = await self._connection.submit(pack_batch(self._client[worker], first, self._base, packed))
        accepted = [verdict for verdict in verdicts if isinstance(verdict, int)]
        self._at[worker] = max(accepted, default=at)
        return len(accepted), len(verdicts) - len(accepted)


class Client:
    """Workers that use the client library, as a program would."""

    def __init__(self, journal: Journal, workers: int, together: int, value: bytes, base: int) -> None:
        self._journal = journal
        self._value = value
        self._at = [base] * workers
        self._keys = [[b"bench/%d/%d" % (w, i) for i in range(together)] for w in range(workers)]

    async def round(self, worker: int) -> tuple[int, int]:
        at = self._at[worker]
        offers = [Offer((Put(key, self._value),), reads=(key,), at=at) for key in self._keys[worker]]
        try:
            if len(offers) == 1:
                self._at[worker] = await self._journal.offer(offers[0])
                return 1, 0
            verdicts = await self._journal.offer_many(offers)
        except JournalError:
            return 0, len(offers)
        accepted = [verdict for verdict in verdicts if isinstance(verdict, int)]
        self._at[worker] = max(accepted, default=at)
        return len(accepted), len(offers) - len(accepted)


async def leader_connection(connector: GrpcConnector, endpoints: Sequence[str]) -> Connection:
    for endpoint in endpoints:
        connection = await connector.connect(endpoint)
        if (await connection.status()).role == "leader":
            return connection
        await connection.aclose()
    raise NotLeader(None, None)


async def run_levels(cluster: LocalCluster, seconds: float, value: bytes, console: Console) -> list[Level]:
    """Measure every level against the running cluster."""
    leader = await trio.to_thread.run_sync(cluster.leader)
    pids = cluster.running()
    processes = {
        ("leader" if name == f"node-{leader}" else name.replace("node", "follower")): pid
        for name, pid in pids.items()
    }
    processes["load"] = os.getpid()
    levels = [
        Level(way, inflight, a_message)
        for way in ("wire", "client")
        for inflight, a_message in ((1, 1), (64, 1), (6400, MESSAGE_OFFERS))
    ]
    for level in levels:
        workers = level.inflight // level.a_message
        with console.status(f"{level.way}: {level.inflight:,} in flight, {level.a_message} an offer message"):
            if level.way == "wire":
                connector = GrpcConnector(cluster=cluster.cluster_id)
                connection = await leader_connection(connector, cluster.endpoints)
                base = (await connection.get([], at=None, consistency=LINEARIZABLE)).revision
                wire = Wire(connection, workers, level.a_message, value, base)
                await measure(level, workers, wire.round, seconds, processes)
                await connection.aclose()
                await connector.aclose()
            else:
                # Exactly so many messages of exactly so many offers; left alone, the client makes
                # fewer and larger ones of whatever waits.
                config = ClientConfig(messages_inflight_max=workers, message_offers_max=level.a_message)
                async with connect(cluster.endpoints, cluster=cluster.cluster_id, config=config) as journal:
                    base = await journal.revision()
                    client = Client(journal, workers, level.a_message, value, base)
                    await measure(level, workers, client.round, seconds, processes)
    return levels


def check_nodes(cluster: LocalCluster) -> str:
    """Return the chain that all nodes agree on, once all have folded the same; raises if they differ."""
    deadline = time.monotonic() + 20
    while True:
        said = [view.said for view in cluster.status() if view.said is not None]
        if len(said) == len(cluster.nodes) and len({status.applied for status in said}) == 1:
            chains = {status.chain for status in said}
            if len(chains) != 1:
                raise RuntimeError(f"the nodes' chains differ after the run: {sorted(chains)}")
            return chains.pop()
        if time.monotonic() > deadline:
            raise RuntimeError("the followers did not catch up within 20 s of the run")
        time.sleep(0.1)


def show(console: Console, disk: dict[str, Any], levels: Sequence[Level], value_bytes: int) -> None:
    table = Table(title=f"3 nodes, synced, offers of 1 read and 1 put of {value_bytes} B")
    table.add_column("way in")
    for name in ("in flight", "a message", "offers/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed"):
        table.add_column(name, justify="right")
    for name in ("leader", "followers", "load"):
        table.add_column(f"{name}\ncores", justify="right")
    for level in levels:
        p = percentiles(level.latencies_ms)
        cores = (
            f"{level.cpu['leader']:.2f}",
            " ".join(f"{used:.2f}" for name, used in level.cpu.items() if name.startswith("follower")),
            f"{level.cpu['load']:.2f}",
        )
        numbers = [f"{p.get(name, 0):.2f}" for name in ("p50", "p90", "p99", "max")]
        rate = f"{level.rate:,.0f}"
        table.add_row(
            level.way, f"{level.inflight:,}", str(level.a_message), rate, *numbers, str(level.failed), *cores
        )
    d = disk["latency_ms"]
    numbers = [f"{d[name]:.2f}" for name in ("p50", "p90", "p99", "max")]
    what = f"this disk: append and sync {APPEND_BYTES} B"
    table.add_row(what, "1", "", f"{disk['appends_per_s']:,}", *numbers, "", "", "", "")
    console.print(table)
    console.print(where_it_goes(levels[2]))


def where_it_goes(level: Level) -> str:
    """Say in words what bounds the highest rate: the processors, or the wait for the disks."""
    cost = level.cpu_us()
    total = sum(cost.values())
    cores = os.cpu_count() or 1
    parts = ", ".join(f"{name} {used:.1f}" for name, used in cost.items())
    busy = sum(level.cpu.values())
    return (
        f"At {level.inflight:,} in flight one offer costs {total:.0f} µs of processor time in all "
        f"({parts}): {cores} cores could do {cores / total * 1e6:,.0f} offers/s; "
        f"{busy:.2f} of them were busy here."
        if total
        else "Nothing was committed."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__.split("\n\n", maxsplit=1)[0] if __doc__ else ""
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of each level")
    parser.add_argument("--value-bytes", type=int, default=256)
    parser.add_argument("--dir", type=Path, help="where the nodes' data goes (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print only the JSON")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 120)
    folder = Path(tempfile.mkdtemp(prefix="synod-bench-", dir=options.dir))
    cluster = LocalCluster.create(folder / "cluster", nodes=3)
    try:
        with console.status("synced appends on this disk"):
            disk = synced_appends(folder, 2.0)
        with console.status("three nodes start"):
            cluster.start()
            cluster.wait_ready()
        value = os.urandom(options.value_bytes)
        levels = trio.run(run_levels, cluster, options.seconds, value, console)
        with console.status("the nodes' chains are compared"):
            chain = check_nodes(cluster)
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if not options.json:
        show(console, disk, levels, options.value_bytes)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    result = {
        "machine": machine,
        "synced_append": disk,
        "value_bytes": options.value_bytes,
        "levels": [level.as_json() for level in levels],
        "chain": chain,
    }
    print(json.dumps(result))
    return 1 if any(level.failed for level in levels) else 0


if __name__ == "__main__":
    sys.exit(main())
