"""What the clients do: a few keys, many conflicts, every kind of condition and mutation at once.

The clients are the production ones over a faulty edge; everything they ask and hear is recorded.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgpack
import trio

from journal.client import ClientConfig, Journal, OfferRejected, OfferUnknown, connect
from journal.client.journal import DEFAULT, Timeout
from journal.connection import LINEARIZABLE, LOCAL, Consistency, at_least
from journal.errors import JournalError, RevisionCompacted
from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Offer,
    Put,
    Rejected,
    SetAdd,
    SetRemove,
    prefix_range,
)
from journal.types import Revision
from synod.history.client import RecordingClient, commit_json, record_json, text
from synod.history.record import Recorder
from tests.sim.edge import SimConnection, SimConnector
from tests.sim.host import endpoint, limits_of
from tests.sim.options import KINDS, Options
from tests.sim.world import World

REGISTERS = [b"register/%d" % i for i in range(4)]
ACCOUNTS = [b"bank/%d" % i for i in range(5)]
BALANCE = 100
COUNTER = b"counter"
COUNTER_MAX = 10
ITEMS = [b"item/%02d" % i for i in range(12)]
ITEM_RANGE = prefix_range(b"item/")
SLACK_S = 0.5
"""How much longer than its timeout an operation may take."""


def client_config(options: Options) -> ClientConfig:
    limits = limits_of(options)
    return ClientConfig(
        timeout_s=options.timeout_s,
        attempt_timeout_s=min(options.timeout_s / 2, 2 * options.election_timeout_s),
        message_offers_max=options.entry_offers,
        message_bytes_max=16384,
        limits=limits,
        tail_progress_interval_s=0.3,
        tail_silence_max_s=1.2,
        tail_idle_check_s=1.0,
    )


def connect_client(world: World, place: int) -> connect:
    return connect(
        [endpoint(number) for number in world.hosts],
        connector=SimConnector(world, place),
        config=client_config(world.options),
        rng=world.rng(f"client/{place}"),
    )


@dataclass(slots=True)
class Worker:
    """One loop of operations."""

    world: World
    client: RecordingClient
    rng: random.Random
    place: int
    seen: int = 0
    claimed: int = 0
    lease: int = 0

    async def run(self, stop: trio.Event) -> None:
        options = self.world.options
        kinds = [getattr(self, f"_{kind}") for kind in KINDS]
        while not stop.is_set():
            (act,) = self.rng.choices(kinds, weights=options.weights)
            await self._timed(act)
            with trio.move_on_after(self.rng.expovariate(1 / options.pause_s)):
                await stop.wait()

    async def _timed(self, act: Callable[[], Awaitable[None]]) -> None:
        began = self.world.now
        await act()
        # An operation makes at most three calls, and an unknown outcome is asked for once.
        limit = 4 * self.world.options.timeout_s + SLACK_S
        if self.world.now - began > limit:
            self.world.violate(
                "a call ends within its timeout",
                f"{self.client.name}: {act.__name__} took {self.world.now - began:.3f} s",
            )

    def _value(self) -> bytes:
        size = self.world.options.values_bytes
        return self.rng.randbytes((size + 1) // 2).hex().encode()[:size]

    def _consistency(self) -> Consistency:
        return self.rng.choice([LINEARIZABLE, LINEARIZABLE, LOCAL, at_least(self.seen)])

    async def _offer(self, offer: Offer) -> object:
        # Some callers are impatient: their offers are withdrawn, or settled behind their backs.
        if self.rng.random() < 0.1:
            return await self.client.offer(offer, timeout_s=self.rng.random() * 0.3)
        return await self.client.offer(offer)

    # -- the kinds ----------------------------------------------------------------------------

    async def _register(self) -> None:
        """Write blindly, or compare and set."""
        key = self.rng.choice(REGISTERS)
        if self.rng.random() < 0.3:
            await self._offer(Offer((Put(key, self._value()),)))
            return
        found = await self.client.get([key], self._consistency())
        if found is None:
            return
        self.seen, (record,) = found
        mutation: Put | Delete = Put(key, self._value())
        if record is not None and self.rng.random() < 0.15:
            mutation = Delete(key)
        if self.rng.random() < 0.5:
            await self._offer(Offer((mutation,), reads=(key,), at=self.seen))
        else:
            await self._offer(Offer((mutation,), expect=((key, record.mod if record else 0),)))

    async def _bank(self) -> None:
        """Move money; the first to come opens the accounts. The sum never changes."""
        accounts = self.rng.sample(ACCOUNTS, 2)
        found = await self.client.get(accounts, self._consistency())
        if found is None:
            return
        self.seen, records = found
        if None in records:
            opened = tuple(Put(account, b"%d" % BALANCE) for account in ACCOUNTS)
            await self._offer(Offer(opened, expect=tuple((account, 0) for account in ACCOUNTS)))
            return
        one, other = (int(record.value) for record in records if record is not None)
        amount = self.rng.randint(1, 30)
        puts = (Put(accounts[0], b"%d" % (one - amount)), Put(accounts[1], b"%d" % (other + amount)))
        if self.rng.random() < 0.5:
            await self._offer(Offer(puts, reads=tuple(accounts), at=self.seen))
        else:
            mods = tuple(
                (account, record.mod) for account, record in zip(accounts, records, strict=True) if record
            )
            await self._offer(Offer(puts, expect=mods))

    async def _counter(self) -> None:
        """Claim a part of what there is, or give it back: bounds on both sides."""
        amount = self.claimed or self.rng.randint(1, 4)
        delta = amount if self.claimed else -amount
        adjust = Adjust(COUNTER, {"free": delta}, {"free": 0}, {"free": COUNTER_MAX})
        claim = Put(b"claim/" + self.client.name.encode(), b"%d" % amount)
        outcome = await self._offer(Offer((adjust, claim)))
        if isinstance(outcome, int):
            self.claimed = 0 if self.claimed else amount
        elif not self.seen or self.rng.random() < 0.3:
            start = msgpack.packb({"free": COUNTER_MAX, "ports": []})
            await self._offer(Offer((Put(COUNTER, start),), expect=((COUNTER, 0),)))

    async def _set(self) -> None:
        kind: type[SetAdd | SetRemove] = SetAdd if self.rng.random() < 0.5 else SetRemove
        await self._offer(Offer((kind(COUNTER, "ports", (self.rng.randrange(8000, 8005),)),)))

    async def _range(self) -> None:
        """Write if nothing of a range has changed, clear a part of it, or add to it."""
        choice = self.rng.random()
        if choice < 0.4:
            await self._offer(Offer((Put(self.rng.choice(ITEMS), self._value()),)))
        elif choice < 0.6:
            first = self.rng.randrange(len(ITEMS) - 4)
            await self._offer(Offer((DeleteRange(ITEMS[first], ITEMS[first + 3]), Put(b"cleared", b"x"))))
        else:
            revision = await self.client.scan(*ITEM_RANGE, self._consistency())
            if revision is not None:
                self.seen = revision
                put = Put(b"item-summary", b"as of %d" % revision)
                await self._offer(Offer((put,), ranges=(ITEM_RANGE,), at=revision))

    async def _lease(self) -> None:
        """Grant a lease that nobody keeps, or revoke it: the keys go with it."""
        if self.lease and self.rng.random() < 0.6:
            await self._offer(Offer((LeaseRevoke(self.lease),)))
            self.lease = 0
            return
        lease = self.rng.randrange(1, 2**62)
        keys = [b"bound/%s/%d" % (self.client.name.encode(), i) for i in range(2)]
        puts = [Put(key, self._value(), lease) for key in keys]
        ttl_ms = self.rng.choice((500, 1000, 3000))
        if isinstance(await self._offer(Offer((LeaseGrant(lease, ttl_ms), *puts))), int):
            self.lease = lease

    async def _scan(self) -> None:
        at = None
        if self.seen > 2 and self.rng.random() < 0.3:
            at = self.rng.randrange(max(1, self.seen - 60), self.seen)
        await self.client.scan(b"", b"", self._consistency(), at)

    async def _many(self) -> None:
        offers = [
            Offer((Put(self.rng.choice(ITEMS), self._value()),)) for _ in range(self.rng.randint(2, 12))
        ]
        offers.append(Offer((Put(REGISTERS[0], b"0"),), reads=(REGISTERS[0],), at=self.seen))
        await self.client.offer_many(offers)

    async def _read(self) -> None:
        keys = [COUNTER, *self.rng.sample(REGISTERS, 2), self.rng.choice(ITEMS)]
        at = None
        if self.seen > 2 and self.rng.random() < 0.2:
            at = self.rng.randrange(max(1, self.seen - 60), self.seen)
        found = await self.client.get(keys, self._consistency(), at)
        if found is not None and at is None:
            self.seen = found[0]

    async def _direct(self) -> None:
        """A linearizable read at any one node: a follower, a leader that is none any more, anybody."""
        host = self.rng.choice(list(self.world.hosts.values()))
        key = self.rng.choice(REGISTERS)
        recorder, name = self.world.recorder, f"{self.client.name}-direct"
        number = recorder.number()
        recorder.invoke(name, number, "get", keys=[text(key)], consistency="linearizable")
        with trio.move_on_after(3 * self.world.options.election_timeout_s):
            try:
                connection = SimConnection(self.world, self.place, host)
                reply = await connection.get([key], at=None, consistency=LINEARIZABLE)
            except JournalError as error:
                recorder.complete(name, number, unknown=str(error))
                return
            records = [record_json(record) for record in reply.records]
            recorder.complete(name, number, revision=reply.revision, records=records)

    async def _outcome(self) -> None:
        """An offer whose caller goes almost at once, and who asks later what became of it."""
        offer = Offer((Put(self.rng.choice(REGISTERS), self._value()),))
        await self.client.offer(offer, timeout_s=self.rng.random() * 0.02)


# -- one client -----------------------------------------------------------------------------------


async def run_client(world: World, recorder: Recorder, place: int, stop: trio.Event) -> None:
    """A client process: workers, tails, replicas, a lease; until ``stop``."""
    options = world.options
    rng = world.rng(f"workload/{place}")
    name = f"c{-place}"
    async with connect_client(world, place) as journal, trio.open_nursery() as nursery:
        for number in range(options.tails):
            prefixes = () if number == 0 else rng.choice(((b"item/",), (b"bank/", b"counter")))
            nursery.start_soon(follow, world, journal, recorder, f"{name}-tail{number}", prefixes, rng)
        for _ in range(options.replicas):
            nursery.start_soon(keep_replica, world, journal, recorder, f"{name}-replica", rng)
        if options.weights[KINDS.index("lease")]:
            record_unlabelled(journal, RecordingClient(journal, recorder, f"{name}-lease"))
            nursery.start_soon(hold_lease, world, journal, name, random.Random(rng.getrandbits(64)))
        async with trio.open_nursery() as workers:
            for number in range(options.workers):
                client = RecordingClient(journal, recorder, f"{name}.{number}")
                worker = Worker(world, client, random.Random(rng.getrandbits(64)), place)
                workers.start_soon(worker.run, stop)
        nursery.cancel_scope.cancel()


async def follow(
    world: World,
    journal: Journal,
    recorder: Recorder,
    name: str,
    prefixes: tuple[bytes, ...],
    rng: random.Random,
) -> None:
    """A tail, recorded. Where the history it needs is compacted, it starts again from now."""
    after: int | None = 0
    while True:
        try:
            async with journal.tail(after, prefixes) as tail:
                start = tail.revision
                number = recorder.number()
                asked = {"after": start, "prefixes": [prefix.decode() for prefix in prefixes]}
                recorder.invoke(name, number, "tail", **asked)
                async for message in tail:
                    commits = [commit_json(commit) for commit in message.commits]
                    recorder.message(name, number, message.first, message.last, commits)
                    if world.options.slow_tails_s and rng.random() < 0.3:
                        await trio.sleep(rng.random() * world.options.slow_tails_s)
        except RevisionCompacted:
            after = None
        except JournalError as error:
            world.log(0, f"{name} ends: {error}")
            await trio.sleep(0.1)


async def keep_replica(
    world: World, journal: Journal, recorder: Recorder, name: str, rng: random.Random
) -> None:
    """A copy of a part of the space: what it shows at its revision is recorded like a read."""
    while True:
        try:
            async with journal.replica(b"item/", b"bank/", timeout_s=None) as replica:
                while True:
                    await replica.changed(replica.revision)
                    items = [
                        [text(key), record_json(record)] for key, record in replica.scan(b"bank/", b"bank0")
                    ]
                    number = recorder.number()
                    recorder.invoke(name, number, "scan", start="bank/", end="bank0", consistency="local")
                    recorder.complete(name, number, revision=replica.revision, items=items, next=None)
                    await trio.sleep(rng.random() * 0.5)
        except JournalError as error:
            world.log(0, f"{name} ends: {error}")
            await trio.sleep(0.1)


def record_unlabelled(journal: Journal, client: RecordingClient) -> None:
    """Record the offers that the client library makes by itself, too: those of its leases."""
    plain = journal.offer

    async def offer(offer: Offer, *, timeout_s: Timeout = DEFAULT) -> Revision:
        if offer.label:
            return await plain(offer, timeout_s=timeout_s)
        outcome = await client.offer(offer, timeout_s=timeout_s)
        if isinstance(outcome, JournalError):
            raise outcome
        if isinstance(outcome, Rejected):
            raise OfferRejected(outcome)
        assert isinstance(outcome, int)
        return Revision(outcome)

    journal.offer = offer  # type: ignore[method-assign]


async def hold_lease(world: World, journal: Journal, name: str, rng: random.Random) -> None:
    """Hold leases with bound keys, by the production client's keeper. ``Watch`` looks at their ends."""
    key = f"held/{name}".encode()
    while True:
        try:
            ttl_s = rng.choice((0.6, 1.0, 2.0))
            async with journal.lease(ttl_s, cancel_on_loss=False, revoke=rng.random() < 0.5) as lease:
                world.watch.leases[lease.id] = lease
                try:
                    await journal.put(key, b"held", lease=lease.id)
                except (OfferRejected, OfferUnknown, JournalError):
                    pass
                with trio.move_on_after(rng.random() * 6):
                    await lease.lost.wait()
                    if world.options.only_slow_disks:
                        world.violate("a slow disk expires no lease", f"{name} lost lease {lease.id}")
                    world.log(0, f"{name} lost lease {lease.id}")
        except (OfferRejected, OfferUnknown, JournalError) as error:
            world.log(0, f"{name} got no lease: {error}")
            await trio.sleep(0.1)
