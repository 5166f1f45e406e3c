"""Leases at the leader: kept alive without journal writes, and ended by an offer."""

from __future__ import annotations

from collections.abc import Callable

from structlog.typing import FilteringBoundLogger

from journal.admission import Admission
from journal.barriers import ReadReply
from journal.counters import Counters
from journal.errors import JournalError, LeaseNotFound, Overloaded, Unavailable
from journal.gate import unpack_batch
from journal.lease_clock import LeaseClock
from journal.limits import Limits
from journal.node_config import Clock
from journal.offers import LeaseRevoke, Offer, Verdict, pack_batch, pack_offer
from journal.space import Space
from journal.standing import Standing
from journal.types import Revision


class LeaseKeeper:
    """Owns the lease clock of a node; ``journal.lease_clock`` has its rules."""

    def __init__(
        self,
        space: Space,
        standing: Standing,
        admission: Admission,
        limits: Limits,
        clock: Clock,
        counters: Counters,
        log: FilteringBoundLogger,
    ) -> None:
        self._leases = LeaseClock()
        self._space = space
        self._standing = standing
        self._admission = admission
        self._limits = limits
        self._clock = clock
        self._counters = counters
        self._logger = log

    def lead(self, now: float) -> None:
        """This node leads from now on: every lease gets a full term."""
        self._leases.lead(self._space.leases, now)

    def follow(self) -> None:
        self._leases.follow()

    def tick(self, now: float) -> None:
        """End what has run out."""
        for lease in self._leases.tick(self._space.leases, now):
            self._expire(lease)

    def keep_alive(
        self,
        lease: int,
        read_barrier: Callable[[ReadReply], None],
        reply: Callable[[int | JournalError], None],
    ) -> None:
        """See ``Node.keep_alive``. ``read_barrier`` says that this node still led after it was called."""
        if not self._standing.leads:
            raise self._standing.leader_error()
        since = self._clock.now()

        def confirmed(result: Revision | JournalError) -> None:
            if isinstance(result, JournalError):
                reply(result)
                return
            term = self._space.leases.get(lease)
            if term is None:
                reply(LeaseNotFound(lease))
            elif not self._standing.leads:
                reply(self._standing.leader_error())
            elif self._leases.is_expiring(lease):
                reply(Unavailable(f"lease {lease} is expiring"))
            else:
                self._leases.renew(lease, term.ttl_ms, since)
                reply(term.ttl_ms)

        read_barrier(confirmed)

    def _expire(self, lease: int) -> None:
        offer = pack_offer(0, Offer(mutations=(LeaseRevoke(lease),), label=f"lease {lease} expired"))
        batch = unpack_batch(pack_batch(b"", 0, self._space.revision, [offer]), self._limits)

        def folded(result: list[Verdict] | JournalError) -> None:
            if isinstance(result, JournalError):
                self._leases.retry(lease)
            else:
                self._counters.leases_expired += 1
                self._logger.info("lease.expired", lease=lease, revision=self._space.revision)

        try:
            self._admission.submit(batch, folded)
        except Overloaded:
            self._leases.retry(lease)
