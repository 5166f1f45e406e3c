"""Which incarnation of each peer this node has met, and whether its peers have disowned it.

An incarnation is the random number that a data folder was made with (``identity``). A peer
that comes under its number with another one has another folder, so it has forgotten what it
promised. These records are this node's own: a snapshot of the space does not carry them.
"""

from __future__ import annotations

from journal.errors import RecordDamaged
from journal.storage import Storage, Write
from journal.storage.records import DISOWNED, NUMBER, PEER, family_end, number_key, number_of, seal, unseal
from journal.types import NodeId

INCARNATION_BYTES = 8


def load_peers(storage: Storage) -> dict[NodeId, bytes]:
    """Return the incarnation of every peer that was ever met. Raises ``RecordDamaged``."""
    found: dict[NodeId, bytes] = {}
    for key, sealed in storage.iterate(PEER, family_end(PEER)):
        incarnation = unseal(key, sealed)
        if len(key) != 1 + NUMBER.size or len(incarnation) != INCARNATION_BYTES:
            raise RecordDamaged(key, "it is not the incarnation of a peer")
        found[NodeId(number_of(key))] = incarnation
    return found


def peer_write(peer: NodeId, incarnation: bytes) -> Write:
    """Return the record of a peer that was met for the first time."""
    key = number_key(PEER, peer)
    return key, seal(key, incarnation)


def load_disowned(storage: Storage) -> str:
    """Return why this node's peers do not take it for itself any more; empty where they do."""
    sealed = storage.get(DISOWNED)
    return "" if sealed is None else unseal(DISOWNED, sealed).decode()


def disowned_write(reason: str) -> Write:
    """Return the record that keeps this node from voting, whoever its peers are after a restart."""
    return DISOWNED, seal(DISOWNED, reason.encode())
