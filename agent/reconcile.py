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
7. While the journal has not been heard (``desired`` is None) only what was written down
   counts: nothing is stopped because the journal is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.records import (
    ContainerStatus,
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


class Phase(StrEnum):
    """What the runtime has of a container."""

    CREATED = "CREATED"
    """It was never started."""
    STARTING = "STARTING"
    """It is being started, and may or may not run already."""
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    """Nothing of it is left, and it will not be started again."""


_LEFT = (Phase.STARTING, Phase.RUNNING)
"""Something may be there that needs the task's claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """One container as the runtime sees it."""

    phase: Phase = Phase.CREATED
    exit_code: int | None = None
    """128 + the signal's number where a signal ended it. None: unknown, or never started."""
    reason: str | None = None
    """``Name: message`` where something other than its own end stopped it."""
    failed_to_start: bool = False
    runtime_id: str | None = None
    started_at: float | None = None
    stopped_at: float | None = None
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTask:
    """A task as it was written down in the agent's folder."""

    id: str
    task: Task
    revision: Revision
    """Where the task's record stood in the journal."""
    definition: TaskDefinition


@dataclass(frozen=True, slots=True)
class Signalled:
    """When this agent process sent which signal to a container (monotonic)."""

    terminated_at: float
    killed_at: float | None = None


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
    """Start a container. It starts once at most, however often this is asked for."""

    local: LocalTask
    container: str

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
    for task_id in sorted((set(view.local) | set(view.desired or ())) - view.settled):
        desired = view.desired.get(task_id) if view.desired is not None else None
        local = view.local.get(task_id)
        if local is not None:
            _reconcile_local(view, plan, local, desired)
        elif desired is not None:
            _reconcile_new(view, plan, task_id, desired)
    plan.actions.sort(key=lambda action: _ORDER.index(type(action)))
    return Decision(tuple(plan.actions), plan.wake_at, tuple(plan.settled))


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
        status = _never_there(
            view,
            StopCode.ESSENTIAL_CONTAINER_EXITED,
            "ContainerVanishedError: the agent has no trace of it any more",
        )
    elif task.desired_status is DesiredStatus.STOPPED:
        status = _never_there(view, task.stop_code or StopCode.USER_INITIATED, task.stopped_reason)
    elif task.task_definition not in view.definitions:
        plan.actions.append(FetchDefinition(task.task_definition, desired.revision))
        return
    elif definition is None:
        status = _never_there(
            view,
            StopCode.TASK_FAILED_TO_START,
            f"CannotCreateContainerError: task definition {task.task_definition} does not exist",
        )
    else:
        local = LocalTask(id=task_id, task=task, revision=desired.revision, definition=definition)
        plan.actions.append(WriteDown(local))
        return
    plan.actions.append(Report(task_id, desired, status, before))


def _reconcile_local(view: View, plan: _Plan, local: LocalTask, desired: At[Task] | None) -> None:
    """A task that was written down here."""
    states = {
        c.name: view.containers.get((local.id, c.name), ContainerState())
        for c in local.definition.container_definitions
    }
    before = view.reported.get(local.id)
    is_gone = desired is None and local.id in view.gone
    was_stopped = before is not None and before.record.last_status is LastStatus.STOPPED
    written_stop = local.task.desired_status is DesiredStatus.STOPPED
    ended = _essential_end(local, states)
    if (
        desired is not None
        and desired.record.desired_status is DesiredStatus.STOPPED
        and not written_stop
        and ended is None
    ):
        # Written down first; the next round carries it out.
        plan.actions.append(WriteDown(replace(local, task=desired.record, revision=desired.revision)))
        return
    stopping = is_gone or was_stopped or written_stop or ended is not None
    for name in sorted(states):
        if states[name].phase in _LEFT and stopping:
            _stop(view, plan, local, name)
        elif states[name].phase is Phase.CREATED and not stopping:
            plan.actions.append(Start(local, name))
    left = any(state.phase in _LEFT for state in states.values())
    if desired is None:
        if view.desired is not None and not is_gone and local.id not in view.unreadable:
            plan.actions.append(Confirm(local.id))
        elif is_gone and not left and _is_old(view, _stopped_at(states) or 0.0):
            plan.actions.append(ForgetFolder(local.id))
        return
    if was_stopped:
        assert before is not None
        if not left and _is_old(view, before.record.stopped_at):
            plan.actions.append(ForgetRecords(local.id, desired, before))
        elif not left:
            plan.settled.append(local.id)
        return
    status = _status(view, local, states, stopping=stopping, ended=ended)
    known = before.record.last_status if before is not None else LastStatus.PENDING
    # On its way out, only the end is news.
    is_news = LastStatus.STOPPED if stopping else LastStatus.RUNNING
    if status.last_status is is_news is not known:
        plan.actions.append(Report(local.id, desired, status, before))


def _stop(view: View, plan: _Plan, local: LocalTask, name: str) -> None:
    """SIGTERM, and SIGKILL when the container's stopTimeout has run out."""
    sent = view.signalled.get((local.id, name))
    if sent is None:
        plan.actions.append(Terminate(local.id, name))
        return
    timeout = next(
        (c.stop_timeout_s for c in local.definition.container_definitions if c.name == name),
        0,
    )
    deadline = sent.terminated_at + timeout
    if sent.killed_at is not None:
        # A signal is lost if the supervisor that was to pass it on died that instant.
        deadline = sent.killed_at + KILL_AGAIN_S
    if view.now >= deadline:
        plan.actions.append(Kill(local.id, name))
    else:
        plan.wake(deadline)


def _essential_end(local: LocalTask, states: Mapping[str, ContainerState]) -> ContainerState | None:
    """Return the essential container whose end ends the task: the one that stopped first."""
    ended = [
        states[c.name]
        for c in local.definition.container_definitions
        if c.essential and states[c.name].phase is Phase.STOPPED
    ]
    return min(ended, key=lambda state: state.stopped_at or 0.0) if ended else None


def _status(
    view: View,
    local: LocalTask,
    states: Mapping[str, ContainerState],
    *,
    stopping: bool,
    ended: ContainerState | None,
) -> TaskStatus:
    """Return what is known of a task: the least of its containers', as ECS has it."""
    containers = tuple(
        ContainerStatus(
            name=name,
            last_status=_last(state, stopping),
            exit_code=state.exit_code,
            reason=state.reason,
            runtime_id=state.runtime_id,
        )
        for name, state in states.items()
    )
    order = list(LastStatus)
    last = min((c.last_status for c in containers), key=order.index)
    started = [state.started_at for state in states.values() if state.started_at is not None]
    status = TaskStatus(last_status=last, containers=containers, started_at=min(started) if started else None)
    if last is not LastStatus.STOPPED:
        return status
    code, reason = _why_stopped(local, ended)
    return replace(
        status,
        stop_code=code,
        stopped_reason=reason,
        stopped_at=_stopped_at(states) or view.wall,
    )


def _why_stopped(local: LocalTask, ended: ContainerState | None) -> tuple[StopCode, str]:
    if local.task.desired_status is DesiredStatus.STOPPED:
        return local.task.stop_code or StopCode.USER_INITIATED, local.task.stopped_reason or "Task stopped"
    assert ended is not None, f"task {local.id} is stopped, and nothing stopped it"
    if ended.failed_to_start:
        return StopCode.TASK_FAILED_TO_START, ended.reason or "CannotStartContainerError: no reason is known"
    return StopCode.ESSENTIAL_CONTAINER_EXITED, ended.reason or "Essential container in task exited"


def _last(state: ContainerState, stopping: bool) -> LastStatus:
    if state.phase is Phase.RUNNING:
        return LastStatus.RUNNING
    if state.phase is Phase.STOPPED or (stopping and state.phase is Phase.CREATED):
        return LastStatus.STOPPED
    return LastStatus.PENDING


def _never_there(view: View, code: StopCode, reason: str | None) -> TaskStatus:
    return TaskStatus(
        last_status=LastStatus.STOPPED,
        stop_code=code,
        stopped_reason=reason or "Task stopped",
        stopped_at=view.wall,
    )


def _stopped_at(states: Mapping[str, ContainerState]) -> float | None:
    times = [state.stopped_at for state in states.values() if state.stopped_at is not None]
    return max(times) if times else None


def _is_old(view: View, stopped_at: float | None) -> bool:
    return stopped_at is not None and view.wall - stopped_at > view.keep_stopped_s
