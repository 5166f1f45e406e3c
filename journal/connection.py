"""The port between the client and one node: what a connection can do, and nothing of how.

``journal.rpc.connection`` implements it over gRPC; ``journal.connection_local`` goes
straight to a ``journal.node.Node`` of the same thread, for tests and simulation. The
client (``journal.client``) knows only this port, so it runs the same over both.

What holds for every method of a connection:

* It runs under trio, may be called by many tasks at once, and may be cancelled at any
  checkpoint. A cancelled call may or may not have had its effect.
* It raises only ``journal.errors``. A lost connection, a refused one, a reply that does
  not come and a node that stops are all ``Unavailable``; then nobody knows whether the
  call had its effect, and the client's business is to ask again under the same offer id.
* No call waits for ever on a dead transport: the implementation notices within seconds
  (keep-alive) and raises ``Unavailable``. A node that is alive but cannot answer (no
  quorum) may keep a caller waiting: deadlines are the caller's, by cancellation.
* It does not retry, does not redirect and does not cache. All of that is the client's.
* It outlives failures: after ``Unavailable`` it may be used again, and then tries anew to
  reach its node. The client keeps one connection an endpoint for as long as it lives.

This module must not import grpc, asyncio or the node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from journal.errors import Unavailable
from journal.types import NodeId, Revision, Slot

if TYPE_CHECKING:
    from journal.commits import Commit
    from journal.node import NodeMember, NodeStatus
    from journal.offers import Verdict
    from journal.pages import Page
    from journal.paxos.changes import MemberChange
    from journal.snapshots.serve import SnapshotPart
    from journal.versions import Record


_REVISION_NONE = Revision(0)


class NotSent(Unavailable):
    """The request certainly never reached the node (refused connection, closed client).

    An implementation that knows this may say so, and the caller of an offer then learns
    that it was not committed, in place of "perhaps". Where in doubt: ``Unavailable``.
    """


class Level(Enum):
    """How fresh a read must be."""

    LINEARIZABLE = "linearizable"
    """At or after every offer that was answered before the read began."""
    AT_LEAST = "at_least"
    """At the named revision or later; a node that is behind it waits until it is not."""
    LOCAL = "local"
    """Whatever the asked node has."""


@dataclass(frozen=True, slots=True)
class Consistency:
    """A level, and for ``AT_LEAST`` its revision (0 for the others)."""

    level: Level
    revision: Revision = _REVISION_NONE


LINEARIZABLE = Consistency(Level.LINEARIZABLE)
LOCAL = Consistency(Level.LOCAL)


def at_least(revision: int) -> Consistency:
    """Return the consistency "at ``revision`` or later"."""
    return Consistency(Level.AT_LEAST, Revision(revision))


class GetReply(NamedTuple):
    """Records of the asked keys, in the asked order; None where the key is absent."""

    revision: Revision
    """The revision that was read: ``at`` if it was given, else the node's present one."""
    records: list[Record | None]


class ScanReply(NamedTuple):
    """One page of a range in key order."""

    revision: Revision
    """The revision that was read: pass it as ``at`` of the next page."""
    items: Page
    """Its keys, each with its record: a sequence of such pairs."""
    next_key: bytes | None
    """Where the next page starts; None after the last page."""


class TailMessage(NamedTuple):
    """What happened from ``first`` to ``last``, both included, without a gap.

    A progress message of an idle tail covers nothing: ``first == last + 1`` and no
    commits. The first message of a tail ``after`` has ``first == after + 1``, and each
    next one starts where the one before it ended: the receiver checks that.
    """

    first: Revision
    last: Revision
    commits: Sequence[Commit]
    """In revision order, only those that touch an asked prefix (with only their changes
    under asked prefixes); all of them where no prefix was asked for."""
    current: Revision
    """The node's revision when it sent this: ``current - last`` is how far the tail lags."""


class Connection(Protocol):
    """A connection to one node. See the module's docstring for what holds everywhere."""

    @property
    def endpoint(self) -> str:
        """The address it was connected to, such as ``127.0.0.1:7401``."""
        ...

    async def submit(self, data: bytes) -> list[Verdict]:
        """Submit one packed batch (``journal.offers.pack_batch``); return its verdicts in order.

        Raises ``NotLeader``, ``Overloaded``, ``OfferInvalid``, ``WrongCluster`` (nothing of the
        batch was proposed) or ``Unavailable`` (unknown). Many may be in flight at once; the
        node takes them in the order in which the calls were made.
        """
        ...

    async def get(self, keys: Sequence[bytes], *, at: Revision | None, consistency: Consistency) -> GetReply:
        """Read keys at one revision: ``at``, or the present one after the consistency's barrier.

        No keys at all is allowed: that asks for the revision only.

        Raises ``RevisionCompacted``, ``RevisionInFuture`` (``at`` is beyond the node after the
        barrier), ``InvalidRequest``, ``Overloaded``, ``Unavailable``.
        """
        ...

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        at: Revision | None,
        consistency: Consistency,
        limit_keys: int,
        limit_bytes: int = 0,
    ) -> ScanReply:
        """Read one page of start <= key < end (``end=b""``: no upper bound).

        A page ends at ``limit_keys``, ``limit_bytes`` (0: the node's own) or the node's limits,
        whichever comes first, but holds at least one key if there is one. Errors as ``get``.
        """
        ...

    def tail(
        self, after: Revision, prefixes: Sequence[bytes], *, progress_interval_s: float = 1.0
    ) -> AbstractAsyncContextManager[AsyncIterator[TailMessage]]:
        """Open a stream of messages that starts at revision ``after + 1``; leaving closes it.

        ``prefixes`` empty means all keys. The node sends a progress message at once if there is
        nothing to send, and whenever it has sent nothing for ``progress_interval_s``: so a
        receiver that hears nothing for several times as long knows that the stream is dead.

        Entering or iterating raises ``RevisionCompacted`` (history after ``after`` is trimmed),
        ``RevisionInFuture`` (``after`` is beyond this node), ``Overloaded`` or ``Unavailable``.
        The stream never ends without an error: a node that stops raises ``Unavailable``.
        """
        ...

    async def lease_keep_alive(self, lease: int) -> int:
        """Give a lease a full term from now; return the term in ms.

        Raises ``LeaseNotFound`` (for certain: it is gone), ``NotLeader``, ``Unavailable``.
        Granting and revoking are offers (``LeaseGrant``, ``LeaseRevoke``), so that they are
        exactly once; there are no calls for them here.
        """
        ...

    async def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        """Return what became of an offer id, after a linearizable barrier; None: never applied so far.

        Raises ``Unavailable``, ``Overloaded``.
        """
        ...

    async def status(self) -> NodeStatus:
        """Return what this node says of itself."""
        ...

    async def transfer_leadership(self, to: NodeId | None) -> None:
        """Hand leadership to ``to`` (None: whoever is most caught up). Returns once it is handed over.

        Raises ``NotLeader``, ``InvalidRequest`` (not a voter), ``Unavailable``.
        """
        ...

    async def compact(self, revision: Revision) -> None:
        """Forget history below ``revision``. Raises ``NotLeader``, ``RevisionInFuture``, ``Unavailable``."""
        ...

    async def change_members(self, change: MemberChange) -> tuple[NodeMember, ...]:
        """Add, promote or remove one node; return the members after it, once it is chosen.

        Raises ``NotLeader``, ``InvalidRequest`` (it makes no sense), ``Unavailable`` (not now).
        """
        ...

    async def chain(self, slot: Slot) -> bytes | None:
        """Return the hash chain after folding ``slot``; None where the node has no record of it."""
        ...

    async def read_snapshot(self, view: int, after: bytes) -> SnapshotPart:
        """Return the records that follow the key ``after`` of the snapshot ``view``.

        ``view`` is a random number of the caller's; with an empty ``after`` it is opened, and shows every
        offer that was answered before. Raises ``Unavailable`` where it is not open any more, or not now.
        """
        ...

    async def aclose(self) -> None:
        """Close it. Calls in flight raise ``Unavailable``. Idempotent."""
        ...


class Connector(Protocol):
    """Makes connections. One per client; it owns whatever they share (a channel pool, a thread)."""

    async def connect(self, endpoint: str) -> Connection:
        """Return a connection to ``endpoint`` (``host:port``).

        It may connect lazily: then the first call raises. Raises ``Unavailable`` or
        ``WrongCluster`` (the node belongs to another cluster than the one expected).
        """
        ...

    async def aclose(self) -> None:
        """Release what the connections share, after all of them are closed. Idempotent."""
        ...
