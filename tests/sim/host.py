"""A node's life, and its next one: start, kill, power loss, pause, graceful stop."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

import trio
from structlog.typing import FilteringBoundLogger

from journal.errors import DataFolderError, RecordDamaged, StorageError, VoteLost
from journal.limits import Limits
from journal.node import Node, NodeConfig
from journal.paxos import PaxosConfig
from journal.paxos.membership import Member, Membership
from journal.paxos.messages import Envelope
from journal.rebuild import check_space, is_of_space, mark, needs_rebuild, rebuild
from journal.storage.identity import Identity, identity_write, read_identity
from journal.storage.memory import MemoryStorage
from journal.storage.peers import INCARNATION_BYTES
from journal.storage.records import (
    ACCEPTED,
    IDENTIFIER,
    PEER,
    PROMISED,
    PROMISED_AGAIN,
    TRANSFER,
    family_end,
    number_key,
)
from journal.types import NodeId
from tests.sim.clock import SimClock
from tests.sim.disk import SimDisk
from tests.sim.links import SimTransport
from tests.sim.options import Options
from tests.sim.world import SimLog, World

REBUILDS_MAX = 3
REPAIRABLE = (ACCEPTED, IDENTIFIER, PROMISED, PROMISED_AGAIN)
"""Damage to one of these is no reason for a node to end, but both copies of a promise."""
NO_BUG = "no task of a node dies of a bug"


class Life:
    """One run of a node's process."""

    def __init__(self, host: Host, number: int, disk: SimDisk) -> None:
        self.host = host
        self.number = number
        self.disk = disk
        self.is_alive = True
        self.is_ready = False
        """Whether ``node`` is there: a space that was damaged is folded anew first."""
        self.node: Node
        self.scope = trio.CancelScope()
        self.deliver: Callable[[Envelope], None] | None = None
        self.hung_up: Callable[[NodeId], None] = lambda _node: None
        self.peers: dict[NodeId, str] = {}
        self.callers: set[int] = set()
        """Who has a stream to this one and said where it is reached: it can be answered, member or not."""


class Host:
    """A machine with a node on it."""

    def __init__(self, world: World, number: int, told: Membership, *, joins: bool = False) -> None:
        """``told``: the first members; or those that a node which ``joins`` is to learn from."""
        self.world = world
        self.number = number
        self.endpoint = endpoint(number)
        self.told = told
        self.joins = joins
        self.memory = MemoryStorage()
        self.life: Life | None = None
        self.lives = 0
        self.is_spoiled = False
        """Its disk was damaged or lost: no more than a minority may be."""
        self.is_lost = False
        """It cannot be started any more: to be replaced."""
        self.is_retired = False
        """It was removed from the members, and its operator has switched it off."""
        self.is_out = False
        """It is away for long, and comes back."""
        self.bad_block: tuple[bytes, bytes] | None = None
        """The first and last key of what cannot be read."""
        self.ghosts: list[dict[bytes, bytes]] = []
        """The accepted values that were durable here before the disk was spoiled."""
        self._resumed: trio.Event | None = None
        self._held: list[Callable[[], None]] = []
        self._rng = world.rng(f"host/{number}")
        spread = world.options.clock_rates
        rate = 1.0 + self._rng.uniform(-spread, spread)
        self.clock = SimClock(world, rate, self._rng.randrange(0, 1_000_000))
        self.config = node_config(world.options, number)
        self.incarnation = b""
        self.incarnations = 0
        self._make_folder()

    def _make_folder(self) -> None:
        """What ``storage.identity.claim`` does where the folder is new."""
        self.incarnations += 1
        self.incarnation = self._rng.randbytes(INCARNATION_BYTES)
        identity = Identity("sim", NodeId(self.number), self.incarnation, self.told, self.joins)
        self.memory.write_now([identity_write(identity)], sync=True)

    @property
    def node(self) -> Node | None:
        """The node, while it runs."""
        life = self.life
        return life.node if life is not None and life.is_ready else None

    @property
    def is_up(self) -> bool:
        return self.life is not None and self.life.is_ready

    @property
    def is_disowned(self) -> bool:
        """It came back without what it promised, and takes no part any more."""
        return self.incarnations > 1

    def has_met(self, peer: Host) -> bool:
        """Whether this disk holds which one ``peer`` is, or can never speak for itself again."""
        if self.is_lost:
            return True
        memory = self.life.disk.memory if self.life is not None else self.memory
        return number_key(PEER, peer.number) in memory._durable

    def remember_disk(self) -> None:
        """Before it is spoiled."""
        memory = self.life.disk.memory if self.life is not None else self.memory
        kept = memory._durable.irange(ACCEPTED, family_end(ACCEPTED), inclusive=(True, False))
        self.ghosts.append({key: memory._durable[key] for key in kept})

    # -- life and death ------------------------------------------------------------------

    def start(self) -> None:
        """Start the node on what its disk holds, as ``journal.rpc.program`` does."""
        assert self.life is None
        self.lives += 1
        disk = SimDisk(self.memory, self, self.world.rng(f"disk/{self.number}/{self.lives}"))
        self.life = life = Life(self, self.lives, disk)
        self.world.nursery.start_soon(self._live, life)

    async def _live(self, life: Life) -> None:
        """One process: rebuilds its space some times, where that is damaged, and then gives up."""
        try:
            with life.scope:
                for rebuilds in range(REBUILDS_MAX + 1):
                    try:
                        await self._prepare(life)
                        await life.node.run()
                        break
                    except RecordDamaged as damage:
                        self._unready(life)
                        if rebuilds == REBUILDS_MAX or not is_of_space(damage) or needs_rebuild(life.disk):
                            raise
                        self.world.log(self.number, f"to be folded anew: {damage}")
                        await mark(life.disk)
        except StorageError as error:
            self._failed(life, error)
        except (Exception, BaseExceptionGroup) as error:
            leaves = [leaf for leaf in _leaves(error) if not isinstance(leaf, trio.Cancelled)]
            if leaves and life.is_alive:
                self.world.violate(NO_BUG, f"node {self.number}: {_where(leaves[0])}")
            raise
        else:
            if life.is_alive:  # a graceful stop is over
                self.world.log(self.number, "STOPPED")
                self._gone(life, power=False, back_in=True)

    async def _prepare(self, life: Life) -> None:
        """Build the node. Raises ``StorageError``."""
        world, disk = self.world, life.disk
        identity = read_identity(disk, f"the folder of node {self.number}")
        if identity is None or identity.first is None:
            raise DataFolderError("the identity is gone")
        if needs_rebuild(disk):
            folded, stood = await rebuild(disk, self.config.limits)
            world.log(self.number, f"space folded anew to slot {folded}, stood at {stood}")
        if disk.get(TRANSFER) is None:
            check_space(disk)
        life.node = Node(
            self.config,
            storage=disk,
            transport=SimTransport(world.network, life),
            clock=self.clock,
            rng=random.Random(self._rng.getrandbits(64)),
            log=cast("FilteringBoundLogger", SimLog(world, self.number)),
            membership=identity.first,
            incarnation=identity.incarnation,
        )
        life.is_ready = True
        applied, promised = life.node.space.applied, life.node._core.ballot
        world.log(self.number, f"START applied={applied} promised={promised}")
        world.watch.started(life)

    @staticmethod
    def _unready(life: Life) -> None:
        life.is_ready = False
        life.deliver = None

    def _failed(self, life: Life, error: StorageError) -> None:
        """The process ends because of its disk. Only a disk that was harmed may do that to it."""
        if not life.is_alive:
            return
        if not (life.disk.has_failed or self.is_spoiled):
            rule = "no healthy disk is given up" if life.is_ready else "a node restarts from what it wrote"
            self.world.violate(rule, f"node {self.number}: {error}")
            return
        self.world.log(self.number, f"FAILED {error}")
        is_vote = isinstance(error, VoteLost)
        if isinstance(error, RecordDamaged) and not is_vote and error.key[:1] in REPAIRABLE:
            self.world.violate("a damaged record of the log is repaired", f"node {self.number}: {error}")
        is_lost = self.bad_block is not None or isinstance(error, (RecordDamaged, DataFolderError))
        power = self._rng.random() < 0.5
        if is_lost and not (isinstance(error, RecordDamaged) and is_of_space(error)):
            self._gone(life, power=power, back_in=False)
            self.is_lost = True
            self.world.log(self.number, "LOST for good")
        else:
            self._gone(life, power=power, back_in=True)

    def _gone(self, life: Life, *, power: bool, back_in: bool) -> None:
        assert life is self.life
        life.is_alive = False
        life.deliver = None
        self.life = None
        self.memory = life.disk.die(power=power)
        if not power:  # the kernel of a machine that lives ends the connections of a dead process
            self.world.network.hang_up(self.number)
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

    def wipe(self) -> None:
        """Put an empty disk in, while the node is down."""
        assert self.life is None
        self.remember_disk()
        self.memory = MemoryStorage()
        self.bad_block = None
        if self.world.options.wiped_returns:
            self._make_folder()
            self.world.log(self.number, f"WIPED, and begun anew as {self.incarnation.hex()[:8]}")
        else:
            self.is_lost = True
            self.world.log(self.number, "WIPED")

    def retire(self) -> None:
        """The operator switches it off for good."""
        self.is_retired = True
        self.kill(power=False)

    def restart_later(self) -> None:
        delay = self._rng.expovariate(1.0 / self.world.options.down_s)
        self.world.after(min(delay, 3.0), self.start_if_down)

    def start_if_down(self) -> None:
        if self.life is None and not (self.is_lost or self.is_retired or self.is_out):
            self.start()

    def make_space(self) -> None:
        """Its disk is not full any more."""
        memory = self.life.disk.memory if self.life is not None else self.memory
        memory.capacity_bytes = None

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
        log_slots_retained_min=options.log_slots_retained,
        log_reach_bytes=options.log_reach_bytes,
        log_trim_step_slots=options.log_trim_step_slots,
        snapshot_chunk_bytes_max=options.snapshot_chunk_bytes,
        snapshot_step_records=options.snapshot_step_records,
        snapshot_idle_s=options.snapshot_idle_s,
        write_queue_bytes_max=options.write_queue_bytes,
        disk_reserve_bytes=options.disk_reserve_bytes,
        scrub_interval_s=options.scrub_interval_s,
        scrub_records_per_step=100,
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
        retain_revisions=options.retain_revisions,
        pipeline_slots_max=min(options.pipeline_slots, options.window_slots),
    )


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]


def _where(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{error!r} in {last.name}, {Path(last.filename).name}:{last.lineno}"
