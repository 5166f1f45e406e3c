"""The direct port as gRPC's own clients see it: what it serves, refuses, bounds, and how it ends.

That SubmitOnce means the same on both ports is in ``test_submit``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import trio
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from journal.errors import Unavailable
from journal.offers import Offer, Put
from journal.rpc import bridge, methods
from journal.rpc.channels import channel_options
from journal.rpc.direct.connection import Connection
from journal.rpc.direct.listener import HEALTH_CHECK, Listener
from journal.rpc.edge import EdgeLimits
from journal.rpc.methods import Method
from journal.rpc.pb import admin_pb2
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.server import Server
from tests.rpc.harness import FakeNode, Served, batch, guest, served, served_fake, until

A_PUT = Offer(mutations=(Put(b"key", b"value"),))
SUBMIT = pb.SubmitRequest(packed=batch(A_PUT))

CLIENT_STREAMS = [method for method in methods.ALL if method.client_streams]
STREAMS = [method for method in methods.ALL if method.client_streams or method.server_streams]
UNARY = [method for method in methods.ALL if method not in STREAMS]


def listener_of(server: Server) -> Listener:
    assert server._direct is not None
    return server._direct


def is_idle(server: Server) -> bool:
    """Whether nothing is left of any call."""
    listener = listener_of(server)
    return not (listener._calls or listener._waiting or listener._held_bytes or listener._answers)


def others_of(here: Served) -> set[Connection]:
    """Return the connections to the direct port, but for the one by which ``here.connection`` submits."""
    own = here.connection._direct._socket
    name = own._socket.getsockname() if own is not None else None
    return {one for one in listener_of(here.server)._connections if one.peer_name != name}


async def soon(holds: Callable[[], object]) -> None:
    """``until`` for the asyncio side."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def raw(channel: grpc.aio.Channel, path: str) -> Any:
    """Return a unary method that takes and gives bytes."""
    return channel.unary_unary(path)


async def failing(
    here: Served, method: Method, request: Message, *, direct_port: bool = True, **more: Any
) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await here.call(method, request, direct_port=direct_port, **more)
    return failed.value


# -- what is served -------------------------------------------------------------------------


REQUESTS: dict[Method, Message] = {
    methods.SUBMIT_ONCE: pb.SubmitRequest(),
    methods.GET: pb.GetRequest(keys=[b"a", b"b"]),
    methods.SCAN: pb.ScanRequest(range=pb.Range(start=b"a"), limit_keys=1),
    methods.LEASE_GRANT: pb.LeaseGrantRequest(ttl_ms=1),
    methods.LEASE_REVOKE: pb.LeaseRevokeRequest(lease=7),
    methods.LEASE_INFO: pb.LeaseInfoRequest(lease=7),
    methods.OUTCOME: pb.OutcomeRequest(client=b"c", sequence=1),
    methods.STATUS: pb.StatusRequest(),
    methods.ADMIN_STATUS: pb.StatusRequest(),
    methods.TRANSFER_LEADERSHIP: admin_pb2.TransferLeadershipRequest(to=9),
    methods.COMPACT: admin_pb2.CompactRequest(revision=99),
    methods.CHANGE_MEMBERS: admin_pb2.ChangeMembersRequest(),
    methods.CHAIN: admin_pb2.ChainRequest(),
    methods.READ_SNAPSHOT: admin_pb2.ReadSnapshotRequest(),
}


@pytest.mark.parametrize("method", UNARY, ids=lambda method: f"{method.service[6:11]}-{method.name}")
def test_each_unary_method_answers_the_same_on_both_ports(method: Method) -> None:
    @guest
    async def run() -> None:
        async with served() as here:
            await here.put(b"a")
            await here.put(b"b")
            answers: list[Any] = []
            for direct_port in (False, True):
                try:
                    answers.append(await here.call(method, REQUESTS[method], direct_port=direct_port))
                except grpc.aio.AioRpcError as error:
                    answers.append((error.code(), error.details(), error.trailing_metadata()))
            for answer in answers:
                if isinstance(answer, pb.NodeStatus):
                    for field in ("uptime_s", "disk_bytes", "disk_free_bytes"):  # they move on by themselves
                        answer.ClearField(field)
            assert answers[0] == answers[1]

    run()


@pytest.mark.parametrize("method", UNARY, ids=lambda method: f"{method.service[6:11]}-{method.name}")
def test_garbage_is_an_invalid_argument(method: Method) -> None:
    @guest
    async def run() -> None:
        async with served() as here:

            async def throw() -> grpc.aio.AioRpcError:
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await raw(here.direct, method.path)(b"\xff\xff\xff")
                return failed.value

            error = await bridge.host().run(throw)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert method.request.DESCRIPTOR.full_name in (error.details() or "")

    run()


@pytest.mark.parametrize("method", CLIENT_STREAMS, ids=lambda method: method.name)
def test_a_stream_of_requests_is_refused_and_says_where_to_call_it(method: Method) -> None:
    @guest
    async def run() -> None:
        async with served() as here:
            error = await failing(here, method, method.request())
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert error.details() == (
                f"{method.path} is a stream of requests, which this port does not take: call 127.0.0.1:1"
            )

    run()


@guest
async def test_an_unknown_method_is_unimplemented() -> None:
    async with served() as here:
        error = await failing(here, Method("a.b", "Cé", pb.StatusRequest, pb.NodeStatus), pb.StatusRequest())
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "no method '/a.b/C" in error.details()


@guest
async def test_health_tells_a_node_that_can_serve_from_one_that_only_runs() -> None:
    async with served_fake() as (node, here):

        async def check(service: str) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            reply = await here.call(HEALTH_CHECK, request, direct_port=True)
            return int(reply.status)

        serving, not_serving = (
            health_pb2.HealthCheckResponse.SERVING,
            health_pb2.HealthCheckResponse.NOT_SERVING,
        )
        assert [await check(""), await check(methods.JOURNAL)] == [serving, serving]
        node.leader_endpoint = (None, None)  # type: ignore[assignment]
        assert [await check(""), await check(methods.JOURNAL)] == [serving, not_serving]
        error = await failing(here, HEALTH_CHECK, health_pb2.HealthCheckRequest(service="nobody"))
        assert error.code() is grpc.StatusCode.NOT_FOUND


@guest
async def test_a_caller_of_another_cluster_is_refused_call_by_call() -> None:
    async with served() as here:
        for _ in range(3):  # the second time the headers are known
            error = await failing(here, methods.SUBMIT_ONCE, SUBMIT, metadata=(("synod-cluster", "another"),))
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "'another'" in error.details()
            ours = await here.call(
                methods.GET, pb.GetRequest(), (("synod-cluster", "test-cluster"),), direct_port=True
            )
            assert ours.revision == 0


@guest
async def test_large_requests_and_large_replies_pass_the_windows() -> None:
    """Both are far larger than a frame, and than the windows that a connection begins with."""
    async with served() as here:
        value = bytes(range(256)) * 2_000
        puts = [pb.Offer(mutations=[pb.Mutation(put=pb.Put(key=b"%d" % n, value=value))]) for n in range(3)]
        result = await here.call(
            methods.SUBMIT_ONCE, pb.SubmitRequest(batch=pb.Batch(offers=puts)), direct_port=True
        )
        assert [verdict.accepted for verdict in result.verdicts.verdicts] == [1, 2, 3]
        request = pb.GetRequest(keys=[b"0", b"1", b"2"])
        for reply in [await here.call(methods.GET, request, direct_port=True) for _ in range(3)]:
            assert [record.value for record in reply.records] == [value] * 3
        await until(lambda: is_idle(here.server))


@guest
async def test_many_calls_of_one_connection_are_answered_each_with_its_own() -> None:
    async with served() as here:

        async def submit(number: int) -> int:
            put = pb.Mutation(put=pb.Put(key=b"%d" % number, value=b"%d" % number))
            request = pb.SubmitRequest(id=number, batch=pb.Batch(offers=[pb.Offer(mutations=[put])]))
            result = await here.call_here(methods.SUBMIT_ONCE, request, (), True)
            assert result.id == number
            return int(result.verdicts.verdicts[0].accepted)

        async def submit_all() -> list[int]:
            return await asyncio.gather(*(submit(number) for number in range(500)))

        revisions = await bridge.host().run(submit_all)
        assert sorted(revisions) == list(range(1, 501))
        for number, revision in enumerate(revisions):
            record = here.node.space.get(b"%d" % number)
            assert record is not None and (record.value, record.mod) == (b"%d" % number, revision)


@guest
async def test_an_id_that_is_sent_again_gets_its_first_verdict_on_either_port() -> None:
    """A client that lost an answer sends the same id again, to whichever port: it is applied once."""
    async with served() as here:
        put = pb.Mutation(put=pb.Put(key=b"k", value=b"v"))
        named = pb.Batch(client=b"plain", base=1, offers=[pb.Offer(sequence=1, mutations=[put])])
        await here.put(b"before")
        results = [
            await here.call(methods.SUBMIT_ONCE, pb.SubmitRequest(batch=named), direct_port=direct_port)
            for direct_port in (True, False, True)
        ]
        assert [result.verdicts.verdicts[0].accepted for result in results] == [2, 2, 2]
        assert here.node.space.revision == 2


# -- limits -----------------------------------------------------------------------------------


@guest
async def test_calls_past_the_limit_are_told_to_come_again() -> None:
    async with served_fake(edge=EdgeLimits(direct_calls_max=2)) as (node, here):
        found: list[Any] = []

        async def submit() -> None:
            found.append(await here.call(methods.SUBMIT_ONCE, SUBMIT, direct_port=True))

        async with trio.open_nursery() as nursery:
            for number in (1, 2):
                nursery.start_soon(submit)
                await node.submissions(number)
            error = await failing(here, methods.SUBMIT_ONCE, SUBMIT)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "direct_calls_max=2" in error.details()
            assert dict(error.trailing_metadata())["retry-after-ms"] == "50"
            assert len(node.submitted) == 2
            for _data, reply in node.submitted:
                reply([1])
        assert len(found) == 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            await node.submissions(3)
            node.submitted[2][1]([1])
        await until(lambda: is_idle(here.server))


@guest
async def test_what_nobody_waits_for_counts_while_the_node_works_on_it() -> None:
    """Else a client that gives up and comes again would have the node work on any number of batches."""
    async with served_fake(edge=EdgeLimits(direct_calls_max=2)) as (node, here):
        for number in (1, 2):
            await _give_up(here, node, number)
        error = await failing(here, methods.SUBMIT_ONCE, SUBMIT)
        assert "direct_calls_max=2" in error.details()
        for _data, reply in node.submitted:
            reply([1])
        await until(lambda: is_idle(here.server))
        assert here.log.named("rpc.bug") == []


async def _give_up(here: Served, node: FakeNode, number: int) -> None:
    """Make a call and cancel it when the node has it; return when the node knows."""

    async def call() -> None:
        made = raw(here.direct, methods.SUBMIT_ONCE.path)(SUBMIT.SerializeToString())
        await soon(lambda: len(node.submitted) == number)
        made.cancel()
        await soon(lambda: not listener_of(here.server)._waiting)

    await bridge.host().run(call)


@guest
async def test_requests_that_do_not_end_are_bounded_together() -> None:
    async with served_fake(edge=EdgeLimits(direct_request_bytes_max=100_000)) as (node, here):
        error = await failing(here, methods.SUBMIT_ONCE, pb.SubmitRequest(packed=bytes(200_000)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "direct_request_bytes_max=100000" in error.details()
        assert dict(error.trailing_metadata())["retry-after-ms"] == "50"
        assert node.submitted == []
        await until(lambda: is_idle(here.server))


@guest
async def test_connections_past_the_limit_are_closed() -> None:
    async with served(edge=EdgeLimits(direct_connections_max=1)) as here:
        await here.call(methods.STATUS, pb.StatusRequest(), direct_port=True)
        address = f"127.0.0.1:{here.server.direct_port}"

        async def call() -> grpc.StatusCode:
            async with grpc.aio.insecure_channel(address, options=channel_options()) as second:
                with pytest.raises(grpc.aio.AioRpcError) as failed:
                    await raw(second, methods.STATUS.path)(b"")
                return failed.value.code()

        assert await bridge.host().run(call) is grpc.StatusCode.UNAVAILABLE
        await here.call(methods.STATUS, pb.StatusRequest(), direct_port=True)
        assert here.node.counters.limits_hit["direct_connections_max"] >= 1


# -- how calls end -----------------------------------------------------------------------------


@guest
async def test_a_read_that_is_cancelled_leaves_nothing_behind() -> None:
    async with served_fake() as (node, here):

        async def call() -> None:
            made = raw(here.direct, methods.GET.path)(b"")
            await soon(lambda: node.reads)
            made.cancel()
            await soon(lambda: is_idle(here.server))

        await bridge.host().run(call)
        node.reads[0](Unavailable("too late"))
        assert here.log.named("rpc.bug") == []


@guest
async def test_a_client_that_vanishes_leaves_nothing_behind() -> None:
    async with served_fake() as (node, here):

        async def vanish() -> None:
            address = f"127.0.0.1:{here.server.direct_port}"
            async with grpc.aio.insecure_channel(address) as channel:
                made = raw(channel, methods.SUBMIT_ONCE.path)(SUBMIT.SerializeToString())
                await soon(lambda: node.submitted)
                del made
            await soon(lambda: not listener_of(here.server)._connections)

        await bridge.host().run(vanish)
        node.submitted[0][1]([1])
        await until(lambda: is_idle(here.server))


@guest
async def test_what_is_answered_when_the_node_stops_still_reaches_its_client() -> None:
    async with served_fake() as (node, here):
        found: list[Any] = []

        async def submit() -> None:
            try:
                found.append(await here.call(methods.SUBMIT_ONCE, SUBMIT, direct_port=True))
            except grpc.aio.AioRpcError as error:
                said = dict(error.trailing_metadata() or ())["synod-error-bin"]
                unknown = pb.Error.FromString(said).outcome_unknown
                found.append((error.code(), error.details(), unknown))

        async with trio.open_nursery() as nursery:
            for number in (1, 2, 3):
                nursery.start_soon(submit)
                await node.submissions(number)

            async def end() -> None:
                # What a node does on its way out: it answers what it knows, and then the port closes.
                node.submitted[0][1]([1])
                node.submitted[1][1](Unavailable("the leadership moved"))
                await listener_of(here.server).aclose()

            await bridge.host().run(end)
        unavailable = grpc.StatusCode.UNAVAILABLE
        assert len(found) == 3
        assert (unavailable, "the leadership moved", True) in found
        assert (unavailable, "the node is stopping", True) in found
        assert [1] in [list(r.packed[1:2]) for r in found if isinstance(r, pb.SubmitResult)]


@guest
async def test_a_port_that_is_closed_takes_no_more_calls() -> None:
    async with served_fake() as (_node, here):
        await here.call(HEALTH_CHECK, health_pb2.HealthCheckRequest(), direct_port=True)
        await bridge.host().run(listener_of(here.server).aclose)
        error = await failing(here, methods.SUBMIT_ONCE, SUBMIT)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert not listener_of(here.server)._connections
        await bridge.host().run(listener_of(here.server).aclose)  # once more does no harm
