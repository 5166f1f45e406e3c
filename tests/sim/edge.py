"""Between clients and nodes: what a network and dying processes do to calls.

It implements the client's port over the production ``LocalConnection``. A request or its reply may
be lost (then the client hears nothing, or that the connection broke), may come late, when the
client has long turned to another node, and a submit may arrive twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from journal.connection import Connection, Consistency, GetReply, NotSent, ScanReply, TailMessage
from journal.connection_local import LocalConnection
from journal.errors import JournalError, RecordDamaged, StorageError, Unavailable
from journal.node import Node, NodeMember, NodeStatus
from journal.offers import Verdict
from journal.paxos.changes import MemberChange
from journal.snapshots.serve import SnapshotPart
from journal.types import NodeId, Revision, Slot

if TYPE_CHECKING:
    from tests.sim.host import Host, Life
    from tests.sim.world import World

T = TypeVar("T")

LATE_S = 4.0
LOST = "the connection to the node was lost"


class _Submit:
    """One submit on its way: the first answer to come is the one that the caller gets."""

    def __init__(self) -> None:
        self.result: list[Verdict] | JournalError | None = None
        self.done = trio.Event()

    def answer(self, result: list[Verdict] | JournalError) -> None:
        if self.result is None:
            self.result = result
            self.done.set()


class SimConnection:
    """A client's connection to one node."""

    def __init__(self, world: World, place: int, host: Host) -> None:
        self._world = world
        self._place = place  # the client's, in the network
        self._host = host
        self._rng = world.edge_rng
        self._local = LocalConnection(host.endpoint, self._find)
        self._is_closed = False

    @property
    def endpoint(self) -> str:
        return self._host.endpoint

    def _find(self) -> Node | None:
        return self._host.node

    # -- submits ---------------------------------------------------------------------------

    async def submit(self, data: bytes) -> list[Verdict]:
        world, host, rng, options = self._world, self._host, self._rng, self._world.options
        if self._is_closed:
            raise NotSent("the connection is closed")
        if not host.is_up and rng.random() < 0.8:
            await trio.sleep(options.latency_s)
            raise NotSent(f"{host.endpoint} refuses connections")
        call = _Submit()
        due = world.network.arrival(self._place, host.number)
        is_lost = world.network.is_lost(self._place, host.number)
        if world.network.is_faulty:
            if rng.random() < options.edge_loss:
                is_lost = True
            if rng.random() < options.edge_late:
                due += rng.random() * LATE_S
        if not is_lost:
            world.at(due, lambda: self._arrive(data, call))
        elif rng.random() < 0.5:
            world.after(rng.random(), lambda: call.answer(Unavailable(LOST)))
        await call.done.wait()
        result = call.result
        if isinstance(result, JournalError):
            raise result
        assert result is not None
        return result

    def _arrive(self, data: bytes, call: _Submit | None) -> None:
        host, world = self._host, self._world
        life = host.life
        if host.is_paused and life is not None:
            host.hold(lambda: self._arrive(data, call))
            return
        if life is None or not life.is_ready:
            if call is not None:
                world.after(world.options.latency_s, lambda: call.answer(Unavailable(LOST)))
            return

        def reply(result: list[Verdict] | JournalError) -> None:
            world.watch.answered(life, data, result)
            if call is not None:
                self._reply(life, call, result)

        try:
            life.node.submit(data, reply)
        except JournalError as error:
            reply(self._refusal(life, error))
            return
        # What was refused is promised not to have any effect, and no stream repeats it by itself.
        # What was taken in may come again, as it does from a client that heard nothing.
        if call is not None and world.network.is_faulty and self._rng.random() < world.options.edge_repeat:
            world.after(self._rng.random() * LATE_S, lambda: self._arrive(data, None))

    @staticmethod
    def _refusal(life: Life, error: JournalError) -> JournalError:
        """What the node's server makes of an error (``journal.rpc.edge``, ``journal.rpc.errors``)."""
        if isinstance(error, RecordDamaged):
            life.node.damaged(error)
        return Unavailable(str(error)) if isinstance(error, StorageError) else error

    def _reply(self, life: Life, call: _Submit, result: list[Verdict] | JournalError) -> None:
        world, rng = self._world, self._rng
        network = world.network
        is_lost = network.is_lost(life.host.number, self._place) or not life.is_alive
        if network.is_faulty and rng.random() < world.options.edge_loss:
            is_lost = True
        if not is_lost:
            due = network.arrival(life.host.number, self._place)
            world.at(due, lambda: call.answer(result))
        elif rng.random() < 0.5:
            world.after(rng.random(), lambda: call.answer(Unavailable(LOST)))

    # -- everything else ---------------------------------------------------------------------

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make ``call`` at the node, with a network before and behind it."""
        await self._to_node()
        life = self._host.life
        try:
            result = await call()
        except JournalError as error:
            if life is None or not life.is_alive:
                raise
            raise self._refusal(life, error) from error
        finally:
            # A dead node's callbacks are answered by its own cleaning up: nobody hears that.
            if life is None or not life.is_alive:
                raise Unavailable(LOST)
        await self._travel(self._host.number, self._place)
        return result

    async def _to_node(self) -> None:
        host = self._host
        if self._is_closed:
            raise NotSent("the connection is closed")
        if not host.is_up:
            await trio.sleep(self._world.options.latency_s)
            raise NotSent(f"{host.endpoint} refuses connections")
        await self._travel(self._place, host.number)
        while host.is_paused:
            await host.wait_resumed()
        if not host.is_up:
            raise Unavailable(LOST)

    async def _travel(self, sender: int, to: int) -> None:
        world, rng = self._world, self._rng
        network = world.network
        is_lost = network.is_lost(sender, to)
        due = network.arrival(sender, to, in_order=False)
        if network.is_faulty:
            if rng.random() < world.options.edge_loss:
                is_lost = True
            if rng.random() < world.options.edge_late:
                due += rng.random() * LATE_S
        await trio.sleep_until(due)
        if is_lost:
            if rng.random() < 0.5:
                await trio.sleep_forever()
            raise Unavailable(LOST)

    async def get(self, keys: Sequence[bytes], *, at: Revision | None, consistency: Consistency) -> GetReply:
        return await self._ask(lambda: self._local.get(keys, at=at, consistency=consistency))

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
        return await self._ask(
            lambda: self._local.scan(
                start,
                end,
                at=at,
                consistency=consistency,
                limit_keys=limit_keys,
                limit_bytes=limit_bytes,
            )
        )

    @asynccontextmanager
    async def tail(
        self, after: Revision, prefixes: Sequence[bytes], *, progress_interval_s: float = 1.0
    ) -> AsyncIterator[AsyncIterator[TailMessage]]:
        await self._to_node()
        async with (
            self._local.tail(after, prefixes, progress_interval_s=progress_interval_s) as messages,
            aclosing(self._messages(messages)) as delayed,
        ):
            yield delayed

    async def _messages(self, messages: AsyncIterator[TailMessage]) -> AsyncGenerator[TailMessage, None]:
        host = self._host
        life = host.life
        while True:
            while host.is_paused:
                await host.wait_resumed()
            if host.life is not life:
                raise Unavailable(LOST)
            message = await messages.__anext__()
            await self._travel(host.number, self._place)
            yield message

    async def lease_keep_alive(self, lease: int) -> int:
        return await self._ask(lambda: self._local.lease_keep_alive(lease))

    async def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        return await self._ask(lambda: self._local.outcome(client, sequence))

    async def status(self) -> NodeStatus:
        return await self._ask(self._local.status)

    async def transfer_leadership(self, to: NodeId | None) -> None:
        await self._ask(lambda: self._local.transfer_leadership(to))

    async def compact(self, revision: Revision) -> None:
        await self._ask(lambda: self._local.compact(revision))

    async def change_members(self, change: MemberChange) -> tuple[NodeMember, ...]:
        return await self._ask(lambda: self._local.change_members(change))

    async def chain(self, slot: Slot) -> bytes | None:
        return await self._ask(lambda: self._local.chain(slot))

    async def read_snapshot(self, view: int, after: bytes) -> SnapshotPart:
        return await self._ask(lambda: self._local.read_snapshot(view, after))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._is_closed = True


class SimConnector:
    """Implements ``journal.connection.Connector`` for the client at ``place``."""

    def __init__(self, world: World, place: int) -> None:
        self._world = world
        self._place = place

    async def connect(self, endpoint: str) -> Connection:
        await trio.lowlevel.checkpoint()
        for host in self._world.hosts.values():
            if host.endpoint == endpoint:
                return SimConnection(self._world, self._place, host)
        raise Unavailable(f"nobody knows {endpoint}")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
