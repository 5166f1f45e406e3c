"""Task definitions keep all that ECS has, claim what ECS claims, and are refused where they cannot run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import botocore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.codec import Record, RecordInvalid
from cluster.records import (
    Capacity,
    Claim,
    ContainerDefinition,
    ContainerInstance,
    ContainerOverride,
    HealthStatus,
    KeyValue,
    LastStatus,
    NetworkBinding,
    PortMapping,
    Resource,
    ResourceRequirement,
    Service,
    Task,
    TaskDefinition,
    TaskOverride,
    TaskStatus,
    resources,
    task_of,
)


def define(*containers: dict[str, Any], **fields: Any) -> TaskDefinition:
    made = [{"name": f"c{n}", **container} for n, container in enumerate(containers)]
    return TaskDefinition.from_map({"family": "f", "revision": 1, "containerDefinitions": made, **fields})


# -- nothing is lost ---------------------------------------------------------------------


def _model() -> dict[str, Any]:
    [file] = (Path(botocore.__file__).parent / "data/ecs/2014-11-13").glob("service-2.json*")
    data = file.read_bytes()
    shapes: dict[str, Any] = json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)["shapes"]
    return shapes


SHAPES = _model()
ONLY = {
    # What is refused otherwise, for good reasons: names that refer to others, ranges.
    "containerName": "other",
    "sourceContainer": "other",
    "sourceVolume": "v",
    "containerPortRange": "8000-8010",
    "condition": "START",
    "interval": 30,
    "timeout": 5,
    "retries": 3,
    "startPeriod": 10,
    "restartAttemptPeriod": 60,
    "stopTimeout": 9,
    "startTimeout": 9,
}


def example(shape: str, name: str = "", depth: int = 0) -> Any:
    """A value of a shape of botocore's model with every member there is."""
    if name in ONLY:
        return ONLY[name]
    of = SHAPES[shape]
    match of["type"]:
        case "structure":
            return {
                member: example(what["shape"], member, depth + 1) for member, what in of["members"].items()
            }
        case "list":
            return [example(of["member"]["shape"], name, depth + 1)]
        case "map":
            return {"k": example(of["value"]["shape"], "", depth + 1)}
        case "string":
            return of["enum"][0] if "enum" in of else "text"
        case "boolean":
            return True
        case "timestamp" | "double":
            return 1.5
    return 7


def whole_definition() -> dict[str, Any]:
    value = example("TaskDefinition")
    container = value["containerDefinitions"][0]
    container["name"] = "main"
    container["portMappings"] = [{"containerPortRange": "8000-8010", "protocol": "udp"}]
    container["portMappings"].append(
        {"containerPort": 80, "hostPort": 8080, "name": "web", "appProtocol": "http"}
    )
    container["environment"][0]["name"] = "A"
    container["resourceRequirements"][0] |= {"value": "2"}
    container["healthCheck"]["command"] = ["CMD-SHELL", "true"]
    container["linuxParameters"]["sharedMemorySize"] = 64
    container["links"] = ["other:alias"]
    other = {"name": "other", "essential": True}
    value["containerDefinitions"].append(other)
    value["volumes"][0]["name"] = "v"
    return {**value, "family": "web", "revision": 3, "cpu": 100, "memory": 512, "networkMode": "bridge"}


def test_every_field_of_the_model_comes_back() -> None:
    """Whatever botocore knows of a task definition, whether anything here acts on it or not."""
    value = whole_definition()
    record = TaskDefinition.from_map(value)
    back = TaskDefinition.unpack(record.pack()).to_map()
    for container in (value["containerDefinitions"][1], *back["containerDefinitions"]):
        container.setdefault("cpu", 0)
    assert _subset(value, back) == []


def test_every_field_of_other_records_comes_back() -> None:
    kinds: list[type[Record]] = [Service, TaskStatus, ContainerInstance]
    for record in kinds:
        shape = "Task" if record is TaskStatus else record.__name__
        value = example(shape)
        if record is Service:
            value |= {"serviceName": "web", "status": "ACTIVE"}
            value["placementConstraints"] = [{"type": "memberOf", "expression": "x"}]
        if record is TaskStatus:
            value |= {"lastStatus": "RUNNING"}
            value["containers"][0]["lastStatus"] = "RUNNING"
        if record is ContainerInstance:
            value |= {"status": "ACTIVE"}
        back = record.unpack(record.from_map(value).pack()).to_map()
        assert _subset(value, back) == [], shape


def _subset(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Return the places of ``wanted`` that are not in ``found``."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [where]
        return [w for key in wanted for w in _subset(wanted[key], found.get(key), f"{where}.{key}")]
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            return [where]
        return [w for n, item in enumerate(wanted) for w in _subset(item, found[n], f"{where}[{n}]")]
    return [] if wanted == found else [f"{where}: {wanted!r} became {found!r}"]


def test_names_that_no_rule_makes() -> None:
    assert NetworkBinding(bind_ip="0.0.0.0").to_map()["bindIP"] == "0.0.0.0"
    assert Task(task_definition="f:1", cpu=0, memory=0, enable_ecs_managed_tags=True).to_map()[
        "enableECSManagedTags"
    ]
    assert (
        ContainerInstance(registered_resources=(), ec2_instance_id="i-1").to_map()["ec2InstanceId"] == "i-1"
    )


# -- claims --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "claim"),
    [
        (define({"cpu": 10, "memory": 100}, {"cpu": 5, "memory": 50}), Claim(cpu=15, memory=150)),
        (define({"memory": 100, "memoryReservation": 60}, {"memory": 50}), Claim(memory=110)),
        (define({"memoryReservation": 60}), Claim(memory=60)),
        (define({"cpu": 10, "memory": 100}, cpu=512, memory=1024), Claim(cpu=512, memory=1024)),
        (define({"cpu": 10, "memory": 100}, memory=1024), Claim(cpu=10, memory=1024)),
        (define({"portMappings": [{"containerPort": 80}]}), Claim()),
        (define({"portMappings": [{"containerPort": 80, "hostPort": 8080}]}), Claim(ports=(8080,))),
        (define({"portMappings": [{"containerPort": 80}]}, networkMode="host"), Claim(ports=(80,))),
        (define({"portMappings": [{"hostPort": 80}]}, networkMode="awsvpc"), Claim()),
        (
            define({"portMappings": [{"hostPort": 53}, {"hostPort": 53, "protocol": "udp"}]}),
            Claim(ports=(53,), ports_udp=(53,)),
        ),
        (
            define({"portMappings": [{"containerPortRange": "90-92"}]}, networkMode="host"),
            Claim(ports=(90, 91, 92)),
        ),
        (define({"portMappings": [{"containerPortRange": "90-92"}]}), Claim()),
        (
            define(
                {"resourceRequirements": [{"type": "GPU", "value": "1"}]},
                {"resourceRequirements": [{"type": "GPU", "value": "2"}, {"type": "FPGA", "value": "1"}]},
            ),
            Claim(resources={"GPU": 3, "FPGA": 1}),
        ),
    ],
)
def test_what_a_task_claims(definition: TaskDefinition, claim: Claim) -> None:
    assert definition.claim() == claim
    task = task_of(definition, created_at=1.0)
    assert task.claim == claim
    assert Task.unpack(task.pack()).claim == claim
    assert task.group == "family:f"


def test_overrides_are_claimed_and_run() -> None:
    definition = define(
        {"cpu": 10, "memory": 100, "command": ["a"], "environment": [{"name": "A", "value": "1"}]},
        {"cpu": 10, "memory": 100},
    )
    override = TaskOverride(
        container_overrides=(
            ContainerOverride(
                name="c0",
                command=("b", "c"),
                cpu=30,
                memory_reservation=40,
                environment=(KeyValue(name="A", value="2"), KeyValue(name="B", value="3")),
                resource_requirements=(ResourceRequirement(type="GPU", value="1"),),
            ),
        )
    )
    assert definition.claim(override) == Claim(cpu=40, memory=140, resources={"GPU": 1})
    first, second = definition.containers(override)
    assert first.command == ("b", "c")
    assert {e.name: e.value for e in first.environment} == {"A": "2", "B": "3"}
    assert second == definition.container_definitions[1]
    assert definition.containers() == definition.container_definitions
    whole = TaskOverride(cpu=7, memory=9)
    assert definition.claim(whole) == Claim(cpu=7, memory=9)


@given(st.dictionaries(st.sampled_from(["GPU", "cpu", "ports", "x"]), st.integers(0, 9)), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_no_further_resource_hides_another_field(named: dict[str, int], cpu: int) -> None:
    capacity = Capacity(cpu=cpu, memory=1, ports=(5,), resources=named)
    back = Capacity.unpack(capacity.pack())
    assert (back.cpu, back.ports, dict(back.resources)) == (cpu, (5,), named)
    assert set(Claim(cpu=cpu, resources=named).numbers()) <= {*capacity.to_map(), "memory"}


def test_an_instance_registers_all_that_it_has() -> None:
    registered = resources(100, 200, ports=(22,), ports_udp=(68,), named={"GPU": 2})
    instance = ContainerInstance(registered_resources=registered)
    left = Capacity(cpu=100, memory=200, ports=(22,), ports_udp=(68,), resources={"GPU": 2})
    assert instance.capacity() == left
    assert instance.problem() is None


# -- what is refused -------------------------------------------------------------------------


def depends(*names: str, condition: str = "START") -> list[dict[str, str]]:
    return [{"containerName": name, "condition": condition} for name in names]


@pytest.mark.parametrize(
    ("containers", "fields", "why"),
    [
        ([{"dependsOn": depends("c1")}, {"dependsOn": depends("c0")}], {}, "in a circle: c0 -> c1 -> c0"),
        ([{"dependsOn": depends("c0")}], {}, "dependsOn 'c0' is not there"),
        ([{"dependsOn": depends("other")}], {}, "dependsOn 'other' is not there"),
        ([{"dependsOn": depends("c1", condition="HEALTHY")}, {}], {}, "which has no healthCheck"),
        ([{"dependsOn": depends("c1", condition="SUCCESS")}, {}], {}, "which is essential"),
        ([{"dependsOn": depends("c1", condition="DONE")}, {}], {}, "'DONE' is none of START"),
        ([{"healthCheck": {"command": []}}], {}, "must begin with CMD"),
        ([{"healthCheck": {"command": ["CMD"]}}], {}, "nothing to run"),
        ([{"healthCheck": {"command": ["NONE"], "interval": 1}}], {}, "interval 1 is outside 5 to 300"),
        ([{"restartPolicy": {"enabled": True, "restartAttemptPeriod": 5}}], {}, "outside 60 to 1800"),
        ([{"mountPoints": [{"sourceVolume": "v"}]}], {}, "volume 'v' is not defined"),
        ([{"volumesFrom": [{"sourceContainer": "x"}]}], {}, "volumesFrom 'x' is not there"),
        ([{}], {"volumes": [{"name": "v"}, {"name": "v"}]}, "two volumes"),
        ([{"memory": 100, "memoryReservation": 101}], {}, "memoryReservation 101 is over memory 100"),
        ([{"memory": 100}], {"memory": 99}, "asks for more memory than the task's 99 MiB"),
        ([{"cpu": 6}, {"cpu": 6}], {"cpu": 10}, "more cpu than the task's 10 units"),
        ([{"cpu": -1}], {}, "cpu -1 must not be negative"),
        ([{"startTimeout": 0}], {}, "startTimeout 0"),
        ([{"portMappings": [{"containerPortRange": "9-8"}]}], {}, "is not such as 8000-8010"),
        ([{"portMappings": [{"containerPortRange": "1-5000"}]}], {}, "over 1000 ports"),
        ([{"portMappings": [{"containerPortRange": "8-9", "hostPort": 1}]}], {}, "one or the other"),
        ([{"portMappings": [{"hostPort": 5, "protocol": "icmp"}]}], {}, "'icmp' is none of tcp, udp"),
        ([{"resourceRequirements": [{"type": "GPU", "value": "many"}]}], {}, "is not a number"),
        ([{}], {"placementConstraints": [{"type": "distinctInstance"}]}, "memberOf only"),
        ([{}], {"networkMode": "weave"}, "'weave' is none of bridge"),
        ([{"portMappings": [{"containerPort": 80}] * 2}], {"networkMode": "host"}, "the same hostPort"),
    ],
)
def test_a_definition_that_cannot_run_is_refused(
    containers: list[dict[str, Any]], fields: dict[str, Any], why: str
) -> None:
    with pytest.raises(RecordInvalid, match=why):
        define(*containers, **fields)


def test_a_longer_circle_is_named() -> None:
    with pytest.raises(RecordInvalid, match="c0 -> c1 -> c2 -> c0"):
        define(
            {"dependsOn": depends("c1")},
            {"dependsOn": depends("c2")},
            {"dependsOn": depends("c0", "c3")},
            {},
        )
    define({"dependsOn": depends("c1", "c2")}, {"dependsOn": depends("c2")}, {})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((Resource(name="PORTS", type="STRINGSET", string_set_value=("x",)),), "no port"),
        ((Resource(name="PORTS", type="STRINGSET", string_set_value=("70000",)),), "outside"),
        ((Resource(name="CPU", integer_value=-1),), "negative"),
        ((Resource(name="CPU"), Resource(name="CPU")), "twice"),
    ],
)
def test_an_instance_that_makes_no_sense_is_refused(given: tuple[Resource, ...], why: str) -> None:
    record = ContainerInstance(registered_resources=given)
    with pytest.raises(RecordInvalid, match=why):
        ContainerInstance.from_map(record.to_map())


def test_records_with_maps_can_be_told_apart_and_hashed() -> None:
    container = ContainerDefinition(
        name="a", docker_labels={"x": "y"}, port_mappings=(PortMapping(host_port=1),)
    )
    assert hash(container) == hash(ContainerDefinition.unpack(container.pack()))
    assert container != ContainerDefinition(name="a", port_mappings=(PortMapping(host_port=1),))
    status = TaskStatus(last_status=LastStatus.RUNNING, health_status=HealthStatus.HEALTHY)
    assert TaskStatus.unpack(status.pack()) == status
