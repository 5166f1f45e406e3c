"""What an agent does next: ``reconcile(view) -> Decision``. PURE.

Called after every change of anything, with everything that is known; it remembers
nothing itself. So a crash between any two actions is harmless: the next agent process
reads the folder, the processes and the journal, and is told what is left to do.

The rules, in the order in which they are applied:

1. Stops come first, then reports (which free capacity), then starts.
2. A task is written down before it is started, and a stop before it is carried out.
3. desiredStatus only moves forward: what was written down as STOPPED stays so, whatever
   an older state says.
4. A task that the journal does not name is stopped only after a consistent read agreed
   (two-phase orphan removal).
5. STOPPED is reported when nothing of the task is left; that report releases its claim,
   and after it nothing is ever started.
6. What was reported RUNNING and has no trace here has vanished: it is reported STOPPED.
7. A container starts when what it depends on is there, and stops after what depends on it; a
   task starts when this machine has room for it (``agent.lifecycle``, ``agent.admission``).
8. While the journal has not been heard (``desired`` is None) only what was written down
   counts: nothing is stopped because the journal is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

from agent.admission import Host, Room, is_untouched
from agent.lifecycle import End, Wait, essential_end, may_start, may_stop, restarts, states_of
from agent.model import LEFT, ContainerState, LocalTask, Phase, Signalled
from agent.statuses import is_news, never_there, stopped_last, task_status
from cluster.records import (
    DesiredStatus,
    LastStatus,
    StopCode,
    Task,
    TaskDefinition,
    TaskStatus,
)
from cluster.state import At
from journal.types import Revision

KEEP_STOPPED_S_DEFAULT = 3 * 3600.0
KILL_AGAIN_S = 5.0
PORT_LOOK_S = 0.25
"""How often a task looks whether the port that another program holds is free: nothing tells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that is known."""

    desired: Mapping[str, At[Task]] | None
    """By task. None: the journal was not heard since this agent started."""
    unreadable: frozenset[str] = frozenset()
    """Tasks whose record in the journal breaks its form: left as they are."""
    definitions: Mapping[str, TaskDefinition | None] = field(default_factory=dict)
    """By ``family:revision``; None: it does not exist. Absent: not asked for yet."""
    reported: Mapping[str, At[TaskStatus]] = field(default_factory=dict)
    local: Mapping[str, LocalTask] = field(default_factory=dict)
    containers: Mapping[tuple[str, str], ContainerState] = field(default_factory=dict)
    """By (task, container); absent: CREATED."""
    signalled: Mapping[tuple[str, str], Signalled] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    """Tasks that a consistent read did not find in the journal."""
    settled: Set[str] = frozenset()
    """Tasks to pass over: an earlier decision found them settled, and nothing is new about them.
    They are many: every task of the last hours."""
    room: Room = field(default_factory=Room)
    now: float = 0.0
    wall: float = 0.0
    keep_stopped_s: float = KEEP_STOPPED_S_DEFAULT


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM to the container."""

    task: str
    container: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the container."""

    task: str
    container: str


@dataclass(frozen=True, slots=True)
class Report:
    """Offer ``status`` in place of ``before``."""

    task: str
    desired: At[Task]
    status: TaskStatus
    before: At[TaskStatus] | None


@dataclass(frozen=True, slots=True)
class WriteDown:
    """Write the task into the folder, durably."""

    local: LocalTask


@dataclass(frozen=True, slots=True)
class FetchDefinition:
    """Read a task definition from the journal."""

    name: str
    at_least: Revision


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask the journal by a consistent read whether it has this task."""

    task: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start a container. Each attempt starts once at most, however often this is asked for."""

    local: LocalTask
    container: str
    attempt: int = 0

    @property
    def task(self) -> str:
        return self.local.id


@dataclass(frozen=True, slots=True)
class ForgetRecords:
    """Delete a task that stopped long ago from the journal."""

    task: str
    desired: At[Task]
    reported: At[TaskStatus]


@dataclass(frozen=True, slots=True)
class ForgetFolder:
    """Delete the task's folder, logs and all."""

    task: str


Action = (
    Terminate | Kill | Report | WriteDown | FetchDefinition | Confirm | Start | ForgetRecords | ForgetFolder
)

_ORDER = (Terminate, Kill, Report, WriteDown, FetchDefinition, Confirm, Start, ForgetRecords, ForgetFolder)


@dataclass(frozen=True, slots=True)
class Decision:
    actions: tuple[Action, ...]
    wake_at: float | None
    """When to ask again though nothing changed (monotonic): a stop's time runs out."""
    settled: tuple[str, ...] = ()
    """Tasks with which there is nothing to do before they are old, or something is new about them."""


@dataclass(frozen=True, slots=True)
class _Here:
    """A task that was written down here, and what follows from what is known of it."""

    local: LocalTask
    states: dict[str, ContainerState]
    desired: At[Task] | None
    before: At[TaskStatus] | None
    end: End | None
    is_gone: bool

    @property
    def was_stopped(self) -> bool:
        return self.before is not None and self.before.record.last_status is LastStatus.STOPPED

    @property
    def stop_is_written(self) -> bool:
        return self.local.task.desired_status is DesiredStatus.STOPPED

    @property
    def stopping(self) -> bool:
        return self.is_gone or self.was_stopped or self.stop_is_written or self.end is not None

    @property
    def left(self) -> bool:
        """Whether something of it may run."""
        return any(state.phase in LEFT for state in self.states.values())

    @property
    def is_untouched(self) -> bool:
        return is_untouched(self.states)


@dataclass(slots=True)
class _Plan:
    actions: list[Action] = field(default_factory=list)
    wake_at: float | None = None
    settled: list[str] = field(default_factory=list)

    def wake(self, at: float) -> None:
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


def reconcile(view: View) -> Decision:
    """Return what to do now, in order."""
    plan = _Plan()
    here = [
        _here(view, local)
        for task_id, local in sorted(view.local.items(), key=lambda item: (item[1].task.created_at, item[0]))
        if task_id not in view.settled
    ]
    host = Host(view.room)
    for item in here:
        if item.left or not (item.stopping or item.is_untouched):
            host.hold(item.local)
    for item in here:
        _reconcile_local(view, plan, host, item)
    for task_id in sorted(set(view.desired or ()) - view.local.keys() - view.settled):
        assert view.desired is not None
        _reconcile_new(view, plan, task_id, view.desired[task_id])
    plan.actions.sort(key=lambda action: _ORDER.index(type(action)))
    return Decision(tuple(plan.actions), plan.wake_at, tuple(plan.settled))


def _here(view: View, local: LocalTask) -> _Here:
    states = states_of(local, view.containers)
    desired = view.desired.get(local.id) if view.desired is not None else None
    return _Here(
        local=local,
        states=states,
        desired=desired,
        before=view.reported.get(local.id),
        end=essential_end(local.containers, states),
        is_gone=desired is None and local.id in view.gone,
    )


def _reconcile_new(view: View, plan: _Plan, task_id: str, desired: At[Task]) -> None:
    """A task that is desired, and of which there is nothing here."""
    task, before = desired.record, view.reported.get(task_id)
    if before is not None and before.record.last_status is LastStatus.STOPPED:
        if _is_old(view, before.record.stopped_at):
            plan.actions.append(ForgetRecords(task_id, desired, before))
        else:
            plan.settled.append(task_id)
        return
    definition = view.definitions.get(task.task_definition)
    status: TaskStatus
    if before is not None:
        status = never_there(
            StopCode.ESSENTIAL_CONTAINER_EXITED,
            "ContainerVanishedError: the agent has no trace of it any more",
            view.wall,
        )
    elif task.desired_status is DesiredStatus.STOPPED:
        status = never_there(task.stop_code or StopCode.USER_INITIATED, task.stopped_reason, view.wall)
    elif task.task_definition not in view.definitions:
        plan.actions.append(FetchDefinition(task.task_definition, desired.revision))
        return
    elif definition is None:
        status = never_there(
            StopCode.TASK_FAILED_TO_START,
            f"CannotCreateContainerError: task definition {task.task_definition} does not exist",
            view.wall,
        )
    else:
        local = LocalTask(id=task_id, task=task, revision=desired.revision, definition=definition)
        plan.actions.append(WriteDown(local))
        return
    plan.actions.append(Report(task_id, desired, status, before))


def _reconcile_local(view: View, plan: _Plan, host: Host, here: _Here) -> None:
    """A task that was written down here."""
    local, desired = here.local, here.desired
    if (
        desired is not None
        and desired.record.desired_status is DesiredStatus.STOPPED
        and not here.stop_is_written
        and here.end is None
    ):
        # Written down first; the next round carries it out.
        plan.actions.append(WriteDown(replace(local, task=desired.record, revision=desired.revision)))
        return
    waits_for: str | None = None
    if here.stopping:
        _stop(view, plan, here)
    elif here.is_untouched and (waits_for := host.lacks(local)):
        plan.wake(view.now + PORT_LOOK_S)
    elif (failed := _start(view, plan, host, here)) is not None:
        # It ends here, and no later state of its containers changes that: so it is written down too.
        task = replace(
            local.task,
            desired_status=DesiredStatus.STOPPED,
            stop_code=failed.code,
            stopped_reason=failed.reason,
            stopping_at=view.wall,
        )
        plan.actions.append(WriteDown(replace(local, task=task)))
        return
    if desired is None:
        if view.desired is not None and not here.is_gone and local.id not in view.unreadable:
            plan.actions.append(Confirm(local.id))
        elif here.is_gone and not here.left and _is_old(view, stopped_last(here.states) or 0.0):
            plan.actions.append(ForgetFolder(local.id))
    elif here.was_stopped:
        _forget(view, plan, here, desired)
    else:
        _report(view, plan, here, desired, waits_for)


def _forget(view: View, plan: _Plan, here: _Here, desired: At[Task]) -> None:
    assert here.before is not None
    if here.left:
        return
    if _is_old(view, here.before.record.stopped_at):
        plan.actions.append(ForgetRecords(here.local.id, desired, here.before))
    else:
        plan.settled.append(here.local.id)


def _report(view: View, plan: _Plan, here: _Here, desired: At[Task], waits_for: str | None) -> None:
    before = here.before.record if here.before is not None else None
    status = task_status(
        here.local,
        here.states,
        before=before,
        stopping=here.stopping,
        end=here.end,
        waits_for=waits_for,
        wall=view.wall,
    )
    if is_news(before, status, stopping=here.stopping):
        plan.actions.append(Report(here.local.id, desired, status, here.before))


def _start(view: View, plan: _Plan, host: Host, here: _Here) -> End | None:
    """Start what may start; return why the task ends where something never may."""
    starts: list[Start] = []
    containers = here.local.containers
    for container in containers:
        state = here.states[container.name]
        if restarts(container, state):
            starts.append(Start(here.local, container.name, state.attempt + 1))
        elif state.phase is Phase.CREATED:
            verdict = may_start(container, containers, here.states, view.wall) if not state.attempt else None
            if isinstance(verdict, End):
                return verdict
            if not isinstance(verdict, Wait):
                starts.append(Start(here.local, container.name, state.attempt))
            elif verdict.until is not None:
                plan.wake(view.now + max(verdict.until - view.wall, 0.0))
    if starts and here.is_untouched:
        host.hold(here.local)
    plan.actions.extend(starts)
    return None


def _stop(view: View, plan: _Plan, here: _Here) -> None:
    """Stop each container on which none depends that is left: SIGTERM, SIGKILL after its stopTimeout."""
    containers = here.local.containers
    for container in containers:
        if here.states[container.name].phase not in LEFT or not may_stop(
            container.name, containers, here.states
        ):
            continue
        sent = view.signalled.get((here.local.id, container.name))
        if sent is None:
            plan.actions.append(Terminate(here.local.id, container.name))
            continue
        deadline = sent.terminated_at + container.stop_timeout_s
        if sent.killed_at is not None:
            # A signal is lost if the supervisor that was to pass it on died that instant.
            deadline = sent.killed_at + KILL_AGAIN_S
        if view.now >= deadline:
            plan.actions.append(Kill(here.local.id, container.name))
        else:
            plan.wake(deadline)


def _is_old(view: View, stopped_at: float | None) -> bool:
    return stopped_at is not None and view.wall - stopped_at > view.keep_stopped_s
