"""The diagnosis by cases, and the command against real nodes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from journal.status import NodeMember, NodeStatus, PeerStatus
from journal.types import NodeId, Revision, Slot
from synod.cli.quorum import _cell
from synod.local import LocalCluster
from synod.quorum import Asked, Diagnosis, Reach, diagnose
from tests.cli.conftest import Synod

RTT_S = 0.001


class World:
    """What the nodes of a cluster would say, with some of them or of their links down."""

    def __init__(self, voters: int = 3, learners: int = 0) -> None:
        self.nodes = [NodeId(n) for n in range(1, voters + learners + 1)]
        self.members = tuple(NodeMember(n, f"h:{n}", n <= voters) for n in self.nodes)
        self.leader: dict[int, int | None] = {}
        self.ballots: dict[int, str] = {}
        self.roles: dict[int, str] = {}
        self.health: dict[int, str] = {}
        self.why: dict[tuple[int, int], str] = {}
        self.lost: dict[int, str] = {}
        """Who does not run: its state."""
        self.unheard: set[int] = set()
        """Who runs, and does not answer here."""
        self.cut: set[tuple[int, int]] = set()
        self.cluster: dict[int, str] = {}

    def led_by(self, leader: int | None) -> World:
        self.leader = dict.fromkeys(self.nodes, leader)
        return self

    def down(self, *nodes: int, state: str = "down") -> World:
        self.lost |= dict.fromkeys(nodes, state)
        return self

    def split(self, *sides: tuple[int, ...]) -> World:
        side_of = {node: side for side in sides for node in side}
        self.cut |= {(a, b) for a in self.nodes for b in self.nodes if side_of[a] is not side_of[b]}
        return self

    def arrives(self, a: int, b: int) -> bool:
        return not {a, b} & set(self.lost) and (a, b) not in self.cut

    def status(self, node: NodeId) -> NodeStatus:
        peers = tuple(
            PeerStatus(
                other,
                connected=self.arrives(node, other),
                heard_ago_s=0.5 if self.arrives(other, node) else 60.0,
                round_trip_s=RTT_S if self.arrives(node, other) and self.arrives(other, node) else None,
                chosen=Slot(9),
                lag=0,
                why=self.why.get((node, other), ""),
            )
            for other in self.nodes
            if other != node
        )
        leader = self.leader.get(node)
        return NodeStatus(
            node=node,
            cluster=self.cluster.get(node, "c"),
            endpoint=f"h:{node}",
            role=self.roles.get(node, "leader" if leader == node else "follower"),
            leader=NodeId(leader) if leader else None,
            ballot=self.ballots.get(node, f"3.{leader or 1}"),
            revision=Revision(9),
            applied=Slot(9),
            chosen=Slot(9),
            lag=0,
            chain="",
            compacted=Revision(0),
            disk_bytes=0,
            offers_inflight=0,
            tails=0,
            leases=0,
            uptime_s=99.0,
            members=self.members,
            health=self.health.get(node, "ok"),
            peers=peers,
        )

    def asked(self) -> list[Asked]:
        found = []
        for node in self.nodes:
            if node in self.lost or node in self.unheard:
                state = self.lost.get(node, "silent")
                found.append(Asked(f"h:{node}", None, node, state, "no answer"))
            else:
                found.append(Asked(f"h:{node}", self.status(node), node))
        return found

    def diagnosis(self) -> Diagnosis:
        return diagnose(self.asked())


def election(world: World) -> World:
    world.roles[2] = "candidate"
    return world


def disagreeing() -> World:
    """Node 1 led, was cut off, and has not noticed; the others have elected node 2."""
    world = World().split((1,), (2, 3))
    world.leader = {1: 1, 2: 2, 3: 2}
    world.ballots = {1: "3.1", 2: "4.2", 3: "4.2"}
    return world


def in_name_only() -> World:
    world = World().split((1,), (2, 3))
    world.leader = {1: 1}
    return world


def chain() -> World:
    """1 - 2 - 3: the ends do not reach each other."""
    world = World().led_by(2)
    world.cut = {(1, 3), (3, 1)}
    return world


def one_way() -> World:
    world = World().led_by(1)
    world.cut = {(3, 1)}
    return world


def silent_leader() -> World:
    world = World().led_by(1)
    world.unheard = {1}
    return world


CASES: list[tuple[World, int | None, str, list[str]]] = [
    (World().led_by(1), 1, "nodes 1, 2 and 3 reach each other: node 1 leads", []),
    (
        World().led_by(1).split((1, 2), (3,)),
        1,
        "nodes 1 and 2 reach each other and node 3 reaches nobody: node 1 leads",
        [],
    ),
    (World().led_by(1).down(3), 1, "nodes 1 and 2 reach each other and node 3 is down: node 1 leads", []),
    (
        World().led_by(1).down(3, state="paused"),
        1,
        "nodes 1 and 2 reach each other and node 3 is paused: node 1 leads",
        [],
    ),
    (
        World().led_by(1).down(3, state="silent"),
        1,
        "nodes 1 and 2 reach each other and node 3 does not answer: node 1 leads",
        [],
    ),
    (World().down(2, 3), None, "nodes 2 and 3 are down: 1 of 3 voters is up, 2 are needed", []),
    (
        World(5).down(3, 4, 5),
        None,
        "nodes 1 and 2 reach each other and nodes 3, 4 and 5 are down: 2 of 5 voters are up, 3 are needed",
        [],
    ),
    (
        World(5).split((1, 2), (3, 4), (5,)),
        None,
        "nodes 1 and 2 reach each other, nodes 3 and 4 reach each other and node 5 reaches nobody:"
        " no node reaches 3 of the 5 voters, which a leader needs",
        [],
    ),
    (
        World().split((1,), (2,), (3,)),
        None,
        "node 1 reaches nobody, node 2 reaches nobody and node 3 reaches nobody:"
        " no node reaches 2 of the 3 voters, which a leader needs",
        [],
    ),
    (election(World()), None, "nodes 1, 2 and 3 reach each other: an election is under way", []),
    (
        World(),
        None,
        "nodes 1, 2 and 3 reach each other: there is no leader yet,"
        " an election takes one to two election timeouts",
        [],
    ),
    (
        disagreeing(),
        2,
        "nodes 2 and 3 reach each other and node 1 reaches nobody: node 2 leads",
        [
            "node 1 leads in name only: a higher ballot is out, and it has not heard of it",
            "node 1 still believes that node 1 leads",
        ],
    ),
    (
        in_name_only(),
        None,
        "nodes 2 and 3 reach each other and node 1 reaches nobody:"
        " node 1 still leads in name, and the others are about to elect another",
        [],
    ),
    (chain(), 2, "nodes 1, 2 and 3 reach each other (but not 1 and 3): node 2 leads", []),
    (
        one_way(),
        1,
        "nodes 1, 2 and 3 reach each other (but not 1 and 3): node 1 leads",
        ["the link is down one way: node 3 hears node 1, but node 1 does not hear 3"],
    ),
    (
        silent_leader(),
        1,
        "nodes 1, 2 and 3 reach each other: node 1 leads, as nodes 2 and 3 say",
        ["node 1 does not answer here, but nodes 2 and 3 hear it"],
    ),
    (
        World(3, learners=1).led_by(1).down(3, 4),
        1,
        "nodes 1 and 2 reach each other and nodes 3 and 4 are down: node 1 leads",
        [],
    ),
    (
        World(3, learners=2).down(2, 3),
        None,
        "nodes 1, 4 and 5 reach each other and nodes 2 and 3 are down: 1 of 3 voters is up, 2 are needed",
        [],
    ),
    (World(1).led_by(1), 1, "node 1 is alone: node 1 leads", []),
    (World().down(1, 2, 3), None, "no node answers: nodes 1, 2 and 3 are down", []),
]


@pytest.mark.parametrize(
    ("world", "leader", "sentence", "details"), CASES, ids=[case[2][:70] for case in CASES]
)
def test_diagnosis(world: World, leader: int | None, sentence: str, details: list[str]) -> None:
    found = world.diagnosis()
    assert found.sentence == sentence
    assert found.leader == leader
    assert list(found.details) == details


def test_who_has_just_died_is_not_alive_because_it_was_heard_a_second_ago() -> None:
    for state, words in (("down", "is down"), ("silent", "does not answer")):
        world = World().led_by(1).down(3, state=state)
        asked = [
            replace(
                one, said=replace(one.said, peers=tuple(replace(p, heard_ago_s=0.5) for p in one.said.peers))
            )
            if one.said
            else one
            for one in world.asked()
        ]
        assert diagnose(asked).sentence == f"nodes 1 and 2 reach each other and node 3 {words}: node 1 leads"


def test_it_says_what_else_is_wrong() -> None:
    world = World().led_by(1)
    world.health[2] = "disk nearly full: 3 MiB free, alarm below 512 MiB"
    world.why[3, 1] = "cluster here is c"
    world.cluster[3] = "other"
    stranger = Asked("h:9", None, why="no answer within 2 s")
    found = diagnose([*world.asked(), stranger])
    assert list(found.details) == [
        "these nodes are of different clusters: c, other",
        "h:9 does not answer (no answer within 2 s)",
        "node 3 has no stream to node 1: cluster here is c",
        "node 2: disk nearly full: 3 MiB free, alarm below 512 MiB",
    ]
    assert found.cluster is None


def test_nobody_is_known_and_nobody_answers() -> None:
    found = diagnose([Asked("h:1", None, why="connection refused")])
    assert found.sentence == "no node answers"
    assert list(found.details) == ["h:1 does not answer (connection refused)"]


def test_the_matrix_is_judged_by_who_hears() -> None:
    world = World().led_by(1).down(3)
    world.cut = {(1, 2)}
    matrix = world.diagnosis().matrix
    assert matrix[NodeId(1), NodeId(2)].ok is False
    assert matrix[NodeId(2), NodeId(1)].ok is True
    assert matrix[NodeId(1), NodeId(3)].ok is False, "nobody answers its pings"
    both = World().down(2, 3).diagnosis().matrix
    assert both[NodeId(2), NodeId(3)].ok is None, "neither can be asked"
    cells = [
        _cell(reach) for reach in (None, Reach(None), Reach(False), Reach(True), Reach(True, 0.1, RTT_S))
    ]
    assert cells == ["·", "?", "no", "yes", "1.0 ms"]


def test_json_has_all_of_it() -> None:
    world = World(3, learners=1).led_by(1).down(3)
    asked = world.asked()
    found = diagnose(asked).as_json(asked)
    assert (found["leader"], found["voters"], found["needed"], found["up"]) == (1, 3, 2, [1, 2])
    assert [node["role"] for node in found["nodes"]] == ["leader", "follower", "down", "follower"]
    assert len(found["links"]) == 12
    (link,) = [link for link in found["links"] if (link["from"], link["to"]) == (1, 2)]
    assert link == {
        "from": 1,
        "to": 2,
        "reaches": True,
        "heard_ago_s": 0.5,
        "round_trip_s": RTT_S,
        "why": "",
    }


# -- real nodes ---------------------------------------------------------------------------


def test_the_command_asks_all_nodes_though_one_was_named(synod: Synod, here: LocalCluster) -> None:
    done = synod("quorum", "--endpoints", here.endpoints[1], "--json")
    assert done.code == 0
    assert done.json["diagnosis"] == f"nodes 1, 2 and 3 reach each other: node {done.json['leader']} leads"
    assert all(link["reaches"] for link in done.json["links"])
    assert done.json["up"] == [1, 2, 3]


def test_the_table_for_people(synod: Synod, here: LocalCluster) -> None:
    done = synod("quorum")
    assert done.code == 0
    assert "to 1" in done.out and "leader" in done.out
    assert "nodes 1, 2 and 3 reach each other: node" in done.out


def test_a_node_that_is_killed_is_named(synod: Synod, here: LocalCluster) -> None:
    victim = next(view.node for view in here.status() if view.role == "follower")
    here.kill_node(victim)
    try:
        done = synod("quorum")
        assert done.code == 0
        assert f"and node {victim} is down: node" in done.out
    finally:
        here.start_node(victim)
        here.wait_ready(30)
