"""What the tests of the API share: API processes, unmodified clients, and things to make with them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from synod.local import LocalCluster
from synod.local_api import health
from synod.processes import last_lines

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
KEYS = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}

Ecs = Any
"""boto3's client is made of the model at run time."""


@dataclass(frozen=True, slots=True)
class Served:
    """The cluster, and where its two API processes serve."""

    cluster: LocalCluster
    endpoints: tuple[str, str]
    logs: tuple[Path, Path]


def start_api(cluster: LocalCluster, folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start an API process for a cluster; it writes its address to ``folder/name.address``."""
    command = [sys.executable, "-m", "synod", "api", "--endpoints", ",".join(cluster.endpoints)]
    command += ["--cluster", cluster.cluster_id, "--listen", "127.0.0.1:0"]
    command += ["--address-file", str(folder / f"{name}.address"), *arguments]
    log = (folder / f"{name}.log").open("ab")
    with log:
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def address_of(process: subprocess.Popen[bytes], folder: Path, name: str) -> str:
    """Return where an API process serves, once it does."""
    deadline = time.monotonic() + DEADLINE_S
    file, log = folder / f"{name}.address", folder / f"{name}.log"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"{name} ended with {process.returncode}: {last_lines(log)}")
        if file.exists() and health(file.read_text().strip(), 2.0) == "ok":
            return file.read_text().strip()
        time.sleep(0.02)
    raise AssertionError(f"{name} does not serve: {last_lines(log)}")


def stop_process(process: subprocess.Popen[bytes]) -> int:
    """Stop a process in order, and return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError("an API process did not stop within 20 s of SIGTERM") from None


@contextlib.contextmanager
def client_of(endpoint: str, region: str = "us-east-1") -> Iterator[Ecs]:
    """Open an unmodified boto3 client."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=30, max_pool_connections=20)
    client = boto3.client("ecs", endpoint_url=f"http://{endpoint}", region_name=region, config=config, **KEYS)
    try:
        yield client
    finally:
        client.close()


RESOURCES: list[dict[str, Any]] = [
    {"name": "CPU", "type": "INTEGER", "integerValue": 2048},
    {"name": "MEMORY", "type": "INTEGER", "integerValue": 2048},
    {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ["22"]},
    {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": []},
]


def register(ecs: Ecs, cluster: str, **params: Any) -> str:
    """Register an instance with no agent behind it; return its ARN."""
    params.setdefault("totalResources", RESOURCES)
    registered = ecs.register_container_instance(cluster=cluster, **params)
    return str(registered["containerInstance"]["containerInstanceArn"])


def define(ecs: Ecs, family: str, **params: Any) -> str:
    """Register a definition of one container; return its ARN."""
    container = {"name": "main", "image": "busybox", "cpu": 64, "memory": 64, **params.pop("container", {})}
    params.setdefault("containerDefinitions", [container])
    registered = ecs.register_task_definition(family=family, **params)
    return str(registered["taskDefinition"]["taskDefinitionArn"])


def aws(served: Served, *arguments: str, code: int = 0) -> str:
    """Run an unmodified aws-cli; return what it prints."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(served.cluster.folder),
        "AWS_ENDPOINT_URL_ECS": f"http://{served.endpoints[0]}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_PAGER": "",
        "AWS_MAX_ATTEMPTS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    program = Path(sys.executable).with_name("aws")
    done = subprocess.run(
        [sys.executable, str(program), "ecs", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def until(holds: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.2)
