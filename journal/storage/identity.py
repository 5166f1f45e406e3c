"""Whose folder this is: written once, when the folder is made.

* **Cluster, node, format.** A folder of another one is refused always.
* **The incarnation**, a random number: this folder and no other. An acceptor's promises are in
  its folder. A node that comes up on an empty one has lost them, and would vote as if it had
  promised nothing; so an empty folder is refused unless the caller says that the node is new,
  and the peers notice by the incarnation where that was said wrongly (``journal.identities``).
* **The first membership**: which nodes agree on the slots before any membership entry. It is
  history, so what a later start is told about the members does not change it.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import trio

from journal.errors import DataFolderError, DataLost, ProtocolViolation, RecordDamaged
from journal.paxos.membership import Membership
from journal.storage import Storage, Write
from journal.storage.leveldb import LevelDBStorage
from journal.storage.peers import INCARNATION_BYTES
from journal.storage.records import IDENTITY, seal, unseal
from journal.types import NodeId

FORMAT = 1
"""The format of everything in a folder. A folder of another format is not touched."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a folder says of itself."""

    cluster: str
    node: NodeId
    incarnation: bytes
    """Empty: the folder is from before there were incarnations."""
    first: Membership | None
    """The membership that the node was created with. None: as with the incarnation."""
    joined: bool
    """It was created to join a cluster that ran already: ``first`` are those it asked to learn from,
    itself not among them, and it votes only when a membership entry says so."""
    stands_for: NodeId | None = None
    """It rejoined in the place of this node, whose data was lost: the number that its operator's files
    still have."""
    to_vote: bool = False
    """Whom it stands for had a vote."""


async def open_folder(
    path: Path | str,
    *,
    cluster: str,
    node: NodeId,
    create: bool,
    first: Membership | None = None,
    joins: bool = False,
    stands_for: NodeId | None = None,
    to_vote: bool = False,
) -> LevelDBStorage:
    """Open the data folder of ``node`` of ``cluster`` and lock it.

    With ``create``, a folder that is missing or empty is made this node's, with ``first``, ``joins``,
    ``stands_for`` and ``to_vote`` as ``Identity`` has them; one that already is this node's is opened as it
    is, so that a first start that was interrupted can be repeated.
    Raises ``DataFolderError``, ``RecordDamaged`` or ``StorageFailed``.
    """
    path = Path(path)
    is_new = not (path / "CURRENT").exists()
    if is_new and not create:
        raise DataLost(
            f"{path} holds no data. If node {node} is new, create the folder; if it had data, it has lost"
            " its promises and must not vote under its old id: add it as a new node instead"
            f" (`synod member replace {node} NEW=HOST:PORT`, or start it with --rejoin)"
        )
    if is_new:
        await trio.to_thread.run_sync(_make_folder, path)
    storage = await trio.to_thread.run_sync(lambda: LevelDBStorage(path, create=is_new))
    try:
        await claim(
            storage,
            str(path),
            cluster=cluster,
            node=node,
            create=create,
            first=first,
            joins=joins,
            stands_for=stands_for,
            to_vote=to_vote,
        )
    except BaseException:
        storage.close()
        raise
    return storage


async def claim(
    storage: Storage,
    name: str,
    *,
    cluster: str,
    node: NodeId,
    create: bool,
    first: Membership | None = None,
    joins: bool = False,
    stands_for: NodeId | None = None,
    to_vote: bool = False,
) -> Identity:
    """Check that ``storage`` is that of ``node`` of ``cluster``; make it so if it is empty and
    ``create`` is true. ``name`` is what errors call it. Without ``create``, ``stands_for`` says that
    the folder of a node that rejoined in the place of that one will do as well."""
    identity = read_identity(storage, name)
    if identity is None:
        if next(iter(storage.iterate(b"", None)), None) is not None:
            raise DataFolderError(f"{name} holds records but no identity: it is not a node's data folder")
        if not create:
            raise DataLost(f"{name} is empty: node {node} has lost its data, or was never created")
        fresh = secrets.token_bytes(INCARNATION_BYTES)
        identity = Identity(cluster, node, fresh, first, joins, stands_for, to_vote)
        await _write(storage, identity)
        return identity
    if identity.cluster != cluster:
        raise DataFolderError(f"{name} belongs to cluster {identity.cluster!r}, not to {cluster!r}")
    if identity.node != node and not (stands_for and identity.stands_for == stands_for):
        place = f" (in the place of node {identity.stands_for})" if identity.stands_for else ""
        raise DataFolderError(f"{name} belongs to node {identity.node}{place}, not to node {node}")
    if not identity.incarnation:  # made before there were any: it is the one that its peers will meet first
        fresh = secrets.token_bytes(INCARNATION_BYTES)
        identity = replace(identity, incarnation=fresh, first=identity.first or first)
        await _write(storage, identity)
    return identity


def read_identity(storage: Storage, name: str) -> Identity | None:
    """Return whose folder it is; None where it does not say. Raises ``DataFolderError`` for an unknown
    format, and ``RecordDamaged``."""
    sealed = storage.get(IDENTITY)
    if sealed is None:
        return None
    try:
        said: dict[str, Any] = msgpack.unpackb(unseal(IDENTITY, sealed))
        form = said["format"]
        if form != FORMAT:
            raise DataFolderError(f"{name} has format {form}; this program knows format {FORMAT}")
        first = said.get("first")
        return Identity(
            said["cluster"],
            NodeId(said["node"]),
            said.get("incarnation", b""),
            None if first is None else Membership.unpack(first),
            said.get("joined", False),
            said.get("stands_for"),
            said.get("to_vote", False),
        )
    except (ValueError, TypeError, KeyError, ProtocolViolation) as error:
        raise RecordDamaged(IDENTITY, f"{name}: the identity does not decode: {error}") from error


async def _write(storage: Storage, identity: Identity) -> None:
    await storage.write([identity_write(identity)], sync=True)


def identity_write(identity: Identity) -> Write:
    """Return the record of ``identity``."""
    said: dict[str, Any] = {
        "format": FORMAT,
        "cluster": identity.cluster,
        "node": identity.node,
        "incarnation": identity.incarnation,
        "joined": identity.joined,
    }
    if identity.stands_for:
        said |= {"stands_for": identity.stands_for, "to_vote": identity.to_vote}
    if identity.first is not None:
        said["first"] = identity.first.pack()
    return IDENTITY, seal(IDENTITY, msgpack.packb(said))


def _make_folder(path: Path) -> None:
    """Make the folder, and make its name durable in the folder above it."""
    path.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
