"""Whether a peer is the one it was, and whether the peers take this node for itself.

A voter that has lost its data folder has lost its promises: let in under its number, it could
help to choose a second value for a slot. An empty folder is refused unless the operator says
that the node is new (``storage.identity``); this is for the operator who says so wrongly.

Each folder has a random *incarnation*. Two nodes tell each other theirs when a stream is
opened, and each keeps the first one that it was told for a number; it is on the disk before
anything of the peer is taken in, so whoever has counted a vote knows whose it was. A peer that
comes with another one is *disowned*: nothing is taken from it or sent to it. It is told so, and
then keeps still for good: it neither votes nor stands, whoever else would still have it.

Only members are recorded. Who is about to join may lose its folder and try again: it has no vote.

What this cannot see: a folder that was put back from an old copy, and a node that lost its folder
before the peers that are left had ever met it. So it is the second line of defence, not the first.
"""

from __future__ import annotations

from collections.abc import Callable

from journal.errors import Disowned, JournalError, WrongCluster
from journal.log_port import Log
from journal.paxos.membership import Membership
from journal.storage import Storage, Write
from journal.storage.peers import disowned_write, load_disowned, load_peers, peer_write
from journal.types import NodeId

PeerReply = Callable[[NodeId | JournalError], None]


class Identities:
    """One node's memory of incarnations. Writes nothing itself: the node owns the one writer."""

    def __init__(self, storage: Storage, node: NodeId, incarnation: bytes, log: Log) -> None:
        """Raises ``RecordDamaged``."""
        self.incarnation = incarnation
        self.disowned = load_disowned(storage)
        """Why this node keeps still; empty while it is itself."""
        self.refused: dict[NodeId, str] = {}
        """The peers that do not take this node's stream, and why: for its status."""
        self._node = node
        self._log = log
        self._known = load_peers(storage)
        self._waiting: dict[NodeId, list[PeerReply]] = {}
        """Known, but not on the disk yet: who waits for that."""
        self._writes: list[Write] = []
        self._told: set[NodeId] = set()
        if self.disowned:
            log.error("node.disowned", reason=self.disowned)

    def admit(
        self,
        peer: NodeId,
        incarnation: bytes,
        members: frozenset[NodeId],
        newest: Membership,
        reply: PeerReply,
    ) -> None:
        """Call ``reply`` once ``peer`` may be dealt with. ``members``: all of present and coming ones.

        Raises ``Disowned``, or ``WrongCluster`` where it was removed.
        """
        if self.disowned:
            raise WrongCluster(f"node {self._node} keeps still: {self.disowned}")
        known = self._known.get(peer)
        if known is not None and known != incarnation:
            if peer not in self._told:
                self._told.add(peer)
                self._log.error("peer.disowned", peer=peer, known=known.hex(), came_with=incarnation.hex())
            raise Disowned(
                f"node {peer} comes with another incarnation than the one known to node {self._node}: its"
                " data folder was lost or replaced, and its promises with it, so it must never vote as"
                f" node {peer} again. Let it rejoin under a new number: `synod member replace {peer}"
                " NEW=HOST:PORT`"
            )
        if peer not in members:
            if peer in newest.retired:
                raise WrongCluster(
                    f"node {peer} was removed from the cluster; to come back it needs an empty folder and"
                    " a new number: `synod member add NEW=HOST:PORT`"
                )
            reply(peer)
        elif known is None:
            self._known[peer] = incarnation
            self._waiting[peer] = [reply]
            self._writes.append(peer_write(peer, incarnation))
        elif peer in self._waiting:
            self._waiting[peer].append(reply)
        else:
            reply(peer)

    def disown(self, reason: str) -> None:
        """A peer knows another incarnation of this node: keep still from now on, and after restarts."""
        if self.disowned:
            return
        self.disowned = reason
        self._writes.append(disowned_write(reason))
        self._log.error("node.disowned", reason=reason)

    # -- the disk ----------------------------------------------------------------------

    def take_writes(self) -> tuple[list[Write], Callable[[], None]]:
        """Return what is to be written, and what to call when it is durable."""
        writes, self._writes = self._writes, []
        peers = list(self._waiting)

        def written() -> None:
            for peer in peers:
                for reply in self._waiting.pop(peer, ()):
                    reply(peer)

        return writes, written

    @property
    def has_writes(self) -> bool:
        return bool(self._writes)

    def fail(self, error: JournalError) -> None:
        """The node stops: answer who waits."""
        waiting, self._waiting = self._waiting, {}
        for replies in waiting.values():
            for reply in replies:
                reply(error)
