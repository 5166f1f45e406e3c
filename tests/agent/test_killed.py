"""SIGKILL to a real agent at every step of starting, stopping and forgetting a task; both runtimes.

Each life of the agent ends at the next step; the life after it takes up what was left, and is given
more to do. In the end no container ran twice, none is left over, every claim was released once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agent.docker_api import DockerApi
from agent.folder import read_identity
from agent.process import ProcessRuntime
from cluster import offers
from cluster.feed import ClusterFeed, follow
from cluster.ops import stop_task
from cluster.records import (
    ContainerDefinition,
    HostVolume,
    LinuxParameters,
    MountPoint,
    TaskDefinition,
    Volume,
    resources,
)
from cluster.state import ClusterState
from journal.client import Journal, connect
from schedulers.run_task import RunRequest, run_tasks
from synod.local import LocalCluster
from tests.dockerd import IMAGE, Dockerd

CLUSTER = "default"
DEADLINE_S = 60.0
ROUNDS_MAX = 4
"""How many tasks a life may see before its step must have come."""

Step = tuple[str, str, int]
BOTH: list[Step] = [
    (name, when, nth) for name in ("write", "report") for when in ("before", "after") for nth in (1, 2)
]
STEPS: dict[str, list[Step]] = {
    "process": [*BOTH, *((n, w, 1) for n in ("spec", "spawn", "signal") for w in ("before", "after"))],
    "docker": [*BOTH, *((n, w, 1) for n in ("create", "note", "start", "kill") for w in ("before", "after"))],
}
FORGETTING: dict[str, list[Step]] = {
    "process": [(n, w, 1) for n in ("forget", "remove") for w in ("before", "after")],
    "docker": [(n, w, 1) for n in ("forget", "discard", "remove") for w in ("before", "after")],
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    fast = ("--election-timeout-ms", "300", "--heartbeat-interval-ms", "50")
    local = LocalCluster.create(tmp_path_factory.mktemp("killed"), nodes=1, node_args=fast)
    try:
        local.start()
        local.wait_ready(DEADLINE_S)
        yield local
    finally:
        local.stop()


class Story:
    """One agent's folder, and the tasks that it is given through its lives."""

    def __init__(
        self, journal: Journal, feed: ClusterFeed, cluster: LocalCluster, folder: Path, told: dict[str, str]
    ) -> None:
        self.journal, self.feed, self.cluster = journal, feed, cluster
        self.folder = folder
        self.told = told
        self.definition: TaskDefinition
        self.tasks: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self, step: Step | None, keep_s: float = 3600.0) -> None:
        """Start the agent's next life."""
        facts = {**self.told, "step": step, "endpoints": self.cluster.endpoints, "keep_s": keep_s}
        with (self.folder.parent / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.agent.mortal", json.dumps(facts)], stdout=log, stderr=log
            )

    async def until_ended(self) -> None:
        assert self.process is not None
        with trio.fail_after(DEADLINE_S):
            await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)
        assert self.process.returncode == -signal.SIGKILL, (self.folder.parent / "agent.log").read_text()[
            -3000:
        ]

    async def place(self) -> str:
        with trio.fail_after(DEADLINE_S):
            while True:
                request = RunRequest(definition=self.definition, attributes={"runtime": self.told["runtime"]})
                result = await run_tasks(
                    self.journal, self.feed, request, rng=random.Random(len(self.tasks)), wall=time.time
                )
                if result.placed:
                    self.tasks.append(result.placed[0].task)
                    return self.tasks[-1]
                await self.feed.step()  # its agent is not there yet

    async def stop(self, task: str) -> None:
        view = self.feed.state.task(CLUSTER, task)
        assert view is not None
        await stop_task(self.journal, view, now=time.time())

    def status(self, task: str) -> str:
        view = self.feed.state.task(CLUSTER, task)
        return view.last_status if view is not None else "FORGOTTEN"

    async def until(self, **statuses: str) -> None:
        """Wait until tasks have reached statuses."""

        def there(_: ClusterState) -> bool:
            return all(self.status(task) == status for task, status in statuses.items())

        with trio.fail_after(DEADLINE_S):
            await self.feed.until(there)

    async def live(self, step: Step) -> None:
        """Give the agent a task to start and one to stop, again and again, until it has died of its step."""
        self.begin(step)
        async with trio.open_nursery() as nursery:

            async def keep_busy() -> None:
                for _ in range(ROUNDS_MAX):
                    before = self.tasks[-1] if self.tasks else None
                    task = await self.place()
                    await self.until(**{task: "RUNNING"})
                    if before is not None:
                        await self.stop(before)
                        await self.until(**{before: "STOPPED"})

            nursery.start_soon(keep_busy)
            await self.until_ended()
            nursery.cancel_scope.cancel()
        # What the agent did not hear of in this life, it hears in the next.
        for task in self.tasks[:-1]:
            view = self.feed.state.task(CLUSTER, task)
            if view is not None and view.task.stopping_at is None and not view.stopped:
                await self.stop(task)

    def runs(self, task: str) -> int:
        """How often a task's command was executed."""
        file = self.folder.parent / "runs" / task
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize("runtime", ["process", "docker"])
async def test_a_kill_at_any_step_loses_and_doubles_nothing(
    cluster: LocalCluster, docker: Dockerd, tmp_path: Path, runtime: str
) -> None:
    (tmp_path / "runs").mkdir()
    folder = tmp_path / "agent"
    told = {"folder": str(folder), "runtime": runtime, "socket": str(docker.socket)}
    async with connect(cluster.endpoints) as journal, follow(journal) as feed:
        story = Story(journal, feed, cluster, folder, told)
        story.definition = await define(journal, feed, tmp_path / "runs", runtime)
        try:
            for step in STEPS[runtime]:
                await story.live(step)
            story.begin(None)
            last = story.tasks[-1]
            await story.until(**{last: "RUNNING"}, **dict.fromkeys(story.tasks[:-1], "STOPPED"))
            with trio.fail_after(DEADLINE_S):
                while not story.runs(last):  # noqa: ASYNC110  (it runs, but its shell may not have written yet)
                    await trio.sleep(0.02)
            assert story.runs(last) == 1
            for task in story.tasks[:-1]:
                view = feed.state.task(CLUSTER, task)
                assert view is not None and view.status is not None
                assert story.runs(task) <= 1, "no command is executed twice"
                was_there = view.status.started_at is not None
                assert story.runs(task) <= was_there, view.status
                assert view.status.exit_code == (128 + signal.SIGTERM if was_there else None), view.status
                assert view.status.stopped_reason == "Task stopped by user"
            await story.stop(last)
            await story.until(**{last: "STOPPED"})
            assert is_all_free(feed.state, runtime)
            await forgetting(story, runtime)
            assert await left_over(docker, folder, runtime) == []
        finally:
            assert story.process is not None
            story.process.kill()
            story.process.wait()
            processes = ProcessRuntime(folder)
            for task in story.tasks:
                await processes.signal(task, "main", kill=True)


async def forgetting(story: Story, runtime: str) -> None:
    """The same for what comes long after a task has stopped."""
    assert story.process is not None
    story.process.terminate()
    await trio.to_thread.run_sync(story.process.wait)
    for step in FORGETTING[runtime]:
        story.begin(step, keep_s=0.0)
        await story.until_ended()
    story.begin(None, keep_s=0.0)
    await story.until(**dict.fromkeys(story.tasks, "FORGOTTEN"))
    with trio.fail_after(DEADLINE_S):
        while any((story.folder / "tasks").iterdir()):  # noqa: ASYNC110
            await trio.sleep(0.02)


async def define(journal: Journal, feed: ClusterFeed, runs: Path, runtime: str) -> TaskDefinition:
    script = f"echo run >> {runs}/$SYNOD_TASK; exec sleep 600"
    container = ContainerDefinition(
        name="main",
        image=IMAGE,
        command=("sh", "-c", script),
        stop_timeout=30,
        linux_parameters=LinuxParameters(init_process_enabled=True),
        mount_points=(MountPoint(source_volume="runs", container_path=str(runs)),),
    )
    definition = TaskDefinition(
        family=f"killed-{runtime}",
        revision=1,
        cpu=100,
        memory=32,
        container_definitions=(container,),
        volumes=(Volume(name="runs", host=HostVolume(source_path=str(runs))),),
    )
    await feed.reached(await journal.offer(offers.register_task_definition(definition)))
    return definition


def is_all_free(state: ClusterState, runtime: str) -> bool:
    (view,) = [
        view
        for view in state.instances(CLUSTER)
        if view.registration is not None and view.registration.record.attribute("runtime") == runtime
    ]
    whole = {each.name: each.integer_value for each in resources(100_000, 100_000)}
    assert view.capacity is not None
    return (view.capacity.record.cpu, view.capacity.record.memory) == (whole["CPU"], whole["MEMORY"])


async def left_over(docker: Dockerd, folder: Path, runtime: str) -> list[str]:
    """Return what is left on the machine of an agent that has forgotten all."""
    identity = read_identity(folder)
    assert identity is not None
    found = _groups_and_processes(folder, identity.instance)
    if runtime == "docker":
        api = DockerApi(docker.socket)
        found += [each["Id"] for each in await api.containers([f"io.synod.instance={identity.instance}"])]
        await api.aclose()
    return found


def _groups_and_processes(folder: Path, instance: str) -> list[str]:
    groups = Path("/sys/fs/cgroup").glob(f"*/synod/{instance}/*")
    found = [str(path) for path in groups if path.is_dir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in command and b"supervisor.py" in command:
            found.append(command.decode())
    return found
