"""A client-side copy of a part of the space, fed by a tail with a snapshot.

A replica always shows the space as it was at exactly one revision, ``revision``: commits are
applied whole, and a new snapshot (after the history it needed was compacted) replaces the old
copy in one step. Reads are plain function calls. To read one's own write, wait for its
revision first:

.. code-block:: python

    async with journal.replica(b"config/") as replica:
        revision = await journal.put(b"config/colour", b"blue")
        await replica.wait_for(revision)
        replica.get(b"config/colour").value
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import trio
from sortedcontainers import SortedDict

from journal.client.tails import SnapshotPage, Tail
from journal.commits import Commit
from journal.connection import TailMessage
from journal.errors import JournalError, Unavailable
from journal.types import Revision
from journal.versions import Record

log = logging.getLogger("journal.client.replica")

Listener = Callable[[bytes, Record | None], None]


class Replica:
    """Keys and records at one revision. Made by ``Journal.replica``, which also runs it."""

    def __init__(self, tail: Tail[TailMessage | SnapshotPage]) -> None:
        self.revision = Revision(0)
        """The copy stands here: it holds all commits up to this one, and none after."""
        self._tail = tail
        self._records: SortedDict = SortedDict()  # bytes -> Record
        self._filling: SortedDict | None = None
        self._ready = False
        self._failed: JournalError | None = None
        self._moved = trio.lowlevel.ParkingLot()
        self._listeners: dict[object, Listener] = {}

    # -- reads ----------------------------------------------------------------------

    def get(self, key: bytes) -> Record | None:
        """Return the record of ``key``, or None."""
        record: Record | None = self._records.get(key)
        return record

    def scan(self, start: bytes = b"", end: bytes = b"") -> Iterator[tuple[bytes, Record]]:
        """Yield (key, record) of start <= key < end in order; do not wait for anything meanwhile."""
        for key in self._records.irange(start, end or None, inclusive=(True, False)):
            yield key, self._records[key]

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: bytes) -> bool:
        return key in self._records

    @property
    def lag(self) -> int:
        """How many revisions the journal is ahead, as far as the tail's node has said."""
        return max(0, self._tail.current - self.revision)

    async def wait_for(self, revision: int) -> None:
        """Return once the copy stands at ``revision`` or later. Raises what ended the tail."""
        while self.revision < revision or not self._ready:
            if self._failed is not None:
                raise self._failed
            await self._moved.park()

    async def wait_ready(self) -> None:
        """Return once the first snapshot is in."""
        await self.wait_for(0)

    async def changed(self, since: int) -> Revision:
        """Return the copy's revision once it is beyond ``since``."""
        await self.wait_for(since + 1)
        return self.revision

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(key, record)`` for each change (record None: deleted); returns how to stop.

        It is called after a commit was applied, so that the replica stands at that commit's
        revision. A new snapshot is told as the changes that it amounts to. It must not block.
        """
        token = object()
        self._listeners[token] = listener
        return lambda: self._listeners.pop(token, None) and None

    # -- the feed -------------------------------------------------------------------

    async def run(self) -> None:
        """Apply what the tail brings, until it ends with an error or this task is cancelled."""
        try:
            async for message in self._tail:
                if isinstance(message, SnapshotPage):
                    self._fill(message)
                else:
                    for commit in message.commits:
                        self._apply(commit)
                    self.revision = message.last
                self._moved.unpark_all()
        except JournalError as error:
            log.warning("replica at revision %d ends: %s", self.revision, error)
            self._failed = error
        finally:
            self._failed = self._failed or Unavailable("the replica is closed")
            self._moved.unpark_all()

    def _fill(self, page: SnapshotPage) -> None:
        if page.first:
            self._filling = SortedDict()
        assert self._filling is not None
        self._filling.update(page.items)
        if page.last:
            old, self._records, self._filling = self._records, self._filling, None
            self.revision = page.revision
            self._ready = True
            if self._listeners:
                for key in old.keys() - self._records.keys():
                    self._tell(key, None)
                for key, record in self._records.items():
                    if old.get(key) != record:
                        self._tell(key, record)

    def _apply(self, commit: Commit) -> None:
        revision = self.revision = commit.revision
        for key, value, lease in commit.changes:
            if value is None:
                self._records.pop(key, None)
                continue
            old = self._records.get(key)
            if old is None:
                record = Record(revision, revision, 1, lease, value)
            else:
                record = Record(old.create, revision, old.version + 1, lease, value)
            self._records[key] = record
        if self._listeners:
            for key, _value, _lease in commit.changes:
                self._tell(key, self._records.get(key))

    def _tell(self, key: bytes, record: Record | None) -> None:
        for listener in list(self._listeners.values()):
            listener(key, record)
