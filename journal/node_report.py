"""What a node says of itself to those who watch it: status, alarms, whether it is ready.

It only looks; the rules are in ``journal.status``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from journal.admission import Admission
from journal.disk_care import DiskCare
from journal.identities import Identities
from journal.node_config import Clock, NodeConfig
from journal.node_snapshots import SnapshotHost
from journal.node_upkeep import Upkeep
from journal.node_writer import Writer
from journal.paxos import Paxos
from journal.paxos.membership import Membership
from journal.space import Space
from journal.standing import Standing
from journal.status import Alarm, LinkStatus, NodeMember, NodeStatus, PeerStatus, alarms_of, health_of
from journal.tail import TailHub
from journal.types import NodeId, Slot


class Report:
    """The parts of a node, looked at together."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        core: Paxos,
        space: Space,
        standing: Standing,
        identities: Identities,
        admission: Admission,
        care: DiskCare,
        upkeep: Upkeep,
        snapshots: SnapshotHost,
        writer: Writer,
        tails: TailHub,
        links: Callable[[], Mapping[NodeId, LinkStatus]],
        clock: Clock,
    ) -> None:
        self._config = config
        self._core = core
        self._space = space
        self._standing = standing
        self._identities = identities
        self._admission = admission
        self._care = care
        self._upkeep = upkeep
        self._snapshots = snapshots
        self._writer = writer
        self._tails = tails
        self._links = links
        self._clock = clock
        self._started = clock.now()

    @property
    def lag(self) -> int:
        """Slots that this node is behind, as far as it has heard."""
        return max(0, self._core.known_chosen - self._space.applied)

    def alarms(self, *, stopping: bool) -> tuple[Alarm, ...]:
        """Return what is wrong with this node, the gravest first."""
        core, node = self._core, self._config.node
        leaderless = ""
        if core.leader is None:
            refused = [f"; refused by node {by}: {why}" for by, why in self._identities.refused.items()]
            joining = "" if node in core.endpoints else " and not a member: `synod member add` lets it in"
            leaderless = f"no leader{joining}{''.join(sorted(refused))}"
        return alarms_of(
            stopping=stopping,
            disowned=self._identities.disowned,
            removed=node in core.newest_membership[1].retired,
            leaderless=leaderless,
            lag=self.lag,
            lag_max=self._config.limits.window_slots_max,
            snapshot=self._snapshots.catch_up.described,
            disk_free_bytes=self._upkeep.free_bytes,
            disk_full=self._disk_full_text(),
            damaged=self._damage_text(),
            disk_free_bytes_min=self._config.disk_free_bytes_min,
            write_s=self._writer.under_way_s,
        )

    def _disk_full_text(self) -> str:
        full = self._upkeep.full(self._clock.now())
        if full is None:
            return ""
        if full.node == self._config.node and not self._standing.leads:
            return "disk full: the leader is told, and takes no offers that grow the space"
        return f"disk of node {full.node} full: no offers that grow the space are taken"

    def _damage_text(self) -> str:
        core, repair = self._core, self._care.repair
        found = []
        if core.waits_for is not None:
            found.append(
                f"slot {core.waits_for} waits for an intact copy: damaged on too many nodes that answer"
            )
        damaged = len(core.lost) + len(repair.damaged)
        if damaged:
            found.append(f"{damaged} damaged log records wait for a peer's copy")
        return "; ".join(found)

    def _peers(self) -> tuple[PeerStatus, ...]:
        """What is known of each other member: of its streams, and of how far it has learned."""
        core, links = self._core, self._links()
        known = core.peers_known
        nobody = LinkStatus(connected=False, heard_ago_s=None, round_trip_s=None)
        found = []
        for node in sorted(core.endpoints):
            if node != self._config.node:
                link, chosen = links.get(node, nobody), known.get(node, Slot(0))
                lag = max(0, core.chosen - chosen) if chosen else 0
                heard = (link.connected, link.heard_ago_s, link.round_trip_s)
                found.append(PeerStatus(node, *heard, chosen, lag, link.why))
        return tuple(found)

    def status(self, *, stopping: bool) -> NodeStatus:
        core, space = self._core, self._space
        disowned = self._identities.disowned
        node = self._config.node
        return NodeStatus(
            node=node,
            cluster=self._config.cluster,
            endpoint=self._standing.endpoint_of(node) or self._config.endpoint,
            role="follower" if disowned else core.role.name.lower(),
            leader=None if disowned else core.leader,
            ballot=str(core.ballot),
            revision=space.revision,
            applied=space.applied,
            chosen=core.chosen,
            lag=self.lag,
            chain=space.chain.hex(),
            compacted=space.compacted,
            disk_bytes=self._upkeep.size_bytes,
            offers_inflight=self._admission.offers,
            tails=self._tails.open,
            leases=len(space.leases),
            uptime_s=self._clock.now() - self._started,
            members=members_of(core.membership),
            health=health_of(self.alarms(stopping=stopping)),
            peers=self._peers(),
            disk_free_bytes=self._upkeep.free_bytes,
        )


def members_of(membership: Membership) -> tuple[NodeMember, ...]:
    kinds = ((membership.voters, True), (membership.learners, False))
    return tuple(NodeMember(*member, voter) for members, voter in kinds for member in members)
