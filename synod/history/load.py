"""Load that is worth checking: clients that read, claim, create, delete and tail, all recorded.

``python -m synod.history.load`` is one client process: several clients, each with a connection
of its own and a few workers of one kind (``synod.history.kinds``), until SIGTERM. Few keys, so
that conflicts are common; every kind of condition and mutation, so that the check has something to
say about each; a pause between two operations of a worker, because the aim is many different
interleavings, not throughput.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import trio

from journal.client import Journal, TailMessage, connect
from journal.client.journal import DEFAULT, Timeout
from journal.connection import LINEARIZABLE, LOCAL, Consistency, at_least
from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Offer,
    Put,
    SetAdd,
    SetRemove,
    prefix_range,
)
from journal.rpc.connection import GrpcConnector
from synod.history.client import RecordingClient, commit_json
from synod.history.kinds import KINDS, Kind, make
from synod.history.record import Recorder

MIXED = "mixed"
COUNTERS = [b"load/counter/%d" % i for i in range(5)]
ITEMS = [b"load/item/%02d" % i for i in range(24)]
ITEM_RANGE = prefix_range(b"load/item/")
CAPACITY = b"load/capacity"
CAPACITY_CPU = 12
VALUE_BYTES = 128
TAIL_TIMEOUT_S = 20.0
"""How far behind its own client's offers a tail may be in the end."""


@dataclass(slots=True)
class Worker:
    """One loop of operations. Its randomness is its own, so a seed fixes what it tries."""

    client: RecordingClient
    rng: random.Random
    claimed: int = 0
    lease: int = 0
    seen: int = 0
    """The revision of its last read."""

    async def setup(self) -> None:
        capacity = msgpack.packb({"cpu": CAPACITY_CPU, "ports": []})
        await self.client.offer(Offer((Put(CAPACITY, capacity),), expect=((CAPACITY, 0),)))

    def _value(self) -> bytes:
        return self.rng.randbytes(VALUE_BYTES // 2).hex().encode()

    def _consistency(self) -> Consistency:
        return self.rng.choice([LINEARIZABLE, LINEARIZABLE, LOCAL, at_least(self.seen)])

    async def step(self) -> None:
        steps = [
            (6, self._increment),
            (2, self._put),
            (3, self._claim),
            (2, self._port),
            (2, self._create_or_delete),
            (1, self._alone_in_range),
            (1, self._clear),
            (1, self._many),
            (1, self._lease),
            (3, self._read),
            (1, self._scan),
        ]
        ((_, step),) = self.rng.choices(steps, weights=[weight for weight, _ in steps])
        await step()

    async def _increment(self) -> None:
        """Read, add one, write: what optimistic concurrency is for."""
        key = self.rng.choice(COUNTERS)
        found = await self.client.get([key], self._consistency())
        if found is None:
            return
        self.seen, (record,) = found
        count = int(record.value) if record is not None and record.value else 0
        put = Put(key, b"%d" % (count + 1))
        if self.rng.random() < 0.5:
            await self.client.offer(Offer((put,), reads=(key,), at=self.seen))
        else:
            await self.client.offer(Offer((put,), expect=((key, record.mod if record else 0),)))

    async def _put(self) -> None:
        await self.client.offer(Offer((Put(self.rng.choice(ITEMS), self._value()),)))

    async def _claim(self) -> None:
        """Claim a part of the capacity, or give back what is held: bounds on both sides."""
        amount = self.claimed if self.claimed else self.rng.randint(1, 4)
        delta = amount if self.claimed else -amount
        adjust = Adjust(CAPACITY, {"cpu": delta}, {"cpu": 0}, {"cpu": CAPACITY_CPU})
        record = Put(b"load/claim/" + self.client.name.encode(), b"%d" % amount)
        if isinstance(await self.client.offer(Offer((adjust, record))), int):
            self.claimed = 0 if self.claimed else amount

    async def _port(self) -> None:
        kind: type[SetAdd | SetRemove] = SetAdd if self.rng.random() < 0.5 else SetRemove
        await self.client.offer(Offer((kind(CAPACITY, "ports", (self.rng.randrange(8000, 8006),)),)))

    async def _create_or_delete(self) -> None:
        key = self.rng.choice(ITEMS)
        if self.rng.random() < 0.6:
            await self.client.offer(Offer((Put(key, self._value()),), expect=((key, 0),)))
        else:
            await self.client.offer(Offer((Delete(key),), reads=(key,), at=self.seen))

    async def _alone_in_range(self) -> None:
        """Write only if nothing of a range has changed since it was scanned."""
        revision = await self.client.scan(*ITEM_RANGE)
        if revision is not None:
            self.seen = revision
            put = Put(b"load/summary", b"as of %d" % revision)
            await self.client.offer(Offer((put,), ranges=(ITEM_RANGE,), at=revision))

    async def _clear(self) -> None:
        first = self.rng.randrange(len(ITEMS) - 4)
        clear = DeleteRange(ITEMS[first], ITEMS[first + 3])
        await self.client.offer(Offer((clear, Put(b"load/cleared", b"%d" % first))))

    async def _many(self) -> None:
        """Some offers in one message, each with a verdict of its own."""
        offers = [Offer((Put(self.rng.choice(ITEMS), self._value()),)) for _ in range(6)]
        offers.append(Offer((Put(COUNTERS[0], b"0"),), reads=(COUNTERS[0],), at=self.seen))
        await self.client.offer_many(offers)

    async def _lease(self) -> None:
        """Grant a lease with two bound keys, or revoke it: the keys go with it."""
        if self.lease:
            if isinstance(await self.client.offer(Offer((LeaseRevoke(self.lease),))), int):
                self.lease = 0
            return
        lease = self.rng.randrange(1, 2**62)
        keys = [b"load/bound/%s/%d" % (self.client.name.encode(), i) for i in range(2)]
        puts = [Put(key, self._value(), lease) for key in keys]
        if isinstance(await self.client.offer(Offer((LeaseGrant(lease, 600_000), *puts))), int):
            self.lease = lease

    async def _read(self) -> None:
        keys = [CAPACITY, *self.rng.sample(COUNTERS, 2), self.rng.choice(ITEMS)]
        if self.seen > 1 and self.rng.random() < 0.2:
            await self.client.get(keys, at=self.rng.randrange(max(1, self.seen - 200), self.seen))
            return
        found = await self.client.get(keys, self._consistency())
        if found is not None:
            self.seen = found[0]

    async def _scan(self) -> None:
        await self.client.scan(b"load/", b"load0", self._consistency())


def _worker(kind: str, client: RecordingClient, rng: random.Random, name: str) -> Kind:
    return Worker(client, rng) if kind == MIXED else make(kind, client, rng, name)


def _patience(load: Load, seed: float) -> Callable[[], Timeout]:
    """Let a part of the offers give up early: their outcome is unknown then, and asked about."""
    rng = random.Random(seed)
    return lambda: rng.uniform(0.05, 2.0) if rng.random() < load.impatient else DEFAULT


async def _client(
    name: str,
    kind: str,
    endpoints: list[str],
    cluster: str | None,
    recorder: Recorder,
    load: Load,
    stop: trio.Event,
) -> None:
    rng = random.Random(f"{load.seed}/{name}")
    async with connect(endpoints, cluster=cluster) as journal, AsyncExitStack() as closing:
        setup = RecordingClient(journal, recorder, f"{name}-setup")
        await _worker(kind, setup, rng, name).setup()
        connector = GrpcConnector(cluster=cluster)
        closing.push_async_callback(connector.aclose)
        nodes = [await connector.connect(endpoint) for endpoint in endpoints]
        for node in nodes:
            closing.push_async_callback(node.aclose)
        async with trio.open_nursery() as nursery:
            tail = Follower(journal, recorder, f"{name}-tail", load.after)
            if load.tail:
                nursery.start_soon(tail.run)
            async with trio.open_nursery() as workers:
                for number in range(load.workers):
                    client = RecordingClient(journal, recorder, name, _patience(load, rng.random()), nodes)
                    worker = _worker(kind, client, random.Random(rng.random()), f"{name}.{number}")
                    workers.start_soon(_work, worker, load.pause_s, random.Random(rng.random()), stop)
            if load.tail:
                await tail.reach(journal.seen)
            nursery.cancel_scope.cancel()


async def _work(worker: Kind, pause_s: float, rng: random.Random, stop: trio.Event) -> None:
    while not stop.is_set():
        await worker.step()
        with trio.move_on_after(rng.uniform(0, 2 * pause_s)):
            await stop.wait()


class Follower:
    """The client's own tail, recorded: it goes on at another node when its node fails."""

    def __init__(self, journal: Journal, recorder: Recorder, name: str, after: int = 0) -> None:
        self._journal = journal
        self._recorder = recorder
        self._name = name
        self._position = after
        self._moved = trio.Event()

    async def run(self) -> None:
        number = self._recorder.number()
        self._recorder.invoke(self._name, number, "tail", after=self._position)
        async with self._journal.tail(self._position) as messages:
            async for message in messages:
                if isinstance(message, TailMessage) and message.last >= message.first:
                    commits = [commit_json(commit) for commit in message.commits]
                    self._recorder.message(self._name, number, message.first, message.last, commits)
                    self._position = message.last
                    self._moved.set()
                    self._moved = trio.Event()

    async def reach(self, revision: int) -> None:
        """Wait until the tail has delivered ``revision``. A tail that hangs fails the process."""
        with trio.fail_after(TAIL_TIMEOUT_S):
            while self._position < revision:
                await self._moved.wait()


@dataclass(slots=True)
class Load:
    """What one process does."""

    clients: int = 2
    workers: int = 2
    pause_s: float = 0.02
    seed: int = 0
    tail: bool = True
    name: str = field(default="load")
    kinds: tuple[str, ...] = (MIXED,)
    """What its clients are, in turn: ``mixed``, or one of ``kinds.KINDS``."""
    after: int = 0
    """From where its tails follow."""
    impatient: float = 0.0
    """Which part of the offers gives up within two seconds."""


async def run(endpoints: list[str], cluster: str | None, recorder: Recorder, load: Load) -> None:
    """Run the clients of one process until SIGTERM or SIGINT."""
    stop = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for _ in signals:
                    stop.set()
                    return

            nursery.start_soon(listen)
            async with trio.open_nursery() as clients:
                for number in range(load.clients):
                    name = f"{load.name}{number}"
                    kind = load.kinds[number % len(load.kinds)]
                    clients.start_soon(_client, name, kind, endpoints, cluster, recorder, load, stop)
            nursery.cancel_scope.cancel()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m synod.history.load", description=__doc__)
    parser.add_argument("--endpoints", required=True, help="host:port of the nodes, separated by commas")
    parser.add_argument("--cluster", default=None, help="the cluster's id, checked by the nodes")
    parser.add_argument("--file", required=True, type=Path, help="where the history goes")
    parser.add_argument("--name", default="load")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause-s", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-tail", action="store_true")
    parser.add_argument("--kinds", default=MIXED, help=f"{MIXED}, {', '.join(KINDS)}; with commas")
    parser.add_argument("--after", type=int, default=0, help="from which revision on its tails follow")
    parser.add_argument("--impatient", type=float, default=0.0, help="part of offers that give up early")
    parser.add_argument("--first-op", type=int, default=0, help="its operations are counted from there on")
    o = parser.parse_args(arguments)
    kinds = tuple(o.kinds.split(","))
    if unknown := [kind for kind in kinds if kind != MIXED and kind not in KINDS]:
        parser.error(f"--kinds: there is no kind {unknown[0]!r}")
    recorder = Recorder(o.file, first_op=o.first_op)
    load = Load(o.clients, o.workers, o.pause_s, o.seed, not o.no_tail, o.name, kinds, o.after, o.impatient)
    try:
        trio.run(run, o.endpoints.split(","), o.cluster, recorder, load)
    finally:
        recorder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
