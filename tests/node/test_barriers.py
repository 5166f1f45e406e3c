"""Reads that wait: which share a round of the core, and that each is answered once."""

from __future__ import annotations

import pytest

from journal.barriers import ReadBarriers
from journal.errors import JournalError, Overloaded, Unavailable
from journal.types import Revision, Slot


class Reads:
    """Barriers, and what each read was answered."""

    def __init__(self, reads_max: int = 100) -> None:
        self.barriers = ReadBarriers(reads_max, timeout_s=5.0)
        self.answers: dict[str, Revision | JournalError] = {}

    def add(self, name: str, now: float = 0.0, *, linearizable: bool = True) -> None:
        def reply(result: Revision | JournalError) -> None:
            assert name not in self.answers
            self.answers[name] = result

        self.barriers.add(reply, now, at_least=Revision(0), linearizable=linearizable)


def test_a_lone_read_has_its_round_at_once() -> None:
    reads = Reads()
    assert not reads.barriers.is_due and reads.barriers.next_round() is None
    reads.add("a")
    assert reads.barriers.is_due
    first = reads.barriers.next_round()
    assert first is not None
    reads.barriers.confirmed(first, Slot(3))
    reads.barriers.answer(Slot(2), Revision(7))
    assert reads.answers == {}
    reads.barriers.answer(Slot(3), Revision(8))
    assert reads.answers == {"a": 8} and reads.barriers.waiting == 0


def test_reads_that_come_while_a_round_is_on_its_way_share_the_next_and_never_join_it() -> None:
    """What a round confirms is from before they came: it says nothing of what was answered since."""
    reads = Reads()
    reads.add("a")
    first = reads.barriers.next_round()
    assert first is not None
    reads.add("b")
    reads.add("c")
    assert not reads.barriers.is_due and reads.barriers.next_round() is None
    reads.barriers.confirmed(first, Slot(1))
    reads.barriers.answer(Slot(9), Revision(9))
    assert reads.answers == {"a": 9}
    assert reads.barriers.is_due
    second = reads.barriers.next_round()
    assert second is not None and second != first
    reads.barriers.confirmed(first, Slot(1))  # once more: it is nobody's now
    reads.barriers.answer(Slot(9), Revision(9))
    assert set(reads.answers) == {"a"}
    reads.barriers.confirmed(second, Slot(2))
    reads.barriers.answer(Slot(9), Revision(9))
    assert set(reads.answers) == {"a", "b", "c"}


def test_a_round_that_failed_or_whose_reads_are_gone_holds_nobody_up() -> None:
    reads = Reads()
    reads.add("a")
    first = reads.barriers.next_round()
    assert first is not None
    reads.add("b", now=1.0)
    reads.barriers.confirmed(first, None)
    assert reads.barriers.is_due, "no leader proved itself: both ask again"
    second = reads.barriers.next_round()
    assert second is not None
    reads.add("c", now=4.0)
    assert not reads.barriers.is_due
    reads.barriers.expire(6.5, Revision(0))
    assert isinstance(reads.answers.pop("a"), Unavailable) and isinstance(reads.answers.pop("b"), Unavailable)
    assert reads.barriers.is_due and reads.answers == {}
    third = reads.barriers.next_round()
    assert third is not None
    reads.barriers.fail(Unavailable("the node is stopping"))
    assert isinstance(reads.answers["c"], Unavailable) and not reads.barriers.is_due


def test_reads_in_flight_are_bounded() -> None:
    reads = Reads(reads_max=2)
    reads.add("a")
    reads.add("b", linearizable=False)
    with pytest.raises(Overloaded, match="reads_inflight_max"):
        reads.add("c")
    reads.barriers.answer(Slot(0), Revision(0))
    assert set(reads.answers) == {"b"}
    reads.add("c")
