"""HTTP/2's frames (RFC 9113), and a gRPC reply in them, as bytes."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from enum import IntEnum
from struct import Struct
from urllib.parse import unquote

from hpack import Encoder, NeverIndexedHeaderTuple

Header = tuple[bytes, bytes]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client's connection begins with."""

HEADER = Struct(">HBBBI")
"""A frame's header: length (its upper 16 bits, its lower 8), type, flags, stream."""
HEADER_BYTES = 9
FRAME_BYTES_MAX = 16_384
"""A frame's payload, as HTTP/2 has it where nobody says otherwise; we say nothing."""
WINDOW_MAX = 2**31 - 1
WINDOW_AT_FIRST = 65_535

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = range(5)
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(5, 10)
"""Kinds of frames."""

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 3, 4, 6
"""Settings."""

MESSAGE_PREFIX_BYTES = 5
"""Before a gRPC message: whether it is compressed, and its length."""


class Code(IntEnum):
    """HTTP/2's error codes, of a stream or of a connection."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Http2Error(Exception):
    """What the other side did that ends the connection."""

    def __init__(self, code: Code, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    length = len(payload)
    return HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    packed = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(SETTINGS, 0, 0, packed)


def unpack_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield (setting, value). Raises ``Http2Error``."""
    if len(payload) % 6:
        raise Http2Error(Code.FRAME_SIZE_ERROR, "settings of a wrong length")
    for at in range(0, len(payload), 6):
        yield int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, more.to_bytes(4, "big"))


def reset(stream: int, code: Code) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: Code, why: str = "") -> bytes:
    payload = last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + why.encode()
    return frame(GOAWAY, 0, 0, payload)


def unpadded(flags: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS frame without its padding. Raises ``Http2Error``."""
    if not flags & PADDED:
        return payload
    end = len(payload) - payload[0] if payload else 0
    if end < 1:
        raise Http2Error(Code.PROTOCOL_ERROR, "more padding than there is payload")
    return payload[1:end]


def pack_headers(headers: Iterable[Header]) -> bytes:
    """Return a header block that neither needs nor changes a table: the same on all connections."""
    return Encoder().encode([NeverIndexedHeaderTuple(*header) for header in headers], huffman=False)


def pieces(stream: int, data: bytes | memoryview, *, is_last: bool) -> bytes:
    """Return DATA frames with all of ``data``, which must not be empty."""
    parts: list[bytes | memoryview] = []
    size, view = len(data), memoryview(data)  # copied once: it may be large
    for at in range(0, size, FRAME_BYTES_MAX):
        end = min(at + FRAME_BYTES_MAX, size)
        flags = END_STREAM if is_last and end == size else 0
        parts += (HEADER.pack(end - at >> 8, end - at & 0xFF, DATA, flags, stream), view[at:end])
    return b"".join(parts)


# -- a reply of gRPC ------------------------------------------------------------------------

_HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
_OK = pack_headers(_HEAD)
_DONE = pack_headers([(b"grpc-status", b"0")])
_REPLY_HEAD = HEADER.pack(len(_OK) >> 8, len(_OK) & 0xFF, HEADERS, END_HEADERS, 0)[:5], _OK
_REPLY_TAIL = HEADER.pack(len(_DONE) >> 8, len(_DONE) & 0xFF, HEADERS, END_HEADERS | END_STREAM, 0)[:5], _DONE
_DATA_HEAD = Struct(">HBBBIBI")
"""A DATA frame's header, and the prefix of the message in it."""


def is_one_message(data: bytes) -> bool:
    """Return whether ``data`` is one message with its prefix."""
    length = len(data) - MESSAGE_PREFIX_BYTES
    return length >= 0 and int.from_bytes(data[1:MESSAGE_PREFIX_BYTES], "big") == length


def plain(data: bytes | memoryview) -> bytes:
    """Return the message of ``data``, which is one with its prefix. Raises ``Http2Error``."""
    if data[0]:
        raise Http2Error(Code.INTERNAL_ERROR, "the message is compressed, which nobody asked for")
    return bytes(data[MESSAGE_PREFIX_BYTES:])


def messages(part: bytearray) -> Iterator[bytes]:
    """Take the whole messages from the front of ``part``, one after the other. Raises ``Http2Error``."""
    while len(part) >= MESSAGE_PREFIX_BYTES:
        end = MESSAGE_PREFIX_BYTES + int.from_bytes(part[1:MESSAGE_PREFIX_BYTES], "big")
        if len(part) < end:
            return
        with memoryview(part) as view:  # copied once: it may be large
            message = plain(view[:end])
        del part[:end]
        yield message


def message_prefix(length: int) -> bytes:
    """Return what stands before a message of so many bytes, which is not compressed."""
    return b"\0" + length.to_bytes(4, "big")


def reply_head(stream: int) -> bytes:
    """Return how a reply that carries a message begins."""
    return frame(HEADERS, END_HEADERS, stream, _OK)


def reply_tail(stream: int) -> bytes:
    """Return how it ends: the call went well."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, _DONE)


def whole_reply(stream: int, message: bytes) -> bytes:
    """Return a reply whose message fits into one DATA frame: the three frames of a call that went well."""
    number, length = stream.to_bytes(4, "big"), len(message)
    size = length + MESSAGE_PREFIX_BYTES
    return b"".join(
        (
            _REPLY_HEAD[0],
            number,
            _REPLY_HEAD[1],
            _DATA_HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream, 0, length),
            message,
            _REPLY_TAIL[0],
            number,
            _REPLY_TAIL[1],
        )
    )


def whole_message(stream: int, message: bytes) -> bytes:
    """Return a message of a stream, in as many DATA frames as it takes."""
    length = len(message)
    size = min(length + MESSAGE_PREFIX_BYTES, FRAME_BYTES_MAX)
    end = size - MESSAGE_PREFIX_BYTES
    head = _DATA_HEAD.pack(size >> 8, size & 0xFF, DATA, 0, stream, 0, length)
    if end == length:
        return head + message
    view = memoryview(message)
    return b"".join((head, view[:end], pieces(stream, view[end:], is_last=False)))


def failure(
    stream: int,
    status: int,
    message: str,
    trailers: Iterable[tuple[str, str | bytes]] = (),
    *,
    has_begun: bool = False,
) -> bytes:
    """Return the rest of the reply to a call that failed with a gRPC status: its trailers; and, but where it
    ``has_begun``, what comes before them."""
    return _alone(
        stream,
        [
            *(() if has_begun else _HEAD),
            (b"grpc-status", b"%d" % status),
            (b"grpc-message", _percent_encoded(message)),
            *((name.encode(), _metadata_value(name, value)) for name, value in trailers),
        ],
    )


def http_failure(stream: int, status: int) -> bytes:
    """Return the reply to a request that is no gRPC call at all."""
    return _alone(stream, [(b":status", b"%d" % status)])


def _alone(stream: int, headers: list[Header]) -> bytes:
    block = pack_headers(headers)
    parts = [block[at : at + FRAME_BYTES_MAX] for at in range(0, len(block), FRAME_BYTES_MAX)]
    last = len(parts) - 1
    return b"".join(
        frame(
            CONTINUATION if number else HEADERS,
            (0 if number else END_STREAM) | (END_HEADERS if number == last else 0),
            stream,
            part,
        )
        for number, part in enumerate(parts)
    )


def _percent_encoded(text: str) -> bytes:
    """Return a ``grpc-message`` as gRPC has it travel."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in text.encode()
    )


def percent_decoded(text: str) -> str:
    """Return what a ``grpc-message`` says. Reads what nobody should have sent as it stands."""
    return unquote(text, errors="replace")


def metadata_of(name: str, value: str) -> str | bytes:
    """Return a metadata's value as its receiver has it. Raises ``Http2Error``."""
    if not name.endswith("-bin"):
        return value
    try:
        return base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except ValueError:
        raise Http2Error(Code.PROTOCOL_ERROR, f"{name} is not in base64") from None


def _metadata_value(name: str, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return base64.b64encode(raw).rstrip(b"=") if name.endswith("-bin") else raw
