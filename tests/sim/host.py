"""A node's life, and its next one: start, kill, power loss, pause, graceful stop."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

import trio
from structlog.typing import FilteringBoundLogger

from journal.errors import JournalError, StorageError
from journal.limits import Limits
from journal.node import Node, NodeConfig
from journal.paxos import PaxosConfig
from journal.paxos.membership import Member, Membership
from journal.paxos.messages import Envelope
from journal.storage.memory import MemoryStorage
from journal.types import NodeId
from tests.sim.clock import SimClock
from tests.sim.disk import SimDisk
from tests.sim.network import SimTransport
from tests.sim.options import Options
from tests.sim.world import SimLog, World

NO_BUG = "no task of a node dies of a bug"


class Life:
    """One run of a node's process."""

    def __init__(self, host: Host, number: int, disk: SimDisk) -> None:
        self.host = host
        self.number = number
        self.disk = disk
        self.is_alive = True
        self.node: Node
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.deliver: Callable[[Envelope], None] | None = None
        self.peers: dict[NodeId, str] = {}
        self.failure: JournalError | None = None


class Host:
    """A machine with a node on it."""

    def __init__(self, world: World, number: int, membership: Membership) -> None:
        self.world = world
        self.number = number
        self.endpoint = endpoint(number)
        self.membership = membership
        self.memory = MemoryStorage()
        self.life: Life | None = None
        self.lives = 0
        self._resumed: trio.Event | None = None
        self._held: list[Callable[[], None]] = []
        self._rng = world.rng(f"host/{number}")
        spread = world.options.clock_rates
        rate = 1.0 + self._rng.uniform(-spread, spread)
        self.clock = SimClock(world, rate, self._rng.randrange(0, 1_000_000))
        self.config = node_config(world.options, number)

    @property
    def node(self) -> Node | None:
        """The node, while it runs."""
        return self.life.node if self.life is not None else None

    @property
    def is_up(self) -> bool:
        return self.life is not None

    # -- life and death ------------------------------------------------------------------

    def start(self) -> None:
        """Start the node on what its disk holds."""
        assert self.life is None
        world = self.world
        self.lives += 1
        disk = SimDisk(self.memory, self, world.rng(f"disk/{self.number}/{self.lives}"))
        life = Life(self, self.lives, disk)
        try:
            life.node = Node(
                self.config,
                storage=disk,
                transport=SimTransport(world.network, life),
                clock=self.clock,
                rng=random.Random(self._rng.getrandbits(64)),
                log=cast("FilteringBoundLogger", SimLog(world, self.number)),
                membership=self.membership,
            )
        except StorageError as error:
            world.violate("a node restarts from what it wrote", f"node {self.number}: {error}")
            return
        self.life = life
        applied, promised = life.node.space.applied, life.node._core.ballot
        world.log(self.number, f"START applied={applied} promised={promised}")
        world.watch.started(life)
        world.nursery.start_soon(self._run, life)

    async def _run(self, life: Life) -> None:
        try:
            with life.scope:
                await life.node.run()
        except StorageError as error:
            life.failure = error
            if life.is_alive and not life.disk.has_failed:
                self.world.violate("no healthy disk is given up", f"node {self.number}: {error}")
            elif life.is_alive:
                self.world.log(self.number, f"FAILED {error}")
                self._gone(life, power=self._rng.random() < 0.5, back_in=True)
        except (Exception, BaseExceptionGroup) as error:
            leaves = [leaf for leaf in _leaves(error) if not isinstance(leaf, trio.Cancelled)]
            if leaves and life.is_alive:
                self.world.violate(NO_BUG, f"node {self.number}: {_where(leaves[0])}")
            raise
        else:
            if life.is_alive:  # a graceful stop is over
                self.world.log(self.number, "STOPPED")
                self._gone(life, power=False, back_in=True)
        finally:
            life.ended.set()

    def _gone(self, life: Life, *, power: bool, back_in: bool) -> None:
        assert life is self.life
        life.is_alive = False
        life.deliver = None
        self.life = None
        self.memory = life.disk.die(power=power)
        self.resume()
        if back_in:
            self.restart_later()

    def kill(self, *, power: bool) -> None:
        """The process dies now; with ``power`` the machine does, and forgets what was not synced."""
        life = self.life
        if life is None:
            return
        self.world.log(self.number, "POWER LOST" if power else "KILLED")
        self._gone(life, power=power, back_in=False)
        life.scope.cancel()

    def restart_later(self) -> None:
        delay = self._rng.expovariate(1.0 / self.world.options.down_s)
        self.world.after(min(delay, 3.0), self.start_if_down)

    def start_if_down(self) -> None:
        if self.life is None:
            self.start()

    # -- pauses ----------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        return self._resumed is not None

    def pause(self) -> None:
        """The process gets no CPU: nothing comes in, nothing ends, no timer fires."""
        if self.life is not None and self._resumed is None:
            self._resumed = trio.Event()
            self.clock.pause()
            self.world.log(self.number, "PAUSED")

    def resume(self) -> None:
        if self._resumed is None:
            return
        self._resumed.set()
        self._resumed = None
        self.world.log(self.number, "RESUMED")
        held, self._held = self._held, []
        for act in held:
            act()
        self.clock.resume()

    def hold(self, act: Callable[[], None]) -> None:
        """Do it when the node runs again."""
        self._held.append(act)

    async def wait_resumed(self, or_else: trio.Event | None = None) -> None:
        resumed = self._resumed
        if resumed is None:
            return
        if or_else is None:
            await resumed.wait()
            return
        # ``resume`` is called when the node dies, too: one event is enough.
        await resumed.wait()


def endpoint(number: int) -> str:
    return f"node-{number}:7400"


def membership_of(options: Options) -> Membership:
    return Membership(
        tuple(Member(NodeId(number), endpoint(number)) for number in range(1, options.nodes + 1))
    )


def limits_of(options: Options) -> Limits:
    return Limits(
        value_bytes_max=4096,
        offer_bytes_max=8192,
        batch_offers_max=options.entry_offers,
        batch_bytes_max=32768,
        entry_offers_max=options.entry_offers,
        entry_bytes_max=40000,
        window_slots_max=options.window_slots,
        offers_inflight_max=options.offers_inflight,
        reads_inflight_max=options.reads_inflight,
        learn_bytes_max=options.learn_bytes,
        scan_keys_max=options.scan_keys,
        tail_message_bytes_max=options.tail_message_bytes,
        tail_recent_bytes_max=options.tail_recent_bytes,
        space_cache_records_max=options.cache_records,
    )


def node_config(options: Options, number: int) -> NodeConfig:
    timeout = options.election_timeout_s
    return NodeConfig(
        node=NodeId(number),
        cluster="sim",
        endpoint=endpoint(number),
        limits=limits_of(options),
        paxos=PaxosConfig(
            node=NodeId(number),
            window_slots_max=options.window_slots,
            election_timeout_s=timeout,
            heartbeat_interval_s=timeout / 5,
            retry_interval_s=timeout / 4,
            message_bytes_max=options.paxos_message_bytes,
            learn_slots_max=options.learn_slots,
            accept_ahead_windows_max=options.accept_ahead_windows,
        ),
        tick_interval_s=timeout / 10,
        read_timeout_s=2 * timeout,
        stop_timeout_s=2 * timeout,
        flush_interval_s=options.flush_interval_s,
        pipeline_slots_max=min(options.pipeline_slots, options.window_slots),
    )


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} in {last.name}, {Path(last.filename).name}:{last.lineno}"
