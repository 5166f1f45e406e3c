"""``ClusterState`` is the same however it was fed, and one bad record does not stop it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import keys
from cluster.records import DesiredStatus, LastStatus, Task, TaskStatus
from cluster.state import ClusterState
from journal.types import Revision
from tests.cluster.naive import NaiveChange, NaiveCommit
from tests.cluster.test_offers import CLUSTER, Anarchy


def facts(state: ClusterState) -> object:
    return (
        state.clusters,
        state.instances(CLUSTER),
        state.tasks(CLUSTER),
        [state.claimed(CLUSTER, instance) for instance in "ab"],
        state.family("f"),
        state.invalid,
    )


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_followed_commit_by_commit_is_the_same_as_loaded(seed: int) -> None:
    world = Anarchy(random.Random(seed))
    for _ in range(100):
        world.step()
    assert facts(world.journal.followed()) == facts(world.journal.state())


def commit(revision: int, *changes: tuple[bytes, bytes | None]) -> NaiveCommit:
    return NaiveCommit(Revision(revision), tuple(NaiveChange(key, value) for key, value in changes))


def task(**fields: object) -> Task:
    return Task(**{"task_definition": "f:1", "cpu": 1, "memory": 1, **fields})  # type: ignore[arg-type]


def test_a_commit_is_folded_once() -> None:
    state = ClusterState()
    state.apply(commit(3))
    for revision in (2, 3):
        with pytest.raises(ValueError, match="after revision 3"):
            state.apply(commit(revision))
    state.advance(Revision(9))
    state.advance(Revision(4))
    assert state.revision == 9


def test_a_broken_record_counts_as_absent_until_it_is_replaced() -> None:
    state = ClusterState()
    key = keys.task("c", "i", "t")
    state.apply(commit(1, (key, task().pack())))
    assert state.task("c", "t") is not None
    state.apply(commit(2, (key, b"rubbish"), (keys.instance("c", "i"), b"\x80")))
    assert state.task("c", "t") is None
    assert state.instances("c") == []
    assert set(state.invalid) == {key, keys.instance("c", "i")}
    assert "registeredResources missing" in state.invalid[keys.instance("c", "i")]
    state.apply(commit(3, (key, task().pack()), (keys.instance("c", "i"), None)))
    assert state.task("c", "t") is not None
    assert state.invalid == {}


def test_records_that_are_alike_are_read_and_kept_once() -> None:
    state = ClusterState()
    same = task(cpu=250).pack()
    state.apply(commit(1, (keys.task("c", "i", "one"), same), (keys.task("c", "j", "two"), same)))
    one, two = state.task("c", "one"), state.task("c", "two")
    assert one and two and one.task is two.task
    # The same bytes under a key of another kind are another record, and a broken one is broken each time.
    broken = {keys.task("c", "i", name): b"\x81" for name in ("three", "four")}
    state.apply(commit(2, (keys.status("c", "i", "one"), same), *broken.items()))
    assert state.invalid.keys() == {keys.status("c", "i", "one"), *broken}


def test_tasks_are_found_by_what_people_know() -> None:
    state = ClusterState()
    state.apply(
        commit(
            1,
            (keys.task("c", "i", "abc1"), task(group="g", created_at=2.0).pack()),
            (keys.task("c", "j", "abd2"), task(started_by="me", created_at=1.0).pack()),
            (keys.task("c", "j", "abd"), task(desired_status=DesiredStatus.STOPPED, created_at=3.0).pack()),
            (keys.status("c", "i", "abc1"), TaskStatus(last_status=LastStatus.RUNNING).pack()),
        )
    )

    def ids(views: object) -> list[str]:
        return [view.id for view in views]  # type: ignore[attr-defined]

    assert ids(state.tasks("c")) == ["abd2", "abc1", "abd"]
    assert ids(state.tasks("c", instance="j")) == ["abd2", "abd"]
    assert ids(state.tasks("c", group="g")) == ["abc1"]
    assert ids(state.tasks("c", started_by="me")) == ["abd2"]
    assert ids(state.tasks("c", desired=DesiredStatus.STOPPED)) == ["abd"]
    assert ids(state.tasks("c", last=LastStatus.RUNNING)) == ["abc1"]
    assert ids(state.tasks("c", last=LastStatus.PENDING)) == ["abd2", "abd"]
    assert ids(state.tasks_with_prefix("c", "ab")) == ["abd2", "abc1", "abd"]
    assert ids(state.tasks_with_prefix("c", "abd")) == ["abd"], "the exact one alone"
    assert ids(state.tasks_with_prefix("c", "x")) == []
    assert state.tasks("other") == []


def test_a_status_without_its_task_is_not_a_task() -> None:
    state = ClusterState()
    status = (keys.status("c", "i", "t"), TaskStatus(last_status=LastStatus.RUNNING).pack())
    state.apply(commit(1, status))
    assert state.tasks("c") == []
    assert state.task("c", "t") is None
    assert state.claimed("c", "i").cpu == 0
    state.apply(commit(2, (keys.task("c", "i", "t"), task().pack())))
    assert [view.last_status for view in state.tasks("c")] == [LastStatus.RUNNING]


def test_keys_of_others_are_passed_over() -> None:
    state = ClusterState()
    state.apply(commit(1, (b"cluster/c/others/web", b"x"), (b"mine", b"y"), (b"cluster/\xff", b"z")))
    assert state.invalid == {}
    assert state.revision == 1
