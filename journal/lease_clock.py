"""When leases end, as the leader sees it. PURE.

A lease itself is in the space: granted, bound and revoked by offers. Only its clock
is here, at the leader, so that keeping a lease alive costs no journal write. Three
rules keep that clock from ending a lease too early (too late is harmless):

* a new leader gives every lease a full term, because it knows no older clock;
* a keep-alive counts from the moment it arrived, and is answered only after a quorum
  has confirmed the leadership since (a read-index round, no disk), so a deposed
  leader cannot promise a term that its successor does not grant;
* time in which this process did not run (paused, or its loop stuck) is not counted:
  the keep-alives of that time sit unread in the sockets. A slow disk stops neither
  this clock nor the keep-alives, as no write stands in their way.

Expiry is itself an offer, ``LeaseRevoke``; until it is folded the lease lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

STALL_S = 0.5
"""A tick that comes this much later than the last one shows that the process stood still."""


class LeaseTerm(Protocol):
    """What is needed of ``journal.space``'s lease record."""

    @property
    def ttl_ms(self) -> int: ...


class LeaseClock:
    """The deadlines of all leases, while this node leads; empty otherwise."""

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}
        self._expiring: set[int] = set()
        self._ticked: float | None = None

    def lead(self, leases: Mapping[int, LeaseTerm], now: float) -> None:
        """Start to lead: every lease gets a full term."""
        self._ticked = now
        self._expiring.clear()
        self._deadlines = {lease: now + term.ttl_ms / 1000 for lease, term in leases.items()}

    def follow(self) -> None:
        self._deadlines.clear()
        self._expiring.clear()
        self._ticked = None

    def is_expiring(self, lease: int) -> bool:
        return lease in self._expiring

    def renew(self, lease: int, ttl_ms: int, since: float) -> None:
        """Give ``lease`` a term from ``since``; never shortens what it has."""
        if lease not in self._expiring:
            self._deadlines[lease] = max(self._deadlines.get(lease, 0.0), since + ttl_ms / 1000)

    def retry(self, lease: int) -> None:
        """Its expiry could not be proposed: it may be tried again."""
        self._expiring.discard(lease)

    def tick(self, leases: Mapping[int, LeaseTerm], now: float) -> list[int]:
        """Return the leases whose term is over, each once, in the order of their ids."""
        if self._ticked is None:
            return []
        stalled = now - self._ticked
        self._ticked = now
        if stalled > STALL_S:
            self._deadlines = {lease: deadline + stalled for lease, deadline in self._deadlines.items()}
        if len(self._deadlines) != len(leases) or self._deadlines.keys() != leases.keys():
            for lease in self._deadlines.keys() - leases.keys():
                del self._deadlines[lease]
                self._expiring.discard(lease)
            for lease in leases.keys() - self._deadlines.keys():
                self._deadlines[lease] = now + leases[lease].ttl_ms / 1000
        due = [lease for lease, deadline in self._deadlines.items() if deadline <= now]
        due = sorted(lease for lease in due if lease not in self._expiring)
        self._expiring.update(due)
        return due
