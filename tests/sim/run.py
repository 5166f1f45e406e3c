"""One run: a cluster and its clients, a storm, fair weather, and the verdict."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import trio

import journal.recent
import journal.sessions
from journal.client import Journal, OfferRejected, connect
from journal.connection import LOCAL, Connection
from journal.connection_local import LocalConnection
from journal.errors import JournalError, RecordDamaged, SpaceFull, StorageError
from journal.node import Node
from journal.offers import Offer, Put
from journal.types import Revision
from synod.history.check import check
from synod.history.client import commit_json, record_json, record_tail, text
from synod.history.format import HistoryInvalid
from tests.sim import determinism, faults, members
from tests.sim.host import Host, membership_of
from tests.sim.network import Network
from tests.sim.options import Options
from tests.sim.recorder import MemoryRecorder
from tests.sim.watch import Watch
from tests.sim.workload import client_config, run_client
from tests.sim.world import Line, Violation, World

MEASURE_S = 0.1
VIRTUAL_S_MAX = 400.0
"""A run that has not ended by then hangs somewhere."""


@dataclass(slots=True)
class Result:
    """What came of a run."""

    options: Options
    violations: list[Violation]
    lines: list[Line] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    details: str = ""
    """What the history checker says, at length."""
    events: list[dict[str, Any]] | None = None

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def rule(self) -> str:
        return self.violations[0].rule if self.violations else ""


def simulate(options: Options, *, trace: bool = False, digest: bool = False) -> Result:
    """Run once. Whatever goes wrong shows as a violation in the result."""
    world = World(options, trace=trace, digest=digest)
    began = time.process_time()
    virtual_s = 0.0
    with _format(options):
        try:
            virtual_s = determinism.run(options.seed, partial(_main, world))
        except Exception as error:  # of the client library, of trio's, or of the simulator
            text = "".join(traceback.format_exception(error)[-12:])
            world.violations.append(Violation(0.0, "a run ends without an exception", f"{error!r}\n{text}"))
    result = Result(options, world.violations, world.lines, virtual_s=virtual_s)
    result.counts = _counts(world)
    if result.ok:
        _judge(world, result)
    world.digest("end", [str(violation) for violation in result.violations])
    result.digest = world.hexdigest
    result.events = world.recorder.events
    result.cpu_s = time.process_time() - began
    return result


@contextmanager
def _format(options: Options) -> Iterator[None]:
    """Set the limits that are part of the journal's format, the same for all nodes of the run."""
    constants: list[tuple[object, str, int]] = [
        (journal.sessions, "FOLD_SESSIONS_MAX", options.sessions),
        (journal.sessions, "FOLD_SESSION_IDLE_REVISIONS_MAX", options.session_idle_revisions),
        (journal.recent, "FOLD_RECENT_BYTES_MAX", options.recent_bytes),
    ]
    was = [(module, name, getattr(module, name)) for module, name, _value in constants]
    try:
        for module, name, value in constants:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in was:
            setattr(module, name, value)


async def _main(world: World) -> float:
    began = trio.current_time()
    world.network = Network(world)
    world.watch = Watch(world)
    world.recorder = MemoryRecorder(world.clock_ns, keep_events=world.is_watched_closely)
    membership = membership_of(world.options)
    world.watch.memberships.append((1, membership))
    try:
        with world.scope:
            world.at(VIRTUAL_S_MAX, lambda: world.violate("a run ends", f"not after {VIRTUAL_S_MAX:g} s"))
            async with trio.open_nursery() as nursery:
                world.nursery = nursery
                nursery.start_soon(world.run_agenda)
                nursery.start_soon(_measure, world)
                for number in range(1, world.options.nodes + 1):
                    world.hosts[number] = Host(world, number, membership)
                for host in world.hosts.values():
                    host.start()
                await _course(world)
                world.end()
    except BaseException as error:
        if not world.violations:
            raise
        world.log(0, f"ended by {error!r}")
    return trio.current_time() - began


async def _measure(world: World) -> None:
    while True:
        await trio.sleep(MEASURE_S)
        world.watch.measure()


async def _course(world: World) -> None:
    options = world.options
    stop = trio.Event()
    async with trio.open_nursery() as clients:
        for number in range(options.clients):
            clients.start_soon(_clients, world, number, stop)
        await faults.storm(world)
        await heal(world)
        stop.set()
    world.log(0, "the clients are done")
    await _converge(world, "after the storm")
    if options.power_at_the_end:
        for host in needed(world):
            host.kill(power=True)
        for host in world.hosts.values():
            host.start_if_down()
        await _converge(world, "after the last power loss")
    await _record_end(world)
    _compare(world)


def _compare(world: World) -> None:
    """What the chain does not cover is the same on all nodes, too: who is remembered, and leases."""
    states: dict[int, object] = {}
    for host in needed(world):
        node = host.node
        if node is not None and node.space.applied == world.watch.applied:
            space = node.space
            leases = {lease: (found.ttl_ms, sorted(found.keys)) for lease, found in space.leases.items()}
            states[host.number] = (space.compacted, sorted(leases.items()), space.sessions)
    first = next(iter(states.values()), None)
    for number, state in states.items():
        if state != first:
            text = f"node {number} and node {min(states)} differ: {state} and {first}"
            world.violate("nodes that folded the same slots are in the same state", text[:600])
            return


async def _clients(world: World, number: int, stop: trio.Event) -> None:
    """A client, and after its death the next one in its place."""
    options = world.options
    rng = world.rng(f"death/{number}")
    place = -1 - number
    while not stop.is_set():
        with trio.CancelScope() as scope:
            if options.client_death_s and world.is_storm:
                dies = rng.expovariate(1 / options.client_death_s)

                def die(scope: trio.CancelScope = scope, place: int = place) -> None:
                    if world.is_storm:
                        world.log(0, f"client c{-place} dies")
                        scope.cancel()

                world.after(dies, die)
            await run_client(world, world.recorder, place, stop)
        place -= options.clients


async def heal(world: World) -> None:
    """Mend everything that is broken, at once."""
    world.is_storm = False
    world.log(0, "HEALED")
    world.network.heal()
    for host in world.hosts.values():
        host.resume()
        host.make_space()
        host.is_out = False
        if host.life is not None:
            host.life.disk.heal()
        host.start_if_down()


def needed(world: World) -> list[Host]:
    """The nodes that must work in fair weather: the members that were not lost with their disks."""
    numbers = members.now(world).nodes
    return [
        host
        for number, host in world.hosts.items()
        if number in numbers and not host.is_lost and not host.is_disowned
    ]


# -- fair weather ----------------------------------------------------------------------------------


class _FairConnector:
    """Straight to the nodes."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def connect(self, endpoint: str) -> Connection:
        await trio.lowlevel.checkpoint()
        host = next(host for host in self._world.hosts.values() if host.endpoint == endpoint)
        return LocalConnection(endpoint, partial(_node_of, host))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def _converge(world: World, when: str) -> None:
    """Progress within a bounded time: an offer is accepted, and all nodes come to the same state."""
    timeout = world.options.election_timeout_s
    # A node that is still down or stopping comes back within 3 s; then some elections may collide.
    # A disk that was slow still has to end its last write; a lagging node learns a little at a time.
    # Who waits for a snapshot may have to wait until another's is given up.
    limit = 10.0 + 30 * timeout + world.options.disk_s * 300
    if world.options.log_slots_retained < 4096:
        limit += 3 * world.options.snapshot_idle_s
    began = world.now
    with trio.move_on_after(limit) as scope:
        config = replace(client_config(world.options), timeout_s=limit, attempt_timeout_s=1.0)
        connector = _FairConnector(world)
        endpoints = [host.endpoint for host in needed(world)]
        async with connect(endpoints, connector=connector, config=config, rng=world.rng(when)) as journal:
            if not await _fair_offer(world, journal, when):
                return
        while not _settled(world):  # noqa: ASYNC110  # virtual time: nobody waits
            await trio.sleep(timeout / 10)
    if scope.cancelled_caught:
        found = members.now(world)
        stands = "; ".join(f"{host.number}: {_stand(host.node)}" for host in needed(world))
        world.violate(
            "progress after healing",
            f"{when}, no agreement within {limit:g} s among voters {sorted(found.voter_ids)} and learners"
            f" {[int(member.node) for member in found.learners]}, at slot {world.watch.applied}: {stands}",
        )
    world.log(0, f"settled {when} in {world.now - began:.2f} s")


def _stand(node: Node | None) -> str:
    if node is None:
        return "down"
    status = node.status()
    return f"{status.role} applied={status.applied} chosen={status.chosen} {status.ballot} {status.health}"


async def _fair_offer(world: World, journal: Journal, when: str) -> bool:
    """Have one offer accepted. A disk that was full a moment ago may still be said to be."""
    while True:
        label = f"fair weather {when} {world.now:.3f}"
        number = world.recorder.number()
        mutation = {"put": "fair", "value": when}
        world.recorder.invoke("fair", number, "offer", label=label, mutations=[mutation])
        try:
            revision = await journal.offer(Offer((Put(b"fair", when.encode()),), label=label), timeout_s=None)
        except SpaceFull as error:
            world.recorder.complete("fair", number, refused=str(error))
            await trio.sleep(0.2)
        except (JournalError, OfferRejected) as error:
            world.violate("progress after healing", f"{when}: {error}")
            return False
        else:
            world.recorder.complete("fair", number, accepted=revision)
            return True


def _settled(world: World) -> bool:
    """All nodes are up and have folded the same, and abandoned leases are over."""
    nodes = [host.node for host in needed(world)]
    if None in nodes:
        return False
    applied = {node.space.applied for node in nodes if node is not None}
    leases = sum(len(node.space.leases) for node in nodes if node is not None)
    return len(applied) == 1 and not leases and applied == {world.watch.applied}


async def _record_end(world: World) -> None:
    """Record what every node holds: its whole tail, and all keys."""
    recorder, watch = world.recorder, world.watch
    # The folds themselves, as one tail of nobody: it covers what was compacted since.
    number = recorder.number()
    recorder.invoke("folds", number, "tail", after=0)
    if watch.commits:
        commits = [commit_json(commit) for commit in watch.commits]
        recorder.message("folds", number, 1, len(commits), commits)
    recorder.complete("folds", number, ended=True)
    for host in needed(world):
        if not host.is_spoiled or await _mended(world, host):
            await _record_node(world, host)


async def _mended(world: World, host: Host) -> bool:
    """Read all that a node with a damaged disk can tell. What it finds damaged must be repaired from the
    others, in a bounded time; a disk that cannot be read is the end of it."""
    patience = 100
    for _ in range(patience):
        node = host.node
        try:
            if node is not None and node.space.applied == world.watch.applied:
                after = node.space.slots.oldest_tail
                while after < node.space.revision:
                    after = node.tails.read(after, 100_000).last
                node.space.scan(b"", b"", node.space.revision, 10_000, 1 << 20)
                return True
        except RecordDamaged as damage:
            assert node is not None
            node.damaged(damage)
        except StorageError:
            return False
        if host.is_lost:
            return False
        await trio.sleep(world.options.election_timeout_s / 4)
    world.violate("what is damaged is repaired from the others", f"node {host.number}: {_stand(host.node)}")
    return False


async def _record_node(world: World, host: Host) -> None:
    node, recorder = host.node, world.recorder
    assert node is not None
    last = int(node.space.revision)
    name = f"end-of-node-{host.number}"
    connection = LocalConnection(host.endpoint, partial(_node_of, host))
    await record_tail(
        connection,
        recorder,
        name,
        upto=last,
        node=host.number,
        after=int(node.space.slots.oldest_tail),
        final=True,
    )
    number = recorder.number()
    recorder.invoke(name, number, "scan", start="", end="", consistency="local")
    items: list[Any] = []
    start: bytes | None = b""
    while start is not None:
        page = await connection.scan(
            start, b"", at=Revision(last), consistency=LOCAL, limit_keys=1000, limit_bytes=0
        )
        items += [[text(key), record_json(record)] for key, record in page.items]
        start = page.next_key
    recorder.complete(name, number, revision=last, items=items, next=None)


def _node_of(host: Host) -> Node | None:
    return host.node


def _judge(world: World, result: Result) -> None:
    """What the clients saw, against the history."""
    try:
        report = check(world.recorder.finished(), clock_rates=world.options.clock_rates)
    except HistoryInvalid as error:
        result.violations.append(Violation(world_time(0), "the history can be judged", str(error)))
        return
    result.counts.update(report.counts)
    for violation in sorted(report.violations, key=lambda violation: violation.time)[:5]:
        result.violations.append(Violation(world_time(violation.time), violation.rule.value, violation.text))
    if report.violations:
        result.details = str(report)


def world_time(ns: int) -> float:
    return ns / 1_000_000_000


SEEN = {
    "elections": "leader.elected",
    "member changes": "operator: members are",
    "snapshots": "snapshot.installed",
    "damages": "DAMAGE",
    "repairs": "disk.repaired",
    "rebuilt spaces": "space folded anew",
    "lost nodes": "LOST for good",
    "wiped nodes": "WIPED",
    "disowned nodes": "node.disowned",
    "full disks": "disk.full",
    "failed disks": "FAILED",
}
"""What is counted in the log, for people: what the runs came upon."""


def _counts(world: World) -> dict[str, int]:
    seen = {name: sum(line.text.startswith(start) for line in world.lines) for name, start in SEEN.items()}
    return {
        **seen,
        "sent": world.network.sent,
        "delivered": world.network.delivered,
        "slots": world.watch.applied,
        "revisions": len(world.watch.commits),
        "lives": sum(host.lives for host in world.hosts.values()),
        **{f"peak {name}": size for name, size in world.watch.peaks.items()},
    }
