"""Every error that the journal raises on purpose. PURE.

Two families, after h11: ``InvalidRequest`` is the caller's fault and
``ProtocolViolation`` is a peer's. The rest say that something cannot be done now
(``Unavailable``, ``NotLeader``, ``Overloaded``) or that this node's own disk or
folder is wrong (``StorageError``). Each message names what is wrong and where, so
that it can be shown to a person as it is.
"""

from __future__ import annotations

from journal.types import NodeId, Revision


class JournalError(Exception):
    """Base of all errors below."""


# -- the caller's fault ---------------------------------------------------------


class InvalidRequest(JournalError):
    """The request is malformed. ``where`` is a path such as ``offers[3].mutations[0].key``."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")
        self.where = where
        self.why = why


class OfferInvalid(InvalidRequest):
    """An offer breaks the form or a named limit; nothing of its batch was proposed."""


class RevisionCompacted(JournalError):
    """History below ``compacted`` is gone; ask for that revision or a later one."""

    def __init__(self, asked: Revision, compacted: Revision) -> None:
        super().__init__(f"revision {asked} is compacted: the oldest that can be read is {compacted}")
        self.asked = asked
        self.compacted = compacted


class RevisionInFuture(JournalError):
    """A revision was asked for that the journal has not reached."""

    def __init__(self, asked: Revision, current: Revision) -> None:
        super().__init__(f"revision {asked} is in the future: the journal is at {current}")
        self.asked = asked
        self.current = current


class WrongCluster(JournalError):
    """A peer or a client speaks to a node of another cluster, or to another node."""


class Disowned(WrongCluster):
    """A node comes under its number, but not with the data folder that it was known with: it has
    lost its promises, and must never vote under this number again. The text says how to rejoin."""


class LeaseNotFound(JournalError):
    """The lease was never granted, was revoked, or has expired."""

    def __init__(self, lease: int) -> None:
        super().__init__(f"lease {lease} does not exist: it expired, was revoked, or was never granted")
        self.lease = lease


# -- a peer's fault -------------------------------------------------------------


class ProtocolViolation(JournalError):
    """A peer sent something that no correct node sends; the message is dropped."""


# -- not now --------------------------------------------------------------------


class Unavailable(JournalError):
    """The request cannot be served at present; what became of it is said in the text."""


class ChangeRefused(Unavailable):
    """A change of the members would do harm as things are; the text says why. Nothing was changed."""


class NotLeader(Unavailable):
    """Only the leader takes this; ``leader`` and ``endpoint`` say who that is, if known."""

    def __init__(self, leader: NodeId | None, endpoint: str | None) -> None:
        known = f"node {leader} at {endpoint} is" if leader else "no leader is known at present"
        super().__init__(f"this node is not the leader: {known}")
        self.leader = leader
        self.endpoint = endpoint


class Overloaded(JournalError):
    """A named limit is reached; try again after ``retry_after_ms``."""

    def __init__(self, limit: str, value: int, retry_after_ms: int) -> None:
        super().__init__(f"{limit}={value} is reached; retry after {retry_after_ms} ms")
        self.limit = limit
        self.value = value
        self.retry_after_ms = retry_after_ms


class SpaceFull(JournalError):
    """The disk of a node is full but for its reserve: what would grow the space is refused.

    Nothing was taken in. Deletes, compaction and reads go on.
    """

    def __init__(self, node: NodeId, free: int | None, reserve: int) -> None:
        """``free`` is None where the node's peer says so: then the reserve is the peer's own."""
        left = "" if free is None else f" {free} bytes are free, disk_reserve_bytes={reserve};"
        super().__init__(
            f"the disk of node {node} is full:{left} what grows the space is refused;"
            " deletes, compaction and reads go on"
        )
        self.node = node
        self.free = free
        self.reserve = reserve


# -- this node's own disk -------------------------------------------------------


class StorageError(JournalError):
    """This node's data folder cannot be used."""


class DataFolderError(StorageError):
    """The folder is of another node or cluster, locked by a live node, or of an unknown format."""


class DataLost(DataFolderError):
    """The folder holds nothing: what the node had promised is lost, or it never was a node's."""


class RecordDamaged(StorageError):
    """A record fails its checksum. Never believed, never dropped silently."""

    def __init__(self, key: bytes, why: str) -> None:
        super().__init__(f"record {key!r} is damaged: {why}")
        self.key = key


class VoteLost(RecordDamaged):
    """The records that a vote rests on are damaged in both their places: this node must not vote again."""


class StorageFailed(StorageError):
    """A read, write or sync failed. A failed sync is never retried: the node stops."""


class EntryUnreadable(StorageError):
    """A chosen entry cannot be folded by this version: nothing of it was, and nothing after it can be."""


class FolderDamaged(StorageFailed):
    """A file of the folder is not what was written, and LevelDB cannot read it: no error of the disk's that
    might pass, but data that is lost."""


class SnapshotDamaged(JournalError):
    """A snapshot file is not what was written. ``position``: at which byte that shows."""

    def __init__(self, position: int, why: str, name: str = "the snapshot") -> None:
        super().__init__(f"{name} is damaged at byte {position}: {why}")
        self.position = position
        self.why = why
