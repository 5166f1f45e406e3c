"""GrpcConnection: what a client learns when its node refuses, vanishes, hangs or is none."""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from journal.connection import LINEARIZABLE, LOCAL, NotSent
from journal.errors import InvalidRequest, Unavailable, WrongCluster
from journal.offers import Offer, Put
from journal.rpc import bridge, channels
from journal.rpc.connection import GrpcConnector
from journal.types import Revision
from tests.rpc.harness import batch, guest, served, served_fake, silence, until

A_PUT = Offer(mutations=(Put(b"key", b"value"),))


@guest
async def test_a_refused_connection_is_known_not_to_have_sent_anything() -> None:
    connector = GrpcConnector()
    try:
        nobody = await connector.connect("127.0.0.1:1")
        for _ in range(2):
            with pytest.raises(NotSent, match=r"127\.0\.0\.1:1"):
                await nobody.submit(batch(A_PUT))
            with pytest.raises(NotSent, match=r"127\.0\.0\.1:1"):
                await nobody.status()
    finally:
        await connector.aclose()


@guest
async def test_an_endpoint_must_be_host_and_port() -> None:
    connector = GrpcConnector()
    for endpoint in ("", "localhost", ":1", "host:", "host:x", "host:0", "host:65536"):
        with pytest.raises(InvalidRequest, match="host:port"):
            await connector.connect(endpoint)
    await connector.aclose()


@asynccontextmanager
async def tcp_server(handler: object) -> AsyncIterator[str]:
    """Something that listens and is no node."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            trio.serve_tcp,
            handler,
            0,
        )
        port = listeners[0].socket.getsockname()[1]
        yield f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


@guest
async def test_what_is_no_grpc_server_is_unavailable() -> None:
    async def speak_http(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    connector = GrpcConnector()
    try:
        async with tcp_server(speak_http) as endpoint:
            connection = await connector.connect(endpoint)
            with pytest.raises(Unavailable):
                await connection.status()
            with pytest.raises(Unavailable):
                await connection.submit(batch(A_PUT))
    finally:
        await connector.aclose()


@guest
async def test_what_never_says_a_word_is_unavailable_within_seconds() -> None:
    """A port that accepts and then nothing: a host that froze, a port that is forwarded to nowhere."""

    async def be_silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    connector = GrpcConnector()
    try:
        async with tcp_server(be_silent) as endpoint:
            connection = await connector.connect(endpoint)
            began = trio.current_time()
            with pytest.raises(Unavailable):
                await connection.status()
            assert trio.current_time() - began < 5
    finally:
        await connector.aclose()


@asynccontextmanager
async def proxied(target: str) -> AsyncIterator[tuple[str, trio.Event]]:
    """Forward a port until the event is set; then swallow everything, and close nothing."""
    frozen = trio.Event()
    host, _, port = target.rpartition(":")

    async def forward(one: trio.SocketStream, other: trio.SocketStream) -> None:
        async for data in one:
            if not frozen.is_set():
                await other.send_all(data)

    async def serve(stream: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream(host, int(port)) as onward, trio.open_nursery() as nursery:
            nursery.start_soon(forward, stream, onward)
            nursery.start_soon(forward, onward, stream)

    async with tcp_server(serve) as endpoint:
        yield endpoint, frozen


def quick_keepalive(patch: pytest.MonkeyPatch) -> None:
    """Notice a dead connection in a fraction of the usual time, by the same means."""
    original = channels.channel_options

    def options() -> channels.Options:
        changed = {
            "grpc.keepalive_time_ms": 200,
            "grpc.keepalive_timeout_ms": 200,
            "grpc.http2.ping_timeout_ms": 200,
        }
        return [(name, changed.get(name, value)) for name, value in original()]

    patch.setattr("journal.rpc.connection.channel_options", options)


def test_a_connection_that_dies_without_a_word_is_noticed() -> None:
    @guest
    async def run() -> None:
        async with served_fake(direct=False) as (node, here), proxied(here.endpoint) as (endpoint, frozen):
            connector = GrpcConnector()
            try:
                connection = await connector.connect(endpoint)

                async def read() -> None:
                    with pytest.raises(Unavailable):
                        await connection.get([], at=None, consistency=LINEARIZABLE)

                async def submit() -> None:
                    with pytest.raises(Unavailable, match="not known"):
                        await connection.submit(batch(A_PUT))

                with trio.fail_after(5):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(read)
                        nursery.start_soon(submit)
                        await node.submissions(1)
                        await until(lambda: node.reads)
                        frozen.set()
                # The node notices too, and lets go of the stream.
                with trio.fail_after(8):
                    await until(lambda: not here.server._edge.streams)
            finally:
                await connector.aclose()

    with pytest.MonkeyPatch.context() as patch:
        quick_keepalive(patch)
        run()


def test_the_usual_keepalive_notices_within_seconds() -> None:
    options = dict(channels.channel_options())
    for timeout in ("grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"):
        assert int(options["grpc.keepalive_time_ms"]) + int(options[timeout]) <= 5_000


# -- closing ------------------------------------------------------------------------------


@guest
async def test_calls_in_flight_fail_when_the_connection_closes() -> None:
    async with served_fake() as (node, here):

        async def fails(call: object) -> None:
            with pytest.raises(Unavailable):
                await call()  # type: ignore[operator]

        async def tail() -> None:
            async with here.connection.tail(Revision(0), []) as messages:
                await anext(messages)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, lambda: here.connection.submit(batch(A_PUT)))
            nursery.start_soon(fails, lambda: here.connection.get([], at=None, consistency=LINEARIZABLE))
            nursery.start_soon(fails, tail)
            await node.submissions(1)
            await until(lambda: node.reads)
            await here.connection.aclose()
        await here.connection.aclose()
        for call in (
            lambda: here.connection.submit(batch(A_PUT)),
            lambda: here.connection.status(),
            tail,
            lambda: here.connection.lease_keep_alive(1),
        ):
            with pytest.raises(NotSent, match="closed"):
                await call()


@guest
async def test_a_connector_closes_its_connections_and_then_makes_no_more() -> None:
    async with served_fake() as (_node, here):
        connector = GrpcConnector()
        connection = await connector.connect(here.endpoint)
        await connector.aclose()
        await connector.aclose()
        with pytest.raises(NotSent, match="closed"):
            await connection.status()
        with pytest.raises(NotSent, match="closed"):
            await connector.connect(here.endpoint)


@guest
async def test_many_calls_at_once_and_some_of_them_cancelled() -> None:
    async with served() as here:
        done: list[int] = []

        async def one(number: int) -> None:
            with trio.move_on_after(0.001 if number % 3 == 0 else math.inf):
                if number % 2:
                    await here.connection.get([b"k"], at=None, consistency=LINEARIZABLE)
                else:
                    await here.put(b"k%d" % number)
                done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(one, number)
        assert {number for number in range(200) if number % 3} <= set(done)


# -- under a plain trio.run -------------------------------------------------------------------


def node_in_a_thread() -> tuple[threading.Thread, dict[str, object], threading.Event]:
    """A served node with a guest run of its own, so that the client's side is as in production."""
    found: dict[str, object] = {}
    ready, stop = threading.Event(), threading.Event()

    async def main() -> None:
        async with served() as here:
            found["endpoint"] = here.endpoint
            ready.set()
            await trio.to_thread.run_sync(stop.wait)

    def run() -> None:
        bridge.run_guest(main)

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(10)
    return thread, found, stop


def test_a_client_works_under_a_plain_trio_run() -> None:
    async def client(endpoint: Any) -> None:
        connector = GrpcConnector("test-cluster")
        try:
            connection = await connector.connect(endpoint)
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for number in range(20):
                        nursery.start_soon(connection.submit, batch(Offer((Put(b"%d" % number, b"v"),))))
                async with connection.tail(Revision(0), []) as tail:
                    last = 0
                    while last < 20:
                        message = await anext(tail)
                        assert message.first == last + 1
                        last = message.last
                with trio.move_on_after(0.05):
                    async with connection.tail(Revision(20), []) as tail:
                        while True:
                            await anext(tail)
                assert (await connection.get([b"7"], at=None, consistency=LOCAL)).records[0] is not None
        finally:
            await connector.aclose()

    with silence():
        thread, found, stop = node_in_a_thread()
        try:
            for _ in range(2):  # the second client starts a thread of its own again
                trio.run(client, found["endpoint"])
        finally:
            stop.set()
            thread.join()


def test_two_clients_of_a_process_share_the_thread() -> None:
    async def client(endpoint: Any) -> None:
        first, second = GrpcConnector(), GrpcConnector("another")
        one, two = await first.connect(endpoint), await second.connect(endpoint)
        await one.status()
        with pytest.raises(WrongCluster):
            await two.status()
        await second.aclose()
        await one.status()
        await first.aclose()
        assert not any(thread.name == "synod-asyncio" for thread in threading.enumerate())

    with silence():
        thread, found, stop = node_in_a_thread()
        try:
            trio.run(client, found["endpoint"])
        finally:
            stop.set()
            thread.join()
