"""What holds of every runtime: of processes, of Docker, and of the one in memory that other tests believe in.

To add a runtime, add it to ``RUNTIMES``.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.docker import DockerRuntime, Pull
from agent.docker_api import DockerApi
from agent.model import ContainerState, LocalTask, Phase
from agent.process import ProcessRuntime
from agent.runtime import MemoryRuntime, Runtime
from cluster.records import LinuxParameters
from journal.logs import get_logger
from tests.agent.test_process import DEADLINE_S, local_task
from tests.dockerd import IMAGE, Dockerd

Open = Callable[[Path, str], AbstractAsyncContextManager[Runtime]]
"""Opens a runtime on an agent's folder; the task's name is one that no other test has."""


@asynccontextmanager
async def processes(folder: Path, task: str) -> AsyncIterator[Runtime]:
    runtime = ProcessRuntime(folder)
    yield runtime
    await runtime.signal(task, "main", kill=True)


@asynccontextmanager
async def memory(_: Path, task: str) -> AsyncIterator[Runtime]:
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
    yield runtime


class docker:
    """Docker's needs the session's engine."""

    def __init__(self, engine: Dockerd) -> None:
        self._engine = engine

    @asynccontextmanager
    async def __call__(self, folder: Path, task: str) -> AsyncIterator[Runtime]:
        api = DockerApi(self._engine.socket)
        runtime = DockerRuntime(
            api, folder, f"i-{task}", wall=time.time, log=get_logger(), pull=Pull.PREFER_CACHED
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.run)
                yield runtime
                await api.remove(f"synod-{task}-main", force=True)
                nursery.cancel_scope.cancel()
        finally:
            await api.aclose()


@pytest.fixture(params=["processes", "docker", "memory"])
def open_runtime(request: pytest.FixtureRequest) -> Open:
    if request.param == "docker":
        return docker(request.getfixturevalue("docker"))
    return {"processes": processes, "memory": memory}[request.param]


@pytest.fixture
def task(request: pytest.FixtureRequest) -> str:
    return f"t{abs(hash(request.node.name)):x}"


def local(task: str, *command: str) -> LocalTask:
    # A container's first process ignores SIGTERM unless it says otherwise; Docker's own init does.
    init = LinuxParameters(init_process_enabled=command[0] == "sleep")
    return local_task(*command, task=task, image=IMAGE, linux_parameters=init)


async def test_what_was_never_started_is_created(open_runtime: Open, task: str, tmp_path: Path) -> None:
    async with open_runtime(tmp_path, task) as runtime:
        assert await runtime.inspect(task, "main") == ContainerState()
        assert not await runtime.signal(task, "main", kill=True), "there is nothing to signal yet"
        with trio.fail_after(DEADLINE_S):
            assert await runtime.changed(task, "main", ContainerState()) == ContainerState()
        await runtime.remove(local(task, "sleep", "600"))


@pytest.mark.parametrize("kill", [False, True])
async def test_it_runs_until_it_is_signalled(
    open_runtime: Open, task: str, tmp_path: Path, kill: bool
) -> None:
    async with open_runtime(tmp_path, task) as runtime:
        with trio.fail_after(DEADLINE_S):
            await runtime.start(local(task, "sleep", "600"), "main")
            state = await runtime.inspect(task, "main")
            assert state.phase is Phase.RUNNING
            assert state.runtime_id
            assert state.started_at is not None
            await runtime.start(local(task, "sleep", "600"), "main")
            assert await runtime.inspect(task, "main") == state, "it is started once"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.changed, task, "main", state)
                nursery.start_soon(runtime.changed, task, "main", state)
                await trio.testing.wait_all_tasks_blocked()
                assert await runtime.signal(task, "main", kill=kill)
                # Docker calls a container running before its init listens: a signal may come too early.
                while (await runtime.inspect(task, "main")).phase is Phase.RUNNING:
                    with trio.move_on_after(1):
                        await runtime.changed(task, "main", state)
                    await runtime.signal(task, "main", kill=kill)
            after = await runtime.inspect(task, "main")
            assert after.phase is Phase.STOPPED
            assert after.exit_code == 128 + (signal.SIGKILL if kill else signal.SIGTERM)
            assert after.stopped_at is not None
            assert (after.runtime_id, after.started_at) == (state.runtime_id, state.started_at)
            assert await runtime.changed(task, "main", state) == after
            assert await runtime.signal(task, "main", kill=True), "there is nothing left to signal"
            await runtime.start(local(task, "sleep", "600"), "main")
            assert await runtime.inspect(task, "main") == after, "and never again"


async def test_what_has_stopped_starts_again_once_for_each_attempt(
    open_runtime: Open, task: str, tmp_path: Path
) -> None:
    async with open_runtime(tmp_path, task) as runtime:
        with trio.fail_after(DEADLINE_S):
            for attempt in (0, 1, 2):
                await runtime.start(local(task, "sleep", "600"), "main", attempt)
                state = await runtime.inspect(task, "main")
                assert (state.phase, state.attempt) == (Phase.RUNNING, attempt)
                await runtime.start(local(task, "sleep", "600"), "main", attempt)
                await runtime.start(local(task, "sleep", "600"), "main", max(attempt - 1, 0))
                assert await runtime.inspect(task, "main") == state
                assert await runtime.signal(task, "main", kill=True)
                after = await runtime.changed(task, "main", state)
                assert (after.phase, after.attempt, after.exit_code) == (Phase.STOPPED, attempt, 137)


async def test_what_cannot_start_has_stopped_with_a_reason(
    open_runtime: Open, task: str, tmp_path: Path
) -> None:
    async with open_runtime(tmp_path, task) as runtime:
        with trio.fail_after(DEADLINE_S):
            await runtime.start(local(task, "no-such-command-anywhere"), "main")
            state = await runtime.inspect(task, "main")
            state = await runtime.changed(task, "main", state)
        assert (state.phase, state.exit_code, state.failed_to_start) == (Phase.STOPPED, 127, True)
        assert state.reason is not None
        assert state.reason.startswith("CannotStartContainerError: ")
