"""One client's connection to the direct port: HTTP/2 from its side, calls and replies from ours.

It takes apart what comes and hands each whole request to its ``Acceptor``; the replies that are ready in one
turn of the loop are written together. Memory is bounded: calls and what has come of them by the acceptor,
which counts them over all connections, replies by hanging up on who does not read them, and the rest by what
HTTP/2 lets a client send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, cast

from journal.rpc.channels import notice_silence
from journal.rpc.direct import frames
from journal.rpc.direct.end import HEADERS_BYTES_MAX, End
from journal.rpc.direct.frames import MESSAGE_PREFIX_BYTES, Code, Header, Http2Error

RECEIVE_WINDOW_BYTES = 16 * 1024 * 1024
"""What a client may send ahead of what was read, on a whole connection."""
PREFACE_S = 10.0
"""Within so long a client must have said that it speaks HTTP/2."""
LAST_WORDS_S = 1.0
"""How long a client may take to read what it is told when its connection is ended."""
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

    __slots__ = (
        "connection",
        "credit",
        "gone",
        "has_begun",
        "is_complete",
        "is_over",
        "part",
        "receive",
        "room",
        "route",
        "stream",
        "taken",
        "work",
    )

    def __init__(self, connection: Connection, stream: int, route: Any) -> None:
        self.connection = connection
        self.stream = stream
        self.route = route
        self.part: bytearray | None = None
        """What has come of a request that does not come in one piece."""
        self.is_complete = False
        """The client has sent all of its request."""
        self.credit = 0
        """How far the client has opened this stream's window beyond what they all begin with, less what was
        sent."""
        self.has_begun = False
        """The head of its reply is written."""
        self.is_over = False
        """It was answered, or nobody waits for an answer any more."""
        self.work: asyncio.Task[None] | None = None
        """What is to be cancelled when nobody waits any more."""
        self.receive: Callable[[bytes], None] | None = None
        """Set by ``accept``: what takes the messages of a request that is a stream. Must not raise."""
        self.gone: Callable[[], None] | None = None
        """What is to be called when the client has left such a stream."""
        self.taken = 0
        """Bytes of a stream since its window was last opened."""
        self.room: asyncio.Future[None] | None = None
        """Done when there is room for more of a reply that is a stream."""

    def accept(self, receive: Callable[[bytes], None], gone: Callable[[], None]) -> None:
        """Take a request that is a stream, message by message, and tell its client so at once."""
        self.receive, self.gone = receive, gone
        self.connection.accept(self)

    def send(self, message: bytes) -> bool:
        """Send a message of a reply that is a stream; return whether there is room for another one.

        Does nothing where nobody waits any more.
        """
        return self.is_over or self.connection.send(self, message)

    async def drained(self) -> None:
        """Wait until there is room for another message."""
        if not self.is_over:
            await self.connection.drained(self)

    def end(self) -> None:
        """End a stream, of either side: it went well. Does nothing where it has ended."""
        if not self.is_over:
            self.connection.end(self)

    def reply(self, message: bytes) -> None:
        """Answer with a message. Does nothing where nobody waits any more."""
        if not self.is_over:
            self.connection.reply(self, message)

    def fail(self, status: int, text: str, trailers: Iterable[tuple[str, str | bytes]] = ()) -> None:
        """Answer with a gRPC status other than 0. Does nothing where nobody waits any more."""
        if not self.is_over:
            reply = frames.failure(self.stream, status, text, trailers, has_begun=self.has_begun)
            self.connection.fail(self, reply)


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
    """The rest of a message that the client's windows have no room for."""

    __slots__ = ("at", "call", "data", "is_last")

    def __init__(self, call: Call, data: bytes, *, is_last: bool) -> None:
        self.call = call
        self.data = data
        self.is_last = is_last
        self.at = 0


class Connection(End, asyncio.Protocol):
    """See the module. Everything is called in the loop."""

    receive_window_bytes = RECEIVE_WINDOW_BYTES

    def __init__(self, acceptor: Acceptor, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._acceptor = acceptor
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._wanted = max(acceptor.request_bytes_max + MESSAGE_PREFIX_BYTES, frames.WINDOW_AT_FIRST)
        self._last_stream = 0
        self._calls: dict[int, Call] = {}
        self._out: list[bytes] = []
        self._is_flush_due = False
        self._unsent: dict[int, _Unsent] = {}
        self._unsent_bytes = 0
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.done: asyncio.Future[None] = loop.create_future()
        """Done when the connection has ended."""

    @property
    def unread_bytes(self) -> int:
        """Bytes of replies that wait for the client to read; of a stream only what is on its way already."""
        return self._unsent_bytes + (self._transport.get_write_buffer_size() if self._transport else 0)

    @property
    def peer_name(self) -> Any:
        """The client's address, None where it has gone."""
        return self._transport.get_extra_info("peername") if self._transport is not None else None

    # -- asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._acceptor.opened(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_UNREAD_BYTES)
        notice_silence(self._transport.get_extra_info("socket"))
        self._out.append(
            frames.settings(
                {
                    frames.MAX_CONCURRENT_STREAMS: self._acceptor.streams_max,
                    frames.INITIAL_WINDOW_SIZE: self._wanted,
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
        self._is_paused = True
        if self._transport is not None:
            self._transport.pause_reading()
        self._acceptor.unread()

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        for call in self._calls.values():
            _make_room(call)

    def eof_received(self) -> bool:
        return False  # a client that has gone waits for nothing

    def _begin(self, data: bytes) -> int:
        preface = frames.PREFACE
        if not preface.startswith(data[: len(preface)]):
            raise Http2Error(Code.PROTOCOL_ERROR, "this port speaks gRPC: HTTP/2, without TLS")
        self._has_begun = len(data) >= len(preface)
        return len(preface) if self._has_begun else 0

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        call = self._calls.get(stream)
        if call is None:
            self._check_was_open(stream)
            return
        if call.is_complete:
            raise Http2Error(Code.STREAM_CLOSED, "more of a request that has ended")
        data = frames.unpadded(flags, payload)
        if call.receive is not None:
            self._take_stream(call, call.receive, data, len(payload), is_last=bool(flags & frames.END_STREAM))
            return
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

    def _take_stream(
        self, call: Call, receive: Callable[[bytes], None], data: bytes, size: int, *, is_last: bool
    ) -> None:
        """Hand on the messages of a stream, each when it is whole."""
        call.taken += size
        if call.taken > self._wanted // 2:
            self._write(frames.window_update(call.stream, call.taken))
            call.taken = 0
        try:
            if call.part is None and frames.is_one_message(data):
                receive(frames.plain(data))
            else:
                self._take_parts(call, receive, data)
        except Http2Error as error:
            call.fail(_INTERNAL, str(error))
        if is_last and not call.is_over:
            call.is_complete = True
            self.end(call)

    def _take_parts(self, call: Call, receive: Callable[[bytes], None], data: bytes) -> None:
        # Not counted with what clients have not sent to the end: they are not to be in the way of peers.
        part = call.part = bytearray() if call.part is None else call.part
        part += data
        for message in frames.messages(part):
            receive(message)
            if call.is_over:
                return
        if not part:
            call.part = None
        elif len(part) >= MESSAGE_PREFIX_BYTES:
            length = int.from_bytes(part[1:MESSAGE_PREFIX_BYTES], "big")
            if length > self._acceptor.request_bytes_max:
                self._refuse_size(call, length)

    def _let_go(self, call: Call) -> None:
        """Forget what was kept of a request."""
        if call.part is not None:
            if call.receive is None:
                self._acceptor.hold(call, -len(call.part))
            call.part = None

    def _serve(self, call: Call, data: bytes) -> None:
        """Serve a call whose request is complete: one message with its prefix."""
        call.is_complete = True
        length = len(data) - MESSAGE_PREFIX_BYTES
        if not frames.is_one_message(data):
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

    def _take_block(self, stream: int, flags: int, block: bytes) -> None:
        head: Head = self._head(block)  # whatever stream it is of: the table must stay in step
        call = self._calls.get(stream)
        if call is not None:  # trailers, which say nothing to us
            if not flags & frames.END_STREAM or call.is_complete:
                raise Http2Error(Code.PROTOCOL_ERROR, "headers in the middle of a request, or behind it")
            if call.receive is not None:
                self._take_stream(call, call.receive, b"", 0, is_last=True)
            else:
                self._collect(call, b"", is_last=True)
            return
        if stream <= self._last_stream and stream & 1:
            return  # of a call that is over
        if not stream & 1:
            raise Http2Error(Code.PROTOCOL_ERROR, f"a client opens no stream {stream}")
        self._last_stream = stream
        if self._is_full:
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

    @property
    def _is_full(self) -> bool:
        """Whether as many calls are open as may be; those whose reply is not out yet count."""
        most, calls, unsent = self._acceptor.streams_max, self._calls, self._unsent
        return len(calls) + len(unsent) >= most and len(calls.keys() | unsent.keys()) >= most

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

    def _has_settled(self) -> None:
        self._stop_timer()

    def _take_setting(self, setting: int, value: int) -> None:
        pass  # nothing else that a client may set changes anything here

    def _take_goaway(self, payload: bytes) -> None:
        pass  # a client that opens no further calls

    def _take_window(self, stream: int, more: int) -> None:
        unsent = self._unsent.get(stream)
        call = unsent.call if unsent is not None else self._calls.get(stream)
        if call is None:
            self._check_was_open(stream)
            return
        call.credit += more
        if call.credit > frames.WINDOW_MAX:
            raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")

    def _take_reset(self, stream: int, payload: bytes) -> None:
        self._check_was_open(stream)
        if (call := self._calls.get(stream)) is not None:
            self._drop(call)
        self._forget(stream)

    def _forget(self, stream: int) -> None:
        """What waits for a window is not to be sent any more."""
        if (unsent := self._unsent.pop(stream, None)) is not None and unsent.is_last:
            self._unsent_bytes -= len(unsent.data) - unsent.at

    def _drop(self, call: Call) -> None:
        """Nobody waits for a call's reply any more."""
        self._finish(call)
        if call.work is not None:
            call.work.cancel()
        if call.gone is not None:
            call.gone()

    def _drop_all(self) -> None:
        for call in list(self._calls.values()):
            self._drop(call)
        self._unsent.clear()
        self._unsent_bytes = 0
        self._out.clear()

    def _finish(self, call: Call) -> None:
        call.is_over = True
        _make_room(call)
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
        self._write(frames.reply_head(call.stream))
        self._send_later(call, message, is_last=True)

    def accept(self, call: Call) -> None:
        """See ``Call.accept``."""
        call.has_begun = True
        self._write(frames.reply_head(call.stream))

    def send(self, call: Call, message: bytes) -> bool:
        """See ``Call.send``."""
        if not call.has_begun:
            self.accept(call)
        size = len(message) + MESSAGE_PREFIX_BYTES
        if size <= min(self._window, self._stream_window + call.credit) and call.stream not in self._unsent:
            call.credit -= size
            self._window -= size
            self._write(frames.whole_message(call.stream, message))
        else:
            self._send_later(call, message, is_last=False)
        return not (self._is_paused or call.stream in self._unsent)

    def _send_later(self, call: Call, message: bytes, *, is_last: bool) -> None:
        data = frames.message_prefix(len(message)) + message
        assert call.stream not in self._unsent, "one message at a time"
        self._unsent[call.stream] = _Unsent(call, data, is_last=is_last)
        if is_last:  # of a stream one message waits, and what comes behind it waits for that
            self._unsent_bytes += len(data)
        self._send_on()
        self._acceptor.unread()

    async def drained(self, call: Call) -> None:
        """See ``Call.drained``."""
        while not call.is_over and (self._is_paused or call.stream in self._unsent):
            call.room = self._loop.create_future()
            await call.room

    def end(self, call: Call) -> None:
        """See ``Call.end``."""
        stream = call.stream
        self._finish(call)
        if not call.has_begun:
            self._write(frames.reply_head(stream))
        self._write(frames.reply_tail(stream))
        if not call.is_complete:
            self._write(frames.reset(stream, Code.NO_ERROR))

    def fail(self, call: Call, reply: bytes) -> None:
        """See ``Call.fail``."""
        self._finish(call)
        self._forget(call.stream)
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
            if unsent.is_last:
                self._unsent_bytes -= len(part)
        if unsent.is_last:
            self._write(frames.reply_tail(stream))
        else:
            unsent.call.credit -= len(data)
            _make_room(unsent.call)
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


def _make_room(call: Call) -> None:
    if call.room is not None and not call.room.done():
        call.room.set_result(None)
