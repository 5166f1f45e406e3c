"""Services in storms: three copies of the scheduler that lag, crash and collide; agents that are slow,
lost and back; tasks that fail; people who update, scale, drain and stop. After every accepted step its
bounds are checked (``within_bounds``), and when the storm is over every service becomes what it should be.
The same storms catch bugs that are planted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from cluster import keys
from cluster.records import InstanceStatus, RolloutState
from cluster.state import TaskView
from journal.offers import Offer
from schedulers.service import bounds, reconcile, rolling
from schedulers.service.offer import offer_of
from schedulers.service.reconcile import Step
from schedulers.service.rollout import Progress
from tests.schedulers.service_world import CLUSTER, ServiceWorld

STORM_S = 150.0
CALM_S = 3000.0
"""Longer than the longest delay between retries of what kept failing."""


def storm(seed: int, here: ServiceWorld | None = None) -> ServiceWorld:
    """Let a storm go over some services, and wait until all of them are steady again."""
    rng = random.Random(f"storm {seed}")
    here = here or ServiceWorld(seed, copies=3, slow_s=rng.choice([0.5, 3.0, 10.0]))
    for number in range(rng.randint(3, 7)):
        here.add_instance(f"i{number}", zone=rng.choice("abc"), cpu=rng.choice([450, 1050]))
    breaker = rng.choice([None, (True, True)])
    low, high = rng.choice([(100, 200), (50, 100), (0, 100), (75, 150), (50, 200)])
    here.create("web", desired=rng.randint(1, 8), minimum=low, maximum=high, breaker=breaker)
    here.create("dd", daemon=True, definition=here.define("dd", cpu=50))
    bad = rng.choice([0.0, 0.1, 0.5])
    rage = True

    def doom(view: TaskView) -> float | None:
        mine = random.Random(f"{seed} {view.id}")
        return mine.choice([0.0, 1.0, 90.0]) if rage and mine.random() < bad else None

    here.doom = doom
    end = here.time + STORM_S
    while here.time < end:
        here.run(rng.uniform(0, 15))
        _act(here, rng)
    rage = False
    for name, instance in sorted(here.instances.items()):
        if not instance.up:
            here.connect(name)
        view = here.truth.instance(CLUSTER, name)
        if view is not None and view.status is InstanceStatus.DRAINING:
            here.set_status(name, InstanceStatus.ACTIVE)
    here.add_instance("spare", cpu=5000, memory=5000)
    if here.state_of(here.service().deployments[0].id) is RolloutState.FAILED:
        here.update(definition=here.define())
    everywhere = sum(v.status is InstanceStatus.ACTIVE for v in here.truth.instances(CLUSTER))
    here.run_until(
        lambda: here.steady("web") and here.steady("dd") and len(here.running("dd")) == everywhere, CALM_S
    )
    return here


def _act(here: ServiceWorld, rng: random.Random) -> None:
    name = rng.choice(sorted(here.instances))
    match rng.randrange(8):
        case 0:
            here.update(desired=rng.randint(0, 8))
        case 1:
            here.update(definition=here.define())
        case 2:
            here.update("dd", definition=here.define("dd", cpu=50))
        case 3:
            if here.instances[name].up:
                here.disconnect(name)
                here.later(
                    rng.uniform(1, 60), lambda: None if here.instances[name].up else here.connect(name)
                )
        case 4:
            view = here.truth.instance(CLUSTER, name)
            drains = view is not None and view.status is InstanceStatus.DRAINING
            here.set_status(name, InstanceStatus.ACTIVE if drains else InstanceStatus.DRAINING)
        case 5:
            here.crash(rng.randrange(len(here.copies)))
        case _:
            pass


@pytest.mark.parametrize("seed", range(20))
def test_bounds_hold_in_any_storm_and_calm_makes_every_service_steady(seed: int) -> None:
    here = storm(seed)
    assert here.steps
    running = here.running("web")
    assert len(running) == here.service().desired_count
    per_instance = Counter(view.instance for view in here.running("dd"))
    active = [i.id for i in here.truth.instances(CLUSTER) if i.status is InstanceStatus.ACTIVE]
    assert per_instance == Counter(active)
    # The journal's own books: what is claimed is what tasks hold, on every instance.
    for view in here.truth.instances(CLUSTER):
        assert view.registration is not None and view.capacity is not None
        held = here.truth.claimed(CLUSTER, view.id)
        assert held.cpu + view.capacity.record.cpu == view.registration.record.cpu
        assert view.capacity.record.cpu >= 0
    # Calm is calm: once the last doomed task has died and was replaced, nobody writes any more.
    here.run(200)
    assert here.steady("web") and here.steady("dd")
    revision = here.truth.revision
    here.run(300)
    assert here.truth.revision == revision


def test_the_copies_really_collide() -> None:
    here = storm(1)
    assert len(here.rejected) > 20, "they never met: the storms show nothing"


def test_failures_are_counted_once_whoever_counts_them() -> None:
    for seed in range(2):
        here = ServiceWorld(seed, copies=3)
        for number in range(4):
            here.add_instance(f"i{number}")
        here.doom = lambda _view: 0
        deployment = here.create(desired=3)
        for _ in range(20):
            here.run(10)
            here.crash(here.rng.randrange(3))
        here.run(60)
        view = here.truth.service(CLUSTER, "web")
        known = view.rollout.deployment(deployment) if view else None
        assert known is not None and known.failed_tasks == here.failures[deployment] > 6


# -- planted bugs --------------------------------------------------------------------------------


def unguarded(step: Step) -> Offer:
    """An offer that does not stand on the service's index and rollout: the last writer wins."""
    offer = offer_of(step)
    own = keys.service(CLUSTER, step.before.name)
    return replace(
        offer,
        ranges=tuple(pair for pair in offer.ranges if not pair[0].startswith(own)),
        expect=tuple((key, revision) for key, revision in offer.expect if not key.startswith(own)),
        reads=tuple(key for key in offer.reads if not key.startswith(own)),
    )


def caught(seeds: range, plant: Callable[[ServiceWorld], None]) -> list[str]:
    found = []
    for seed in seeds:
        here = ServiceWorld(seed, copies=3)
        plant(here)
        try:
            storm(seed, here)
        except AssertionError as error:
            found.append(str(error).splitlines()[0])
    return found


def test_planted_steps_that_stand_on_nothing_are_caught() -> None:
    def plant(here: ServiceWorld) -> None:
        here.offer_of = unguarded

    assert any("are wanted" in text or "the maximum is" in text for text in caught(range(4), plant))


@pytest.mark.parametrize(
    ("bound", "planted", "percents", "text"),
    [
        ("minimum_healthy", lambda d, p: d * p // 100, (50, 100), "the minimum is 2"),
        ("maximum_live", lambda d, p: -(-d * p // 100), (100, 150), "the maximum is 4"),
    ],
)
def test_planted_rounding_is_caught(
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    planted: Callable[[int, int], int],
    percents: tuple[int, int],
    text: str,
) -> None:
    monkeypatch.setattr(f"schedulers.service.view.{bound}", planted)
    here = ServiceWorld(0)
    for number in range(3):
        here.add_instance(f"i{number}")
    here.create(desired=3, minimum=percents[0], maximum=percents[1])
    here.run_until(here.steady, 30)
    here.update(definition=here.define())
    with pytest.raises(AssertionError, match=text):
        here.run_until(here.steady, 120)


def test_planted_replacement_without_grace_for_who_stops_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that are stopping still take up room."""

    def careless(members: list[rolling.Member], goal: rolling.Goal) -> rolling.Starts:
        return rolling.starts([member for member in members if member.active], goal)

    monkeypatch.setattr(reconcile, "starts", careless)
    assert any("the maximum is" in text for text in caught(range(8), lambda _here: None))


def test_planted_forgetful_counting_never_breaks_the_circuit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ends are not remembered, one failure is counted again and again."""

    class Forgetful(Progress):
        def rollout(self):  # type: ignore[no-untyped-def]
            return replace(super().rollout(), counted_to=0)

    monkeypatch.setattr(reconcile, "Progress", Forgetful)
    here = ServiceWorld(0)
    here.add_instance("i0")
    fails = iter([0])
    here.doom = lambda _view: next(fails, None)
    deployment = here.create(desired=2)
    here.run(bounds.SHORT_RUN_S)
    view = here.truth.service(CLUSTER, "web")
    known = view.rollout.deployment(deployment) if view else None
    assert known is not None and known.failed_tasks > here.failures[deployment] == 1
