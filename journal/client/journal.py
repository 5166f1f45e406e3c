"""``connect``: the client of the journal, as programs use it.

.. code-block:: python

    async with connect(["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]) as journal:
        revision = await journal.put(b"greeting", b"hello")
        record = await journal.get(b"greeting")

It runs under a plain ``trio.run``. All of its background tasks (submit workers, tails, lease
keepers, replicas) live in the one nursery that ``connect`` opens and closes. It needs the
network only once something is asked of it, so it can be opened before the journal is up.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import trio

from journal.client.config import ClientConfig
from journal.client.errors import LeaseLost, OfferId, OfferRejected, OfferUnknown
from journal.client.leases import LEASE_ID_BITS, Lease
from journal.client.members import change_members, follow_members, leader_status
from journal.client.reads import PAGE_KEYS_MAX, Pages, Reads
from journal.client.router import Counters, Router
from journal.client.snapshots import snapshot_parts
from journal.client.submitter import Submitter
from journal.client.tails import SnapshotPage, Tail
from journal.client.transactions import RETRIED, Transaction, new_transaction
from journal.connection import (
    LINEARIZABLE,
    Connection,
    Connector,
    Consistency,
    GetReply,
    NotSent,
    ScanReply,
    TailMessage,
)
from journal.errors import InvalidRequest, JournalError, NotLeader, Overloaded, RevisionCompacted, Unavailable
from journal.limits import LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN
from journal.offers import Delete, LeaseGrant, LeaseRevoke, Offer, Put, Reason, Rejected, Verdict
from journal.paxos.changes import MemberChange
from journal.types import NodeId, Revision

if TYPE_CHECKING:
    from journal.node import NodeMember, NodeStatus
    from journal.replica import Replica
    from journal.snapshots.serve import SnapshotPart
    from journal.versions import Record

T = TypeVar("T")

CLOSE_TIMEOUT_S = 2.0
GRANT_ATTEMPTS_MAX = 3


class _Default:
    """Stands for "as configured" where None means "no limit"."""


DEFAULT = _Default()
Timeout = float | _Default | None
"""Seconds; None: no limit; left out: the client's ``timeout_s``."""


class Journal:
    """A client. Make one with ``connect``; any number of tasks may use it at once.

    ``timeout_s`` of a method is for the whole call, retries included; None: no limit.
    Every method raises ``Unavailable`` when that time is over, unless it says more.
    """

    def __init__(self, router: Router, nursery: trio.Nursery) -> None:
        self._router = router
        self._nursery = nursery
        self._reads = Reads(router)
        self._submitter = Submitter(router)

    # -- offers -----------------------------------------------------------------------

    async def offer(self, offer: Offer, *, timeout_s: Timeout = DEFAULT) -> Revision:
        """Commit ``offer``, exactly once whatever happens on the way, and return its revision.

        Raises ``OfferRejected`` with the receipt; ``OfferUnknown`` if it may be committed, but
        that could not be learned in time; ``Unavailable`` or ``Overloaded`` if it was not
        submitted and never will be; ``OfferInvalid``. If the caller is cancelled, the offer
        may still be committed.
        """
        verdict = await self._submitter.offer(offer, self._timeout(timeout_s))
        if isinstance(verdict, int):
            return Revision(verdict)
        assert isinstance(verdict, Rejected), verdict  # ``Expired`` never leaves the submitter
        raise OfferRejected(verdict)

    async def offer_many(self, offers: Sequence[Offer], *, timeout_s: Timeout = DEFAULT) -> list[Verdict]:
        """Submit many offers, coalesced; return the verdict of each (an int: its revision).

        They are submitted in order, and in the absence of failures decided in order; an offer
        that must follow another one is made when the other has its verdict. Raises
        ``OffersUnresolved``, which holds what became of each, if some have no verdict.
        """
        return await self._submitter.offer_many(offers, self._timeout(timeout_s))

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        lease: int = 0,
        label: str = "",
        timeout_s: Timeout = DEFAULT,
    ) -> Revision:
        """Set ``key`` without any condition. Errors as ``offer``."""
        return await self.offer(Offer((Put(key, value, lease),), label=label), timeout_s=timeout_s)

    async def delete(self, key: bytes, *, label: str = "", timeout_s: Timeout = DEFAULT) -> Revision:
        """Delete ``key`` without any condition. Errors as ``offer``."""
        return await self.offer(Offer((Delete(key),), label=label), timeout_s=timeout_s)

    async def outcome(self, offer_id: OfferId, *, timeout_s: Timeout = DEFAULT) -> Verdict | None:
        """Return what became of an offer that ended in ``OfferUnknown``.

        For an offer of this client, waits until it is settled; None means that it was not
        committed and never will be. For another client's, asks the journal: None means
        that it has not been applied so far, and ``Expired`` that it is forgotten.
        """
        timeout = self._timeout(timeout_s)
        if offer_id.client == self._submitter.client:
            with trio.move_on_after(float("inf") if timeout is None else timeout):
                try:
                    return await self._submitter.settled(offer_id.sequence)
                except KeyError:
                    raise InvalidRequest("offer_id", f"{offer_id} is not waiting to be settled") from None
            raise Unavailable(f"offer {offer_id} could not be settled within {timeout:g} s")

        async def call(connection: Connection) -> Verdict | None:
            return await connection.outcome(offer_id.client, offer_id.sequence)

        return await self._router.anywhere(call, timeout)

    async def transact(
        self,
        function: Callable[[Transaction], Awaitable[T]],
        *,
        label: str = "",
        timeout_s: Timeout = DEFAULT,
    ) -> T:
        """Run ``function`` and commit what it wrote, if what it read still holds; else run it again.

        Returns what it returned. An exception in it ends the transaction without any effect.
        Raises ``OfferRejected`` if it still meets a conflict after ``conflict_attempts_max``
        runs, or if it is rejected for what it wrote (bounds, a missing key); errors as ``offer``.
        ``timeout_s`` is for each of its reads, and for the commit.
        """
        config, rng = self._router.config, self._router.rng
        timeout = self._timeout(timeout_s)
        for attempt in itertools.count(1):
            transaction = new_transaction(self._reads, timeout, label)
            conflict: OfferRejected | RevisionCompacted
            try:
                value = await function(transaction)
            except RevisionCompacted as compacted:  # it took so long that its revision is gone
                conflict = compacted
            else:
                offer = transaction.offer()
                if offer is None:
                    return value
                try:
                    transaction.revision = await self.offer(offer, timeout_s=timeout)
                    return value
                except OfferRejected as rejected:
                    if rejected.receipt.reason not in RETRIED:
                        raise
                    conflict = rejected
            self._router.counters.conflicts += 1
            if attempt >= config.conflict_attempts_max:
                raise conflict
            # Those who collide come apart: the wait grows with the number of collisions.
            await trio.sleep(rng.uniform(0, min(config.backoff_max_s, 0.001 * 2.0**attempt)))
        raise AssertionError("unreachable")

    # -- reads --------------------------------------------------------------------------

    async def get(
        self,
        key: bytes,
        *,
        at: int | None = None,
        consistency: Consistency = LINEARIZABLE,
        timeout_s: Timeout = DEFAULT,
    ) -> Record | None:
        """Return the record of ``key`` (``.value``, ``.mod``, …), or None if it is absent.

        ``at`` reads the past; raises ``RevisionCompacted`` or ``RevisionInFuture``.
        """
        return await self._reads.get(key, at, consistency, self._timeout(timeout_s))

    async def get_many(
        self,
        keys: Sequence[bytes],
        *,
        at: int | None = None,
        consistency: Consistency = LINEARIZABLE,
        timeout_s: Timeout = DEFAULT,
    ) -> GetReply:
        """Return the records of ``keys``, in their order, all at one revision. Errors as ``get``."""
        return await self._reads.get_many(keys, at, consistency, self._timeout(timeout_s))

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        at: int | None = None,
        consistency: Consistency = LINEARIZABLE,
        limit: int | None = None,
        timeout_s: Timeout = DEFAULT,
    ) -> ScanReply:
        """Return start <= key < end in order (``end=b""``: no upper bound), all at one revision.

        With a ``limit``, ``next_key`` says where to go on (with ``at=reply.revision``). For a
        prefix: ``scan(*prefix_range(b"prefix"))``. Errors as ``get``. ``timeout_s`` is per page.
        """
        return await self._reads.scan(start, end, at, consistency, limit, self._timeout(timeout_s))

    async def scan_page(
        self,
        start: bytes,
        end: bytes,
        *,
        at: int | None = None,
        consistency: Consistency = LINEARIZABLE,
        limit_keys: int = PAGE_KEYS_MAX,
        timeout_s: Timeout = DEFAULT,
    ) -> ScanReply:
        """Return one page as the node cut it: at most ``limit_keys``; the next is at ``next_key``."""
        timeout = self._timeout(timeout_s)
        return await self._reads.page(start, end, at, consistency, limit_keys, timeout)

    def scan_pages(
        self,
        start: bytes,
        end: bytes,
        *,
        at: int | None = None,
        consistency: Consistency = LINEARIZABLE,
        timeout_s: Timeout = DEFAULT,
    ) -> Pages:
        """Iterate over a range that may be too large to hold, page by page, all at one revision."""
        return self._reads.pages(start, end, at, consistency, None, self._timeout(timeout_s))

    async def revision(
        self, *, consistency: Consistency = LINEARIZABLE, timeout_s: Timeout = DEFAULT
    ) -> Revision:
        """Return the journal's present revision."""
        return await self._reads.revision(consistency, self._timeout(timeout_s))

    @property
    def seen(self) -> Revision:
        """The highest revision that this client has been told of; it never goes back behind it."""
        return self._router.seen

    # -- tails and replicas ---------------------------------------------------------------

    @overload
    def tail(
        self, after: int | None = None, prefixes: Sequence[bytes] = (), *, snapshot: Literal[False] = False
    ) -> AbstractAsyncContextManager[Tail[TailMessage]]: ...

    @overload
    def tail(
        self, after: int | None = None, prefixes: Sequence[bytes] = (), *, snapshot: Literal[True]
    ) -> AbstractAsyncContextManager[Tail[TailMessage | SnapshotPage]]: ...

    def tail(
        self, after: int | None = None, prefixes: Sequence[bytes] = (), *, snapshot: bool = False
    ) -> AbstractAsyncContextManager[Tail[Any]]:
        """Follow the history from revision ``after + 1`` on (None: from now on).

        ``snapshot``: begin with the space as it is (if ``after`` is None), and do so again
        wherever the history needed is compacted. Goes on for ever, whatever happens to nodes.

        .. code-block:: python

            async with journal.tail(after=0) as tail:
                async for message in tail:
                    for commit in message.commits: ...
        """
        return self._tail(after, prefixes, snapshot)

    @asynccontextmanager
    async def _tail(
        self, after: int | None, prefixes: Sequence[bytes], snapshot: bool
    ) -> AsyncIterator[Tail[Any]]:
        tail: Tail[Any] = Tail(self._router, self._reads, after, prefixes, snapshot)
        await tail.prepare(self._timeout(DEFAULT))
        with _Background(self._nursery) as start_soon:
            start_soon(tail.run)
            yield tail

    @asynccontextmanager
    async def replica(self, *prefixes: bytes, timeout_s: Timeout = None) -> AsyncIterator[Replica]:
        """Keep a copy of all keys under ``prefixes`` (none: of everything), ready when entered.

        ``timeout_s`` is for getting ready.
        """
        from journal.replica import Replica

        async with self.tail(None, prefixes, snapshot=True) as tail:
            replica = Replica(tail)
            with _Background(self._nursery) as start_soon:
                start_soon(replica.run)
                timeout = self._timeout(timeout_s)
                with trio.move_on_after(float("inf") if timeout is None else timeout) as scope:
                    await replica.wait_ready()
                if scope.cancelled_caught:
                    raise Unavailable(f"the replica could not be filled within {timeout:g} s")
                yield replica

    # -- leases ---------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(
        self,
        ttl_s: float,
        *,
        cancel_on_loss: bool = True,
        revoke: bool = True,
        timeout_s: Timeout = DEFAULT,
    ) -> AsyncIterator[Lease]:
        """Hold a lease that is kept alive until the body ends, and then revoked.

        When the lease is known to be lost, ``lease.lost`` is set; with ``cancel_on_loss`` the
        body is cancelled then, and ``LeaseLost`` raised. ``revoke=False`` leaves the bound
        keys to the lease's own end (a program that restarts soon may want that).
        """
        lease = await self._grant(ttl_s, self._timeout(timeout_s))
        with _Background(self._nursery) as start_soon:
            start_soon(lease.keep, cancel_on_loss)
            try:
                with lease.scope if cancel_on_loss else nullcontext():
                    yield lease
            finally:
                lease.release()
                if revoke and not lease.lost.is_set():
                    await self._revoke(lease)
        if lease.scope.cancelled_caught:
            raise LeaseLost(lease.id)

    async def keep_alive(self, lease: int, *, timeout_s: Timeout = DEFAULT) -> int:
        """Give a lease, whoever granted it, a full term from now; return the term in ms.

        Raises ``LeaseNotFound``. A lease held by ``Journal.lease`` needs no such call.
        """

        async def call(connection: Connection) -> int:
            return await connection.lease_keep_alive(lease)

        return await self._at_leader(call, self._timeout(timeout_s), repeat=True)

    async def _grant(self, ttl_s: float, timeout_s: float | None) -> Lease:
        ttl_ms = round(ttl_s * 1000)
        if not LEASE_TTL_MS_MIN <= ttl_ms <= LEASE_TTL_MS_MAX:
            raise InvalidRequest(
                "ttl_s", f"{ttl_s:g} is not within {LEASE_TTL_MS_MIN / 1000:g} to {LEASE_TTL_MS_MAX / 1000:g}"
            )
        for attempt in range(GRANT_ATTEMPTS_MAX):
            lease = Lease(self._router, self._router.rng.getrandbits(LEASE_ID_BITS) + 1, ttl_s)
            asked = trio.current_time()
            try:
                with _Background(self._nursery) as start_soon:
                    start_soon(lease.keep_while_asked_for)
                    await self.offer(Offer((LeaseGrant(lease.id, ttl_ms),)), timeout_s=timeout_s)
            except OfferRejected as rejected:
                if rejected.receipt.reason is not Reason.LEASE or attempt + 1 == GRANT_ATTEMPTS_MAX:
                    raise
            else:
                lease.sure_until = max(lease.sure_until, asked + ttl_ms / 1000)
                return lease
        raise AssertionError("unreachable")

    async def _revoke(self, lease: Lease) -> None:
        """End a lease early; if that does not work, it ends by itself."""
        with trio.CancelScope(shield=True):
            try:
                await self.offer(Offer((LeaseRevoke(lease.id),)), timeout_s=CLOSE_TIMEOUT_S)
            except (JournalError, OfferRejected, OfferUnknown):
                pass

    # -- operations -------------------------------------------------------------------------

    async def status(self, endpoint: str | None = None, *, timeout_s: Timeout = DEFAULT) -> NodeStatus:
        """Return what the node at ``endpoint`` says of itself (None: any node)."""
        timeout = self._timeout(timeout_s)

        async def call(connection: Connection) -> NodeStatus:
            return await connection.status()

        if endpoint is None:
            return await self._router.anywhere(call, timeout)
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            return await call(await self._router.connection(endpoint))
        raise Unavailable(f"{endpoint} did not answer within {timeout:g} s")

    async def statuses(self, *, timeout_s: Timeout = DEFAULT) -> dict[str, NodeStatus | JournalError]:
        """Return what each endpoint that the client was given says of itself, or why it does not."""
        found: dict[str, NodeStatus | JournalError] = {}

        async def ask(endpoint: str) -> None:
            try:
                found[endpoint] = await self.status(endpoint, timeout_s=timeout_s)
            except JournalError as error:
                found[endpoint] = error

        async with trio.open_nursery() as nursery:
            for endpoint in self._router.endpoints:
                nursery.start_soon(ask, endpoint)
        return {endpoint: found[endpoint] for endpoint in sorted(found)}

    async def transfer_leadership(self, to: int | None = None, *, timeout_s: Timeout = DEFAULT) -> None:
        """Hand the leadership to node ``to`` (None: to whoever knows most)."""

        async def call(connection: Connection) -> None:
            await connection.transfer_leadership(None if to is None else NodeId(to))

        await self._at_leader(call, self._timeout(timeout_s))

    async def members(self, *, timeout_s: Timeout = DEFAULT) -> tuple[NodeMember, ...]:
        """Return the members of the cluster, as its leader knows them."""
        return (await leader_status(self._router, self._timeout(timeout_s))).members

    async def change_members(
        self, change: MemberChange, *, timeout_s: Timeout = DEFAULT
    ) -> tuple[NodeMember, ...]:
        """Add a learner, promote one, or remove a member (``journal.paxos.changes``); return the
        members after it. While another change is under way it waits for its turn.

        Raises ``InvalidRequest`` (it makes no sense), ``ChangeRefused`` (it would do harm as things are:
        the majority would be lost, the learner lags) or ``Unavailable``: then it may have been made.
        """
        return await change_members(self._router, change, self._timeout(timeout_s))

    async def compact(self, revision: int, *, timeout_s: Timeout = DEFAULT) -> None:
        """Forget history below ``revision`` on all nodes. Raises ``RevisionInFuture``."""

        async def call(connection: Connection) -> None:
            await connection.compact(Revision(revision))

        await self._at_leader(call, self._timeout(timeout_s), repeat=True)

    def snapshot(self, *, timeout_s: Timeout = DEFAULT) -> AsyncGenerator[SnapshotPart, None]:
        """Yield a consistent copy of the whole space, part by part, from one node; close it after use
        (``contextlib.aclosing``). ``timeout_s`` is for finding a node that gives one; a part of its own
        takes seconds. Raises ``Unavailable`` where it breaks off: begin again."""
        return snapshot_parts(self._router, self._timeout(timeout_s))

    async def _at_leader(
        self, call: Callable[[Connection], Awaitable[T]], timeout_s: float | None, *, repeat: bool = False
    ) -> T:
        """Find the leader and make one call there.

        "Not the leader" and "never sent" are tried again; "unavailable" only if the call may ``repeat``.
        """
        limit = float("inf") if timeout_s is None else timeout_s
        attempt_s = min(limit, self._router.config.attempt_timeout_s) if repeat else limit
        with trio.move_on_after(limit):
            while True:
                try:
                    return await self._router.at_leader(call, attempt_s)
                except (NotLeader, NotSent):
                    if self._router.closed:
                        raise
                except Overloaded as error:
                    await trio.sleep(error.retry_after_ms / 1000 * self._router.rng.uniform(1.0, 1.5))
                except Unavailable:
                    if not repeat:
                        raise
        raise Unavailable(f"no leader answered within {limit:g} s; the last trouble: {self._router.trouble}")

    @property
    def counters(self) -> Counters:
        """What this client went through so far."""
        return self._router.counters

    def _timeout(self, timeout_s: Timeout) -> float | None:
        return self._router.config.timeout_s if isinstance(timeout_s, _Default) else timeout_s


class _Background:
    """Tasks in the client's nursery that are cancelled when a block ends.

    A nursery of the block's own would wrap every exception of its body in a group, which is
    no way to treat the users of a library.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scope = trio.CancelScope()

    def __enter__(self) -> Callable[..., None]:
        if self._nursery.cancel_scope.cancel_called:
            raise Unavailable("this client is closed")
        return self._start_soon

    def __exit__(self, *exception: object) -> None:
        self._scope.cancel()

    def _start_soon(self, function: Callable[..., Awaitable[None]], *arguments: object) -> None:
        async def run() -> None:
            with self._scope:
                await function(*arguments)

        self._nursery.start_soon(run)


class connect(AbstractAsyncContextManager[Journal]):
    """Open a client of the journal whose nodes are at ``endpoints``, each ``host:port``.

    A list, or a text with commas between. One that runs is enough; name all, so that any may die. Those that
    come later are learned from these.

    ``cluster``: the id that the nodes' cluster must have; None: not checked.
    ``connector``: how to reach nodes; None: gRPC.
    ``rng``: where the client id, lease ids and jitter come from. Two clients must not be given
    generators of the same seed. None: seeded by the operating system.
    """

    def __init__(
        self,
        endpoints: Sequence[str] | str,
        *,
        cluster: str | None = None,
        config: ClientConfig | None = None,
        connector: Connector | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if isinstance(endpoints, str):
            endpoints = [part.strip() for part in endpoints.split(",") if part.strip()]
        config = config or ClientConfig()
        config.validate()
        if connector is None:
            from journal.rpc.connection import GrpcConnector

            for index, endpoint in enumerate(endpoints):
                host, _colon, port = endpoint.rpartition(":")
                if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
                    raise InvalidRequest(f"endpoints[{index}]", f"{endpoint!r} is not of the form host:port")
            connector = GrpcConnector(cluster=cluster)
        self._router = Router(endpoints, connector, config, rng or random.Random())
        self._manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Journal:
        assert self._manager is None, "a client is opened once"
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        journal = Journal(self._router, self._nursery)
        try:
            await self._nursery.start(journal._submitter.run)
            self._nursery.start_soon(follow_members, self._router)
        except BaseException as error:  # cancelled: nobody will call ``__aexit__``
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return journal

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._manager is not None
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        try:
            if isinstance(error, trio.Cancelled):
                # It may be of the nursery's own scope, cancelled because a background task failed.
                return bool(await self._manager.__aexit__(kind, error, traceback))
            # The body's own exception stays as it is: it is not wrapped in a group.
            await self._manager.__aexit__(None, None, None)
            return False
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await self._router.aclose()
