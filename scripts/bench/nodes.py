"""The nodes of ours that were measured: whether they agree afterwards."""

from __future__ import annotations

import time

from synod.local import LocalCluster


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
