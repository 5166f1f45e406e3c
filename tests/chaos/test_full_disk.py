"""Full and damaged disks under real nodes: small file systems of their own, real LevelDB."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from journal.client import ClientConfig
from journal.errors import SpaceFull
from journal.offers import Offer, Put
from journal.scrub import Scrub
from journal.storage.leveldb import LevelDBStorage
from journal.storage.records import ACCEPTED, CURRENT, family_end
from journal.sync import SyncJournal, connect

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
PATIENT = ClientConfig(timeout_s=DEADLINE_S)
VALUE = os.urandom(256 * 1024)  # LevelDB would compress anything else away


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Callable[[int], None]]:
    """Mount a file system of ``mib`` MiB; yields what makes it larger."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)

    def grow(grown: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={grown}m", str(folder)], check=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Nodes:
    """Three nodes as processes."""

    def __init__(self, folder: Path, reserve_mib: int) -> None:
        self.folder = folder
        self.reserve_mib = reserve_mib
        with ExitStack() as probes:  # held together, so that no two are the same
            sockets = [probes.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            self.endpoints = {n: f"127.0.0.1:{s.getsockname()[1]}" for n, s in enumerate(sockets, 1)}
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, node: int, *, create: bool = False) -> None:
        members = ",".join(f"{n}={endpoint}" for n, endpoint in self.endpoints.items())
        command = [sys.executable, "-m", "synod", "node", "--node", str(node)]
        command += ["--dir", str(self.folder / f"node-{node}"), "--listen", self.endpoints[node]]
        command += ["--cluster", "c", "--members", members, "--disk-reserve-mib", str(self.reserve_mib)]
        with (self.folder / f"log-{node}").open("ab") as log:
            self.processes[node] = subprocess.Popen(
                command + ["--create"] * create, cwd=ROOT, stdout=log, stderr=log
            )

    def log(self, node: int) -> str:
        return (self.folder / f"log-{node}").read_text()

    def terminate(self, node: int) -> None:
        self.processes[node].terminate()
        assert self.processes[node].wait(DEADLINE_S) == 0

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    assert os.geteuid() == 0, "these tests mount file systems: run them as root"
    return tmp_path


@contextmanager
def three_nodes(folder: Path, reserve_mib: int) -> Iterator[Nodes]:
    nodes = Nodes(folder, reserve_mib)
    try:
        for node in nodes.endpoints:
            nodes.start(node, create=True)
        yield nodes
    finally:
        nodes.stop()


def until(condition: Callable[[], object], what: str) -> None:
    """Ask until it holds; each question takes its own time (a call to a node)."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"


def health(journal: SyncJournal, endpoint: str) -> str:
    status = journal.statuses().get(endpoint)
    return getattr(status, "health", str(status))


def is_taken(journal: SyncJournal, key: bytes) -> bool:
    """Put a key; whether it was taken, not refused for the sake of a full disk."""
    try:
        journal.put(key, b"1")
    except SpaceFull:
        return False
    return True


def fill(journal: SyncJournal, stop: Callable[[], bool], values: int = 400) -> int:
    for number in range(values):
        if stop():
            return number
        journal.put(b"bulk/%d" % number, VALUE)
    raise AssertionError("the disk did not fill up")


def test_a_full_disk_of_one_node_refuses_offers_until_there_is_space(tmp: Path) -> None:
    with ExitStack() as stack:
        grow = stack.enter_context(small_disk(tmp / "node-2", 72))
        nodes = stack.enter_context(three_nodes(tmp, reserve_mib=44))
        with connect(list(nodes.endpoints.values()), config=PATIENT) as journal:
            journal.put(b"first", b"1", label="first")
            with pytest.raises(SpaceFull) as refused:
                fill(journal, lambda: False)
            assert refused.value.node == 2
            assert "full" in health(journal, nodes.endpoints[2])
            # Reads and deletes go on, also of offers that travel with one that is refused.
            assert journal.get(b"first") is not None
            journal.delete(b"first")
            assert journal.get(b"first") is None
            with pytest.raises(SpaceFull):
                journal.offer(Offer(mutations=(Put(b"small", b""),)))
            journal.compact(journal.seen)
            # Space comes back, and nobody needs to be told.
            grow(400)
            until(
                lambda: (
                    "disk of" not in health(journal, nodes.endpoints[2])
                    and "disk full" not in health(journal, nodes.endpoints[2])
                ),
                "the alarm goes",
            )
            until(lambda: is_taken(journal, b"again"), "offers are taken again")
            assert all(process.poll() is None for process in nodes.processes.values())


def test_a_node_that_finds_no_space_stops_at_once_and_the_others_go_on(tmp: Path) -> None:
    with small_disk(tmp / "node-2", 16) as grow, three_nodes(tmp, reserve_mib=1) as nodes:
        victim = nodes.processes[2]
        with connect(list(nodes.endpoints.values()), config=PATIENT) as journal:
            # Others write there as well, and more between two looks than the reserve holds.
            for number in range(200):
                if victim.poll() is not None:
                    break
                with suppress(SpaceFull):
                    journal.put(b"bulk/%d" % number, VALUE * 2)
                with suppress(OSError):
                    (tmp / "node-2" / f"rubbish-{number}").write_bytes(b"x" * (1 << 18))
            assert victim.wait(DEADLINE_S) == 3
            assert "node.storage_failed" in nodes.log(2) and "Traceback" not in nodes.log(2)
            # Where it had raised its alarm before, that counts for as long as the leader takes it for alive.
            until(lambda: is_taken(journal, b"after"), "the others go on")
            # With space again it is simply started; nothing of it was lost.
            grow(400)
            nodes.start(2)
            until(
                lambda: (
                    health(journal, nodes.endpoints[2]) == "ok"
                    or "nearly" in health(journal, nodes.endpoints[2])
                ),
                "node 2 is back",
            )
            assert journal.get(b"after") is not None


def test_damaged_records_of_a_real_folder_are_repaired_and_folded_anew(tmp: Path) -> None:
    with (
        three_nodes(tmp, reserve_mib=1) as nodes,
        connect(list(nodes.endpoints.values()), config=PATIENT) as journal,
    ):
        for number in range(50):
            journal.put(b"key/%d" % number, b"value %d" % number)
        until(lambda: len(chains(journal)) == 1, "all have folded it")
        nodes.terminate(3)
        spoil(tmp / "node-3")
        nodes.start(3)
        until(lambda: "space.rebuilt" in nodes.log(3), "the space is folded anew")
        journal.put(b"after", b"1")
        until(lambda: len(chains(journal)) == 1, "all nodes have the same chain")
        nodes.terminate(3)
        assert "Traceback" not in nodes.log(3)
        assert damages(tmp / "node-3") == []


def spoil(folder: Path) -> None:
    """Flip a bit of an entry, and of a key's record."""
    storage = LevelDBStorage(folder, create=False)
    entries = [key for key, _value in storage.iterate(ACCEPTED, family_end(ACCEPTED))]
    keys = [key for key, _value in storage.iterate(CURRENT, family_end(CURRENT))]
    writes = []
    for key in (entries[-1], keys[len(keys) // 2]):
        sealed = bytearray(storage.get(key) or b"")
        sealed[-1] ^= 1
        writes.append((key, bytes(sealed)))
    storage.write_now(writes, sync=True)
    storage.close()


def damages(folder: Path) -> list[str]:
    """Return what a look at all records of a folder finds."""
    storage = LevelDBStorage(folder, create=False)
    scrub, found = Scrub(storage), []
    while not scrub.passes:
        found += scrub.step(1_000)
    storage.close()
    return [str(error) for error in found]


def chains(journal: SyncJournal) -> set[object]:
    return {
        (getattr(status, "applied", None), getattr(status, "chain", str(status)))
        for status in journal.statuses().values()
    }
