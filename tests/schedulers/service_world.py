"""Services on the journal's own fold, on virtual time: instances that fail, agents that are slow, and any
number of scheduler copies that lag, crash and collide. Every accepted step is checked as it is folded."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cluster import offers
from cluster.records import (
    Alive,
    ContainerDefinition,
    ContainerInstance,
    Deployment,
    DeploymentCircuitBreaker,
    DeploymentConfiguration,
    DesiredStatus,
    HealthStatus,
    InstanceStatus,
    LastStatus,
    RolloutState,
    SchedulingStrategy,
    Service,
    ServiceStatus,
    StopCode,
    TaskDefinition,
    TaskStatus,
    attributes,
    deployment_id,
    resources,
)
from cluster.state import ClusterState, TaskView
from journal.commits import Commit, commits
from journal.entries import pack_offers
from journal.limits import Limits
from journal.offers import LeaseRevoke, Offer, Rejected, Verdict, pack_batch, pack_offer
from journal.space import Space
from journal.storage.memory import MemoryStorage
from journal.types import Revision, Slot
from schedulers.service.events import CHARACTERS_MAX
from schedulers.service.losses import Losses
from schedulers.service.offer import offer_of
from schedulers.service.reconcile import Step, reconcile

CLUSTER = "c"
EPOCH = 1_700_000_000.0
GRACE_S = 30.0


@dataclass(slots=True)
class Copy:
    """A scheduler process: what it has heard of the journal, and nothing else."""

    rng: random.Random
    state: ClusterState
    heard: int = 0
    losses: Losses = field(default_factory=lambda: Losses(GRACE_S))
    decided: int = -1
    """The revision that it decided from last..."""
    wake_at: float = 0.0
    """...and until when nothing is new but the time."""


@dataclass(slots=True)
class Instance:
    id: str
    lease: int = 0
    up: bool = True


class ServiceWorld:
    """``doom(task)`` says how long a task runs before it fails (None: for ever, 0: it never starts)."""

    def __init__(
        self, seed: int = 0, *, copies: int = 1, slow_s: float = 2.0, cluster: str = CLUSTER
    ) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.space = Space(MemoryStorage())
        self.truth = ClusterState()
        self.history: list[Commit] = []
        self.time = 0.0
        self.slow_s = slow_s
        self.copies = [Copy(random.Random(f"{seed}/{n}"), ClusterState()) for n in range(copies)]
        self.instances: dict[str, Instance] = {}
        self.doom: Callable[[TaskView], float | None] = lambda _task: None
        self.offer_of: Callable[[Step], Offer] = offer_of
        self.reconcile: Callable[..., Step | None] = reconcile
        self.steps: list[Step] = []
        self.rejected: list[Rejected] = []
        self.failures: dict[str, int] = {}
        self.checks: list[Callable[[Step, ClusterState], None]] = [within_bounds]
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._leases = itertools.count(1)
        self._handled: set[tuple[str, str]] = set()
        self.offer(offers.create_cluster(self.cluster))
        for number in range(copies):
            self.later(0.0, lambda n=number: self._schedule(n))  # type: ignore[misc]

    # -- time -------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return EPOCH + self.time

    def later(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.time + delay, next(self._order), act))

    def run(self, seconds: float) -> None:
        end = self.time + seconds
        while self._heap and self._heap[0][0] <= end:
            self.time, _, act = heapq.heappop(self._heap)
            act()
        self.time = end

    def run_until(self, condition: Callable[[], object], within_s: float) -> float:
        """Run until ``condition`` holds; return how long it took. Fails where it takes too long."""
        began, end = self.time, self.time + within_s
        while not condition():
            assert self._heap and self._heap[0][0] <= end, f"not within {within_s:g} s: {self.describe()}"
            self.time, _, act = heapq.heappop(self._heap)
            act()
        return self.time - began

    # -- the journal ------------------------------------------------------------------

    def offer(self, offer: Offer) -> Verdict:
        slot = Slot(self.space.applied + 1)
        entry = pack_offers(0, [pack_batch(b"", 0, 0, [pack_offer(1, offer)])])
        folded = self.space.fold(slot, entry)
        for commit in commits(slot, entry, folded.outcome):
            self.history.append(commit)
            self.truth.apply(commit)
        return folded.verdicts[0][0]

    def must(self, offer: Offer) -> Revision:
        verdict = self.offer(offer)
        assert isinstance(verdict, int), verdict
        return Revision(verdict)

    # -- scheduler copies -----------------------------------------------------------------

    def _schedule(self, number: int) -> None:
        copy = self.copies[number]
        self.later(copy.rng.uniform(0.05, 0.4), lambda: self._schedule(number))
        behind = len(self.history) - copy.heard
        for _ in range(copy.rng.randint(0, behind) if len(self.copies) > 1 else behind):
            copy.state.apply(self.history[copy.heard])
            copy.heard += 1
        copy.losses.look(copy.state, [self.cluster], self.time)
        if copy.decided == copy.state.revision and self.time < copy.wake_at:
            return
        copy.decided, copy.wake_at = copy.state.revision, copy.losses.wake_at(self.time)
        for view in copy.state.services(self.cluster):
            step = self.reconcile(
                copy.state,
                self.cluster,
                view.name,
                lost=lambda instance: copy.losses.lost(copy.state, self.cluster, instance, self.time),
                now=self.now,
                rng=copy.rng,
            )
            if step is not None and not step.empty:
                self.take(step)
            if step is not None and step.wake_at is not None:
                copy.wake_at = min(copy.wake_at, step.wake_at - EPOCH)

    def take(self, step: Step) -> Verdict:
        offer = self.offer_of(step)
        operations = len(offer.reads) + len(offer.ranges) + len(offer.expect) + len(offer.mutations)
        assert operations <= Limits().offer_operations_max, f"{operations} operations in one offer"
        assert all(len(event.message) <= CHARACTERS_MAX for event in step.rollout.events)
        verdict = self.offer(offer)
        if isinstance(verdict, Rejected):
            self.rejected.append(verdict)
        else:
            self.steps.append(step)
            for check in self.checks:
                check(step, self.truth)
        return verdict

    def crash(self, number: int) -> None:
        """A copy ends; another starts in its place, and hears everything from the beginning."""
        self.copies[number].state = ClusterState()
        self.copies[number].heard = 0
        self.copies[number].losses = Losses(GRACE_S)
        self.copies[number].decided = -1

    # -- instances ----------------------------------------------------------------------

    def add_instance(self, name: str, *, zone: str = "", cpu: int = 1000, memory: int = 1000) -> None:
        attrs = attributes({"ecs.availability-zone": zone} if zone else {})
        record = ContainerInstance(
            registered_resources=resources(cpu, memory), attributes=attrs, registered_at=self.now
        )
        self.must(offers.register_instance(self.cluster, name, record))
        self.instances[name] = Instance(name, up=False)
        self.connect(name)
        self.later(0.0, lambda: self._agent(name))

    def connect(self, name: str) -> None:
        instance = self.instances[name]
        registration = self.truth.instance(self.cluster, name)
        assert registration is not None and registration.registration is not None
        instance.lease = next(self._leases)
        instance.up = True
        self.must(
            offers.connect(
                self.cluster,
                name,
                Alive(incarnation=f"{name}-{instance.lease}", connected_at=self.now),
                lease=instance.lease,
                ttl_ms=10_000,
                registration=registration.registration.revision,
                at=self.truth.revision,
            )
        )

    def disconnect(self, name: str) -> None:
        """Its agent is gone; what it runs goes on."""
        self.instances[name].up = False
        self.must(Offer(mutations=(LeaseRevoke(self.instances[name].lease),)))

    def set_status(self, name: str, status: InstanceStatus) -> None:
        view = self.truth.instance(self.cluster, name)
        assert view is not None and view.registration is not None
        at = view.registration
        self.must(offers.set_instance_status(self.cluster, name, at.record, at.revision, status))

    def _agent(self, name: str) -> None:
        self.later(self.rng.uniform(0.1, 0.5), lambda: self._agent(name))
        if not self.instances[name].up:
            return
        for view in self.truth.tasks(self.cluster, instance=name):
            if view.stopped:
                continue
            if view.task.desired_status is DesiredStatus.STOPPED:
                self._once(view, "stop", self.rng.uniform(0, self.slow_s), LastStatus.STOPPED)
            elif view.last_status is LastStatus.PENDING:
                doom = self.doom(view)
                if doom == 0:
                    self._once(view, "fail", self.rng.uniform(0, self.slow_s), LastStatus.STOPPED)
                else:
                    self._once(view, "run", self.rng.uniform(0, self.slow_s), LastStatus.RUNNING)
            else:
                doom = self.doom(view)
                if doom is not None:
                    self._once(view, "die", doom, LastStatus.STOPPED)

    def _once(self, view: TaskView, what: str, delay: float, status: LastStatus) -> None:
        if (view.id, what) not in self._handled:
            self._handled.add((view.id, what))
            self.later(delay, lambda: self.report(view.id, status))

    def report(self, task: str, last: LastStatus) -> None:
        view = self.truth.task(self.cluster, task)
        if view is None or view.stopped or view.last_status is last or not self.instances[view.instance].up:
            self._handled = {(t, w) for t, w in self._handled if t != task or view is None or view.stopped}
            return
        asked = view.task.desired_status is DesiredStatus.STOPPED
        before = view.status
        status = replace(before or TaskStatus(last_status=last), last_status=last)
        if last is LastStatus.RUNNING:
            if asked:
                return
            status = replace(status, started_at=self.now)
        if last is LastStatus.STOPPED:
            failed_code = (
                StopCode.TASK_FAILED_TO_START
                if view.last_status is LastStatus.PENDING
                else StopCode.ESSENTIAL_CONTAINER_EXITED
            )
            code = view.task.stop_code if asked else failed_code
            why = view.task.stopped_reason if asked else "it ended"
            status = replace(status, stop_code=code, stopped_reason=why, stopped_at=self.now)
            if not asked:
                self.failures[view.task.started_by] = self.failures.get(view.task.started_by, 0) + 1
        assert view.desired is not None
        self.must(
            offers.report(
                self.cluster,
                view.instance,
                task,
                view.task,
                view.desired.revision,
                status,
                before=before,
                before_revision=view.observed.revision if view.observed else Revision(0),
            )
        )

    def report_health(self, task: str, health: HealthStatus) -> None:
        view = self.truth.task(self.cluster, task)
        assert view is not None and view.status is not None and view.observed and view.desired
        self.must(
            offers.report(
                self.cluster,
                view.instance,
                task,
                view.task,
                view.desired.revision,
                replace(view.status, health_status=health),
                before=view.status,
                before_revision=view.observed.revision,
            )
        )

    # -- services -------------------------------------------------------------------------

    def define(self, family: str = "web", *, cpu: int = 100, memory: int = 100) -> str:
        revision = len(self.truth.family(family)) + 1
        container = ContainerDefinition(name="main", command=("x",))
        definition = TaskDefinition(
            family=family, revision=revision, cpu=cpu, memory=memory, container_definitions=(container,)
        )
        self.must(offers.register_task_definition(definition))
        return definition.name

    def create(
        self,
        name: str = "web",
        *,
        desired: int = 4,
        definition: str = "",
        minimum: int | None = None,
        maximum: int | None = None,
        breaker: tuple[bool, bool] | None = None,
        daemon: bool = False,
    ) -> str:
        definition = definition or self.define(name)
        deployment = self._deployment(definition)
        circuit = DeploymentCircuitBreaker(enable=breaker[0], rollback=breaker[1]) if breaker else None
        service = Service(
            service_name=name,
            task_definition=definition,
            desired_count=desired,
            scheduling_strategy=SchedulingStrategy.DAEMON if daemon else SchedulingStrategy.REPLICA,
            deployment_configuration=DeploymentConfiguration(
                minimum_healthy_percent=minimum,
                maximum_percent=maximum,
                deployment_circuit_breaker=circuit,
            ),
            deployments=(deployment,),
            created_at=self.now,
        )
        self.must(offers.create_service(self.cluster, service, at=self.truth.revision))
        return deployment.id

    def _deployment(self, definition: str) -> Deployment:
        return Deployment(
            id=deployment_id(self.rng.getrandbits(63)), task_definition=definition, created_at=self.now
        )

    def update(self, name: str = "web", *, definition: str = "", desired: int | None = None) -> str:
        """Change a service as UpdateService does; return the id of the PRIMARY deployment."""
        view = self.truth.service(self.cluster, name)
        assert view is not None and view.desired is not None
        new = view.service
        if desired is not None:
            new = replace(new, desired_count=desired)
        if definition:
            deployments = (self._deployment(definition), *new.deployments)
            new = replace(new, task_definition=definition, deployments=deployments)
        self.must(offers.change_service(self.cluster, view.service, new, view.desired.revision))
        return new.deployments[0].id

    def delete(self, name: str = "web") -> None:
        view = self.truth.service(self.cluster, name)
        assert view is not None and view.desired is not None
        new = replace(view.service, status=ServiceStatus.DRAINING, desired_count=0)
        self.must(offers.change_service(self.cluster, view.service, new, view.desired.revision))

    # -- looking --------------------------------------------------------------------------

    def service(self, name: str = "web") -> Service:
        view = self.truth.service(self.cluster, name)
        assert view is not None
        return view.service

    def tasks(self, name: str = "web", deployment: str = "") -> list[TaskView]:
        """Return the tasks that hold something."""
        views = self.truth.service_tasks(self.cluster, name)
        return [v for v in views if not v.stopped and deployment in ("", v.task.started_by)]

    def running(self, name: str = "web", deployment: str = "") -> list[TaskView]:
        return [
            v
            for v in self.tasks(name, deployment)
            if v.last_status is LastStatus.RUNNING and v.task.desired_status is DesiredStatus.RUNNING
        ]

    def events(self, name: str = "web") -> list[str]:
        view = self.truth.service(self.cluster, name)
        return [event.message for event in view.rollout.events] if view else []

    def state_of(self, deployment: str, name: str = "web") -> RolloutState | None:
        view = self.truth.service(self.cluster, name)
        found = view.rollout.deployment(deployment) if view else None
        return found.rollout_state if found else None

    def steady(self, name: str = "web") -> bool:
        view = self.truth.service(self.cluster, name)
        return (
            view is not None
            and view.rollout.steady
            and len(self.running(name)) == view.service.desired_count == len(self.tasks(name))
            and len(view.service.deployments) == 1
        )

    def describe(self) -> str:
        lines = []
        for view in self.truth.services(self.cluster):
            tasks = [
                f"{t.id[:4]}@{t.instance} {t.task.started_by[-4:]} {t.last_status}->{t.task.desired_status}"
                for t in self.tasks(view.name)
            ]
            lines.append(f"{view.service} {view.rollout} {tasks}")
        return "\n".join(lines)


def within_bounds(step: Step, truth: ClusterState) -> None:
    """Whatever a step did, right after it: not more tasks than the maximum, not fewer healthy than the
    minimum by its own doing, never more of the primary than are wanted."""
    service = step.before.service
    if not service.is_replica or service.status is not ServiceStatus.ACTIVE:
        per_instance = [
            v.instance for v in truth.service_tasks(step.cluster, step.before.name) if not v.stopped
        ]
        if not service.is_replica:
            assert len(per_instance) == len(set(per_instance)), "two tasks of a daemon on one instance"
        return
    desired = service.desired_count
    live = [v for v in truth.service_tasks(step.cluster, step.before.name) if not v.stopped]
    if step.starts:
        most = desired * service.maximum_percent // 100
        assert len(live) <= most, f"{len(live)} tasks, the maximum is {most}"
        primary = step.service.deployments[0].id
        new = [v for v in live if v.task.started_by == primary and v.task.desired_status == "RUNNING"]
        leaving = {i.id for i in truth.instances(step.cluster) if i.status != "ACTIVE"}
        new = [v for v in new if v.instance not in leaving]
        assert len(new) <= desired, f"{len(new)} tasks of the primary, {desired} are wanted"
    gave_up = [stop for stop in step.stops if _serves(stop.view)]
    if gave_up:
        # Those of an agent that is away count: they may well run, and nobody knows better.
        serving = [v for v in live if _serves(v) and v.task.desired_status is DesiredStatus.RUNNING]
        least = -(-desired * service.minimum_healthy_percent // 100)
        assert len(serving) >= least, f"{len(serving)} healthy tasks, the minimum is {least}"


def _serves(view: TaskView) -> bool:
    status = view.status
    return (
        status is not None
        and status.last_status is LastStatus.RUNNING
        and status.health_status is not HealthStatus.UNHEALTHY
    )
