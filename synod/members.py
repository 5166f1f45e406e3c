"""The steps of growing, shrinking and replacing, each of which may be asked for again.

A step looks first whether it is made already. So a command that was interrupted, or whose answer was
lost, is simply run again, and goes on from where things are.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from journal.client.members import is_made
from journal.errors import ChangeRefused, InvalidRequest, JournalError, Unavailable
from journal.paxos.changes import AddLearner, MemberChange, Promote, Remove
from journal.types import NodeId

if TYPE_CHECKING:
    from journal.client import Journal
    from journal.node import NodeMember

LOOK_INTERVAL_S = 0.2
STEP_TIMEOUT_S = 30.0

REMOVED_BEFORE = "was removed before"
"""How ``journal.paxos.changes`` says that a member is gone already; for others it is unknown."""

Tell = Callable[[str], None]


class NotCaughtUp(Unavailable):
    """A node that was added did not catch up in the time that it was given."""


async def ensure(journal: Journal, change: MemberChange) -> bool:
    """Make ``change`` unless it is made already; return whether it was made now. Errors as
    ``Journal.change_members``."""
    if not isinstance(change, Remove) and is_made(change, await journal.members()):
        return False
    try:
        await journal.change_members(change)
    except InvalidRequest as error:
        # Made, but not ruling yet when the members were looked at; or asked for by somebody else.
        if isinstance(change, Remove):
            made = REMOVED_BEFORE in str(error)
        else:
            made = is_made(change, await journal.members())
        if not made:
            raise
        return False
    return True


async def promote(journal: Journal, node: int, endpoint: str, patience_s: float, tell: Tell) -> None:
    """Promote a learner as soon as it has caught up, and say meanwhile how far it is.

    Raises ``NotCaughtUp`` after ``patience_s``; errors as ``Journal.change_members``.
    """
    deadline = trio.current_time() + patience_s
    while True:
        try:
            await ensure(journal, Promote(NodeId(node)))
            return
        except ChangeRefused as refused:
            tell(await _how_far(journal, node, endpoint))
            if trio.current_time() >= deadline:
                raise NotCaughtUp(
                    f"node {node} did not catch up within {patience_s:g} s: {refused}"
                ) from None
        await trio.sleep(LOOK_INTERVAL_S)


async def _how_far(journal: Journal, node: int, endpoint: str) -> str:
    """Say what a node that joins is up to."""
    try:
        status = await journal.status(endpoint, timeout_s=1.0)
    except JournalError:
        return f"node {node} does not answer at {endpoint}: is it started?"
    if status.node != node:
        return f"at {endpoint} runs node {status.node}, not node {node}"
    if status.lag:
        return f"node {node} has {status.applied} of {status.applied + status.lag} slots"
    return f"node {node} is at slot {status.applied}: {status.health}"


async def replace(
    journal: Journal,
    old: int,
    new: int,
    endpoint: str,
    patience_s: float,
    tell: Tell,
    start: Callable[[], None],
) -> tuple[NodeMember, ...]:
    """Put node ``new`` at ``endpoint`` in the place of ``old``; return the members then.

    ``start`` is called when the new node may be started. The old one goes last, so that the cluster
    is at no time weaker than before; it goes first only where the new one takes over its address.
    """
    if old == new:
        raise InvalidRequest("new", f"node {new} needs a new number: {old} is never given again")
    members = {member.node: member for member in await journal.members()}
    there = members.get(NodeId(old))
    if there is None and NodeId(new) not in members:
        raise InvalidRequest("old", f"node {old} is not a member")
    if there is not None and there.endpoint == endpoint:
        tell(f"node {old} is removed first: node {new} takes over its address")
        await ensure(journal, Remove(NodeId(old)))
        there = None
    tell(f"node {new} is added")
    await ensure(journal, AddLearner(NodeId(new), endpoint))
    start()
    await promote(journal, new, endpoint, patience_s, tell)
    if there is not None:
        tell(f"node {old} is removed")
        await ensure(journal, Remove(NodeId(old)))
    return await settled(journal, Remove(NodeId(old)))


async def settled(journal: Journal, change: MemberChange) -> tuple[NodeMember, ...]:
    """Wait until the members that rule are those after ``change``, and return them."""
    with trio.move_on_after(STEP_TIMEOUT_S):
        while True:
            members = await journal.members()
            if is_made(change, members):
                return members
            await trio.sleep(LOOK_INTERVAL_S / 4)
    raise Unavailable("the change is made, but the members that rule are still those before it")


def join_command(node: int, endpoint: str, cluster: str, members: Iterable[NodeMember], folder: str) -> str:
    """Return the command that starts a node which was added."""
    contacts = ",".join(f"{member.node}={member.endpoint}" for member in members if member.node != node)
    words = ["synod", "node", "--node", str(node), "--dir", folder, "--listen", endpoint]
    return shlex.join([*words, "--cluster", cluster, "--members", contacts, "--join"])
