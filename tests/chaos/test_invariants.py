"""What must hold of each client kind's keys: each planted fault is found, a correct run is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from synod.history.format import Change, Commit
from synod.history.invariants import ACCOUNTS, BALANCE, Invariants
from synod.history.model import encode

Written = dict[str, str | None]


def _capacity(cpu: int, *ports: int) -> str:
    return encode({"cpu": cpu, "ports": list(ports)})


def _task(cpu: int, *ports: int) -> str:
    return encode({"cpu": cpu, "ports": list(ports)})


def correct() -> list[Written]:
    return [
        {f"bank/{i}": str(BALANCE) for i in range(ACCOUNTS)},
        {"bank/0": "70", "bank/1": "130"},
        {"list/0/0": "a:1,"},
        {"list/0/0": "a:1,b:2,"},
        {"counter/0": encode({"a": 0, "b": 20})},
        {"capacity/0": _capacity(10)},
        {"capacity/0": _capacity(6, 9000), "task/0/x": _task(4, 9000)},
        {"capacity/0": _capacity(1, 9000, 9001), "task/0/y": _task(5, 9001)},
        {"capacity/0": _capacity(5, 9001), "task/0/x": None},
        {"elsewhere": "anything"},
    ]


def fold(written: list[Written]) -> Invariants:
    return Invariants().fold(
        Commit(revision, "c", revision, "who", tuple(Change(*item) for item in changes.items()))
        for revision, changes in enumerate(written, 1)
    )


def test_correct_history_passes() -> None:
    found = fold(correct())
    assert found.violations == []
    assert found.judged >= 9


def money_lost(written: list[Written]) -> None:
    written[1] = {"bank/0": "70"}


def overdrawn(written: list[Written]) -> None:
    written[1] = {"bank/0": "-10", "bank/1": str(2 * BALANCE + 10)}


def appended_twice(written: list[Written]) -> None:
    written.insert(4, {"list/0/0": "a:1,b:2,b:2,"})


def append_lost(written: list[Written]) -> None:
    written.insert(4, {"list/0/0": "a:1,c:3,"})


def reordered(written: list[Written]) -> None:
    written.insert(4, {"list/0/0": "b:2,a:1,c:3,"})


def over_the_bound(written: list[Written]) -> None:
    written.append({"counter/0": encode({"a": 21})})


def oversubscribed(written: list[Written]) -> None:
    written[7] = {"capacity/0": _capacity(-1, 9000, 9001), "task/0/y": _task(7, 9001)}


def claim_without_task(written: list[Written]) -> None:
    written[7] = {"capacity/0": _capacity(1, 9000)}


def port_twice(written: list[Written]) -> None:
    written[7] = {"capacity/0": _capacity(1, 9000), "task/0/y": _task(5, 9000)}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (money_lost, "in all 470 of 500"),
        (overdrawn, "the accounts hold"),
        (appended_twice, "is appended a second time"),
        (append_lost, "not one element more"),
        (reordered, "not one element more"),
        (over_the_bound, "beyond 0 to 20"),
        (oversubscribed, "-1 left and 11 claimed of 10"),
        (claim_without_task, "1 left and 4 claimed of 10"),
        (port_twice, "ports [9000] taken, [9000, 9000] claimed"),
    ],
)
def test_planted_fault_is_found(fault: Callable[[list[Written]], Any], words: str) -> None:
    written = correct()
    fault(written)
    violations = fold(written).violations
    assert any(words in violation for violation in violations), violations
