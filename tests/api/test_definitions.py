"""Task definitions, through an unmodified boto3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.world import Ecs, define

Fails = Callable[..., str]


def test_a_definition_s_life(ecs: Ecs, fails: Fails) -> None:
    container = {
        "name": "main",
        "image": "nginx:1",
        "cpu": 100,
        "memoryReservation": 64,
        "portMappings": [{"containerPort": 80, "hostPort": 0, "protocol": "tcp"}],
        "environment": [{"name": "A", "value": "1"}],
        "logConfiguration": {"logDriver": "json-file", "options": {"max-size": "1m"}},
        "healthCheck": {"command": ["CMD-SHELL", "true"]},
        "dockerLabels": {"a": "b"},
        "ulimits": [{"name": "nofile", "softLimit": 10, "hardLimit": 20}],
    }
    registered = ecs.register_task_definition(
        family="life",
        containerDefinitions=[container],
        cpu="1 vCPU",
        memory="1 GB",
        networkMode="bridge",
        volumes=[{"name": "data", "host": {"sourcePath": "/data"}}],
        placementConstraints=[{"type": "memberOf", "expression": "attribute:a == b"}],
        requiresCompatibilities=["EC2"],
        taskRoleArn="arn:aws:iam::123456789012:role/x",
        runtimePlatform={"operatingSystemFamily": "LINUX"},
        tags=[{"key": "a", "value": "b"}],
    )
    assert registered["tags"] == [{"key": "a", "value": "b"}]
    shown = registered["taskDefinition"]
    assert shown["taskDefinitionArn"] == "arn:aws:ecs:us-east-1:123456789012:task-definition/life:1"
    assert (shown["revision"], shown["status"], shown["cpu"], shown["memory"]) == (
        1,
        "ACTIVE",
        "1024",
        "1024",
    )
    assert shown["taskRoleArn"] == "arn:aws:iam::123456789012:role/x"
    main = shown["containerDefinitions"][0]
    assert {name: main[name] for name in container if name != "healthCheck"} == {
        name: value for name, value in container.items() if name != "healthCheck"
    }
    assert main["healthCheck"] == {
        "command": ["CMD-SHELL", "true"],
        "interval": 30,
        "timeout": 5,
        "retries": 3,
    }
    assert (main["essential"], main["mountPoints"], main["volumesFrom"]) == (True, [], [])

    assert define(ecs, "life").endswith(":2")
    latest = ecs.describe_task_definition(taskDefinition="life", include=["TAGS"])
    assert (latest["taskDefinition"]["revision"], latest["tags"]) == (2, [])
    assert "tags" not in ecs.describe_task_definition(taskDefinition="life:1")
    for form in ("life:1", shown["taskDefinitionArn"]):
        assert ecs.describe_task_definition(taskDefinition=form)["taskDefinition"] == shown

    gone = ecs.deregister_task_definition(taskDefinition="life:2")["taskDefinition"]
    assert gone["status"] == "INACTIVE"
    assert gone["deregisteredAt"]
    assert ecs.describe_task_definition(taskDefinition="life")["taskDefinition"]["revision"] == 1
    fails("ClientException", ecs.deregister_task_definition, taskDefinition="life:2")
    said = fails("ClientException", ecs.run_task, taskDefinition="life:2")
    assert said == "TaskDefinition is inactive"
    assert define(ecs, "life").endswith(":3"), "a number is never given twice"

    deleted = ecs.delete_task_definitions(taskDefinitions=["life:1", "life:2", "life:99"])
    assert [each["status"] for each in deleted["taskDefinitions"]] == ["DELETE_IN_PROGRESS"]
    assert [each["arn"].rpartition(":")[2] for each in deleted["failures"]] == ["1", "99"]
    listed = ecs.list_task_definitions(familyPrefix="life", status="DELETE_IN_PROGRESS")
    assert [arn.rpartition("/")[2] for arn in listed["taskDefinitionArns"]] == ["life:2"]


def test_several_revisions_at_once_get_a_number_each(ecs: Ecs, other: Ecs) -> None:
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        arns = list(pool.map(lambda n: define((ecs, other)[n % 2], "crowd"), range(16)))
    assert sorted(int(arn.rpartition(":")[2]) for arn in arns) == list(range(1, 17))


CONTAINER = {"name": "a", "image": "b", "memory": 64}


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"family": "a b", "containerDefinitions": [CONTAINER]}, "Invalid family"),
        ({"containerDefinitions": []}, "Container list cannot be empty"),
        ({"containerDefinitions": [{**CONTAINER, "name": ""}]}, "Container.name should not be null"),
        ({"containerDefinitions": [{**CONTAINER, "image": ""}]}, "Container.image should not be null"),
        ({"containerDefinitions": [{"name": "a", "image": "b"}]}, "At least one of 'memory'"),
        ({"containerDefinitions": [CONTAINER, CONTAINER]}, "a name of its own"),
        ({"containerDefinitions": [{**CONTAINER, "essential": False}]}, "essential"),
        ({"containerDefinitions": [CONTAINER], "cpu": "much"}, "Invalid 'cpu' setting"),
        ({"containerDefinitions": [CONTAINER], "memory": "32"}, "more memory than the task's 32 MiB"),
        (
            {
                "containerDefinitions": [
                    {**CONTAINER, "portMappings": [{"hostPort": 70000, "containerPort": 1}]}
                ]
            },
            "hostPort 70000",
        ),
        (
            {
                "containerDefinitions": [
                    {**CONTAINER, "dependsOn": [{"containerName": "z", "condition": "START"}]}
                ]
            },
            "dependsOn 'z' is not there",
        ),
        (
            {
                "containerDefinitions": [CONTAINER],
                "placementConstraints": [{"type": "memberOf", "expression": "attribute:x == "}],
            },
            "Invalid expression",
        ),
        ({"containerDefinitions": [{**CONTAINER, "mountPoints": [{"sourceVolume": "v"}]}]}, "volume 'v'"),
    ],
)
def test_what_makes_no_definition(ecs: Ecs, fails: Fails, params: dict[str, Any], said: str) -> None:
    assert said in fails("ClientException", ecs.register_task_definition, **{"family": "bad", **params})


def test_what_is_not_there(ecs: Ecs, fails: Fails) -> None:
    for given in ("none", "none:1", "life:999", "life:0", "life:01"):
        said = fails("ClientException", ecs.describe_task_definition, taskDefinition=given)
        assert said == "Unable to describe task definition."
    fails("ClientException", ecs.deregister_task_definition, taskDefinition="none:1")
    fails("ClientException", ecs.deregister_task_definition, taskDefinition="none")
    assert fails("ClientException", ecs.run_task, taskDefinition="none") == "TaskDefinition not found."
    fails("InvalidParameterException", ecs.delete_task_definitions, taskDefinitions=[])


def test_families(ecs: Ecs) -> None:
    for family in ("fam-one", "fam-one", "fam-two"):
        define(ecs, family)
    ecs.deregister_task_definition(taskDefinition="fam-two:1")
    ecs.deregister_task_definition(taskDefinition="fam-one:1")

    def families(**params: Any) -> list[str]:
        found: list[str] = ecs.list_task_definition_families(familyPrefix="fam-", **params)["families"]
        return found

    assert families() == families(status="ACTIVE") == ["fam-one"]
    assert families(status="INACTIVE") == ["fam-two"]
    assert families(status="ALL") == ["fam-one", "fam-two"]


def test_definitions_are_listed_in_order_or_newest_first(ecs: Ecs) -> None:
    for family in ("order-a", "order-b", "order-a"):
        define(ecs, family)

    def listed(**params: Any) -> list[str]:
        arns = ecs.list_task_definitions(**params)["taskDefinitionArns"]
        return [arn.rpartition("/")[2] for arn in arns if "/order-" in arn]

    assert listed() == ["order-a:1", "order-a:2", "order-b:1"]
    assert listed(sort="DESC") == ["order-b:1", "order-a:2", "order-a:1"]
    assert listed(familyPrefix="order-a", sort="DESC") == ["order-a:2", "order-a:1"]
    assert listed(familyPrefix="order") == [], "despite its name it is a whole family"
