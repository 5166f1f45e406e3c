"""What the model says is checked, each kind of fault at its place; and answers are what the shapes say."""

from __future__ import annotations

from typing import Any

import pytest

from api.errors import ApiError
from api.model import operations
from api.shapes import answer, check


def refusal(operation: str, params: Any) -> str:
    with pytest.raises(ApiError) as raised:
        check(operations()[operation].input, params)
    assert raised.value.code == "InvalidParameterException"
    assert raised.value.status == 400
    return raised.value.message


@pytest.mark.parametrize(
    ("operation", "params", "said"),
    [
        ("RunTask", {}, "taskDefinition is required"),
        ("RunTask", {"taskDefinition": None}, "taskDefinition is required"),
        ("RunTask", {"taskDefinition": 7}, "taskDefinition: a string is wanted, not '7'"),
        ("RunTask", {"taskDefinition": "a", "cuont": 1}, "cuont: no such parameter"),
        ("RunTask", {"taskDefinition": "a", "count": "1"}, "count: an integer is wanted"),
        ("RunTask", {"taskDefinition": "a", "count": True}, "count: an integer is wanted, not true"),
        ("RunTask", {"taskDefinition": "a", "count": 1.5}, "count: an integer is wanted"),
        ("RunTask", {"taskDefinition": "a", "count": 2**31}, "count: 2147483648 is not a number of 32 bits"),
        ("RunTask", {"taskDefinition": "a", "launchType": "MOON"}, "launchType: 'MOON' is none of EC2"),
        ("RunTask", {"taskDefinition": "a", "tags": {}}, "tags: a list is wanted, not an object"),
        ("RunTask", {"taskDefinition": "a", "tags": [None]}, "tags[0]: an object is wanted, not null"),
        ("RunTask", {"taskDefinition": "a", "tags": [{"key": ""}]}, "tags[0].key: at least 1 character"),
        ("RunTask", {"taskDefinition": "a", "tags": [{"key": "k" * 129}]}, "tags[0].key: at most 128"),
        ("RunTask", {"taskDefinition": "a", "tags": [{"key": "k?"}]}, "tags[0].key: 'k?' has characters"),
        ("RunTask", {"taskDefinition": "a", "tags": [{"key": "a"}] * 51}, "tags: at most 50 items"),
        ("RunTask", {"taskDefinition": "\ud800"}, "taskDefinition: it is not valid Unicode"),
        (
            "RunTask",
            {"taskDefinition": "a", "overrides": {"containerOverrides": [{"cpu": "x"}]}},
            "overrides.containerOverrides[0].cpu: an integer is wanted",
        ),
        (
            "RegisterTaskDefinition",
            {"family": "a", "containerDefinitions": [{"dockerLabels": {"a": 1}}]},
            "containerDefinitions[0].dockerLabels.a: a string is wanted",
        ),
        ("UpdateTaskProtection", {"cluster": "c", "tasks": [], "protectionEnabled": 1}, "true or false"),
        ("SubmitTaskStateChange", {"pullStartedAt": "now"}, "pullStartedAt: seconds since the epoch"),
        ("SubmitTaskStateChange", {"pullStartedAt": float("inf")}, "pullStartedAt: seconds"),
        ("ListTasks", [], "The request: an object is wanted, not a list"),
    ],
)
def test_a_fault_is_refused_at_its_place(operation: str, params: Any, said: str) -> None:
    assert said in refusal(operation, params)


def test_what_is_right_passes() -> None:
    tags = [{"key": "größe 1", "value": "ein:wert/mit+allem=@-_."}, {"key": "b", "value": ""}]
    good = {"taskDefinition": "a", "count": 3, "tags": tags, "overrides": None}
    check(operations()["RunTask"].input, good)
    check(operations()["SubmitTaskStateChange"].input, {"pullStartedAt": 1.5, "containers": []})


def test_nesting_is_bounded() -> None:
    """No shape of the model is that deep, so only a document could be."""
    deep: Any = {}
    for _ in range(100):
        deep = {"a": deep}
    check(operations()["DescribeClusters"].input, {})
    assert "no such parameter" in refusal("DescribeClusters", {"deep": deep})


def test_every_operation_takes_no_garbage() -> None:
    for name, operation in operations().items():
        assert "no such parameter" in refusal(name, {"noSuchThing": 1, **dummy(operation.input)})


def dummy(shape: Any) -> dict[str, Any]:
    """Return what a structure's required members may be."""
    return {name: _dummy(shape.members[name]) for name in shape.required_members}


def _dummy(shape: Any) -> Any:
    match shape.type_name:
        case "structure":
            return dummy(shape)
        case "list":
            return [_dummy(shape.member)] * shape.metadata.get("min", 0)
        case "map":
            return {}
        case "boolean":
            return True
        case "string":
            allowed = shape.metadata.get("enum")
            return allowed[0] if allowed else "a" * shape.metadata.get("min", 1)
    return shape.metadata.get("min", 1)


def test_an_answer_is_of_its_shape() -> None:
    shape = operations()["DescribeTasks"].output
    said = {
        "tasks": [
            {
                "taskArn": "arn",
                "createdAt": 5,
                "startedBy": None,
                "containers": ({"name": "a", "exitCode": 0, "networkBindings": []},),
                "folder": "not ECS's",
                "version": "of another type",
            }
        ],
        "failures": [],
    }
    assert answer(shape, said) == {
        "tasks": [
            {
                "containers": [{"name": "a", "exitCode": 0, "networkBindings": []}],
                "createdAt": 5.0,
                "taskArn": "arn",
            }
        ],
        "failures": [],
    }
    assert isinstance(answer(shape, said)["tasks"][0]["createdAt"], float)
