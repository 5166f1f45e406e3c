"""The end of a connection that calls a node's direct port: for its peers, and for clients. No I/O.

What comes from the node goes into ``data_received``, and what goes there comes out of ``write``. A call is
one message or a stream of them, and so is its reply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from journal.rpc.direct import frames
from journal.rpc.direct.end import End
from journal.rpc.direct.frames import MESSAGE_PREFIX_BYTES, Code, Header, Http2Error

RECEIVE_WINDOW_BYTES = 64 * 1024 * 1024
"""What a node may send ahead of what was read, to all calls of a connection together."""
STREAM_WINDOW_BYTES = 4 * 1024 * 1024
"""The same for one call; where its reply is ``paced``, ahead of what was taken."""
_STREAMS_MAX_AT_FIRST = 100
"""Calls that a node has open at most until its settings say otherwise."""
_STREAM_MAX = 2**31 - 1
"""A connection has so many numbers for its calls, every other one of them."""
_UNAVAILABLE, _INTERNAL = 14, 13
"""Statuses of gRPC."""


class Failure(NamedTuple):
    """Why a call ended without its reply."""

    status: int
    """Of gRPC; never 0."""
    text: str
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    is_unserved: bool = False
    """The node certainly did nothing about it."""


class Outgoing:
    """A call. Its functions are called from within ``Caller.data_received`` and ``Caller.lost``, and must not
    raise."""

    __slots__ = (
        "accepted",
        "credit",
        "ended",
        "is_last_unsent",
        "is_paced",
        "message",
        "part",
        "received",
        "sent",
        "stream",
        "unsent",
        "untaken",
    )

    def __init__(
        self,
        stream: int,
        message: Callable[[bytes], None],
        ended: Callable[[Failure | None], None],
        accepted: Callable[[], None] | None,
        is_paced: bool,
    ) -> None:
        self.stream = stream
        self.message = message
        self.ended = ended
        self.accepted = accepted
        self.is_paced = is_paced
        self.received = 0
        """Bytes, since the node's window for this call was last opened."""
        self.untaken = 0
        """Bytes of messages that wait to be taken."""
        self.part = bytearray()
        """What has come of a reply that is not whole."""
        self.sent = 0
        self.credit = 0
        """How far the node has opened this stream's window beyond what they all begin with."""
        self.unsent = bytearray()
        """What the windows have no room for."""
        self.is_last_unsent = False


class Caller(End):
    """One connection to a node. ``begin`` it first."""

    receive_window_bytes = RECEIVE_WINDOW_BYTES

    def __init__(self, write: Callable[[bytes], None], closing: Callable[[str], None]) -> None:
        """``closing`` is called with the reason when the connection is to be closed; then call ``lost``."""
        super().__init__()
        self._has_begun = True
        self._write_out = write
        self._closing = closing
        self._next_stream = 1
        self._streams_max = _STREAMS_MAX_AT_FIRST
        self._calls: dict[int, Outgoing] = {}
        self._unsent: dict[int, Outgoing] = {}
        self._is_leaving = False
        self.freed: Callable[[], None] = lambda: None
        """Called when a call has ended: there is room for another one."""

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    @property
    def is_full(self) -> bool:
        """Whether as many calls are open as the node takes at once."""
        return len(self._calls) >= self._streams_max

    @property
    def is_spent(self) -> bool:
        """Whether this connection takes no further calls, ever."""
        return self._is_closing or self._is_leaving or self._next_stream > _STREAM_MAX

    @property
    def has_settled(self) -> bool:
        """Whether the node has answered: it speaks HTTP/2."""
        return self._has_settings

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for the node to open its windows."""
        return bool(self._unsent)

    def begin(self) -> None:
        """Say the first words."""
        windows = {frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES}
        self._write(
            frames.PREFACE
            + frames.settings(windows)
            + frames.window_update(0, RECEIVE_WINDOW_BYTES - frames.WINDOW_AT_FIRST)
        )

    def call(
        self,
        block: bytes,
        message: bytes | None,
        received: Callable[[bytes], None],
        ended: Callable[[Failure | None], None],
        accepted: Callable[[], None] | None = None,
        *,
        is_paced: bool = False,
    ) -> Outgoing | None:
        """Make a call with one message, or (``message`` None) begin one that is a stream.

        ``block``: its headers (``headers_of``). ``received`` gets the reply's messages, then ``ended`` is
        called: with None where all went well. ``accepted`` is called when the reply begins. With
        ``is_paced`` the node waits while more of the reply is not yet ``taken`` than its window. Returns
        None, and calls nothing, where the connection ``is_full`` or ``is_spent``.
        """
        if self.is_spent or self.is_full:
            return None
        stream = self._next_stream
        self._next_stream += 2
        call = self._calls[stream] = Outgoing(stream, received, ended, accepted, is_paced)
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
        if message is None:
            self._write(head)
        else:
            self._send(call, message, head, is_last=True)
        return call

    def send(self, call: Outgoing, message: bytes) -> None:
        """Send a message of a call that is a stream."""
        self._send(call, message, b"", is_last=False)

    def taken(self, call: Outgoing, message: bytes) -> None:
        """A message of a reply that is paced has been taken by who waited for it."""
        call.untaken -= len(message) + MESSAGE_PREFIX_BYTES
        if call.stream in self._calls:
            self._open_window(call)

    def cancel(self, call: Outgoing) -> None:
        """Nobody waits for a reply any more: tell the node, and call nothing."""
        if self._calls.pop(call.stream, None) is not None:
            self._unsent.pop(call.stream, None)
            self._write(frames.reset(call.stream, Code.CANCEL))
            self.freed()

    def lost(self, why: str) -> None:
        """The connection has ended: so have all calls."""
        self._is_closing = True
        self._unsent.clear()
        failure = Failure(_UNAVAILABLE, why)
        while self._calls:
            _stream, call = self._calls.popitem()
            call.ended(failure)
        self.freed()

    # -- out ------------------------------------------------------------------------------------------

    def _send(self, call: Outgoing, message: bytes, before: bytes, *, is_last: bool) -> None:
        data = frames.message_prefix(len(message)) + message
        room = min(self._window, self._stream_window + call.credit - call.sent)
        if len(data) > room:  # so it is where some of this call waits already: then there is none
            call.unsent += data
            call.is_last_unsent = is_last
            self._unsent[call.stream] = call
            if before:
                self._write(before)
            self._send_on()
            return
        call.sent += len(data)
        self._window -= len(data)
        self._write(before + frames.pieces(call.stream, data, is_last=is_last))

    def _send_on(self) -> None:
        """Send of what waits for the windows what they have room for, the oldest calls first."""
        for stream, call in list(self._unsent.items()):
            room = min(self._window, self._stream_window + call.credit - call.sent, len(call.unsent))
            if room > 0:
                is_all = room == len(call.unsent)
                data = bytes(call.unsent[:room])
                del call.unsent[:room]
                call.sent += room
                self._window -= room
                self._write(frames.pieces(stream, data, is_last=is_all and call.is_last_unsent))
                if is_all:
                    del self._unsent[stream]

    def _write(self, data: bytes) -> None:
        if not self._is_closing:
            self._write_out(data)

    # -- in -------------------------------------------------------------------------------------------

    def _begin(self, data: bytes) -> int:
        return 0

    def _hang_up(self, code: Code, why: str) -> None:
        self._write(frames.goaway(0, code, why))
        self._is_closing = True
        self._closing(f"{why} ({code.name})")

    def _has_settled(self) -> None:
        pass

    def _take_setting(self, setting: int, value: int) -> None:
        if setting == frames.MAX_CONCURRENT_STREAMS:
            self._streams_max = value

    def _take_window(self, stream: int, more: int) -> None:
        call = self._calls.get(stream)
        if call is not None:
            call.credit += more
            if call.credit > frames.WINDOW_MAX:
                raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")

    def _take_goaway(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise Http2Error(Code.FRAME_SIZE_ERROR, "a farewell of a wrong length")
        self._is_leaving = True
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        why = payload[8:].decode("utf-8", "replace") or "the node takes no more calls on this connection"
        for stream in [stream for stream in self._calls if stream > last]:
            self._end(stream, Failure(_UNAVAILABLE, why, is_unserved=True))

    def _take_reset(self, stream: int, payload: bytes) -> None:
        code = int.from_bytes(payload, "big")
        is_unserved = code == Code.REFUSED_STREAM
        self._end(stream, Failure(_UNAVAILABLE, f"the call was reset ({code})", is_unserved=is_unserved))

    def _end(self, stream: int, failure: Failure | None) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            self._unsent.pop(stream, None)
            call.ended(failure)
            self.freed()

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        call = self._calls.get(stream)
        if call is None:
            return  # of a call that is over
        data = frames.unpadded(flags, payload)
        call.received += len(payload)
        if not call.part and frames.is_one_message(data):
            self._hand_on(call, frames.plain(data))
        else:
            call.part += data
            for message in frames.messages(call.part):
                self._hand_on(call, message)
        self._open_window(call)
        if flags & frames.END_STREAM:
            self._end(stream, Failure(_INTERNAL, "the reply has no trailers"))

    @staticmethod
    def _hand_on(call: Outgoing, message: bytes) -> None:
        if call.is_paced:
            call.untaken += len(message) + MESSAGE_PREFIX_BYTES
        call.message(message)

    def _open_window(self, call: Outgoing) -> None:
        """Let the node send more of a reply, once half of its window is read and taken."""
        more = call.received - call.untaken
        if more > STREAM_WINDOW_BYTES // 2:
            call.received -= more
            self._write(frames.window_update(call.stream, more))

    def _take_block(self, stream: int, flags: int, block: bytes) -> None:
        head: Mapping[str, str] = self._head(block)
        call = self._calls.get(stream)
        if call is None:
            return
        status = head.get(":status", "200")
        if status != "200":
            self._end(stream, Failure(_UNAVAILABLE, f"HTTP status {status}"))
        elif flags & frames.END_STREAM:
            self._end(stream, _failure(head))
        elif call.accepted is not None:
            call.accepted()

    def _head_of(self, headers: list[Header]) -> Mapping[str, str]:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def headers_of(path: str, authority: str, metadata: Iterable[tuple[str, str]]) -> bytes:
    """Return the header block of a call."""
    return frames.pack_headers(
        [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            *((name.encode(), value.encode()) for name, value in metadata),
        ]
    )


def _failure(head: Mapping[str, str]) -> Failure | None:
    """Return what a call's trailers say; None: it went well."""
    status = head.get("grpc-status", "")
    if status == "0":
        return None
    number = int(status) if status.isascii() and status.isdigit() else _INTERNAL
    text = frames.percent_decoded(head.get("grpc-message", ""))
    trailers = tuple((name, frames.metadata_of(name, value)) for name, value in head.items())
    return Failure(number, text, trailers)
