"""Get, Scan, Outcome, leases, status and operation over gRPC."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import msgpack
import pytest
import trio
from google.protobuf.message import Message

from journal.connection import LINEARIZABLE, LOCAL, at_least
from journal.errors import (
    InvalidRequest,
    LeaseNotFound,
    RecordDamaged,
    RevisionCompacted,
    RevisionInFuture,
    Unavailable,
)
from journal.limits import Limits
from journal.offers import Adjust, Delete, LeaseGrant, Offer, Put
from journal.pages import Page
from journal.rpc import bridge, methods
from journal.rpc.edge import EdgeLimits
from journal.rpc.methods import Method
from journal.rpc.pb import admin_pb2
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.service import _TURNS_BETWEEN_PARTS, Service
from journal.types import NodeId, Revision, Slot
from journal.versions import Record
from tests.rpc.harness import Served, batch, guest, served, served_fake

pytestmark = pytest.mark.usefixtures("both_ways")


@guest
async def test_get_gives_records_in_the_order_asked_all_at_one_revision() -> None:
    async with served() as here:
        await here.put(b"a", b"1")
        await here.put(b"b", b"2")
        await here.put(b"a", b"3")
        reply = await here.connection.get([b"b", b"none", b"a"], at=None, consistency=LINEARIZABLE)
        assert reply.revision == 3
        b, none, a = reply.records
        assert none is None
        assert b is not None and (b.value, b.create, b.mod, b.version, b.lease) == (b"2", 2, 2, 1, 0)
        assert a is not None and (a.value, a.create, a.mod, a.version) == (b"3", 1, 3, 2)
        before = await here.connection.get([b"a", b"b"], at=Revision(1), consistency=LINEARIZABLE)
        assert before.revision == 1
        assert before.records[0] is not None and before.records[0].value == b"1"
        assert before.records[1] is None
        assert (await here.connection.get([], at=None, consistency=LOCAL)).revision == 3


@guest
async def test_scan_pages_from_one_revision() -> None:
    async with served() as here:
        for number in range(7):
            await here.put(b"k%d" % number)
        first = await here.connection.scan(b"k", b"l", at=None, consistency=LINEARIZABLE, limit_keys=3)
        await here.offer(Delete(b"k4"))
        found = [key for key, _record in first.items]
        page = first
        while page.next_key is not None:
            page = await here.connection.scan(
                page.next_key, b"l", at=first.revision, consistency=LINEARIZABLE, limit_keys=3
            )
            assert page.revision == first.revision
            found += [key for key, _record in page.items]
        assert found == [b"k%d" % number for number in range(7)]
        last = await here.connection.scan(b"k", b"", at=None, consistency=LINEARIZABLE, limit_keys=100)
        assert len(last.items) == 6


@guest
async def test_scan_page_ends_at_the_bytes_but_holds_one_key() -> None:
    async with served() as here:
        for number in range(4):
            await here.put(b"k%d" % number, bytes(1000))
        page = await here.connection.scan(
            b"", b"", at=None, consistency=LOCAL, limit_keys=100, limit_bytes=2100
        )
        assert len(page.items) == 2
        page = await here.connection.scan(b"", b"", at=None, consistency=LOCAL, limit_keys=100, limit_bytes=1)
        assert len(page.items) == 1 and page.next_key is not None


@guest
async def test_scan_reads_a_large_page_in_steps_and_keys_only() -> None:
    async with served() as here:
        offer = Offer(mutations=tuple(Put(b"%04d" % number, b"value") for number in range(1000)))
        more = Offer(mutations=tuple(Put(b"%04d" % number, b"value") for number in range(1000, 1500)))
        await here.connection.submit(batch(offer, more))
        request = pb.ScanRequest(range=pb.Range(), keys_only=True)
        reply = await here.call(methods.SCAN, request)
        assert [record.key for record in reply.records] == [b"%04d" % number for number in range(1500)]
        assert {record.value for record in reply.records} == {b""}
        assert not reply.HasField("next")


@guest
@pytest.mark.parametrize("keys_only", [False, True])
async def test_columns_hold_what_the_records_hold(keys_only: bool) -> None:
    async with served() as here:
        offers = [Offer(mutations=(Put(b"%04d" % number, b"value %d" % number),)) for number in range(1500)]
        await here.connection.submit(batch(*offers))
        await here.connection.submit(batch(*offers[:500]))
        request = pb.ScanRequest(range=pb.Range(start=b"0100"), keys_only=keys_only, limit_keys=1200)
        typed = await here.call(methods.SCAN, request)
        request.columns = True
        packed = await here.call(methods.SCAN, request)
        assert not packed.records and packed.revision == typed.revision and packed.next == typed.next
        assert Page.unpack(packed.columns) == typed_items([typed])


@guest
async def test_a_scan_in_parts_is_the_page_that_goes_on_from_part_to_part() -> None:
    async with served() as here:
        offers = [Offer(mutations=(Put(b"%04d" % number, b"value"),)) for number in range(2500)]
        await here.connection.submit(batch(*offers))
        request = pb.ScanRequest(range=pb.Range(start=b"0100"), limit_keys=2300)
        whole = await here.call(methods.SCAN, request)
        parts = await here.call_stream(methods.SCAN_IN_PARTS, request)
        assert [len(part.records) for part in parts] == [1000, 1000, 300]
        assert {part.revision for part in parts} == {whole.revision}
        assert typed_items(parts) == typed_items([whole])
        starts = [part.records[0].key for part in parts]
        assert [part.next for part in parts] == [*starts[1:], whole.next]
        request.columns = True
        columns = await here.call_stream(methods.SCAN_IN_PARTS, request)
        assert [pair for part in columns for pair in Page.unpack(part.columns)] == typed_items([whole])
        page = await here.connection.scan(b"0100", b"", at=None, consistency=LOCAL, limit_keys=2300)
        assert page.items == typed_items([whole]) and page.next_key == whole.next
        nothing = await here.connection.scan(b"x", b"", at=None, consistency=LOCAL, limit_keys=10)
        assert (len(nothing.items), nothing.next_key, nothing.revision) == (0, None, whole.revision)


async def six_keys_in_three_parts(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.rpc.service._SCAN_STEP_KEYS", 2)
    for number in range(6):
        await here.put(b"k%d" % number, b"old")


@guest
async def test_all_parts_are_of_one_revision_whatever_is_written_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as here:
        await six_keys_in_three_parts(here, monkeypatch)

        async def ask() -> list[pb.ScanReply]:
            call: Any = here.channel.unary_stream(
                methods.SCAN_IN_PARTS.path,
                request_serializer=methods.encode,
                response_deserializer=methods.SCAN_IN_PARTS.decode_reply,
            )(pb.ScanRequest(range=pb.Range()))
            return [await call.read() for _ in range(3)]

        space, plain = here.node.space, here.node.space.page
        steps = 0

        def page(*asked: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == 2:
                space.revision = Revision(space.revision + 1)  # as if an offer had come between
            return plain(*asked)

        monkeypatch.setattr(space, "page", page)
        parts = await bridge.host().run(ask)
        space.revision = Revision(space.revision - 1)
        assert {part.revision for part in parts} == {6}


@guest
async def test_a_scan_whose_revision_is_compacted_between_its_parts_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as here:
        await six_keys_in_three_parts(here, monkeypatch)
        space, plain = here.node.space, here.node.space.page
        asked_for = []

        def page(*asked: Any) -> Any:
            asked_for.append(asked[0])
            if len(asked_for) == 2:
                space.compacted = Revision(6)
            return plain(*asked)

        monkeypatch.setattr(space, "page", page)
        with pytest.raises(RevisionCompacted):
            await here.connection.scan(b"", b"", at=Revision(5), consistency=LOCAL, limit_keys=100)
        assert asked_for == [b"", b"k2"]


@guest
async def test_an_offer_that_comes_during_a_scan_waits_for_one_part_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop comes round often enough between two parts for all the turns that an offer takes."""
    async with served() as here:
        await six_keys_in_three_parts(here, monkeypatch)
        space, plain = here.node.space, here.node.space.page
        rounds = 0
        at_part: list[int] = []

        def come_round() -> None:
            nonlocal rounds
            rounds += 1
            if len(at_part) < 3:
                asyncio.get_running_loop().call_soon(come_round)

        def page(*asked: Any) -> Any:
            if not at_part:
                asyncio.get_running_loop().call_soon(come_round)
            at_part.append(rounds)
            return plain(*asked)

        monkeypatch.setattr(space, "page", page)
        await here.call_stream(methods.SCAN_IN_PARTS, pb.ScanRequest(range=pb.Range()))
        assert len(at_part) == 3
        assert all(later - earlier >= _TURNS_BETWEEN_PARTS for earlier, later in pairwise(at_part)), at_part


class Unread:
    """The context of a call whose client reads a message only when it is ``let``."""

    def __init__(self) -> None:
        self.writing: list[tuple[pb.ScanReply, asyncio.Future[None]]] = []

    async def write(self, reply: pb.ScanReply) -> None:
        read: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writing.append((reply, read))
        await read

    async def let(self) -> pb.ScanReply:
        """Have the client read the one message that is being written; return it."""
        await turns()
        ((reply, read),) = self.writing
        self.writing.clear()
        read.set_result(None)
        return reply


async def turns() -> None:
    """Let the loop do all that does not wait for anything."""
    for _ in range(20):
        await asyncio.sleep(0)


@guest
async def test_one_part_is_read_while_another_is_sent_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as here:
        await six_keys_in_three_parts(here, monkeypatch)
        space, plain = here.node.space, here.node.space.page
        asked_for: list[bytes] = []

        def page(*asked: Any) -> Any:
            asked_for.append(asked[0])
            return plain(*asked)

        monkeypatch.setattr(space, "page", page)

        async def ask() -> None:
            context: Any = Unread()
            request = pb.ScanRequest(range=pb.Range(), consistency=pb.CONSISTENCY_LOCAL)
            serving = asyncio.ensure_future(Service(here.server._edge).scan_in_parts(request, context))
            for number, more in ((0, [b"", b"k2"]), (2, [b"", b"k2", b"k4"]), (4, [b"", b"k2", b"k4"])):
                await turns()
                assert asked_for == more
                assert [record.key for record in (await context.let()).records] == [
                    b"k%d" % number,
                    b"k%d" % (number + 1),
                ]
            await serving

        await bridge.host().run(ask)


@guest
async def test_what_ends_a_scan_waits_for_the_part_that_is_being_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the call would be ended in the middle of a message."""
    async with served() as here:
        await six_keys_in_three_parts(here, monkeypatch)
        plain = here.node.space.page

        def page(*asked: Any) -> Any:
            if asked[0]:
                raise RecordDamaged(b"kk2", "a test")
            return plain(*asked)

        monkeypatch.setattr(here.node.space, "page", page)

        async def ask() -> None:
            context: Any = Unread()
            request = pb.ScanRequest(range=pb.Range(), consistency=pb.CONSISTENCY_LOCAL)
            serving = asyncio.ensure_future(Service(here.server._edge).scan_in_parts(request, context))
            await turns()
            assert not serving.done()
            await context.let()
            with pytest.raises(RecordDamaged):
                await serving

        await bridge.host().run(ask)


@guest
async def test_a_node_that_knows_no_parts_is_asked_for_the_page() -> None:
    """Of an earlier version: it does not know columns either."""
    async with served() as here:
        await here.put(b"a", b"1")
        await here.put(b"b", b"2")

        async def scan(data: bytes, _context: Any) -> bytes:
            asked = pb.ScanRequest.FromString(data)
            asked.columns = False
            reply: bytes = (await here.call_here(methods.SCAN, asked)).SerializeToString()
            return reply

        async def status(_data: bytes, _context: Any) -> bytes:
            return b""

        async def serve() -> tuple[grpc.aio.Server, int]:
            server = grpc.aio.server()
            handlers: dict[str, Any] = {
                "Scan": grpc.unary_unary_rpc_method_handler(scan),
                "Status": grpc.unary_unary_rpc_method_handler(status),
            }
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(methods.JOURNAL, handlers),)
            )
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            return server, port

        server, port = await bridge.host().run(serve)
        try:
            old = await here.connector.connect(f"127.0.0.1:{port}")
            page = await old.scan(b"", b"", at=None, consistency=LOCAL, limit_keys=100)
            assert [(key, record.value, record.mod) for key, record in page.items] == [
                (b"a", b"1", 1),
                (b"b", b"2", 2),
            ]
        finally:
            await bridge.host().run(server.stop, None)


def typed_items(replies: list[pb.ScanReply]) -> list[tuple[bytes, Record]]:
    return [
        (r.key, Record(Revision(r.create), Revision(r.mod), r.version, r.lease, r.value))
        for reply in replies
        for r in reply.records
    ]


@guest
async def test_each_consistency_waits_for_what_it_promises() -> None:
    async with served_fake() as (node, here):
        assert (await here.connection.get([], at=None, consistency=LOCAL)).revision == 0
        assert node.reads == []
        for consistency in (LINEARIZABLE, at_least(3)):
            async with trio.open_nursery() as nursery:
                found: list[int] = []

                async def ask(consistency: Any = consistency, found: list[int] = found) -> None:
                    found.append((await here.connection.get([], at=None, consistency=consistency)).revision)

                nursery.start_soon(ask)
                await node.read_one.wait()
                assert found == []
                node.space.revision = Revision(5)
                node.reads.pop()(Revision(5))
            assert found == [5]
            node.space.revision = Revision(0)
            node.read_one = trio.Event()


@guest
async def test_a_past_that_is_here_is_read_without_asking_anybody() -> None:
    async with served_fake() as (node, here):
        node.space.revision = Revision(5)
        node.space.compacted = Revision(2)
        reply = await here.connection.get([b"a"], at=Revision(4), consistency=LINEARIZABLE)
        assert reply.revision == 4
        assert node.reads == []


@guest
async def test_a_read_that_nobody_confirms_is_unavailable() -> None:
    async with served_fake() as (node, here), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(Unavailable, match="majority"):
                await here.connection.get([b"a"], at=None, consistency=LINEARIZABLE)

        nursery.start_soon(ask)
        await node.read_one.wait()
        node.reads.pop()(Unavailable("is a majority of the nodes up?"))


@guest
async def test_a_cancelled_read_is_answered_into_the_void() -> None:
    async with served_fake() as (node, here):
        with trio.move_on_after(0.05):
            await here.connection.get([b"a"], at=None, consistency=LINEARIZABLE)
        await bridge.host().run(asyncio.sleep, 0.05)  # the cancellation reaches the node's side
        node.reads.pop()(Revision(1))


@guest
async def test_revisions_that_cannot_be_read() -> None:
    async with served() as here:
        for _ in range(4):
            await here.put(b"a")
        with pytest.raises(RevisionInFuture) as future:
            await here.connection.get([b"a"], at=Revision(99), consistency=LINEARIZABLE)
        assert (future.value.asked, future.value.current) == (99, 4)
        with pytest.raises(RevisionInFuture):
            await here.connection.get([b"a"], at=None, consistency=at_least(99))
        await here.connection.compact(Revision(3))
        with pytest.raises(RevisionCompacted) as gone:
            await here.connection.get([b"a"], at=Revision(1), consistency=LINEARIZABLE)
        assert (gone.value.asked, gone.value.compacted) == (1, 3)
        with pytest.raises(RevisionCompacted):
            await here.connection.scan(b"", b"", at=Revision(2), consistency=LOCAL, limit_keys=1)
        with pytest.raises(RevisionInFuture):
            await here.connection.compact(Revision(99))


BIG = 2**64 - 1

BAD_REQUESTS: list[tuple[str, Method, Message, str]] = [
    ("empty key", methods.GET, pb.GetRequest(keys=[b"a", b""]), "keys[1]: "),
    ("long key", methods.GET, pb.GetRequest(keys=[b"a" * 5000]), "keys[0]: 5000 bytes"),
    ("many keys", methods.GET, pb.GetRequest(keys=[b"a"] * 20_000), "keys: 20000 is over"),
    ("large values", methods.GET, pb.GetRequest(keys=[b"large"] * 50), "keys: the values are over"),
    ("consistency", methods.GET, pb.GetRequest(consistency=9), "consistency: 9"),  # type: ignore[arg-type]
    ("range", methods.SCAN, pb.ScanRequest(range=pb.Range(start=b"b", end=b"a")), "range: start"),
    ("empty range", methods.SCAN, pb.ScanRequest(range=pb.Range(start=b"a", end=b"a")), "range: start"),
    ("client", methods.OUTCOME, pb.OutcomeRequest(client=bytes(65)), "client: 65 bytes"),
    ("sequence", methods.OUTCOME, pb.OutcomeRequest(client=b"c", sequence=BIG), "sequence: "),
    ("ttl", methods.LEASE_GRANT, pb.LeaseGrantRequest(ttl_ms=1), "offers[0].mutations[0].ttl_ms: "),
    (
        "lease",
        methods.LEASE_GRANT,
        pb.LeaseGrantRequest(ttl_ms=1000, lease=BIG),
        "offers[0].mutations[0].lease: ",
    ),
    ("member", methods.TRANSFER_LEADERSHIP, admin_pb2.TransferLeadershipRequest(to=9), "to: node 9"),
]


@pytest.mark.parametrize(
    ("method", "request_", "details"),
    [row[1:] for row in BAD_REQUESTS],
    ids=[row[0] for row in BAD_REQUESTS],
)
def test_bad_request_gets_its_error(method: Method, request_: Message, details: str) -> None:
    @guest
    async def run() -> None:
        async with served() as here:
            await here.put(b"large", bytes(100_000))
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await here.call(method, request_)
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (failed.value.details() or "").startswith(details)
            assert here.log.named("rpc.bug") == []
            await here.put(b"fine")

    run()


@pytest.mark.parametrize(
    ("method", "request_", "status"),
    [
        (methods.GET, pb.GetRequest(at=BIG), grpc.StatusCode.OUT_OF_RANGE),
        (
            methods.SCAN,
            pb.ScanRequest(at=BIG, consistency=pb.CONSISTENCY_LOCAL),
            grpc.StatusCode.OUT_OF_RANGE,
        ),
        (
            methods.GET,
            pb.GetRequest(consistency=pb.CONSISTENCY_AT_LEAST, at_least=BIG),
            grpc.StatusCode.OUT_OF_RANGE,
        ),
        (methods.LEASE_INFO, pb.LeaseInfoRequest(lease=BIG), grpc.StatusCode.NOT_FOUND),
        (methods.LEASE_REVOKE, pb.LeaseRevokeRequest(lease=7), grpc.StatusCode.NOT_FOUND),
        (methods.COMPACT, admin_pb2.CompactRequest(revision=BIG), grpc.StatusCode.OUT_OF_RANGE),
    ],
)
def test_numbers_out_of_range_get_their_status(
    method: Method, request_: Message, status: grpc.StatusCode
) -> None:
    @guest
    async def run() -> None:
        async with served() as here:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await here.call(method, request_)
            assert failed.value.code() is status
            assert here.log.named("rpc.bug") == []

    run()


@guest
async def test_outcome_tells_each_kind_of_verdict() -> None:
    async with served() as here:
        connection = here.connection
        await connection.submit(
            batch(
                Offer((Put(b"a", b"1"),), label="mine"),
                Offer((Put(b"a", b"2"),), expect=((b"a", 0),)),
                client=b"me",
            )
        )
        assert await connection.outcome(b"me", 0) == 1
        rejected = await connection.outcome(b"me", 1)
        assert rejected is not None and not isinstance(rejected, int)
        assert "a is at revision 1" in str(rejected)
        assert await connection.outcome(b"me", 2) is None
        assert await connection.outcome(b"stranger", 0) is None


@guest
async def test_a_receipts_numbers_survive_the_typed_form() -> None:
    async with served() as here:
        await here.put(b"m", msgpack.packb({"cpu": 10}))
        await here.offer(Adjust(b"m", {"cpu": -20}, {"cpu": 0}))
        verdicts = await here.offer(Adjust(b"m", {"cpu": -20}, {"cpu": 0}))
        assert "field 'cpu' is at 10" in str(verdicts[0])


# -- leases ---------------------------------------------------------------------------------


@guest
async def test_the_life_of_a_lease() -> None:
    async with served() as here:
        granted = await here.call(methods.LEASE_GRANT, pb.LeaseGrantRequest(ttl_ms=60_000))
        assert granted.lease and granted.ttl_ms == 60_000 and granted.revision == 1
        await here.put(b"bound", lease=granted.lease)
        info = await here.call(methods.LEASE_INFO, pb.LeaseInfoRequest(lease=granted.lease))
        assert (info.ttl_ms, info.granted_revision, list(info.keys)) == (60_000, 1, [b"bound"])
        assert await here.connection.lease_keep_alive(granted.lease) == 60_000
        with pytest.raises(grpc.aio.AioRpcError, match="exists already"):
            await here.call(methods.LEASE_GRANT, pb.LeaseGrantRequest(ttl_ms=60_000, lease=granted.lease))
        await here.call(methods.LEASE_REVOKE, pb.LeaseRevokeRequest(lease=granted.lease))
        reply = await here.connection.get([b"bound"], at=None, consistency=LOCAL)
        assert reply.records == [None]
        with pytest.raises(LeaseNotFound) as gone:
            await here.connection.lease_keep_alive(granted.lease)
        assert gone.value.lease == granted.lease


@guest
async def test_one_stream_keeps_many_leases_alive() -> None:
    async with served() as here:
        await here.offer(LeaseGrant(1, 5_000), LeaseGrant(2, 6_000))

        async def keep() -> dict[int, pb.LeaseKeepAliveReply]:
            call: Any = here.channel.stream_stream(
                methods.LEASE_KEEP_ALIVE.path,
                request_serializer=methods.encode,
                response_deserializer=methods.LEASE_KEEP_ALIVE.decode_reply,
            )()
            for lease in (1, 2, 3):
                await call.write(pb.LeaseKeepAliveRequest(lease=lease))
            await call.done_writing()
            return {reply.lease: reply async for reply in call}

        replies = await bridge.host().run(keep)
        assert (replies[1].ttl_ms, replies[2].ttl_ms) == (5_000, 6_000)
        assert replies[3].error.code == pb.ERROR_CODE_LEASE_NOT_FOUND


# -- status and operation ---------------------------------------------------------------------


@guest
async def test_status_is_the_nodes_own() -> None:
    async with served() as here:
        await here.put(b"a")
        status = await here.connection.status()
        own = here.node.status()
        assert status.uptime_s <= own.uptime_s
        assert (status.node, status.role, status.leader, status.revision) == (1, "leader", 1, 1)
        assert status.chain == own.chain and status.members == own.members and status.health == "ok"
        for method in (methods.STATUS, methods.ADMIN_STATUS):
            reply = await here.call(method, pb.StatusRequest())
            assert reply.leader_endpoint == "127.0.0.1:1"
            assert reply.pid > 0


@guest
async def test_chain_is_given_by_slot() -> None:
    async with served() as here:
        await here.put(b"a")
        await here.put(b"b")
        status = await here.connection.status()
        assert (await here.connection.chain(status.applied) or b"").hex() == status.chain
        assert await here.connection.chain(Slot(10_000)) is None
        latest = await here.call(methods.CHAIN, admin_pb2.ChainRequest())
        assert (latest.slot, latest.chain.hex()) == (status.applied, status.chain)


@guest
async def test_leadership_goes_nowhere_in_a_cluster_of_one() -> None:
    async with served() as here:
        with pytest.raises(Unavailable, match="nobody to hand over to"):
            await here.connection.transfer_leadership(None)
        await here.connection.transfer_leadership(NodeId(1))
        with pytest.raises(InvalidRequest, match="node 2 is not a member"):
            await here.connection.transfer_leadership(NodeId(2))


@guest
async def test_limits_of_reads_are_the_nodes() -> None:
    async with served(limits=Limits(scan_keys_max=2), edge=EdgeLimits(get_bytes_max=3)) as here:
        for key in (b"a", b"b", b"c"):
            await here.put(key)
        page = await here.connection.scan(b"", b"", at=None, consistency=LOCAL, limit_keys=1000)
        assert len(page.items) == 2
        with pytest.raises(InvalidRequest, match="get_bytes_max=3"):
            await here.connection.get([b"a", b"b"], at=None, consistency=LOCAL)
