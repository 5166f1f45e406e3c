"""What all of a node's gRPC handlers share: the node, the limits, errors, and the way down.

Handlers are asyncio coroutines in the node's own thread (guest mode), so they call the
node's methods directly and its callbacks resolve asyncio futures directly.

A handler raises ``journal.errors`` and nothing else on purpose; ``guarded`` turns them into
the call's status and trailing metadata. Everything else that a handler raises is a bug of
this project: it is logged with its traceback and the caller sees INTERNAL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc
import grpc.aio
from structlog.typing import FilteringBoundLogger

from journal.counters import Counters
from journal.errors import (
    InvalidRequest,
    JournalError,
    Overloaded,
    RecordDamaged,
    SpaceFull,
    Unavailable,
    WrongCluster,
)
from journal.rpc import methods
from journal.rpc.errors import status_of, trailers
from journal.rpc.pb import journal_pb2 as pb
from journal.types import Revision

if TYPE_CHECKING:
    from journal.node import Node

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class Writer(Protocol):
    """Where the messages of a reply go that is a stream: gRPC's context, or that of the direct port."""

    async def write(self, message: Any, /) -> None:
        """Send a message, or its bytes; return when there is room for the next one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLimits:
    """What the edge itself takes, beside the node's own ``Limits``."""

    streams_per_connection_max: int = 1_024
    """Calls that one TCP connection may have open, at either port; more wait at the client."""
    submit_streams_max: int = 4_096
    """Submit and LeaseKeepAlive streams of all clients together."""
    stream_requests_max: int = 1_024
    """Requests of one stream that are in flight or whose replies are not yet read by the
    client; while there are so many, the stream is not read from."""
    stream_unsent_offers_max: int = 65_536
    """The same in verdicts that wait to be read."""
    unsent_offers_max: int = 1_000_000
    """Verdicts that wait to be read on all streams together; past it the streams that hold
    more than their share are ended."""
    reply_bytes_max: int = 256 * 1024
    """Replies that are ready together travel in one message of about this size."""
    get_bytes_max: int = 2 * 1024 * 1024
    """Keys and values of one Get."""
    direct_connections_max: int = 1_024
    """Connections to the direct port (``rpc/direct``); a further one is closed at once."""
    direct_calls_max: int = 16_384
    """Its calls that clients wait for, on all connections together; and that the node works on, where
    nobody waits any more."""
    direct_request_bytes_max: int = 64 * 1024 * 1024
    """Its requests that have not come as a whole yet, together."""
    direct_unread_bytes_max: int = 64 * 1024 * 1024
    """Its replies that wait to be read, together; past it who reads least is hung up on."""
    progress_ms: int = 1_000
    """How often an idle tail says so, where the reader does not ask for anything else."""

    def validate(self) -> None:
        """Raise ``ValueError`` where a limit is not positive."""
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive, not {getattr(self, field.name)}")


_CONSISTENCIES = {
    pb.CONSISTENCY_LINEARIZABLE: "linearizable",
    pb.CONSISTENCY_AT_LEAST: "at_least",
    pb.CONSISTENCY_LOCAL: "local",
}


def decoded(request: Any) -> Any:
    """Return a request as it was decoded; raise what stands in its place (``Method.decode_request``)."""
    if isinstance(request, InvalidRequest):
        raise request
    return request


class TakenIn(Exception):
    """What befell offers that the node had taken in: unlike a refusal it may leave their outcome open."""

    def __init__(self, error: JournalError) -> None:
        super().__init__(str(error))
        self.error = error


class Edge:
    """One node's side of the edge."""

    def __init__(self, node: Node, limits: EdgeLimits, log: FilteringBoundLogger) -> None:
        limits.validate()
        self.node = node
        self.limits = limits
        self.log = log
        self.loop = asyncio.get_running_loop()
        self.closing: asyncio.Future[None] = self.loop.create_future()
        """Done when the streams are to end, because the node has stopped."""
        self.counters: Counters = node.counters
        self.streams = 0
        self.unsent_offers = 0
        self.direct_port = 0
        """Of this node; 0: it has none."""

    # -- calls ---------------------------------------------------------------------------

    def check_cluster(self, context: Context) -> None:
        """Raise ``WrongCluster`` where the caller expects another cluster."""
        for key, value in context.invocation_metadata() or ():
            if key == methods.MD_CLUSTER:
                self.check_cluster_named(value)

    def check_cluster_named(self, expected: str | bytes | None) -> None:
        """Raise ``WrongCluster`` where the caller expects another cluster; None: it expects nothing."""
        cluster = self.node.config.cluster
        if expected is not None and expected != cluster:
            raise WrongCluster(
                f"this node is of cluster {cluster}, but the caller expects {_printable(expected)}"
            )

    async def guarded(self, context: Context, handler: Callable[[], Awaitable[T]]) -> T:
        """Run a handler; end the call with the status of what it raises."""
        try:
            self.check_cluster(context)
            return await handler()
        except JournalError as error:
            await self.abort(context, error)
            raise AssertionError("abort returned") from None
        except TakenIn as taken_in:
            await self.abort(context, taken_in.error, taken_in=True)
            raise AssertionError("abort returned") from None
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError):
            # The stream is gone under the handler's hands: the client cancelled or vanished.
            raise asyncio.CancelledError from None
        except Exception:
            self.log.exception("rpc.bug")
            await context.abort(grpc.StatusCode.INTERNAL, "a fault of the node; its log has the details")
            raise

    def refused(self, error: JournalError) -> None:
        """Count a request that is answered with ``error``."""
        self.counters.requests_refused[type(error).__name__] += 1
        if isinstance(error, Overloaded):
            self.counters.limits_hit[error.limit] += 1
        elif isinstance(error, SpaceFull):
            self.counters.limits_hit["disk_reserve_bytes"] += 1
        elif isinstance(error, RecordDamaged):
            self.node.damaged(error)

    async def abort(self, context: Context, error: JournalError, *, taken_in: bool = False) -> None:
        """End a call with the status and trailers of ``error``."""
        self.refused(error)
        await context.abort(status_of(error), str(error), trailers(error, taken_in=taken_in))

    @staticmethod
    async def read(context: Context) -> Any:
        """Return the next message of a stream, None at its end. Raises ``InvalidRequest`` for
        bytes that are no message."""
        request = await context.read()
        return None if request is grpc.aio.EOF else decoded(request)

    async def accept(self, context: Context, more: tuple[tuple[str, str], ...] = ()) -> None:
        """Tell a stream's client that it may write now; ``more``: what else its metadata says."""
        await context.send_initial_metadata(((methods.MD_NODE, str(self.node.config.node)), *more))

    def opened_stream(self) -> None:
        """Count a stream in. Raises ``Overloaded``."""
        if self.streams >= self.limits.submit_streams_max:
            raise Overloaded("submit_streams_max", self.limits.submit_streams_max, 1_000)
        self.streams += 1

    def closed_stream(self) -> None:
        self.streams -= 1

    def close(self) -> None:
        """End all streams with ``Unavailable``. Idempotent."""
        if not self.closing.done():
            self.closing.set_result(None)

    @staticmethod
    def stopping() -> Unavailable:
        return Unavailable("the node is stopping")

    # -- the node's callbacks as futures ------------------------------------------------

    async def answer(self, ask: Callable[[Callable[[T | JournalError], None]], None]) -> T:
        """Call ``ask`` with a callback and wait for what that is given; raise it if it is an error."""
        answered: asyncio.Future[T | JournalError] = self.loop.create_future()

        def reply(result: T | JournalError) -> None:
            if not answered.done():  # done: the caller was cancelled
                answered.set_result(result)

        ask(reply)
        result = await answered
        if isinstance(result, JournalError):
            raise result
        return result

    async def barrier(self, consistency: pb.Consistency, at_least: int) -> None:
        """Wait until ``node.space`` is as fresh as asked. Raises ``Unavailable``, ``Overloaded``."""
        self.counters.reads[_CONSISTENCIES.get(consistency, "unknown")] += 1
        if consistency == pb.CONSISTENCY_LOCAL:
            return
        if consistency == pb.CONSISTENCY_LINEARIZABLE:
            _read: Revision = await self.answer(lambda reply: self.node.read_barrier(reply))
        elif consistency == pb.CONSISTENCY_AT_LEAST:
            revision = Revision(at_least)
            if self.node.space.revision < revision:
                _reached: Revision = await self.answer(
                    lambda reply: self.node.read_barrier(reply, at_least=revision, linearizable=False)
                )
        else:
            raise InvalidRequest("consistency", f"{consistency} is not known here")


def _printable(value: str | bytes) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return repr(text[:100])
