"""The end that calls a direct port, frame by frame: what it says, and what it makes of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hpack import Decoder, Encoder

from journal.errors import NotLeader
from journal.rpc.direct import caller as caller_module
from journal.rpc.direct import frames
from journal.rpc.direct.caller import Caller, Failure, headers_of
from journal.rpc.direct.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    frame,
)
from journal.rpc.errors import trailers

BLOCK = headers_of("/a.Service/Method", "host:1", [("synod-cluster", "c")])
SETTLED = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}) + frames.window_update(0, 1 << 20)


class Said:
    """A caller, what it has written, and what became of its calls."""

    def __init__(self, *first: bytes) -> None:
        self.out = b""
        self.closing: list[str] = []
        self.got: dict[int, list[bytes]] = {}
        self.ended: dict[int, Failure | None] = {}
        self.accepted: list[int] = []
        self.caller = Caller(self._write, self.closing.append)
        self.caller.begin()
        self.out = b""
        self.hear(*first)
        self.out = b""

    def _write(self, data: bytes) -> None:
        self.out += data

    def hear(self, *parts: bytes) -> None:
        self.caller.data_received(b"".join(parts))

    def call(self, message: bytes | None) -> int:
        number = self.caller._next_stream
        got: list[bytes] = []
        self.got[number] = got
        made = self.caller.call(
            BLOCK,
            message,
            got.append,
            lambda failure: self.ended.__setitem__(number, failure),
            lambda: self.accepted.append(number),
        )
        assert made is not None
        return number

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        """Return what was written, and forget it."""
        found, at, data = [], 0, self.out
        while at < len(data):
            upper, lower, kind, flags, stream = frames.HEADER.unpack_from(data, at)
            end = at + frames.HEADER_BYTES + (upper << 8 | lower)
            found.append((kind, flags, stream, data[at + frames.HEADER_BYTES : end]))
            at = end
        self.out = b""
        return found

    def data(self) -> tuple[bytes, bool]:
        """Return what the DATA frames that were written hold, and whether the last one ends its stream."""
        found = [one for one in self.frames() if one[0] == DATA]
        assert all(len(payload) <= frames.FRAME_BYTES_MAX for *_rest, payload in found)
        assert not any(flags & END_STREAM for _kind, flags, *_rest in found[:-1])
        return b"".join(payload for *_rest, payload in found), bool(found and found[-1][1] & END_STREAM)


def framed(message: bytes) -> bytes:
    return frames.message_prefix(len(message)) + message


def test_the_first_words_are_the_preface_and_settings() -> None:
    said = Said()
    said.caller.begin()
    assert said.out.startswith(frames.PREFACE)
    said.out = said.out[len(frames.PREFACE) :]
    assert [kind for kind, *_rest in said.frames()] == [SETTINGS, WINDOW_UPDATE]


def test_a_call_is_headers_and_one_message_and_ends_there() -> None:
    said = Said(SETTLED)
    stream = said.call(b"request")
    (head, body) = said.frames()
    assert head[:3] == (HEADERS, END_HEADERS, stream)
    assert dict[Any, Any](Decoder().decode(head[3])) == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/a.Service/Method",
        ":authority": "host:1",
        "content-type": "application/grpc",
        "te": "trailers",
        "synod-cluster": "c",
    }
    assert body == (DATA, END_STREAM, stream, framed(b"request"))
    said.hear(frames.whole_reply(stream, b"reply"))
    assert said.got[stream] == [b"reply"] and said.ended == {stream: None} and said.accepted == [stream]
    assert said.call(b"") == stream + 2


def test_a_reply_may_come_in_any_pieces() -> None:
    said = Said(SETTLED)
    stream = said.call(b"")
    message = bytes(range(256)) * 100
    head = frames.reply_head(stream)
    data = framed(message)
    padded = frame(DATA, PADDED, stream, b"\x03" + data[:3] + bytes(3))
    rest = b"".join(frame(DATA, 0, stream, data[at : at + 9_999]) for at in range(3, len(data), 9_999))
    whole = head + padded + rest + frames.reply_tail(stream)
    for at in range(0, len(whole), 7):
        said.hear(whole[at : at + 7])
    assert said.got[stream] == [message] and said.ended == {stream: None}


def test_a_failure_has_its_status_text_and_trailers() -> None:
    said = Said(SETTLED)
    stream = said.call(b"")
    error = NotLeader(None, None)
    told = tuple(trailers(error))
    said.hear(frames.failure(stream, 9, "100 % änders", told))
    failure = said.ended[stream]
    assert failure is not None and (failure.status, failure.text) == (9, "100 % änders")
    assert set(told) <= set(failure.trailers) and not failure.is_unserved
    assert not said.got[stream]


def test_headers_of_a_call_that_is_over_keep_the_table_in_step() -> None:
    encoder = Encoder()
    status, message = (b"grpc-status", b"5"), (b"grpc-message", b"said before")
    first = encoder.encode([status, message])
    second = encoder.encode([status, message])
    assert len(second) < len(first), "the second is two places in the table"
    said = Said(SETTLED)
    over, stream = said.call(b""), said.call(b"")
    said.hear(frames.reset(over, Code.CANCEL))
    said.hear(frame(HEADERS, END_HEADERS | END_STREAM, over, first))
    said.hear(frame(HEADERS, END_HEADERS | END_STREAM, stream, second))
    failure = said.ended[stream]
    assert failure is not None and (failure.status, failure.text) == (5, "said before")


def test_a_failure_in_continued_headers_is_understood() -> None:
    said = Said(SETTLED)
    stream = said.call(b"")
    block = frames.pack_headers([(b":status", b"200"), (b"grpc-status", b"14")])
    said.hear(
        frame(HEADERS, END_STREAM, stream, block[:4]), frame(CONTINUATION, END_HEADERS, stream, block[4:])
    )
    failure = said.ended[stream]
    assert failure is not None and failure.status == 14


@pytest.mark.parametrize(
    ("answer", "is_unserved"),
    [
        (lambda stream: frames.http_failure(stream, 502), False),
        (lambda stream: frames.reset(stream, Code.REFUSED_STREAM), True),
        (lambda stream: frames.reset(stream, Code.CANCEL), False),
        (lambda stream: frames.goaway(stream - 1, Code.NO_ERROR, "bye"), True),
        (lambda stream: frames.reply_head(stream) + frame(DATA, END_STREAM, stream, framed(b"")), False),
        (lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, frames.pack_headers([])), False),
    ],
    ids=["http", "refused", "cancelled", "goaway", "no-trailers", "no-status"],
)
def test_other_ends_of_a_call_say_whether_it_was_certainly_not_served(
    answer: Callable[[int], bytes], is_unserved: bool
) -> None:
    said = Said(SETTLED)
    stream = said.call(b"")
    said.hear(answer(stream))
    failure = said.ended[stream]
    assert failure is not None and failure.status != 0 and failure.is_unserved is is_unserved


def test_a_node_that_leaves_finishes_what_it_has_taken_and_takes_no_more() -> None:
    said = Said(SETTLED)
    first, second = said.call(b""), said.call(b"")
    said.hear(frames.goaway(first, Code.NO_ERROR))
    assert list(said.ended) == [second]
    assert said.caller.call(BLOCK, b"", lambda _m: None, lambda _f: None) is None
    said.hear(frames.whole_reply(first, b""))
    assert said.ended[first] is None


def test_all_calls_end_with_the_connection() -> None:
    said = Said(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    streams = [said.call(bytes(20)), said.call(None)]
    assert said.caller.has_unsent
    said.caller.lost("gone")
    assert {stream: said.ended[stream] for stream in streams} == dict.fromkeys(streams, Failure(14, "gone"))
    assert said.caller.call(BLOCK, b"", lambda _m: None, lambda _f: None) is None
    assert not said.caller.has_unsent


def test_no_more_calls_than_the_node_takes() -> None:
    said = Said(frames.settings({frames.MAX_CONCURRENT_STREAMS: 2}))
    first = said.call(b"")
    said.call(b"")
    assert said.caller.call(BLOCK, b"", lambda _m: None, lambda _f: None) is None
    said.hear(frames.whole_reply(first, b""))
    said.call(b"")


# -- windows ---------------------------------------------------------------------------------------


def test_a_message_waits_for_the_streams_window() -> None:
    said = Said(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    stream = said.call(bytes(20))
    assert said.data() == (framed(bytes(20))[:10], False) and said.caller.has_unsent
    said.hear(frames.window_update(stream, 14))
    assert said.data() == (bytes(14), False)
    said.hear(frames.window_update(stream, 100))
    assert said.data() == (bytes(1), True) and not said.caller.has_unsent


def test_messages_wait_for_the_connections_window_and_keep_their_order() -> None:
    said = Said(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}))
    large = bytes(frames.WINDOW_AT_FIRST - 5)
    first = said.call(None)
    outgoing = said.caller._calls[first]
    said.caller.send(outgoing, large)
    assert said.data() == (framed(large), False) and not said.caller.has_unsent
    said.caller.send(outgoing, b"next")
    second = said.call(b"other")
    assert said.data() == (b"", False)
    said.caller.send(outgoing, b"last")
    said.hear(frames.window_update(0, 5))
    said.hear(frames.window_update(0, 1 << 20))
    found = said.frames()
    of_first = b"".join(payload for kind, _f, stream, payload in found if kind == DATA and stream == first)
    assert of_first == framed(b"next") + framed(b"last")
    assert (DATA, END_STREAM, second, framed(b"other")) in found


def test_a_smaller_window_holds_for_streams_that_are_open() -> None:
    said = Said(frames.settings({frames.INITIAL_WINDOW_SIZE: 100}))
    stream = said.call(None)
    outgoing = said.caller._calls[stream]
    said.caller.send(outgoing, bytes(75))
    assert len(said.data()[0]) == 80
    said.hear(frames.settings({frames.INITIAL_WINDOW_SIZE: 50}))
    said.caller.send(outgoing, bytes(10))
    assert said.data() == (b"", False)
    said.hear(frames.window_update(stream, 31))
    assert len(said.data()[0]) == 1


def test_what_was_read_opens_the_connections_window_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Caller, "receive_window_bytes", 100)
    said = Said(SETTLED)
    stream = said.call(b"")
    said.frames()
    said.hear(frames.reply_head(stream), frame(DATA, 0, stream, framed(bytes(20))))
    assert not said.frames()
    said.hear(frame(DATA, 0, stream, framed(bytes(21))))
    assert said.frames() == [(WINDOW_UPDATE, 0, 0, (51).to_bytes(4, "big"))]


def test_what_was_read_opens_a_calls_window_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "STREAM_WINDOW_BYTES", 100)
    said = Said(SETTLED)
    stream = said.call(b"")
    said.frames()
    said.hear(frames.reply_head(stream), frame(DATA, 0, stream, framed(bytes(40))))
    assert not said.frames()
    said.hear(frame(DATA, 0, stream, framed(bytes(200))[:20]))
    assert said.frames() == [(WINDOW_UPDATE, 0, stream, (65).to_bytes(4, "big"))]


def test_a_paced_calls_window_opens_as_its_messages_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_module, "STREAM_WINDOW_BYTES", 100)
    said = Said(SETTLED)
    got: list[bytes] = []
    call = said.caller.call(BLOCK, b"", got.append, lambda _failure: None, is_paced=True)
    assert call is not None
    said.frames()
    said.hear(frames.reply_head(call.stream), frame(DATA, 0, call.stream, framed(bytes(40)) * 2))
    assert len(got) == 2 and not said.frames()
    said.caller.taken(call, got[0])
    assert not said.frames()
    said.caller.taken(call, got[1])
    assert said.frames() == [(WINDOW_UPDATE, 0, call.stream, (90).to_bytes(4, "big"))]
    # A message that is larger than the window comes all the same.
    large = framed(bytes(500))
    for at in range(0, len(large), 50):
        said.hear(frame(DATA, 0, call.stream, large[at : at + 50]))
    opened = sum(int.from_bytes(payload, "big") for kind, *_rest, payload in said.frames())
    assert opened >= 400 and got[2] == bytes(500)
    said.hear(frame(DATA, 0, call.stream, framed(bytes(90))))
    said.hear(frames.reply_tail(call.stream))
    said.frames()
    said.caller.taken(call, got[2])
    said.caller.taken(call, got[3])
    assert not said.frames(), "there is nothing more to come"


def test_a_call_that_is_cancelled_is_reset_and_nothing_of_it_comes() -> None:
    said = Said(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    stream = said.call(bytes(20))
    outgoing = said.caller._calls[stream]
    said.frames()
    said.caller.cancel(outgoing)
    assert said.frames() == [(RST_STREAM, 0, stream, Code.CANCEL.to_bytes(4, "big"))]
    said.caller.cancel(outgoing)
    said.hear(frames.whole_reply(stream, b"late"), frames.window_update(stream, 100))
    assert not said.out and not said.got[stream] and not said.ended and not said.caller.has_unsent


def test_nothing_waits_for_a_call_that_is_over() -> None:
    said = Said(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    stream = said.call(bytes(20))
    said.hear(frames.reset(stream, Code.CANCEL))
    assert not said.caller.has_unsent
    said.out = b""
    said.hear(frames.window_update(stream, 100), frames.window_update(0, 100))
    assert said.data() == (b"", False)
    said.hear(frames.whole_reply(stream, b"late"))
    assert not said.got[stream] and not said.closing


# -- what a node must not say --------------------------------------------------------------------


def test_a_ping_is_answered() -> None:
    said = Said(SETTLED)
    said.hear(frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, b"87654321"))
    assert said.frames() == [(PING, ACK, 0, b"12345678")]


@pytest.mark.parametrize(
    "heard",
    [
        frame(PING, 0, 0, b"1"),
        frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)),
        frame(GOAWAY, 0, 0, bytes(3)),
        frame(RST_STREAM, 0, 1, bytes(3)),
        frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frame(DATA, 0, 1, b"\1" + framed(b"")[1:]),
        frame(DATA, 0, 1, b"\1\0\0\0\1") + frame(DATA, 0, 1, b"x"),
        frame(WINDOW_UPDATE, 0, 1, bytes(4)),
        frames.window_update(1, frames.WINDOW_MAX) * 2,
        frames.HEADER.pack(64, 1, DATA, 0, 1),
        frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            1,
            frames.pack_headers([(b"grpc-status", b"1"), (b"x-bin", b"a!")]),
        ),
    ],
    ids=range(11),
)
def test_what_breaks_the_protocol_closes_the_connection(heard: bytes) -> None:
    said = Said(SETTLED)
    stream = said.call(None)
    said.hear(heard)
    assert len(said.closing) == 1 and [kind for kind, *_rest in said.frames()][-1] == GOAWAY
    said.hear(frames.whole_reply(stream, b"more"))
    assert not said.got[stream] and not said.ended, "what comes behind it is not looked at"
    said.caller.lost(said.closing[0])
    assert said.ended[stream] is not None


def test_what_is_not_http2_closes_the_connection() -> None:
    said = Said()
    said.hear(frames.whole_reply(1, b""))
    assert said.closing == ["settings come first (PROTOCOL_ERROR)"]


def test_a_connection_whose_numbers_are_used_up_takes_no_more_calls() -> None:
    said = Said(SETTLED)
    said.caller._next_stream = 2**31 - 1
    stream = said.call(b"")
    assert said.caller.is_spent and not said.caller.is_full
    assert said.caller.call(BLOCK, b"", lambda _m: None, lambda _f: None) is None
    said.hear(frames.whole_reply(stream, b"reply"))
    assert said.got[stream] == [b"reply"]


def test_the_end_of_a_call_makes_room_however_it_ends() -> None:
    said = Said(frames.settings({frames.MAX_CONCURRENT_STREAMS: 1}))
    freed: list[bool] = []
    said.caller.freed = lambda: freed.append(said.caller.is_full)
    endings: list[Callable[[int], None]] = [
        lambda stream: said.hear(frames.whole_reply(stream, b"")),
        lambda stream: said.hear(frames.reset(stream, Code.CANCEL)),
        lambda stream: said.caller.cancel(said.caller._calls[stream]),
        lambda _stream: said.caller.lost("gone"),
    ]
    for ending in endings:
        stream = said.call(b"")
        assert said.caller.is_full
        ending(stream)
        assert freed == [False]
        freed.clear()


def test_the_streams_a_node_takes_before_it_says_so_are_few() -> None:
    said = Said()
    for _ in range(caller_module._STREAMS_MAX_AT_FIRST):
        said.call(None)
    assert said.caller.call(BLOCK, None, lambda _m: None, lambda _f: None) is None
