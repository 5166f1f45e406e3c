"""``make demo``: the main job on real processes, with the leader killed in the middle of it.

Three nodes, three agents, two schedulers and a client, each a process of its own. The schedulers
compete to place 60 tasks (real processes) on capacity for 40; the client submits transactions
throughout, recorded; the leader gets SIGKILL in the middle and comes back later. Then everything
that anybody was told is checked against what every node holds.

After that (``scripts/demo_service.py``) a service is created, updated and loses an instance, with boto3
through the ECS API. The exit code is 0 only if all of it holds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import psutil
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.feed import follow
from cluster.records import LastStatus
from journal.client import connect
from journal.errors import JournalError
from journal.rpc.connection import GrpcConnector
from schedulers.placement import strategy_of
from schedulers.run_task import run_command
from scripts.demo_service import ServicePart
from synod.history import History, Recorder, Report, Rule, check, load
from synod.history.client import record_end
from synod.history.format import Commit, TailAsked
from synod.history.placements import Placements
from synod.local import LocalCluster

ROOT = Path(__file__).resolve().parent.parent
NODES = 3
TASK_CPU, TASK_MEMORY = 256, 64
ROOM = {1: 14, 2: 13, 3: 13}
"""Tasks that fit on each agent's instance: 40 in all."""
SCHEDULERS = ("ann", "bob")
TASKS_EACH = 30
TASKS = TASKS_EACH * len(SCHEDULERS)
KILL_AFTER_DECIDED = 20
RETURN_AFTER_OFFERS = 150
"""The killed node comes back when the client has had so many more offers acknowledged."""
DEADLINE_S = 110.0
ACKNOWLEDGED = {Rule.LOST, Rule.DOUBLED, Rule.TAILS_EQUAL, Rule.TAIL_GAP, Rule.TAIL_DOUBLED, Rule.TAIL_END}
"""The rules of the history check that say whether an acknowledged offer is where it should be."""


# -- a scheduler process -------------------------------------------------------------


async def schedule(options: argparse.Namespace, out: TextIO) -> None:
    """Place the tasks of one scheduler, two at a time, and write down what became of each."""
    rng = random.Random(options.seed)
    async with (
        connect(options.endpoints, cluster=options.cluster) as journal,
        follow(journal) as feed,
    ):
        for _ in range(TASKS_EACH // 2):
            result = await run_command(
                journal,
                feed,
                options.command,
                cpu=TASK_CPU,
                memory=TASK_MEMORY,
                count=2,
                strategy=[strategy_of("binpack:cpu")],
                stop_timeout_s=2,
                rng=rng,
                wall=time.time,
                started_by=options.name,
            )
            for placed in result.placed:
                print(json.dumps({"placed": placed.task, "revision": placed.revision}), file=out)
            for failure in result.failures:
                said = {"refused": failure.code, "reason": failure.reason, "task": failure.task}
                print(json.dumps(said), file=out)
            print(json.dumps({"conflicts": result.conflicts}), file=out)
            await trio.sleep(rng.uniform(0.1, 0.3))  # so that the job has a middle


# -- what the demo sees of its processes -------------------------------------------------


@dataclass(slots=True)
class Lines:
    """A growing file of JSON lines, read as it grows."""

    path: Path
    read: int = 0

    def new(self) -> list[bytes]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.read += len(whole)
        return whole.splitlines()


@dataclass(slots=True)
class Seen:
    """What schedulers and client have been told so far."""

    schedulers: dict[str, Lines]
    client: Lines
    placed: dict[str, int] = field(default_factory=dict)
    refused: list[dict[str, str]] = field(default_factory=list)
    conflicts: int = 0
    client_accepted: int = 0
    acknowledged_at: list[int] = field(default_factory=list)
    """When the client was told of each accepted offer (monotonic, ns)."""

    def look(self) -> None:
        for lines in self.schedulers.values():
            for line in lines.new():
                said = json.loads(line)
                if "placed" in said:
                    self.placed[said["placed"]] = said["revision"]
                elif "refused" in said:
                    self.refused.append(said)
                else:
                    self.conflicts += said["conflicts"]
        for line in self.client.new():
            if b'"accepted":' in line:
                self.client_accepted += 1
                self.acknowledged_at.append(json.loads(line)["t"])

    @property
    def decided(self) -> int:
        return len(self.placed) + len(self.refused)

    def silence_s(self, after: int) -> float:
        """Return the longest time without an acknowledged offer that began or ended after ``after``."""
        times = sorted(self.acknowledged_at)
        gaps = [later - earlier for earlier, later in pairwise(times) if later > after]
        return max(gaps, default=0) / 1e9


@dataclass(slots=True)
class Finding:
    """One line of the final table. ``ok`` None: not a check, only a fact."""

    what: str
    result: str
    ok: bool | None


# -- the job ------------------------------------------------------------------------------


class Demo:
    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self.cluster = LocalCluster.create(
            folder / "cluster",
            nodes=NODES,
            agent_args=("--lease-ttl", "3"),  # so that a loss is noticed soon
            scheduler_args=("--grace", "3"),
        )
        self.recorder = Recorder(folder / "demo.jsonl", foreign_any=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # Real processes that nobody else has: they can be counted, and found if something goes wrong.
        self.marker = f"9{random.SystemRandom().randrange(10**6):06d}.5"
        self.seen = Seen(
            {name: Lines(folder / f"{name}.jsonl") for name in SCHEDULERS}, Lines(folder / "client.jsonl")
        )
        self.killed_at = 0
        self.findings: list[Finding] = []
        self.progress = Progress(
            TextColumn("{task.description:28}"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed} {task.fields[more]}"),
            TimeElapsedColumn(),
            console=console,
        )

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}")
        self.recorder.note(text)

    def spawn(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
            )

    async def until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Look at what the processes say until ``condition`` holds. Raises ``TimeoutError``."""
        deadline = trio.current_time() + timeout_s
        while True:
            self.seen.look()
            self._show()
            if condition():
                return
            for name, process in self.processes.items():
                if process.poll() not in (None, 0):
                    log = (self.folder / f"{name}.log").read_text()[-2000:]
                    raise RuntimeError(f"{name} ended with exit code {process.returncode}:\n{log}")
            if trio.current_time() > deadline:
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
            await trio.sleep(0.05)

    def _show(self) -> None:
        seen = self.seen
        more = f"{len(seen.placed)} placed, {len(seen.refused)} refused, {seen.conflicts} conflicts"
        self.progress.update(self.tasks_bar, completed=seen.decided, more=more)
        self.progress.update(self.offers_bar, completed=seen.client_accepted, more="acknowledged")

    async def run(self) -> None:
        with self.progress:
            self.tasks_bar = self.progress.add_task(f"tasks decided, of {TASKS}", total=TASKS, more="")
            self.offers_bar = self.progress.add_task("client's transactions", total=None, more="")
            with trio.fail_after(DEADLINE_S):
                await self._start()
                await self._kill_in_the_middle()
                await self._finish()
                await self._check()
        await ServicePart(self.cluster, self.console, self.say, self.note).run()

    async def _start(self) -> None:
        cluster = self.cluster
        self.say(f"{NODES} nodes start")
        await trio.to_thread.run_sync(cluster.start)
        await trio.to_thread.run_sync(cluster.wait_ready)
        self.say(f"{len(ROOM)} agents start: room for {sum(ROOM.values())} tasks")
        for agent, room in ROOM.items():
            await trio.to_thread.run_sync(cluster.start_agent, agent, room * TASK_CPU, 65_536)
        await trio.to_thread.run_sync(cluster.wait_agents)
        endpoints = ",".join(cluster.endpoints)
        common = ["--endpoints", endpoints, "--cluster", cluster.cluster_id]
        client = ["-m", "synod.history.load", *common, "--name", "client", "--clients", "2", "--workers", "2"]
        self.spawn("client", [*client, "--file", str(self.seen.client.path)])
        await self.until(lambda: self.seen.client_accepted > 20, "the client's first transactions", 20)
        self.say(f"{len(SCHEDULERS)} schedulers start: {TASKS} tasks compete for {sum(ROOM.values())} places")
        for number, name in enumerate(SCHEDULERS):
            file = str(self.seen.schedulers[name].path)
            scheduler = [
                str(ROOT / "scripts" / "demo.py"),
                "schedule",
                *common,
                "--name",
                name,
                "--file",
                file,
            ]
            self.spawn(name, [*scheduler, "--seed", str(number), "--", "sleep", self.marker])

    async def _kill_in_the_middle(self) -> None:
        await self.until(lambda: self.seen.decided >= KILL_AFTER_DECIDED, "the first tasks", 30)
        leader = await trio.to_thread.run_sync(self.cluster.leader)
        assert leader is not None, "nobody leads"
        self.killed_at = time.monotonic_ns()
        self.say(f"[bold red]SIGKILL to the leader, node {leader}[/]")
        await trio.to_thread.run_sync(self.cluster.kill_node, leader)
        before = self.seen.client_accepted
        await self.until(lambda: self.seen.client_accepted > before + 10, "offers without that node", 30)
        new = await trio.to_thread.run_sync(self.cluster.leader)
        self.say(f"offers are accepted again: node {new} leads")
        await self.until(
            lambda: self.seen.client_accepted > before + RETURN_AFTER_OFFERS, "more transactions", 40
        )
        self.say(f"node {leader} comes back")
        await trio.to_thread.run_sync(self.cluster.start_node, leader)
        await trio.to_thread.run_sync(self.cluster.wait_ready)

    async def _finish(self) -> None:
        await self.until(lambda: self.seen.decided == TASKS, "all tasks decided", 60)
        for name in SCHEDULERS:
            await self.until(lambda name=name: self.processes[name].poll() == 0, f"the end of {name}", 20)  # type: ignore[misc]
        self.say("all tasks are decided; the client ends what it has begun")
        self.processes["client"].terminate()
        await self.until(lambda: self.processes["client"].poll() == 0, "the end of the client", 30)
        async with (
            connect(self.cluster.endpoints, cluster=self.cluster.cluster_id) as journal,
            follow(journal) as feed,
        ):
            with trio.fail_after(30):
                state = await feed.until(
                    lambda state: all(
                        (view := state.task("default", task)) is not None
                        and view.last_status is LastStatus.RUNNING
                        for task in self.seen.placed
                    )
                )
        running = [view for view in state.tasks("default") if view.last_status is LastStatus.RUNNING]
        found = self._task_processes()
        expected = sum(ROOM.values())
        self.note(
            f"{expected} of {TASKS} tasks run, each as one process",
            f"{len(self.seen.placed)} placed, {len(running)} RUNNING, {len(found)} processes",
            len(self.seen.placed) == len(running) == len(found) == expected,
        )
        reasons = [said for said in self.seen.refused if said["reason"]]
        sample = reasons[-1]["reason"] if reasons else "no reasons"
        self.note(
            f"{TASKS - expected} were refused with a reason",
            f'{len(reasons)}, such as "{sample}"',
            len(reasons) == TASKS - expected and all(said["refused"] != "UNKNOWN" for said in reasons),
        )

    def note(self, what: str, result: str, ok: bool | None) -> None:
        self.findings.append(Finding(what, result, ok))

    def _task_processes(self) -> list[int]:
        command = ["sleep", self.marker]
        return [
            process.pid for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == command
        ]

    # -- the checks ---------------------------------------------------------------------

    async def _check(self) -> None:
        self.say("the whole history of every node is collected and checked")
        connector = GrpcConnector(cluster=self.cluster.cluster_id)
        nodes = dict(zip(self.cluster.nodes, self.cluster.endpoints, strict=True))
        await record_end(connector, nodes, self.recorder)
        await connector.aclose()
        history = load([self.folder / "demo.jsonl", self.seen.client.path])
        report = check(history)
        tails = final_commits(history)
        self._check_acknowledged(tails, report)
        self.note(
            "the client's recorded history is strictly serializable",
            "{offers} offers, {reads} reads, {revisions} revisions".format_map(report.counts)
            if report.ok
            else str(report),
            report.ok,
        )
        chains = {(chain.slot, chain.chain) for chain in history.chains}
        slots = {chain.slot for chain in history.chains}
        newest = max(history.chains, key=lambda chain: chain.slot, default=None)
        self.note(
            "chain hashes are equal on all nodes",
            f"at slots {', '.join(map(str, sorted(slots)))}: {newest.chain[:16]}…" if newest else "none read",
            bool(slots) and len(chains) == len(slots) and len(history.chains) == len(slots) * NODES,
        )
        placements = Placements().fold(next(iter(tails.values())))
        self.note(
            "no instance was oversubscribed at any revision",
            placements.violations[0]
            if placements.violations
            else f"{len(placements.instances)} instances, at most {placements.claims_max} tasks at once",
            not placements.violations and placements.claims_max == sum(ROOM.values()),
        )
        silence = self.seen.silence_s(self.killed_at)
        self.note("offers were refused, while a new leader was found", f"for {silence:.2f} s", None)
        rejected = report.counts["rejected"]
        conflicts = f"{self.seen.conflicts} between schedulers, {rejected} of the client's offers"
        self.note("conflicts seen, and resolved", conflicts, None)

    def _check_acknowledged(self, tails: dict[int, list[Commit]], report: Report) -> None:
        """What the client and the schedulers were told of, in every node's history, exactly once.

        The history check did it for the client's offers.
        """
        wrong = []
        for node, commits in tails.items():
            by_revision = {commit.revision: commit for commit in commits}
            labels: dict[str, int] = {}
            for commit in commits:
                labels[commit.label] = labels.get(commit.label, 0) + 1
            for task, revision in self.seen.placed.items():
                label = by_revision[revision].label if revision in by_revision else ""
                if not label.endswith(f"place {task}") or labels[label] != 1:
                    wrong.append(f"node {node} revision {revision}: task {task}, found {label!r}")
        equal = len({tuple(commits) for commits in tails.values()}) == 1
        if not equal:
            wrong.append("the nodes' histories differ")
        wrong += [violation.text for violation in report.violations if violation.rule in ACKNOWLEDGED]
        told = f"{len(self.seen.placed)} placements and {report.counts['accepted']} transactions"
        self.note(
            "every acknowledged offer is in the history of every node, exactly once",
            wrong[0] if wrong else f"{told} on {len(tails)} nodes",
            not wrong and len(tails) == NODES,
        )

    # -- the end --------------------------------------------------------------------------

    def clean_up(self) -> None:
        self.console.print("everything is stopped")
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        self.cluster.stop()
        self.recorder.close()
        for pid in self._task_processes():  # what a failed run may have left
            os.kill(pid, 9)

    def show(self) -> bool:
        table = Table(title="What must hold", show_lines=False)
        table.add_column("", justify="center")
        table.add_column("promise")
        table.add_column("found")
        marks = {True: "[green]✓[/]", False: "[bold red]✗[/]", None: "·"}
        for finding in self.findings:
            table.add_row(marks[finding.ok], finding.what, finding.result)
        self.console.print(table)
        return all(finding.ok is not False for finding in self.findings)


def final_commits(history: History) -> dict[int, list[Commit]]:
    """Return each node's whole history, as it was collected at the end."""
    return {
        operation.asked.node: [commit for message in operation.messages for commit in message.commits]
        for operation in history.operations
        if isinstance(operation.asked, TailAsked) and operation.asked.final and operation.asked.node
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--dir", type=Path, help="keep everything in this new folder")
    roles = parser.add_subparsers(dest="role", metavar="")
    scheduler = roles.add_parser("schedule")  # what the demo starts itself with
    for name in ("--endpoints", "--cluster", "--name", "--file"):
        scheduler.add_argument(name, required=True)
    scheduler.add_argument("--seed", type=int, required=True)
    scheduler.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    if options.role == "schedule":
        with Path(options.file).open("w", encoding="utf-8", buffering=1) as out:
            trio.run(schedule, options, out)
        return 0
    return run_demo(options)


def run_demo(options: argparse.Namespace) -> int:
    console = Console() if sys.stdout.isatty() else Console(width=120)
    folder = options.dir or Path(tempfile.mkdtemp(prefix="synod-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    demo = Demo(folder, console)
    failure = ""
    try:
        trio.run(demo.run)
    except (Exception, KeyboardInterrupt) as error:
        failure = _why(error)
    finally:
        demo.clean_up()
    holds = demo.show() and not failure
    if failure:
        console.print(f"[bold red]the demo could not be finished:[/] {failure}")
    elapsed = time.monotonic() - began
    console.print(f"{'All of it holds' if holds else '[bold red]Not all of it holds[/]'} ({elapsed:.0f} s)")
    if holds and options.dir is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        console.print(f"logs and recorded history: {folder}")
    return 0 if holds else 1


def _why(error: BaseException) -> str:
    """Return the message of an error, or of the first in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, trio.TooSlowError):
        return "it took too long"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, JournalError | OSError | RuntimeError) else repr(error)


if __name__ == "__main__":
    sys.exit(main())
