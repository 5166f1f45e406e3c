"""Running, describing, listing and stopping tasks, through an unmodified boto3."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.world import Ecs, define, register

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def runs(ecs: Ecs) -> str:
    """A cluster with two instances of 2048 CPU units and MiB, and a definition ``runs`` of 64 each."""
    ecs.create_cluster(clusterName="runs")
    for zone in ("a", "b"):
        register(ecs, "runs", attributes=[{"name": "ecs.availability-zone", "value": f"us-east-1{zone}"}])
    define(ecs, "runs", tags=[{"key": "from", "value": "definition"}])
    return "runs"


def test_a_task_s_life(ecs: Ecs, runs: str, fails: Fails) -> None:
    answer = ecs.run_task(
        cluster=runs,
        taskDefinition="runs",
        startedBy="a person",
        group="batch",
        tags=[{"key": "a", "value": "b"}],
        propagateTags="TASK_DEFINITION",
        enableExecuteCommand=True,
        overrides={
            "containerOverrides": [
                {"name": "main", "command": ["echo"], "environment": [{"name": "A", "value": "1"}], "cpu": 96}
            ],
            "memory": "256",
        },
    )
    assert answer["failures"] == []
    task = answer["tasks"][0]
    assert (task["lastStatus"], task["desiredStatus"], task["launchType"]) == ("PENDING", "RUNNING", "EC2")
    assert (task["cpu"], task["memory"]) == ("96", "256")
    assert (task["startedBy"], task["group"], task["enableExecuteCommand"]) == ("a person", "batch", True)
    assert task["overrides"]["containerOverrides"][0]["command"] == ["echo"]
    assert task["overrides"]["memory"] == "256"
    assert task["tags"] == [{"key": "from", "value": "definition"}, {"key": "a", "value": "b"}]
    assert task["taskDefinitionArn"].endswith(":task-definition/runs:1")
    assert task["availabilityZone"] in ("us-east-1a", "us-east-1b")
    container = task["containers"][0]
    assert (container["name"], container["image"], container["lastStatus"]) == ("main", "busybox", "PENDING")
    assert container["taskArn"] == task["taskArn"]
    assert "startedAt" not in task and "stopCode" not in task

    found = ecs.describe_tasks(cluster=runs, tasks=[task["taskArn"]])["tasks"][0]
    assert found == {**task, "tags": []}
    for form in (task["taskArn"].rpartition("/")[2], task["taskArn"].replace(f"/{runs}/", "/")):
        assert ecs.describe_tasks(cluster=runs, tasks=[form])["tasks"][0]["taskArn"] == task["taskArn"]

    stopping = ecs.stop_task(cluster=runs, task=task["taskArn"], reason="no longer wanted")["task"]
    assert (stopping["desiredStatus"], stopping["lastStatus"]) == ("STOPPED", "PENDING")
    assert (stopping["stopCode"], stopping["stoppedReason"]) == ("UserInitiated", "no longer wanted")
    assert stopping["stoppingAt"] and stopping["version"] > task["version"]
    again = ecs.stop_task(cluster=runs, task=task["taskArn"], reason="another")["task"]
    assert again["stoppedReason"] == "no longer wanted"
    fails("InvalidParameterException", ecs.stop_task, cluster=runs, task="0" * 32)


def test_defaults(ecs: Ecs, runs: str) -> None:
    task = ecs.run_task(cluster=runs, taskDefinition="runs:1")["tasks"][0]
    assert task["group"] == "family:runs"
    assert task["tags"] == []
    assert "startedBy" not in task
    ecs.stop_task(cluster=runs, task=task["taskArn"])


def test_what_finds_no_place_is_in_failures(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="narrow")
    definition = define(ecs, "narrow", container={"memory": 1000})
    nowhere = ecs.run_task(cluster="narrow", taskDefinition=definition)
    assert nowhere["tasks"] == []
    assert nowhere["failures"][0]["reason"]
    arn = register(ecs, "narrow")
    answer = ecs.run_task(cluster="narrow", taskDefinition=definition, count=4)
    assert len(answer["tasks"]) == 2, "as many as have room"
    assert {failure["arn"] for failure in answer["failures"]} == {arn}
    assert answer["failures"][0]["reason"] == "RESOURCE:MEMORY"
    much = define(ecs, "narrow-cpu", container={"cpu": 9999})
    assert ecs.run_task(cluster="narrow", taskDefinition=much)["failures"][0]["reason"] == "RESOURCE:CPU"
    port = [{"containerPort": 80, "hostPort": 8080}]
    ported = define(ecs, "narrow-port", container={"portMappings": port, "memory": 4, "cpu": 1})
    answer = ecs.run_task(cluster="narrow", taskDefinition=ported, count=2)
    assert (len(answer["tasks"]), answer["failures"][0]["reason"]) == (1, "RESOURCE:PORTS")
    ecs.update_container_instances_state(cluster="narrow", containerInstances=[arn], status="DRAINING")
    assert ecs.run_task(cluster="narrow", taskDefinition=ported)["failures"]


def test_a_clienttoken_makes_it_happen_once(ecs: Ecs, other: Ecs, runs: str, fails: Fails) -> None:
    request = {"cluster": runs, "taskDefinition": "runs", "count": 2, "clientToken": "once"}
    first = [task["taskArn"] for task in ecs.run_task(**request)["tasks"]]
    for client in (ecs, other, ecs):
        assert [task["taskArn"] for task in client.run_task(**request)["tasks"]] == first
    with pytest.raises(other.exceptions.ConflictException) as raised:
        other.run_task(**{**request, "count": 3})
    assert raised.value.response["resourceIds"] == first
    fails("ConflictException", ecs.run_task, **{**request, "startedBy": "me"})
    different = ecs.run_task(**{**request, "clientToken": "twice"})["tasks"]
    assert not {task["taskArn"] for task in different} & set(first)


def test_a_clienttoken_that_both_processes_get_at_once(ecs: Ecs, other: Ecs, runs: str) -> None:
    """Ten calls race with each token, through both processes: all get the same tasks, placed once."""
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        for number in range(5):
            request = {
                "cluster": runs,
                "taskDefinition": "runs",
                "count": 2,
                "clientToken": f"race-{number}",
                "startedBy": f"race-{number}",
            }
            calls = [pool.submit((ecs, other)[n % 2].run_task, **request) for n in range(10)]
            said = {tuple(task["taskArn"] for task in call.result()["tasks"]) for call in calls}
            assert len(said) == 1
            listed = ecs.list_tasks(cluster=runs, startedBy=f"race-{number}")["taskArns"]
            assert sorted(listed) == sorted(said.pop())
            for arn in listed:
                other.submit_task_state_change(cluster=runs, task=arn, status="STOPPED")


def test_what_one_process_wrote_the_other_sees(ecs: Ecs, other: Ecs, runs: str) -> None:
    for number in range(30):
        writer, reader = (ecs, other) if number % 2 else (other, ecs)
        arn = writer.run_task(cluster=runs, taskDefinition="runs", startedBy=f"rw-{number}")["tasks"][0][
            "taskArn"
        ]
        assert reader.list_tasks(cluster=runs, startedBy=f"rw-{number}")["taskArns"] == [arn]
        writer.stop_task(cluster=runs, task=arn)
        found = reader.describe_tasks(cluster=runs, tasks=[arn])["tasks"][0]
        assert found["desiredStatus"] == "STOPPED"
        reader.submit_task_state_change(cluster=runs, task=arn, status="STOPPED")
        assert writer.describe_tasks(cluster=runs, tasks=[arn])["tasks"][0]["lastStatus"] == "STOPPED"


def test_start_task_goes_where_it_is_told(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="start")
    one, other = register(ecs, "start"), register(ecs, "start")
    definition = define(ecs, "start", container={"memory": 1500})
    answer = ecs.start_task(
        cluster="start",
        taskDefinition=definition,
        containerInstances=[other, one.rpartition("/")[2], "nobody"],
    )
    assert [task["containerInstanceArn"] for task in answer["tasks"]] == [other, one]
    assert [failure["reason"] for failure in answer["failures"]] == ["MISSING"]
    full = ecs.start_task(cluster="start", taskDefinition=definition, containerInstances=[one])
    assert full["failures"][0]["arn"] == one
    assert full["failures"][0]["reason"] == "RESOURCE:MEMORY"
    many = {"taskDefinition": definition, "containerInstances": [one] * 11}
    fails("InvalidParameterException", ecs.start_task, cluster="start", **many)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"count": 0}, "InvalidParameterException"),
        ({"count": 11}, "InvalidParameterException"),
        ({"cluster": "nowhere"}, "ClusterNotFoundException"),
        ({"taskDefinition": "nothing"}, "ClientException"),
        ({"taskDefinition": "a/b"}, "InvalidParameterException"),
        ({"launchType": "FARGATE"}, "UnsupportedFeatureException"),
        ({"capacityProviderStrategy": [{"capacityProvider": "x"}]}, "UnsupportedFeatureException"),
        ({"group": "service:web"}, "InvalidParameterException"),
        ({"startedBy": "x" * 256}, "InvalidParameterException"),
        ({"clientToken": "x" * 65}, "InvalidParameterException"),
        ({"propagateTags": "SERVICE"}, "InvalidParameterException"),
        ({"overrides": {"containerOverrides": [{"name": "nobody"}]}}, "InvalidParameterException"),
        ({"overrides": {"containerOverrides": [{"name": "main", "cpu": -1}]}}, "InvalidParameterException"),
        ({"overrides": {"cpu": "x"}}, "ClientException"),
        ({"placementConstraints": [{"type": "memberOf"}]}, "InvalidParameterException"),
        ({"placementConstraints": [{"type": "memberOf", "expression": "("}]}, "InvalidParameterException"),
        (
            {"placementConstraints": [{"type": "distinctInstance", "expression": "a"}]},
            "InvalidParameterException",
        ),
        ({"placementStrategy": [{"type": "binpack", "field": "disk"}]}, "InvalidParameterException"),
        ({"placementStrategy": [{"type": "spread"}]}, "InvalidParameterException"),
        ({"placementStrategy": [{"type": "spread", "field": "attribute:"}]}, "InvalidParameterException"),
        ({"placementStrategy": [{"type": "random", "field": "cpu"}]}, "InvalidParameterException"),
        ({"placementStrategy": [{"type": "random"}] * 6}, "InvalidParameterException"),
    ],
)
def test_what_is_refused(ecs: Ecs, runs: str, fails: Fails, params: dict[str, Any], code: str) -> None:
    fails(code, ecs.run_task, **{"cluster": runs, "taskDefinition": "runs", **params})


def test_describing_and_listing(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="listed")
    one, other = register(ecs, "listed"), register(ecs, "listed")
    define(ecs, "listed-a")
    define(ecs, "listed-b")

    def start(definition: str, instance: str, **params: Any) -> str:
        answer = ecs.start_task(
            cluster="listed", taskDefinition=definition, containerInstances=[instance], **params
        )
        return str(answer["tasks"][0]["taskArn"])

    a = start("listed-a", one, startedBy="me")
    b = start("listed-b", one)
    c = start("listed-b", other, startedBy="me")
    ecs.stop_task(cluster="listed", task=c)

    def listed(**params: Any) -> set[str]:
        return set(ecs.list_tasks(cluster="listed", **params)["taskArns"])

    assert listed() == listed(desiredStatus="RUNNING") == listed(launchType="EC2") == {a, b}
    assert listed(desiredStatus="STOPPED") == {c}
    assert listed(containerInstance=one) == {a, b}
    assert listed(containerInstance=other, desiredStatus="STOPPED") == {c}
    assert listed(family="listed-b") == {b}
    assert listed(family="none") == listed(desiredStatus="PENDING") == listed(launchType="FARGATE") == set()
    assert listed(startedBy="me") == {a}
    assert listed(startedBy="me", desiredStatus="STOPPED", family="listed-b") == {c}
    fails("InvalidParameterException", ecs.list_tasks, cluster="listed", containerInstance="nobody")
    fails("ServiceNotFoundException", ecs.list_tasks, cluster="listed", serviceName="none")
    fails("InvalidParameterException", ecs.describe_tasks, cluster="listed", tasks=[])
    fails("InvalidParameterException", ecs.describe_tasks, cluster="listed", tasks=["a"] * 101)
    missing = ecs.describe_tasks(cluster="listed", tasks=["nothing", a])
    assert missing["failures"] == [
        {"arn": "arn:aws:ecs:us-east-1:123456789012:task/listed/nothing", "reason": "MISSING"}
    ]
    elsewhere = ecs.describe_tasks(cluster="runs", tasks=[a])
    assert [failure["reason"] for failure in elsewhere["failures"]] == ["MISSING"]


def test_only_a_service_s_tasks_are_protected(ecs: Ecs, runs: str) -> None:
    arn = ecs.run_task(cluster=runs, taskDefinition="runs")["tasks"][0]["taskArn"]
    answer = ecs.update_task_protection(cluster=runs, tasks=[arn, "none"], protectionEnabled=True)
    assert [failure["reason"] for failure in answer["failures"]] == ["TASK_NOT_VALID", "MISSING"]
    shown = ecs.get_task_protection(cluster=runs, tasks=[arn])["protectedTasks"]
    assert shown == [{"taskArn": arn, "protectionEnabled": False}]
    ecs.stop_task(cluster=runs, task=arn)
