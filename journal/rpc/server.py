"""A node's gRPC server: which handler serves which method, and how it starts and stops.

Beside the journal's own services it serves ``grpc.health.v1`` and reflection, so that
generic tools (grpcurl, load balancers) find their way. Health: ``""`` says that the node
runs and answers local reads; the Journal service's own entry also needs a known leader.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]
from structlog.typing import FilteringBoundLogger

from journal.errors import JournalError
from journal.rpc import methods
from journal.rpc.channels import MESSAGE_SLACK_BYTES, server_options
from journal.rpc.direct.listener import Handler, Listener, StreamHandler
from journal.rpc.edge import Context, Edge, EdgeLimits, decoded
from journal.rpc.methods import Method
from journal.rpc.pb import paxos_pb2 as px
from journal.rpc.peers import GrpcTransport
from journal.rpc.service import Service
from journal.rpc.submit import Submissions
from journal.rpc.tails import Tails

if TYPE_CHECKING:
    from journal.node import Node

_HEALTH_INTERVAL_S = 0.25
_STOP_GRACE_S = 1.0

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class ListenFailed(JournalError):
    """The address cannot be listened on: in use, not this host's, or not an address."""


class Server:
    """The running server of one node. ``start`` it, and ``aclose`` it after the node has stopped."""

    def __init__(
        self,
        node: Node,
        transport: GrpcTransport,
        *,
        listen: str,
        log: FilteringBoundLogger,
        limits: EdgeLimits | None = None,
        direct_listen: str = "",
    ) -> None:
        """``listen`` is ``host:port``; port 0 takes a free one, which ``port`` then tells. ``direct_listen``:
        the same for the direct port (``rpc.direct``), which ``direct_port`` tells; empty: there is none.

        From the asyncio side, like everything here.
        """
        self._node = node
        self._transport = transport
        self._listen = listen
        self._log = log
        self._edge = Edge(node, limits or EdgeLimits(), log)
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._tasks: list[asyncio.Task[None]] = []
        self._direct_listen = direct_listen
        self._direct: Listener | None = None
        self.port = 0
        self.direct_port = 0

    async def start(self) -> None:
        """Begin to serve. Raises ``ListenFailed``."""
        request_bytes_max = self._node.config.limits.batch_bytes_max + MESSAGE_SLACK_BYTES
        options = server_options(request_bytes_max, self._edge.limits.streams_per_connection_max)
        server = grpc.aio.server(options=options)
        submissions = Submissions(self._edge)
        service = Service(self._edge)
        unary = _unary_handlers(service)
        streams: dict[Method, StreamHandler] = {
            methods.SCAN_IN_PARTS: service.scan_in_parts,
            methods.TAIL: Tails(self._edge).stream,
        }
        server.add_generic_rpc_handlers(self._handlers(service, submissions, unary, streams))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (
            methods.JOURNAL,
            methods.ADMIN,
            methods.PEER,
            health.SERVICE_NAME,
            reflection.SERVICE_NAME,
        )
        reflection.enable_server_reflection(names, server)
        _check_listen(self._listen)
        if self._direct_listen:
            self._direct = Listener(
                self._edge,
                submissions,
                unary,
                streams,
                request_bytes_max=request_bytes_max,
                health=self._health_of,
                invited=self._transport.invited,
            )
            host, port = _check_listen(self._direct_listen)
            try:
                await self._direct.start(host, port)
            except OSError as error:
                raise ListenFailed(f"cannot listen on {self._direct_listen}: {error}") from None
            self._edge.direct_port = self.direct_port = self._direct.port
            self._log.info("direct.listening", listen=self._direct_listen, port=self.direct_port)
        try:
            self.port = server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise ListenFailed(f"cannot listen on {self._listen}: {error}") from None
        await server.start()
        self._server = server
        await self._watch_health_once()
        self._tasks.append(self._edge.loop.create_task(self._watch_health()))
        self._log.info("rpc.listening", listen=self._listen, port=self.port)

    async def aclose(self) -> None:
        """End all calls with ``Unavailable``, and the transport's streams too. Idempotent."""
        await self._transport.aclose()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._tasks.clear()
        if self._direct is not None:
            await self._direct.aclose()
        server, self._server = self._server, None
        if server is None:
            return
        await self._health.enter_graceful_shutdown()
        self._edge.close()
        await server.stop(_STOP_GRACE_S)

    # -- health ---------------------------------------------------------------------------

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_INTERVAL_S)
            await self._watch_health_once()

    async def _watch_health_once(self) -> None:
        for name in ("", methods.JOURNAL, methods.ADMIN):
            await self._health.set(name, self._health_of(name))

    def _health_of(self, service: str) -> int | None:
        """Return the serving status of a service, None for one that this node has not."""
        if not service:
            return int(_SERVING)
        if service not in (methods.JOURNAL, methods.ADMIN):
            return None
        return int(_SERVING if self._node.leader_endpoint[0] is not None else _NOT_SERVING)

    # -- the table of handlers --------------------------------------------------------------

    def _handlers(
        self,
        service: Service,
        submissions: Submissions,
        unary: Mapping[Method, Handler],
        streams: Mapping[Method, StreamHandler],
    ) -> tuple[grpc.GenericRpcHandler, ...]:
        served: dict[Method, Callable[..., Any]] = {
            methods.SUBMIT: self._duplex(submissions.stream),
            methods.SUBMIT_ONCE: self._unary_call(submissions.once),
            methods.LEASE_KEEP_ALIVE: self._duplex(service.lease_keep_alive),
            methods.EXCHANGE: self._exchange,
            **{method: self._unary_call(handler) for method, handler in unary.items()},
            **{method: self._server_stream(handler) for method, handler in streams.items()},
        }
        assert served.keys() == set(methods.ALL)
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for method, handler in served.items():
            by_service.setdefault(method.service, {})[method.name] = _method_handler(method, handler)
        return tuple(
            grpc.method_handlers_generic_handler(name, handlers) for name, handlers in by_service.items()
        )

    def _unary_call(self, handler: Handler) -> Callable[..., Awaitable[Message]]:
        async def call(request: Any, context: Context) -> Message:
            return await self._edge.guarded(context, lambda: handler(decoded(request)))

        return call

    def _server_stream(self, handler: StreamHandler) -> Callable[..., Awaitable[None]]:
        async def call(request: Any, context: Context) -> None:
            await self._edge.guarded(context, lambda: handler(decoded(request), context))

        return call

    def _duplex(self, handler: Callable[[Context], Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def call(_requests: AsyncIterator[Any], context: Context) -> None:
            await self._edge.guarded(context, lambda: handler(context))

        return call

    async def _exchange(self, _requests: AsyncIterator[Any], context: Context) -> None:
        """Serve a peer's stream."""

        async def read() -> px.Parcel | None:
            parcel: px.Parcel | None = await self._edge.read(context)
            return parcel

        async def handler() -> None:
            metadata = dict(context.invocation_metadata() or ())
            sender = self._transport.check(metadata)
            await self._transport.admit(sender, metadata)
            endpoint = str(metadata.get(methods.MD_ENDPOINT, ""))
            with self._transport.incoming(sender, endpoint) as incoming:
                await self._edge.accept(
                    context, (*self._transport.own_incarnation, *self._invitation(incoming.invitation))
                )
                await incoming.receive(read)

        await self._edge.guarded(context, handler)

    def _invitation(self, invitation: str) -> tuple[tuple[str, str], ...]:
        """The metadata by which a peer is invited to the direct port, if there is one."""
        port = self._edge.direct_port
        if not port:
            return ()
        return ((methods.MD_DIRECT_PORT, str(port)), (methods.MD_INVITATION, invitation))


def _unary_handlers(service: Service) -> dict[Method, Handler]:
    """Return what serves the unary methods, but for SubmitOnce, on either port."""
    return {
        methods.GET: service.get,
        methods.SCAN: service.scan,
        methods.LEASE_GRANT: service.lease_grant,
        methods.LEASE_REVOKE: service.lease_revoke,
        methods.LEASE_INFO: service.lease_info,
        methods.OUTCOME: service.outcome,
        methods.STATUS: service.status,
        methods.ADMIN_STATUS: service.status,
        methods.TRANSFER_LEADERSHIP: service.transfer_leadership,
        methods.COMPACT: service.compact,
        methods.CHANGE_MEMBERS: service.change_members,
        methods.CHAIN: service.chain,
        methods.READ_SNAPSHOT: service.read_snapshot,
    }


def _method_handler(method: Method, handler: Callable[..., Any]) -> grpc.RpcMethodHandler[Any, Any]:
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Any = kinds[method.client_streams, method.server_streams]
    # Tails hand out bytes that are encoded already.
    made: grpc.RpcMethodHandler[Any, Any] = make(
        handler,
        request_deserializer=method.decode_request,
        response_serializer=None if method is methods.TAIL else methods.encode,
    )
    return made


def _check_listen(listen: str) -> tuple[str, int]:
    """Return host and port. Say clearly why an address cannot be bound; gRPC's own words do not."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ListenFailed(f"cannot listen on {listen!r}: it must be host:port")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {listen}: {error.strerror or error}") from None
    family, kind, protocol, _name, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            why = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise ListenFailed(f"cannot listen on {listen}: {why}") from None
    return host, int(port)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    """Start a server and close it in the end; for tests."""
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()
