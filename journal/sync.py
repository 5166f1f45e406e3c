"""The client for programs without trio: scripts, notebooks, a shell.

.. code-block:: python

    with connect("127.0.0.1:7401,127.0.0.1:7402") as journal:
        journal.put(b"greeting", b"hello")
        print(journal.get(b"greeting").value)

A thread runs the asynchronous client; each method here runs its namesake there and waits, so
it takes the same arguments, raises the same errors, and may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from journal.client import Journal, OfferId, SnapshotPage, Tail, Transaction
from journal.client import connect as connect_async
from journal.client.journal import DEFAULT, Timeout
from journal.connection import LINEARIZABLE, Consistency, GetReply, NotSent, ScanReply, TailMessage
from journal.offers import Member, Number, Offer, Verdict
from journal.types import Revision

if TYPE_CHECKING:
    from journal.client import Lease
    from journal.node import NodeStatus
    from journal.replica import Replica
    from journal.versions import Record

T = TypeVar("T")


class _Portal:
    """Runs coroutines in the client's thread."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token

    def __call__(self, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        try:
            value: T = trio.from_thread.run(partial(function, *args, **kwargs), trio_token=self._token)
            return value
        except (trio.RunFinishedError, trio.Cancelled):
            raise NotSent("this client is closed") from None

    @contextmanager
    def hold(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter and leave a context manager of the client's there."""
        value = self(manager.__aenter__)
        try:
            yield value
        except BaseException as error:
            if not self(manager.__aexit__, type(error), error, error.__traceback__):
                raise
        else:
            self(manager.__aexit__, None, None, None)


class SyncJournal:
    """``journal.client.Journal``, each call waiting for its result."""

    def __init__(self, journal: Journal, portal: _Portal) -> None:
        self._journal = journal
        self._portal = portal

    def offer(self, offer: Offer, *, timeout_s: Timeout = DEFAULT) -> Revision:
        return self._portal(self._journal.offer, offer, timeout_s=timeout_s)

    def offer_many(self, offers: Sequence[Offer], *, timeout_s: Timeout = DEFAULT) -> list[Verdict]:
        return self._portal(self._journal.offer_many, offers, timeout_s=timeout_s)

    def put(self, key: bytes, value: bytes, *, lease: int = 0, label: str = "") -> Revision:
        return self._portal(self._journal.put, key, value, lease=lease, label=label)

    def delete(self, key: bytes, *, label: str = "") -> Revision:
        return self._portal(self._journal.delete, key, label=label)

    def outcome(self, offer_id: OfferId, *, timeout_s: Timeout = DEFAULT) -> Verdict | None:
        return self._portal(self._journal.outcome, offer_id, timeout_s=timeout_s)

    def transact(
        self, function: Callable[[SyncTransaction], T], *, label: str = "", timeout_s: Timeout = DEFAULT
    ) -> T:
        """As ``Journal.transact``; ``function`` runs in a worker thread, perhaps several times."""

        async def run(transaction: Transaction) -> T:
            return await trio.to_thread.run_sync(function, SyncTransaction(transaction))

        result: T = self._portal(self._journal.transact, run, label=label, timeout_s=timeout_s)
        return result

    def get(
        self, key: bytes, *, at: int | None = None, consistency: Consistency = LINEARIZABLE
    ) -> Record | None:
        return self._portal(self._journal.get, key, at=at, consistency=consistency)

    def get_many(
        self, keys: Sequence[bytes], *, at: int | None = None, consistency: Consistency = LINEARIZABLE
    ) -> GetReply:
        return self._portal(self._journal.get_many, keys, at=at, consistency=consistency)

    def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        at: int | None = None,
        consistency: Consistency = LINEARIZABLE,
        limit: int | None = None,
    ) -> ScanReply:
        return self._portal(self._journal.scan, start, end, at=at, consistency=consistency, limit=limit)

    def revision(self, *, consistency: Consistency = LINEARIZABLE) -> Revision:
        return self._portal(self._journal.revision, consistency=consistency)

    @property
    def seen(self) -> Revision:
        return self._journal.seen

    @contextmanager
    def tail(
        self, after: int | None = None, prefixes: Sequence[bytes] = (), *, snapshot: bool = False
    ) -> Iterator[SyncTail]:
        """Follow the history; iterate over what this yields, or call its ``next``."""
        if snapshot:
            with self._portal.hold(self._journal.tail(after, prefixes, snapshot=True)) as whole:
                yield SyncTail(whole, self._portal)
        else:
            with self._portal.hold(self._journal.tail(after, prefixes)) as tail:
                yield SyncTail(tail, self._portal)

    @contextmanager
    def replica(self, *prefixes: bytes, timeout_s: Timeout = DEFAULT) -> Iterator[SyncReplica]:
        """Keep a copy of the keys under ``prefixes``."""
        with self._portal.hold(self._journal.replica(*prefixes, timeout_s=timeout_s)) as replica:
            yield SyncReplica(replica, self._portal)

    @contextmanager
    def lease(self, ttl_s: float, *, revoke: bool = True) -> Iterator[Lease]:
        """Hold a lease. The body cannot be cancelled from outside: look at ``lease.is_lost``."""
        manager = self._journal.lease(ttl_s, cancel_on_loss=False, revoke=revoke)
        with self._portal.hold(manager) as lease:
            yield lease

    def statuses(self) -> dict[str, NodeStatus | Exception]:
        return dict(self._portal(self._journal.statuses))

    def transfer_leadership(self, to: int | None = None) -> None:
        self._portal(self._journal.transfer_leadership, to)

    def compact(self, revision: int) -> None:
        self._portal(self._journal.compact, revision)


class SyncTail:
    """An iterator over a tail's messages."""

    def __init__(self, tail: Tail[Any], portal: _Portal) -> None:
        self._tail = tail
        self._portal = portal

    @property
    def revision(self) -> Revision:
        return self._tail.revision

    def __iter__(self) -> SyncTail:
        return self

    def __next__(self) -> Any:
        return self._portal(self._tail.__anext__)

    def next(self, timeout_s: float) -> TailMessage | SnapshotPage | None:
        """Return the next message, or None if there is none within ``timeout_s``."""

        async def wait() -> TailMessage | SnapshotPage | None:
            with trio.move_on_after(timeout_s):
                message: TailMessage | SnapshotPage = await self._tail.__anext__()
                return message
            return None

        return self._portal(wait)


class SyncReplica:
    """Reads of a replica from another thread than its own."""

    def __init__(self, replica: Replica, portal: _Portal) -> None:
        self._replica = replica
        self._portal = portal

    @property
    def revision(self) -> Revision:
        return self._replica.revision

    def get(self, key: bytes) -> Record | None:
        return trio.from_thread.run_sync(self._replica.get, key, trio_token=self._portal._token)

    def scan(self, start: bytes = b"", end: bytes = b"") -> list[tuple[bytes, Record]]:
        return trio.from_thread.run_sync(
            lambda: list(self._replica.scan(start, end)), trio_token=self._portal._token
        )

    def wait_for(self, revision: int) -> None:
        self._portal(self._replica.wait_for, revision)


class SyncTransaction:
    """``journal.client.Transaction`` for a function in a worker thread of the client's."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        return trio.from_thread.run(self._transaction.get, key)

    def record(self, key: bytes) -> Record | None:
        return trio.from_thread.run(self._transaction.record, key)

    def scan(self, start: bytes, end: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        return trio.from_thread.run(self._transaction.scan, start, end, limit)

    def put(self, key: bytes, value: bytes, *, lease: int = 0) -> None:
        self._transaction.put(key, value, lease=lease)

    def delete(self, key: bytes) -> None:
        self._transaction.delete(key)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._transaction.delete_range(start, end)

    def adjust(
        self,
        key: bytes,
        deltas: Mapping[str, Number],
        *,
        minimum: Mapping[str, Number] | None = None,
        maximum: Mapping[str, Number] | None = None,
    ) -> None:
        self._transaction.adjust(key, deltas, minimum=minimum, maximum=maximum)

    def set_add(self, key: bytes, field_name: str, *members: Member) -> None:
        self._transaction.set_add(key, field_name, *members)

    def set_remove(self, key: bytes, field_name: str, *members: Member) -> None:
        self._transaction.set_remove(key, field_name, *members)


@contextmanager
def connect(endpoints: Sequence[str] | str, **settings: Any) -> Iterator[SyncJournal]:
    """Open a client in a thread of its own; arguments as ``journal.client.connect``."""
    started = threading.Event()
    shared: dict[str, Any] = {}

    async def main() -> None:
        async with connect_async(endpoints, **settings) as journal:
            stop = trio.Event()
            token = trio.lowlevel.current_trio_token()
            shared.update(journal=journal, token=token, stop=stop)
            started.set()
            await stop.wait()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            shared["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=run, name="journal-client", daemon=True)
    thread.start()
    started.wait()
    if "journal" not in shared:
        thread.join()
        raise shared["error"]
    try:
        yield SyncJournal(shared["journal"], _Portal(shared["token"]))
    finally:
        try:
            trio.from_thread.run_sync(shared["stop"].set, trio_token=shared["token"])
        except trio.RunFinishedError:
            pass  # its thread has failed: that error is raised below
        thread.join()
    if "error" in shared:
        raise shared["error"]
