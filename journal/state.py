"""The state record of the space: where it stands, in one record. PURE.

It is written in the same batch as what it speaks of, so storage is the space as of its slot, always.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgpack

from journal.errors import DataFolderError, RecordDamaged
from journal.storage.records import STATE, seal, unseal
from journal.types import Revision, Slot

FORMAT: Final = 1


class Reader(Protocol):
    def get(self, key: bytes) -> bytes | None: ...


class State(NamedTuple):
    """What the record holds, in its order."""

    format: int
    applied: Slot
    revision: Revision
    chain: bytes
    compacted: Revision
    forgotten_floor: int
    """See ``journal.sessions``."""
    recent_floor: int
    """See ``journal.recent``."""

    def seal(self) -> bytes:
        """Return the value to store under ``STATE``."""
        return seal(STATE, msgpack.packb(self))


def unpack_state(sealed: bytes) -> State:
    """Raises ``RecordDamaged``, or ``DataFolderError`` for a format that is not known here."""
    try:
        fields = msgpack.unpackb(unseal(STATE, sealed))
        form = fields[0]
        if form != FORMAT:
            raise DataFolderError(f"the space has format {form}; this program knows format {FORMAT}")
        return State(*fields)
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise RecordDamaged(STATE, f"it does not decode: {error}") from error


def read_state(reader: Reader) -> State | None:
    """Return the state of the space in ``reader``; None where nothing was folded."""
    sealed = reader.get(STATE)
    return None if sealed is None else unpack_state(sealed)
