"""What differs between two revisions of the journal: by its commits where they are kept, else by its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from journal.errors import RevisionCompacted, RevisionInFuture
from journal.offers import prefix_range
from journal.types import Revision

if TYPE_CHECKING:
    from journal.client import Journal
    from journal.versions import Record

GET_KEYS = 500


class Difference(NamedTuple):
    """One key, as it was at either revision; None: it was not there."""

    key: bytes
    before: Record | None
    after: Record | None

    @property
    def sign(self) -> str:
        """``+`` made, ``-`` deleted, ``~`` changed."""
        return "+" if self.before is None else "-" if self.after is None else "~"


async def differences(journal: Journal, first: int, second: int, prefix: bytes = b"") -> list[Difference]:
    """Return the keys under ``prefix`` that differ between two revisions, in key order.

    ``first`` may be the later one. Raises ``RevisionCompacted`` or ``RevisionInFuture``.
    """
    low, high = sorted((first, second))
    current = await journal.revision()
    if high > current:
        raise RevisionInFuture(Revision(high), Revision(current))
    if low == high:
        return []
    try:
        keys = await _changed(journal, low, high, prefix)
    except RevisionCompacted:
        # The node may have come by a snapshot: then it has the versions of keys, but not the commits.
        keys = await _all_keys(journal, low, high, prefix)
    found: list[Difference] = []
    for start in range(0, len(keys), GET_KEYS):
        some = keys[start : start + GET_KEYS]
        _at, before = await journal.get_many(some, at=first)
        _at, after = await journal.get_many(some, at=second)
        for key, one, other in zip(some, before, after, strict=True):
            if one != other:
                found.append(Difference(key, one, other))
    return found


async def _changed(journal: Journal, low: int, high: int, prefix: bytes) -> list[bytes]:
    """Return the keys that the commits between the two revisions touch, sorted."""
    keys: set[bytes] = set()
    async with journal.tail(low, [prefix] if prefix else []) as tail:
        async for message in tail:
            for commit in message.commits:
                if commit.revision <= high:
                    keys.update(change.key for change in commit.changes)
            if message.last >= high:
                break
    return sorted(keys)


async def _all_keys(journal: Journal, low: int, high: int, prefix: bytes) -> list[bytes]:
    bounds = prefix_range(prefix) if prefix else (b"", b"")
    keys: set[bytes] = set()
    for at in (low, high):
        _at, items, _next = await journal.scan(*bounds, at=at)
        keys.update(key for key, _record in items)
    return sorted(keys)
