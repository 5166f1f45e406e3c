"""How the nodes of a local cluster look from outside: their processes, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from synod.local_state import NodePlan
from synod.processes import ProcessRef

if TYPE_CHECKING:
    from journal.node import NodeStatus


READY_LAG_SLOTS_MAX = 100
"""Under load every follower is a little behind, and is ready all the same."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as ``status`` sees it: its process, and what it says of itself."""

    node: int
    endpoint: str
    pid: int | None
    role: str
    """``leader``, ``follower``, ``candidate``, or ``down``, ``paused``, ``unreachable``."""
    said: NodeStatus | None
    why: str
    """Why it says nothing; empty where it does."""
    http: str = ""
    """Where it serves its metrics, if that is known."""
    direct: str = ""
    """Where its direct port is, if that is known."""

    @property
    def name(self) -> str:
        """Return its place in the plan, and its number in the cluster where that is another: it rejoined."""
        if self.said and self.node not in (0, self.said.node):
            return f"{self.node} as {self.said.node}"
        return str(self.node or "?")

    def as_json(self) -> dict[str, Any]:
        """Return the node for ``synod status --json``."""
        view: dict[str, Any] = {
            "node": self.node,
            "endpoint": self.endpoint,
            "role": self.role,
            "pid": self.pid,
            "http": self.http or None,
            "direct": self.direct or None,
            "health": self.why or (self.said.health if self.said else "unknown"),
        }
        if self.said:
            said = asdict(self.said) | {"number": self.said.node}
            said["members"] = [member._asdict() for member in self.said.members]
            view = {**said, **view}
        return view


def view_of(
    plan: NodePlan, ref: ProcessRef | None, paused: bool, answer: NodeStatus | str | None
) -> NodeView:
    """Return a node as it is seen; ``answer``: its status, why it gave none, or None if it was not asked."""
    ports = plan.http, plan.direct
    if ref is None:
        return NodeView(plan.node, plan.endpoint, None, "down", None, "not running", *ports)
    if paused:
        why = "stopped by a signal (SIGSTOP)"
        return NodeView(plan.node, plan.endpoint, ref.pid, "paused", None, why, *ports)
    if answer is None or isinstance(answer, str):
        why = answer or "does not answer"
        return NodeView(plan.node, plan.endpoint, ref.pid, "unreachable", None, why, *ports)
    return NodeView(plan.node, plan.endpoint, ref.pid, answer.role, answer, "", *ports)


def votes_of(views: Sequence[NodeView]) -> dict[str, str]:
    """Return which views, by their endpoint, are of a ``voter``, which of a ``learner``, by the word of the
    leader; without one, by that of the node at the highest ballot. A node on its own may be of the past.

    A node that answers is the number that it says: one that rejoined has another than its place has.
    """
    said = [view for view in views if view.said]
    if not said:
        return {}
    leaders = [view for view in said if view.role == "leader"]
    best = max(leaders or said, key=ballot_of).said
    assert best is not None
    numbers = {member.node: "voter" if member.voter else "learner" for member in best.members}
    places = {member.endpoint: numbers[member.node] for member in best.members}
    votes = {
        view.endpoint: numbers.get(view.said.node) if view.said else places.get(view.endpoint)
        for view in views
    }
    return {endpoint: vote for endpoint, vote in votes.items() if vote is not None}


def ballot_of(view: NodeView) -> tuple[int, int]:
    """Return (round, node) of the ballot that a node which answered stands at."""
    assert view.said is not None
    ballot_round, _, node = view.said.ballot.partition(".")
    return int(ballot_round), int(node or 0)


def what_is_missing(views: Sequence[NodeView]) -> str:
    """Say what a ready cluster still lacks; empty where it lacks nothing."""
    running = [view for view in views if view.role not in ("down", "paused")]
    if not running:
        return "no node runs"
    for view in running:
        if view.said is None:
            return f"node {view.node} does not answer yet ({view.why})"
    leaders = {view.said.leader for view in running if view.said}
    if len(leaders) != 1 or leaders == {None}:
        return "the nodes have not elected a leader yet"
    for view in running:
        if view.said and view.said.lag > READY_LAG_SLOTS_MAX:
            return f"node {view.node} is {view.said.lag} slots behind"
    return ""
