"""The transport between nodes: one outgoing stream to each peer, over gRPC or past it (``outgoing``).

Each node opens a stream to each of its peers and only ever writes to it; what the peer
says comes over the stream that the peer opened. So each direction breaks and heals by
itself, as the core expects of a link.

What is promised is little, because Paxos needs little: an envelope arrives at most once
a stream, in order, or not at all. What matters is that nothing here waits or grows:

* ``send`` appends to a queue of at most ``peer_queue_bytes_max`` and drops what does not fit;
* while a peer cannot be reached, only the latest ``_OFFLINE_BYTES_MAX`` are kept: enough
  that the first words of an election are not lost to a connection being made, and what
  is older has been said again by then;
* all that gathered while a write was under way goes out in one parcel; a parcel larger
  than a gRPC message may be travels in parts;
* a peer that is back is reached within a second (``channels``); one that refuses this
  node (wrong cluster, wrong window) is asked again every few seconds, and logged once.

Both ends of a stream say which incarnation they are, and each waits until its ``Registry``
has admitted the other: only then does a message go in or out (``journal.identities``).

All of it runs on the asyncio side of guest mode, in the node's own thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
import grpc.aio
from structlog.typing import FilteringBoundLogger

from journal.errors import JournalError, ProtocolViolation, Unavailable, WrongCluster
from journal.paxos.messages import Accept, Envelope, Heartbeat, Message, message_bytes
from journal.rpc import methods
from journal.rpc.channels import channel_options, host_of
from journal.rpc.codec import pack_message, unpack_message
from journal.rpc.direct.connection import Call
from journal.rpc.errors import error_of_call
from journal.rpc.incoming import Incoming
from journal.rpc.outgoing import DirectStream, GrpcStream, Stream
from journal.rpc.pb import paxos_pb2 as px
from journal.rpc.pulse import PING_INTERVAL_S, Pulse
from journal.status import LinkStatus
from journal.storage.peers import INCARNATION_BYTES
from journal.types import NodeId

PARCEL_BYTES_MAX = 1024 * 1024
"""A parcel above this travels in parts of this size: below what any node's server takes."""

_OFFLINE_BYTES_MAX = 1024 * 1024
_NEWS_DELAY_S = 0.003
"""How long the news of what was chosen waits for company. Nobody waits for it but readers on other nodes,
and a client that offers again at once brings the next Accept by then: a parcel less each way. Where the
news before had no company for so long, the next does not wait: that client is not there."""
_PACKED_KEPT_MAX = 4
"""Accepts whose bytes are kept for the other peers; one to each is on its way at about the same time."""
_RETRY_S = 0.1
_REFUSED_RETRY_S = 3.0

CALLERS_MAX = 64
"""Callers that are answered, members or not; far more than there may be members."""


class Registry(Protocol):
    """Who knows the incarnations: the node."""

    @property
    def incarnation(self) -> bytes:
        """This node's own."""
        ...

    @property
    def member_endpoint(self) -> str:
        """Where this node is reached, if it is a member; else empty."""
        ...

    def admit_peer(
        self, peer: NodeId, incarnation: bytes, reply: Callable[[NodeId | JournalError], None]
    ) -> None:
        """Call ``reply`` when ``peer`` is durably known by this incarnation. Raises ``WrongCluster``."""
        ...

    def peer_refused(self, peer: NodeId, error: JournalError | None) -> None:
        """``peer`` does not take this node's stream, or (None) takes it again."""
        ...


class GrpcTransport:
    """``journal.node.Transport`` over gRPC. ``serve`` hands it the streams of its peers.

    ``cluster``, ``node`` and ``window_slots_max`` are what both sides of a stream must agree on.
    """

    def __init__(
        self,
        *,
        cluster: str,
        node: NodeId,
        window_slots_max: int,
        queue_bytes_max: int,
        log: FilteringBoundLogger,
    ) -> None:
        self.cluster = cluster
        self._node = node
        self._window = window_slots_max
        self._queue_bytes_max = queue_bytes_max
        # A parcel in parts is put together again in memory: never more than this. The largest
        # message is a Promise for a full window, and the leader's own limits keep that below.
        self._parcel_bytes_max = 4 * queue_bytes_max
        self._log = log
        self._deliver: Callable[[Envelope], None] | None = None
        self._hung_up: Callable[[NodeId], None] = lambda _node: None
        self._registry: Registry | None = None
        self._members: frozenset[NodeId] | None = None
        self._endpoints: dict[NodeId, str] = {}
        self._callers: dict[NodeId, str] = {}
        """Who has a stream to this node, and where it says it is reached. It is answered, be it a member or
        not as far as is known here: a node that was away while all others were replaced knows none of those
        that lead now."""
        self._links: dict[NodeId, _Link] = {}
        self._incoming: dict[NodeId, Incoming] = {}
        self._invited: dict[str, Incoming] = {}
        self._pulses: dict[NodeId, Pulse] = {}
        self._packed: deque[tuple[Message, bytes]] = deque(maxlen=_PACKED_KEPT_MAX)
        self._closed = False

    # -- the node's side ----------------------------------------------------------------

    def identify(self, registry: Registry) -> None:
        """Let ``registry`` judge who the peers are. Before ``start``; without it, anybody's word is taken."""
        self._registry = registry

    def start(self, deliver: Callable[[Envelope], None], hung_up: Callable[[NodeId], None]) -> None:
        self._deliver = deliver
        self._hung_up = hung_up

    def send(self, envelopes: Sequence[Envelope]) -> None:
        for _sender, to, message in envelopes:
            link = self._links.get(to)
            if link is not None:
                link.put(message)
        for link in self._links.values():
            link.flush()

    def set_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        # Who becomes a member is to be recorded, and who leaves is to be told: both open a new stream.
        members = frozenset(endpoints)
        if self._members is not None:
            for node in self._incoming.keys() & (members ^ self._members):
                self._end_incoming(node, "the membership has changed")
        self._members = members
        self._endpoints = dict(endpoints)
        self._follow()

    def _follow(self) -> None:
        """Have a link to each member, and to each caller."""
        wanted = {**self._callers, **self._endpoints}
        wanted.pop(self._node, None)
        for node, link in list(self._links.items()):
            if wanted.get(node) != link.endpoint:
                del self._links[node]
                link.close()
        if self._closed:
            return
        for node, endpoint in wanted.items():
            if node not in self._links:
                metadata = (
                    (methods.MD_PROTOCOL, methods.PEER_PROTOCOL),
                    (methods.MD_CLUSTER, self.cluster),
                    (methods.MD_SENDER, str(self._node)),
                    (methods.MD_RECEIVER, str(node)),
                    (methods.MD_WINDOW, str(self._window)),
                    *self.own_incarnation,
                )
                log = self._log.bind(peer=node, endpoint=endpoint)
                self._links[node] = _Link(
                    self, node, endpoint, metadata, queue_bytes_max=self._queue_bytes_max, log=log
                )

    def links(self) -> dict[NodeId, LinkStatus]:
        """Return how the streams to the peers are, for those who watch the node."""
        return {node: link.status() for node, link in self._links.items()}

    def pulse(self, node: NodeId) -> Pulse:
        """Return the pulse of a peer, which outlives its streams."""
        pulse = self._pulses.get(node)
        if pulse is None:
            pulse = self._pulses[node] = Pulse()
        return pulse

    def packed(self, message: Message) -> bytes:
        """Return ``message`` as the bytes of an envelope. An Accept goes to all peers: it is packed once."""
        for known, packed in self._packed:
            if known is message:
                return packed
        packed = pack_message(message).SerializeToString()
        if type(message) is Accept:
            self._packed.append((message, packed))
        return packed

    async def aclose(self) -> None:
        """Close all streams, both ways. From the asyncio side. Idempotent."""
        self._closed = True
        for node in self._incoming:
            self._end_incoming(node, "the node is stopping")
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            link.close()
        for link in links:
            await link.closed()

    def _end_incoming(self, node: NodeId, reason: str) -> None:
        self._incoming[node].end(Unavailable(reason))

    # -- who is who ----------------------------------------------------------------------

    @property
    def own_incarnation(self) -> tuple[tuple[str, str], ...]:
        """The metadata by which this node says which one it is."""
        if self._registry is None:
            return ()
        return ((methods.MD_INCARNATION, self._registry.incarnation.hex()),)

    @property
    def own_endpoint(self) -> tuple[tuple[str, str], ...]:
        """The metadata by which this node says where it is reached; it may change while a link waits."""
        endpoint = self._registry.member_endpoint if self._registry is not None else ""
        return ((methods.MD_ENDPOINT, endpoint),) if endpoint else ()

    async def admit(self, peer: NodeId, metadata: Mapping[str, str | bytes]) -> None:
        """Return when ``peer`` is known, durably, as the one that it says it is.

        Raises ``Disowned`` or ``WrongCluster`` with the reason where it is not, and ``Unavailable``
        where this node stops.
        """
        registry = self._registry
        if registry is None:
            return
        try:
            incarnation = bytes.fromhex(str(metadata.get(methods.MD_INCARNATION, "")))
        except ValueError:
            incarnation = b""
        if len(incarnation) != INCARNATION_BYTES:
            raise WrongCluster(f"{methods.MD_INCARNATION} must be {INCARNATION_BYTES} bytes in hex")
        answered: asyncio.Future[NodeId | JournalError] = asyncio.get_running_loop().create_future()

        def reply(result: NodeId | JournalError) -> None:
            if not answered.done():
                answered.set_result(result)

        registry.admit_peer(peer, incarnation, reply)
        result = await answered
        if isinstance(result, JournalError):
            raise result

    def refused(self, peer: NodeId, error: JournalError | None) -> None:
        """A link was refused by ``peer``, or (None) accepted."""
        if self._registry is not None:
            self._registry.peer_refused(peer, error)

    # -- the server's side ----------------------------------------------------------------

    def check(self, metadata: Mapping[str, str | bytes]) -> NodeId:
        """Return who opens a stream. Raises ``WrongCluster`` with the reason for a refusal."""
        for key, expected, what in (
            (methods.MD_PROTOCOL, methods.PEER_PROTOCOL, "peer protocol"),
            (methods.MD_CLUSTER, self.cluster, "cluster"),
            (methods.MD_RECEIVER, str(self._node), "node"),
            (methods.MD_WINDOW, str(self._window), "window_slots_max"),
        ):
            given = metadata.get(key)
            if given != expected:
                raise WrongCluster(f"{what} here is {expected}, but the caller expects {given!r}")
        sender = str(metadata.get(methods.MD_SENDER, ""))
        if not sender.isascii() or not sender.isdigit() or not 0 < int(sender) < 2**32:
            raise WrongCluster(f"{methods.MD_SENDER} must be the number of a node, not {sender!r}")
        if int(sender) == self._node:
            raise WrongCluster(f"node {sender} is this node itself")
        return NodeId(int(sender))

    @contextmanager
    def incoming(self, sender: NodeId, endpoint: str = "") -> Iterator[Incoming]:
        """Yield what takes a peer's stream, for as long as that lasts.

        ``endpoint``: where the peer says it is reached; while its stream lasts it can be answered there.
        """
        if sender in self._incoming:
            self._end_incoming(sender, f"node {sender} has opened a newer stream")
        incoming = Incoming(sender, self._take_parcel, self._parcel_bytes_max)
        self._incoming[sender] = incoming
        self._invited[incoming.invitation] = incoming
        host, _colon, port = endpoint.rpartition(":")
        if host and port.isdecimal() and len(self._callers) < CALLERS_MAX:
            self._callers[sender] = endpoint
            self._follow()
        try:
            yield incoming
        finally:
            incoming.close()
            del self._invited[incoming.invitation]
            if self._incoming.get(sender) is incoming:
                del self._incoming[sender]
                self._hung_up(sender)
                if self._callers.pop(sender, None) is not None:
                    self._follow()

    def invited(self, invitation: str) -> Callable[[Call], None] | None:
        """Return what takes the stream of a peer that was invited to the direct port; None: nobody was."""
        incoming = self._invited.get(invitation)
        return incoming.follow if incoming is not None else None

    def _take_parcel(self, sender: NodeId, parcel: px.Parcel) -> None:
        link = self._links.get(sender)
        if link is not None and self.pulse(sender).heard(parcel):
            link.wake()
        if parcel.envelopes:
            self._deliver_parcel(sender, parcel)

    def _deliver_parcel(self, sender: NodeId, parcel: px.Parcel) -> None:
        deliver = self._deliver
        if deliver is None:  # not started yet: lost, as on any network
            return
        for packed in parcel.envelopes:
            try:
                envelope = unpack_message(packed, sender, self._node)
            except ProtocolViolation as violation:
                self._log.warning("peer.violation", peer=sender, reason=str(violation))
            else:
                deliver(envelope)


_ENVELOPE_TAG = bytes([px.Parcel.ENVELOPES_FIELD_NUMBER << 3 | 2])
"""Before the length and the bytes of an envelope in a serialized parcel."""


def _varint(number: int) -> bytes:
    """Return ``number`` in protobuf's form: seven bits a byte, the lowest first, the last below 128."""
    packed = bytearray()
    while number > 127:
        packed.append(number & 127 | 128)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _is_news(message: Message) -> bool:
    """Whether nobody waits for ``message``: it only says what was chosen."""
    return isinstance(message, Heartbeat) and message.probe == 0


def _is_told_by(accept: Accept, earlier: Message) -> bool:
    """Whether ``earlier`` is news that ``accept`` brings as well: it, too, says what is chosen."""
    return (
        isinstance(earlier, Heartbeat)
        and _is_news(earlier)
        and earlier.ballot == accept.ballot
        and earlier.chosen <= accept.chosen
    )


class _Link:
    """The outgoing stream to one peer, and what waits for it."""

    def __init__(
        self,
        transport: GrpcTransport,
        peer: NodeId,
        endpoint: str,
        metadata: tuple[tuple[str, str], ...],
        *,
        queue_bytes_max: int,
        log: FilteringBoundLogger,
    ) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self._peer = peer
        self._metadata = metadata
        self._queue_bytes_max = queue_bytes_max
        self._log = log
        self._queue: deque[tuple[int, Message]] = deque()
        self._bytes = 0
        self._connected = False
        self._trouble: str | None = None  # what was logged last, so that it is logged once
        self._dropped = 0
        self._dropped_ever = 0
        self._why = "not reached yet"
        self._stream: Stream | None = None
        """While it may be written to."""
        self._unwritten: deque[bytes] = deque()
        """Parts of the parcel that is being written."""
        self._due = False
        """Whether what is queued is to be written now."""
        self._news_timer: asyncio.TimerHandle | None = None
        self._news_at = 0.0
        self._company = True
        """Whether the latest news was followed by more within ``_NEWS_DELAY_S``, waiting or not."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    def put(self, message: Message) -> None:
        """Queue a message, or drop it (or, while offline, an older one). ``flush`` when all are queued."""
        size = message_bytes(message)
        if self._bytes + size > (self._queue_bytes_max if self._connected else _OFFLINE_BYTES_MAX):
            if self._connected:
                # One message alone always fits: the largest must get through some time.
                if self._queue:
                    self._drop()
                    return
            else:
                while self._queue and self._bytes + size > _OFFLINE_BYTES_MAX:
                    self._bytes -= self._queue.popleft()[0]
        if type(message) is Accept and self._queue and _is_told_by(message, self._queue[-1][1]):
            self._bytes -= self._queue.pop()[0]
        self._queue.append((size, message))
        self._bytes += size
        now = self._loop.time()
        if not _is_news(message):
            self._company = now - self._news_at < _NEWS_DELAY_S
            self._due = True
            return
        self._news_at = now
        if not self._company:
            self._due = True
        elif self._news_timer is None:
            self._news_timer = self._loop.call_later(_NEWS_DELAY_S, self._without_company)

    def _without_company(self) -> None:
        self._company = False
        self.wake()

    def wake(self) -> None:
        """There is something to write."""
        self._due = True
        self.flush()

    def flush(self) -> None:
        """Begin to write what is due, within this very call. What is due while a write is under way goes
        behind it, in one parcel."""
        while self._stream is not None and self._stream.is_ready:
            parcel = self._next_parcel()
            if parcel is None:
                return
            self._stream.send(parcel)

    def _next_parcel(self) -> bytes | None:
        """Return what is to be written next, None where nothing is due."""
        if not self._unwritten:
            if not self._due:
                self._dropped = 0
                return None
            self._due = False
            if not self._queue and not self._transport.pulse(self._peer).due:
                return None
            self._unwritten.extend(self._parcels())
        return self._unwritten.popleft()

    def status(self) -> LinkStatus:
        pulse = self._transport.pulse(self._peer)
        return LinkStatus(
            connected=self._connected,
            heard_ago_s=pulse.heard_ago_s,
            round_trip_s=pulse.round_trip_s,
            why=self._why,
            queue_bytes=self._bytes,
            dropped=self._dropped_ever,
            round_trips=pulse.round_trips,
        )

    def _drop(self) -> None:
        if self._dropped == 0:
            self._log.warning("peer.queue_full", bytes=self._bytes)
        self._dropped += 1
        self._dropped_ever += 1

    def close(self) -> None:
        self._task.cancel()
        if self._news_timer is not None:
            self._news_timer.cancel()

    async def closed(self) -> None:
        """Wait until the stream is closed."""
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            # A channel of its own each time: a fresh one tries to connect at once, where the old
            # one would first sit out its backoff.
            async with grpc.aio.insecure_channel(self.endpoint, options=channel_options()) as channel:
                exchange: Any = channel.stream_stream(
                    methods.EXCHANGE.path,
                    request_serializer=None,  # parcels are bytes already
                    response_deserializer=px.Empty.FromString,
                )
                metadata = (*self._metadata, *self._transport.own_endpoint)
                call = exchange(metadata=metadata, wait_for_ready=True)
                refusal: WrongCluster | None = None
                why = ""
                try:
                    await self._write_to(call)
                except asyncio.CancelledError:
                    if self._closing():
                        raise
                except WrongCluster as error:  # it takes this node, but this node does not take it
                    refusal = error
                except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
                    pass
                except Unavailable as error:
                    why = str(error)
                finally:
                    self._connected = False
                    self._transport.pulse(self._peer).lost()
                    call.cancel()
                status, details = await call.code(), await call.details()
                trailing = await call.trailing_metadata()
            refused = status in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED)
            if refusal is not None:
                refused = True
                self._lost(refused, str(refusal))
            else:
                self._lost(refused, why or f"{details or 'the stream ended'} ({status.name})")
                if refused:
                    said = error_of_call(status, details, trailing, self.endpoint)
                    self._transport.refused(self._peer, said)
            await asyncio.sleep(_REFUSED_RETRY_S if refused else _RETRY_S)

    @staticmethod
    def _closing() -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0

    async def _write_to(self, call: grpc.aio.StreamStreamCall[Any, px.Empty]) -> None:
        accepted = dict(await call.initial_metadata() or ())
        if methods.MD_NODE not in accepted:
            await call.code()  # refused: the status, which says why, comes behind the metadata
            return
        await self._transport.admit(self._peer, accepted)
        self._transport.refused(self._peer, None)
        broken: asyncio.Future[None] = self._loop.create_future()

        def end(error: BaseException | None) -> None:
            if broken.done():
                return
            if error is None:
                broken.set_result(None)
            else:
                broken.set_exception(error)

        call.add_done_callback(lambda _call: end(None))
        stream = await self._open(call, accepted, end)
        self._connected = True
        self._trouble = None
        self._why = ""
        self._dropped = 0
        self._log.info("peer.connected", by=stream.by)
        pings = self._loop.create_task(self._wake_for_pings(self._transport.pulse(self._peer)))
        self._unwritten.clear()
        self._stream = stream
        try:
            self.wake()
            await broken
        finally:
            self._stream = None
            stream.close()
            pings.cancel()

    async def _open(
        self,
        call: grpc.aio.StreamStreamCall[Any, px.Empty],
        accepted: Mapping[str, str | bytes],
        ended: Callable[[BaseException | None], None],
    ) -> Stream:
        """Return what parcels go by: the peer's direct port if it has one that is reached, or ``call``."""
        port, invitation = accepted.get(methods.MD_DIRECT_PORT), accepted.get(methods.MD_INVITATION)
        if port and invitation:
            metadata = (
                (methods.MD_CLUSTER, self._transport.cluster),
                (methods.MD_INVITATION, str(invitation)),
            )
            try:
                return await DirectStream.open(host_of(self.endpoint), int(port), metadata, self.flush, ended)
            except (OSError, ValueError, Unavailable) as error:
                self._log.warning("peer.direct_port_unreached", port=port, reason=str(error))
        return GrpcStream(call, self.flush, ended)

    async def _wake_for_pings(self, pulse: Pulse) -> None:
        while True:
            await asyncio.sleep(max(pulse.next_in_s, PING_INTERVAL_S / 10))
            if pulse.due:
                self.wake()

    def _parcels(self) -> list[bytes]:
        """Take what is queued, up to one parcel's worth, as one serialized parcel or the parts of one.

        Serialized messages of one type, one behind the other, are one message with the fields of all: so a
        parcel is put together from its envelopes' bytes, which are copied once.
        """
        pieces: list[bytes] = []
        size = 0
        while self._queue and (not pieces or size + self._queue[0][0] <= PARCEL_BYTES_MAX):
            taken, message = self._queue.popleft()
            packed = self._transport.packed(message)
            pieces += (_ENVELOPE_TAG, _varint(len(packed)), packed)
            size += taken
        self._bytes -= size
        self._due = bool(self._queue)
        if self._news_timer is not None:
            self._news_timer.cancel()
            self._news_timer = None
        pulse = self._transport.pulse(self._peer)
        if pulse.due:
            stamp = px.Parcel()
            pulse.stamp(stamp)
            pieces.append(stamp.SerializeToString())
        whole = b"".join(pieces)
        if size <= PARCEL_BYTES_MAX:
            return [whole]
        parts = []
        for cut in range(0, len(whole), PARCEL_BYTES_MAX):
            end = cut + PARCEL_BYTES_MAX
            parts.append(px.Parcel(part=whole[cut:end], more=end < len(whole)).SerializeToString())
        return parts

    def _lost(self, refused: bool, reason: str) -> None:
        """Forget what waited for a connection that is gone, and say once why it went."""
        while self._queue and self._bytes > _OFFLINE_BYTES_MAX:
            self._bytes -= self._queue.popleft()[0]
        self._why = reason
        event = "peer.refused" if refused else "peer.lost"
        trouble = reason if refused else event
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if refused:
            self._log.error(event, reason=reason)
        else:
            self._log.warning(event, reason=reason)
