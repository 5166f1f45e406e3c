"""How a node that has lost its data comes back by itself, if it was told to. PURE.

With its folder a node has lost its promises, so what it was is given up for good: it never makes a folder
under its old number again. It asks the cluster to remove that number, and to add a new one, which was never
used, at the same address, as a learner; then it makes its folder under the new number. A removed number is
refused by every node for ever (``paxos.membership``), so an old folder that turns up again does no harm.

What it is about is in a note beside the data, written before anything is asked for; so after a crash it goes
on with the same number. The number was asked for by this note alone and has no folder yet, so it has promised
nothing. Where the note is lost too, a new one takes a new number, and removes whoever is at its address.

Removing first costs nothing: three voters of which one is lost need both others, as two voters do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from journal.paxos.changes import AddLearner, Remove
from journal.types import NodeId

LEARNER = "learner"
VOTER = "voter"
WAYS = (LEARNER, VOTER)
"""As what a node comes back: a learner that the operator promotes, or one that asks to be promoted when it
has caught up, if it voted before."""


class Member(Protocol):
    """A member as the leader tells of it."""

    @property
    def node(self) -> NodeId: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def voter(self) -> bool: ...


class NotExpected(Exception):
    """The cluster does not know the node: nobody waits for it to come back."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a node that rejoins is about."""

    node: NodeId
    """The number that it was started with: it names the place in the operator's files, no identity."""
    endpoint: str
    number: NodeId | None = None
    """The number that it asks for."""
    voted: bool = False
    """Whoever it was had a vote."""
    reason: str = ""
    """What happened to the data."""

    def facts(self) -> dict[str, Any]:
        """Return what a note says."""
        return {
            "node": self.node,
            "endpoint": self.endpoint,
            "number": self.number,
            "voted": self.voted,
            "reason": self.reason,
        }

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Plan:
        """Return what a note says. Raises ``KeyError``, ``TypeError`` or ``ValueError``."""
        return cls(
            NodeId(int(facts["node"])),
            str(facts["endpoint"]),
            None if facts["number"] is None else NodeId(int(facts["number"])),
            bool(facts["voted"]),
            str(facts["reason"]),
        )


def begin(plan: Plan, members: Iterable[Member]) -> Plan:
    """Return the plan with a number to ask for, once the members are known.

    Raises ``NotExpected`` where no member has the node's address: then it was removed, and to come back is
    the operator's decision; or where its number is that of a member elsewhere, which is not to be harmed.
    """
    known = list(members)
    elsewhere = [member for member in known if member.node == plan.node and member.endpoint != plan.endpoint]
    if elsewhere:
        raise NotExpected(
            f"node {plan.node} of the cluster is at {elsewhere[0].endpoint}, and this one at {plan.endpoint}:"
            " it does not take that one's place"
        )
    ours = [member for member in known if member.endpoint == plan.endpoint]
    if not ours:
        raise NotExpected(
            f"node {plan.node} at {plan.endpoint} is no member of the cluster any more, so it does not"
            " rejoin: to let it in, `synod member add NEW=HOST:PORT`"
        )
    number = NodeId(max(plan.node, *(member.node for member in known)) + 1)
    return replace(plan, number=number, voted=any(member.voter for member in ours))


def next_step(plan: Plan, members: Iterable[Member]) -> Remove | AddLearner | None:
    """Return what is to be asked of the cluster; None: the new number is a member."""
    assert plan.number is not None
    ours = sorted(member.node for member in members if member.endpoint == plan.endpoint)
    for node in ours:
        if node != plan.number:
            return Remove(node)
    return None if ours else AddLearner(plan.number, plan.endpoint)


def taken(plan: Plan) -> Plan:
    """Return the plan with another number: the one that was asked for is, or was, somebody else's."""
    assert plan.number is not None
    return replace(plan, number=NodeId(plan.number + 1))
