"""The Submit stream of a client's connection: how batches travel where the node has no direct port.

All batches of a connection share one stream, opened by the first of them and again by the first after a
failure. A batch that was never written to it failed with ``NotSent``; one that was written and not answered
failed with ``Unavailable``: nobody knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import trio
from google.protobuf.message import DecodeError

from journal.connection import NotSent
from journal.errors import JournalError, Overloaded, Unavailable, WrongCluster
from journal.rpc import methods
from journal.rpc.bridge import AsyncioSide
from journal.rpc.errors import error_of_call
from journal.rpc.pb import journal_pb2 as pb


class Batch:
    """A batch on its way, and who waits for its result."""

    __slots__ = ("abandoned", "answered", "data", "error", "result", "written")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.answered = trio.Event()
        self.result: pb.SubmitResult | None = None
        self.error: JournalError | None = None
        self.written = False
        self.abandoned = False


class Submits:
    """The Submit stream of a connection: ``submit`` on the trio side, the rest on asyncio's."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        side: AsyncioSide,
        metadata: tuple[tuple[str, str], ...],
        endpoint: str,
    ) -> None:
        self._open = channel.stream_stream(
            methods.SUBMIT.path,
            request_serializer=methods.encode,
            response_deserializer=methods.SUBMIT.decode_reply,
        )
        self._side = side
        self._metadata = metadata
        self._endpoint = endpoint
        # Between the two sides: appended to by one, taken from by the other.
        self._outbox: deque[Batch] = deque()
        self._flush_posted = False
        self._token: trio.lowlevel.TrioToken | None = None
        # The asyncio side's own:
        self._ids = 0
        self._unwritten: deque[tuple[int, Batch]] = deque()
        self._waiting: dict[int, Batch] = {}
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closed = False

    def begin(self, data: bytes) -> Batch:
        """Submit one batch; ``result_of`` it waits."""
        if self._token is None:
            self._token = trio.lowlevel.current_trio_token()
        batch = Batch(data)
        self._outbox.append(batch)
        if not self._flush_posted:  # one wake-up of the other side serves all until it comes
            self._flush_posted = True
            self._side.post(self._flush)
        return batch

    async def result_of(self, batch: Batch) -> pb.SubmitResult:
        """Return what became of a batch. Raises ``JournalError``."""
        try:
            await batch.answered.wait()
        except trio.Cancelled:
            batch.abandoned = True
            raise
        if batch.error is not None:
            raise batch.error
        assert batch.result is not None
        return batch.result

    # asyncio side:

    def _flush(self) -> None:
        self._flush_posted = False
        while self._outbox:
            self._ids += 1
            batch = self._outbox.popleft()
            self._waiting[self._ids] = batch
            self._unwritten.append((self._ids, batch))
        if self._closed:
            self._fail(None)
        elif self._task is None:
            self._task = self._side.loop.create_task(self._run())
        self._wake.set()

    async def _run(self) -> None:
        """Run the stream until it fails, then fail what was on it."""
        call = self._open(metadata=self._metadata)
        failure: JournalError | None = None
        writer = self._side.loop.create_task(self._write(call))
        try:
            await self._read(call)
        except grpc.aio.AioRpcError as error:
            failure = error_of_call(error.code(), error.details(), error.trailing_metadata(), self._endpoint)
        except (DecodeError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            failure = Unavailable(f"{self._endpoint}: {error}")
        finally:
            call.cancel()
            await ended(writer)
            self._task = None
            self._fail(failure)

    async def _read(self, call: Any) -> None:
        while (reply := await call.read()) is not grpc.aio.EOF:
            answered: list[Batch] = []
            for result in reply.results:
                batch = self._waiting.pop(result.id, None)
                if batch is not None:
                    batch.result = result
                    answered.append(batch)
            self._answer(answered)
        if await call.code() is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                await call.code(),
                await call.initial_metadata(),
                await call.trailing_metadata(),
                await call.details(),
            )

    async def _write(self, call: Any) -> None:
        # Nothing is written before the node has accepted the stream: so what a stream that never
        # came up was to carry was certainly not submitted.
        if methods.MD_NODE not in dict(await call.initial_metadata() or ()):
            return  # refused: the status says why, and the reader gets it
        while not call.done():
            if not self._unwritten:
                self._wake.clear()
                await self._wake.wait()
                continue
            number, batch = self._unwritten.popleft()
            if batch.abandoned:
                self._waiting.pop(number, None)
                continue
            batch.written = True
            await call.write(pb.SubmitRequest(id=number, packed=batch.data))

    def _fail(self, failure: JournalError | None) -> None:
        """Answer everything on the stream with why there will be no verdicts."""
        text = str(failure) if failure is not None else f"the connection to {self._endpoint} was closed"
        failed = list(self._waiting.values())
        self._waiting.clear()
        self._unwritten.clear()
        for batch in failed:
            if isinstance(failure, WrongCluster):
                batch.error = WrongCluster(text)
            elif batch.written:
                batch.error = Unavailable(f"{text}; what became of the batch is not known")
            elif isinstance(failure, Overloaded):
                batch.error = Overloaded(failure.limit, failure.value, failure.retry_after_ms)
            else:
                batch.error = NotSent(text)
        self._answer(failed)

    def _answer(self, batches: list[Batch]) -> None:
        if batches and self._token is not None:
            to_trio(self._side, self._token, _set_answered, batches)

    async def close(self) -> None:
        """End the stream; batches on it fail."""
        self._closed = True
        if self._task is not None:
            await ended(self._task)
        self._flush()


def _set_answered(batches: list[Batch]) -> None:
    for batch in batches:
        batch.answered.set()


# -- between the two sides --------------------------------------------------------------------


def to_trio(
    side: AsyncioSide, token: trio.lowlevel.TrioToken, function: Callable[..., object], *arguments: Any
) -> None:
    """Have the trio side call ``function`` soon; nothing if that side is gone."""
    try:
        token.run_sync_soon(function, *arguments)
    except trio.RunFinishedError:
        pass


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, wait for its end, and take its error so that nobody misses it."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
