"""Members by label, in order, and pages of them. PURE.

A listing asks for members that have several labels at once, from a place on. It walks the
shortest of the labels' lists, so a page costs what it holds, however many there are of
everything else; only a combination of labels that each fit many and together few costs more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """Which members have which labels.

    A label's members are sorted when somebody first asks for them, and kept in order from then
    on: loading a large state sorts nothing that nobody looks at.
    """

    def __init__(self) -> None:
        self._of: dict[Label, set[M] | SortedSet] = {}

    def change(self, member: M, old: Sequence[Label], new: Sequence[Label]) -> None:
        """Take ``member`` from its old labels to its new ones. One may be there twice: a service that deploys
        what it runs already has its definition's label of both deployments."""
        if old == new:
            return
        for label in old:
            members = None if label in new else self._of.get(label)
            if members is None:
                continue
            members.discard(member)
            if not members:
                del self._of[label]
        for label in new:
            if label in old:
                continue
            there = self._of.get(label)
            if there is None:
                there = self._of[label] = set()
            there.add(member)

    def count(self, label: Label) -> int:
        return len(self._of.get(label, ()))

    def of(self, label: Label) -> Iterable[M]:
        """Return the members that have a label, in order."""
        return self.members(label)

    def members(self, label: Label) -> Sequence[M]:
        """Return the same to be looked up by number, at the logarithm of their number."""
        members: Sequence[M] = self._sorted(label) or ()
        return members

    def _sorted(self, label: Label) -> SortedSet | None:
        members = self._of.get(label)
        if isinstance(members, set):
            members = self._of[label] = SortedSet(members)
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
        wanted = list(labels)
        if not all(label in self._of for label in wanted):
            return  # nobody has one of them
        label = min(wanted, key=self.count)
        others = [self._of[other] for other in wanted if other != label]
        shortest = self._sorted(label)
        assert shortest is not None
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
