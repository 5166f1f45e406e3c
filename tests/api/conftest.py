"""A real cluster for all tests of the API: 3 nodes, 3 process agents in 3 zones, 2 API processes.

Tests share it: each uses a cluster (in ECS's sense) of its own, or only looks at its own tasks.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from synod.local import LocalCluster
from tests.api.world import DEADLINE_S, ZONES, Ecs, Served, address_of, client_of, start_api, stop_process


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("api")
    cluster = LocalCluster.create(folder / "cluster", nodes=3, agents=0, schedulers=1)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        cluster.start()
        cluster.wait_ready(DEADLINE_S)
        for number, zone in enumerate(ZONES, 1):
            kind = "t2.small" if number == 1 else "t2.medium"
            attributes = {"ecs.availability-zone": zone, "ecs.instance-type": kind}
            cluster.start_agent(number, cpu=4096, memory=4096, attributes=attributes)
        processes += [
            start_api(cluster, folder, "api-1", "--allow-reset"),
            start_api(cluster, folder, "api-2"),
        ]
        cluster.wait_agents(DEADLINE_S)
        first, second = (address_of(p, folder, f"api-{n}") for n, p in enumerate(processes, 1))
        yield Served(cluster, (first, second), (folder / "api-1.log", folder / "api-2.log"))
        codes = [stop_process(process) for process in processes]
        assert codes == [0, 0]
        for name in ("api-1", "api-2"):
            said = (folder / f"{name}.log").read_text()
            assert "Traceback" not in said and "api.bug" not in said, said[-4000:]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        with contextlib.suppress(Exception):
            cluster.stop(patience_s=5)
        cluster.kill_all()


@pytest.fixture(scope="session")
def ecs(served: Served) -> Iterator[Ecs]:
    with client_of(served.endpoints[0]) as client:
        yield client


@pytest.fixture(scope="session")
def other(served: Served) -> Iterator[Ecs]:
    """A client of the other API process."""
    with client_of(served.endpoints[1]) as client:
        yield client


@pytest.fixture
def fails(ecs: Ecs) -> Callable[..., Any]:
    """Return a check that a call fails with an error of that code; it returns the error's message."""

    def check(code: str, call: Callable[..., Any], **params: Any) -> str:
        kind = getattr(ecs.exceptions, code)
        with pytest.raises(kind) as raised:
            call(**params)
        answer = raised.value.response
        assert answer["Error"]["Code"] == code
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
        return str(answer["Error"]["Message"])

    return check
