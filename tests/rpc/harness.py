"""A node behind its gRPC server, in one thread with the test: guest mode, as in production."""

from __future__ import annotations

import functools
import inspect
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, ParamSpec, cast

import grpc.aio
import structlog
import trio
from google.protobuf.message import Message

from journal.counters import Counters
from journal.errors import JournalError
from journal.limits import Limits
from journal.node import Node, NodeConfig, TrioClock
from journal.offers import Mutation, Offer, Put, Verdict, pack_batch, pack_offer
from journal.paxos import PaxosConfig
from journal.paxos.membership import Member, Membership
from journal.rpc import bridge, methods
from journal.rpc.channels import channel_options
from journal.rpc.connection import GrpcConnection, GrpcConnector
from journal.rpc.edge import EdgeLimits
from journal.rpc.methods import Method
from journal.rpc.peers import GrpcTransport
from journal.rpc.server import Server
from journal.status import NodeStatus
from journal.storage.memory import MemoryStorage
from journal.types import NodeId, Revision, Slot

P = ParamSpec("P")

CLUSTER = "test-cluster"
DIRECT = "127.0.0.1:0"


class Way:
    """Whether nodes have a direct port where a test does not say. The fixture ``both_ways`` sets it."""

    direct = True

    def of(self, direct: bool | None) -> bool:
        return self.direct if direct is None else direct


way = Way()


def guest(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Run an async test under ``run_guest``, with a deadline, and let nothing be logged by the way."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        async def main() -> None:
            with trio.fail_after(20):
                await test(*arguments, **named)

        with silence():
            bridge.run_guest(main)

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]  # pytest's fixtures
    del run.__wrapped__  # else pytest-trio sees through to the async one
    return run


async def until(holds: Callable[[], object]) -> None:
    """Wait for what has no event of its own; the test's deadline bounds it."""
    while not holds():  # noqa: ASYNC110
        await trio.sleep(0.001)


@contextmanager
def silence() -> Iterator[None]:
    """Raise AssertionError where gRPC, asyncio or the bridge had to log something."""
    found: list[str] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    catch = Catch(logging.WARNING)
    logging.getLogger().addHandler(catch)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(catch)
    if found:
        raise AssertionError("logged by the way:\n" + "\n".join(found))


class Log:
    """A structured log that remembers what was written."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.logger = structlog.wrap_logger(
            cast(Any, None),
            processors=[self._keep],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        )

    def _keep(self, _logger: object, level: str, event: MutableMapping[str, Any]) -> Any:
        self.entries.append({"level": level, **event})
        raise structlog.DropEvent

    def named(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["event"] == event]


def make_transport(
    node: int = 1, *, cluster: str = CLUSTER, window: int = 32, queue: int = 1 << 20, log: Log | None = None
) -> GrpcTransport:
    return GrpcTransport(
        cluster=cluster,
        node=NodeId(node),
        window_slots_max=window,
        queue_bytes_max=queue,
        log=(log or Log()).logger,
    )


class Served(SimpleNamespace):
    """A node that is served, and ways to it."""

    node: Node
    server: Server
    endpoint: str
    connector: GrpcConnector
    connection: GrpcConnection
    channel: grpc.aio.Channel
    direct: grpc.aio.Channel
    """To the direct port."""
    log: Log

    async def call(
        self, method: Method, request: Message, metadata: Any = (), *, direct_port: bool = False
    ) -> Any:
        """Make a unary call as a client in any language does."""

        return await bridge.host().run(self.call_here, method, request, metadata, direct_port)

    async def call_here(
        self, method: Method, request: Message, metadata: Any = (), direct_port: bool = False
    ) -> Any:
        """``call`` for the asyncio side."""
        channel = self.direct if direct_port else self.channel
        made = channel.unary_unary(
            method.path, request_serializer=methods.encode, response_deserializer=method.decode_reply
        )
        return await made(request, metadata=metadata)

    async def call_stream(self, method: Method, request: Message) -> list[Any]:
        """Make a call that is answered by a stream that ends; return its messages."""

        async def ask() -> list[Any]:
            made = self.channel.unary_stream(
                method.path, request_serializer=methods.encode, response_deserializer=method.decode_reply
            )
            return [reply async for reply in made(request)]

        return await bridge.host().run(ask)

    async def put(self, key: bytes, value: bytes = b"v", lease: int = 0) -> int:
        verdicts = await self.offer(Put(key, value, lease))
        assert isinstance(verdicts[0], int), verdicts
        return verdicts[0]

    async def offer(self, *mutations: Mutation, **conditions: Any) -> list[Verdict]:
        offer = Offer(mutations=mutations, **conditions)
        return await self.connection.submit(pack_batch(b"", 0, 0, [pack_offer(0, offer)]))


@asynccontextmanager
async def served(
    *,
    limits: Limits | None = None,
    edge: EdgeLimits | None = None,
    election_timeout_s: float = 0.05,
    direct: bool | None = None,
) -> AsyncIterator[Served]:
    """Serve a cluster of one real node over memory storage, and wait until it leads.

    ``direct``: whether it has a direct port, by which ``Served.connection`` then goes. None: as ``way``
    says."""
    log = Log()
    limits = limits or Limits()
    config = NodeConfig(
        node=NodeId(1),
        cluster=CLUSTER,
        endpoint="127.0.0.1:1",
        limits=limits,
        paxos=PaxosConfig(
            node=NodeId(1),
            window_slots_max=limits.window_slots_max,
            election_timeout_s=election_timeout_s,
            heartbeat_interval_s=0.01,
            retry_interval_s=0.02,
        ),
        tick_interval_s=0.005,
        read_timeout_s=1.0,
    )
    transport = make_transport(log=log)
    node = Node(
        config,
        storage=MemoryStorage(),
        transport=transport,
        clock=TrioClock(lambda: time.time_ns() // 1_000_000),
        rng=random.Random(1),
        log=log.logger,
        membership=Membership(voters=(Member(NodeId(1), "127.0.0.1:1"),)),
    )
    server = Server(
        node,
        transport,
        listen="127.0.0.1:0",
        log=log.logger,
        limits=edge,
        direct_listen=DIRECT * way.of(direct),
    )
    async with trio.open_nursery() as nursery, reachable(server, node, log) as found:
        nursery.start_soon(node.run)
        await until(lambda: node.leader_endpoint[0] == 1)
        yield found
        node.stop()


@asynccontextmanager
async def reachable(server: Server, node: Any, log: Log) -> AsyncIterator[Served]:
    """Start a server, and connect to it in both ways."""
    side = bridge.host()
    await side.run(server.start)
    endpoint = f"127.0.0.1:{server.port}"
    connector = GrpcConnector(CLUSTER)
    channel = grpc.aio.insecure_channel(endpoint, options=channel_options())
    direct = grpc.aio.insecure_channel(f"127.0.0.1:{server.direct_port or 1}", options=channel_options())
    try:
        yield Served(
            node=node,
            server=server,
            endpoint=endpoint,
            connector=connector,
            connection=await connector.connect(endpoint),
            channel=channel,
            direct=direct,
            log=log,
        )
    finally:
        with trio.CancelScope(shield=True):
            await connector.aclose()
            await side.run(channel.close)
            await side.run(direct.close)
            await side.run(server.aclose)


class FakeNode:
    """As much of a node as the edge needs, which answers only when the test says so."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.config = SimpleNamespace(cluster=CLUSTER, node=NodeId(1), limits=limits or Limits())
        self.space = SimpleNamespace(revision=Revision(0), get=lambda key, at=None: None)
        self.leader_endpoint = (NodeId(1), "127.0.0.1:1")
        self.counters = Counters()
        self.submitted: list[tuple[bytes, Callable[[list[Verdict] | JournalError], None]]] = []
        self.reads: list[Callable[[Revision | JournalError], None]] = []
        self.refuse: JournalError | None = None
        self.submitted_one = trio.Event()
        self.read_one = trio.Event()

    def status(self) -> NodeStatus:
        zero = Revision(0)
        return NodeStatus(
            NodeId(1),
            CLUSTER,
            "h:1",
            "leader",
            None,
            "",
            zero,
            Slot(0),
            Slot(0),
            0,
            "",
            zero,
            0,
            0,
            0,
            0,
            0.0,
            (),
            "ok",
        )

    def submit(self, data: bytes, reply: Callable[[list[Verdict] | JournalError], None]) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.submitted.append((data, reply))
        self.submitted_one.set()

    def read_barrier(self, reply: Callable[[Revision | JournalError], None], **_asked: Any) -> None:
        self.reads.append(reply)
        self.read_one.set()

    async def submissions(self, count: int) -> None:
        """Wait until so many batches have come in."""
        while len(self.submitted) < count:
            self.submitted_one = trio.Event()
            await self.submitted_one.wait()


@asynccontextmanager
async def served_fake(
    *, edge: EdgeLimits | None = None, direct: bool | None = None
) -> AsyncIterator[tuple[FakeNode, Served]]:
    """Serve a fake node. ``direct``: see ``served``."""
    log = Log()
    node = FakeNode()
    server = Server(
        cast(Node, node),
        make_transport(log=log),
        listen="127.0.0.1:0",
        log=log.logger,
        limits=edge,
        direct_listen=DIRECT * way.of(direct),
    )
    async with reachable(server, node, log) as found:
        yield node, found


def batch(*offers: Offer, client: bytes = b"", acked: int = 0, base: int = 0) -> bytes:
    """Return a packed batch with sequences from 0 (or ``acked``) on."""
    packed = [pack_offer(acked + number, offer) for number, offer in enumerate(offers)]
    return pack_batch(client, acked, base, packed)
