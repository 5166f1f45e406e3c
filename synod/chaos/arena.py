"""The cluster under test, its clients, and what is seen of both while harm is done.

An ``Arena`` knows what was done on purpose: which nodes are down or paused, which links are cut, so
that a node which ends by itself is noticed as what it is, a fault of ours. It asks every node twice a
second how it is and writes that down beside the history (``samples.jsonl``), for the report's picture.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import trio

from journal.client import Journal, connect
from journal.client.members import is_made
from journal.connection import Connection
from journal.errors import InvalidRequest, JournalError
from journal.node import NodeStatus
from journal.paxos.changes import AddLearner, Remove
from journal.rpc.connection import GrpcConnector
from journal.types import NodeId
from synod.chaos.clients import ClientFailed, ClientProcess
from synod.chaos.disk import SmallDisk
from synod.chaos.fuse.disk import FuseDisk
from synod.chaos.network import CLIENTS, Cuts, Network, inside
from synod.chaos.network import endpoint as place_of
from synod.history import Recorder
from synod.history.client import error_json, record_end
from synod.local import LocalCluster
from synod.members import ensure, promote, settled

SAMPLE_INTERVAL_S = 0.5
SAMPLE_TIMEOUT_S = 0.4
PROGRESS_OFFERS = 10
PROGRESS_TIMEOUT_S = 20.0
"""After all harm is undone, offers must be acknowledged again within so long."""
READY_TIMEOUT_S = 40.0
FINISH_TIMEOUT_S = 60.0
MEMBER_TIMEOUT_S = 20.0
REJOIN_TIMEOUT_S = 40.0
"""So long a node that was wiped may take until it votes again, when all harm is undone."""
STORAGE_FAILED = 3
"""The exit code of a node whose disk failed."""


class NoProgress(Exception):
    """Harm was undone, and yet the journal does not go on."""


class ChaosCluster(LocalCluster):
    """A local cluster whose nodes are each in a network of its own, with a clock of its own."""

    in_network = False
    disks: Mapping[int, Path] = {}

    def node_folder(self, node: int) -> Path:
        disk = self.disks.get(node)
        return disk / "data" if disk else super().node_folder(node)

    def clock_file(self, node: int) -> Path:
        return self.folder / f"clock-{node}"

    def set_clock(self, node: int, by_s: float) -> None:
        temporary = self.clock_file(node).with_suffix(".tmp")
        temporary.write_text(f"{by_s}\n")
        temporary.replace(self.clock_file(node))

    def _command(self, name: str, command: Sequence[str]) -> list[str]:
        kind, _, number = name.partition("-")
        if not self.in_network or kind != "node":
            return super()._command(name, command)
        clock = ["-m", "synod.chaos.clock", str(self.clock_file(int(number)))]
        return [*inside(int(number)), sys.executable, "-P", *clock, *command]


class Arena:
    """One run. All methods run under trio; what blocks is done in threads."""

    def __init__(
        self,
        folder: Path,
        cluster: LocalCluster,
        *,
        network: Network | None = None,
        disks: Mapping[int, SmallDisk] | None = None,
        fuse: Mapping[int, FuseDisk] | None = None,
        say: Callable[[str], None] = print,
        prefix: str = "",
    ) -> None:
        self.folder = folder
        self.cluster = cluster
        self.network = network
        self.disks = dict(disks or {})
        self.fuse = dict(fuse or {})
        """The disks in userspace, by node."""
        self.recorder = Recorder(folder / f"{prefix}chaos.jsonl", foreign_any=network is None)
        self.clients: list[ClientProcess] = []
        self.problems: list[str] = []
        """What is wrong without any history having to be checked."""
        self.down: set[int] = set()
        self.paused: set[int] = set()
        self.may_end: set[int] = set()
        """Nodes that may end by themselves now, with ``STORAGE_FAILED``: their disk is full, or fails."""
        self.said: dict[int, NodeStatus] = {}
        self.numbers: dict[int, int] = {}
        """The number in the cluster of the node in each place: another one where it was wiped."""
        self.wiped: dict[int, int] = {}
        """Nodes that have lost their folders and do not vote again yet, and the number that is lost."""
        self.compacted = 0
        self.active: dict[int, str] = {}
        """What is being done now, in words."""
        self._say = say
        self._began = time.monotonic()
        self._samples = (folder / f"{prefix}samples.jsonl").open("a", encoding="utf-8")
        self._cuts: dict[int, Cuts] = {}
        self._faults = 0
        self._revisions: list[tuple[float, int]] = []
        self.originals = tuple(cluster.nodes)
        """Whom the clients know: enough of them stay."""
        self.joining: int | None = None
        """A node that is to vote, and does not yet."""
        self._newest = 0

    # -- the record --------------------------------------------------------------------

    def say(self, text: str) -> None:
        self._say(f"[{time.monotonic() - self._began:7.1f}s] {text}")

    def problem(self, text: str) -> None:
        self.problems.append(text)
        self.recorder.note(f"PROBLEM: {text}", problem=text)
        self.say(f"PROBLEM: {text}")

    @contextlib.contextmanager
    def fault(self, kind: str, text: str, nodes: Sequence[int]) -> Iterator[int]:
        """Note that harm is done, and when it is undone."""
        self._faults += 1
        number = self._faults
        facts = {"number": number, "fault": kind, "nodes": list(nodes)}
        self.recorder.note(text, phase="begin", **facts)
        self.say(text)
        self.active[number] = text
        try:
            yield number
        finally:
            del self.active[number]
            self.recorder.note(f"end of {kind}", phase="end", **facts)

    # -- nodes ---------------------------------------------------------------------------

    @property
    def nodes(self) -> list[int]:
        return self.cluster.nodes

    def leader(self) -> int | None:
        """Return who leads by the highest ballot of what was sampled last."""
        leaders = [(_ballot(said), node) for node, said in self.said.items() if said.role == "leader"]
        return max(leaders)[1] if leaders else None

    def by_rank(self, ranks: Sequence[int]) -> list[int]:
        """Return the nodes of these ranks: 0 is the leader, the others follow by number."""
        leader = self.leader() or self.nodes[0]
        ordered = [leader, *(node for node in self.nodes if node != leader)]
        return [ordered[rank] for rank in ranks if rank < len(ordered)]

    async def kill(self, node: int, sig: signal.Signals = signal.SIGKILL) -> None:
        if node in self.down or node not in self.nodes:
            return
        if node in self.paused and sig is not signal.SIGKILL:
            await self.resume(node)
        self.down.add(node)
        self.paused.discard(node)
        self.said.pop(node, None)
        if f"node-{node}" in self.cluster.running():
            await trio.to_thread.run_sync(self.cluster.kill_node, node, sig)

    async def start(self, node: int) -> None:
        if node not in self.nodes:  # it was removed meanwhile
            return
        await trio.to_thread.run_sync(self.cluster.start_node, node)
        self.down.discard(node)

    async def wipe(self, node: int) -> None:
        """Kill a node that has said something, remove its folder, and start it with the same command."""
        self.wiped[node] = self.numbers[node]
        await self.kill(node)
        await trio.to_thread.run_sync(self.cluster.mark_created, [node])
        await trio.to_thread.run_sync(_remove, self.cluster.node_folder(node))
        await self.start(node)

    async def all_vote_again(self) -> None:
        """Wait until those that were wiped have come back under other numbers. Raises ``NoProgress``."""
        end = trio.current_time() + REJOIN_TIMEOUT_S
        while missing := [node for node in self.wiped if not self._votes_again(node)]:
            if trio.current_time() > end:
                said = {node: f"{s.role} {s.health}" for node, s in sorted(self.said.items())}
                raise NoProgress(
                    f"nodes {missing} were wiped, and do not vote again {REJOIN_TIMEOUT_S:g} s after all"
                    f" harm was undone; the nodes say {said}"
                )
            await trio.sleep(0.1)
        for node, number in self.wiped.items():
            self.say(f"  node {node} votes again: number {number} has become {self.numbers[node]}")
        self.wiped.clear()

    def _votes_again(self, node: int) -> bool:
        said = self.said.get(node)
        if said is None or said.node == self.wiped[node]:
            return False
        return any(member.voter and member.node == said.node for member in said.members)

    async def pause(self, node: int) -> None:
        if node in self.nodes and node not in self.down | self.paused:
            self.paused.add(node)
            await trio.to_thread.run_sync(self.cluster.pause_node, node)

    async def resume(self, node: int) -> None:
        if node in self.paused and node not in self.down and node in self.nodes:
            await trio.to_thread.run_sync(self.cluster.resume_node, node)
        self.paused.discard(node)

    async def cut(self, number: int, cuts: Cuts) -> None:
        """Make the cuts of fault ``number`` these, beside those of the others."""
        assert self.network is not None
        self._cuts[number] = cuts
        whole: dict[tuple[int, int], float] = {}
        for each in self._cuts.values():
            for way, part in each.items():
                whole[way] = max(part, whole.get(way, 0.0))
        await trio.to_thread.run_sync(self.network.cut, whole)

    async def heal(self) -> None:
        """Undo everything that is still done."""
        self._cuts.clear()
        if self.network is not None:
            await trio.to_thread.run_sync(self.network.heal)
        for disk in self.disks.values():
            disk.empty()
        for each in self.fuse.values():
            await trio.to_thread.run_sync(each.heal)
        for node in sorted(self.paused):
            await self.resume(node)
        running = self.cluster.running()
        for node in self.nodes:
            if f"node-{node}" not in running:
                await self.start(node)
        self.down.clear()

    # -- what an operator does ---------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def journal(self) -> Any:
        async with connect(self.cluster.endpoints, cluster=self.cluster.cluster_id) as journal:
            yield journal

    async def compact(self) -> None:
        """Forget history that every client's tail has had for some seconds."""
        old = [revision for at, revision in self._revisions if at < time.monotonic() - 8.0]
        revision = (old[-1] if old else 0) - 100
        if revision <= self.compacted:
            return
        number = self.recorder.number()
        self.recorder.invoke("chaos", number, "compact", revision=revision)
        journal: Journal
        async with self.journal() as journal:
            try:
                self.compacted = revision
                await journal.compact(revision)
                self.recorder.complete("chaos", number, ended=True)
            except JournalError as error:
                self.recorder.complete("chaos", number, **error_json(error))

    async def transfer(self, to: int) -> str:
        journal: Journal
        async with self.journal() as journal:
            try:
                number = self.numbers.get(to, to)
                await journal.transfer_leadership(number, timeout_s=3.0)
            except JournalError as error:
                return f"not handed over: {error}"
        return "handed over"

    # -- members -----------------------------------------------------------------------------

    async def grow(self) -> str:
        """Add a node and let it vote; or, where an earlier one does not vote yet, go on with that."""
        assert isinstance(self.cluster, ChaosCluster)
        assert self.network is not None
        if self.joining is None:
            self._newest = max(self._newest, *self.nodes, *self.numbers.values()) + 1
            self.joining = self._newest
            self.network.join(self.joining)
            self.cluster.set_clock(self.joining, 0.0)
        node, place = self.joining, place_of(self.joining)
        journal: Journal
        try:
            async with self.journal() as journal:
                await ensure(journal, AddLearner(NodeId(node), place))
                if node not in self.nodes:
                    self.down.add(node)  # it is planned, and not started yet
                    self.cluster.add_joiner(node, place)
                await self.start(node)
                await promote(journal, node, place, MEMBER_TIMEOUT_S, lambda _text: None)
        except InvalidRequest as error:  # a node that was wiped has, or had, this number
            self.joining = None
            return f"node {node} is not added: {error}"
        except JournalError as error:
            return f"node {node} does not vote yet: {error}"
        self.joining = None
        return f"node {node} votes"

    async def shrink(self, node: int) -> str:
        """Remove a node for good, and stop it when it is no member any more."""
        journal: Journal
        change = Remove(NodeId(self.numbers.get(node, node)))
        try:
            async with self.journal() as journal:
                if not is_made(change, await journal.members()):
                    await ensure(journal, change)
                await settled(journal, change)
        except JournalError as error:
            return f"node {node} is not removed: {error}"
        await self.resume(node)
        self.down.add(node)
        await trio.to_thread.run_sync(self.cluster.forget_node, node)
        self.said.pop(node, None)
        return f"node {node} is removed"

    # -- watching ----------------------------------------------------------------------------

    async def watch(self) -> None:
        """Sample until cancelled."""
        connector = GrpcConnector(cluster=self.cluster.cluster_id)
        connections: dict[int, Connection] = {}
        try:
            while True:
                began = trio.current_time()
                async with trio.open_nursery() as nursery:
                    for node in self.nodes:
                        nursery.start_soon(self._ask, connector, connections, node)
                self._look()
                await trio.sleep_until(began + SAMPLE_INTERVAL_S)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5.0):
                for connection in connections.values():
                    await connection.aclose()
                await connector.aclose()

    async def _ask(self, connector: GrpcConnector, connections: dict[int, Connection], node: int) -> None:
        if node in self.down | self.paused:
            self.said.pop(node, None)
            return
        with trio.move_on_after(SAMPLE_TIMEOUT_S) as scope:
            try:
                if node not in connections:
                    connections[node] = await connector.connect(self.cluster.endpoint(node))
                self.said[node] = await connections[node].status()
                self.numbers[node] = self.said[node].node
            except JournalError:
                self.said.pop(node, None)
        if scope.cancelled_caught:
            self.said.pop(node, None)

    def _look(self) -> None:
        running = self.cluster.running()
        states: dict[str, Any] = {}
        for node in self.nodes:
            pid = running.get(f"node-{node}")
            said = self.said.get(node)
            if node in self.paused:
                state = "paused"
            elif pid is None:
                state = "down"
                self._ended(node)
            else:
                state = said.role if said else "unreachable"
            states[str(node)] = {"state": state, "rss": _rss(pid)}
            if said:
                facts = {"ballot": said.ballot, "revision": said.revision, "applied": said.applied}
                states[str(node)] |= facts | {"health": said.health}
        newest = max((said.revision for said in self.said.values()), default=0)
        if newest:
            self._revisions.append((time.monotonic(), newest))
        sample = {"event": "sample", "t": time.monotonic_ns(), "nodes": states}
        self._samples.write(json.dumps(sample, separators=(",", ":")) + "\n")
        self._samples.flush()

    def _ended(self, node: int) -> None:
        """A node does not run: is that our doing?"""
        if node in self.down:
            return
        self.down.add(node)
        code = self.cluster.exit_code(f"node-{node}")
        if node in self.may_end and code == STORAGE_FAILED:
            self.recorder.note(f"node {node} ended because of its disk, as it must")
            return
        tail = "\n".join(f"    {line[:300]}" for line in _last(self.cluster.log(f"node-{node}")))
        self.problem(f"node {node} ended by itself with exit code {code}:\n{tail}")

    def start_client(
        self, name: str, kinds: Sequence[str], seed: int, *, pause_s: float = 0.04, late: bool = False
    ) -> ClientProcess:
        plans = zip(self.cluster.nodes, self.cluster.endpoints, strict=True)
        client = ClientProcess(
            self.folder,
            name,
            kinds,
            endpoints=[endpoint for node, endpoint in plans if node in self.originals],
            cluster=self.cluster.cluster_id,
            seed=seed,
            pause_s=pause_s,
            first_op=self.first_op,
            # What is older may be compacted before the tails of a client begin that starts late.
            after=self._revisions[-1][1] if late and self._revisions else self.after,
        )
        self.clients.append(client)
        return client

    def kill_client(self, number: int) -> ClientProcess:
        """SIGKILL one of the clients that run: the outcome of what it has in flight is unknown."""
        running = [client for client in self.clients if not client.killed]
        client = running[number % len(running)]
        client.killed = True
        client.kill()
        return client

    def accepted(self) -> int:
        return sum(client.accepted() for client in self.clients)

    async def progress(self, offers: int = PROGRESS_OFFERS) -> float:
        """Wait until so many more offers are acknowledged; return after how many seconds.

        Raises ``NoProgress``, ``ClientFailed``.
        """
        began, at = self.accepted(), trio.current_time()
        while (now := self.accepted()) < began + offers:
            for client in self.clients:
                client.require_alive()
            if trio.current_time() > at + PROGRESS_TIMEOUT_S:
                states = {n: f"{s.role} {s.ballot} {s.health}" for n, s in sorted(self.said.items())}
                raise NoProgress(
                    f"{now - began} offers acknowledged in {PROGRESS_TIMEOUT_S:g} s after all harm was "
                    f"undone; the nodes say {states}"
                )
            await trio.sleep(0.05)
        return trio.current_time() - at

    # -- the end -----------------------------------------------------------------------------

    async def finish(self) -> None:
        """End the load in order, bring everything back, and record what every node holds."""
        await self.heal()
        if self.joining is not None and "votes" not in (said := await self.grow()):
            self.problem(f"after all harm was undone: {said}")
        for client in self.clients:
            try:
                await trio.to_thread.run_sync(client.stop, FINISH_TIMEOUT_S)
            except ClientFailed as failed:
                self.problem(str(failed))
                client.kill()
        await trio.to_thread.run_sync(self.cluster.wait_ready, READY_TIMEOUT_S)
        connector = GrpcConnector(cluster=self.cluster.cluster_id)
        try:
            nodes = dict(zip(self.cluster.nodes, self.cluster.endpoints, strict=True))
            await record_end(
                connector, nodes, self.recorder, after=max(self.compacted, self.after), timeout_s=60.0
            )
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(5.0):
                await connector.aclose()

    after = 0
    """The revision at which the recording began."""
    first_op = 0
    """From which number on its clients count their operations."""

    def files(self) -> list[Path]:
        """Return the files of the history."""
        return [self.recorder.path, *(client.file for client in self.clients)]

    def close(self) -> None:
        for client in self.clients:
            client.kill()
        self.recorder.close()
        self._samples.close()
        for disk in self.fuse.values():
            disk.unmount()


def clients_cut(nodes: Sequence[int]) -> dict[tuple[int, int], float]:
    """Return the cuts between these nodes and all clients."""
    return {way: 1.0 for node in nodes for way in ((node, CLIENTS), (CLIENTS, node))}


def first_of(error: BaseException) -> BaseException:
    """Return the first real one of nested groups of exceptions."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _ballot(said: NodeStatus) -> tuple[int, int]:
    number, _, node = said.ballot.partition(".")
    return int(number), int(node or 0)


def _remove(folder: Path) -> None:
    """Remove a folder for good: no loss of power brings it back."""
    shutil.rmtree(folder)
    parent = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _rss(pid: int | None) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0


def _last(log: Path) -> list[str]:
    from synod.processes import last_lines

    return last_lines(log, 6)
