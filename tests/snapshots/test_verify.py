"""What ``verify`` notices: each kind of damage, planted once, and nothing where nothing is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from journal.entries import NOOP, pack_compaction, pack_offers
from journal.errors import DataFolderError, RevisionCompacted, RevisionInFuture
from journal.limits import Limits
from journal.offers import Delete, LeaseGrant, Offer, Put, pack_batch, pack_offer
from journal.paxos.effects import Effects
from journal.paxos.membership import Member, Membership
from journal.paxos.messages import AcceptedValue
from journal.snapshots.restore import restore
from journal.snapshots.verify import Report, verify, verify_folder
from journal.space import Space
from journal.storage import Storage
from journal.storage.identity import claim, open_folder
from journal.storage.leveldb import LevelDBStorage
from journal.storage.log import LogStore
from journal.storage.memory import MemoryStorage
from journal.storage.records import (
    ACCEPTED,
    BINDING,
    CURRENT,
    ENDED,
    HISTORY,
    IDENTITY,
    LEASE,
    OUTCOME,
    SESSION,
    STATE,
    family_end,
    number_key,
    number_of,
    seal,
    unseal,
)
from journal.types import Ballot, NodeId, Revision, Slot
from tests.snapshots.test_whole import save

BALLOT = Ballot(1, NodeId(1))
FIRST = Membership((Member(NodeId(1), "127.0.0.1:1"),))


def entry(number: int, *offers: Offer) -> bytes:
    packed = [pack_offer(number * 10 + index, offer) for index, offer in enumerate(offers)]
    return pack_offers(1_700_000_000_000, [pack_batch(b"client", 0, 0, packed)])


def entries(compact: bool) -> list[bytes]:
    found = [entry(0, Offer((LeaseGrant(5, 60_000), Put(b"leased", b"x", 5))))]
    for number in range(1, 40):
        found += [entry(number, Offer((Put(b"key%d" % (number % 5), b"v%d" % number),)))]
    found.append(entry(40, Offer((Delete(b"key2"),))))
    found.append(NOOP)
    if compact:
        found.append(pack_compaction(Revision(20)))
        found.append(entry(41, Offer((Put(b"last", b"x"),))))
    return found


async def fill(storage: Storage, *, compact: bool = False, trim: bool = False, reach: int = 1) -> Space:
    """Make what a node that ran leaves behind; ``reach``: of so many bytes older versions are in its log."""
    await claim(storage, "a node", cluster="old", node=NodeId(1), create=True, first=FIRST)
    log, space = LogStore(storage, Limits()), Space.load(storage, log_reach_bytes=reach)
    for slot, value in enumerate(entries(compact), 1):
        effects = Effects(promised=BALLOT, accepted=[AcceptedValue(Slot(slot), BALLOT, value)])
        await storage.write(log.writes_for(effects) + space.fold(Slot(slot), value).writes, sync=False)
        space.flushed(Slot(slot))
    while compact and space.is_compacting:
        await storage.write(space.compact_step(7), sync=False)
    while trim and (writes := space.slots.trim_step(Slot(15), 4)):
        await storage.write(writes, sync=False)
    return space


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def looked(storage: Storage) -> Report:
    report = Report("a node", "folder")
    await verify_folder(storage, report)
    return report


@pytest.mark.parametrize("reach", [1, 100, 1_000])
@pytest.mark.parametrize(("compact", "trim"), [(False, False), (True, False), (True, True)])
async def test_what_is_whole_is_found_whole(compact: bool, trim: bool, reach: int) -> None:
    storage = MemoryStorage()
    space = await fill(storage, compact=compact, trim=trim, reach=reach)
    assert bool(list(storage.iterate(ENDED, family_end(ENDED)))) is (reach > 100)
    report = await looked(storage)
    assert report.findings == []
    assert report.facts["revision"] == space.revision and report.facts["cluster"] == "old"
    folded = any(text.startswith("the fold") for text in report.checked)
    assert folded is not trim
    assert bool(report.skipped) is trim


async def test_an_empty_node_is_whole() -> None:
    storage = MemoryStorage()
    await claim(storage, "a node", cluster="old", node=NodeId(1), create=True, first=FIRST)
    assert (await looked(storage)).findings == []


@pytest.mark.parametrize("reach", [1, 1_000])
async def test_every_single_flipped_bit_is_noticed(reach: int) -> None:
    storage = MemoryStorage()
    await fill(storage, compact=True, reach=reach)
    records = list(storage.iterate(b"", None))
    for index, (key, sealed) in enumerate(records):
        if index % 5 and key[:1] in (OUTCOME, ACCEPTED, SESSION, b"g", b"m"):
            continue  # a sample of the many
        flipped = bytearray(sealed)
        flipped[index % len(flipped)] ^= 1 << (index % 8)
        storage.write_now([(key, bytes(flipped))], sync=True)
        assert (await looked(storage)).findings, key
        storage.write_now([(key, sealed)], sync=True)
    assert (await looked(storage)).findings == []


@pytest.mark.parametrize("trim", [False, True], ids=["whole log", "trimmed log"])
@pytest.mark.parametrize(
    "family", [CURRENT, HISTORY, ENDED, LEASE, BINDING, OUTCOME, ACCEPTED, IDENTITY, STATE]
)
async def test_a_record_that_is_gone_is_missed(family: bytes, trim: bool) -> None:
    storage = MemoryStorage()
    await fill(storage, compact=True, trim=trim, reach=1_000 if family in (ENDED, ACCEPTED) else 1)
    keys = [key for key, _sealed in storage.iterate(family, family_end(family))]
    # A key that has no history is missed by nothing but the fold.
    if trim and family == CURRENT:
        keys = [key for key in keys if key in (b"kkey1", b"kleased")]
    if family == ENDED:  # of what is compacted nobody speaks any more
        keys = [key for key in keys if number_of(key) > 20]
    for key in keys[:: max(1, len(keys) // 4)]:
        sealed = storage.get(key)
        storage.write_now([(key, None)], sync=True)
        assert (await looked(storage)).findings, key
        storage.write_now([(key, sealed)], sync=True)


async def test_sessions_that_are_gone_are_missed_by_the_fold() -> None:
    storage = MemoryStorage()
    await fill(storage)
    keys = [key for key, _sealed in storage.iterate(SESSION, family_end(SESSION))]
    storage.write_now([(keys[3], None)], sync=True)
    assert any("session" in text and "missing" in text for text in (await looked(storage)).findings)


async def test_forgeries_with_good_checksums_are_noticed() -> None:
    """Records that are whole in themselves, but are not what was written."""
    for forge in ("value", "entry", "outcome", "state", "history", "junk", "unknown", "old outcome"):
        storage = MemoryStorage()
        await fill(storage)
        key, value = b"", b""
        if forge == "value":
            key = CURRENT + b"key1"
            value = unseal(key, storage.get(key) or b"")[:-1] + b"X"
        elif forge == "entry":
            key = number_key(ACCEPTED, 7)
            value = unseal(key, storage.get(key) or b"")[:12] + entry(7, Offer((Put(b"key2", b"other"),)))
        elif forge == "outcome":
            key = number_key(OUTCOME, 9)
            found = bytearray(unseal(key, storage.get(key) or b""))
            found[3] ^= 1
            value = bytes(found)
        elif forge == "state":
            key = STATE
            found = bytearray(unseal(key, storage.get(key) or b""))
            found[10] ^= 1
            value = bytes(found)
        elif forge == "history":
            key = HISTORY + (1000).to_bytes(8, "big") + b"key1"
            value = unseal(CURRENT + b"key1", storage.get(CURRENT + b"key1") or b"")
        elif forge == "junk":
            key, value = CURRENT + b"never", unseal(CURRENT + b"key1", storage.get(CURRENT + b"key1") or b"")
        elif forge == "unknown":
            key, value = b"Zthing", b"x"
        else:
            key = number_key(OUTCOME, 900)
            value = unseal(number_key(OUTCOME, 9), storage.get(number_key(OUTCOME, 9)) or b"")
        storage.write_now([(key, seal(key, value))], sync=True)
        assert (await looked(storage)).findings, forge


async def test_findings_are_told_up_to_a_number_and_counted_beyond() -> None:
    storage = MemoryStorage()
    await fill(storage)
    storage.write_now([(b"k%03d" % number, b"bad!x") for number in range(300)], sync=True)
    report = await looked(storage)
    assert len(report.findings) == 100 and report.more >= 200


# -- files and folders ------------------------------------------------------------------------------


async def test_a_snapshot_file_and_what_is_restored_from_it_are_whole(tmp_path: Path) -> None:
    storage = MemoryStorage()
    space = await fill(storage, compact=True)
    file = tmp_path / "saved.synod"
    save(storage, file)
    assert (await verify(file)).findings == []
    endpoints = {1: "127.0.0.1:1", 2: "127.0.0.1:2"}
    folders = {1: tmp_path / "new" / "node-1", 2: tmp_path / "new" / "node-2"}
    header = await restore(file, folders, cluster="new", endpoints=endpoints)
    assert header.revision == space.revision
    assert names(tmp_path / "new") == ["node-1", "node-2"]
    for node, path in folders.items():
        report = await verify(path)
        assert report.findings == []
        assert report.facts["cluster"] == "new" and report.facts["node"] == node
        restored = LevelDBStorage(path, create=False)
        again = Space.load(restored)
        assert (again.chain, again.applied) == (space.chain, space.applied)
        assert again.outcome(b"client", 10) == space.outcome(b"client", 10)
        for at in range(space.compacted, space.revision + 1):
            assert again.scan(b"", b"", at, 100, 1 << 20) == space.scan(b"", b"", at, 100, 1 << 20)
        restored.close()
    # Its node is of the new cluster, with the members that were named.
    opened = await open_folder(folders[1], cluster="new", node=NodeId(1), create=False)
    opened.close()
    with pytest.raises(DataFolderError, match="belongs to cluster 'new'"):
        await open_folder(folders[1], cluster="old", node=NodeId(1), create=False)


async def test_a_point_in_time_is_restored(tmp_path: Path) -> None:
    storage = MemoryStorage()
    space = await fill(storage, compact=True)
    file = tmp_path / "saved.synod"
    save(storage, file)
    for name, at in (("a", 20), ("b", 31), ("c", int(space.revision))):
        folder = tmp_path / name / "node-1"
        await restore(file, {1: folder}, cluster=name, endpoints={1: "127.0.0.1:1"}, at=Revision(at))
        assert (await verify(folder)).findings == []
        assert names(folder.parent) == ["node-1"]
        restored = LevelDBStorage(folder, create=False)
        again = Space.load(restored)
        assert again.revision == at
        assert again.scan(b"", b"", None, 100, 1 << 20) == space.scan(b"", b"", at, 100, 1 << 20)
        restored.close()


async def test_what_cannot_be_restored_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    storage = MemoryStorage()
    space = await fill(storage, compact=True)
    file = tmp_path / "saved.synod"
    save(storage, file)
    folders, endpoints = {1: tmp_path / "new"}, {1: "127.0.0.1:1"}
    with pytest.raises(DataFolderError, match="needs an id of its own"):
        await restore(file, folders, cluster="old", endpoints=endpoints)
    with pytest.raises(RevisionCompacted):
        await restore(file, folders, cluster="new", endpoints=endpoints, at=Revision(19))
    with pytest.raises(RevisionInFuture):
        await restore(file, folders, cluster="new", endpoints=endpoints, at=Revision(space.revision + 1))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    from journal.errors import SnapshotDamaged

    with pytest.raises(SnapshotDamaged):
        await restore(file, folders, cluster="new", endpoints=endpoints)
    assert names(tmp_path) == ["saved.synod"]
    assert (await verify(file)).findings
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "something").touch()
    with pytest.raises(DataFolderError, match="not empty"):
        await restore(file, folders, cluster="new", endpoints=endpoints)


async def test_no_data_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataFolderError, match="holds no data"):
        await verify(tmp_path)
