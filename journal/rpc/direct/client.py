"""A node's direct port as a client's connection uses it: offers and reads past gRPC, where that can be."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import grpc
import trio
from google.protobuf.message import DecodeError, Message

from journal.connection import NotSent
from journal.errors import JournalError, Unavailable, WrongCluster
from journal.rpc import methods
from journal.rpc.channels import host_of
from journal.rpc.direct.caller import Failure, headers_of
from journal.rpc.direct.socket import Socket
from journal.rpc.errors import error_of_call
from journal.rpc.methods import Method
from journal.rpc.pb import journal_pb2 as pb

OPEN_S = 0.5
"""Within so long a direct port must have answered; else what was to go there goes by gRPC."""
AGAIN_S = 10.0
"""So long after a direct port was not reached, or a node had none, it is not asked about again."""
_log = logging.getLogger("journal.client")
_WHO = ("cluster", "node", "endpoint", "pid")
"""What of two statuses shows that they are of one process."""
_STATUSES = {code.value[0]: code for code in grpc.StatusCode}


class DirectClient:
    """The direct port of one node. All of it on the trio side."""

    def __init__(
        self,
        endpoint: str,
        metadata: Iterable[tuple[str, str]],
        ask: Callable[[], Awaitable[pb.NodeStatus]],
    ) -> None:
        """``ask`` asks the node for its status, by gRPC. It raises ``JournalError``."""
        self._endpoint = endpoint
        self._host = host_of(endpoint)
        self._metadata = tuple(metadata)
        self._ask = ask
        self._blocks: dict[str, bytes] = {}
        self._socket: Socket | None = None
        self._opening = trio.Lock()
        self._room = trio.lowlevel.ParkingLot()
        self._not_before = -1.0
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether a call can be made at once."""
        opened = self._socket
        return opened is not None and not (opened.caller.is_full or opened.caller.is_spent)

    async def open(self) -> bool:
        """Whether calls are to be made here; if so, one can be made at once when this returns.

        Raises ``NotSent`` or ``WrongCluster`` where the node is not to be reached at all.
        """
        while not self.is_open:
            if self._socket is None:
                if not await self._connect():
                    return False
            elif self._socket.caller.is_spent:
                self._socket.retire()
                self._socket = None
            else:
                await self._room.park()
        return True

    async def _connect(self) -> bool:
        async with self._opening:
            if self._socket is not None:
                return True
            if trio.current_time() < self._not_before or self._is_closed:
                return False
            opened = await self._opened()
            if opened is None:
                self._not_before = trio.current_time() + AGAIN_S
                return False
            if self._is_closed:  # meanwhile
                opened.close()
                return False
            opened.has_room = self._room.unpark_all
            self._socket = opened
            return True

    async def _opened(self) -> Socket | None:
        try:
            status = await self._ask()
        except WrongCluster:
            raise
        except Unavailable as error:
            raise NotSent(str(error)) from error
        except JournalError as error:  # it answers: so it will by gRPC
            _log.info("%s did not say where its direct port is: %s", self._endpoint, error)
            return None
        if not status.direct_port:
            return None
        try:
            with trio.fail_after(OPEN_S):
                return await self._opened_at(status)
        except (OSError, trio.TooSlowError, DecodeError, JournalError) as error:
            why = str(error)
        _log.info("%s: its direct port %d is not reached: %s", self._endpoint, status.direct_port, why)
        return None

    async def _opened_at(self, status: pb.NodeStatus) -> Socket:
        """Return a connection to the direct port of the very process that has this status."""
        opened = await Socket.open(self._host, status.direct_port, self._lost)
        try:
            there = pb.NodeStatus.FromString(
                await self._begin(opened, methods.STATUS, pb.StatusRequest()).message()
            )
            if any(getattr(there, field) != getattr(status, field) for field in _WHO):
                # The addresses are translated on the way to this one.
                raise Unavailable("another node is there")
        except BaseException:
            opened.close()
            raise
        return opened

    def _lost(self, lost: Socket) -> None:
        if self._socket is lost:
            self._socket = None
            self._room.unpark_all()

    def close(self) -> None:
        """End the connection; its calls fail. No calls are made any more."""
        self._is_closed = True
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def begin(self, method: Method, request: Message) -> Reply:
        """Make a unary call, in this very step. Raises ``NotSent`` where it is not ``is_open``."""
        return self._begin(self._socket, method, request)

    def _begin(self, opened: Socket | None, method: Method, request: Message) -> Reply:
        reply = Reply(self._error_of)
        reply.cancel = self._make(opened, method, request, reply.received, reply.over)[1]
        return reply

    async def call(self, method: Method, request: Message) -> bytes:
        """Make a unary call and return its reply's bytes. Raises ``JournalError``."""
        return await self.begin(method, request).message()

    def stream(self, method: Method, request: Message) -> Replies:
        """Make a call that is answered by a stream. Raises ``NotSent``. ``close`` what it returns."""
        replies = Replies(self._error_of)
        replies.taken, replies.cancel = self._make(
            self._socket, method, request, replies.received, replies.over, is_paced=True
        )
        return replies

    def _make(
        self,
        opened: Socket | None,
        method: Method,
        request: Message,
        received: Callable[[bytes], None],
        ended: Callable[[Failure | None], None],
        *,
        is_paced: bool = False,
    ) -> tuple[Callable[[bytes], None], Callable[[], None]]:
        """Make a call; return how to say that a message was taken, and how to cancel it."""
        block = self._blocks.get(method.path)
        if block is None:
            block = self._blocks[method.path] = headers_of(method.path, self._endpoint, self._metadata)
        if opened is not None:
            caller = opened.caller
            call = caller.call(block, request.SerializeToString(), received, ended, is_paced=is_paced)
            if call is not None:
                return partial(caller.taken, call), partial(caller.cancel, call)
        raise NotSent(f"{self._endpoint} takes no more calls on this connection")

    def _error_of(self, failure: Failure) -> JournalError:
        if failure.is_unserved:
            return NotSent(f"{self._endpoint}: {failure.text}")
        status = _STATUSES.get(failure.status, grpc.StatusCode.UNKNOWN)
        return error_of_call(status, failure.text, failure.trailers, self._endpoint)


class Reply:
    """Of a unary call that is under way."""

    __slots__ = ("_data", "_ended", "_error_of", "_failure", "cancel")

    def __init__(self, error_of: Callable[[Failure], JournalError]) -> None:
        self._error_of = error_of
        self._ended = trio.Event()
        self._data: bytes | None = None
        self._failure: Failure | None = None
        self.cancel: Callable[[], None] = lambda: None

    async def message(self) -> bytes:
        """Wait for it. Raises ``JournalError``."""
        try:
            await self._ended.wait()
        except trio.Cancelled:
            self.cancel()
            raise
        if self._failure is not None:
            raise self._error_of(self._failure)
        if self._data is None:
            raise Unavailable("the reply has no message")
        return self._data

    def received(self, message: bytes) -> None:
        self._data = message

    def over(self, failure: Failure | None) -> None:
        self._failure = failure
        self._ended.set()


class Replies:
    """The messages of a reply that is a stream. Those that were not taken yet are bounded by its window."""

    def __init__(self, error_of: Callable[[Failure], JournalError]) -> None:
        self._error_of = error_of
        self._messages: deque[bytes] = deque()
        self._news = trio.Event()
        self._is_over = False
        self._failure: Failure | None = None
        self.taken: Callable[[bytes], None] = lambda _message: None
        self.cancel: Callable[[], None] = lambda: None

    def __aiter__(self) -> Replies:
        return self

    async def __anext__(self) -> bytes:
        """Return the next message. Raises ``JournalError`` where the call has failed."""
        while not self._messages:
            if self._failure is not None:
                raise self._error_of(self._failure)
            if self._is_over:
                raise StopAsyncIteration
            self._news = trio.Event()
            await self._news.wait()
        message = self._messages.popleft()
        self.taken(message)
        return message

    def close(self) -> None:
        """Nobody waits for more."""
        if not self._is_over:
            self.cancel()

    def received(self, message: bytes) -> None:
        self._messages.append(message)
        self._news.set()

    def over(self, failure: Failure | None) -> None:
        self._is_over, self._failure = True, failure
        self._news.set()
