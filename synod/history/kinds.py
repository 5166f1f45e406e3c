"""The kinds of clients: each does one thing over and over, in the way that catches one kind of fault.

====================  =======================================================================
kind                  what it is after
====================  =======================================================================
register              lost, stale and reordered writes of single keys
bank                  half an offer, a premise that was not checked: the sum of all accounts stays
lists                 doubled, lost and reordered appends
counters              bounds of ``adjust`` under contention
sets                  members added or removed twice
leases                a lease that ends too early, or takes too much or too little with it
schedulers            capacity and ports given out twice: optimistic claims as schedulers make them
readers               stale reads: each node is asked by itself, not only who leads
tails                 filtered tails that begin anywhere, and end, and begin again
mixed                 everything else at once (``load.Worker``)
====================  =======================================================================

What must hold of each kind's keys at every revision is judged by ``synod.history.invariants``, besides
all that the check judges of every offer. Keys are reused, so that the judge's work stays bounded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgpack
import trio

from journal.connection import LINEARIZABLE, LOCAL, Consistency, at_least
from journal.offers import (
    Adjust,
    Delete,
    LeaseGrant,
    LeaseRevoke,
    Mutation,
    Offer,
    Put,
    SetAdd,
    SetRemove,
)
from journal.space import Record
from synod.history.client import RecordingClient
from synod.history.invariants import ACCOUNTS, BALANCE, INSTANCE_CPU, INSTANCES

REGISTERS = [b"register/%d" % i for i in range(4)]
BANK = [b"bank/%d" % i for i in range(ACCOUNTS)]
COUNTERS = [b"counter/%d" % i for i in range(2)]
SETS = [b"set/%d" % i for i in range(2)]
PORTS = range(9000, 9010)
LIST_ELEMENTS_MAX = 40
TASKS_MAX = 3
LEASE_TTL_MS = (1_000, 2_000, 4_000)
TAIL_PREFIXES = (b"bank/", b"list/", b"capacity/", b"lease/", b"load/item/")
TAIL_S = 3.0
DIRECT_TIMEOUT_S = 8.0
"""How long a certain node is waited for: a paused one answers when it wakes, and must be right then."""


class Kind(Protocol):
    """One worker of a kind: ``setup`` makes the keys it needs, ``step`` does one thing."""

    async def setup(self) -> None: ...

    async def step(self) -> None: ...


@dataclass(slots=True)
class _Base:
    client: RecordingClient
    rng: random.Random
    name: str
    """Unique among all workers of all processes."""
    seen: int = 0

    async def setup(self) -> None:
        pass

    async def _create(self, items: dict[bytes, bytes]) -> None:
        """Make these keys in one offer, unless another worker has made them."""
        puts = tuple(Put(key, value) for key, value in items.items())
        await self.client.offer(Offer(puts, expect=tuple((key, 0) for key in items)))

    def _consistency(self) -> Consistency:
        return self.rng.choice([LINEARIZABLE, LINEARIZABLE, LOCAL, at_least(self.seen)])

    async def _get(
        self, keys: Sequence[bytes], consistency: Consistency = LINEARIZABLE
    ) -> list[Record | None]:
        """Read; no records at all where there was no answer."""
        found = await self.client.get(keys, consistency)
        if found is None:
            return []
        self.seen = found[0]
        return found[1]


class Register(_Base):
    async def step(self) -> None:
        key = self.rng.choice(REGISTERS)
        draw = self.rng.random()
        value = b"%s %d" % (self.name.encode(), self.rng.randrange(10**6))
        if draw < 0.4:
            await self._get([key], self._consistency())
        elif draw < 0.6:
            await self.client.offer(Offer((Put(key, value),)))
        elif found := await self._get([key], self._consistency()):
            await self.client.offer(
                Offer((Put(key, value),), expect=((key, found[0].mod if found[0] else 0),))
            )


class Bank(_Base):
    async def setup(self) -> None:
        await self._create(dict.fromkeys(BANK, b"%d" % BALANCE))

    async def step(self) -> None:
        if self.rng.random() < 0.2:
            await self.client.scan(b"bank/", b"bank0", self._consistency())
            return
        source, target = self.rng.sample(BANK, 2)
        found = await self._get([source, target], self._consistency())
        if not found or found[0] is None or found[1] is None:
            return
        assert found[0].value is not None
        assert found[1].value is not None
        has, other = int(found[0].value), int(found[1].value)
        amount = self.rng.randint(0, min(has, 20))
        puts = (Put(source, b"%d" % (has - amount)), Put(target, b"%d" % (other + amount)))
        if self.rng.random() < 0.5:
            await self.client.offer(Offer(puts, reads=(source, target), at=self.seen))
        else:
            await self.client.offer(Offer(puts, expect=((source, found[0].mod), (target, found[1].mod))))


class Lists(_Base):
    generation = 0

    async def step(self) -> None:
        key = b"list/%d/%d" % (self.rng.randrange(2), self.generation)
        found = await self._get([key], self._consistency())
        if not found:
            return
        record = found[0]
        value = record.value if record is not None and record.value is not None else b""
        if value.count(b",") >= LIST_ELEMENTS_MAX:
            self.generation += 1
            return
        element = b"%s:%d," % (self.name.encode(), self.rng.randrange(10**9))
        await self.client.offer(
            Offer((Put(key, value + element),), expect=((key, record.mod if record else 0),))
        )


class Counters(_Base):
    async def setup(self) -> None:
        for key in COUNTERS:
            await self._create({key: msgpack.packb({"a": 0, "b": 10})})

    async def step(self) -> None:
        key = self.rng.choice(COUNTERS)
        if self.rng.random() < 0.2:
            await self._get([key], self._consistency())
            return
        delta = self.rng.choice([-3, -1, 1, 2])
        deltas = {"a": delta} if self.rng.random() < 0.5 else {"a": delta, "b": -delta}
        await self.client.offer(
            Offer((Adjust(key, deltas, dict.fromkeys(deltas, 0), dict.fromkeys(deltas, 20)),))
        )


class Sets(_Base):
    async def setup(self) -> None:
        for key in SETS:
            await self._create({key: msgpack.packb({"members": []})})

    async def step(self) -> None:
        key, member = self.rng.choice(SETS), self.rng.randrange(12)
        if self.rng.random() < 0.2:
            await self._get([key], self._consistency())
            return
        kind: type[SetAdd | SetRemove] = SetAdd if self.rng.random() < 0.5 else SetRemove
        await self.client.offer(Offer((kind(key, "members", (member,)),)))


class Leases(_Base):
    """Grants, keeps alive for a while, then revokes, or forgets: that lease must end by itself, and
    not before its term is over."""

    lease = 0
    renewals = 0

    async def step(self) -> None:
        keys = [b"lease/%s/%d" % (self.name.encode(), i) for i in range(2)]
        if not self.lease:
            lease = self.rng.randrange(1, 2**52)
            puts = [Put(key, b"held", lease) for key in keys]
            grant = LeaseGrant(lease, self.rng.choice(LEASE_TTL_MS))
            if isinstance(await self.client.offer(Offer((grant, *puts))), int):
                self.lease, self.renewals = lease, self.rng.randrange(12)
            return
        with trio.move_on_after(self.rng.uniform(0.1, 0.6)):
            await trio.sleep_forever()
        if self.renewals > 0:
            self.renewals -= 1
            # Half of them at one certain node: one that led a moment ago must not say yes any more.
            nodes = self.client.nodes
            node = self.rng.choice(nodes) if nodes and self.rng.random() < 0.5 else None
            kept = await self.client.keep_alive(self.lease, node)
            if kept is False:
                self.lease = 0
            elif kept and self.rng.random() < 0.2:
                await self.client.offer(Offer((Put(keys[0], b"free now"), Put(keys[1], b"held", self.lease))))
            return
        await self._get(keys, self._consistency())
        if self.rng.random() < 0.3:
            await self.client.offer(Offer((LeaseRevoke(self.lease),)))
        self.lease = 0


class Scheduler(_Base):
    """Claims capacity from what it has read, which may be old: the offer's bounds and sets decide."""

    async def setup(self) -> None:
        for instance in range(INSTANCES):
            capacity = msgpack.packb({"cpu": INSTANCE_CPU, "ports": []})
            await self._create({b"capacity/%d" % instance: capacity})

    async def step(self) -> None:
        task = b"%s-%d" % (self.name.encode(), self.rng.randrange(TASKS_MAX))
        capacities = [b"capacity/%d" % instance for instance in range(INSTANCES)]
        places = [b"task/%d/%s" % (instance, task) for instance in range(INSTANCES)]
        found = await self._get([*capacities, *places], self._consistency())
        if not found:
            return
        for instance, record in enumerate(found[INSTANCES:]):
            if record is not None:
                await self._stop(instance, places[instance], record)
                return
        left = [msgpack.unpackb(r.value)["cpu"] if r and r.value else 0 for r in found[:INSTANCES]]
        cpu = self.rng.randint(1, 4)
        fitting = [instance for instance in range(INSTANCES) if left[instance] >= cpu]
        instance = min(fitting, key=lambda i: left[i]) if fitting else self.rng.randrange(INSTANCES)
        port = self.rng.choice(PORTS)
        claims: tuple[Mutation, ...] = (
            Adjust(capacities[instance], {"cpu": -cpu}, {"cpu": 0}),
            SetAdd(capacities[instance], "ports", (port,)),
            Put(places[instance], msgpack.packb({"cpu": cpu, "ports": [port]})),
        )
        await self.client.offer(Offer(claims, expect=tuple((place, 0) for place in places)))

    async def _stop(self, instance: int, place: bytes, record: Record) -> None:
        assert record.value is not None
        held: dict[str, Any] = msgpack.unpackb(record.value)
        key = b"capacity/%d" % instance
        released: tuple[Mutation, ...] = (
            Adjust(key, {"cpu": held["cpu"]}, {}, {"cpu": INSTANCE_CPU}),
            SetRemove(key, "ports", tuple(held["ports"])),
            Delete(place),
        )
        await self.client.offer(Offer(released, expect=((place, record.mod),)))


class Readers(_Base):
    """Asks each node by itself, whoever leads: a node that is cut off or behind must not answer."""

    async def step(self) -> None:
        node = self.rng.choice(self.client.nodes)
        keys = [self.rng.choice(REGISTERS), self.rng.choice(BANK), self.rng.choice(COUNTERS)]
        await self.client.get_from(node, keys, DIRECT_TIMEOUT_S)


class Tails(_Base):
    async def step(self) -> None:
        count = self.rng.choice([0, 1, 2])
        prefixes = self.rng.sample(TAIL_PREFIXES, count)
        newest = self.client.journal.seen
        after = max(0, newest - self.rng.randrange(200))
        with trio.move_on_after(self.rng.uniform(0, TAIL_S)):
            await self.client.tail(after, prefixes)


KINDS: dict[str, type[_Base]] = {
    "register": Register,
    "bank": Bank,
    "lists": Lists,
    "counters": Counters,
    "sets": Sets,
    "leases": Leases,
    "schedulers": Scheduler,
    "readers": Readers,
    "tails": Tails,
}


def make(kind: str, client: RecordingClient, rng: random.Random, name: str) -> Kind:
    worker: Kind = KINDS[kind](client, rng, name)  # type: ignore[assignment]
    return worker
