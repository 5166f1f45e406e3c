"""New node folders from a snapshot file: a new cluster with the old one's space.

It is another cluster, with an id of its own: a client or a node of the old one is refused, because
both may live, and their histories part here. The space comes whole, with its history, its leases
and what it remembers of clients. The memberships do not: the new one's first is of the nodes that are made.

**A point in time.** Restored to an older revision, the space is what a reader of that revision saw; what
came after is undone, and its history begins there. Three things are not kept by revision, and are
made so that no promise is broken:

* *what is remembered of clients* is forgotten, and everything first sent before the journal stood at that
  revision is refused as expired: what was decided before is never decided again (``journal.sessions``);
* *a lease* that a key is bound to lives on if it lives in the snapshot; else it is granted anew for
  ``RESTORED_LEASE_TTL_MS``, so that the key goes soon if nobody keeps it alive;
* *the chain* starts from a hash of the old one and the revision: the slots in between have no meaning here.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from itertools import islice
from pathlib import Path

from journal.errors import DataFolderError, RevisionCompacted, RevisionInFuture, SnapshotDamaged
from journal.paxos.membership import Member, Membership
from journal.snapshots.file import reading, sync_folder
from journal.snapshots.format import Header
from journal.space import Space
from journal.state import FORMAT, State, read_state
from journal.storage import Storage, Write
from journal.storage.identity import open_folder
from journal.storage.leveldb import LevelDBStorage
from journal.storage.log import trimmed_write
from journal.storage.records import (
    BINDING,
    CURRENT,
    LEASE,
    MEMBERSHIP,
    MEMBERSHIP_AGAIN,
    NUMBER,
    STATE,
    number_key,
    seal,
    unseal,
)
from journal.types import NodeId, Revision
from journal.versions import ABSENT, succeed

BATCH_RECORDS = 2_000
RESTORED_LEASE_TTL_MS = 60_000

_PAGE_KEYS = 1_000


async def restore(
    file: Path,
    folders: Mapping[int, Path],
    *,
    cluster: str,
    endpoints: Mapping[int, str],
    at: Revision | None = None,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Header:
    """Make ``folders``, by node, of a new ``cluster`` with the space of ``file``; return its header.

    ``at``: as it was at that revision. Each folder is there whole or not at all. Raises
    ``SnapshotDamaged``, ``DataFolderError``, ``RevisionCompacted``, ``RevisionInFuture`` or ``OSError``.
    """
    for path in folders.values():
        if path.exists() and any(path.iterdir()):
            raise DataFolderError(f"{path} is not empty: restore into a new folder")
    with reading(file) as reader:
        header = reader.header
    if cluster == header.cluster:
        raise DataFolderError(
            f"the snapshot is of cluster {cluster!r}: a restored cluster needs an id of its own, because the"
            " old one may still live"
        )
    if at is not None and at > header.revision:
        raise RevisionInFuture(at, header.revision)
    if at is not None and at < header.compacted:
        raise RevisionCompacted(at, header.compacted)
    first = Membership(tuple(Member(NodeId(node), endpoint) for node, endpoint in sorted(endpoints.items())))
    for node, path in sorted(folders.items()):
        on_progress(f"node {node}: {path}")
        partial = path.with_name(f".{path.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            storage = await open_folder(partial, cluster=cluster, node=NodeId(node), create=True, first=first)
            try:
                if at is None or at == header.revision:
                    await _copy(file, storage)
                else:
                    await _copy_past(file, storage, at, partial.with_name(f".{path.name}.scratch"))
            finally:
                storage.close()
            if path.exists():
                path.rmdir()
            partial.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return header


async def _copy(file: Path, storage: Storage) -> None:
    """Store all records of ``file`` but the memberships. The state comes last, by its key."""
    with reading(file) as reader:
        records = (record for record in reader.records() if record[0][:1] not in _DROPPED)
        while batch := list(islice(records, BATCH_RECORDS)):
            for key, value in batch:
                unseal(key, value)
            await storage.write(batch, sync=False)
        state = read_state(storage)
        if state is None or (state.applied, state.chain) != (reader.header.slot, reader.header.chain):
            raise SnapshotDamaged(0, "its state is not that of its header", str(file))
        await storage.write([trimmed_write(state.applied)], sync=True)


_DROPPED = (MEMBERSHIP, MEMBERSHIP_AGAIN)


async def _copy_past(file: Path, storage: Storage, at: Revision, scratch: Path) -> None:
    """Store the space as it was at ``at``, read from a copy of the whole in ``scratch``."""
    shutil.rmtree(scratch, ignore_errors=True)
    whole = LevelDBStorage(scratch)
    try:
        await _copy(file, whole)
        records = past(whole, at)
        while batch := list(islice(records, BATCH_RECORDS)):
            await storage.write(batch, sync=False)
        state = read_state(storage)
        assert state is not None
        await storage.write([trimmed_write(state.applied)], sync=True)
    finally:
        whole.close()
        shutil.rmtree(scratch, ignore_errors=True)


def past(whole: Storage, at: Revision) -> Iterator[Write]:
    """Yield the records of the space in ``whole`` as it was at revision ``at``, the state last."""
    space = Space.load(whole)
    bound: dict[int, None] = {}
    start: bytes | None = b""
    while start is not None:
        items, start = space.scan(start, b"", at, _PAGE_KEYS, 1 << 20)
        for key, record in items:
            made = succeed(ABSENT, record.create, record.mod, record.version, record.lease, record.value, at)
            yield CURRENT + key, seal(CURRENT + key, made[4])
            if record.lease:
                bound[record.lease] = None
                binding = number_key(BINDING, record.lease) + key
                yield binding, seal(binding, b"")
    living = {lease for lease, found in space.leases.items() if found.granted_revision <= at}
    for lease in sorted(living | bound.keys()):
        found = space.leases.get(lease)
        ttl_ms = RESTORED_LEASE_TTL_MS if found is None else found.ttl_ms
        granted = at if found is None else min(at, found.granted_revision)
        key = number_key(LEASE, lease)
        yield key, seal(key, NUMBER.pack(ttl_ms) + NUMBER.pack(granted))
    chain = sha256(b"synod restore" + space.chain + NUMBER.pack(at)).digest()
    # What was decided at or before ``at`` had a base below it.
    state = State(FORMAT, space.applied, at, chain, compacted=at, forgotten_floor=at, recent_floor=at)
    yield STATE, state.seal()
