"""Whose folder it is: a lost, foreign or damaged one is refused with its reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgpack
import pytest

from journal.errors import DataFolderError, RecordDamaged
from journal.storage.identity import claim, open_folder
from journal.storage.leveldb import LevelDBStorage
from journal.storage.memory import MemoryStorage
from journal.storage.records import IDENTITY, seal
from journal.types import NodeId

ONE = NodeId(1)


async def test_a_folder_is_made_once_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "node-1"
    for create in (True, False, True):
        storage = await open_folder(path, cluster="c", node=ONE, create=create)
        storage.close()


async def test_a_lost_folder_is_not_made_anew_unasked(tmp_path: Path) -> None:
    path = tmp_path / "node-1"
    with pytest.raises(DataFolderError, match="lost its promises"):
        await open_folder(path, cluster="c", node=ONE, create=False)
    assert not path.exists()
    (await open_folder(path, cluster="c", node=ONE, create=True)).close()
    shutil.rmtree(path)
    path.mkdir()
    with pytest.raises(DataFolderError, match="lost its promises"):
        await open_folder(path, cluster="c", node=ONE, create=False)


async def test_the_folder_of_another_node_or_cluster_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "node-1"
    (await open_folder(path, cluster="c", node=ONE, create=True)).close()
    for create in (True, False):
        with pytest.raises(DataFolderError, match="belongs to node 1, not to node 2"):
            await open_folder(path, cluster="c", node=NodeId(2), create=create)
        with pytest.raises(DataFolderError, match="belongs to cluster 'c', not to 'd'"):
            await open_folder(path, cluster="d", node=ONE, create=create)
    # A refusal leaves the folder unlocked.
    (await open_folder(path, cluster="c", node=ONE, create=False)).close()


async def test_a_locked_folder_is_refused(tmp_path: Path) -> None:
    storage = await open_folder(tmp_path / "node-1", cluster="c", node=ONE, create=True)
    with pytest.raises(DataFolderError, match="live node"):
        await open_folder(tmp_path / "node-1", cluster="c", node=ONE, create=False)
    storage.close()


async def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    foreign = LevelDBStorage(tmp_path / "db")
    await foreign.write([(b"x", b"y")], sync=True)
    foreign.close()
    with pytest.raises(DataFolderError, match="not a node's data folder"):
        await open_folder(tmp_path / "db", cluster="c", node=ONE, create=True)


async def test_an_interrupted_first_start_can_be_repeated(tmp_path: Path) -> None:
    LevelDBStorage(tmp_path / "db").close()  # it died before the identity was written
    with pytest.raises(DataFolderError, match="never created"):
        await open_folder(tmp_path / "db", cluster="c", node=ONE, create=False)
    (await open_folder(tmp_path / "db", cluster="c", node=ONE, create=True)).close()


async def test_an_unknown_format_is_not_touched() -> None:
    storage = MemoryStorage()
    identity = msgpack.packb({"format": 99, "cluster": "c", "node": 1})
    await storage.write([(IDENTITY, seal(IDENTITY, identity))], sync=True)
    with pytest.raises(DataFolderError, match="format 99"):
        await claim(storage, "memory", cluster="c", node=ONE, create=True)


async def test_a_damaged_identity_is_noticed_at_every_byte() -> None:
    storage = MemoryStorage()
    await claim(storage, "memory", cluster="c", node=ONE, create=True)
    sealed = storage.get(IDENTITY)
    assert sealed is not None
    for index in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[index] ^= 1
        await storage.write([(IDENTITY, bytes(damaged))], sync=True)
        with pytest.raises(RecordDamaged):
            await claim(storage, "memory", cluster="c", node=ONE, create=False)
    await storage.write([(IDENTITY, seal(IDENTITY, b"\xc1"))], sync=True)
    with pytest.raises(RecordDamaged, match="does not decode"):
        await claim(storage, "memory", cluster="c", node=ONE, create=False)
