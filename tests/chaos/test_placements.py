"""The cluster's promises, judged from commits: each planted fault is found, a correct run is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from synod.history.format import Change, Commit
from synod.history.model import encode
from synod.history.placements import Placements

Written = dict[str, Any]
"""Key below ``cluster/default/`` to record; None deletes."""


def _capacity(cpu: int, ports: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"cpu": cpu, "memory": 100, "ports": list(ports)}


def _task(cpu: int, ports: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"cpu": cpu, "memory": 0, "ports": list(ports)}


def correct() -> list[Written]:
    """Two instances; tasks are placed, one stops and gives back what it held, and is forgotten."""
    resources = [{"name": "CPU", "integerValue": 10}, {"name": "MEMORY", "integerValue": 100}]
    return [
        {"instance/i": {"registeredResources": resources}, "capacity/i": _capacity(10)},
        {"instance/j": {"registeredResources": resources}, "capacity/j": _capacity(10)},
        {"capacity/i": _capacity(4, (80,)), "task/i/a": _task(6, (80,))},
        {"capacity/i": _capacity(0, (80,)), "task/i/b": _task(4)},
        {"status/i/a": {"lastStatus": "RUNNING"}},
        {"status/i/a": {"lastStatus": "STOPPED"}, "capacity/i": _capacity(6)},
        {"capacity/i": _capacity(1, (80,)), "task/i/c": _task(5, (80,))},
        {"status/i/a": None, "task/i/a": None},
        {"capacity/j": _capacity(2), "task/j/d": _task(8)},
    ]


def fold(written: list[Written]) -> Placements:
    return Placements().fold(
        Commit(
            revision,
            "c",
            revision,
            "",
            tuple(
                Change(f"cluster/default/{key}", None if record is None else encode(record))
                for key, record in changes.items()
            ),
        )
        for revision, changes in enumerate(written, 1)
    )


def test_correct_history_passes() -> None:
    found = fold(correct())
    assert found.violations == []
    assert found.placed == {"a": 3, "b": 4, "c": 7, "d": 9}
    assert found.claims_max == 3


def oversubscribed(written: list[Written]) -> None:
    written[3] = {"capacity/i": _capacity(-1, (80,)), "task/i/b": _task(5)}


def placed_without_a_claim(written: list[Written]) -> None:
    del written[3]["capacity/i"]


def claimed_without_a_task(written: list[Written]) -> None:
    del written[8]["task/j/d"]


def placed_twice(written: list[Written]) -> None:
    written.append({"capacity/j": _capacity(-2), "task/j/b": _task(4)})


def given_back_twice(written: list[Written]) -> None:
    written.append({"capacity/i": _capacity(7, (80,))})


def given_back_while_it_runs(written: list[Written]) -> None:
    written[4] = {"capacity/i": _capacity(6)}


def port_given_out_twice(written: list[Written]) -> None:
    written[3] = {"capacity/i": _capacity(0, (80,)), "task/i/b": _task(4, (80,))}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (oversubscribed, "revision 4: instance i: cpu: -1 left"),
        (placed_without_a_claim, "revision 4: instance i: cpu: 4 left and 10 claimed of 10"),
        (claimed_without_a_task, "revision 9: instance j: cpu: 2 left and 0 claimed of 10"),
        (placed_twice, "revision 10: task b is on i and on j"),
        (given_back_twice, "revision 10: instance i"),
        (given_back_while_it_runs, "revision 5: instance i"),
        (port_given_out_twice, "revision 4: instance i: ports [80] taken, [80, 80] claimed"),
    ],
)
def test_planted_fault_is_found(fault: Callable[[list[Written]], None], words: str) -> None:
    written = correct()
    fault(written)
    violations = fold(written).violations
    assert violations, fault.__name__
    assert any(words in violation for violation in violations), violations
