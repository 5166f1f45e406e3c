"""Agents written against the API: they register, hear where to poll, and say what became of tasks."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.world import (
    DEADLINE_S,
    RESOURCES,
    Ecs,
    Served,
    address_of,
    client_of,
    define,
    register,
    start_api,
    stop_process,
)

Fails = Callable[..., str]

HEARTBEAT_S = 2.5


@pytest.fixture(scope="module")
def host(ecs: Ecs) -> str:
    ecs.create_cluster(clusterName="agents")
    containers = [{"name": name, "image": "i", "memory": 16} for name in ("main", "side")]
    define(ecs, "agents", containerDefinitions=containers)
    return register(ecs, "agents")


def run(ecs: Ecs) -> str:
    return str(ecs.run_task(cluster="agents", taskDefinition="agents")["tasks"][0]["taskArn"])


def test_a_task_is_moved_by_what_is_said_of_it(ecs: Ecs, host: str) -> None:
    task = run(ecs)
    said = ecs.submit_task_state_change(
        cluster="agents",
        task=task,
        status="RUNNING",
        pullStartedAt=1_600_000_000.5,
        containers=[
            {
                "containerName": "main",
                "status": "RUNNING",
                "runtimeId": "abc",
                "imageDigest": "sha256:1",
                "networkBindings": [
                    {"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 32768, "protocol": "tcp"}
                ],
            }
        ],
    )
    assert said["acknowledgment"]
    found = ecs.describe_tasks(cluster="agents", tasks=[task])["tasks"][0]
    assert found["lastStatus"] == "RUNNING"
    assert found["pullStartedAt"].timestamp() == 1_600_000_000.5
    assert found["startedAt"]
    main, side = found["containers"]
    assert (main["runtimeId"], main["imageDigest"], main["lastStatus"]) == ("abc", "sha256:1", "RUNNING")
    assert main["networkBindings"][0]["hostPort"] == 32768
    assert side["lastStatus"] == "PENDING"

    gone = [{"containerName": "main", "status": "STOPPED", "exitCode": 3, "reason": "It broke"}]
    ecs.submit_task_state_change(cluster="agents", task=task, status="STOPPED", containers=gone)
    found = ecs.describe_tasks(cluster="agents", tasks=[task])["tasks"][0]
    assert (found["lastStatus"], found["stopCode"]) == ("STOPPED", "EssentialContainerExited")
    assert found["stoppedReason"] == "Essential container in task exited"
    assert found["stoppedAt"] >= found["startedAt"]
    assert (found["containers"][0]["exitCode"], found["containers"][0]["reason"]) == (3, "It broke")
    assert {container["lastStatus"] for container in found["containers"]} == {"STOPPED"}

    ecs.submit_task_state_change(cluster="agents", task=task, status="RUNNING")
    found = ecs.describe_tasks(cluster="agents", tasks=[task])["tasks"][0]
    assert found["lastStatus"] == "STOPPED", "what comes too late is acknowledged and changes nothing"


def test_a_stopped_task_gives_back_what_it_held(ecs: Ecs, host: str) -> None:
    def left() -> dict[str, int]:
        found = ecs.describe_container_instances(cluster="agents", containerInstances=[host])
        resources = found["containerInstances"][0]["remainingResources"]
        return {each["name"]: each["integerValue"] for each in resources}

    before = left()
    task = run(ecs)
    assert left()["MEMORY"] == before["MEMORY"] - 32
    for _ in range(2):  # said twice, given back once
        ecs.submit_task_state_change(cluster="agents", task=task, status="STOPPED", reason="gone")
    assert left() == before
    found = ecs.describe_tasks(cluster="agents", tasks=[task])["tasks"][0]
    assert (found["stopCode"], found["stoppedReason"]) == ("TaskFailedToStart", "gone")


def test_a_task_is_as_far_as_its_least_far_container(ecs: Ecs, host: str) -> None:
    task = run(ecs)

    def after(name: str, status: str) -> str:
        ecs.submit_container_state_change(
            cluster="agents", task=task, containerName=name, status=status, exitCode=0
        )
        return str(ecs.describe_tasks(cluster="agents", tasks=[task])["tasks"][0]["lastStatus"])

    assert after("main", "RUNNING") == "PENDING"
    assert after("side", "RUNNING") == "RUNNING"
    assert after("main", "STOPPED") == "RUNNING"
    assert after("main", "RUNNING") == "RUNNING"
    assert after("side", "STOPPED") == "STOPPED"


def test_why_it_was_to_stop_is_why_it_stopped(ecs: Ecs, host: str) -> None:
    task = run(ecs)
    ecs.submit_task_state_change(cluster="agents", task=task, status="RUNNING")
    ecs.stop_task(cluster="agents", task=task, reason="enough")
    ecs.submit_task_state_change(cluster="agents", task=task, status="STOPPED")
    found = ecs.describe_tasks(cluster="agents", tasks=[task])["tasks"][0]
    assert (found["stopCode"], found["stoppedReason"]) == ("UserInitiated", "enough")


def test_what_is_refused(ecs: Ecs, host: str, fails: Fails) -> None:
    task = run(ecs)
    for call, params in (
        (ecs.submit_task_state_change, {"task": "nothing", "status": "RUNNING"}),
        (ecs.submit_task_state_change, {"task": task, "status": "DANCING"}),
        (ecs.submit_task_state_change, {"task": task, "containers": [{"status": "RUNNING"}]}),
        (ecs.submit_container_state_change, {"task": task, "status": "RUNNING"}),
    ):
        fails("InvalidParameterException", call, cluster="agents", **params)


def test_a_task_of_an_agent_of_synods_is_its_own_affair(ecs: Ecs, fails: Fails) -> None:
    define(ecs, "own", container={"command": ["sleep", "300"], "stopTimeout": 2})
    task = ecs.run_task(taskDefinition="own")["tasks"][0]["taskArn"]
    said = fails("InvalidParameterException", ecs.submit_task_state_change, task=task, status="STOPPED")
    assert said == "The task is reported on by its own agent."
    ecs.stop_task(task=task)
    own = ecs.list_container_instances()["containerInstanceArns"][0]
    call = ecs.register_container_instance
    said = fails("ClientException", call, containerInstanceArn=own, totalResources=RESOURCES)
    assert said.endswith("is registered by its own agent.")


def test_the_poll_endpoint_is_here(ecs: Ecs, served: Served, host: str) -> None:
    found = ecs.discover_poll_endpoint(cluster="agents", containerInstance=host)
    assert found["endpoint"] == found["telemetryEndpoint"] == f"http://{served.endpoints[0]}/"
    assert ecs.submit_attachment_state_changes(
        cluster="agents", attachments=[{"attachmentArn": "a", "status": "b"}]
    )["acknowledgment"]


@pytest.fixture
def impatient(served: Served, tmp_path: Path) -> Iterator[Ecs]:
    """A client of an API process by which an agent must be heard every few seconds."""
    process: subprocess.Popen[bytes] = start_api(
        served.cluster, tmp_path, "api", "--heartbeat", str(HEARTBEAT_S)
    )
    try:
        with client_of(address_of(process, tmp_path, "api")) as client:
            yield client
    finally:
        assert stop_process(process) == 0


def test_an_instance_is_connected_until_it_misses_a_heartbeat(impatient: Ecs, fails: Fails) -> None:
    impatient.create_cluster(clusterName="pulse")
    arn = register(impatient, "pulse")

    def connected() -> bool:
        found = impatient.describe_container_instances(cluster="pulse", containerInstances=[arn])
        return bool(found["containerInstances"][0]["agentConnected"])

    def silent_until(wanted: bool) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while connected() is not wanted:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    began = heard = time.monotonic()
    while time.monotonic() < began + 2 * HEARTBEAT_S:  # heard all the time, for longer than a term
        impatient.discover_poll_endpoint(cluster="pulse", containerInstance=arn)
        is_in_time = time.monotonic() - heard < 0.8 * HEARTBEAT_S
        heard = time.monotonic()
        assert connected() or not is_in_time  # a machine that stood still is no fault
        time.sleep(0.1)
    silent_until(False)
    answer = impatient.run_task(cluster="pulse", taskDefinition=define(impatient, "pulse"))
    assert [failure["reason"] for failure in answer["failures"]] == ["AGENT"]
    register(impatient, "pulse", containerInstanceArn=arn)
    assert connected(), "it has been heard again"
