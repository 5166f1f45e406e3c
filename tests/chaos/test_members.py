"""The members of real clusters change under load; the whole recorded history is then judged."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from synod.cli.app import run
from synod.local_state import free_ports
from synod.local_view import NodeView
from tests.cli.conftest import Done, synod_alone

Chaos = Any  # tests/chaos/conftest.py

WAIT_S = 30.0


def synod(*arguments: str) -> Done:
    """Run a command in this process: starting one for each takes longer than most of them do."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    said, complained = (stream.detach().getvalue().decode() for stream in (out, err))
    return Done(code, said, complained)


def member(c: Chaos, *arguments: str, alone: bool = False) -> Done:
    """Run ``synod member`` as an operator does; ``alone``: as a process."""
    c.note(f"synod member {' '.join(arguments)}")
    how = synod_alone if alone else synod
    return how("member", *arguments, "--dir", str(c.cluster.folder))


def view(c: Chaos, node: int) -> NodeView:
    [found] = [view for view in c.cluster.status() if view.node == node]
    return found  # type: ignore[no-any-return]


def wait(what: str, holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        time.sleep(0.05)


def says(c: Chaos, node: int, text: str) -> bool:
    """Whether a node's health has ``text`` in it."""
    said = view(c, node).said
    return said is not None and text in said.health


def voters(c: Chaos) -> set[int]:
    leader = view(c, c.leader()).said
    if leader is None:  # it has not answered in time
        return set()
    return {int(each.node) for each in leader.members if each.voter}


@pytest.mark.timeout(240)
def test_growing_to_five_and_shrinking_to_three_under_load_the_leader_included(
    chaos: Callable[[int], Chaos],
) -> None:
    c = chaos(3)
    c.start_client("ann")
    c.start_client("bob")
    c.progress()

    c.note("two nodes join")
    c.cluster.plan_joiner()  # as if a growth had been interrupted: it is taken up again
    assert c.cluster.grow(5) == [4, 5]
    c.progress()
    wait("five vote", lambda: voters(c) == {1, 2, 3, 4, 5})
    c.kill(c.follower())
    c.kill(c.follower())  # five bear the loss of two
    c.progress()
    c.restart(*c.cluster.nodes)
    c.progress()

    leader = c.leader()
    assert member(c, "remove", str(leader)).code == 0
    c.progress()
    assert c.leader() != leader
    assert leader not in c.cluster.nodes and c.cluster.pid(leader) is None
    again = member(c, "remove", str(leader))
    assert (again.code, again.out) == (0, f"node {leader} was removed before\n")

    one = next(node for node in c.cluster.nodes if node <= 3)
    assert member(c, "remove", str(one)).code == 0
    c.progress()
    wait("three vote", lambda: voters(c) == {1, 2, 3, 4, 5} - {leader, one})
    # Three bear the loss of one: not of the last that the clients were told of, for it takes them up to
    # ten seconds to learn of others (tests/client/test_learned_members.py).
    c.kill(next(node for node in c.cluster.nodes if node > 3 and node != c.leader()))
    c.progress()
    c.finish()


@pytest.mark.timeout(240)
def test_a_node_that_lost_its_folder_is_refused_and_replaced(chaos: Callable[[int], Chaos]) -> None:
    c = chaos(3)
    c.start_client("ann")
    c.progress()
    lost, leader = c.follower(), c.leader()
    [third] = {1, 2, 3} - {lost, leader}

    c.kill(lost)
    c.note(f"node {lost} loses its folder, and is started with --create")
    shutil.rmtree(c.cluster.node_folder(lost))
    state = json.loads((c.cluster.folder / "cluster.json").read_text())
    for plan in state["nodes"]:
        plan["created"] = plan["created"] and plan["node"] != lost
    (c.cluster.folder / "cluster.json").write_text(json.dumps(state))
    c.cluster.start_node(lost)
    wait("the node says that it was disowned", lambda: says(c, lost, "takes no part any more"))
    assert says(c, lost, f"`synod member replace {lost} NEW=HOST:PORT`")
    c.progress()
    log = c.cluster.log(f"node-{lost}")
    assert log.read_text().count("event='node.disowned'") == 1
    logs = [c.cluster.log(f"node-{other}") for other in (leader, third)]
    wait("both refuse it", lambda: [log.read_text().count("'peer.disowned'") for log in logs] == [1, 1])

    c.note("its voice does not make a majority, after a restart of it neither")
    c.kill(lost)
    c.kill(third)
    c.cluster.start_node(lost)
    wait("it remembers", lambda: says(c, lost, "takes no part any more"))
    wait("the leader steps down", lambda: says(c, leader, "no leader"))
    c.cluster.start_node(third)
    c.progress()

    [port] = free_ports(1)
    done = member(c, "replace", str(lost), f"4=127.0.0.1:{port}", alone=True)
    assert done.code == 0, done.err
    assert f"node 4 votes in the place of node {lost}" in done.out
    assert voters(c) == {leader, third, 4}
    c.progress()
    again = member(c, "replace", str(lost), f"4=127.0.0.1:{port}")
    assert again.code == 0, again.err
    c.kill(c.follower())
    c.progress()
    c.finish()


@pytest.mark.timeout(240)
def test_a_learner_serves_without_a_vote_and_no_step_loses_the_majority(
    chaos: Callable[[int], Chaos],
) -> None:
    c = chaos(3)
    here = ("--dir", str(c.cluster.folder))
    assert synod("put", "key", "value", *here).code == 0
    [port] = free_ports(1)
    endpoint = f"127.0.0.1:{port}"
    added = member(c, "add", f"4={endpoint}", "--json")
    assert added.code == 0, added.err
    others = ",".join(f"{node}={c.cluster.endpoint(node)}" for node in (1, 2, 3))
    assert added.json["command"] == (
        f"synod node --node 4 --dir {c.cluster.node_folder(4)} --listen {endpoint}"
        f" --cluster {c.cluster.cluster_id} --members {others} --join"
    )
    c.cluster.wait_ready(WAIT_S)
    assert synod("get", "key", "--endpoints", endpoint).out == "value"
    assert synod("tail", "--after", "0", "--limit", "1", "--endpoints", endpoint).code == 0
    listed = member(c, "list", "--json").json["members"]
    assert [(each["node"], each["voter"]) for each in listed] == [(1, True), (2, True), (3, True), (4, False)]
    shown = synod("status", "--json", *here).json["nodes"]
    assert [node["member"] for node in shown] == ["voter", "voter", "voter", "learner"]

    leader = c.leader()
    down, up = {1, 2, 3} - {leader}
    c.kill(down)
    refused = member(c, "remove", str(up))  # at once: who died a moment ago is not counted on
    assert refused.code == 2
    assert "the majority would be lost: of the voters" in refused.err
    c.kill(up)
    wait("the leader steps down", lambda: says(c, leader, "no leader"))
    unserved = synod("put", "key", "two of three voters are down", "--timeout", "2", *here)
    assert unserved.code == 3
    local = synod("get", "key", "--consistency", "local", "--endpoints", endpoint)
    assert local.out == "value"

    c.cluster.start()
    c.cluster.wait_ready(WAIT_S)
    assert member(c, "promote", "4").code == 0
    assert member(c, "promote", "4").out == "node 4 voted already\n"
    assert voters(c) == {1, 2, 3, 4}
    for arguments, code, why in (
        (("add", "4"), 64, "is not NODE=HOST:PORT"),
        (("add", f"9={c.cluster.endpoint(1)}"), 64, "node 1 is at"),
        (("promote", "9"), 64, "node 9 is not a member"),
        (("replace", "9", "10=127.0.0.1:1"), 64, "node 9 is not a member"),
        (("replace", "1", "1=127.0.0.1:1"), 64, "needs a new number"),
    ):
        wrong = member(c, *arguments)
        assert (wrong.code, why in wrong.err) == (code, True), wrong
