"""Whose folder this is: cluster, node and format, written once when the folder is made.

An acceptor's promises are in its folder. A node that comes up on an empty one has lost them, and
would vote as if it had promised nothing; so an empty folder is refused unless the caller says
that the node is new. A folder of another node, cluster or format is refused always.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
import trio

from journal.errors import DataFolderError, RecordDamaged
from journal.storage import Storage
from journal.storage.leveldb import LevelDBStorage
from journal.storage.records import IDENTITY, seal, unseal
from journal.types import NodeId

FORMAT = 1
"""The format of everything in a folder. A folder of another format is not touched."""


async def open_folder(path: Path | str, *, cluster: str, node: NodeId, create: bool) -> LevelDBStorage:
    """Open the data folder of ``node`` of ``cluster`` and lock it.

    With ``create``, a folder that is missing or empty is made this node's; one that already is
    this node's is opened as it is, so that a first start that was interrupted can be repeated.
    Raises ``DataFolderError``, ``RecordDamaged`` or ``StorageFailed``.
    """
    path = Path(path)
    is_new = not (path / "CURRENT").exists()
    if is_new and not create:
        raise DataFolderError(
            f"{path} holds no data. If node {node} is new, create the folder; if it had data, it has lost"
            " its promises and must not vote under its old id: add it as a new node instead"
        )
    if is_new:
        await trio.to_thread.run_sync(_make_folder, path)
    storage = await trio.to_thread.run_sync(lambda: LevelDBStorage(path, create=is_new))
    try:
        await claim(storage, str(path), cluster=cluster, node=node, create=create)
    except BaseException:
        storage.close()
        raise
    return storage


async def claim(storage: Storage, name: str, *, cluster: str, node: NodeId, create: bool) -> None:
    """Check that ``storage`` is that of ``node`` of ``cluster``; make it so if it is empty and
    ``create`` is true. ``name`` is what errors call it."""
    sealed = storage.get(IDENTITY)
    if sealed is not None:
        _check(name, sealed, cluster, node)
        return
    if next(iter(storage.iterate(b"", None)), None) is not None:
        raise DataFolderError(f"{name} holds records but no identity: it is not a node's data folder")
    if not create:
        raise DataFolderError(f"{name} is empty: node {node} has lost its data, or was never created")
    identity = msgpack.packb({"format": FORMAT, "cluster": cluster, "node": node})
    await storage.write([(IDENTITY, seal(IDENTITY, identity))], sync=True)


def _check(name: str, sealed: bytes, cluster: str, node: NodeId) -> None:
    try:
        identity = msgpack.unpackb(unseal(IDENTITY, sealed))
        found = identity["format"], identity["cluster"], identity["node"]
    except (ValueError, TypeError, KeyError) as error:
        raise RecordDamaged(IDENTITY, f"{name}: the identity does not decode: {error}") from error
    if found[0] != FORMAT:
        raise DataFolderError(f"{name} has format {found[0]}; this program knows format {FORMAT}")
    if found[1] != cluster:
        raise DataFolderError(f"{name} belongs to cluster {found[1]!r}, not to {cluster!r}")
    if found[2] != node:
        raise DataFolderError(f"{name} belongs to node {found[2]}, not to node {node}")


def _make_folder(path: Path) -> None:
    """Make the folder, and make its name durable in the folder above it."""
    path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
