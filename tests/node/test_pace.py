"""The pace of slots, as a function."""

from __future__ import annotations

from math import inf

from pytest import approx

from journal.pace import (
    COMPANY_KEPT,
    COMPANY_WAIT_S,
    COMPANY_WAIT_S_MAX,
    GATHER_S_MAX,
    Pace,
)


def pace(*slots: tuple[int, float]) -> Pace:
    """Return the pace after slots of (calls, time)."""
    found = Pace(slots_max=2, full_bytes=1_000)
    for calls, now in slots:
        found.proposed(calls, now)
    return found


def wait(found: Pace, now: float, size: int = 10, slots: int = 0, write_s: float | None = None) -> float:
    return found.wait_s(now, bytes=size, slots_in_flight=slots, write_s=write_s)


def test_the_first_offer_waits_for_nobody() -> None:
    assert wait(pace(), 0.0) == 0


def test_a_client_alone_never_waits() -> None:
    assert wait(pace(*((1, now / 1e4) for now in range(100))), 0.01) == 0


def test_a_write_is_waited_for_but_not_for_long() -> None:
    assert wait(pace(), 1.0, write_s=0.0) == wait(pace(), 1.0, write_s=GATHER_S_MAX / 2) == inf
    assert wait(pace(), 1.0, write_s=GATHER_S_MAX) == 0


def test_enough_slots_in_flight_are_waited_for() -> None:
    assert wait(pace(), 1.0, slots=1) == 0
    assert wait(pace(), 1.0, slots=2) == inf


def test_a_full_slot_waits_for_nothing() -> None:
    assert wait(pace((50, 1.0)), 1.0, size=1_000, slots=2, write_s=0.001) == 0


def test_in_company_the_next_slot_comes_a_little_after_the_last() -> None:
    assert wait(pace((4, 1.0)), 1.0) == approx(4 * COMPANY_WAIT_S)
    assert wait(pace((4, 1.0)), 1.0 + 3 * COMPANY_WAIT_S) == approx(COMPANY_WAIT_S)
    assert wait(pace((4, 1.0)), 2.0) == 0
    assert wait(pace((10_000, 1.0)), 1.0) == approx(COMPANY_WAIT_S_MAX)


def test_company_fades() -> None:
    after = pace((4, 1.0), (1, 1.0))
    assert wait(after, 1.0) == approx(4 * COMPANY_KEPT * COMPANY_WAIT_S)
    assert wait(pace((4, 1.0), *[(1, 1.0)] * 20), 1.0) == 0
