"""Tasks through the command line: one node, two agents, real processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synod.local import LocalCluster
from synod.processes import ProcessRef
from tests.cli.conftest import FAST, READY_S, Done, Synod, synod_process

SLEEP = ("--", "sh", "-c", "echo hello from $SYNOD_TASK; exec sleep 300")


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One node, and two agents of two cores each."""
    cluster = LocalCluster.create(tmp_path_factory.mktemp("tasks"), nodes=1, node_args=FAST)
    try:
        cluster.start()
        for agent in (1, 2):
            cluster.start_agent(agent, cpu=2048, memory=1024, attributes={"rack": f"r{agent}"})
        cluster.wait_ready(READY_S)
        cluster.wait_agents(READY_S)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(autouse=True)
def here(agents: LocalCluster, monkeypatch: pytest.MonkeyPatch, synod: Synod) -> Iterator[LocalCluster]:
    """Found by every command; each test begins and ends with no task running."""
    monkeypatch.setenv("SYNOD_DIR", str(agents.folder))
    yield agents
    running = [task["task"] for task in tasks(synod)]
    if running:
        assert synod("stop", "--wait", *running).code == 0


def tasks(synod: Synod, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = synod("ps", "--json", *options).json["tasks"]
    return found


def placed(done: Done) -> list[str]:
    assert done.code == 0, done
    return [line.split()[0] for line in done.out.splitlines()]


def wait_for_output(synod: Synod, task: str) -> str:
    """The log appears a moment after the task was placed; pytest's timeout is the deadline."""
    while not (done := synod("logs", task)).out:
        assert done.code == 0, done
    return done.out


def test_run_ps_logs_stop(synod: Synod) -> None:
    [task] = placed(synod("run", "--cpu", "256", "--memory", "32", *SLEEP))
    assert wait_for_output(synod, task) == f"hello from {task}\n"
    [row] = tasks(synod)
    assert (row["task"], row["last_status"], row["cpu"], row["memory"]) == (task, "RUNNING", 256, 32)
    table = synod("ps").out
    assert task[:12] in table and "RUNNING" in table and "run-sh:" in table

    assert synod("stop", task[:8], "--wait", "--reason", "enough").code == 0
    assert tasks(synod) == []
    [row] = [row for row in tasks(synod, "--all") if row["task"] == task]
    assert (row["last_status"], row["exit_code"], row["reason"]) == ("STOPPED", 143, "enough")
    assert synod("logs", task).out == f"hello from {task}\n"
    assert "had stopped" in synod("stop", task).out


def test_wait_gives_the_exit_code(synod: Synod) -> None:
    assert synod("run", "--wait", "--", "true").code == 0
    done = synod("run", "--wait", "--json", "--", "sh", "-c", "exit 7")
    assert done.code == 1
    [task] = done.json["tasks"]
    assert (task["exit_code"], task["last_status"]) == (7, "STOPPED")
    missing = synod("run", "--wait", "--", "/no/such/program")
    assert missing.code == 1
    assert "command not found" in missing.out


def test_no_room_is_2_with_every_instances_reason(synod: Synod) -> None:
    gang = synod("run", "--gang", "--cpu", "1024", "--count", "6", *SLEEP)
    assert (gang.code, gang.out) == (2, "") and "6 tasks not placed: " in gang.err
    assert synod("run", "--gang", "--wait-for-capacity", *SLEEP).code == 64
    done = synod("run", "--cpu", "1024", "--count", "6", *SLEEP)  # so the gang left nothing behind
    assert done.code == 2
    assert len(done.out.splitlines()) == 4
    assert "2 tasks not placed: " in done.err
    assert "2 instances (" in done.err
    assert "needs 1024 CPU units, 0 left" in done.err
    fault = synod("run", "--cpu", "1024", "--json", *SLEEP)
    assert fault.code == 2
    [failure] = fault.json["failures"]
    assert failure["code"] == "RESOURCE:CPU"
    assert len(failure["instances"]) == 2


def test_constraints_and_strategies(synod: Synod) -> None:
    options = ("--strategy", "spread:attribute:rack", "--strategy", "binpack:cpu")
    done = synod("run", "--constraint", "attribute:rack == r2", *options, *SLEEP)
    assert done.code == 0
    refused = synod("run", "--constraint", "attribute:rack == r9", *SLEEP)
    assert refused.code == 2
    assert "is not meant by attribute:rack == r9 (rack is r2)" in refused.err
    several = synod("run", "--constraint", "distinctInstance", "--family", "one", "--count", "3", *SLEEP)
    assert several.code == 2
    assert "1 task not placed" in several.err
    bad = synod("run", "--constraint", "attribute:rack = r2", *SLEEP)
    assert bad.code == 64
    assert "an operator is expected" in bad.err
    assert "is by instanceId" in synod("run", "--strategy", "spread:rack", *SLEEP).err


def test_a_plan_places_nothing_and_says_what_would_help(synod: Synod) -> None:
    options = ("--cpu", "1024", "--memory", "200")
    done = synod("plan", *options, "--count", "3")
    assert done.code == 0 and tasks(synod) == []
    done = synod("plan", *options, "--count", "6", "--json")
    assert done.code == 2
    assert (len(done.json["placements"]), done.json["unplaced"]) == (4, 2)
    change = done.json["changes"][0]
    assert (change["needs"], len(change["instances"])) == (["1024 more CPU units"], 2)
    shown = synod("plan", *options, "--count", "6")
    assert "1024 more CPU units on any of 2 instances" in shown.out
    assert "one more instance with 1024 CPU units, 200 MiB free" in shown.out
    assert synod("run", "--family", "known", "--cpu", "4000", *SLEEP).code == 2
    assert "needs 4000 CPU units, 2048 left" in synod("plan", "known").out
    assert "no ACTIVE task definition nobody" in synod("plan", "nobody").err
    assert "leave --cpu" in synod("plan", "known", "--cpu", "1").err
    assert "a number is wanted" in synod("plan", "--resource", "GPU=x").err
    assert "at character" in synod("plan", "--constraint", "x").err


def test_the_state_is_asked_with_sql(synod: Synod) -> None:
    [task] = placed(synod("run", *SLEEP))
    done = synod("sql", "--json", "select id, task_group from tasks where last_status <> 'STOPPED'")
    assert done.json["rows"] == [[task, "family:run-sh"]]
    assert "2048" in synod("sql", "select sum(cpu) / 2 as half from instances").out
    assert "task_group" in synod("sql").out
    assert synod("sql", "drop table tasks").code == 64
    assert "there are instances" in synod("sql", "select * from things").err


def test_attributes_ports_and_environment(synod: Synod) -> None:
    done = synod(
        "run",
        "--attributes",
        "rack=r2",
        "--env",
        "A=b",
        "--port",
        "8080",
        "--",
        "sh",
        "-c",
        "echo $A; exec sleep 300",
    )
    [task] = placed(done)
    assert wait_for_output(synod, task) == "b\n"
    again = synod("run", "--attributes", "rack=r2", "--port", "8080", "--", "true")
    assert again.code == 2
    assert "8080" in again.err and "rack" in again.err
    assert synod("run", "--attributes", "rack", "--", "true").code == 64
    assert synod("run", "--env", "=x", "--", "true").code == 64


def test_a_relative_working_directory_is_from_here(
    synod: Synod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nexit 5\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    done = synod("run", "--wait", "--json", "--cwd", ".", "--", "./job.sh")
    assert [task["exit_code"] for task in done.json["tasks"]] == [5]


def test_logs_follow_until_it_stops(synod: Synod, here: LocalCluster) -> None:
    [task] = placed(synod("run", "--", "sh", "-c", "echo one; sleep 1; echo two; sleep 1; printf three"))
    with synod_process("logs", task[:10], "--follow", "--dir", str(here.folder)) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "one\ntwo\nthree", "")
    assert synod("logs", task, "--lines", "1").out == "three"
    assert synod("logs", task, "--lines", "2").out == "two\nthree"


def test_wrong_names(synod: Synod) -> None:
    for command in ("logs", "stop"):
        done = synod(command, "nosuchtask")
        assert done.code == 1
        assert "has no task nosuchtask" in done.err and "synod ps" in done.err
    assert synod("ps", "--cluster-name", "other", "--json").json["tasks"] == []
    refused = synod("run", "--cluster-name", "no/slash", "--", "true")
    assert refused.code in (2, 64)


def test_a_task_outlives_its_agent_and_comes_back_to_it(synod: Synod, here: LocalCluster) -> None:
    [task] = placed(synod("run", "--attributes", "rack=r1", *SLEEP))
    wait_for_output(synod, task)
    [supervisor] = here.tasks()
    here.kill_agent(1)
    assert supervisor.alive
    here.start_agent(1)
    here.wait_agents(READY_S)
    assert [row["task"] for row in tasks(synod)] == [task]
    assert here.tasks() == [supervisor]
    assert synod("stop", "--wait", task).code == 0
    assert not supervisor.alive


def test_down_stops_tasks_and_up_reports_them(synod: Synod, here: LocalCluster) -> None:
    [task] = placed(synod("run", *SLEEP))
    wait_for_output(synod, task)
    [supervisor] = here.tasks()
    done = synod("down")
    assert done.out.startswith("stopped 1 node, 2 agents and 1 task")
    assert not supervisor.alive
    assert here.tasks() == []
    assert synod("up", "--detach").code == 0
    with synod_process("logs", task, "--follow", "--dir", str(here.folder)) as process:
        process.communicate(timeout=60)  # returns when its agent has reported that it stopped
    [row] = [row for row in tasks(synod, "--all") if row["task"] == task]
    assert (row["last_status"], row["exit_code"]) == ("STOPPED", 143)


def test_the_process_is_in_a_group_of_its_own(synod: Synod, here: LocalCluster) -> None:
    [task] = placed(synod("run", "--", "sh", "-c", "sleep 300 & echo $!; wait"))
    child = int(wait_for_output(synod, task))
    ref = ProcessRef.of(child)
    assert ref is not None
    assert synod("stop", "--wait", task).code == 0
    assert not ref.alive
    assert json.loads(synod("ps", "--json").out)["tasks"] == []
