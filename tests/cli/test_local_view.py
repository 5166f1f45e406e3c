"""When a cluster counts as ready, and what it is told to lack."""

from __future__ import annotations

from typing import Any

import pytest

from journal.node import NodeMember, NodeStatus
from journal.types import NodeId
from synod.local_state import NodePlan
from synod.local_view import NodeView, ballot_of, view_of, votes_of, what_is_missing
from synod.processes import ProcessRef

REF = ProcessRef(4711, "boot:1")


def said(node: int, **changes: Any) -> NodeStatus:
    facts: dict[str, Any] = {
        "node": node,
        "cluster": "c",
        "endpoint": f"127.0.0.1:{node}",
        "role": "leader" if node == 1 else "follower",
        "leader": 1,
        "ballot": "3.1",
        "revision": 9,
        "applied": 9,
        "chosen": 9,
        "lag": 0,
        "chain": "",
        "compacted": 0,
        "disk_bytes": 1,
        "offers_inflight": 0,
        "tails": 0,
        "leases": 0,
        "uptime_s": 1.0,
        "members": (NodeMember(NodeId(1), "127.0.0.1:1", True),),
        "health": "ok",
    }
    return NodeStatus(**{**facts, **changes})


def view(node: int, **changes: Any) -> NodeView:
    return view_of(NodePlan(node, f"127.0.0.1:{node}"), REF, False, said(node, **changes))


def test_a_node_is_what_its_process_and_its_answer_say() -> None:
    plan = NodePlan(1, "127.0.0.1:1")
    assert view_of(plan, None, False, None).role == "down"
    assert view_of(plan, REF, True, None).role == "paused"
    assert view_of(plan, REF, False, None).why == "does not answer"
    assert view_of(plan, REF, False, "no route").why == "no route"
    assert view_of(plan, REF, False, said(1)).role == "leader"
    assert ballot_of(view(1, ballot="12.3")) == (12, 3)
    assert view(1).as_json()["members"] == [{"node": 1, "endpoint": "127.0.0.1:1", "voter": True}]


def test_a_node_that_rejoined_is_known_by_the_number_that_it_says() -> None:
    members = (NodeMember(NodeId(1), "127.0.0.1:1", True), NodeMember(NodeId(4), "127.0.0.1:2", False))
    plan = NodePlan(2, "127.0.0.1:2")
    answers = [
        view(1, members=members),
        view_of(plan, REF, False, said(4, members=members)),
        view_of(NodePlan(3, "127.0.0.1:3"), REF, False, said(3, members=members)),
    ]
    assert [each.name for each in answers] == ["1", "2 as 4", "3"]
    assert votes_of(answers) == {"127.0.0.1:1": "voter", "127.0.0.1:2": "learner"}
    down = view_of(plan, None, False, None)
    assert votes_of([answers[0], down]) == votes_of(answers), "who is down is known by its place"
    old = view_of(plan, REF, False, said(2, members=members))
    assert votes_of([answers[0], old]) == {"127.0.0.1:1": "voter"}, "it has its old folder: it is no member"


@pytest.mark.parametrize(
    ("views", "missing"),
    [
        ([view(1), view(2), view(3)], ""),
        ([view(1), view(2, lag=3)], ""),
        ([view(1), view_of(NodePlan(2, "a:1"), None, False, None)], ""),
        ([view(1), view_of(NodePlan(2, "a:1"), REF, True, None)], ""),
        ([view_of(NodePlan(2, "a:1"), None, False, None)], "no node runs"),
        ([view(1), view_of(NodePlan(2, "a:1"), REF, False, "why")], "node 2 does not answer yet (why)"),
        ([view(1, leader=None), view(2, leader=None)], "the nodes have not elected a leader yet"),
        ([view(1), view(2, leader=2)], "the nodes have not elected a leader yet"),
        ([view(1), view(2, lag=5000)], "node 2 is 5000 slots behind"),
    ],
)
def test_ready_or_what_is_missing(views: list[NodeView], missing: str) -> None:
    assert what_is_missing(views) == missing
