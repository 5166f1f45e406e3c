"""Where a node stands: whether it leads, who else does, and whom a leader hears. PURE over the core."""

from __future__ import annotations

from journal.errors import NotLeader, Unavailable
from journal.identities import Identities
from journal.node_config import NodeConfig
from journal.paxos import Paxos, Role
from journal.types import NodeId


class Standing:
    """What the parts of a node ask of its role. Changes nothing."""

    def __init__(self, config: NodeConfig, core: Paxos, identities: Identities) -> None:
        self._node = config.node
        self._silence_s = config.paxos.election_timeout_s
        self._core = core
        self._identities = identities

    @property
    def leads(self) -> bool:
        return self._core.role is Role.LEADER and not self._identities.disowned

    @property
    def leader_endpoint(self) -> tuple[NodeId | None, str | None]:
        """Who leads and where it is reached, as far as this node knows."""
        if self._identities.disowned:
            return None, None
        return self._core.leader, self.endpoint_of(self._core.leader)

    def leader_error(self) -> Unavailable:
        """Return what a client is told that should ask the leader."""
        if self._identities.disowned:
            return Unavailable(f"this node takes no part any more: {self._identities.disowned}")
        leader = self._core.leader
        if leader == self._node:  # phase 1 is not done yet, or this node is stopping
            leader = None
        return NotLeader(leader, self.endpoint_of(leader))

    def endpoint_of(self, node: NodeId | None) -> str | None:
        return None if node is None else self._core.endpoints.get(node)

    def alive(self, now: float) -> set[NodeId]:
        """Return the peers that this leader has heard from within an election timeout."""
        return {
            node
            for node, progress in self._core.peers_progress.items()
            if now - progress.last_heard < self._silence_s
        }

    def best_peer(self, now: float) -> NodeId | None:
        """Return who would best lead in this leader's place: the living voter that knows most."""
        progress = self._core.peers_progress
        alive = self.alive(now) & self._core.membership.voter_ids
        return max(sorted(alive), key=lambda node: progress[node].chosen, default=None)
