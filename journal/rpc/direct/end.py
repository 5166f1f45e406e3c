"""What both ends of an HTTP/2 connection do: take frames apart, remember headers, keep windows. No I/O.

``connection`` is the end that is called, ``caller`` the one that calls.
"""

from __future__ import annotations

from typing import Any

from hpack import Decoder, HPACKError

from journal.rpc.direct import frames
from journal.rpc.direct.frames import HEADER_BYTES, Code, Header, Http2Error

HEADERS_BYTES_MAX = 16 * 1024
"""Headers of one call, taken apart; the same bound for them as they come."""
_KNOWN_BLOCKS_MAX, _KNOWN_BLOCK_BYTES_MAX = 64, 512
"""Header blocks that a connection remembers, and how long one may be for that."""


class End:
    """One end. What differs between the two is for subclasses to say: all methods without a body."""

    receive_window_bytes: int
    """What the other end may send ahead of what was read, on the whole connection."""

    def __init__(self) -> None:
        self._rest = b""
        self._has_begun = False
        self._has_settings = False
        self._is_closing = False
        self._decoder = Decoder(HEADERS_BYTES_MAX)
        self._heads: dict[bytes, Any] = {}  # by header block, as long as the decoder's table stands
        self._block: tuple[int, int, bytes] | None = None  # stream, flags, and a header block's first part
        self._received = 0  # since the connection's window was last opened
        self._window = frames.WINDOW_AT_FIRST
        self._stream_window = frames.WINDOW_AT_FIRST

    # -- what subclasses say ----------------------------------------------------------------------

    def _begin(self, data: bytes) -> int:
        """Take what comes before the frames; return where they begin. Sets ``_has_begun``."""
        raise NotImplementedError

    def _write(self, data: bytes) -> None:
        raise NotImplementedError

    def _hang_up(self, code: Code, why: str) -> None:
        """End the connection, because of what the other end did. Sets ``_is_closing``."""
        raise NotImplementedError

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        """Take a DATA frame; the connection's window is seen to."""
        raise NotImplementedError

    def _take_block(self, stream: int, flags: int, block: bytes) -> None:
        """Take a whole header block, ``_head`` of which is to be asked in any case."""
        raise NotImplementedError

    def _head_of(self, headers: list[Header]) -> Any:
        """Return what headers come to, of a HEADERS frame that may come again."""
        raise NotImplementedError

    def _take_reset(self, stream: int, payload: bytes) -> None:
        raise NotImplementedError

    def _take_window(self, stream: int, more: int) -> None:
        """The other end has opened a stream's window."""
        raise NotImplementedError

    def _take_goaway(self, payload: bytes) -> None:
        raise NotImplementedError

    def _has_settled(self) -> None:
        """The first settings have come."""
        raise NotImplementedError

    def _take_setting(self, setting: int, value: int) -> None:
        raise NotImplementedError

    def _send_on(self) -> None:
        """Windows have changed: send what waited for that."""
        raise NotImplementedError

    # -- frames in --------------------------------------------------------------------------------

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
            self._received += len(payload)
            if self._received > self.receive_window_bytes // 2:
                self._write(frames.window_update(0, self._received))
                self._received = 0
            self._take_data(flags, stream, payload)
        elif kind == frames.HEADERS:
            self._take_headers(flags, stream, payload)
        elif kind == frames.CONTINUATION:
            self._take_continuation(flags, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._take_window_update(stream, payload)
        elif kind == frames.RST_STREAM:
            if len(payload) != 4:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "a reset of a wrong length")
            self._take_reset(stream, payload)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == frames.PING:
            if len(payload) != 8 or stream:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "a ping of a wrong form")
            if not flags & frames.ACK:
                self._write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.PUSH_PROMISE:
            raise Http2Error(Code.PROTOCOL_ERROR, "a promise that nobody asked for")
        elif kind == frames.GOAWAY:
            self._take_goaway(payload)
        # PRIORITY and kinds that nobody knows change nothing here.

    # -- headers ----------------------------------------------------------------------------------

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = frames.unpadded(flags, payload)
        if flags & frames.WITH_PRIORITY:
            if len(block) < 5:
                raise Http2Error(Code.FRAME_SIZE_ERROR, "headers without their priority")
            block = block[5:]
        if flags & frames.END_HEADERS:
            self._take_block(stream, flags, block)
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
            self._take_block(stream, first_flags, block)
        else:
            self._block = (stream, first_flags, block)

    def _head(self, block: bytes) -> Any:
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

    # -- settings and windows -----------------------------------------------------------------------

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or (flags & frames.ACK and payload):
            raise Http2Error(Code.PROTOCOL_ERROR, "settings of a wrong form")
        if not self._has_settings:
            self._has_settings = True
            self._has_settled()
        if flags & frames.ACK:
            return
        for setting, value in frames.unpack_settings(payload):
            if setting == frames.INITIAL_WINDOW_SIZE:
                if value > frames.WINDOW_MAX:
                    raise Http2Error(Code.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")
                self._stream_window = value
            else:
                self._take_setting(setting, value)
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
            self._take_window(stream, more)
        self._send_on()
