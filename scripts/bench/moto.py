"""moto's server: the ECS API from one process's memory, without a cluster, for people's tests.

It is not in the lock files: ``moto[server]`` brings some sixty packages that nothing else here needs. Where
``moto_server`` is on the PATH (or ``--moto`` says where it is), it is measured beside ours.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from synod.local_state import free_ports

REGION = "us-east-1"
KEYS = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
CLUSTER = "bench"
FAMILY = "bench"
TOGETHER = 10
"""Instances that one StartTask names at most."""
READY_S = 30.0
INSTALL = "pip install 'moto[server]' into an environment of its own, and --moto its bin/moto_server"


def found(given: Path | None) -> Path | None:
    """Return the program, None where there is none."""
    if given is not None:
        return given if given.exists() else None
    there = shutil.which("moto_server")
    return Path(there) if there else None


def client(service: str, endpoint: str) -> Any:
    """Return an unmodified boto3 client."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=60)
    return boto3.client(service, endpoint_url=f"http://{endpoint}", region_name=REGION, config=config, **KEYS)


@contextmanager
def running(program: Path, folder: Path) -> Iterator[str]:
    """Run the server; yield its endpoint."""
    [port] = free_ports(1)
    with (folder / "moto.log").open("ab") as log:
        process = subprocess.Popen(
            [str(program), "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    endpoint = f"127.0.0.1:{port}"
    try:
        _wait_ready(endpoint)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def fill(endpoint: str, instances: int, tasks: int) -> list[str]:
    """Make a cluster of that size; return the ARNs of its tasks."""
    ecs, ec2 = client("ecs", endpoint), client("ec2", endpoint)
    ecs.create_cluster(clusterName=CLUSTER)
    ecs.register_task_definition(
        family=FAMILY, containerDefinitions=[{"name": "main", "image": "busybox", "cpu": 1, "memory": 1}]
    )
    image = ec2.describe_images()["Images"][0]["ImageId"]
    machines = ec2.run_instances(ImageId=image, MinCount=instances, MaxCount=instances)["Instances"]
    names = [
        ecs.register_container_instance(
            cluster=CLUSTER, instanceIdentityDocument=json.dumps({"instanceId": machine["InstanceId"]})
        )["containerInstance"]["containerInstanceArn"]
        for machine in machines
    ]
    arns: list[str] = []
    while len(arns) < tasks:
        begin = len(arns) % instances
        on = names[begin : begin + min(TOGETHER, tasks - len(arns))]
        started = ecs.start_task(cluster=CLUSTER, taskDefinition=FAMILY, containerInstances=on)
        if started.get("failures"):
            raise RuntimeError(f"moto starts no task: {started['failures'][0]}")
        arns += [task["taskArn"] for task in started["tasks"]]
    return arns


def _wait_ready(endpoint: str) -> None:
    deadline = time.monotonic() + READY_S
    ecs = client("ecs", endpoint)
    while True:
        try:
            ecs.list_clusters()
            return
        except BotoCoreError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"moto does not serve within {READY_S:g} s: {error}") from None
            time.sleep(0.1)
