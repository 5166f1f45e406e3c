"""The leader dies under load: how long nobody's offer is acknowledged. Both sides get the same treatment:
concurrent writers that go to another node at once when theirs fails, and never wait longer than a second."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import trio

from journal.client import ClientConfig, connect
from journal.errors import JournalError
from scripts.bench import etcd
from scripts.bench.etcd import Etcd
from synod.local import LocalCluster

WRITERS = 32
BEFORE_S = 1.0
AFTER_S = 6.0
ATTEMPT_TIMEOUT_S = 1.0


def longest_gap(acknowledged: Sequence[float]) -> float:
    """Return the longest time between two acknowledged offers, in seconds."""
    return max((b - a for a, b in pairwise(sorted(acknowledged))), default=float("inf"))


async def of_synod(cluster: LocalCluster, value: bytes) -> float:
    """Kill our leader; return the longest gap. The cluster is whole again afterwards."""
    acknowledged: list[float] = []
    leader = await trio.to_thread.run_sync(cluster.leader)
    assert leader is not None
    config = ClientConfig(attempt_timeout_s=ATTEMPT_TIMEOUT_S)
    async with connect(cluster.endpoints, cluster=cluster.cluster_id, config=config) as journal:

        async def write(writer: int) -> None:
            while True:
                try:
                    await journal.put(b"failover/%d" % writer, value)
                except JournalError:
                    continue
                acknowledged.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for writer in range(WRITERS):
                nursery.start_soon(write, writer)
            await trio.sleep(BEFORE_S)
            await trio.to_thread.run_sync(cluster.kill_node, leader)
            await trio.sleep(AFTER_S)
            nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(cluster.start_node, leader)
    await trio.to_thread.run_sync(cluster.wait_ready)
    return longest_gap(acknowledged)


async def of_etcd(cluster: Etcd, value: bytes) -> float:
    """Kill etcd's leader; return the longest gap. The cluster is whole again afterwards."""
    leader = await trio.to_thread.run_sync(cluster.leader)
    gap = await trio.to_thread.run_sync(lambda: asyncio.run(_write_to_etcd(cluster, leader, value)))
    await trio.to_thread.run_sync(cluster.start_node, leader)
    await trio.to_thread.run_sync(cluster.wait_ready)
    return gap


async def _write_to_etcd(cluster: Etcd, leader: int, value: bytes) -> float:
    acknowledged: list[float] = []
    channels = [grpc.aio.insecure_channel(endpoint) for endpoint in cluster.endpoints]
    puts: list[Any] = [channel.unary_unary(etcd.PUT) for channel in channels]

    async def write(writer: int) -> None:
        request = etcd.put(b"failover/%d" % writer, value)
        for node in itertools.cycle(range(3)):  # it stays with a node as long as that one answers
            try:
                while True:
                    await puts[node](request, timeout=ATTEMPT_TIMEOUT_S)
                    acknowledged.append(time.monotonic())
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)

    writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
    await asyncio.sleep(BEFORE_S)
    await asyncio.to_thread(cluster.kill, leader)
    await asyncio.sleep(AFTER_S)
    for writer in writers:
        writer.cancel()
    await asyncio.wait(writers)
    for channel in channels:
        await channel.close()
    return longest_gap(acknowledged)


async def fill_etcd(endpoints: Sequence[str], count: int) -> None:
    """Put ``scan/000000`` and so on, of 64 bytes each."""
    await trio.to_thread.run_sync(lambda: asyncio.run(_fill(endpoints[0], count)))


async def _fill(endpoint: str, count: int) -> None:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        put: Any = channel.unary_unary(etcd.PUT)
        keys = iter(range(count))

        async def worker() -> None:
            for number in keys:
                await put(etcd.put(b"scan/%06d" % number, bytes(64)))

        await asyncio.gather(*(worker() for _ in range(64)))
