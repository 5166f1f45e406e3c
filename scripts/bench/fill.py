"""Histories to measure on: so many keys, so many revisions, in both clusters."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import trio

from journal.connection import LINEARIZABLE, Connection
from journal.offers import Offer, Put, pack_batch, pack_offer
from journal.rpc.connection import GrpcConnector
from scripts.bench import etcd
from scripts.bench.loads import leader_connection

if TYPE_CHECKING:
    from scripts.bench.rows import Bench

MESSAGE_OFFERS = 100
WORKERS = 64
ETCD_WORKERS = 16


def key(number: int) -> bytes:
    return b"grown/%09d" % number


def in_turn(keys: int) -> Iterator[bytes]:
    """Yield the keys again and again, in an order that jumps: neighbours are seldom written together."""
    step = next(each for each in range(keys * 6 // 10 | 1, keys * 2, 2) if _coprime(each, keys))
    return (key(number * step % keys) for number in count())


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def at_random(keys: int, rng: random.Random) -> Iterator[bytes]:
    while True:
        yield key(rng.randrange(keys))


class Puts:
    """Workers that put to keys as they come, in packed batches over one connection."""

    def __init__(self, connection: Connection, keys: Iterator[bytes], value: bytes, base: int) -> None:
        self._connection = connection
        self._keys = keys
        self._value = value
        self._base = base
        self._sequence = [0] * WORKERS
        self._client = [os.urandom(8) for _ in range(WORKERS)]

    async def round(self, worker: int) -> tuple[int, int]:
        first = self._sequence[worker]
        self._sequence[worker] = first + MESSAGE_OFFERS
        packed = [
            pack_offer(first + index, Offer((Put(next(self._keys), self._value),)))
            for index in range(MESSAGE_OFFERS)
        ]
        verdicts = await self._connection.submit(pack_batch(self._client[worker], first, self._base, packed))
        accepted = sum(isinstance(verdict, int) for verdict in verdicts)
        return accepted, len(verdicts) - accepted


async def with_puts(bench: Bench, keys: Iterator[bytes], use: Callable[[Puts], Any]) -> Any:
    """Await ``use`` of workers on the leader's connection."""
    connector = GrpcConnector(cluster=bench.cluster.cluster_id)
    connection = await leader_connection(connector, bench.cluster.endpoints)
    try:
        base = (await connection.get([], at=None, consistency=LINEARIZABLE)).revision
        return await use(Puts(connection, keys, bench.value, base))
    finally:
        await connection.aclose()
        await connector.aclose()


async def fill(bench: Bench, revisions: int, keys: int) -> None:
    """Commit so many puts over so many keys. Raises ``RuntimeError`` where one is not accepted."""

    async def use(puts: Puts) -> None:
        left = iter(range(-(-revisions // MESSAGE_OFFERS)))

        async def work(worker: int) -> None:
            for _ in left:
                _accepted, failed = await puts.round(worker)
                if failed:
                    raise RuntimeError(f"{failed} puts of a history were not accepted")

        async with trio.open_nursery() as nursery:
            for worker in range(WORKERS):
                nursery.start_soon(work, worker)

    await with_puts(bench, in_turn(keys), use)


async def fill_etcd(bench: Bench, revisions: int, keys: int) -> None:
    """Give etcd as many versions of as many keys, in transactions of many puts."""
    assert bench.etcd is not None
    endpoint, value = bench.etcd.endpoints[await trio.to_thread.run_sync(bench.etcd.leader)], bench.value

    async def write() -> None:
        found, left = in_turn(keys), iter(range(-(-revisions // MESSAGE_OFFERS)))
        async with grpc.aio.insecure_channel(endpoint) as channel:
            call: Any = channel.unary_unary(etcd.TXN)

            async def work() -> None:
                for _ in left:
                    await call(etcd.txn([etcd.put(next(found), value) for _ in range(MESSAGE_OFFERS)]))

            await asyncio.gather(*(work() for _ in range(ETCD_WORKERS)))

    await trio.to_thread.run_sync(lambda: asyncio.run(write()))
