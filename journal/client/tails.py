"""Tails that go on: from another node after any failure, without gap, repetition or step back.

A reader task per tail, in the client's nursery, keeps a stream open at some node and hands
on what it delivers through a short bounded channel, so a slow consumer slows its own stream
and nothing else. (The stream does not live in the consumer's task: what it opens there would
be nested in whatever cancel scope the consumer happened to be in at its first message.)

The proof of contiguity is here and is believed from nobody: every message has to start right
after the one before it, its commits must lie in the range it covers, in order, and must be all
of them where no prefix was asked for. A message that fails this is dropped together with its
stream, and the tail resumes at another node after the last revision that it had proved.

Two kinds of node look alive and are not. One that sends nothing at all is left after
``tail_silence_max_s``. One that is cut off from the others sends progress for ever: so a tail
that was idle for ``tail_idle_check_s`` asks the journal for its present revision, and leaves a
node that does not get there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio

from journal.client.reads import Reads
from journal.client.router import ANOTHER_NODE, Router
from journal.connection import LINEARIZABLE, TailMessage, at_least
from journal.errors import (
    JournalError,
    Overloaded,
    ProtocolViolation,
    RevisionCompacted,
    RevisionInFuture,
    Unavailable,
    WrongCluster,
)
from journal.offers import prefix_range
from journal.types import Revision

if TYPE_CHECKING:
    from journal.commits import Commit
    from journal.versions import Record

log = logging.getLogger("journal.client")

IDLE_CHECK_TIMEOUT_S = 2.0
GRACE_S = 2.0
"""How long a node may need to deliver what the journal is known to have committed."""


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """A part of the space as it was at ``revision``; commits after it follow the last page.

    On ``first``, forget all that came before: the snapshot begins (again). Only with ``last``
    is it whole.
    """

    revision: Revision
    items: Sequence[tuple[bytes, Record]]
    first: bool
    last: bool


E = TypeVar("E", bound="TailMessage | SnapshotPage")


class Tail(Generic[E]):
    """An asynchronous iterator over the history: ``TailMessage``s, and ``SnapshotPage``s if asked for.

    Messages without commits are handed on where they cover something, so that a reader of few
    keys knows how far the journal has come.
    """

    def __init__(
        self, router: Router, reads: Reads, after: int | None, prefixes: Sequence[bytes], snapshot: bool
    ) -> None:
        self.revision = Revision(0)
        """Everything up to here has been delivered by the iteration."""
        self.current = Revision(0)
        """The journal's revision as last heard from the tail's node."""
        self.prefixes = outermost(prefixes)
        self._router = router
        self._reads = reads
        self._config = router.config
        self._after = after
        self._snapshot = snapshot
        self._position = Revision(after or 0)
        self._send, self._receive = trio.open_memory_channel[TailMessage | SnapshotPage](1)
        self._error: JournalError | None = None
        self._advanced_at = -math.inf
        self._target = Revision(0)
        self._target_at = 0.0
        self._backoff = router.backoff()

    def __aiter__(self) -> Tail[E]:
        return self

    async def __anext__(self) -> E:
        """Return the next message. Raises ``RevisionCompacted`` (and no snapshot was asked for),
        ``RevisionInFuture``, ``WrongCluster``, or ``Unavailable`` once the client is closed."""
        try:
            message: Any = await self._receive.receive()
        except trio.EndOfChannel:
            raise self._error or Unavailable("the tail is closed") from self._error
        if isinstance(message, TailMessage):
            self.revision = message.last
            self.current = max(message.current, message.last)
        elif message.last:
            self.revision = message.revision
        return cast("E", message)

    def commits(self) -> Commits:
        """Iterate over the commits one by one. Not for a tail with a snapshot."""
        return Commits(self)

    # -- the reader -----------------------------------------------------------------

    async def prepare(self, timeout_s: float | None) -> None:
        """Find out where to start, if the caller did not say: at the present revision."""
        if self._after is None and not self._snapshot:
            self._position = await self._reads.revision(LINEARIZABLE, timeout_s)
        self.revision = self._position

    async def run(self) -> None:
        """Read until cancelled, or until there is an error that no other node can help with."""
        with self._send:
            try:
                if self._snapshot and self._after is None:
                    await self._deliver_snapshot()
                while True:
                    await self._one_node()
            except JournalError as error:
                self._error = error

    async def _one_node(self) -> None:
        """Stream from the present node until something happens to it."""
        endpoint = self._router.home
        before = self._position
        delay = 0.0
        try:
            await self._stream(endpoint)
            error: JournalError = Unavailable(
                f"{endpoint} sent nothing for {self._config.tail_silence_max_s:g} s"
            )
        except RevisionCompacted:
            if not self._snapshot:
                raise
            await self._deliver_snapshot()
            return
        except RevisionInFuture as future:
            if self._position > self._router.seen:
                present = await self._reads.revision(LINEARIZABLE, None)
                if self._position > present:
                    raise
            error = future
        except Overloaded as overloaded:
            error = overloaded
            delay = overloaded.retry_after_ms / 1000 * self._router.rng.uniform(1.0, 1.5)
        except WrongCluster as wrong:
            error = wrong
            self._router.refuse_cluster(endpoint, wrong)
        except ANOTHER_NODE as failed:
            error = failed
            self._router.counters.tail_violations += isinstance(failed, ProtocolViolation)
        log.info("tail at revision %d leaves %s: %s", self._position, endpoint, error)
        self._router.counters.tail_resumptions += 1
        self._router.leave(endpoint)
        if self._position > before:
            self._backoff.reset()
        await trio.sleep(max(delay, self._backoff.next_s()))

    async def _stream(self, endpoint: str) -> None:
        """Hand on what ``endpoint`` sends. Returns when it has been silent for too long."""
        config = self._config
        now = trio.current_time()
        self._advanced_at, self._target = now, Revision(0)
        # One scope for the whole stream, whose deadline is put off with each message: the
        # stream is left as it was entered.
        with trio.CancelScope(deadline=now + config.tail_silence_max_s) as silence:
            connection = await self._router.connection(endpoint)
            async with connection.tail(
                self._position, self.prefixes, progress_interval_s=config.tail_progress_interval_s
            ) as messages:
                async for message in messages:
                    silence.deadline = math.inf
                    self._prove(message, endpoint)
                    if message.last >= message.first:
                        self._position = message.last
                        self._router.saw(message.last)
                        self._advanced_at = trio.current_time()
                        await self._send.send(message)
                    else:
                        await self._check_idle(endpoint)
                    silence.deadline = trio.current_time() + config.tail_silence_max_s
            raise Unavailable(f"{endpoint} ended the stream")

    def _prove(self, message: TailMessage, endpoint: str) -> None:
        """Raise ``ProtocolViolation`` unless ``message`` follows on what was proved so far."""
        first, last = message.first, message.last
        if first != self._position + 1 or last < first - 1:
            raise ProtocolViolation(
                f"{endpoint} sent revisions {first} to {last} where {self._position + 1} comes next"
            )
        previous = first - 1
        for commit in message.commits:
            if not previous < commit.revision <= last:
                raise ProtocolViolation(
                    f"{endpoint} sent revision {commit.revision} after {previous} in {first} to {last}"
                )
            previous = commit.revision
        if not self.prefixes and len(message.commits) != last - first + 1:
            raise ProtocolViolation(
                f"{endpoint} sent {len(message.commits)} commits for the revisions {first} to {last}"
            )

    async def _check_idle(self, endpoint: str) -> None:
        """Raise ``Unavailable`` if the node is idle because it is cut off."""
        now = trio.current_time()
        if self._target > self._position:
            if now - self._target_at >= GRACE_S:
                raise Unavailable(
                    f"{endpoint} stays at revision {self._position}, while the journal is at {self._target}"
                )
        elif now - self._advanced_at >= self._config.tail_idle_check_s:
            if self._router.seen <= self._position:
                try:
                    await self._reads.revision(LINEARIZABLE, IDLE_CHECK_TIMEOUT_S)
                except JournalError:
                    return  # nobody knows: another node would not help
            self._advanced_at = self._target_at = trio.current_time()
            self._target = self._router.seen

    async def _deliver_snapshot(self) -> None:
        """Hand on the space as it is now, page by page, all at one revision."""
        while True:
            try:
                await self._snapshot_once()
                return
            except RevisionCompacted as error:  # it took so long that its revision is gone: again
                log.info("snapshot for a tail starts again: %s", error)

    async def _snapshot_once(self) -> None:
        revision = await self._reads.revision(LINEARIZABLE, None)
        ranges = [prefix_range(prefix) for prefix in self.prefixes] or [(b"", b"")]
        first = True
        items: Sequence[tuple[bytes, Record]] = ()
        for start, end in ranges:
            pages = self._reads.pages(start, end, revision, at_least(revision), None, None)
            async for page in pages:
                if items:
                    await self._send.send(SnapshotPage(revision, items, first, last=False))
                    first = False
                items = page.items
        await self._send.send(SnapshotPage(revision, items, first, last=True))
        self._position = revision


class Commits:
    """The commits of a tail, one by one."""

    def __init__(self, tail: Tail[Any]) -> None:
        self._tail = tail
        self._commits: Iterator[Commit] = iter(())

    def __aiter__(self) -> Commits:
        return self

    async def __anext__(self) -> Commit:
        while (commit := next(self._commits, None)) is None:
            message = await self._tail.__anext__()
            assert isinstance(message, TailMessage), "a tail with a snapshot is read message by message"
            self._commits = iter(message.commits)
        return commit


def outermost(prefixes: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the prefixes in order, without those that another one covers. Empty: everything."""
    kept: list[bytes] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return () if kept[:1] == [b""] else tuple(kept)
