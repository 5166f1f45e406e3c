"""Clients past gRPC: when their calls go by the direct port, when they do not, and what ends them."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from journal.connection import LINEARIZABLE, LOCAL, NotSent
from journal.errors import NotLeader, Overloaded, SpaceFull, Unavailable
from journal.offers import Offer, Put
from journal.rpc.connection import GrpcConnection
from journal.rpc.direct import client as direct_client
from journal.rpc.direct import frames
from journal.rpc.direct.frames import Code
from journal.rpc.direct.socket import Socket
from journal.rpc.edge import EdgeLimits
from journal.rpc.outgoing import DirectStream
from journal.rpc.pb import journal_pb2 as pb
from journal.types import NodeId
from tests.rpc.harness import Served, batch, guest, served, served_fake, until
from tests.rpc.test_direct import is_idle, listener_of
from tests.rpc.test_direct_peers import closed_port, pair, silent_port

A_PUT = Offer(mutations=(Put(b"key", b"value"),))


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
    """A socket whose buffer is full at the first two tries, and empty at the first one."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self._tries = self._reads = 0

    def send(self, data: bytes) -> int:
        self._tries += 1
        if self._tries <= 2:
            raise BlockingIOError
        return self._real.send(data)

    def recv(self, size: int) -> bytes:
        self._reads += 1
        if self._reads == 1:
            raise BlockingIOError
        return self._real.recv(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@guest
async def test_what_finds_a_full_buffer_is_sent_when_there_is_room() -> None:
    async with served() as here:
        await here.connection.submit(batch(A_PUT))
        opened: Any = direct_of(here)
        opened._socket = Full(opened._socket)
        assert await here.connection.submit(batch(A_PUT)) == [2]
        assert opened._socket._tries == 3 and opened._socket._reads == 2, "woken for nothing, it went on"


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
