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
import logging
import random
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from journal import logs
from journal.collector import calm_the_collector
from journal.errors import (
    DataFolderError,
    DataLost,
    Disowned,
    EntryUnreadable,
    FolderDamaged,
    RecordDamaged,
    StorageError,
)
from journal.limits import Limits
from journal.node import Node, NodeConfig, TrioClock
from journal.paxos import PaxosConfig
from journal.paxos.membership import Member, Membership
from journal.rebuild import check_space, is_of_space, mark, needs_rebuild, rebuild
from journal.rejoin import VOTER, WAYS, Plan
from journal.rpc import bridge
from journal.rpc.driver import HostDriver
from journal.rpc.edge import EdgeLimits
from journal.rpc.peers import GrpcTransport
from journal.rpc.rejoin import ask_for_vote, finish, is_under_way, rejoin
from journal.rpc.server import ListenFailed, Server
from journal.status import DISK_FREE_BYTES_MIN
from journal.storage import Storage
from journal.storage.identity import Identity, open_folder, read_identity
from journal.storage.leveldb import LevelDBStorage
from journal.storage.peers import load_disowned
from journal.storage.records import TRANSFER
from journal.types import NodeId

EXIT_STOPPED = 0
EXIT_REFUSED = 1
EXIT_STORAGE = 3

REBUILDS_MAX = 3
"""Times that a process has its space rebuilt: a disk or a memory that damages it again is to be looked at."""

REJOINS_MAX = 3
"""The same for rejoining."""
DISOWNED_LOOK_S = 0.5

THREAD_SWITCH_S = 0.0005
"""How long the loop may keep Python's interpreter from the disk's thread, which needs it twice a batch. With
the usual 5 ms a busy leader's batches came to the disk that much later (docs/performance.md)."""

REJOIN = (
    "look at the disk before you start node {node} again. If it comes back with the same words, its data is"
    " lost, and with it its vote: `synod member remove {node}`, then let a new node with a new number and an"
    " empty folder join (docs/operations.md, Damaged disks)"
)


UNREADABLE = (
    "nothing of the entry was folded, and nothing is lost: start the version of this program that folded it"
    " elsewhere; where none did, keep the folders and report it"
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
    rejoin: str = ""
    """As what it comes back by itself where its data is lost: one of ``journal.rejoin.WAYS``. Empty: not at
    all, it says what an operator has to do."""
    limits: Limits = field(default_factory=Limits)
    edge_limits: EdgeLimits = field(default_factory=EdgeLimits)
    election_timeout_s: float = 1.0
    heartbeat_interval_s: float = 0.1
    direct_listen: str = ""
    """Where the direct port is (``rpc.direct``), ``host:port``. Empty: there is none."""
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
        if self.rejoin and (self.create or self.join):
            raise ValueError("a node rejoins after it was created, or has joined: not at once with that")
        if self.rejoin and self.rejoin not in WAYS:
            raise ValueError(f"a node rejoins as {' or '.join(WAYS)}, not {self.rejoin!r}")
        if self.rejoin and not self.contacts():
            raise ValueError("a node that is to rejoin by itself must be told the other members")
        if self.join and self.node in self.members:
            raise ValueError(
                f"node {self.node} is to join: the members must be those that it joins, not itself"
            )
        if self.create and self.node not in self.members:
            raise ValueError(f"node {self.node} is not among the members {sorted(self.members)}")
        if self.join and not self.members:
            raise ValueError("a node that joins must be told the present members")
        return _membership(self.members)

    def contacts(self) -> dict[int, str]:
        """Return the members that are not this node."""
        return {node: endpoint for node, endpoint in self.members.items() if node != self.node}

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
        await _run_and_rejoin(options, log)
    except (ValueError, DataFolderError, ListenFailed, Disowned) as error:
        log.error("node.refused", reason=str(error))
        return EXIT_REFUSED
    except EntryUnreadable as error:
        log.error("node.entry_unreadable", reason=str(error), advice=UNREADABLE)
        return EXIT_STORAGE
    except StorageError as error:
        log.error("node.storage_failed", reason=str(error), advice=REJOIN.format(node=options.node))
        return EXIT_STORAGE
    log.info("node.stopped")
    return EXIT_STOPPED


async def _run_and_rejoin(options: NodeOptions, log: FilteringBoundLogger) -> None:
    """Run a node; where its data is lost, and it was told to, let it rejoin and run again."""
    for rejoins in count():
        try:
            if options.rejoin and is_under_way(options.dir) and not await _rejoin(options, "", log):
                return
            await _run_and_rebuild(options, log)
            return
        except (DataLost, FolderDamaged, RecordDamaged, Disowned) as lost:
            again = isinstance(lost, RecordDamaged) and is_of_space(lost)  # the disk damages whatever it has
            if not options.rejoin or again or rejoins == REJOINS_MAX:
                raise
            if not await _rejoin(options, str(lost), log):
                return


async def _rejoin(options: NodeOptions, reason: str, log: FilteringBoundLogger) -> bool:
    """Have the cluster take the node in again, and make its new folder. False: it was told to stop."""
    config, contacts = options.config(), options.contacts()
    plan = Plan(NodeId(options.node), config.endpoint, reason=reason)
    done = await rejoin(plan, options.dir, list(contacts.values()), config.cluster, log)
    if done is None:
        return False
    assert done.number is not None
    storage = await open_folder(
        options.dir,
        cluster=config.cluster,
        node=done.number,
        create=True,
        first=_membership(contacts),
        joins=True,
        stands_for=done.node,
        to_vote=done.voted,
    )
    storage.close()
    finish(options.dir)
    return True


async def _run_and_rebuild(options: NodeOptions, log: FilteringBoundLogger) -> None:
    """Run a node; where its space is damaged, have it folded anew and run it again."""
    for rebuilds in count():
        try:
            await _run_node(options, log)
            return
        except RecordDamaged as damage:
            if rebuilds == REBUILDS_MAX:
                raise
            await _mark_damage(options, damage, log)


async def _open(options: NodeOptions) -> LevelDBStorage:
    return await open_folder(
        options.dir,
        cluster=options.cluster,
        node=NodeId(options.node),
        create=options.create or options.join,
        first=options.membership(),
        joins=options.join,
        stands_for=NodeId(options.node) if options.rejoin else None,
    )


async def _mark_damage(options: NodeOptions, damage: RecordDamaged, log: FilteringBoundLogger) -> None:
    """Have the space rebuilt by the next run. Raises ``damage`` where it is not in the space."""
    if not is_of_space(damage):
        raise damage
    storage = await _open(replace(options, create=False, join=False))
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
    config = options.config()
    storage = await _open(options)
    try:
        identity = read_identity(storage, str(options.dir))
        assert identity is not None
        if identity.node != config.node:  # it rejoined
            log = logs.get_logger(node=identity.node, place=config.node)
            config = replace(config, node=identity.node, paxos=replace(config.paxos, node=identity.node))
        if options.rejoin and (reason := load_disowned(storage)):
            raise Disowned(reason)
        membership = _first_membership(identity, options, log)
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
            incarnation=identity.incarnation,
            links=transport.links,
            disk_free=lambda: shutil.disk_usage(options.dir).free,
            driver=HostDriver(bridge.host().loop),
        )
        transport.identify(node)
        server = Server(
            node,
            transport,
            listen=options.listen,
            log=log,
            limits=options.edge_limits,
            direct_listen=options.direct_listen,
        )
        watched = await _watched(node, options.http_listen, log) if options.http_listen else None
        beside = [] if watched is None else [watched]
        if options.rejoin == VOTER and identity.to_vote:
            contacts = list(options.contacts().values())
            beside.append(partial(ask_for_vote, node, contacts, config.cluster, log))
        if options.rejoin:
            beside.append(partial(_stop_when_disowned, node))
        calm_the_collector()
        sys.setswitchinterval(THREAD_SWITCH_S)
        await run_served(node, server, log, beside)
        if options.rejoin and node.disowned:
            raise Disowned(node.disowned)
    finally:
        storage.close()


async def _stop_when_disowned(node: Node) -> None:
    while True:
        await trio.sleep(DISOWNED_LOOK_S)
        if node.disowned:
            node.stop()


def _first_membership(identity: Identity, options: NodeOptions, log: FilteringBoundLogger) -> Membership:
    """Return the membership that the folder was made with.

    What was told now does not change it: it rules the first slots, so it is history. Only for a node
    that joined is it no more than whom to ask, and newer addresses are welcome.
    """
    told, first = options.membership(), identity.first
    if identity.joined and (identity.stands_for or options.node not in options.members):
        return _membership(options.contacts()) or _known(first, options)
    if first is None:  # a folder from before it was kept
        return _known(told, options)
    if told is not None and told != first:
        log.warning(
            "node.members_ignored",
            reason="the folder keeps the first members, and the journal every change since",
            first=",".join(f"{member.node}={member.endpoint}" for member in first.voters),
        )
    return first


def _known(first: Membership | None, options: NodeOptions) -> Membership:
    if first is None:
        raise ValueError(f"{options.dir} does not say who the first members were: tell it once more")
    return first


def _membership(members: Mapping[int, str]) -> Membership | None:
    """Return the membership with these voters, None where there are none."""
    if not members:
        return None
    return Membership(tuple(Member(NodeId(node), endpoint) for node, endpoint in sorted(members.items())))


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


async def run_served(
    node: Node,
    server: Server,
    log: FilteringBoundLogger,
    beside: Iterable[Callable[[], Awaitable[None]]] = (),
) -> None:
    """Run a node behind its server until it stops, and beside it what else is to go on so long.

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
            for each in beside:
                nursery.start_soon(each)
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
