"""Containers as real processes: what is known of one never depends on the agent that started it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.lowlevel
import trio.testing

from agent.folder import log_files
from agent.model import ContainerState, LocalTask, Phase
from agent.process import ProcessRuntime
from agent.process_spec import LogLimits
from agent.supervisor import start_time
from cluster.records import ContainerDefinition, KeyValue, Task, TaskDefinition
from journal.types import Revision

DEADLINE_S = 20.0
IGNORES_TERM = "trap '' TERM; echo ready; while :; do sleep 1; done"


def local_task(*command: str, task: str = "t1", **fields: object) -> LocalTask:
    container = ContainerDefinition(name="main", command=command, **fields)  # type: ignore[arg-type]
    definition = TaskDefinition(family="f", revision=1, cpu=1, memory=1, container_definitions=(container,))
    record = Task(task_definition="f:1", cpu=1, memory=1)
    return LocalTask(id=task, task=record, revision=Revision(1), definition=definition)


class Machine:
    """One folder; each ``agent()`` is a runtime that knows nothing but the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def agent(self, **options: object) -> ProcessRuntime:
        return ProcessRuntime(self.folder, **options)  # type: ignore[arg-type]

    def log(self) -> str:
        return "".join(path.read_text() for path in log_files(self.folder, "t1", "main"))

    def make_gate(self) -> None:
        """Make a pipe for the container to read from, before it starts."""
        self.file("gate").parent.mkdir(parents=True)
        os.mkfifo(self.file("gate"))

    async def open_gate(self) -> None:
        with trio.fail_after(DEADLINE_S):
            await trio.to_thread.run_sync(self.file("gate").write_text, "go\n", abandon_on_cancel=True)

    def file(self, name: str) -> Path:
        return self.folder / "tasks" / "t1" / "main" / name


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine

    async def kill() -> None:
        for folder in (tmp_path / "tasks").glob("*"):
            await machine.agent().signal(folder.name, "main", kill=True)

    trio.run(kill)


async def ended(runtime: ProcessRuntime) -> ContainerState:
    with trio.fail_after(DEADLINE_S):
        state = await runtime.inspect("t1", "main")
        while state.phase is Phase.RUNNING:
            state = await runtime.changed("t1", "main", state)
        return state


async def started(runtime: ProcessRuntime, local: LocalTask) -> ContainerState:
    with trio.fail_after(DEADLINE_S):
        await runtime.start(local, "main")
    return await runtime.inspect(local.id, "main")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a real process does."""
    with trio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def until_stopped(runtime: ProcessRuntime) -> None:
    with trio.fail_after(DEADLINE_S):
        while (await runtime.inspect("t1", "main")).phase is not Phase.STOPPED:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def until_logged(machine: Machine, text: str) -> None:
    await until(lambda: text in machine.log())


async def test_a_command_runs_and_its_exit_code_and_output_are_kept(machine: Machine) -> None:
    runtime = machine.agent()
    assert await runtime.inspect("t1", "main") == ContainerState()
    await started(runtime, local_task("sh", "-c", "echo out; echo err >&2; exit 7"))
    state = await ended(runtime)
    assert (state.phase, state.exit_code, state.reason) == (Phase.STOPPED, 7, None)
    assert state.started_at is not None and state.stopped_at is not None
    assert state.started_at <= state.stopped_at
    assert machine.log() == "out\nerr\n"


async def test_a_new_agent_finds_the_running_process_and_learns_its_exit_code(machine: Machine) -> None:
    machine.make_gate()
    first = machine.agent()
    before = await started(first, local_task("sh", "-c", "read line < ../gate; exit 42"))
    second = machine.agent()
    assert await second.inspect("t1", "main") == before
    assert before.phase is Phase.RUNNING
    await machine.open_gate()
    assert (await ended(second)).exit_code == 42


async def test_starting_many_times_runs_once(machine: Machine) -> None:
    machine.make_gate()
    local = local_task("sh", "-c", "echo ran; read line < ../gate")
    runtimes = [machine.agent() for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for runtime in runtimes:
            nursery.start_soon(started, runtime, local)
    await until_logged(machine, "ran")
    await started(machine.agent(), local)
    await machine.open_gate()
    state = await ended(runtimes[0])
    assert state.exit_code == 0
    await started(machine.agent(), local)
    assert await machine.agent().inspect("t1", "main") == state
    assert machine.log() == "ran\n"


async def test_a_command_that_is_not_found_says_so(machine: Machine) -> None:
    runtime = machine.agent()
    state = await started(runtime, local_task("no-such-command-anywhere"))
    assert state.failed_to_start
    assert state.phase is Phase.STOPPED
    assert state.reason == "CannotStartContainerError: command not found: no-such-command-anywhere"
    assert state.exit_code == 127


async def test_a_file_that_may_not_be_executed_says_so(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    state = await started(machine.agent(), local_task(str(tmp_path / "plain")))
    assert state.reason == f"CannotStartContainerError: {tmp_path}/plain: Permission denied"
    assert state.exit_code == 126


async def test_a_missing_working_directory_says_so(machine: Machine) -> None:
    state = await started(machine.agent(), local_task("true", working_directory="/no/such/folder"))
    assert state.reason is not None
    assert state.reason.startswith("CannotStartContainerError: working directory /no/such/folder: No such")


async def test_no_command_at_all_says_so(machine: Machine) -> None:
    state = await started(machine.agent(), local_task())
    assert state.failed_to_start
    assert state.reason == "CannotCreateContainerError: the definition has no command"


async def test_environment_and_working_folder(machine: Machine, tmp_path: Path) -> None:
    local = local_task(
        "sh",
        "-c",
        "pwd; echo $COLOUR $SYNOD_TASK $SYNOD_CONTAINER $FROM_AGENT; echo ${SECRET:-none}",
        working_directory=str(tmp_path),
        environment=(KeyValue(name="COLOUR", value="red"),),
    )
    os.environ["SECRET"] = "of the agent"
    try:
        runtime = machine.agent(environment={"FROM_AGENT": "yes"})
        await started(runtime, local)
    finally:
        del os.environ["SECRET"]
    await ended(runtime)
    assert machine.log() == f"{tmp_path}\nred t1 main yes\nnone\n"


async def test_sigterm_ends_the_whole_group(machine: Machine) -> None:
    runtime = machine.agent()
    await started(runtime, local_task("sh", "-c", "sleep 600 & echo $!; wait"))
    await until_logged(machine, "\n")
    helper = int(machine.log())
    assert start_time(helper) is not None
    assert await runtime.signal("t1", "main", kill=False)
    state = await ended(runtime)
    assert state.exit_code == 128 + signal.SIGTERM
    await until(lambda: start_time(helper) is None)


async def test_what_ignores_sigterm_is_killed_by_sigkill_even_by_another_agent(machine: Machine) -> None:
    await started(
        machine.agent(), local_task("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    )
    await until_logged(machine, "ready")
    other = machine.agent()
    assert await other.signal("t1", "main", kill=False)
    assert (await other.inspect("t1", "main")).phase is Phase.RUNNING
    assert await other.signal("t1", "main", kill=True)
    assert (await ended(other)).exit_code == 128 + signal.SIGKILL


async def test_processes_left_behind_are_killed_when_the_command_ends(machine: Machine) -> None:
    runtime = machine.agent()
    await started(runtime, local_task("sh", "-c", "sleep 600 & echo $!; exit 3"))
    assert (await ended(runtime)).exit_code == 3
    helper = int(machine.log())
    await until(lambda: start_time(helper) is None)


async def test_the_log_keeps_the_newest_output_within_its_limit(machine: Machine) -> None:
    runtime = machine.agent(logs=LogLimits(10_000, 2))
    program = "import sys\nfor i in range(10000): sys.stdout.write(f'line {i}\\n')"
    await started(runtime, local_task(sys.executable, "-c", program))
    assert (await ended(runtime)).exit_code == 0
    files = log_files(machine.folder, "t1", "main")
    assert [path.name for path in files] == ["log.1", "log"]
    assert all(path.stat().st_size <= 10_000 for path in files)
    assert machine.log().endswith("line 9998\nline 9999\n")
    assert len(machine.log()) >= 10_000


async def test_a_killed_supervisor_leaves_the_task_running_and_says_that_its_code_is_lost(
    machine: Machine,
) -> None:
    runtime = machine.agent()
    await started(runtime, local_task("sleep", "600"))
    state = await runtime.inspect("t1", "main")
    supervisor = json.loads(machine.file("supervisor.json").read_text())["pid"]
    os.kill(supervisor, signal.SIGKILL)
    await until(lambda: start_time(supervisor) is None)
    after = machine.agent()
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(after.changed, "t1", "main", state)
            await trio.testing.wait_all_tasks_blocked()
            assert await after.inspect("t1", "main") == state
            assert await after.signal("t1", "main", kill=False)
    state = await after.inspect("t1", "main")
    assert state.phase is Phase.STOPPED
    assert state.exit_code is None
    assert state.reason == "ContainerVanishedError: its supervisor was killed; the exit code is unknown"
    await started(after, local_task("sleep", "600"))
    assert await after.inspect("t1", "main") == state, "it must not run a second time"


async def test_after_a_restart_of_the_machine_a_pid_means_nothing(machine: Machine) -> None:
    runtime = machine.agent()
    await started(runtime, local_task("true"))
    await ended(runtime)
    machine.file("exit.json").unlink()
    process = json.loads(machine.file("process.json").read_text())
    # The pid is alive, and is another's.
    process.update(pid=os.getpid(), startTime=start_time(os.getpid()), bootId="of another start")
    machine.file("process.json").write_text(json.dumps(process))
    # The supervisor writes the exit code down and then ends: until then the container counts as running.
    await until_stopped(machine.agent())
    state = await machine.agent().inspect("t1", "main")
    assert state.reason == "ContainerVanishedError: the machine was restarted; the exit code is unknown"
    process.update(
        startTime=process["startTime"] - 1,
        bootId=json.loads(machine.file("supervisor.json").read_text())["bootId"],
    )
    machine.file("process.json").write_text(json.dumps(process))
    assert (await machine.agent().inspect("t1", "main")).phase is Phase.STOPPED
    assert await machine.agent().signal("t1", "main", kill=True), "and nobody else is killed"


async def test_a_supervisor_that_died_before_the_command_leaves_nothing(machine: Machine) -> None:
    folder = machine.file("spec.json").parent
    folder.mkdir(parents=True)
    machine.file("supervisor.json").write_text('{"pid": 1, "startTime": 0, "bootId": "x"}')
    runtime = machine.agent()
    assert (await runtime.inspect("t1", "main")).phase is Phase.STOPPED
    await started(runtime, local_task("sh", "-c", "echo ran"))
    assert machine.log() == ""


async def test_a_stop_that_comes_with_the_start_is_not_lost(machine: Machine) -> None:
    local = local_task("sleep", "600")
    runtime, other = machine.agent(), machine.agent()
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.start, local, "main")
            while (await other.inspect("t1", "main")).phase is Phase.CREATED:
                await trio.lowlevel.checkpoint()
            while not await other.signal("t1", "main", kill=False):
                await trio.lowlevel.checkpoint()
    assert (await ended(runtime)).exit_code == 128 + signal.SIGTERM


async def test_output_that_cannot_be_written_is_lost_and_the_task_is_not(machine: Machine) -> None:
    machine.file("log").mkdir(parents=True)
    runtime = machine.agent()
    await started(runtime, local_task("sh", "-c", "echo one; echo two; exit 5"))
    assert (await ended(runtime)).exit_code == 5
    assert "output is lost: " in machine.file("supervisor.log").read_text()


async def test_an_exit_code_waits_until_the_disk_takes_it(machine: Machine) -> None:
    machine.file("exit.json").mkdir(parents=True)
    runtime = machine.agent()
    await started(runtime, local_task("sh", "-c", "exit 5"))
    await until(lambda: "cannot be written yet" in machine.file("supervisor.log").read_text())
    assert (await machine.agent().inspect("t1", "main")).phase is Phase.RUNNING, (
        "its claim is not released yet"
    )
    machine.file("exit.json").rmdir()
    assert (await ended(runtime)).exit_code == 5


async def test_a_process_that_cannot_be_written_down_does_not_run(machine: Machine) -> None:
    machine.file("process.json").mkdir(parents=True)
    runtime = machine.agent()
    state = await started(runtime, local_task("sh", "-c", "echo ran"))
    await until_stopped(runtime)
    state = await runtime.inspect("t1", "main")
    assert state.failed_to_start
    assert state.reason == "CannotStartContainerError: Is a directory"
    assert machine.log() == ""
