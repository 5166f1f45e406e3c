"""Every rule of the core has a scenario that passes with it and fails without it."""

from __future__ import annotations

import pytest

from tests.paxos.planted import BUGS
from tests.paxos.scenarios import SCENARIOS


def test_every_bug_has_its_scenario() -> None:
    assert sorted(BUGS) == sorted(SCENARIOS)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_the_core_as_it_is_passes(name: str) -> None:
    SCENARIOS[name]()


@pytest.mark.parametrize("name", sorted(BUGS))
def test_the_planted_bug_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name](monkeypatch)
    with pytest.raises(AssertionError):
        SCENARIOS[name]()
