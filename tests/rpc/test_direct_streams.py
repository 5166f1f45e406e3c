"""Replies that are streams, at the direct port: windows, readers that stop, ends."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from journal.connection import LINEARIZABLE, LOCAL
from journal.errors import RevisionInFuture, Unavailable
from journal.offers import Offer, Put
from journal.rpc import bridge, methods
from journal.rpc.direct import frames
from journal.rpc.direct.caller import headers_of
from journal.rpc.direct.frames import DATA, HEADERS, RST_STREAM, Code, frame
from journal.rpc.edge import EdgeLimits
from journal.rpc.pb import journal_pb2 as pb
from journal.types import Revision
from tests.rpc.harness import batch, guest, served, until
from tests.rpc.test_direct import is_idle, listener_of, others_of
from tests.rpc.test_direct_clients import direct_of
from tests.rpc.test_direct_peers import status_of
from tests.rpc.test_http2 import client_of

A_PUT = Offer(mutations=(Put(b"key", b"value"),))


@guest
async def test_a_scan_in_many_parts_is_the_same_by_either_way() -> None:
    pages: list[object] = []
    for direct in (False, True):
        async with served(direct=direct) as here:
            offers = [Offer((Put(b"%04d" % number, bytes(200)),)) for number in range(3_000)]
            await here.connection.submit(batch(*offers))
            page = await here.connection.scan(b"", b"", at=None, consistency=LINEARIZABLE, limit_keys=2_500)
            assert (direct_of(here) is not None) is direct
            pages.append((page.revision, list(page.items), page.next_key))
    assert pages[0] == pages[1]


@guest
async def test_what_fails_a_scan_is_the_same_by_either_way() -> None:
    errors: list[object] = []
    for direct in (False, True):
        async with served(direct=direct) as here:
            with pytest.raises(RevisionInFuture) as caught:
                await here.connection.scan(b"", b"", at=Revision(7), consistency=LOCAL, limit_keys=1)
            errors.append(vars(caught.value))
    assert errors[0] == errors[1]


@guest
async def test_a_stream_that_fails_after_its_first_message_says_why() -> None:
    async with served() as here:
        await here.put(b"a")
        async with here.connection.tail(Revision(0), []) as tail:
            await anext(tail)
            here.server._edge.close()
            with pytest.raises(Unavailable, match="the node is stopping"):
                while True:
                    await anext(tail)
        call: Any = here.direct.unary_stream(methods.TAIL.path, request_serializer=methods.encode)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await bridge.host().run(_last_of, call(pb.TailRequest()))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failed.value.details() == "the node is stopping"


async def _last_of(call: Any) -> None:
    async for _message in call:
        pass


@guest
async def test_a_tail_that_is_left_is_cancelled_at_the_node() -> None:
    async with served() as here:
        async with here.connection.tail(Revision(0), []) as tail:
            await anext(tail)
            assert here.node.tails.open == 1
        await until(lambda: here.node.tails.open == 0 and is_idle(here.server))


@guest
async def test_a_tail_ends_with_its_connection() -> None:
    async with served() as here:
        async with here.connection.tail(Revision(0), []) as tail:
            await anext(tail)
            for connection in list(listener_of(here.server)._connections):
                connection.abort()
            with pytest.raises(Unavailable, match="connection was lost"):
                while True:
                    await anext(tail)
        async with here.connection.tail(Revision(0), []) as again:
            await anext(again)


@guest
async def test_who_does_not_read_a_stream_holds_one_message_of_it_at_the_node() -> None:
    async with served() as here:
        for _ in range(100):
            await here.put(b"k", bytes(100_000))
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
        async with client_of(here, frames.PREFACE + none) as client:
            request = pb.TailRequest(progress_ms=100).SerializeToString()
            block = headers_of(methods.TAIL.path, "h:1", ())
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, block),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            assert await status_of(client) == "none"
            data = bytearray((await client.frame())[3])
            assert len(data) == 100
            (connection,) = others_of(here)
            await here.put(b"meanwhile")
            (unsent,) = connection._unsent.values()
            assert len(unsent.data) <= here.node.config.limits.tail_message_bytes_max + 100
            assert connection.unread_bytes == 0, "what waits for a window is not what nobody reads"
            # As it opens its windows so much more comes, not a byte above, and all of it in order.
            last, opened, got = 0, 100, len(data)
            while last < 101:
                if got == opened:
                    await client.send(frames.window_update(0, 77_777), frames.window_update(1, 77_777))
                    opened += 77_777
                kind, _flags, _stream, payload = await client.frame()
                assert kind == DATA
                got += len(payload)
                assert got <= opened
                data += payload
                for message in frames.messages(data):
                    told = pb.TailMessage.FromString(message)
                    assert told.first == last + 1
                    last = told.last


@guest
async def test_a_failed_stream_sends_no_more_of_what_waited_for_its_window() -> None:
    async with served() as here:
        await here.put(b"k", bytes(100_000))
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
        async with client_of(here, frames.PREFACE + none) as client:
            request = pb.TailRequest().SerializeToString()
            block = headers_of(methods.TAIL.path, "h:1", ())
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, block),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            assert await status_of(client) == "none"
            assert (await client.frame())[0] == DATA
            (call,) = listener_of(here.server)._calls
            call.fail(14, "planted")
            found = client.headers((await client.frame())[3])
            assert found == {"grpc-status": "14", "grpc-message": "planted"}, "and no second head"
            await client.send(frames.window_update(0, 1 << 20), frame(frames.PING, 0, 0, bytes(8)))
            assert (await client.frame())[0] == frames.PING


@guest
async def test_streams_whose_messages_wait_count_once_among_the_calls_of_a_connection() -> None:
    async with served(edge=EdgeLimits(streams_per_connection_max=2)) as here:
        await here.put(b"k", bytes(100_000))
        none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
        async with client_of(here, frames.PREFACE + none) as client:
            request = pb.TailRequest().SerializeToString()
            body = frames.message_prefix(len(request)) + request
            block = headers_of(methods.TAIL.path, "h:1", ())
            for stream in (1, 3, 5):
                await client.send(
                    frame(HEADERS, frames.END_HEADERS, stream, block),
                    frame(DATA, frames.END_STREAM, stream, body),
                )
                kind, _flags, of, _payload = await client.frame(
                    but=(frames.SETTINGS, frames.WINDOW_UPDATE, DATA)
                )
                assert (kind, of) == ((HEADERS if stream < 5 else RST_STREAM), stream)
                (connection,) = others_of(here)
                await until(lambda: len(connection._unsent) == min(stream, 3) // 2 + 1)  # noqa: B023


@guest
async def test_the_connections_window_holds_for_streams() -> None:
    async with served() as here:
        wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})
        async with client_of(here, frames.PREFACE + wide) as client:
            request = pb.TailRequest(progress_ms=100_000).SerializeToString()
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, headers_of(methods.TAIL.path, "h:1", ())),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            assert await status_of(client) == "none"
            got, sent = len((await client.frame())[3]), 0
            # Messages that fit in use the window up, and what is more than it waits.
            while got < frames.WINDOW_AT_FIRST:
                await here.put(b"k", bytes(20_000))
                sent += 20_000
                while got < min(sent, frames.WINDOW_AT_FIRST):
                    kind, _flags, _stream, payload = await client.frame()
                    assert kind == DATA
                    got += len(payload)
            assert got == frames.WINDOW_AT_FIRST < sent
            await client.send(frame(frames.PING, 0, 0, bytes(8)))
            assert (await client.frame())[0] == frames.PING


@guest
async def test_a_scan_that_is_left_while_it_waits_for_a_window_leaves_nothing_behind() -> None:
    async with served() as here:
        await here.connection.submit(
            batch(*(Offer((Put(b"%04d" % number, bytes(300)),)) for number in range(3_000)))
        )
        for limit in (1, 2_500):
            none = frames.settings({frames.INITIAL_WINDOW_SIZE: 100})
            async with client_of(here, frames.PREFACE + none) as client:
                scan = pb.ScanRequest(limit_keys=limit, consistency=pb.CONSISTENCY_LOCAL)
                request = scan.SerializeToString()
                await client.send(
                    frame(HEADERS, frames.END_HEADERS, 1, headers_of(methods.SCAN_IN_PARTS.path, "h:1", ())),
                    frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
                )
                assert await status_of(client) == "none"
                assert len((await client.frame())[3]) == 100
                await client.send(frames.reset(1, Code.CANCEL))
                await until(lambda: is_idle(here.server))


@guest
async def test_a_reader_of_the_socket_that_stops_holds_up_the_stream_not_the_memory() -> None:
    async with served() as here:
        for _ in range(200):
            await here.put(b"k", bytes(200_000))
        wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}) + frames.window_update(0, 1 << 30)
        async with client_of(here, frames.PREFACE + wide) as client:
            request = pb.TailRequest().SerializeToString()
            await client.send(
                frame(HEADERS, frames.END_HEADERS, 1, headers_of(methods.TAIL.path, "h:1", ())),
                frame(DATA, frames.END_STREAM, 1, frames.message_prefix(len(request)) + request),
            )
            await until(lambda: len(others_of(here)) == 1)
            (connection,) = others_of(here)
            await until(lambda: connection._is_paused)
            await here.put(b"meanwhile")
            assert connection.unread_bytes < 2 * here.node.config.limits.tail_message_bytes_max + 256 * 1024
            last, data = 0, bytearray()
            while last < 201:
                kind, _flags, _stream, payload = await client.frame()
                if kind == DATA:
                    data += payload
                    for message in frames.messages(data):
                        last = pb.TailMessage.FromString(message).last
