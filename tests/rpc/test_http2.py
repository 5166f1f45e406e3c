"""The direct port frame by frame: what a client may send, what ends its call, and what its connection."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hpack import Decoder

from journal.rpc import methods
from journal.rpc.direct import connection as connection_module
from journal.rpc.direct import frames
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
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Code,
    frame,
    pack_headers,
)
from journal.rpc.edge import EdgeLimits
from journal.rpc.pb import journal_pb2 as pb
from tests.rpc.harness import Served, guest, served, served_fake, until
from tests.rpc.test_direct import is_idle, others_of

BEGIN = frames.PREFACE + frame(SETTINGS, 0, 0)
VALUE = bytes(range(256)) * 200


def head(
    path: str = methods.GET.path, *, method: str = "POST", content_type: str = "application/grpc"
) -> bytes:
    fields = {
        ":method": method,
        ":scheme": "http",
        ":path": path,
        "content-type": content_type,
        "te": "trailers",
    }
    return pack_headers([(name.encode(), value.encode()) for name, value in fields.items()])


def message(data: bytes) -> bytes:
    return frames.message_prefix(len(data)) + data


GET_REQUEST = message(pb.GetRequest(keys=[b"key"]).SerializeToString())


def call(stream: int, body: bytes = GET_REQUEST, block: bytes = head()) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)


A_TAIL = call(1, message(pb.TailRequest().SerializeToString()), head(methods.TAIL.path))
"""A call that goes on for long."""


class Client:
    """A connection on which a test says every byte itself."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._data = b""
        self._decoder = Decoder(1 << 20)

    async def send(self, *parts: bytes) -> None:
        await self.stream.send_all(b"".join(parts))

    async def frame(self, *, but: tuple[int, ...] = (SETTINGS, WINDOW_UPDATE)) -> tuple[int, int, int, bytes]:
        """Return the next frame as (kind, flags, stream, payload), without those of the kinds ``but``."""
        while True:
            found = await self._frame()
            if found[0] not in but:
                return found

    async def _frame(self) -> tuple[int, int, int, bytes]:
        await self._fill(frames.HEADER_BYTES)
        upper, lower, kind, flags, stream = frames.HEADER.unpack_from(self._data)
        end = frames.HEADER_BYTES + (upper << 8 | lower)
        await self._fill(end)
        payload, self._data = self._data[frames.HEADER_BYTES : end], self._data[end:]
        return kind, flags, stream, payload

    async def _fill(self, size: int) -> None:
        while len(self._data) < size:
            more = await self.stream.receive_some()
            if not more:
                raise EOFError
            self._data += more

    def headers(self, block: bytes) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self._decoder.decode(block, raw=True)}

    async def reply(self, stream: int) -> tuple[bytes, str]:
        """Return the message of a call's reply and its gRPC status."""
        found, data = {}, b""
        while "grpc-status" not in found:
            kind, _flags, of, payload = await self.frame()
            assert of == stream
            if kind == HEADERS:
                found.update(self.headers(payload))
            else:
                assert kind == DATA
                data += payload
        assert found[":status"] == "200" and found["content-type"] == "application/grpc"
        if data:
            assert data[:5] == frames.message_prefix(len(data) - 5)
        return data[5:], found["grpc-status"]

    async def value(self, stream: int) -> bytes:
        """Return the value that a Get of one key was answered with."""
        data, status = await self.reply(stream)
        assert status == "0"
        (record,) = pb.GetReply.FromString(data).records
        return record.value

    async def hung_up(self) -> Code:
        """Wait for the end of the connection; return why it came."""
        kind, _flags, stream, payload = await self.frame()
        assert (kind, stream) == (GOAWAY, 0)
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await self.frame()
        return Code(int.from_bytes(payload[4:8], "big"))


@asynccontextmanager
async def client_of(here: Served, *begin: bytes) -> AsyncIterator[Client]:
    stream = await trio.open_tcp_stream("127.0.0.1", here.server.direct_port)
    async with stream:
        client = Client(stream)
        await client.send(*(begin or (BEGIN,)))
        yield client


# -- what may come ------------------------------------------------------------------------------


@guest
async def test_the_settings_come_first_and_are_acknowledged() -> None:
    async with served() as here, client_of(here) as client:
        kind, flags, stream, payload = await client.frame(but=())
        assert (kind, flags, stream) == (SETTINGS, 0, 0)
        said = dict(frames.unpack_settings(payload))
        limits = here.node.config.limits
        assert said[frames.INITIAL_WINDOW_SIZE] > limits.batch_bytes_max
        assert said[frames.MAX_CONCURRENT_STREAMS] == EdgeLimits().streams_per_connection_max
        assert (await client.frame(but=()))[0] == WINDOW_UPDATE
        assert await client.frame(but=()) == (SETTINGS, ACK, 0, b"")


@guest
async def test_a_request_may_come_byte_by_byte() -> None:
    async with served() as here, client_of(here, BEGIN[:1]) as client:
        await here.put(b"key", b"value")
        for byte in BEGIN[1:] + call(1):
            await client.send(bytes([byte]))
        assert await client.value(1) == b"value"


@guest
async def test_a_request_may_come_in_any_frames_that_http_has_for_it() -> None:
    """Padding, priority, headers that go on, a message in parts, frames in between that say nothing here."""
    async with served() as here, client_of(here) as client:
        await here.put(b"key", b"value")
        block = head()
        await client.send(
            frame(HEADERS, PADDED | WITH_PRIORITY, 1, b"\x03" + bytes(5) + block[:7] + bytes(3)),
            frame(CONTINUATION, 0, 1, block[7:9]),
            frame(CONTINUATION, END_HEADERS, 1, block[9:]),
            frame(PRIORITY, 0, 1, bytes(5)),
            frame(DATA, PADDED, 1, b"\x02" + GET_REQUEST[:3] + bytes(2)),
            frame(0xFA, 0xFF, 1, b"nobody knows this kind"),
            frame(DATA, 0, 1, b""),
            *(frame(DATA, 0, 1, GET_REQUEST[at : at + 1]) for at in range(3, len(GET_REQUEST))),
            frame(DATA, END_STREAM, 1),
        )
        assert await client.value(1) == b"value"
        await until(lambda: is_idle(here.server))


@guest
async def test_trailers_end_a_request() -> None:
    async with served() as here, client_of(here) as client:
        await here.put(b"key", b"value")
        trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, pack_headers([(b"x", b"y")]))
        await client.send(frame(HEADERS, END_HEADERS, 1, head()), frame(DATA, 0, 1, GET_REQUEST), trailers)
        assert await client.value(1) == b"value"


@guest
async def test_the_same_header_bytes_mean_something_else_when_the_table_has_changed() -> None:
    """A connection remembers header blocks; an index in one points into the table as it stands."""
    async with served() as here, client_of(here) as client:
        await here.put(b"key", b"value")

        def indexed(path: str) -> bytes:
            return b"\x44" + pack_headers([(b"", path.encode())])[2:]

        rest = pack_headers([(b":method", b"POST"), (b"content-type", b"application/grpc")])
        newest = b"\xbe" + rest
        await client.send(call(1, block=indexed(methods.GET.path) + rest))
        assert await client.value(1) == b"value"
        for stream in (3, 5):  # the second time out of memory
            await client.send(call(stream, block=newest))
            assert await client.value(stream) == b"value"
        await client.send(call(7, block=indexed("/no/method") + rest))
        assert await client.reply(7) == (b"", "12")
        await client.send(call(9, block=newest))
        assert await client.reply(9) == (b"", "12")


@guest
async def test_headers_that_enter_the_table_do_so_each_time() -> None:
    async with served() as here, client_of(here) as client:
        await here.put(b"key", b"value")
        rest = pack_headers([(b":method", b"POST"), (b"content-type", b"application/grpc")])
        entering = b"\x44" + pack_headers([(b"", methods.GET.path.encode())])[2:] + rest
        await client.send(call(1, block=entering), call(3, block=entering), call(5, block=b"\xbf" + rest))
        assert [await client.value(stream) for stream in (1, 3, 5)] == [b"value"] * 3


@guest
async def test_a_ping_is_answered_and_an_answer_is_not() -> None:
    async with served() as here, client_of(here) as client:
        await client.send(frame(PING, ACK, 0, b"unasked!"), frame(PING, 0, 0, b"12345678"))
        assert await client.frame() == (PING, ACK, 0, b"12345678")


@guest
async def test_frames_of_calls_that_are_over_are_let_pass() -> None:
    async with served() as here, client_of(here) as client:
        await here.put(b"key", b"value")
        await client.send(call(1))
        assert await client.value(1) == b"value"
        late = (
            frame(DATA, END_STREAM, 1, b"late"),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, pack_headers([(b"x", b"y")])),
            frame(RST_STREAM, 0, 1, bytes(4)),
            frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
            frame(GOAWAY, 0, 0, bytes(8)),
        )
        await client.send(*late, call(3))
        assert await client.value(3) == b"value"


@guest
async def test_headers_of_a_call_that_is_over_keep_the_table_in_step() -> None:
    async with served() as here, client_of(here) as client:
        await here.put(b"key", b"value")
        await client.send(call(1))
        assert await client.value(1) == b"value"
        rest = pack_headers([(b":method", b"POST"), (b"content-type", b"application/grpc")])
        late = b"\x44" + pack_headers([(b"", methods.GET.path.encode())])[2:]
        await client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, late), call(3, block=b"\xbe" + rest))
        assert await client.value(3) == b"value"


# -- windows ------------------------------------------------------------------------------------


def more(stream: int, by: int) -> bytes:
    return frames.window_update(stream, by)


@guest
async def test_a_reply_waits_for_its_stream_and_then_goes_on_in_parts() -> None:
    async with served() as here:
        await here.put(b"key", VALUE)
        small = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
        async with client_of(here, frames.PREFACE + small) as client:
            await client.send(call(1))
            assert (await client.frame())[0] == HEADERS
            assert len((await client.frame())[3]) == 100
            await client.send(more(1, 7))
            assert len((await client.frame())[3]) == 7
            await client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 120}))
            assert len((await client.frame())[3]) == 20
            await client.send(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}), more(1, 121))
            assert len((await client.frame())[3]) == 1
            await client.send(call(3), more(3, 1 << 20))  # another is not held up by the first
            kind, _flags, stream, _payload = await client.frame()
            assert (kind, stream) == (HEADERS, 3)
            received = 128
            while received < 65_535:  # the connection's own window
                kind, _flags, stream, payload = await client.frame()
                assert (kind, stream) == (DATA, 3)
                received += len(payload)
                if len(payload) < frames.FRAME_BYTES_MAX:
                    break
            await client.send(more(0, 1 << 20), more(1, 1 << 20))
            ends: set[int] = set()
            while ends != {1, 3}:
                kind, flags, stream, payload = await client.frame()
                if kind == HEADERS and flags & END_STREAM:
                    ends.add(stream)


@guest
async def test_a_window_that_opens_before_the_reply_counts_for_it() -> None:
    async with served() as here:
        await here.put(b"key", VALUE)
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
        async with client_of(here, frames.PREFACE + none) as client:
            body = frame(DATA, END_STREAM, 1, GET_REQUEST)
            await client.send(frame(HEADERS, END_HEADERS, 1, head()), more(1, 1 << 20), body)
            assert await client.value(1) == VALUE


@guest
async def test_replies_use_up_the_connections_window_and_no_more() -> None:
    async with served() as here:
        await here.put(b"key", VALUE)
        async with client_of(here) as client:
            await client.send(call(1), call(3))
            received = 0
            while received < 65_535:
                kind, _flags, _stream, payload = await client.frame()
                received += len(payload) if kind == DATA else 0
            await client.send(frame(PING, 0, 0, bytes(8)))
            kind, *_rest = await client.frame()
            assert (received, kind) == (65_535, PING)
            await client.send(more(0, 1 << 20))
            while True:
                kind, flags, stream, payload = await client.frame()
                received += len(payload) if kind == DATA else 0
                if kind == HEADERS and flags & END_STREAM and stream == 3:
                    break
            assert received > 2 * len(VALUE)


@guest
async def test_small_replies_use_it_up_as_well() -> None:
    async with served() as here:
        await here.put(b"key", VALUE[:10_000])
        async with client_of(here) as client:
            await client.send(*(call(stream) for stream in range(1, 41, 2)))
            received, ended = 0, 0
            while received < 65_535:
                kind, flags, _stream, payload = await client.frame()
                received += len(payload) if kind == DATA else 0
                ended += kind == HEADERS and bool(flags & END_STREAM)
            await client.send(frame(PING, 0, 0, bytes(8)))
            while (await client.frame())[0] != PING:  # the heads of replies that wait
                pass
            assert (received, ended) == (65_535, 6)
            await client.send(more(0, 1 << 20))
            while ended < 20:
                kind, flags, _stream, _payload = await client.frame()
                ended += kind == HEADERS and bool(flags & END_STREAM)


@guest
async def test_what_is_read_is_given_back_to_the_client() -> None:
    """Else a connection would stand still after as many bytes as its window has."""
    async with served() as here, client_of(here) as client:
        value = bytes(500_000)
        put = pb.Mutation(put=pb.Put(key=b"k", value=value))
        request = pb.SubmitRequest(batch=pb.Batch(offers=[pb.Offer(mutations=[put])]))
        body = message(request.SerializeToString())
        parts = [body[at : at + frames.FRAME_BYTES_MAX] for at in range(0, len(body), frames.FRAME_BYTES_MAX)]
        given = sent = 0
        for stream in range(1, 81, 2):
            await client.send(
                frame(HEADERS, END_HEADERS, stream, head(methods.SUBMIT_ONCE.path)),
                *(frame(DATA, 0, stream, part) for part in parts),
                frame(DATA, END_STREAM, stream),
            )
            sent += len(body)
            ended = False
            while not ended:
                kind, flags, of, payload = await client.frame(but=(SETTINGS,))
                if kind == WINDOW_UPDATE and not of:
                    given += int.from_bytes(payload, "big")
                ended = kind == HEADERS and bool(flags & END_STREAM)
        window = 65_535 + given - sent
        assert connection_module.RECEIVE_WINDOW_BYTES // 2 <= window <= connection_module.RECEIVE_WINDOW_BYTES


@guest
async def test_a_reset_lets_go_of_what_waits_for_the_window() -> None:
    async with served() as here:
        await here.put(b"key", VALUE)
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
        async with client_of(here, frames.PREFACE + none) as client:
            await client.send(call(1))
            assert (await client.frame())[0] == HEADERS
            (connection,) = others_of(here)
            assert connection.unread_bytes >= len(VALUE)
            await client.send(frames.reset(1, Code.CANCEL), more(1, 100), frame(PING, 0, 0, bytes(8)))
            assert (await client.frame())[0] == PING
            assert connection.unread_bytes == 0


@guest
async def test_who_does_not_read_is_hung_up_on() -> None:
    async with served(edge=EdgeLimits(direct_unread_bytes_max=1_000_000)) as here:
        await here.put(b"key", VALUE)
        wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}) + more(0, 1 << 30)
        async with client_of(here, frames.PREFACE + wide) as client:
            await client.send(*(call(stream) for stream in range(1, 201, 2)))
            await until(lambda: here.node.counters.limits_hit["direct_unread_bytes_max"] == 1)
            await until(lambda: not others_of(here))
        await until(lambda: is_idle(here.server))
        async with client_of(here) as client:
            await client.send(call(1))
            assert await client.value(1) == VALUE


@guest
async def test_who_opens_no_window_is_hung_up_on() -> None:
    async with served(edge=EdgeLimits(direct_unread_bytes_max=1_000_000)) as here:
        await here.put(b"key", VALUE)
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
        async with client_of(here, frames.PREFACE + none) as client:
            await client.send(*(call(stream) for stream in range(1, 61, 2)))
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                while True:
                    assert (await client.frame())[0] == HEADERS
        assert here.node.counters.limits_hit["direct_unread_bytes_max"] == 1


@guest
async def test_who_does_not_read_is_not_read_from_until_it_does() -> None:
    calls = 400
    async with served() as here:
        await here.put(b"key", VALUE)
        wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}) + more(0, 1 << 30)
        async with client_of(here, frames.PREFACE + wide) as client, trio.open_nursery() as nursery:

            async def ask() -> None:
                for number in range(calls):
                    await client.send(call(2 * number + 1))

            nursery.start_soon(ask)
            await until(lambda: others_of(here))
            (connection,) = others_of(here)
            transport: Any = connection._transport
            await until(lambda: not transport.is_reading())
            ended = 0
            while ended < calls:
                kind, flags, _stream, _payload = await client.frame()
                ended += kind == HEADERS and bool(flags & END_STREAM)
            await until(lambda: is_idle(here.server) and not connection.unread_bytes)


# -- what ends a call ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", "13"),
        (b"\0\0\0\0", "13"),
        (GET_REQUEST[:-1], "13"),
        (GET_REQUEST + b"\0", "13"),
        (GET_REQUEST + GET_REQUEST, "13"),
        (b"\1" + GET_REQUEST[1:], "12"),
    ],
    ids=["none", "part of a prefix", "too short", "too long", "two", "compressed"],
)
def test_what_is_not_one_message_fails_the_call_alone(body: bytes, status: str) -> None:
    @guest
    async def run() -> None:
        async with served() as here, client_of(here) as client:
            await here.put(b"key", b"value")
            await client.send(call(1, body))
            assert await client.reply(1) == (b"", status)
            halves = (frame(DATA, 0, 3, body[:2]), frame(DATA, END_STREAM, 3, body[2:]))
            await client.send(frame(HEADERS, END_HEADERS, 3, head()), *halves)
            assert await client.reply(3) == (b"", status)
            await client.send(call(5))
            assert await client.value(5) == b"value"
            await until(lambda: is_idle(here.server))

    run()


@guest
async def test_a_call_without_a_body_fails() -> None:
    async with served() as here, client_of(here) as client:
        await client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head()))
        assert await client.reply(1) == (b"", "13")


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"\0\x7f\xff\xff\xff" + bytes(100), "8"), (GET_REQUEST + b"\0", "13")],
    ids=["too large", "more than one"],
)
def test_what_cannot_become_a_request_is_refused_before_it_has_come(body: bytes, status: str) -> None:
    @guest
    async def run() -> None:
        async with served() as here, client_of(here) as client:
            await client.send(frame(HEADERS, END_HEADERS, 1, head()), frame(DATA, 0, 1, body))
            assert await client.reply(1) == (b"", status)
            assert await client.frame() == (RST_STREAM, 0, 1, bytes(4))
            await until(lambda: is_idle(here.server))

    run()


@pytest.mark.parametrize(
    ("block", "status"),
    [(head(method="GET"), "405"), (head(content_type="text/html"), "415")],
)
def test_what_is_no_grpc_call_gets_an_http_status(block: bytes, status: str) -> None:
    @guest
    async def run() -> None:
        async with served() as here, client_of(here) as client:
            await client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
            kind, flags, stream, payload = await client.frame()
            assert (kind, flags, stream) == (HEADERS, END_HEADERS | END_STREAM, 1)
            assert client.headers(payload) == {":status": status}
            await client.send(call(3, block=block))
            assert client.headers((await client.frame())[3]) == {":status": status}
            assert await client.frame() == (RST_STREAM, 0, 3, bytes(4))

    run()


@guest
async def test_replies_that_wait_for_a_window_count_among_the_calls_of_a_connection() -> None:
    async with served(edge=EdgeLimits(streams_per_connection_max=2)) as here:
        await here.put(b"key", VALUE)
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
        async with client_of(here, frames.PREFACE + none) as client:
            await client.send(call(1), call(3))
            assert [(await client.frame())[0] for _ in range(2)] == [HEADERS, HEADERS]
            await client.send(call(5))
            assert await client.frame() == (RST_STREAM, 0, 5, Code.REFUSED_STREAM.to_bytes(4, "big"))


@guest
async def test_streams_past_the_limit_are_refused() -> None:
    async with (
        served_fake(edge=EdgeLimits(streams_per_connection_max=2)) as (node, here),
        client_of(here) as client,
    ):
        await client.send(call(1), call(3), call(5))
        code = Code.REFUSED_STREAM.to_bytes(4, "big")
        assert await client.frame() == (RST_STREAM, 0, 5, code)
        assert len(node.reads) == 2


@guest
async def test_calls_that_never_become_whole_count_as_well() -> None:
    async with served(edge=EdgeLimits(direct_calls_max=2)) as here, client_of(here) as client:
        await client.send(*(frame(HEADERS, END_HEADERS, stream, head()) for stream in (1, 3, 5)))
        assert await client.reply(5) == (b"", "8")
        assert await client.frame() == (RST_STREAM, 0, 5, bytes(4))
        await client.send(frames.reset(1, Code.CANCEL), frame(HEADERS, END_HEADERS, 7, head()))
        await client.send(frame(PING, 0, 0, bytes(8)))
        assert (await client.frame())[0] == PING


# -- what ends a connection ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(DATA, END_STREAM, 1, b"x"), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 2, head()), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 0, head()), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, head()) * 2, Code.PROTOCOL_ERROR),
        (A_TAIL + frame(DATA, END_STREAM, 1, GET_REQUEST), Code.STREAM_CLOSED),
        (A_TAIL + frame(HEADERS, END_HEADERS | END_STREAM, 1, head()), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), Code.COMPRESSION_ERROR),
        (frame(HEADERS, PADDED | END_HEADERS, 1, b"\x09123"), Code.PROTOCOL_ERROR),
        (frame(HEADERS, PADDED | END_HEADERS, 1), Code.PROTOCOL_ERROR),
        (frame(HEADERS, WITH_PRIORITY | END_HEADERS, 1, b"1234"), Code.FRAME_SIZE_ERROR),
        (frame(HEADERS, 0, 1, head()) + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, head()) + frame(CONTINUATION, 0, 3), Code.PROTOCOL_ERROR),
        (
            frame(HEADERS, 0, 1, bytes(9_000)) + frame(CONTINUATION, 0, 1, bytes(9_000)),
            Code.ENHANCE_YOUR_CALM,
        ),
        (frame(CONTINUATION, END_HEADERS, 1, head()), Code.PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, END_HEADERS, 1, head()), Code.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), Code.PROTOCOL_ERROR),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}), Code.FLOW_CONTROL_ERROR),
        (more(0, 0), Code.PROTOCOL_ERROR),
        (more(1, 1), Code.PROTOCOL_ERROR),
        (more(0, frames.WINDOW_MAX), Code.FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", Code.FRAME_SIZE_ERROR),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(sent: bytes, code: Code) -> None:
    @guest
    async def run() -> None:
        async with served() as here, client_of(here) as client:
            await client.send(sent)
            assert await client.hung_up() is code
            await until(lambda: not others_of(here))
            await until(lambda: is_idle(here.server))

    run()


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\r\n\r\n", frames.PREFACE + call(1), frames.PREFACE[:-1] + b"x"]
)
def test_what_is_not_http2_is_hung_up_on(begin: bytes) -> None:
    @guest
    async def run() -> None:
        async with served() as here, client_of(here, begin) as client:
            assert await client.hung_up() is Code.PROTOCOL_ERROR

    run()


@guest
async def test_who_says_nothing_is_hung_up_on() -> None:
    before, connection_module.PREFACE_S = connection_module.PREFACE_S, 0.01
    try:
        async with served() as here, client_of(here, frames.PREFACE) as client:
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await client.frame()
    finally:
        connection_module.PREFACE_S = before


@guest
async def test_who_has_begun_may_be_silent() -> None:
    async with served() as here, client_of(here) as client:
        await client.send(frame(PING, 0, 0, bytes(8)))
        assert (await client.frame())[0] == PING
        (connection,) = others_of(here)
        assert connection._timer is None, "nothing ends it by itself"


@guest
async def test_broken_conversations_harm_nobody_else() -> None:
    """Thousands of sessions with a byte changed, a part left out or doubled: others are served as before."""
    rng = random.Random(11)
    async with served() as here:
        await here.put(b"key", b"value")
        block = head()
        whole = b"".join(
            (
                frame(HEADERS, PADDED, 1, b"\x02" + block[:5] + bytes(2)),
                frame(CONTINUATION, END_HEADERS, 1, block[5:]),
                frame(DATA, PADDED, 1, b"\x01" + GET_REQUEST[:4] + bytes(1)),
                frame(DATA, END_STREAM, 1, GET_REQUEST[4:]),
                frames.settings({frames.INITIAL_WINDOW_SIZE: 3}),
                call(3),
                more(3, 2),
                frames.reset(3, Code.CANCEL),
                call(5),
            )
        )
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                at, to = sorted(rng.randrange(len(data)) for _ in range(2))
                kind = rng.randrange(4)
                if kind == 0:
                    data[at] = rng.randrange(256)
                elif kind == 1:
                    del data[at : at + rng.randrange(20)]
                elif kind == 2:
                    data[at:at] = data[at:to]
                else:
                    data[at:to] = rng.randbytes(to - at)
            async with client_of(here, BEGIN + bytes(data)):
                pass
        await until(lambda: not others_of(here))
        await until(lambda: is_idle(here.server))
        assert here.log.named("rpc.bug") == []
        async with client_of(here) as client:
            await client.send(call(1))
            assert await client.value(1) == b"value"
