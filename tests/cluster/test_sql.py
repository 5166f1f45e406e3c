"""SQL finds what the state says, and does nothing else."""

from __future__ import annotations

import random

import pytest

from cluster import keys, sql
from cluster.records import (
    Attribute,
    Capacity,
    ContainerDefinition,
    ContainerInstance,
    ContainerStatus,
    Deployment,
    InstanceSettings,
    LastStatus,
    Service,
    StopCode,
    Tag,
    Task,
    TaskDefinition,
    TaskStatus,
    attributes,
    resources,
)
from cluster.sql import SqlInvalid, query
from cluster.state import ClusterState
from journal.types import Revision
from tests.cluster.test_offers import CLUSTER, Anarchy

FOREVER = "with recursive n(x) as (select 1 union all select x+1 from n)"


@pytest.fixture
def state() -> ClusterState:
    made = ClusterState()
    definition = TaskDefinition(
        family="web",
        revision=2,
        container_definitions=(ContainerDefinition(name="main", cpu=10, memory=64),),
        tags=(Tag(key="team", value="a"),),
    )
    service = Service(
        service_name="web",
        task_definition="web:2",
        desired_count=2,
        deployments=(Deployment(id="ecs-svc/1", task_definition="web:2"),),
    )
    task = Task(
        task_definition="web:2",
        cpu=10,
        memory=64,
        ports=(80,),
        group="service:web",
        started_by="ecs-svc/1",
        created_at=5.0,
    )
    stopped = TaskStatus(
        last_status=LastStatus.STOPPED,
        stop_code=StopCode.ESSENTIAL_CONTAINER_EXITED,
        stopped_reason="it broke",
        containers=(ContainerStatus(name="main", last_status=LastStatus.STOPPED, exit_code=3),),
    )
    instance = ContainerInstance(
        registered_resources=resources(100, 200),
        attributes=attributes({"ecs.availability-zone": "z1", "rack": "r"}),
    )
    settings = InstanceSettings(
        attributes=(Attribute(name="rack", value="mine"),), tags=(Tag(key="a", value="b"),)
    )
    items = {
        keys.instance("c", "i"): instance,
        keys.settings("c", "i"): settings,
        keys.capacity("c", "i"): Capacity(cpu=90, memory=136, ports=(80,), resources={"GPU": 1}),
        keys.task("c", "i", "t1"): task,
        keys.task("c", "i", "t2"): task,
        keys.status("c", "i", "t1"): TaskStatus(last_status=LastStatus.RUNNING, started_at=6.0),
        keys.status("c", "i", "t2"): stopped,
        keys.task_definition("web:2"): definition,
        keys.service("c", "web"): service,
    }
    made.load(((key, record.pack(), Revision(1)) for key, record in items.items()), Revision(9))
    return made


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("select zone, cpu, cpu_left, connected, running_tasks from instances", [("z1", 100, 90, 0, 1)]),
        ("select json_extract(resources_left, '$.GPU') from instances", [(1,)]),
        ("select value from attributes where name = 'rack'", [("mine",)]),
        ("select json_extract(tags, '$.a') from instances", [("b",)]),
        (
            "select id, last_status, service from tasks order by id",
            [("t1", "RUNNING", "web"), ("t2", "STOPPED", "web")],
        ),
        (
            "select id, stop_code, reason from tasks where exit_code = 3",
            [("t2", "EssentialContainerExited", "it broke")],
        ),
        ("select value from tasks, json_each(ports) where tasks.id = 't1'", [(80,)]),
        (
            "select revision, cpu, memory, json_extract(containers, '$[0].name') from task_definitions",
            [(2, 10, 64, "main")],
        ),
        ("select name, desired, running, pending, strategy from services", [("web", 2, 1, 0, "REPLICA")]),
        ("select datetime(max(started_at), 'unixepoch') from tasks", [("1970-01-01 00:00:06",)]),
        (
            "with recursive n(x) as (select 1 union all select x+1 from n where x<3) select sum(x) from n",
            [(6,)],
        ),
        ("select i.id, count(*) from instances i join tasks t on t.instance = i.id group by 1", [("i", 2)]),
    ],
)
def test_what_statements_find(state: ClusterState, statement: str, rows: list[tuple[object, ...]]) -> None:
    answer = query(state, statement)
    assert list(answer.rows) == rows
    assert answer.at == 9


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("", "only SELECT"),
        ("selec 1", "syntax error"),
        ("select * from things", "no such table: things; there are instances, attributes, tasks"),
        ("select wrong from tasks", "no such column: wrong"),
        ("delete from tasks", "only read"),
        ("insert into tasks values (1)", "only read"),
        ("update tasks set cpu = 1", "only read"),
        ("drop table tasks", "only read"),
        ("create table x (y)", "only read"),
        ("pragma query_only = off", "only read"),
        ("attach database '/tmp/x' as x", "only read"),
        ("begin", "only read"),
        ("select load_extension('x')", "only read"),
        ("select 1; select 2", "one statement at a time"),
        ("select zeroblob(20000000)", "too big"),
        (f"{FOREVER} select count(*) from n", "steps"),
        (f"{FOREVER} select x from n", "more than 100000 rows"),
    ],
)
def test_what_is_refused(
    state: ClusterState, statement: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "STEPS_MAX", 5_000_000)
    with pytest.raises(SqlInvalid, match=why):
        query(state, statement)


def test_a_busy_cluster_is_told_as_it_is() -> None:
    world = Anarchy(random.Random(3))
    for _ in range(150):
        world.step()
    state = world.journal.state()
    [(tasks,)] = query(state, "select count(*) from tasks").rows
    assert tasks == len(state.tasks(CLUSTER))
    sums = query(
        state,
        "select i.id, i.cpu - coalesce(sum(t.cpu), 0) from instances i left join tasks t"
        " on t.instance = i.id and t.last_status <> 'STOPPED' group by i.id order by i.id",
    )
    left = [(view.id, view.capacity.record.cpu) for view in state.instances(CLUSTER) if view.capacity]
    assert list(sums.rows) == left
