"""The server as a whole: health, reflection, addresses, noise at the port, ends."""

from __future__ import annotations

import random
import socket
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import trio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]

from journal.node import Node
from journal.rpc import bridge, methods
from journal.rpc.edge import EdgeLimits
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.server import ListenFailed, Server
from tests.rpc.harness import FakeNode, Log, guest, make_transport, served, served_fake, until


def server_on(listen: str, direct_listen: str = "") -> Server:
    return Server(
        cast(Node, FakeNode()), make_transport(), listen=listen, log=Log().logger, direct_listen=direct_listen
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "127.0.0.1", "[::1]"])
def test_both_ports_take_the_same_addresses(host: str) -> None:
    """gRPC takes both families of addresses for either's "any"."""

    @guest
    async def run() -> None:
        server = server_on(f"{host}:0", f"{host}:0")
        await bridge.host().run(server.start)
        try:
            for address in ("127.0.0.1", "::1"):
                reached = []
                for port in (server.port, server.direct_port):
                    try:
                        stream = await trio.open_tcp_stream(address, port)
                    except OSError:
                        reached.append(False)
                    else:
                        await stream.aclose()
                        reached.append(True)
                assert reached[0] == reached[1]
        finally:
            await bridge.host().run(server.aclose)

    run()


@guest
async def test_health_tells_a_running_node_from_one_that_can_serve() -> None:
    async with served_fake() as (node, here):

        async def check(service: str) -> Any:
            reply = await health_pb2_grpc.HealthStub(here.channel).Check(
                health_pb2.HealthCheckRequest(service=service)
            )
            return reply.status

        run = bridge.host().run
        serving = health_pb2.HealthCheckResponse.SERVING
        assert await run(check, "") == serving
        assert await run(check, methods.JOURNAL) == serving
        node.leader_endpoint = (None, None)  # type: ignore[assignment]
        with trio.fail_after(2):
            while await run(check, methods.JOURNAL) == serving:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await run(check, "") == serving
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await run(check, "nobody")


@guest
async def test_reflection_names_the_services_and_their_messages() -> None:
    async with served_fake() as (_node, here):

        async def ask() -> list[Any]:
            stub = reflection_pb2_grpc.ServerReflectionStub(here.channel)
            requests = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=methods.JOURNAL),
            ]
            return [reply async for reply in stub.ServerReflectionInfo(iter(requests))]

        listed, file = await bridge.host().run(ask)
        names = {service.name for service in listed.list_services_response.service}
        assert {methods.JOURNAL, methods.ADMIN, methods.PEER, "grpc.health.v1.Health"} <= names
        assert file.file_descriptor_response.file_descriptor_proto


# -- addresses ------------------------------------------------------------------------------


@guest
async def test_a_port_in_use_is_refused_clearly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenFailed, match=f"cannot listen on {address}: the port is in use"):
            await bridge.host().run(server_on(address).start)


@guest
async def test_two_nodes_never_share_a_port() -> None:
    """gRPC's own default would let them (SO_REUSEPORT), and the kernel would deal out the calls."""
    async with served_fake() as (_node, here):
        with pytest.raises(ListenFailed, match="in use"):
            await bridge.host().run(server_on(here.endpoint).start)
        with pytest.raises(ListenFailed, match="in use"):
            await bridge.host().run(server_on("127.0.0.1:0", f"127.0.0.1:{here.server.direct_port}").start)


@guest
async def test_what_fails_to_listen_at_one_port_lets_go_of_the_other() -> None:
    async with served_fake() as (_node, here):
        with socket.create_server(("127.0.0.1", 0)) as free:
            unary = f"127.0.0.1:{free.getsockname()[1]}"
        server = server_on(here.endpoint, unary)
        with pytest.raises(ListenFailed, match="in use"):
            await bridge.host().run(server.start)
        await bridge.host().run(server.aclose)
        again = server_on("127.0.0.1:0", unary)
        await bridge.host().run(again.start)
        await bridge.host().run(again.aclose)


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("nowhere", "must be host:port"),
        ("127.0.0.1:", "must be host:port"),
        ("127.0.0.1:http", "must be host:port"),
        ("127.0.0.1:70000", "must be host:port"),
        ("no.such.host.invalid:7400", "cannot listen on no.such.host.invalid:7400"),
        ("192.0.2.1:7400", "Cannot assign requested address"),
    ],
)
def test_an_address_that_cannot_be_is_refused_clearly(listen: str, why: str) -> None:
    @guest
    async def run() -> None:
        with pytest.raises(ListenFailed, match=why):
            await bridge.host().run(server_on(listen).start)

    run()


@guest
async def test_a_server_that_never_started_can_be_closed() -> None:
    server = server_on("127.0.0.1:0")
    await bridge.host().run(server.aclose)
    await bridge.host().run(server.aclose)


# -- noise ----------------------------------------------------------------------------------


@guest
async def test_random_bytes_at_the_port_harm_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    noise = random.Random(7)
    async with served() as here:
        host, _, port = here.endpoint.rpartition(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for start in (b"", b"GET / HTTP/1.1\r\n\r\n", preface, preface + bytes(9), b"\x16\x03\x01"):
            for _ in range(10):
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    try:
                        await stream.send_all(start + noise.randbytes(noise.randrange(1, 5000)))
                    except trio.BrokenResourceError:
                        pass
        assert await here.put(b"still here") == 1
        assert here.log.named("rpc.bug") == []
    assert capfd.readouterr().err == ""


@guest
async def test_an_unknown_method_is_unimplemented() -> None:
    async with served_fake() as (_node, here):

        async def ask() -> None:
            call: Any = here.channel.unary_unary("/synod.journal.v1.Journal/Nonsense")
            await call(b"")

        with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
            await bridge.host().run(ask)


# -- limits and ends --------------------------------------------------------------------------


@pytest.mark.parametrize("field", list(EdgeLimits.__dataclass_fields__))
def test_each_limit_must_be_positive(field: str) -> None:
    EdgeLimits().validate()
    with pytest.raises(ValueError, match=field):
        EdgeLimits(**{field: 0}).validate()


@guest
async def test_calls_that_wait_end_when_the_server_closes() -> None:
    async with served_fake() as (node, here), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await here.call(methods.GET, pb.GetRequest(keys=[b"k"]))
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE

        nursery.start_soon(ask)
        await until(lambda: node.reads)
        await bridge.host().run(here.server.aclose)
