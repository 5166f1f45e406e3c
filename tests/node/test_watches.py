"""Watches: what concerns a tail is never missed, and what does not is not looked at."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from journal.commits import commits
from journal.entries import pack_offers
from journal.offers import Delete, DeleteRange, Offer, Put, pack_batch, pack_offer
from journal.space import MISSING, Folded, Space
from journal.types import Revision, Slot
from journal.watches import Watch, Watches

keys = st.sampled_from([b"a", b"a/1", b"a/1/x", b"a/2", b"b", b"b/1", b"c/long/key"])
prefixes = st.sets(st.sampled_from([b"a", b"a/", b"a/1", b"a/1/x", b"b/", b"c/long/", b"z"]), max_size=3)
mutations = st.one_of(
    keys.map(lambda key: Put(key, b"v")),
    keys.map(Delete),
    st.tuples(keys, keys).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: DeleteRange(*pair)),
)
offers = st.lists(mutations, min_size=1, max_size=4).map(lambda found: Offer(tuple(found)))


def fold(space: Space, slot: int, batch: list[Offer]) -> tuple[Folded, bytes]:
    packed = [pack_offer(index, offer) for index, offer in enumerate(batch)]
    entry = pack_offers(0, [pack_batch(b"", 0, 0, packed)])
    return space.fold(Slot(slot), entry), entry


@given(st.lists(st.lists(offers, min_size=1, max_size=4), max_size=6), st.lists(prefixes, max_size=4))
def test_no_commit_that_concerns_a_tail_is_missed(
    batches: list[list[Offer]], wanted: list[set[bytes]]
) -> None:
    space, watches = Space(MISSING), Watches()
    found = [Watch(tuple(sorted(each)), lambda: None, Revision(1)) for each in wanted]
    for watch in found:
        watches.add(watch)
        assert watch.take() == 1  # it looks once from where it begins
    for slot, batch in enumerate(batches, 1):
        folded, entry = fold(space, slot, batch)
        if folded.revision == folded.before:
            continue
        watches.committed(folded, space.changed.records)
        for watch in found:
            touched = [
                commit.revision
                for commit in commits(folded.slot, entry, folded.outcome)
                if not watch.prefixes
                or any(change.key.startswith(watch.prefixes) for change in commit.changes)
            ]
            first = watch.take()
            assert not touched or (first is not None and first <= touched[0])
            assert first is None or folded.before < first <= folded.revision


def test_a_key_put_and_deleted_in_one_offer_is_noticed() -> None:
    """The fold has changed nothing, but the commit names the key."""
    space, watches = Space(MISSING), Watches()
    watch = Watch((b"a/",), lambda: None, Revision(1))
    watches.add(watch)
    watch.take()
    folded, entry = fold(space, 1, [Offer((Put(b"a/1", b""), Delete(b"a/1")))])
    assert not space.changed.records
    assert [change.key for change in commits(folded.slot, entry, folded.outcome)[0].changes] == [b"a/1"]
    watches.committed(folded, space.changed.records)
    assert watch.take() == 1


def test_who_is_not_concerned_sleeps_on() -> None:
    space, watches = Space(MISSING), Watches()
    woken: list[str] = []
    for name, wanted in (("mine", (b"mine/",)), ("both", (b"mine/", b"o")), ("all", ())):
        watch = Watch(wanted, lambda name=name: woken.append(name), Revision(1))  # type: ignore[misc]
        watches.add(watch)
        watch.take()
    folded, _entry = fold(space, 1, [Offer((Put(b"other", b""),))])
    watches.committed(folded, space.changed.records)
    assert sorted(woken) == ["all", "both"]


def test_what_was_noted_first_counts_until_it_is_delivered() -> None:
    watches = Watches()
    watch = Watch((b"a",), lambda: None, Revision(5))
    watches.add(watch)
    watch.note(Revision(9))
    assert (watch.first, watches.unsent) == (5, 5)
    assert watch.take() == 5
    watch.note(Revision(12))
    assert watches.unsent == 5, "it was taken, but its reader does not have it yet"
    watch.delivered()
    assert watches.unsent == 12
    assert watch.take() == 12 and watch.take() is None
    watch.delivered()
    assert watches.unsent is None


def test_a_watch_that_is_removed_leaves_nothing() -> None:
    watches = Watches()
    found = [Watch(wanted, lambda: None, Revision(1)) for wanted in ((b"a", b"bb"), (b"a",), ())]
    for watch in found:
        watches.add(watch)
    for watch in found:
        watches.remove(watch)
    assert not watches
    assert not watches._by_length and not watches._of_everything


def test_all_look_again_when_the_space_was_replaced() -> None:
    watches = Watches()
    found = [Watch(wanted, lambda: None, Revision(3)) for wanted in ((b"a",), ())]
    for watch in found:
        watches.add(watch)
        watch.take()
    watches.note_all(Revision(8))
    assert [watch.take() for watch in found] == [8, 8]
