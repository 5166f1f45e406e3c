"""Just enough HTTP/2 to read gRPC streams by the thousand: what a reader costs is not what is measured.

A client in Python takes 70 µs of processor time for a message of a stream, which on a machine that runs the
nodes as well is time taken from them. ``h2load`` writes requests; here is what reads. A connection opens its
windows as wide as they go, and takes apart what comes; it knows no header but those that it sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from journal.rpc.direct.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_BYTES,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MESSAGE_PREFIX_BYTES,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_AT_FIRST,
    WINDOW_MAX,
    frame,
    message_prefix,
    pack_headers,
    settings,
    window_update,
)

REPLENISH_BYTES = 16 * 1024 * 1024

Handler = Callable[[bytes | None], None]
"""Gets each message of a stream, and None at its end."""


class Connection(asyncio.Protocol):
    """One connection, any number of streams. ``await open_connection(endpoint)`` makes it."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._unacknowledged = 0
        self._next_stream = 1
        self._handlers: dict[int, Handler] = {}
        self._parts: dict[int, bytes] = {}

    def call(self, path: str, message: bytes, handler: Handler, *, half_close: bool = True) -> None:
        """Send one message on a stream of its own, and have ``handler`` get what comes back."""
        assert self._transport is not None
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._handlers[stream] = handler
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", self._endpoint.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        ]
        body = message_prefix(len(message)) + message
        self._transport.write(
            frame(HEADERS, END_HEADERS, stream, pack_headers(headers))
            + frame(DATA, END_STREAM if half_close else 0, stream, body)
        )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio's side -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(
            PREFACE
            + settings({INITIAL_WINDOW_SIZE: WINDOW_MAX})
            + window_update(0, WINDOW_MAX - WINDOW_AT_FIRST)
        )

    def connection_lost(self, _error: Exception | None) -> None:
        handlers = list(self._handlers.values())
        self._handlers.clear()
        for handler in handlers:
            handler(None)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        while size - at >= HEADER_BYTES:
            upper, lower, kind, flags, stream = HEADER.unpack_from(data, at)
            end = at + HEADER_BYTES + (upper << 8 | lower)
            if end > size:
                break
            self._take(kind, flags, stream, data[at + HEADER_BYTES : end])
            at = end
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._transport is not None
        if kind == DATA:
            self._unacknowledged += len(payload)
            if self._unacknowledged >= REPLENISH_BYTES:
                self._transport.write(window_update(0, self._unacknowledged))
                self._unacknowledged = 0
            if stream in self._handlers:
                self._messages(stream, payload)
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self._parts.pop(stream, None)
            if (handler := self._handlers.pop(stream, None)) is not None:
                handler(None)

    def _messages(self, stream: int, payload: bytes) -> None:
        data = self._parts.pop(stream, b"") + payload
        handler, at = self._handlers[stream], 0
        while len(data) - at >= MESSAGE_PREFIX_BYTES:
            begin = at + MESSAGE_PREFIX_BYTES
            end = begin + int.from_bytes(data[at + 1 : begin], "big")
            if end > len(data):
                break
            handler(data[begin:end])
            at = end
        if at < len(data):
            self._parts[stream] = data[at:]


async def open_connection(endpoint: str) -> Connection:
    """Connect. Raises ``OSError``."""
    host, _colon, port = endpoint.rpartition(":")
    loop = asyncio.get_running_loop()
    _transport, connection = await loop.create_connection(lambda: Connection(endpoint), host, int(port))
    return connection
