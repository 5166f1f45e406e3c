"""When a leader begins the next slot: at once, or a little later with more in it. PURE.

A slot costs its nodes about the same whatever is in it: a synced write each, four messages, three turns. So
under load offers should share slots, and alone none should wait. Three rules come to that:

* *Natural batching.* While a write is under way offers gather, though not for long: a quorum without this
  disk can commit, and a disk that stalls is to stop nobody. So they do while enough slots are in flight.
* *A full slot does not wait.*
* *Company.* Clients that send each offer in a call of its own come back one by one, when those of an earlier
  slot are answered. The disk is faster than that: a slot for each one or two of them left a
  node no time to take in more, and so slots stayed small (docs/performance.md). So where slots have carried
  the calls of several clients of late, the next one comes a little after the last. A client that is alone,
  or sends many offers in one message, never waits for others.
"""

from __future__ import annotations

from math import inf
from typing import Final

GATHER_S_MAX: Final = 0.02
"""Offers wait so long at most for a write to end."""

COMPANY_WAIT_S: Final = 0.0005
"""How much of a pause each call of the last slots is worth. It is somewhat more than a call takes a node: so
the more there are, the more come together."""
COMPANY_WAIT_S_MAX: Final = 0.005
COMPANY_MIN: Final = 1.5
"""With fewer calls a slot there is no pause."""
COMPANY_KEPT: Final = 0.9
"""How much of the company of earlier slots counts in the next."""


class Pace:
    """How long what waits is to wait, and what is known for it of the last slots."""

    def __init__(self, *, slots_max: int, full_bytes: int) -> None:
        """``slots_max`` in flight are enough; with ``full_bytes`` waiting a slot is well filled."""
        self._slots_max = slots_max
        self._full_bytes = full_bytes
        self._company = 0.0
        self._proposed_at = -inf

    def proposed(self, calls: int, now: float) -> None:
        """A slot with the offers of so many calls was begun."""
        self._company = max(float(calls), self._company * COMPANY_KEPT)
        self._proposed_at = now

    def wait_s(self, now: float, *, bytes: int, slots_in_flight: int, write_s: float | None) -> float:
        """Return how long, from now, what waits is to wait. 0: it is to be proposed; inf: until something
        happens that brings the node a turn by itself.

        ``bytes`` wait, and a write to the disk has been under way for ``write_s`` (None: none is).
        """
        if bytes >= self._full_bytes:
            return 0.0
        if (write_s is not None and write_s < GATHER_S_MAX) or slots_in_flight >= self._slots_max:
            return inf
        if self._company < COMPANY_MIN:
            return 0.0
        pause_s = min(self._company * COMPANY_WAIT_S, COMPANY_WAIT_S_MAX)
        return max(0.0, self._proposed_at + pause_s - now)
