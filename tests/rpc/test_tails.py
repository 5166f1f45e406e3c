"""Tails over gRPC: contiguous, filtered, bounded, with snapshots, and ended with a reason."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import trio

from journal.commits import Commit
from journal.connection import TailMessage
from journal.errors import InvalidRequest, Overloaded, RevisionCompacted, RevisionInFuture, Unavailable
from journal.limits import Limits
from journal.offers import Delete, Offer, Put
from journal.rpc import bridge, methods, tails
from journal.rpc.connection import TAIL_MESSAGES_AHEAD_MAX
from journal.rpc.direct.caller import STREAM_WINDOW_BYTES
from journal.rpc.pb import journal_pb2 as pb
from journal.types import Revision
from tests.rpc.harness import Served, batch, guest, served, until, way

ZERO = Revision(0)

pytestmark = pytest.mark.usefixtures("both_ways")


@contextlib.asynccontextmanager
async def plain_tail(here: Served, request: pb.TailRequest) -> AsyncIterator[Any]:
    """Tail as a client in any language does; gives a function that reads one message."""
    channel = here.direct if way.direct else here.channel
    call: Any = channel.unary_stream(
        methods.TAIL.path,
        request_serializer=methods.encode,
        response_deserializer=methods.TAIL.decode_reply,
    )(request)

    async def read() -> Any:
        return await call.read()

    try:
        yield lambda: bridge.host().run(read)
    finally:
        call.cancel()


async def read_to(tail: AsyncIterator[TailMessage], last: int, *, after: int = 0) -> list[Commit]:
    """Read up to revision ``last``; raise AssertionError where a message leaves a gap."""
    found: list[Commit] = []
    while after < last:
        message = await anext(tail)
        assert message.first == after + 1
        after = message.last
        found += message.commits
    return found


@guest
async def test_a_tail_covers_every_revision_once_and_goes_on() -> None:
    async with served() as here:
        await here.put(b"a", b"1")
        await here.connection.submit(batch(Offer((Put(b"b", b"2"),), label="who"), Offer((Delete(b"a"),))))
        async with here.connection.tail(ZERO, []) as tail:
            found = await read_to(tail, 3)
            assert [commit.revision for commit in found] == [1, 2, 3]
            assert found[1].label == "who"
            assert found[2].changes[0].value is None
            await here.put(b"c", b"3")
            (commit,) = await read_to(tail, 4, after=3)
            assert commit.changes == ((b"c", b"3", 0),)


@guest
async def test_a_filter_hides_changes_but_never_revisions() -> None:
    async with served() as here:
        await here.offer(Put(b"task/1", b"x"), Put(b"other", b"y"))
        await here.put(b"other")
        await here.put(b"task/2")
        async with here.connection.tail(ZERO, [b"task/", b"task/1", b"zzz"]) as tail:
            found = await read_to(tail, 3)
        assert [commit.revision for commit in found] == [1, 3]
        assert [change.key for change in found[0].changes] == [b"task/1"]


@guest
async def test_what_a_filter_hides_is_told_with_what_it_does_not() -> None:
    """Not with a message for each slot: a filter is to spare its reader what does not concern it."""
    slots = 50
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "UNTOLD_S", 60.0)
        async with served() as here, here.connection.tail(ZERO, [b"mine"]) as tail:
            await anext(tail)  # it is there
            for _ in range(slots):
                await here.put(b"others")
            last = await here.put(b"mine/1")
            message = await anext(tail)
            assert (message.first, message.last) == (1, last)
            assert [commit.revision for commit in message.commits] == [last]


@guest
async def test_what_a_filter_hides_is_told_soon_where_nothing_follows() -> None:
    async with served() as here, here.connection.tail(ZERO, [b"mine"], progress_interval_s=60) as tail:
        await anext(tail)
        for revision in range(1, 4):
            await here.put(b"others")
            message = await anext(tail)
            assert (message.first, message.last, list(message.commits)) == (revision, revision, [])


@guest
async def test_a_filtered_tail_reads_nothing_that_does_not_concern_it() -> None:
    """With thousands of tails a look at each slot by each of them is more than a node can do."""
    async with served() as here, here.connection.tail(ZERO, [b"mine"]) as tail:
        await anext(tail)
        read: list[Revision] = []
        with pytest.MonkeyPatch.context() as patch:
            of_hub = here.node.tails.read

            def counted(after: Revision, bytes_max: int) -> Any:
                read.append(after)
                return of_hub(after, bytes_max)

            patch.setattr(here.node.tails, "read", counted)
            for _ in range(20):
                await here.put(b"others")
            last = await here.put(b"mine")
            (commit,) = await read_to(tail, last)
        assert commit.revision == last
        assert read == [last - 1]


@guest
async def test_many_tails_take_turns_in_being_told_of_nothing() -> None:
    """So many are told in a turn as are due for all together, and each has its turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "TOLD_PER_S", 2 / tails.UNTOLD_S)  # two in a turn
        async with served() as here, contextlib.AsyncExitStack() as stack:
            found = [
                await stack.enter_async_context(here.connection.tail(ZERO, [b"mine"], progress_interval_s=60))
                for _ in range(7)
            ]
            for tail in found:
                await anext(tail)
            due: list[int] = []
            go = tails._Round._go

            def turn(self: Any) -> None:
                before = {bell for bell in self._bells if bell.is_due}
                go(self)
                due.append(len({bell for bell in self._bells if bell.is_due} - before))

            patch.setattr(tails._Round, "_go", turn)
            last = await here.put(b"others")
            for tail in found:
                message = await anext(tail)
                assert (message.first, message.last) == (last, last)
            assert due == [2, 2, 2, 1]


@guest
async def test_an_idle_tail_says_so_at_once_and_then_from_time_to_time() -> None:
    async with served() as here:
        await here.put(b"a")
        async with here.connection.tail(Revision(1), [], progress_interval_s=0.1) as tail:
            for _ in range(3):
                message = await anext(tail)
                assert (message.first, message.last, list(message.commits)) == (2, 1, [])
                assert message.current == 1


@guest
async def test_a_tail_into_the_future_or_the_forgotten_past_is_told_so() -> None:
    async with served() as here:
        for _ in range(5):
            await here.put(b"a")
        with pytest.raises(RevisionInFuture) as future:
            async with here.connection.tail(Revision(2**40), []) as tail:
                await anext(tail)
        assert future.value.current == 5
        await here.connection.compact(Revision(4))
        with pytest.raises(RevisionCompacted):
            async with here.connection.tail(ZERO, []) as tail:
                await anext(tail)
        async with here.connection.tail(Revision(4), []) as tail:
            assert (await anext(tail)).commits[0].revision == 5


@guest
async def test_bad_prefixes_are_refused_and_tails_counted() -> None:
    async with served(limits=Limits(tails_max=1)) as here:
        for prefixes in ([b"k" * 5000], [b"%d" % number for number in range(2000)]):
            with pytest.raises(InvalidRequest, match="prefixes"):
                async with here.connection.tail(ZERO, prefixes) as tail:
                    await anext(tail)
        async with here.connection.tail(ZERO, []) as tail:
            await anext(tail)
            assert here.node.status().tails == 1
            with pytest.raises(Overloaded, match="tails_max=1"):
                async with here.connection.tail(ZERO, []) as second:
                    await anext(second)
        await until(lambda: here.node.status().tails == 0)


@guest
async def test_a_chunk_larger_than_a_message_is_sent_in_several() -> None:
    async with served(limits=Limits(tail_message_bytes_max=1000)) as here:
        offers = [Offer((Put(b"k%d" % number, bytes(300)),)) for number in range(10)]
        await here.connection.submit(batch(*offers))
        async with plain_tail(here, pb.TailRequest()) as read:
            last, sizes = 0, []
            while last < 10:
                message = await read()
                assert message.first == last + 1
                assert [commit.revision for commit in message.commits] == list(
                    range(last + 1, message.last + 1)
                )
                last = message.last
                sizes.append(message.ByteSize())
        assert len(sizes) >= 4 and max(sizes) < 1500


@guest
async def test_a_filtered_tail_goes_on_behind_what_it_has_read() -> None:
    """A read gives a part of what is there; nothing new has to come for the rest to be sent."""
    async with served(limits=Limits(tail_message_bytes_max=1000)) as here:
        for number in range(10):
            await here.put(b"mine/%d" % number, bytes(300))
            await here.put(b"others", bytes(300))
        async with here.connection.tail(ZERO, [b"mine/"], progress_interval_s=60) as tail:
            found = await read_to(tail, 19)
        assert [commit.revision for commit in found] == list(range(1, 20, 2))


@guest
async def test_a_long_past_that_a_filter_hides_is_told_of_by_the_way_and_holds_nobody_up() -> None:
    async with served(limits=Limits(tail_message_bytes_max=1000)) as here:
        for _ in range(20):
            await here.put(b"others", bytes(300))
        of_hub, loop = here.node.tails.read, bridge.host().loop
        turns: list[int] = [0]

        def read(after: Revision, bytes_max: int) -> Any:
            assert turns[0] == 0, "the loop has turned since the last read"
            turns[0] += 1
            loop.call_soon(turns.__setitem__, 0, 0)
            return of_hub(after, bytes_max)

        for untold_s in (0.0, 60.0):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tails, "UNTOLD_S", untold_s)
                patch.setattr(here.node.tails, "read", read)
                async with here.connection.tail(ZERO, [b"mine"], progress_interval_s=60) as tail:
                    told: list[int] = []
                    while sum(told) < 20:
                        message = await anext(tail)
                        assert (message.first, message.commits) == (sum(told) + 1, [])
                        told.append(message.last - message.first + 1)
            assert len(told) > 3 if untold_s == 0 else len(told) <= 2


@guest
async def test_a_slow_reader_holds_up_neither_the_node_nor_its_memory() -> None:
    async with (
        served() as here,
        here.connection.tail(ZERO, []) as slow,
        here.connection.tail(ZERO, []) as quick,
    ):
        for _ in range(200):
            await here.put(b"k", bytes(50_000))
        assert len(await read_to(quick, 200)) == 200
        if way.direct:
            waiting: list[bytes] = list(slow._replies._messages)  # type: ignore[attr-defined]
            assert 0 < sum(map(len, waiting)) <= STREAM_WINDOW_BYTES
        else:
            assert len(slow._messages) <= TAIL_MESSAGES_AHEAD_MAX  # type: ignore[attr-defined]
        assert len(await read_to(slow, 200)) == 200


@guest
async def test_tails_that_keep_up_share_what_is_encoded() -> None:
    encoded: list[object] = []
    encode = tails._encode

    def counted(chunk: Any, *others: Any) -> Any:
        encoded.append(chunk.first)
        return encode(chunk, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tails, "_encode", counted)
        async with served() as here, contextlib.AsyncExitStack() as stack:
            readers = [await stack.enter_async_context(here.connection.tail(ZERO, [])) for _ in range(5)]
            for reader in readers:
                await anext(reader)
            await here.put(b"k")
            for reader in readers:
                assert len(await read_to(reader, 1)) == 1
    assert encoded == [1]


@guest
async def test_tails_of_the_same_commits_get_each_their_own() -> None:
    """What is shared is shared by those alone who asked for the same."""
    async with (
        served() as here,
        here.connection.tail(ZERO, []) as everything,
        here.connection.tail(ZERO, [b"a"]) as filtered,
        plain_tail(here, pb.TailRequest()) as plain,
    ):
        for read in (lambda: anext(everything), lambda: anext(filtered), plain):
            await read()
        await here.offer(Put(b"a", b""), Put(b"b", b""))
        (commit,) = await read_to(everything, 1)
        assert len(commit.changes) == 2
        (commit,) = await read_to(filtered, 1)
        assert len(commit.changes) == 1
        assert len((await plain()).commits[0].changes) == 2


# -- the typed form and snapshots ---------------------------------------------------------------


@guest
async def test_plain_clients_get_typed_commits() -> None:
    async with served() as here:
        await here.offer(Put(b"a", b"1"), Delete(b"none"), label="me")
        async with plain_tail(here, pb.TailRequest()) as read:
            message = await read()
            (commit,) = message.commits
            assert (commit.revision, commit.label, commit.time_ms > 0) == (1, "me", True)
            assert [(change.key, change.value) for change in commit.changes] == [(b"a", b"1")]
            await here.offer(Delete(b"a"))
            message = await read()
            assert not message.commits[0].changes[0].HasField("value")


@guest
async def test_a_snapshot_first_and_then_what_follows() -> None:
    async with served() as here:
        offer = Offer(mutations=tuple(Put(b"task/%04d" % number, b"v") for number in range(700)))
        await here.connection.submit(batch(offer, Offer((Put(b"other", b"v"),))))
        request = pb.TailRequest(prefixes=[b"task/"], snapshot=pb.SNAPSHOT_MODE_FIRST)
        async with plain_tail(here, request) as read:
            pages = [await read()]
            while not pages[-1].snapshot.end:
                pages.append(await read())
            keys = [record.key for page in pages for record in page.snapshot.records]
            assert keys == [b"task/%04d" % number for number in range(700)]
            assert [page.snapshot.begin for page in pages] == [True] + [False] * (len(pages) - 1)
            assert {(page.first, page.last) for page in pages} == {(3, 2)}
            await here.put(b"task/9999")
            message = await read()
            while not message.commits:
                message = await read()
            assert message.first == 3 and message.commits[0].revision == 3


@guest
async def test_a_snapshot_of_nothing_still_begins_and_ends() -> None:
    async with served() as here, plain_tail(here, pb.TailRequest(snapshot=pb.SNAPSHOT_MODE_FIRST)) as read:
        page = await read()
        assert page.snapshot.begin and page.snapshot.end and not page.snapshot.records


@guest
async def test_a_reader_behind_the_compaction_gets_a_snapshot_if_it_asked_for_that() -> None:
    async with served() as here:
        for number in range(6):
            await here.put(b"k%d" % (number % 2), b"%d" % number)
        await here.connection.compact(Revision(5))
        request = pb.TailRequest(after=1, snapshot=pb.SNAPSHOT_MODE_IF_COMPACTED)
        async with plain_tail(here, request) as read:
            page = await read()
            assert page.snapshot.begin and page.snapshot.end and page.last == 6
            records = [(record.key, record.value) for record in page.snapshot.records]
            assert records == [(b"k0", b"4"), (b"k1", b"5")]
        request = pb.TailRequest(after=5, snapshot=pb.SNAPSHOT_MODE_IF_COMPACTED)
        async with plain_tail(here, request) as read:
            assert (await read()).commits[0].revision == 6


# -- ends -----------------------------------------------------------------------------------


@guest
async def test_tails_end_with_a_reason_when_the_node_stops() -> None:
    async with served() as here, here.connection.tail(ZERO, [], progress_interval_s=60) as tail:
        await anext(tail)
        await bridge.host().run(here.server.aclose)
        for _ in range(2):
            with pytest.raises(Unavailable, match="the node is stopping"):
                await anext(tail)


@guest
async def test_a_tail_that_is_left_is_gone_from_the_node() -> None:
    async with served() as here:
        with trio.move_on_after(0.1):
            async with here.connection.tail(ZERO, []) as tail:
                while True:
                    await anext(tail)
        await until(lambda: here.node.tails.open == 0)
        assert not here.node.tails.watches


@guest
async def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    async with served() as here:
        with pytest.raises(ZeroDivisionError):
            async with here.connection.tail(ZERO, []):
                raise ZeroDivisionError


@guest
async def test_a_tail_of_nobody_is_unavailable() -> None:
    async with served() as here:
        nobody = await here.connector.connect("127.0.0.1:1")
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: "):
            async with nobody.tail(ZERO, []) as tail:
                await anext(tail)


@guest
async def test_a_tail_does_not_begin_on_a_closed_server() -> None:
    async with served() as here:
        call: Any = here.channel.unary_stream(methods.TAIL.path, request_serializer=methods.encode)(
            pb.TailRequest()
        )

        async def read_all() -> None:
            async for _message in call:
                await bridge.host().loop.create_task(here.server.aclose())

        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await bridge.host().run(read_all)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
