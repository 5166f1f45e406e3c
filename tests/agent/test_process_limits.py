"""What a process may have: memory, cpu, ulimits, user, ports, volumes, logs; and health checks beside it."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from agent import cgroups, health, ports
from agent.cgroups import Cgroups
from agent.model import ContainerState, LocalTask, Phase
from agent.process import ProcessRuntime, run_beside
from agent.process_spec import LogLimits, Unfit, bind_ports, log_limits, resolve_user
from agent.supervisor import Log, start_time
from cluster.records import (
    HealthCheck,
    HealthStatus,
    HostVolume,
    LogConfiguration,
    MountPoint,
    NetworkMode,
    PortMapping,
    Protocol,
    Ulimit,
    Volume,
)
from tests.agent.test_process import (
    DEADLINE_S,
    Machine,
    ended,
    local_task,
    machine,
    started,
    until,
    until_logged,
)

__all__ = ["machine"]

HOG = "import time\nprint('ready', flush=True)\nkept = []\nwhile True: kept.append(bytearray(1 << 20))"


@pytest.fixture
def groups(request: pytest.FixtureRequest) -> Iterator[Cgroups]:
    """The test machine's control groups: tests run as root."""
    found = Cgroups.find(f"test-{os.getpid()}", parent="synod-test")
    assert isinstance(found, Cgroups), found
    yield found
    found.remove("t1", ["main", "other"])
    for root in found._roots.values():
        cgroups.remove_group(root / found.base)
        cgroups.remove_group(root / "synod-test")


def of_task(local: LocalTask, **fields: object) -> LocalTask:
    return replace(local, definition=replace(local.definition, **fields))  # type: ignore[arg-type]


# -- control groups ---------------------------------------------------------------------------


async def test_a_container_over_its_memory_is_killed_and_says_so(machine: Machine, groups: Cgroups) -> None:
    runtime = machine.agent(cgroups=groups)
    await started(runtime, of_task(local_task(sys.executable, "-c", HOG, memory=32), memory=None))
    state = await ended(runtime)
    assert (state.exit_code, state.reason) == (137, "OutOfMemoryError: Container killed due to memory usage")
    assert machine.log() == "ready\n"


async def test_a_tasks_own_limit_holds_for_its_containers(machine: Machine, groups: Cgroups) -> None:
    runtime = machine.agent(cgroups=groups)
    await started(runtime, of_task(local_task(sys.executable, "-c", HOG), memory=32))
    assert (await ended(runtime)).reason == "OutOfMemoryError: Container killed due to memory usage"


async def test_limits_are_set_and_groups_go_when_the_container_does(
    machine: Machine, groups: Cgroups
) -> None:
    runtime = machine.agent(cgroups=groups)
    local = of_task(
        local_task("sleep", "600", cpu=256, memory=64, memory_reservation=32), cpu=512, memory=128
    )
    await started(runtime, local)
    task = groups._roots["cpu"] / groups.base / "t1"
    read = {name: (task / name).read_text().strip() for name in ("cpu.shares", "cpu.cfs_quota_us")}
    assert read == {"cpu.shares": "512", "cpu.cfs_quota_us": "50000"}
    assert (task / "main" / "cpu.shares").read_text() == "256\n"
    memory = groups._roots["memory"] / groups.base / "t1"
    assert (memory / "memory.limit_in_bytes").read_text() == f"{128 << 20}\n"
    assert (memory / "main" / "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    assert (memory / "main" / "memory.soft_limit_in_bytes").read_text() == f"{32 << 20}\n"
    assert await runtime.signal("t1", "main", kill=True)
    await ended(runtime)
    assert not task.exists() and not memory.exists()


async def test_what_left_its_process_group_dies_with_the_container(machine: Machine, groups: Cgroups) -> None:
    runtime = machine.agent(cgroups=groups)
    await started(runtime, local_task("sh", "-c", "setsid sleep 600 & echo $!; sleep 0.2; exit 3", memory=16))
    assert (await ended(runtime)).exit_code == 3
    escaped = int(machine.log())
    await until(lambda: start_time(escaped) is None)


async def test_removing_a_task_kills_what_its_supervisor_could_not(machine: Machine, groups: Cgroups) -> None:
    runtime = machine.agent(cgroups=groups)
    local = local_task("sh", "-c", "setsid sleep 600 & echo $!; exec sleep 600", memory=16)
    await started(runtime, local)
    await until_logged(machine, "\n")
    escaped = int(machine.log())
    for file in ("supervisor.json", "process.json"):
        os.kill(int(machine.file(file).read_text().partition('"pid": ')[2].partition(",")[0]), 9)
    assert (await ended(runtime)).reason is not None
    await runtime.remove(local)
    await until(lambda: start_time(escaped) is None)
    assert not (groups._roots["memory"] / groups.base / "t1").exists()


def test_where_no_groups_may_be_made_it_says_why(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path} rw - tmpfs tmpfs rw\n")
    assert Cgroups.find("i", mounts=mounts) == "the kernel offers no memory and cpu controllers here"
    line = "1 0 0:1 / /proc/1 rw - cgroup cgroup rw,{}\n"
    mounts.write_text(line.format("memory") + line.format("cpu"))
    assert "/proc/1/synod" in str(Cgroups.find("i", mounts=mounts))
    assert "No such file" in str(Cgroups.find("i", mounts=tmp_path / "none"))


def test_version_2_writes_the_same_limits_in_its_own_words(tmp_path: Path) -> None:
    """On a folder that stands for the hierarchy: this machine's controllers may belong to version 1."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path} rw - cgroup2 cgroup2 rw\n")
    found = Cgroups.find("i", mounts=mounts)
    assert isinstance(found, Cgroups) and found.version == 2
    local = of_task(local_task("x", cpu=1024, memory=64, memory_reservation=32), cpu=2048, memory=2)
    group = found.make(local, local.container("main"))
    folder = tmp_path / "synod" / "i" / "t1" / "main"
    assert group.procs == (str(folder / "cgroup.procs"),)
    assert group.events == str(folder / "memory.events")
    assert (tmp_path / "synod" / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (folder.parent / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert not (folder / "cgroup.subtree_control").exists()
    assert (folder / "memory.max").read_text() == str(64 << 20)
    assert (folder / "memory.low").read_text() == str(32 << 20)
    assert (folder / "cpu.weight").read_text() == "39"
    assert (folder.parent / "cpu.max").read_text() == "200000 100000"
    assert (folder.parent / "memory.max").read_text() == str(6 << 20), "less starts no process"


# -- limits, user, folders ----------------------------------------------------------------------


async def test_ulimits_user_and_volumes_are_the_processs_own(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    local = local_task(
        "sh",
        "-c",
        "ulimit -n; id -u; touch mine $SYNOD_VOLUME_SCRATCH_1/too && echo $SYNOD_VOLUME_HOST; exec sleep 600",
        ulimits=(Ulimit(name="nofile", soft_limit=77, hard_limit=88),),
        user="nobody",
        mount_points=(
            MountPoint(source_volume="scratch-1", container_path="/a"),
            MountPoint(source_volume="host", container_path="/b"),
        ),
    )
    volumes = (
        Volume(name="scratch-1"),
        Volume(name="host", host=HostVolume(source_path=str(tmp_path / "host"))),
    )
    runtime = machine.agent()
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    await started(runtime, of_task(local, volumes=volumes))
    await until_logged(machine, "host\n")
    assert machine.log() == f"77\n65534\n{tmp_path / 'host'}\n"
    folder = machine.file("spec.json").parent
    assert await run_beside(folder, ("sh", "-c", '[ "$(id -u)" = 65534 ] && [ -e mine ]'), 10)
    assert not await run_beside(folder, ("false",), 10)
    assert not await run_beside(folder, ("sleep", "60"), 0.05), "too slow"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"readonly_root_filesystem": True}, "a process has no read-only root"),
        ({"user": "no-such-user"}, "unable to find user no-such-user"),
        ({"user": "0:no-such-group"}, "unable to find group no-such-group"),
        ({"ulimits": (Ulimit(name="what", soft_limit=1, hard_limit=1),)}, "ulimit 'what' is unknown"),
        (
            {"log_configuration": LogConfiguration(log_driver="json-file", options={"max-size": "ten"})},
            "log option max-size 'ten' is not such as 10m",
        ),
    ],
)
async def test_what_a_process_cannot_keep_is_refused(
    machine: Machine, fields: dict[str, Any], why: str
) -> None:
    state = await started(machine.agent(), local_task("true", **fields))
    assert state.failed_to_start and state.reason is not None
    assert state.reason.startswith(f"CannotCreateContainerError: {why}")


async def test_a_limit_that_cannot_be_set_says_so(machine: Machine) -> None:
    limit = Ulimit(name="nofile", soft_limit=9, hard_limit=8)
    state = await started(machine.agent(), local_task("true", ulimits=(limit,)))
    assert state.reason is not None
    assert state.reason.startswith(f"CannotStartContainerError: ulimit {resource.RLIMIT_NOFILE} 9:8: ")


def test_users_are_found_as_docker_finds_them() -> None:
    assert resolve_user("") is None
    assert resolve_user("nobody") == (65534, 65534, [65534])
    assert resolve_user("65534:0") == (65534, 0, [0])
    assert resolve_user("4242") == (4242, 0, [])
    with pytest.raises(Unfit):
        resolve_user("99999999999999999999x")


# -- ports --------------------------------------------------------------------------------------


async def test_a_process_is_told_of_the_ports_that_were_picked_for_it(machine: Machine) -> None:
    local = local_task(
        "sh",
        "-c",
        "echo $SYNOD_PORT_80 $SYNOD_PORT_53_UDP; exec sleep 600",
        port_mappings=(PortMapping(container_port=80), PortMapping(container_port=53, protocol=Protocol.UDP)),
    )
    runtime = machine.agent()
    state = await started(runtime, local)
    tcp, udp = state.network_bindings
    assert (tcp.container_port, udp.container_port, udp.protocol) == (80, 53, Protocol.UDP)
    await until_logged(machine, "\n")
    assert machine.log() == f"{tcp.host_port} {udp.host_port}\n"
    assert (await machine.agent().inspect("t1", "main")).network_bindings == state.network_bindings


def test_fixed_and_host_ports_are_kept() -> None:
    local = local_task("x", port_mappings=(PortMapping(container_port=80, host_port=8080),))
    (binding,) = bind_ports(local, local.container("main"))
    assert (binding.container_port, binding.host_port) == (80, 8080)
    local = of_task(
        local_task("x", port_mappings=(PortMapping(container_port=81),)), network_mode=NetworkMode.HOST
    )
    (binding,) = bind_ports(local, local.container("main"))
    assert binding.host_port == 81


def test_a_port_that_somebody_holds_is_seen() -> None:
    for family, address, kind, protocol in (
        (socket.AF_INET, "127.0.0.1", socket.SOCK_STREAM, Protocol.TCP),
        (socket.AF_INET6, "::1", socket.SOCK_STREAM, Protocol.TCP),
        (socket.AF_INET, "127.0.0.1", socket.SOCK_DGRAM, Protocol.UDP),
    ):
        with socket.socket(family, kind) as holder:
            holder.bind((address, 0))
            if kind is socket.SOCK_STREAM:
                holder.listen()
            held = (protocol, holder.getsockname()[1])
            assert ports.busy_ports([held]) == {held}
        assert ports.busy_ports([held]) == frozenset()
    assert ports.pick_port(Protocol.TCP) != ports.pick_port(Protocol.TCP, [])


# -- logs ---------------------------------------------------------------------------------------


def test_logs_are_kept_in_so_many_files_of_so_many_bytes(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), 10, 3)
    for number in range(100):
        log.write(f"line{number:02}\n".encode())
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["log", "log.1", "log.2"]
    kept = "".join(path.read_text() for path in (files[2], files[1], files[0]))
    assert kept.endswith("line98\nline99\n")
    assert all(path.stat().st_size <= 10 for path in files)
    one = Log(str(tmp_path / "one"), 10, 1)
    one.write(b"x" * 25)
    assert (tmp_path / "one").read_bytes() == b"x" * 5 and not (tmp_path / "one.1").exists()


def test_a_definition_says_how_much_of_its_log_is_kept() -> None:
    options = {"max-size": "2k", "max-file": "5"}
    container = local_task("x", log_configuration=LogConfiguration(log_driver="json-file", options=options))
    assert log_limits(container.container("main"), LogLimits()) == LogLimits(2048, 5)
    assert log_limits(local_task("x").container("main"), LogLimits(7, 8)) == LogLimits(7, 8)


# -- health -------------------------------------------------------------------------------------

CHECK = HealthCheck(command=("CMD", "x"), interval=5, retries=2, start_period=30)
OK, NOT, UNKNOWN = HealthStatus.HEALTHY, HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN


@pytest.mark.parametrize(
    ("results", "statuses"),
    [
        ("++", (OK, OK)),
        ("+--+", (OK, OK, NOT, OK)),
        ("------", (UNKNOWN,) * 5 + (UNKNOWN,)),
        ("-------", (UNKNOWN,) * 6 + (NOT,)),
        ("--+--", (UNKNOWN, UNKNOWN, OK, OK, NOT)),
    ],
)
def test_health_is_counted_as_docker_counts_it(results: str, statuses: tuple[HealthStatus, ...]) -> None:
    """A check each 5 s; failures count after 30 s, or once it was healthy."""
    known = health.first(CHECK, 0.0)
    seen: list[HealthStatus] = []
    for each in results:
        now = known.next_at
        known = health.checked(CHECK, known, passed=each == "+", started_at=0.0, now=now)
        assert known.next_at == now + 5
        seen.append(known.status)
    assert tuple(seen) == statuses


async def test_a_processs_health_is_checked_beside_it(machine: Machine) -> None:
    check = HealthCheck(command=("CMD-SHELL", "[ -e well ]"), interval=5, retries=1)
    clock = itertools.count(10**10, 100)  # a test does not wait: each look at the clock is much later
    runtime = machine.agent(wall=lambda: float(next(clock)))
    state = await started(runtime, local_task("sleep", "600", health_check=check))
    assert state.health is UNKNOWN
    with trio.fail_after(DEADLINE_S):
        state = await runtime.changed("t1", "main", state)
        assert (state.phase, state.health) == (Phase.RUNNING, NOT)
        machine.file("work/well").touch()
        state = await runtime.changed("t1", "main", state)
        assert (state.phase, state.health) == (Phase.RUNNING, OK)
        assert (await machine.agent().inspect("t1", "main")).health is UNKNOWN, "another agent checks anew"
        assert await runtime.signal("t1", "main", kill=True)
        state = await runtime.changed("t1", "main", state)
        assert state.phase is Phase.STOPPED
    assert isinstance(runtime, ProcessRuntime) and isinstance(state, ContainerState)
