"""Real nodes lose their folders and come back by themselves, under load that is recorded and judged."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from journal.client import ClientConfig
from journal.errors import Unavailable
from journal.storage.identity import open_folder
from journal.storage.leveldb import LevelDBStorage
from journal.storage.records import PROMISED, PROMISED_AGAIN
from journal.sync import connect
from journal.types import NodeId
from synod.local import LocalCluster
from synod.local_state import ADD, NodePlan, State, start_words
from tests.chaos.conftest import Chaos
from tests.chaos.test_members import synod as command
from tests.chaos.test_members import voters, wait
from tests.cli.conftest import FAST, Synod

PATIENT = ClientConfig(timeout_s=40.0)
VOTES_UNDER_ITS_OLD_NUMBER = """
import sys
from dataclasses import replace
from journal.identities import Identities
from journal.rpc import program
Identities.admit = lambda self, peer, incarnation, members, newest, reply: reply(peer)
async def rejoin(options, reason, log):
    create = replace(options, create=True, rejoin="")
    (await program._open(create)).close()
    return True
program._rejoin = rejoin
from synod.cli.app import run
sys.exit(run(sys.argv[1:]))
"""
"""Two bugs: a node makes its folder anew under its old number, and its peers do not look at incarnations."""


class Rejoining(LocalCluster):
    """Nodes of another program."""

    program: Sequence[str] = ("-m", "synod")

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        return [sys.executable, "-P", *self.program, *command]


@pytest.fixture
def rejoining(tmp_path: Path) -> Iterator[Callable[..., Chaos]]:
    made: list[Chaos] = []

    def start(way: str = "voter", program: Sequence[str] = ("-m", "synod")) -> Chaos:
        cluster = Rejoining.create(tmp_path / "cluster", nodes=3, node_args=FAST, rejoin=way)
        cluster.program = program
        made.append(Chaos(tmp_path, 3, cluster))
        return made[-1]

    yield start
    for one in made:
        one.clean_up()


def lose_folder(c: Any, node: int) -> None:
    c.kill(node)
    c.note(f"node {node} loses its folder, and is started as ever")
    shutil.rmtree(c.cluster.node_folder(node))
    c.cluster.start_node(node)


def log(c: Any, node: int) -> str:
    text: str = c.cluster.log(f"node-{node}").read_text()
    return text


def test_a_node_that_lost_its_folder_votes_again_under_a_new_number(
    rejoining: Callable[..., Chaos],
) -> None:
    c = rejoining()
    c.start_client("ann")
    c.progress()
    lost = c.follower()
    [third] = {1, 2, 3} - {lost, c.leader()}
    lose_folder(c, lost)
    wait("it votes again", lambda: voters(c) == {1, 2, 3, 4} - {lost})
    c.kill(third)
    c.progress()  # which needs its vote
    c.restart(third)
    c.kill(lost)
    c.restart(lost)  # the same command, and its new folder
    assert voters(c) == {1, 2, 3, 4} - {lost}
    lose_folder(c, lost)
    wait("it votes once more", lambda: voters(c) == {1, 2, 3, 5} - {lost})
    c.progress()
    c.finish()
    assert "Traceback" not in log(c, lost)


def test_damaged_or_disowned_it_comes_back_as_a_learner_and_keeps_the_old_files(
    rejoining: Callable[..., Chaos],
) -> None:
    c = rejoining("learner")
    here = ("--dir", str(c.cluster.folder))
    assert command("put", "key", "value", *here).code == 0
    lost = c.follower()
    folder = c.cluster.node_folder(lost)

    c.kill(lost)
    storage = LevelDBStorage(folder, create=False)
    storage.write_now([(PROMISED, b"damaged"), (PROMISED_AGAIN, b"damaged")], sync=True)
    storage.close()
    c.cluster.start_node(lost)
    wait("it is a learner", lambda: learners(c) == {4})
    c.cluster.wait_ready(30.0)
    assert voters(c) == {1, 2, 3} - {lost}
    assert (folder / "lost" / "CURRENT").exists()
    assert "is damaged" in log(c, lost)
    endpoint = c.cluster.endpoint(lost)
    assert command("get", "key", "--consistency", "local", "--endpoints", endpoint).out == "value"
    assert command("member", "promote", "4", *here).code == 0

    c.kill(lost)
    (folder / "CURRENT").write_text("MANIFEST-999999\n")
    c.cluster.start_node(lost)
    wait("it is a learner again", lambda: learners(c) == {5})
    c.cluster.wait_ready(30.0)

    c.kill(lost)  # a folder of its number, which its peers have not met: they tell it what it lost
    shutil.rmtree(folder)
    trio.run(other_folder, folder, c.cluster.cluster_id, lost)
    c.cluster.start_node(lost)
    wait("it is one once more", lambda: learners(c) == {6})
    assert "comes with another incarnation" in log(c, lost)

    c.cluster.wait_ready(30.0)
    c.kill(lost)  # LevelDB would take a log that is gone for one that never was
    for file in folder.glob("*.log"):
        file.unlink()
    c.cluster.start_node(lost)
    wait("it is one a last time", lambda: learners(c) == {7})
    assert "the log was cut short" in log(c, lost)
    assert "Traceback" not in log(c, lost)


def learners(c: Any) -> set[int]:
    said = next(view for view in c.cluster.status() if view.node == c.leader()).said
    return {int(each.node) for each in said.members if not each.voter}


async def other_folder(folder: Path, cluster: str, place: int) -> None:
    new = {"node": NodeId(5), "joins": True, "stands_for": NodeId(place)}
    (await open_folder(folder, cluster=cluster, create=True, **new)).close()  # type: ignore[arg-type]


@pytest.mark.parametrize("program", [("-m", "synod"), ("-c", VOTES_UNDER_ITS_OLD_NUMBER)])
def test_it_waits_where_its_old_vote_would_decide(
    rejoining: Callable[..., Chaos], program: Sequence[str]
) -> None:
    """An offer is acknowledged by nodes 2 and 3. Then 2 is down and 3 empty: 1 knows nothing of it."""
    c = rejoining(program=program)
    cluster = c.cluster
    with connect(cluster.endpoints, config=PATIENT) as journal:
        journal.put(b"before", b"1")
        c.kill(1)
        journal.put(b"acknowledged", b"1")
    c.kill(2)
    c.kill(3)
    shutil.rmtree(cluster.node_folder(3))
    cluster.start_node(1)
    cluster.start_node(3)
    hasty = ClientConfig(timeout_s=2.0)
    with connect([cluster.endpoint(1), cluster.endpoint(3)], config=hasty) as journal:
        if program[0] == "-c":
            wait("they lead without node 2", lambda: cluster.leader() is not None)
            assert journal.get(b"acknowledged") is None, "the planted bugs did no harm"
            return
        wait("it waits", lambda: "node.rejoin_waits" in log(c, 3))
        with pytest.raises(Unavailable):
            journal.get(b"acknowledged")
    cluster.start_node(2)
    wait("all vote again", lambda: cluster.leader() is not None and voters(c) == {1, 2, 4})
    with connect(cluster.endpoints, config=PATIENT) as journal:
        assert journal.get(b"acknowledged") is not None


def test_who_was_removed_stays_away_and_says_why(rejoining: Callable[..., Chaos]) -> None:
    c = rejoining()
    lost = c.follower()
    c.kill(lost)
    assert command("member", "remove", str(lost), "--endpoints", ",".join(c.cluster.endpoints)).code == 0
    shutil.rmtree(c.cluster.node_folder(lost))
    c.cluster.start_node(lost)
    wait("it ends", lambda: c.cluster.exit_code(f"node-{lost}") is not None)
    assert c.cluster.exit_code(f"node-{lost}") == 1
    assert "is no member of the cluster any more" in log(c, lost)
    assert not (c.cluster.node_folder(lost) / "CURRENT").exists()


def test_up_brings_back_a_node_that_lost_its_folder_if_it_was_told_to(synod: Synod, tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path / "cluster"))
    cluster = LocalCluster.create(tmp_path / "cluster", nodes=3, node_args=FAST)
    try:
        assert synod("up", "--detach", *where).code == 0
        lost = cluster.leader() or 1
        cluster.kill_node(lost)
        shutil.rmtree(cluster.node_folder(lost))
        up = synod("up", "--detach", "--rejoin", "voter", *where)
        assert up.code == 0, up.err
        assert synod("put", "key", "value", *where).code == 0

        def shown() -> dict[int, tuple[int, str]]:
            nodes = synod("status", "--json", *where).json["nodes"]
            return {node["node"]: (node["number"], node["member"]) for node in nodes}

        others = {node: (node, "voter") for node in {1, 2, 3} - {lost}}
        wait("it votes again", lambda: shown() == {**others, lost: (4, "voter")})
        assert f"{lost} as 4" in synod("status", *where).out
        cluster.kill_node(lost)
        nodes = synod("status", "--json", *where).json["nodes"]
        assert {node["member"] for node in nodes} == {"voter"}, "who is down is known by its place"
        again = synod("up", "--detach", "--nodes", "4", *where)
        assert again.code == 0, again.err
        assert shown() == {**others, lost: (4, "voter"), 5: (5, "voter")}, "its number is taken"
    finally:
        cluster.stop()


def test_a_node_that_is_alone_is_started_as_ever(tmp_path: Path) -> None:
    """Nobody could let it in again: it would be refused as a mistake."""
    plan = NodePlan(1, "h:1", created=True)
    state = State("c", [plan], [], [], [], rejoin="voter")
    assert start_words(state, plan) == []
    state.nodes.append(NodePlan(2, "h:2", joins=True, todo=ADD))
    assert start_words(state, plan) == [], "one that is planned is nobody yet"
    state.nodes[1].todo = ""
    assert start_words(state, plan) == ["--members", "1=h:1,2=h:2", "--rejoin", "voter"]
    assert start_words(state, NodePlan(2, "h:2", joins=True)) == ["--members", "1=h:1,2=h:2", "--join"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--members", "1=h:1,2=h:2", "--create"), "--rejoin is for later starts"),
        (("--members", "2=h:2", "--join"), "--rejoin is for later starts"),
        ((), "--rejoin needs --members"),
        (("--members", "1=h:1"), "--rejoin needs --members"),
    ],
)
def test_settings_that_make_no_sense_are_refused(more: tuple[str, ...], why: str, tmp_path: Path) -> None:
    here = ("--node", "1", "--dir", str(tmp_path / "d"), "--listen", "h:1", "--cluster", "c")
    done = command("node", *here, "--rejoin", "voter", *more)
    assert done.code == 64
    assert why in done.err
