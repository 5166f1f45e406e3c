"""The client's side: ``journal.connection`` over gRPC, for programs under a plain ``trio.run``.

Calls by gRPC are made on the asyncio side (``bridge``): the process's second thread, or the
guest's host where the program runs in guest mode. Nothing is retried and nothing
redirected here; every failure becomes one of ``journal.errors``.

Offers and reads go past gRPC where the node has a direct port (``direct.client``); where it has none, or that
is not reached, batches share a Submit stream (``submits``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
import msgpack
import trio
from google.protobuf.message import DecodeError, Message

from journal.commits import Change, Commit
from journal.connection import Consistency, GetReply, Level, NotSent, ScanReply, TailMessage
from journal.errors import (
    InvalidRequest,
    JournalError,
    OfferInvalid,
    ProtocolViolation,
    Unavailable,
)
from journal.node import NodeMember, NodeStatus
from journal.offers import Verdict, unpack_verdicts
from journal.pages import Page
from journal.paxos.changes import AddLearner, MemberChange, Promote
from journal.rpc import bridge, methods
from journal.rpc.bridge import AsyncioSide, AsyncioThread
from journal.rpc.channels import CLIENT_MESSAGE_BYTES_MAX, channel_options
from journal.rpc.codec import unpack_verdict
from journal.rpc.direct.client import DirectClient, Replies, Reply
from journal.rpc.errors import error_of_call, unpack_error
from journal.rpc.methods import Method
from journal.rpc.pb import admin_pb2
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.submits import Submits, ended, to_trio
from journal.snapshots.format import Header
from journal.snapshots.records import End
from journal.snapshots.serve import SnapshotPart
from journal.status import PeerStatus
from journal.types import NodeId, Revision, Slot
from journal.versions import Record

T = TypeVar("T")
Metadata = tuple[tuple[str, str], ...]

_LEVELS = {
    Level.LINEARIZABLE: pb.CONSISTENCY_LINEARIZABLE,
    Level.AT_LEAST: pb.CONSISTENCY_AT_LEAST,
    Level.LOCAL: pb.CONSISTENCY_LOCAL,
}

TAIL_MESSAGES_AHEAD_MAX = 4
"""Messages of a tail that are read before its receiver asks for them."""


class GrpcConnector:
    """``journal.connection.Connector`` over gRPC. ``cluster``: the id that the nodes must have."""

    def __init__(self, cluster: str | None = None) -> None:
        self._metadata: Metadata = ((methods.MD_CLUSTER, cluster),) if cluster is not None else ()
        self._side: AsyncioSide | None = None
        self._own_thread = False
        self._connections: set[GrpcConnection] = set()
        self._closed = False

    async def connect(self, endpoint: str) -> GrpcConnection:
        """Return a connection, which connects when it is used. Raises ``InvalidRequest``."""
        host, colon, port = endpoint.rpartition(":")
        if not host or not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
            raise InvalidRequest("endpoint", f"{endpoint!r} is not of the form host:port")
        if self._closed:
            raise NotSent("the connector is closed")
        side = self._asyncio_side()
        channel = await side.run(_open_channel, endpoint)
        connection = GrpcConnection(endpoint, side, channel, self._metadata, self._connections.discard)
        self._connections.add(connection)
        return connection

    def _asyncio_side(self) -> AsyncioSide:
        if self._side is None:
            try:
                self._side = bridge.host()
            except RuntimeError:
                self._side = AsyncioThread.acquire()
                self._own_thread = True
        return self._side

    async def aclose(self) -> None:
        """Close the connections that are still open, and give the thread back. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            for connection in list(self._connections):
                await connection.aclose()
            if self._own_thread:
                await trio.to_thread.run_sync(AsyncioThread.release)


async def _open_channel(endpoint: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(endpoint, options=channel_options())


class GrpcConnection:
    """``journal.connection.Connection`` over gRPC: see there for what each method promises."""

    def __init__(
        self,
        endpoint: str,
        side: AsyncioSide,
        channel: grpc.aio.Channel,
        metadata: Metadata,
        closed: Callable[[GrpcConnection], None],
    ) -> None:
        self._endpoint = endpoint
        self._side = side
        self._channel = channel
        self._metadata = metadata
        self._on_close = closed
        self._closed = False
        self._submits = Submits(channel, side, metadata, endpoint)
        self._direct = DirectClient(endpoint, metadata, self._status)
        self._turn = trio.StrictFIFOLock()

    @property
    def endpoint(self) -> str:
        return self._endpoint

    # -- offers ---------------------------------------------------------------------------

    async def submit(self, data: bytes) -> list[Verdict]:
        self._check_open()
        if len(data) > CLIENT_MESSAGE_BYTES_MAX - 1024:
            raise OfferInvalid("batch", f"{len(data)} bytes is more than one message may carry")
        if self._turn.locked() or not self._direct.is_open:
            async with self._turn:  # who calls first is sent first, also while the way is being looked for
                begun = self._begin(data, is_direct=await self._direct.open())
        else:
            begun = self._begin(data, is_direct=True)
        result = await begun
        if result.HasField("error"):
            raise unpack_error(result.error)
        return unpack_verdicts(result.packed)

    def _begin(self, data: bytes, *, is_direct: bool) -> Awaitable[pb.SubmitResult]:
        """Send a batch in this very step; return what waits for its result."""
        if is_direct:
            return _result_of(self._direct.begin(methods.SUBMIT_ONCE, pb.SubmitRequest(packed=data)))
        return self._submits.result_of(self._submits.begin(data))

    # -- reads ----------------------------------------------------------------------------

    async def get(self, keys: Sequence[bytes], *, at: Revision | None, consistency: Consistency) -> GetReply:
        request = pb.GetRequest(
            keys=keys,
            at=at,
            consistency=_LEVELS[consistency.level],
            at_least=consistency.revision,
        )
        self._check_open()
        reply: pb.GetReply
        if await self._direct.open():
            reply = _decoded(methods.GET, await self._direct.call(methods.GET, request))
        else:
            reply = await self._call(methods.GET, request)
        return GetReply(Revision(reply.revision), [_record(record) for record in reply.records])

    async def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        at: Revision | None,
        consistency: Consistency,
        limit_keys: int,
        limit_bytes: int = 0,
    ) -> ScanReply:
        request = pb.ScanRequest(
            range=pb.Range(start=start, end=end),
            at=at,
            consistency=_LEVELS[consistency.level],
            at_least=consistency.revision,
            limit_keys=limit_keys,
            limit_bytes=limit_bytes,
            columns=True,
        )
        self._check_open()
        page = Page()
        last: pb.ScanReply
        if await self._direct.open():
            last = await self._scan_direct(request, page)
        else:
            last = await self._run(self._ask_scan, request, page)
        return ScanReply(Revision(last.revision), page, last.next if last.HasField("next") else None)

    @asynccontextmanager
    async def tail(
        self, after: Revision, prefixes: Sequence[bytes], *, progress_interval_s: float = 1.0
    ) -> AsyncIterator[AsyncIterator[TailMessage]]:
        self._check_open()
        request = pb.TailRequest(
            after=after, prefixes=prefixes, packed=True, progress_ms=max(1, int(progress_interval_s * 1000))
        )
        if await self._direct.open():
            replies = self._direct.stream(methods.TAIL, request)
            try:
                yield _DirectTail(replies, self._endpoint)
            finally:
                replies.close()
            return
        stream = _TailStream(self._channel, self._side, self._metadata, self._endpoint)
        await self._run(stream.open, request)
        try:
            yield stream
        finally:
            with trio.CancelScope(shield=True):
                await self._side.run(stream.close)

    async def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        request = pb.OutcomeRequest(client=client, sequence=sequence)
        reply: pb.OutcomeReply = await self._call(methods.OUTCOME, request)
        return unpack_verdict(reply.verdict) if reply.HasField("verdict") else None

    # -- leases ---------------------------------------------------------------------------

    async def lease_keep_alive(self, lease: int) -> int:
        self._check_open()
        request = pb.LeaseKeepAliveRequest(lease=lease)
        reply: pb.LeaseKeepAliveReply = await self._run(self._ask_stream, methods.LEASE_KEEP_ALIVE, request)
        if reply.HasField("error"):
            raise unpack_error(reply.error)
        return reply.ttl_ms

    # -- operation ------------------------------------------------------------------------

    async def status(self) -> NodeStatus:
        reply = await self._status()
        return NodeStatus(
            node=NodeId(reply.node),
            cluster=reply.cluster,
            endpoint=reply.endpoint,
            role=reply.role,
            leader=NodeId(reply.leader) if reply.leader else None,
            ballot=reply.ballot,
            revision=Revision(reply.revision),
            applied=Slot(reply.applied),
            chosen=Slot(reply.chosen),
            lag=reply.lag,
            chain=reply.chain,
            compacted=Revision(reply.compacted),
            disk_bytes=reply.disk_bytes,
            offers_inflight=reply.offers_inflight,
            tails=reply.tails,
            leases=reply.leases,
            uptime_s=reply.uptime_s,
            members=_members(reply.members),
            health=reply.health,
            pid=reply.pid,
            peers=tuple(_peer(peer) for peer in reply.peers),
            disk_free_bytes=reply.disk_free_bytes if reply.HasField("disk_free_bytes") else None,
        )

    async def transfer_leadership(self, to: NodeId | None) -> None:
        await self._call(methods.TRANSFER_LEADERSHIP, admin_pb2.TransferLeadershipRequest(to=to or 0))

    async def compact(self, revision: Revision) -> None:
        await self._call(methods.COMPACT, admin_pb2.CompactRequest(revision=revision))

    async def change_members(self, change: MemberChange) -> tuple[NodeMember, ...]:
        request = admin_pb2.ChangeMembersRequest()
        if isinstance(change, AddLearner):
            request.add.node, request.add.endpoint = change.node, change.endpoint
        elif isinstance(change, Promote):
            request.promote = change.node
        else:
            request.remove = change.node
        reply: admin_pb2.ChangeMembersReply = await self._call(methods.CHANGE_MEMBERS, request)
        return _members(reply.members)

    async def chain(self, slot: Slot) -> bytes | None:
        reply: admin_pb2.ChainReply = await self._call(methods.CHAIN, admin_pb2.ChainRequest(slot=slot))
        return reply.chain or None

    async def read_snapshot(self, view: int, after: bytes) -> SnapshotPart:
        request = admin_pb2.ReadSnapshotRequest(view=view, after=after)
        reply: admin_pb2.ReadSnapshotReply = await self._call(methods.READ_SNAPSHOT, request)
        end = End.unpack(reply.end) if reply.end else None
        return SnapshotPart(Header.unpack(reply.header), reply.records, end)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._on_close(self)
        self._direct.close()
        with trio.CancelScope(shield=True):
            await self._side.run(self._close)

    async def _close(self) -> None:
        await self._submits.close()
        await self._channel.close()

    # -- calls ----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise NotSent(f"the connection to {self._endpoint} is closed")

    async def _call(self, method: Method, request: Message) -> Any:
        self._check_open()
        return await self._run(self._ask, method, request)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a coroutine of the asyncio side; what it raises becomes a journal error."""
        try:
            return await self._side.run(function, *arguments)
        except grpc.aio.AioRpcError as error:
            raise self.error_of(error) from None
        except (grpc.aio.UsageError, asyncio.InvalidStateError, DecodeError) as error:
            raise Unavailable(f"{self._endpoint}: {error or 'the connection is closed'}") from None

    def error_of(self, error: grpc.aio.AioRpcError) -> JournalError:
        """Return what a failed call means."""
        return error_of_call(error.code(), error.details(), error.trailing_metadata(), self._endpoint)

    async def _status(self) -> pb.NodeStatus:
        status: pb.NodeStatus = await self._call(methods.STATUS, pb.StatusRequest())
        return status

    async def _scan_direct(self, request: pb.ScanRequest, page: Page) -> pb.ScanReply:
        """Append what is found to ``page``; return the last part."""
        last: pb.ScanReply | None = None
        replies = self._direct.stream(methods.SCAN_IN_PARTS, request)
        try:
            async for data in replies:
                last = _decoded(methods.SCAN_IN_PARTS, data)
                page.extend(_page(last))
        finally:
            replies.close()
        if last is None:
            raise Unavailable(f"{self._endpoint} ended the stream without an answer")
        return last

    # asyncio side:

    async def _ask(self, method: Method, request: Message) -> Any:
        call = self._channel.unary_unary(
            method.path, request_serializer=methods.encode, response_deserializer=method.decode_reply
        )
        return await call(request, metadata=self._metadata)

    async def _ask_scan(self, request: pb.ScanRequest, page: Page) -> Any:
        """Append what is found to ``page``; return the last reply."""
        try:
            return await self._ask_parts(request, page)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            reply = await self._ask(methods.SCAN, request)  # a node of an earlier version
            page.extend(_page(reply))
            return reply

    async def _ask_parts(self, request: pb.ScanRequest, page: Page) -> Any:
        """Like ``_ask_scan``. Each part is taken apart while the next one is on its way."""
        method = methods.SCAN_IN_PARTS
        call = self._channel.unary_stream(
            method.path, request_serializer=methods.encode, response_deserializer=method.decode_reply
        )(request, metadata=self._metadata)
        part: Any
        last: Any = None
        try:
            while (part := await call.read()) is not grpc.aio.EOF:
                page.extend(_page(part))
                last = part
        finally:
            call.cancel()
        if last is None:
            raise Unavailable(f"{self._endpoint} ended the stream without an answer")
        return last

    async def _ask_stream(self, method: Method, request: Message) -> Any:
        """Send one request on a stream of its own, and return its reply."""
        make = self._channel.stream_stream(
            method.path, request_serializer=methods.encode, response_deserializer=method.decode_reply
        )
        call = make(metadata=self._metadata)
        try:
            await call.write(request)
            reply = await call.read()
            if reply is grpc.aio.EOF:
                raise Unavailable(f"{self._endpoint} ended the stream without an answer")
            return reply
        finally:
            call.cancel()


# -- tails ------------------------------------------------------------------------------------


class _DirectTail:
    """A tail's messages, by the direct port."""

    def __init__(self, replies: Replies, endpoint: str) -> None:
        self._replies = replies
        self._endpoint = endpoint

    def __aiter__(self) -> _DirectTail:
        return self

    async def __anext__(self) -> TailMessage:
        try:
            data = await anext(self._replies)
        except StopAsyncIteration:
            raise Unavailable(f"{self._endpoint} ended the tail") from None
        return _tail_message(_decoded(methods.TAIL, data))


class _TailStream:
    """A tail's messages: read ahead a little on the asyncio side, taken on the trio side."""

    def __init__(
        self, channel: grpc.aio.Channel, side: AsyncioSide, metadata: Metadata, endpoint: str
    ) -> None:
        self._channel = channel
        self._side = side
        self._metadata = metadata
        self._endpoint = endpoint
        self._token = trio.lowlevel.current_trio_token()
        self._messages: deque[pb.TailMessage] = deque()
        self._failure: JournalError | None = None
        self._arrived = trio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __aiter__(self) -> _TailStream:
        return self

    async def __anext__(self) -> TailMessage:
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            self._arrived = trio.Event()
            await self._arrived.wait()
        full = len(self._messages) >= TAIL_MESSAGES_AHEAD_MAX
        message = self._messages.popleft()
        if full:
            self._side.post(self._room.set)
        return _tail_message(message)

    # asyncio side:

    async def open(self, request: pb.TailRequest) -> None:
        self._task = self._side.loop.create_task(self._run(request))

    async def close(self) -> None:
        if self._task is not None:
            await ended(self._task)

    async def _run(self, request: pb.TailRequest) -> None:
        call = self._channel.unary_stream(
            methods.TAIL.path,
            request_serializer=methods.encode,
            response_deserializer=methods.TAIL.decode_reply,
        )(request, metadata=self._metadata)
        failure: JournalError = Unavailable(f"{self._endpoint} ended the tail")
        try:
            async for message in call:
                while len(self._messages) >= TAIL_MESSAGES_AHEAD_MAX:
                    self._room.clear()
                    if len(self._messages) >= TAIL_MESSAGES_AHEAD_MAX:
                        await self._room.wait()
                self._messages.append(message)
                to_trio(self._side, self._token, self._notify)
        except grpc.aio.AioRpcError as error:
            failure = error_of_call(error.code(), error.details(), error.trailing_metadata(), self._endpoint)
        except (DecodeError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            failure = Unavailable(f"{self._endpoint}: {error}")
        finally:
            call.cancel()
            self._failure = failure
            to_trio(self._side, self._token, self._notify)

    def _notify(self) -> None:
        self._arrived.set()


# -- helpers ------------------------------------------------------------------------------------


async def _result_of(reply: Reply) -> pb.SubmitResult:
    result: pb.SubmitResult = _decoded(methods.SUBMIT_ONCE, await reply.message())
    return result


def _decoded(method: Method, data: bytes) -> Any:
    """Return a reply. Raises ``Unavailable`` where it is none: what answers is no correct node."""
    try:
        return method.decode_reply(data)
    except DecodeError as error:
        raise Unavailable(f"a reply does not decode: {error}") from None


def _tail_message(message: pb.TailMessage) -> TailMessage:
    return TailMessage(
        Revision(message.first),
        Revision(message.last),
        _unpack_commits(message.packed),
        Revision(message.current),
    )


def _unpack_commits(packed: bytes) -> list[Commit]:
    """Return the commits of ``TailMessage.packed``. Raises ``ProtocolViolation``."""
    if not packed:
        return []
    try:
        return [
            Commit(
                Revision(revision),
                Slot(slot),
                time_ms,
                client,
                sequence,
                label,
                tuple([Change(key, value, lease) for key, value, lease in changes]),
            )
            for revision, slot, time_ms, client, sequence, label, changes in msgpack.unpackb(packed)
        ]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolViolation(f"commits do not decode: {error}") from error


def _page(reply: pb.ScanReply) -> Page:
    """Return what a reply to a scan holds, in columns or in records."""
    if columns := reply.columns:
        return Page.unpack(columns)
    page = Page()
    for record in reply.records:
        page.append(record.key, _present(record))
    return page


def _present(record: pb.Record) -> Record:
    return Record(Revision(record.create), Revision(record.mod), record.version, record.lease, record.value)


def _record(record: pb.Record) -> Record | None:
    return _present(record) if record.HasField("value") else None


def _peer(peer: pb.PeerStatus) -> PeerStatus:
    return PeerStatus(
        node=NodeId(peer.node),
        connected=peer.connected,
        heard_ago_s=peer.heard_ago_s if peer.HasField("heard_ago_s") else None,
        round_trip_s=peer.round_trip_s if peer.HasField("round_trip_s") else None,
        chosen=Slot(peer.chosen),
        lag=peer.lag,
        why=peer.why,
    )


def _members(members: Iterable[pb.MemberStatus]) -> tuple[NodeMember, ...]:
    return tuple(NodeMember(NodeId(member.node), member.endpoint, member.voter) for member in members)
