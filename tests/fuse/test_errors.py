"""A node's disk fails to sync, to write, to read; is full; is slow. The cluster is one for the module."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from journal.client import ClientConfig
from journal.connection import LOCAL
from journal.errors import JournalError, SpaceFull
from journal.storage.leveldb import LevelDBStorage
from journal.sync import SyncJournal, connect
from synod.chaos.fuse.disk import FuseDisk
from tests.chaos.test_members import synod
from tests.fuse.cluster import DEADLINE_S, FuseCluster, plan, until

STORAGE_FAILED = 3
MIB = 1 << 20


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, disks: Callable[[int], dict[int, FuseDisk]]
) -> Iterator[FuseCluster]:
    """Three nodes; a test leaves all of them running, and their disks whole."""
    cluster = plan(tmp_path_factory.mktemp("cluster"), disks(3))
    cluster.start()
    cluster.wait_ready(DEADLINE_S)
    yield cluster
    cluster.kill_all()


@pytest.fixture
def journal(cluster: FuseCluster) -> Iterator[SyncJournal]:
    cluster.start()  # where the test before has failed
    cluster.wait_ready(DEADLINE_S)
    with cluster.journal() as journal:
        journal.put(b"first", b"1")
        yield journal


def follower(cluster: FuseCluster) -> int:
    leader = cluster.leader()
    return next(node for node in cluster.nodes if node != leader)


def ended(cluster: FuseCluster, node: int) -> str:
    """Wait until a node has ended because of its disk; return the last line that it wrote."""
    until(lambda: cluster.pid(node) is None, f"node {node} ends")
    assert cluster.exit_code(f"node-{node}") == STORAGE_FAILED
    log = cluster.log(f"node-{node}").read_text()
    assert "Traceback" not in log
    last = log.splitlines()[-1]
    assert "node.storage_failed" in last
    assert f"synod member remove {node}" in last, "it says what to do"
    return last


def start_again(cluster: FuseCluster, node: int, journal: SyncJournal) -> None:
    cluster.disks[node].heal()
    cluster.start_node(node)
    cluster.wait_ready(DEADLINE_S)
    journal.put(b"again", b"%d" % node)


@pytest.mark.parametrize("operation", ["sync", "write"])
def test_a_disk_that_fails_stops_its_node_at_once_and_the_rest_goes_on(
    cluster: FuseCluster, journal: SyncJournal, operation: str
) -> None:
    """The leader, then a follower. What failed is never tried again.

    The kernel hands a write that begins within a page on in two pieces; where the second one fails, the
    node is told of a short write, and goes on with the rest: so that has to fail, too.
    """
    times = 2 if operation == "write" else 1
    for node in (cluster.leader(), follower(cluster)):
        assert node is not None
        disk = cluster.disks[node]
        disk.fail(operation, errno.EIO, files="*.log", times=times)
        for number in range(20):
            journal.put(b"key/%d" % number, b"%d" % node)
        assert "Input/output error" in ended(cluster, node)
        seen = disk.look()
        assert 1 <= seen["counts"][f"failed {operation}"] <= times
        assert seen["after_failed_sync"] == []
        journal.put(b"without it", b"1")
        lost = cluster.lose_power(node)
        assert operation == "sync" or lost >= 0
        start_again(cluster, node, journal)


def test_the_check_for_retries_sees_one(disks: Callable[[int], dict[int, FuseDisk]]) -> None:
    """A program that syncs again after a failure is told that all is well, and is convicted by the disk."""
    [disk] = disks(1).values()
    handle = os.open(disk.folder / "file", os.O_CREAT | os.O_RDWR)
    try:
        os.write(handle, b"data")
        disk.fail("sync", errno.EIO, times=1)
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(handle)
        os.fsync(handle)
    finally:
        os.close(handle)
    assert disk.look()["after_failed_sync"] == ["sync file"]


def test_a_disk_that_cannot_be_read_keeps_its_node_from_starting(
    cluster: FuseCluster, journal: SyncJournal
) -> None:
    node = follower(cluster)
    cluster.kill_node(node)
    cluster.disks[node].fail("read", errno.EIO, files="*.log")
    cluster.start_node(node)
    assert "cannot be opened" in ended(cluster, node)
    journal.put(b"without it", b"2")
    start_again(cluster, node, journal)


def test_a_disk_that_cannot_be_read_any_more_stops_its_node(
    cluster: FuseCluster, journal: SyncJournal
) -> None:
    """LevelDB maps its tables into memory, so that the kernel says it by a signal. The log says where."""
    for number in range(200):
        journal.put(b"wide/%d" % number, os.urandom(1000))
    node = follower(cluster)
    cluster.kill_node(node, signal.SIGTERM)
    storage = LevelDBStorage(cluster.node_folder(node), create=False)
    storage._db.compact_range()
    storage.close()
    cluster.start_node(node)
    cluster.wait_ready(DEADLINE_S)
    disk = cluster.disks[node]
    disk.fail("read", errno.EIO, files="*.ldb")
    disk.forget_pages()
    with connect([cluster.endpoint(node)], config=ClientConfig(timeout_s=1.0)) as local:
        for number in range(200):
            if cluster.pid(node) is None:
                break
            with suppress(JournalError):
                local.get(b"wide/%d" % number, consistency=LOCAL)
    until(lambda: cluster.pid(node) is None, "the node ends")
    assert cluster.exit_code(f"node-{node}") == -signal.SIGBUS
    said = cluster.log(f"node-{node}").read_text()
    assert "Fatal Python error: Bus error" in said
    assert "journal/storage/leveldb.py" in said.partition("Bus error")[2]
    start_again(cluster, node, journal)
    assert journal.get(b"wide/0") is not None


def test_a_full_disk_refuses_what_grows_and_recovers_by_itself(
    cluster: FuseCluster, journal: SyncJournal
) -> None:
    node = follower(cluster)
    disk = cluster.disks[node]
    disk.leave(20 * MIB)  # the reserve is 32
    here = ("--dir", str(cluster.folder))

    def refused() -> bool:
        try:
            journal.put(b"grows", b"1")
        except SpaceFull as full:
            assert full.node == node
            return True
        return False

    until(refused, "offers are refused")
    shown = json.loads(synod("status", "--json", *here).out)["nodes"]
    assert "disk full" in shown[node - 1]["health"]
    assert journal.get(b"first") is not None
    journal.delete(b"first")
    assert journal.get(b"first") is None
    journal.compact(journal.seen)
    assert cluster.pid(node) is not None
    disk.leave(1 << 30)
    until(lambda: not refused(), "offers are taken again, and nobody had to do anything")
    until(lambda: "disk full" not in cluster.health(node), "the alarm goes")


def test_a_disk_without_any_space_stops_its_node_and_loses_nothing(
    cluster: FuseCluster, journal: SyncJournal
) -> None:
    node = follower(cluster)
    disk = cluster.disks[node]
    disk.fail("write", errno.ENOSPC, files="*.log")
    journal.put(b"kept", b"1")
    assert "No space left" in ended(cluster, node)
    start_again(cluster, node, journal)
    assert journal.get(b"kept") is not None


def test_a_slow_disk_of_a_minority_slows_nobody(cluster: FuseCluster, journal: SyncJournal) -> None:
    node = follower(cluster)
    cluster.disks[node].slow("sync", 2.0)
    try:
        began = time.monotonic()
        for number in range(50):
            journal.put(b"key/%d" % number, b"1")
        assert time.monotonic() - began < 10.0, "a sync of its own takes 2 s"
        until(lambda: journal.put(b"key", b"1") and "disk" in cluster.health(node), "the node says so")
    finally:
        cluster.disks[node].heal()
    until(lambda: cluster.health(node) == "ok", "the node is well again")


def test_damage_that_may_be_more_than_unsynced_writes_stops_the_node(
    cluster: FuseCluster, journal: SyncJournal, tmp_path: Path
) -> None:
    """Of what was not synced each sector is there by chance. A node either finds its data whole or says
    that it cannot be opened; it never goes on with half of it."""
    node = follower(cluster)
    for number in range(100):
        journal.put(b"key/%d" % number, b"%d" % number)
    cluster.lose_power(node, keep="some", seed=3)
    cluster.start_node(node)
    until(
        lambda: cluster.pid(node) is None or cluster.health(node) == "ok", "it is back, or has said why not"
    )
    if cluster.pid(node) is None:
        assert "cannot be opened" in ended(cluster, node)
    for number in range(100):
        found = journal.get(b"key/%d" % number)
        assert found is not None
        assert found.value == b"%d" % number
