"""Just enough HTTP/2 to read gRPC streams by the thousand: what a reader costs is not what is measured.

A client in Python takes 70 µs of processor time for a message of a stream, which on a machine that runs the
nodes as well is time taken from them. ``h2load`` writes requests; here is what reads. A connection opens its
windows as wide as they go, and takes apart what comes; it knows no header but those that it sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import cast

_FRAME = Struct(">HBBBI")  # length (its upper 16 bits, its lower 8), type, flags, stream
_FRAME_BYTES = 9
_PREFIX_BYTES = 5
"""Before each gRPC message: whether it is compressed, and its length."""
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
_WINDOW_MAX = 2**31 - 1
_WINDOW_AT_FIRST = 65_535
_INITIAL_WINDOW_SIZE = 4
REPLENISH_BYTES = 16 * 1024 * 1024

Handler = Callable[[bytes | None], None]
"""Gets each message of a stream, and None at its end."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    length = len(payload)
    return _FRAME.pack(length >> 8, length & 255, kind, flags, stream) + payload


def request_headers(path: str, authority: str) -> bytes:
    """Return the header block of a gRPC call, in HPACK without a table: static names, literal values."""
    assert len(path) < 127 and len(authority) < 127, "a length of one byte"

    def literal(name: bytes, value: str) -> bytes:
        return name + bytes([len(value)]) + value.encode()

    return (
        b"\x83\x86"  # :method POST, :scheme http
        + literal(b"\x04", path)
        + literal(b"\x01", authority)
        + literal(b"\x0f\x10", "application/grpc")  # content-type
        + literal(b"\x00\x02te", "trailers")
    )


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
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._transport.write(
            frame(HEADERS, END_HEADERS, stream, request_headers(path, self._endpoint))
            + frame(DATA, END_STREAM if half_close else 0, stream, body)
        )

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio's side -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        window = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _WINDOW_MAX.to_bytes(4, "big")
        more = (_WINDOW_MAX - _WINDOW_AT_FIRST).to_bytes(4, "big")
        self._transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, window)
            + frame(WINDOW_UPDATE, 0, 0, more)
        )

    def connection_lost(self, _error: Exception | None) -> None:
        handlers = list(self._handlers.values())
        self._handlers.clear()
        for handler in handlers:
            handler(None)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        while size - at >= _FRAME_BYTES:
            upper, lower, kind, flags, stream = _FRAME.unpack_from(data, at)
            end = at + _FRAME_BYTES + (upper << 8 | lower)
            if end > size:
                break
            self._take(kind, flags, stream, data[at + _FRAME_BYTES : end])
            at = end
        self._rest = data[at:]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._transport is not None
        if kind == DATA:
            self._unacknowledged += len(payload)
            if self._unacknowledged >= REPLENISH_BYTES:
                self._transport.write(frame(WINDOW_UPDATE, 0, 0, self._unacknowledged.to_bytes(4, "big")))
                self._unacknowledged = 0
            if stream in self._handlers:
                self._messages(stream, payload)
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self._parts.pop(stream, None)
            if (handler := self._handlers.pop(stream, None)) is not None:
                handler(None)

    def _messages(self, stream: int, payload: bytes) -> None:
        data = self._parts.pop(stream, b"") + payload
        handler, at = self._handlers[stream], 0
        while len(data) - at >= _PREFIX_BYTES:
            begin = at + _PREFIX_BYTES
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
