"""Alarms and readiness by cases, and how values are counted."""

from __future__ import annotations

from typing import Any

import pytest

from journal.counters import Counters, Histogram
from journal.offers import Expired, Reason, Rejected
from journal.status import ALARMS, READY_LAG_SLOTS_MAX, alarms_of, health_of, not_ready

WELL: dict[str, Any] = {
    "stopping": False,
    "disowned": "",
    "removed": False,
    "leaderless": "",
    "lag": 0,
    "lag_max": 32,
    "disk_free_bytes": 10 << 30,
    "disk_free_bytes_min": 512 << 20,
    "write_s": 0.0,
}


def test_a_node_that_is_well() -> None:
    alarms = alarms_of(**WELL)
    assert alarms == ()
    assert health_of(alarms) == "ok"
    assert not_ready(alarms, 0) == ""


@pytest.mark.parametrize(
    ("changed", "names", "health", "ready"),
    [
        ({"stopping": True, "leaderless": "no leader"}, ["stopping"], "stopping", "stopping"),
        ({"disowned": "told so"}, ["disowned"], "takes no part any more: told so", "takes no part"),
        ({"removed": True}, ["removed"], "was removed from the cluster: stop it", "was removed"),
        ({"leaderless": "no leader; x"}, ["no_leader"], "no leader; x", "no leader; x"),
        ({"lag": 32}, [], "ok", ""),
        ({"lag": 33}, ["catching_up"], "catching up: 33 slots behind", ""),
        ({"lag": 101}, ["catching_up"], "catching up: 101 slots behind", "101 slots behind, ready from 100"),
        (
            {"disk_free_bytes": (512 << 20) - 1},
            ["disk_nearly_full"],
            "disk nearly full: 511 MiB free, alarm below 512 MiB",
            "",
        ),
        ({"disk_free_bytes": 512 << 20}, [], "ok", ""),
        ({"disk_free_bytes": None}, [], "ok", ""),
        ({"disk_full": "disk of node 2 full"}, ["disk_full"], "disk of node 2 full", ""),
        ({"damaged": "slot 3 waits"}, ["damaged"], "slot 3 waits", ""),
        (
            {"write_s": 2.5},
            ["disk_slow"],
            "slow disk: a write has been under way for 2 s",
            "",
        ),
        (
            {"leaderless": "no leader", "disk_free_bytes": 0},
            ["no_leader", "disk_nearly_full"],
            "no leader; disk nearly full: 0 MiB free, alarm below 512 MiB",
            "no leader",
        ),
    ],
)
def test_alarms(changed: dict[str, Any], names: list[str], health: str, ready: str) -> None:
    told = WELL | changed
    alarms = alarms_of(**told)
    assert [alarm.name for alarm in alarms] == names
    assert health_of(alarms) == health
    assert not_ready(alarms, told["lag"]).startswith(ready)
    assert bool(not_ready(alarms, told["lag"])) == bool(ready)


def test_every_alarm_has_its_case_here() -> None:
    assert READY_LAG_SLOTS_MAX == 100
    found = {name for mark in test_alarms.pytestmark for case in mark.args[1] for name in case[1]}
    assert found == set(ALARMS)


def test_histograms_count_at_or_below_each_bound() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 2, 4, 9):
        histogram.observe(value)
    assert histogram.cumulative() == [(1, 2), (2, 4), (4, 5), (float("inf"), 6)]
    assert histogram.count == 6
    assert histogram.total == 18


def test_rejections_are_counted_by_reason() -> None:
    counters = Counters()
    read = Rejected(Reason.READ, "reads[0]", b"k", 1)
    counters.verdicts([[1, read, 2], [read, Expired()]])
    assert counters.offers_rejected == {"read": 2, "expired": 1}
