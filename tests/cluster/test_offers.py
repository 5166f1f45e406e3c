"""What must never happen is impossible by the offers themselves, however wrong their author is.

A state machine of schedulers and agents with outdated ideas offers everything they might;
after each commit nothing is oversubscribed, and what is left and what is claimed make up
what was registered. Then each rule is taken out of the offers, and the machine must notice.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import keys, offers
from cluster.records import (
    Alive,
    ContainerDefinition,
    ContainerInstance,
    DesiredStatus,
    InstanceStatus,
    LastStatus,
    Resource,
    Service,
    StopCode,
    Task,
    TaskDefinition,
    TaskStatus,
    resources,
)
from cluster.state import ClusterState, InstanceView, TaskView
from cluster.transitions import IllegalTransition
from journal.offers import Adjust, Delete, LeaseRevoke, Offer, Put
from journal.types import Revision
from tests.cluster.naive import NaiveJournal, Refused

CLUSTER = "default"
CPU, MEMORY, GPU = 4, 8, 2
SERVICE, WANTED = "web", 3
ALONE = "alone"
"""A group of which an instance has one task at most."""


class Violation(AssertionError):
    """A promise of the cluster is broken."""


class Anarchy:
    """Schedulers and agents that act on states as old as they like, and repeat themselves."""

    def __init__(
        self,
        rng: random.Random,
        spoil: Callable[[Offer], Offer] = lambda offer: offer,
        journal: NaiveJournal | None = None,
    ) -> None:
        self.rng = rng
        self.spoil = spoil
        self.journal = journal or NaiveJournal()
        self.states: list[ClusterState] = []
        self.tasks = 0
        self.leases = 0
        self.lease_of: dict[str, int] = {}
        self.sent: list[Offer] = []
        self.runs: dict[str, set[str]] = {}
        definition = TaskDefinition(
            family="f", revision=1, cpu=1, memory=1, container_definitions=(ContainerDefinition(name="c"),)
        )
        self.journal.offer(offers.register_task_definition(definition))
        self.journal.offer(offers.create_cluster(CLUSTER))
        service = Service(service_name=SERVICE, task_definition="f:1", desired_count=WANTED)
        self.journal.offer(offers.create_service(CLUSTER, service, at=self.journal.revision))
        for instance in ("a", "b"):
            record = ContainerInstance(registered_resources=self.some_resources(CPU, MEMORY, GPU))
            self.journal.offer(offers.register_instance(CLUSTER, instance, record))
            self.connect(instance)
        self.look()

    def look(self) -> None:
        self.states.append(self.journal.state())

    def some_state(self) -> ClusterState:
        return self.rng.choice(self.states[-6:])

    def offer(self, offer: Offer) -> None:
        self.sent.append(offer)
        try:
            self.journal.offer(self.spoil(offer))
        except Refused:
            return
        self.check()

    def repeat(self) -> None:
        """Offer something a second time, as one does whose first answer was lost."""
        if self.sent:
            self.offer(self.rng.choice(self.sent[-10:]))

    def some_resources(self, cpu: int, memory: int, gpu: int) -> tuple[Resource, ...]:
        ports = tuple(port for port in (1, 9) if self.rng.random() < 0.5)
        ports_udp = (9,) if self.rng.random() < 0.5 else ()
        return resources(cpu, memory, ports=ports, ports_udp=ports_udp, named={"GPU": gpu})

    def some_task_record(self, group: str = "") -> Task:
        rng = self.rng
        return Task(
            task_definition="f:1",
            cpu=rng.randint(0, 3),
            memory=rng.randint(0, 5),
            ports=(rng.randint(1, 3),) if rng.random() < 0.5 else (),
            ports_udp=(rng.randint(1, 3),) if rng.random() < 0.3 else (),
            resources={"GPU": rng.randint(0, 2)} if rng.random() < 0.3 else {},
            group=group,
        )

    def places(self, state: ClusterState) -> list[InstanceView]:
        views = state.instances(CLUSTER)
        return [view for view in views if view.status is InstanceStatus.ACTIVE and view.connected]

    def place_alone(self) -> None:
        """One of a group on an instance, as far as its author knows."""
        state = self.some_state()
        there = {v.instance for v in state.tasks(CLUSTER, group=ALONE) if not v.stopped}
        views = [view for view in self.places(state) if view.id not in there]
        if views:
            self.tasks += 1
            task = replace(self.some_task_record(ALONE), ports=(), ports_udp=())
            where = self.rng.choice(views).id
            self.offer(offers.place(CLUSTER, where, f"t{self.tasks}", task, at=state.revision, alone=True))

    def scale(self) -> None:
        """As many tasks of the service as are missing, as far as its author knows."""
        state = self.some_state()
        missing, views = WANTED - len(state.service_tasks(CLUSTER, SERVICE)), self.places(state)
        if missing <= 0 or not views:
            return
        placings = []
        for _ in range(self.rng.randint(1, missing)):
            self.tasks += 1
            task = replace(self.some_task_record(f"service:{SERVICE}"), started_by="ecs-svc/1")
            placings.append(offers.Placing(self.rng.choice(views).id, f"t{self.tasks}", task))
        self.offer(offers.place_for_service(CLUSTER, SERVICE, placings, at=state.revision))

    def abandon(self) -> None:
        state = self.rng.choice(self.states[-2:])
        views = [
            view
            for view in state.service_tasks(CLUSTER, SERVICE)
            if (where := state.instance(CLUSTER, view.instance)) and not where.connected
        ]
        if views:
            view = self.rng.choice(views)
            assert view.desired is not None
            self.offer(
                offers.abandon(
                    CLUSTER,
                    view.instance,
                    view.id,
                    view.task,
                    view.desired.revision,
                    code=StopCode.TERMINATION_NOTICE,
                    reason="",
                    now=1.0,
                )
            )

    def place(self) -> None:
        state = self.some_state()
        views = self.places(state)
        if not views:
            return
        self.tasks += 1
        task = self.some_task_record()
        view = self.rng.choice(views)
        self.offer(offers.place(CLUSTER, view.id, f"t{self.tasks}", task, at=state.revision))

    def some_task(self, state: ClusterState) -> TaskView | None:
        views = state.tasks(CLUSTER)
        return self.rng.choice(views) if views else None

    def report(self) -> None:
        state = self.some_state()
        view = self.some_task(state)
        if view is None or view.desired is None:
            return
        last = self.rng.choice([LastStatus.RUNNING, LastStatus.STOPPED, LastStatus.STOPPED])
        before = view.observed
        try:
            offer = offers.report(
                CLUSTER,
                view.instance,
                view.id,
                view.task,
                view.desired.revision,
                TaskStatus(last_status=last),
                before=before.record if before else None,
                before_revision=before.revision if before else Revision(0),
            )
        except IllegalTransition:
            return
        self.offer(offer)

    def stop(self) -> None:
        state = self.some_state()
        view = self.some_task(state)
        if view is None or view.desired is None or view.task.desired_status is DesiredStatus.STOPPED:
            return
        self.offer(
            offers.stop(
                CLUSTER,
                view.instance,
                view.id,
                view.task,
                view.desired.revision,
                code=StopCode.USER_INITIATED,
                reason="",
                now=1.0,
            )
        )

    def forget(self) -> None:
        view = self.some_task(self.some_state())
        if view is None or view.desired is None or view.observed is None or not view.stopped:
            return
        self.offer(
            offers.forget(
                CLUSTER,
                view.instance,
                view.id,
                view.desired.revision,
                view.observed.record,
                view.observed.revision,
            )
        )

    def resize(self) -> None:
        state = self.some_state()
        view = self.rng.choice(state.instances(CLUSTER))
        assert view.registration is not None
        new = replace(
            view.registration.record,
            registered_resources=self.some_resources(
                self.rng.randint(0, CPU), self.rng.randint(0, MEMORY), self.rng.randint(0, GPU)
            ),
        )
        self.offer(
            offers.change_instance(
                CLUSTER, view.id, view.registration.record, new, view.registration.revision
            )
        )

    def drain(self) -> None:
        view = self.rng.choice(self.some_state().instances(CLUSTER))
        assert view.registration is not None
        status = self.rng.choice([InstanceStatus.ACTIVE, InstanceStatus.DRAINING])
        self.offer(
            offers.set_instance_status(
                CLUSTER, view.id, view.registration.record, view.registration.revision, status
            )
        )

    def connect(self, instance: str) -> None:
        self.leases += 1
        self.lease_of[instance] = self.leases
        state = self.journal.state()
        view = state.instance(CLUSTER, instance)
        assert view is not None and view.registration is not None
        self.offer(
            offers.connect(
                CLUSTER,
                instance,
                Alive(incarnation=str(self.leases)),
                lease=self.leases,
                ttl_ms=1000,
                registration=view.registration.revision,
                at=state.revision,
            )
        )

    def lose_lease(self) -> None:
        instance = self.rng.choice("ab")
        self.offer(Offer((LeaseRevoke(self.lease_of[instance]),)))
        if self.rng.random() < 0.7:
            self.look()
        if self.rng.random() < 0.4:
            self.connect(instance)

    def come_back(self) -> None:
        lost = [v.id for v in self.journal.state().instances(CLUSTER) if not v.connected]
        if lost:
            self.connect(self.rng.choice(lost))

    def step(self) -> None:
        moves = [self.place] * 5 + [self.report] * 4 + [self.look] * 4 + [self.stop, self.forget] * 2
        moves += [self.scale] * 5 + [self.place_alone] * 2 + [self.abandon] * 6
        moves += [self.repeat, self.repeat, self.resize, self.drain, self.lose_lease, self.come_back]
        self.rng.choice(moves)()

    def check(self) -> None:
        """Raise ``Violation`` where the committed state breaks a promise."""
        journal, state = self.journal, self.journal.state()
        commit = journal.commits[-1]
        for view in state.instances(CLUSTER):
            assert view.capacity is not None and view.registration is not None
            left, registered = view.capacity.record, view.registration.record
            claimed = state.claimed(CLUSTER, view.id)
            if min(left.cpu, left.memory, *left.resources.values()) < 0:
                raise Violation("oversubscribed")
            if (
                left.cpu + claimed.cpu != registered.cpu
                or left.memory + claimed.memory != registered.memory
                or any(
                    left.resources.get(name, 0) + claimed.resources.get(name, 0) != number
                    for name, number in registered.named.items()
                )
            ):
                raise Violation("claims and what is left do not make up what was registered")
            for taken, of_tasks, reserved in (
                (left.ports, claimed.ports, registered.ports),
                (left.ports_udp, claimed.ports_udp, registered.ports_udp),
            ):
                if sorted(taken) != sorted(of_tasks + reserved) or len(set(taken)) != len(taken):
                    raise Violation("ports taken are not the ports claimed")
            alone = [v for v in state.tasks(CLUSTER, instance=view.id, group=ALONE) if not v.stopped]
            if len(alone) > 1:
                raise Violation("two tasks of a group on an instance that should have one")
        self.check_service(state)
        for change in commit.changes:
            parsed = keys.parse(change.key)
            if parsed and parsed.kind is keys.Kind.TASK and "place" in commit.label:
                where = state.instance(CLUSTER, parsed.instance)
                if where is None or where.status is not InstanceStatus.ACTIVE or not where.connected:
                    raise Violation("placed on an instance that is not there to take it")
                self.runs.setdefault(parsed.task, set()).add(str(commit.revision))
                if len(self.runs[parsed.task]) > 1:
                    raise Violation("placed twice")

    @staticmethod
    def check_service(state: ClusterState) -> None:
        lines = state.service_tasks(CLUSTER, SERVICE)
        if len(lines) > WANTED:
            raise Violation("the service has more tasks than wanted")
        if any(view.stopped for view in lines):
            raise Violation("a stopped task counts as the service's")
        counted = {view.id for view in lines}
        for view in state.tasks(CLUSTER, group=f"service:{SERVICE}"):
            given_up = view.task.desired_status is DesiredStatus.STOPPED
            if not view.stopped and view.id not in counted and not given_up:
                raise Violation("a task of the service is not counted")


def run(seed: int, steps: int = 150, spoil: Callable[[Offer], Offer] = lambda offer: offer) -> Anarchy:
    world = Anarchy(random.Random(seed), spoil)
    for _ in range(steps):
        world.step()
    return world


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_no_promise_is_ever_broken(seed: int) -> None:
    run(seed)


def test_the_worlds_above_are_busy() -> None:
    """Else they would show nothing: offers of every kind are accepted, and refused."""
    world = [run(seed) for seed in range(20)]
    labels = [commit.label for each in world for commit in each.journal.commits]
    for kind in ("place", "RUNNING", "STOPPED", "stop ", "forget", "connect", "change instance", "DRAINING"):
        assert sum(kind in label for label in labels) > 10, kind
    for kind in ("service web: place", "abandon", "place 2"):
        assert sum(kind in label for label in labels) > 3, kind
    assert sum(len(each.sent) for each in world) - len(labels) > 100, "refused"


def without_minimum(offer: Offer) -> Offer:
    return replace(
        offer,
        mutations=tuple(replace(m, minimum={}) if isinstance(m, Adjust) else m for m in offer.mutations),
    )


def without_reads(offer: Offer) -> Offer:
    return replace(offer, reads=())


def without_expect(offer: Offer) -> Offer:
    return replace(offer, expect=())


def without_release(offer: Offer) -> Offer:
    return replace(offer, mutations=offer.mutations[:1]) if "STOPPED" in offer.label else offer


def without_task_expect(offer: Offer) -> Offer:
    """Reports that do not stand on the task."""
    return replace(offer, expect=offer.expect[:1]) if offer.label.startswith("agent") else offer


def without_placement_expect(offer: Offer) -> Offer:
    return replace(offer, expect=()) if "place" in offer.label else offer


def without_ranges(offer: Offer) -> Offer:
    return replace(offer, ranges=())


def without_abandons_expect(offer: Offer) -> Offer:
    """Tasks given up that may be connected again, under a service that counts them no more."""
    return replace(offer, mutations=offer.mutations[1:]) if offer.label.startswith("abandon") else offer


def without_index(offer: Offer) -> Offer:
    """Reports that leave the service's line."""
    left = tuple(m for m in offer.mutations if not isinstance(m, Delete))
    return replace(offer, mutations=left) if offer.label.startswith("agent") else offer


@pytest.mark.parametrize(
    ("spoil", "broken"),
    [
        (without_minimum, "oversubscribed"),
        (without_reads, "not there to take it"),
        (without_expect, "do not make up|ports taken|placed twice"),
        (without_placement_expect, "do not make up|ports taken|placed twice"),
        (without_release, "do not make up|ports taken"),
        (without_ranges, "more tasks than wanted|two tasks of a group"),
        (without_index, "a stopped task counts"),
        (without_abandons_expect, "is not counted"),
    ],
)
def test_each_rule_is_needed(spoil: Callable[[Offer], Offer], broken: str) -> None:
    """Planted bugs: with a rule taken out, some world breaks a promise."""
    with pytest.raises(Violation, match=broken):
        for seed in range(200):
            run(seed, spoil=spoil)


def test_a_task_is_not_reported_after_it_was_forgotten() -> None:
    world = Anarchy(random.Random(0))
    task = Task(task_definition="f:1", cpu=1, memory=1)
    placed = world.journal.offer(offers.place(CLUSTER, "a", "t", task, at=world.journal.revision))
    stopped = TaskStatus(last_status=LastStatus.STOPPED)
    late = offers.report(CLUSTER, "a", "t", task, placed, stopped, before=None, before_revision=Revision(0))
    reported = world.journal.offer(late)
    world.journal.offer(offers.forget(CLUSTER, "a", "t", placed, stopped, reported))
    with pytest.raises(Refused, match="EXPECT"):
        world.journal.offer(late)
    world.journal.offer(without_task_expect(late))  # which is why it stands on the task
    with pytest.raises(Violation):
        world.check()


def test_a_released_claim_is_not_released_again() -> None:
    running = TaskStatus(last_status=LastStatus.RUNNING)
    stopped = TaskStatus(last_status=LastStatus.STOPPED)
    task = Task(task_definition="f:1", cpu=1, memory=1, ports=(80,))

    def report(status: TaskStatus, before: TaskStatus | None) -> Offer:
        return offers.report(
            "c", "i", "t", task, Revision(5), status, before=before, before_revision=Revision(7)
        )

    assert len(report(stopped, running).mutations) == 3
    assert len(report(running, None).mutations) == 1
    with pytest.raises(IllegalTransition):
        report(running, stopped)
    again = report(stopped, stopped)  # a correction of what was reported
    assert [type(m) for m in again.mutations] == [Put]


def test_a_stop_is_refused_where_it_says_nothing_new() -> None:
    task = Task(task_definition="f:1", cpu=1, memory=1, desired_status=DesiredStatus.STOPPED)
    with pytest.raises(IllegalTransition, match="STOPPED already"):
        offers.stopped(task, code=StopCode.USER_INITIATED, reason="", now=0.0)
    with pytest.raises(IllegalTransition):
        offers.place("c", "i", "t", task, at=Revision(1))


def test_a_stop_keeps_what_a_later_version_wrote() -> None:
    task = Task(task_definition="f:1", cpu=1, memory=1, extra={"later": 1})
    stopped = offers.stopped(task, code=StopCode.USER_INITIATED, reason="why", now=3.0)
    assert stopped.extra == {"later": 1}
    assert (stopped.stop_code, stopped.stopped_reason, stopped.stopping_at) == ("UserInitiated", "why", 3.0)


def test_running_tasks_cannot_be_forgotten() -> None:
    with pytest.raises(IllegalTransition):
        offers.forget("c", "i", "t", Revision(1), TaskStatus(last_status=LastStatus.RUNNING), Revision(2))


def test_labels_stay_within_the_journals_limit() -> None:
    long = "x" * 255
    definition = TaskDefinition(
        family=long, revision=1, cpu=1, memory=1, container_definitions=(ContainerDefinition(name="c"),)
    )
    assert len(offers.register_task_definition(definition).label) <= 256
