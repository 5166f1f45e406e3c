"""Any state, sent or saved and put into another place, goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal import sessions
from journal.errors import ProtocolViolation, RecordDamaged, SnapshotDamaged
from journal.limits import Limits
from journal.offers import Expired, Offer, Put
from journal.paxos.membership import Member, Membership
from journal.paxos.messages import SnapshotAsk, SnapshotChunk, SnapshotRefused
from journal.snapshots.fetch import Check, Fetch
from journal.snapshots.file import SnapshotWriter, reading
from journal.snapshots.format import FORMAT, Header
from journal.snapshots.install import clearing, installation
from journal.snapshots.records import End, check_chunk, unpack_records
from journal.snapshots.restore import past
from journal.snapshots.serve import Server
from journal.space import Space
from journal.state import read_state
from journal.storage.memory import MemoryStorage
from journal.storage.records import (
    BINDING,
    CURRENT,
    HISTORY,
    LEASE,
    RECENT,
    SESSION,
    STAGED,
    STATE,
    family_end,
)
from journal.types import NodeId, Revision, Slot
from tests.space.stories import DIRECTED, Play, stories
from tests.space.world import World, entry
from tests.space.world import batch as packed_batch

FIRST = Membership((Member(NodeId(1), "one:1"),))
LIMITS = Limits(snapshot_chunk_bytes_max=200)


def send(source: MemoryStorage, target: MemoryStorage) -> End:
    """Send all of ``source`` and install it in ``target``, without a node."""
    server = Server(source, LIMITS, FIRST, 32)
    fetch = Fetch(NodeId(1), 7, b"", 0.0, 0.0)
    end: End | None = None
    while end is None:
        answer = server.answer(NodeId(2), SnapshotAsk(7, fetch.after), 0.0)
        assert isinstance(answer, SnapshotChunk), answer
        taken = fetch.take(answer, 0.0)
        assert taken is not None
        writes, end = taken
        target.write_now(writes, sync=False)
        fetch.ask_at = 0.0
    check = Check(target, end)
    while not check.step(3):
        pass
    for writes in installation(target, end, 5):
        target.write_now(writes, sync=False)
    for writes in clearing(target, 5):
        target.write_now(writes, sync=False)
    assert not list(target.iterate(STAGED, family_end(STAGED)))
    return end


def save(source: MemoryStorage, path: Path) -> Header:
    """Save all of ``source`` as a file."""
    server = Server(source, LIMITS, FIRST, 32)
    path.unlink(missing_ok=True)
    with SnapshotWriter(path) as writer:
        after, end = b"", b""
        header: Header | None = None
        while not end:
            answer = server.answer(NodeId(2), SnapshotAsk(7, after), 0.0)
            assert isinstance(answer, SnapshotChunk), answer
            if header is None:
                state = read_state(source)
                assert state is not None
                header = Header(
                    FORMAT, "old", 1, state.applied, state.revision, state.chain, state.compacted, 32, 0
                )
                writer.header(header)
            writer.records(answer.records)
            end = answer.end
            if not end:
                after = unpack_records(answer.records)[-1][0]
        writer.end(end)
    assert header is not None
    return header


def move_by_messages(playing: Play) -> None:
    """The rough world, wherever it stands, gets all that the quiet one has."""
    send(playing.quiet.storage, playing.rough.storage)
    playing.rough.pending = []
    playing.rough.space = playing.rough._load()


class Moved(Play):
    """What was committed before the move cannot be told at the new place: the log stays behind."""

    def compare_commits(self) -> None:
        pass


Move = Callable[[Play], None]


def play_with_a_move(story: list[tuple[str, Any]], cut: int, move: Move, **twin: int) -> None:
    playing = Moved(**twin)
    playing.prelude()
    for kind, detail in story[:cut]:
        playing.event(kind, detail)
    move(playing)
    playing.compare_states()
    playing.compare_history()
    for kind, detail in story[cut:]:
        playing.event(kind, detail)
    playing.compare_history()
    playing.rough.crash()
    playing.compare_states()
    playing.rough.flush()
    while playing.rough.space.is_compacting:
        playing.rough.compact_step(3)
        playing.rough.flush()
    playing.compare_states()
    playing.compare_history()


@pytest.mark.parametrize("story", DIRECTED.values(), ids=DIRECTED)
def test_a_sent_space_goes_on_like_the_one_it_came_from_directed(story: list[tuple[str, Any]]) -> None:
    for cut in range(len(story) + 1):
        play_with_a_move(story, cut, move_by_messages)


@settings(max_examples=40, deadline=None)
@given(stories, st.integers(0, 14))
def test_a_sent_space_goes_on_like_the_one_it_came_from(story: list[tuple[str, Any]], cut: int) -> None:
    play_with_a_move(story, cut, move_by_messages)


def test_also_where_clients_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FOLD_SESSIONS_MAX", 2)
    monkeypatch.setattr(sessions, "FOLD_SESSION_IDLE_REVISIONS_MAX", 3)

    @settings(max_examples=40, deadline=None)
    @given(stories, st.integers(0, 14))
    def goes_on(story: list[tuple[str, Any]], cut: int) -> None:
        play_with_a_move(story, cut, move_by_messages, sessions_max=2, idle_max=3)

    goes_on()


@settings(max_examples=25, deadline=None)
@given(stories, st.integers(0, 14))
def test_a_saved_space_goes_on_like_the_one_it_came_from(
    tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, Any]], cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "saved.synod"

    def move(playing: Play) -> None:
        save(playing.quiet.storage, path)
        storage = MemoryStorage()
        with reading(path) as reader:
            storage.write_now(list(reader.records()), sync=True)
            assert reader.end is not None and reader.end.records == reader.count
        playing.rough.storage, playing.rough.pending = storage, []
        playing.rough.space = playing.rough._load()

    play_with_a_move(story, cut, move)


@pytest.mark.parametrize("missing", [CURRENT, HISTORY, SESSION, LEASE, BINDING, RECENT, STATE])
def test_each_family_is_needed(missing: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bugs: a snapshot without one of the families is noticed by what follows."""
    from journal.snapshots import records

    families = tuple(family for family in records.FAMILIES if family != missing)
    monkeypatch.setattr(records.walk, "__defaults__", (b"", families))
    monkeypatch.setattr(records, "FAMILIES", families)
    monkeypatch.setattr("journal.recent.FOLD_RECENT_BYTES_MAX", 300)
    with pytest.raises((AssertionError, ProtocolViolation, RecordDamaged, KeyError, ValueError)):
        for story in DIRECTED.values():
            for cut in range(len(story) + 1):
                play_with_a_move(story, cut, move_by_messages)

        @settings(max_examples=300, deadline=None, database=None, derandomize=True)
        @given(stories, st.integers(0, 14))
        def search(story: list[tuple[str, Any]], cut: int) -> None:
            play_with_a_move(story, cut, move_by_messages)

        search()


# -- a point in time ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(stories, st.integers(0, 100))
def test_a_point_in_time_is_what_a_reader_of_it_saw(story: list[tuple[str, Any]], chosen: int) -> None:
    playing = Play()
    playing.prelude()
    for kind, detail in story:
        playing.event(kind, detail)
    whole = playing.quiet.space
    at = whole.compacted + chosen % (whole.revision - whole.compacted + 1)
    storage = MemoryStorage()
    storage.write_now(list(past(playing.quiet.storage, Revision(at))), sync=True)
    world = World(storage=storage)
    then = world.space
    assert (then.revision, then.compacted) == (at, at)
    assert then.scan(b"", b"", None, 1000, 1 << 20) == whole.scan(b"", b"", at, 1000, 1 << 20)
    for key, record in then.scan(b"", b"", None, 1000, 1 << 20)[0]:
        if record.lease:
            assert key in then.leases[record.lease].keys
    # What was first sent before then is refused; who comes new is served.
    if at:
        world.chains = [then.chain] * (then.applied + 1)
        [old] = world.offer(Offer((Put(b"x", b"1"),)), client=b"old", first=1, base=at - 1)
        assert isinstance(old, Expired)
    folded = then.fold(
        type(then.applied)(then.applied + 1),
        entry(packed_batch(Offer((Put(b"x", b"2"),)), client=b"new", first=0, base=at)),
    )
    assert folded.verdicts == [[at + 1]]
    world.storage.write_now(folded.writes, sync=True)
    assert Space.load(world.storage).get(b"x", at + 1) is not None
    assert then.get(b"x", at) == whole.get(b"x", at)


# -- what is damaged on the way ------------------------------------------------------------------------


def some_world() -> World:
    world = World()
    for number in range(30):
        world.offer(Offer((Put(b"k%d" % (number % 7), b"v" * number),)), client=b"c", first=number)
        world.flush()
    return world


def test_every_flipped_bit_of_a_chunk_is_noticed() -> None:
    world = some_world()
    server = Server(world.storage, LIMITS, FIRST, 32)
    chunk = server.answer(NodeId(2), SnapshotAsk(7, b""), 0.0)
    assert isinstance(chunk, SnapshotChunk)
    assert check_chunk(chunk)
    for index in range(len(chunk.records)):
        flipped = bytearray(chunk.records)
        flipped[index] ^= 1 << (index % 8)
        with pytest.raises(ProtocolViolation):
            check_chunk(SnapshotChunk(chunk.view, chunk.after, bytes(flipped), chunk.end, chunk.checksum))
    with pytest.raises(ProtocolViolation):
        check_chunk(SnapshotChunk(chunk.view, b"other", chunk.records, chunk.end, chunk.checksum))


def test_every_flipped_bit_and_every_cut_of_a_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "saved.synod"
    save(some_world().storage, path)
    data = path.read_bytes()
    assert read_all(path)
    for index in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[index] ^= 1 << (index % 8)
        path.write_bytes(bytes(flipped))
        with pytest.raises(SnapshotDamaged):
            read_all(path)
    for size in range(0, len(data), 11):
        path.write_bytes(data[:size])
        with pytest.raises(SnapshotDamaged):
            read_all(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(SnapshotDamaged, match="something follows"):
        read_all(path)


def test_a_missing_block_is_noticed(tmp_path: Path) -> None:
    """Each block is whole, but one of them is not there: only count and checksum of the whole tell."""
    path = tmp_path / "saved.synod"
    save(some_world().storage, path)
    data = path.read_bytes()
    starts = [8]
    while starts[-1] < len(data):
        starts.append(starts[-1] + 9 + int.from_bytes(data[starts[-1] : starts[-1] + 4], "big"))
    assert len(starts) > 5
    for first, second in pairwise(starts[1:-1]):
        path.write_bytes(data[:first] + data[second:])
        with pytest.raises(SnapshotDamaged):
            read_all(path)


def read_all(path: Path) -> int:
    with reading(path) as reader:
        return len(list(reader.records()))


def test_an_interrupted_save_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "saved.synod"
    with pytest.raises(RuntimeError), SnapshotWriter(path) as writer:
        writer.header(Header(FORMAT, "c", 1, 1, 1, bytes(32), 0, 32, 0))  # type: ignore[arg-type]
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with SnapshotWriter(path) as writer:
        writer.header(Header(FORMAT, "c", 1, 1, 1, bytes(32), 0, 32, 0))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [], "without its end it is nothing"


# -- views ------------------------------------------------------------------------------------------------


def test_views_are_few_and_end_when_nobody_asks() -> None:
    world = some_world()
    limits = Limits(snapshot_views_max=2, snapshot_idle_s=10.0, snapshot_chunk_bytes_max=100)
    server = Server(world.storage, limits, FIRST, 32)
    first = server.answer(NodeId(1), SnapshotAsk(1, b""), 0.0)
    assert isinstance(first, SnapshotChunk)
    assert isinstance(server.answer(NodeId(2), SnapshotAsk(1, b""), 1.0), SnapshotChunk)
    refused = server.answer(NodeId(3), SnapshotAsk(1, b""), 1.0)
    assert isinstance(refused, SnapshotRefused) and not refused.is_gone
    assert "snapshot_views_max=2" in refused.reason
    # The same question has the same answer, whatever was written meanwhile.
    world.offer(Offer((Put(b"k0", b"other"),)))
    world.flush()
    assert server.answer(NodeId(1), SnapshotAsk(1, b""), 5.0) == first
    server.tick(12.0)
    assert server.open == 1
    gone = server.answer(NodeId(2), SnapshotAsk(1, unpack_records(first.records)[-1][0]), 12.0)
    assert isinstance(gone, SnapshotRefused) and gone.is_gone
    # Who begins again gives up the old view.
    assert isinstance(server.answer(NodeId(1), SnapshotAsk(9, b""), 13.0), SnapshotChunk)
    assert server.open == 1
    ahead = server.answer(NodeId(1), SnapshotAsk(9, b"zzz"), 13.0)
    assert isinstance(ahead, SnapshotRefused) and ahead.is_gone
    server.close()
    assert server.open == 0 and server.oldest_slot is None


def test_a_view_ends_when_its_asker_is_known_to_have_caught_up() -> None:
    """Found by the simulator (seed 332): the third waited until the first two had been idle for long."""
    world = some_world()
    server = Server(world.storage, LIMITS, FIRST, 32)
    for node in (2, 3):
        assert isinstance(server.answer(NodeId(node), SnapshotAsk(1, b""), 0.0), SnapshotChunk)
    slot = world.space.applied
    server.caught_up({NodeId(2): Slot(slot - 1)}, 0)
    server.caught_up({NodeId(2): slot, NodeId(3): slot}, slot + 1)  # the log behind the view is still needed
    assert server.open == 2
    server.caught_up({NodeId(2): Slot(slot + 1), NodeId(3): Slot(slot - 1)}, slot + 1)
    assert server.open == 1 and server.oldest_slot == slot
    server.close()


def test_nothing_is_sent_of_a_space_that_is_empty() -> None:
    answer = Server(MemoryStorage(), LIMITS, FIRST, 32).answer(NodeId(2), SnapshotAsk(1, b""), 0.0)
    assert isinstance(answer, SnapshotRefused) and not answer.is_gone
