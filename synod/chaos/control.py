"""Chaos for the control plane: whatever manages tasks is killed at random, and the tasks must not notice.

A cluster of real processes: nodes, agents in three zones, schedulers, the ECS API. Services are
updated and scaled through the API with boto3 all the while, and agents, schedulers, nodes and the API
get SIGKILL (or SIGSTOP for a while) at random and come back. Each task is a process that writes
down when it begins and when it is asked to end. At the end:

* every service is steady;
* nothing was oversubscribed and nothing placed twice at any revision of the history;
* no task ran twice: each began once;
* no running task was stopped by a fault: who was asked to end was asked by an update or a scaling,
  and the service that is only updated never had too few or too many tasks at any revision;
* every stopped task has a reason.

``python -m synod.chaos.control --minutes 3 --seed 7``; the seed draws what happens, not how the
machine's clock and scheduler mix it.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synod.local import LocalCluster, LocalClusterError
from synod.local_state import free_ports

if TYPE_CHECKING:
    from cluster.state import ClusterState
    from journal.space import Commit

NODES = 3
AGENTS = 5
SCHEDULERS = 3
ZONES = "abc"
WEB, WORKER, DAEMON = "web", "worker", "watch"
WEB_TASKS = 6
READY_S = 60.0
STEADY_S = 180.0
REASONS = ("Scaling activity initiated by (deployment ", "Scaling activity initiated by (service ")
SCRIPT = (
    'echo "begin $SYNOD_TASK" >> {file}; trap \'echo "end $SYNOD_TASK" >> {file}; kill $!; exit 0\' TERM;'
    " sleep 100000 & wait $!"
)


class Broken(Exception):
    """A promise was broken; the text says which, and where."""


@dataclass(slots=True)
class Report:
    """What happened, for people."""

    harm: Counter[str] = field(default_factory=Counter)
    updates: int = 0
    calls_failed: int = 0
    started: int = 0
    revisions: int = 0
    steady_after_s: float = 0.0

    def __str__(self) -> str:
        harm = ", ".join(f"{what} {number}" for what, number in sorted(self.harm.items()))
        return (
            f"{harm}; {self.updates} updates ({self.calls_failed} calls failed), {self.started} tasks"
            f" started, {self.revisions} revisions; steady {self.steady_after_s:.1f} s after the last harm"
        )


class ControlChaos:
    """One run. ``tell`` is told what happens."""

    def __init__(self, folder: Path, seed: int, tell: Callable[[str], None] = lambda _text: None) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.tell = tell
        self.report = Report()
        self.file = folder / "tasks.log"
        self.cluster = LocalCluster.create(
            folder / "cluster",
            nodes=NODES,
            schedulers=SCHEDULERS,
            node_args=("--election-timeout-ms", "400", "--heartbeat-interval-ms", "80"),
        )
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._down: set[str] = set()

    # -- the cluster --------------------------------------------------------------------

    def start(self) -> None:
        cluster = self.cluster
        cluster.start(agents=False)
        cluster.wait_ready(READY_S)
        for agent in range(1, AGENTS + 1):
            zone = {"ecs.availability-zone": f"zone-{ZONES[agent % len(ZONES)]}"}
            cluster.start_agent(agent, cpu=1024, memory=1024, attributes=zone)
        cluster.wait_agents(READY_S)
        cluster.start_schedulers()
        self.endpoint = f"http://{cluster.start_api(free_ports(1)[0])}"
        self.ecs = client(self.endpoint)
        self._until_answered(lambda: self.ecs.list_clusters(), READY_S)
        for service, tasks in ((WEB, WEB_TASKS), (WORKER, 3), (DAEMON, None)):
            self.create(service, tasks)

    def _until_answered(self, call: Callable[[], Any], within_s: float) -> Any:
        """Repeat a call that only faults of the control plane may fail."""
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + within_s
        while True:
            try:
                return call()
            except (BotoCoreError, ClientError) as error:
                if (
                    isinstance(error, ClientError)
                    and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500
                ):
                    raise
                self.report.calls_failed += 1
                if time.monotonic() > deadline:
                    raise
                self._bring_back(time.monotonic())
                time.sleep(0.1)

    def define(self, service: str) -> str:
        container = {
            "name": "main",
            "image": "none",
            "cpu": 32,
            "memory": 16,
            "command": ["sh", "-c", SCRIPT.format(file=self.file)],
            "stopTimeout": 5,
        }
        answer = self._until_answered(
            lambda: self.ecs.register_task_definition(family=service, containerDefinitions=[container]),
            READY_S,
        )
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    def create(self, service: str, tasks: int | None) -> None:
        wanted = {"desiredCount": tasks} if tasks is not None else {"schedulingStrategy": "DAEMON"}
        definition = self.define(service)
        self._until_answered(
            lambda: self.ecs.create_service(serviceName=service, taskDefinition=definition, **wanted), READY_S
        )

    def update(self) -> None:
        """Ask for something new; where the API is down, ask again later."""
        service = self.rng.choice([WEB, WEB, WORKER, DAEMON])
        count = (
            {"desiredCount": self.rng.randint(1, 6)} if service == WORKER and self.rng.random() < 0.6 else {}
        )
        definition = {} if count else {"taskDefinition": self.define(service)}
        self._until_answered(lambda: self.ecs.update_service(service=service, **count, **definition), READY_S)
        self.report.updates += 1
        self.tell(f"update {service} {count or definition['taskDefinition'].rpartition('/')[2]}")

    # -- harm -----------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Harm and update for so long; then bring everything back."""
        end = time.monotonic() + seconds
        next_update = next_harm = time.monotonic()
        while (now := time.monotonic()) < end:
            self._bring_back(now)
            if now >= next_harm:
                self._harm()
                next_harm = now + self.rng.uniform(0.3, 1.5)
            if now >= next_update:
                self.update()
                next_update = now + self.rng.uniform(2.0, 5.0)
            time.sleep(0.05)
        self._bring_back(float("inf"))
        self.cluster.start()
        self.cluster.start_api()

    def _bring_back(self, now: float) -> None:
        """Let those return whose time has come."""
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2]()

    def _harm(self) -> None:
        what = self.rng.choice(
            ["agent", "agent", "scheduler", "scheduler", "node", "pause", "api", "schedulers"]
        )
        match what:
            case "agent":
                number = self.rng.randint(1, AGENTS)
                self._kill(what, f"agent-{number}", lambda: self.cluster.start_agent(number), 4.0)
            case "scheduler":
                number = self.rng.randint(1, SCHEDULERS)
                self._kill(what, f"scheduler-{number}", self.cluster.start_schedulers, 4.0)
            case "schedulers":
                for number in range(1, SCHEDULERS + 1):
                    self._kill(what, f"scheduler-{number}", self.cluster.start_schedulers, 2.0)
            case "node" | "pause":
                if any(name.startswith("node-") for name in self._down):
                    return  # a majority must stay
                number = self.rng.randint(1, NODES)
                if what == "node":
                    self._kill(what, f"node-{number}", lambda: self.cluster.start_node(number), 5.0)
                else:
                    self._pause(number)
            case "api":
                self._kill(what, "api", self.cluster.start_api, 1.0)

    def _kill(self, what: str, name: str, back: Callable[[], object], away_s: float) -> None:
        if name in self._down:
            return
        try:
            self.cluster.kill(name, signal.SIGKILL)
        except LocalClusterError:
            return  # it has just begun, or ended
        self._away(what, name, back, self.rng.uniform(0.2, away_s))

    def _pause(self, number: int) -> None:
        with contextlib.suppress(LocalClusterError):
            self.cluster.pause_node(number)
            self._away(
                "pause", f"node-{number}", lambda: self.cluster.resume_node(number), self.rng.uniform(0.3, 3)
            )

    def _away(self, what: str, name: str, back: Callable[[], object], away_s: float) -> None:
        self.report.harm[what] += 1
        self._down.add(name)
        self.tell(f"{what} {name} away for {away_s:.1f} s")

        def return_() -> None:
            self._down.discard(name)
            back()

        heapq.heappush(self._later, (time.monotonic() + away_s, next(self._order), return_))

    # -- what must hold ---------------------------------------------------------------------

    def judge(self) -> Report:
        """Wait until everything is steady, and check what was promised. Raises ``Broken``."""
        self.cluster.wait_ready(READY_S)
        self.cluster.wait_agents(READY_S)
        began = time.monotonic()
        self._wait_steady()
        self.report.steady_after_s = time.monotonic() - began
        commits, running = self._history()
        self.report.revisions = len(commits)
        check_history(commits)
        self._check_tasks(running)
        return self.report

    def _wait_steady(self) -> None:
        deadline = time.monotonic() + STEADY_S
        while True:
            services = self._until_answered(
                lambda: self.ecs.describe_services(services=[WEB, WORKER, DAEMON]), READY_S
            )["services"]
            if all(steady(service) for service in services):
                return
            if time.monotonic() > deadline:
                raise Broken("not steady: " + "; ".join(shown(s) for s in services if not steady(s)))
            time.sleep(0.2)

    def _history(self) -> tuple[list[Commit], set[str]]:
        """Return every commit there ever was, and the tasks that run."""
        import trio

        from journal.client import connect

        async def collect() -> list[Commit]:
            commits: list[Commit] = []
            async with connect(self.cluster.endpoints, cluster=self.cluster.cluster_id) as journal:
                end = await journal.revision()
                async with journal.tail(0) as tail:
                    async for message in tail:
                        commits += message.commits
                        if message.last >= end:
                            break
            return commits

        commits = trio.run(collect)
        state = folded(commits)
        running = {view.id for view in state.tasks("default") if view.last_status == "RUNNING"}
        return commits, running

    def _check_tasks(self, running: set[str]) -> None:
        """Compare what the tasks themselves wrote down."""
        lines = [line.split() for line in self.file.read_text().splitlines()]
        begun = Counter(task for what, task in lines if what == "begin")
        ended = {task for what, task in lines if what == "end"}
        self.report.started = len(begun)
        twice = [task for task, number in begun.items() if number > 1]
        if twice:
            raise Broken(f"task {twice[0]} began {begun[twice[0]]} times")
        dead = running & ended
        if dead:
            raise Broken(f"task {min(dead)} is RUNNING, and has ended")
        if running - set(begun):
            raise Broken(f"task {min(running - set(begun))} is RUNNING, and never began")
        alive = len(self.cluster.tasks())
        if alive != len(running):
            raise Broken(f"{alive} tasks' processes run, {len(running)} are RUNNING")

    def stop(self) -> None:
        self.cluster.stop()


def check_history(commits: Sequence[Commit]) -> None:
    """Check the journal's history, revision by revision. Raises ``Broken``."""
    from synod.history.client import text
    from synod.history.format import Change
    from synod.history.format import Commit as Written
    from synod.history.placements import Placements

    written = [
        Written(
            revision=commit.revision,
            client="",
            sequence=0,
            label=commit.label,
            changes=tuple(
                Change(text(key), None if value is None else text(value), lease)
                for key, value, lease in commit.changes
            ),
        )
        for commit in commits
    ]
    violations = Placements().fold(written).violations
    if violations:
        raise Broken(violations[0])
    state = folded(commits, at_each=check_web())
    for view in state.tasks("default"):
        if not view.stopped:
            continue
        status = view.status
        reason = (status.stopped_reason if status else "") or ""
        if not reason:
            raise Broken(f"task {view.id} stopped without a reason")
        if not reason.startswith(REASONS):
            raise Broken(f"task {view.id} was stopped by a fault: {reason}")


def check_web() -> Callable[[ClusterState], None]:
    """Return what looks at the service that is only updated: from the first time that it had all of its
    tasks on, it never has fewer running, nor more than twice as many at all."""
    whole = False

    def look(state: ClusterState) -> None:
        nonlocal whole
        tasks = state.service_tasks("default", WEB)
        up = sum(view.last_status == "RUNNING" and view.task.desired_status == "RUNNING" for view in tasks)
        whole = whole or up >= WEB_TASKS
        if len(tasks) > 2 * WEB_TASKS:
            raise Broken(
                f"revision {state.revision}: {len(tasks)} tasks of {WEB}, the maximum is {2 * WEB_TASKS}"
            )
        if whole and up < WEB_TASKS:
            raise Broken(
                f"revision {state.revision}: {up} healthy tasks of {WEB}, the minimum is {WEB_TASKS}"
            )

    return look


def folded(
    commits: Sequence[Commit], at_each: Callable[[ClusterState], None] = lambda _state: None
) -> ClusterState:
    from cluster.state import ClusterState

    state = ClusterState()
    for commit in commits:
        state.apply(commit)
        at_each(state)
    return state


def steady(service: dict[str, Any]) -> bool:
    return (
        len(service["deployments"]) == 1
        and service["runningCount"] == service["desiredCount"]
        and service["pendingCount"] == 0
        and service["deployments"][0]["rolloutState"] == "COMPLETED"
    )


def shown(service: dict[str, Any]) -> str:
    event = service["events"][0]["message"] if service["events"] else "no events"
    deployments = [
        (d["status"], d["desiredCount"], d["pendingCount"], d["runningCount"], d["rolloutState"])
        for d in service["deployments"]
    ]
    return f"{service['serviceName']} wants {service['desiredCount']}: {deployments}; {event}"


def client(endpoint: str) -> Any:
    """Return a boto3 client that anybody could have."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "ecs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(connect_timeout=2, read_timeout=20, retries={"max_attempts": 2, "mode": "standard"}),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m synod.chaos.control", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="synod-control-"))
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f}  {text}", flush=True)

    chaos = ControlChaos(folder, seed, tell)
    try:
        chaos.start()
        tell("everything runs; the harm begins")
        chaos.run(options.minutes * 60)
        report = chaos.judge()
    except Broken as broken:
        print(f"BROKEN: {broken}\nagain: --seed {seed}; logs: {folder}")
        return 1
    finally:
        chaos.stop()
    print(f"all of it holds: {report}")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
