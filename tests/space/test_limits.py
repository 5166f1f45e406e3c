"""The limits that decide verdicts: past each comes a receipt that names it, on every node alike."""

from __future__ import annotations

import msgpack
import pytest

from journal.errors import RevisionInFuture
from journal.offers import (
    EXPIRED,
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    Offer,
    Put,
    Reason,
    Rejected,
    SetAdd,
    Verdict,
)
from journal.types import Revision
from tests.space.world import World, batch, entry


def limit(verdict: Verdict) -> str:
    assert isinstance(verdict, Rejected), verdict
    assert verdict.reason is Reason.LIMIT, verdict
    assert verdict.field in str(verdict)
    return verdict.field


def test_delete_range_deletes_at_most_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.attempt.FOLD_DELETE_RANGE_KEYS_MAX", 3)
    world = World()
    world.offer(Offer(tuple(Put(b"k%d" % index, b"") for index in range(4))))
    [verdict] = world.offer(Offer((Delete(b"k9"), DeleteRange(b"", b""))))
    assert limit(verdict) == "FOLD_DELETE_RANGE_KEYS_MAX"
    assert isinstance(verdict, Rejected) and verdict.where == "mutations[1]"
    assert world.offer(Offer((DeleteRange(b"k1", b""),))) == [2]
    assert world.offer(Offer((DeleteRange(b"", b""),))) == [3]


def test_a_scan_in_the_fold_looks_at_so_many_records_wherever_compaction_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tombstones that compaction may have removed do not count, so both nodes say the same."""
    for module in ("attempt", "conditions"):
        monkeypatch.setattr(f"journal.{module}.FOLD_SCAN_RECORDS_MAX", 3)
    monkeypatch.setattr("journal.recent.FOLD_RECENT_BYTES_MAX", 1)  # no range is answered without a scan
    assert _scan_among_tombstones(sweep=False) == _scan_among_tombstones(sweep=True)


def _scan_among_tombstones(sweep: bool) -> bytes:
    world = World()
    world.offer(Offer(tuple(Put(b"k%d" % index, b"") for index in range(6))))  # 1
    world.offer(Offer((DeleteRange(b"", b""),)))  # 2
    world.offer(put(b"x"))  # 3
    [verdict] = world.offer(Offer((DeleteRange(b"", b""),)))
    assert limit(verdict) == "FOLD_SCAN_RECORDS_MAX"
    [verdict] = world.offer(Offer((Put(b"x", b""),), ranges=((b"k", b"l"),), at=2))
    assert limit(verdict) == "FOLD_SCAN_RECORDS_MAX"
    assert isinstance(verdict, Rejected) and verdict.where == "ranges[0]"

    world.compact(2)
    world.flush()
    if sweep:
        while world.space.is_compacting:
            world.compact_step(100)
            world.flush()
        world.crash()
    assert world.offer(Offer((Put(b"x", b""),), ranges=((b"k", b"l"),), at=2)) == [4]
    assert world.offer(Offer((Put(b"k1", b""), Put(b"k2", b"")))) == [5]
    assert world.offer(put(b"x")) == [6]
    assert world.offer(Offer((Put(b"x", b""),), ranges=((b"k", b"l"),), at=5)) == [7]
    [verdict] = world.offer(Offer((Put(b"x", b""),), ranges=((b"k", b"l"),), at=4))
    assert verdict == Rejected(Reason.RANGE, "ranges[0]", b"k1", 5)
    assert world.offer(Offer((DeleteRange(b"k", b"l"),))) == [8]
    return world.space.chain


def test_a_value_cannot_be_grown_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.mutations.FOLD_VALUE_BYTES_MAX", 20)
    world = World()
    world.offer(Offer((Put(b"k", msgpack.packb({"ports": []})),)))
    assert world.offer(Offer((SetAdd(b"k", "ports", ("0123456",)),))) == [2]
    [verdict] = world.offer(Offer((SetAdd(b"k", "ports", ("789a",)),)))
    assert limit(verdict) == "FOLD_VALUE_BYTES_MAX"
    [verdict] = world.offer(Offer((Adjust(b"k", {"memory": 1}),)))
    assert limit(verdict) == "FOLD_VALUE_BYTES_MAX"


def test_leases_and_their_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.attempt.FOLD_LEASES_MAX", 2)
    monkeypatch.setattr("journal.attempt.FOLD_LEASE_KEYS_MAX", 2)
    monkeypatch.setattr("journal.attempt.FOLD_BINDINGS_MAX", 3)
    world = World()
    assert world.offer(Offer((LeaseGrant(1, 1000), LeaseGrant(2, 1000)))) == [1]
    [verdict] = world.offer(Offer((LeaseGrant(3, 1000),)))
    assert limit(verdict) == "FOLD_LEASES_MAX"

    assert world.offer(Offer((Put(b"a", b"", 1), Put(b"b", b"", 1), Put(b"a", b"", 1)))) == [2]
    [verdict] = world.offer(Offer((Put(b"c", b"", 1),)))
    assert limit(verdict) == "FOLD_LEASE_KEYS_MAX"
    assert world.offer(Offer((Put(b"c", b"", 2),))) == [3]
    [verdict] = world.offer(Offer((Put(b"d", b"", 2),)))
    assert limit(verdict) == "FOLD_BINDINGS_MAX"
    assert world.offer(Offer((Delete(b"a"), Put(b"a", b"")))) == [4]
    assert world.offer(Offer((Put(b"d", b"", 2),))) == [5]


# -- what is remembered of clients ---------------------------------------------------


def put(key: bytes = b"k") -> Offer:
    return Offer((Put(key, b""),))


def test_verdicts_go_as_the_client_acknowledges_them() -> None:
    world = World()
    for first in range(0, 100, 2):
        world.offer(put(), put(), client=b"x", first=first, acked=max(0, first - 4), base=0)
        world.flush()
    stored = list(world.storage.iterate(b"s", b"t"))
    assert len(stored) == 3, "the records of what is acknowledged are deleted"
    outcomes = [world.space.outcome(b"x", sequence) for sequence in (0, 93, 94, 99, 100)]
    assert outcomes == [EXPIRED, EXPIRED, 95, 100, None]


def test_a_client_may_answer_out_of_order() -> None:
    """What an early check held back comes later, under a sequence among those already decided."""
    world = World()
    world.offer(put(), client=b"x", first=1)
    world.offer(put(), put(), client=b"x", first=5)
    assert world.offer(put(), client=b"x", first=3) == [4]
    [verdicts] = world.fold(entry(batch(*[put()] * 8, client=b"x", first=0))).verdicts
    assert verdicts == [5, 1, 6, 4, 7, 2, 3, 8]
    world.flush()
    world.crash()
    [verdicts] = world.fold(entry(batch(*[put()] * 9, client=b"x", first=0))).verdicts
    assert verdicts == [5, 1, 6, 4, 7, 2, 3, 8, 9]


def test_an_acknowledged_offer_is_never_applied_late() -> None:
    """A copy that was under way in the network arrives after its client went on."""
    world = World()
    late = entry(batch(put(b"a"), client=b"x", first=0, acked=0))
    world.offer(put(b"a"), client=b"x", first=0)
    world.offer(put(b"b"), client=b"x", first=1, acked=1)
    assert world.fold(late).verdicts == [[EXPIRED]]
    assert world.space.revision == 2


def test_the_longest_idle_client_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 2)
    world = World()
    world.offer(put(), client=b"x")  # 1
    world.offer(put(), client=b"y")  # 2
    world.offer(put(), client=b"x", first=1)  # 3
    world.offer(put(), client=b"z", base=3)  # 4: y goes
    assert world.space.sessions == 2
    assert world.space.outcome(b"y", 0) is None
    assert world.space.outcome(b"x", 0) == 1
    assert world.space.seen(b"y", 0, base=2) is EXPIRED
    assert world.space.seen(b"y", 0, base=3) is None
    # y's repetition of what it sent at revision 1 might apply twice: refused. A new offer is not.
    assert world.offer(put(), client=b"y", base=1) == [EXPIRED]
    assert world.space.sessions == 2, "a refused client takes nobody's place"
    assert world.offer(put(), client=b"y", first=1, base=4) == [5]


def test_an_idle_client_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.sessions.FOLD_SESSION_IDLE_REVISIONS_MAX", 3)
    world = World()
    world.offer(put(), client=b"x")  # 1
    for _ in range(3):
        world.offer(put())  # 4
    world.offer(put())
    assert world.space.outcome(b"x", 0) == 1  # forgotten by the next slot of offers, not by reading
    world.offer(put())
    assert world.space.outcome(b"x", 0) is None
    assert world.offer(put(), client=b"x", base=1) == [EXPIRED]
    world.flush()
    assert list(world.storage.iterate(b"s", b"t")) == []
    world.crash()
    assert world.offer(put(), client=b"x", base=1) == [EXPIRED]


def test_verdicts_of_all_clients_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.sessions.FOLD_SESSION_BYTES_MAX", 3000)
    world, doomed = World(), Offer((Delete(b"k"),), expect=((b"k" * 1000, 7),))
    for client in (b"x", b"y", b"z"):  # receipts of 1000 bytes each
        assert isinstance(world.offer(doomed, client=client, base=world.space.revision)[0], Rejected)
    assert world.space.sessions == 2
    assert world.space.outcome(b"x", 0) is None
    world.offer(put())  # the journal moves on, so newcomers are told from the forgotten
    # One client alone may not hold more either: it is forgotten itself.
    world.offer(doomed, doomed, doomed, client=b"w", base=1)
    assert world.space.sessions == 0
    assert world.offer(put(), client=b"w", first=3, base=1) == [EXPIRED]
    world.flush()
    world.crash()


def test_an_entry_of_all_clients_at_once_costs_what_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 2)
    world = World()
    folded = world.fold(entry(*(batch(put(), client=b"%d" % number) for number in range(5))))
    # The third newcomer displaces the first, whose revision was 1: base 0 is then too old.
    assert folded.verdicts == [[1], [2], [3], [EXPIRED], [EXPIRED]]
    world.flush()
    world.crash()


def test_slot_of_and_chain_at_say_where_they_end() -> None:
    world = World()
    world.offer(put(), put())
    world.offer(Offer((Delete(b"zz"),), expect=((b"zz", 1),)))
    world.offer(put())
    assert [world.space.slots.of_revision(Revision(revision)) for revision in (1, 2, 3)] == [1, 1, 3]
    with pytest.raises(RevisionInFuture):
        world.space.slots.of_revision(Revision(4))
