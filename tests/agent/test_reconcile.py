"""What the agent is told to do: rule by rule, then through a crash after each action."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.model import ContainerState, LocalTask, Phase, Signalled
from agent.reconcile import (
    KILL_AGAIN_S,
    Confirm,
    Decision,
    FetchDefinition,
    ForgetFolder,
    ForgetRecords,
    Kill,
    Report,
    Start,
    Terminate,
    View,
    WriteDown,
    reconcile,
)
from cluster.records import (
    ContainerDefinition,
    DesiredStatus,
    LastStatus,
    StopCode,
    Task,
    TaskDefinition,
    TaskStatus,
)
from cluster.state import At
from journal.types import Revision

MAIN = ContainerDefinition(name="main", command=("true",), stop_timeout=30)
SIDE = ContainerDefinition(name="side", command=("true",), essential=False, stop_timeout=5)
DEFINITION = TaskDefinition(family="web", revision=1, cpu=1, memory=1, container_definitions=(MAIN, SIDE))
TASK = Task(task_definition="web:1", cpu=1, memory=1)
STOPPED_TASK = replace(
    TASK,
    desired_status=DesiredStatus.STOPPED,
    stop_code=StopCode.USER_INITIATED,
    stopped_reason="by hand",
)
RUNNING = ContainerState(phase=Phase.RUNNING, started_at=5.0, runtime_id="77")
LOCAL = LocalTask(id="t", task=TASK, revision=Revision(3), definition=DEFINITION)
LOCAL_STOPPED = replace(LOCAL, task=STOPPED_TASK, revision=Revision(4))


def ended(code: int | None = 0, at: float = 9.0, **fields: Any) -> ContainerState:
    return replace(RUNNING, phase=Phase.STOPPED, exit_code=code, stopped_at=at, **fields)


def desired(task: Task | None = TASK, revision: int = 3) -> dict[str, At[Task]]:
    return {"t": At(task, Revision(revision))} if task else {}


def reported(last: LastStatus | None, **fields: Any) -> dict[str, At[TaskStatus]]:
    return {"t": At(TaskStatus(last_status=last, **fields), Revision(5))} if last else {}


def states(main: ContainerState, side: ContainerState) -> dict[tuple[str, str], ContainerState]:
    return {("t", "main"): main, ("t", "side"): side}


def decide(**fields: Any) -> Decision:
    view: dict[str, Any] = {
        "desired": desired(),
        "definitions": {"web:1": DEFINITION},
        "now": 1000.0,
        "wall": 10.0,
        **fields,
    }
    return reconcile(View(**view))


def only_report(decision: Decision) -> Report:
    (action,) = decision.actions
    assert isinstance(action, Report)
    return action


# -- a task arrives ---------------------------------------------------------------


def test_its_definition_is_fetched_then_it_is_written_down_then_started() -> None:
    assert decide(definitions={}).actions == (FetchDefinition("web:1", Revision(3)),)
    assert decide().actions == (WriteDown(LOCAL),)
    assert decide(local={"t": LOCAL}).actions == (Start(LOCAL, "main"), Start(LOCAL, "side"))
    half = decide(local={"t": LOCAL}, containers={("t", "main"): RUNNING})
    assert half.actions == (Start(LOCAL, "side"),)


def test_running_is_reported_once_all_containers_run() -> None:
    report = only_report(decide(local={"t": LOCAL}, containers=states(RUNNING, RUNNING)))
    assert report.status.last_status is LastStatus.RUNNING
    assert report.status.started_at == 5.0
    assert report.before is None
    settled = decide(
        local={"t": LOCAL},
        containers=states(RUNNING, RUNNING),
        reported={"t": At(report.status, Revision(5))},
    )
    assert settled == Decision((), None)


def test_a_definition_that_does_not_exist_ends_the_task() -> None:
    report = only_report(decide(definitions={"web:1": None}))
    assert report.status.stop_code is StopCode.TASK_FAILED_TO_START
    assert report.status.stopped_reason == (
        "CannotCreateContainerError: task definition web:1 does not exist"
    )


def test_a_task_stopped_before_it_started_never_starts() -> None:
    report = only_report(decide(desired=desired(STOPPED_TASK), definitions={}))
    assert report.status.last_status is LastStatus.STOPPED
    assert report.status.stop_code is StopCode.USER_INITIATED
    assert report.status.stopped_reason == "by hand"
    assert report.status.stopped_at == 10.0
    # The same where it had been written down, or one of its containers had started.
    assert decide(desired=desired(STOPPED_TASK, 4), local={"t": LOCAL}).actions == (WriteDown(LOCAL_STOPPED),)
    report = only_report(decide(desired=desired(STOPPED_TASK, 4), local={"t": LOCAL_STOPPED}))
    assert [c.last_status for c in report.status.containers] == [LastStatus.STOPPED] * 2
    half = decide(
        desired=desired(STOPPED_TASK, 4),
        local={"t": LOCAL_STOPPED},
        containers={("t", "main"): RUNNING},
    )
    assert half.actions == (Terminate("t", "main"),)


def test_stops_come_before_starts() -> None:
    other = replace(LOCAL, id="a")
    decision = decide(
        desired={"a": At(TASK, Revision(3)), **desired(STOPPED_TASK, 4)},
        local={"a": other, "t": LOCAL_STOPPED},
        containers=states(RUNNING, RUNNING),
    )
    assert [type(action) for action in decision.actions] == [Terminate, Terminate, Start, Start]


# -- a task stops -----------------------------------------------------------------


def test_a_stop_is_written_down_before_it_is_carried_out() -> None:
    running: dict[str, Any] = {
        "desired": desired(STOPPED_TASK, 4),
        "containers": states(RUNNING, RUNNING),
        "reported": reported(LastStatus.RUNNING),
    }
    assert decide(local={"t": LOCAL}, **running).actions == (WriteDown(LOCAL_STOPPED),)
    assert decide(local={"t": LOCAL_STOPPED}, **running).actions == (
        Terminate("t", "main"),
        Terminate("t", "side"),
    )


def test_sigkill_comes_after_the_containers_stop_timeout() -> None:
    stopping: dict[str, Any] = {
        "desired": desired(STOPPED_TASK, 4),
        "local": {"t": LOCAL_STOPPED},
        "containers": states(RUNNING, RUNNING),
        "signalled": {("t", "main"): Signalled(1000.0), ("t", "side"): Signalled(1000.0)},
        "reported": reported(LastStatus.RUNNING),
    }
    assert decide(now=1004.9, **stopping) == Decision((), 1005.0)
    assert decide(now=1005.0, **stopping) == Decision((Kill("t", "side"),), 1030.0)
    stopping["signalled"][("t", "side")] = Signalled(1000.0, 1005.0)
    assert decide(now=1006.0, **stopping) == Decision((), 1005.0 + KILL_AGAIN_S)
    assert decide(now=1010.0, **stopping).actions == (Kill("t", "side"),), "a signal may be lost"
    assert decide(now=1030.0, **stopping).actions == (Kill("t", "main"), Kill("t", "side"))


def test_stopped_is_reported_when_nothing_of_it_is_left() -> None:
    stopping: dict[str, Any] = {
        "desired": desired(STOPPED_TASK, 4),
        "local": {"t": LOCAL_STOPPED},
        "signalled": {("t", "side"): Signalled(1000.0)},
        "reported": reported(LastStatus.RUNNING),
    }
    assert decide(containers=states(ended(143), RUNNING), **stopping).actions == ()
    report = only_report(decide(containers=states(ended(143), ended(0, 11.0)), **stopping))
    assert report.status.stop_code is StopCode.USER_INITIATED
    assert report.status.stopped_reason == "by hand"
    assert report.status.stopped_at == 11.0
    assert report.status.exit_code == 143
    assert report.desired.revision == 4
    assert report.before is not None and report.before.revision == 5


def test_the_end_of_an_essential_container_ends_the_task() -> None:
    view: dict[str, Any] = {"local": {"t": LOCAL}, "reported": reported(LastStatus.RUNNING)}
    assert decide(containers=states(ended(3), RUNNING), **view).actions == (Terminate("t", "side"),)
    report = only_report(decide(containers=states(ended(3), ended(143, 9.5)), **view))
    assert report.status.stop_code is StopCode.ESSENTIAL_CONTAINER_EXITED
    assert report.status.stopped_reason == "Essential container in task exited"
    assert report.status.exit_code == 3


def test_the_end_of_another_container_does_not() -> None:
    view: dict[str, Any] = {"local": {"t": LOCAL}, "reported": reported(LastStatus.RUNNING)}
    report = only_report(decide(containers=states(RUNNING, ended(3)), **view))
    assert report.status.last_status is LastStatus.RUNNING
    assert [c.last_status for c in report.status.containers] == [LastStatus.RUNNING, LastStatus.STOPPED]
    view["reported"] = {"t": At(report.status, Revision(6))}
    assert decide(containers=states(RUNNING, ended(3)), **view).actions == (), "it is told once"


def test_an_end_before_running_was_reported_is_reported_at_once() -> None:
    report = only_report(decide(local={"t": LOCAL}, containers=states(ended(0), ended(0))))
    assert report.status.last_status is LastStatus.STOPPED
    assert report.status.started_at == 5.0


def test_a_container_that_did_not_start_gives_the_reason_and_keeps_its_code() -> None:
    why = "CannotStartContainerError: command not found: foo"
    failed = ContainerState(phase=Phase.STOPPED, exit_code=127, reason=why, failed_to_start=True)
    report = only_report(decide(local={"t": LOCAL}, containers=states(failed, ContainerState())))
    assert report.status.stop_code is StopCode.TASK_FAILED_TO_START
    assert report.status.stopped_reason == why
    assert report.status.exit_code == 127
    assert report.status.containers[0].reason == why


def test_a_stop_that_comes_after_its_own_end_does_not_change_why() -> None:
    report = only_report(
        decide(desired=desired(STOPPED_TASK, 4), local={"t": LOCAL}, containers=states(ended(3), ended(0)))
    )
    assert report.status.stop_code is StopCode.ESSENTIAL_CONTAINER_EXITED


# -- trust in what is older or gone ---------------------------------------------------


def test_a_stop_that_was_written_down_is_not_taken_back_by_an_older_state() -> None:
    decision = decide(
        desired=desired(TASK, 3), local={"t": LOCAL_STOPPED}, containers=states(RUNNING, RUNNING)
    )
    assert [type(action) for action in decision.actions if not isinstance(action, Report)] == [
        Terminate,
        Terminate,
    ]
    decision = decide(desired=desired(TASK, 3), local={"t": LOCAL_STOPPED})
    assert not any(isinstance(action, Start) for action in decision.actions)


def test_nothing_is_stopped_because_the_journal_is_away() -> None:
    view: dict[str, Any] = {"desired": None, "definitions": {}}
    running = states(RUNNING, RUNNING)
    assert decide(local={"t": LOCAL}, containers=running, **view).actions == ()
    # What was decided before goes on: stops, and starts that were written down.
    assert decide(local={"t": LOCAL_STOPPED}, containers=running, **view).actions == (
        Terminate("t", "main"),
        Terminate("t", "side"),
    )
    assert decide(local={"t": LOCAL}, **view).actions == (Start(LOCAL, "main"), Start(LOCAL, "side"))


def test_an_orphan_is_confirmed_before_it_is_stopped() -> None:
    orphan: dict[str, Any] = {"desired": {}, "local": {"t": LOCAL}, "containers": states(RUNNING, RUNNING)}
    assert decide(**orphan).actions == (Confirm("t"),)
    assert decide(gone=frozenset("t"), **orphan).actions == (Terminate("t", "main"), Terminate("t", "side"))
    orphan["containers"] = states(ended(), ended(at=11.0))
    assert decide(gone=frozenset("t"), wall=12.0, **orphan).actions == ()
    late = decide(gone=frozenset("t"), wall=12.0 + 3 * 3600, **orphan)
    assert late.actions == (ForgetFolder("t"),)


def test_a_task_whose_record_cannot_be_read_is_left_alone() -> None:
    decision = decide(
        desired={}, local={"t": LOCAL}, containers=states(RUNNING, RUNNING), unreadable=frozenset("t")
    )
    assert decision.actions == ()


def test_what_ran_and_left_no_trace_has_vanished() -> None:
    report = only_report(decide(reported=reported(LastStatus.RUNNING)))
    assert report.status.last_status is LastStatus.STOPPED
    assert report.status.stopped_reason is not None
    assert report.status.stopped_reason.startswith("ContainerVanishedError: ")


def test_after_stopped_was_reported_nothing_starts_and_nothing_is_reported() -> None:
    stopped: dict[str, Any] = {"reported": reported(LastStatus.STOPPED, stopped_at=9.0)}
    assert decide(**stopped).actions == ()
    assert decide(local={"t": LOCAL}, **stopped).actions == ()
    assert decide(local={"t": LOCAL}, containers=states(ended(), ended()), **stopped).actions == ()
    # A process that is there all the same must go: its claim is released.
    decision = decide(local={"t": LOCAL}, containers=states(RUNNING, ended()), **stopped)
    assert decision.actions == (Terminate("t", "main"),)


def test_a_task_with_which_all_is_done_is_settled_and_passed_over() -> None:
    stopped: dict[str, Any] = {"reported": reported(LastStatus.STOPPED, stopped_at=9.0)}
    assert decide(**stopped).settled == ("t",)
    assert decide(local={"t": LOCAL}, containers=states(ended(), ended()), **stopped).settled == ("t",)
    left = decide(local={"t": LOCAL}, containers=states(RUNNING, ended()), **stopped)
    assert left.settled == (), "something of it is left"
    assert decide().settled == ()
    assert decide(settled={"t"}) == Decision((), None)


@pytest.mark.parametrize("local", [{}, {"t": LOCAL}])
def test_stopped_tasks_are_forgotten_after_their_time(local: dict[str, LocalTask]) -> None:
    stopped = reported(LastStatus.STOPPED, stopped_at=9.0)
    view: dict[str, Any] = {"local": local, "containers": states(ended(), ended()), "reported": stopped}
    assert decide(wall=9.0 + 3 * 3600, **view).actions == ()
    expected = (ForgetRecords("t", desired()["t"], stopped["t"]),)
    assert decide(wall=10.0 + 3 * 3600, **view).actions == expected
