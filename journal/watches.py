"""Which commits concern which tail: found once for each slot, not by each tail. PURE.

A tail over a few prefixes of a large journal has nothing to do with nearly everything that is
committed. So it does not look: it has a *watch* here, and the keys of each folded slot are looked up
among the prefixes that are watched. A watch remembers the first revision that may concern its tail
(``first``); where there is none, the tail knows without reading that nothing up to the present
revision does.

What is looked up may be too much, never too little: keys of offers that were rejected may count, and
the whole slot does. The tail reads the commits then, and filters them one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from journal.offers import PUT
from journal.types import Revision

if TYPE_CHECKING:
    from journal.space import Folded


class Watch:
    """One tail's. ``take`` what may concern it, then say ``delivered``."""

    __slots__ = ("_delivering", "_wake", "first", "prefixes")

    def __init__(self, prefixes: tuple[bytes, ...], wake: Callable[[], None], first: Revision) -> None:
        self.prefixes = prefixes
        """Of the keys that concern it; none: all."""
        self.first: Revision | None = first
        """The first revision that may concern it and that it has not taken. None: there is none."""
        self._wake = wake
        self._delivering: Revision | None = None

    def take(self) -> Revision | None:
        """Return where to read from; None: nothing up to the present revision concerns this tail."""
        self._delivering, self.first = self.first, None
        return self._delivering

    def delivered(self) -> None:
        """What was taken is with the reader."""
        self._delivering = None

    def note(self, first: Revision) -> None:
        """What concerns it begins at ``first``, or before, or has to be looked at from there."""
        if self.first is None or first < self.first:
            self.first = first
        self._wake()

    @property
    def unsent(self) -> Revision | None:
        """The first revision that may concern its reader, who does not have it yet."""
        return self.first if self._delivering is None else self._delivering


class Watches:
    """All watches on one node."""

    def __init__(self) -> None:
        self._all: dict[Watch, None] = {}  # a dict for its order: who came first is told first
        self._of_everything: dict[Watch, None] = {}
        self._by_length: dict[int, dict[bytes, dict[Watch, None]]] = {}

    def __len__(self) -> int:
        return len(self._all)

    @property
    def unsent(self) -> Revision | None:
        """The first revision that some reader may lack."""
        return min((watch.unsent for watch in self._all if watch.unsent is not None), default=None)

    def add(self, watch: Watch) -> None:
        self._all[watch] = None
        if not watch.prefixes:
            self._of_everything[watch] = None
        for prefix in watch.prefixes:
            self._by_length.setdefault(len(prefix), {}).setdefault(prefix, {})[watch] = None

    def remove(self, watch: Watch) -> None:
        del self._all[watch]
        self._of_everything.pop(watch, None)
        for prefix in watch.prefixes:
            length = self._by_length[len(prefix)]
            del length[prefix][watch]
            if not length[prefix]:
                del length[prefix]
                if not length:
                    del self._by_length[len(prefix)]

    def note_all(self, first: Revision) -> None:
        """Have every tail look from ``first`` on."""
        for watch in list(self._all):
            watch.note(first)

    def committed(self, folded: Folded, changed: Iterable[bytes]) -> None:
        """A slot was folded, and ``changed`` keys: note it for those whom it may concern."""
        first = folded.first_revision
        if self._by_length:
            keys = _keys(folded.batches, changed)
            for length, watched in self._by_length.items():
                touched = watched.keys() & {key[:length] for key in keys}
                for prefix in sorted(touched):
                    for watch in watched[prefix]:
                        watch.note(first)
        for watch in self._of_everything:
            watch.note(first)


def _keys(batches: Sequence[Any], changed: Iterable[bytes]) -> set[bytes]:
    """Return at least the keys that the commits of a slot name.

    A commit also names a key that its offer put and deleted again: the fold has changed nothing then, and
    the key is found in the offer only.
    """
    keys = set(changed)
    for batch in batches:
        for offer in batch[3]:
            mutations = offer[6]
            if len(mutations) > 1:
                keys.update([mutation[1] for mutation in mutations if mutation[0] == PUT])
    return keys
