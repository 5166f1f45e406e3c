"""What memory storage adds for tests: power failures and failing writes."""

from __future__ import annotations

import pytest

from journal.errors import StorageFailed
from journal.storage import Write
from journal.storage.memory import MemoryStorage


def content(storage: MemoryStorage) -> list[tuple[bytes, bytes]]:
    return list(storage.iterate(b"", None))


async def test_a_crash_keeps_what_was_synced_and_a_prefix_of_the_rest() -> None:
    storage = MemoryStorage()
    await storage.write([(b"a", b"1")], sync=False)
    await storage.write([(b"b", b"1")], sync=True)
    await storage.write([(b"a", None)], sync=False)
    await storage.write([(b"c", b"1")], sync=False)
    assert storage.unsynced_batches == 2
    assert content(storage.crashed()) == [(b"a", b"1"), (b"b", b"1")]
    assert content(storage.crashed(1)) == [(b"b", b"1")]
    assert content(storage.crashed(2)) == [(b"b", b"1"), (b"c", b"1")]
    assert content(storage) == [(b"b", b"1"), (b"c", b"1")]


async def test_a_failed_write_closes_the_storage_to_writes_for_good() -> None:
    storage = MemoryStorage()
    await storage.write([(b"a", b"1")], sync=True)

    def fail(_batch: list[Write], sync: bool) -> None:
        if sync:
            raise StorageFailed("the disk is gone")

    storage.on_write = fail
    await storage.write([(b"b", b"1")], sync=False)
    with pytest.raises(StorageFailed, match="the disk is gone"):
        await storage.write([(b"c", b"1")], sync=True)
    storage.on_write = None
    with pytest.raises(StorageFailed, match="closed to writes: the disk is gone"):
        await storage.write([(b"d", b"1")], sync=False)
    assert content(storage) == [(b"a", b"1"), (b"b", b"1")]
    assert content(storage.crashed()) == [(b"a", b"1")]
