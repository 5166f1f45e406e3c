"""The HTTP server: HTTP/1.1 with keep-alive, on h11 and trio.

hypercorn was tried first. Under trio its 0.18 ends as a whole when one client sends bytes that
are no HTTP (h11's error leaves the connection's task and reaches the nursery of all), and it shields
its sends from every deadline, so one client that does not read holds up the stop. An API wants
neither HTTP/2 nor WebSockets, and h11 does the protocol; what is left is this module.

What clients can take is bounded: so many connections, so large a head and a body, so long a wait for
a request, for its body, and for the answer to be read. Whatever a connection does ends at most
that connection.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import h11
import trio
from structlog.typing import FilteringBoundLogger

from api.settings import ApiSettings, host_port

HEAD_BYTES_MAX = 64 * 1024
RECEIVE_BYTES = 64 * 1024
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request. Names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: a body, and how it is labelled."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[Request], Awaitable[Answer]]
"""Makes the answer to a request. It must not raise."""


class BodyTooLarge(Exception):
    """A request's body is, or says that it is, larger than allowed."""


class HttpServer:
    """Serves ``respond`` to any number of clients."""

    def __init__(self, respond: Respond, settings: ApiSettings, log: FilteringBoundLogger) -> None:
        self._respond = respond
        self._settings = settings
        self._log = log
        self._connections: set[_Connection] = set()
        self._stopping = False

    async def listen(self) -> list[trio.SocketListener]:
        """Listen where the settings say. Raises ``OSError``."""
        host, port = host_port(self._settings.listen)
        return await trio.open_tcp_listeners(port, host=host)

    async def serve(self, listeners: list[trio.SocketListener], stop: trio.Event) -> None:
        """Serve until ``stop`` is set; then let what is being served end within ``graceful_s``."""
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:

                async def accept() -> None:
                    await trio.serve_listeners(self._connection, listeners, handler_nursery=connections)

                accepting.start_soon(accept)
                await stop.wait()
                accepting.cancel_scope.cancel()
            self._stopping = True
            for connection in list(self._connections):
                connection.idle.cancel()
            connections.cancel_scope.deadline = trio.current_time() + self._settings.graceful_s

    async def _connection(self, stream: trio.SocketStream) -> None:
        if self._stopping or len(self._connections) >= self._settings.connections_max:
            await trio.aclose_forcefully(stream)
            return
        connection = _Connection(stream, self._settings)
        self._connections.add(connection)
        try:
            while await self._exchange(connection):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            pass  # the client went away, or speaks something else: its own affair
        except Exception as error:  # a bug of ours ends this connection and no other
            self._log.error("api.bug", exc_info=error)
        finally:
            self._connections.discard(connection)
            await trio.aclose_forcefully(stream)

    async def _exchange(self, connection: _Connection) -> bool:
        """Read one request and answer it; return whether there may be another one."""
        try:
            request = await connection.request()
        except h11.RemoteProtocolError as error:
            await connection.refuse(error.error_status_hint or 400, "This is not HTTP/1.1 as it should be.")
            return False
        except BodyTooLarge:
            most = self._settings.body_bytes_max
            await connection.refuse(413, f"The body is larger than {most} bytes.")
            return False
        except trio.TooSlowError:
            await connection.refuse(408, "The request did not come to its end in time.")
            return False
        if request is None:
            return False
        answer = await self._respond(request)
        await connection.send(request.method, answer, last=self._stopping)
        return connection.next()


class _Connection:
    """One client's connection."""

    def __init__(self, stream: trio.SocketStream, settings: ApiSettings) -> None:
        self._stream = stream
        self._settings = settings
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self.idle = trio.CancelScope()
        """Cancelled when the server stops; only waiting for the next request is in it."""

    async def request(self) -> Request | None:
        """Return the next request; None where there is none: the client has gone, or was idle too long.

        Raises ``h11.RemoteProtocolError``, ``BodyTooLarge`` or ``trio.TooSlowError``.
        """
        with self.idle:
            self.idle.deadline = trio.current_time() + self._settings.keep_alive_s
            if not self._h11.trailing_data[0] and not await self._receive():
                return None
            self.idle.deadline = float("inf")
        if self.idle.cancelled_caught:
            return None
        self.idle = trio.CancelScope()
        with trio.fail_after(self._settings.request_timeout_s):
            head = await self._event()
            if isinstance(head, h11.ConnectionClosed):
                return None
            assert isinstance(head, h11.Request), head
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            body = await self._body(headers.get("content-length", "0"))
        target = head.target.decode("latin-1")
        return Request(head.method.decode("latin-1"), target.partition("?")[0], headers, body)

    async def _body(self, length: str) -> bytes:
        most = self._settings.body_bytes_max
        if len(length) > 18 or int(length) > most:  # h11 has seen to it that these are digits
            raise BodyTooLarge
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > most:
                raise BodyTooLarge
        return bytes(body)

    async def _event(self) -> h11.Event:
        """Return the next event. Raises ``h11.RemoteProtocolError``."""
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            await self._receive()
        assert not isinstance(event, type), event  # paused only before an answer is complete
        return event

    async def _receive(self) -> bool:
        """Take in what comes next; return False at the stream's end."""
        data = await self._stream.receive_some(RECEIVE_BYTES)
        self._h11.receive_data(data)
        return bool(data)

    async def send(self, method: str, answer: Answer, *, last: bool) -> None:
        """Send an answer. Raises ``trio.BrokenResourceError`` where nobody reads it in time."""
        headers = {
            "content-type": answer.content_type,
            "content-length": str(len(answer.body)),
            **answer.headers,
            **({"connection": "close"} if last else {}),
        }
        phrase = HTTPStatus(answer.status).phrase
        response = h11.Response(status_code=answer.status, headers=list(headers.items()), reason=phrase)
        body = b"" if method == "HEAD" else answer.body
        await self._send(response, h11.Data(data=body), h11.EndOfMessage())

    async def refuse(self, status: int, why: str) -> None:
        """Say what is wrong with a request that could not be read, as far as that is still possible."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = {"x-amzn-requestid": str(uuid.uuid4())}
        await self.send("", Answer(status, f"{why}\n".encode(), TEXT, headers), last=True)

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._h11.send(event) or b"" for event in events)
        with trio.move_on_after(self._settings.request_timeout_s) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read its answer")

    def next(self) -> bool:
        """Make ready for another request on this connection; return False if there can be none."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True
