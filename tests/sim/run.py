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
from journal.client import OfferRejected, connect
from journal.connection import LOCAL, Connection
from journal.connection_local import LocalConnection
from journal.errors import JournalError
from journal.node import Node
from journal.offers import Offer, Put
from journal.types import Revision
from synod.history.check import check
from synod.history.client import commit_json, record_json, record_tail, text
from synod.history.format import HistoryInvalid
from tests.sim import determinism, faults
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
        for host in world.hosts.values():
            host.kill(power=True)
        for host in world.hosts.values():
            host.start_if_down()
        await _converge(world, "after the last power loss")
    await _record_end(world)


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
        if host.life is not None:
            host.life.disk.heal()
        host.start_if_down()


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
    limit = 10.0 + 30 * timeout + world.options.disk_s * 300
    began = world.now
    with trio.move_on_after(limit) as scope:
        config = replace(client_config(world.options), timeout_s=limit, attempt_timeout_s=1.0)
        connector = _FairConnector(world)
        endpoints = [host.endpoint for host in world.hosts.values()]
        async with connect(endpoints, connector=connector, config=config, rng=world.rng(when)) as journal:
            try:
                label = f"fair weather {when}"
                number = world.recorder.number()
                mutation = {"put": "fair", "value": when}
                world.recorder.invoke("fair", number, "offer", label=label, mutations=[mutation])
                offer = Offer((Put(b"fair", when.encode()),), label=label)
                revision = await journal.offer(offer, timeout_s=None)
                world.recorder.complete("fair", number, accepted=revision)
            except (JournalError, OfferRejected) as error:
                world.violate("progress after healing", f"{when}: {error}")
                return
        while not _settled(world):  # noqa: ASYNC110  # virtual time: nobody waits
            await trio.sleep(timeout / 10)
    if scope.cancelled_caught:
        stands = {
            host.number: (
                host.node.status().role,
                host.node.space.applied,
                host.node._core.chosen,
                host.node._core.ballot,
            )
            if host.node
            else "down"
            for host in world.hosts.values()
        }
        world.violate("progress after healing", f"{when}, no agreement within {limit:g} s: {stands}")
    world.log(0, f"settled {when} in {world.now - began:.2f} s")


def _settled(world: World) -> bool:
    """All nodes are up and have folded the same, and abandoned leases are over."""
    nodes = [host.node for host in world.hosts.values()]
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
    for host in world.hosts.values():
        node = host.node
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
            after=int(node.space.compacted),
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
        report = check(world.recorder.finished())
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


def _counts(world: World) -> dict[str, int]:
    return {
        "sent": world.network.sent,
        "delivered": world.network.delivered,
        "slots": world.watch.applied,
        "revisions": len(world.watch.commits),
        "lives": sum(host.lives for host in world.hosts.values()),
        **{f"peak {name}": size for name, size in world.watch.peaks.items()},
    }
