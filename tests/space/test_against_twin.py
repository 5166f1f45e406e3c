"""The space against its naive twin, and a quiet node against one that crashes and lags."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from journal import sessions
from journal.offers import Reason
from tests.space.stories import DIRECTED, play, stories


@pytest.mark.parametrize("story", DIRECTED.values(), ids=DIRECTED)
@pytest.mark.parametrize("memory", ["roomy", "short"])
def test_directed(story: list[tuple[str, Any]], memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if memory == "roomy":
        play(story)
        return
    monkeypatch.setattr(sessions, "FOLD_SESSIONS_MAX", 2)
    monkeypatch.setattr(sessions, "FOLD_SESSION_IDLE_REVISIONS_MAX", 3)
    monkeypatch.setattr("journal.recent.FOLD_RECENT_BYTES_MAX", 200)
    monkeypatch.setattr("journal.recent.RUNS_UNMERGED", 1)
    play(story, sessions_max=2, idle_max=3)


def test_the_fold_agrees_with_the_naive_twin_on_every_node() -> None:
    tally: Counter[str] = Counter()

    @settings(max_examples=150, deadline=None)
    @given(stories)
    def agrees(story: list[tuple[str, Any]]) -> None:
        tally.update(play(story))

    agrees()
    for story in DIRECTED.values():
        tally.update(play(story))
    # The stories are worth something only if every kind of verdict came up in them.
    missing = {"int", *(reason.name for reason in Reason)} - {*tally, "LIMIT"}
    assert not missing, tally


def test_forgotten_clients_are_refused_like_the_twin_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "FOLD_SESSIONS_MAX", 2)
    monkeypatch.setattr(sessions, "FOLD_SESSION_IDLE_REVISIONS_MAX", 3)
    tally: Counter[str] = Counter()

    @settings(max_examples=150, deadline=None)
    @given(stories)
    def agrees(story: list[tuple[str, Any]]) -> None:
        tally.update(play(story, sessions_max=2, idle_max=3))

    agrees()
    for story in DIRECTED.values():  # so that the verdict comes up, whatever was drawn
        tally.update(play(story, sessions_max=2, idle_max=3))
    assert tally["Expired"], tally


def test_ranges_of_an_old_read_are_scanned_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for the keys of two or three slots, most range conditions fall to the scan."""
    monkeypatch.setattr("journal.recent.FOLD_RECENT_BYTES_MAX", 200)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(stories)
    def agrees(story: list[tuple[str, Any]]) -> None:
        play(story)

    agrees()


def test_ranges_are_exact_when_runs_of_recent_keys_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.recent.RUNS_UNMERGED", 1)

    @settings(max_examples=100, deadline=None)
    @given(stories)
    def agrees(story: list[tuple[str, Any]]) -> None:
        play(story)

    agrees()
