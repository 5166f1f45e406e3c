"""Placement never plans more than there is, says why not, and agrees with a naive twin."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import keys
from cluster.records import Alive, Capacity, ContainerInstance, InstanceStatus, attributes, resources
from cluster.state import ClusterState
from journal.types import Revision
from schedulers.placement import Plan, Refusal, Request, Strategy, place


def state_of(**instances: dict[str, Any]) -> ClusterState:
    """A cluster ``c``; each instance's fields: status, alive, cpu, memory, ports, attributes."""
    items: list[tuple[bytes, bytes, Revision]] = []
    for name, fields in instances.items():
        record = ContainerInstance(
            status=fields.get("status", InstanceStatus.ACTIVE),
            registered_resources=resources(10_000, 10_000),
            attributes=attributes(fields.get("attributes", {})),
        )
        left = Capacity(
            cpu=fields.get("cpu", 1000), memory=fields.get("memory", 1000), ports=fields.get("ports", ())
        )
        items.append((keys.instance("c", name), record.pack(), Revision(1)))
        items.append((keys.capacity("c", name), left.pack(), Revision(1)))
        if fields.get("alive", True):
            items.append((keys.alive("c", name), Alive(incarnation="x").pack(), Revision(1)))
    state = ClusterState()
    state.load(items, Revision(7))
    return state


def request(**fields: Any) -> Request:
    return Request(**{"cluster": "c", "cpu": 100, "memory": 100, **fields})


def plan(state: ClusterState, wanted: Request, seed: int = 0) -> Plan:
    return place(state, wanted, random.Random(seed))


@pytest.mark.parametrize(
    ("fields", "wanted", "refusal"),
    [
        ({"memory": 128}, {"memory": 512}, Refusal("RESOURCE:MEMORY", "needs 512 MiB, 128 MiB left")),
        ({"cpu": 99}, {}, Refusal("RESOURCE:CPU", "needs 100 CPU units, 99 left")),
        (
            {"ports": (80,)},
            {"ports": (79, 80)},
            Refusal("RESOURCE:PORTS", "needs host port 80, which is taken"),
        ),
        ({"alive": False}, {}, Refusal("AGENT", "has no agent connected")),
        ({"status": InstanceStatus.DRAINING}, {}, Refusal("INSTANCE", "is DRAINING, not ACTIVE")),
        ({"status": InstanceStatus.INACTIVE}, {}, Refusal("INSTANCE", "is INACTIVE, not ACTIVE")),
        ({}, {"attributes": {"zone": "a"}}, Refusal("ATTRIBUTE", "has no attribute zone")),
        (
            {"attributes": {"zone": "b"}},
            {"attributes": {"zone": "a"}},
            Refusal("ATTRIBUTE", "needs attribute zone=a, has b"),
        ),
    ],
)
def test_a_refused_instance_is_refused_with_a_reason(
    fields: dict[str, Any], wanted: dict[str, Any], refusal: Refusal
) -> None:
    made = plan(state_of(i1=fields), request(**wanted))
    assert (made.placements, made.unplaced, made.refused) == ((), 1, {"i1": refusal})
    assert made.why == f"instance i1 {refusal.reason}"


def test_the_reason_counts_what_the_same_plan_has_taken() -> None:
    made = plan(state_of(i1={"memory": 250}), request(count=3))
    assert made.placements == ("i1", "i1")
    assert made.unplaced == 1
    assert made.refused["i1"].reason == "needs 100 MiB, 50 MiB left"


def test_a_fixed_port_allows_one_task_an_instance() -> None:
    made = plan(state_of(i1={}, i2={}), request(count=3, ports=(80,)))
    assert sorted(made.placements) == ["i1", "i2"]
    assert made.why == (
        "instance i1 needs host port 80, which is taken; instance i2 needs host port 80, which is taken"
    )


def test_an_empty_cluster_says_so() -> None:
    assert plan(state_of(), request()).why == "the cluster has no container instances"
    assert plan(state_of(i1={}), request(cluster="other")).unplaced == 1


def test_nothing_is_refused_where_all_have_a_place() -> None:
    made = plan(state_of(i1={}, i2={"alive": False}), request(count=2))
    assert (made.unplaced, made.refused, made.at) == (0, {}, 7)


def test_binpack_fills_the_fullest_first() -> None:
    state = state_of(big={"memory": 900}, small={"memory": 250}, mid={"memory": 500})
    made = plan(state, request(count=4, strategy=Strategy.BINPACK_MEMORY))
    assert made.placements == ("small", "small", "mid", "mid")
    state = state_of(a={"cpu": 300, "memory": 900}, b={"cpu": 900, "memory": 300})
    assert plan(state, request(strategy=Strategy.BINPACK_CPU)).placements == ("a",)
    assert plan(state, request(strategy=Strategy.BINPACK_MEMORY)).placements == ("b",)


def test_random_uses_every_instance_and_only_its_rng() -> None:
    state = state_of(**{f"i{i}": {} for i in range(5)})
    chosen = {plan(state, request(), seed).placements[0] for seed in range(100)}
    assert len(chosen) == 5
    assert plan(state, request(count=9), 3) == plan(state, request(count=9), 3)


INSTANCES = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.fixed_dictionaries(
        {
            "cpu": st.integers(0, 400),
            "memory": st.integers(0, 400),
            "ports": st.sets(st.integers(1, 3)).map(lambda ports: tuple(sorted(ports))),
            "alive": st.sampled_from([True, True, True, False]),
            "status": st.sampled_from([InstanceStatus.ACTIVE] * 3 + [InstanceStatus.DRAINING]),
        }
    ),
)
REQUESTS = st.builds(
    Request,
    cluster=st.just("c"),
    cpu=st.integers(0, 200),
    memory=st.integers(0, 200),
    ports=st.sets(st.integers(1, 4), max_size=1).map(tuple),
    count=st.integers(0, 12),
    strategy=st.sampled_from(Strategy),
)


def naive_room(fields: dict[str, Any], wanted: Request) -> int:
    """How many tasks an instance takes: by putting them there, one after the other."""
    if not fields["alive"] or fields["status"] is not InstanceStatus.ACTIVE:
        return 0
    tasks = 0
    while tasks < wanted.count:
        cpu = fields["cpu"] - (tasks + 1) * wanted.cpu
        memory = fields["memory"] - (tasks + 1) * wanted.memory
        ports = list(fields["ports"]) + list(wanted.ports) * (tasks + 1)
        if cpu < 0 or memory < 0 or len(ports) != len(set(ports)):
            break
        tasks += 1
    return tasks


@given(INSTANCES, REQUESTS, st.integers(0, 1000))
@settings(max_examples=300, deadline=None)
def test_against_a_naive_twin(instances: dict[str, dict[str, Any]], wanted: Request, seed: int) -> None:
    made = plan(state_of(**instances), wanted, seed)
    room = {name: naive_room(fields, wanted) for name, fields in instances.items()}
    for name in made.placements:
        assert made.placements.count(name) <= room[name], "more than there is"
    assert len(made.placements) == min(wanted.count, sum(room.values())), "room was left unused"
    assert len(made.placements) + made.unplaced == wanted.count
    assert set(made.refused) == (set(instances) if made.unplaced else set())


@given(INSTANCES, REQUESTS)
@settings(max_examples=100, deadline=None)
def test_placement_changes_nothing(instances: dict[str, dict[str, Any]], wanted: Request) -> None:
    state = state_of(**instances)
    before = state.instances("c")
    assert plan(state, wanted) == plan(state, replace(wanted))
    assert state.instances("c") == before
