"""When a slot is begun: alone an offer waits for nobody, in company a little."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from journal.node import Node
from journal.pace import COMPANY_WAIT_S_MAX
from journal.types import Slot
from tests.node.cluster import Cluster, put, running, submit


async def leader_at_rest(cluster: Cluster) -> Node:
    leader = await cluster.leader()
    await submit(leader, put("first"))
    await cluster.until(lambda: not leader.slots_in_flight)
    return leader


async def rounds(leader: Node, clients: int, count: int) -> tuple[float, Slot]:
    """Have each client offer ``count`` times, one call after the other; return (seconds, slots) that took."""
    began, slot = trio.current_time(), leader.space.applied

    async def client(number: int) -> None:
        for turn in range(count):
            assert len(await submit(leader, put(f"{number}/{turn}"))) == 1
            # Answers reach clients one by one, and so their next calls come one by one.
            await trio.sleep(0.0001 * number)

    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(client, number)
    return trio.current_time() - began, Slot(leader.space.applied - slot)


async def test_a_lone_client_never_waits_for_company(autojump_clock: MockClock) -> None:
    async with running(1) as cluster:
        leader = await leader_at_rest(cluster)
        seconds, slots = await rounds(leader, 1, 50)
        assert slots == 50
        assert seconds < COMPANY_WAIT_S_MAX / 5


async def test_clients_that_come_one_by_one_share_slots(autojump_clock: MockClock) -> None:
    """Without the wait the disk, which takes no time here, has a slot for each of them."""
    async with running(1) as cluster:
        leader = await leader_at_rest(cluster)
        _seconds, slots = await rounds(leader, 8, 50)
        assert slots < 8 * 50 / 4


async def test_company_is_forgotten(autojump_clock: MockClock) -> None:
    async with running(1) as cluster:
        leader = await leader_at_rest(cluster)
        await rounds(leader, 8, 10)
        await rounds(leader, 1, 40)
        seconds, _slots = await rounds(leader, 1, 10)
        assert seconds < COMPANY_WAIT_S_MAX / 5


async def test_the_wait_ends_by_itself(autojump_clock: MockClock) -> None:
    """Nothing else gives the node a turn before its next tick."""
    async with running(1, tick_interval_s=5.0) as cluster:
        leader = await leader_at_rest(cluster)
        await rounds(leader, 8, 5)
        began = trio.current_time()
        await submit(leader, put("last"))
        assert trio.current_time() - began <= 2 * COMPANY_WAIT_S_MAX
