"""Runs that wait for capacity, through the command line: one node, one agent, two schedulers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from synod.local import LocalCluster
from tests.cli.conftest import FAST, READY_S, Synod, synod_process

SLEEP = ("--", "sleep", "300")


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster.create(tmp_path_factory.mktemp("queue"), nodes=1, node_args=FAST)
    try:
        cluster.start()
        cluster.start_agent(1, cpu=1024, memory=1024, attributes={"rack": "r1"})
        cluster.wait_ready(READY_S)
        cluster.wait_agents(READY_S)
        cluster.start_schedulers(2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def here(agents: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    monkeypatch.setenv("SYNOD_DIR", str(agents.folder))
    return agents


def queued(synod: Synod, count: int) -> list[dict[str, Any]]:
    """Return the queue once it holds ``count`` runs, each with the reason why it waits."""
    deadline = time.monotonic() + READY_S
    while True:
        runs: list[dict[str, Any]] = synod("queue", "--json").json["runs"]
        if len(runs) == count and all(run.get("reason") for run in runs):
            return runs
        assert time.monotonic() < deadline, runs


def test_a_run_waits_for_capacity_is_shown_and_gets_it(synod: Synod) -> None:
    first = synod("run", "--wait-for-capacity", "--cpu", "1000", *SLEEP)
    assert first.code == 0, first.err
    [blocker] = [line.split()[0] for line in first.out.splitlines()]
    options = ("--wait-for-capacity", "--cpu", "100", "--attributes", "rack=r1", "--owner")
    waiting = synod_process("run", *options, "ann", "--wait", "--json", "--", "true")
    hopeless = synod_process("run", *options, "bob", "--priority", "3", "--", "true")
    runs = queued(synod, 2)
    assert [run["owner"] for run in runs] == ["bob", "ann"], "the higher priority is first"
    assert "needs 100 CPU units, 24 left" in runs[0]["reason"]
    shown = synod("queue").out
    assert "bob" in shown and "0 of 1" in shown and "needs 100 CPU units" in shown

    name = runs[0]["run"].rpartition("-")[2]
    assert synod("unqueue", name).out == f"{name} is out of the queue\n"
    gone = synod("unqueue", name)
    assert gone.code == 1 and "no run" in gone.err
    _, err = hopeless.communicate(timeout=READY_S)
    assert hopeless.returncode == 2
    assert "was taken out of the queue" in err and "queued: instance" in err

    assert synod("stop", blocker, "--wait").code == 0
    out, err = waiting.communicate(timeout=READY_S)
    assert waiting.returncode == 0, err
    [task] = json.loads(out)["tasks"]
    assert task["exit_code"] == 0
    assert synod("queue", "--json").json["runs"] == []
