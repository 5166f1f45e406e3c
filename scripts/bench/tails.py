"""The row ``tail``: how soon a commit is with those who tail, and what thousands of tails cost.

``followed``: 100 tails of everything, on the followers, while a writer has 5,000 offers a second committed in
messages of 100. A delivery's latency is from the moment at which the offer was sent to that at which the
reader's process has it, so it holds more than commit to delivery does. etcd's watches are measured on the
same load; there a message is a transaction of 100 puts, because 5,000 single puts a second for 100 watches
are half a million messages a second, which neither it nor any reader here can handle.

``filtered``: the row ``bulk`` with 5,000 tails on one follower, each over a prefix of its own, and without
them both before and after: a cluster takes less the more was written to it, and its first seconds, which are
not counted, are its best. The bulk's keys are under none of them; in all cases a second writer commits
something for one of 100 tails a hundred times a second, which shows how soon it is with them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psutil
import trio

from journal.connection import LINEARIZABLE
from journal.rpc.connection import GrpcConnector
from scripts.bench.loads import Cores, Level, leader_connection
from scripts.bench.nodes import check_nodes, settled
from scripts.bench.results import Result
from scripts.bench.streams import Child, Readers, Writer, child

if TYPE_CHECKING:
    from scripts.bench.rows import Bench

TAILS = 100
OFFERS_PER_S = 5_000
MESSAGE_OFFERS = 100
DELIVERY_MS_MAX = 25.0
FILTERED_TAILS = 5_000
FILTERED_CONNECTIONS = 50
FILTERED_PER_S = 100
FILTERED_SHARE_MIN = 0.8
"""Of bulk throughput, with all those tails."""
MEMORY_MB_MAX = 1024.0
WATCHED = "watched/"
SETTLE_S = 0.5
"""For the last commits to be delivered, after the writer has ended."""


async def tail(bench: Bench) -> list[Result]:
    """Both parts. Nothing of them is scaled down: ``bench.seconds`` says how long each is measured."""
    await settled(bench.cluster)  # from the rows before
    return [*await followed(bench), *await filtered(bench)]


# -- 100 tails of everything -----------------------------------------------------------------


async def followed(bench: Bench) -> list[Result]:
    what = f"{TAILS} tails on followers, {OFFERS_PER_S:,} offers/s: offer to delivery"
    bound = Result("tail", f"{what}, p99", "ms", 1.0, more_is_better=False, peer_name="bound")
    beside = Result("tail", f"{what}, p99", "ms", None, more_is_better=False)
    median = Result("tail", f"{what}, p50", "ms", None, more_is_better=False)
    for _ in range(bench.rounds):
        if bench.etcd is not None:
            theirs = await _etcd_round(bench)
            beside.peer.append(theirs["latencies_ms"]["p99"])
            median.peer.append(theirs["latencies_ms"]["p50"])
            beside.details["etcd"] = theirs
        ours = await _our_round(bench)
        bound.peer.append(DELIVERY_MS_MAX)
        for result, percentile in ((bound, "p99"), (beside, "p99"), (median, "p50")):
            result.ours.append(ours["latencies_ms"][percentile])
        bound.details.update(ours)
    return [bound, beside, median]


async def _our_round(bench: Bench) -> dict[str, Any]:
    leader = await trio.to_thread.run_sync(bench.cluster.leader)
    assert leader is not None
    nodes = bench.cluster.nodes
    followers = [bench.cluster.direct_endpoint(node) for node in nodes if node != leader]
    base = await _revision(bench)
    return await _deliveries(
        Readers("synod", followers, TAILS, TAILS // 2, after=base),
        _writer(bench, "synod", bench.cluster.direct_endpoint(leader), base),
        bench.processes(leader),
    )


async def _etcd_round(bench: Bench) -> dict[str, Any]:
    assert bench.etcd is not None
    leader = await trio.to_thread.run_sync(bench.etcd.leader)
    endpoints = bench.etcd.endpoints
    followers = [endpoint for number, endpoint in enumerate(endpoints) if number != leader]
    return await _deliveries(
        Readers("etcd", followers, TAILS, TAILS // 2),
        _writer(bench, "etcd", endpoints[leader], 0),
        bench.etcd.pids,
    )


def _writer(bench: Bench, kind: str, endpoint: str, base: int) -> Writer:
    return Writer(
        kind, endpoint, OFFERS_PER_S, MESSAGE_OFFERS, bench.seconds, value_bytes=len(bench.value), base=base
    )


async def _deliveries(readers: Readers, writer: Writer, pids: dict[str, int]) -> dict[str, Any]:
    """Measure one round. Raises ``RuntimeError`` where not every message of the writer came to every tail."""
    async with child(readers) as reading:
        await _all_open(reading)
        cores = Cores({**pids, "readers": reading.pid})
        await reading.tell("record")
        async with child(writer) as writing:
            wrote = await writing.hears()
        used = {name: round(share, 2) for name, share in cores.used().items()}
        await trio.sleep(SETTLE_S)
        heard = await reading.tell("stop")
    expected = readers.count * wrote["offers"] // writer.a_message
    if heard["gaps"] or heard["ended"] or heard["deliveries"] != expected:
        raise RuntimeError(f"of {expected} deliveries: {heard}")
    return {
        **heard,
        "offers_per_s": round(wrote["per_s"]),
        "behind": wrote["behind"],
        "acknowledged_ms": wrote["latencies_ms"],
        "cores": used,
    }


# -- 5,000 filtered tails -----------------------------------------------------------------------


async def filtered(bench: Bench) -> list[Result]:
    many = f"{FILTERED_TAILS:,} filtered tails on one follower"
    cost = Result(
        "tail", f"bulk beside {many}", "offers/s", FILTERED_SHARE_MIN, peer_name="without the tails"
    )
    memory = Result("tail", f"{many}: that node's memory", "MB", 1.0, more_is_better=False, peer_name="bound")
    await _bulk_and_few(bench, await _revision(bench))  # a new cluster is quicker than it will be
    for _ in range(bench.rounds):
        before, _wrote = await _bulk_and_few(bench, await _revision(bench))
        leader = await trio.to_thread.run_sync(bench.cluster.leader)
        number = next(node for node in bench.cluster.nodes if node != leader)
        base = await _revision(bench)
        endpoints = [bench.cluster.direct_endpoint(number)]
        readers = Readers(
            "synod", endpoints, FILTERED_TAILS, FILTERED_CONNECTIONS, prefix=WATCHED, after=base
        )
        async with child(readers) as reading:
            await _all_open(reading)
            await reading.tell("record")
            pid = bench.cluster.pid(number)
            assert pid is not None
            most_mb = allocated_mb(psutil.Process(pid))
            level, wrote = await _bulk_and_few(bench, base)
            most_mb = max(most_mb, allocated_mb(psutil.Process(pid)))
            await trio.to_thread.run_sync(check_nodes, bench.cluster)  # a follower may be behind after it
            await trio.sleep(SETTLE_S)
            heard = await reading.tell("stop")
        if heard["gaps"] or heard["ended"] or heard["deliveries"] != wrote["offers"]:
            raise RuntimeError(f"of {wrote['offers']} deliveries: {heard}")
        await trio.to_thread.run_sync(_wait_left, bench, number)
        after, _wrote = await _bulk_and_few(bench, await _revision(bench))
        cost.peer.append((before.rate + after.rate) / 2)
        cost.ours.append(level.rate)
        cost.details["delivery"] = heard
        cost.details["cores"] = {name: round(used, 2) for name, used in level.cpu.items()}
        memory.ours.append(most_mb)
        memory.peer.append(MEMORY_MB_MAX)
    return [cost, memory]


async def _bulk_and_few(bench: Bench, base: int) -> tuple[Level, dict[str, Any]]:
    """Measure the bulk beside the writer of what the tails are to hear; return both."""
    from scripts.bench.rows import BULK_INFLIGHT, BULK_MESSAGE_OFFERS

    leader = await bench.leader_endpoint()
    some = [f"{WATCHED}{number * 37 % FILTERED_TAILS}/" for number in range(FILTERED_PER_S)]
    writer = Writer("synod", leader, FILTERED_PER_S, 1, bench.seconds, 64, prefixes=some, base=base)
    async with child(writer) as writing:
        level = await bench.wire_level(BULK_INFLIGHT, BULK_MESSAGE_OFFERS)
        return level, await writing.hears()


def allocated_mb(process: psutil.Process) -> float:
    """Return what a process has allocated: without the files that LevelDB maps, which the kernel may drop."""
    info = process.memory_info()
    return float(info.rss - info.shared) / 1e6


async def _all_open(reading: Child) -> None:
    said = await reading.hears()
    if said["ended"]:
        raise RuntimeError(f"tails ended as soon as they were opened: {said}")


def _wait_left(bench: Bench, number: int) -> None:
    """Wait until the node has no tails any more."""
    deadline = time.monotonic() + 20
    while any(view.node == number and view.said and view.said.tails for view in bench.cluster.status()):
        if time.monotonic() > deadline:
            raise RuntimeError("a follower still has tails 20 s after their readers ended")
        time.sleep(0.1)


async def _revision(bench: Bench) -> int:
    """Return the journal's revision, once all nodes stand there."""
    await trio.to_thread.run_sync(check_nodes, bench.cluster)
    connector = GrpcConnector(cluster=bench.cluster.cluster_id)
    connection = await leader_connection(connector, bench.cluster.endpoints)
    try:
        return (await connection.get([], at=None, consistency=LINEARIZABLE)).revision
    finally:
        await connection.aclose()
        await connector.aclose()
