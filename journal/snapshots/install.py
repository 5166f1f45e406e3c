"""Putting a fetched snapshot into the place of the space, so that a crash at any moment does no harm.

The marker (``TRANSFER`` in phase ``INSTALLING``) is durable before the first step. From then on the
node *is* at the snapshot's slot: its core starts there, and what its folder holds of the space is
rubbish until the last step. The steps only remove what is replaced and copy what is staged; nothing
staged goes before the end. So they may be begun again from the start after any crash, any number of
times. PURE: it makes the writes, the node's one writer stores them, in order.

What goes: all records of the space, and the log up to the snapshot's slot, chosen or merely accepted:
a log record at or below the applied slot is believed to be the chosen one (``paxos.effects``).
What stays: the promise, and what was accepted above.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from journal.snapshots.fetch import Phase, Transfer, staged
from journal.snapshots.records import FAMILIES, End
from journal.storage import Storage, Write
from journal.storage.log import trimmed_write
from journal.storage.records import ENDED, LOG_FAMILIES, STAGED, STATE, family_end, number_key


def installation(storage: Storage, end: End, records_max: int) -> Iterator[list[Write]]:
    """Yield the steps: batches to be stored one after the other, each before the next is asked for.

    The last is to be synced: with it the space is the snapshot's, and the marker says that what is
    staged may go.
    """
    for family in FAMILIES:
        yield from removals(storage, family, family_end(family), records_max)
    yield from removals(storage, ENDED, family_end(ENDED), records_max)
    for family in LOG_FAMILIES:
        yield from removals(storage, family, number_key(family, end.slot + 1), records_max)
    state: bytes | None = None
    records = staged(storage)
    while batch := list(islice(records, records_max)):
        if batch[-1][0] == STATE:  # the last of all records, by its key
            state = batch.pop()[1]
        yield list(batch)
    assert state is not None, "what is installed was checked before"
    yield [(STATE, state), trimmed_write(end.slot), Transfer(Phase.CLEARING).write()]


def removals(storage: Storage, start: bytes, stop: bytes, records_max: int) -> Iterator[list[Write]]:
    """Yield the removal of every record from ``start`` up to ``stop``, some at a time."""
    keys = (key for key, _value in storage.iterate(start, stop))
    while batch := list(islice(keys, records_max)):
        yield [(key, None) for key in batch]


def clearing(storage: Storage, records_max: int) -> Iterator[list[Write]]:
    """Yield the removal of what is staged."""
    yield from removals(storage, STAGED, family_end(STAGED), records_max)
