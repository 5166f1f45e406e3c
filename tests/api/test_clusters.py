"""Clusters, through an unmodified boto3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.world import Ecs, Served, client_of, define, register

Fails = Callable[..., str]


def test_a_cluster_s_life(ecs: Ecs, fails: Fails) -> None:
    created = ecs.create_cluster(
        clusterName="life",
        tags=[{"key": "team", "value": "blue"}],
        settings=[{"name": "containerInsights", "value": "enabled"}],
    )["cluster"]
    assert created["clusterArn"] == "arn:aws:ecs:us-east-1:123456789012:cluster/life"
    assert (created["status"], created["tags"]) == ("ACTIVE", [{"key": "team", "value": "blue"}])

    again = ecs.create_cluster(clusterName="life", tags=[])["cluster"]
    assert again["tags"] == created["tags"], "an ACTIVE cluster of that name is returned as it is"

    bare = ecs.describe_clusters(clusters=["life"])["clusters"][0]
    assert (bare["tags"], bare["settings"], bare["statistics"]) == ([], [], [])
    full = ecs.describe_clusters(clusters=["life"], include=["TAGS", "SETTINGS", "STATISTICS"])["clusters"][0]
    assert full["tags"] == created["tags"]
    assert full["settings"] == [{"name": "containerInsights", "value": "enabled"}]
    assert {"name": "runningEC2TasksCount", "value": "0"} in full["statistics"]

    changed = ecs.update_cluster_settings(
        cluster="life", settings=[{"name": "containerInsights", "value": "disabled"}]
    )["cluster"]
    assert changed["settings"] == [{"name": "containerInsights", "value": "disabled"}]
    logging = {"executeCommandConfiguration": {"logging": "NONE"}}
    changed = ecs.update_cluster(cluster=created["clusterArn"], configuration=logging)["cluster"]
    assert changed["configuration"] == logging
    assert changed["settings"] == [{"name": "containerInsights", "value": "disabled"}]

    assert ecs.delete_cluster(cluster="life")["cluster"]["status"] == "INACTIVE"
    assert ecs.describe_clusters(clusters=["life"])["clusters"][0]["status"] == "INACTIVE"
    assert created["clusterArn"] not in ecs.list_clusters()["clusterArns"]
    said = fails("ClusterNotFoundException", ecs.list_tasks, cluster="life")
    assert said == "The referenced cluster was inactive."
    assert ecs.create_cluster(clusterName="life")["cluster"]["tags"] == []


def test_what_is_not_there(ecs: Ecs, fails: Fails) -> None:
    answer = ecs.describe_clusters(clusters=["life", "nowhere"])
    assert answer["failures"] == [
        {"arn": "arn:aws:ecs:us-east-1:123456789012:cluster/nowhere", "reason": "MISSING"}
    ]
    fails("ClusterNotFoundException", ecs.delete_cluster, cluster="nowhere")
    fails("ClusterNotFoundException", ecs.update_cluster, cluster="nowhere", settings=[])
    fails("ClusterNotFoundException", ecs.list_container_instances, cluster="nowhere")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"clusterName": "a b"}, "cluster 'a b'"),
        ({"clusterName": "x" * 256}, "is not 1 to 255"),
        ({"settings": [{"name": "containerInsights", "value": "maybe"}]}, "containerInsights"),
        ({"tags": [{"key": "aws:x", "value": ""}]}, "reserved"),
        ({"tags": [{"key": "a"}, {"key": "a"}]}, "Duplicate tag key"),
    ],
)
def test_what_makes_no_cluster(ecs: Ecs, fails: Fails, params: dict[str, Any], said: str) -> None:
    assert said in fails("InvalidParameterException", ecs.create_cluster, **params)


def test_a_cluster_in_use_is_not_deleted(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="used")
    instance = register(ecs, "used")
    definition = define(ecs, "used")
    fails("ClusterContainsContainerInstancesException", ecs.delete_cluster, cluster="used")
    ecs.create_service(cluster="used", serviceName="web", taskDefinition=definition, desiredCount=0)
    fails("ClusterContainsServicesException", ecs.delete_cluster, cluster="used")
    ecs.delete_service(cluster="used", service="web", force=True)
    ecs.deregister_container_instance(cluster="used", containerInstance=instance)
    assert ecs.delete_cluster(cluster="used")["cluster"]["status"] == "INACTIVE"


def test_counts_are_of_what_is_there(ecs: Ecs) -> None:
    ecs.create_cluster(clusterName="counted")
    instance = register(ecs, "counted")
    register(ecs, "counted")
    definition = define(ecs, "counted")
    tasks = ecs.run_task(cluster="counted", taskDefinition=definition, count=3)["tasks"]
    ecs.submit_task_state_change(cluster="counted", task=tasks[0]["taskArn"], status="RUNNING")
    ecs.submit_task_state_change(cluster="counted", task=tasks[1]["taskArn"], status="STOPPED")
    ecs.create_service(cluster="counted", serviceName="none", taskDefinition=definition, desiredCount=0)
    ecs.update_container_instances_state(cluster="counted", containerInstances=[instance], status="DRAINING")
    found = ecs.describe_clusters(clusters=["counted"])["clusters"][0]
    assert found["registeredContainerInstancesCount"] == 2
    assert (found["runningTasksCount"], found["pendingTasksCount"]) == (1, 1)
    assert found["activeServicesCount"] == 1


def test_the_region_that_was_signed_for_is_the_one_in_arns(served: Served) -> None:
    with client_of(served.endpoints[0], region="ap-south-1") as there:
        arn = there.create_cluster(clusterName="regional")["cluster"]["clusterArn"]
        assert arn == "arn:aws:ecs:ap-south-1:123456789012:cluster/regional"
        assert there.describe_clusters(clusters=[arn])["failures"] == []
