"""What the service scheduler does next: ``reconcile(state, cluster, service, …) -> Step``. PURE.

The rules are in the package's docstring. A step is everything that is decided from one revision of
the state; ``schedulers.service.offer`` makes one offer of it. Called again after every change, and
at ``wake_at``; it remembers nothing itself, so a crash between any two steps is harmless.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cluster.records import (
    DesiredStatus,
    InstanceStatus,
    Rollout,
    Service,
    ServiceStatus,
    Task,
    TaskDefinition,
    task_of,
)
from cluster.state import At, ClusterState, ServiceView, TaskView
from journal.types import Revision
from schedulers.service import events, placing
from schedulers.service.rolling import STOPS_MAX, Goal, Member, Phase, daemon, keeps, starts, stops
from schedulers.service.rollout import Progress
from schedulers.service.view import Lost, Tasks, ends_of, goal_of, tasks_of

STARTS_MAX = 32
"""Tasks that one step starts at most: the rest follows in the next."""
TASK_ID_BITS = 128


@dataclass(frozen=True, slots=True)
class Start:
    instance: str
    task_id: str
    task: Task
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    view: TaskView
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do at once, or not at all; nothing to do where ``empty``."""

    at: Revision
    cluster: str
    before: ServiceView
    service: Service
    """The service's record as the step leaves it."""
    rollout: Rollout
    starts: tuple[Start, ...] = ()
    stops: tuple[Stop, ...] = ()
    abandoned: tuple[Stop, ...] = ()
    """Tasks of lost instances."""
    now: float = 0.0
    wake_at: float | None = None
    """When to ask again though nothing changed (seconds since the epoch)."""
    why: str = ""
    """Why a task that is wanted has no place."""

    @property
    def empty(self) -> bool:
        return not (self.starts or self.stops or self.abandoned or self.changes_records)

    @property
    def changes_records(self) -> bool:
        return self.service != self.before.service or self.rollout != self.before.rollout


@dataclass(slots=True)
class _Making:
    """A step while it is made."""

    state: ClusterState
    cluster: str
    before: ServiceView
    tasks: Tasks
    progress: Progress
    now: float
    rng: random.Random
    batch: int
    starts: list[Start] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    abandoned: list[Stop] = field(default_factory=list)
    wake_at: float | None = None
    why: str = ""

    @property
    def service(self) -> Service:
        return self.progress.service

    @property
    def name(self) -> str:
        return self.before.name

    def wake(self, at: float | None) -> None:
        if at is not None and at > self.now:
            self.wake_at = at if self.wake_at is None else min(self.wake_at, at)

    def stop(self, members: Sequence[Member], reason: str) -> None:
        self.stops += [Stop(self.tasks.views[member.id], reason) for member in members]


def reconcile(
    state: ClusterState,
    cluster: str,
    name: str,
    *,
    lost: Lost,
    now: float,
    rng: random.Random,
    batch: int = STARTS_MAX,
) -> Step | None:
    """Return the next step of a service; None for one that there is nothing to do for.

    ``lost`` says whether an instance is lost, ``now`` is in seconds since the epoch, ``batch`` is how
    many tasks to start at most. The same arguments give the same step.
    """
    view = state.service(cluster, name)
    if view is None or view.service.status is ServiceStatus.INACTIVE or not view.service.deployments:
        return None
    tasks = tasks_of(state, cluster, view.service, lost, now)
    progress = Progress(view.service, view.rollout, now, rng)
    making = _Making(state, cluster, view, tasks, progress, now, rng, batch)
    _abandon(making)
    if view.service.status is ServiceStatus.DRAINING:
        _drain(making)
    else:
        _count_ends(making)
        progress.break_circuit()
        progress.drop_superseded({member.deployment for member in tasks.members})
        if view.service.is_replica:
            _replicas(making)
        else:
            _daemon(making)
    return _step(making)


def _step(making: _Making) -> Step:
    progress = making.progress
    if making.starts or making.stops or making.abandoned:
        progress.steady = False
    if making.starts:
        progress.tell(events.started(making.name, [start.task_id for start in making.starts]))
    if making.stops:
        progress.tell(events.stopped(making.name, [stop.view.id for stop in making.stops]))
    return Step(
        at=making.state.revision,
        cluster=making.cluster,
        before=making.before,
        service=progress.service,
        rollout=progress.rollout(),
        starts=tuple(making.starts),
        stops=tuple(making.stops),
        abandoned=tuple(making.abandoned),
        now=making.now,
        wake_at=making.wake_at,
        why=making.why,
    )


def _abandon(making: _Making) -> None:
    """Give the tasks of lost instances up: they are to stop whenever their agent is back."""
    by_instance: dict[str, list[str]] = {}
    for view in making.tasks.lost[:STOPS_MAX]:
        by_instance.setdefault(view.instance, []).append(view.id)
        reason = f"Container instance {view.instance} is gone"
        making.abandoned.append(Stop(view, reason))
    for instance in sorted(by_instance):
        making.progress.tell(events.lost(making.name, instance, by_instance[instance]))


def _drain(making: _Making) -> None:
    """The service is deleted: stop everything, then make it INACTIVE."""
    active = [member for member in making.tasks.members if member.active]
    making.stop(active[:STOPS_MAX], "Service deleted")
    if not making.tasks.members and not making.tasks.lost:
        making.progress.service = replace(making.service, status=ServiceStatus.INACTIVE, deployments=())


def _count_ends(making: _Making) -> None:
    """Take note of tasks that ended by themselves, each once: the rollout says up to which revision."""
    progress = making.progress
    ends, progress.counted_to = ends_of(making.state, making.cluster, making.service, progress.counted_to)
    for end in ends:
        if not end.failed:
            progress.ran_well(end.deployment)
    for deployment in making.service.deployments:
        failed = [end for end in ends if end.failed and end.deployment == deployment.id]
        progress.failed_tasks(deployment.id, len(failed), failed[-1].reason if failed else "")
    sick = [member for member in making.tasks.members if member.phase is Phase.UNHEALTHY][:STOPS_MAX]
    for member in sick:
        progress.tell(events.unhealthy(making.name, member.id))
        progress.failed_tasks(member.deployment, 1, "Task failed container health checks")
    making.stop(sick, "Task failed container health checks")


def _held(making: _Making) -> bool:
    """Say whether no task may be started now: the rollout was given up, or failures hold it back."""
    current = making.progress.current
    if making.now < current.next_attempt_at:
        making.wake(current.next_attempt_at)
        return True
    return making.progress.stalled


def _definition(making: _Making) -> TaskDefinition | None:
    found: At[TaskDefinition] | None = making.state.definition(making.progress.primary.task_definition)
    return found.record if found else None


def _replicas(making: _Making) -> None:
    members = [member for member in making.tasks.members if not _stopping(making, member)]
    goal = goal_of(making.service, making.service.desired_count)
    wanted = starts(making.tasks.members, goal)
    short = wanted.short
    held = _held(making)
    if wanted.count and not held:
        short += _start(making, wanted.count)
    chosen = stops(members, goal, 0 if held else short)
    making.stop(chosen, _why_stop(making, chosen))
    if short and not held and not chosen and not making.starts:
        _stuck(making, goal)
    _settle(making, goal)


def _stopping(making: _Making, member: Member) -> bool:
    return any(stop.view.id == member.id for stop in making.stops)


def _start(making: _Making, count: int) -> int:
    """Start up to ``count`` tasks; return how many have no place (those beyond the batch not counted)."""
    definition = _definition(making)
    if definition is None:
        why = f"task definition {making.progress.primary.task_definition} does not exist"
        _unable(making, why)
        return 0
    count = min(count, making.batch)
    chosen = placing.choose(
        making.state, making.cluster, making.service, definition, count, making.rng, _leaving(making)
    )
    for instance in chosen.instances:
        making.starts.append(_new(making, definition, instance, chosen.alone))
    unplaced = count - len(chosen.instances)
    if unplaced:
        _unable(making, chosen.why)
    return unplaced


def _leaving(making: _Making) -> Counter[str]:
    """Count by instance the tasks that should run as far as their records say, and are about to go."""
    goal = goal_of(making.service, making.service.desired_count)
    going = [member.instance for member in making.tasks.members if member.active and not keeps(member, goal)]
    lost = [v.instance for v in making.tasks.lost if v.task.desired_status is DesiredStatus.RUNNING]
    return Counter(going + lost)


def _new(making: _Making, definition: TaskDefinition, instance: str, alone: bool) -> Start:
    service = making.service
    tags = {"SERVICE": service.tags, "TASK_DEFINITION": definition.tags}.get(service.propagate_tags, ())
    task = task_of(
        definition,
        created_at=making.now,
        group=service.group,
        started_by=making.progress.primary.id,
        tags=tags,
        propagate_tags=service.propagate_tags,
        enable_execute_command=service.enable_execute_command,
        enable_ecs_managed_tags=service.enable_ecs_managed_tags,
        launch_type=service.launch_type,
    )
    return Start(instance, f"{making.rng.getrandbits(TASK_ID_BITS):032x}", task, alone)


def _unable(making: _Making, why: str) -> None:
    making.why = why
    making.wake(making.progress.tell_again(events.unable(making.name, why), events.UNABLE))


def _stuck(making: _Making, goal: Goal) -> None:
    """Nothing may be started for the maximum, nor stopped for the minimum, and nothing will change that."""
    if goal.maximum <= goal.minimum and all(member.healthy for member in making.tasks.members):
        making.wake(making.progress.tell_again(events.stuck(making.name), events.STUCK))


def _why_stop(making: _Making, chosen: Sequence[Member]) -> str:
    primary = making.progress.primary.id
    if any(member.deployment != primary for member in chosen):
        return f"Scaling activity initiated by (deployment {primary})"
    return f"Scaling activity initiated by (service {making.name})"


def _settle(making: _Making, goal: Goal) -> None:
    """Say so where everything is as it should be. Not in the step of a rollback: that one is to be seen."""
    members = making.tasks.members
    if making.starts or making.stops or making.abandoned or making.progress.broke:
        return
    if len(members) == goal.desired and all(keeps(m, goal) and m.healthy for m in members):
        making.progress.complete()


def _daemon(making: _Making) -> None:
    definition = _definition(making)
    if definition is None:
        _unable(making, f"task definition {making.progress.primary.task_definition} does not exist")
        return
    state, cluster = making.state, making.cluster
    wanted = set(placing.eligible(state, cluster, making.service, definition))
    connected = [i for i in sorted(wanted) if (view := state.instance(cluster, i)) and view.connected]
    members = [
        replace(member, leaving=_daemon_leaves(making, member, wanted))
        for member in making.tasks.members
        if not _stopping(making, member)
    ]
    away = {m.instance for m in members if m.phase is Phase.AWAY and m.instance in wanted}
    desired = len(set(connected) | away)
    if making.service.desired_count != desired:
        making.progress.service = replace(making.service, desired_count=desired)
    goal = goal_of(making.service, desired)
    moves = daemon(members, goal, connected)
    if not _held(making):
        refusals = [_start_on(making, definition, instance) for instance in moves.start[: making.batch]]
        refused = [why for why in refusals if why]
        if refused:
            _unable(making, refused[0])
    making.stop(moves.stop, _why_stop(making, moves.stop))
    making.tasks = replace(making.tasks, members=tuple(members))
    _settle(making, goal)


def _start_on(making: _Making, definition: TaskDefinition, instance: str) -> str:
    """Start a daemon's task on an instance; return why that has no room, "" if it has."""
    why = placing.refusal(making.state, making.cluster, making.service, definition, instance)
    if not why:
        making.starts.append(_new(making, definition, instance, alone=False))
    return why


def _daemon_leaves(making: _Making, member: Member, wanted: set[str]) -> bool:
    """Say whether a daemon's task should go: of a draining instance the last one of all."""
    view = making.state.instance(making.cluster, member.instance)
    if view is None or view.status is not InstanceStatus.DRAINING:
        return member.instance not in wanted
    others = making.state.tasks(making.cluster, instance=member.instance, desired=DesiredStatus.RUNNING)
    return all(other.stopped or _is_daemons(making, other) for other in others)


def _is_daemons(making: _Making, view: TaskView) -> bool:
    service = making.state.service(making.cluster, view.task.service) if view.task.service else None
    return service is not None and not service.service.is_replica
