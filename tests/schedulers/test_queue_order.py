"""Whose turn it is: priority, then owners in turn, then age; against a naive dealer."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cluster.records import QueuedRun
from cluster.state import At
from journal.types import Revision
from schedulers.queue.order import owner_of, task_id, turns


def run(owner: str = "", count: int = 1, at: float = 0.0, **facts: object) -> At[QueuedRun]:
    record = QueuedRun(task_definition="job:1", count=count, owner=owner, submitted_at=at, **facts)  # type: ignore[arg-type]
    return At(record, Revision(1))


def deal(queue: dict[str, At[QueuedRun]], rounds: int, served: dict[str, int] | None = None) -> str:
    """Give one task after another to whose turn it is; return the owners in that order."""
    given_to = ""
    left = dict(queue)
    served = dict(served or {})
    for revision in range(1000, 1000 + rounds):
        name = next(turns(left, served), None)
        if name is None:
            break
        before = left[name].record
        given_to += owner_of(before)
        served[owner_of(before)] = revision
        placed = (*before.placed, task_id(name, len(before.placed)))
        after = replace(before, count=before.count - 1, placed=placed)
        if after.count:
            left[name] = At(after, Revision(revision))
        else:
            del left[name]
    return given_to


def test_owners_take_turns_task_by_task() -> None:
    queue = {"1": run("a", 4, 0.0), "2": run("b", 2, 1.0), "3": run("c", 1, 2.0)}
    assert deal(queue, 7) == "abcabaa"


def test_who_queues_many_runs_waits_for_himself_only() -> None:
    queue = {f"{n}": run("a", 1, float(n)) for n in range(5)} | {"late": run("b", 2, 9.0)}
    assert deal(queue, 7) == "ababaaa"
    assert deal(queue, 7, {"a": 7}) == "babaaaa", "who was served last goes last"


def test_all_turns_at_once_are_the_turns_one_by_one() -> None:
    queue = {"1": run("a", 4, 0.0), "2": run("b", 2, 1.0), "3": run("c", 1, 2.0), "4": run("b", 1, 3.0)}
    assert "".join(owner_of(queue[name].record) for name in turns(queue, {})) == deal(queue, 20)


def test_a_higher_priority_goes_first_whoever_owns_it() -> None:
    queue = {"1": run("a", 2, 0.0), "2": run("b", 2, 1.0, priority=5)}
    assert deal(queue, 4) == "bbaa"


def test_without_an_owner_it_is_who_started_it_or_the_family() -> None:
    assert owner_of(run().record) == "job"
    assert owner_of(run(started_by="ann").record) == "ann"
    assert owner_of(run("bob", started_by="ann").record) == "bob"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=6)
)
def test_nobody_has_two_more_than_another_who_still_waits(runs: list[tuple[str, int, int]]) -> None:
    """One run for each owner: at any moment, two owners who wait differ by one task at most."""
    one_each = {owner: (count, at) for owner, count, at in runs}
    queue = {owner: run(owner, count, float(at)) for owner, (count, at) in one_each.items()}
    dealt = deal(queue, 20)
    assert len(dealt) == sum(count for count, _ in one_each.values())
    for moment in range(len(dealt)):
        had = {owner: dealt[:moment].count(owner) for owner in one_each}
        waiting = [owner for owner, (count, _) in one_each.items() if had[owner] < count]
        if waiting:
            assert max(had[o] for o in waiting) - min(had[o] for o in waiting) <= 1


def test_the_ids_of_a_runs_tasks_are_told_apart_and_stay() -> None:
    ids = [task_id("run", n) for n in range(100)]
    assert len(set(ids)) == 100 and all(len(i) == 32 for i in ids)
    assert task_id("run", 3) == ids[3] != task_id("other", 3)
