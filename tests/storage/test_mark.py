"""What was synced and is gone is noticed, whichever single file of the folder was harmed; else nothing is."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from journal.errors import FolderDamaged, StorageError
from journal.storage.holes import BLOCK_BYTES, HEADER, hole_in
from journal.storage.leveldb import _SYNCED, LevelDBStorage
from journal.storage.mark import NAME, SyncMark

HALF = 60
SECTOR_BYTES = 512
WHOLE = {b"key/%03d" % number: b"%03d" % number * 150 for number in range(2 * HALF)}


def fill(folder: Path, begin: int, end: int) -> None:
    """Write some records, each in a synced batch of its own."""
    storage = LevelDBStorage(folder)
    for key in sorted(WHOLE)[begin:end]:
        storage.write_now([(key, WHOLE[key])], sync=True)
    storage.close()


def read(folder: Path) -> dict[bytes, bytes]:
    storage = LevelDBStorage(folder, create=False)
    try:
        return dict(storage.iterate(b"", None))
    finally:
        storage.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a log behind it, and all else that LevelDB has."""
    folder = tmp_path_factory.mktemp("mark") / "db"
    fill(folder, 0, HALF)
    fill(folder, HALF, 2 * HALF)
    kinds = {file.suffix or file.name.partition("-")[0] for file in folder.iterdir()}
    assert kinds >= {".ldb", ".log", "MANIFEST", "CURRENT", NAME}
    assert read(shutil.copytree(folder, folder.with_name("copy"))) == WHOLE
    return folder


def cut(part: float) -> Callable[[Path], None]:
    def harm(file: Path) -> None:
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * part)])

    return harm


HARMS: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "empty": cut(0.0),
    "half": cut(0.5),
    "all but the end": cut(0.99),
}


@pytest.mark.parametrize("harm", HARMS)
def test_one_file_that_is_gone_or_cut_short_is_noticed(whole: Path, tmp_path: Path, harm: str) -> None:
    noticed = set()
    for name in sorted(file.name for file in whole.iterdir()):
        folder = shutil.copytree(whole, tmp_path / name)
        HARMS[harm](folder / name)
        try:
            assert read(folder) == WHOLE, f"{name} is {harm}, and what is left is believed"
        except StorageError:
            noticed.add(Path(name).suffix)
    assert ".log" in noticed
    assert ".ldb" in noticed


def lengths_in_the_last_block(log: bytes) -> Iterator[int]:
    """Yield where the lengths are of the records behind which LevelDB looks for no further block."""
    place = len(log) // BLOCK_BYTES * BLOCK_BYTES
    while place + HEADER.size <= len(log):
        _checksum, length, _kind = HEADER.unpack_from(log, place)
        yield place + 5  # the high byte
        place += HEADER.size + length


def test_a_flipped_bit_of_the_log_is_noticed(whole: Path, tmp_path: Path) -> None:
    """Also in the length of a record near the end, which LevelDB takes for an end that a crash left."""
    [log] = whole.glob("*.log")
    content = log.read_bytes()
    places = [*range(0, len(content), 997), *lengths_in_the_last_block(content)]
    assert len(places) > 30
    for place in places:
        folder = shutil.copytree(whole, tmp_path / "db", dirs_exist_ok=True)
        flipped = bytearray(content)
        flipped[place] ^= 0x80
        (folder / log.name).write_bytes(flipped)
        try:
            assert read(folder) == WHOLE, f"a bit of byte {place} is flipped, and the rest believed"
        except StorageError:
            pass
        shutil.rmtree(folder)


def test_a_block_of_the_log_that_is_lost_is_noticed(tmp_path: Path) -> None:
    """Zeros in its place, from the begin of one record to the begin of another: LevelDB passes over them."""
    storage = LevelDBStorage(tmp_path / "db")
    # Records that fill a block each, so that one that is lost ends where the next one begins.
    overhead = 12 + 2 + 1 + len(b"key/000") + 3
    synced = 1 + 1 + len(_SYNCED) + 1 + 8
    value = BLOCK_BYTES - HEADER.size - overhead - synced + 1
    for number in range(6):
        storage.write_now([(b"key/%03d" % number, b"x" * value)], sync=True)
    storage.close()
    [log] = (tmp_path / "db").glob("*.log")
    content = log.read_bytes()
    assert len(content) == 6 * BLOCK_BYTES
    assert hole_in(content) is None
    assert hole_in(content[: 5 * BLOCK_BYTES] + bytes(BLOCK_BYTES)) is None, "that may be the end"
    log.write_bytes(content[: 2 * BLOCK_BYTES] + bytes(BLOCK_BYTES) + content[3 * BLOCK_BYTES :])
    with pytest.raises(FolderDamaged, match=f"zeros at byte {2 * BLOCK_BYTES}"):
        LevelDBStorage(tmp_path / "db", create=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("journal.storage.leveldb.refuse_holes", lambda folder: None)
        assert len(read(tmp_path / "db")) == 5, "LevelDB finds nothing wrong"


def test_the_refusal_says_what_is_missing_and_stays(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "db")
    [log] = folder.glob("*.log")
    log.unlink()
    for _ in range(2):
        with pytest.raises(FolderDamaged, match=f"ends at the synced batch {HALF} of {2 * HALF}"):
            LevelDBStorage(folder, create=False)


def test_planted_without_the_mark_a_log_that_is_cut_short_is_believed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyncMark, "check", lambda self, synced: None)
    folder = shutil.copytree(whole, tmp_path / "db")
    [log] = folder.glob("*.log")
    cut(0.5)(log)
    assert HALF < len(read(folder)) < 2 * HALF


def test_the_death_of_a_process_at_any_moment_is_no_damage(tmp_path: Path) -> None:
    """Between any two writes, synced or not, what is in the folder opens, with all that was synced."""
    storage = LevelDBStorage(tmp_path / "db")
    for number in range(30):
        storage.write_now([(b"key/%02d" % number, b"")], sync=number % 3 != 0)
        left = shutil.copytree(tmp_path / "db", tmp_path / "left")
        assert len(read(left)) == number + 1
        shutil.rmtree(left)
    storage.close()


def test_a_sync_that_was_not_marked_yet_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LevelDBStorage(tmp_path / "db")
    storage.write_now([(b"a", b"")], sync=True)
    monkeypatch.setattr(SyncMark, "note", lambda self, synced: None)
    storage.write_now([(b"b", b"")], sync=True)
    storage.close()
    assert read(tmp_path / "db") == {b"a": b"", b"b": b""}


@pytest.mark.parametrize("content", [None, b"", b"short", bytes(12), b"\xff" * 12])
def test_a_mark_that_is_gone_or_damaged_tells_nothing(
    whole: Path, tmp_path: Path, content: bytes | None
) -> None:
    folder = shutil.copytree(whole, tmp_path / "db")
    (folder / NAME).unlink()
    if content is not None:
        (folder / NAME).write_bytes(content)
    assert read(folder) == WHOLE
    [log] = folder.glob("*.log")
    log.unlink()
    assert read(folder) == WHOLE, "opening put what was in the log into a table"


def test_a_new_database_does_not_heed_the_mark_of_an_old_one(whole: Path, tmp_path: Path) -> None:
    """The files of a node that rejoined are put aside; what is left of them is not its new data."""
    shutil.copy(whole / NAME, tmp_path / NAME)
    storage = LevelDBStorage(tmp_path)
    assert list(storage.iterate(b"", None)) == []
    storage.close()


def test_a_sector_of_any_file_that_is_damaged_is_noticed(whole: Path, tmp_path: Path) -> None:
    """Lost, filled with something else, or taken from another place of the file: a thousand of them."""
    rng = random.Random("sectors")
    files = sorted(file for file in whole.iterdir() if file.stat().st_size and file.suffix != ".old")
    noticed: Counter[str] = Counter()
    for _ in range(1000):
        file = rng.choice(files)
        content = file.read_bytes()
        place = rng.randrange(0, len(content), SECTOR_BYTES)
        other = rng.randrange(0, len(content), SECTOR_BYTES)
        size = len(content[place : place + SECTOR_BYTES])
        sector = rng.choice([bytes(size), rng.randbytes(size), content[other : other + size].ljust(size)])
        folder = shutil.copytree(whole, tmp_path / "db")
        (folder / file.name).write_bytes(content[:place] + sector + content[place + size :])
        try:
            assert read(folder) == WHOLE, f"{file.name} is damaged at {place} ({sector[:8]!r}), and believed"
        except StorageError:
            noticed[file.suffix] += 1
        shutil.rmtree(folder)
    assert min(noticed[".log"], noticed[".ldb"]) > 20
