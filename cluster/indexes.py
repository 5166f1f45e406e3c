"""Members by label, in order, and pages of them. PURE.

A listing asks for members that have several labels at once, from a place on. It walks the
shortest of the labels' lists, so a page costs what it holds, however many there are of
everything else; only a combination of labels that each fit many and together few costs more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sortedcontainers import SortedSet

M = TypeVar("M", bound="str | tuple[str, str] | tuple[str, int]")
T = TypeVar("T")

Label = tuple[str, ...]

PAGE_MAX = 1000
"""Members of one page."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a listing."""

    items: tuple[T, ...]
    more: bool
    """Whether anything comes after the last one."""


class Index(Generic[M]):
    """Which members have which labels."""

    def __init__(self) -> None:
        self._of: dict[Label, SortedSet] = {}

    def change(self, member: M, old: Iterable[Label], new: Iterable[Label]) -> None:
        """Take ``member`` from its old labels to its new ones."""
        before, after = set(old), set(new)
        for label in before - after:
            members = self._of[label]
            members.discard(member)
            if not members:
                del self._of[label]
        for label in after - before:
            members = self._of.get(label)
            if members is None:
                members = self._of[label] = SortedSet()
            members.add(member)

    def count(self, label: Label) -> int:
        members = self._of.get(label)
        return len(members) if members is not None else 0

    def of(self, label: Label) -> Iterable[M]:
        """Return the members that have a label, in order."""
        members: Iterable[M] = self._of.get(label, ())
        return members

    def walk(
        self,
        labels: Iterable[Label],
        after: M | None = None,
        *,
        start: M | None = None,
        descending: bool = False,
    ) -> Iterator[M]:
        """Yield, in order, the members that have all of the labels.

        Only those that come after ``after``; ascending also only from ``start`` on, itself included.
        """
        found = [self._of.get(label) for label in labels]
        sets = [members for members in found if members is not None]
        if len(sets) < len(found):
            return  # nobody has one of them
        shortest = min(sets, key=len)
        others = [members for members in sets if members is not shortest]
        place: Any = after
        included = start is not None and (after is None or place < start)
        if included:
            place = start
        bounds = {"maximum": place} if descending else {"minimum": place}
        for member in shortest.irange(**bounds, inclusive=(included, included), reverse=descending):
            if all(member in members for members in others):
                yield member

    def page(
        self,
        labels: Iterable[Label],
        after: M | None,
        limit: int,
        make: Callable[[M], T | None],
        *,
        descending: bool = False,
    ) -> Page[T]:
        """Return what ``make`` makes of the next ``limit`` members, leaving out those it makes None of."""
        if not 1 <= limit <= PAGE_MAX:
            raise ValueError(f"a page holds 1 to {PAGE_MAX}, not {limit}")
        items: list[T] = []
        for member in self.walk(labels, after, descending=descending):
            item = make(member)
            if item is None:
                continue
            if len(items) == limit:
                return Page(tuple(items), more=True)
            items.append(item)
        return Page(tuple(items), more=False)
