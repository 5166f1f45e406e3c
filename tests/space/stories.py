"""Random stories: what clients offer and what befalls the nodes, told relative to the present.

A story says "reads a, as of two revisions ago", not "as of revision 7", so that it makes sense
whatever happened before. ``play`` plays one on the twin and on several worlds at once, and raises
``AssertionError`` where any of them disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import msgpack
from hypothesis import strategies as st

from journal.commits import outcome_head
from journal.entries import NOOP
from journal.gate import unpack_batch
from journal.offers import (
    EXPIRED,
    Adjust,
    Delete,
    DeleteRange,
    Expired,
    LeaseGrant,
    LeaseRevoke,
    Mutation,
    Offer,
    Put,
    RawBatch,
    Rejected,
    SetAdd,
    SetRemove,
    Verdict,
    offer_to_raw,
    pack_batch,
    pack_verdicts,
    prefix_range,
    unpack_verdicts,
)
from journal.snapshots.records import history
from journal.space import Space, commits
from journal.storage import Write
from journal.storage.records import ENDED, HISTORY, NUMBER
from journal.types import Revision, Slot
from tests.space.twin import Twin
from tests.space.world import LIMITS, World, entry

KEYS = [b"a", b"a\x00", b"a\x00\x00", b"ab", b"b", b"b\xff", b"b\xff\xff", b"c"]
BOUNDS = [*KEYS, b"a\x00\x01", b"bb", b"d"]
FIELDS = ["cpu", "ports"]
CLIENTS = [b"", b"x", b"y", b"zz"]

REACHES = (1, 500, 1_000_000)
"""So many bytes of the log are to have older versions: one has none."""

keys = st.sampled_from(KEYS)


def seldom(found: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[list[Any]]:
    return st.one_of(st.just([]), st.just([]), found)


numbers = st.one_of(st.integers(-3, 3), st.just(2**63 - 1), st.sampled_from([0.5, -0.5]))
values = st.one_of(
    st.binary(max_size=3),
    st.fixed_dictionaries(
        {}, optional={"cpu": numbers, "ports": st.lists(st.integers(0, 2), max_size=2), "x": st.booleans()}
    ).map(msgpack.packb),
)
leases = st.integers(1, 3)
members = st.lists(st.one_of(st.integers(0, 3), st.just("p")), min_size=1, max_size=2, unique=True).map(tuple)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[bytes, bytes]:
    if draw(st.booleans()):
        return prefix_range(draw(st.sampled_from([b"", b"a", b"b", b"b\xff"])))
    low, high = sorted((draw(st.sampled_from(BOUNDS)), draw(st.sampled_from(BOUNDS))))
    return (low, high) if low < high else (low, b"")


mutations: st.SearchStrategy[Mutation] = st.one_of(
    st.builds(Put, keys, values),
    st.builds(Put, keys, values),
    st.builds(Put, keys, values, leases),
    st.builds(Delete, keys),
    ranges().map(lambda pair: DeleteRange(*pair)),
    st.builds(
        Adjust,
        keys,
        st.dictionaries(st.sampled_from(FIELDS), numbers, min_size=1),
    ),
    st.builds(
        lambda key, delta, low, high: Adjust(key, {"cpu": delta, "x2": 1}, {"cpu": low}, {"cpu": high}),
        keys,
        st.integers(-3, 3),
        st.integers(-3, 0),
        st.integers(0, 6),
    ),
    st.builds(SetAdd, keys, st.sampled_from(FIELDS), members),
    st.builds(SetRemove, keys, st.sampled_from(FIELDS), members),
    st.one_of(st.builds(LeaseGrant, leases, st.just(1000)), st.builds(LeaseRevoke, leases)),
)

offers = st.fixed_dictionaries(
    {
        "back": st.sampled_from([0, 0, 0, 1, 2, 6, -1]),  # how many revisions ago it read
        "reads": seldom(st.lists(keys, min_size=1, max_size=2)),
        "ranges": seldom(st.lists(ranges(), min_size=1, max_size=1)),
        # (key, whether the expectation is to be right)
        "expect": seldom(
            st.lists(st.tuples(keys, st.sampled_from([True, True, False])), min_size=1, max_size=1)
        ),
        "mutations": st.one_of(
            st.lists(mutations, min_size=1, max_size=1), st.lists(mutations, min_size=1, max_size=3)
        ),
    }
)

batches = st.fixed_dictionaries(
    {
        "client": st.sampled_from(CLIENTS),
        "ack": st.integers(0, 3),  # how many more of its sequences the client has read verdicts of
        "back": st.integers(0, 3),  # how far behind its base is
        "again": st.integers(0, 4),  # how many earlier sequences it sends again
        "gap": st.integers(0, 1),
        "offers": st.lists(offers, min_size=1, max_size=3),
    }
)

events = st.one_of(
    st.lists(batches, min_size=1, max_size=3).map(lambda found: ("offers", found)),
    st.lists(batches, min_size=1, max_size=3).map(lambda found: ("offers", found)),
    st.lists(batches, min_size=1, max_size=3).map(lambda found: ("offers", found)),
    st.just(("noop", None)),
    st.integers(0, 5).map(lambda back: ("compact", back)),
    st.integers(1, 3).map(lambda count: ("flush", count)),
    st.just(("flush unreported", None)),
    st.integers(1, 4).map(lambda records: ("sweep", records)),
    st.just(("crash", None)),
)
stories = st.lists(events, min_size=1, max_size=14)


class Client:
    """What a client knows: which sequence comes next and which it has acknowledged."""

    def __init__(self) -> None:
        self.next = 0
        self.acked = 0
        self.sent: dict[int, Offer] = {}
        self.bases: dict[int, int] = {}


class Play:
    """One story being played on the twin, a quiet world and a rough one."""

    def __init__(self, log_reach_bytes: int = 500, **twin_options: int) -> None:
        self.twin = Twin(**twin_options)
        # A large cache, older versions stored whole, every write flushed at once, never crashes.
        self.quiet = World()
        self.rough = World(cache_records_max=2, log_reach_bytes=log_reach_bytes)
        self.slots: list[tuple[int, int]] = []
        """Of each slot the revision after it, and the bytes of its entry."""
        self.clients = {client: Client() for client in CLIENTS}
        self.tally: Counter[str] = Counter()

    def event(self, kind: str, detail: Any) -> None:
        if kind == "offers":
            self.fold_offers([self.make_batch(**found) for found in detail])
        elif kind == "noop":
            self.fold_same(NOOP)
        elif kind == "compact":
            revision = self.twin.revision - detail + 1
            self.twin.compact(max(0, revision))
            for world in (self.quiet, self.rough):
                world.compact(max(0, revision))
            self.slots.append((self.twin.revision, len(self.quiet.entries[-1])))
            self.quiet.flush()
        elif kind == "flush":
            self.rough.flush(detail)
        elif kind == "flush unreported":
            self.rough.flush(report=False)
        elif kind == "sweep":
            self.rough.compact_step(detail)
            self.rough.trim_step(detail)
        else:
            self.rough.crash()
        self.compare_states()

    def prelude(self) -> None:
        """Put something into the space to work on."""
        content = msgpack.packb({"x": True, "cpu": 1, "ports": [1, "p"]})
        first = Offer(
            (LeaseGrant(1, 1000), *(Put(key, content, index % 2) for index, key in enumerate(KEYS[:6])))
        )
        self.fold_offers([[b"", 0, 0, [offer_to_raw(0, first)]]])

    # -- making -----------------------------------------------------------------

    def make_offer(self, back: int, reads: Any, ranges: Any, expect: Any, mutations: Any) -> Offer:
        twin = self.twin
        expected = []
        for key, is_right in expect:
            mod = twin.keys[key].mod if key in twin.keys else 0
            expected.append((key, mod if is_right else max(0, mod - 1)))
        return Offer(
            tuple(mutations),
            reads=tuple(reads),
            ranges=tuple(ranges),
            expect=tuple(expected),
            at=max(0, twin.revision - back),
            label=f"at {back}",
        )

    def make_batch(self, client: bytes, ack: int, back: int, again: int, gap: int, offers: Any) -> list[Any]:
        state = self.clients[client]
        base = max(0, self.twin.revision - back)
        found = [self.make_offer(**offer) for offer in offers]
        if not client:
            return [b"", 0, base, [offer_to_raw(0, offer) for offer in found]]
        state.acked = min(state.next, state.acked + ack)
        # A repeat may come with an older floor: the copy that was under way in another slot.
        acked = state.acked if again < 3 else max(0, state.acked - 1)
        sequences = [sequence for sequence in range(state.next - again, state.next) if sequence >= acked]
        for offer in found:
            state.next += gap
            state.sent[state.next] = offer
            state.bases[state.next] = base
            sequences.append(state.next)
            state.next += 1
        # A client keeps the base that an offer was first sent with.
        base = min([base, *(state.bases[sequence] for sequence in sequences if sequence in state.bases)])
        sent = [
            offer_to_raw(sequence, state.sent[sequence]) for sequence in sequences if sequence in state.sent
        ]
        return [client, acked, base, sent]

    # -- folding and comparing ----------------------------------------------------

    def fold_same(self, value: bytes) -> list[list[Verdict]]:
        quiet, rough = self.quiet.fold(value), self.rough.fold(value)
        assert quiet.chain == rough.chain
        decided = replace(quiet, writes=[]), replace(rough, writes=[])
        assert decided[0] == decided[1], "all that is decided"
        written = without_history(quiet.writes), without_history(rough.writes)
        assert written[0] == written[1], "and all that is written, but for older versions"
        self.quiet.flush()
        self.slots.append((quiet.revision, len(value)))
        for verdicts in quiet.verdicts:
            assert unpack_verdicts(pack_verdicts(verdicts)) == verdicts
        return quiet.verdicts

    def fold_offers(self, batches: list[list[Any]]) -> None:
        packed = []
        for client, acked, base, found in batches:
            data = pack_batch(client, acked, base, [msgpack.packb(offer) for offer in found])
            packed.append(unpack_batch(data, LIMITS))
        early = self.early_verdicts(packed)
        verdicts = self.fold_same(entry(*(raw.data for raw in packed)))
        assert verdicts == self.twin.fold(batches)
        told: set[tuple[bytes, int]] = set()
        ids = [(raw.client, offer[0]) for raw in packed for offer in raw.offers]
        for decided, guessed, offer_id in zip(chain(*verdicts), chain(*early), ids, strict=True):
            # A fact for ever: whatever came before it in the slot, a doomed offer is not accepted, and
            # a verdict that was given stays, unless its client has acknowledged it meanwhile. What has
            # expired is not applied by this copy, but another copy may have been, in this very slot.
            if isinstance(guessed, Rejected):
                assert isinstance(decided, Rejected | Expired), (guessed, decided)
            elif guessed is not None:
                assert decided in (guessed, EXPIRED) or (guessed == EXPIRED and offer_id in told)
            told.add(offer_id)
            self.tally.update(
                [decided.reason.name if isinstance(decided, Rejected) else type(decided).__name__]
            )

    def early_verdicts(self, raws: list[RawBatch]) -> list[list[Verdict | None]]:
        """What the early check of the leader says, before the slot is folded."""
        space = self.rough.space
        found: list[list[Verdict | None]] = []
        for raw in raws:
            found.append([])
            for offer in raw.offers:
                seen = space.seen(raw.client, offer[0], raw.base) if raw.client else None
                found[-1].append(space.doomed(offer) if seen is None else seen)
            at_once = space.early_verdicts(raw.client, raw.base, raw.offers)
            assert at_once == {
                index: verdict for index, verdict in enumerate(found[-1]) if verdict is not None
            }
        return found

    def compare_states(self) -> None:
        twin = self.twin
        for world in (self.quiet, self.rough):
            space = world.space
            assert space.revision == twin.revision
            assert space.compacted == twin.compacted
            assert {id: lease.ttl_ms for id, lease in space.leases.items()} == twin.leases
            for id, lease in space.leases.items():
                assert lease.keys == {key for key, row in twin.keys.items() if row.lease == id}
            for client, state in self.clients.items():
                for sequence in state.sent:
                    assert space.outcome(client, sequence) == twin.outcome(client, sequence)
            for key in KEYS:
                compare_record(space, twin, key, None)

    def compare_history(self) -> None:
        """Read everything at every revision that is left, whole and in pages."""
        twin = self.twin
        for world in (self.quiet, self.rough):
            space = world.space
            for revision in range(twin.compacted, twin.revision + 1):
                for key in KEYS:
                    compare_record(space, twin, key, revision)
                expected = sorted(twin.history[revision])
                found, after = space.scan(b"", b"", revision, 1000, 1 << 20)
                assert after is None
                assert [key for key, _record in found] == expected
                for key, record in found:
                    assert tuple(record) == tuple(vars(twin.history[revision][key]).values())
                assert paged(space, b"a", b"c", revision) == [key for key in expected if b"a" <= key < b"c"]
        self.compare_commits()

    def compare_storage(self) -> None:
        """Once compaction has come to its end, storage holds what can be read and nothing else."""
        twin, storage = self.twin, self.rough.storage
        expected = {key for key in KEYS if key in twin.keys or twin.modified.get(key, 0) > twin.compacted}
        assert {key[1:] for key, _value in storage.iterate(b"k", b"l")} == expected
        for key, _value in storage.iterate(b"v", b"w"):
            assert int.from_bytes(key[1:9], "big") > twin.compacted
        slots = self.rough.space.slots
        for key, _value in storage.iterate(b"h", b"i"):
            assert int.from_bytes(key[1:9], "big") > slots.base
        if 0 < twin.compacted < twin.revision:
            needed = min(self.floor_at(twin.compacted + 1), twin.compacted)
            outcome = slots.outcome(slots.first)
            assert outcome is not None and outcome_head(outcome).after > needed, "no more of the log is left"

    def floor_at(self, revision: int) -> int:
        """Return after which revision the log may have had older versions when ``revision`` was made."""
        number = next(number for number, (after, _size) in enumerate(self.slots) if after >= revision)
        size = 0
        for after, entry_bytes in reversed(self.slots[: number + 1]):
            size += entry_bytes
            if size > self.rough.log_reach_bytes:
                return after
        return 0

    def compare_snapshots(self) -> None:
        """Older versions travel whole, wherever they are kept, and from any key on."""
        quiet, rough = self.quiet.storage, self.rough.storage
        begin = HISTORY + NUMBER.pack(self.twin.compacted + 1)
        found = [record for record in history(quiet, begin) if record[0] > begin]
        assert list(history(rough)) == list(history(rough, begin)) == found
        for index in range(0, len(found), 3):
            assert list(history(rough, found[index][0])) == found[index:]

    def compare_commits(self) -> None:
        """Commits read from the rough world, slot by slot, are those of the twin."""
        space = self.rough.space
        found = []
        first, base = space.slots.first, space.slots.base
        for number, value in enumerate(self.rough.entries[first - 1 :], first):
            slot = Slot(number)
            outcome = space.slots.outcome(slot)
            assert outcome is not None
            assert space.slots.chain_at(slot) == self.rough.chains[slot]
            for commit in commits(slot, value, outcome):
                assert space.slots.of_revision(commit.revision) == slot
                found.append(commit)
        assert len(found) == len(self.twin.commits) - base
        replica = {key: row.value for key, row in self.twin.history[base].items()}
        for commit, expected in zip(found, self.twin.commits[base:], strict=True):
            assert commit.revision == expected.revision
            assert (commit.client, commit.sequence, commit.label) == (
                expected.client,
                expected.sequence,
                expected.label,
            )
            assert {change.key: (change.value, change.lease) for change in commit.changes} == expected.changes
            assert len({change.key for change in commit.changes}) == len(commit.changes)
            for key, value_, _lease in commit.changes:
                if value_ is None:
                    replica.pop(key, None)
                else:
                    replica[key] = value_
            assert replica == {key: row.value for key, row in self.twin.history[commit.revision].items()}


def compare_record(space: Space, twin: Twin, key: bytes, at: int | None) -> None:
    row = twin.keys.get(key) if at is None else twin.history[at].get(key)
    record = space.get(key, None if at is None else Revision(at))
    assert (None if record is None else tuple(record)) == (None if row is None else tuple(vars(row).values()))


def without_history(writes: Sequence[Write]) -> list[Write]:
    return [write for write in writes if write[0][:1] not in (HISTORY, ENDED)]


def paged(space: Space, start: bytes, end: bytes, at: int) -> list[bytes]:
    found: list[bytes] = []
    following: bytes | None = start
    while following is not None:
        page, following = space.scan(following, end, at, 2, 1 << 20)
        assert len(page) <= 2
        found.extend(key for key, _record in page)
    return found


def play(
    story: list[tuple[str, Any]], log_reach_bytes: int | None = None, **twin_options: int
) -> Counter[str]:
    """Play ``story``; raise ``AssertionError`` where space and twin, or two nodes, disagree.

    ``log_reach_bytes``: one of ``REACHES``; without, the story says which. Returns how often each kind of
    verdict was given.
    """
    playing = Play(log_reach_bytes or REACHES[len(story) % len(REACHES)], **twin_options)
    playing.prelude()
    for kind, detail in story:
        playing.event(kind, detail)
    playing.compare_history()
    playing.rough.crash()
    playing.compare_states()
    playing.rough.flush()
    while playing.rough.space.is_compacting:
        playing.rough.compact_step(3)
        playing.rough.flush()
    first = None
    while first != playing.rough.space.slots.first:
        first = playing.rough.space.slots.first
        playing.rough.trim_step(2)
        playing.rough.flush()
    playing.compare_states()
    playing.compare_history()
    playing.compare_snapshots()
    playing.compare_storage()
    return playing.tally


# -- directed stories -------------------------------------------------------------


def offered(*mutations: Mutation, back: int = 0, reads: Any = (), ranges: Any = (), expect: Any = ()) -> Any:
    return {"back": back, "reads": reads, "ranges": ranges, "expect": expect, "mutations": mutations}


def sent(*found: Any, client: bytes = b"", ack: int = 0, back: int = 0, again: int = 0, gap: int = 0) -> Any:
    return {"client": client, "ack": ack, "back": back, "again": again, "gap": gap, "offers": found}


def slot_of(*found: Any) -> tuple[str, Any]:
    return "offers", found


def one(*mutations: Mutation, **conditions: Any) -> tuple[str, Any]:
    """A slot of one offer of nobody in particular."""
    return slot_of(sent(offered(*mutations, **conditions)))


FLUSH = ("flush", 100)
SWEEP = ("sweep", 1000)
CRASH = ("crash", None)
A, B, C = Put(b"a", b"1"), Put(b"b", b"1"), Put(b"c", b"1")

DIRECTED: dict[str, list[tuple[str, Any]]] = {
    "an older version is read from a log that was trimmed as far as it may": [
        *(one(B), one(C), one(Put(b"b", b"2"))),
        *(FLUSH, ("compact", 2), FLUSH, SWEEP, FLUSH),
    ],
    "an older version that is in memory only is read from the log afterwards": [
        *(one(B), one(C), FLUSH),
        *(one(Put(b"b", b"2")), ("compact", 2), SWEEP, FLUSH),
    ],
    "compaction in the middle of a slot": [
        *(one(B), one(C), slot_of(sent(offered(Put(b"b", b"2")), offered(Put(b"c", b"2")))), ("compact", 2)),
    ],
    "an older version is not looked for in a log that has begun to go": [
        *(one(B), one(C), one(A), FLUSH, ("compact", 1), FLUSH, ("sweep", 1)),
        *(one(Put(b"b", b"2")), FLUSH, SWEEP, FLUSH),
    ],
    "the log goes with the second compaction": [
        *(one(B), ("compact", 1), one(Put(b"b", b"2")), one(Put(b"b", b"3")), ("compact", 2)),
    ],
    "a flag is not a number": [one(Adjust(b"a", {"x": 1}))],
    "delete_range sees what its own offer put and deleted": [
        one(C, DeleteRange(b"b\xff\xff", b"")),
        one(Delete(b"a"), DeleteRange(b"a", b"b"), Put(b"a", b"2")),
    ],
    "a key that its own offer unbinds outlives the lease": [one(Put(b"ab", b"1"), LeaseRevoke(1))],
    "a key that its own offer binds ends with the lease": [one(Put(b"c", b"1", 1), LeaseRevoke(1))],
    "an offer may grant a lease and use it, but not revoke one and grant it again": [
        one(LeaseGrant(2, 1000), Put(b"c", b"1", 2)),
        one(LeaseRevoke(2), LeaseGrant(2, 1000)),
        one(LeaseGrant(3, 1000), Put(b"c", b"2", 3), LeaseRevoke(3)),
    ],
    "a tombstone made after the compaction revision stays": [
        one(Delete(b"a")),
        one(A),
        one(Delete(b"a")),
        ("compact", 2),  # revision 3: between the two deletions
        FLUSH,
        SWEEP,
        FLUSH,
        CRASH,
        one(B, back=1, reads=[b"a"]),
    ],
    "a key that was deleted and made again survives the sweep": [
        one(Delete(b"a")),
        one(A),
        ("compact", 1),
        FLUSH,
        SWEEP,
        FLUSH,
        CRASH,
    ],
    "compaction forgets a key that nothing but its tombstone is left of": [
        one(Delete(b"a")),
        one(B),
        ("compact", 1),
        FLUSH,
        SWEEP,
        FLUSH,
        CRASH,
        one(A, reads=[b"a"]),
        one(A, expect=[(b"a", True)]),
    ],
    "what was read before the compaction revision proves nothing": [
        one(A),
        one(A),
        ("compact", 1),
        one(B, back=1, reads=[b"a"]),
        one(B, back=2, reads=[b"c"]),
        one(B, back=2, ranges=[(b"c", b"d")]),
        one(B, back=2, expect=[(b"a", True)]),
    ],
    "compaction does not go backwards": [one(A), one(A), ("compact", 1), ("compact", 3)],
    "of a range the lowest changed key is named, be it from this slot or an older one": [
        one(B),
        slot_of(sent(offered(A), offered(C, back=1, ranges=[(b"a", b"d")]))),
        one(A),
        slot_of(sent(offered(B), offered(C, back=1, ranges=[(b"a", b"d")]))),
    ],
    "a change is found among merged runs": [one(B), one(A), one(C, back=2, ranges=[(b"a", b"a\x00")])],
    "a key that is there now may be gone when its turn comes": [
        slot_of(sent(offered(Delete(b"a")), offered(C, expect=[(b"a", False)]))),
    ],
    "a number stays within 64 bits": [
        one(Adjust(b"a", {"cpu": 2**63 - 2})),
        one(Adjust(b"a", {"cpu": 1})),
        one(Adjust(b"b", {"cpu": -(2**63)})),
        one(Adjust(b"b", {"cpu": -1})),
    ],
    "bounds hold on both sides": [
        one(Adjust(b"a", {"cpu": -2}, {"cpu": 0}, {"cpu": 9})),
        one(Adjust(b"a", {"cpu": 9}, {"cpu": 0}, {"cpu": 9})),
        one(Adjust(b"a", {"cpu": -1}, {"cpu": 0}, {"cpu": 9})),
        one(Adjust(b"a", {"cpu": 9}, {"cpu": 0}, {"cpu": 9})),
    ],
    "what its slot changed before at does not count against a range": [
        slot_of(sent(offered(A), offered(B))),
        one(C, back=1, ranges=[(b"a", b"a\x00")]),
    ],
    "a change right after an old read is found": [
        *(one(Put(b"ab", b"%d" % number)) for number in range(3)),
        one(A),
        *(one(Put(b"b", b"%d" % number)) for number in range(3)),
        FLUSH,
        CRASH,
        one(C, back=4, ranges=[(b"a", b"a\x00")]),
        one(C, back=3, ranges=[(b"a", b"a\x00")]),
        one(C, back=6, ranges=[(b"a", b"a\x00")]),
    ],
    "several mutations of a key in one offer make one version": [one(A, A), one(Delete(b"a"), A, A), one(A)],
    "a client that was forgotten is refused after a restart too": [
        slot_of(sent(offered(A), client=b"x")),
        slot_of(sent(offered(A), client=b"y")),
        slot_of(sent(offered(A), client=b"zz")),
        FLUSH,
        CRASH,
        slot_of(sent(offered(A), client=b"x", again=1, back=3)),
        slot_of(sent(offered(A), client=b"x", again=1, back=2)),
    ],
    "who was idle longest is remembered over a restart": [
        slot_of(sent(offered(A), client=b"y")),
        slot_of(sent(offered(A), client=b"x")),
        FLUSH,
        CRASH,
        slot_of(sent(offered(A), client=b"zz")),
        slot_of(sent(offered(A), client=b"x", again=1, back=0)),
    ],
    "a repetition in the same slot gets the first verdict": [
        slot_of(
            sent(offered(A, expect=[(b"c", True)]), offered(C), client=b"x"),
            sent(offered(B), client=b"x", again=2),
            sent(offered(B), client=b"x", again=3, ack=2),
        ),
        FLUSH,
        CRASH,
        slot_of(sent(offered(B), client=b"x", again=4, ack=1)),
    ],
    "every one of many versions is found again": [
        slot_of(sent(*(offered(Put(b"a", b"%d" % number)) for number in range(11)))),
        FLUSH,
        slot_of(sent(*(offered(Adjust(b"b", {"cpu": 1}), A) for _ in range(11)))),
        one(Delete(b"a")),
        CRASH,
        slot_of(sent(*(offered(Put(b"a", b"%d" % number)) for number in range(6)))),
        FLUSH,
    ],
    "a key made again on a tombstone is the same whether the tombstone is there or not": [
        one(Delete(b"a"), Delete(b"b"), Delete(b"a\x00")),
        one(C),
        ("compact", 1),
        FLUSH,
        SWEEP,
        FLUSH,
        CRASH,
        one(A),
        one(B, B),
        one(Put(b"a\x00", b"1"), DeleteRange(b"a\x00", b"ab")),
    ],
    "a sweep that overtakes the disk leaves nothing behind": [one(A), ("compact", 1), SWEEP, FLUSH],
    "what was read at a revision stays readable while later slots wait for the disk": [
        one(A),
        FLUSH,
        one(Put(b"a", b"2")),
        one(Delete(b"a")),
        ("flush", 1),
        one(Put(b"a", b"3"), Put(b"c", b"3")),
        one(DeleteRange(b"", b"")),
    ],
}
"""What the random stories find seldom, and once found is better told by name."""
