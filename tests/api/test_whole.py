"""The whole of it: 3 nodes, a scheduler, 2 API processes, and 5 agents, two of them with Docker.

Driven by an unmodified boto3 alone. The Docker agents are in a cluster of their own, so that the other
tests' cluster stays as it is.
"""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.world import ROOT, Ecs, Served, define, until
from tests.dockerd import IMAGE, Dockerd

SOON = {"Delay": 1, "MaxAttempts": 120}
CLUSTER = "docked"
ZONES = ("us-east-1a", "us-east-1b")


@pytest.fixture(scope="module")
def docked(
    served: Served, docker: Dockerd, ecs: Ecs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("docked")
    ecs.create_cluster(clusterName=CLUSTER)
    agents = [start_agent(served, docker, folder / zone, zone) for zone in ZONES]
    try:
        until(
            lambda: len(ecs.list_container_instances(cluster=CLUSTER)["containerInstanceArns"]) == len(ZONES)
        )
        yield CLUSTER
    finally:
        for agent in agents:
            agent.terminate()
        for agent in agents:
            agent.wait(30)


def start_agent(served: Served, engine: Dockerd, folder: Path, zone: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "synod", "agent", "--endpoints", ",".join(served.cluster.endpoints)]
    command += ["--dir", str(folder), "--cluster-name", CLUSTER, "--cpu", "1024", "--memory", "1024"]
    command += ["--runtime", "docker", "--docker-socket", str(engine.socket), "--pull", "prefer-cached"]
    command += ["--attributes", f"ecs.availability-zone={zone}", "--introspection", "off"]
    with (folder.parent / f"{zone}.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def test_a_service_of_containers_is_rolled_without_a_gap(ecs: Ecs, other: Ecs, docked: str) -> None:
    def revision(said: str) -> None:
        serve = f"mkdir -p /www && echo {said} > /www/index.html && exec httpd -f -p 80 -h /www"
        container = {
            "image": IMAGE,
            "command": ["sh", "-c", serve],
            "memory": 32,
            "portMappings": [{"containerPort": 80}],
            "healthCheck": {"command": ["CMD-SHELL", "wget -q -O- localhost || exit 1"], "interval": 5},
            "stopTimeout": 1,
        }
        define(ecs, "pages", container=container)

    def answers() -> list[str]:
        arns = ecs.list_tasks(cluster=docked, serviceName="pages")["taskArns"]
        tasks = ecs.describe_tasks(cluster=docked, tasks=arns)["tasks"] if arns else []
        return sorted(page(task) for task in tasks if task["lastStatus"] == "RUNNING")

    revision("first")
    ecs.create_service(cluster=docked, serviceName="pages", taskDefinition="pages", desiredCount=2)
    other.get_waiter("services_stable").wait(cluster=docked, services=["pages"], WaiterConfig=SOON)
    until(lambda: answers() == ["first", "first"])
    tasks = ecs.describe_tasks(
        cluster=docked, tasks=ecs.list_tasks(cluster=docked, serviceName="pages")["taskArns"]
    )["tasks"]
    assert {task["availabilityZone"] for task in tasks} == set(ZONES), "spread over zones by default"
    assert all(len(task["containers"][0]["runtimeId"]) == 64 for task in tasks), "a Docker container's id"
    until(
        lambda: (
            {
                task["healthStatus"]
                for task in ecs.describe_tasks(cluster=docked, tasks=[each["taskArn"] for each in tasks])[
                    "tasks"
                ]
            }
            == {"HEALTHY"}
        )
    )

    revision("second")
    ecs.update_service(cluster=docked, service="pages", taskDefinition="pages")
    ecs.get_waiter("services_stable").wait(cluster=docked, services=["pages"], WaiterConfig=SOON)
    until(lambda: answers() == ["second", "second"])
    stopped = ecs.describe_tasks(cluster=docked, tasks=[task["taskArn"] for task in tasks])["tasks"]
    assert {task["stopCode"] for task in stopped} == {"ServiceSchedulerInitiated"}

    ecs.delete_service(cluster=docked, service="pages", force=True)
    ecs.get_waiter("services_inactive").wait(cluster=docked, services=["pages"], WaiterConfig=SOON)


def page(task: dict[str, Any]) -> str:
    """Return what a task serves on the port of the host that its container was given."""
    [binding] = task["containers"][0]["networkBindings"]
    with urllib.request.urlopen(f"http://127.0.0.1:{binding['hostPort']}/", timeout=20) as answer:
        return str(answer.read().decode().strip())


def test_a_container_that_ends_says_how(ecs: Ecs, docked: str) -> None:
    define(ecs, "ends", container={"image": IMAGE, "command": ["sh", "-c", "exit 7"], "memory": 16})
    task = ecs.run_task(cluster=docked, taskDefinition="ends")["tasks"][0]["taskArn"]
    ecs.get_waiter("tasks_stopped").wait(cluster=docked, tasks=[task], WaiterConfig=SOON)
    found = ecs.describe_tasks(cluster=docked, tasks=[task])["tasks"][0]
    assert (found["containers"][0]["exitCode"], found["stopCode"]) == (7, "EssentialContainerExited")
    assert found["stoppedReason"]
