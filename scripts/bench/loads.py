"""What our own clients do: offers, as packed batches over one connection or by the client library.

An offer has one read condition and puts one value. Two ways in:

* ``Wire``: packed batches over one connection: what the journal can do;
* ``Client``: ``journal.client``, each offer awaited by its own call or in ``offer_many``: what a
  program gets from it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import psutil
import trio

from journal.client import Journal
from journal.connection import Connection
from journal.errors import JournalError, NotLeader
from journal.offers import Offer, Put, pack_batch, pack_offer
from journal.rpc.connection import GrpcConnector

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

    def cpu_us(self) -> dict[str, float]:
        """Return the processor time that one offer costs each process, in microseconds."""
        return {name: used / self.rate * 1e6 if self.rate else 0.0 for name, used in self.cpu.items()}


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
