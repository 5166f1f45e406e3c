"""Submit and SubmitOnce: forms, errors, order, backpressure, and streams in flight when a node stops."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
import trio
import trio.testing

from journal.connection import LOCAL, NotSent
from journal.errors import (
    JournalError,
    NotLeader,
    OfferInvalid,
    Overloaded,
    StorageFailed,
    Unavailable,
    WrongCluster,
)
from journal.limits import Limits
from journal.offers import EXPIRED, Offer, Put, Reason, Rejected, unpack_verdicts
from journal.rpc import bridge, methods
from journal.rpc.connection import GrpcConnector
from journal.rpc.edge import EdgeLimits
from journal.rpc.errors import unpack_error
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.server import Server
from journal.types import NodeId
from tests.rpc.harness import FakeNode, Served, batch, guest, make_transport, served, served_fake, until

A_PUT = Offer(mutations=(Put(b"key", b"value"),))

BOTH_PORTS = pytest.mark.parametrize("direct_port", [False, True], ids=["grpc", "direct"])
"""What holds for a unary call holds at gRPC's own server and at the direct port."""
BOTH_WAYS = pytest.mark.parametrize("direct", [False, True], ids=["stream", "direct"])
"""What holds for a client's batches on the Submit stream holds for those that go past it."""


def typed_put(key: bytes, value: bytes = b"v", **offer: Any) -> pb.Offer:
    return pb.Offer(mutations=[pb.Mutation(put=pb.Put(key=key, value=value))], **offer)


# -- verdicts -----------------------------------------------------------------------------


@BOTH_WAYS
@guest
async def test_packed_batch_gets_verdicts_in_order(direct: bool) -> None:
    async with served(direct=direct) as here:
        verdicts = await here.connection.submit(
            batch(A_PUT, Offer((Put(b"key", b"x"),), expect=((b"key", 9),)))
        )
        assert verdicts[0] == 1
        assert isinstance(verdicts[1], Rejected)
        assert verdicts[1].reason is Reason.EXPECT


@BOTH_PORTS
@guest
async def test_typed_batch_gets_typed_verdicts(direct_port: bool) -> None:
    async with served() as here:
        offers = [
            typed_put(b"a", label="first"),
            typed_put(b"a", expect=[pb.Expect(key=b"a", revision=7)], sequence=1),
        ]
        request = pb.SubmitRequest(id=5, batch=pb.Batch(offers=offers), receipt_values=True)
        result = await here.call(methods.SUBMIT_ONCE, request, direct_port=direct_port)
        assert result.id == 5
        accepted, lost = result.verdicts.verdicts
        assert accepted.accepted == 1
        assert lost.rejected.reason == pb.REASON_EXPECT
        assert (lost.rejected.key, lost.rejected.revision, lost.rejected.value) == (b"a", 1, b"v")
        assert lost.rejected.label == "first"
        assert "a is at revision 1" in lost.rejected.message


@guest
async def test_receipts_carry_values_if_asked_for_also_in_the_stream() -> None:
    async with served() as here:
        await here.put(b"key", b"present")
        lost = batch(Offer((Put(b"key", b"x"),), expect=((b"key", 9),)))

        async def ask() -> list[pb.SubmitResult]:
            call: Any = here.channel.stream_stream(
                methods.SUBMIT.path,
                request_serializer=methods.encode,
                response_deserializer=methods.SUBMIT.decode_reply,
            )()
            await call.write(pb.SubmitRequest(id=0, packed=lost, receipt_values=True))
            await call.write(pb.SubmitRequest(id=1, packed=lost))
            await call.done_writing()
            found = [result async for reply in call for result in reply.results]
            return sorted(found, key=lambda result: result.id)

        with_value, without = await bridge.host().run(ask)
        (receipt,) = unpack_verdicts(with_value.packed)
        assert isinstance(receipt, Rejected) and receipt.value == b"present"
        (receipt,) = unpack_verdicts(without.packed)
        assert isinstance(receipt, Rejected) and receipt.value is None


@BOTH_PORTS
@guest
async def test_packed_batch_gets_packed_verdicts_once(direct_port: bool) -> None:
    async with served() as here:
        await here.put(b"key", b"present")
        packed = batch(A_PUT, Offer((Put(b"key", b"x"),), expect=((b"key", 9),)))
        request = pb.SubmitRequest(id=7, packed=packed, receipt_values=True)
        result = await here.call(methods.SUBMIT_ONCE, request, direct_port=direct_port)
        accepted, lost = unpack_verdicts(result.packed)
        assert (result.id, accepted) == (7, 2)
        assert isinstance(lost, Rejected) and lost.value == b"value"


@BOTH_PORTS
@guest
async def test_a_plain_clients_base_is_the_nodes_revision(direct_port: bool) -> None:
    """Else the ids of a client that nobody remembers would look like those of a forgotten one."""
    async with served() as here:
        await here.put(b"x")
        named = pb.Batch(client=b"plain", offers=[typed_put(b"a", sequence=1)])
        request = pb.SubmitRequest(batch=named)
        once = await here.call(methods.SUBMIT_ONCE, request, direct_port=direct_port)
        again = await here.call(methods.SUBMIT_ONCE, request, direct_port=not direct_port)
        assert once.verdicts.verdicts[0].accepted == 2
        assert again == once


@BOTH_WAYS
@guest
async def test_replies_come_as_they_are_ready_not_in_order(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):
        found: list[int] = []

        async def submit(number: int) -> None:
            await here.connection.submit(batch(A_PUT))
            found.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit, 1)
            await node.submissions(1)
            nursery.start_soon(submit, 2)
            await node.submissions(2)
            node.submitted[1][1]([2])
            await until(lambda: found == [2])
            node.submitted[0][1]([EXPIRED])
        assert found == [2, 1]


@BOTH_WAYS
@guest
async def test_batches_reach_the_node_in_the_order_of_the_calls(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                await trio.lowlevel.checkpoint()
                nursery.start_soon(here.connection.submit, batch(Offer((Put(b"%d" % number, b""),))))
                await trio.testing.wait_all_tasks_blocked()
            await node.submissions(50)
            for _data, reply in node.submitted:
                reply([1])
        assert [data for data, _reply in node.submitted] == [
            batch(Offer((Put(b"%d" % number, b""),))) for number in range(50)
        ]


@guest
async def test_replies_that_are_ready_together_travel_together() -> None:
    async with served_fake() as (node, here):
        replies: list[int] = []

        async def converse() -> None:
            call: Any = here.channel.stream_stream(
                methods.SUBMIT.path,
                request_serializer=methods.encode,
                response_deserializer=methods.SUBMIT.decode_reply,
            )()
            for number in range(10):
                await call.write(pb.SubmitRequest(id=number, packed=batch(A_PUT)))
            while sum(replies) < 10:
                reply = await call.read()
                replies.append(len(reply.results))
            call.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.host().run, converse)
            await node.submissions(10)
            for _data, reply in node.submitted:
                reply([1])
        assert replies == [10]


# -- errors ---------------------------------------------------------------------------------


@BOTH_PORTS
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotLeader(NodeId(2), "127.0.0.1:2"), grpc.StatusCode.FAILED_PRECONDITION),
        (NotLeader(None, None), grpc.StatusCode.FAILED_PRECONDITION),
        (Overloaded("offers_inflight_max", 7, 50), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (OfferInvalid("offers[0].at", "must be an int"), grpc.StatusCode.INVALID_ARGUMENT),
        (Unavailable("not now"), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_refusal_is_the_same_in_the_stream_and_in_the_unary_form(
    error: JournalError, status: grpc.StatusCode, direct_port: bool
) -> None:
    @guest
    async def run() -> None:
        async with served_fake() as (node, here):
            node.refuse = error
            with pytest.raises(type(error)) as caught:
                await here.connection.submit(batch(A_PUT))
            assert str(caught.value) == str(error)
            assert vars(caught.value) == vars(error)
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                request = pb.SubmitRequest(packed=batch(A_PUT))
                await here.call(methods.SUBMIT_ONCE, request, direct_port=direct_port)
            assert failed.value.code() is status
            assert failed.value.details() == str(error)
            trailers = dict(failed.value.trailing_metadata() or ())
            said = pb.Error.FromString(trailers["synod-error-bin"])
            assert vars(unpack_error(said)) == vars(error) and not said.outcome_unknown
            if isinstance(error, NotLeader) and error.leader:
                assert trailers["synod-leader"] == "2"
                assert trailers["synod-leader-endpoint"] == "127.0.0.1:2"
            if isinstance(error, Overloaded):
                assert trailers["retry-after-ms"] == "50"
            # The stream outlives the refusal of one request.
            node.refuse = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(here.connection.submit, batch(A_PUT))
                await node.submissions(1)
                node.submitted[0][1]([1])

    run()


@BOTH_WAYS
@guest
async def test_an_error_after_the_offers_were_taken_in_says_that_the_outcome_is_unknown(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):

        async def results(requests: int) -> list[pb.SubmitResult]:
            call: Any = here.channel.stream_stream(
                methods.SUBMIT.path,
                request_serializer=methods.encode,
                response_deserializer=methods.SUBMIT.decode_reply,
            )()
            found: list[pb.SubmitResult] = []
            for number in range(requests):
                await call.write(pb.SubmitRequest(id=number, packed=batch(A_PUT)))
            while len(found) < requests:
                found.extend((await call.read()).results)
            call.cancel()
            return sorted(found, key=lambda result: result.id)

        found: list[pb.SubmitResult] = []

        async def ask() -> None:
            found.extend(await bridge.host().run(results, 2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await node.submissions(2)
            node.submitted[0][1](Unavailable("the leadership moved"))
            node.submitted[1][1](NotLeader(None, None))
        assert [result.error.outcome_unknown for result in found] == [True, False]


@BOTH_PORTS
@guest
async def test_a_unary_call_says_so_too(direct_port: bool) -> None:
    async with served_fake() as (node, here):

        async def submit(error: JournalError, *, unknown: bool) -> None:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                request = pb.SubmitRequest(packed=batch(A_PUT))
                await here.call(methods.SUBMIT_ONCE, request, direct_port=direct_port)
            assert failed.value.details() == str(error)
            said = dict(failed.value.trailing_metadata() or ())["synod-error-bin"]
            assert pb.Error.FromString(said).outcome_unknown is unknown

        for error, unknown in ((Unavailable("the leadership moved"), True), (NotLeader(None, None), False)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(submit, error, unknown=unknown))
                await node.submissions(1)
                node.submitted.pop()[1](error)


@BOTH_WAYS
@guest
async def test_a_malformed_batch_is_refused_and_the_next_one_served(direct: bool) -> None:
    async with served(direct=direct) as here:
        for data in (b"", b"\xc1", b"\x93\x01\x02\x03", bytes(range(256))):
            with pytest.raises(OfferInvalid):
                await here.connection.submit(data)
        assert await here.connection.submit(batch(A_PUT)) == [1]


@BOTH_PORTS
@guest
async def test_a_request_of_neither_form_and_a_mutation_of_no_kind_are_refused(direct_port: bool) -> None:
    async with served() as here:
        for request, where in (
            (pb.SubmitRequest(), "form"),
            (
                pb.SubmitRequest(batch=pb.Batch(offers=[pb.Offer(mutations=[pb.Mutation()])])),
                "offers[0].mutations[0]",
            ),
            (
                pb.SubmitRequest(
                    batch=pb.Batch(
                        offers=[
                            pb.Offer(
                                mutations=[
                                    pb.Mutation(adjust=pb.Adjust(key=b"k", deltas={"cpu": pb.Number()}))
                                ]
                            )
                        ]
                    )
                ),
                "offers[0].mutations[0].deltas[cpu]",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await here.call(methods.SUBMIT_ONCE, request, direct_port=direct_port)
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert (failed.value.details() or "").startswith(f"{where}: ")


@BOTH_PORTS
@guest
async def test_an_oversized_message_harms_only_its_sender(direct_port: bool) -> None:
    async with served(limits=Limits(batch_bytes_max=1024 * 1024)) as here:
        with pytest.raises(OfferInvalid, match="bytes"):
            await here.connection.submit(bytes(1024 * 1024 + 100_000))  # over the node's own limit
        with pytest.raises(OfferInvalid, match="more than one message"):
            await here.connection.submit(bytes(4 * 1024 * 1024))  # not even sent
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            request = pb.SubmitRequest(packed=bytes(4 * 1024 * 1024))
            await here.call(methods.SUBMIT_ONCE, request, direct_port=direct_port)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await here.connection.submit(batch(A_PUT)) == [1]


@BOTH_WAYS
@guest
async def test_a_client_of_another_cluster_is_refused_and_nothing_submitted(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):
        stranger = GrpcConnector("another")
        try:
            connection = await stranger.connect(here.endpoint)
            with pytest.raises(WrongCluster, match=r"cluster test-cluster.*'another'"):
                await connection.submit(batch(A_PUT))
            with pytest.raises(WrongCluster):
                await connection.get([b"k"], at=None, consistency=LOCAL)
        finally:
            await stranger.aclose()
        assert node.submitted == []


@BOTH_PORTS
@guest
async def test_a_bug_in_the_node_is_internal_to_the_client_and_logged(direct_port: bool) -> None:
    async with served_fake() as (node, here):

        def broken(_data: bytes, _reply: object) -> None:
            raise ZeroDivisionError

        node.submit = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await here.call(methods.SUBMIT_ONCE, pb.SubmitRequest(packed=b""), direct_port=direct_port)
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        with pytest.raises(Unavailable):
            await here.connection.submit(batch(A_PUT))
        assert len(here.log.named("rpc.bug")) == 2
        assert here.server._direct is not None and not here.server._direct._calls


@BOTH_WAYS
@guest
async def test_a_failed_disk_is_unavailable_to_clients(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):
        node.refuse = StorageFailed("sync failed")
        with pytest.raises(Unavailable, match="sync failed"):
            await here.connection.submit(batch(A_PUT))


# -- backpressure -----------------------------------------------------------------------------


@guest
async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    """And what it made the node hold is bounded, whatever it goes on sending."""
    limits = EdgeLimits(stream_requests_max=20)
    async with served_fake(edge=limits) as (node, here):

        async def talk_only() -> None:
            call: Any = here.channel.stream_stream(
                methods.SUBMIT.path,
                request_serializer=methods.encode,
                response_deserializer=methods.SUBMIT.decode_reply,
            )()
            try:
                for number in range(10_000):
                    await call.write(pb.SubmitRequest(id=number, packed=b"x" * 10_000))
            finally:
                call.cancel()

        with trio.move_on_after(1.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bridge.host().run, talk_only)
                answered = 0
                while True:
                    await node.submissions(answered + 1)
                    # Large receipts, so that the unread replies fill gRPC's own buffers soon.
                    receipt = Rejected(Reason.READ, "reads[0]", b"k" * 4000, 1)
                    for _data, reply in node.submitted[answered:]:
                        reply([receipt] * 20)
                    answered = len(node.submitted)
        assert 20 <= len(node.submitted) < 1_000
        edge = here.server._edge
        await until(lambda: not edge.streams)
        assert edge.unsent_offers == 0


@guest
async def test_streams_that_hoard_are_ended_when_all_together_hold_too_much() -> None:
    limits = EdgeLimits(unsent_offers_max=100, stream_unsent_offers_max=1_000)
    async with served_fake(edge=limits, direct=False) as (node, here), trio.open_nursery() as nursery:

        async def submit() -> None:
            with pytest.raises(Unavailable, match="unsent_offers_max=100"):
                await here.connection.submit(batch(A_PUT))

        nursery.start_soon(submit)
        await node.submissions(1)
        node.submitted[0][1]([1] * 101)
        await until(lambda: not here.server._edge.streams)
        assert here.server._edge.unsent_offers == 0


@guest
async def test_more_streams_than_the_limit_are_refused() -> None:
    async with served_fake(direct=False, edge=EdgeLimits(submit_streams_max=1)) as (node, here):
        second = await here.connector.connect(here.endpoint)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.connection.submit, batch(A_PUT))
            await node.submissions(1)
            with pytest.raises(Overloaded, match="submit_streams_max=1"):
                await second.submit(batch(A_PUT))
            node.submitted[0][1]([1])


# -- ends -----------------------------------------------------------------------------------


@BOTH_WAYS
@guest
async def test_a_cancelled_submit_leaves_the_stream_to_the_others(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):
        with trio.move_on_after(0.05) as scope:
            await here.connection.submit(batch(A_PUT))
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.connection.submit, batch(A_PUT))
            await node.submissions(2)
            for _data, reply in node.submitted:
                reply([1])


@BOTH_WAYS
@guest
async def test_a_client_that_vanishes_leaves_nothing_behind(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):
        stranger = GrpcConnector()
        connection = await stranger.connect(here.endpoint)
        with trio.move_on_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.submit, batch(A_PUT))
                await node.submissions(1)
                nursery.cancel_scope.cancel()
        await stranger.aclose()
        edge = here.server._edge
        await until(lambda: not edge.streams)
        node.submitted[0][1]([1])  # comes too late, for nobody
        assert edge.unsent_offers == 0


@BOTH_WAYS
@guest
async def test_what_is_answered_when_the_node_stops_still_reaches_its_client(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here):
        found: list[object] = []

        async def submit() -> None:
            try:
                found.append(await here.connection.submit(batch(A_PUT)))
            except Unavailable as error:
                found.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            await node.submissions(1)
            nursery.start_soon(submit)
            await node.submissions(2)
            # What a node does on its way out, and the streams' end, before the writer's next turn.
            # So many verdicts do not go into one message, so the writer has to write twice.
            node.submitted[0][1]([7] * 5_000)
            node.submitted[1][1](Unavailable("the node is stopping"))
            here.server._edge.close()
        assert [7] * 5_000 in found and "the node is stopping" in found


@BOTH_WAYS
@guest
async def test_what_is_not_answered_when_the_server_closes_is_unknown(direct: bool) -> None:
    async with served_fake(direct=direct) as (node, here), trio.open_nursery() as nursery:

        async def submit() -> None:
            with pytest.raises(Unavailable, match=r"not known|node is stopping") as caught:
                await here.connection.submit(batch(A_PUT))
            assert not isinstance(caught.value, NotSent)

        nursery.start_soon(submit)
        await node.submissions(1)
        await bridge.host().run(here.server.aclose)


@guest
async def test_a_half_closed_stream_gets_all_its_replies_and_then_ends() -> None:
    async with served_fake() as (node, here):

        async def converse() -> list[int]:
            call: Any = here.channel.stream_stream(
                methods.SUBMIT.path,
                request_serializer=methods.encode,
                response_deserializer=methods.SUBMIT.decode_reply,
            )()
            for number in range(3):
                await call.write(pb.SubmitRequest(id=number, packed=batch(A_PUT)))
            await call.done_writing()
            return [result.id async for reply in call for result in reply.results]

        found: list[int] = []

        async def ask() -> None:
            found.extend(await bridge.host().run(converse))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await node.submissions(3)
            await _until_half_closed()
            for _data, reply in node.submitted:
                reply([1])
        assert sorted(found) == [0, 1, 2]


async def _until_half_closed() -> None:
    await bridge.host().run(asyncio.sleep, 0.02)


@BOTH_WAYS
@guest
async def test_submit_goes_on_after_the_server_came_back(direct: bool) -> None:
    async with served_fake(direct=direct) as (_node, here):
        port = here.server.port
        await bridge.host().run(here.server.aclose)
        with pytest.raises(Unavailable):
            await here.connection.submit(batch(A_PUT))
        with pytest.raises(NotSent):
            await here.connection.submit(batch(A_PUT))
        node, server = _second_server(here, port)
        await bridge.host().run(server.start)
        verdicts: list[object] = []

        async def submit() -> None:
            while not verdicts:
                try:
                    verdicts.extend(await here.connection.submit(batch(A_PUT)))
                except NotSent:
                    await trio.sleep(0.02)

        try:
            with trio.fail_after(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(submit)
                    await node.submissions(1)
                    node.submitted[0][1]([7])
            assert verdicts == [7]
        finally:
            await bridge.host().run(server.aclose)


def _second_server(here: Served, port: int) -> Any:
    node: Any = FakeNode()
    return node, Server(node, make_transport(), listen=f"127.0.0.1:{port}", log=here.log.logger)
