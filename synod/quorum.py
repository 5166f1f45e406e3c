"""Who can reach whom, and why there is or is no leader: what ``synod quorum`` says. PURE.

What the nodes say of themselves and of each other goes in (``Asked``), a matrix and words come
out. A link has two directions, and each is judged by who would know: that 1 reaches 2 is known
to 2, which hears it; only where 2 does not answer, 1 is asked whether its pings come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from journal.status import NodeMember, NodeStatus, PeerStatus
from journal.types import NodeId

SILENT_S = 3.0
"""Peers ping each other every second: who was not heard for three has a link that is down."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A node that was asked how it is."""

    endpoint: str
    said: NodeStatus | None
    node: NodeId | None = None
    """Its number, if that is known without its answer."""
    state: str = "silent"
    """Where it gave no answer: ``down``, ``paused`` or ``silent``, as far as one can tell."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether what one node says arrives at another. ``ok`` None: nobody can tell."""

    ok: bool | None
    heard_ago_s: float | None = None
    """By the one that it should arrive at."""
    round_trip_s: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is to be said of a cluster."""

    cluster: str | None
    leader: NodeId | None
    """Who leads, with a majority behind it."""
    members: tuple[NodeMember, ...]
    needed: int
    """How many voters a leader must reach, itself included."""
    up: tuple[NodeId, ...]
    """The voters that are alive, as far as anybody can tell."""
    matrix: Mapping[tuple[NodeId, NodeId], Reach]
    sentence: str
    details: tuple[str, ...] = field(default=())
    """What else a person should know, a sentence each."""

    def as_json(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """Return all of it for ``synod quorum --json``."""
        said = {one.said.node: one.said for one in asked if one.said}
        silent = {one.node: one for one in asked if one.said is None}
        nodes = []
        for member in self.members:
            status, view = said.get(member.node), member._asdict()
            if status:
                view |= {
                    name: getattr(status, name) for name in ("role", "ballot", "leader", "lag", "health")
                }
            else:
                one = silent.get(member.node)
                view |= {
                    "role": one.state if one else "silent",
                    "health": (one.why if one else "") or "no answer",
                }
            nodes.append(view)
        return {
            "cluster": self.cluster,
            "leader": self.leader,
            "voters": sum(member.voter for member in self.members),
            "needed": self.needed,
            "up": list(self.up),
            "nodes": nodes,
            "links": [
                {
                    "from": a,
                    "to": b,
                    "reaches": reach.ok,
                    "heard_ago_s": reach.heard_ago_s,
                    "round_trip_s": reach.round_trip_s,
                    "why": reach.why,
                }
                for (a, b), reach in sorted(self.matrix.items())
            ],
            "diagnosis": self.sentence,
            "details": list(self.details),
        }


def diagnose(asked: Sequence[Asked]) -> Diagnosis:
    """Say who can reach whom, and why there is or is no leader."""
    return _Case(asked).diagnosis()


class _Case:
    """One look at a cluster."""

    def __init__(self, asked: Sequence[Asked]) -> None:
        self.said = {one.said.node: one.said for one in asked if one.said is not None}
        self.silent = {one.node: one for one in asked if one.said is None and one.node is not None}
        self.strangers = [one for one in asked if one.said is None and one.node is None]
        self.clusters = sorted({status.cluster for status in self.said.values()})
        # The one that has learned most knows the members best.
        best = max(self.said.values(), key=lambda status: (status.chosen, -status.node), default=None)
        if best is not None:
            self.members = tuple(sorted(best.members))
        else:
            self.members = tuple(
                NodeMember(node, one.endpoint, True) for node, one in sorted(self.silent.items())
            )
        self.nodes = [member.node for member in self.members]
        self.voters = [member.node for member in self.members if member.voter]
        self.needed = len(self.voters) // 2 + 1
        self.matrix = {(a, b): self._reach(a, b) for a in self.nodes for b in self.nodes if a != b}
        self.alive = [node for node in self.nodes if node in self.said or self._is_heard(node)]

    # -- links ---------------------------------------------------------------------------

    def _peer(self, of: NodeId, peer: NodeId) -> PeerStatus | None:
        status = self.said.get(of)
        return next((p for p in status.peers if p.node == peer), None) if status else None

    def _reach(self, a: NodeId, b: NodeId) -> Reach:
        """Judge by who hears, else by who speaks."""
        there, here = self._peer(a, b), self._peer(b, a)
        round_trip = there.round_trip_s if there else None
        why = there.why if there else ""
        if here is None and there is None:
            return Reach(None)
        if self._is_dead(a) or self._is_dead(b):
            return Reach(False, here.heard_ago_s if here else None, None, why)
        if here is not None:
            # Who answers nobody here is taken for alive only where its stream stands still.
            heard = here.heard_ago_s is not None and here.heard_ago_s <= SILENT_S
            return Reach(heard and (a in self.said or here.connected), here.heard_ago_s, round_trip, why)
        assert there is not None
        return Reach(there.connected and round_trip is not None, None, round_trip, why)

    def _is_dead(self, node: NodeId) -> bool:
        """Whether its process is known not to run."""
        return node in self.silent and self.silent[node].state in ("down", "paused")

    def _is_heard(self, node: NodeId) -> bool:
        return any(self.matrix[node, other].ok for other in self.nodes if other != node)

    def _linked(self, a: NodeId, b: NodeId) -> bool:
        return bool(self.matrix[a, b].ok and self.matrix[b, a].ok)

    def _reached(self, node: NodeId) -> list[NodeId]:
        """The voters that ``node`` has links to, itself included."""
        return [other for other in self.voters if other == node or self._linked(node, other)]

    def _groups(self) -> list[list[NodeId]]:
        """The nodes that are alive, in groups that are linked with one another, if only through others."""
        groups: list[list[NodeId]] = []
        left = list(self.alive)
        while left:
            group, edge = [], [left.pop(0)]
            while edge:
                node = edge.pop(0)
                group.append(node)
                near = [other for other in left if self._linked(node, other)]
                left = [other for other in left if other not in near]
                edge += near
            groups.append(sorted(group))
        return sorted(groups, key=lambda group: (-len(group), group))

    # -- words -----------------------------------------------------------------------------

    def diagnosis(self) -> Diagnosis:
        leader, verdict = self._leader()
        facts = [fact for group in self._groups() if (fact := self._of_group(group))]
        facts += self._of_silent()
        if not self.said:
            sentence = "no node answers" + (f": {_and(facts)}" if facts else "")
        else:
            sentence = f"{_and(facts)}: {verdict}"
        return Diagnosis(
            cluster=self.clusters[0] if len(self.clusters) == 1 else None,
            leader=leader,
            members=self.members,
            needed=self.needed,
            up=tuple(node for node in self.voters if node in self.alive),
            matrix=self.matrix,
            sentence=sentence,
            details=tuple(self._details(leader)),
        )

    def _of_group(self, group: list[NodeId]) -> str:
        if len(group) == 1:
            if len(self.nodes) == 1:
                return f"node {group[0]} is alone"
            if self.alive == group and self.nodes != group:
                return ""  # all the others are down, which is said
            return f"node {group[0]} reaches nobody"
        apart = [
            f"{a} and {b}" for n, a in enumerate(group) for b in group[n + 1 :] if not self._linked(a, b)
        ]
        but = f" (but not {_and(apart)})" if apart else ""
        return f"{_nodes(group)} reach each other{but}"

    def _of_silent(self) -> list[str]:
        facts = []
        words = {"down": "down", "paused": "paused"}
        by_state: dict[str, list[NodeId]] = {}
        for node in self.nodes:
            if node not in self.alive:
                state = self.silent[node].state if node in self.silent else "silent"
                by_state.setdefault(words.get(state, "silent"), []).append(node)
        for state, nodes in sorted(by_state.items()):
            if state == "silent":
                facts.append(f"{_nodes(nodes)} {'does' if len(nodes) == 1 else 'do'} not answer")
            else:
                facts.append(f"{_nodes(nodes)} {'is' if len(nodes) == 1 else 'are'} {state}")
        return facts

    def _leader(self) -> tuple[NodeId | None, str]:
        """Return who leads, and the words for it or for why nobody does."""
        claims = [status.node for status in self.said.values() if status.role == "leader"]
        claims.sort(key=lambda node: _ballot(self.said[node]), reverse=True)
        for node in claims:
            if len(self._reached(node)) >= self.needed:
                return node, f"node {node} leads"
        told = [status.leader for status in self.said.values() if status.leader is not None]
        for node in sorted(set(told) - set(claims)):
            if node in self.alive and node not in self.said and told.count(node) + 1 >= self.needed:
                by = [status.node for status in self.said.values() if status.leader == node]
                return node, f"node {node} leads, as {_nodes(by)} say{'s' if len(by) == 1 else ''}"
        return None, self._why_none(claims)

    def _why_none(self, claims: Sequence[NodeId]) -> str:
        up = [node for node in self.voters if node in self.alive]
        total, needed = len(self.voters), self.needed
        if len(up) < needed:
            are = "is" if len(up) == 1 else "are"
            return f"{len(up)} of {total} voters {are} up, {needed} are needed"
        if all(len(self._reached(node)) < needed for node in up):
            return f"no node reaches {needed} of the {total} voters, which a leader needs"
        if claims:
            return f"node {claims[0]} still leads in name, and the others are about to elect another"
        if any(self.said[node].role == "candidate" for node in up if node in self.said):
            return "an election is under way"
        return "there is no leader yet, an election takes one to two election timeouts"

    def _details(self, leader: NodeId | None) -> Iterable[str]:
        if len(self.clusters) > 1:
            yield f"these nodes are of different clusters: {', '.join(self.clusters)}"
        for one in self.strangers:
            yield f"{one.endpoint} does not answer ({one.why or one.state})"
        for node in self.nodes:
            if node in self.alive and node not in self.said:
                by = [other for other in self.nodes if other != node and self.matrix[node, other].ok]
                hear = "hears" if len(by) == 1 else "hear"
                yield f"node {node} does not answer here, but {_nodes(by)} {hear} it"
        for n, a in enumerate(self.nodes):
            for b in self.nodes[n + 1 :]:
                there, back = self.matrix[a, b], self.matrix[b, a]
                if there.ok is True and back.ok is False:
                    yield f"the link is down one way: node {b} hears node {a}, but node {a} does not hear {b}"
                elif there.ok is False and back.ok is True:
                    yield f"the link is down one way: node {a} hears node {b}, but node {b} does not hear {a}"
                for of, to, reach in ((a, b, there), (b, a, back)):
                    if of in self.said and to in self.alive and reach.why:
                        yield f"node {of} has no stream to node {to}: {reach.why}"
        for node, status in sorted(self.said.items()):
            if node not in self.nodes:
                yield f"node {node} at {status.endpoint} is no member"
            if status.role == "leader" and node != leader and leader is not None:
                yield f"node {node} leads in name only: a higher ballot is out, and it has not heard of it"
            if leader is not None and status.leader not in (None, leader):
                yield f"node {node} still believes that node {status.leader} leads"
            if status.health != "ok":
                yield f"node {node}: {status.health}"


def _ballot(status: NodeStatus) -> tuple[int, int]:
    ballot_round, _, node = status.ballot.partition(".")
    return int(ballot_round), int(node or 0)


def _and(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _nodes(nodes: Sequence[NodeId]) -> str:
    return f"node{'s' if len(nodes) > 1 else ''} {_and([str(node) for node in nodes])}"
