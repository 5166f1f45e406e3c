"""The agent as a program: a real node, real processes, real signals."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
import trio

from agent.folder import AgentFolder, FolderError
from agent.main import AgentOptions, registration_of, run
from agent.places import TaskElsewhere, find_place
from agent.supervisor import start_time
from cluster.feed import ClusterFeed, follow
from cluster.ops import ClusterError, find_task, stop_task
from cluster.state import ClusterState, TaskView
from journal.client import Journal, connect
from schedulers.run_task import RunResult, run_command
from synod.local import LocalCluster

CLUSTER = "default"
DEADLINE_S = 40.0
FAST = ("--election-timeout-ms", "300", "--heartbeat-interval-ms", "50")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    local = LocalCluster.create(tmp_path_factory.mktemp("agent"), nodes=1, node_args=FAST)
    try:
        local.start()
        local.wait_ready(DEADLINE_S)
        local.start_agent(1, cpu=1000, memory=1000)
        local.wait_agents(DEADLINE_S)
        yield local
    finally:
        local.stop()


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """``run`` sets the process's logs up, towards a stream that is this test's own."""
    yield
    structlog.reset_defaults()


class Console:
    def __init__(self, journal: Journal, feed: ClusterFeed) -> None:
        self.journal, self.feed = journal, feed

    async def run(self, *command: str, count: int = 1) -> RunResult:
        return await run_command(
            self.journal,
            self.feed,
            command,
            cpu=100,
            memory=100,
            count=count,
            rng=random.Random(),
            wall=time.time,
            stop_timeout_s=2,
        )

    async def task(self, *command: str) -> str:
        result = await self.run(*command)
        assert not result.failures, result
        return result.placed[0].task

    async def until(self, condition: Callable[[ClusterState], object]) -> None:
        with trio.fail_after(DEADLINE_S):
            await self.feed.until(lambda state: bool(condition(state)))

    async def until_status(self, task: str, status: str) -> TaskView:
        await self.until(lambda state: find_task(state, CLUSTER, task).last_status == status)
        return find_task(self.feed.state, CLUSTER, task)

    def left(self) -> tuple[int, int]:
        (view,) = self.feed.state.instances(CLUSTER)
        assert view.capacity is not None
        return view.capacity.record.cpu, view.capacity.record.memory


@asynccontextmanager
async def console(cluster: LocalCluster) -> AsyncIterator[Console]:
    with trio.fail_after(4 * DEADLINE_S):
        async with connect(cluster.endpoints) as journal, follow(journal) as feed:
            yield Console(journal, feed)


def pid_of(view: TaskView) -> int:
    assert view.status is not None and view.status.containers[0].runtime_id is not None
    return int(view.status.containers[0].runtime_id)


async def restart_agent(cluster: LocalCluster) -> None:
    await trio.to_thread.run_sync(cluster.start_agent, 1)
    await trio.to_thread.run_sync(cluster.wait_agents, DEADLINE_S)


async def test_tasks_outlive_a_killed_agent_and_nothing_is_lost(cluster: LocalCluster) -> None:
    async with console(cluster) as here:
        goes_on = await here.task("sh", "-c", "echo started; exec sleep 600")
        ends = await here.task("sh", "-c", "while [ ! -e ../go ]; do sleep 0.05; done; exit 42")
        pid = pid_of(await here.until_status(goes_on, "RUNNING"))
        await here.until_status(ends, "RUNNING")
        cluster.kill_agent(1, signal.SIGKILL)
        go = cluster.agent_folder(1) / "tasks" / ends / "main" / "go"
        go.touch()
        exit_file = go.with_name("exit.json")
        with trio.fail_after(DEADLINE_S):
            while not exit_file.exists():  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert start_time(pid) is not None
        await restart_agent(cluster)
        view = await here.until_status(ends, "STOPPED")
        assert view.status is not None and view.status.exit_code == 42
        assert start_time(pid) is not None, "the other one was not touched"
        assert pid_of(await here.until_status(goes_on, "RUNNING")) == pid
        await stop_task(here.journal, find_task(here.feed.state, CLUSTER, goes_on), now=time.time())
        view = await here.until_status(goes_on, "STOPPED")
        assert view.status is not None and view.status.exit_code == 128 + signal.SIGTERM
        assert start_time(pid) is None
        assert here.left() == (1000, 1000)


async def test_tasks_outlive_sigterm_to_the_agent_and_the_journal_being_killed(
    cluster: LocalCluster,
) -> None:
    async with console(cluster) as here:
        task = await here.task("sleep", "600")
        pid = pid_of(await here.until_status(task, "RUNNING"))
        cluster.kill_agent(1, signal.SIGTERM)
        await here.until(lambda state: not state.instances(CLUSTER)[0].connected)
        refused = await here.run("true")
        assert refused.failures[0].code == "AGENT"
        cluster.kill_node(1, signal.SIGKILL)
        await trio.to_thread.run_sync(cluster.start_agent, 1)  # with no journal to talk to
        assert start_time(pid) is not None
        await trio.to_thread.run_sync(cluster.start_node, 1)
        await trio.to_thread.run_sync(cluster.wait_agents, DEADLINE_S)
        assert start_time(pid) is not None
        await stop_task(here.journal, find_task(here.feed.state, CLUSTER, task), now=time.time())
        await here.until_status(task, "STOPPED")
        assert start_time(pid) is None
        assert here.left() == (1000, 1000)


async def test_what_ignores_sigterm_gets_sigkill_after_its_stop_timeout(cluster: LocalCluster) -> None:
    async with console(cluster) as here:
        task = await here.task("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.2; done")
        view = await here.until_status(task, "RUNNING")
        with trio.fail_after(DEADLINE_S):
            while not any("ready" in p.read_text() for p in find_place(here.feed.state, view).log_files()):  # noqa: ASYNC110
                await trio.sleep(0.02)
        await stop_task(here.journal, view, now=time.time(), reason="enough")
        view = await here.until_status(task, "STOPPED")
        assert view.status is not None
        assert (view.status.exit_code, view.status.stopped_reason) == (128 + signal.SIGKILL, "enough")
        assert view.status.stopped_at is not None and view.task.stopping_at is not None
        assert view.status.stopped_at - view.task.stopping_at >= 1.9


async def test_logs_are_found_on_this_machine_and_told_of_on_another(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with console(cluster) as here:
        task = await here.task("sh", "-c", "echo one; echo two >&2")
        view = await here.until_status(task, "STOPPED")
        paths = find_place(here.feed.state, view).log_files()
        assert "".join(path.read_text() for path in paths) == "one\ntwo\n"
        with pytest.raises(ClusterError, match="has no container other, but main"):
            find_place(here.feed.state, view, "other")
        monkeypatch.setattr("agent.places.socket.gethostname", lambda: "elsewhere")
        with pytest.raises(TaskElsewhere, match=f"task {view.id} is on "):
            find_place(here.feed.state, view)


def agent_process(cluster: LocalCluster, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    endpoints = ",".join(cluster.endpoints)
    return subprocess.run(
        [sys.executable, "-m", "synod", "agent", "--endpoints", endpoints, "--dir", str(folder), *more],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


def test_a_second_agent_on_a_folder_is_refused_in_one_line(cluster: LocalCluster) -> None:
    done = agent_process(cluster, cluster.agent_folder(1))
    assert done.returncode == 1
    assert "is in use by another agent (pid " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_another_cluster_is_refused_in_one_line(cluster: LocalCluster, tmp_path: Path) -> None:
    AgentFolder.open(tmp_path / "a", "other", "i").close()
    done = agent_process(cluster, tmp_path / "a")
    assert done.returncode == 1
    assert "belongs to cluster other, not to default" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_another_journal_is_refused_in_one_line(cluster: LocalCluster, tmp_path: Path) -> None:
    folder = AgentFolder.open(tmp_path / "a", CLUSTER, "i")
    folder.update(journal="another-journal")
    folder.close()
    done = agent_process(cluster, tmp_path / "a")
    assert done.returncode == 1
    assert "another-journal" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"endpoints": ()}, "endpoints must name at least one node"),
        ({"cpu": 0}, "cpu must be positive, not 0"),
        ({"memory": -1}, "memory must be positive"),
        ({"cluster": "a/b"}, "cluster 'a/b' is not"),
        ({"lease_ttl_s": 0.0}, "lease_ttl_s must be positive"),
        ({"keep_stopped_s": -1.0}, "keep_stopped_s must not be negative"),
        ({"attributes": {"": "x"}}, "an attribute needs a name"),
    ],
)
def test_options_are_checked(fields: dict[str, object], why: str, tmp_path: Path) -> None:
    options = AgentOptions(**{"endpoints": ("127.0.0.1:1",), "folder": tmp_path / "a", **fields})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=why):
        options.validate()
    assert run(options) == 1
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    options = AgentOptions(endpoints=("127.0.0.1:1",), folder=tmp_path / "file")
    assert run(options) == 1
    assert "cannot be used: File exists" in capfd.readouterr().err


def test_a_damaged_folder_says_so(tmp_path: Path) -> None:
    AgentFolder.open(tmp_path, CLUSTER, "i").close()
    (tmp_path / "tasks" / "t").mkdir()
    (tmp_path / "tasks" / "t" / "task.json").write_text("{}")
    folder = AgentFolder.open(tmp_path, CLUSTER, "i")
    with pytest.raises(FolderError, match=r"task\.json is damaged"):
        folder.tasks()
    folder.close()
    (tmp_path / "agent.json").write_text('{"format": 2}')
    with pytest.raises(FolderError, match="has format 2, this agent knows 1"):
        AgentFolder.open(tmp_path, CLUSTER, "i")
    (tmp_path / "agent.json").write_text("")
    with pytest.raises(FolderError, match="cannot be read"):
        AgentFolder.open(tmp_path, CLUSTER, "i")
    (tmp_path / "agent.json").unlink()
    with pytest.raises(FolderError, match=r"holds tasks and no agent\.json"):
        AgentFolder.open(tmp_path, CLUSTER, "i")


def test_what_an_agent_offers_is_registered(tmp_path: Path) -> None:
    options = AgentOptions(
        endpoints=("127.0.0.1:1",),
        folder=tmp_path,
        cpu=100,
        memory=200,
        resources={"GPU": 2},
        reserved_ports=(22, 80),
        attributes={"rack": "a"},
    )
    options.validate()
    registration = registration_of(options)
    assert (registration.cpu, registration.memory, registration.named) == (100, 200, {"GPU": 2})
    assert (registration.ports, registration.attribute("rack")) == ((22, 80), "a")
    with pytest.raises(ValueError, match="its own option"):
        replace(options, resources={"CPU": 1}).validate()
