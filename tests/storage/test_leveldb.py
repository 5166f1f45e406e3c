"""What only LevelDB can get wrong: locks, folders, failing disks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import plyvel
import pytest

from journal.errors import DataFolderError, StorageFailed
from journal.storage.leveldb import WRITE_BUFFER_BYTES_MAX, WRITE_BUFFER_BYTES_MIN, LevelDBStorage


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    storage = LevelDBStorage(tmp_path / "db")
    with pytest.raises(DataFolderError, match="is locked"):
        LevelDBStorage(tmp_path / "db")
    storage.close()
    LevelDBStorage(tmp_path / "db").close()


def test_a_folder_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    storage = LevelDBStorage(tmp_path / "db")
    program = (
        "import sys\nfrom journal.errors import DataFolderError\n"
        "from journal.storage.leveldb import LevelDBStorage\n"
        "try:\n    LevelDBStorage(sys.argv[1])\nexcept DataFolderError as error:\n    print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "db")], capture_output=True, text=True, timeout=30
    )
    storage.close()
    assert "is locked" in found.stdout, found


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="holds no data"):
        LevelDBStorage(tmp_path / "db", create=False)


def test_a_folder_without_its_manifest_is_refused(tmp_path: Path) -> None:
    LevelDBStorage(tmp_path / "db").close()
    (tmp_path / "db" / "CURRENT").write_text("MANIFEST-999999\n")
    with pytest.raises(StorageFailed):
        LevelDBStorage(tmp_path / "db", create=False)


async def test_a_failed_write_closes_the_storage_to_writes_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LevelDBStorage(tmp_path / "db")
    await storage.write([(b"a", b"1")], sync=True)
    database = storage._db

    class Failing:
        def write_batch(self, sync: bool) -> object:
            raise plyvel.IOError("Input/output error")

    monkeypatch.setattr(storage, "_db", Failing())
    with pytest.raises(StorageFailed, match="Input/output error"):
        await storage.write([(b"b", b"1")], sync=True)
    monkeypatch.setattr(storage, "_db", database)
    with pytest.raises(StorageFailed, match="closed to writes"):
        await storage.write([(b"b", b"1")], sync=True)
    assert storage.get(b"a") == b"1"
    assert storage.get(b"b") is None
    storage.close()


def test_what_was_synced_is_there_after_the_process_died(tmp_path: Path) -> None:
    """A process that writes with sync and dies without closing leaves its write behind."""
    program = (
        "import os, sys, trio\nfrom journal.storage.leveldb import LevelDBStorage\n"
        "async def main():\n"
        "    storage = LevelDBStorage(sys.argv[1])\n"
        "    await storage.write([(b'a', b'1')], sync=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "trio.run(main)\n"
    )
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path / "db")], timeout=30)
    assert died.returncode == -9
    storage = LevelDBStorage(tmp_path / "db", create=False)
    assert storage.get(b"a") == b"1"
    storage.close()


def test_a_file_that_vanishes_while_sizes_are_added_up_is_no_fault(tmp_path: Path) -> None:
    storage = LevelDBStorage(tmp_path / "db")
    (tmp_path / "db" / "gone").symlink_to(tmp_path / "nowhere")
    assert storage.size_bytes() > 0
    (tmp_path / "db" / "gone").unlink()
    storage.close()


def test_nodes_that_write_the_same_do_not_write_their_tables_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync waits for a table that is being written; a quorum hides that, unless all nodes do it at once."""
    sizes: list[int] = []
    real = plyvel.DB

    def opened(path: str, **options: Any) -> Any:
        sizes.append(options["write_buffer_size"])
        return real(path, **options)

    monkeypatch.setattr(plyvel, "DB", opened)
    for number in range(5):
        LevelDBStorage(tmp_path / str(number)).close()
    assert len(set(sizes)) == 5
    assert all(WRITE_BUFFER_BYTES_MIN <= size < WRITE_BUFFER_BYTES_MAX for size in sizes)
