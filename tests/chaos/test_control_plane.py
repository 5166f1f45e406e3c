"""The control plane under harm, with real processes: a short run of ``python -m synod.chaos.control``,
and its judges shown to catch what is planted for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cluster.records import LastStatus
from journal.space import Commit
from synod.chaos.control import WEB_TASKS, Broken, ControlChaos, check_history
from tests.schedulers.service_world import ServiceWorld

HARM_S = 25.0


def test_nothing_that_is_killed_is_noticed_by_the_tasks(tmp_path: Path) -> None:
    chaos = ControlChaos(tmp_path, seed=3)
    try:
        chaos.start()
        chaos.run(HARM_S)
        report = chaos.judge()
    finally:
        chaos.stop()
    assert report.updates >= 4
    assert sum(report.harm.values()) >= 10, report.harm
    assert report.started >= 2 * WEB_TASKS


# -- planted ----------------------------------------------------------------------------------


@pytest.fixture
def told() -> Iterator[Sequence[Commit]]:
    """A history of a service ``web`` in cluster ``default``, which is as it should be."""
    yield history(ServiceWorld(0, cluster="default"))


def history(here: ServiceWorld) -> Sequence[Commit]:
    for number in range(3):
        here.add_instance(f"i{number}")
    here.create("web", desired=WEB_TASKS)
    here.run_until(here.steady, 30)
    here.update(definition=here.define())
    here.run_until(here.steady, 60)
    return here.history


def test_a_history_as_it_should_be_passes(told: Sequence[Commit]) -> None:
    check_history(told)


def test_a_task_that_ended_by_itself_is_found() -> None:
    here = ServiceWorld(0, cluster="default")
    history(here)
    here.report(here.running()[0].id, LastStatus.STOPPED)
    with pytest.raises(Broken, match=r"\d healthy tasks of web, the minimum is 6"):
        check_history(here.history)


def test_an_abandoned_task_is_found_as_stopped_by_a_fault() -> None:
    here = ServiceWorld(0, cluster="default")
    here.add_instance("i0")
    here.create("worker", desired=1)
    here.run_until(lambda: here.steady("worker"), 30)
    here.disconnect("i0")
    here.run(60)
    here.connect("i0")
    here.run(60)
    with pytest.raises(Broken, match="was stopped by a fault: Container instance i0 is gone"):
        check_history(here.history)


def test_one_capacity_claimed_twice_is_found(told: Sequence[Commit]) -> None:
    """A history from which the claims of one placement were taken out."""
    spoiled = []
    first = itertools.count()
    for commit in told:
        if commit.label.startswith("service web: start") and next(first) == 0:
            changes = tuple(change for change in commit.changes if b"/capacity/" not in change.key)
            commit = commit._replace(changes=changes)
        spoiled.append(commit)
    with pytest.raises(Broken, match=r"left and .* claimed of"):
        check_history(spoiled)


def test_more_tasks_than_the_maximum_are_found() -> None:
    here = ServiceWorld(0, cluster="default")
    for number in range(3):
        here.add_instance(f"i{number}", cpu=5000, memory=5000)
    here.create("web", desired=2 * WEB_TASKS + 1)
    here.run_until(here.steady, 30)
    with pytest.raises(Broken, match="13 tasks of web, the maximum is 12"):
        check_history(here.history)
