"""Records keep ECS's names, what a later version added, and nothing that breaks their form."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import records
from cluster.codec import Record, RecordInvalid, wire_name
from cluster.records import (
    Capacity,
    ContainerDefinition,
    ContainerInstance,
    ContainerStatus,
    DesiredStatus,
    KeyValue,
    LastStatus,
    PortMapping,
    StopCode,
    Task,
    TaskDefinition,
    TaskStatus,
)

TEXTS = st.text(max_size=8)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
TIMES = st.floats(0, 1e10)
SMALL = st.integers(0, 10**6)

TASKS = st.builds(
    Task,
    task_definition=TEXTS,
    cpu=SMALL,
    memory=SMALL,
    ports=st.lists(st.integers(1, 65535), unique=True, max_size=3).map(tuple),
    desired_status=st.sampled_from(DesiredStatus),
    started_by=TEXTS,
    created_at=TIMES,
    stopping_at=st.none() | TIMES,
    stop_code=st.none() | st.sampled_from(StopCode),
    stopped_reason=st.none() | TEXTS,
    extra=st.dictionaries(st.sampled_from(["later", "evenLater"]), st.integers(-(2**63), 2**64 - 1) | TEXTS),
)
STATUSES = st.builds(
    TaskStatus,
    last_status=st.sampled_from(LastStatus),
    containers=st.lists(
        st.builds(
            ContainerStatus,
            name=TEXTS,
            last_status=st.sampled_from(LastStatus),
            exit_code=st.none() | st.integers(0, 255),
        ),
        max_size=2,
    ).map(tuple),
    started_at=st.none() | TIMES,
)


@given(TASKS)
def test_a_task_comes_back_as_it_was(task: Task) -> None:
    assert Task.unpack(task.pack()) == task


@given(STATUSES)
def test_a_status_comes_back_as_it_was(status: TaskStatus) -> None:
    assert TaskStatus.unpack(status.pack()) == status


def test_names_on_the_journal_are_those_of_ecs() -> None:
    task = Task(task_definition="web:1", cpu=256, memory=512, started_by="me", stopping_at=2.0)
    assert msgpack.unpackb(task.pack()) == {
        "taskDefinition": "web:1",
        "cpu": 256,
        "memory": 512,
        "desiredStatus": "RUNNING",
        "startedBy": "me",
        "createdAt": 0.0,
        "enableExecuteCommand": False,
        "enableECSManagedTags": False,
        "stoppingAt": 2.0,
    }
    instance = ContainerInstance(
        registered_resources=records.resources(1024, 512), attributes=records.attributes({"zone": "a"})
    )
    packed: dict[str, Any] = msgpack.unpackb(instance.pack())
    assert packed["registeredResources"][0] == {"name": "CPU", "type": "INTEGER", "integerValue": 1024}
    assert packed["attributes"] == [{"name": "zone", "value": "a"}]
    assert wire_name("container_port") == "containerPort"


def test_every_record_survives_its_defaults() -> None:
    samples: list[Record] = [
        records.Cluster(cluster_name="a"),
        ContainerInstance(registered_resources=()),
        Capacity(cpu=1, memory=2, ports=(3,)),
        records.Alive(incarnation="x"),
        TaskDefinition(
            family="f",
            revision=1,
            cpu=0,
            memory=0,
            container_definitions=(
                ContainerDefinition(name="c", environment=(KeyValue(name="A", value="1"),)),
            ),
        ),
    ]
    for sample in samples:
        assert type(sample).unpack(sample.pack()) == sample


@pytest.mark.parametrize(
    ("value", "where", "why"),
    [
        ([], "", "a map is wanted, not list"),
        ({"cpu": 1, "memory": 1}, "", "taskDefinition missing"),
        ({"taskDefinition": 7, "cpu": 1, "memory": 1}, "taskDefinition", "str is wanted, not int"),
        ({"taskDefinition": "a:1", "cpu": True, "memory": 1}, "cpu", "int is wanted, not bool"),
        ({"taskDefinition": "a:1", "cpu": 2**63, "memory": 1}, "cpu", "is not a 64-bit number"),
        ({"taskDefinition": "a:1", "cpu": -1, "memory": 1}, "", "must not be negative"),
        ({"taskDefinition": "a:1", "cpu": 1, "memory": 1, "ports": 5}, "ports", "a list is wanted"),
        ({"taskDefinition": "a:1", "cpu": 1, "memory": 1, "ports": [1, "x"]}, "ports[1]", "int is wanted"),
        ({"taskDefinition": "a:1", "cpu": 1, "memory": 1, "ports": [1, 1]}, "", "a port twice"),
        (
            {"taskDefinition": "a:1", "cpu": 1, "memory": 1, "desiredStatus": "MAYBE"},
            "desiredStatus",
            "none of RUNNING, STOPPED",
        ),
    ],
)
def test_a_broken_task_is_refused_with_the_place(value: object, where: str, why: str) -> None:
    with pytest.raises(RecordInvalid) as caught:
        Task.unpack(msgpack.packb(value))
    assert caught.value.where == where
    assert why in caught.value.why


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81", b"junk", msgpack.packb(5), msgpack.packb({1: 2})])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(RecordInvalid):
        Capacity.unpack(data)


def test_text_that_no_journal_can_carry_is_refused() -> None:
    with pytest.raises(RecordInvalid, match=r"startedBy: '\\udcff' is not valid UTF-8"):
        Task.from_map({"taskDefinition": "a:1", "cpu": 1, "memory": 1, "startedBy": "\udcff"})


def test_a_place_inside_is_named_in_full() -> None:
    with pytest.raises(RecordInvalid) as caught:
        TaskStatus.from_map(
            {"lastStatus": "RUNNING", "containers": [{"name": "a", "lastStatus": "RUNNING", "exitCode": "x"}]}
        )
    assert caught.value.where == "containers[0].exitCode"


def definition(*containers: ContainerDefinition, **fields: Any) -> dict[str, Any]:
    record = TaskDefinition(
        family="f", revision=1, container_definitions=containers, **{"cpu": 1, "memory": 1, **fields}
    )
    return record.to_map()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (definition(), "at least one container"),
        (definition(ContainerDefinition(name="a"), ContainerDefinition(name="a")), "a name of its own"),
        (definition(ContainerDefinition(name="a", essential=False)), "must be essential"),
        (definition(ContainerDefinition(name="../a")), "container '../a'"),
        (definition(ContainerDefinition(name="a", stop_timeout=0)), "stopTimeout 0 is below 1 s"),
        (definition(ContainerDefinition(name="a", command=("a\0b",))), "NUL"),
        (
            definition(ContainerDefinition(name="a", environment=(KeyValue(name="A=B", value=""),))),
            "environment variable's name",
        ),
        (
            definition(
                ContainerDefinition(name="a", port_mappings=(PortMapping(host_port=80),)),
                ContainerDefinition(name="b", port_mappings=(PortMapping(host_port=80),)),
            ),
            "same hostPort",
        ),
        (
            definition(ContainerDefinition(name="a", port_mappings=(PortMapping(host_port=70000),))),
            "outside",
        ),
        (definition(ContainerDefinition(name="a"), memory=-1), "must not be negative"),
    ],
)
def test_a_definition_that_cannot_run_is_refused(value: dict[str, Any], why: str) -> None:
    with pytest.raises(RecordInvalid, match=why):
        TaskDefinition.from_map(value)


def test_a_tasks_exit_code_is_the_first_that_is_not_0() -> None:
    def status(*codes: int | None) -> TaskStatus:
        return TaskStatus(
            last_status=LastStatus.STOPPED,
            containers=tuple(
                ContainerStatus(name=str(i), last_status=LastStatus.STOPPED, exit_code=code)
                for i, code in enumerate(codes)
            ),
        )

    assert status().exit_code is None
    assert status(None).exit_code is None
    assert status(None, 0).exit_code == 0
    assert status(0, 3, 4).exit_code == 3
