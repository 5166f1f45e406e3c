"""Trio and asyncio in one process: results, errors, cancellation and ends, in both worlds."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sniffio
import trio
import trio.testing

from journal.errors import Unavailable
from journal.rpc import bridge
from journal.rpc.bridge import AsyncioSide, AsyncioThread, run_guest


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """'Task exception was never retrieved' and its like come as log records."""
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.records == []


both_ways = pytest.mark.parametrize("inline", [True, False], ids=["inline", "threaded"])


# -- guest mode -----------------------------------------------------------------------


@both_ways
def test_guest_returns_what_main_returns(inline: bool) -> None:
    async def main(word: str) -> str:
        await trio.lowlevel.checkpoint()
        return word

    assert run_guest(main, "done", inline=inline) == "done"


@both_ways
def test_guest_raises_what_main_raises(inline: bool) -> None:
    async def main() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        run_guest(main, inline=inline)


@both_ways
def test_trio_works_whole_in_guest_mode(inline: bool) -> None:
    """Timers, nurseries, threads, sockets: all that wakes trio wakes it as a guest too."""

    async def main() -> list[str]:
        found: list[str] = []

        async def worker(send: trio.MemorySendChannel[str]) -> None:
            async with send:
                await trio.sleep(0.01)
                await send.send(await trio.to_thread.run_sync(lambda: "thread"))

        async def echo(stream: trio.SocketStream) -> None:
            await stream.send_all(await stream.receive_some(10))

        send, receive = trio.open_memory_channel[str](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker, send)
            found.extend([item async for item in receive])
            listeners = await nursery.start(trio.serve_tcp, echo, 0)
            async with await trio.testing.open_stream_to_socket_listener(listeners[0]) as client:
                await client.send_all(b"socket")
                found.append((await client.receive_some(10)).decode())
            nursery.cancel_scope.cancel()
        with trio.move_on_after(0.01) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        return found

    assert run_guest(main, inline=inline) == ["thread", "socket"]


@both_ways
def test_no_event_is_lost_however_they_fall_together(inline: bool) -> None:
    """Sockets, host calls, timers and threads at once: a lost event shows as a test that hangs."""

    async def main() -> None:
        loop = bridge.host().loop

        async def play(number: int, mine: trio.socket.SocketType) -> None:
            for step in range(100):
                assert await mine.recv(1) == b"x"
                if (number + step) % 3 == 0:
                    event = trio.Event()
                    loop.call_soon(event.set)
                    await event.wait()
                if (number + step) % 7 == 0:
                    await trio.sleep(0.0001)
                if (number + step) % 11 == 0:
                    await trio.to_thread.run_sync(int)
                if (number + step) % 2 == 0 or step == 99:
                    await mine.send(b"x")
                else:  # behind trio's next turn, so that the two notice it in one turn of the loop
                    loop.call_later(0, os.write, mine.fileno(), b"x")

        async def pair(number: int) -> None:
            left, right = trio.socket.socketpair()
            with left, right:
                async with trio.open_nursery() as players:
                    players.start_soon(play, number, left)
                    players.start_soon(play, number + 1, right)
                    await left.send(b"x")

        await trio.sleep(0.01)  # the guest has waited once, so the loop watches for it
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(pair, number)

    with_deadline(main, inline)


def with_deadline(main: Any, inline: bool) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await main()

    run_guest(bounded, inline=inline)


@both_ways
def test_host_wakes_guest_by_a_plain_call(inline: bool) -> None:
    """What gRPC handlers do: set a trio event from asyncio code of the same thread."""

    async def main() -> None:
        loop = bridge.host().loop
        for _ in range(100):
            event = trio.Event()
            loop.call_soon(event.set)
            await event.wait()
        token = trio.lowlevel.current_trio_token()
        event = trio.Event()
        threading.Thread(target=lambda: token.run_sync_soon(event.set)).start()
        await event.wait()

    run_guest(main, inline=inline)


@both_ways
def test_guest_wakes_host_by_a_plain_call(inline: bool) -> None:
    """What the node's callbacks do: resolve an asyncio future from trio code."""

    async def main() -> int:
        side = bridge.host()

        async def wait_for(future: asyncio.Future[int]) -> int:
            return await future

        future: asyncio.Future[int] = side.loop.create_future()
        result = 0

        async def ask() -> None:
            nonlocal result
            result = await side.run(wait_for, future)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            future.set_result(7)
        return result

    assert run_guest(main, inline=inline) == 7


def test_inline_guest_is_in_use_here() -> None:
    """If a new trio lacks the names that the fast way needs, this says so; the slow way still works."""

    async def main() -> bool:
        readers = _reader_callbacks(bridge.host().loop)
        return any(isinstance(getattr(reader, "__self__", None), bridge._InlineGuest) for reader in readers)

    assert run_guest(main)


def _reader_callbacks(loop: asyncio.AbstractEventLoop) -> list[object]:
    selector = loop._selector  # type: ignore[attr-defined]  # the test looks inside on purpose
    return [key.data[0]._callback for key in selector.get_map().values() if key.data[0] is not None]


@both_ways
def test_interrupt_cancels_main_and_is_raised_when_it_has_ended(inline: bool) -> None:
    cleaned = []

    async def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()
        finally:
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_guest(main, inline=inline)
    assert cleaned == [True]


@both_ways
def test_main_may_take_signals_itself(inline: bool) -> None:
    async def main() -> int:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            async for number in signals:
                return number
        raise AssertionError

    assert run_guest(main, inline=inline) == signal.SIGTERM


@both_ways
def test_each_side_knows_which_library_it_is(inline: bool) -> None:
    async def name() -> str:
        return sniffio.current_async_library()

    async def main() -> list[str]:
        return [await bridge.host().run(name), sniffio.current_async_library()]

    assert run_guest(main, inline=inline) == ["asyncio", "trio"]


def test_host_is_known_only_inside() -> None:
    with pytest.raises(RuntimeError, match="not inside run_guest"):
        bridge.host()

    async def main() -> bool:
        return bridge.host().same_thread

    assert run_guest(main)
    with pytest.raises(RuntimeError, match="not inside run_guest"):
        bridge.host()


def test_a_second_run_works_after_the_first() -> None:
    async def main() -> None:
        await trio.sleep(0.001)

    run_guest(main)
    run_guest(main)


# -- calls from trio to asyncio, in both arrangements -------------------------------------


class Arrangement:
    """Runs a trio main with an asyncio side, as a guest or with a second thread."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self, main: object) -> object:
        if self.kind == "guest":

            async def as_guest() -> object:
                return await main(bridge.host())  # type: ignore[operator]

            return run_guest(as_guest)

        async def with_thread() -> object:
            side = AsyncioThread.acquire()
            try:
                return await main(side)  # type: ignore[operator]
            finally:
                await trio.to_thread.run_sync(AsyncioThread.release)

        return trio.run(with_thread)


@pytest.fixture(params=["guest", "thread"])
def arrangement(request: pytest.FixtureRequest) -> Arrangement:
    return Arrangement(request.param)


def test_call_returns_and_raises(arrangement: Arrangement) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    async def fail() -> None:
        raise ValueError("in asyncio")

    async def main(side: AsyncioSide) -> None:
        assert await side.run(double, 21) == 42
        with pytest.raises(ValueError, match="in asyncio"):
            await side.run(fail)

    arrangement.run(main)


def test_many_calls_at_once(arrangement: Arrangement) -> None:
    async def after(seconds: float, number: int) -> int:
        await asyncio.sleep(seconds)
        return number

    async def main(side: AsyncioSide) -> None:
        found = []

        async def one(number: int) -> None:
            found.append(await side.run(after, 0.001 * (number % 3), number))

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert sorted(found) == list(range(50))

    arrangement.run(main)


def test_cancelled_call_ends_its_task_before_it_returns(arrangement: Arrangement) -> None:
    steps: list[str] = []
    started = threading.Event()

    async def linger() -> None:
        steps.append("started")
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0.01)
            steps.append("ended")

    async def main(side: AsyncioSide) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side.run, linger)
            await trio.to_thread.run_sync(started.wait)
            nursery.cancel_scope.cancel()
        assert steps == ["started", "ended"]

    arrangement.run(main)


def test_call_cancelled_before_it_began_never_runs(arrangement: Arrangement) -> None:
    ran = []

    async def work() -> None:
        ran.append(True)

    async def main(side: AsyncioSide) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await side.run(work)
        assert scope.cancelled_caught
        await side.run(asyncio.sleep, 0)

    arrangement.run(main)


def test_error_of_a_cancelled_call_is_not_lost_loudly(arrangement: Arrangement) -> None:
    async def fail_on_cancel() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise ValueError("while being cancelled") from None

    async def main(side: AsyncioSide) -> None:
        with trio.move_on_after(0.02) as scope:
            await side.run(fail_on_cancel)
        assert scope.cancelled_caught

    arrangement.run(main)


def test_call_that_asyncio_cancels_is_unavailable(arrangement: Arrangement) -> None:
    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    async def main(side: AsyncioSide) -> None:
        with pytest.raises(Unavailable, match="closed"):
            await side.run(cancel_myself)

    arrangement.run(main)


# -- the second thread --------------------------------------------------------------------


async def test_thread_is_shared_and_ends_with_its_last_user() -> None:
    first = AsyncioThread.acquire()
    second = AsyncioThread.acquire()
    assert first is second
    assert any(thread.name == "synod-asyncio" for thread in threading.enumerate())
    AsyncioThread.release()
    await second.run(asyncio.sleep, 0)
    await trio.to_thread.run_sync(AsyncioThread.release)
    assert not any(thread.name == "synod-asyncio" for thread in threading.enumerate())
    with pytest.raises(Unavailable, match="closed"):
        await first.run(asyncio.sleep, 0)


async def test_post_runs_in_the_loops_thread() -> None:
    side = AsyncioThread.acquire()
    try:
        where: list[int] = []

        def note() -> None:
            where.append(threading.get_ident())

        side.post(note)
        await side.run(asyncio.sleep, 0)
        assert where and where[0] != threading.get_ident()
        assert not side.same_thread
    finally:
        await trio.to_thread.run_sync(AsyncioThread.release)
