"""The row ``placement`` counts what it says it counts, and notices books that do not add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster import keys, offers
from cluster.records import Capacity, task_of
from cluster.state import ClusterState
from journal.offers import Adjust, Offer, Reason, Rejected, Verdict
from journal.types import Revision
from scripts.bench.placement import CPU, DEFINITION, MEMORY, WORK, Cell, oversubscribed, registration
from scripts.bench.scheduler import Counting, Mode, Tally, on_versions, prefixes_of

C = "bench"
TASK = task_of(DEFINITION, created_at=1.0)


def cluster(left: Capacity, *tasks: str) -> ClusterState:
    items = [
        (keys.instance(C, "i"), registration(0).pack(), Revision(1)),
        (keys.capacity(C, "i"), left.pack(), Revision(5)),
    ]
    items += [(keys.task(C, "i", name), TASK.pack(), Revision(6)) for name in tasks]
    state = ClusterState()
    state.load(items, Revision(7))
    return state


def test_an_offer_on_versions_stands_on_each_capacity_that_it_takes_from() -> None:
    state = cluster(Capacity(cpu=CPU, memory=MEMORY))
    offer = offers.together(*(offers.place(C, "i", name, TASK, at=Revision(7)) for name in ("one", "two")))
    strict = on_versions(state, C, offer)
    assert set(strict.expect) == {*offer.expect, (keys.capacity(C, "i"), 5)}
    assert replace(strict, expect=offer.expect) == offer, "and nothing else of it changes"


@pytest.mark.parametrize(
    ("left", "tasks", "wrong"),
    [
        (Capacity(cpu=CPU, memory=MEMORY), (), False),
        (Capacity(cpu=CPU - 2 * TASK.cpu, memory=MEMORY - 2 * TASK.memory), ("one", "two"), False),
        (Capacity(cpu=CPU - TASK.cpu, memory=MEMORY - TASK.memory), ("one", "two"), True),
        (Capacity(cpu=CPU, memory=MEMORY - TASK.memory), ("one",), True),
        (Capacity(cpu=CPU - TASK.cpu, memory=MEMORY), (), True),
    ],
)
def test_books_that_do_not_add_up_are_noticed(left: Capacity, tasks: tuple[str, ...], wrong: bool) -> None:
    found = oversubscribed(cluster(left, *tasks), C)
    assert [line.partition(":")[0] for line in found] == (["i"] if wrong else [])


def test_less_than_nothing_left_is_oversubscribed_even_where_it_adds_up() -> None:
    names = [f"t{n}" for n in range(CPU // TASK.cpu + 1)]
    left = Capacity(cpu=CPU - len(names) * TASK.cpu, memory=MEMORY - len(names) * TASK.memory)
    assert left.cpu < 0 and oversubscribed(cluster(left, *names), C)


def test_a_cell_adds_up_its_schedulers() -> None:
    one = Tally(placed=100, offers=110, conflicts=10, seconds=2.0, cpu_s=1.0, latencies_ms=[1.0, 2.0])
    two = Tally(placed=300, offers=290, conflicts=10, seconds=2.0, cpu_s=1.0, latencies_ms=[3.0])
    cell = Cell([one, two], {"leader": 0.5})
    assert cell.tasks_per_s == 200
    assert cell.conflicts_percent == 5
    details = cell.details()
    assert details["cpu_us_a_task"] == {"schedulers": 5_000, "leader": 2_500}
    assert details["job_ms"]["max"] == 3.0
    assert Cell().tasks_per_s == 0 and Cell().conflicts_percent == 0


def test_every_job_fits_the_journals_limits() -> None:
    from journal.gate import unpack_batch
    from journal.limits import Limits
    from journal.offers import pack_batch, pack_offer

    for work in WORK:
        count = work.tasks if work.gang else 1
        placed = [offers.place(C, f"i{n}", f"t{n}", TASK, at=Revision(7)) for n in range(count)]
        packed = pack_offer(1, offers.together(*placed))
        unpack_batch(pack_batch(b"client", 1, 0, [packed]), Limits())


def test_a_scheduler_follows_its_cluster_and_the_definitions() -> None:
    prefixes = prefixes_of("jobs-1")
    assert keys.capacity("jobs-1", "i").startswith(prefixes)
    assert keys.task_definition(DEFINITION.name).startswith(prefixes)
    assert not keys.capacity("jobs-2", "i").startswith(prefixes)


def test_adjust_is_what_an_offer_takes_with() -> None:
    """``on_versions`` finds what an offer takes from by its adjustments: placing must make them."""
    offer = offers.place(C, "i", "t", TASK, at=Revision(7))
    assert [m.key for m in offer.mutations if isinstance(m, Adjust)] == [keys.capacity(C, "i")]


async def test_what_is_accepted_and_what_is_not_is_counted_by_task_and_by_offer() -> None:
    offered = [offers.place(C, "i", name, TASK, at=Revision(7)) for name in ("one", "two", "three")]
    gang = offers.together(*offered)
    given: list[Offer] = []

    class Journal:
        async def offer_many(self, offers: Sequence[Offer], /) -> Sequence[Verdict]:
            given.extend(offers)
            return [8, Rejected(Reason.BOUNDS, "mutations[0]"), 9]

    class Fed:
        state = cluster(Capacity(cpu=CPU, memory=MEMORY))

        async def reached(self, revision: int) -> ClusterState:
            return self.state

    counting = Counting(Journal(), Fed(), C, Mode.ADJUST)
    await counting.offer_many([offered[0], offered[1], gang])
    assert (counting.tally.placed, counting.tally.offers, counting.tally.conflicts) == (4, 3, 1)
    assert given == [offered[0], offered[1], gang], "offered as they are"
    given.clear()
    strict = Counting(Journal(), Fed(), C, Mode.VERSIONS)
    await strict.offer_many([offered[0], offered[1], gang])
    assert given == [on_versions(Fed.state, C, offer) for offer in (offered[0], offered[1], gang)]
