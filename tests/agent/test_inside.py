"""``synod logs`` and ``synod exec`` on real tasks of both runtimes, as a person types them."""

from __future__ import annotations

import os
import pty
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from cluster import offers
from cluster.feed import ClusterFeed, follow
from cluster.ops import stop_task
from cluster.records import (
    ContainerDefinition,
    ContainerDependency,
    DependencyCondition,
    KeyValue,
    LinuxParameters,
    StopCode,
    TaskDefinition,
)
from cluster.state import ClusterState
from cluster.views import TaskView
from journal.client import Journal, connect
from schedulers.run_task import RunRequest, run_tasks
from synod.local import LocalCluster
from tests.dockerd import IMAGE, Dockerd

CLUSTER = "default"
DEADLINE_S = 120.0
RUNTIMES = pytest.mark.parametrize("runtime", ["process", "docker"])
_revisions = iter(range(1, 100))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, docker: Dockerd) -> Iterator[LocalCluster]:
    fast = ("--election-timeout-ms", "300", "--heartbeat-interval-ms", "50")
    pull = ("--pull", "prefer-cached")
    local = LocalCluster.create(tmp_path_factory.mktemp("inside"), nodes=1, node_args=fast, agent_args=pull)
    try:
        local.start()
        local.wait_ready(DEADLINE_S)
        local.start_agent(1)
        local.start_agent(2, docker_socket=str(docker.socket))
        local.wait_agents(DEADLINE_S)
        yield local
    finally:
        local.stop()


class Console:
    def __init__(self, journal: Journal, feed: ClusterFeed, cluster: LocalCluster) -> None:
        self.journal, self.feed, self.cluster = journal, feed, cluster

    async def run(self, runtime: str, *containers: ContainerDefinition) -> TaskView:
        """Run a task of these containers, and return it when it is running or has stopped."""
        definition = TaskDefinition(
            family="inside", revision=next(_revisions), cpu=100, memory=64, container_definitions=containers
        )
        await self.feed.reached(await self.journal.offer(offers.register_task_definition(definition)))
        request = RunRequest(definition=definition, attributes={"runtime": runtime})
        result = await run_tasks(self.journal, self.feed, request, rng=random.SystemRandom(), wall=time.time)
        assert result.placed, result
        return await self.until(result.placed[0].task, "RUNNING", "STOPPED")

    async def until(self, task: str, *statuses: str) -> TaskView:
        def there(state: ClusterState) -> bool:
            view = state.task(CLUSTER, task)
            return view is not None and view.last_status in statuses

        await self.feed.until(there)
        view = self.feed.state.task(CLUSTER, task)
        assert view is not None
        return view

    async def stop(self, view: TaskView) -> TaskView:
        view = self.feed.state.task(CLUSTER, view.id) or view
        await stop_task(self.journal, view, now=time.time())
        return await self.until(view.id, "STOPPED")

    def command(self, *words: str) -> list[str]:
        name, *rest = words
        patience = ("--timeout", "60")  # of a machine with much to do
        endpoints = ("--endpoints", ",".join(self.cluster.endpoints))
        return [sys.executable, "-m", "synod", name, *endpoints, *patience, *rest]

    async def synod(self, *words: str, given: bytes = b"") -> tuple[int, str, str]:
        """Return exit code and both outputs of a command."""
        done = await trio.run_process(
            self.command(*words), stdin=given, capture_stdout=True, capture_stderr=True, check=False
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@asynccontextmanager
async def console(cluster: LocalCluster) -> AsyncIterator[Console]:
    with trio.fail_after(2 * DEADLINE_S):
        async with connect(cluster.endpoints) as journal, follow(journal) as feed:
            yield Console(journal, feed, cluster)


def start(words: list[str], **streams: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(words, **streams)  # type: ignore[call-overload,no-any-return]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""  # nobody is at its other end any more


def container(name: str, script: str, **fields: object) -> ContainerDefinition:
    return ContainerDefinition(
        name=name,
        image=IMAGE,
        command=("sh", "-c", script),
        stop_timeout=5,
        linux_parameters=LinuxParameters(init_process_enabled=True),
        environment=(KeyValue(name="COLOUR", value="red"),),
        **fields,  # type: ignore[arg-type]
    )


@RUNTIMES
async def test_logs_and_commands(cluster: LocalCluster, runtime: str) -> None:
    async with console(cluster) as here:
        view = await here.run(runtime, container("main", "echo one; echo two; echo three; exec sleep 600"))
        short = view.id[:12]
        while not (await here.synod("logs", short))[1].endswith("three\n"):  # noqa: ASYNC110
            await trio.sleep(0.05)  # it runs, but has not written all of it yet
        code, out, err = await here.synod("logs", short, "--lines", "2")
        assert (code, out) == (0, "two\nthree\n"), err
        script = "echo $COLOUR $SYNOD_TASK; cat; echo oops >&2; exit 3"
        code, out, err = await here.synod("exec", short, "--", "sh", "-c", script, given=b"hello\n")
        assert (code, out, err) == (3, f"red {view.id}\nhello\n", "oops\n")
        code, out, err = await here.synod("exec", short, "--", "no-such-command")
        assert code in (126, 127)
        assert "no-such-command" in out + err
        assert "Traceback" not in out + err
        follower = start(here.command("logs", short, "--follow"), stdout=subprocess.PIPE)
        assert follower.stdout is not None
        said = await trio.to_thread.run_sync(follower.stdout.read, 14)
        await here.stop(view)
        rest, _ = await trio.to_thread.run_sync(follower.communicate)
        assert (said + rest, follower.returncode) == (b"one\ntwo\nthree\n", 0), "it ends when the task does"
        code, out, err = await here.synod("exec", short, "--", "true")
        assert code == 1
        assert "Traceback" not in err and "run" in err, err
        assert await here.synod("logs", short) == (0, "one\ntwo\nthree\n", "")


@RUNTIMES
async def test_a_command_may_have_a_terminal(cluster: LocalCluster, runtime: str) -> None:
    async with console(cluster) as here:
        view = await here.run(runtime, container("main", "exec sleep 600"))
        ours, theirs = pty.openpty()
        words = here.command(
            "exec", view.id, "--", "sh", "-c", "[ -t 0 ] && [ -t 1 ] && read x && echo got $x"
        )
        process = start(words, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, b"word\r" if runtime == "docker" else b"word\n")
        try:
            await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        finally:
            process.kill()
        said = b""
        while b"got" not in said and (data := _read(ours)):
            said += data
        os.close(ours)
        assert process.returncode == 0, said.decode()
        assert b"got word" in said
        await here.stop(view)


@RUNTIMES
async def test_several_containers_in_their_order(cluster: LocalCluster, runtime: str) -> None:
    async with console(cluster) as here:
        success, start = (
            (ContainerDependency(container_name=name, condition=condition),)
            for name, condition in (("init", DependencyCondition.SUCCESS), ("app", DependencyCondition.START))
        )
        stops = "trap 'echo {0} stops; exit 0' TERM; echo {0} runs; while :; do sleep 0.1; done"
        view = await here.run(
            runtime,
            container("init", "echo init; exit 0", essential=False),
            container("app", stops.format("app"), depends_on=success),
            container("proxy", stops.format("proxy"), depends_on=start),
        )
        assert view.status is not None and view.last_status == "RUNNING", view.status
        by_name = {c.name: c for c in view.status.containers}
        assert (by_name["init"].last_status, by_name["init"].exit_code) == ("STOPPED", 0)
        code, _, err = await here.synod("exec", view.id, "--", "true")
        assert code == 1 and "--container: init, app, proxy" in err
        assert (await here.synod("exec", view.id, "--container", "app", "--", "true"))[0] == 0
        for name in ("app", "proxy"):
            while "runs" not in (await here.synod("logs", view.id, "--container", name))[1]:  # noqa: ASYNC110
                await trio.sleep(0.05)
        after = await here.stop(view)
        assert after.status is not None
        assert [c.exit_code for c in after.status.containers] == [0, 0, 0]
        code, said, _ = await here.synod("logs", view.id, "--container", "app")
        assert code == 0 and said.startswith("app runs\n") and said.endswith("app stops\n"), said


@RUNTIMES
async def test_a_dependency_that_fails_ends_the_task(cluster: LocalCluster, runtime: str) -> None:
    async with console(cluster) as here:
        success = (ContainerDependency(container_name="init", condition=DependencyCondition.SUCCESS),)
        view = await here.run(
            runtime,
            container("init", "exit 7", essential=False),
            container("app", "echo ran", depends_on=success),
        )
        assert view.status is not None and view.last_status == "STOPPED"
        assert view.status.stop_code is StopCode.TASK_FAILED_TO_START
        assert view.status.stopped_reason == (
            "CannotStartContainerError: container app depends on init SUCCESS, which exited with code 7"
        )
        assert (await here.synod("logs", view.id))[1] == ""


async def test_down_stops_containers_and_up_reports_them(cluster: LocalCluster, docker: Dockerd) -> None:
    async with console(cluster) as here:
        view = await here.run("docker", container("main", "exec sleep 600"))
        await trio.to_thread.run_sync(lambda: cluster.stop(only=["agent-2"]))
        await trio.to_thread.run_sync(cluster.start_agent, 2)
        after = await here.until(view.id, "STOPPED")
        assert after.status is not None and after.status.exit_code == 143
        assert after.status.stopped_reason == "Essential container in task exited"
