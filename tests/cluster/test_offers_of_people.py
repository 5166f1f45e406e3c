"""Offers of the API and the service scheduler: what each stands on, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import keys, offers
from cluster.records import (
    AccountSetting,
    Alive,
    Attribute,
    Cluster,
    ClusterStatus,
    ContainerDefinition,
    ContainerInstance,
    DefinitionStatus,
    Deployment,
    DeploymentRollout,
    InstanceSettings,
    InstanceStatus,
    LastStatus,
    QueuedRun,
    Rollout,
    RolloutState,
    Service,
    ServiceEvent,
    ServiceStatus,
    StopCode,
    Tag,
    Task,
    TaskDefinition,
    TaskStatus,
    Token,
    resources,
    service_events,
    task_of,
)
from cluster.state import ClusterState
from cluster.transitions import IllegalTransition
from journal.offers import Offer
from journal.types import Revision
from tests.cluster.naive import NaiveJournal, Refused

C = "c"
DEFINITION = TaskDefinition(
    family="f", revision=1, container_definitions=(ContainerDefinition(name="x", cpu=1, memory=1),)
)
WEB = Service(
    service_name="web",
    task_definition="f:1",
    desired_count=2,
    deployments=(Deployment(id="ecs-svc/1", task_definition="f:1"),),
)
NONE = Revision(0)


@pytest.fixture
def journal() -> NaiveJournal:
    """A cluster with a definition, a service and a connected instance."""
    made = NaiveJournal()
    made.offer(offers.create_cluster(C))
    made.offer(offers.register_task_definition(DEFINITION))
    record = ContainerInstance(registered_resources=resources(9, 9, named={"GPU": 2}))
    at = made.offer(offers.register_instance(C, "i", record))
    made.offer(offers.connect(C, "i", Alive(incarnation="x"), lease=1, ttl_ms=1000, registration=at, at=at))
    made.offer(offers.create_service(C, WEB, at=made.revision))
    return made


def placing(number: int) -> offers.Placing:
    task = task_of(DEFINITION, group="service:web", started_by="ecs-svc/1", created_at=1.0)
    return offers.Placing("i", f"t{number}", task)


def at_of(journal: NaiveJournal, key: bytes) -> Revision:
    return journal.modified[key]


# -- several as one ---------------------------------------------------------------------------


def test_together_is_all_or_nothing(journal: NaiveJournal) -> None:
    at = journal.revision
    one, two = (offers.place(C, "i", f"t{n}", placing(n).task, at=at) for n in (1, 2))
    big = offers.place(C, "i", "big", replace(placing(3).task, cpu=100), at=at)
    with pytest.raises(Refused, match="BOUNDS"):
        journal.offer(offers.together(one, two, big))
    assert journal.state().tasks(C) == []
    journal.offer(offers.together(one, two, label="gang"))
    assert [view.id for view in journal.state().tasks(C)] == ["t1", "t2"]
    assert journal.commits[-1].label == "gang"


def test_together_stands_on_the_oldest_state() -> None:
    plain = Offer(mutations=())
    read, ranged = (
        replace(plain, reads=(b"a",), at=Revision(7)),
        replace(plain, ranges=((b"a", b"b"),), at=Revision(5)),
    )
    assert offers.together(read, ranged, plain).at == 5
    assert offers.together(read, plain, read) == replace(read, label="")
    with pytest.raises(ValueError, match="at least one"):
        offers.together()


# -- services ------------------------------------------------------------------------------------


def test_two_schedulers_that_saw_the_same_tasks_do_not_both_add_them(journal: NaiveJournal) -> None:
    at = journal.revision
    journal.offer(offers.place_for_service(C, "web", [placing(1), placing(2)], at=at))
    with pytest.raises(Refused, match="RANGE"):
        journal.offer(offers.place_for_service(C, "web", [placing(3)], at=at))
    assert len(journal.state().service_tasks(C, "web")) == 2


def test_a_stop_lets_nobody_add_on_an_older_count(journal: NaiveJournal) -> None:
    placed = journal.offer(offers.place_for_service(C, "web", [placing(1)], at=journal.revision))
    at = journal.revision
    stopped = TaskStatus(last_status=LastStatus.STOPPED)
    journal.offer(
        offers.report(C, "i", "t1", placing(1).task, placed, stopped, before=None, before_revision=NONE)
    )
    assert journal.state().service_tasks(C, "web") == []
    with pytest.raises(Refused, match="RANGE"):
        journal.offer(offers.place_for_service(C, "web", [placing(2)], at=at))


def test_nothing_is_placed_for_a_service_that_changed(journal: NaiveJournal) -> None:
    at = journal.revision
    draining = replace(WEB, status=ServiceStatus.DRAINING)
    journal.offer(offers.change_service(C, WEB, draining, at_of(journal, keys.service(C, "web"))))
    with pytest.raises(Refused, match="READ"):
        journal.offer(offers.place_for_service(C, "web", [placing(1)], at=at))
    with pytest.raises(ValueError, match="is of group"):
        offers.place_for_service(C, "other", [placing(1)], at=at)


def test_a_task_is_given_up_only_while_its_agent_is_away(journal: NaiveJournal) -> None:
    placed = journal.offer(offers.place_for_service(C, "web", [placing(1)], at=journal.revision))
    abandon = offers.abandon(
        C, "i", "t1", placing(1).task, placed, code=StopCode.TERMINATION_NOTICE, reason="lost", now=2.0
    )
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(abandon)
    del journal.values[keys.alive(C, "i")]
    journal.offer(abandon)
    state = journal.state()
    assert state.service_tasks(C, "web") == []
    view = state.task(C, "t1")
    assert view is not None and view.task.stopped_reason == "lost"
    assert state.claimed(C, "i").cpu == 1, "what it holds is given back only when it has stopped"


def test_a_service_is_closed_when_it_has_no_tasks(journal: NaiveJournal) -> None:
    at, revision = journal.revision, at_of(journal, keys.service(C, "web"))
    closed = replace(WEB, status=ServiceStatus.INACTIVE)
    late = offers.close_service(C, WEB, closed, revision, at=at)
    with pytest.raises(IllegalTransition):
        offers.close_service(C, WEB, replace(WEB, status=ServiceStatus.DRAINING), revision, at=at)
    journal.offer(offers.place_for_service(C, "web", [placing(1)], at=at))
    with pytest.raises(Refused, match="RANGE"):
        journal.offer(late)


def test_a_service_may_be_created_again_and_begins_anew(journal: NaiveJournal) -> None:
    key = keys.service(C, "web")
    rollout = Rollout(deployments=(DeploymentRollout(id="ecs-svc/1"),))
    journal.offer(
        offers.put_rollout(
            C, "web", rollout, before=None, revision=NONE, service_revision=at_of(journal, key)
        )
    )
    with pytest.raises(IllegalTransition, match="is ACTIVE"):
        offers.create_service(C, WEB, at=journal.revision, before=WEB, revision=NONE)
    closed = replace(WEB, status=ServiceStatus.INACTIVE)
    journal.offer(offers.close_service(C, WEB, closed, at_of(journal, key), at=journal.revision))
    with pytest.raises(IllegalTransition, match="only create_service"):
        offers.change_service(C, closed, WEB, NONE)
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(offers.create_service(C, WEB, at=journal.revision))
    journal.offer(
        offers.create_service(C, WEB, at=journal.revision, before=closed, revision=at_of(journal, key))
    )
    view = journal.state().service(C, "web")
    assert view is not None and view.rollout == Rollout()
    journal.offer(offers.close_service(C, WEB, closed, at_of(journal, key), at=journal.revision))
    journal.offer(offers.forget_service(C, closed, at_of(journal, key), at=journal.revision))
    assert journal.state().services(C) == []
    with pytest.raises(IllegalTransition):
        offers.forget_service(C, WEB, NONE, at=NONE)


def test_a_deployment_is_decided_once_and_for_the_service_as_it_is(journal: NaiveJournal) -> None:
    service = at_of(journal, keys.service(C, "web"))

    def put(state: RolloutState, before: Rollout | None, revision: Revision) -> tuple[Rollout, Offer]:
        made = Rollout(deployments=(DeploymentRollout(id="ecs-svc/1", rollout_state=state),))
        return made, offers.put_rollout(
            C, "web", made, before=before, revision=revision, service_revision=service
        )

    done, offer = put(RolloutState.COMPLETED, None, NONE)
    at = journal.offer(offer)
    with pytest.raises(IllegalTransition, match="cannot become FAILED"):
        put(RolloutState.FAILED, done, at)
    journal.offer(offers.change_service(C, WEB, replace(WEB, desired_count=5), service))
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(put(RolloutState.COMPLETED, done, at)[1])


def test_a_service_keeps_its_latest_events() -> None:
    events = tuple(ServiceEvent(id=str(n), created_at=1.0, message="m") for n in range(150))
    kept = service_events(events[:5], events[5:])
    assert len(kept) == 100 and kept[0].id == "0"
    assert Rollout(events=kept).problem() is None
    assert Rollout(events=events).problem() is not None


# -- clusters, definitions, instances ---------------------------------------------------------------


def test_a_cluster_is_deleted_only_when_it_was_seen_empty() -> None:
    journal = NaiveJournal()
    created = journal.offer(offers.create_cluster(C))
    record = Cluster(cluster_name=C)
    at = journal.revision
    late = offers.delete_cluster(record, created, at=at)
    journal.offer(offers.register_instance(C, "i", ContainerInstance(registered_resources=resources(1, 1))))
    with pytest.raises(Refused, match="RANGE"):
        journal.offer(late)
    tagged = replace(record, tags=(Tag(key="a", value="b"),))
    changed = journal.offer(offers.change_cluster(record, tagged, created))
    deleted = journal.offer(offers.delete_cluster(tagged, changed, at=journal.revision))
    inactive = journal.state().clusters[C]
    assert inactive.status is ClusterStatus.INACTIVE
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(offers.create_cluster(C))
    with pytest.raises(IllegalTransition):
        offers.create_cluster(C, before=record, revision=deleted)
    journal.offer(offers.create_cluster(C, before=inactive, revision=deleted))
    with pytest.raises(IllegalTransition, match="name and status"):
        offers.change_cluster(record, inactive, NONE)


def test_what_a_definition_says_is_never_changed(journal: NaiveJournal) -> None:
    revision = at_of(journal, keys.task_definition("f:1"))
    with pytest.raises(IllegalTransition, match="never changed"):
        offers.change_task_definition(DEFINITION, replace(DEFINITION, cpu=5), revision)
    inactive = replace(DEFINITION, status=DefinitionStatus.INACTIVE, deregistered_at=5.0)
    journal.offer(offers.change_task_definition(DEFINITION, inactive, revision))
    with pytest.raises(IllegalTransition, match="cannot become ACTIVE"):
        offers.change_task_definition(inactive, DEFINITION, NONE)
    with pytest.raises(Refused, match="READ"):
        journal.offer(offers.place(C, "i", "t", placing(1).task, at=Revision(revision)))


def test_settings_stand_on_the_registration_and_stop_older_plans(journal: NaiveJournal) -> None:
    at, registration = journal.revision, at_of(journal, keys.instance(C, "i"))
    own = InstanceSettings(attributes=(Attribute(name="zone", value="b"),))
    journal.offer(offers.change_settings(C, "i", own, NONE, registration=registration))
    assert [view.id for view in journal.state().instances_with(C, "zone", "b")] == ["i"]
    with pytest.raises(Refused, match="READ"):
        journal.offer(offers.place(C, "i", "t", placing(1).task, at=at))
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(offers.change_settings(C, "j", own, NONE, registration=registration))


def test_an_instance_is_forgotten_when_it_is_gone_and_empty(journal: NaiveJournal) -> None:
    key = keys.instance(C, "i")
    record = journal.state().instances(C)[0].record
    with pytest.raises(IllegalTransition):
        offers.forget_instance(C, "i", record, NONE, at=NONE)
    placed = journal.offer(offers.place(C, "i", "t", replace(placing(1).task, group=""), at=journal.revision))
    journal.offer(offers.set_instance_status(C, "i", record, at_of(journal, key), InstanceStatus.INACTIVE))
    inactive = replace(record, status=InstanceStatus.INACTIVE)
    with pytest.raises(Refused, match="RANGE"):
        journal.offer(offers.forget_instance(C, "i", inactive, at_of(journal, key), at=Revision(placed - 1)))
    journal.offer(offers.forget_instance(C, "i", inactive, at_of(journal, key), at=journal.revision))
    assert journal.state().instances(C) == []
    assert keys.capacity(C, "i") not in journal.values


def test_a_change_of_a_task_leaves_its_claim(journal: NaiveJournal) -> None:
    task = replace(placing(1).task, group="")
    placed = journal.offer(offers.place(C, "i", "t", task, at=journal.revision))
    tagged = replace(task, tags=(Tag(key="a"),), protected_until=9.0)
    journal.offer(offers.change_task(C, "i", "t", task, tagged, placed))
    with pytest.raises(IllegalTransition, match="only tags and protection"):
        offers.change_task(C, "i", "t", task, replace(task, cpu=0), placed)


# -- tokens, queues, settings -------------------------------------------------------------------------


def test_a_request_is_done_once_per_token(journal: NaiveJournal) -> None:
    def request(task: str) -> Offer:
        place = offers.place(C, "i", task, Task(task_definition="f:1", cpu=1, memory=1), at=journal.revision)
        return offers.together(
            offers.claim_token(C, "any text / at all", Token(request="d", tasks=(task,))), place
        )

    journal.offer(request("t1"))
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(request("t2"))
    state = journal.state()
    found = state.token(C, "any text / at all")
    assert found is not None and found.record.tasks == ("t1",)
    [(key, at)] = state.tokens(C).items()
    journal.offer(offers.forget_token(key, at.revision))
    assert journal.state().token(C, "any text / at all") is None


def test_queued_runs_are_in_the_order_of_priority_and_age(journal: NaiveJournal) -> None:
    names = [keys.run_name(p, t, "id") for p, t in ((0, 5.0), (9, 7.0), (9, 6.5), (9999, 8.0), (0, 4.0))]
    for name in names:
        journal.offer(offers.enqueue(C, name, QueuedRun(task_definition="f:1", count=2)))
    waiting = journal.state().queue(C)
    assert list(waiting) == [names[3], names[2], names[1], names[4], names[0]]
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(offers.enqueue(C, names[0], QueuedRun(task_definition="f:1", count=2)))
    one = waiting[names[3]]
    place = offers.place(C, "i", "t", Task(task_definition="f:1", cpu=1, memory=1), at=journal.revision)
    less = replace(one.record, count=1, placed=("t",))
    changed = journal.offer(offers.together(place, offers.change_queued(C, names[3], less, one.revision)))
    with pytest.raises(Refused, match="EXPECT"):
        journal.offer(offers.dequeue(C, names[3], one.revision))
    journal.offer(offers.dequeue(C, names[3], changed))
    assert names[3] not in journal.state().queue(C)
    with pytest.raises(keys.NameInvalid):
        keys.run_name(-1, 0.0, "id")


def test_an_account_setting_is_a_principals_or_everybodys() -> None:
    journal = NaiveJournal()
    arn = "arn:aws:iam::123456789012:user/somebody"
    journal.offer(offers.put_account_setting(AccountSetting(name="taskLongArnFormat", value="enabled")))
    journal.offer(
        offers.put_account_setting(
            AccountSetting(name="taskLongArnFormat", value="disabled", principal_arn=arn)
        )
    )

    def value(state: ClusterState, principal: str) -> str:
        setting = state.account_setting("taskLongArnFormat", principal)
        assert setting is not None
        return setting.value

    state = journal.state()
    assert (value(state, ""), value(state, arn), value(state, "other")) == ("enabled", "disabled", "enabled")
    assert [setting.principal_arn for setting in state.account_settings()] == ["", arn]
    journal.offer(offers.delete_account_setting("taskLongArnFormat", arn))
    assert value(journal.state(), arn) == "enabled"
    assert journal.state().account_setting("nothing") is None
