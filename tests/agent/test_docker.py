"""Containers at a real Docker engine: what of a definition reaches them, and what is told of them."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from agent import docker_api, docker_spec
from agent.cgroups import Cgroups, remove_group
from agent.docker import DockerRuntime, Pull
from agent.docker_api import DockerApi, Output
from agent.docker_credentials import read_credentials
from agent.docker_spec import Image, Unfit
from agent.model import ContainerState, LocalTask, Phase
from cluster.records import (
    ContainerDefinition,
    DockerVolume,
    HealthCheck,
    HealthStatus,
    HostVolume,
    KeyValue,
    LinuxParameters,
    LogConfiguration,
    MountPoint,
    NetworkMode,
    PortMapping,
    Secret,
    Ulimit,
    Volume,
)
from journal.logs import get_logger
from tests.agent.test_process import local_task
from tests.dockerd import IMAGE, Dockerd
from tests.registry import Registry, registry

DEADLINE_S = 60.0
INIT = LinuxParameters(init_process_enabled=True)
_ids = (f"d{number}" for number in itertools.count())


class Host:
    """One agent's folder and engine; ``agent()`` is a runtime that knows nothing but these."""

    def __init__(self, folder: Path, api: DockerApi) -> None:
        self.folder = folder
        self.api = api
        self.tasks: list[LocalTask] = []

    def agent(self, pull: Pull = Pull.PREFER_CACHED, **options: Any) -> DockerRuntime:
        return DockerRuntime(
            self.api, self.folder, "i-docker", wall=time.time, log=get_logger(), pull=pull, **options
        )

    def task(self, *command: str, **fields: Any) -> LocalTask:
        given = {"image": IMAGE, "linux_parameters": INIT, **fields}
        self.tasks.append(local_task(*command, task=next(_ids), **given))
        return self.tasks[-1]

    async def logs(self, local: LocalTask) -> str:
        outputs: list[Output] = []
        await self.api.logs(docker_spec.container_name(local.id, "main"), outputs.append, follow=False)
        return b"".join(output.data for output in outputs).decode()

    async def found(self, local: LocalTask) -> dict[str, Any]:
        found = await self.api.inspect(docker_spec.container_name(local.id, "main"))
        assert found is not None
        return found


@asynccontextmanager
async def host(docker: Dockerd, folder: Path) -> AsyncIterator[Host]:
    api = DockerApi(docker.socket)
    try:
        with trio.fail_after(DEADLINE_S):
            made = Host(folder, api)
            yield made
            for local in made.tasks:
                for container in local.containers:
                    await api.remove(docker_spec.container_name(local.id, container.name), force=True)
                for volume in docker_spec.own_volumes(local):
                    await api.remove_volume(volume)
    finally:
        await api.aclose()


async def started(runtime: DockerRuntime, local: LocalTask) -> ContainerState:
    await runtime.start(local, "main")
    return await runtime.inspect(local.id, "main")


async def ended(runtime: DockerRuntime, local: LocalTask) -> ContainerState:
    """Wait for a container's end with nothing but the engine's events."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runtime.run)
        state = await runtime.inspect(local.id, "main")
        while state.phase is Phase.RUNNING:
            state = await runtime.changed(local.id, "main", state)
        nursery.cancel_scope.cancel()
    return state


def of_task(local: LocalTask, **fields: Any) -> LocalTask:
    return replace(local, definition=replace(local.definition, **fields))


# -- what reaches a container ---------------------------------------------------------------


async def test_a_definition_reaches_its_container(docker: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    async with host(docker, tmp_path) as here:
        script = (
            "echo $COLOUR $SYNOD_CONTAINER; pwd; id -u; ulimit -n; cat /host/greeting; touch /host/mine;"
            " touch /scratch/x && echo scratch; touch /x || echo readonly; hostname"
        )
        local = here.task(
            "-c",
            script,
            entry_point=("sh",),
            environment=(KeyValue(name="COLOUR", value="red"),),
            working_directory="/tmp",
            user="nobody",
            ulimits=(Ulimit(name="nofile", soft_limit=77, hard_limit=88),),
            readonly_root_filesystem=True,
            hostname="box",
            mount_points=(
                MountPoint(source_volume="host", container_path="/host"),
                MountPoint(source_volume="scratch", container_path="/scratch"),
            ),
            docker_labels={"team": "red"},
            log_configuration=LogConfiguration(log_driver="json-file", options={"max-size": "1m"}),
            memory=64,
            memory_reservation=32,
            cpu=256,
        )
        (tmp_path / "shared" / "greeting").write_text("hello\n")
        (tmp_path / "shared").chmod(0o777)
        local = of_task(
            local,
            volumes=(
                Volume(name="host", host=HostVolume(source_path=str(tmp_path / "shared"))),
                Volume(name="scratch", docker_volume_configuration=DockerVolume(labels={"a": "b"})),
            ),
        )
        local = replace(
            local,
            definition=replace(
                local.definition,
                container_definitions=(replace(local.container("main"), user="0"),),
            ),
        )
        runtime = here.agent()
        await started(runtime, local)
        state = await ended(runtime, local)
        assert (state.phase, state.exit_code, state.reason) == (Phase.STOPPED, 0, None)
        said = await here.logs(local)
        assert [line for line in said.splitlines() if "touch:" not in line] == [
            *("red main", "/tmp", "0", "77", "hello", "scratch", "readonly", "box"),
        ]
        assert (tmp_path / "shared" / "mine").exists()
        found = await here.found(local)
        limits = found["HostConfig"]
        assert (limits["Memory"], limits["MemoryReservation"]) == (64 << 20, 32 << 20)
        assert limits["CpuShares"] == 256
        assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m"}}
        labels = found["Config"]["Labels"]
        assert (labels["team"], labels[docker_spec.TASK]) == ("red", local.id)
        volume = await here.api.volume(docker_spec.volume_name(local.id, "scratch"))
        assert volume is not None and volume["Labels"]["a"] == "b"
        await runtime.remove(local)
        await runtime.remove(local)
        assert await here.api.volume(docker_spec.volume_name(local.id, "scratch")) is None
        assert await here.api.inspect(found["Id"]) is None


async def test_ports_are_published_and_told(docker: Dockerd, tmp_path: Path) -> None:
    async with host(docker, tmp_path) as here:
        local = here.task(
            *("sh", "-c", "while true; do echo served | nc -l -p 80; done"),
            port_mappings=(PortMapping(container_port=80),),
        )
        state = await started(here.agent(), local)
        (binding,) = state.network_bindings
        assert (binding.container_port, binding.bind_ip) == (80, "0.0.0.0")
        assert binding.host_port
        said = b""
        while not said:  # until nc listens
            try:
                async with await trio.open_tcp_stream("127.0.0.1", binding.host_port) as stream:
                    said = await stream.receive_some(100)
            except OSError:
                await trio.sleep(0.02)
        assert said == b"served\n"
        taken = here.task(
            "true", port_mappings=(PortMapping(container_port=80, host_port=binding.host_port),)
        )
        state = await started(here.agent(), taken)
        assert state.failed_to_start and state.reason is not None
        assert state.reason.startswith("CannotStartContainerError: Error response from daemon: ")


async def test_a_tasks_limits_are_its_group_s(docker: Dockerd, tmp_path: Path) -> None:
    groups = Cgroups.find("i-docker", parent="synod-test-docker")
    assert isinstance(groups, Cgroups)
    async with host(docker, tmp_path) as here:
        local = of_task(here.task("sh", "-c", "tail /dev/zero"), memory=24, cpu=512)
        runtime = here.agent(cgroups=groups)
        await started(runtime, local)
        state = await ended(runtime, local)
        assert (state.exit_code, state.reason) == (
            137,
            "OutOfMemoryError: Container killed due to memory usage",
        )
        group = groups._roots["memory"] / groups.base / local.id
        assert (group / "memory.limit_in_bytes").read_text() == f"{24 << 20}\n"
        await runtime.remove(local)
        assert not group.exists()
    for root in (*groups._roots.values(), *groups._others):
        remove_group(root / groups.base)
        remove_group(root / "synod-test-docker")


async def test_without_groups_a_tasks_limits_are_its_containers(docker: Dockerd, tmp_path: Path) -> None:
    async with host(docker, tmp_path) as here:
        local = of_task(here.task("sh", "-c", "tail /dev/zero"), memory=16, cpu=512)
        runtime = here.agent()
        await started(runtime, local)
        state = await ended(runtime, local)
        assert state.reason == "OutOfMemoryError: Container killed due to memory usage"
        assert (await here.found(local))["HostConfig"]["CpuQuota"] == 50_000


# -- what is told of a container ----------------------------------------------------------------


async def test_health_is_told_by_events(
    docker: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A definition's checks are 5 s apart at least; a test does not wait.
    quick = {"Interval": 300_000_000, "Timeout": 5_000_000_000, "Retries": 1, "StartPeriod": 0}
    monkeypatch.setattr(docker_spec, "health_config", lambda check: {"Test": list(check.command), **quick})
    async with host(docker, tmp_path) as here:
        check = HealthCheck(command=("CMD-SHELL", "[ -e /well ]"))
        local = here.task("sleep", "600", health_check=check)
        runtime = here.agent()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.run)
            state = await started(runtime, local)
            while state.health is HealthStatus.UNKNOWN:
                state = await runtime.changed(local.id, "main", state)
            assert state.health is HealthStatus.UNHEALTHY
            exec_id = await here.api.exec_create(str(state.runtime_id), {"Cmd": ["touch", "/well"]})
            await here.api.exec_run(exec_id)
            state = await runtime.changed(local.id, "main", state)
            assert (state.phase, state.health) == (Phase.RUNNING, HealthStatus.HEALTHY)
            nursery.cancel_scope.cancel()


async def test_what_somebody_removed_has_vanished_and_is_not_made_again(
    docker: Dockerd, tmp_path: Path
) -> None:
    async with host(docker, tmp_path) as here:
        local = here.task("sleep", "600")
        runtime = here.agent()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.run)
            known = await started(runtime, local)
            await here.api.remove(str(known.runtime_id), force=True)
            state = await runtime.changed(local.id, "main", known)
            while state.phase is Phase.RUNNING or state.exit_code is not None:  # killed first, then gone
                await trio.sleep(0.01)
                state = await runtime.inspect(local.id, "main")
            nursery.cancel_scope.cancel()
        assert state.phase is Phase.STOPPED
        assert state.reason == "ContainerVanishedError: the Docker engine does not have it any more"
        assert state.stopped_at is not None
        await runtime.start(local, "main")
        assert await here.agent().inspect(local.id, "main") == state


async def test_a_stop_is_the_image_s_own_signal(docker: Dockerd, tmp_path: Path) -> None:
    async with host(docker, tmp_path) as here:
        local = here.task("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
        runtime = here.agent()
        await started(runtime, local)
        while "ready" not in await here.logs(local):  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert await runtime.signal(local.id, "main", kill=False)
        assert (await ended(runtime, local)).exit_code == 3


async def test_containers_outlive_their_engine_and_nothing_is_taken_for_stopped(
    docker: Dockerd, tmp_path: Path
) -> None:
    async with host(docker, tmp_path) as here:
        goes_on, ends = here.task("sleep", "600"), here.task("sh", "-c", "read x < /gate; exit 5")
        runtime = here.agent()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.run)
            known = await started(runtime, goes_on)
            await started(runtime, ends)
            await trio.to_thread.run_sync(docker.stop)
            with pytest.raises(OSError, match="cannot be reached"):
                await runtime.inspect(goes_on.id, "main")
            with pytest.raises(OSError, match="cannot be reached"):
                await runtime.signal(goes_on.id, "main", kill=False)
            with trio.move_on_after(0.2) as waited:
                await runtime.changed(goes_on.id, "main", known)
            assert waited.cancelled_caught, "away is not stopped"
            await trio.to_thread.run_sync(docker.start)
            assert await runtime.inspect(goes_on.id, "main") == known
            assert await runtime.signal(goes_on.id, "main", kill=True)
            state = await runtime.changed(goes_on.id, "main", known)
            assert (state.phase, state.exit_code) == (Phase.STOPPED, 137), "its events are heard again"
            nursery.cancel_scope.cancel()


# -- what does not start --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"image": ""}, "CannotCreateContainerError: the definition has no image"),
        ({"image": ":1"}, "CannotCreateContainerError: image ':1' has no name"),
        (
            {"secrets": (Secret(name="a", value_from="b"),)},
            "CannotCreateContainerError: secrets and environmentFiles are not supported",
        ),
        (
            {"docker_security_options": ("nonsense",)},
            "CannotCreateContainerError: Error response from daemon: invalid --security-opt",
        ),
        (
            {"command": ("no-such-command",), "linux_parameters": None},
            "CannotStartContainerError: Error response from daemon: ",
        ),
    ],
)
async def test_what_does_not_start_says_why(
    docker: Dockerd, tmp_path: Path, fields: dict[str, Any], why: str
) -> None:
    async with host(docker, tmp_path) as here:
        local = here.task("true")
        changed = replace(local.container("main"), **fields)
        local = of_task(local, container_definitions=(changed,))
        state = await started(here.agent(), local)
        assert (state.phase, state.failed_to_start) == (Phase.STOPPED, True)
        assert state.reason is not None and state.reason.startswith(why)
        await here.agent().start(local, "main")
        assert await here.agent().inspect(local.id, "main") == state, "it is tried once"


async def test_what_takes_too_long_is_thrown_away_before_it_counts_as_failed(
    docker: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_api, "START_S_MAX", 0.0001)
    async with host(docker, tmp_path) as here:
        local = here.task("sleep", "600")
        state = await started(here.agent(), local)
        assert (
            state.reason == "DockerTimeoutError: Could not transition to running; timed out after waiting 0s"
        )
        assert await here.api.containers([f"{docker_spec.TASK}={local.id}"]) == []


# -- pulls --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> Iterator[Registry]:
    with registry() as made:
        yield made


PULLS = [
    # behaviour, is it there, is the registry there: does it run, and how often was it pulled in two starts
    (Pull.DEFAULT, False, True, True, 2),
    (Pull.DEFAULT, True, False, True, 0),
    (Pull.DEFAULT, False, False, False, 0),
    (Pull.ALWAYS, True, True, True, 2),
    (Pull.ALWAYS, True, False, False, 0),
    (Pull.ONCE, False, True, True, 1),
    (Pull.ONCE, True, True, True, 1),
    (Pull.PREFER_CACHED, False, True, True, 1),
    (Pull.PREFER_CACHED, True, False, True, 0),
]


@pytest.mark.parametrize(("pull", "is_there", "is_up", "runs", "pulls"), PULLS)
async def test_when_an_image_is_pulled(
    docker: Dockerd,
    images: Registry,
    tmp_path: Path,
    pull: Pull,
    is_there: bool,
    is_up: bool,
    runs: bool,
    pulls: int,
) -> None:
    async with host(docker, tmp_path) as here:
        image = images.image(f"{pull}-{is_there}-{is_up}".lower())
        if is_there:
            await here.api.pull(image.removesuffix(":1"), "1")
        images.pulls, images.is_down = 0, not is_up
        try:
            for _ in range(2):
                runtime = here.agent(pull)  # each start under an agent of its own
                state = await started(runtime, here.task("true", image=image))
                if runs:
                    assert not state.failed_to_start, state
                else:
                    assert state.reason is not None
                    assert state.reason.startswith("CannotPullContainerError: Error response from daemon: ")
            assert images.pulls == pulls
        finally:
            images.is_down = False


async def test_an_image_that_is_nowhere_says_so(docker: Dockerd, images: Registry, tmp_path: Path) -> None:
    async with host(docker, tmp_path) as here:
        state = await started(here.agent(Pull.DEFAULT), here.task("true", image=images.image("absent")))
        assert state.reason is not None
        assert state.reason.startswith(
            "CannotPullContainerError: Error response from daemon: manifest unknown"
        )
        assert state.pull_started_at is not None and state.pull_stopped_at is not None


async def test_a_stop_does_not_wait_for_a_pull(docker: Dockerd, images: Registry, tmp_path: Path) -> None:
    images.held = threading.Event()
    images.asked.clear()
    try:
        async with host(docker, tmp_path) as here:
            runtime = here.agent(Pull.ALWAYS)
            local = here.task("true", image=images.image("slow"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runtime.start, local, "main")
                await trio.to_thread.run_sync(images.asked.wait, 20)
                assert await runtime.signal(local.id, "main", kill=False)
            state = await runtime.inspect(local.id, "main")
            assert state.phase is Phase.STOPPED
            assert state.reason == "CannotPullContainerError: the task was stopped while its image was pulled"
    finally:
        images.held.set()
        images.held = None


# -- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "tag", "registry_host"),
    [
        ("busybox", "busybox", "latest", "https://index.docker.io/v1/"),
        ("busybox:1.35", "busybox", "1.35", "https://index.docker.io/v1/"),
        ("team/web:2", "team/web", "2", "https://index.docker.io/v1/"),
        ("registry.test:5000/team/web", "registry.test:5000/team/web", "latest", "registry.test:5000"),
        ("localhost/web:2", "localhost/web", "2", "localhost"),
        ("web@sha256:abc", "web", "sha256:abc", "https://index.docker.io/v1/"),
    ],
)
def test_references_of_images(text: str, name: str, tag: str, registry_host: str) -> None:
    image = Image.parse(text)
    assert (image.name, image.tag, image.registry) == (name, tag, registry_host)
    assert Image.parse(str(image)) == image


def test_times_of_the_engine() -> None:
    assert docker_spec.parse_time("2026-01-02T03:04:05.5Z") == 1767323045.5
    assert docker_spec.parse_time("2026-01-02T03:04:05+01:00") == 1767319445.0
    assert docker_spec.parse_time("0001-01-01T00:00:00Z") is None
    assert docker_spec.parse_time(None) is None


def test_a_network_that_is_not_here_is_refused() -> None:
    local = of_task(local_task("x", image="i"), network_mode=NetworkMode.AWSVPC)
    with pytest.raises(Unfit, match="awsvpc needs AWS's network"):
        docker_spec.create_config(local, local.container("main"), instance="i")
    shared = Volume(name="v", docker_volume_configuration=DockerVolume(scope="shared"))
    mount = MountPoint(source_volume="v", container_path="/v", read_only=True)
    container = ContainerDefinition(name="main", image="i", mount_points=(mount,), links=("db:d",))
    local = of_task(local_task("x"), volumes=(shared,), container_definitions=(container,))
    config = docker_spec.create_config(local, container, instance="i")
    assert config["HostConfig"]["Binds"] == ["v:/v:ro"]
    assert config["HostConfig"]["Links"] == ["synod-t1-db:d"]
    assert docker_spec.volumes(local) == [], "a shared volume is not ours to make"


def test_credentials_of_docker_login(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    assert read_credentials(file) == {}
    file.write_text('{"auths": {"r.test": {"auth": "dTpw"}, "helper.test": {}, "bad": {"auth": "!"}}}')
    assert read_credentials(file) == {"r.test": {"username": "u", "password": "p", "serveraddress": "r.test"}}
    file.write_text("[]")
    assert read_credentials(file) == {}
