"""Changing the members from outside: find the leader, wait for its turn, and know when it is done.

A change whose answer was lost is asked for again. The journal then says that it makes no sense
any more, and a look at the members shows that it was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from journal.client.router import Router
from journal.connection import Connection, NotSent
from journal.errors import ChangeRefused, InvalidRequest, JournalError, NotLeader, Overloaded, Unavailable
from journal.paxos.changes import AddLearner, MemberChange, Promote

if TYPE_CHECKING:
    from journal.node import NodeMember, NodeStatus


FIRST_LOOK_S = 1.0
"""A client that is closed sooner, such as a command's, never asks."""


def is_made(change: MemberChange, members: Iterable[NodeMember]) -> bool:
    """Whether ``members`` are as ``change`` would have them."""
    found = next((member for member in members if member.node == change.node), None)
    if isinstance(change, AddLearner):
        return found is not None and found.endpoint == change.endpoint
    if isinstance(change, Promote):
        return found is not None and found.voter
    return found is None


async def follow_members(router: Router) -> None:
    """Keep the router told of who the members are, once anybody was reached. Until cancelled."""

    async def ask(connection: Connection) -> NodeStatus:
        return await connection.status()

    interval_s = router.config.members_interval_s
    await router.reached.wait()
    await trio.sleep(min(FIRST_LOOK_S, interval_s))
    while True:
        try:
            status = await router.anywhere(ask, interval_s, leader_first=True)
        except JournalError:
            pass  # whoever uses the client is told; here it is asked again
        else:
            router.learn_members(status.applied, [member.endpoint for member in status.members])
        await trio.sleep(interval_s)


async def leader_status(router: Router, timeout_s: float | None) -> NodeStatus:
    """Return the status of the node that leads. Raises ``Unavailable``."""

    async def call(connection: Connection) -> NodeStatus:
        status = await connection.status()
        if status.role != "leader":
            endpoints = {member.node: member.endpoint for member in status.members}
            raise NotLeader(status.leader, endpoints.get(status.leader) if status.leader else None)
        return status

    limit = math.inf if timeout_s is None else timeout_s
    with trio.move_on_after(limit):
        while True:
            try:
                return await router.at_leader(call, router.config.attempt_timeout_s)
            except Unavailable:
                if router.closed:
                    raise
    raise Unavailable(f"no leader answered within {limit:g} s; the last trouble: {router.trouble}")


async def change_members(
    router: Router, change: MemberChange, timeout_s: float | None
) -> tuple[NodeMember, ...]:
    """Make one change, and return the members after it. See ``Journal.change_members``."""

    async def call(connection: Connection) -> tuple[NodeMember, ...]:
        return await connection.change_members(change)

    limit = math.inf if timeout_s is None else timeout_s
    backoff = router.backoff()
    trouble: JournalError | None = None
    may_be_made = False
    with trio.move_on_after(limit):
        while True:
            try:
                return await router.at_leader(call, router.config.attempt_timeout_s)
            except ChangeRefused:
                raise
            except InvalidRequest:
                if may_be_made:
                    members = (await leader_status(router, None)).members
                    if is_made(change, members):
                        return members
                raise
            except (NotLeader, NotSent, Overloaded) as error:
                trouble = error
            except Unavailable as error:  # one is under way; or its fate is unknown
                trouble = error
                may_be_made = True
            if router.closed:
                raise NotSent("this client is closed")
            await trio.sleep(backoff.next_s())
    raise Unavailable(
        f"the change was not made within {limit:g} s, or that is not known; the last trouble: {trouble}"
    )
