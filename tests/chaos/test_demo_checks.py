"""The demo's own checks say no where a promise is broken. (``make demo`` shows that they say yes.)"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from synod.history import History, Report, Rule, Violation
from synod.history.format import Commit

Tails = dict[int, list[Commit]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parent.parent.parent / "scripts" / "demo.py"
    spec = importlib.util.spec_from_file_location("synod_demo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo(script: ModuleType, tmp_path: Path) -> Any:
    made = script.Demo(tmp_path, Console(quiet=True))
    yield made
    made.recorder.close()


def _commit(revision: int, label: str) -> Commit:
    return Commit(revision, "aa", revision, label, ())


def _tails() -> Tails:
    return {
        node: [_commit(1, "client/1"), _commit(2, "run-task: place t1"), _commit(3, "run-task: place t2")]
        for node in (1, 2, 3)
    }


def lost_on_one_node(tails: Tails) -> None:
    tails[2].pop()


def doubled_on_all_nodes(tails: Tails) -> None:
    for commits in tails.values():
        commits.append(_commit(4, "run-task: place t2"))


def somebody_elses(tails: Tails) -> None:
    for commits in tails.values():
        commits[1] = _commit(2, "run-task: place t9")


def a_node_that_said_nothing(tails: Tails) -> None:
    del tails[3]


def differs_elsewhere(tails: Tails) -> None:
    tails[3][0] = _commit(1, "client/7")


def test_acknowledged_placements_are_found(demo: Any) -> None:
    demo.seen.placed = {"t1": 2, "t2": 3}
    demo._check_acknowledged(_tails(), Report(History()))
    assert demo.show()


@pytest.mark.parametrize(
    "fault",
    [
        lost_on_one_node,
        doubled_on_all_nodes,
        somebody_elses,
        a_node_that_said_nothing,
        differs_elsewhere,
    ],
)
def test_broken_placements_are_not(demo: Any, fault: Callable[[Tails], None]) -> None:
    demo.seen.placed = {"t1": 2, "t2": 3}
    tails = _tails()
    fault(tails)
    demo._check_acknowledged(tails, Report(History()))
    assert not demo.show()


def test_a_lost_transaction_of_the_client_is_not(demo: Any) -> None:
    report = Report(History(), [Violation(1, Rule.LOST, "acknowledged at revision 9", ())])
    demo._check_acknowledged(_tails(), report)
    assert not demo.show()
    assert demo.findings[0].result == "acknowledged at revision 9"


def test_time_without_an_acknowledged_offer_is_the_longest_after_the_kill(demo: Any) -> None:
    second = 10**9
    demo.seen.acknowledged_at = [0, 9 * second, 10 * second, 12 * second, 13 * second]
    assert demo.seen.silence_s(after=10 * second) == 2.0
