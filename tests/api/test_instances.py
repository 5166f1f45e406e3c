"""Container instances and their attributes, through an unmodified boto3."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.world import RESOURCES, ZONES, Ecs, define, register

Fails = Callable[..., str]


def test_an_instance_s_life(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="hosts")
    registered = ecs.register_container_instance(
        cluster="hosts",
        totalResources=[*RESOURCES, {"name": "GPU", "type": "INTEGER", "integerValue": 2}],
        attributes=[{"name": "ecs.instance-type", "value": "t3.large"}, {"name": "bare"}],
        versionInfo={"agentVersion": "1.2.3", "dockerVersion": "DockerVersion: 20"},
        instanceIdentityDocument=json.dumps({"instanceId": "i-0123"}),
        tags=[{"key": "rack", "value": "7"}],
    )["containerInstance"]
    arn = registered["containerInstanceArn"]
    assert arn.startswith("arn:aws:ecs:us-east-1:123456789012:container-instance/hosts/")

    found = ecs.describe_container_instances(cluster="hosts", containerInstances=[arn], include=["TAGS"])
    assert found["failures"] == []
    host = found["containerInstances"][0]
    assert (host["status"], host["agentConnected"], host["ec2InstanceId"]) == ("ACTIVE", True, "i-0123")
    assert host["versionInfo"] == {"agentVersion": "1.2.3", "dockerVersion": "DockerVersion: 20"}
    assert host["tags"] == [{"key": "rack", "value": "7"}]
    assert {"name": "bare"} in host["attributes"]
    left = {resource["name"]: resource for resource in host["remainingResources"]}
    assert (left["CPU"]["integerValue"], left["MEMORY"]["integerValue"]) == (2048, 2048)
    assert (left["PORTS"]["stringSetValue"], left["GPU"]["integerValue"]) == (["22"], 2)

    for form in (arn.rpartition("/")[2], arn.replace("/hosts/", "/")):
        assert ecs.describe_container_instances(cluster="hosts", containerInstances=[form])["failures"] == []

    again = ecs.register_container_instance(
        cluster="hosts",
        containerInstanceArn=arn,
        totalResources=[{**RESOURCES[0], "integerValue": 4096}, *RESOURCES[1:]],
        attributes=[{"name": "ecs.instance-type", "value": "t3.xlarge"}],
    )["containerInstance"]
    assert again["containerInstanceArn"] == arn
    left = {resource["name"]: resource for resource in again["remainingResources"]}
    assert left["CPU"]["integerValue"] == 4096

    drained = ecs.update_container_instances_state(
        cluster="hosts", containerInstances=[arn, "nobody"], status="DRAINING"
    )
    assert drained["containerInstances"][0]["status"] == "DRAINING"
    assert [failure["reason"] for failure in drained["failures"]] == ["MISSING"]
    assert ecs.list_container_instances(cluster="hosts", status="DRAINING")["containerInstanceArns"] == [arn]
    assert ecs.list_container_instances(cluster="hosts", status="ACTIVE")["containerInstanceArns"] == []
    ecs.update_container_instances_state(cluster="hosts", containerInstances=[arn], status="ACTIVE")

    gone = ecs.deregister_container_instance(cluster="hosts", containerInstance=arn)["containerInstance"]
    assert (gone["status"], gone["agentConnected"]) == ("INACTIVE", False)
    assert ecs.list_container_instances(cluster="hosts")["containerInstanceArns"] == []
    assert fails(
        "ClientException",
        ecs.register_container_instance,
        cluster="hosts",
        containerInstanceArn=arn,
        totalResources=RESOURCES,
    ).endswith("was deregistered: register as a new one.")


def test_the_default_cluster_is_made_by_who_registers_first_and_no_other(ecs: Ecs, fails: Fails) -> None:
    fails(
        "ClusterNotFoundException",
        ecs.register_container_instance,
        cluster="not-made",
        totalResources=RESOURCES,
    )


def test_tasks_are_in_the_way_of_leaving_unless_it_is_forced(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="leaving")
    arn = register(ecs, "leaving")
    task = ecs.run_task(cluster="leaving", taskDefinition=define(ecs, "leaving"))["tasks"][0]["taskArn"]
    said = fails(
        "InvalidParameterException",
        ecs.deregister_container_instance,
        cluster="leaving",
        containerInstance=arn,
    )
    assert said == "Found running tasks on the instance."
    ecs.deregister_container_instance(cluster="leaving", containerInstance=arn, force=True)
    stopped = ecs.describe_tasks(cluster="leaving", tasks=[task])["tasks"][0]
    assert (stopped["lastStatus"], stopped["stopCode"]) == ("STOPPED", "TerminationNotice")
    assert ecs.delete_cluster(cluster="leaving")["cluster"]["status"] == "INACTIVE"


def test_an_instance_keeps_what_its_tasks_hold(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="shrinking")
    arn = register(ecs, "shrinking")
    port = [{"containerPort": 80, "hostPort": 8080}]
    definition = define(ecs, "shrinking", container={"memory": 1000, "portMappings": port})
    ecs.run_task(cluster="shrinking", taskDefinition=definition)

    def resources(memory: int, *ports: str) -> list[dict[str, Any]]:
        return [
            RESOURCES[0],
            {"name": "MEMORY", "type": "INTEGER", "integerValue": memory},
            {"name": "PORTS", "type": "STRINGSET", "stringSetValue": list(ports)},
        ]

    again = {"cluster": "shrinking", "containerInstanceArn": arn}
    for wanted, said in (
        (resources(999), "tasks hold 1000 of MEMORY"),
        (resources(2048, "8080"), "port 8080"),
    ):
        call = ecs.register_container_instance
        assert said in fails("ClientException", call, **again, totalResources=wanted)
    assert register(ecs, "shrinking", containerInstanceArn=arn, totalResources=resources(1000, "22")) == arn


def test_updating_the_agent_says_that_there_is_nothing_newer(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="versions")
    known = register(ecs, "versions", versionInfo={"agentVersion": "1.0.0"})
    fails(
        "NoUpdateAvailableException", ecs.update_container_agent, cluster="versions", containerInstance=known
    )
    unknown = register(ecs, "versions")
    fails(
        "MissingVersionException", ecs.update_container_agent, cluster="versions", containerInstance=unknown
    )


@pytest.mark.parametrize(
    ("call", "params", "code"),
    [
        ("describe_container_instances", {"containerInstances": []}, "InvalidParameterException"),
        ("describe_container_instances", {"containerInstances": ["a"] * 101}, "InvalidParameterException"),
        (
            "update_container_instances_state",
            {"containerInstances": ["a"], "status": "DEREGISTERING"},
            "InvalidParameterException",
        ),
        ("deregister_container_instance", {"containerInstance": "nobody"}, "InvalidParameterException"),
        ("list_container_instances", {"filter": "attribute:"}, "InvalidParameterException"),
        ("list_container_instances", {"filter": "cpu > 7"}, "InvalidParameterException"),
        (
            "list_attributes",
            {"targetType": "container-instance", "attributeValue": "x"},
            "InvalidParameterException",
        ),
        ("put_attributes", {"attributes": []}, "InvalidParameterException"),
        ("put_attributes", {"attributes": [{"name": "a", "targetId": "nobody"}]}, "TargetNotFoundException"),
        (
            "put_attributes",
            {"attributes": [{"name": "a b", "targetId": "nobody"}]},
            "InvalidParameterException",
        ),
    ],
)
def test_what_is_refused(ecs: Ecs, fails: Fails, call: str, params: dict[str, Any], code: str) -> None:
    fails(code, getattr(ecs, call), **params)


def test_a_bad_expression_is_pointed_at(ecs: Ecs, fails: Fails) -> None:
    said = fails("InvalidParameterException", ecs.list_container_instances, filter="attribute:a == b and and")
    assert "^" in said
    assert "character" in said


def test_custom_attributes(ecs: Ecs, fails: Fails) -> None:
    ecs.create_cluster(clusterName="labels")
    one = register(ecs, "labels", attributes=[{"name": "ecs.os-type", "value": "linux"}])
    other = register(ecs, "labels", attributes=[{"name": "ecs.os-type", "value": "linux"}])
    given = [
        {"name": "stack", "value": "prod", "targetType": "container-instance", "targetId": one},
        {"name": "stack", "value": "test", "targetId": other},
        {"name": "ssd", "targetId": one.rpartition("/")[2]},
    ]
    put = ecs.put_attributes(cluster="labels", attributes=given)["attributes"]
    assert put[2] == {"name": "ssd", "targetType": "container-instance", "targetId": one}

    def listed(**params: Any) -> set[tuple[str, str, str]]:
        found = ecs.list_attributes(cluster="labels", targetType="container-instance", **params)
        return {(each["targetId"], each["name"], each.get("value", "")) for each in found["attributes"]}

    assert listed(attributeName="stack") == {(one, "stack", "prod"), (other, "stack", "test")}
    assert listed(attributeName="stack", attributeValue="test") == {(other, "stack", "test")}
    assert len(listed()) == 5
    ecs.put_attributes(cluster="labels", attributes=[{"name": "stack", "value": "new", "targetId": one}])
    assert (one, "stack", "new") in listed()
    ecs.delete_attributes(cluster="labels", attributes=[{"name": "ssd", "targetId": one}])
    assert len(listed()) == 4
    fails(
        "TargetNotFoundException",
        ecs.delete_attributes,
        cluster="labels",
        attributes=[{"name": "ssd", "targetId": one}],
    )
    many = [{"name": f"n{number}", "targetId": one} for number in range(10)]
    for start in range(0, 49, 10):
        some = [{**each, "name": f"{each['name']}-{start}"} for each in many[: min(10, 49 - start)]]
        ecs.put_attributes(cluster="labels", attributes=some)
    fails(
        "AttributeLimitExceededException",
        ecs.put_attributes,
        cluster="labels",
        attributes=[{"name": "too-many", "targetId": one}],
    )


def test_the_slides_filters_on_real_agents(ecs: Ecs) -> None:
    """The cluster's three agents: one t2.small in 1a, and a t2.medium each in 1b and 1c."""

    def zones(expression: str) -> set[str]:
        arns = ecs.list_container_instances(filter=expression)["containerInstanceArns"]
        if not arns:
            return set()
        found = ecs.describe_container_instances(containerInstances=arns)["containerInstances"]
        attributes = [{each["name"]: each.get("value") for each in one["attributes"]} for one in found]
        return {str(each["ecs.availability-zone"])[-2:] for each in attributes}

    assert len(ZONES) == 3
    assert zones("attribute:ecs.instance-type == t2.small") == {"1a"}
    assert zones("attribute:ecs.availability-zone == us-east-1c") == {"1c"}
    assert zones(
        "attribute:ecs.instance-type != t2.small and attribute:ecs.availability-zone == us-east-1b"
    ) == {"1b"}
    assert zones(
        "(attribute:ecs.instance-type == t2.small or attribute:ecs.instance-type == t2.medium) and "
        "attribute:ecs.availability-zone != us-east-1b"
    ) == {"1a", "1c"}
    assert zones("attribute:ecs.instance-type =~ t2.*") == {"1a", "1b", "1c"}
    assert zones("attribute:ecs.instance-type =~ g.*") == set()
    assert zones("agentConnected == true and runningTasksCount >= 0") == {"1a", "1b", "1c"}
