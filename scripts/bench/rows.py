"""What is measured, a function a row. Each measures the peer and ours in turns, round after round."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from rich.console import Console

from journal.client import LOCAL, Journal, connect
from journal.connection import LINEARIZABLE
from journal.rpc.connection import GrpcConnector
from journal.rpc.methods import GET, SUBMIT_ONCE
from journal.rpc.pb import journal_pb2 as pb
from scripts.bench import etcd, failover, h2load
from scripts.bench.api import api
from scripts.bench.etcd import Etcd
from scripts.bench.growth import growth
from scripts.bench.loads import Client, Level, Wire, leader_connection, measure
from scripts.bench.machine import UNARY, echo_server
from scripts.bench.placement import placement
from scripts.bench.restart import restart
from scripts.bench.results import Result, percentiles
from scripts.bench.tails import tail
from synod.local import LocalCluster

BULK_MESSAGE_OFFERS = 100
BULK_INFLIGHT = 6_400
ETCD_CONCURRENCIES = (64, 256, 512, 1_024)
SCAN_KEYS = 10_000
SCAN_VALUE_BYTES = 64
GET_KEY = b"bench/get"


@dataclass(slots=True)
class Bench:
    """Everything a row needs. ``etcd`` is None where it is not installed: ours is then measured alone."""

    cluster: LocalCluster
    etcd: Etcd | None
    folder: Path
    seconds: float
    rounds: int
    value: bytes
    console: Console
    full: bool = False
    """Measure what takes long as well, or at full size."""
    moto: Path | None = None
    """moto's server, where it is not on the PATH."""

    async def leader_endpoint(self) -> str:
        return self.cluster.endpoint(await self._leader())

    async def direct_endpoint(self) -> str:
        """Return where the leader serves the unary calls of plain gRPC clients."""
        return self.cluster.direct_endpoint(await self._leader())

    async def _leader(self) -> int:
        leader = await trio.to_thread.run_sync(self.cluster.leader)
        if leader is None:
            raise RuntimeError("our cluster has no leader")
        return leader

    async def etcd_load(self, method: str, message: bytes, inflight: int) -> h2load.Load:
        assert self.etcd is not None
        endpoint = self.etcd.endpoints[await trio.to_thread.run_sync(self.etcd.leader)]
        return await h2load.run(endpoint, method, message, inflight=inflight, seconds=self.seconds)

    async def etcd_puts(self, inflight: int) -> h2load.Load:
        return await self.etcd_load(etcd.PUT, etcd.put(GET_KEY, self.value), inflight)

    def processes(self, leader: int | None) -> dict[str, int]:
        pids = {
            ("leader" if name == f"node-{leader}" else name.replace("node", "follower")): pid
            for name, pid in self.cluster.running().items()
        }
        return {**pids, "load": os.getpid()}

    async def client_level(self, inflight: int) -> Level:
        """Concurrent ``offer()`` calls of one client, which coalesces them as it sees fit."""
        level = Level("client", inflight, 1)
        leader = await trio.to_thread.run_sync(self.cluster.leader)
        async with connect(self.cluster.endpoints, cluster=self.cluster.cluster_id) as journal:
            client = Client(journal, inflight, 1, self.value, await journal.revision())
            await measure(level, inflight, client.round, self.seconds, self.processes(leader))
        return level

    async def wire_level(self, inflight: int, a_message: int) -> Level:
        level = Level("wire", inflight, a_message)
        leader = await trio.to_thread.run_sync(self.cluster.leader)
        connector = GrpcConnector(cluster=self.cluster.cluster_id)
        connection = await leader_connection(connector, self.cluster.endpoints)
        try:
            base = (await connection.get([], at=None, consistency=LINEARIZABLE)).revision
            workers = inflight // a_message
            wire = Wire(connection, workers, a_message, self.value, base)
            await measure(level, workers, wire.round, self.seconds, self.processes(leader))
        finally:
            await connection.aclose()
            await connector.aclose()
        return level


Row = Callable[[Bench], Awaitable[list[Result]]]


async def bulk(bench: Bench) -> list[Result]:
    """One client process, 100 offers a message, against etcd's best over its concurrencies."""
    result = Result(
        "bulk", f"{BULK_MESSAGE_OFFERS} offers a message, {BULK_INFLIGHT:,} in flight", "offers/s", 3.0
    )
    for _ in range(bench.rounds):
        if bench.etcd is not None:
            result.peer.append(max([(await bench.etcd_puts(n)).per_s for n in ETCD_CONCURRENCIES]))
        level = await bench.wire_level(BULK_INFLIGHT, BULK_MESSAGE_OFFERS)
        result.ours.append(level.rate)
        result.details["cpu_us_an_offer"] = {name: round(used, 1) for name, used in level.cpu_us().items()}
        result.details["cores"] = {name: round(used, 2) for name, used in level.cpu.items()}
    return [result]


async def concurrent(bench: Bench) -> list[Result]:
    """Concurrent offer() calls of one client, against etcd with as many in flight."""
    results = []
    for inflight in (64, 512):
        result = Result("concurrent", f"{inflight} offer() calls in flight", "offers/s", 1.5)
        for _ in range(bench.rounds):
            if bench.etcd is not None:
                result.peer.append((await bench.etcd_puts(inflight)).per_s)
            level = await bench.client_level(inflight)
            result.ours.append(level.rate)
            result.details["latency_ms"] = percentiles(level.latencies_ms)
        results.append(result)
    return results


async def lone(bench: Bench) -> list[Result]:
    """One offer at a time."""
    results = {
        p: Result("lone", f"one offer at a time, {p}", "ms", 1.2, more_is_better=False)
        for p in ("p50", "p99")
    }
    for _ in range(bench.rounds):
        theirs = percentiles((await bench.etcd_puts(1)).latencies_ms) if bench.etcd is not None else {}
        level = await bench.client_level(1)
        ours = percentiles(level.latencies_ms)
        for p, result in results.items():
            result.ours.append(ours[p])
            if theirs:
                result.peer.append(theirs[p])
            result.details["cpu_us_an_offer"] = {name: round(used) for name, used in level.cpu_us().items()}
    return list(results.values())


def submit_once(value: bytes) -> bytes:
    """Return a SubmitRequest that any client could send: typed, one put, no identity."""
    put = pb.Mutation(put=pb.Put(key=GET_KEY, value=value))
    return pb.SubmitRequest(batch=pb.Batch(offers=[pb.Offer(mutations=[put])])).SerializeToString()


async def unary(bench: Bench) -> list[Result]:
    """Any plain gRPC client: unary calls by h2load, against etcd and against a bare echo."""
    results = []
    for inflight in (32, 256):
        what = f"SubmitOnce by h2load, {inflight} in flight"
        against_etcd = Result("unary", what, "offers/s", 0.3)
        against_echo = Result("unary", what, "offers/s", 0.5, peer_name="bare echo")
        by_grpc = Result("unary", f"the same to gRPC's own server, {inflight} in flight", "offers/s", None)
        async with echo_server() as echo:
            for _ in range(bench.rounds):
                if bench.etcd is not None:
                    against_etcd.peer.append((await bench.etcd_puts(inflight)).per_s)
                    by_grpc.peer.append(against_etcd.peer[-1])
                bare = await h2load.run(echo, UNARY, bytes(300), inflight=inflight, seconds=bench.seconds)
                ours = await _submit_once(bench, await bench.direct_endpoint(), inflight)
                against_echo.peer.append(bare.per_s)
                against_etcd.ours.append(ours.per_s)
                against_echo.ours.append(ours.per_s)
                against_etcd.details["latency_ms"] = percentiles(ours.latencies_ms)
                by_grpc.ours.append(
                    (await _submit_once(bench, await bench.leader_endpoint(), inflight)).per_s
                )
        results += [against_etcd, against_echo, by_grpc]
    return results


async def _submit_once(bench: Bench, endpoint: str, inflight: int) -> h2load.Load:
    """Let h2load submit. Raises ``LoadFailed`` where offers were not accepted: it sees that calls were
    answered, and not with which status."""
    request = submit_once(bench.value)
    async with connect(bench.cluster.endpoints, cluster=bench.cluster.cluster_id) as journal:
        before = await journal.revision()
        load = await h2load.run(endpoint, SUBMIT_ONCE.path, request, inflight=inflight, seconds=bench.seconds)
        accepted = await journal.revision() - before
    if accepted < load.per_s * bench.seconds:
        raise h2load.LoadFailed(f"SubmitOnce at {endpoint}: {accepted} accepted of {load.per_s:.0f} a second")
    return load


async def read(bench: Bench) -> list[Result]:
    """Linearizable and local Get, a Scan, and what a replica in the client's memory does."""
    inflight = 64
    linearizable = Result("read", "linearizable Get by the client, 64 in flight", "reads/s", 0.5)
    unary_get = Result("read", "linearizable Get by h2load, 64 in flight", "reads/s", None)
    by_grpc = Result("read", "the same to gRPC's own server, 64 in flight", "reads/s", None)
    local = Result("read", "local Get by the client, 64 in flight", "reads/s", 0.5)
    scan = Result("read", f"Scan of {SCAN_KEYS:,} keys", "scans/s", 0.5)
    memory = Result("read", "a replica's get, in the client's memory", "reads/s", None)
    async with connect(bench.cluster.endpoints, cluster=bench.cluster.cluster_id) as journal:
        await _fill(journal, b"scan/", SCAN_KEYS)
        await journal.put(GET_KEY, bench.value)
        if bench.etcd is not None:
            await _fill_etcd(bench, SCAN_KEYS)
        for _ in range(bench.rounds):
            if bench.etcd is not None:
                by_get = await bench.etcd_load(etcd.RANGE, etcd.range_of(GET_KEY), inflight)
                stale = etcd.range_of(GET_KEY, serializable=True)
                linearizable.peer.append(by_get.per_s)
                unary_get.peer.append(by_get.per_s)
                by_grpc.peer.append(by_get.per_s)
                local.peer.append((await bench.etcd_load(etcd.RANGE, stale, inflight)).per_s)
                whole = etcd.range_of(b"scan/", end=b"scan0")
                scan.peer.append((await bench.etcd_load(etcd.RANGE, whole, 1)).per_s)
            for result, consistency in ((linearizable, LINEARIZABLE), (local, LOCAL)):
                level = Level("get", inflight, 1)

                async def get(_worker: int) -> tuple[int, int]:
                    await journal.get(GET_KEY, consistency=consistency)  # noqa: B023
                    return 1, 0

                await measure(level, inflight, get, bench.seconds, {})
                result.ours.append(level.rate)
            request = pb.GetRequest(keys=[GET_KEY], consistency=pb.CONSISTENCY_LINEARIZABLE)
            for result, endpoint in (
                (unary_get, await bench.direct_endpoint()),
                (by_grpc, await bench.leader_endpoint()),
            ):
                message = request.SerializeToString()
                by_h2load = await h2load.run(
                    endpoint, GET.path, message, inflight=inflight, seconds=bench.seconds
                )
                result.ours.append(by_h2load.per_s)
            level = Level("scan", 1, 1)

            async def scan_all(_worker: int) -> tuple[int, int]:
                found = await journal.scan(b"scan/", b"scan0")
                looked_at = sum(len(record.value) for _key, record in found.items)
                return looked_at // (SCAN_KEYS * SCAN_VALUE_BYTES), 0

            await measure(level, 1, scan_all, bench.seconds, {})
            scan.ours.append(level.rate)
            async with journal.replica(b"scan/") as replica:
                keys = [b"scan/%06d" % n for n in range(SCAN_KEYS)]
                began = trio.current_time()
                for key in keys:
                    replica.get(key)
                memory.ours.append(len(keys) / (trio.current_time() - began))
    return [linearizable, unary_get, by_grpc, local, scan, memory]


async def _fill(journal: Journal, prefix: bytes, count: int) -> None:
    from journal.offers import Offer, Put

    offers = [Offer((Put(prefix + b"%06d" % n, bytes(SCAN_VALUE_BYTES)),)) for n in range(count)]
    for begin in range(0, count, 1_000):
        await journal.offer_many(offers[begin : begin + 1_000])


async def _fill_etcd(bench: Bench, count: int) -> None:
    assert bench.etcd is not None
    await failover.fill_etcd(bench.etcd.endpoints, count)


async def failing_over(bench: Bench) -> list[Result]:
    """SIGKILL of the leader under load: the longest time without an acknowledged offer."""
    result = Result("failover", "longest gap when the leader is killed", "s", 0.6, more_is_better=False)
    for _ in range(max(3, bench.rounds)):
        if bench.etcd is not None:
            result.peer.append(await failover.of_etcd(bench.etcd, bench.value))
        result.ours.append(await failover.of_synod(bench.cluster, bench.value))
    return [result]


ROWS: dict[str, Row] = {
    "bulk": bulk,
    "concurrent": concurrent,
    "lone": lone,
    "unary": unary,
    "read": read,
    "failover": failing_over,
    "tail": tail,
    "growth": growth,
    "restart": restart,
    "placement": placement,
    "api": api,
}


def chosen(names: Sequence[str]) -> list[tuple[str, Row]]:
    """Return the rows of these names (none: all). Raises ``ValueError``."""
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return [(name, row) for name, row in ROWS.items() if not names or name in names]
