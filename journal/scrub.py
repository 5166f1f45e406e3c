"""The sweep over all records of a node: are they intact, and are those there that others speak of? PURE.

A record whose bytes were changed fails its checksum. A record that is *gone* leaves no trace of its own, but
others tell of most of them, and cost one look each:

===================  ==========================================================================
an identifier        its value in the log
an outcome           the entry of its slot in the log, and the outcome of the slot before
the state            the outcome of the applied slot
an older version     the current version of its key (a tombstone goes together with what it ended)
a slot's page        the same of each version in it
a current version    the older one that it ended, if that is not compacted
a binding            its key
a recent slot        the keys that it changed
===================  ==========================================================================

So what can vanish unnoticed is the current version of a key that has not changed since the last compaction,
nor in the last ``FOLD_RECENT_BYTES_MAX`` of changes, and that no lease is bound to; and both records of a
slot that is accepted here and not folded yet. ``docs/safety.md`` says what notices these.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgpack

from journal.commits import outcome_head
from journal.ended import first_page, unpack_page
from journal.errors import RecordDamaged
from journal.state import read_state, unpack_state
from journal.storage import Storage, View
from journal.storage.log import trimmed_slot
from journal.storage.records import (
    ACCEPTED,
    BINDING,
    CURRENT,
    ENDED,
    HISTORY,
    IDENTIFIER,
    NUMBER,
    OUTCOME,
    RECENT,
    STAGED,
    STATE,
    number_key,
    number_of,
    unseal,
)
from journal.types import Slot
from journal.versions import decode

SCRUB_BYTES_PER_STEP = 1024 * 1024
ENDED_BYTES = 64
"""About what a slot's page takes for each version in it, which is as much work to look at as a record."""


class Scrub:
    """Reads all records in key order, some at a time."""

    def __init__(self, storage: Storage) -> None:
        self.passes = 0
        """How often it has come to the end."""
        self._storage = storage
        self._cursor = b"\0"

    def step(self, records_max: int) -> list[RecordDamaged]:
        """Look at the next records; return what is wrong with them."""
        view = self._storage.view()
        try:
            return self.look_at(view, records_max)
        finally:
            view.close()

    def look_at(self, view: View, records_max: int) -> list[RecordDamaged]:
        """The same in a view that the caller has taken: another thread may do it."""
        found: list[RecordDamaged] = []
        size = count = 0
        for key, value in islice(view.iterate(self._cursor, None), records_max):
            self._cursor = key + b"\0"
            count += 1
            size += len(value)
            if key[:1] == STAGED:  # a whole is made of it, and checked, before it is used
                self._cursor = bytes([STAGED[0] + 1])
                break
            try:
                payload = unseal(key, value)
                found.extend(gone(view, key, value, payload))
            except RecordDamaged as error:
                if error.key == key:  # another one that was looked at has its own turn
                    found.append(error)
            if key[:1] == ENDED:
                count += len(value) // ENDED_BYTES
            if size >= SCRUB_BYTES_PER_STEP or count >= records_max:
                break
        if count == 0:
            self.passes += 1
            self._cursor = b"\0"
        return found


def gone(view: View, key: bytes, sealed: bytes, payload: bytes) -> Iterator[RecordDamaged]:
    """Yield the records that are not there, though the intact record ``key`` speaks of them.

    Raises ``RecordDamaged`` where it cannot be read itself.
    """
    family = key[:1]
    if family == IDENTIFIER:
        yield from _missing(view, ACCEPTED + key[1:], "its identifier is there")
    elif family == OUTCOME:
        yield from _missing(view, ACCEPTED + key[1:], "its slot is folded and not trimmed")
        slot = number_of(key)
        if slot > trimmed_slot(view) + 1:
            yield from _missing(
                view, number_key(OUTCOME, Slot(slot - 1)), "that of the slot after it is there"
            )
    elif family == STATE:
        applied = unpack_state(sealed).applied
        if applied > trimmed_slot(view):
            yield from _missing(view, number_key(OUTCOME, applied), "its slot is the applied one")
    elif family == HISTORY:
        yield from _missing(view, CURRENT + key[9:], "an older version of the key is there")
    elif family == ENDED:
        page, compacted = unpack_page(key, sealed), _compacted(view)
        for name, end in zip(page.keys, page.ends, strict=True):
            if end > compacted:
                yield from _missing(view, CURRENT + name, "an older version of the key is there")
    elif family == CURRENT:
        record = decode(key, sealed)
        if record[5] > 1 and record[1] > _compacted(view):
            older = HISTORY + NUMBER.pack(record[1]) + key[1:]
            if view.get(older) is None and not _is_in_page(view, key[1:], record[1]):
                yield RecordDamaged(older, "it is gone, though the version that ended it is there")
    elif family == BINDING:
        yield from _missing(view, CURRENT + key[9:], "a lease is bound to it")
    elif family == RECENT:
        slot = number_of(key)
        _last, *keys = msgpack.unpackb(payload)
        if _is_after_compaction(view, slot):
            for changed in keys:
                yield from _missing(view, CURRENT + changed, f"slot {slot} changed it")


def _is_in_page(view: View, key: bytes, end: int) -> bool:
    """Whether the version that ``end`` ended is one of those of which the log has the value."""
    page = first_page(view, end - 1)
    return page is not None and (key, end) in zip(page.keys, page.ends, strict=True)


def _missing(view: View, key: bytes, why: str) -> Iterator[RecordDamaged]:
    if view.get(key) is None:
        yield RecordDamaged(key, f"it is gone, though {why}")


def _compacted(view: View) -> int:
    state = read_state(view)
    return 0 if state is None else state.compacted


def _is_after_compaction(view: View, slot: Slot) -> bool:
    """Whether all that ``slot`` changed is later than what is compacted: a deletion that is not may have
    left nothing."""
    key = number_key(OUTCOME, slot)
    sealed = view.get(key)
    return sealed is not None and outcome_head(unseal(key, sealed)).before >= _compacted(view)
