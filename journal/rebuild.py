"""A space with a damaged record, folded anew from the node's own log. PURE but for its writes.

What a damaged record of the space said is not known, and what was read of the others before may have
come from it. So all of it goes, and the fold runs again over the log, which has checksums and a chain
of its own. Where the log does not reach (it was trimmed, or is damaged itself) the node begins as one
that has lagged for long: it learns the rest from its peers, or fetches a snapshot.

**Why the applied slot may go back.** It says up to where the log's records are the chosen ones and
need not be learned. To know less of that than before is what a node knows that was cut off for
long: its records above are what it has accepted, and that they are, still. The promise, the accepted
values and their identifiers are not touched, so its vote stays what it was.

``REBUILD`` is written, synced, before anything goes, and removed with the last batch. A crash between
leaves it there, and the next start begins again.
"""

from __future__ import annotations

from itertools import islice

import msgpack

from journal.errors import DataFolderError, RecordDamaged
from journal.limits import Limits
from journal.space import Space
from journal.state import read_state
from journal.storage import Storage, Write
from journal.storage.log import LogStore
from journal.storage.records import (
    CURRENT,
    OUTCOME,
    REBUILD,
    SPACE_FAMILIES,
    STATE,
    family_end,
    number_of,
    seal,
    unseal,
)
from journal.types import Slot

RECORDS_PER_BATCH = 2_000


def is_of_space(error: RecordDamaged) -> bool:
    """Whether ``error`` is about a record that can be had again by folding."""
    return error.key[:1] in SPACE_FAMILIES


def check_space(storage: Storage) -> None:
    """Raise ``RecordDamaged`` where records of a space are there, but not the one that says where it stands.

    Such a space would be taken for an empty one, and folded into once more.
    """
    if storage.get(STATE) is not None:
        return
    for family in (OUTCOME, CURRENT):  # in one batch with a state record, if ever
        if next(iter(storage.iterate(family, family_end(family))), None) is not None:
            raise RecordDamaged(STATE, "it is gone, though other records of the space are there")


def needs_rebuild(storage: Storage) -> bool:
    return storage.get(REBUILD) is not None


async def mark(storage: Storage) -> None:
    """Note durably that the space is not to be believed, and how far the log holds what was chosen."""
    if needs_rebuild(storage):
        return
    packed: bytes = msgpack.packb([_folded(storage)])
    await storage.write([(REBUILD, seal(REBUILD, packed))], sync=True)


def _folded(storage: Storage) -> Slot:
    """Return a slot up to which everything was folded, as far as an intact record says so."""
    try:
        state = read_state(storage)
        if state is not None:
            return state.applied
    except (RecordDamaged, DataFolderError):
        pass
    # An outcome is in one batch with the state record that says that its slot was folded.
    for key, sealed in storage.iterate(OUTCOME, family_end(OUTCOME), reverse=True):
        try:
            unseal(key, sealed)
        except RecordDamaged:
            continue
        return number_of(key)
    return Slot(0)


async def rebuild(storage: Storage, limits: Limits) -> tuple[Slot, Slot]:
    """Do what ``mark`` asked for; return (slot up to which it could be folded, slot it stood at before).

    Raises ``StorageFailed``, or ``RecordDamaged`` for the mark itself.
    """
    sealed = storage.get(REBUILD)
    assert sealed is not None
    [folded] = msgpack.unpackb(unseal(REBUILD, sealed))
    for family in SPACE_FAMILIES:
        while keys := [
            key for key, _value in islice(storage.iterate(family, family_end(family)), RECORDS_PER_BATCH)
        ]:
            await storage.write([(key, None) for key in keys], sync=False)
    space = Space.load(
        storage,
        cache_records_max=limits.space_cache_records_max,
        log_reach_bytes=limits.log_reach_bytes,
    )
    log = LogStore(storage, limits)
    writes: list[Write] = []
    while space.applied < folded:
        try:
            entries = log.read(Slot(space.applied + 1), folded, limits.learn_bytes_max)
        except RecordDamaged:
            break
        if not entries:
            break
        for entry in entries:
            writes.extend(space.fold(entry.slot, entry.value).writes)
            if len(writes) >= RECORDS_PER_BATCH:
                await storage.write(writes, sync=False)
                space.flushed(space.applied)
                writes = []
    await storage.write([*writes, (REBUILD, None)], sync=True)
    return space.applied, Slot(folded)
