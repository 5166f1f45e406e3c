"""The contract of the port: the fake, the local and the gRPC connection keep it alike."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from journal.connection import LINEARIZABLE, LOCAL, Connection, Connector, NotSent, at_least
from journal.connection_local import LocalConnector
from journal.errors import (
    InvalidRequest,
    LeaseNotFound,
    NotLeader,
    OfferInvalid,
    RevisionCompacted,
    RevisionInFuture,
    Unavailable,
)
from journal.offers import LeaseGrant, Offer, Put, Reason, Rejected, Verdict, pack_batch, pack_offer
from journal.rpc.connection import GrpcConnector
from journal.types import NodeId, Revision
from synod.local import LocalCluster
from tests.node.cluster import ByEndpoint, running

from .fake import FakeCluster


class World:
    """A leader to talk to, another node, and keys that no other test uses."""

    _numbers: Iterator[int] = itertools.count(1)

    def __init__(self, leader: Connection, follower: Connection) -> None:
        self.leader = leader
        self.follower = follower
        self.prefix = b"contract/%d/%d/" % (os.getpid(), next(self._numbers))
        self.client = os.urandom(16)

    async def submit(self, *offers: Offer, first: int = 1, at: Connection | None = None) -> list[Verdict]:
        base = (await self.leader.get([], at=None, consistency=LINEARIZABLE)).revision
        packed = [pack_offer(first + index, offer) for index, offer in enumerate(offers)]
        return await (at or self.leader).submit(pack_batch(self.client, 0, base, packed))

    def put(self, key: bytes, value: bytes = b"") -> Offer:
        return Offer((Put(self.prefix + key, value),))


@asynccontextmanager
async def world(kind: str, processes: LocalCluster) -> AsyncIterator[World]:
    async def of(connector: Connector, endpoints: list[str], leader: str) -> World:
        other = next(endpoint for endpoint in endpoints if endpoint != leader)
        return World(await connector.connect(leader), await connector.connect(other))

    if kind == "fake":
        fake = FakeCluster()
        yield await of(fake, fake.endpoints, "n1:1")
    elif kind == "local":
        async with running(3) as cluster:
            leader = await cluster.leader()
            nodes = ByEndpoint(cluster)
            yield await of(LocalConnector(nodes), list(nodes), leader.config.endpoint)
    else:
        number = await trio.to_thread.run_sync(processes.leader)
        assert number is not None
        connector = GrpcConnector(processes.cluster_id)
        try:
            yield await of(connector, processes.endpoints, processes.endpoint(number))
        finally:
            await connector.aclose()


@pytest.fixture(params=["fake", "local", "grpc"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def clock(kind: str) -> MockClock | None:
    """Virtual time, but for real processes."""
    return None if kind == "grpc" else MockClock(autojump_threshold=0)


async def test_submit(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        first, second = await w.submit(w.put(b"a", b"1"), w.put(b"b", b"2"))
        assert isinstance(first, int)
        assert second == first + 1
        assert await w.submit(w.put(b"a", b"1"), w.put(b"b", b"2")) == [first, second], "exactly once"
        late = Offer((Put(w.prefix + b"a", b""),), expect=((w.prefix + b"a", 0),))
        (rejected,) = await w.submit(late, first=3)
        assert isinstance(rejected, Rejected)
        assert rejected.reason is Reason.EXPECT
        assert (rejected.key, rejected.revision) == (w.prefix + b"a", first)
        assert await w.leader.outcome(w.client, 2) == second
        assert await w.leader.outcome(w.client, 3) == rejected
        assert await w.leader.outcome(os.urandom(16), 1) is None


async def test_submit_refused(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        with pytest.raises(NotLeader):
            await w.submit(w.put(b"a"), at=w.follower)
        with pytest.raises(OfferInvalid, match=r"offers\[1\].mutations\[0\].key"):
            await w.submit(w.put(b"a"), Offer((Put(b"", b""),)))
        with pytest.raises(OfferInvalid):
            await w.leader.submit(b"\xff\x00 random bytes")
        assert (await w.leader.get([w.prefix + b"a"], at=None, consistency=LINEARIZABLE)).records == [None]


async def test_get(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        (old,) = await w.submit(w.put(b"a", b"1"))
        (new,) = await w.submit(w.put(b"a", b"2"), first=2)
        assert isinstance(old, int)
        assert isinstance(new, int)
        for connection in (w.leader, w.follower):
            for consistency in (LINEARIZABLE, at_least(new)):
                reply = await connection.get(
                    [w.prefix + b"none", w.prefix + b"a"], at=None, consistency=consistency
                )
                assert reply.revision >= new
                assert reply.records[0] is None
                record = reply.records[1]
                assert record is not None
                assert (record.value, record.create, record.mod, record.version) == (b"2", old, new, 2)
            past = await connection.get([w.prefix + b"a"], at=Revision(old), consistency=at_least(old))
            assert past.revision == old
            assert past.records[0] is not None
            assert past.records[0].value == b"1"
            assert (await connection.get([], at=None, consistency=LOCAL)).revision >= new
            with pytest.raises(RevisionInFuture):
                await connection.get([], at=Revision(10**9), consistency=LINEARIZABLE)


async def test_scan(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        verdicts = await w.submit(*[w.put(b"%02d" % i, b"x" * 100) for i in range(10)])
        end = w.prefix + b"\xff"
        last = verdicts[-1]
        assert isinstance(last, int)
        page = await w.follower.scan(w.prefix, end, at=None, consistency=at_least(last), limit_keys=4)
        assert [key for key, _record in page.items] == [w.prefix + b"%02d" % i for i in range(4)]
        assert page.next_key is not None
        assert w.prefix + b"03" < page.next_key <= w.prefix + b"04"
        assert page.revision >= last
        await w.submit(w.put(b"055", b"later"), first=20)
        rest = await w.leader.scan(
            page.next_key, end, at=page.revision, consistency=LINEARIZABLE, limit_keys=100
        )
        assert [key for key, _record in rest.items] == [w.prefix + b"%02d" % i for i in range(4, 10)]
        assert rest.next_key is None
        assert rest.revision == page.revision
        nothing = await w.leader.scan(end, b"", at=page.revision, consistency=LOCAL, limit_keys=1)
        assert all(key >= end for key, _record in nothing.items)


async def test_tail(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        verdicts = await w.submit(*[w.put(b"%02d" % i) for i in range(8)])
        after = Revision(verdicts[0] - 1)  # type: ignore[operator]
        for connection, prefixes in ((w.leader, []), (w.follower, [w.prefix + b"03"])):
            found = []
            position = after
            async with connection.tail(after, prefixes, progress_interval_s=0.1) as messages:
                async for message in messages:
                    assert message.first == position + 1
                    assert message.last >= position
                    position = message.last
                    found += [commit.revision for commit in message.commits]
                    if position >= verdicts[-1]:  # type: ignore[operator]
                        break
                message = await anext(messages)
                assert message.current >= message.last
            assert found[:8] == (verdicts if not prefixes else verdicts[3:4])
        with pytest.raises(RevisionInFuture):
            async with w.leader.tail(Revision(10**9), []) as messages:
                await anext(messages)


async def test_an_idle_tail_speaks_at_once(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        await w.submit(w.put(b"a"))
        revision = (await w.leader.get([], at=None, consistency=LINEARIZABLE)).revision
        async with w.leader.tail(revision, [], progress_interval_s=0.05) as messages:
            for _ in range(3):
                message = await anext(messages)
                assert (message.first, message.last) == (revision + 1, revision)
                assert not message.commits


async def test_leases(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        lease = int.from_bytes(os.urandom(7), "big") + 1
        await w.submit(Offer((LeaseGrant(lease, 60_000),)))
        assert await w.leader.lease_keep_alive(lease) == 60_000
        with pytest.raises(LeaseNotFound):
            await w.leader.lease_keep_alive(lease + 1)
        with pytest.raises(NotLeader):
            await w.follower.lease_keep_alive(lease)


async def test_operations(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        (revision,) = await w.submit(w.put(b"a"))
        assert isinstance(revision, int)
        status = await w.leader.status()
        assert status.role == "leader"
        assert status.endpoint == w.leader.endpoint
        with pytest.raises(NotLeader):
            await w.follower.compact(Revision(1))
        with pytest.raises(RevisionInFuture):
            await w.leader.compact(Revision(10**9))
        await w.leader.compact(Revision(revision))
        with pytest.raises(RevisionCompacted):
            await w.leader.get([w.prefix + b"a"], at=Revision(revision - 1), consistency=LOCAL)
        with pytest.raises((Unavailable, InvalidRequest, NotLeader)):
            await w.follower.transfer_leadership(NodeId(1))


async def test_closing(kind: str, clock: object, processes: LocalCluster) -> None:
    async with world(kind, processes) as w:
        await w.submit(w.put(b"a"))
        await w.leader.aclose()
        await w.leader.aclose()
        with pytest.raises(NotSent):
            await w.leader.submit(pack_batch(w.client, 0, 0, [pack_offer(9, w.put(b"b"))]))
        with pytest.raises(Unavailable):
            await w.leader.get([], at=None, consistency=LOCAL)
