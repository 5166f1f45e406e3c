"""What has outlived its time, and nothing else, is deleted."""

from __future__ import annotations

from api.instances import NO_AGENT
from api.sweep import SWEPT_MAX, outlived
from cluster import keys
from cluster.codec import Record
from cluster.records import (
    Alive,
    Cluster,
    ContainerInstance,
    LastStatus,
    Task,
    TaskStatus,
    Token,
    resources,
)
from cluster.state import ClusterState
from journal.offers import Delete, Offer
from journal.types import Revision

NOW = 1_000_000.0
HOUR = 3600.0


def state_of(records: dict[bytes, Record]) -> ClusterState:
    state = ClusterState()
    everything = {keys.cluster("c"): Cluster(cluster_name="c"), **records}
    state.load(
        [(key, record.pack(), Revision(n)) for n, (key, record) in enumerate(everything.items(), 1)],
        Revision(99),
    )
    return state


def swept(state: ClusterState) -> list[Offer]:
    return outlived(state, NOW, token_keep_s=24 * HOUR, stopped_keep_s=3 * HOUR)


def deleted(offers: list[Offer]) -> set[bytes]:
    return {change.key for offer in offers for change in offer.mutations if isinstance(change, Delete)}


def test_tokens_are_kept_for_a_day() -> None:
    old, new = keys.token("c", "old"), keys.token("c", "new")
    state = state_of(
        {
            old: Token(request="r", created_at=NOW - 25 * HOUR),
            new: Token(request="r", created_at=NOW - 23 * HOUR),
        }
    )
    [offer] = swept(state)
    assert deleted([offer]) == {old}
    assert offer.expect == ((old, 2),), "only if it is still the same"


def test_stopped_tasks_are_kept_for_three_hours_and_an_agent_s_are_its_own() -> None:
    task = Task(task_definition="web:1", cpu=1, memory=1)
    host = ContainerInstance(registered_resources=resources(1, 1), host="somewhere")
    bare = ContainerInstance(registered_resources=resources(1, 1))
    records: dict[bytes, Record] = {
        keys.instance("c", "host"): host,
        keys.instance("c", "bare"): bare,
        keys.alive("c", "bare"): Alive(incarnation=NO_AGENT),
    }
    for instance in ("host", "bare", "gone"):
        for name, age in (("old", 4 * HOUR), ("new", 2 * HOUR)):
            records[keys.task("c", instance, f"{name}-{instance}")] = task
            status = TaskStatus(last_status=LastStatus.STOPPED, stopped_at=NOW - age)
            records[keys.status("c", instance, f"{name}-{instance}")] = status
    records[keys.task("c", "bare", "runs")] = task
    records[keys.status("c", "bare", "runs")] = TaskStatus(last_status=LastStatus.RUNNING, started_at=1.0)
    assert deleted(swept(state_of(records))) == {
        make("c", instance, f"old-{instance}")
        for instance in ("bare", "gone")
        for make in (keys.task, keys.status)
    }


def test_a_sweep_is_bounded() -> None:
    many: dict[bytes, Record] = {
        keys.token("c", f"{number}"): Token(request="r", created_at=0.0) for number in range(SWEPT_MAX + 10)
    }
    assert len(swept(state_of(many))) == SWEPT_MAX
