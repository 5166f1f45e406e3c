"""``POST /_synod/reset`` where it is allowed: the cluster is empty again, and goes on."""

from __future__ import annotations

from pathlib import Path

import httpx

from synod.local import LocalCluster
from tests.api.world import DEADLINE_S, address_of, client_of, define, register, start_api


def test_where_it_is_allowed_everything_is_gone_and_may_be_made_again(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "cluster", nodes=1)
    try:
        cluster.start()
        cluster.wait_ready()
        process = start_api(cluster, tmp_path, "api", "--allow-reset")
        try:
            address = address_of(process, tmp_path, "api")
            with client_of(address) as ecs:
                for _ in range(2):
                    ecs.create_cluster(clusterName="suite")
                    register(ecs, "suite")
                    definition = define(ecs, "suite", container={"cpu": 1, "memory": 4})
                    assert ecs.run_task(cluster="suite", taskDefinition="suite")["tasks"]
                    answer = httpx.post(f"http://{address}/_synod/reset", timeout=DEADLINE_S)
                    assert answer.status_code == 200, answer.text
                    assert ecs.list_clusters()["clusterArns"] == []
                    assert ecs.list_task_definitions()["taskDefinitionArns"] == [], definition
        finally:
            process.terminate()
            process.wait()
    finally:
        cluster.stop()
