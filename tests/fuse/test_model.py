"""What outlives a loss of power, by the model alone."""

from __future__ import annotations

import errno
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synod.chaos.fuse.model import KEEPS, ROOT, SECTOR, Disk, DiskError

MANY = 1 << 30


def disk() -> Disk:
    return Disk(MANY)


def kept(of: Disk, keep: str = "nothing", seed: int = 0) -> dict[str, bytes]:
    """Let the power go; return what is in the root folder then."""
    of.lose_power(keep, random.Random(seed))
    names = of.files[ROOT].names or {}
    return {name.decode(): bytes(of.files[number].data) for name, number in names.items()}


def test_only_a_sync_of_both_the_file_and_its_folder_keeps_it() -> None:
    for syncs_file in (False, True):
        for syncs_folder in (False, True):
            of = disk()
            file = of.make(ROOT, b"a", 0o644, 0)
            of.write(file.number, 0, b"data", 0)
            if syncs_file:
                of.sync(file.number)
            if syncs_folder:
                of.sync(ROOT)
            found = kept(of)
            assert found == ({"a": b"data" if syncs_file else b""} if syncs_folder else {})


def test_what_was_synced_stays_and_what_came_after_goes() -> None:
    of = disk()
    file = of.make(ROOT, b"a", 0o644, 0)
    of.sync(ROOT)
    of.write(file.number, 0, b"first", 0)
    of.sync(file.number)
    of.write(file.number, 5, b" second", 0)
    of.write(file.number, 0, b"FIRST", 0)
    assert of.read(file.number, 0, 99) == b"FIRST second"
    assert of.unsynced_bytes == 12
    assert kept(of) == {"a": b"first"}


def test_a_file_cut_down_without_a_sync_is_whole_again() -> None:
    of = disk()
    file = of.make(ROOT, b"a", 0o644, 0)
    of.write(file.number, 0, b"x" * 100, 0)
    of.sync(file.number)
    of.sync(ROOT)
    of.resize(file.number, 10, 0)
    of.write(file.number, 10, b"y", 0)
    assert kept(of) == {"a": b"x" * 100}
    [number] = (of.files[ROOT].names or {}).values()
    of.resize(number, 10, 0)
    of.resize(number, 20, 0)
    of.sync(number)
    assert kept(of) == {"a": b"x" * 10 + bytes(10)}


def test_names_come_to_the_platter_in_their_order() -> None:
    """CURRENT never names a file that is not there: so a database's own switch of files is safe."""
    seen = set()
    for seed in range(60):
        of = disk()
        for name in (b"old", b"CURRENT"):
            of.make(ROOT, name, 0o644, 0)
        of.sync(ROOT)
        of.make(ROOT, b"new", 0o644, 0)
        of.make(ROOT, b"tmp", 0o644, 0)
        of.move(ROOT, b"tmp", ROOT, b"CURRENT", 0)
        of.remove(ROOT, b"old", 0)
        seen.add(",".join(sorted(kept(of, "some", seed))))
    assert seen == {"CURRENT,old", "CURRENT,new,old", "CURRENT,new,old,tmp", "CURRENT,new"}


def test_a_file_without_a_name_stays_while_it_is_open_or_on_the_platter() -> None:
    of = disk()
    file = of.make(ROOT, b"a", 0o644, 0)
    of.write(file.number, 0, b"x", 0)
    of.sync(file.number)
    of.sync(ROOT)
    file.opened = 1
    of.remove(ROOT, b"a", 0)
    assert of.read(file.number, 0, 1) == b"x"
    with pytest.raises(DiskError, match="ENOENT"):
        of.find(ROOT, b"a")
    of.sync(ROOT)
    assert file.number in of.files
    file.opened = 0
    of.sweep()
    assert file.number not in of.files


def test_a_folder_is_kept_by_the_folder_above_it() -> None:
    of = disk()
    folder = of.make(ROOT, b"folder", 0o755, 0, is_folder=True)
    file = of.make(folder.number, b"a", 0o644, 0)
    of.write(file.number, 0, b"x", 0)
    of.sync(file.number)
    of.sync(folder.number)
    with pytest.raises(DiskError, match="ENOTEMPTY"):
        of.remove(ROOT, b"folder", 0)
    lost = disk()
    made = lost.make(ROOT, b"folder", 0o755, 0, is_folder=True)
    lost.sync(made.number)
    assert kept(lost) == {}
    of.sync(ROOT)
    of.lose_power("nothing", random.Random(0))
    again = of.find(ROOT, b"folder")
    assert bytes(of.find(again.number, b"a").data) == b"x"


def test_a_failed_sync_counts_as_clean_and_a_second_one_proves_nothing() -> None:
    of = disk()
    file = of.make(ROOT, b"a", 0o644, 0)
    of.sync(ROOT)
    of.write(file.number, 0, b"x", 0)
    of.fail_sync(file.number)
    of.sync(file.number)
    assert of.read(file.number, 0, 1) == b"x"
    assert kept(of) == {"a": b"\0"}


def test_torn_writes_end_where_a_sector_does() -> None:
    sizes = set()
    for seed in range(80):
        of = disk()
        file = of.make(ROOT, b"a", 0o644, 0)
        of.sync(ROOT)
        of.write(file.number, 0, b"s" * 300, 0)
        of.sync(file.number)
        of.write(file.number, 300, b"w" * 100, 0)
        of.write(file.number, 400, b"t" * 1500, 0)
        data = kept(of, "torn", seed)["a"]
        assert data == (b"s" * 300 + b"w" * 100 + b"t" * 1500)[: len(data)]
        sizes.add(len(data))
    assert sizes == {400, 512, 1024, 1536}


def test_no_space_is_said_and_nothing_is_written() -> None:
    of = Disk(1000)
    file = of.make(ROOT, b"a", 0o644, 0)
    of.write(file.number, 0, b"x" * 900, 0)
    with pytest.raises(DiskError) as refused:
        of.write(file.number, 900, b"y" * 101, 0)
    assert refused.value.number == errno.ENOSPC
    assert of.read(file.number, 0, 2000) == b"x" * 900
    of.write(file.number, 0, b"z" * 900, 0)  # in its place
    of.write(file.number, 900, b"y" * 100, 0)
    assert of.free_bytes == 0
    with pytest.raises(DiskError, match="ENOSPC"):
        of.make(ROOT, b"b", 0o644, 0)
    of.remove(ROOT, b"a", 0)
    of.sync(ROOT)
    assert of.free_bytes == 1000


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2000), st.binary(min_size=1, max_size=1500)),
        st.tuples(st.just("resize"), st.integers(0, 2500), st.just(b"")),
        st.tuples(st.just("sync"), st.just(0), st.just(b"")),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, keep=st.sampled_from(KEEPS), seed=st.integers(0, 99))
def test_every_sector_left_is_one_that_was_synced_or_written_since(
    steps: list[tuple[str, int, bytes]], keep: str, seed: int
) -> None:
    of, synced = disk(), b""
    file = of.make(ROOT, b"a", 0o644, 0)
    of.sync(ROOT)
    versions = [b""]
    for step, place, data in steps:
        if step == "write":
            of.write(file.number, place, data, 0)
        elif step == "resize":
            of.resize(file.number, place, 0)
        else:
            of.sync(file.number)
            synced = bytes(file.data)
            versions = []
        versions.append(bytes(file.data))
    found = kept(of, keep, seed)["a"]
    if keep == "nothing":
        assert found == synced
        return
    for begin in range(0, len(found), SECTOR):
        for place in range(begin, min(begin + SECTOR, len(found))):
            possible = {version[place] if place < len(version) else 0 for version in [synced, *versions]}
            assert found[place] in possible
