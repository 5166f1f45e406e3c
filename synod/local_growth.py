"""Growing a cluster on this machine while it runs: each new node is added, started and promoted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from journal.client import ClientConfig, connect
from journal.errors import InvalidRequest
from journal.paxos.changes import AddLearner
from journal.types import NodeId
from synod.local_state import ADD, PROMOTE, LocalClusterError, NodePlan
from synod.members import ensure, promote
from synod.probe import in_thread

if TYPE_CHECKING:
    from journal.client import Journal
    from synod.local import LocalCluster


def grow(cluster: LocalCluster, nodes: int, timeout_s: float, tell: Callable[[str], None]) -> list[int]:
    """See ``LocalCluster.grow``."""
    if not any(plan.todo for plan in cluster.plans()) and len(cluster.nodes) >= nodes:
        return []
    return in_thread(partial(_grow, cluster, nodes, timeout_s, tell))


async def _grow(
    cluster: LocalCluster, nodes: int, timeout_s: float, tell: Callable[[str], None]
) -> list[int]:
    grown = []
    config = ClientConfig(timeout_s=timeout_s)
    known = [plan.endpoint for plan in cluster.plans() if plan.todo != ADD]
    async with connect(known, cluster=cluster.cluster_id, config=config) as journal:
        while (plan := _next(cluster, nodes)) is not None:
            if plan.todo == ADD:
                tell(f"node {plan.node} is added")
                if not await _add(cluster, journal, plan):
                    continue
            await trio.to_thread.run_sync(cluster.start_node, plan.node)
            await promote(journal, plan.node, plan.endpoint, timeout_s, tell)
            cluster.set_todo(plan.node, "")
            grown.append(plan.node)
    return grown


def _next(cluster: LocalCluster, nodes: int) -> NodePlan | None:
    """Return the next node to work on: one left unfinished, or a new one."""
    plans = cluster.plans()
    unfinished = next((plan for plan in plans if plan.todo), None)
    if unfinished is not None:
        return unfinished
    return cluster.plan_joiner() if len(plans) < nodes else None


async def _add(cluster: LocalCluster, journal: Journal, plan: NodePlan) -> bool:
    """Add a planned node. False: its number turned out to be used up, and it is planned anew."""
    try:
        await ensure(journal, AddLearner(NodeId(plan.node), plan.endpoint))
    except InvalidRequest as error:
        cluster.forget_node(plan.node)
        if "never given again" in str(error) or "is a member already" in str(error):
            return False
        raise LocalClusterError(f"node {plan.node} cannot be added: {error}") from error
    cluster.set_todo(plan.node, PROMOTE)
    return True
