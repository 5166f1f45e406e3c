"""The contract of ``Storage``, the same for LevelDB and for memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journal.errors import StorageFailed
from journal.storage import Storage, Write
from journal.storage.leveldb import LevelDBStorage
from journal.storage.memory import MemoryStorage


@pytest.fixture(params=["memory", "leveldb"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    found: Storage = MemoryStorage() if request.param == "memory" else LevelDBStorage(tmp_path / "db")
    yield found
    found.close()


async def test_what_is_written_is_read(storage: Storage) -> None:
    assert storage.get(b"a") is None
    await storage.write([(b"a", b"1"), (b"b", b""), (b"\x00", b"\xff" * 100_000)], sync=True)
    assert storage.get(b"a") == b"1"
    assert storage.get(b"b") == b""
    assert storage.get(b"\x00") == b"\xff" * 100_000
    assert list(storage.iterate(b"", None)) == [(b"\x00", b"\xff" * 100_000), (b"a", b"1"), (b"b", b"")]


async def test_later_entries_of_a_batch_win(storage: Storage) -> None:
    await storage.write([(b"a", b"0"), (b"c", b"0")], sync=False)
    await storage.write(
        [(b"a", None), (b"a", b"1"), (b"b", b"1"), (b"b", None), (b"c", b"1"), (b"c", b"2"), (b"d", None)],
        sync=False,
    )
    assert list(storage.iterate(b"", None)) == [(b"a", b"1"), (b"c", b"2")]


async def test_ranges_are_half_open_in_both_directions(storage: Storage) -> None:
    await storage.write([(key, key) for key in (b"a", b"b", b"b\x00", b"b\xff", b"c")], sync=False)

    def keys(start: bytes, stop: bytes | None, reverse: bool = False) -> list[bytes]:
        return [key for key, _value in storage.iterate(start, stop, reverse=reverse)]

    assert keys(b"b", b"c") == [b"b", b"b\x00", b"b\xff"]
    assert keys(b"b", b"c", reverse=True) == [b"b\xff", b"b\x00", b"b"]
    assert keys(b"b\x00", None) == [b"b\x00", b"b\xff", b"c"]
    assert keys(b"b\x00", None, reverse=True) == [b"c", b"b\xff", b"b\x00"]
    assert keys(b"", b"a") == []
    assert keys(b"c\x00", None) == []
    assert keys(b"b", b"b") == []


async def test_an_iterator_sees_the_moment_it_was_made(storage: Storage) -> None:
    await storage.write([(b"a", b"1"), (b"b", b"1"), (b"c", b"1")], sync=False)
    unstarted = storage.iterate(b"", None)
    started = storage.iterate(b"", None)
    assert next(started) == (b"a", b"1")
    backwards = storage.iterate(b"", None, reverse=True)
    await storage.write([(b"a", b"2"), (b"b", None), (b"bb", b"2"), (b"c", b"2")], sync=True)
    assert list(unstarted) == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]
    assert list(started) == [(b"b", b"1"), (b"c", b"1")]
    assert list(backwards) == [(b"c", b"1"), (b"b", b"1"), (b"a", b"1")]
    assert list(storage.iterate(b"", None)) == [(b"a", b"2"), (b"bb", b"2"), (b"c", b"2")]


async def test_a_view_is_of_its_moment(storage: Storage) -> None:
    await storage.write([(b"a", b"1"), (b"b", b"1"), (b"c", b"1")], sync=False)
    view = storage.view()
    await storage.write([(b"a", b"2"), (b"b", None), (b"d", b"2")], sync=True)
    later = storage.view()
    await storage.write([(b"e", b"3")], sync=False)
    for _twice in range(2):
        assert (view.get(b"a"), view.get(b"b"), view.get(b"d")) == (b"1", b"1", None)
        assert list(view.iterate(b"", None)) == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]
    assert list(view.iterate(b"b", b"d", reverse=True)) == [(b"c", b"1"), (b"b", b"1")]
    assert [key for key, _value in later.iterate(b"", None)] == [b"a", b"c", b"d"]
    started = view.iterate(b"", None)
    assert next(started) == (b"a", b"1")
    await storage.write([(b"b", b"4"), (b"c", None)], sync=False)
    assert list(started) == [(b"b", b"1"), (b"c", b"1")]
    del started
    view.close()
    view.close()
    with pytest.raises(StorageFailed):
        view.get(b"a")
    with pytest.raises(StorageFailed):
        list(view.iterate(b"", None))
    assert later.get(b"d") == b"2"
    later.close()


async def test_a_view_of_a_closed_storage_says_so(storage: Storage) -> None:
    with_view = storage.view()
    storage.close()
    with pytest.raises(StorageFailed):
        storage.view()
    with_view.close()


async def test_a_batch_may_come_from_an_iterator(storage: Storage) -> None:
    await storage.write((pair for pair in [(b"a", b"1"), (b"b", b"2")]), sync=True)
    await storage.write([], sync=True)
    assert [key for key, _value in storage.iterate(b"", None)] == [b"a", b"b"]


async def test_size_grows(storage: Storage) -> None:
    before = storage.size_bytes()
    await storage.write([(b"a%d" % number, bytes(1000)) for number in range(100)], sync=True)
    assert storage.size_bytes() >= before + 90_000


async def test_a_closed_storage_says_so(storage: Storage) -> None:
    await storage.write([(b"a", b"1")], sync=True)
    under_way = storage.iterate(b"", None)
    storage.close()
    storage.close()
    with pytest.raises(StorageFailed):
        storage.get(b"a")
    with pytest.raises(StorageFailed):
        list(storage.iterate(b"", None))
    with pytest.raises(StorageFailed):
        await storage.write([(b"b", b"1")], sync=False)
    del under_way


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """Folders that no example has used yet."""
    return (tmp_path / f"db{number}" for number in count())


batches = st.lists(
    st.tuples(
        st.lists(st.tuples(st.binary(min_size=1, max_size=2), st.one_of(st.none(), st.binary(max_size=3)))),
        st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
async def test_both_are_the_same_map(
    folders: Iterator[Path], written: list[tuple[list[Write], bool]]
) -> None:
    """Any batches leave both storages, and a plain dict, with the same content, reopened too."""
    path = next(folders)
    memory, leveldb = MemoryStorage(), LevelDBStorage(path)
    expected: dict[bytes, bytes] = {}
    for batch, sync in written:
        await memory.write(batch, sync=sync)
        await leveldb.write(batch, sync=sync)
        for key, value in batch:
            if value is None:
                expected.pop(key, None)
            else:
                expected[key] = value
    leveldb.close()
    reopened = LevelDBStorage(path, create=False)
    for found in (memory, reopened):
        assert list(found.iterate(b"", None)) == sorted(expected.items())
        assert list(found.iterate(b"", None, reverse=True)) == sorted(expected.items(), reverse=True)
    reopened.close()
