"""An API process that is killed in the middle of calls: who repeats them elsewhere gets each done once."""

from __future__ import annotations

import concurrent.futures
import subprocess
import threading
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tests.api.world import DEADLINE_S, Ecs, Served, address_of, client_of, define, register, start_api

ROUNDS_MAX = 8
CALLS = 12
COUNT = 3


def test_calls_repeated_elsewhere_happen_once(served: Served, ecs: Ecs, tmp_path: Path) -> None:
    ecs.create_cluster(clusterName="killed")
    for _ in range(4):
        register(ecs, "killed")
    define(ecs, "killed", container={"cpu": 1, "memory": 4})
    repeated = rounds = 0
    while repeated == 0:  # until a process was killed in the middle of a call
        assert rounds < ROUNDS_MAX
        number, rounds = rounds, rounds + 1
        name = f"api-{number}"
        process: subprocess.Popen[bytes] = start_api(served.cluster, tmp_path, name)
        try:
            with client_of(address_of(process, tmp_path, name)) as doomed:
                repeated += _one_round(process, doomed, ecs, number)
        finally:
            process.kill()
            process.wait()
    tasks = {
        arn for page in ecs.get_paginator("list_tasks").paginate(cluster="killed") for arn in page["taskArns"]
    }
    assert len(tasks) == rounds * CALLS * COUNT, "no call was lost, and none happened twice"


def _one_round(process: subprocess.Popen[bytes], doomed: Ecs, ecs: Ecs, number: int) -> int:
    """Call through a process that is killed when one call is answered; return how many were repeated."""
    answered = threading.Event()

    def call(which: int) -> bool:
        request: dict[str, Any] = {
            "cluster": "killed",
            "taskDefinition": "killed",
            "count": COUNT,
            "clientToken": f"{number}-{which}",
        }
        try:
            doomed.run_task(**request)
            answered.set()
            again = False
        except (BotoCoreError, ClientError):
            again = True
        answer = ecs.run_task(**request)
        assert len(answer["tasks"]) == COUNT, answer["failures"]
        return again

    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        calls = [pool.submit(call, which) for which in range(CALLS)]
        assert answered.wait(DEADLINE_S)
        process.kill()
        return sum(each.result() for each in calls)
