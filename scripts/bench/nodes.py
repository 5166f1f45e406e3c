"""The nodes of ours that are measured: whether they are done with what was before, and agree afterwards."""

from __future__ import annotations

import time

import trio

from scripts.bench.loads import Cores
from synod.local import LocalCluster

IDLE_CORES = 0.1
"""A cluster whose nodes use less than this together has nothing left to do."""
LOOK_INTERVAL_S = 0.5
SETTLE_S_MAX = 60.0


async def settled(cluster: LocalCluster) -> None:
    """Wait until the nodes are idle, or have not been for long: LevelDB merges what was written for some
    seconds more."""
    with trio.move_on_after(SETTLE_S_MAX):
        while True:
            cores = Cores(cluster.running())
            await trio.sleep(LOOK_INTERVAL_S)
            if sum(cores.used().values()) < IDLE_CORES:
                return


def check_nodes(cluster: LocalCluster) -> str:
    """Return the chain that all nodes agree on, once all have folded the same.

    Raises ``RuntimeError`` if they differ.
    """
    deadline = time.monotonic() + 20
    while True:
        said = [view.said for view in cluster.status() if view.said is not None]
        if len(said) == len(cluster.nodes) and len({status.applied for status in said}) == 1:
            chains = {status.chain for status in said}
            if len(chains) != 1:
                raise RuntimeError(f"the nodes' chains differ after the run: {sorted(chains)}")
            return chains.pop()
        if time.monotonic() > deadline:
            raise RuntimeError("the followers did not catch up within 20 s of the run")
        time.sleep(0.1)
