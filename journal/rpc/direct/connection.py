"""One client's connection to the direct port: HTTP/2 from its side, calls and replies from ours.

It takes apart what comes and hands each whole request to its ``Acceptor``; the replies that are ready in one
turn of the loop are written together. Memory is bounded: calls and what has come of them by the acceptor,
which counts them over all connections, replies by hanging up on who does not read them, and the rest by what
HTTP/2 lets a client send.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, cast

from hpack import Decoder, HPACKError

from journal.rpc.direct import frames
from journal.rpc.direct.frames import HEADER_BYTES, MESSAGE_PREFIX_BYTES, Code, Header, Http2Error

HEADERS_BYTES_MAX = 16 * 1024
"""Headers of one call, taken apart; the same bound for them as they come."""
RECEIVE_WINDOW_BYTES = 16 * 1024 * 1024
"""What a client may send ahead of what was read, on a whole connection."""
PREFACE_S = 10.0
"""Within so long a client must have said that it speaks HTTP/2."""
LAST_WORDS_S = 1.0
"""How long a client may take to read what it is told when its connection is ended."""
_KNOWN_BLOCKS_MAX, _KNOWN_BLOCK_BYTES_MAX = 64, 512
"""Header blocks that a connection remembers, and how long one may be for that."""
_UNIMPLEMENTED, _RESOURCE_EXHAUSTED, _INTERNAL = 12, 8, 13
"""Statuses of gRPC."""
_NOT_ONE_MESSAGE = _INTERNAL, "a unary call takes one message, and this was none or more"
_HTTP_METHOD_NOT_ALLOWED, _HTTP_NOT_GRPC = 405, 415
_UNREAD_BYTES = 256 * 1024
"""While so much of the replies waits for the client to read, no further requests are read from it."""


class Head(NamedTuple):
    """What a call's headers come to."""

    route: Any
    """What the acceptor made of them."""
    http_status: int
    """0, or with what a request is answered that is no gRPC call."""


class Call:
    """One call: what came of it so far, and the way of its reply."""

    __slots__ = ("connection", "credit", "is_complete", "is_over", "part", "route", "stream", "work")

    def __init__(self, connection: Connection, stream: int, route: Any) -> None:
        self.connection = connection
        self.stream = stream
        self.route = route
        self.part: bytearray | None = None
        """What has come of a request that does not come in one piece."""
        self.is_complete = False
        """The client has sent all of its request."""
        self.credit = 0
        """How far the client has opened this stream's window beyond what they all begin with."""
        self.is_over = False
        """It was answered, or nobody waits for an answer any more."""
        self.work: asyncio.Task[None] | None = None
        """What is to be cancelled when nobody waits any more."""

    def reply(self, message: bytes) -> None:
        """Answer with a message. Does nothing where nobody waits any more."""
        if not self.is_over:
            self.connection.reply(self, message)

    def fail(self, status: int, text: str, trailers: Iterable[tuple[str, str | bytes]] = ()) -> None:
        """Answer with a gRPC status other than 0. Does nothing where nobody waits any more."""
        if not self.is_over:
            self.connection.fail(self, frames.failure(self.stream, status, text, trailers))


class Acceptor(Protocol):
    """What serves the calls of all connections of a port."""

    streams_max: int
    """Calls that one connection may have open."""
    request_bytes_max: int
    """A request's message."""

    def opened(self, connection: Connection) -> bool:
        """Count a connection in; False: there are too many."""

    def closed(self, connection: Connection) -> None: ...

    def begun(self, call: Call) -> bool:
        """Count a call in; False: it was failed, there are too many."""

    def ended(self, call: Call) -> None:
        """Count a call out: it was answered, or nobody waits any more."""

    def route(self, path: str, metadata: Mapping[str, str]) -> Any:
        """Return what ``Call.route`` is to be for calls with these headers. Must not raise."""

    def serve(self, call: Call, message: bytes) -> None:
        """Begin to serve a call; answer it now or later. Must not raise."""

    def hold(self, call: Call, more: int) -> bool:
        """Count so many bytes of a request that is not complete; False: the call was failed, there are too
        many. ``more`` is negative when they are let go."""

    def unread(self) -> None:
        """Look whether replies that nobody reads have become too many."""


class _Unsent:
    """The rest of a reply that the client's windows have no room for."""

    __slots__ = ("at", "call", "data")

    def __init__(self, call: Call, data: bytes) -> None:
        self.call = call
        self.data = data
        self.at = 0


class Connection(asyncio.Protocol):
    """See the module. Everything is called in the loop."""

    def __init__(self, acceptor: Acceptor, loop: asyncio.AbstractEventLoop) -> None:
        self._acceptor = acceptor
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._has_begun = False
        self._has_settings = False
        self._decoder = Decoder(HEADERS_BYTES_MAX)
        self._heads: dict[bytes, Head] = {}  # by header block, as long as the decoder's table stands
        self._block: tuple[int, int, bytes] | None = None  # stream, flags, and a header block's first part
        self._last_stream = 0
        self._calls: dict[int, Call] = {}
        self._received = 0  # since the connection's window was last opened
        self._out: list[bytes] = []
        self._is_flush_due = False
        self._window = frames.WINDOW_AT_FIRST
        self._stream_window = frames.WINDOW_AT_FIRST
        self._unsent: dict[int, _Unsent] = {}
        self._unsent_bytes = 0
        self._is_closing = False
        self._timer: asyncio.TimerHandle | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        """Done when the connection has ended."""

    @property
    def unread_bytes(self) -> int:
        """Bytes of replies that wait for the client to read."""
        return self._unsent_bytes + (self._transport.get_write_buffer_size() if self._transport else 0)

    # -- asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._acceptor.opened(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_UNREAD_BYTES)
        _keep_alive(self._transport.get_extra_info("socket"))
        wanted = self._acceptor.request_bytes_max + MESSAGE_PREFIX_BYTES
        self._out.append(
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: self._acceptor.streams_max,
                    frames.INITIAL_WINDOW_SIZE: max(wanted, frames.WINDOW_AT_FIRST),
                    frames.MAX_HEADER_LIST_SIZE: HEADERS_BYTES_MAX,
                }
            )
            + frames.window_update(0, RECEIVE_WINDOW_BYTES - frames.WINDOW_AT_FIRST)
        )
        self._flush()
        self._timer = self._loop.call_later(PREFACE_S, self.abort)

    def connection_lost(self, _error: Exception | None) -> None:
        self._is_closing = True
        self._transport = None
        self._stop_timer()
        self._drop_all()
        self._acceptor.closed(self)
        if not self.done.done():
            self.done.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
        self._acceptor.unread()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        data = self._rest + data if self._rest else data
        try:
            at = 0 if self._has_begun else self._begin(data)
            if self._has_begun:
                at = self._take_all(data, at)
            self._rest = data[at:] if at < len(data) else b""
        except Http2Error as error:
            self._hang_up(error.code, str(error))
        except HPACKError as error:
            self._hang_up(Code.COMPRESSION_ERROR, str(error))

    def eof_received(self) -> bool:
        return False  # a client that has gone waits for nothing

    def _begin(self, data: bytes) -> int:
        preface = frames.PREFACE
        if not preface.startswith(data[: len(preface)]):
            raise Http2Error(Code.PROTOCOL_ERROR, "this port speaks gRPC: HTTP/2, without TLS")
        self._has_begun = len(data) >= len(preface)
        return len(preface) if self._has_begun else 0

    # -- frames in --------------------------------------------------------------------------------

    def _take_all(self, data: bytes, at: int) -> int:
        """Take the whole frames in ``data`` from ``at`` on; return where the rest begins."""
        unpack, size = frames.HEADER.unpack_from, len(data)
        while size - at >= HEADER_BYTES:
            upper, lower, kind, flags, stream = unpack(data, at)
            length = upper << 8 | lower
            if length > frames.FRAME_BYTES_MAX:
                raise Http2Error(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = at + HEADER_BYTES
            at = begin + length
            if at > size:
                return begin - HEADER_BYTES
            self._take(kind, flags, stream & 0x7FFFFFFF, data[begin:at])
            if self._is_closing:
                return size
        return at

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block[0]):
            raise Http2Error(Code.PROTOCOL_ERROR, "a frame in the middle of headers")
        if not self._has_settings and kind != frames.SETTINGS:
            raise Http2Error(Code.PROTOCOL_ERROR, "settings come first")
        if kind == frames.DATA:
            self._take_data(flags, stream, payload)
        elif kind == frames.HEADERS:
            self._take_headers(flags, stream, payload)
        elif kind == frames.CONTINUATION:
            self._take_continuation(flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._take_window_update(stream, payload)
        elif kind == frames.RST_STREAM:
            self._take_reset(stream, payload)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == frames.PING:
            if len(payload) != 8 or stream:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "a ping of a wrong form")
            if not flags & frames.ACK:
                self._write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.PUSH_PROMISE:
            raise Http2Error(Code.PROTOCOL_ERROR, "a client promises nothing")
        # PRIORITY, GOAWAY and kinds that nobody knows change nothing here.

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received > RECEIVE_WINDOW_BYTES // 2:
            self._write(frames.window_update(0, self._received))
            self._received = 0
        call = self._calls.get(stream)
        if call is None:
            self._check_was_open(stream)
            return
        data = frames.unpadded(flags, payload)
        if call.part is None and flags & frames.END_STREAM:
            self._serve(call, data)
            return
        self._collect(call, data, is_last=bool(flags & frames.END_STREAM))

    def _check_was_open(self, stream: int) -> None:
        """Raise where a client never opened a stream; of one that is over, frames may still come."""
        if not stream & 1 or stream > self._last_stream:
            raise Http2Error(Code.PROTOCOL_ERROR, f"stream {stream} was never opened")

    def _collect(self, call: Call, data: bytes, *, is_last: bool) -> None:
        """Keep a part of a request that comes in several frames."""
        part = call.part = bytearray() if call.part is None else call.part
        part += data
        call.is_complete = is_last
        if not self._acceptor.hold(call, len(data)):
            return
        if is_last:
            whole = bytes(part)
            self._let_go(call)
            self._serve(call, whole)
        elif len(part) >= MESSAGE_PREFIX_BYTES:
            length = int.from_bytes(part[1:MESSAGE_PREFIX_BYTES], "big")
            if length > self._acceptor.request_bytes_max:
                self._refuse_size(call, length)
            elif len(part) > MESSAGE_PREFIX_BYTES + length:
                call.fail(*_NOT_ONE_MESSAGE)

    def _let_go(self, call: Call) -> None:
        """Forget what was kept of a request."""
        if call.part is not None:
            self._acceptor.hold(call, -len(call.part))
            call.part = None

    def _serve(self, call: Call, data: bytes) -> None:
        """Serve a call whose request is complete: one message with its prefix."""
        call.is_complete = True
        length = len(data) - MESSAGE_PREFIX_BYTES
        if length < 0 or int.from_bytes(data[1:MESSAGE_PREFIX_BYTES], "big") != length:
            call.fail(*_NOT_ONE_MESSAGE)
        elif length > self._acceptor.request_bytes_max:
            self._refuse_size(call, length)
        elif data[0]:
            call.fail(_UNIMPLEMENTED, "the message is compressed, which this port does not take")
        else:
            self._acceptor.serve(call, data[MESSAGE_PREFIX_BYTES:])

    def _refuse_size(self, call: Call, length: int) -> None:
        most = self._acceptor.request_bytes_max
        call.fail(_RESOURCE_EXHAUSTED, f"the message has {length} bytes, more than the {most} that are taken")

    # -- headers ----------------------------------------------------------------------------------

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = frames.unpadded(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(block) < 5:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "headers without their priority")
            block = block[5:]
        if flags & frames.END_HEADERS:
            self._open(stream, flags, block)
        else:
            self._block = (stream, flags, block)

    def _take_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise Http2Error(Code.PROTOCOL_ERROR, "headers go on that never began")
        stream, first_flags, block = self._block
        block += payload
        if len(block) > HEADERS_BYTES_MAX:
            raise Http2Error(Code.ENHANCE_YOUR_CALM, f"headers of more than {HEADERS_BYTES_MAX} bytes")
        if flags & frames.END_HEADERS:
            self._block = None
            self._open(stream, first_flags, block)
        else:
            self._block = (stream, first_flags, block)

    def _open(self, stream: int, flags: int, block: bytes) -> None:
        head = self._head(block)  # whatever stream it is of: the table must stay in step
        call = self._calls.get(stream)
        if call is not None:  # trailers, which say nothing to us
            if not flags & frames.END_STREAM:
                raise Http2Error(Code.PROTOCOL_ERROR, "headers in the middle of a request")
            self._collect(call, b"", is_last=True)
            return
        if stream <= self._last_stream and stream & 1:
            return  # of a call that is over
        if not stream & 1:
            raise Http2Error(Code.PROTOCOL_ERROR, f"a client opens no stream {stream}")
        self._last_stream = stream
        if len(self._calls) + len(self._unsent) >= self._acceptor.streams_max:
            self._write(frames.reset(stream, Code.REFUSED_STREAM))
            return
        if head.http_status:
            self._write(frames.http_failure(stream, head.http_status))
            if not flags & frames.END_STREAM:
                self._write(frames.reset(stream, Code.NO_ERROR))
            return
        call = self._calls[stream] = Call(self, stream, head.route)
        if self._acceptor.begun(call) and flags & frames.END_STREAM:
            self._serve(call, b"")

    def _head(self, block: bytes) -> Head:
        """Return what a header block says. The same bytes say the same until one has changed the table."""
        head = self._heads.get(block)
        if head is not None:
            return head
        newest, size = self._table()
        head = self._head_of([(name, value) for name, value in self._decoder.decode(block, raw=True)])
        newest_now, size_now = self._table()
        is_changed = newest_now is not newest or size_now != size
        if is_changed or len(self._heads) >= _KNOWN_BLOCKS_MAX:
            self._heads.clear()
        if not is_changed and len(block) <= _KNOWN_BLOCK_BYTES_MAX:
            self._heads[block] = head
        return head

    def _table(self) -> tuple[object, tuple[int, int]]:
        """Return the newest entry of the decoder's table, and how many it has and may have: a block that
        changes the table changes one of them, an entry equal to the newest being another object."""
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return (entries[0] if entries else None), (len(entries), table.maxsize)

    def _head_of(self, headers: list[Header]) -> Head:
        path, method, content_type = "", b"", b""
        metadata = {}
        for name, value in headers:
            if name == b":path":
                path = value.decode("latin-1")
            elif name == b":method":
                method = value
            elif name == b"content-type":
                content_type = value
            elif not name.startswith(b":"):
                metadata[name.decode("latin-1")] = value.decode("latin-1")
        if method != b"POST":
            return Head(None, _HTTP_METHOD_NOT_ALLOWED)
        if not content_type.startswith(b"application/grpc"):
            return Head(None, _HTTP_NOT_GRPC)
        return Head(self._acceptor.route(path, metadata), 0)

    # -- what else a client says ----------------------------------------------------------------------

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or (flags & frames.ACK and payload):
            raise Http2Error(Code.PROTOCOL_ERROR, "settings of a wrong form")
        if not self._has_settings:
            self._has_settings = True
            self._stop_timer()
        if flags & frames.ACK:
            return
        for setting, value in frames.unpack_settings(payload):
            if setting == frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_MAX:
                    raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")
                self._stream_window = value
        self._write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._send_on()

    def _take_window_update(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a window update of a wrong length")
        more = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not more:
            raise Http2Error(Code.PROTOCOL_ERROR, "a window that opens by nothing")
        if not stream:
            self._window += more
            if self._window > frames.WINDOW_MAX:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")
        else:
            unsent = self._unsent.get(stream)
            call = unsent.call if unsent is not None else self._calls.get(stream)
            if call is None:
                self._check_was_open(stream)
                return
            call.credit += more
            if call.credit > frames.WINDOW_MAX:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")
        if self._unsent:
            self._send_on()

    def _take_reset(self, stream: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a reset of a wrong length")
        self._check_was_open(stream)
        if (call := self._calls.get(stream)) is not None:
            self._drop(call)
        if (unsent := self._unsent.pop(stream, None)) is not None:
            self._unsent_bytes -= len(unsent.data) - unsent.at

    def _drop(self, call: Call) -> None:
        """Nobody waits for a call's reply any more."""
        self._finish(call)
        if call.work is not None:
            call.work.cancel()

    def _drop_all(self) -> None:
        for call in list(self._calls.values()):
            self._drop(call)
        self._unsent.clear()
        self._unsent_bytes = 0
        self._out.clear()

    def _finish(self, call: Call) -> None:
        call.is_over = True
        self._let_go(call)
        del self._calls[call.stream]
        self._acceptor.ended(call)

    # -- replies ------------------------------------------------------------------------------------

    def reply(self, call: Call, message: bytes) -> None:
        """See ``Call.reply``."""
        self._finish(call)
        size = len(message) + MESSAGE_PREFIX_BYTES
        if size <= frames.FRAME_BYTES_MAX and size <= min(self._window, self._stream_window + call.credit):
            self._window -= size
            self._write(frames.whole_reply(call.stream, message))
            return
        self._unsent[call.stream] = _Unsent(call, frames.message_prefix(len(message)) + message)
        self._unsent_bytes += size
        self._write(frames.reply_head(call.stream))
        self._send_on()
        self._acceptor.unread()

    def fail(self, call: Call, reply: bytes) -> None:
        """See ``Call.fail``."""
        self._finish(call)
        if not call.is_complete:  # and need not be: the rest would be read for nothing
            reply += frames.reset(call.stream, Code.NO_ERROR)
        self._write(reply)

    def _send_on(self) -> None:
        """Send of the replies that wait what the windows have room for, the oldest first."""
        for stream, unsent in list(self._unsent.items()):
            if self._window <= 0:
                return
            if self._send_part(stream, unsent):
                del self._unsent[stream]

    def _send_part(self, stream: int, unsent: _Unsent) -> bool:
        data = unsent.data
        while unsent.at < len(data):
            of_stream = self._stream_window + unsent.call.credit - unsent.at
            room = min(self._window, of_stream, frames.FRAME_BYTES_MAX)
            if room <= 0:
                return False
            part = data[unsent.at : unsent.at + room]
            self._write(frames.frame(frames.DATA, 0, stream, part))
            unsent.at += len(part)
            self._window -= len(part)
            self._unsent_bytes -= len(part)
        self._write(frames.reply_tail(stream))
        return True

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        out, self._out = self._out, []
        if self._transport is not None and out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # -- the end ------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End at once; what is in flight gets no answer."""
        self._is_closing = True
        self._drop_all()
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Say that no more calls are taken, let out what was answered, and end."""
        if not self._is_closing:
            self._hang_up(Code.NO_ERROR, "the node is stopping")

    def _hang_up(self, code: Code, why: str) -> None:
        self._is_closing = True
        self._out.append(frames.goaway(self._last_stream, code, why))
        self._flush()
        if self._transport is not None:
            self._transport.close()
            self._stop_timer()
            self._timer = self._loop.call_later(LAST_WORDS_S, self.abort)


def _keep_alive(connected: Any) -> None:
    """Let the kernel notice a client whose host vanished without a word."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
