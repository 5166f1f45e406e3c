"""Leases that are kept alive, and whose loss is told.

Three states of a held lease, and only the last is a fact about the journal:

* *sure*: a keep-alive was answered less than a term ago, counted from before it was sent. The
  leader's clock started later, so the lease lives at least until ``sure_until``.
* *unsure*: no keep-alive has been answered for a term (the journal is away, say). The lease may
  well live: a new leader gives every lease a full term. What must stop without proof of
  the lease stops here, by looking at ``sure_until``.
* *lost*: the leader says that there is no such lease. Its keys are deleted. ``lost`` is set,
  and the body of ``journal.lease`` is cancelled if it asked for that.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress

import trio

from journal.client.router import Router
from journal.connection import Connection
from journal.errors import JournalError, LeaseNotFound

log = logging.getLogger("journal.client")

KEEP_ALIVES_PER_TERM = 3
LEASE_ID_BITS = 52
"""Readers of JSON keep 53 bits of a number."""


class Lease:
    """A lease that this client holds; put keys with ``lease=lease.id``."""

    def __init__(self, router: Router, lease: int, ttl_s: float) -> None:
        self.id = lease
        self.ttl_s = ttl_s
        self.lost = trio.Event()
        """Set when the lease is known to be gone."""
        self.sure_until = -math.inf
        """On ``trio.current_time()``: the lease surely lives until then."""
        self.scope = trio.CancelScope()
        """Cancelled when the lease is lost; the body of ``journal.lease`` runs in it."""
        self._router = router
        self._keeper = trio.CancelScope()

    @property
    def sure(self) -> bool:
        """Whether the lease surely lives now."""
        return not self.lost.is_set() and trio.current_time() < self.sure_until

    @property
    def is_lost(self) -> bool:
        """Whether the lease is known to be gone."""
        return self.lost.is_set()

    def __repr__(self) -> str:
        return f"<Lease {self.id} ttl_s={self.ttl_s:g}{' lost' if self.lost.is_set() else ''}>"

    async def keep_while_asked_for(self) -> None:
        """Keep it alive in case it was granted, until cancelled. A verdict may come later than a term lasts:
        offers that travelled with it may wait for a slow disk."""
        interval = self.ttl_s / KEEP_ALIVES_PER_TERM
        while True:
            await trio.sleep(interval)
            with suppress(JournalError):  # among others: there is no such lease, so far
                await self._renew(interval)

    async def keep(self, cancel_on_loss: bool) -> None:
        """Keep it alive until cancelled or lost."""
        interval = self.ttl_s / KEEP_ALIVES_PER_TERM
        backoff = self._router.backoff()
        delay = interval
        with self._keeper:
            while True:
                await trio.sleep(delay)
                try:
                    await self._renew(interval)
                except LeaseNotFound:
                    break
                except JournalError as error:
                    log.info("lease %d could not be kept alive yet: %s", self.id, error)
                    delay = min(interval, backoff.next_s())
                else:
                    backoff.reset()
                    delay = interval * self._router.rng.uniform(0.8, 1.0)
            log.warning("lease %d is lost", self.id)
            self.lost.set()
            if cancel_on_loss:
                self.scope.cancel()

    async def _renew(self, interval: float) -> None:
        """Have the leader keep it alive for a term from now. Raises ``JournalError``."""

        async def keep_alive(connection: Connection) -> int:
            return await connection.lease_keep_alive(self.id)

        asked = trio.current_time()
        ttl_ms = await self._router.at_leader(keep_alive, max(interval, 0.1), is_urgent=True)
        self.sure_until = asked + ttl_ms / 1000

    def release(self) -> None:
        """Stop keeping it alive."""
        self._keeper.cancel()
