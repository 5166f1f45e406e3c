"""Nodes are killed, paused and brought back under load; the whole recorded history is then judged."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

Chaos = Any  # tests/chaos/conftest.py


@pytest.mark.timeout(240)
def test_three_nodes_under_kills_and_pauses(chaos: Callable[[int], Chaos]) -> None:
    c = chaos(3)
    c.start_client("ann")
    bob = c.start_client("bob")
    c.progress(100)

    leader = c.leader()
    c.kill(leader)
    c.progress()
    c.restart(leader)
    c.progress()

    follower = c.follower()
    c.kill(follower)
    c.progress()
    c.kill_client(bob)
    c.restart(follower)
    c.start_client("cyd")
    c.progress()

    leader = c.leader()
    c.pause(leader)  # it still believes that it leads when it wakes
    c.progress()
    c.resume(leader)
    c.progress()

    follower = c.follower()
    c.pause(follower)
    c.progress()
    c.resume(follower)
    c.progress()

    leader = c.leader()
    c.note(f"SIGTERM to node {leader}: it hands leadership over and ends in order")
    c.cluster.kill_node(leader, signal.SIGTERM)
    assert c.cluster.exit_code(f"node-{leader}") in (0, None)
    c.progress()
    c.restart(leader)
    c.progress()

    report = c.finish()
    assert report.counts["accepted"] > 500
    assert report.counts["rejected"] > 50, "the load had no conflicts: it tests too little"
    assert report.counts["reads"] > 200


@pytest.mark.timeout(240)
def test_five_nodes_lose_two_at_a_time(chaos: Callable[[int], Chaos]) -> None:
    c = chaos(5)
    c.start_client("ann")
    c.start_client("bob", clients=1)
    c.progress()

    leader = c.leader()
    c.kill(leader)
    second = c.leader()
    c.kill(second)
    c.progress()
    c.restart(leader, second)
    c.progress()

    leader, follower = c.leader(), c.follower()
    c.pause(leader)
    c.kill(follower)
    c.progress()
    c.resume(leader)
    c.restart(follower)
    c.progress()
    c.finish()


@pytest.mark.timeout(240)
def test_whole_cluster_is_killed_at_once(chaos: Callable[[int], Chaos]) -> None:
    """As a loss of power would, but for the disks' caches. Nothing acknowledged is lost."""
    c = chaos(3)
    c.start_client("ann", clients=3)
    c.progress(150)
    for _ in range(2):
        c.note("SIGKILL to all nodes")
        c.cluster.kill_all()
        c.restart(1, 2, 3)
        c.progress()
    c.finish()
