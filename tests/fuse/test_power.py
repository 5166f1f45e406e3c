"""Power is lost under real nodes and a recorded load: of all at once, of one, with torn writes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from journal.storage.leveldb import WRITE_BUFFER_BYTES_MAX, LevelDBStorage
from synod.chaos.fuse.disk import FuseDisk
from tests.chaos.conftest import Chaos
from tests.fuse.cluster import DEADLINE_S, FuseCluster

SKIPS_SYNCS = """
import sys
from itertools import count
from journal.storage.leveldb import LevelDBStorage
whole, number = LevelDBStorage.write_now, count()
LevelDBStorage.write_now = lambda self, writes, *, sync: whole(self, writes, sync=sync and next(number) < 40)
from synod.cli.app import run
sys.exit(run(sys.argv[1:]))
"""
"""A node that after some time acknowledges what it has not synced."""


def lose_power(c: Chaos, *nodes: int, keep: str, seed: int = 0) -> int:
    """The power of these nodes goes and comes back."""
    assert isinstance(c.cluster, FuseCluster)
    c.note(f"the power of nodes {nodes} goes; of what was not synced there is left: {keep}")
    lost = c.cluster.lose_power(*nodes, keep=keep, seed=seed)
    c.restart(*nodes)
    return lost


def storm(c: Chaos) -> int:
    """Lose power again and again, under load; return how many unsynced bytes were at stake."""
    c.start_client("ann")
    c.start_client("bob")
    c.progress()
    lost = lose_power(c, 1, 2, 3, keep="nothing")
    c.progress()
    lost += lose_power(c, c.leader(), keep="nothing")
    c.progress()
    lost += lose_power(c, 1, 2, 3, keep="torn", seed=1)
    c.progress()
    lost += lose_power(c, c.follower(), keep="torn", seed=2)
    for seed in (3, 4):
        c.progress(15)
        lost += lose_power(c, 1, 2, 3, keep="torn", seed=seed)
    c.progress()
    lost += lose_power(c, 1, 2, 3, keep="nothing")
    c.progress(15)
    return lost


def test_nothing_acknowledged_is_lost_with_the_power(stormy: Callable[..., Chaos]) -> None:
    c = stormy()
    assert storm(c) > 0, "there was nothing to lose: it tests too little"
    assert c.finish().counts["accepted"] > 200


def test_nodes_that_skip_their_syncs_are_caught(stormy: Callable[..., Chaos]) -> None:
    """The bug is planted in what the processes run; the nodes stay up, and the history convicts them."""
    c = stormy(("-c", SKIPS_SYNCS))
    ann = c.start_client("ann")
    c.progress(100)
    ann.stop(DEADLINE_S)  # it would notice by itself that history went backwards, and refuse to go on
    lose_power(c, 1, 2, 3, keep="nothing")
    with pytest.raises(AssertionError, match="history check: VIOLATED"):
        c.finish()


def test_a_log_file_begun_a_moment_ago_is_kept(disks: Callable[[int], dict[int, FuseDisk]]) -> None:
    """LevelDB syncs what it writes into a new log file, and not that there is one (see ``_sync_names``)."""
    [disk] = disks(1).values()
    folder = disk.folder / "data"
    folder.mkdir()
    sync_folder(disk.folder)
    trio.run(fill_a_log_and_begin_another, folder, disk)
    disk.heal()
    disk.lose_power()
    storage = LevelDBStorage(folder, create=False)
    try:
        assert storage.get(b"before") == b"1"
        assert storage.get(b"after") == b"2"
    finally:
        storage.close()


async def fill_a_log_and_begin_another(folder: Path, disk: FuseDisk) -> None:
    storage = LevelDBStorage(folder)
    await storage.write([(b"before", b"1")], sync=True)
    sync_folder(folder)
    logs = logs_in(folder)
    disk.fail("sync", 0, files="*.ldb", slow_s=3.0)  # so the manifest, and the folder with it, comes later
    value = bytes(range(256)) * 4096  # 1 MiB
    for number in range(WRITE_BUFFER_BYTES_MAX // len(value) + 2):
        await storage.write([(b"bulk/%d" % number, value)], sync=False)
    assert logs_in(folder) - logs, "no other log file was begun"
    await storage.write([(b"after", b"2")], sync=True)
    disk.fail("sync", 5)  # from here on nothing more comes to the platter
    storage.close()


def logs_in(folder: Path) -> set[Path]:
    return set(folder.glob("*.log"))


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
