"""A node that is a million revisions behind, and compaction of as many, under load: what do they cost?

``make catch-up`` starts three real nodes, kills a follower, lets the others commit ``--revisions``
offers, and then measures the same load in three situations:

* ``by log``: the follower is back, and learns what it missed entry by entry.
* ``compacting``: killed again, and a further ``--revisions`` later: history and log are removed.
* ``by snapshot``: it is back once more: the log that it would need is gone, and it is sent the space.

Each is measured right after a few seconds of the same load in the same state of the cluster without what
it is about (``before``). Of each: offers a second, and as a ratio of before; the longest time between two
acknowledgements; the latency of a lone prober; what memory the leader and the node that catches up took
at most; how long it took. All processes share this machine's cores, and so the ratio tells of those too: with
fewer cores than nodes, a third node that works costs the others what it uses, whatever it does.

The load is closed: so many workers, each with one message under way, and a pause between two
(``--pause-ms``), which leaves the machine room for the node that catches up. Without a pause the load takes
every core, and the ratio says little but how many there are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psutil
import trio
from rich.console import Console
from rich.table import Table

from journal.connection import LOCAL, Connection
from journal.errors import JournalError
from journal.offers import Offer, Put, pack_batch, pack_offer
from journal.rpc.connection import GrpcConnector
from journal.types import Revision
from scripts.bench.nodes import check_nodes
from scripts.bench.results import percentiles
from synod.local import LocalCluster
from synod.local_state import HTTP_PORT_ABOVE

MESSAGE_OFFERS = 100
FILL_WORKERS = 16
LOG_SLOTS_RETAINED = 64
COMPACTIONS = 5
SITUATIONS = ("log", "compacting", "snapshot")
LOOK_INTERVAL_S = 0.1
IN_STEP_SLOTS = 32
"""A node that is no further behind than its window is in step: it gets what is proposed, not what was."""


class Watch:
    """Memory and processor time of processes, sampled until it is told to stop."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._cpu = self._seconds()
        self.memory_mb = {name: (mb, mb) for name, mb in self._resident().items()}

    def _seconds(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: used.user + used.system for name, used in times.items()}

    def _resident(self) -> dict[str, float]:
        """What each has allocated: without the files that LevelDB maps, which the kernel may drop."""
        found = {name: process.memory_info() for name, process in self._processes.items()}
        return {name: (info.rss - info.shared) / 1e6 for name, info in found.items()}

    def look(self) -> None:
        for name, mb in self._resident().items():
            began, most = self.memory_mb[name]
            self.memory_mb[name] = began, max(most, mb)

    def cpu_s(self) -> dict[str, float]:
        return {name: now - self._cpu[name] for name, now in self._seconds().items()}


@dataclass(slots=True)
class Situation:
    """One line of the table."""

    name: str
    offers: int = 0
    seconds: float = 0.0
    gaps_ms: list[float] = field(default_factory=list)
    """Between two acknowledgements."""
    probes_ms: list[float] = field(default_factory=list)
    memory_mb: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By process: allocated at the beginning, and at most."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """By process: processor time used."""
    facts: dict[str, Any] = field(default_factory=dict)
    before: Situation | None = None

    @property
    def ratio(self) -> float:
        return self.rate / self.before.rate if self.before is not None and self.before.rate else math.nan

    def add(self, offers: int, seconds: float, gaps_ms: list[float]) -> None:
        """Count a stretch of time in."""
        self.offers += offers
        self.seconds += seconds
        self.gaps_ms += gaps_ms

    def add_use(self, watch: Watch) -> None:
        for name, (began, most) in watch.memory_mb.items():
            there = self.memory_mb.get(name, (began, most))
            self.memory_mb[name] = there[0], max(there[1], most)
        for name, seconds in watch.cpu_s().items():
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + seconds

    @property
    def cores(self) -> dict[str, float]:
        return {name: used / self.seconds for name, used in self.cpu_s.items()} if self.seconds else {}

    def gap_ms(self, quantile: float) -> float:
        """Of the time, this share lies in gaps that are no longer."""
        ordered = sorted(self.gaps_ms)
        left = sum(ordered) * quantile
        for gap in ordered:
            left -= gap
            if left <= 0:
                return gap
        return ordered[-1] if ordered else 0.0

    @property
    def rate(self) -> float:
        return self.offers / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "situation": self.name,
            "seconds": round(self.seconds, 2),
            "offers_per_s": round(self.rate),
            "gap_ms": {"p99": round(self.gap_ms(0.99), 1), "max": round(self.gap_ms(1.0), 1)},
            "probe_ms": percentiles(self.probes_ms),
            "memory_mb": {name: [round(mb) for mb in pair] for name, pair in self.memory_mb.items()},
            "cores": {name: round(used, 2) for name, used in self.cores.items()},
            **self.facts,
            **(
                {}
                if self.before is None
                else {"ratio": round(self.ratio, 3), "before": self.before.as_json()}
            ),
        }


class Load:
    """Workers that offer batches over one connection, and note when they were acknowledged."""

    def __init__(self, connection: Connection, workers: int, keys: int, value_bytes: int) -> None:
        self._connection = connection
        self._keys = keys
        self._value = os.urandom(value_bytes)
        self._numbers = count()
        self._clients = [os.urandom(8) for _ in range(max(workers, FILL_WORKERS))]
        self._sequences = [0] * len(self._clients)
        self.offers = 0
        self.acknowledged_at = math.nan
        self.gaps_ms: list[float] = []

    def begin(self) -> None:
        """Count from here."""
        self.offers, self.gaps_ms, self.acknowledged_at = 0, [], trio.current_time()

    async def round(self, worker: int) -> None:
        first = self._sequences[worker]
        self._sequences[worker] = first + MESSAGE_OFFERS
        packed = [
            pack_offer(
                first + i, Offer((Put(b"load/%08d" % (next(self._numbers) % self._keys), self._value),))
            )
            for i in range(MESSAGE_OFFERS)
        ]
        await self._connection.submit(pack_batch(self._clients[worker], first, 0, packed))
        now = trio.current_time()
        self.gaps_ms.append((now - self.acknowledged_at) * 1000)
        self.acknowledged_at = now
        self.offers += MESSAGE_OFFERS

    async def probe(self, latencies_ms: list[float]) -> None:
        """Offer one thing at a time, as a lone client would."""
        client = os.urandom(8)
        for sequence in count():
            began = trio.current_time()
            offer = pack_offer(sequence, Offer((Put(b"probe", b"x"),)))
            await self._connection.submit(pack_batch(client, sequence, 0, [offer]))
            latencies_ms.append((trio.current_time() - began) * 1000)
            await trio.sleep(0.01)


Ended = Callable[[], bool]


class Bench:
    """A running cluster, and the load on its leader."""

    def __init__(self, cluster: LocalCluster, options: argparse.Namespace, console: Console) -> None:
        self.cluster = cluster
        self.options = options
        self.console = console
        self.situations: list[Situation] = []

    async def run(self) -> None:
        cluster, options = self.cluster, self.options
        leader = await trio.to_thread.run_sync(cluster.leader)
        assert leader is not None
        self.leader = leader
        self.follower = max(node for node in cluster.nodes if node != leader)
        async with AsyncExitStack() as stack:
            connector = GrpcConnector(cluster=cluster.cluster_id)
            stack.push_async_callback(connector.aclose)
            self.connector = connector
            connection = await connector.connect(cluster.endpoint(leader))
            stack.push_async_callback(connection.aclose)
            self.connection = connection
            self.load = Load(connection, options.workers, options.keys, options.value_bytes)
            cluster.kill_node(self.follower)
            if "log" in options.situations:
                await self._fill()
                await self._catch_up(Situation("by log"))
                cluster.kill_node(self.follower)
            if "compacting" in options.situations or "snapshot" in options.situations:
                await self._fill()
                await self._compact()
            if "snapshot" in options.situations:
                await self._catch_up(Situation("by snapshot"))
            await trio.to_thread.run_sync(cluster.start_node, self.follower)

    async def _fill(self) -> None:
        began, target = trio.current_time(), await self._revision() + self.options.revisions
        self.load.begin()

        async def loop(worker: int) -> None:
            while revision + self.load.offers < target:
                await self.load.round(worker)

        revision = await self._revision()
        with self.console.status(f"{self.options.revisions:,} revisions without node {self.follower}"):
            async with trio.open_nursery() as nursery:
                for worker in range(FILL_WORKERS):
                    nursery.start_soon(loop, worker)
        seconds = trio.current_time() - began
        self.console.print(
            f"{self.load.offers:,} offers in {seconds:.1f} s while node {self.follower} was down"
        )

    async def _revision(self) -> int:
        return (await self.connection.get([], at=None, consistency=LOCAL)).revision

    async def _before(self, situation: Situation, seconds: float) -> None:
        if situation.before is None:
            situation.before = Situation("before")
            self.situations.append(situation)
        await self._measure(situation.before, self._after(seconds))

    def _after(self, seconds: float) -> Ended:
        ends_at = trio.current_time() + seconds
        return lambda: trio.current_time() >= ends_at

    async def _measure(self, situation: Situation, ended: Ended) -> None:
        """Run the load until ``ended``, and note in ``situation`` what it came to."""
        load, pause_s = self.load, self.options.pause_ms / 1000
        pids = self.cluster.running()
        watch = Watch(
            {
                name: pids[f"node-{node}"]
                for name, node in (("leader", self.leader), ("behind", self.follower))
                if f"node-{node}" in pids
            }
        )

        async def loop(worker: int) -> None:
            while True:
                await load.round(worker)
                await trio.sleep(pause_s)

        load.begin()
        began = trio.current_time()
        with self.console.status(situation.name):
            async with trio.open_nursery() as nursery:
                for worker in range(self.options.workers):
                    nursery.start_soon(loop, worker)
                nursery.start_soon(load.probe, situation.probes_ms)
                while not ended():
                    await trio.sleep(LOOK_INTERVAL_S)
                    watch.look()
                now = trio.current_time()
                silence_ms = (now - load.acknowledged_at) * 1000
                situation.add(load.offers, now - began, [*load.gaps_ms, silence_ms])
                situation.add_use(watch)
                nursery.cancel_scope.cancel()

    async def _catch_up(self, situation: Situation) -> None:
        """Start the follower under load; measure until it is in step."""
        await self._before(situation, self.options.seconds)
        target = await self._revision()
        await trio.to_thread.run_sync(self.cluster.start_node, self.follower)
        behind = await self.connector.connect(self.cluster.endpoint(self.follower))
        in_step = False

        async def look() -> None:
            nonlocal in_step
            while not in_step:
                try:
                    status = await behind.status()
                except JournalError:
                    pass  # it is not up yet
                else:
                    situation.facts.setdefault("behind_at_first", target - status.revision)
                    in_step = status.revision >= target and status.lag <= IN_STEP_SLOTS
                await trio.sleep(LOOK_INTERVAL_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await self._measure(situation, lambda: in_step)
        await behind.aclose()
        metrics = await self._metrics(self.follower)
        situation.facts["snapshots_installed"] = int(metrics["synod_snapshots_installed_total"])
        situation.facts["received_mb"] = round(metrics["synod_snapshot_received_bytes_total"] / 1e6, 1)
        situation.facts["caught_up_per_s"] = round(situation.facts["behind_at_first"] / situation.seconds)

    async def _compact(self) -> None:
        """Compact everything, and measure until history and log are gone: in parts, between which the load
        runs alone, so that what else the machine does is in both."""
        situation = Situation("compacting")
        before = await self._metrics(self.leader)
        first, last = int(before["synod_compacted_revision"]), await self._revision()
        for part in range(1, COMPACTIONS + 1):
            await self._before(situation, self.options.seconds / 2)
            await self.connection.compact(Revision(first + (last - first) * part // COMPACTIONS))
            await self._until_compacted(situation)
        after = await self._metrics(self.leader)
        for name, metric in (("slots_trimmed", "log_first_slot"), ("compacted", "compacted_revision")):
            situation.facts[name] = int(after[f"synod_{metric}"] - before[f"synod_{metric}"])

    async def _until_compacted(self, situation: Situation) -> None:
        done = False

        async def look() -> None:
            nonlocal done
            while not done:
                done = not (await self._metrics(self.leader))["synod_compacting"]
                await trio.sleep(LOOK_INTERVAL_S)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await self._measure(situation, lambda: done)

    async def _metrics(self, node: int) -> dict[str, float]:
        host, _colon, port = self.cluster.endpoint(node).rpartition(":")
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{host}:{int(port) + HTTP_PORT_ABOVE}/metrics")
        lines = (line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _space, value in lines}


def show(console: Console, bench: Bench) -> None:
    table = Table(title=f"{bench.options.revisions:,} revisions; 3 nodes on {os.cpu_count()} cores")
    for name in (
        "situation",
        "took s",
        "offers/s",
        "of before",
        "gap p99",
        "max ms",
        "probe p50",
        "p99",
        "max ms",
    ):
        table.add_column(name, justify="left" if name == "situation" else "right")
    for name in ("leader MB", "behind MB", "leader cores", "behind cores"):
        table.add_column(name, justify="right")
    for each in (line for one in bench.situations for line in (one.before, one) if line is not None):
        probes = percentiles(each.probes_ms)
        memory = [each.memory_mb.get(name) for name in ("leader", "behind")]
        table.add_row(
            each.name,
            f"{each.seconds:.1f}",
            f"{each.rate:,.0f}",
            "" if each.before is None else f"{each.ratio:.2f}",
            f"{each.gap_ms(0.99):.0f}",
            f"{each.gap_ms(1.0):.0f}",
            *(f"{probes.get(name, 0):.1f}" for name in ("p50", "p99", "max")),
            *(f"{pair[0]:.0f} → {pair[1]:.0f}" if pair else "" for pair in memory),
            *(f"{each.cores.get(name, 0):.2f}" for name in ("leader", "behind")),
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make catch-up", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--revisions", type=int, default=1_000_000, help="how far behind it is to be")
    parser.add_argument("--keys", type=int, default=200_000, help="how many keys they are of")
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument(
        "--workers", type=int, default=4, help="messages of 100 offers in flight while measuring"
    )
    parser.add_argument("--pause-ms", type=float, default=20.0, help="between two messages of a worker")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each `before` is measured")
    parser.add_argument(
        "--situations", nargs="+", choices=SITUATIONS, default=SITUATIONS, help="which of them (default: all)"
    )
    parser.add_argument(
        "--election-timeout-ms",
        type=int,
        default=5_000,
        help="long: a stop of the leader is to be seen as a gap, not to end its leadership",
    )
    parser.add_argument("--keep", action="store_true", help="leave the nodes' data and logs there")
    parser.add_argument("--dir", type=Path, help="where the nodes' data goes (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print only the JSON")
    options = parser.parse_args(arguments)
    console = Console(stderr=options.json, width=None if sys.stdout.isatty() else 160)
    folder = Path(tempfile.mkdtemp(prefix="synod-catch-up-", dir=options.dir))
    # The log is kept for a few slots only, so that what is a million revisions behind needs a snapshot.
    node_args = [
        *("--log-slots-retained", str(LOG_SLOTS_RETAINED)),
        *("--election-timeout-ms", str(options.election_timeout_ms)),
    ]
    cluster = LocalCluster.create(folder / "cluster", nodes=3, node_args=node_args)
    bench = Bench(cluster, options, console)
    try:
        with console.status("three nodes start"):
            cluster.start()
            cluster.wait_ready()
        trio.run(bench.run)
        chain = check_nodes(cluster)
    finally:
        cluster.stop()
        if options.keep:
            console.print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if not options.json:
        show(console, bench)
    lines = [each.as_json() for each in bench.situations]
    print(json.dumps({"revisions": options.revisions, "situations": lines, "chain": chain}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
