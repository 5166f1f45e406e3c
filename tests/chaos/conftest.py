"""Real nodes, real client processes, real signals; and the check of what all of them saw.

A test says what happens to which node; it never sleeps: after each act it waits until the
clients have had so many more offers acknowledged, within a deadline. In the end every node is
brought back, each node's whole history is collected, and the checker judges the recordings.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from synod.history import Recorder, Report, check, load
from synod.local import LocalCluster

PROGRESS_TIMEOUT_S = 30.0
READY_TIMEOUT_S = 30.0
FAST = ("--election-timeout-ms", "500", "--heartbeat-interval-ms", "50")
"""A test waits for many elections."""
END_TIMEOUT_S = 60.0
"""For what only ends: on a busy machine it may take its time, and nothing is proven by hurry."""


class ClientProcess:
    """One process of ``synod.history.load``."""

    def __init__(self, chaos: Chaos, name: str, clients: int, workers: int, seed: int) -> None:
        self.file = chaos.folder / f"{name}.jsonl"
        self._log = (chaos.folder / f"{name}.log").open("wb")
        self._counted = 0
        self._accepted = 0
        command = [
            sys.executable,
            "-m",
            "synod.history.load",
            "--endpoints",
            ",".join(chaos.cluster.endpoints),
        ]
        command += ["--cluster", chaos.cluster.cluster_id, "--file", str(self.file), "--name", name]
        command += ["--clients", str(clients), "--workers", str(workers), "--seed", str(seed)]
        source = Path(__file__).parent.parent.parent
        self.process = subprocess.Popen(command, cwd=source, stdout=self._log, stderr=subprocess.STDOUT)

    def accepted(self) -> int:
        """Return how many offers this process has had acknowledged."""
        if self.file.exists():
            with self.file.open("rb") as file:
                file.seek(self._counted)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._counted += len(whole)
            self._accepted += whole.count(b'"accepted":')
        return self._accepted

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log.close()

    def stop(self, timeout_s: float) -> None:
        """Let it end what it has begun. Its exit code says whether the client library misbehaved."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout_s)
        self._log.close()
        output = Path(self._log.name).read_text()
        assert self.process.returncode == 0, f"a client process failed:\n{output[-3000:]}"


class Chaos:
    """A cluster, its clients, and the recording of what they went through."""

    def __init__(self, folder: Path, nodes: int, cluster: LocalCluster | None = None) -> None:
        """``cluster``: one that is planned and was not started yet."""
        self.folder = folder
        self.cluster = cluster or LocalCluster.create(folder / "cluster", nodes=nodes, node_args=FAST)
        self.recorder = Recorder(folder / "chaos.jsonl")
        self.clients: list[ClientProcess] = []
        self.killed_clients: list[ClientProcess] = []
        self.cluster.start()
        self.cluster.wait_ready(READY_TIMEOUT_S)

    def start_client(self, name: str, clients: int = 2, workers: int = 2) -> ClientProcess:
        process = ClientProcess(self, name, clients, workers, seed=len(self.clients))
        self.clients.append(process)
        return process

    def note(self, text: str) -> None:
        self.recorder.note(text)

    def leader(self) -> int:
        """Return the present leader; waits for one."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while (leader := self.cluster.leader()) is None:
            assert time.monotonic() < deadline, "no leader"
            time.sleep(0.05)
        return leader

    def follower(self) -> int:
        leader = self.leader()
        running = self.cluster.running()
        return next(node for node in self.cluster.nodes if node != leader and f"node-{node}" in running)

    def kill(self, node: int) -> None:
        self.note(f"SIGKILL to node {node}")
        self.cluster.kill_node(node)

    def restart(self, *nodes: int) -> None:
        for node in nodes:
            self.note(f"node {node} is started again")
            self.cluster.start_node(node)
        self.cluster.wait_ready(READY_TIMEOUT_S)

    def pause(self, node: int) -> None:
        self.note(f"SIGSTOP to node {node}")
        self.cluster.pause_node(node)

    def resume(self, node: int) -> None:
        self.note(f"SIGCONT to node {node}")
        self.cluster.resume_node(node)

    def accepted(self) -> int:
        return sum(client.accepted() for client in self.clients)

    def progress(self, offers: int = 40) -> None:
        """Wait until ``offers`` more offers are acknowledged: the journal works, whatever is down."""
        began = self.accepted()
        deadline = time.monotonic() + PROGRESS_TIMEOUT_S
        while (now := self.accepted()) < began + offers:
            for client in self.clients:
                if client not in self.killed_clients:
                    assert client.process.poll() is None, f"client {client.file.stem} ended by itself"
            if time.monotonic() > deadline:
                views = [f"{view.node}: {view.role} {view.why}" for view in self.cluster.status()]
                raise AssertionError(
                    f"{now - began} of {offers} offers in {PROGRESS_TIMEOUT_S} s; nodes: {views}"
                )
            time.sleep(0.02)

    def kill_client(self, client: ClientProcess) -> None:
        """SIGKILL a client process: the outcome of what it had in flight is unknown."""
        self.note(f"SIGKILL to client {client.file.stem}")
        client.kill()
        self.killed_clients.append(client)

    def finish(self, *, after: int = 0) -> Report:
        """End the load, bring everything back, collect every node's history, and judge.

        ``after``: history up to here is compacted; the clients' own tails cover it.
        """
        for client in self.clients:
            if client not in self.killed_clients:
                client.stop(END_TIMEOUT_S)
        self.cluster.start()
        self.cluster.wait_ready(READY_TIMEOUT_S)
        trio.run(self._collect, after)
        files = [self.folder / "chaos.jsonl", *(client.file for client in self.clients)]
        report = check(load(files))
        print(report)
        assert report.ok, str(report)
        assert report.counts["chains"] >= len(self.cluster.nodes)
        return report

    async def _collect(self, after: int) -> None:
        from journal.rpc.connection import GrpcConnector
        from synod.history.client import record_end

        connector = GrpcConnector(cluster=self.cluster.cluster_id)
        nodes = dict(zip(self.cluster.nodes, self.cluster.endpoints, strict=True))
        await record_end(connector, nodes, self.recorder, after=after, timeout_s=END_TIMEOUT_S)
        await connector.aclose()

    def clean_up(self) -> None:
        for client in self.clients:
            if client.process.poll() is None:
                client.kill()
        self.recorder.close()
        self.cluster.kill_all()


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Callable[[int], Chaos]]:
    """Start clusters that end with the test."""
    made: list[Chaos] = []

    def make(nodes: int) -> Chaos:
        found = Chaos(tmp_path, nodes)
        made.append(found)
        return found

    yield make
    for one in made:
        one.clean_up()
