"""Every index says what a scan over everything says, and a page costs what it holds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import keys, offers
from cluster.indexes import Index, Page
from cluster.records import (
    Attribute,
    Cluster,
    ContainerDefinition,
    ContainerInstance,
    DefinitionStatus,
    DesiredStatus,
    InstanceSettings,
    InstanceStatus,
    LastStatus,
    SchedulingStrategy,
    Service,
    ServiceStatus,
    Task,
    TaskDefinition,
    TaskStatus,
    attributes,
    resources,
)
from cluster.state import ClusterState, Phase, TaskView
from journal.types import Revision
from tests.cluster.naive import NaiveChange, NaiveCommit
from tests.cluster.test_offers import CLUSTER, Anarchy

C = "c"


def definition(family: str, revision: int, status: DefinitionStatus) -> TaskDefinition:
    return TaskDefinition(
        family=family,
        revision=revision,
        container_definitions=(ContainerDefinition(name="x"),),
        status=status,
    )


def some_change(rng: random.Random) -> tuple[bytes, bytes | None]:
    """One key of a small world, put or deleted."""
    instance, task = rng.choice("ijk"), f"t{rng.randint(0, 7)}"
    family, revision = rng.choice(["web", "web2", "db"]), rng.randint(1, 3)
    service = rng.choice(["web", "db"])
    kind = rng.randint(0, 6)
    if kind == 0:
        record = ContainerInstance(
            registered_resources=resources(1, 1),
            status=rng.choice(list(InstanceStatus)),
            attributes=attributes({"zone": rng.choice("ab")}),
        )
        made: tuple[bytes, Any] = keys.instance(C, instance), record
    elif kind == 1:
        own = (Attribute(name="zone", value="z"), Attribute(name="empty"))
        made = keys.settings(C, instance), InstanceSettings(attributes=own[: rng.randint(0, 2)])
    elif kind == 2:
        made = (
            keys.task(C, instance, task),
            Task(
                task_definition=f"{family}:{revision}",
                cpu=0,
                memory=0,
                group=rng.choice(["", f"service:{service}"]),
                started_by=rng.choice(["", "me"]),
                desired_status=rng.choice(list(DesiredStatus)),
            ),
        )
    elif kind == 3:
        made = keys.status(C, instance, task), TaskStatus(last_status=rng.choice(list(LastStatus)))
    elif kind == 4:
        of = definition(family, revision, rng.choice(list(DefinitionStatus)))
        made = keys.task_definition(of.name), of
    elif kind == 5:
        made = (
            keys.service(C, service),
            Service(
                service_name=service,
                task_definition="web:1",
                status=rng.choice(list(ServiceStatus)),
                scheduling_strategy=rng.choice(list(SchedulingStrategy)),
            ),
        )
    else:
        made = keys.cluster(C), Cluster(cluster_name=C)
    return made[0], made[1].pack() if rng.random() < 0.8 else None


def paged(listing: Callable[..., Page[Any]], place: Callable[[Any], Any], **wanted: Any) -> list[Any]:
    """All pages of a listing, of two each."""
    found: list[Any] = []
    page = listing(limit=2, **wanted)
    while page.more:
        found.extend(page.items)
        page = listing(limit=2, after=place(page.items[-1]), **wanted)
    return [*found, *page.items]


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_listing_is_a_scan(seed: int) -> None:
    rng = random.Random(seed)
    state = ClusterState()
    for revision in range(1, rng.randint(2, 80)):
        key, value = some_change(rng)
        state.apply(NaiveCommit(Revision(revision), (NaiveChange(key, value),)))
    _check_tasks(state)
    _check_instances(state)
    _check_definitions(state)
    services = {name: view for name in ("web", "db") if (view := state.service(C, name))}
    for strategy in [None, *SchedulingStrategy]:
        assert paged(lambda **w: state.list_services(C, **w), lambda view: view.name, strategy=strategy) == [
            services[name]
            for name in sorted(services)
            if services[name].service.status is not ServiceStatus.INACTIVE
            and strategy in (None, services[name].service.scheduling_strategy)
        ]


def _check_tasks(state: ClusterState) -> None:
    everything = [
        view
        for i in "ijk"
        for n in range(8)
        if (view := state._of(C).tasks.get((f"t{n}", i))) and view.desired
    ]
    everything.sort(key=lambda view: (view.id, view.instance))
    for wanted in (
        {},
        {"instance": "i"},
        {"family": "web"},
        {"service": "db"},
        {"desired": DesiredStatus.RUNNING},
        {"last": LastStatus.PENDING, "started_by": "me"},
        {"family": "web", "instance": "j", "desired": DesiredStatus.STOPPED},
    ):
        scanned = [view for view in everything if _fits(view, wanted)]
        if len({view.id for view in scanned}) == len(scanned):  # else ids are not what a page can go on from
            assert paged(lambda **w: state.list_tasks(C, **w), lambda view: view.id, **wanted) == scanned
    live = [view for view in everything if view.phase is not Phase.STOPPED]
    phases = Counter(view.phase for view in live)
    counts = state.counts(C)
    assert (counts.running, counts.pending, counts.stopping) == (
        phases[Phase.RUNNING],
        phases[Phase.PENDING],
        phases[Phase.STOPPING],
    )
    for instance in "ijk":
        there = [view for view in live if view.instance == instance]
        assert state.counts(C, instance=instance).live == len(there)
        assert state.groups_on(C, instance) == Counter(view.task.group for view in there)
    assert state.counts(C, started_by="me").live == sum(view.task.started_by == "me" for view in live)


def _fits(view: TaskView, wanted: dict[str, Any]) -> bool:
    facts = {
        "instance": view.instance,
        "family": view.task.family,
        "service": view.task.service,
        "started_by": view.task.started_by,
        "desired": "STOPPED" if view.stopped else view.task.desired_status,
        "last": view.last_status,
    }
    return all(facts[name] == value for name, value in wanted.items())


def _check_instances(state: ClusterState) -> None:
    everything = [view for i in "ijk" if (view := state.instance(C, i))]
    assert state.instances(C) == everything
    for status in [None, *InstanceStatus]:
        scanned = [
            view
            for view in everything
            if view.status is status or (status is None and view.status is not InstanceStatus.INACTIVE)
        ]
        assert paged(lambda **w: state.list_instances(C, **w), lambda view: view.id, status=status) == scanned
        assert state.instance_count(C, status) == len(scanned)
    in_a = [view for view in everything if view.attributes.get("zone") == "a"]
    assert state.instances_with(C, "zone", "a") == in_a
    assert state.instances_with(C, "empty") == [view for view in everything if "empty" in view.attributes]


def _check_definitions(state: ClusterState) -> None:
    everything = [at for family in ("db", "web", "web2") for at in state.family(family)]
    for status in [None, *DefinitionStatus]:
        scanned = [at for at in everything if status in (None, at.record.status)]
        found = paged(
            lambda **w: state.list_definitions(**w),
            lambda at: (at.record.family, at.record.revision),
            status=status,
        )
        assert found == scanned
        of_web = [at for at in scanned if at.record.family == "web"]
        page = state.list_definitions(family="web", status=status, descending=True)
        assert list(page.items) == of_web[::-1]
        for prefix in ("", "web", "web2", "x", "d"):
            families = paged(state.list_families, lambda name: name, status=status, prefix=prefix)
            wanted = {at.record.family for at in scanned if at.record.family.startswith(prefix)}
            if status is DefinitionStatus.INACTIVE:  # those that have no ACTIVE revision
                wanted -= {a.record.family for a in everything if a.record.status is DefinitionStatus.ACTIVE}
            assert families == sorted(wanted)
    active = [at for at in state.family("web") if at.record.status is DefinitionStatus.ACTIVE]
    assert state.definition("web") == (active[-1] if active else None)


def test_a_page_costs_what_it_holds() -> None:
    """10,000 tasks, one service of 20 among them: either costs what is shown of it."""
    index: Index[tuple[str, str]] = Index()
    for number in range(10_000):
        labels = [("all",), ("last", "RUNNING"), ("group", "few" if number % 500 == 0 else "many")]
        index.change((f"{number:05d}", "i"), [], labels)
    made: list[tuple[str, str]] = []

    def make(member: tuple[str, str]) -> tuple[str, str]:
        made.append(member)
        return member

    page = index.page([("all",)], ("05000", "i"), 10, make)
    assert [name for name, _ in page.items] == [f"{n:05d}" for n in range(5001, 5011)]
    assert page.more and len(made) == 11
    made.clear()
    page = index.page([("last", "RUNNING"), ("group", "few")], None, 100, make)
    assert (len(page.items), page.more, len(made)) == (20, False, 20)
    assert index.page([("group", "none")], None, 10, make).items == ()


def test_a_page_has_a_limit() -> None:
    for limit in (0, 1001):
        with pytest.raises(ValueError, match="1 to 1000"):
            ClusterState().list_tasks(C, limit=limit)


def test_a_reload_is_seen_whole_or_not_at_all() -> None:
    world = Anarchy(random.Random(1))
    state = world.journal.state()
    before = state.instances(CLUSTER)
    loading = state.loading()
    record = ContainerInstance(registered_resources=resources(1, 1))
    loading.put([(keys.instance(CLUSTER, "new"), record.pack(), Revision(900))])
    assert state.instances(CLUSTER) == before
    loading.finish(Revision(901))
    assert [view.id for view in state.instances(CLUSTER)] == ["new"]
    assert state.revision == 901


def test_labels_of_a_service_go_with_its_records() -> None:
    state = ClusterState()
    service = Service(service_name="web", task_definition="f:1")
    offer = offers.create_service(C, service, at=Revision(0))
    state.apply(NaiveCommit(Revision(1), (NaiveChange(keys.service(C, "web"), service.pack()),)))
    assert state.service_count(C) == 1 and offer.expect
    state.apply(NaiveCommit(Revision(2), (NaiveChange(keys.service(C, "web"), None),)))
    assert state.service_count(C) == 0
    assert state.service(C, "web") is None


@pytest.mark.parametrize(
    "new", [[], [("a", "2")], [("a", "1")], [("a", "1"), ("a", "1"), ("b", "1")]], ids=str
)
def test_a_label_that_is_there_twice_goes_as_one(new: list[tuple[str, ...]]) -> None:
    index = Index[str]()
    twice = [("a", "1"), ("a", "1")]
    index.change("member", [], twice)
    assert list(index.of(("a", "1"))) == ["member"]
    index.change("member", twice, new)
    for label in {*twice, *new}:
        assert list(index.of(label)) == (["member"] if label in new else [])
    index.change("member", new, [])
    assert not index._of
