"""Three real nodes, each with its data on a FUSE disk of its own."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from journal.client import ClientConfig
from journal.sync import SyncJournal, connect
from synod.chaos.fuse.disk import FuseDisk
from synod.local import LocalCluster
from synod.local_view import NodeView

DEADLINE_S = 40.0
PATIENT = ClientConfig(timeout_s=DEADLINE_S)
FAST = ("--election-timeout-ms", "400", "--heartbeat-interval-ms", "50", "--disk-reserve-mib", "32")


class FuseCluster(LocalCluster):
    """A local cluster with a FUSE disk under each node."""

    disks: Mapping[int, FuseDisk] = {}
    program: Sequence[str] = ("-m", "synod")
    """What Python runs as a node."""

    def node_folder(self, node: int) -> Path:
        return self.disks[node].folder / "data"

    def _command(self, _name: str, command: Sequence[str]) -> list[str]:
        return [sys.executable, "-P", *self.program, *command]

    def lose_power(self, *nodes: int, keep: str = "nothing", seed: int = 0) -> int:
        """The power of these nodes goes, at once; return how many unsynced bytes there were."""
        running = self.running()
        for node in nodes:
            if f"node-{node}" in running:
                self.kill_node(node)
        return sum(self.disks[node].lose_power(keep, seed + node)["unsynced_bytes"] for node in nodes)

    def view(self, node: int) -> NodeView:
        return next(view for view in self.status() if view.node == node)

    def health(self, node: int) -> str:
        said = self.view(node).said
        return said.health if said is not None else ""

    def journal(self) -> AbstractContextManager[SyncJournal]:
        return connect(self.endpoints, config=PATIENT)


def plan(
    folder: Path, disks: Mapping[int, FuseDisk], program: Sequence[str] = ("-m", "synod")
) -> FuseCluster:
    """Plan a cluster with one node on each disk."""
    cluster = FuseCluster.create(folder / "cluster", nodes=len(disks), node_args=FAST)
    cluster.disks, cluster.program = dict(disks), program
    return cluster


def until(condition: Callable[[], object], what: str) -> None:
    """Ask until it holds; each question takes its own time (a call to a node, a look at a process)."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        os.sched_yield()
