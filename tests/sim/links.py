"""Streams between nodes, as ``journal.rpc.peers`` has them: to members and callers that are who they were.

A stream is opened by the first message on its way. Both ends are told who the other one is, and each must
have that on its disk before anything passes (``Node.admit_peer``); what is sent until then waits, or is lost.
A change of the members ends the streams of those that come or go, and they are opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from journal.errors import JournalError, WrongCluster
from journal.paxos.messages import Envelope
from journal.types import NodeId

if TYPE_CHECKING:
    from tests.sim.host import Life
    from tests.sim.network import Network

REFUSED_RETRY_S = 1.0
"""Shorter than the real one: a run is short."""
WAITING_MAX = 100
"""Messages that wait for a stream to open; more are lost."""


class Stream:
    """What one life of a node sends to one life of another."""

    def __init__(self) -> None:
        self.is_open = False
        self.retry_at = 0.0
        self.waiting: list[Envelope] = []
        self.missing = 2
        """Ends that have not let the other one in yet."""


class Streams:
    """All of them."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._streams: dict[tuple[int, int], dict[tuple[int, int], Stream]] = {}
        """By sender and receiver, then by the lives of both: what a dead process sent may still arrive."""

    def close(self, sender: int, to: Life) -> None:
        self._streams.pop((sender, to.host.number), None)
        to.callers.discard(sender)

    def pass_on(self, sender: Life, to: Life, envelope: Envelope) -> None:
        """``envelope`` has arrived at ``to``: deliver it, if the stream is open or can be opened."""
        pair = self._streams.setdefault((sender.host.number, to.host.number), {})
        stream = pair.get((sender.number, to.number))
        if stream is None:
            if not sender.is_alive:
                return
            stream = pair[sender.number, to.number] = Stream()
        if stream.is_open:
            self._network.delivered += 1
            assert to.deliver is not None
            to.deliver(envelope)
            return
        now = self._network.now
        if now < stream.retry_at:
            if len(stream.waiting) < WAITING_MAX and stream.missing:
                stream.waiting.append(envelope)
        elif sender.is_alive:
            stream.waiting = [envelope]
            stream.retry_at = now + REFUSED_RETRY_S
            self._open(sender, to, stream)

    def _open(self, sender: Life, to: Life, stream: Stream) -> None:
        stream.missing = 2
        number, peer = NodeId(sender.host.number), NodeId(to.host.number)
        try:
            to.node.admit_peer(number, sender.host.incarnation, self._admitted(sender, to, stream))
        except WrongCluster as error:
            stream.waiting.clear()
            stream.missing = 0
            sender.node.peer_refused(peer, error)
            return
        try:
            sender.node.admit_peer(peer, to.host.incarnation, self._admitted(sender, to, stream))
        except WrongCluster:
            stream.waiting.clear()
            stream.missing = 0

    def _admitted(self, sender: Life, to: Life, stream: Stream) -> Callable[[NodeId | JournalError], None]:
        def admitted(result: NodeId | JournalError) -> None:
            pair = self._streams.get((sender.host.number, to.host.number), {})
            if isinstance(result, JournalError) or pair.get((sender.number, to.number)) is not stream:
                return
            stream.missing -= 1
            if stream.missing or not (sender.is_alive and to.is_alive) or to.deliver is None:
                return
            self._network.world.watch.let_in(sender, to)
            stream.is_open = True
            if sender.node.member_endpoint:
                to.callers.add(sender.host.number)
            sender.node.peer_refused(NodeId(to.host.number), None)
            for envelope in stream.waiting:
                self._network.delivered += 1
                to.deliver(envelope)
            stream.waiting.clear()

        return admitted


class SimTransport:
    """Implements ``journal.node.Transport`` for one life of a node."""

    def __init__(self, network: Network, life: Life) -> None:
        self._network = network
        self._life = life
        self._members: frozenset[int] | None = None

    def start(self, deliver: Callable[[Envelope], None], hung_up: Callable[[NodeId], None]) -> None:
        self._life.deliver = deliver
        self._life.hung_up = hung_up

    def send(self, envelopes: Sequence[Envelope]) -> None:
        peers, callers = self._life.peers, self._life.callers
        known = [envelope for envelope in envelopes if envelope.to in peers or envelope.to in callers]
        self._network.post(self._life, known)

    def set_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        members = frozenset(int(node) for node in endpoints)
        if self._members is not None:
            for node in sorted(members ^ self._members):
                self._network.streams.close(node, self._life)
        self._members = members
        self._life.peers = dict(endpoints)
