"""The dry run says all reasons, and the least change, which is shown to be one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.records import InstanceStatus
from schedulers.dry_run import Change, DryRun, dry_run
from schedulers.placement import Request
from tests.schedulers.test_placement import plan, request, state_of

ZONE = "ecs.availability-zone"


def dry(wanted: Request, **instances: dict[str, Any]) -> DryRun:
    return dry_run(state_of(**instances), wanted, random.Random(0))


def test_what_has_a_place_needs_no_change() -> None:
    done = dry(request(2), i1={})
    assert (done.plan.placements, done.refusals, done.changes) == (("i1", "i1"), {}, ())


def test_the_least_change_names_instances_and_zones() -> None:
    def at(zone: str, memory: int) -> dict[str, Any]:
        return {"memory": memory, "attributes": {ZONE: zone}}

    wanted = request(1, claim={"memory": 1024})
    b = "us-east-1b"
    done = dry(wanted, i1=at(b, 512), i2=at(b, 512), i3=at(b, 512), i4=at("us-east-1a", 100))
    assert [str(change) for change in done.changes] == [
        "512 more MiB on any of 3 instances in us-east-1b",
        "924 more MiB on instance i4 in us-east-1a",
        "one more instance with 100 CPU units, 1024 MiB free",
    ]


def test_all_reasons_are_told_and_what_they_ask_for_together() -> None:
    wanted = request(1, "", "attribute:rack == a", claim={"ports": (80,), "resources": {"GPU": 2}})
    done = dry(wanted, i1={"cpu": 40, "memory": 90, "ports": (80,), "gpu": 1, "alive": False})
    assert [refusal.code for refusal in done.refusals["i1"]] == [
        "AGENT",
        "MemberOf placement constraint unsatisfied",
        "RESOURCE:CPU",
        "RESOURCE:MEMORY",
        "RESOURCE:PORTS",
        "RESOURCE:GPU",
    ]
    first, more = done.changes
    assert first.needs == (
        "a connected agent",
        "what attribute:rack == a asks for",
        "60 more CPU units",
        "10 more MiB",
        "host port 80 free",
        "1 more GPU",
    )
    assert str(more) == (
        "one more instance with 100 CPU units, 100 MiB, 2 GPU, host port 80 free, attribute:rack == a"
    )


@pytest.mark.parametrize(
    ("fields", "wanted", "change"),
    [
        ({"status": InstanceStatus.DRAINING}, request(), "status ACTIVE instead of DRAINING on instance i1"),
        ({"tasks": 1}, request(1, "", "distinctInstance"), "no other task of group family:f on instance i1"),
        ({}, request(attributes={"a": "b"}), "attribute a=b on instance i1"),
        (
            {"attributes": {"a": "x"}},
            request(attributes={"a": "b"}),
            "attribute a=b instead of x on instance i1",
        ),
    ],
)
def test_changes_that_are_no_matter_of_amounts(fields: dict[str, Any], wanted: Request, change: str) -> None:
    assert str(dry(wanted, i1=fields).changes[0]) == change


def test_amounts_come_before_what_an_operator_must_do() -> None:
    done = dry(request(), away={"alive": False}, full={"cpu": 0})
    assert [change.instances for change in done.changes] == [("full",), ("away",), ()]


def test_an_empty_cluster_needs_an_instance() -> None:
    done = dry(request())
    assert done.changes == (
        Change(needs=("one more instance with 100 CPU units, 100 MiB free",), instances=()),
    )


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=6))
@settings(max_examples=50, deadline=None)
def test_the_least_change_lets_one_more_in_and_no_less_does(left: list[tuple[int, int]]) -> None:
    fields = {f"i{n}": {"cpu": cpu, "memory": memory} for n, (cpu, memory) in enumerate(left)}
    change = dry(request(), **fields).changes[0]
    more = {"CPU": 0, "MiB": 0}
    for need in change.needs:
        number, _, unit = need.split()[:3]
        more[unit] = int(number)
    for less in (0, 1):
        changed = dict(fields)
        for instance in change.instances:
            cpu, memory = fields[instance]["cpu"], fields[instance]["memory"]
            changed[instance] = {"cpu": cpu + more["CPU"] - less, "memory": memory + more["MiB"]}
            placed = plan(state_of(**{**fields, instance: changed[instance]}), request()).placements
            if less and more["CPU"]:
                assert placed == ()
            elif not less:
                assert placed == (instance,)
    least = min((max(0, 100 - cpu) + max(0, 100 - memory)) for cpu, memory in left)
    assert sum(more.values()) == least
