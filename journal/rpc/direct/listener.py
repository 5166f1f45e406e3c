"""The direct port of a node: which handler serves which call, and what all connections may take together.

What a call is answered with is what gRPC's own server answers, status, text and trailers: both have the same
handlers and the same table of errors. Offers come and go without a task or a future of their own: a client's
batch goes to the node at once, and what the node answers in one turn goes out together.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

from journal.errors import JournalError, Overloaded
from journal.rpc import methods
from journal.rpc.direct.connection import LAST_WORDS_S, Call, Connection
from journal.rpc.edge import Edge, Writer, decoded
from journal.rpc.errors import status_of, trailers
from journal.rpc.methods import Method
from journal.rpc.submit import Answer, Submissions

HEALTH_CHECK = Method(
    "grpc.health.v1.Health", "Check", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
)
RETRY_AFTER_MS = 50

Handler = Callable[[Any], Awaitable[Message]]
StreamHandler = Callable[[Any, Writer], Awaitable[None]]
"""Of a call that is answered by a stream."""
Invited = Callable[[Call], None]
"""Takes a peer's stream that was invited to this port, by ``Call.accept``. Must not raise."""

_NOT_FOUND, _UNIMPLEMENTED, _INTERNAL = 5, 12, 13
_BACKLOG = 1_024
_ANY = ("", "0.0.0.0", "::")


class _Route(NamedTuple):
    """What becomes of calls with certain headers: one of the five."""

    method: Method | None = None
    """``handler`` None: it is SubmitOnce."""
    handler: Handler | None = None
    stream_handler: StreamHandler | None = None
    error: JournalError | None = None
    unserved: str = ""
    invited: Invited | None = None


class _Replies:
    """The way of a reply that is a stream. ``edge.Writer`` to its handler."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def write(self, message: Any) -> None:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        if self._call.send(data):
            await asyncio.sleep(0)  # others have their turn, also where there is always room for more
        else:
            await self._call.drained()


def _uninvited(call: Call) -> None:
    call.fail(_NOT_FOUND, f"no stream has this {methods.MD_INVITATION}")


class Listener:
    """Serves the direct port of one node. ``Acceptor`` to its connections."""

    def __init__(
        self,
        edge: Edge,
        submissions: Submissions,
        handlers: Mapping[Method, Handler],
        stream_handlers: Mapping[Method, StreamHandler],
        *,
        request_bytes_max: int,
        health: Callable[[str], int | None],
        invited: Callable[[str], Invited | None],
    ) -> None:
        """``handlers``: of the unary methods, but for SubmitOnce. ``health``: the serving status of a
        service, None for one that is not known. ``invited``: who takes the stream with an invitation."""
        self._edge = edge
        self._submissions = submissions
        self._routes = {method.path: _Route(method, handler) for method, handler in handlers.items()}
        self._routes[methods.SUBMIT_ONCE.path] = _Route(methods.SUBMIT_ONCE)
        self._routes[HEALTH_CHECK.path] = _Route(HEALTH_CHECK)
        for method, stream_handler in stream_handlers.items():
            self._routes[method.path] = _Route(method, stream_handler=stream_handler)
        self._health = health
        self._invited = invited
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._calls: set[Call] = set()  # that the node works on, also where nobody waits any more
        self._waiting = 0  # calls that somebody waits for
        self._is_closing = False
        self._held_bytes = 0
        self._answers: list[tuple[Call, Answer]] = []
        self.streams_max = edge.limits.streams_per_connection_max
        self.request_bytes_max = request_bytes_max
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises ``OSError``."""
        loop = self._edge.loop
        if host in _ANY and socket.has_dualstack_ipv6():  # as gRPC does: both families at one port
            both = socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
            self._server = await loop.create_server(lambda: Connection(self, loop), sock=both)
        else:
            self._server = await loop.create_server(
                lambda: Connection(self, loop), host or None, port, backlog=_BACKLOG, reuse_address=True
            )
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        """End all calls with ``Unavailable``, and all connections. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        self._is_closing = True
        server.close()
        self._answer()
        for call in list(self._calls):
            self._fail(call, Edge.stopping(), taken_in=True)
            if call.work is not None:
                call.work.cancel()
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.done for connection in connections], timeout=2 * LAST_WORDS_S)

    # -- what connections ask of it ---------------------------------------------------------------

    def opened(self, connection: Connection) -> bool:
        if self._is_closing:
            return False
        if len(self._connections) >= self._edge.limits.direct_connections_max:
            self._edge.counters.limits_hit["direct_connections_max"] += 1
            return False
        self._connections.add(connection)
        return True

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def begun(self, call: Call) -> bool:
        self._waiting += 1
        most = self._edge.limits.direct_calls_max
        if self._waiting <= most and len(self._calls) < most:
            route: _Route = call.route
            if route.invited is not None:
                route.invited(call)
            return True
        self._fail(call, Overloaded("direct_calls_max", most, RETRY_AFTER_MS))
        return False

    def ended(self, call: Call) -> None:
        self._waiting -= 1

    def route(self, path: str, metadata: Mapping[str, str]) -> _Route:
        try:
            self._edge.check_cluster_named(metadata.get(methods.MD_CLUSTER))
        except JournalError as error:
            return _Route(error=error)
        if path == methods.EXCHANGE.path and methods.MD_INVITATION in metadata:
            return _Route(invited=self._invited(metadata[methods.MD_INVITATION]) or _uninvited)
        route = self._routes.get(path)
        if route is not None:
            return route
        if any(method.path == path for method in methods.ALL):
            where = self._edge.node.config.endpoint
            return _Route(
                unserved=f"{path} is a stream of requests, which this port does not take: call {where}"
            )
        return _Route(unserved=f"this port has no method {path!r}")

    def serve(self, call: Call, message: bytes) -> None:
        route: _Route = call.route
        try:
            if route.error is not None:
                self._fail(call, route.error)
            elif route.method is None:
                call.fail(_UNIMPLEMENTED, route.unserved)
            elif route.method is methods.SUBMIT_ONCE:
                self._submit(call, message)
            elif route.method is HEALTH_CHECK:
                self._check_health(call, message)
            else:
                self._calls.add(call)
                work = self._edge.loop.create_task(self._run(call, route, route.method, message))
                work.add_done_callback(lambda _work: self._calls.discard(call))
                call.work = work
        except JournalError as error:
            self._fail(call, error)
        except Exception:
            self._bug(call)

    def hold(self, call: Call, more: int) -> bool:
        self._held_bytes += more
        most = self._edge.limits.direct_request_bytes_max
        if more > 0 and self._held_bytes > most:
            self._fail(call, Overloaded("direct_request_bytes_max", most, RETRY_AFTER_MS))
            return False
        return True

    def unread(self) -> None:
        """Hang up on who reads least, where too much waits to be read on all connections together."""
        most = self._edge.limits.direct_unread_bytes_max
        waiting = {connection: connection.unread_bytes for connection in self._connections}
        if waiting and sum(waiting.values()) > most:
            self._edge.counters.limits_hit["direct_unread_bytes_max"] += 1
            max(waiting, key=lambda connection: waiting[connection]).abort()

    # -- calls ------------------------------------------------------------------------------------

    def _submit(self, call: Call, message: bytes) -> None:
        request = decoded(methods.SUBMIT_ONCE.decode_request(message))

        def reply(answer: Answer, _weight: int) -> None:
            # The node is in the middle of its turn: the answers of all of it go out when that is over.
            if not self._answers:
                self._edge.loop.call_soon(self._answer)
            self._answers.append((call, answer))

        self._submissions.take(request, reply)
        self._calls.add(call)  # it is answered after this turn at the earliest

    def _answer(self) -> None:
        answers, self._answers = self._answers, []
        for call, answer in answers:
            self._calls.discard(call)
            if call.is_over:
                continue
            try:
                if isinstance(answer.result, JournalError):
                    self._fail(call, answer.result, taken_in=answer.taken_in)
                else:
                    call.reply(self._submissions.result(answer).SerializeToString())
            except Exception:
                self._bug(call)

    async def _run(self, call: Call, route: _Route, method: Method, message: bytes) -> None:
        try:
            request = decoded(method.decode_request(message))
            if route.handler is not None:
                call.reply((await route.handler(request)).SerializeToString())
            else:
                assert route.stream_handler is not None
                await route.stream_handler(request, _Replies(call))
                call.end()
        except JournalError as error:
            self._fail(call, error)
        except Exception:
            self._bug(call)

    def _check_health(self, call: Call, message: bytes) -> None:
        request = decoded(HEALTH_CHECK.decode_request(message))
        status = self._health(request.service)
        if status is None:
            call.fail(_NOT_FOUND, "unknown service")
        else:
            call.reply(health_pb2.HealthCheckResponse(status=status).SerializeToString())

    def _fail(self, call: Call, error: JournalError, *, taken_in: bool = False) -> None:
        self._edge.refused(error)
        status: int = status_of(error).value[0]
        call.fail(status, str(error), trailers(error, taken_in=taken_in))

    def _bug(self, call: Call) -> None:
        self._edge.log.exception("rpc.bug")
        call.fail(_INTERNAL, "a fault of the node; its log has the details")
