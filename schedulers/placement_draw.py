"""Instances at random, without looking at all of them. PURE.

Each draw is uniform among the instances that still have room: one is drawn among all that are left, and
where it has no room it is set aside for good and another one is drawn (rejection leaves what is uniform
uniform). So a task costs a draw or two while most instances have room, whatever the size of the cluster,
and all draws of a plan together set each instance aside once at most.

Setting aside is a shuffle that is written down only where it differs from the order as it is: the
sequence of the instances is never copied.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence


class Draw:
    """Draws from ``instances``; ``room`` says how many tasks one takes, and is asked once of each."""

    def __init__(self, instances: Sequence[str], room: Callable[[str], int], rng: random.Random) -> None:
        self._instances = instances
        self._room = room
        self._rng = rng
        self._left = len(instances)
        """Places 0 to this hold what was not set aside."""
        self._moved: dict[int, str] = {}
        """By place: who stands there in place of the one that did."""
        self._rooms: dict[str, int] = {}

    def take(self) -> str | None:
        """Give a task to an instance that has room, and return it; None if none has."""
        while self._left:
            place = self._rng.randrange(self._left)
            drawn = self._at(place)
            room = self._rooms.get(drawn)
            if room is None:
                room = self._room(drawn)
            if room > 0:
                self._rooms[drawn] = room - 1
                return drawn
            self._left -= 1
            self._moved[place] = self._at(self._left)
        return None

    def _at(self, place: int) -> str:
        moved = self._moved.get(place)
        return self._instances[place] if moved is None else moved
