"""Past gRPC by the direct port: when peers and clients go there, when they do not, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest
import trio
import trio.testing

from journal.connection import LINEARIZABLE, LOCAL, NotSent
from journal.errors import NotLeader, Overloaded, RevisionInFuture, SpaceFull, Unavailable
from journal.offers import Offer, Put
from journal.rpc import bridge, methods, outgoing, peers, pulse
from journal.rpc.codec import pack_message
from journal.rpc.connection import GrpcConnection
from journal.rpc.direct import client as direct_client
from journal.rpc.direct import connection as connection_module
from journal.rpc.direct import frames
from journal.rpc.direct.caller import headers_of
from journal.rpc.direct.connection import Call
from journal.rpc.direct.dial import UNWRITTEN_BYTES
from journal.rpc.direct.frames import DATA, HEADERS, RST_STREAM, Code, frame
from journal.rpc.direct.socket import Socket
from journal.rpc.eager import begin
from journal.rpc.edge import EdgeLimits
from journal.rpc.outgoing import DirectStream
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.pb import paxos_pb2 as px
from journal.types import NodeId, Revision
from tests.rpc.harness import Served, batch, guest, served, served_fake, until
from tests.rpc.test_direct import is_idle, listener_of, others_of
from tests.rpc.test_http2 import Client, client_of
from tests.rpc.test_peers import Peer, learn, peer, send

A_PUT = Offer(mutations=(Put(b"key", b"value"),))
BEGIN = frames.PREFACE + frames.settings({})


@contextlib.contextmanager
def closed_port() -> Any:
    """Yield a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextlib.asynccontextmanager
async def silent_port(words: bytes = b"") -> AsyncIterator[int]:
    """Yield a port where connections are taken, and nothing is said but ``words``."""

    async def take(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(words)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            trio.serve_tcp,
            take,
            0,
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


# -- peers -----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[Peer, Peer]]:
    """Yield two nodes, the first of which has a stream to the other."""
    async with peer(1, direct=True) as one, peer(2, direct=True, **options) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        yield one, two


def ways(node: Peer) -> list[str]:
    return [entry["by"] for entry in node.log.named("peer.connected")]


@guest
async def test_parcels_go_by_the_direct_port_each_within_the_call_that_sends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulse, "PING_INTERVAL_S", 600.0)
    sent: list[bytes] = []
    really = DirectStream.send

    def note(stream: DirectStream, parcel: bytes) -> None:
        sent.append(parcel)
        really(stream, parcel)

    monkeypatch.setattr(DirectStream, "send", note)
    async with pair() as (one, two):
        assert ways(one) == ["direct port"]
        sent.clear()
        send(one.transport, 2, learn(1), learn(2))
        send(one.transport, 2, learn(3))
        assert len(sent) == 2, "what is sent together goes together, and at once"
        await until(lambda: len(two.got) == 3)
        assert [envelope.message for envelope in two.got] == [learn(1), learn(2), learn(3)]


@guest
async def test_where_the_direct_port_is_not_reached_parcels_go_by_grpc() -> None:
    with closed_port() as port:
        async with peer(1) as one, peer(2) as two:
            two.server._edge.direct_port = port
            one.transport.set_peers({NodeId(2): two.endpoint})
            send(one.transport, 2, learn(1))
            await until(lambda: two.got)
            assert ways(one) == ["grpc"]
            assert [entry["port"] for entry in one.log.named("peer.direct_port_unreached")] == [str(port)]


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", frames.settings({})])
def test_where_nobody_answers_at_the_direct_port_parcels_go_by_grpc(
    words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "OPEN_S", 0.1)

    @guest
    async def run() -> None:
        async with silent_port(words) as port, peer(1) as one, peer(2) as two:
            two.server._edge.direct_port = port
            one.transport.set_peers({NodeId(2): two.endpoint})
            send(one.transport, 2, learn(1))
            await until(lambda: two.got)
            assert ways(one) == ["grpc"]

    run()


@guest
async def test_what_ends_the_direct_stream_ends_grpcs_and_both_are_opened_again() -> None:
    async with pair() as (one, two):
        (connection,) = listener_of(two.server)._connections
        connection.abort()
        await until(lambda: len(ways(one)) == 2)
        assert ways(one) == ["direct port"] * 2
        assert "the connection was lost" in one.log.named("peer.lost")[0]["reason"]
        send(one.transport, 2, learn(7))
        await until(lambda: two.got)
        assert len(listener_of(two.server)._connections) == 1


@guest
async def test_what_ends_grpcs_stream_ends_the_direct_one() -> None:
    async with pair() as (one, two):
        (incoming,) = two.transport._invited.values()
        one.transport.set_peers({})
        await until(lambda: is_idle(two.server) and not two.transport._invited)
        assert two.hung_up == [1]
        incoming._take_bytes(px.Parcel(envelopes=[pack_message(learn(1))]).SerializeToString())
        assert not two.got, "nothing is delivered that comes late"
        await until(lambda: not listener_of(two.server)._connections)


@guest
async def test_a_node_that_stops_ends_the_direct_stream_too() -> None:
    async with pair() as (one, two):
        await two.stop()
        await until(lambda: one.log.named("peer.lost"))
        assert is_idle(two.server) and not two.transport._invited


@guest
async def test_what_the_network_does_not_take_waits_in_the_links_queue_and_arrives_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulse, "PING_INTERVAL_S", 600.0)  # pings would bring the queue on as well
    async with peer(1, queue=64 << 20) as one, peer(2, direct=True) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        (connection,) = listener_of(two.server)._connections
        assert connection._transport is not None
        connection._transport.pause_reading()
        link = one.transport._links[NodeId(2)]
        assert isinstance(link._stream, DirectStream)
        transport: Any = link._stream._dialed._transport
        for side, option in ((transport, socket.SO_SNDBUF), (connection._transport, socket.SO_RCVBUF)):
            side.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 16_384)
        sent = 0
        while link.status().queue_bytes < 1 << 20:
            send(one.transport, 2, *(learn(number) for number in range(sent, sent + 10_000)))
            sent += 10_000
        assert transport.get_write_buffer_size() <= UNWRITTEN_BYTES + peers.PARCEL_BYTES_MAX
        connection._transport.resume_reading()
        await until(lambda: len(two.got) == sent)
        assert [envelope.message for envelope in two.got] == [learn(number) for number in range(sent)]
        assert not link.status().queue_bytes and len(ways(one)) == 1


@guest
async def test_parcels_wait_for_the_connections_window_and_arrive_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pulse, "PING_INTERVAL_S", 600.0)
    monkeypatch.setattr(connection_module, "RECEIVE_WINDOW_BYTES", 100_000)
    monkeypatch.setattr(connection_module.Connection, "receive_window_bytes", 100_000)
    async with peer(1, queue=64 << 20) as one, peer(2, direct=True) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        stream = one.transport._links[NodeId(2)]._stream
        assert stream is not None
        for first in range(0, 60_000, 1_000):
            send(one.transport, 2, *(learn(number) for number in range(first, first + 1_000)))
        assert not stream.is_ready
        await until(lambda: len(two.got) == 60_000)
        assert [envelope.message for envelope in two.got] == [learn(number) for number in range(60_000)]


@pytest.mark.parametrize("garbage", [px.Parcel(part=b"\xff\xff\xff").SerializeToString(), b"\xff\xff\xff"])
def test_what_is_no_parcel_ends_the_stream(garbage: bytes) -> None:
    @guest
    async def run() -> None:
        async with pair() as (one, two):
            stream = one.transport._links[NodeId(2)]._stream
            assert stream is not None
            stream.send(garbage)
            await until(lambda: two.server._edge.counters.requests_refused["ProtocolViolation"] == 1)
            await until(lambda: one.log.named("peer.lost") or one.log.named("peer.refused"))
            assert not two.log.named("rpc.bug") and not two.got

    run()


@guest
async def test_a_bug_in_what_takes_parcels_is_logged_and_ends_the_stream() -> None:
    async with pair() as (one, two):

        def fail(_envelope: object) -> None:
            raise RuntimeError("planted")

        two.transport.start(fail, two.hung_up.append)
        send(one.transport, 2, learn(1))
        await until(lambda: two.log.named("rpc.bug"))
        await until(lambda: one.log.named("peer.lost"))


# -- invitations, frame by frame ---------------------------------------------------------------------


def exchange(invitation: str, stream: int = 1) -> bytes:
    metadata = [(methods.MD_INVITATION, invitation)]
    return frame(HEADERS, frames.END_HEADERS, stream, headers_of(methods.EXCHANGE.path, "h:1", metadata))


async def status_of(client: Client) -> str:
    kind, _flags, _stream, payload = await client.frame()
    assert kind == HEADERS
    return client.headers(payload).get("grpc-status", "none")


@guest
async def test_who_was_not_invited_is_told_so_at_once() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        await client.send(exchange("00" * 16))
        assert await status_of(client) == "5"
        kind, _flags, _stream, payload = await client.frame()
        assert (kind, payload) == (RST_STREAM, Code.NO_ERROR.to_bytes(4, "big"))
        await until(lambda: is_idle(here.server))


@guest
async def test_an_invitation_is_followed_once() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        got: list[object] = []
        here.server._transport.start(got.append, lambda _node: None)
        with here.server._transport.incoming(NodeId(2)) as incoming:
            await client.send(exchange(incoming.invitation))
            assert await status_of(client) == "none"
            await client.send(exchange(incoming.invitation, 3))
            assert await status_of(client) == "6"
        # The end of the stream by gRPC is the end of this one.
        while (found := await client.frame())[0] != HEADERS or found[2] != 1:
            pass
        assert client.headers(found[3]) == {"grpc-status": "0"}
        await client.send(exchange(incoming.invitation, 5))
        while (found := await client.frame())[2] != 5:
            pass
        assert client.headers(found[3])["grpc-status"] in "56"
        await until(lambda: is_idle(here.server))


@guest
async def test_an_invitation_to_a_stream_that_is_over_is_not_followed() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        with here.server._transport.incoming(NodeId(2)) as incoming:
            pass
        here.server._transport._invited["late"] = incoming
        await client.send(exchange("late"))
        assert await status_of(client) == "6"
        await until(lambda: is_idle(here.server))


def _append(taken: list[px.Parcel], _sender: NodeId, parcel: px.Parcel) -> None:
    taken.append(parcel)


PARCEL = px.Parcel(ping=1).SerializeToString()
FRAMED = frames.message_prefix(len(PARCEL)) + PARCEL


@pytest.mark.parametrize(
    "cuts",
    [[FRAMED + FRAMED], [FRAMED[:1], FRAMED[1:7], FRAMED[7:] + FRAMED[:6], FRAMED[6:]], [FRAMED, FRAMED]],
)
def test_messages_of_a_stream_come_in_any_frames(cuts: list[bytes]) -> None:
    @guest
    async def run() -> None:
        async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
            with here.server._transport.incoming(NodeId(2)) as incoming:
                taken: list[px.Parcel] = []
                incoming._deliver = partial(_append, taken)
                await client.send(exchange(incoming.invitation))
                await client.send(*(frame(DATA, 0, 1, cut) for cut in cuts))
                await until(lambda: len(taken) == 2)
                assert taken == [px.Parcel(ping=1)] * 2
                assert not listener_of(here.server)._held_bytes

    run()


@pytest.mark.parametrize(
    "bad",
    [
        frame(DATA, 0, 1, b"\1" + FRAMED[1:]),
        frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"),
        frame(DATA, 0, 1, b"\0\xff") + frame(DATA, 0, 1, b"\xff\xff\xff"),
    ],
    ids=["compressed", "too-large", "too-large-in-parts"],
)
def test_what_cannot_be_a_message_ends_the_stream(bad: bytes) -> None:
    @guest
    async def run() -> None:
        async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
            with here.server._transport.incoming(NodeId(2)) as incoming:
                await client.send(exchange(incoming.invitation), bad)
                assert await status_of(client) == "none"
                assert await status_of(client) in ("8", "13")
                assert (await client.frame())[0] == RST_STREAM
                await until(lambda: is_idle(here.server))

    run()


@guest
async def test_parcels_come_through_whatever_clients_leave_unfinished() -> None:
    few = EdgeLimits(direct_request_bytes_max=10)
    async with served_fake(edge=few) as (_node, here), client_of(here, BEGIN) as client:
        listener_of(here.server)._held_bytes = 10
        with here.server._transport.incoming(NodeId(2)) as incoming:
            taken: list[px.Parcel] = []
            incoming._deliver = partial(_append, taken)
            await client.send(exchange(incoming.invitation), frame(DATA, 0, 1, FRAMED + FRAMED[:6]))
            await client.send(frame(DATA, 0, 1, FRAMED[6:]))
            await until(lambda: len(taken) == 2)
            assert listener_of(here.server)._held_bytes == 10


@contextlib.contextmanager
def taking(here: Served, take: Callable[[Call, bytes], None]) -> Iterator[str]:
    """Yield an invitation to a stream whose messages ``take`` gets."""

    class Taking:
        def follow(self, call: Call) -> None:
            call.accept(partial(take, call), lambda: None)

    invited: Any = here.server._transport._invited
    invited["taking"] = Taking()
    yield "taking"
    del invited["taking"]


@guest
async def test_a_stream_that_ends_in_the_middle_of_what_came_takes_no_more_of_it() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        taken: list[bytes] = []

        def take(call: Call, message: bytes) -> None:
            taken.append(message)
            call.end()

        with taking(here, take) as invitation:
            await client.send(exchange(invitation), frame(DATA, 0, 1, FRAMED + FRAMED + FRAMED[:7]))
            assert await status_of(client) == "none"
            assert await status_of(client) == "0"
            assert taken == [PARCEL]
            await until(lambda: is_idle(here.server))


@guest
async def test_a_stream_that_ends_before_anything_was_sent_has_a_head_all_the_same() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        invited: Any = here.server._transport._invited
        invited["ending"] = SimpleNamespace(follow=lambda call: call.end())
        await client.send(exchange("ending"))
        assert client.headers((await client.frame())[3])[":status"] == "200"
        assert client.headers((await client.frame())[3]) == {"grpc-status": "0"}


@guest
async def test_a_peer_that_leaves_the_direct_stream_has_left_altogether() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        with here.server._transport.incoming(NodeId(2)) as incoming:
            await client.send(exchange(incoming.invitation))
            assert await status_of(client) == "none"
            await client.send(frames.reset(1, Code.CANCEL))

            async def read() -> None:
                await asyncio.get_running_loop().create_future()

            with pytest.raises(Unavailable, match="node 2 has left"):
                await bridge.host().run(incoming.receive, read)


@guest
async def test_what_looks_like_a_message_inside_of_one_is_none() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        taken: list[bytes] = []
        with taking(here, lambda _call, message: taken.append(message)) as invitation:
            await client.send(exchange(invitation))
            await client.send(
                frame(DATA, 0, 1, frames.message_prefix(len(FRAMED))), frame(DATA, 0, 1, FRAMED)
            )
            await until(lambda: taken)
            assert taken == [FRAMED]


@guest
async def test_a_streams_window_opens_as_it_is_read() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        with here.server._transport.incoming(NodeId(2)) as incoming:
            await client.send(exchange(incoming.invitation))
            part = px.Parcel(ping=1, part=b"").SerializeToString()
            message = frames.message_prefix(len(part)) + part
            many = message * (frames.FRAME_BYTES_MAX // len(message))
            for _ in range(200):
                await client.send(frame(DATA, 0, 1, many))
            but = (frames.SETTINGS, HEADERS)
            while (found := await client.frame(but=but))[:3] != (frames.WINDOW_UPDATE, 0, 1):
                pass
            assert int.from_bytes(found[3], "big") > 1_000_000


@guest
async def test_a_client_may_end_a_stream_with_a_message_or_with_trailers() -> None:
    async with served_fake() as (_node, here), client_of(here, BEGIN) as client:
        for stream, ending in (
            (1, frame(DATA, frames.END_STREAM, 1, FRAMED)),
            (
                3,
                frame(
                    HEADERS, frames.END_HEADERS | frames.END_STREAM, 3, frames.pack_headers([(b"x", b"y")])
                ),
            ),
        ):
            with here.server._transport.incoming(NodeId(2)) as incoming:
                taken: list[px.Parcel] = []
                incoming._deliver = partial(_append, taken)
                await client.send(exchange(incoming.invitation, stream), ending)
                assert await status_of(client) == "none"
                assert await status_of(client) == "0"
                assert len(taken) == (stream == 1)
        await until(lambda: is_idle(here.server))


# -- clients -----------------------------------------------------------------------------------------


def direct_of(here: Served) -> Socket | None:
    return here.connection._direct._socket


@guest
async def test_batches_go_past_the_stream_from_the_first_one_on() -> None:
    async with served() as here:
        assert await here.connection.submit(batch(A_PUT)) == [1]
        assert direct_of(here) is not None and here.server._edge.streams == 0
        assert await here.connection.submit(batch(A_PUT)) == [2]


@guest
async def test_without_a_direct_port_batches_go_over_the_stream() -> None:
    async with served(direct=False) as here:
        assert await here.connection.submit(batch(A_PUT)) == [1]
        assert direct_of(here) is None and here.server._edge.streams == 1


@guest
async def test_where_the_direct_port_is_not_reached_batches_go_over_the_stream() -> None:
    with closed_port() as port:
        async with served(direct=False) as here:
            here.server._edge.direct_port = port
            assert await here.connection.submit(batch(A_PUT)) == [1]
            assert direct_of(here) is None


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"short"])
def test_where_nobody_answers_at_the_direct_port_batches_go_over_the_stream(
    words: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct_client, "OPEN_S", 0.1)

    @guest
    async def run() -> None:
        async with silent_port(words) as port, served(direct=False) as here:
            here.server._edge.direct_port = port
            assert await here.connection.submit(batch(A_PUT)) == [1]
            assert direct_of(here) is None

    run()


@guest
async def test_a_broken_connection_leaves_the_outcome_open_and_the_next_batch_goes_as_before() -> None:
    async with served_fake() as (node, here):

        async def submit() -> None:
            with pytest.raises(Unavailable, match="connection was lost") as caught:
                await here.connection.submit(batch(A_PUT))
            assert not isinstance(caught.value, NotSent)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            await node.submissions(1)
            (connection,) = listener_of(here.server)._connections
            connection.abort()
        was = direct_of(here)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.connection.submit, batch(A_PUT))
            await node.submissions(2)
            node.submitted[1][1]([1])
        assert direct_of(here) is not None and direct_of(here) is not was


@guest
async def test_a_node_that_refuses_says_why_past_the_stream() -> None:
    async with served_fake() as (node, here):
        for error in (NotLeader(NodeId(2), "h:2"), Overloaded("x", 1, 7), SpaceFull(NodeId(1), 5, 6)):
            node.refuse = error
            with pytest.raises(type(error)) as caught:
                await here.connection.submit(batch(A_PUT))
            assert vars(caught.value) == vars(error)


@guest
async def test_calls_beyond_what_a_connection_takes_wait_for_their_turn() -> None:
    few = EdgeLimits(streams_per_connection_max=2)
    async with served_fake(edge=few) as (node, here), trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(here.connection.submit, batch(Offer((Put(b"%d" % number, b""),))))
        for count in range(2, 7):
            await node.submissions(count)
            assert len(node.submitted) == count
            node.submitted[count - 2][1]([1])
        node.submitted[5][1]([1])


@guest
async def test_batches_keep_their_order_while_the_way_is_looked_for_and_when_it_is_full() -> None:
    few = EdgeLimits(streams_per_connection_max=3)
    async with served_fake(edge=few) as (node, here), trio.open_nursery() as nursery:
        called: list[int] = []

        async def submit(number: int) -> None:
            called.append(number)
            await here.connection.submit(batch(Offer((Put(b"%02d" % number, b""),))))

        for number in range(10):
            nursery.start_soon(submit, number)
        for count in range(1, 31):
            await node.submissions(count)
            node.submitted[count - 1][1]([1])
            if count <= 20:
                nursery.start_soon(submit, 9 + count)
        found = [int(data[data.index(b"\xc4\x02") + 2 :][:2]) for data, _reply in node.submitted]
        assert found == called


@guest
async def test_a_connection_that_takes_no_more_calls_is_replaced_and_its_own_are_finished() -> None:
    async with served_fake() as (node, here), trio.open_nursery() as nursery:
        nursery.start_soon(here.connection.submit, batch(A_PUT))
        await node.submissions(1)
        was = direct_of(here)
        assert was is not None
        was.caller._take_goaway((2**31 - 1).to_bytes(4, "big") + bytes(4))
        nursery.start_soon(here.connection.submit, batch(A_PUT))
        await node.submissions(2)
        assert direct_of(here) is not was and not was.is_closed
        node.submitted[0][1]([1])
        await until(lambda: was.is_closed)
        assert direct_of(here) is not None
        node.submitted[1][1]([1])


@guest
async def test_a_port_that_does_not_answer_leaves_no_connection_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(direct_client, "OPEN_S", 0.1)
    closed: list[Socket] = []
    lost = direct_client.DirectClient._lost

    def note(client: direct_client.DirectClient, which: Socket) -> None:
        closed.append(which)
        lost(client, which)

    monkeypatch.setattr(direct_client.DirectClient, "_lost", note)
    async with silent_port(frames.settings({})) as port, served(direct=False) as here:
        here.server._edge.direct_port = port
        assert await here.connection.submit(batch(A_PUT)) == [1]
        await until(lambda: len(closed) == 1)
        assert closed[0].is_closed and direct_of(here) is None


@guest
async def test_the_end_of_an_older_connection_does_not_unseat_the_present_one() -> None:
    async with served() as here:
        await here.connection.submit(batch(A_PUT))
        present = direct_of(here)
        assert present is not None
        older = await Socket.open("127.0.0.1", here.server.direct_port, here.connection._direct._lost)
        older.close()
        await until(lambda: older.caller.is_spent)
        assert direct_of(here) is present and not present.is_closed


@guest
async def test_a_connection_may_be_closed_while_it_has_more_to_write() -> None:
    async with served_fake() as (node, here):
        for _ in range(5):
            another = await here.connector.connect(here.endpoint)

            async def submit(size: int, another: GrpcConnection = another) -> None:
                with contextlib.suppress(Unavailable):
                    await another.submit(bytes(size))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(submit, 10)
                await node.submissions(1)
                for _ in range(8):
                    nursery.start_soon(submit, 1_900_000)
                await trio.lowlevel.checkpoint()
                await another.aclose()
            node.submitted.clear()
        assert await here.connection.get([], at=None, consistency=LOCAL)


@guest
async def test_large_batches_that_the_network_does_not_take_at_once_arrive_whole() -> None:
    async with served_fake() as (node, here):
        count, size = 24, 1_500_000
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(here.connection.submit, bytes([number]) * size)
            await node.submissions(count)
            for data, reply in node.submitted:
                assert len(data) == size and len(set(data)) == 1
                reply([1])


class Full:
    """A socket whose buffer is full at the first try."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self._tries = 0

    def send(self, data: bytes) -> int:
        self._tries += 1
        if self._tries == 1:
            raise BlockingIOError
        return self._real.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@guest
async def test_what_finds_a_full_buffer_is_sent_when_there_is_room() -> None:
    async with served() as here:
        await here.connection.submit(batch(A_PUT))
        opened: Any = direct_of(here)
        opened._socket = Full(opened._socket)
        assert await here.connection.submit(batch(A_PUT)) == [2]
        assert opened._socket._tries == 2


@guest
async def test_a_connection_that_is_closed_fails_what_is_on_it() -> None:
    async with served_fake() as (node, here), trio.open_nursery() as nursery:

        async def submit() -> None:
            with pytest.raises(Unavailable):
                await here.connection.submit(batch(A_PUT))

        nursery.start_soon(submit)
        await node.submissions(1)
        await here.connection.aclose()
        await until(lambda: not listener_of(here.server)._connections)


@guest
async def test_another_node_at_the_port_is_not_taken_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses may be translated on the way to a node: its port may be another's there."""
    async with served() as other, served(direct=False) as here:
        status = other.node.status()
        monkeypatch.setattr(other.node, "status", lambda: replace(status, endpoint="127.0.0.1:2"))
        here.server._edge.direct_port = other.server.direct_port
        assert await here.connection.submit(batch(A_PUT)) == [1]
        assert direct_of(here) is None and other.node.space.revision == 0


@guest
async def test_a_direct_port_that_was_not_reached_is_asked_about_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with served() as here:
        port, here.server._edge.direct_port = here.server._edge.direct_port, 0
        await here.connection.submit(batch(A_PUT))
        here.server._edge.direct_port = port
        await here.connection.submit(batch(A_PUT))
        assert direct_of(here) is None
        monkeypatch.setattr(here.connection._direct, "_not_before", trio.current_time())
        await here.connection.submit(batch(A_PUT))
        assert direct_of(here) is not None


@guest
async def test_a_node_that_is_not_reached_at_all_was_not_sent_anything() -> None:
    with closed_port() as port:
        async with served_fake() as (_node, here):
            gone = await here.connector.connect(f"127.0.0.1:{port}")
            for call in (
                lambda: gone.submit(batch(A_PUT)),
                lambda: gone.get([], at=None, consistency=LOCAL),
                lambda: gone.scan(b"", b"", at=None, consistency=LOCAL, limit_keys=1),
            ):
                with pytest.raises(NotSent):
                    await call()


@guest
async def test_what_keeps_a_node_from_saying_where_its_port_is_has_sent_nothing() -> None:
    async with served() as here:

        async def ask() -> pb.NodeStatus:
            raise Unavailable("the node is stopping")

        here.connection._direct._ask = ask
        with pytest.raises(NotSent, match="the node is stopping"):
            await here.connection.submit(batch(A_PUT))


@guest
async def test_what_a_node_says_it_did_not_serve_was_not_sent() -> None:
    async with served_fake() as (node, here), trio.open_nursery() as nursery:

        async def submit() -> None:
            with pytest.raises(NotSent, match="another time"):
                await here.connection.submit(batch(A_PUT))

        nursery.start_soon(submit)
        await node.submissions(1)
        (connection,) = listener_of(here.server)._connections
        connection._write(frames.goaway(0, Code.NO_ERROR, "another time"))


@guest
async def test_the_kernel_ends_a_connection_whose_other_side_is_silent_within_seconds() -> None:
    async with served() as here, pair() as (one, _two):
        await here.connection.submit(batch(A_PUT))
        opened, stream = direct_of(here), one.transport._links[NodeId(2)]._stream
        assert opened is not None and isinstance(stream, DirectStream)
        (accepted,) = listener_of(here.server)._connections
        transports: list[Any] = [stream._dialed._transport, accepted._transport]
        for connected in (opened._socket, *(each.get_extra_info("socket") for each in transports)):
            option = partial(connected.getsockopt, socket.IPPROTO_TCP)
            assert option(socket.TCP_NODELAY) and connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert 0 < option(socket.TCP_USER_TIMEOUT) <= 5_000
            idle = option(socket.TCP_KEEPIDLE) + option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
            assert 0 < idle <= 5


@guest
async def test_calls_that_were_given_up_are_reset_and_leave_nothing_behind() -> None:
    async with served_fake() as (node, here):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.connection.submit, batch(A_PUT))
            await node.submissions(1)
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(here.connection.get, [], at=None, consistency=LINEARIZABLE))
            await node.read_one.wait()
            nursery.cancel_scope.cancel()
        await until(lambda: not listener_of(here.server)._waiting)
        node.submitted[0][1]([1])  # comes too late, for nobody
        await until(lambda: is_idle(here.server))


# -- replies that are streams --------------------------------------------------------------------------


@guest
async def test_a_scan_in_many_parts_is_the_same_by_either_way() -> None:
    pages: list[object] = []
    for direct in (False, True):
        async with served(direct=direct) as here:
            offers = [Offer((Put(b"%04d" % number, bytes(200)),)) for number in range(3_000)]
            await here.connection.submit(batch(*offers))
            page = await here.connection.scan(b"", b"", at=None, consistency=LINEARIZABLE, limit_keys=2_500)
            assert (direct_of(here) is not None) is direct
            pages.append((page.revision, list(page.items), page.next_key))
    assert pages[0] == pages[1]


@guest
async def test_what_fails_a_scan_is_the_same_by_either_way() -> None:
    errors: list[object] = []
    for direct in (False, True):
        async with served(direct=direct) as here:
            with pytest.raises(RevisionInFuture) as caught:
                await here.connection.scan(b"", b"", at=Revision(7), consistency=LOCAL, limit_keys=1)
            errors.append(vars(caught.value))
    assert errors[0] == errors[1]


@guest
async def test_a_stream_that_fails_after_its_first_message_says_why() -> None:
    async with served() as here:
        await here.put(b"a")
        async with here.connection.tail(Revision(0), []) as tail:
            await anext(tail)
            here.server._edge.close()
            with pytest.raises(Unavailable, match="the node is stopping"):
                while True:
                    await anext(tail)
        call: Any = here.direct.unary_stream(methods.TAIL.path, request_serializer=methods.encode)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await bridge.host().run(_last_of, call(pb.TailRequest()))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failed.value.details() == "the node is stopping"


async def _last_of(call: Any) -> None:
    async for _message in call:
        pass


@guest
async def test_a_tail_that_is_left_is_cancelled_at_the_node() -> None:
    async with served() as here:
        async with here.connection.tail(Revision(0), []) as tail:
            await anext(tail)
            assert here.node.tails.open == 1
        await until(lambda: here.node.tails.open == 0 and is_idle(here.server))


@guest
async def test_a_tail_ends_with_its_connection() -> None:
    async with served() as here:
        async with here.connection.tail(Revision(0), []) as tail:
            await anext(tail)
            for connection in list(listener_of(here.server)._connections):
                connection.abort()
            with pytest.raises(Unavailable, match="connection was lost"):
                while True:
                    await anext(tail)
        async with here.connection.tail(Revision(0), []) as again:
            await anext(again)


@guest
async def test_who_does_not_read_a_stream_holds_one_message_of_it_at_the_node() -> None:
    async with served() as here:
        for _ in range(100):
            await here.put(b"k", bytes(100_000))
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
        async with client_of(here, frames.PREFACE + none) as client:
            request = pb.TailRequest(progress_ms=100).SerializeToString()
            block = headers_of(methods.TAIL.path, "h:1", ())
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, block),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            assert await status_of(client) == "none"
            data = bytearray((await client.frame())[3])
            assert len(data) == 100
            (connection,) = others_of(here)
            await here.put(b"meanwhile")
            (unsent,) = connection._unsent.values()
            assert len(unsent.data) <= here.node.config.limits.tail_message_bytes_max + 100
            assert connection.unread_bytes == 0, "what waits for a window is not what nobody reads"
            # As it opens its windows so much more comes, not a byte above, and all of it in order.
            last, opened, got = 0, 100, len(data)
            while last < 101:
                if got == opened:
                    await client.send(frames.window_update(0, 77_777), frames.window_update(1, 77_777))
                    opened += 77_777
                kind, _flags, _stream, payload = await client.frame()
                assert kind == DATA
                got += len(payload)
                assert got <= opened
                data += payload
                for message in frames.messages(data):
                    told = pb.TailMessage.FromString(message)
                    assert told.first == last + 1
                    last = told.last


@guest
async def test_a_failed_stream_sends_no_more_of_what_waited_for_its_window() -> None:
    async with served() as here:
        await here.put(b"k", bytes(100_000))
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
        async with client_of(here, frames.PREFACE + none) as client:
            request = pb.TailRequest().SerializeToString()
            block = headers_of(methods.TAIL.path, "h:1", ())
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, block),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            assert await status_of(client) == "none"
            assert (await client.frame())[0] == DATA
            (call,) = listener_of(here.server)._calls
            call.fail(14, "planted")
            found = client.headers((await client.frame())[3])
            assert found == {"grpc-status": "14", "grpc-message": "planted"}, "and no second head"
            await client.send(frames.window_update(0, 1 << 20), frame(frames.PING, 0, 0, bytes(8)))
            assert (await client.frame())[0] == frames.PING


@guest
async def test_streams_whose_messages_wait_count_once_among_the_calls_of_a_connection() -> None:
    async with served(edge=EdgeLimits(streams_per_connection_max=2)) as here:
        await here.put(b"k", bytes(100_000))
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
        async with client_of(here, frames.PREFACE + none) as client:
            request = pb.TailRequest().SerializeToString()
            body = frames.message_prefix(len(request)) + request
            block = headers_of(methods.TAIL.path, "h:1", ())
            for stream in (1, 3, 5):
                await client.send(
                    frame(HEADERS, frames.END_HEADERS, stream, block),
                    frame(DATA, frames.END_STREAM, stream, body),
                )
                kind, _flags, of, _payload = await client.frame(
                    but=(frames.SETTINGS, frames.WINDOW_UPDATE, DATA)
                )
                assert (kind, of) == ((HEADERS if stream < 5 else RST_STREAM), stream)
                (connection,) = others_of(here)
                await until(lambda: len(connection._unsent) == min(stream, 3) // 2 + 1)  # noqa: B023


@guest
async def test_the_connections_window_holds_for_streams() -> None:
    async with served() as here:
        wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})
        async with client_of(here, frames.PREFACE + wide) as client:
            request = pb.TailRequest(progress_ms=100_000).SerializeToString()
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, headers_of(methods.TAIL.path, "h:1", ())),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            assert await status_of(client) == "none"
            got, sent = len((await client.frame())[3]), 0
            # Messages that fit in use the window up, and what is more than it waits.
            while got < frames.WINDOW_AT_FIRST:
                await here.put(b"k", bytes(20_000))
                sent += 20_000
                while got < min(sent, frames.WINDOW_AT_FIRST):
                    kind, _flags, _stream, payload = await client.frame()
                    assert kind == DATA
                    got += len(payload)
            assert got == frames.WINDOW_AT_FIRST < sent
            await client.send(frame(frames.PING, 0, 0, bytes(8)))
            assert (await client.frame())[0] == frames.PING


@guest
async def test_a_scan_that_is_left_while_it_waits_for_a_window_leaves_nothing_behind() -> None:
    async with served() as here:
        await here.connection.submit(
            batch(*(Offer((Put(b"%04d" % number, bytes(300)),)) for number in range(3_000)))
        )
        for limit in (1, 2_500):
            none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
            async with client_of(here, frames.PREFACE + none) as client:
                scan = pb.ScanRequest(limit_keys=limit, consistency=pb.CONSISTENCY_LOCAL)
                request = scan.SerializeToString()
                await client.send(
                    frame(HEADERS, frames.END_HEADERS, 1, headers_of(methods.SCAN_IN_PARTS.path, "h:1", ())),
                    frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
                )
                assert await status_of(client) == "none"
                assert len((await client.frame())[3]) == 100
                await client.send(frames.reset(1, Code.CANCEL))
                await until(lambda: is_idle(here.server))


@guest
async def test_a_reader_of_the_socket_that_stops_holds_up_the_stream_not_the_memory() -> None:
    async with served() as here:
        for _ in range(200):
            await here.put(b"k", bytes(200_000))
        wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}) + frames.window_update(0, 1 << 30)
        async with client_of(here, frames.PREFACE + wide) as client:
            request = pb.TailRequest().SerializeToString()
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, headers_of(methods.TAIL.path, "h:1", ())),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            await until(lambda: len(others_of(here)) == 1)
            (connection,) = others_of(here)
            await until(lambda: connection._is_paused)
            await here.put(b"meanwhile")
            assert connection.unread_bytes < 2 * here.node.config.limits.tail_message_bytes_max + 256 * 1024
            last, data = 0, bytearray()
            while last < 201:
                kind, _flags, _stream, payload = await client.frame()
                if kind == DATA:
                    data += payload
                    for message in frames.messages(data):
                        last = pb.TailMessage.FromString(message).last


# -- over gRPC ---------------------------------------------------------------------------------------


@guest
async def test_a_message_is_on_its_way_when_send_returns_and_what_comes_meanwhile_goes_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not a round of the loop later: on the way of an offer there are four such sends."""
    monkeypatch.setattr(pulse, "PING_INTERVAL_S", 600.0)
    begun: list[object] = []

    def note(writing: Any, ended: Any) -> None:
        begun.append(writing)
        begin(writing, ended)

    monkeypatch.setattr(outgoing, "begin", note)
    async with peer(1) as one, peer(2, direct=False) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        begun.clear()
        send(one.transport, 2, learn(1), learn(2))
        assert len(begun) == 1, "what is sent together goes together, and at once"
        send(one.transport, 2, learn(3))
        send(one.transport, 2, learn(4))
        assert len(begun) == 1, "one write at a time"
        await until(lambda: len(two.got) == 4)
        assert len(begun) == 2
