"""A whole node as a program: folder, node, transport, server, signals, exit code.

Expected faults (a folder of another node, a port in use, a failed disk) are one line of
the log and an exit code, never a traceback:

====  =======================================================================
code  meaning
====  =======================================================================
0     stopped as asked, by SIGTERM or SIGINT
1     the options, the address or the folder are not right: mend them and try again
3     the disk failed, or a record is damaged
-7    (SIGBUS) the disk could not be read where LevelDB maps a table into memory
====  =======================================================================
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import random
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from journal import logs
from journal.errors import DataFolderError, RecordDamaged, StorageError
from journal.limits import Limits
from journal.node import Node, NodeConfig, TrioClock
from journal.paxos import PaxosConfig
from journal.paxos.membership import Member, Membership
from journal.rebuild import check_space, is_of_space, mark, needs_rebuild, rebuild
from journal.rpc import bridge
from journal.rpc.edge import EdgeLimits
from journal.rpc.peers import GrpcTransport
from journal.rpc.server import ListenFailed, Server
from journal.status import DISK_FREE_BYTES_MIN
from journal.storage import Storage
from journal.storage.identity import open_folder, read_identity
from journal.storage.records import TRANSFER
from journal.types import NodeId

EXIT_STOPPED = 0
EXIT_REFUSED = 1
EXIT_STORAGE = 3

REBUILDS_MAX = 3
"""Times that a process has its space rebuilt: a disk or a memory that damages it again is to be looked at."""

REJOIN = (
    "look at the disk before you start node {node} again. If it comes back with the same words, its data is"
    " lost, and with it its vote: `synod member remove {node}`, then let a new node with a new number and an"
    " empty folder join (docs/operations.md, Damaged disks)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What ``synod node`` is told."""

    node: int
    dir: Path
    listen: str
    """Where to listen, ``host:port``."""
    cluster: str
    members: Mapping[int, str] = field(default_factory=dict)
    """The endpoint of every node of the cluster's first membership, this one's included; for a node
    that joins: of those that are members now, without it. Needed only where a folder is made, which
    keeps it: what a later start is told does not change history."""
    create: bool = False
    """The folder is to be made, of a new cluster's node: without this an empty one is refused."""
    join: bool = False
    """The folder is to be made, of a node that joins a cluster which runs already."""
    limits: Limits = field(default_factory=Limits)
    edge_limits: EdgeLimits = field(default_factory=EdgeLimits)
    election_timeout_s: float = 1.0
    heartbeat_interval_s: float = 0.1
    http_listen: str = ""
    """Where ``/metrics``, ``/livez`` and ``/readyz`` are served, ``host:port``. Empty: nowhere."""
    disk_free_bytes_min: int = DISK_FREE_BYTES_MIN
    """With less than this left on the data folder's file system, ``health`` raises an alarm."""
    retain_revisions: int = 0
    """While it leads, it compacts what is older than the last so many revisions. 0: not by number."""
    retain_s: float = 0.0
    """While it leads, it compacts what is older than so many seconds. 0: not by time."""
    log_level: str = "info"
    log_format: str = "kv"

    def membership(self) -> Membership | None:
        """Return what ``members`` says, None where it says nothing. Raises ``ValueError``."""
        if self.create and self.join:
            raise ValueError("a node is created with a new cluster, or joins one: not both")
        if self.join and self.node in self.members:
            raise ValueError(
                f"node {self.node} is to join: the members must be those that it joins, not itself"
            )
        if self.create and self.node not in self.members:
            raise ValueError(f"node {self.node} is not among the members {sorted(self.members)}")
        if self.join and not self.members:
            raise ValueError("a node that joins must be told the present members")
        if not self.members:
            return None
        return Membership(
            tuple(Member(NodeId(node), endpoint) for node, endpoint in sorted(self.members.items()))
        )

    def config(self) -> NodeConfig:
        """Return the node's configuration, validated. Raises ``ValueError``."""
        endpoint = self.members.get(self.node, self.listen)
        config = NodeConfig(
            node=NodeId(self.node),
            cluster=self.cluster,
            endpoint=endpoint,
            limits=self.limits,
            disk_free_bytes_min=self.disk_free_bytes_min,
            retain_revisions=self.retain_revisions,
            retain_s=self.retain_s,
            paxos=PaxosConfig(
                node=NodeId(self.node),
                window_slots_max=self.limits.window_slots_max,
                election_timeout_s=self.election_timeout_s,
                heartbeat_interval_s=self.heartbeat_interval_s,
            ),
        )
        config.validate()
        self.edge_limits.validate()
        return config


def run(options: NodeOptions) -> int:
    """Run a node until it is told to stop; return the exit code. For the main thread."""
    try:
        logs.configure(level=options.log_level, form=options.log_format)
    except ValueError as error:
        logging.error("%s", error)
        return EXIT_REFUSED
    if sys.__stderr__ is not None:
        # A read that the disk fails in memory that LevelDB has mapped is a signal: say at least where.
        faulthandler.enable(sys.__stderr__, all_threads=False)
    log = logs.get_logger(node=options.node)
    # What gRPC and asyncio have to say goes the way of all logs, in the same form.
    forward = _Forward(log)
    logging.getLogger().addHandler(forward)
    try:
        return bridge.run_guest(run_node, options)
    finally:
        logging.getLogger().removeHandler(forward)


async def run_node(options: NodeOptions) -> int:
    """Run a node inside ``bridge.run_guest``; return the exit code."""
    log = logs.get_logger(node=options.node)
    try:
        for rebuilds in count():
            try:
                await _run_node(options, log)
                break
            except RecordDamaged as damage:
                if rebuilds == REBUILDS_MAX:
                    raise
                await _mark_damage(options, damage, log)
    except (ValueError, DataFolderError, ListenFailed) as error:
        log.error("node.refused", reason=str(error))
        return EXIT_REFUSED
    except StorageError as error:
        log.error("node.storage_failed", reason=str(error), advice=REJOIN.format(node=options.node))
        return EXIT_STORAGE
    log.info("node.stopped")
    return EXIT_STOPPED


async def _mark_damage(options: NodeOptions, damage: RecordDamaged, log: FilteringBoundLogger) -> None:
    """Have the space rebuilt by the next run. Raises ``damage`` where it is not in the space."""
    if not is_of_space(damage):
        raise damage
    config, told = options.config(), options.membership()
    storage = await open_folder(
        options.dir, cluster=config.cluster, node=config.node, create=False, first=told, joins=False
    )
    try:
        if needs_rebuild(storage):
            raise damage  # found again where it had just been rebuilt
        log.error("space.damaged", reason=str(damage), action="it is folded anew from the log")
        await mark(storage)
    finally:
        storage.close()


async def _rebuild(storage: Storage, limits: Limits, log: FilteringBoundLogger) -> None:
    """Fold the space anew, if that is asked for. Raises ``RecordDamaged``."""
    if needs_rebuild(storage):
        folded, stood = await rebuild(storage, limits)
        rest = "" if folded == stood else "learned from the peers"
        log.warning("space.rebuilt", slot=folded, stood_at=stood, rest=rest)
    if storage.get(TRANSFER) is None:  # else a snapshot may be on its way into the space's place
        check_space(storage)


async def _run_node(options: NodeOptions, log: FilteringBoundLogger) -> None:
    config, told = options.config(), options.membership()
    storage = await open_folder(
        options.dir,
        cluster=config.cluster,
        node=config.node,
        create=options.create or options.join,
        first=told,
        joins=options.join,
    )
    try:
        membership, incarnation = _first_membership(storage, options, told, log)
        await _rebuild(storage, config.limits, log)
        config = replace(config, endpoint=membership.endpoints().get(config.node, config.endpoint))
        transport = GrpcTransport(
            cluster=config.cluster,
            node=config.node,
            window_slots_max=config.limits.window_slots_max,
            queue_bytes_max=config.limits.peer_queue_bytes_max,
            log=log,
        )
        node = Node(
            config,
            storage=storage,
            transport=transport,
            clock=TrioClock(lambda: time.time_ns() // 1_000_000),
            rng=random.Random(),
            log=log,
            membership=membership,
            incarnation=incarnation,
            links=transport.links,
            disk_free=lambda: shutil.disk_usage(options.dir).free,
        )
        transport.identify(node)
        server = Server(node, transport, listen=options.listen, log=log, limits=options.edge_limits)
        watched = await _watched(node, options.http_listen, log) if options.http_listen else None
        _calm_the_collector()
        await run_served(node, server, log, watched)
    finally:
        storage.close()


def _first_membership(
    storage: Storage, options: NodeOptions, told: Membership | None, log: FilteringBoundLogger
) -> tuple[Membership, bytes]:
    """Return the membership that the folder was made with, and its incarnation.

    What was told now does not change it: it rules the first slots, so it is history. Only for a node
    that joined is it no more than whom to ask, and newer addresses are welcome.
    """
    identity = read_identity(storage, str(options.dir))
    assert identity is not None
    first = identity.first
    if identity.joined and told is not None and options.node not in options.members:
        first = told
    if first is None:  # a folder from before it was kept
        if told is None:
            raise ValueError(f"{options.dir} does not say who the first members were: tell it once more")
        first = told
    elif told is not None and told != first:
        log.warning(
            "node.members_ignored",
            reason="the folder keeps the first members, and the journal every change since",
            first=",".join(f"{member.node}={member.endpoint}" for member in first.voters),
        )
    return first, identity.incarnation


async def _watched(node: Node, listen: str, log: FilteringBoundLogger) -> Callable[[], Awaitable[None]]:
    """Listen for those who watch the node; return what serves them. Raises ``ListenFailed``."""
    # Here and not above: who has no HTTP port need not wait for it.
    from journal.http import HttpServer, listeners
    from journal.metrics import pages

    try:
        sockets = await listeners(listen)
    except (ValueError, OSError) as error:
        raise ListenFailed(f"cannot listen on {listen} for HTTP: {error}") from None
    log.info("http.listening", listen=listen)
    return partial(HttpServer(pages(node), log).serve, sockets)


def _calm_the_collector() -> None:
    """Have Python's cycle collector look at what changes, and seldom.

    A node allocates tuples by the hundred thousand and makes next to no cycles: what is there at the
    start stays, and a look at all of it every 700 allocations is time taken from offers.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def run_served(
    node: Node,
    server: Server,
    log: FilteringBoundLogger,
    watched: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Run a node behind its server until it stops, and beside it what serves those who watch it.

    Raises ``ListenFailed`` or ``StorageError``.
    """
    side = bridge.host()
    failure: ListenFailed | StorageError | None = None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for number in signals:
                    log.info("node.signal", signal=signal.Signals(number).name)
                    node.stop()

            nursery.start_soon(stop_on_signal)
            if watched is not None:
                nursery.start_soon(watched)
            try:
                await side.run(server.start)
                await node.run()
            except (ListenFailed, StorageError) as error:
                failure = error
            finally:
                with trio.CancelScope(shield=True):
                    await side.run(server.aclose)
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Forward(logging.Handler):
    """Passes records of the standard library's logging on to the structured log."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write("library", logger=record.name, message=record.getMessage(), exc_info=record.exc_info)
