"""The unary handlers: reads, leases, outcome, status, and what an operator does."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict

from journal.errors import (
    InvalidRequest,
    JournalError,
    LeaseNotFound,
    RevisionCompacted,
    RevisionInFuture,
    Unavailable,
)
from journal.limits import CLIENT_ID_BYTES_MAX, KEY_BYTES_MAX
from journal.offers import (
    INT64_MAX,
    LeaseGrant,
    LeaseRevoke,
    Mutation,
    Offer,
    Reason,
    Rejected,
    Verdict,
    pack_batch,
    pack_offer,
)
from journal.pages import Page
from journal.paxos.changes import AddLearner, MemberChange, Promote, Remove
from journal.rpc.codec import check_keys, check_range, pack_record, pack_verdict
from journal.rpc.duplex import Duplex
from journal.rpc.edge import Context, Edge, Writer
from journal.rpc.errors import pack_error
from journal.rpc.pb import admin_pb2
from journal.rpc.pb import journal_pb2 as pb
from journal.snapshots.serve import SnapshotPart
from journal.types import NodeId, Revision, Slot

_SCAN_STEP_KEYS = 1_000
"""A large page is read in steps, between which the node's loop may turn."""
_TURNS_BETWEEN_PARTS = 5
"""How often it does between two parts of a scan: as often as an offer needs on its way through a node. So one
that comes during a scan waits for one part, not for all of them."""

_LEASE_KEYS_MAX = 10_000


class Service:
    """Serves the unary methods of Journal and Admin, and LeaseKeepAlive."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._node = edge.node

    # -- reads ----------------------------------------------------------------------------

    async def get(self, request: pb.GetRequest) -> pb.GetReply:
        limits = self._node.config.limits
        if len(request.keys) > limits.scan_keys_max:
            raise InvalidRequest("keys", f"{len(request.keys)} is over scan_keys_max={limits.scan_keys_max}")
        check_keys("keys", request.keys, KEY_BYTES_MAX)
        at = Revision(request.at) if request.HasField("at") else None
        await self._fresh(at, request.consistency, request.at_least)
        revision = self._readable(at)
        records = []
        room = self._edge.limits.get_bytes_max
        for key in request.keys:
            record = self._node.space.get(key, at)
            room -= len(key) + (len(record.value) if record is not None else 0)
            if room < 0:
                raise InvalidRequest(
                    "keys",
                    f"the values are over get_bytes_max={self._edge.limits.get_bytes_max}: ask for fewer",
                )
            records.append(pack_record(key, record))
        return pb.GetReply(revision=revision, records=records)

    async def scan(self, request: pb.ScanRequest) -> pb.ScanReply:
        revision = await self._scannable(request)
        page, following = Page(), None
        for more, position in self._scan(request, revision):
            page.extend(more)
            following = position
            await asyncio.sleep(0)
        return _scan_reply(request, revision, page, following)

    async def scan_in_parts(self, request: pb.ScanRequest, writer: Writer) -> None:
        revision = await self._scannable(request)
        sending: asyncio.Future[None] | None = None
        try:
            for page, position in self._scan(request, revision):
                reply = _scan_reply(request, revision, page, position)
                if sending is not None:
                    await sending
                sending = asyncio.ensure_future(writer.write(reply))
                for _ in range(_TURNS_BETWEEN_PARTS):  # it begins, and goes on while the next part is read
                    await asyncio.sleep(0)
        finally:
            if sending is not None:
                await _over(sending)
        assert sending is not None
        await sending

    async def _scannable(self, request: pb.ScanRequest) -> Revision:
        """Return the revision to scan at, once it can be read."""
        check_range("range", request.range.start, request.range.end)
        at = Revision(request.at) if request.HasField("at") else None
        await self._fresh(at, request.consistency, request.at_least)
        return self._readable(at)

    def _scan(self, request: pb.ScanRequest, revision: Revision) -> Iterator[tuple[Page, bytes | None]]:
        """Read a page in steps, one at least: yield (what was found, where the rest starts)."""
        limits, space = self._node.config.limits, self._node.space
        end = request.range.end
        keys = min(request.limit_keys or limits.scan_keys_max, limits.scan_keys_max)
        room = min(request.limit_bytes or limits.scan_bytes_max, limits.scan_bytes_max)
        position: bytes | None = request.range.start
        while position is not None and keys > 0 and room > 0:
            step = min(keys, _SCAN_STEP_KEYS)
            page, position = space.page(position, end, revision, step, room)
            count = len(page)
            keys -= count
            room -= page.size()
            yield page, position
            if 0 < count < step:  # the bytes ended it, or the range
                break

    async def _fresh(self, at: Revision | None, consistency: pb.Consistency, at_least: int) -> None:
        """Wait for the barrier; not for a past that this node already has: that never changes."""
        if at is None or at > self._node.space.revision:
            await self._edge.barrier(consistency, at_least)
        else:
            self._edge.counters.reads["past"] += 1

    def _readable(self, at: Revision | None) -> Revision:
        """Return the revision to read at. Raises where ``at`` cannot be read."""
        space = self._node.space
        if at is None:
            return Revision(space.revision)
        if at > space.revision:
            raise RevisionInFuture(at, Revision(space.revision))
        if at < space.compacted:
            raise RevisionCompacted(at, Revision(space.compacted))
        return at

    async def outcome(self, request: pb.OutcomeRequest) -> pb.OutcomeReply:
        if len(request.client) > CLIENT_ID_BYTES_MAX:
            raise InvalidRequest(
                "client", f"{len(request.client)} bytes is over CLIENT_ID_BYTES_MAX={CLIENT_ID_BYTES_MAX}"
            )
        if request.sequence > INT64_MAX:
            raise InvalidRequest("sequence", f"{request.sequence} is over {INT64_MAX}")
        await self._edge.barrier(request.consistency, request.at_least)
        reply = pb.OutcomeReply(revision=self._node.space.revision)
        verdict = self._node.outcome(request.client, request.sequence)
        if verdict is not None:
            reply.verdict.CopyFrom(pack_verdict(verdict))
        return reply

    # -- leases ---------------------------------------------------------------------------

    async def lease_grant(self, request: pb.LeaseGrantRequest) -> pb.LeaseGrantReply:
        lease = request.lease or secrets.randbits(62) | 1
        verdict = await self._offer(LeaseGrant(lease, request.ttl_ms))
        if isinstance(verdict, int):
            return pb.LeaseGrantReply(lease=lease, ttl_ms=request.ttl_ms, revision=verdict)
        if isinstance(verdict, Rejected) and verdict.reason is Reason.LEASE:
            raise InvalidRequest("lease", f"lease {lease} exists already")
        raise Unavailable(str(verdict))

    async def lease_revoke(self, request: pb.LeaseRevokeRequest) -> pb.LeaseRevokeReply:
        verdict = await self._offer(LeaseRevoke(request.lease))
        if isinstance(verdict, int):
            return pb.LeaseRevokeReply(revision=verdict)
        if isinstance(verdict, Rejected) and verdict.reason is Reason.LEASE:
            raise LeaseNotFound(request.lease)
        raise Unavailable(str(verdict))

    async def _offer(self, mutation: Mutation) -> Verdict:
        offer = pack_offer(0, Offer(mutations=(mutation,)))
        data = pack_batch(b"", 0, self._node.space.revision, [offer])
        verdicts: list[Verdict] = await self._edge.answer(lambda reply: self._node.submit(data, reply))
        return verdicts[0]

    async def lease_info(self, request: pb.LeaseInfoRequest) -> pb.LeaseInfoReply:
        await self._edge.barrier(request.consistency, request.at_least)
        space = self._node.space
        lease = space.leases.get(request.lease)
        if lease is None:
            raise LeaseNotFound(request.lease)
        return pb.LeaseInfoReply(
            lease=request.lease,
            ttl_ms=lease.ttl_ms,
            granted_revision=lease.granted_revision,
            keys=sorted(lease.keys)[:_LEASE_KEYS_MAX],
            revision=space.revision,
        )

    async def lease_keep_alive(self, context: Context) -> None:
        """Serve one LeaseKeepAlive stream."""

        def take(
            request: pb.LeaseKeepAliveRequest, reply: Callable[[pb.LeaseKeepAliveReply, int], None]
        ) -> None:
            lease = request.lease

            def replied(result: int | JournalError) -> None:
                if isinstance(result, JournalError):
                    reply(pb.LeaseKeepAliveReply(lease=lease, error=pack_error(result)), 1)
                else:
                    reply(pb.LeaseKeepAliveReply(lease=lease, ttl_ms=result), 1)

            try:
                self._node.keep_alive(lease, replied)
            except JournalError as error:
                replied(error)

        await Duplex[pb.LeaseKeepAliveReply](
            self._edge, context, take, lambda items: items[0], message_weight_max=1
        ).run()

    # -- status and operation ---------------------------------------------------------------

    async def status(self, _request: pb.StatusRequest) -> pb.NodeStatus:
        status = self._node.status()
        _leader, leader_endpoint = self._node.leader_endpoint
        return pb.NodeStatus(
            node=status.node,
            cluster=status.cluster,
            endpoint=status.endpoint,
            role=status.role,
            leader=status.leader or 0,
            leader_endpoint=leader_endpoint or "",
            ballot=status.ballot,
            revision=status.revision,
            applied=status.applied,
            chosen=status.chosen,
            lag=status.lag,
            chain=status.chain,
            compacted=status.compacted,
            disk_bytes=status.disk_bytes,
            offers_inflight=status.offers_inflight,
            tails=status.tails,
            leases=status.leases,
            uptime_s=status.uptime_s,
            members=[pb.MemberStatus(**member._asdict()) for member in status.members],
            health=status.health,
            pid=os.getpid(),
            peers=[pb.PeerStatus(**asdict(peer)) for peer in status.peers],
            disk_free_bytes=status.disk_free_bytes,
            direct_port=self._edge.direct_port,
        )

    async def transfer_leadership(
        self, request: admin_pb2.TransferLeadershipRequest
    ) -> admin_pb2.TransferLeadershipReply:
        to = NodeId(request.to) if request.to else None
        if to is not None and to not in {member.node for member in self._node.status().members}:
            raise InvalidRequest("to", f"node {to} is not a member of this cluster")
        leader: NodeId = await self._edge.answer(lambda reply: self._node.transfer_leadership(to, reply))
        return admin_pb2.TransferLeadershipReply(leader=leader)

    async def compact(self, request: admin_pb2.CompactRequest) -> admin_pb2.CompactReply:
        if not request.revision:  # an empty message must not cost anybody their history
            raise InvalidRequest("revision", "must be given, and above 0")
        revision = Revision(request.revision)
        _at: Revision = await self._edge.answer(lambda reply: self._node.compact(revision, reply))
        return admin_pb2.CompactReply(compacted=self._node.space.compacted)

    async def change_members(self, request: admin_pb2.ChangeMembersRequest) -> admin_pb2.ChangeMembersReply:
        kind = request.WhichOneof("change")
        change: MemberChange
        if kind == "add":
            change = AddLearner(NodeId(request.add.node), request.add.endpoint)
        elif kind == "promote":
            change = Promote(NodeId(request.promote))
        elif kind == "remove":
            change = Remove(NodeId(request.remove))
        else:
            raise InvalidRequest("change", "must be add, promote or remove")
        _at: Revision = await self._edge.answer(lambda reply: self._node.change_members(change, reply))
        members = self._node.newest_members
        return admin_pb2.ChangeMembersReply(
            members=[pb.MemberStatus(**member._asdict()) for member in members]
        )

    async def chain(self, request: admin_pb2.ChainRequest) -> admin_pb2.ChainReply:
        space = self._node.space
        slot = Slot(request.slot or space.applied)
        return admin_pb2.ChainReply(
            slot=slot,
            chain=space.slots.chain_at(slot) or b"",
            applied=space.applied,
            revision=space.revision,
        )

    async def read_snapshot(self, request: admin_pb2.ReadSnapshotRequest) -> admin_pb2.ReadSnapshotReply:
        if not 0 < request.view <= INT64_MAX:
            raise InvalidRequest("view", f"must be from 1 to {INT64_MAX}")
        if not request.after:
            await self._edge.barrier(request.consistency, 0)
        part: SnapshotPart = await self._edge.answer(
            lambda reply: self._node.read_snapshot(request.view, request.after, reply)
        )
        return admin_pb2.ReadSnapshotReply(
            header=part.header.pack(), records=part.records, end=b"" if part.end is None else part.end.pack()
        )


async def _over(sending: asyncio.Future[None]) -> None:
    """Wait until it has ended, whichever way: the call may only be ended behind it."""
    await asyncio.wait([sending])
    if not sending.cancelled():
        sending.exception()


def _scan_reply(
    request: pb.ScanRequest, revision: Revision, page: Page, position: bytes | None
) -> pb.ScanReply:
    """Return a page in the form that ``request`` asks for."""
    reply = pb.ScanReply(revision=revision, next=position)
    if request.columns:
        reply.columns = page.pack(keys_only=request.keys_only)
    else:
        reply.records.extend(pack_record(key, record, keys_only=request.keys_only) for key, record in page)
    return reply
