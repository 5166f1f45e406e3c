"""How trio and asyncio share a process: the only module where the two meet.

Programs of this project are trio programs, and ``grpc.aio`` runs only on asyncio. There
are two ways to have both, and each has its place (design.md has the first measurements):

* **Guest mode**, ``run_guest``: asyncio runs the thread and trio is its guest. A node does
  this. gRPC handlers and the node's loop are then in one thread and call each other's
  plain functions directly: no locks, no thread hop on the way of an offer. What is
  allowed between the two worlds is exactly that: synchronous calls (``trio.Event.set``
  from asyncio code, ``Future.set_result`` from trio code).
* **A second thread**, ``AsyncioThread``: trio keeps the main thread, as under a plain
  ``trio.run``, and one daemon thread runs the process's one asyncio loop. Clients do this.

``AsyncioSide`` is what trio code sees of either. trio-asyncio was measured and rejected:
its gRPC calls are three times slower.

Plain guest mode waits for trio's I/O in a helper thread, so each wake-up of trio costs
two thread switches (0.1 to 0.3 ms here, more on a busy machine), on the way of every
offer. ``_InlineGuest`` saves them: trio's epoll object is itself a file descriptor that
asyncio can watch. It relies on names that trio does not promise, so it is used only
where all of them are found, and otherwise guest mode runs as trio wrote it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import outcome
import sniffio
import trio

from journal.errors import Unavailable

T = TypeVar("T")
_log = logging.getLogger("synod.bridge")

_here = threading.local()  # .side: the AsyncioSide of a guest run in this thread


class AsyncioSide:
    """The process's asyncio loop, as trio code sees it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        self.loop = loop
        self._thread = thread

    @property
    def same_thread(self) -> bool:
        """Whether the caller runs in the loop's own thread, as in guest mode."""
        return threading.get_ident() == self._thread

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the loop call ``function`` soon. From any thread. Raises ``Unavailable`` once it is closed."""
        try:
            if self.same_thread:
                self.loop.call_soon(function, *arguments)
            else:
                self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError as error:
            raise Unavailable(f"the gRPC loop is closed: {error}") from None

    async def run(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Run an asyncio coroutine from trio; return or raise what it does.

        Cancelling the trio side cancels the asyncio task and waits for its end, so nothing
        is left behind. Raises ``Unavailable`` where the asyncio side is cancelled or gone.
        """
        token = trio.lowlevel.current_trio_token()
        finished = trio.Event()
        task: asyncio.Task[T] | None = None
        result: outcome.Outcome[T] | None = None

        def start() -> None:
            nonlocal task
            task = self.loop.create_task(function(*arguments))
            task.add_done_callback(lambda done: finish(_outcome_of(done)))

        def finish(ended: outcome.Outcome[T]) -> None:
            nonlocal result
            result = ended
            if self.same_thread and _guest_token() is token:
                finished.set()
            else:
                try:
                    token.run_sync_soon(finished.set)
                except trio.RunFinishedError:
                    pass

        def cancel() -> None:
            assert task is not None  # posted after start, and the loop keeps that order
            task.cancel()

        self.post(start)
        try:
            await finished.wait()
        except trio.Cancelled:
            self.post(cancel)
            with trio.CancelScope(shield=True):
                await finished.wait()
            raise
        assert result is not None
        if isinstance(result, outcome.Error) and isinstance(result.error, asyncio.CancelledError):
            raise Unavailable("the call was cancelled because the connection or the loop was closed")
        return result.unwrap()


def _outcome_of(task: asyncio.Task[T]) -> outcome.Outcome[T]:
    """Take a finished task's result, so that asyncio never calls an error unretrieved."""
    if task.cancelled():
        return outcome.Error(asyncio.CancelledError())
    error = task.exception()
    return outcome.Error(error) if error is not None else outcome.Value(task.result())


# -- guest mode ---------------------------------------------------------------------


def host() -> AsyncioSide:
    """Return the asyncio side of the guest run in this thread. Raises RuntimeError outside of one."""
    side: AsyncioSide | None = getattr(_here, "side", None)
    if side is None:
        raise RuntimeError("not inside run_guest")
    return side


def _guest_token() -> trio.lowlevel.TrioToken | None:
    token: trio.lowlevel.TrioToken | None = getattr(_here, "token", None)
    return token


def run_guest(async_main: Callable[..., Awaitable[T]], *arguments: Any, inline: bool = True) -> T:
    """Run a trio main function as the guest of an asyncio loop; return or raise what it does.

    Ctrl-C, unless the main function takes SIGINT itself, cancels the main function and
    raises KeyboardInterrupt when it has ended. ``inline=False`` forces trio's own way of
    waiting.
    """
    return asyncio.run(_host(async_main, arguments, inline)).unwrap()


async def _host(
    async_main: Callable[..., Awaitable[T]], arguments: tuple[Any, ...], inline: bool
) -> outcome.Outcome[T]:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)
    finished: asyncio.Future[outcome.Outcome[T]] = loop.create_future()
    scope = trio.CancelScope()

    async def guest() -> T:
        _here.token = trio.lowlevel.current_trio_token()
        with scope:
            return await async_main(*arguments)
        raise KeyboardInterrupt

    def soon(function: Callable[[], object]) -> None:
        state = getattr(function, "__self__", None)
        if inline and _InlineGuest.fits(state, loop):
            function = _InlineGuest(state, loop).tick
        loop.call_soon(function)

    _here.side = AsyncioSide(loop, threading.get_ident())
    try:
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=soon,
            done_callback=finished.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        interrupted: asyncio.CancelledError | None = None
        while not finished.done():
            try:
                await asyncio.wait([finished])
            except asyncio.CancelledError as error:  # asyncio.run's own answer to Ctrl-C
                interrupted = error
                scope.cancel()
        if interrupted is not None and isinstance(finished.result(), outcome.Error):
            raise interrupted
        return finished.result()
    finally:
        _here.side = _here.token = None


_TICKS_MORE_MAX = 7
"""Further rounds of trio's scheduler in a row, before asyncio's handlers have their turn."""


class _InlineGuest:
    """Drives a trio guest run from asyncio's own selector: no thread between the two.

    It does what ``GuestState.guest_tick`` of trio 0.30 to 0.35 does, but where that hands
    the waiting to a thread, this watches trio's epoll descriptor and sets an asyncio timer.
    """

    def __init__(self, state: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._state = state
        self._runner = state.runner
        self._io = state.runner.io_manager
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False
        self._fd: int = self._io._epoll.fileno()
        loop.add_reader(self._fd, self._wake)

    @staticmethod
    def fits(state: Any, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether ``state`` is a guest run that has all the names used here."""
        runner = getattr(state, "runner", None)
        manager = getattr(runner, "io_manager", None)
        return (
            type(state).__name__ == "GuestState"
            and all(
                hasattr(state, name)
                for name in ("unrolled_run_gen", "unrolled_run_next_send", "done_callback", "guest_tick")
            )
            and hasattr(runner, "guest_tick_scheduled")
            and hasattr(runner, "main_task_outcome")
            and hasattr(manager, "get_events")
            and hasattr(getattr(manager, "_epoll", None), "fileno")
            and isinstance(loop, asyncio.SelectorEventLoop)
        )

    def tick(self) -> None:
        """Let trio run what is ready, then arrange for the next tick."""
        state, runner = self._state, self._runner
        self._waiting = False
        library, sniffio.thread_local.name = sniffio.thread_local.name, "trio"
        try:
            timeout = state.unrolled_run_next_send.send(state.unrolled_run_gen)
            for _ in range(_TICKS_MORE_MAX):
                if timeout > 0:
                    break
                timeout = state.unrolled_run_gen.send([])
        except StopIteration:
            self._end(runner.main_task_outcome)
            return
        except trio.TrioInternalError as error:
            self._end(outcome.Error(error))
            return
        finally:
            sniffio.thread_local.name = library
        if timeout <= 0:
            state.unrolled_run_next_send = outcome.capture(self._io.get_events, 0)
            runner.guest_tick_scheduled = True
            self._loop.call_soon(self.tick)
            return
        # What trio's descriptors bring from here on, asyncio's selector sees.
        runner.guest_tick_scheduled = False
        self._waiting = True
        at = self._loop.time() + min(timeout, 86_400.0)
        if self._timer is None or self._timer.when() > at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._time)

    def _time(self) -> None:
        """A deadline has come, or one had that was moved meanwhile: then trio finds nothing to do."""
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        if not self._waiting:  # a tick is on its way; the descriptor stays readable until then
            return
        self._state.unrolled_run_next_send = outcome.capture(self._io.get_events, 0)
        self._runner.guest_tick_scheduled = True
        self.tick()

    def _end(self, result: outcome.Outcome[Any]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._fd)
        self._state.done_callback(result)


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's handler of errors that nobody else took."""
    error = context.get("exception")
    if "PollerCompletionQueue._handle_events" in repr(context.get("handle")):
        # gRPC has one queue of events for all loops of a process, also of those that are closed.
        if isinstance(error, BlockingIOError):
            return  # two loops woke for one event, and the other one took it
        if isinstance(error, RuntimeError) and "closed" in str(error):
            return  # the last words of a call of a loop that has ended since
    _log.error(
        "asyncio: %s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None
    )


# -- a second thread ------------------------------------------------------------------


class AsyncioThread:
    """The process's asyncio loop in a daemon thread, shared by all who ask for it.

    ``acquire`` starts it at the first call, ``release`` stops it at the last: gRPC's
    poller is global, so a process should not have two loops that use it.
    """

    _lock = threading.Lock()
    _shared: AsyncioThread | None = None

    def __init__(self) -> None:
        self._users = 0
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._side: AsyncioSide | None = None
        self._thread = threading.Thread(target=self._main, name="synod-asyncio", daemon=True)

    @classmethod
    def acquire(cls) -> AsyncioSide:
        """Return the shared loop, started if need be. Pair with ``release``."""
        with cls._lock:
            thread = cls._shared
            if thread is None:
                thread = cls._shared = cls()
                thread._thread.start()
                thread._ready.wait()
            thread._users += 1
            assert thread._side is not None
            return thread._side

    @classmethod
    def release(cls) -> None:
        """Give the loop back; the last one stops and joins it."""
        with cls._lock:
            thread = cls._shared
            assert thread is not None, "released more often than acquired"
            thread._users -= 1
            if thread._users:
                return
            cls._shared = None
        assert thread._side is not None and thread._stop is not None
        thread._side.post(thread._stop.set)
        thread._thread.join()

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        self._stop = asyncio.Event()
        self._side = AsyncioSide(loop, threading.get_ident())
        self._ready.set()
        await self._stop.wait()
