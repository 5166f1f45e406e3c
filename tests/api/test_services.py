"""Services, through an unmodified boto3: what is written, and what the scheduler and agents make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.world import Ecs, Served, define, until

Fails = Callable[..., str]

SOON = {"Delay": 1, "MaxAttempts": 120}
SLEEP = {"command": ["sleep", "600"], "stopTimeout": 2}


@pytest.fixture(scope="module")
def written(ecs: Ecs) -> str:
    """A cluster without instances: nothing is placed there, so what is written stays as it is."""
    ecs.create_cluster(clusterName="written")
    for _ in range(2):
        define(ecs, "written")
    return "written"


def service_of(ecs: Ecs, cluster: str, name: str, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = ecs.describe_services(cluster=cluster, services=[name], **params)["services"][0]
    return found


# -- what is written -------------------------------------------------------------------------


def test_a_service_is_shown_as_it_was_asked_for(ecs: Ecs, written: str) -> None:
    asked = {
        "desiredCount": 3,
        "deploymentConfiguration": {
            "maximumPercent": 150,
            "minimumHealthyPercent": 50,
            "deploymentCircuitBreaker": {"enable": True, "rollback": True},
        },
        "placementConstraints": [{"type": "distinctInstance"}],
        "placementStrategy": [{"type": "spread", "field": "attribute:ecs.availability-zone"}],
        "propagateTags": "SERVICE",
        "enableECSManagedTags": True,
        "healthCheckGracePeriodSeconds": 30,
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
        "loadBalancers": [{"targetGroupArn": "arn:x", "containerName": "main", "containerPort": 80}],
        "tags": [{"key": "a", "value": "b"}],
    }
    created = ecs.create_service(cluster=written, serviceName="asked", taskDefinition="written:1", **asked)
    shown = created["service"]
    assert shown["serviceArn"] == "arn:aws:ecs:us-east-1:123456789012:service/written/asked"
    assert {name: shown[name] for name in asked if name != "deploymentConfiguration"} == {
        name: value for name, value in asked.items() if name != "deploymentConfiguration"
    }
    configuration = {**asked["deploymentConfiguration"], "strategy": "ROLLING"}  # type: ignore[dict-item]
    assert shown["deploymentConfiguration"] == configuration
    assert (shown["status"], shown["schedulingStrategy"], shown["launchType"]) == ("ACTIVE", "REPLICA", "EC2")
    assert shown["taskDefinition"].endswith("/written:1")
    assert (shown["runningCount"], shown["pendingCount"]) == (0, 0)
    [deployment] = shown["deployments"]
    assert (deployment["status"], deployment["rolloutState"]) == ("PRIMARY", "IN_PROGRESS")
    assert (deployment["desiredCount"], deployment["failedTasks"]) == (3, 0)
    assert deployment["id"].startswith("ecs-svc/") and len(deployment["id"]) == 27
    assert service_of(ecs, written, "asked")["tags"] == []
    assert service_of(ecs, written, "asked", include=["TAGS"])["tags"] == asked["tags"]
    ecs.delete_service(cluster=written, service="asked", force=True)


def test_creating_is_idempotent_for_the_same_call_alone(
    ecs: Ecs, other: Ecs, written: str, fails: Fails
) -> None:
    call = {
        "cluster": written,
        "serviceName": "once",
        "taskDefinition": "written:1",
        "desiredCount": 0,
        "clientToken": "t",
    }
    first = ecs.create_service(**call)["service"]
    assert other.create_service(**call)["service"]["createdAt"] == first["createdAt"]
    said = fails("InvalidParameterException", ecs.create_service, **{**call, "desiredCount": 1})
    assert said == "Creation of service was not idempotent."
    fails("InvalidParameterException", ecs.create_service, **{**call, "clientToken": "u"})
    ecs.delete_service(cluster=written, service="once")
    assert ecs.create_service(**{**call, "desiredCount": 1})["service"]["desiredCount"] == 1


def test_an_update_changes_what_it_names(ecs: Ecs, written: str, fails: Fails) -> None:
    ecs.create_service(cluster=written, serviceName="upd", taskDefinition="written:1", desiredCount=1)
    before = service_of(ecs, written, "upd")

    scaled = ecs.update_service(cluster=written, service="upd", desiredCount=4)["service"]
    assert scaled["desiredCount"] == 4
    assert [each["id"] for each in scaled["deployments"]] == [each["id"] for each in before["deployments"]]

    updated = ecs.update_service(
        cluster=written,
        service=before["serviceArn"],
        taskDefinition="written:2",
        deploymentConfiguration={"minimumHealthyPercent": 0},
        placementStrategy=[{"type": "binpack", "field": "MEMORY"}],
    )["service"]
    assert updated["taskDefinition"].endswith("written:2")
    assert updated["deployments"][0]["taskDefinition"].endswith("written:2")
    assert updated["deployments"][0]["id"] != before["deployments"][0]["id"]
    assert updated["deploymentConfiguration"]["minimumHealthyPercent"] == 0
    assert updated["deploymentConfiguration"]["maximumPercent"] == 200
    assert updated["placementStrategy"] == [{"type": "binpack", "field": "memory"}]

    forced = ecs.update_service(cluster=written, service="upd", forceNewDeployment=True)["service"]
    assert forced["deployments"][0]["id"] != updated["deployments"][0]["id"]
    for _ in range(10):
        forced = ecs.update_service(cluster=written, service="upd", forceNewDeployment=True)["service"]
    assert len(forced["deployments"]) <= 3, "what has no task and was never completed is not kept"
    same = ecs.update_service(cluster=written, service="upd", desiredCount=4)["service"]
    assert same["deployments"][0]["id"] == forced["deployments"][0]["id"]

    said = fails("InvalidParameterException", ecs.delete_service, cluster=written, service="upd")
    assert said == "The service cannot be stopped while it is scaled above 0."
    ecs.update_service(cluster=written, service="upd", desiredCount=0)
    assert ecs.delete_service(cluster=written, service="upd")["service"]["status"] == "INACTIVE"
    gone = service_of(ecs, written, "upd")
    assert (gone["status"], gone["deployments"]) == ("INACTIVE", [])
    said = fails("ServiceNotActiveException", ecs.update_service, cluster=written, service="upd")
    assert said == "Service was not ACTIVE."
    fails("ServiceNotFoundException", ecs.delete_service, cluster=written, service="upd")


def test_deployments_and_revisions_of_a_service(ecs: Ecs, written: str, fails: Fails) -> None:
    ecs.create_service(cluster=written, serviceName="dep", taskDefinition="written:1", desiredCount=2)
    listed = ecs.list_service_deployments(cluster=written, service="dep")["serviceDeployments"]
    [brief] = listed
    assert brief["status"] == "IN_PROGRESS"
    arn, revision = brief["serviceDeploymentArn"], brief["targetServiceRevisionArn"]
    answer = ecs.describe_service_deployments(serviceDeploymentArns=[arn, f"{arn}0"])
    assert [failure["reason"] for failure in answer["failures"]] == ["MISSING"]
    [shown] = answer["serviceDeployments"]
    assert shown["targetServiceRevision"]["arn"] == revision
    assert (shown["targetServiceRevision"]["requestedTaskCount"], shown["status"]) == (2, "IN_PROGRESS")
    [brought] = ecs.describe_service_revisions(serviceRevisionArns=[revision])["serviceRevisions"]
    assert brought["taskDefinition"].endswith("/written:1")
    assert brought["containerImages"] == [{"containerName": "main", "image": "busybox"}]
    ecs.update_service(cluster=written, service="dep", taskDefinition="written:2")
    newest = ecs.list_service_deployments(cluster=written, service="dep")["serviceDeployments"][0]
    assert newest["serviceDeploymentArn"] != arn
    done = ecs.list_service_deployments(cluster=written, service="dep", status=["SUCCESSFUL"])
    assert done["serviceDeployments"] == []
    fails("ServiceNotFoundException", ecs.list_service_deployments, cluster=written, service="none")
    fails("InvalidParameterException", ecs.describe_service_revisions, serviceRevisionArns=[arn])
    ecs.delete_service(cluster=written, service="dep", force=True)


def test_a_daemon_has_no_count(ecs: Ecs, written: str, fails: Fails) -> None:
    daemon = {"cluster": written, "taskDefinition": "written:1", "schedulingStrategy": "DAEMON"}
    fails("InvalidParameterException", ecs.create_service, serviceName="d", desiredCount=1, **daemon)
    strategy = [{"type": "random"}]
    fails(
        "InvalidParameterException", ecs.create_service, serviceName="d", placementStrategy=strategy, **daemon
    )
    shown = ecs.create_service(serviceName="d", **daemon)["service"]
    assert (shown["schedulingStrategy"], shown["desiredCount"]) == ("DAEMON", 0)
    assert shown["deploymentConfiguration"]["minimumHealthyPercent"] == 0
    fails("InvalidParameterException", ecs.update_service, cluster=written, service="d", desiredCount=1)
    ecs.delete_service(cluster=written, service="d", force=True)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"serviceName": "a b"}, "InvalidParameterException"),
        ({"taskDefinition": "none"}, "ClientException"),
        ({"cluster": "nowhere"}, "ClusterNotFoundException"),
        ({"desiredCount": -1}, "InvalidParameterException"),
        ({"desiredCount": 5001}, "InvalidParameterException"),
        ({"launchType": "FARGATE"}, "UnsupportedFeatureException"),
        ({"deploymentController": {"type": "CODE_DEPLOY"}}, "UnsupportedFeatureException"),
        ({"deploymentConfiguration": {"strategy": "BLUE_GREEN"}}, "UnsupportedFeatureException"),
        ({"deploymentConfiguration": {"minimumHealthyPercent": 101}}, "InvalidParameterException"),
        (
            {"deploymentConfiguration": {"minimumHealthyPercent": 100, "maximumPercent": 100}},
            "InvalidParameterException",
        ),
        ({"placementConstraints": [{"type": "memberOf", "expression": "a"}]}, "InvalidParameterException"),
        ({"placementStrategy": [{"type": "spread", "field": "x"}]}, "InvalidParameterException"),
    ],
)
def test_what_is_refused(ecs: Ecs, written: str, fails: Fails, params: dict[str, Any], code: str) -> None:
    good = {"cluster": written, "serviceName": "bad", "taskDefinition": "written:1", "desiredCount": 1}
    fails(code, ecs.create_service, **{**good, **params})


def test_what_is_not_there(ecs: Ecs, written: str, fails: Fails) -> None:
    answer = ecs.describe_services(cluster=written, services=["none"])
    assert answer["failures"] == [
        {"arn": "arn:aws:ecs:us-east-1:123456789012:service/written/none", "reason": "MISSING"}
    ]
    fails("ServiceNotFoundException", ecs.update_service, cluster=written, service="none")
    fails("InvalidParameterException", ecs.describe_services, cluster=written, services=[])
    fails("InvalidParameterException", ecs.describe_services, cluster=written, services=["a"] * 11)
    needs_count = {"serviceName": "x", "taskDefinition": "written:1"}
    fails("InvalidParameterException", ecs.create_service, cluster=written, **needs_count)
    fails("InvalidParameterException", ecs.create_service, cluster=written, serviceName="x", desiredCount=1)


# -- what becomes of it ------------------------------------------------------------------------


def test_a_service_of_real_tasks_from_its_beginning_to_its_end(ecs: Ecs, other: Ecs) -> None:
    """Created, rolled to a new revision, scaled and deleted; all four waiters, unchanged."""
    define(ecs, "real", container=SLEEP)
    ecs.create_service(
        serviceName="real",
        taskDefinition="real",
        desiredCount=3,
        placementConstraints=[{"type": "distinctInstance"}],
        tags=[{"key": "team", "value": "blue"}],
        propagateTags="SERVICE",
    )
    other.get_waiter("services_stable").wait(services=["real"], WaiterConfig=SOON)
    shown = service_of(ecs, "default", "real")
    assert (shown["runningCount"], shown["pendingCount"], len(shown["deployments"])) == (3, 0, 1)

    tasks = ecs.list_tasks(serviceName="real")["taskArns"]
    ecs.get_waiter("tasks_running").wait(tasks=tasks, WaiterConfig=SOON)
    described = ecs.describe_tasks(tasks=tasks, include=["TAGS"])["tasks"]
    assert len({task["containerInstanceArn"] for task in described}) == 3
    assert {task["group"] for task in described} == {"service:real"}
    assert {task["startedBy"] for task in described} == {shown["deployments"][0]["id"]}
    assert all({"key": "team", "value": "blue"} in task["tags"] for task in described)

    define(ecs, "real", container={**SLEEP, "environment": [{"name": "V", "value": "2"}]})
    ecs.update_service(
        service="real",
        taskDefinition="real",
        deploymentConfiguration={"minimumHealthyPercent": 50, "maximumPercent": 200},
    )
    ecs.get_waiter("services_stable").wait(services=["real"], WaiterConfig=SOON)
    ecs.get_waiter("tasks_stopped").wait(tasks=tasks, WaiterConfig=SOON)
    stopped = ecs.describe_tasks(tasks=tasks)["tasks"]
    assert {task["stopCode"] for task in stopped} == {"ServiceSchedulerInitiated"}
    now = ecs.describe_tasks(tasks=ecs.list_tasks(serviceName="real")["taskArns"])["tasks"]
    assert {task["taskDefinitionArn"].rpartition("/")[2] for task in now} == {"real:2"}
    until(lambda: service_of(ecs, "default", "real")["deployments"][0]["rolloutState"] == "COMPLETED")
    until(lambda: any("steady state" in said for said in messages(ecs)))
    assert any("has started" in said for said in messages(ecs))

    one = {"cluster": "default", "tasks": [now[0]["taskArn"]]}
    answer = ecs.update_task_protection(**one, protectionEnabled=True, expiresInMinutes=5)
    assert answer["protectedTasks"][0]["protectionEnabled"]
    assert ecs.get_task_protection(**one)["protectedTasks"][0]["expirationDate"]

    ecs.delete_service(service="real", force=True)
    ecs.get_waiter("services_inactive").wait(services=["real"], WaiterConfig=SOON)
    assert service_of(ecs, "default", "real")["status"] == "INACTIVE"
    ecs.get_waiter("tasks_stopped").wait(tasks=[task["taskArn"] for task in now], WaiterConfig=SOON)


def messages(ecs: Ecs) -> list[str]:
    return [event["message"] for event in service_of(ecs, "default", "real")["events"]]


def test_a_daemon_is_everywhere(ecs: Ecs, served: Served) -> None:
    define(ecs, "daemon", container=SLEEP)
    ecs.create_service(serviceName="daemon", taskDefinition="daemon", schedulingStrategy="DAEMON")
    until(lambda: service_of(ecs, "default", "daemon")["runningCount"] == len(served.cluster.agents))
    ecs.get_waiter("services_stable").wait(services=["daemon"], WaiterConfig=SOON)
    assert service_of(ecs, "default", "daemon")["desiredCount"] == 3
    ecs.delete_service(service="daemon", force=True)
    ecs.get_waiter("services_inactive").wait(services=["daemon"], WaiterConfig=SOON)


def test_a_wait_for_what_cannot_come_fails_at_once(ecs: Ecs) -> None:
    from botocore.exceptions import WaiterError

    with pytest.raises(WaiterError, match="MISSING"):
        ecs.get_waiter("services_stable").wait(services=["never"], WaiterConfig=SOON)
    define(ecs, "fails", container={"command": ["false"]})
    task = ecs.run_task(taskDefinition="fails")["tasks"][0]["taskArn"]
    with pytest.raises(WaiterError, match="STOPPED"):
        ecs.get_waiter("tasks_running").wait(tasks=[task], WaiterConfig=SOON)
    ecs.get_waiter("tasks_stopped").wait(tasks=[task], WaiterConfig=SOON)
    found = ecs.describe_tasks(tasks=[task])["tasks"][0]
    assert found["containers"][0]["exitCode"] == 1
    assert found["desiredStatus"] == "STOPPED", "as ECS says of a task that has stopped by itself"
    assert task not in ecs.list_tasks(family="fails")["taskArns"]
    assert task in ecs.list_tasks(family="fails", desiredStatus="STOPPED")["taskArns"]
