"""An operator who changes the members while all else goes wrong, by the production client.

One step at a time, as a person does: add a learner, promote it, remove somebody (also whoever leads), replace
who is lost. There are never fewer voters than ``VOTERS_MIN``; what the journal refuses is tried again later.
A removed node is switched off at once, later, or never: then it must disturb nobody.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import trio

from journal.client import Journal
from journal.errors import JournalError
from journal.paxos.changes import AddLearner, MemberChange, Promote, Remove
from journal.paxos.membership import Membership
from journal.types import NodeId
from tests.sim.host import Host, endpoint
from tests.sim.workload import connect_client

if TYPE_CHECKING:
    from tests.sim.world import World

OPERATOR = -1000
"""Its place in the network."""
VOTERS_MIN = 3
MEMBERS_MAX = 8
PATIENCE = 12
"""Election timeouts that a step may take."""


def now(world: World) -> Membership:
    """The membership that was chosen last, as nobody in the cluster can know."""
    return world.watch.memberships[-1][1]


async def operate(world: World, rng: random.Random) -> None:
    """Take step after step until the storm is over."""
    async with connect_client(world, OPERATOR) as journal:
        while world.is_storm:
            await trio.sleep(rng.expovariate(1 / world.options.members_s))
            if world.is_storm:
                await _step(world, journal, rng)


async def _step(world: World, journal: Journal, rng: random.Random) -> None:
    members = now(world)
    voters = sorted(int(node) for node in members.voter_ids)
    learners = sorted(int(member.node) for member in members.learners)
    lost = [number for number in members.nodes if world.hosts[int(number)].is_lost]
    healthy = [number for number in learners if not world.hosts[number].is_lost]
    least = VOTERS_MIN
    if lost and (len(voters) > least or int(lost[0]) in learners):
        await _remove(world, journal, int(lost[0]), rng)
    elif healthy and (lost or rng.random() < 0.6):
        await _change(world, journal, Promote(NodeId(rng.choice(healthy))))
    elif len(voters) > least and not learners and rng.random() < 0.5:
        leader = _leads(world)
        number = leader if leader in voters and rng.random() < 0.4 else rng.choice(voters)
        await _remove(world, journal, int(number), rng)
    elif len(voters) < world.options.voters_max or lost:
        await _add(world, journal)
    elif learners:
        await _remove(world, journal, rng.choice(learners), rng)
    else:
        await _remove(world, journal, rng.choice(voters), rng)


def _leads(world: World) -> int:
    from tests.sim.faults import leader_of

    leader = leader_of(world)
    return leader.number if leader is not None else 0


async def _add(world: World, journal: Journal) -> None:
    if len(now(world).nodes) >= MEMBERS_MAX:
        return
    number = max(world.hosts) + 1
    # It is told who the members are now: for a node that joins that is no more than whom to ask.
    told = Membership(now(world).voters)
    host = world.hosts[number] = Host(world, number, told, joins=True)
    host.start()
    await _change(world, journal, AddLearner(NodeId(number), endpoint(number)))


async def _remove(world: World, journal: Journal, number: int, rng: random.Random) -> None:
    if not await _change(world, journal, Remove(NodeId(number))):
        return
    host = world.hosts[number]
    fate = rng.random()
    if fate < 0.5:
        host.retire()
    elif fate < 0.8:
        world.after(rng.uniform(0, 5) * world.options.election_timeout_s, host.retire)


async def _change(world: World, journal: Journal, change: MemberChange) -> bool:
    world.log(0, f"operator: {change}")
    try:
        timeout_s = PATIENCE * world.options.election_timeout_s
        members = await journal.change_members(change, timeout_s=timeout_s)
    except JournalError as error:
        world.log(0, f"operator: {type(error).__name__}: {error}")
        return False
    world.log(0, f"operator: members are {[(int(m.node), m.voter) for m in members]}")
    return True
