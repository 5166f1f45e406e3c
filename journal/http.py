"""A small HTTP server for those who watch a node: GET and HEAD of a few fixed paths.

It runs as a trio task beside the node's loop, in the same thread, so a page may read the node's
state without a lock. Waiting for a slow client never holds the loop up; only making a page
does, and that takes a millisecond or two. h11 does the protocol. Others were weighed: the server
in prometheus_client brings a thread, which would read state while the loop changes it and fight it
for the interpreter; aiohttp and hypercorn bring far more than three pages need.

What a client can take is bounded: so many connections, so long a wait, so large a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl

import h11
import trio
from structlog.typing import FilteringBoundLogger

CONNECTIONS_MAX = 64
REQUEST_BYTES_MAX = 16 * 1024
IDLE_S = 90.0
"""For one request and its reply, and between two: longer than scrapes are apart."""

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered to a request."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT


def text(said: str, status: HTTPStatus = HTTPStatus.OK) -> Reply:
    """Return a reply of one line."""
    return Reply(f"{said}\n".encode(), status)


@dataclass(frozen=True, slots=True)
class Request:
    """What a page may look at."""

    headers: Mapping[str, str]
    """Names are in lower case."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Of a name that is there twice, the last value."""


Page = Callable[[Request], Reply]
"""Makes the reply to a request. It must not block."""


async def listeners(listen: str) -> list[trio.SocketListener]:
    """Listen on ``host:port``. Raises ``ValueError`` or ``OSError`` that say why not."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{listen!r} must be host:port")
    return await trio.open_tcp_listeners(int(port), host=host.removeprefix("[").removesuffix("]"))


class HttpServer:
    """Serves ``pages`` by path."""

    def __init__(self, pages: Mapping[str, Page], log: FilteringBoundLogger) -> None:
        self._pages = pages
        self._log = log
        self._connections = 0

    async def serve(self, sockets: list[trio.SocketListener]) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._connection, sockets)

    async def _connection(self, stream: trio.SocketStream) -> None:
        if self._connections >= CONNECTIONS_MAX:
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
            more = True
            while more:
                more = False
                with trio.move_on_after(IDLE_S):
                    more = await self._exchange(connection, stream)
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # no HTTP, or gone: there is nobody to tell
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _exchange(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        """Serve one request; return whether another may follow."""
        request = await _next(connection, stream)
        if not isinstance(request, h11.Request):
            return False
        reply = self._reply(request)
        headers = [("content-type", reply.content_type), ("content-length", str(len(reply.body)))]
        sent: list[h11.Event] = [
            h11.Response(status_code=reply.status, reason=reply.status.phrase, headers=headers)
        ]
        if request.method != b"HEAD":
            sent.append(h11.Data(data=reply.body))
        await stream.send_all(
            b"".join(connection.send(event) or b"" for event in [*sent, h11.EndOfMessage()])
        )
        while not isinstance(await _next(connection, stream), h11.EndOfMessage):
            if connection.their_state is not h11.SEND_BODY:
                return False
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return False
        connection.start_next_cycle()
        return True

    def _reply(self, request: h11.Request) -> Reply:
        path, _, query = request.target.decode("latin-1").partition("?")
        page = self._pages.get(path)
        if page is None:
            return text(f"not found: there is {', '.join(sorted(self._pages))}", HTTPStatus.NOT_FOUND)
        if request.method not in (b"GET", b"HEAD"):
            return text("only GET and HEAD", HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
            return page(Request(headers, dict(parse_qsl(query, keep_blank_values=True))))
        except Exception:
            self._log.exception("http.bug", path=path)
            return text("a fault of the node; its log has the details", HTTPStatus.INTERNAL_SERVER_ERROR)


async def _next(connection: h11.Connection, stream: trio.SocketStream) -> h11.Event | type[h11.PAUSED]:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event  # type: ignore[return-value]  # NEED_DATA is excluded
        connection.receive_data(await stream.receive_some(REQUEST_BYTES_MAX))
