"""The row ``restart``: a node with a long history is started, and how long it is until it serves.

Both clusters are filled with the same number of revisions, then a follower of each is killed (SIGKILL) and
started again, round after round. It serves when a linearizable read that is sent to it is answered.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from journal.connection import LINEARIZABLE
from journal.errors import JournalError
from journal.rpc.connection import GrpcConnector
from scripts.bench.fill import fill, fill_etcd
from scripts.bench.nodes import check_nodes
from scripts.bench.results import Result

if TYPE_CHECKING:
    from scripts.bench.rows import Bench

REVISIONS = 1_000_000
REVISIONS_SHORT = 200_000
KEYS = 100_000
START_S_MAX = 5.0
GIVE_UP_S = 60.0
RETRY_S = 0.01


async def restart(bench: Bench) -> list[Result]:
    """Against the bound, and beside etcd with as many versions of as many keys."""
    revisions = REVISIONS if bench.full else REVISIONS_SHORT
    what = f"a node with {revisions:,} revisions is started until it serves"
    bound = Result("restart", what, "s", 1.0, more_is_better=False, peer_name="bound")
    beside = Result("restart", what, "s", None, more_is_better=False)
    with bench.console.status(f"restart: {revisions:,} revisions are committed"):
        await fill(bench, revisions, KEYS)
        if bench.etcd is not None:
            await fill_etcd(bench, revisions, KEYS)
    for _ in range(bench.rounds):
        if bench.etcd is not None:
            beside.peer.append(await _of_etcd(bench))
        ours = await _of_synod(bench)
        bound.ours.append(ours)
        beside.ours.append(ours)
        bound.peer.append(START_S_MAX)
    return [bound, beside] if bench.etcd is not None else [bound]


async def _of_synod(bench: Bench) -> float:
    leader = await trio.to_thread.run_sync(bench.cluster.leader)
    node = next(node for node in bench.cluster.nodes if node != leader)
    await trio.to_thread.run_sync(check_nodes, bench.cluster)
    await trio.to_thread.run_sync(bench.cluster.kill_node, node)
    began = time.monotonic()
    await trio.to_thread.run_sync(bench.cluster.start_node, node)
    connector = GrpcConnector(cluster=bench.cluster.cluster_id)
    with trio.fail_after(GIVE_UP_S):
        try:
            while True:
                connection = await connector.connect(bench.cluster.endpoint(node))
                try:
                    await connection.get([b"bench"], at=None, consistency=LINEARIZABLE)
                    return time.monotonic() - began
                except JournalError:
                    await trio.sleep(RETRY_S)
                finally:
                    await connection.aclose()
        finally:
            await connector.aclose()


async def _of_etcd(bench: Bench) -> float:
    assert bench.etcd is not None
    leader = await trio.to_thread.run_sync(bench.etcd.leader)
    node = next(number for number in range(3) if number != leader)
    await trio.to_thread.run_sync(bench.etcd.kill, node)
    began = time.monotonic()
    await trio.to_thread.run_sync(bench.etcd.start_node, node)
    await trio.to_thread.run_sync(bench.etcd.wait_readable, node, GIVE_UP_S)
    return time.monotonic() - began
