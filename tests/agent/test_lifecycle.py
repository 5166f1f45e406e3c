"""Several containers in one task: order, dependencies, restarts, health, room. Tables, then properties.

The properties are judged by rules written down a second time, as plainly as can be, from ECS's own
description: what is decided here is never used to judge itself.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import lifecycle, reconcile
from agent.admission import Room
from agent.model import ContainerState, LocalTask, Phase, Signalled
from agent.reconcile import Decision, Kill, Report, Start, Terminate, View, WriteDown
from agent.runtime import MemoryRuntime
from cluster.records import (
    ContainerDefinition,
    ContainerDependency,
    ContainerOverride,
    DependencyCondition,
    DesiredStatus,
    HealthCheck,
    HealthStatus,
    KeyValue,
    LastStatus,
    Protocol,
    RestartPolicy,
    StopCode,
    Task,
    TaskDefinition,
    TaskOverride,
    TaskStatus,
    VolumeFrom,
)
from cluster.state import At
from journal.types import Revision

START, COMPLETE, SUCCESS, HEALTHY = DependencyCondition
CHECK = HealthCheck(command=("CMD-SHELL", "true"))
RESTART = RestartPolicy(enabled=True, ignored_exit_codes=(3,), restart_attempt_period=60)
RUNNING = ContainerState(phase=Phase.RUNNING, started_at=100.0)
CREATED = ContainerState()


def container(name: str, *depends: tuple[str, DependencyCondition], **fields: Any) -> ContainerDefinition:
    on = tuple(ContainerDependency(container_name=other, condition=condition) for other, condition in depends)
    return ContainerDefinition(name=name, command=("x",), depends_on=on, **fields)


def local_of(*containers: ContainerDefinition, id: str = "t", **task: Any) -> LocalTask:
    definition = TaskDefinition(family="f", revision=1, cpu=1, memory=1, container_definitions=containers)
    assert definition.problem() is None
    fields = {"task_definition": "f:1", "cpu": 1, "memory": 1, **task}
    return LocalTask(id=id, task=Task(**fields), revision=Revision(3), definition=definition)


def ended(code: int | None, *, ran_s: float = 10.0, **fields: Any) -> ContainerState:
    return replace(RUNNING, phase=Phase.STOPPED, exit_code=code, stopped_at=100.0 + ran_s, **fields)


def decide(*tasks: LocalTask, wall: float = 200.0, **fields: Any) -> Decision:
    desired = {
        local.id: At(replace(local.task, desired_status=DesiredStatus.RUNNING), Revision(3))
        for local in tasks
    }
    known = {"desired": desired, "local": {local.id: local for local in tasks}, "now": 1000.0, **fields}
    return reconcile.reconcile(View(wall=wall, **known))


def states(**by_name: ContainerState) -> dict[tuple[str, str], ContainerState]:
    return {("t", name): state for name, state in by_name.items()}


def started(decision: Decision) -> list[tuple[str, int]]:
    return [(action.container, action.attempt) for action in decision.actions if isinstance(action, Start)]


def written(decision: Decision) -> Task:
    (action,) = decision.actions
    assert isinstance(action, WriteDown)
    return action.local.task


# -- dependsOn ------------------------------------------------------------------------------

HOLDS = [
    (START, CREATED, False),
    (START, ContainerState(phase=Phase.STARTING), False),
    (START, RUNNING, True),
    (START, ended(1), True),
    (COMPLETE, RUNNING, False),
    (COMPLETE, ended(0), True),
    (COMPLETE, ended(1), True),
    (COMPLETE, ended(None), "whose exit code is unknown"),
    (SUCCESS, RUNNING, False),
    (SUCCESS, ended(0), True),
    (SUCCESS, ended(7), "which exited with code 7"),
    (SUCCESS, ended(None), "whose exit code is unknown"),
    (HEALTHY, RUNNING, False),
    (HEALTHY, replace(RUNNING, health=HealthStatus.UNKNOWN), False),
    (HEALTHY, replace(RUNNING, health=HealthStatus.UNHEALTHY), False),
    (HEALTHY, replace(RUNNING, health=HealthStatus.HEALTHY), True),
    (HEALTHY, ended(0), "which has stopped"),
    (START, ended(127, failed_to_start=True), "which could not start"),
    (SUCCESS, ended(127, failed_to_start=True), "which could not start"),
]


@pytest.mark.parametrize(("condition", "state", "holds"), HOLDS)
def test_what_a_dependency_waits_for(
    condition: DependencyCondition, state: ContainerState, holds: bool | str
) -> None:
    first = container("first", essential=False, health_check=CHECK)
    local = local_of(first, container("main", ("first", condition)))
    decision = decide(local, containers=states(first=state))
    if isinstance(holds, str):
        task = written(decision)
        assert (task.desired_status, task.stop_code) == (DesiredStatus.STOPPED, StopCode.TASK_FAILED_TO_START)
        assert task.stopped_reason == (
            f"CannotStartContainerError: container main depends on first {condition}, {holds}"
        )
    else:
        assert (("main", 0) in started(decision)) is holds


def test_a_start_timeout_ends_the_task_and_wakes_for_it() -> None:
    first = container("first", essential=False, health_check=CHECK, start_timeout=30)
    local = local_of(first, container("main", ("first", HEALTHY)))
    in_time = decide(local, containers=states(first=RUNNING), wall=129.0)
    assert (in_time.actions, in_time.wake_at) == ((), 1001.0)
    task = written(decide(local, containers=states(first=RUNNING), wall=130.0))
    assert task.stopped_reason is not None
    assert task.stopped_reason.endswith("first HEALTHY, which was not there within its startTimeout of 30 s")
    # It is written down, so that a health check that passes now changes nothing any more.
    late = replace(local, task=task)
    healthy = replace(RUNNING, health=HealthStatus.HEALTHY)
    assert decide(late, containers=states(first=healthy), wall=131.0).actions == (Terminate("t", "first"),)
    (report,) = decide(late, containers=states(first=ended(143)), wall=132.0).actions
    assert isinstance(report, Report)
    assert report.status.stop_code is StopCode.TASK_FAILED_TO_START
    assert report.status.stopped_reason == task.stopped_reason


def test_links_and_volumes_from_others_are_dependencies_too() -> None:
    linked = container("app", links=("db:database",), volumes_from=(VolumeFrom(source_container="data"),))
    local = local_of(container("db"), container("data", essential=False), linked)
    assert started(decide(local)) == [("db", 0), ("data", 0)]
    assert started(decide(local, containers=states(db=RUNNING))) == [("data", 0)]
    assert started(decide(local, containers=states(db=RUNNING, data=ended(0)))) == [("app", 0)]
    circle = TaskDefinition(
        family="f",
        revision=1,
        container_definitions=(container("a", links=("b",)), container("b", ("a", START))),
    )
    assert circle.problem() == "dependsOn goes in a circle: a -> b -> a"
    alone = replace(circle, container_definitions=(container("a", links=("b",)),))
    assert alone.problem() == "container a: links 'b' is not there"


def test_what_others_depend_on_stops_last() -> None:
    db = container("db")
    app, proxy = container("app", ("db", START)), container("proxy", ("app", START))
    local = local_of(db, app, proxy, desired_status=DesiredStatus.STOPPED)
    all_run = states(db=RUNNING, app=RUNNING, proxy=RUNNING)
    assert decide(local, containers=all_run).actions == (Terminate("t", "proxy"),)
    sent = {("t", "proxy"): Signalled(1000.0)}
    assert decide(local, containers=all_run, signalled=sent, now=1029.0).actions == ()
    assert decide(local, containers=all_run, signalled=sent, now=1030.0).actions == (Kill("t", "proxy"),)
    two = states(db=RUNNING, app=RUNNING, proxy=ended(0))
    assert decide(local, containers=two).actions == (Terminate("t", "app"),)
    one = states(db=RUNNING, app=ended(0), proxy=ended(0))
    assert decide(local, containers=one).actions == (Terminate("t", "db"),)


# -- restarts -------------------------------------------------------------------------------

RESTARTS = [
    (ended(1, ran_s=60.0), True),
    (ended(0, ran_s=60.0), True),
    (ended(1, ran_s=59.9), False),
    (ended(3, ran_s=600.0), False),
    (ended(None, ran_s=60.0), True),
    (ended(127, ran_s=60.0, failed_to_start=True), False),
    (RUNNING, False),
    (CREATED, False),
]


@pytest.mark.parametrize(("state", "again"), RESTARTS)
def test_when_a_container_is_started_again(state: ContainerState, again: bool) -> None:
    main = container("main", restart_policy=RESTART)
    assert lifecycle.restarts(main, state) is again
    assert not lifecycle.restarts(container("main"), state)
    assert not lifecycle.restarts(replace(main, restart_policy=replace(RESTART, enabled=False)), state)


def test_a_restart_is_told_and_does_not_end_the_task() -> None:
    local = local_of(container("main", restart_policy=RESTART))
    again = replace(ended(1, ran_s=70.0), attempt=4)
    assert started(decide(local, containers=states(main=again))) == [("main", 5)]
    (start, report) = sorted(
        decide(local, containers=states(main=again)).actions, key=lambda a: isinstance(a, Report)
    )
    assert isinstance(start, Start) and isinstance(report, Report)
    assert report.status.last_status is LastStatus.RUNNING
    # An attempt that was only prepared when the agent died goes on.
    prepared = ContainerState(attempt=5)
    assert started(decide(local, containers=states(main=prepared))) == [("main", 5)]
    running = replace(RUNNING, attempt=5)
    (told,) = decide(
        local, containers=states(main=running), reported={"t": At(report.status, Revision(5))}
    ).actions
    assert isinstance(told, Report) and told.status.containers[0].restart_count == 5


def test_a_task_that_stops_starts_nothing_again() -> None:
    local = local_of(container("main", restart_policy=RESTART), desired_status=DesiredStatus.STOPPED)
    (report,) = decide(local, containers=states(main=ended(1, ran_s=600.0))).actions
    assert isinstance(report, Report)
    assert report.status.last_status is LastStatus.STOPPED
    assert report.status.containers[0].exit_code == 1


# -- health ---------------------------------------------------------------------------------

UNKNOWN, UNHEALTHY, OK = HealthStatus.UNKNOWN, HealthStatus.UNHEALTHY, HealthStatus.HEALTHY


@pytest.mark.parametrize(
    ("one", "two", "side", "task"),
    [
        (OK, OK, UNHEALTHY, OK),
        (OK, UNKNOWN, OK, UNKNOWN),
        (UNHEALTHY, UNKNOWN, OK, UNHEALTHY),
        (OK, None, OK, UNKNOWN),
    ],
)
def test_a_tasks_health_is_that_of_its_essential_containers(
    one: HealthStatus, two: HealthStatus | None, side: HealthStatus, task: HealthStatus
) -> None:
    local = local_of(
        container("one", health_check=CHECK),
        container("two", health_check=CHECK),
        container("none"),
        container("side", health_check=CHECK, essential=False),
    )
    known = {name: replace(RUNNING, health=h) for name, h in (("one", one), ("two", two), ("side", side))}
    (report,) = decide(local, containers=states(none=RUNNING, **known)).actions
    assert isinstance(report, Report)
    assert report.status.health_status is task
    assert [c.health_status for c in report.status.containers] == [one, two or UNKNOWN, None, side]
    # A change of it is news; the same again is not.
    said = {"t": At(report.status, Revision(5))}
    assert decide(local, containers=states(none=RUNNING, **known), reported=said).actions == ()
    known["one"] = replace(RUNNING, health=UNHEALTHY if one is not UNHEALTHY else OK)
    (again,) = decide(local, containers=states(none=RUNNING, **known), reported=said).actions
    assert isinstance(again, Report) and again.status.last_status is LastStatus.RUNNING


# -- overrides ------------------------------------------------------------------------------


def test_a_task_runs_under_its_overrides() -> None:
    override = ContainerOverride(name="main", command=("y",), environment=(KeyValue(name="A", value="2"),))
    main = container("main", environment=(KeyValue(name="A", value="1"), KeyValue(name="B", value="1")))
    local = local_of(main, overrides=TaskOverride(container_overrides=(override,)))
    found = local.container("main")
    assert found.command == ("y",)
    assert {each.name: each.value for each in found.environment} == {"A": "2", "B": "1"}


# -- room on the machine ----------------------------------------------------------------------


def test_a_task_waits_for_room_and_the_freed_slot_wakes_it() -> None:
    room = Room(cpu=100, memory=100)
    one = local_of(container("main"), id="a", cpu=60, memory=10, created_at=2.0)
    two = local_of(container("main"), id="b", cpu=60, memory=10, created_at=1.0)
    both = decide(one, two, room=room)
    assert [(a.task, a.container) for a in both.actions if isinstance(a, Start)] == [("b", "main")], (
        "the older first"
    )
    (report,) = [action for action in both.actions if isinstance(action, Report)]
    assert report.status.last_status is LastStatus.PENDING
    assert report.status.containers[0].reason == "waits for cpu: 40 of 100 units are free, 60 needed"
    told = {"a": At(report.status, Revision(5))}
    runs = {("b", "main"): RUNNING}
    (other,) = decide(one, two, room=room, containers=runs, reported=told).actions
    assert isinstance(other, Report) and other.task == "b", "that it waits is told once"
    # Stopped is enough: the report of it may still be under way.
    gone = {("b", "main"): ended(0)}
    assert ("main", 0) in started(decide(one, two, room=room, containers=gone, reported=told))


def test_a_task_waits_for_memory_and_ports() -> None:
    held = local_of(container("main"), id="a", memory=60, ports=(80,), ports_udp=(53,))
    runs = {("a", "main"): RUNNING}
    for fields, why in (
        ({"memory": 50}, "waits for memory: 40 of 100 MiB are free, 50 needed"),
        ({"ports": (80,)}, "waits for port 80/tcp: task a still holds it"),
        ({"ports_udp": (53,)}, "waits for port 53/udp: task a still holds it"),
        ({"ports": (81,)}, "waits for port 81/tcp: another program holds it"),
    ):
        waits = local_of(container("main"), id="b", **fields)
        room = Room(cpu=100, memory=100, ports_busy=frozenset({(Protocol.TCP, 81)}))
        decision = decide(held, waits, room=room, containers=runs)
        (report,) = [a for a in decision.actions if isinstance(a, Report) and a.task == "b"]
        assert report.status.containers[0].reason == why
        assert not started(decision)
        assert decision.wake_at is not None, "a port of another program is looked at again"
    free = local_of(container("main"), id="b", ports=(53,), memory=40)
    assert started(decide(held, free, room=room, containers=runs)) == [("main", 0)]


# -- properties ---------------------------------------------------------------------------------


@st.composite
def definitions(draw: st.DrawFn) -> tuple[ContainerDefinition, ...]:
    """Draw up to five containers; each may depend on earlier ones."""
    count = draw(st.integers(1, 5))
    made: list[ContainerDefinition] = []
    for number in range(count):
        depends: list[tuple[str, DependencyCondition]] = []
        for other in draw(st.sets(st.sampled_from(range(number)), max_size=2)) if number else ():
            allowed = [START, HEALTHY] if made[other].essential else [START, COMPLETE, SUCCESS, HEALTHY]
            depends.append((f"c{other}", draw(st.sampled_from(allowed))))
        made.append(
            container(
                f"c{number}",
                *depends,
                essential=number == count - 1 or draw(st.booleans()),
                health_check=CHECK,
                stop_timeout=draw(st.integers(1, 5)),
                start_timeout=draw(st.none() | st.integers(5, 40)),
                restart_policy=draw(st.none() | st.just(RESTART)),
            )
        )
    return tuple(made)


class Story:
    """One task on a machine in memory, under an agent that may die after any action."""

    def __init__(self, containers: tuple[ContainerDefinition, ...], seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.runtime = MemoryRuntime(clock=lambda: self.now)
        self.local = local_of(*containers)
        self.desired = At(self.local.task, Revision(3))
        self.reported: At[TaskStatus] | None = None
        self.signalled: dict[tuple[str, str], Signalled] = {}
        self.restarts: set[tuple[str, int]] = set()

    def state(self, name: str) -> ContainerState:
        return self.runtime.look("t", name)

    def round(self) -> bool:
        """Decide once and do it all, unless the agent dies between; say whether there was anything to do."""
        view = View(
            desired={"t": self.desired},
            reported={"t": self.reported} if self.reported else {},
            local={"t": self.local},
            containers=dict(self.runtime.states),
            signalled=self.signalled,
            now=self.now,
            wall=self.now,
        )
        decision = reconcile.reconcile(view)
        for action in decision.actions:
            self.perform(action)
            if self.rng.random() < 0.1:
                self.signalled = {}  # all that an agent process knows by itself
                return True
        return bool(decision.actions)

    def perform(self, action: reconcile.Action) -> None:
        assert self.reported is None or self.reported.record.last_status is not LastStatus.STOPPED, (
            f"{action} after STOPPED was reported"
        )
        match action:
            case Start(local, name, attempt):
                self.judge_start(name, attempt)
                self.runtime.start_now(local, name, attempt)
            case Terminate(task, name) | Kill(task, name):
                self.judge_stop(name)
                self.runtime.signal_now(task, name, kill=isinstance(action, Kill))
                self.signalled[task, name] = Signalled(
                    self.now, self.now if isinstance(action, Kill) else None
                )
            case WriteDown(local):
                assert self.local.task.desired_status is DesiredStatus.RUNNING, "a stop is written once"
                self.local = local
            case Report(status=status):
                self.judge_report(status)
                self.reported = At(status, Revision(9))
            case _:
                raise AssertionError(action)

    def judge_start(self, name: str, attempt: int) -> None:
        assert self.local.task.desired_status is DesiredStatus.RUNNING
        assert (name, attempt) not in self.restarts, "an attempt starts once"
        self.restarts.add((name, attempt))
        if attempt:
            state = self.state(name)
            assert state.started_at is not None and state.stopped_at is not None
            assert state.stopped_at - state.started_at >= 60 and state.exit_code != 3
            return
        for dependency in self.local.container(name).depends_on:
            other = self.state(dependency.container_name)
            was_there = other.started_at is not None
            match dependency.condition:
                case DependencyCondition.START:
                    assert was_there
                case DependencyCondition.COMPLETE:
                    assert other.phase is Phase.STOPPED
                case DependencyCondition.SUCCESS:
                    assert other.phase is Phase.STOPPED and other.exit_code == 0
                case DependencyCondition.HEALTHY:
                    assert other.phase is Phase.RUNNING and other.health is HealthStatus.HEALTHY

    def judge_stop(self, name: str) -> None:
        for other in self.local.containers:
            if any(dependency.container_name == name for dependency in other.depends_on):
                assert self.state(other.name).phase is not Phase.RUNNING, f"{other.name} needs {name}"

    def judge_report(self, status: TaskStatus) -> None:
        phases = [self.state(c.name).phase for c in self.local.containers]
        if status.last_status is LastStatus.STOPPED:
            assert Phase.RUNNING not in phases, "its claim is released by this"
            assert status.stopped_reason and status.stop_code and status.stopped_at
        elif status.last_status is LastStatus.RUNNING:
            assert all(self.state(c.name).started_at is not None for c in self.local.containers)

    def happen(self) -> None:
        """Something happens to a container that runs, and time passes."""
        self.now += self.rng.choice([0.5, 3.0, 61.0])
        running = [c.name for c in self.local.containers if self.state(c.name).phase is Phase.RUNNING]
        if not running:
            return
        name = self.rng.choice(running)
        match self.rng.randrange(3):
            case 0:
                self.runtime.finish("t", name, exit_code=self.rng.choice([0, 0, 1, 3]))
            case 1:
                self.runtime.set_health("t", name, self.rng.choice(list(HealthStatus)))

    def stop(self) -> None:
        task = replace(self.desired.record, desired_status=DesiredStatus.STOPPED, stopped_reason="by hand")
        self.desired = At(task, Revision(4))


@settings(max_examples=300, deadline=None)
@given(definitions(), st.integers(0, 2**32), st.integers(0, 40))
def test_whatever_happens_the_order_is_kept_and_the_task_ends(
    containers: tuple[ContainerDefinition, ...], seed: int, stop_after: int
) -> None:
    story = Story(containers, seed)
    for step in range(400):
        if step == stop_after:
            story.stop()
        while story.round():
            pass
        if story.reported is not None and story.reported.record.last_status is LastStatus.STOPPED:
            break
        if step < stop_after:
            story.happen()
        else:
            story.now += 1.0
    assert story.reported is not None
    assert story.reported.record.last_status is LastStatus.STOPPED, "a task that is to stop stops"
    assert not story.round()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("may_start", lambda *_: None),
        ("may_stop", lambda *_: True),
        ("restarts", lambda container, state: state.phase is Phase.STOPPED),
        ("essential_end", lambda *_: None),
    ],
)
def test_the_judge_sees_a_wrong_rule(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a bug in a rule: some story must break."""
    monkeypatch.setattr(reconcile, name, wrong)
    chain = (
        container("a", essential=False, health_check=CHECK, restart_policy=RESTART),
        container("b", ("a", START), essential=False),
        container("c", ("a", HEALTHY), ("b", COMPLETE)),
    )
    with pytest.raises(AssertionError):
        for seed in range(50):
            story = Story(chain, seed)
            for step in range(60):
                if step == seed % 15:
                    story.stop()
                while story.round():
                    pass
                story.happen()
            _assert_explained(story)


def _assert_explained(story: Story) -> None:
    """An essential end is why the task ended, where it ended by itself."""
    assert story.reported is not None
    status = story.reported.record
    assert status.last_status is LastStatus.STOPPED
    by_hand = status.stopped_reason == "by hand"
    essential = next(c for c in status.containers if c.name == "c")
    assert not (by_hand and essential.exit_code in (0, 1, 3)), "it had ended before it was stopped"
