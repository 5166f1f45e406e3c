"""A tiny journal in memory, and nodes of it that misbehave on demand.

``FakeJournal`` is one truth without consensus: a deliberately plain fold with the same
promises as the real one (exactly once by id, expiry by base), which also counts by itself how
often each id took effect. ``FakeNode`` is a node of it that may lead or not, lag, be down, be
silent, or lie. ``Faults`` decides what happens to each message, from a seed or by script.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import msgpack
import trio

from journal.client import ClientConfig, Journal, connect
from journal.commits import Change, Commit
from journal.connection import Connection, Consistency, GetReply, Level, NotSent, ScanReply, TailMessage
from journal.connection_local import filtered
from journal.errors import (
    LeaseNotFound,
    NotLeader,
    Overloaded,
    RevisionCompacted,
    RevisionInFuture,
    Unavailable,
    WrongCluster,
)
from journal.gate import unpack_batch
from journal.limits import Limits
from journal.node import NodeMember, NodeStatus
from journal.offers import (
    EXPIRED,
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Offer,
    Put,
    RawBatch,
    Reason,
    Rejected,
    Verdict,
    offer_from_raw,
)
from journal.pages import Page
from journal.paxos.changes import MemberChange
from journal.snapshots.serve import SnapshotPart
from journal.types import NodeId, Revision, Slot
from journal.versions import Record

LATENCY_S = 0.001


class _No(Exception):
    def __init__(self, receipt: Rejected) -> None:
        self.receipt = receipt


@dataclass
class _Session:
    floor: int = 0
    verdicts: dict[int, Verdict] = field(default_factory=dict)


class FakeJournal:
    """The history, the space at every revision, and the sessions."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.history: dict[bytes, list[tuple[int, Record | None]]] = {}
        self.sessions: dict[bytes, _Session] = {}
        self.forgotten_floor = 0
        self.leases: dict[int, int] = {}  # id -> ttl_ms
        self.compacted = Revision(0)
        self.applied: Counter[tuple[bytes, int]] = Counter()
        """How often each offer id took effect: counted apart from the sessions."""
        self.submissions: list[RawBatch] = []
        self._moved = trio.Event()

    @property
    def revision(self) -> Revision:
        return Revision(len(self.commits))

    async def moved(self) -> None:
        await self._moved.wait()

    def forget(self, client: bytes) -> None:
        """Forget a client, as the real fold does with the longest idle one."""
        self.sessions.pop(client, None)
        self.forgotten_floor = self.revision + 1

    # -- reads ----------------------------------------------------------------------

    def get(self, key: bytes, at: int | None = None) -> Record | None:
        versions = self.history.get(key, [])
        index = bisect_right(versions, self.revision if at is None else at, key=lambda item: item[0])
        return versions[index - 1][1] if index else None

    def scan(self, start: bytes, end: bytes, at: int) -> list[tuple[bytes, Record]]:
        keys = [key for key in sorted(self.history) if start <= key and (not end or key < end)]
        found = [(key, self.get(key, at)) for key in keys]
        return [(key, record) for key, record in found if record is not None]

    def modified(self, key: bytes) -> int:
        versions = self.history.get(key)
        return versions[-1][0] if versions else 0

    # -- the fold -------------------------------------------------------------------

    def fold(self, raw: RawBatch) -> list[Verdict]:
        self.submissions.append(raw)
        session = self.sessions.get(raw.client)
        if session is None:
            if raw.base < self.forgotten_floor:
                return [EXPIRED for _ in raw.offers]
            session = self.sessions[raw.client] = _Session()
        if raw.acked > session.floor:
            session.floor = raw.acked
            session.verdicts = {s: v for s, v in session.verdicts.items() if s >= raw.acked}
        verdicts: list[Verdict] = []
        for raw_offer in raw.offers:
            sequence, offer = offer_from_raw(raw_offer)
            if sequence < session.floor:
                verdicts.append(EXPIRED)
                continue
            if sequence not in session.verdicts:
                session.verdicts[sequence] = self._apply(raw.client, sequence, offer)
            verdicts.append(session.verdicts[sequence])
        moved, self._moved = self._moved, trio.Event()
        moved.set()
        return verdicts

    def _apply(self, client: bytes, sequence: int, offer: Offer) -> Verdict:
        try:
            changes = self._changes(offer)
        except _No as no:
            return no.receipt
        revision = Revision(self.revision + 1)
        self.applied[client, sequence] += 1
        for change in changes.values():
            old = self.get(change.key)
            record = None
            if change.value is not None:
                created = old.create if old else revision
                version = old.version + 1 if old else 1
                record = Record(created, revision, version, change.lease, change.value)
            self.history.setdefault(change.key, []).append((revision, record))
        commit = Commit(revision, Slot(revision), 0, client, sequence, offer.label, tuple(changes.values()))
        self.commits.append(commit)
        for mutation in offer.mutations:
            if isinstance(mutation, LeaseGrant):
                self.leases[mutation.lease] = mutation.ttl_ms
            elif isinstance(mutation, LeaseRevoke):
                del self.leases[mutation.lease]
        return revision

    def _changes(self, offer: Offer) -> dict[bytes, Change]:
        if offer.at > self.revision:
            raise _No(Rejected(Reason.FUTURE, "at", revision=self.revision))
        if (offer.reads or offer.ranges) and offer.at < self.compacted:
            raise _No(Rejected(Reason.COMPACTED, "at", revision=self.compacted))
        for index, key in enumerate(offer.reads):
            if self.modified(key) > offer.at:
                raise _No(Rejected(Reason.READ, f"reads[{index}]", key, self.modified(key)))
        for index, (start, end) in enumerate(offer.ranges):
            for key in self.history:
                if start <= key and (not end or key < end) and self.modified(key) > offer.at:
                    raise _No(Rejected(Reason.RANGE, f"ranges[{index}]", key, self.modified(key)))
        for index, (key, expected) in enumerate(offer.expect):
            record = self.get(key)
            if (record.mod if record else 0) != expected:
                raise _No(Rejected(Reason.EXPECT, f"expect[{index}]", key, record.mod if record else 0))
        changes: dict[bytes, Change] = {}
        for index, mutation in enumerate(offer.mutations):
            self._mutate(f"mutations[{index}]", mutation, changes)
        return changes

    def _mutate(self, where: str, mutation: Any, changes: dict[bytes, Change]) -> None:
        def value_of(key: bytes) -> bytes | None:
            if key in changes:
                return changes[key].value
            record = self.get(key)
            return record.value if record else None

        match mutation:
            case Put(key, put, lease):
                if lease and lease not in self.leases:
                    raise _No(Rejected(Reason.LEASE, where, key, actual=lease))
                changes[key] = Change(key, put, lease)
            case Delete(key):
                if value_of(key) is not None:
                    changes[key] = Change(key, None, 0)
            case DeleteRange(start, end):
                present = {key for key, _record in self.scan(start, end, self.revision)}
                written = {key for key in changes if start <= key and (not end or key < end)}
                for key in sorted(present | written):
                    if value_of(key) is not None:
                        changes[key] = Change(key, None, 0)
            case Adjust(key, deltas, minimum, maximum):
                value = value_of(key)
                if value is None:
                    raise _No(Rejected(Reason.ABSENT, where, key))
                fields = msgpack.unpackb(value)
                for name, delta in deltas.items():
                    result = fields.get(name, 0) + delta
                    if not minimum.get(name, result) <= result <= maximum.get(name, result):
                        actual = fields.get(name, 0)
                        raise _No(Rejected(Reason.BOUNDS, where, key, field=name, actual=actual))
                    fields[name] = result
                changes[key] = Change(key, msgpack.packb(fields), 0)
            case LeaseGrant(lease, _ttl_ms):
                if lease in self.leases:
                    raise _No(Rejected(Reason.LEASE, where, revision=1, actual=lease))
            case LeaseRevoke(lease):
                if lease not in self.leases:
                    raise _No(Rejected(Reason.LEASE, where, actual=lease))
                for key, record in self.scan(b"", b"", self.revision):
                    if record.lease == lease:
                        changes[key] = Change(key, None, 0)
            case _:
                raise NotImplementedError(mutation)


# -- nodes -------------------------------------------------------------------------------


class Fate(Enum):
    """What happens to one submit message."""

    WELL = auto()
    REQUEST_LOST = auto()  # never arrives, and the connection breaks
    REPLY_LOST = auto()  # takes effect, and the connection breaks
    SILENT_REQUEST = auto()  # never arrives, and nobody says so
    SILENT_REPLY = auto()  # takes effect, and nobody says so
    LATE = auto()  # the connection breaks, and it arrives much later all the same
    TWICE = auto()  # arrives, and a copy much later
    OVERLOADED = auto()


BAD = tuple(fate for fate in Fate if fate is not Fate.WELL)


@dataclass
class Faults:
    """Decides on the fate of messages: by ``script`` first, then at random."""

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    rate: float = 0.0
    fates: Sequence[Fate] = BAD
    script: list[Fate] = field(default_factory=list)
    late_s: float = 1.0

    def fate(self) -> Fate:
        if self.script:
            return self.script.pop(0)
        return self.rng.choice(self.fates) if self.rng.random() < self.rate else Fate.WELL


class FakeNode:
    """One node: what it knows of the journal, and how it is."""

    def __init__(self, endpoint: str, journal: FakeJournal) -> None:
        self.endpoint = endpoint
        self.journal = journal
        self.leads = False
        self.hint: str | None = None
        self.up = True
        self.silent = False
        self.stalls = False
        """It leads, but its disk does not: submits are not answered, all else is."""
        self.answers_after_s = 0.0
        """So much later than it decides."""
        self.frozen_at: Revision | None = None  # cut off: it stands there and does not know it
        self.cluster = "c"
        self.limits = Limits()
        self.submits = 0
        self.calls = 0
        self.arrival = 0.0
        self.tails = 0
        self.spoil_tail: Callable[[TailMessage], Sequence[TailMessage]] | None = None
        self.spoil_read: Callable[[Revision], int] = lambda revision: revision

    @property
    def revision(self) -> Revision:
        return self.journal.revision if self.frozen_at is None else self.frozen_at


class FakeCluster:
    """Some nodes of one journal, and the connector to them."""

    def __init__(self, nodes: int = 3, faults: Faults | None = None) -> None:
        self.journal = FakeJournal()
        self.nodes = {f"n{i}:1": FakeNode(f"n{i}:1", self.journal) for i in range(1, nodes + 1)}
        self.faults = faults or Faults()
        self.nursery: trio.Nursery | None = None
        self.max_submits = 0  # at once
        self.lead("n1:1")

    @property
    def endpoints(self) -> list[str]:
        return list(self.nodes)

    def lead(self, endpoint: str | None, *, hints: bool = True) -> None:
        """Make ``endpoint`` the leader; None: nobody leads."""
        for node in self.nodes.values():
            node.leads = node.endpoint == endpoint
            node.hint = endpoint if hints else None

    async def connect(self, endpoint: str) -> Connection:
        await trio.sleep(LATENCY_S)
        return FakeConnection(self, self.nodes[endpoint])

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def later(self, raw: RawBatch) -> None:
        await trio.sleep(self.faults.late_s * self.faults.rng.uniform(0.2, 2.0))
        self.journal.fold(raw)


class FakeConnection:
    """Implements the port over a fake node."""

    def __init__(self, cluster: FakeCluster, node: FakeNode) -> None:
        self._cluster = cluster
        self._node = node
        self._closed = False
        self._submits = 0

    @property
    def endpoint(self) -> str:
        return self._node.endpoint

    async def _travel(self) -> None:
        node = self._node
        node.calls += 1
        # In the order of the calls, however trio shuffles the tasks that wait.
        node.arrival = max(node.arrival + 1e-7, trio.current_time() + LATENCY_S)
        await trio.sleep_until(node.arrival)
        if self._closed:
            raise NotSent("closed")
        if node.silent:
            await trio.sleep_forever()
        if not node.up:
            raise Unavailable(f"{node.endpoint}: connection refused")
        if node.cluster != "c":
            raise WrongCluster(f"{node.endpoint} is of cluster {node.cluster}")

    async def submit(self, data: bytes) -> list[Verdict]:
        cluster, node, journal = self._cluster, self._node, self._node.journal
        node.submits += 1
        self._submits += 1
        cluster.max_submits = max(cluster.max_submits, self._submits)
        try:
            await self._travel()
            raw = unpack_batch(data, node.limits)
            if not node.leads:
                raise NotLeader(NodeId(9) if node.hint else None, node.hint)
            if node.stalls:
                await trio.sleep_forever()
            if len(raw.offers) > node.limits.offers_inflight_max:
                raise Overloaded("offers_inflight_max", node.limits.offers_inflight_max, 10)
            fate = cluster.faults.fate()
            if fate is Fate.OVERLOADED:
                raise Overloaded("offers_inflight_max", 1, 10)
            if fate in (Fate.LATE, Fate.TWICE):
                assert cluster.nursery is not None
                cluster.nursery.start_soon(cluster.later, raw)
            if fate in (Fate.REQUEST_LOST, Fate.LATE):
                raise Unavailable("connection broken")
            if fate is Fate.SILENT_REQUEST:
                await trio.sleep_forever()
            verdicts = journal.fold(raw)
            await trio.sleep(LATENCY_S + node.answers_after_s)
            if fate is Fate.REPLY_LOST:
                raise Unavailable("connection broken")
            if fate is Fate.SILENT_REPLY:
                await trio.sleep_forever()
            return verdicts
        finally:
            self._submits -= 1

    async def _barrier(self, at: Revision | None, consistency: Consistency) -> Revision:
        node = self._node
        await self._travel()
        if consistency.level is Level.LINEARIZABLE and node.frozen_at is not None:
            raise Unavailable("no leader confirmed the read")
        while node.revision < consistency.revision:
            await node.journal.moved() if node.frozen_at is None else await trio.sleep_forever()
        if at is not None and at > node.revision:
            raise RevisionInFuture(at, node.revision)
        if at is not None and at < node.journal.compacted:
            raise RevisionCompacted(at, node.journal.compacted)
        return Revision(node.spoil_read(node.revision if at is None else at))

    async def get(self, keys: Sequence[bytes], *, at: Revision | None, consistency: Consistency) -> GetReply:
        revision = await self._barrier(at, consistency)
        return GetReply(revision, [self._node.journal.get(key, revision) for key in keys])

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        at: Revision | None,
        consistency: Consistency,
        limit_keys: int,
        limit_bytes: int = 0,
    ) -> ScanReply:
        revision = await self._barrier(at, consistency)
        found = self._node.journal.scan(start, end, revision)
        limit = min(limit_keys, self._node.limits.scan_keys_max)
        page = Page()
        for key, record in found[:limit]:
            page.append(key, record)
        return ScanReply(revision, page, found[limit][0] if len(found) > limit else None)

    @asynccontextmanager
    async def tail(
        self, after: Revision, prefixes: Sequence[bytes], *, progress_interval_s: float = 1.0
    ) -> AsyncIterator[AsyncIterator[TailMessage]]:
        await self._travel()
        self._node.tails += 1
        try:
            async with aclosing(self._messages(after, tuple(prefixes), progress_interval_s)) as messages:
                yield messages
        finally:
            self._node.tails -= 1

    async def _messages(
        self, after: Revision, prefixes: tuple[bytes, ...], progress_interval_s: float
    ) -> AsyncGenerator[TailMessage, None]:
        node = self._node
        while True:
            if node.silent:
                await trio.sleep_forever()
            if not node.up:
                raise Unavailable("the stream broke")
            current = node.revision
            if after > current:
                raise RevisionInFuture(after, current)
            if after < node.journal.compacted:
                raise RevisionCompacted(Revision(after + 1), node.journal.compacted)
            last = min(Revision(after + 5), current)
            commits = node.journal.commits[after:last]
            message = TailMessage(Revision(after + 1), last, filtered(commits, prefixes), current)
            for spoiled in [message] if node.spoil_tail is None else node.spoil_tail(message):
                yield spoiled
            after = last
            await trio.sleep(LATENCY_S)
            if after >= node.revision:
                with trio.move_on_after(progress_interval_s):
                    await node.journal.moved()

    async def lease_keep_alive(self, lease: int) -> int:
        await self._travel()
        if not self._node.leads:
            raise NotLeader(None, self._node.hint)
        if lease not in self._node.journal.leases:
            raise LeaseNotFound(lease)
        return self._node.journal.leases[lease]

    async def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        await self._travel()
        session = self._node.journal.sessions.get(client, _Session())
        return EXPIRED if sequence < session.floor else session.verdicts.get(sequence)

    async def status(self) -> NodeStatus:
        await self._travel()
        node = self._node
        role = "leader" if node.leads else "follower"
        revision = node.revision
        return NodeStatus(
            node=NodeId(int(node.endpoint[1])),
            cluster=node.cluster,
            endpoint=node.endpoint,
            role=role,
            leader=None,
            ballot="1.1",
            revision=revision,
            applied=Slot(revision),
            chosen=Slot(revision),
            lag=0,
            chain="",
            compacted=node.journal.compacted,
            disk_bytes=0,
            offers_inflight=0,
            tails=node.tails,
            leases=len(node.journal.leases),
            uptime_s=0.0,
            members=(),
            health="ok",
        )

    async def transfer_leadership(self, to: NodeId | None) -> None:
        await self._travel()
        if not self._node.leads:
            raise NotLeader(None, self._node.hint)
        self._cluster.lead(f"n{to or 2}:1")

    async def compact(self, revision: Revision) -> None:
        await self._travel()
        if not self._node.leads:
            raise NotLeader(None, self._node.hint)
        if revision > self._node.journal.revision:
            raise RevisionInFuture(revision, self._node.journal.revision)
        self._node.journal.compacted = revision

    async def change_members(self, change: MemberChange) -> tuple[NodeMember, ...]:
        raise NotImplementedError

    async def chain(self, slot: Slot) -> bytes | None:
        await self._travel()
        return None

    async def read_snapshot(self, view: int, after: bytes) -> SnapshotPart:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._closed = True


@asynccontextmanager
async def client(cluster: FakeCluster, seed: int = 1, **settings: Any) -> AsyncIterator[Journal]:
    """A client of ``cluster``, whose late messages travel until the end of the block."""
    async with trio.open_nursery() as nursery:
        cluster.nursery = nursery
        async with connect(
            cluster.endpoints,
            connector=cluster,
            config=ClientConfig(**settings),
            rng=random.Random(seed),
        ) as journal:
            yield journal
        nursery.cancel_scope.cancel()
