"""What holds of every runtime: of processes, and of the one in memory that other tests believe in.

To add a runtime, add it to ``RUNTIMES``.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.model import ContainerState, LocalTask, Phase
from agent.process import ProcessRuntime
from agent.runtime import MemoryRuntime, Runtime
from tests.agent.test_process import DEADLINE_S, local_task


def processes(folder: Path) -> Runtime:
    return ProcessRuntime(folder)


def memory(_: Path) -> Runtime:
    runtime = MemoryRuntime()

    def start(local: LocalTask, container: str) -> ContainerState | None:
        command = local.definition.container_definitions[0].command
        if command == ("no-such-command-anywhere",):
            return ContainerState(
                phase=Phase.STOPPED,
                exit_code=127,
                reason="CannotStartContainerError: …",
                failed_to_start=True,
            )
        return None

    runtime.on_start = start
    return runtime


RUNTIMES = [processes, memory]
runtimes = pytest.mark.parametrize("make", RUNTIMES, ids=lambda make: make.__name__)
Make = Callable[[Path], Runtime]
SLEEP = local_task("sleep", "600")


@runtimes
async def test_what_was_never_started_is_created(make: Make, tmp_path: Path) -> None:
    runtime = make(tmp_path)
    assert await runtime.inspect("t1", "main") == ContainerState()
    assert not await runtime.signal("t1", "main", kill=True), "there is nothing to signal yet"
    with trio.fail_after(DEADLINE_S):
        assert await runtime.changed("t1", "main", ContainerState()) == ContainerState()
    await runtime.remove(SLEEP)


@runtimes
@pytest.mark.parametrize("kill", [False, True])
async def test_it_runs_until_it_is_signalled(make: Make, tmp_path: Path, kill: bool) -> None:
    runtime = make(tmp_path)
    with trio.fail_after(DEADLINE_S):
        await runtime.start(SLEEP, "main")
        state = await runtime.inspect("t1", "main")
        assert state.phase is Phase.RUNNING
        assert state.runtime_id
        assert state.started_at is not None
        await runtime.start(SLEEP, "main")
        assert await runtime.inspect("t1", "main") == state, "it is started once"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.changed, "t1", "main", state)
            nursery.start_soon(runtime.changed, "t1", "main", state)
            await trio.testing.wait_all_tasks_blocked()
            assert await runtime.signal("t1", "main", kill=kill)
        after = await runtime.inspect("t1", "main")
        assert after.phase is Phase.STOPPED
        assert after.exit_code == 128 + (signal.SIGKILL if kill else signal.SIGTERM)
        assert after.stopped_at is not None
        assert (after.runtime_id, after.started_at) == (state.runtime_id, state.started_at)
        assert await runtime.changed("t1", "main", state) == after
        assert await runtime.signal("t1", "main", kill=True), "there is nothing left to signal"
        await runtime.start(SLEEP, "main")
        assert await runtime.inspect("t1", "main") == after, "and never again"


@runtimes
async def test_what_has_stopped_starts_again_once_for_each_attempt(make: Make, tmp_path: Path) -> None:
    runtime = make(tmp_path)
    with trio.fail_after(DEADLINE_S):
        for attempt in (0, 1, 2):
            await runtime.start(SLEEP, "main", attempt)
            state = await runtime.inspect("t1", "main")
            assert (state.phase, state.attempt) == (Phase.RUNNING, attempt)
            await runtime.start(SLEEP, "main", attempt)
            await runtime.start(SLEEP, "main", max(attempt - 1, 0))
            assert await runtime.inspect("t1", "main") == state
            assert await runtime.signal("t1", "main", kill=True)
            after = await runtime.changed("t1", "main", state)
            assert (after.phase, after.attempt, after.exit_code) == (Phase.STOPPED, attempt, 137)


@runtimes
async def test_what_cannot_start_has_stopped_with_a_reason(make: Make, tmp_path: Path) -> None:
    runtime = make(tmp_path)
    with trio.fail_after(DEADLINE_S):
        await runtime.start(local_task("no-such-command-anywhere"), "main")
        state = await runtime.inspect("t1", "main")
        state = await runtime.changed("t1", "main", state)
    assert (state.phase, state.exit_code, state.failed_to_start) == (Phase.STOPPED, 127, True)
    assert state.reason is not None
    assert state.reason.startswith("CannotStartContainerError: ")
