"""The command lines that AWS's own slides show, through an unmodified aws-cli."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.api.world import Ecs, Served, aws, define

SLEEP = {"command": ["sleep", "600"], "stopTimeout": 2, "memory": 256, "cpu": 128}


def run(served: Served, line: str, code: int = 0) -> dict[str, Any]:
    """Run a line as a person types it after ``aws ecs``."""
    said = aws(served, *shlex.split(line), code=code)
    return json.loads(said) if code == 0 else {"error": said}


@pytest.fixture(scope="module")
def httpd(ecs: Ecs) -> str:
    define(ecs, "httpd", container=SLEEP)
    return "httpd"


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("attribute:ecs.instance-type==t2.small", 1),
        ("attribute:ecs.instance-type == t2.medium", 2),
        ("attribute:ecs.availability-zone == us-east-1a", 1),
        ("attribute:ecs.instance-type == t2.small and attribute:ecs.availability-zone == us-east-1a", 1),
        ("attribute:ecs.instance-type == t2.small and attribute:ecs.availability-zone == us-east-1b", 0),
        (
            "(attribute:ecs.instance-type == t2.small or attribute:ecs.instance-type == t2.medium) "
            "and attribute:ecs.availability-zone != us-east-1a",
            2,
        ),
        ("attributes:ecs.instance-type in [t2.small, t2.medium]", 3),
    ],
)
def test_list_container_instances_with_a_filter(served: Served, expression: str, found: int) -> None:
    said = run(served, f"list-container-instances --cluster default --filter {shlex.quote(expression)}")
    assert len(said["containerInstanceArns"]) == found


def test_run_task_with_constraint_and_strategies(served: Served, ecs: Ecs, httpd: str) -> None:
    said = run(
        served,
        "run-task --cluster default --task-definition httpd --count 6 --started-by slides "
        '--placement-constraints type="memberOf",expression="attribute:ecs.instance-type==t2.medium" '
        '--placement-strategy type="spread",field="attribute:ecs.availability-zone" '
        'type="binpack",field="memory"',
    )
    assert (len(said["tasks"]), said["failures"]) == (6, [])
    zones = [task["availabilityZone"] for task in said["tasks"]]
    assert (zones.count("us-east-1b"), zones.count("us-east-1c")) == (3, 3)
    arns = " ".join(task["taskArn"] for task in said["tasks"])
    aws(served, *shlex.split(f"wait tasks-running --cluster default --tasks {arns}"))
    for task in said["tasks"]:
        ecs.stop_task(task=task["taskArn"])


def test_create_service_with_constraints(served: Served, httpd: str) -> None:
    said = run(
        served,
        "create-service --cluster default --service-name slides --task-definition httpd --desired-count 2 "
        '--placement-constraints type="memberOf",expression="attribute:ecs.instance-type==t2.medium" '
        'type="distinctInstance" '
        '--placement-strategy type="spread",field="attribute:ecs.availability-zone" '
        'type="binpack",field="memory"',
    )
    assert said["service"]["status"] == "ACTIVE"
    aws(served, *shlex.split("wait services-stable --cluster default --services slides"))
    shown = run(served, "describe-services --cluster default --services slides")["services"][0]
    assert (shown["runningCount"], len(shown["deployments"])) == (2, 1)
    tasks = run(served, "list-tasks --service-name slides")["taskArns"]
    described = run(served, f"describe-tasks --tasks {' '.join(tasks)}")["tasks"]
    assert len({task["containerInstanceArn"] for task in described}) == 2
    run(served, "delete-service --cluster default --service slides --force")
    aws(served, *shlex.split("wait services-inactive --services slides"))


def test_a_definition_from_a_file_and_errors_as_aws_has_them(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "definition.json"
    container = {"name": "web", "image": "nginx", "memory": 64, "portMappings": [{"containerPort": 80}]}
    file.write_text(json.dumps({"family": "from-file", "containerDefinitions": [container]}))
    said = run(served, f"register-task-definition --cli-input-json file://{file}")
    assert said["taskDefinition"]["family"] == "from-file"
    error = run(served, "describe-tasks --cluster nowhere --tasks a", code=255)["error"]
    assert "(ClusterNotFoundException) when calling the DescribeTasks operation" in error
    error = run(served, "list-container-instances --filter 'attribute:x =='", code=255)["error"]
    assert "(InvalidParameterException)" in error
