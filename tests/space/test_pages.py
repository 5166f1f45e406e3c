"""Pages of a scan: what they hold, how they are bounded, and that damage does not pass."""

from __future__ import annotations

from struct import pack

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import ProtocolViolation, RecordDamaged
from journal.offers import Delete, Offer, Put
from journal.pages import ROWS_TOGETHER_MAX, Page, read_page
from journal.space import Record
from journal.storage.memory import MemoryStorage
from journal.types import Revision, Slot
from journal.versions import ABSENT, Versions, succeed
from tests.space.world import World

KEYS = [b"a", b"b", b"ba", b"c", b"d", b"e"]


def record(number: int, value: bytes = b"v") -> Record:
    return Record(Revision(number), Revision(number + 1), number + 2, number + 3, value)


def page(count: int) -> Page:
    found = Page()
    for number in range(count):
        found.append(b"k%d" % number, record(number, b"v%d" % number))
    return found


# -- a page ---------------------------------------------------------------------------------


def test_a_page_is_a_sequence_of_keys_with_their_records() -> None:
    found = page(5)
    expected = [(b"k%d" % number, record(number, b"v%d" % number)) for number in range(5)]
    assert len(found) == 5 and list(found) == expected and found == expected and found == page(5)
    assert found != page(4) and found != expected[::-1] and found != 5
    assert (found[0], found[-1], found[1:4], found[::-2]) == (
        expected[0],
        expected[-1],
        expected[1:4],
        expected[::-2],
    )
    with pytest.raises(IndexError):
        found[5]
    assert type(found[0][1]) is Record and all(type(there) is Record for _key, there in found)
    assert list(Page()) == [] and not Page()
    assert dict(found) == dict(expected), "it is not taken for a mapping"


def test_a_page_grows_and_is_cut() -> None:
    found = page(2)
    found.extend(Page([b"x", b"y"], pack(">8Q", *range(8)), [b"1", b"22"]))
    assert found[2:] == [
        (b"x", Record(Revision(0), Revision(1), 2, 3, b"1")),
        (b"y", Record(Revision(4), Revision(5), 6, 7, b"22")),
    ]
    assert found.size() == 13
    assert [found.fitting(size) for size in (0, 3, 4, 9, 10, 12, 13, 99)] == [0, 0, 1, 2, 3, 3, 4, 4]
    assert found.cut(4) is None
    assert found.cut(3) == b"y"
    assert found.size() == 10
    found.extend(Page([b"z"], bytes(32), [b"333"]))
    assert found.size() == 14
    found.append(b"zz", record(1, b""))
    assert found.size() == 16
    assert found.cut(3) == b"z"
    assert found == [*page(2), (b"x", Record(Revision(0), Revision(1), 2, 3, b"1"))]


def test_a_page_packs_and_unpacks() -> None:
    for count in (0, 1, 300):
        assert Page.unpack(page(count).pack()) == page(count)
    assert Page.unpack(page(3).pack(keys_only=True)) == [
        (key, there._replace(value=b"")) for key, there in page(3)
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01",
        msgpack.packb([[], b""]),
        msgpack.packb([[], b"", [], 1]),
        msgpack.packb([[b"k"], bytes(32), []]),
        msgpack.packb([[b"k"], bytes(31), [b"v"]]),
        msgpack.packb([[b"k"], bytes(64), [b"v"]]),
        msgpack.packb([["k"], bytes(32), [b"v"]]),
        msgpack.packb([[b"k"], bytes(32), [None]]),
        msgpack.packb([b"k", bytes(32), [b"v"]]),
        msgpack.packb([[b"k"], [0, 0, 0, 0], [b"v"]]),
        msgpack.packb([{b"k": 1}, bytes(32), [b"v"]]),
        page(1).pack() + b"\0",
    ],
)
def test_what_is_no_page_is_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="does not decode"):
        Page.unpack(data)


# -- read from the space --------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.binary(max_size=12)),
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.just(bytes(200))),
        st.tuples(st.just("delete"), st.sampled_from(KEYS), st.just(b"")),
        st.tuples(st.sampled_from(["flush", "half", "written"]), st.just(b""), st.just(b"")),
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.data())
def test_pages_together_are_what_the_keys_are_one_by_one(
    story: list[tuple[str, bytes, bytes]], data: st.DataObject
) -> None:
    """Whatever is in storage, on its way there, deleted, or newer than what is asked for."""
    world = World()
    for kind, key, value in story:
        if kind == "put":
            world.offer(Offer((Put(key, value),)))
        elif kind == "delete":
            world.offer(Offer((Delete(key),)))
        elif kind == "written":  # it is in storage, and the space has not heard of it
            written, world.pending = world.pending, []
            world.storage.write_now([write for _slot, writes in written for write in writes], sync=True)
            world.pending = [(slot, []) for slot, _writes in written]
        else:
            world.flush(len(world.pending) // 2 if kind == "half" else None)
    space = world.space
    at = data.draw(st.integers(0, space.revision))
    start, end = data.draw(st.sampled_from([b"", *KEYS])), data.draw(st.sampled_from([b"", *KEYS]))
    limit_keys, limit_bytes = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 700))
    expected = [
        (key, there)
        for key in KEYS
        if start <= key and (not end or key < end)
        if (there := space.get(key, at)) is not None
    ]
    found: list[tuple[bytes, Record]] = []
    position: bytes | None = start
    while position is not None:
        before = position
        one, position = space.page(position, end, at, limit_keys, limit_bytes)
        assert position is None or position > before
        assert len(one) <= limit_keys
        assert one.size() <= limit_bytes or len(one) == 1
        found += one
    assert found == expected


def test_a_key_of_which_a_fold_left_nothing_is_not_there() -> None:
    def place_of(revision: Revision) -> tuple[Slot, Revision]:
        return Slot(revision), revision

    versions = Versions(MemoryStorage(), cache_records_max=10, cache_bytes_max=1000, place_of=place_of)
    old = succeed(ABSENT, 1, 1, 1, 0, b"v", 0)
    changed = {b"a": old, b"b": ABSENT, b"c": old}
    versions.young.update(changed)
    versions.commit(Slot(1), 1, changed, [], b"", [], 0)
    found, following = read_page(versions, b"", b"", 1, 10, 1000)
    assert ([key for key, _record in found], following) == ([b"a", b"c"], None)


def test_deleted_keys_on_the_way_neither_shorten_a_page_nor_lengthen_it() -> None:
    world = World()
    world.offer(*(Offer((Put(b"k%02d" % number, b""),)) for number in range(40)))
    world.offer(*(Offer((Delete(b"k%02d" % number),)) for number in range(40) if number % 10 < 5))
    world.flush()
    found, position = [], b""
    for _ in range(4):
        page, following = world.space.page(position, b"", None, 5, 1 << 20)
        found.append([key for key, _record in page])
        position = following or b""
    assert found == [[b"k%02d" % number for number in range(n + 5, n + 10)] for n in range(0, 40, 10)]
    assert following is None


def test_what_is_small_now_and_was_large_is_read_within_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    for number in range(50):
        world.offer(Offer((Put(b"k%02d" % number, bytes(10_000)),)))
    then = world.space.revision
    for number in range(50):
        world.offer(Offer((Put(b"k%02d" % number, b""),)))
    world.flush()
    gets = 0
    plain = world.storage.get

    def counted(key: bytes) -> bytes | None:
        nonlocal gets
        gets += 1
        return plain(key)

    monkeypatch.setattr(world.storage, "get", counted)
    page, following = world.space.page(b"", b"", then, 50, 25_000)
    assert (len(page), following) == (2, b"k02")
    assert gets == 3, "what does not fit is not read"


def read_from(world: World) -> list[bytes]:
    """Return the keys that are read from storage from now on, as they are."""
    read: list[bytes] = []
    plain = world.storage.iterate

    def counted(start: bytes, stop: bytes | None, *, reverse: bool = False):  # type: ignore[no-untyped-def]
        for pair in plain(start, stop, reverse=reverse):
            read.append(pair[0])
            yield pair

    world.storage.iterate = counted  # type: ignore[method-assign]
    return read


def test_what_is_large_is_not_read_ahead() -> None:
    """A thousand keys may be asked for whose values are half a megabyte each."""
    world = World()
    for number in range(50):
        world.offer(Offer((Put(b"k%02d" % number, bytes(10_000)),)))
    world.flush()
    read = read_from(world)
    page, following = world.space.page(b"", b"", None, 1000, 25_000)
    assert (len(page), following) == (2, b"k02")
    assert len(read) == 3


def test_of_large_records_behind_small_ones_few_are_read_ahead() -> None:
    """Records are taken many together, as many as would fit if they were as small as those before them."""
    world = World()
    world.offer(*(Offer((Put(b"k%03d" % number, b""),)) for number in range(200)))
    world.offer(*(Offer((Put(b"m%03d" % number, bytes(10_000)),)) for number in range(150)))
    world.flush()
    read = read_from(world)
    page, following = world.space.page(b"", b"", None, 1000, 50_000)
    assert (len(page), following) == (204, b"m004")
    assert 205 <= len(read) <= 204 + ROWS_TOGETHER_MAX


def test_every_bit_of_every_record_that_a_page_reads_is_checked() -> None:
    world = World()
    for number in range(6):
        world.offer(Offer((Put(b"k%d" % number, b"value"),)))
    world.flush()
    whole = world.space.page(b"", b"", None, 10, 1 << 20)
    assert len(whole[0]) == 6
    for number in (0, 2, 5):
        stored_key = b"kk%d" % number
        sealed = world.storage.get(stored_key)
        assert sealed is not None
        for bit in range(8 * len(sealed)):
            damaged = bytearray(sealed)
            damaged[bit // 8] ^= 1 << bit % 8
            world.storage.write_now([(stored_key, bytes(damaged))], sync=True)
            with pytest.raises(RecordDamaged) as caught:
                world.space.page(b"", b"", None, 10, 1 << 20)
            assert caught.value.key == stored_key
        for size in range(len(sealed)):
            world.storage.write_now([(stored_key, sealed[:size])], sync=True)
            with pytest.raises(RecordDamaged) as caught:
                world.space.page(b"", b"", None, 10, 1 << 20)
            assert caught.value.key == stored_key
        world.storage.write_now([(stored_key, sealed)], sync=True)
    assert world.space.page(b"", b"", None, 10, 1 << 20) == whole


def test_two_damaged_records_whose_lengths_make_up_for_each_other_are_noticed() -> None:
    world = World()
    world.offer(Offer((Put(b"k0", b""), Put(b"k1", b"x"))))
    world.flush()
    first = world.storage.get(b"kk0") or b""
    world.storage.write_now([(b"kk0", first[:40])], sync=True)
    with pytest.raises(RecordDamaged) as caught:
        world.space.page(b"", b"", None, 10, 1 << 20)
    assert caught.value.key == b"kk0"


def test_the_key_that_a_scan_goes_on_from_is_checked_too() -> None:
    world = World()
    world.offer(Offer((Put(b"a", b""), Put(b"c", b""))))
    world.flush()
    sealed = world.storage.get(b"kc") or b""
    world.storage.write_now([(b"kb", sealed), (b"kc", None)], sync=True)  # its name has changed
    with pytest.raises(RecordDamaged) as caught:
        world.space.page(b"", b"", None, 1, 1 << 20)
    assert caught.value.key == b"kb"
