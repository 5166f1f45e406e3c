"""Older versions whose values the log has: what they were, without them. PURE.

The log is kept as far back as history is, so a value that an offer put is on the disk already when
a later offer puts another in its place. To write it once more, for history, took a third of a node's
processor time under load. So of the versions that a slot ended one record is kept, a *page*, under the
last revision of the slot: for each its key, the revision that ended it and its head (``versions``:
numbers and trail). Its value is that of the commit that made it, and is read back from the log
like those that tails deliver (``commits``).

**How far the log reaches.** A version is in a page only if it was modified after the *floor* of that
moment (``Slots.floor``): after where the log begins, or will soon, and within its last ``log_reach_bytes``.
Others are stored whole, as is one that a deletion ended, with which its tombstone goes (``versions``).
Nothing that is read at or after the compaction revision ended at or before it. So the log is needed from
the floor of the first page after the compaction revision on: floors only rise, hence no page behind
it speaks of an earlier version (``Slots.trim_step``). That is ``log_reach_bytes`` before history at most.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from heapq import merge
from typing import Final, NamedTuple

import msgpack

from journal.commits import commits
from journal.errors import RecordDamaged, RevisionCompacted
from journal.slots import stretch_of
from journal.storage import Reader
from journal.storage.log import read_value
from journal.storage.records import (
    ENDED,
    HISTORY,
    NUMBER,
    OUTCOME,
    family_end,
    number_key,
    number_of,
    seal,
    unseal,
)
from journal.types import Revision, Slot

PlaceOf = Callable[[Revision], tuple[Slot, Revision]]
"""The slot of a revision that the log reaches back to, and the slot's last revision."""

KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of entries and pages that are kept decoded, and the last one whatever its size."""
TOGETHER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of versions that ``history`` completes together, so that each entry is decoded for many of them."""


class Page(NamedTuple):
    """The versions that one slot ended and that the log has, in the order in which they ended."""

    floor: int
    """All of them were modified after this revision."""
    size: int
    """Bytes of their heads and values."""
    keys: list[bytes]
    ends: list[int]
    """For each the revision that ended it."""
    heads: list[bytes]

    def record(self, last: int) -> tuple[bytes, bytes]:
        """Return the record of it; ``last`` is the slot's last revision."""
        key = number_key(ENDED, last)
        return key, seal(key, msgpack.packb(self))


def unpack_page(key: bytes, sealed: bytes) -> Page:
    """Raises ``RecordDamaged``."""
    try:
        page = Page(*msgpack.unpackb(unseal(key, sealed)))
        if not len(page.keys) == len(page.ends) == len(page.heads):
            raise ValueError("its columns are not of one length")
    except (ValueError, TypeError) as error:
        raise RecordDamaged(key, f"it does not decode: {error}") from error
    return page


def first_page(reader: Reader, after: int) -> Page | None:
    """Return the first page of a slot that ended after revision ``after``, if there is one."""
    for key, sealed in reader.iterate(number_key(ENDED, after + 1), family_end(ENDED)):
        return unpack_page(key, sealed)
    return None


class Ended:
    """Finds versions in pages, and their values in the log. What was read last is kept decoded."""

    def __init__(self, reader: Reader, place_of: PlaceOf) -> None:
        self._reader = reader
        self._place_of = place_of
        self._kept: OrderedDict[bytes, tuple[int, dict[tuple[bytes, int], bytes]]] = OrderedDict()
        self._kept_bytes = 0

    def head(self, key: bytes, end: int) -> bytes | None:
        """Return the head of the version of ``key`` that revision ``end`` ended, None if no page has it.

        Raises ``RecordDamaged``.
        """
        try:
            _slot, last = self._place_of(Revision(end))
        except RevisionCompacted:
            return None
        stored_key = number_key(ENDED, last)
        heads = self._find(stored_key)
        if heads is None:
            sealed = self._reader.get(stored_key)
            if sealed is None:
                return None
            page = unpack_page(stored_key, sealed)
            heads = dict(zip(zip(page.keys, page.ends, strict=True), page.heads, strict=True))
            self._keep(stored_key, len(sealed), heads)
        return heads.get((key, end))

    def value(self, key: bytes, revision: int) -> bytes:
        """Return the value that ``revision`` gave to ``key``. Raises ``RecordDamaged``."""
        slot, _last = self._place_of(Revision(revision))
        outcome_key = number_key(OUTCOME, slot)
        values = self._find(outcome_key)
        if values is None:
            entry = read_value(self._reader, slot)
            outcome = self._reader.get(outcome_key)
            if outcome is None:
                raise RecordDamaged(outcome_key, "it is gone, though the log reaches back to its slot")
            values = {
                (change.key, commit.revision): change.value
                for commit in commits(slot, entry, unseal(outcome_key, outcome))
                for change in commit.changes
                if change.value is not None
            }
            self._keep(outcome_key, len(entry), values)
        found = values.get((key, revision))
        if found is None:
            raise RecordDamaged(outcome_key, f"by it, revision {revision} gave no value to {key!r}")
        return found

    def _find(self, stored_key: bytes) -> dict[tuple[bytes, int], bytes] | None:
        found = self._kept.get(stored_key)
        if found is None:
            return None
        self._kept.move_to_end(stored_key)
        return found[1]

    def _keep(self, stored_key: bytes, size: int, decoded: dict[tuple[bytes, int], bytes]) -> None:
        self._kept[stored_key] = size, decoded
        self._kept_bytes += size
        while self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1:
            _key, (dropped, _decoded) = self._kept.popitem(last=False)
            self._kept_bytes -= dropped


def history(view: Reader, start: bytes, compacted: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the record of every older version from ``start`` (a key of ``HISTORY``) on, in key order, as if
    all were stored whole. ``compacted``: what ended at or before it, and is in a page, is left out.

    Raises ``RecordDamaged``.
    """
    return merge(view.iterate(start, family_end(HISTORY)), _from_pages(view, start, compacted))


def _from_pages(view: Reader, start: bytes, compacted: int) -> Iterator[tuple[bytes, bytes]]:
    first = max(compacted + 1, int(number_of(start[:9])) if len(start) >= 9 else 0)
    ended = Ended(view, stretch_of(view).place_of)
    pages: list[Page] = []
    size = 0
    for key, sealed in view.iterate(number_key(ENDED, first), family_end(ENDED)):
        page = unpack_page(key, sealed)
        pages.append(page)
        size += page.size
        if size >= TOGETHER_BYTES_MAX:
            yield from _completed(pages, start, compacted, ended)
            pages, size = [], 0
    yield from _completed(pages, start, compacted, ended)


def _completed(
    pages: list[Page], start: bytes, compacted: int, ended: Ended
) -> Iterator[tuple[bytes, bytes]]:
    versions = [
        (NUMBER.unpack_from(head, 8)[0], HISTORY + NUMBER.pack(end) + key, head)
        for page in pages
        for key, end, head in zip(page.keys, page.ends, page.heads, strict=True)
        if end > compacted
    ]
    versions.sort()  # by the revision that made them: the order of the log
    records: list[tuple[bytes, bytes]] = []
    for modified, stored_key, head in versions:
        if stored_key < start:
            continue
        is_there = NUMBER.unpack_from(head, 16)[0]
        payload = head + ended.value(stored_key[9:], modified) if is_there else head
        records.append((stored_key, seal(stored_key, payload)))
    records.sort()
    yield from records
