"""Whose folder it is: a lost, foreign or damaged one is refused with its reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgpack
import pytest

from journal.errors import DataFolderError, RecordDamaged
from journal.paxos.membership import Member, Membership
from journal.storage.identity import claim, open_folder, read_identity
from journal.storage.leveldb import LevelDBStorage
from journal.storage.memory import MemoryStorage
from journal.storage.peers import INCARNATION_BYTES, load_peers
from journal.storage.records import IDENTITY, PEER, number_key, seal
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


FIRST = Membership((Member(ONE, "a:1"), Member(NodeId(2), "b:1")))


async def test_each_folder_has_an_incarnation_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        for create in (True, False):
            storage = await open_folder(tmp_path / name, cluster="c", node=ONE, create=create)
            identity = read_identity(storage, name)
            storage.close()
            assert identity is not None and len(identity.incarnation) == INCARNATION_BYTES
            found.append(identity.incarnation)
    assert found[0] == found[1] != found[2] == found[3]


async def test_the_first_membership_is_kept_whatever_is_said_later() -> None:
    storage = MemoryStorage()
    made = await claim(storage, "memory", cluster="c", node=ONE, create=True, first=FIRST)
    assert (made.first, made.joined) == (FIRST, False)
    other = Membership((Member(ONE, "elsewhere:1"),))
    for first, joins in ((other, True), (None, False)):
        again = await claim(storage, "memory", cluster="c", node=ONE, create=True, first=first, joins=joins)
        assert again == made == read_identity(storage, "memory")


async def test_a_node_that_joined_says_so() -> None:
    storage = MemoryStorage()
    await claim(storage, "memory", cluster="c", node=NodeId(3), create=True, first=FIRST, joins=True)
    identity = read_identity(storage, "memory")
    assert identity is not None and identity.joined and identity.first == FIRST


async def test_a_folder_from_before_gets_what_it_lacks_once() -> None:
    storage = MemoryStorage()
    old = msgpack.packb({"format": 1, "cluster": "c", "node": 1})
    await storage.write([(IDENTITY, seal(IDENTITY, old))], sync=True)
    first = await claim(storage, "memory", cluster="c", node=ONE, create=False, first=FIRST)
    assert len(first.incarnation) == INCARNATION_BYTES and first.first == FIRST
    assert await claim(storage, "memory", cluster="c", node=ONE, create=False) == first


async def test_a_peer_record_of_another_form_is_damage() -> None:
    storage = MemoryStorage()
    key = number_key(PEER, 2)
    await storage.write([(key, seal(key, b"short"))], sync=True)
    with pytest.raises(RecordDamaged, match="not the incarnation of a peer"):
        load_peers(storage)
