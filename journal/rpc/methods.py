"""The table of RPCs: what server and client must agree on about each, in one place.

It stands where generated ``*_pb2_grpc.py`` would: those force a message class onto every
method and a lowest gRPC version onto every program. A test compares it with the services
of ``protos/``, so it cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from journal.errors import InvalidRequest
from journal.rpc.pb import admin_pb2, journal_pb2, paxos_pb2

JOURNAL = "synod.journal.v1.Journal"
ADMIN = "synod.admin.v1.Admin"
PEER = "synod.paxos.v1.Peer"


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its full name, what it takes and gives, and which of the two are streams."""

    service: str
    name: str
    request: type[Message]
    reply: type[Message]
    client_streams: bool = False
    server_streams: bool = False

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"

    def decode_request(self, data: bytes) -> Any:
        """Return the request, or an ``InvalidRequest`` in its place for the handler to raise: what
        a deserializer raises itself, gRPC logs as a fault of the node's and answers with UNKNOWN."""
        try:
            return self.request.FromString(data)
        except DecodeError:
            return InvalidRequest("request", f"is not a {self.request.DESCRIPTOR.full_name}")

    def decode_reply(self, data: bytes) -> Any:
        return self.reply.FromString(data)


def encode(message: Message) -> bytes:
    """Serialize a message of any class."""
    return message.SerializeToString()


SUBMIT = Method(JOURNAL, "Submit", journal_pb2.SubmitRequest, journal_pb2.SubmitReply, True, True)
SUBMIT_ONCE = Method(JOURNAL, "SubmitOnce", journal_pb2.SubmitRequest, journal_pb2.SubmitResult)
GET = Method(JOURNAL, "Get", journal_pb2.GetRequest, journal_pb2.GetReply)
SCAN = Method(JOURNAL, "Scan", journal_pb2.ScanRequest, journal_pb2.ScanReply)
SCAN_IN_PARTS = Method(
    JOURNAL, "ScanInParts", journal_pb2.ScanRequest, journal_pb2.ScanReply, server_streams=True
)
TAIL = Method(JOURNAL, "Tail", journal_pb2.TailRequest, journal_pb2.TailMessage, server_streams=True)
LEASE_GRANT = Method(JOURNAL, "LeaseGrant", journal_pb2.LeaseGrantRequest, journal_pb2.LeaseGrantReply)
LEASE_KEEP_ALIVE = Method(
    JOURNAL,
    "LeaseKeepAlive",
    journal_pb2.LeaseKeepAliveRequest,
    journal_pb2.LeaseKeepAliveReply,
    True,
    True,
)
LEASE_REVOKE = Method(JOURNAL, "LeaseRevoke", journal_pb2.LeaseRevokeRequest, journal_pb2.LeaseRevokeReply)
LEASE_INFO = Method(JOURNAL, "LeaseInfo", journal_pb2.LeaseInfoRequest, journal_pb2.LeaseInfoReply)
OUTCOME = Method(JOURNAL, "Outcome", journal_pb2.OutcomeRequest, journal_pb2.OutcomeReply)
STATUS = Method(JOURNAL, "Status", journal_pb2.StatusRequest, journal_pb2.NodeStatus)

ADMIN_STATUS = Method(ADMIN, "Status", journal_pb2.StatusRequest, journal_pb2.NodeStatus)
TRANSFER_LEADERSHIP = Method(
    ADMIN, "TransferLeadership", admin_pb2.TransferLeadershipRequest, admin_pb2.TransferLeadershipReply
)
COMPACT = Method(ADMIN, "Compact", admin_pb2.CompactRequest, admin_pb2.CompactReply)
CHANGE_MEMBERS = Method(ADMIN, "ChangeMembers", admin_pb2.ChangeMembersRequest, admin_pb2.ChangeMembersReply)
CHAIN = Method(ADMIN, "Chain", admin_pb2.ChainRequest, admin_pb2.ChainReply)
READ_SNAPSHOT = Method(ADMIN, "ReadSnapshot", admin_pb2.ReadSnapshotRequest, admin_pb2.ReadSnapshotReply)

EXCHANGE = Method(PEER, "Exchange", paxos_pb2.Parcel, paxos_pb2.Empty, True, True)

ALL = (
    SUBMIT,
    SUBMIT_ONCE,
    GET,
    SCAN,
    SCAN_IN_PARTS,
    TAIL,
    LEASE_GRANT,
    LEASE_KEEP_ALIVE,
    LEASE_REVOKE,
    LEASE_INFO,
    OUTCOME,
    STATUS,
    ADMIN_STATUS,
    TRANSFER_LEADERSHIP,
    COMPACT,
    CHANGE_MEMBERS,
    CHAIN,
    READ_SNAPSHOT,
    EXCHANGE,
)

# -- metadata ---------------------------------------------------------------------------

MD_CLUSTER = "synod-cluster"
MD_PROTOCOL = "synod-protocol"
MD_SENDER = "synod-sender"
MD_RECEIVER = "synod-receiver"
MD_WINDOW = "synod-window-slots-max"
MD_INCARNATION = "synod-incarnation"
"""Which data folder a node has: the sender's in what it sends, the receiver's where it accepts."""
MD_ENDPOINT = "synod-endpoint"
"""Where the sender of a stream is reached, if it is a member: who is far behind may not know of it yet."""
MD_NODE = "synod-node"
"""In the initial metadata of a stream that a node has accepted: its number. A refused one has none."""
MD_DIRECT_PORT = "synod-direct-port"
"""Beside it, to a peer of a node that has a direct port (``rpc.direct``): its number, on the host called."""
MD_INVITATION = "synod-invitation"
"""Beside that: what names this stream when its parcels come by the direct port."""
MD_ERROR = "synod-error-bin"
MD_LEADER = "synod-leader"
MD_LEADER_ENDPOINT = "synod-leader-endpoint"
MD_RETRY_AFTER = "retry-after-ms"

PEER_PROTOCOL = "2"
"""Changed when two nodes of different versions could misunderstand each other."""
