"""Tags of everything that has an ARN, and account settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.world import Ecs, define, register

Fails = Callable[..., str]

ROOT = "arn:aws:iam::123456789012:root"


@pytest.fixture(scope="module")
def arns(ecs: Ecs) -> dict[str, str]:
    cluster = ecs.create_cluster(clusterName="tags")["cluster"]["clusterArn"]
    instance = register(ecs, "tags")
    definition = define(ecs, "tags")
    task = ecs.run_task(cluster="tags", taskDefinition=definition)["tasks"][0]["taskArn"]
    service = ecs.create_service(
        cluster="tags", serviceName="tags", taskDefinition=definition, desiredCount=0
    )["service"]["serviceArn"]
    return {
        "cluster": cluster,
        "instance": instance,
        "definition": definition,
        "task": task,
        "service": service,
    }


@pytest.mark.parametrize("kind", ["cluster", "instance", "definition", "task", "service"])
def test_tags_come_and_go(ecs: Ecs, other: Ecs, arns: dict[str, str], fails: Fails, kind: str) -> None:
    arn = arns[kind]
    ecs.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "2"}])
    ecs.tag_resource(resourceArn=arn, tags=[{"key": "a", "value": "3"}])
    shown = {"a": "3", "b": "2"}
    assert {
        each["key"]: each["value"] for each in other.list_tags_for_resource(resourceArn=arn)["tags"]
    } == shown
    ecs.untag_resource(resourceArn=arn, tagKeys=["a", "never-there"])
    assert ecs.list_tags_for_resource(resourceArn=arn)["tags"] == [{"key": "b", "value": "2"}]
    too_many = [{"key": f"k{number}", "value": ""} for number in range(50)]
    fails("InvalidParameterException", ecs.tag_resource, resourceArn=arn, tags=too_many)
    assert len(ecs.list_tags_for_resource(resourceArn=arn)["tags"]) == 1


def test_described_with_their_tags_where_asked(ecs: Ecs, arns: dict[str, str]) -> None:
    ecs.tag_resource(resourceArn=arns["task"], tags=[{"key": "x", "value": "y"}])
    with_tags = ecs.describe_tasks(cluster="tags", tasks=[arns["task"]], include=["TAGS"])["tasks"][0]["tags"]
    assert {"key": "x", "value": "y"} in with_tags
    assert ecs.describe_tasks(cluster="tags", tasks=[arns["task"]])["tasks"][0]["tags"] == []


def test_what_has_no_tags(ecs: Ecs, arns: dict[str, str], fails: Fails) -> None:
    base = "arn:aws:ecs:us-east-1:123456789012:"
    for arn, code in (
        ("garbage", "InvalidParameterException"),
        (f"{base}capacity-provider/x", "InvalidParameterException"),
        (f"{base}task-definition/tags", "InvalidParameterException"),
        (f"{base}task-definition/tags:99", "ResourceNotFoundException"),
        (f"{base}task/tags/nothing", "ResourceNotFoundException"),
        (f"{base}service/nothing", "ResourceNotFoundException"),
        (f"{base}cluster/nothing", "ClusterNotFoundException"),
    ):
        fails(code, ecs.list_tags_for_resource, resourceArn=arn)
        fails(code, ecs.tag_resource, resourceArn=arn, tags=[{"key": "a", "value": "b"}])
    short = arns["task"].replace("/tags/", "/")
    assert ecs.list_tags_for_resource(resourceArn=short) is not None


def test_account_settings(ecs: Ecs, other: Ecs, fails: Fails) -> None:
    name = "taskLongArnFormat"
    put = ecs.put_account_setting_default(name=name, value="disabled")["setting"]
    assert (put["name"], put["value"], put["principalArn"]) == (name, "disabled", ROOT)
    user = "arn:aws:iam::123456789012:user/ann"
    ecs.put_account_setting(name=name, value="enabled", principalArn=user)

    def value(principal: str) -> str:
        found = other.list_account_settings(name=name, principalArn=principal, effectiveSettings=True)
        return str(found["settings"][0]["value"])

    assert (value(ROOT), value(user), value(f"{user}a")) == ("disabled", "enabled", "disabled")
    listed = ecs.list_account_settings(name=name)["settings"]
    assert [(each["principalArn"], each["value"]) for each in listed] == [
        (ROOT, "disabled"),
        (user, "enabled"),
    ]
    assert ecs.list_account_settings(name=name, value="enabled")["settings"] == [listed[1]]
    ecs.delete_account_setting(name=name, principalArn=user)
    assert value(user) == "disabled"
    ecs.delete_account_setting(name=name)
    assert value(user) == "enabled"
    fails("InvalidParameterException", ecs.put_account_setting, name=name, value="maybe")
    fails("InvalidParameterException", ecs.put_account_setting, name="nothing", value="enabled")
