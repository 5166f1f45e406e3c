"""A whole journal in one thread: real nodes over memory storage and a network of this module.

Time is trio's: under the autojump clock seconds cost nothing, and an unanswered wait is a
deadlock that the test's deadline finds, not a sleep that hides it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from journal.errors import JournalError, NotLeader
from journal.limits import Limits
from journal.logs import get_logger
from journal.node import Node, NodeConfig, TrioClock
from journal.offers import Offer, Put, Verdict, pack_batch, pack_offer
from journal.paxos import PaxosConfig, Role
from journal.paxos.membership import Member, Membership
from journal.paxos.messages import Envelope
from journal.storage import Storage
from journal.storage.memory import MemoryStorage
from journal.types import NodeId, Revision

LATENCY_S = 0.001


def endpoint_of(node: int) -> str:
    return f"node-{node}:7400"


class ByEndpoint(Mapping[str, Node]):
    """The nodes of a cluster that run now, by their endpoint: what a ``LocalConnector`` asks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def _running(self) -> dict[str, Node]:
        return {endpoint_of(number): node for number, node in self._cluster.nodes.items()}

    def __getitem__(self, endpoint: str) -> Node:
        return self._running()[endpoint]

    def __iter__(self) -> Iterator[str]:
        return iter(self._running())

    def __len__(self) -> int:
        return len(self._cluster.nodes)


class Network:
    """Delivers envelopes after a fixed time, but for the links that are cut."""

    def __init__(self) -> None:
        self.cut: set[tuple[int, int]] = set()
        self._heap: list[tuple[float, int, Envelope]] = []
        self._order = itertools.count()
        self._deliver: dict[int, Callable[[Envelope], None]] = {}
        self._more = trio.Event()

    def transport(self, node: int) -> NetworkTransport:
        return NetworkTransport(self, node)

    async def run(self) -> None:
        while True:
            while not self._heap:
                self._more = trio.Event()
                await self._more.wait()
            due = self._heap[0][0]
            if due > trio.current_time():
                with trio.move_on_at(due):
                    self._more = trio.Event()
                    await self._more.wait()
                continue
            _due, _order, envelope = heapq.heappop(self._heap)
            deliver = self._deliver.get(envelope.to)
            if deliver is not None and (envelope.sender, envelope.to) not in self.cut:
                deliver(envelope)

    def post(self, envelopes: Sequence[Envelope]) -> None:
        due = trio.current_time() + LATENCY_S
        for envelope in envelopes:
            heapq.heappush(self._heap, (due, next(self._order), envelope))
        self._more.set()


class NetworkTransport:
    def __init__(self, network: Network, node: int) -> None:
        self.network = network
        self.node = node
        self.peers: Mapping[NodeId, str] = {}

    def start(self, deliver: Callable[[Envelope], None], hung_up: Callable[[NodeId], None]) -> None:
        self.network._deliver[self.node] = deliver

    def send(self, envelopes: Sequence[Envelope]) -> None:
        self.network.post(envelopes)

    def set_peers(self, endpoints: Mapping[NodeId, str]) -> None:
        self.peers = endpoints


class Cluster:
    """``count`` nodes that can be started, killed (their storage stays) and asked."""

    def __init__(
        self, nursery: trio.Nursery, count: int, limits: Limits | None = None, **settings: Any
    ) -> None:
        """``settings``: more of ``NodeConfig``'s fields, for all nodes."""
        self.settings = settings
        self.nursery = nursery
        self.network = Network()
        self.limits = limits or Limits()
        self.storages: dict[int, Storage] = {node: MemoryStorage() for node in range(1, count + 1)}
        self.membership = Membership(
            tuple(Member(NodeId(node), endpoint_of(node)) for node in self.storages), ()
        )
        self.nodes: dict[int, Node] = {}
        self.scopes: dict[int, trio.CancelScope] = {}
        self.failures: dict[int, Exception] = {}
        self.ended: dict[int, trio.Event] = {}

    async def join(self, number: int) -> None:
        """Start a new node, which is in no membership yet: it knows the first one, to learn from."""
        self.storages[number] = MemoryStorage()
        await self.start(number)

    def config(self, node: int) -> NodeConfig:
        return NodeConfig(
            node=NodeId(node),
            cluster="test",
            endpoint=endpoint_of(node),
            paxos=PaxosConfig(node=NodeId(node), window_slots_max=self.limits.window_slots_max),
            limits=self.limits,
            **self.settings,
        )

    async def start(self, *which: int) -> None:
        for number in which or tuple(self.storages):
            node = Node(
                self.config(number),
                storage=self.storages[number],
                transport=self.network.transport(number),
                clock=TrioClock(lambda: int(trio.current_time() * 1000)),
                rng=random.Random(number * 7919 + len(self.ended)),
                log=get_logger(node=number),
                membership=self.membership,
            )
            self.nodes[number] = node
            self.scopes[number] = trio.CancelScope()
            self.ended[number] = trio.Event()
            await self.nursery.start(self._run, number, node)

    async def _run(self, number: int, node: Node, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self.scopes[number]:
                await node.run(task_status=task_status)
        except JournalError as error:
            self.failures[number] = error
        finally:
            self.network._deliver.pop(number, None)
            if self.nodes.get(number) is node:
                del self.nodes[number]
            self.ended[number].set()

    @property
    def endpoints(self) -> list[str]:
        """Of all nodes, running or not."""
        return [endpoint_of(number) for number in self.storages]

    def isolate(self, node: Node) -> None:
        """Cut all links of ``node``."""
        number = int(node.config.node)
        for other in self.storages:
            self.network.cut |= {(number, other), (other, number)}

    async def kill(self, number: int) -> None:
        self.scopes[number].cancel()
        await self.ended[number].wait()

    async def until(self, condition: Callable[[], Any], within_s: float = 30.0) -> Any:
        with trio.fail_after(within_s):
            while not (found := condition()):  # noqa: ASYNC110  # virtual time: nobody waits
                await trio.sleep(0.01)
        return found

    def leader_now(self) -> Node | None:
        leaders = [node for node in self.nodes.values() if node.status().role == "leader"]
        return max(leaders, key=lambda node: node._core.ballot) if leaders else None

    async def leader(self, *, other_than: int = 0) -> Node:
        def found() -> Node | None:
            node = self.leader_now()
            return node if node is not None and node.config.node != other_than else None

        node: Node = await self.until(found)
        assert node._core.role is Role.LEADER
        return node

    async def converge(self) -> None:
        """Wait until all running nodes have folded the same slots, and compare their chains."""
        await self.until(
            lambda: len({(node.space.applied, node.space.chain) for node in self.nodes.values()}) == 1
        )


async def submit(node: Node, *offers: Offer, client: bytes = b"", first: int = 1) -> list[Verdict]:
    """Submit offers as one batch to ``node`` and wait for their verdicts."""
    packed = [pack_offer(first + index, offer) for index, offer in enumerate(offers)]
    result: list[list[Verdict] | JournalError] = []
    done = trio.Event()

    def reply(verdicts: list[Verdict] | JournalError) -> None:
        result.append(verdicts)
        done.set()

    node.submit(pack_batch(client, 0, node.space.revision, packed), reply)
    await done.wait()
    assert len(result) == 1
    if isinstance(result[0], JournalError):
        raise result[0]
    return result[0]


async def submit_somewhere(cluster: Cluster, *offers: Offer, client: bytes, first: int = 1) -> list[Verdict]:
    """Submit under a fixed id until some leader answers: what the client library does."""
    while True:
        try:
            return await submit(await cluster.leader(), *offers, client=client, first=first)
        except (NotLeader, JournalError):
            await trio.sleep(0.05)


async def barrier(node: Node, *, at_least: int = 0, linearizable: bool = True) -> Revision:
    result: list[Revision | JournalError] = []
    done = trio.Event()

    def reply(revision: Revision | JournalError) -> None:
        result.append(revision)
        done.set()

    node.read_barrier(reply, at_least=Revision(at_least), linearizable=linearizable)
    await done.wait()
    if isinstance(result[0], JournalError):
        raise result[0]
    return result[0]


def put(key: str, value: str = "v", **conditions: Any) -> Offer:
    return Offer(mutations=(Put(key.encode(), value.encode()),), **conditions)


@asynccontextmanager
async def running(count: int, limits: Limits | None = None, **settings: Any) -> AsyncIterator[Cluster]:
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            cluster = Cluster(nursery, count, limits, **settings)
            nursery.start_soon(cluster.network.run)
            await cluster.start()
            yield cluster
            nursery.cancel_scope.cancel()
