"""Pings between nodes: who is heard, and how long a word takes there and back.

The messages of the core say little about a link: followers hardly speak to one another. So
each link carries a ping each second. It is the sender's own clock, which the peer sends back
over its own stream: a pong shows that both directions work and how long they take together,
the peer's loop included. Nothing but what people are shown depends on it.
"""

from __future__ import annotations

import time

from journal.counters import LATENCY_BOUNDS_S, Histogram
from journal.rpc.pb import paxos_pb2 as px

PING_INTERVAL_S = 1.0
PONG_PATIENCE_S = 3.0


class Pulse:
    """Of one peer: what it is still to be told, and what it has told."""

    def __init__(self) -> None:
        self.round_trips = Histogram(LATENCY_BOUNDS_S)
        self._round_trip_s = 0.0
        self._pong_at: float | None = None
        self._heard_at: float | None = None
        self._ping_at = 0.0
        self._pong: int | None = None

    @property
    def heard_ago_s(self) -> float | None:
        return None if self._heard_at is None else time.monotonic() - self._heard_at

    @property
    def round_trip_s(self) -> float | None:
        """Of the last ping. None: none was answered of late, so one of the two directions is down."""
        if self._pong_at is None or time.monotonic() - self._pong_at > PONG_PATIENCE_S:
            return None
        return self._round_trip_s

    def heard(self, parcel: px.Parcel) -> bool:
        """Take what the peer sent; return whether it is to be answered."""
        self._heard_at = now = time.monotonic()
        if parcel.pong:
            self._pong_at = now
            self._round_trip_s = max(0.0, now - parcel.pong / 1e9)
            self.round_trips.observe(self._round_trip_s)
        if parcel.ping:
            self._pong = parcel.ping
        return bool(parcel.ping)

    def lost(self) -> None:
        """The stream to the peer is gone: what was to be said over it would come too late."""
        self._pong = None
        self._ping_at = 0.0
        self._pong_at = None

    @property
    def due(self) -> bool:
        """Whether there is something to say now."""
        return self._pong is not None or time.monotonic() >= self._ping_at

    @property
    def next_in_s(self) -> float:
        return max(0.0, self._ping_at - time.monotonic())

    def stamp(self, parcel: px.Parcel) -> None:
        """Put what is due into ``parcel``."""
        now = time.monotonic()
        if now >= self._ping_at:
            self._ping_at = now + PING_INTERVAL_S
            parcel.ping = int(now * 1e9)
        if self._pong is not None:
            parcel.pong = self._pong
            self._pong = None
