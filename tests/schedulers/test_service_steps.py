"""What the service scheduler decides, case by case, on the journal's own fold."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.records import InstanceStatus, LastStatus, RolloutState, ServiceStatus
from schedulers.service.bounds import (
    BACKOFF_MAX_S,
    backoff_s,
    breaker_threshold,
    maximum_live,
    minimum_healthy,
)
from schedulers.service.rolling import STOPS_MAX, Goal, Member, Phase, keeps, starts, stops
from tests.schedulers.service_world import CLUSTER, GRACE_S, ServiceWorld

SOON_S = 30.0


def world(instances: int = 6, *, zones: str = "abc", seed: int = 0, **options: int) -> ServiceWorld:
    made = ServiceWorld(seed)
    for number in range(instances):
        made.add_instance(f"i{number}", zone=zones[number % len(zones)] if zones else "", **options)
    return made


def member(number: int, phase: Phase = Phase.HEALTHY, deployment: str = "new", **facts: object) -> Member:
    return Member(id=f"t{number}", instance=f"i{number}", phase=phase, deployment=deployment, **facts)  # type: ignore[arg-type]


# -- numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "low", "high", "minimum", "maximum"),
    [(3, 50, 150, 2, 4), (1, 50, 150, 1, 1), (10, 33, 133, 4, 13), (0, 100, 200, 0, 0), (4, 0, 100, 0, 4)],
)
def test_the_minimum_is_rounded_up_and_the_maximum_down(
    desired: int, low: int, high: int, minimum: int, maximum: int
) -> None:
    assert (minimum_healthy(desired, low), maximum_live(desired, high)) == (minimum, maximum)


def test_the_breakers_threshold_is_half_of_the_desired_count_within_limits() -> None:
    assert [breaker_threshold(n) for n in (1, 6, 7, 25, 400, 1000)] == [3, 3, 4, 13, 200, 200]


def test_the_delay_grows_by_rounds_of_failures_up_to_a_limit() -> None:
    assert [backoff_s(n, 2) for n in (0, 1, 2, 3, 4, 5, 7)] == [0, 1, 1, 2, 2, 4, 8]
    assert backoff_s(10**6, 1) == BACKOFF_MAX_S


# -- which to start and stop ------------------------------------------------------------------


def test_nothing_is_started_beyond_the_maximum_and_what_stops_counts() -> None:
    goal = Goal(primary="new", desired=4, minimum=2, maximum=6)
    old = [member(n, deployment="old") for n in range(4)]
    assert starts(old, goal).count == 2
    assert starts([*old, member(9, Phase.STOPPING)], goal).count == 1
    assert starts(old, goal).short == 2


def test_healthy_tasks_are_given_up_only_for_room_and_only_to_the_minimum() -> None:
    goal = Goal(primary="new", desired=4, minimum=2, maximum=4)
    old = [member(n, deployment="old") for n in range(4)]
    assert stops(old, goal, short=0) == []
    assert len(stops(old, goal, short=4)) == 2
    stopping = [member(n, Phase.STOPPING, "old") for n in range(2)]
    assert stops([*stopping, *old[2:]], goal, short=2) == [], "two that stop already make the room"


def test_what_is_not_healthy_goes_first_and_at_once() -> None:
    goal = Goal(primary="new", desired=3, minimum=3, maximum=6)
    old = [member(0, Phase.PENDING, "old"), member(1, deployment="old"), member(2, Phase.UNHEALTHY, "old")]
    assert {m.id for m in stops(old, goal, short=0)} == {"t0", "t2"}


def test_who_is_away_may_well_serve_and_is_given_up_only_where_the_others_are_enough() -> None:
    """Found by chaos: an agent was away for a moment, and its running tasks were stopped for nothing."""
    goal = Goal(primary="new", desired=3, minimum=3, maximum=6)
    away = [member(n, Phase.AWAY, "old") for n in range(2)]
    assert stops([*away, member(7, deployment="old")], goal, short=0) == []
    assert set(stops([*away, *(member(n) for n in range(5, 8))], goal, short=0)) == set(away)
    fewer = Goal(primary="new", desired=1, minimum=1, maximum=2)
    mine = [member(n, Phase.AWAY) for n in range(3)]
    assert stops(mine, fewer, short=0) == []
    assert len(stops([*mine, member(9)], fewer, short=0)) == 3


def test_scaling_down_takes_from_the_most_crowded_zone_then_the_newest() -> None:
    goal = Goal(primary="new", desired=3, minimum=3, maximum=6)
    zones = ["a", "a", "a", "b", "c"]
    members = [member(n, zone=zones[n], created_at=float(n)) for n in range(5)]
    assert [m.id for m in stops(members, goal, short=0)] == ["t2", "t1"]


def test_a_protected_task_is_left_alone_while_it_is_healthy() -> None:
    goal = Goal(primary="new", desired=1, minimum=0, maximum=2)
    members = [member(0, protected=True), member(1, protected=True)]
    assert stops(members, goal, short=0) == []
    assert stops([member(0), *members[1:]], goal, short=0) == [member(0)]


PHASES = st.sampled_from(list(Phase))
MEMBERS = st.lists(
    st.tuples(PHASES, st.sampled_from(["new", "old"]), st.booleans(), st.sampled_from("ab")), max_size=14
).map(
    lambda facts: [
        member(n, phase, deployment, leaving=leaving, zone=zone)
        for n, (phase, deployment, leaving, zone) in enumerate(facts)
    ]
)


@given(MEMBERS, st.integers(0, 8), st.integers(0, 100), st.integers(100, 250), st.integers(0, 5))
def test_bounds_hold_whatever_the_members_are(
    members: list[Member], desired: int, low: int, high: int, short: int
) -> None:
    goal = Goal(
        primary="new",
        desired=desired,
        minimum=minimum_healthy(desired, low),
        maximum=maximum_live(desired, high),
    )
    begun = starts(members, goal)
    kept = [m for m in members if keeps(m, goal)]
    assert begun.count >= 0 and begun.short >= 0
    assert begun.count == 0 or len(members) + begun.count <= goal.maximum
    assert len(kept) + begun.count + begun.short == max(desired, len(kept))
    stopped = stops(members, goal, short)
    assert len({m.id for m in stopped}) == len(stopped) and all(m.active for m in stopped)
    healthy, left = (
        sum(m.healthy for m in members),
        sum(m.healthy for m in members if m not in stopped),
    )
    assert left == healthy or left >= goal.minimum
    assert sum(m in kept for m in stopped) <= max(0, len(kept) - desired)
    if any(m.phase is Phase.AWAY for m in stopped):
        assert healthy >= goal.minimum


def test_a_large_service_is_decided_upon_quickly() -> None:
    """2,000 tasks of an old deployment and 2,000 of the new one: no work grows with their square."""
    members = [member(n, deployment="old" if n % 2 else "new", zone="abc"[n % 3]) for n in range(4000)]
    goal = Goal(primary="new", desired=2000, minimum=2000, maximum=4000)
    began = time.process_time()
    assert len(stops(members, goal, 0)) == STOPS_MAX
    assert time.process_time() - began < 5.0


# -- the life of a service ------------------------------------------------------------------------


def test_a_service_is_started_updated_scaled_and_deleted() -> None:
    here = world()
    first = here.create(desired=4)
    assert here.state_of(first) is None
    here.run_until(here.steady, SOON_S)
    assert here.state_of(first) is RolloutState.COMPLETED
    events = here.events()
    assert events[0] == "(service web) has reached a steady state."
    assert events[1] == f"(service web) (deployment {first}) deployment completed."
    assert events[-1].startswith("(service web) has started 4 tasks: (task ")

    second = here.update(definition=here.define())
    here.run_until(lambda: here.state_of(second) is RolloutState.IN_PROGRESS, SOON_S)
    assert len(here.service().deployments) == 2
    here.run_until(here.steady, SOON_S)
    assert {view.task.task_definition for view in here.running()} == {"web:2"}
    assert [d.id for d in here.service().deployments] == [second]

    here.update(desired=7)
    here.run_until(here.steady, SOON_S)
    kept = {view.id for view in here.running()}
    here.update(desired=2)
    here.run_until(here.steady, SOON_S)
    assert len(here.running()) == 2 and {view.id for view in here.running()} < kept
    assert here.state_of(second) is RolloutState.COMPLETED

    here.delete()
    here.run_until(lambda: here.service().status is ServiceStatus.INACTIVE, SOON_S)
    assert here.tasks() == []
    assert here.events()[0].startswith("(service web) has stopped 2 running tasks")


def test_a_service_of_no_tasks_is_steady() -> None:
    here = world()
    here.create(desired=0)
    here.run_until(here.steady, SOON_S)


@pytest.mark.parametrize(("minimum", "maximum"), [(50, 100), (0, 100), (100, 150), (75, 125)])
def test_a_rolling_update_keeps_its_bounds(minimum: int, maximum: int) -> None:
    """``within_bounds`` looks at every step."""
    here = world()
    here.create(desired=4, minimum=minimum, maximum=maximum)
    here.run_until(here.steady, SOON_S)
    here.update(definition=here.define())
    here.run_until(here.steady, 120)
    assert {view.task.task_definition for view in here.running()} == {"web:2"}


def test_an_update_that_its_own_bounds_forbid_says_so() -> None:
    here = world()
    here.create(desired=1, minimum=100, maximum=150)
    here.run_until(here.steady, SOON_S)
    here.update(definition=here.define())
    here.run(SOON_S)
    assert {view.task.task_definition for view in here.running()} == {"web:1"}
    assert "because of the service deployment configuration" in here.events()[0]
    assert sum("deployment configuration" in event for event in here.events()) == 1


def test_with_no_room_for_more_healthy_tasks_are_given_up_down_to_the_minimum() -> None:
    here = world(2, cpu=200)
    here.create(desired=4, minimum=50, maximum=200)
    here.run_until(here.steady, SOON_S)
    here.update(definition=here.define())
    here.run_until(here.steady, 120)
    assert any("was unable to place a task because" in event for event in here.events())


def test_what_has_no_room_waits_for_it_and_says_why_once() -> None:
    here = world(1, cpu=250)
    here.create(desired=3)
    here.run(60)
    assert len(here.running()) == 2
    unable = [event for event in here.events() if "was unable to place a task because" in event]
    assert len(unable) == 1, unable
    revisions = here.truth.revision
    here.run(60)
    assert here.truth.revision == revisions, "nothing is written while nothing changes"
    here.add_instance("i9")
    here.run_until(here.steady, SOON_S)


def test_tasks_are_spread_over_zones_and_then_over_instances_and_stay_so() -> None:
    here = world(9)
    zones = {f"i{n}": "abc"[n % 3] for n in range(9)}

    def spread() -> dict[str, int]:
        return dict(Counter(zones[view.instance] for view in here.running()))

    here.create(desired=6)
    here.run_until(here.steady, SOON_S)
    assert spread() == {"a": 2, "b": 2, "c": 2}
    assert max(Counter(view.instance for view in here.running()).values()) == 1
    here.update(definition=here.define())
    here.run_until(here.steady, SOON_S)
    assert spread() == {"a": 2, "b": 2, "c": 2}
    here.update(desired=3)
    here.run_until(here.steady, SOON_S)
    assert spread() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize("how", ["lost", "draining"])
def test_what_goes_is_not_counted_where_its_replacement_is_spread(how: str) -> None:
    for seed in range(6):  # where it would be counted, chance would put some of them right
        here = world(6, seed=seed)
        zones = {f"i{n}": "abc"[n % 3] for n in range(6)}
        here.create(desired=6)
        here.run_until(here.steady, SOON_S)
        if how == "lost":
            here.disconnect("i1")
            here.run(GRACE_S)
        else:
            here.set_status("i1", InstanceStatus.DRAINING)
        here.run_until(lambda: here.steady() and all(v.instance != "i1" for v in here.tasks()), 120)  # noqa: B023
        assert Counter(zones[view.instance] for view in here.running()) == {"a": 2, "b": 2, "c": 2}


# -- instances --------------------------------------------------------------------------------------


def test_a_draining_instance_is_emptied_within_the_limits() -> None:
    here = world(3)
    here.create(desired=6)
    here.run_until(here.steady, SOON_S)
    here.set_status("i0", InstanceStatus.DRAINING)
    here.run_until(lambda: here.steady() and all(v.instance != "i0" for v in here.tasks()), 120)


def test_a_lost_instances_tasks_are_replaced_after_the_grace_period_and_not_before() -> None:
    here = world(3)
    here.create(desired=6)
    here.run_until(here.steady, SOON_S)
    victim = here.tasks()[0].instance
    there = {view.id for view in here.tasks() if view.instance == victim}
    here.disconnect(victim)
    here.run(GRACE_S - 1)
    assert {view.id for view in here.tasks() if view.instance == victim} == there
    here.run_until(lambda: here.steady() and all(v.instance != victim for v in here.tasks()), SOON_S)
    lost = next(event for event in here.events() if f"container instance {victim} is gone" in event)
    assert f"has lost {len(there)} tasks" in lost
    for task in there:
        view = here.truth.task(CLUSTER, task)
        assert view is not None and view.task.desired_status == "STOPPED"
        assert view.task.stopped_reason == f"Container instance {victim} is gone"
    # Its agent comes back, and stops them: nothing else changes.
    here.connect(victim)
    tasks = {view.id for view in here.tasks()}
    here.run(SOON_S)
    assert {view.id for view in here.tasks()} == tasks
    assert all(view.stopped for view in here.truth.tasks(CLUSTER, instance=victim))
    assert here.truth.claimed(CLUSTER, victim).cpu == 0


def test_an_agent_that_comes_back_in_time_changes_nothing() -> None:
    here = world(3)
    here.create(desired=6)
    here.run_until(here.steady, SOON_S)
    tasks, steps = {view.id for view in here.tasks()}, len(here.steps)
    here.disconnect("i0")
    here.run(GRACE_S - 5)
    here.connect("i0")
    here.run(GRACE_S)
    assert ({view.id for view in here.tasks()}, len(here.steps)) == (tasks, steps)


def test_a_large_service_fits_into_the_journals_offers_whatever_becomes_of_it() -> None:
    """``take`` counts the operations of every offer."""
    here = world(2, zones="", cpu=60_000, memory=60_000)
    here.create(desired=540)
    here.run_until(here.steady, 120)
    here.disconnect("i0")
    here.run_until(lambda: here.steady() and all(v.instance == "i1" for v in here.tasks()), 300)
    here.delete()
    here.run_until(lambda: here.service().status is ServiceStatus.INACTIVE, 120)


def test_an_events_length_is_bounded() -> None:
    here = world(0)
    for number in range(60):
        here.add_instance(f"i{number}", cpu=number)
    here.create(desired=1)
    here.run(5)
    assert here.events()[0].endswith("…") and len(here.events()[0]) == 1000


# -- failures ---------------------------------------------------------------------------------------


def test_tasks_that_keep_failing_are_retried_with_growing_delay() -> None:
    here = world()
    here.doom = lambda _view: 0
    deployment = here.create(desired=1)
    here.run(200)
    starts_at = [step.now for step in here.steps if step.starts]
    gaps = [later - earlier for earlier, later in pairwise(starts_at)]
    assert len(gaps) >= 5 and gaps[-1] > 4 * gaps[1], gaps
    view = here.truth.service(CLUSTER, "web")
    assert view is not None
    known = view.rollout.deployment(deployment)
    assert known is not None and known.failed_tasks == here.failures[deployment] >= 6
    assert any("is unable to consistently start tasks successfully" in event for event in here.events())
    here.doom = lambda _view: None
    here.run_until(here.steady, 300)


def test_a_task_that_ran_long_enough_is_replaced_at_once() -> None:
    here = world()
    here.doom = lambda _view: 100.0
    deployment = here.create(desired=2)
    here.run(1000)
    assert here.failures[deployment] > 10
    view = here.truth.service(CLUSTER, "web")
    known = view.rollout.deployment(deployment) if view else None
    assert known is not None and known.failed_tasks == 0


def test_a_task_that_a_person_stops_is_replaced_and_is_no_failure() -> None:
    here = world()
    deployment = here.create(desired=2)
    here.run_until(here.steady, SOON_S)
    victim = here.running()[0]
    stop_by_hand(here, victim.id)
    here.run_until(lambda: victim.id not in {v.id for v in here.tasks()} and here.steady(), SOON_S)
    view = here.truth.service(CLUSTER, "web")
    known = view.rollout.deployment(deployment) if view else None
    assert known is not None and known.failed_tasks == 0


def stop_by_hand(here: ServiceWorld, task: str) -> None:
    from cluster import offers
    from cluster.records import StopCode

    view = here.truth.task(CLUSTER, task)
    assert view is not None and view.desired is not None
    here.must(
        offers.stop(
            CLUSTER,
            view.instance,
            task,
            view.task,
            view.desired.revision,
            code=StopCode.USER_INITIATED,
            reason="by hand",
            now=here.now,
        )
    )


def test_an_unhealthy_task_is_replaced_and_counts_as_a_failure() -> None:
    from cluster.records import HealthStatus

    here = world()
    deployment = here.create(desired=2)
    here.run_until(here.steady, SOON_S)
    sick = here.running()[0].id
    here.report_health(sick, HealthStatus.UNHEALTHY)
    here.run_until(lambda: sick not in {v.id for v in here.tasks()} and here.steady(), SOON_S)
    assert f"(service web) (task {sick}) failed container health checks." in here.events()
    view = here.truth.service(CLUSTER, "web")
    known = view.rollout.deployment(deployment) if view else None
    assert known is not None and known.failed_tasks == 1


def test_the_circuit_breaker_rolls_back_to_what_was_complete() -> None:
    here = world()
    first = here.create(desired=4, breaker=(True, True))
    here.run_until(here.steady, SOON_S)
    kept = {view.id for view in here.running()}
    here.doom = lambda view: 0 if view.task.task_definition == "web:2" else None
    second = here.update(definition=here.define())
    here.run_until(lambda: here.state_of(second) is RolloutState.FAILED, 120)
    assert [d.id for d in here.service().deployments] == [first, second]
    here.run_until(here.steady, SOON_S)
    assert {view.id for view in here.running()} == kept, "the old tasks were never touched"
    assert here.service().task_definition == "web:1"
    assert here.service().deployments[0].rolls_back == second
    events = here.events()
    assert f"(service web) (deployment {second}) deployment failed: tasks failed to start." in events
    assert f"(service web) rolling back to deployment {first}." in events
    assert here.failures[second] >= 3


def test_the_circuit_breaker_without_rollback_stalls_and_leaves_what_runs() -> None:
    here = world()
    here.create(desired=4, breaker=(True, False))
    here.run_until(here.steady, SOON_S)
    kept = {view.id for view in here.running()}
    here.doom = lambda view: 0 if view.task.task_definition == "web:2" else None
    second = here.update(definition=here.define())
    here.run_until(lambda: here.state_of(second) is RolloutState.FAILED, 120)
    here.run(SOON_S)
    failures = here.failures[second]
    here.run(2000)
    assert here.failures[second] == failures, "nothing is started any more"
    assert {view.id for view in here.running()} == kept
    third = here.update(definition=here.define())
    here.run_until(here.steady, SOON_S)
    assert [d.id for d in here.service().deployments] == [third]


# -- daemons ----------------------------------------------------------------------------------------


def test_a_daemon_runs_once_on_every_instance_also_on_new_ones() -> None:
    here = world(3)
    here.create("dd", daemon=True, desired=0)
    here.run_until(lambda: here.steady("dd"), SOON_S)
    assert here.service("dd").desired_count == 3
    here.add_instance("i9")
    here.run_until(lambda: here.steady("dd") and len(here.running("dd")) == 4, SOON_S)
    here.update("dd", definition=here.define("dd"))
    here.run_until(lambda: here.steady("dd"), 120)
    assert Counter(v.instance for v in here.running("dd")) == {"i0": 1, "i1": 1, "i2": 1, "i9": 1}
    assert {v.task.task_definition for v in here.running("dd")} == {"dd:2"}


def test_a_daemon_leaves_a_draining_instance_last() -> None:
    here = world(2)
    here.create("dd", daemon=True)
    here.create("web", desired=4)
    here.run_until(lambda: here.steady("dd") and here.steady("web"), SOON_S)
    here.set_status("i0", InstanceStatus.DRAINING)
    here.run_until(lambda: all(v.instance != "i0" for v in here.tasks("dd")), 60)
    assert all(v.instance != "i0" for v in here.tasks("web"))
    last = [
        view.status.stopped_at
        for service in ("web", "dd")
        for view in here.truth.tasks(
            CLUSTER, instance="i0", group=f"service:{service}", last=LastStatus.STOPPED
        )
        if view.status and view.status.stopped_at
    ]
    assert max(last) == last[-1], "the daemon's task stopped last"
