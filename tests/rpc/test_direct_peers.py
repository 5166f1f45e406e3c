"""Peers past gRPC: when parcels go by the direct port, when they do not, and what ends their stream."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from journal.errors import Unavailable
from journal.offers import Offer, Put
from journal.rpc import bridge, methods, outgoing, peers, pulse
from journal.rpc.codec import pack_message
from journal.rpc.direct import connection as connection_module
from journal.rpc.direct import frames
from journal.rpc.direct.caller import headers_of
from journal.rpc.direct.connection import Call
from journal.rpc.direct.dial import UNWRITTEN_BYTES
from journal.rpc.direct.frames import DATA, HEADERS, RST_STREAM, Code, frame
from journal.rpc.eager import begin
from journal.rpc.edge import EdgeLimits
from journal.rpc.outgoing import DirectStream
from journal.rpc.pb import paxos_pb2 as px
from journal.types import NodeId
from tests.rpc.harness import Served, guest, served_fake, until
from tests.rpc.test_direct import is_idle, listener_of
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
