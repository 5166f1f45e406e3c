"""Reads: pages from one revision, time travel, and how little they disturb."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import RevisionCompacted, RevisionInFuture
from journal.offers import Delete, DeleteRange, LeaseGrant, Offer, Put
from journal.recent import RecentKeys
from journal.space import Record
from journal.types import Revision, Slot
from journal.versions import Versions
from tests.space.world import World

ALL = 1000, 1 << 20


def put(key: bytes, value: bytes = b"") -> Offer:
    return Offer((Put(key, value),))


def test_a_record_tells_its_history() -> None:
    world = World()
    world.offer(Offer((LeaseGrant(5, 1000),)), put(b"k", b"1"), Offer((Put(b"k", b"2", 5),)))
    assert world.space.get(b"k") == Record(Revision(2), Revision(3), 2, 5, b"2")
    assert world.space.get(b"k", Revision(2)) == Record(Revision(2), Revision(2), 1, 0, b"1")
    assert world.space.get(b"k", Revision(1)) is None
    world.offer(Offer((Delete(b"k"),)), put(b"k", b"3"))
    assert world.space.get(b"k", Revision(4)) is None
    assert world.space.get(b"k") == Record(Revision(5), Revision(5), 1, 0, b"3")
    assert world.space.leases[5].keys == set()


def test_the_past_of_a_hot_key_is_found_in_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the logarithm would be no better than a scan for long: count the gets."""
    world = World()
    for number in range(1000):
        world.offer(put(b"hot", b"%d" % number))
    world.flush()
    gets: list[bytes] = []
    plain = world.storage.get

    def counted(key: bytes) -> bytes | None:
        gets.append(key)
        return plain(key)

    monkeypatch.setattr(world.storage, "get", counted)
    for at in range(1, 1001):
        gets.clear()
        record = world.space.get(b"hot", Revision(at))
        assert record is not None
        assert record.value == b"%d" % (at - 1)
        assert len(gets) <= 10, at
    assert world.space.get(b"hot", Revision(0)) is None


def test_pages_come_from_one_revision_whatever_is_written_between() -> None:
    world = World()
    world.offer(*(put(b"k%02d" % index, b"old") for index in range(0, 40, 2)))
    pinned = world.space.revision
    expected = [b"k%02d" % index for index in range(0, 40, 2)]
    found: list[bytes] = []
    following: bytes | None = b"k"
    step = 0
    while following is not None:
        page, following = world.space.scan(following, b"l", pinned, 3, 1 << 20)
        found.extend(key for key, _record in page)
        assert all(record.value == b"old" for _key, record in page)
        step += 1
        world.offer(
            Offer((DeleteRange(b"k%02d" % (3 * step), b"k%02d" % (6 * step + 1)),)),
            put(b"k%02d" % (2 * step + 1)),
            put(b"k%02d" % (2 * step + 20), b"new"),
        )
        if step % 2:
            world.flush()
        else:
            world.crash()
    assert found == expected
    assert step == 7


def test_a_page_ends_by_keys_or_by_bytes() -> None:
    world = World()
    world.offer(*(put(b"k%d" % index, b"v" * 98) for index in range(5)))
    keys = [
        [key for key, _record in world.space.scan(b"", b"", None, 10, size)[0]] for size in (1, 200, 299, 300)
    ]
    assert keys == [[b"k0"], [b"k0", b"k1"], [b"k0", b"k1"], [b"k0", b"k1", b"k2"]]
    page, following = world.space.scan(b"", b"", None, 5, 1 << 20)
    assert len(page) == 5
    assert following is None
    assert world.space.scan(b"k1", b"k3", None, 1, 1 << 20)[1] == b"k2"
    assert world.space.scan(b"k9", b"", None, 1, 1 << 20) == ([], None)


def test_a_page_gives_up_after_many_deleted_keys_and_goes_on_from_there() -> None:
    world = World()
    world.offer(*(put(b"k%04d" % index) for index in range(2500)), put(b"z"))
    world.offer(Offer((DeleteRange(b"k", b"l"),)))
    pages = []
    following: bytes | None = b""
    while following is not None:
        page, following = world.space.scan(following, b"", None, 10, 1 << 20)
        pages.append([key for key, _record in page])
    assert pages == [[], [], [b"z"]]


def test_what_is_not_there_to_be_read_is_said() -> None:
    world = World()
    world.offer(put(b"a"), put(b"b"), put(b"c"))
    world.compact(2)
    assert world.space.get(b"a", Revision(2)) is not None
    with pytest.raises(RevisionCompacted, match="revision 1 is compacted: the oldest that can be read is 2"):
        world.space.get(b"a", Revision(1))
    with pytest.raises(RevisionInFuture, match="revision 4 is in the future: the journal is at 3"):
        world.space.scan(b"", b"", 4, *ALL)
    world.compact(9)  # no farther than the present
    assert world.space.compacted == 3
    with pytest.raises(RevisionCompacted):
        world.space.slots.of_revision(Revision(0))


def test_compaction_removes_what_cannot_be_read() -> None:
    world = World()
    for number in range(20):
        world.offer(put(b"hot", b"%d" % number), put(b"gone%d" % number))
        world.offer(Offer((Delete(b"gone%d" % number),)))
    world.flush()
    world.compact(30)
    world.flush()
    steps = 0
    while world.space.is_compacting:
        world.compact_step(7)
        assert len(world.pending) <= 1
        assert sum(len(writes) for _slot, writes in world.pending) <= 15
        world.flush()
        steps += 1
    assert steps == 3
    assert world.space.compact_step(7) == []
    left = {
        family: len(list(world.storage.iterate(family, bytes([family[0] + 1])))) for family in (b"v", b"k")
    }
    # Revisions 31 to 60 remain: ten versions of the hot key ended in them, ten keys were deleted.
    assert left == {b"v": 20, b"k": 11}
    assert [world.space.get(b"hot", Revision(at)) for at in (30, 58)] == [
        Record(Revision(1), Revision(28), 10, 0, b"9"),
        Record(Revision(1), Revision(58), 20, 0, b"19"),
    ]


def test_the_cache_is_bounded_by_records_and_by_bytes() -> None:
    world = World(cache_records_max=10)
    versions = world.space.versions
    for number in range(100):
        world.offer(put(b"k%d" % number))
        world.flush()
    for number in range(100):
        world.space.get(b"k%d" % number)
        world.space.get(b"none%d" % number)
    assert len(versions.young) + len(versions._old) <= 11

    small = World(cache_bytes_max=10_000)
    for number in range(100):
        small.offer(put(b"k%d" % number, bytes(1000)))
        small.flush()
    for number in range(100):
        small.space.get(b"k%d" % number)
    held = small.space.versions
    assert 9_000 < payload_bytes(held) <= 11_100
    assert small.space.get(b"k0") is not None


def payload_bytes(versions: Versions) -> int:
    return sum(len(record[4]) for part in (versions.young, versions._old) for record in part.values())


def test_the_cache_holds_as_much_as_it_may_however_often_keys_are_put() -> None:
    """What a key is put again for takes the place of what was there, also twice in one slot; no record goes
    before there are too many."""
    world = World(cache_records_max=10, cache_bytes_max=10_000)
    versions = world.space.versions
    for turn in range(300):
        world.offer(put(b"k%d" % (turn % 9), bytes(500)), put(b"k%d" % (turn % 9), bytes(900 - turn % 7)))
        world.flush()
    assert len(versions.young) + len(versions._old) == 9
    assert versions._young_bytes + versions._old_bytes == payload_bytes(versions)
    for turn in range(300):
        world.offer(put(b"k%d" % (turn * 7 % 13), bytes(100)))
        world.flush()
        assert len(versions.young) + len(versions._old) <= 10
        assert not versions.young.keys() & versions._old.keys()
        assert versions._young_bytes + versions._old_bytes == payload_bytes(versions)
    assert len(versions.young) + len(versions._old) == 10


def test_a_cache_that_is_full_of_what_is_not_stored_keeps_it() -> None:
    world = World(cache_records_max=2)
    for number in range(20):
        world.offer(put(b"k%d" % number, b"%d" % number))
    for number in range(20):
        record = world.space.get(b"k%d" % number)
        assert record is not None and record.value == b"%d" % number
    assert len(world.space.versions.young) == 20
    world.flush()
    world.space.get(b"k0")
    assert len(world.space.versions.young) + len(world.space.versions._old) <= 3


PROGRAM = """
from tests.space.test_restart import history
from tests.space.world import World
world = World()
for value in history(3, 120):
    world.fold(value)
print(world.space.chain.hex(), world.space.revision)
"""


def test_every_process_comes_to_the_same_chain() -> None:
    """Sets and dicts of bytes iterate in another order under another hash seed: it must not show."""
    chains = set()
    for seed in ("0", "1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert found.returncode == 0, found.stderr
        chains.add(found.stdout)
    assert len(chains) == 1


keys = st.sampled_from([b"a", b"b", b"bb", b"c", b"d"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.lists(keys, min_size=1, max_size=3), st.booleans()), max_size=60), st.data())
def test_recent_keys_against_a_plain_list(slots: list[tuple[list[bytes], bool]], data: st.DataObject) -> None:
    recent, modified = RecentKeys(), dict.fromkeys([b"a", b"b", b"bb", b"c", b"d"], 0)
    for number, (changed, ask) in enumerate(slots, 1):
        modified.update(dict.fromkeys(changed, number))
        assert recent.add(Slot(number), number, changed, 10) == []
        if ask:
            at = data.draw(st.integers(0, number))
            start, end = data.draw(keys), data.draw(st.one_of(keys, st.just(b"")))
            expected = [
                key
                for key in sorted(modified)
                if start <= key and (not end or key < end) and modified[key] > at
            ]
            found = recent.changed_after(at, start, end, modified.__getitem__)
            assert found == (expected[0] if expected else None)


def test_recent_keys_stay_within_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.recent.FOLD_RECENT_BYTES_MAX", 1000)
    recent = RecentKeys()
    dropped: list[Slot] = []
    for number in range(1, 101):
        dropped += recent.add(Slot(number), number, [b"k%d" % number], 36)  # 100 with what a slot costs
    assert dropped == list(range(1, 91))
    assert recent.floor == 90
    assert recent.add(Slot(101), 101, [b"k"], 5000) == list(range(91, 102)), (
        "even the newest, if it is too large"
    )
    assert recent.floor == 101
    assert recent.changed_after(101, b"", b"", lambda _key: 0) is None
