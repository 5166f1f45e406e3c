"""The row ``placement``: four scheduler processes place tasks on 5,000 simulated instances.

Each cell of the table has a cluster (in ECS's sense) of its own, whose instances are registered by the
agents' own offers and which no agent serves. Four processes (``scripts.bench.scheduler``) place jobs on it
at the same time, and know nothing of each other. Afterwards every instance's capacity is added up again.

``beside`` is what the same schedulers reach where an offer demands that an instance's capacity record is
still the one that the plan saw: Omega's coarse conflicts, in place of ``adjust`` with a bound. The goal is
against Nomad's published run of two million containers, about 1,500 a second on far more machines.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cluster import offers
from cluster.feed import follow
from cluster.records import (
    Alive,
    ContainerDefinition,
    ContainerInstance,
    TaskDefinition,
    attributes,
    resources,
)
from cluster.state import ClusterState
from journal.client import Journal, connect
from journal.offers import Offer
from journal.types import Revision
from scripts.bench.loads import Cores
from scripts.bench.results import Result, percentiles
from scripts.bench.scheduler import WARM_UP_S, Mode, Tally, prefixes_of

if TYPE_CHECKING:
    from scripts.bench.rows import Bench

SCHEDULERS = 4
INSTANCES = 5_000
ZONES = 3
CPU, MEMORY = 65_536, 262_144
"""Of an instance: 64 cores and 256 GiB, so that no cell fills its cluster."""
DEFINITION = TaskDefinition(
    family="bench",
    revision=1,
    cpu=100,
    memory=128,
    container_definitions=(ContainerDefinition(name="main", command=("sleep", "600")),),
)
NOMAD_TASKS_PER_S = 1_500
GOAL_TASKS_PER_S = 2_000
CONFLICTS_PERCENT_MAX = 1.0
ZONE_ATTRIBUTE = "ecs.availability-zone"
LEASE_TTL_S = 600.0
READY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the schedulers are given: jobs of ``tasks``, ``jobs`` of them at once in each scheduler."""

    name: str
    tasks: int
    jobs: int
    gang: bool = False
    strategy: str = ""

    @property
    def inflight(self) -> int:
        return self.tasks * self.jobs * SCHEDULERS


WORK = (
    Work(name="jobs of one task", tasks=1, jobs=64),
    Work(name="jobs of 100, an offer each", tasks=100, jobs=2),
    Work(name="gangs of 100, one offer", tasks=100, jobs=2, gang=True),
)
FULL = (
    Work(name="jobs of 100 over zones", tasks=100, jobs=2, strategy=f"spread:attribute:{ZONE_ATTRIBUTE}"),
    Work(name="jobs of 100, the fullest first", tasks=100, jobs=2, strategy="binpack:cpu"),
)
"""What ``--full`` measures as well: strategies that look at every instance, for each plan. The last one
sends everybody to the same few instances, which are full before the next plan is made."""


@dataclass(slots=True)
class Cell:
    """What all schedulers of one cell did together."""

    tallies: list[Tally] = field(default_factory=list)
    nodes: dict[str, float] = field(default_factory=dict)
    """Cores that each node used."""

    @property
    def tasks_per_s(self) -> float:
        return sum(tally.placed / tally.seconds for tally in self.tallies)

    @property
    def conflicts_percent(self) -> float:
        """Of all offers, how many were rejected."""
        offered = sum(tally.offers for tally in self.tallies)
        return 100 * sum(tally.conflicts for tally in self.tallies) / offered if offered else 0.0

    def details(self) -> dict[str, Any]:
        rate = self.tasks_per_s or 1.0
        scheduler = sum(tally.cpu_s / tally.seconds for tally in self.tallies)
        return {
            "conflicts_percent": round(self.conflicts_percent, 2),
            "job_ms": percentiles([ms for tally in self.tallies for ms in tally.latencies_ms]),
            "cpu_us_a_task": {
                "schedulers": round(scheduler / rate * 1e6),
                **{name: round(cores / rate * 1e6) for name, cores in self.nodes.items()},
            },
        }


# -- the simulated cluster ----------------------------------------------------------


def instance_ids(count: int) -> list[str]:
    return [f"{number:032x}" for number in range(count)]


def registration(number: int) -> ContainerInstance:
    """Return the registration of a simulated instance."""
    return ContainerInstance(
        registered_resources=resources(CPU, MEMORY),
        attributes=attributes({ZONE_ATTRIBUTE: f"zone-{number % ZONES}"}),
        ec2_instance_id=f"simulated-{number}",
    )


async def simulate(journal: Journal, cluster: str, instances: int, lease: int) -> None:
    """Register a cluster with so many instances, which are connected for as long as the lease lives."""
    await accepted(journal, [offers.create_cluster(cluster)])
    ids = instance_ids(instances)
    registered = await accepted(
        journal, [offers.register_instance(cluster, name, registration(n)) for n, name in enumerate(ids)]
    )
    await accepted(
        journal,
        [
            offers.connect(
                cluster,
                name,
                Alive(incarnation="simulated"),
                lease=lease,
                ttl_ms=0,
                registration=revision,
                at=revision,
                grant=False,
            )
            for name, revision in zip(ids, registered, strict=True)
        ],
    )


async def accepted(journal: Journal, batch: Sequence[Offer]) -> list[Revision]:
    verdicts = await journal.offer_many(batch)
    refused = [verdict for verdict in verdicts if not isinstance(verdict, int)]
    if refused:
        raise RuntimeError(f"the simulated cluster could not be registered: {refused[0]}")
    return [Revision(verdict) for verdict in verdicts if isinstance(verdict, int)]


def oversubscribed(state: ClusterState, cluster: str) -> list[str]:
    """Return what is wrong with a cluster's books: instances whose claims and rest are not what they have."""
    wrong = []
    for view in state.instances(cluster):
        assert view.capacity is not None
        left, claimed = view.capacity.record, state.claimed(cluster, view.id)
        if (
            left.cpu < 0
            or left.memory < 0
            or (left.cpu + claimed.cpu, left.memory + claimed.memory)
            != (
                CPU,
                MEMORY,
            )
        ):
            wrong.append(f"{view.id}: {left.cpu} CPU units left, {claimed.cpu} claimed of {CPU}")
    return wrong


# -- the schedulers -----------------------------------------------------------------


class Schedulers:
    """Four processes that wait for the word, work, and say what they did."""

    def __init__(self, bench: Bench, cluster: str, work: Work, mode: Mode, log: Path) -> None:
        self._log = log
        self._processes: list[subprocess.Popen[str]] = []
        with log.open("ab") as file:
            for number in range(SCHEDULERS):
                command = [
                    sys.executable,
                    "-m",
                    "scripts.bench.scheduler",
                    f"--endpoints={','.join(bench.cluster.endpoints)}",
                    f"--journal={bench.cluster.cluster_id}",
                    f"--cluster={cluster}",
                    f"--definition={DEFINITION.name}",
                    f"--mode={mode}",
                    f"--tasks={work.tasks}",
                    f"--jobs={work.jobs}",
                    f"--seconds={bench.seconds}",
                    f"--seed={number}",
                    f"--strategy={work.strategy}",
                    *(["--gang"] if work.gang else []),
                ]
                self._processes.append(
                    subprocess.Popen(
                        command,
                        cwd=Path(__file__).parents[2],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=file,
                        text=True,
                    )
                )

    async def heard(self) -> list[dict[str, Any]]:
        """Return the next line of each."""
        found: list[dict[str, Any]] = []
        for process in self._processes:
            assert process.stdout is not None
            line = await trio.to_thread.run_sync(process.stdout.readline)
            if not line:
                raise RuntimeError(f"a scheduler ended: {self._log.read_text()[-2_000:]}")
            found.append(json.loads(line))
        return found

    def tell(self, word: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{word}\n")
            process.stdin.flush()

    def stop(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


async def measure(bench: Bench, journal: Journal, work: Work, mode: Mode, round_: int) -> Cell:
    """Let four schedulers work on a new cluster; raise ``RuntimeError`` where its books are wrong then."""
    kind = work.strategy.partition(":")[0] or ("gangs" if work.gang else "jobs")
    cluster = f"{kind}-{work.tasks}-{mode}-{round_}"
    async with journal.lease(LEASE_TTL_S) as lease:
        await simulate(journal, cluster, INSTANCES, lease.id)
        leader = await trio.to_thread.run_sync(bench.cluster.leader)
        nodes = bench.processes(leader)
        nodes.pop("load")
        schedulers = Schedulers(bench, cluster, work, mode, bench.folder / "schedulers.log")
        try:
            with trio.fail_after(READY_S):
                await schedulers.heard()
            schedulers.tell("go")
            await trio.sleep(WARM_UP_S)
            cores = Cores(nodes)
            await trio.sleep(bench.seconds)
            used = cores.used()
            cell = Cell([Tally(**said) for said in await schedulers.heard()], used)
            schedulers.tell("stop")
        finally:
            schedulers.stop()
        await check(journal, cluster)
    return cell


async def check(journal: Journal, cluster: str) -> None:
    """Raise ``RuntimeError`` where what was placed and what is left do not add up."""
    async with follow(journal, prefixes_of(cluster)) as feed:
        state = await feed.reached(await journal.revision())
        if wrong := oversubscribed(state, cluster):
            raise RuntimeError(f"the books of {cluster} are wrong: {wrong[0]}")


# -- the row ------------------------------------------------------------------------


async def placement(bench: Bench) -> list[Result]:
    """Tasks a second against Nomad's published run, and against whole-instance version checks."""
    results: list[Result] = []
    async with connect(bench.cluster.endpoints, cluster=bench.cluster.cluster_id) as journal:
        await accepted(journal, [offers.register_task_definition(DEFINITION)])
        for work in (*WORK, *FULL) if bench.full else WORK:
            results += await _of_work(bench, journal, work)
    return results


async def _of_work(bench: Bench, journal: Journal, work: Work) -> list[Result]:
    what = f"{work.name}; {INSTANCES:,} instances, {work.inflight} tasks in flight"
    goal = round(GOAL_TASKS_PER_S / NOMAD_TASKS_PER_S, 2)
    rate = Result("placement", what, "tasks/s", goal, peer_name="Nomad's published run")
    rate.peer.append(NOMAD_TASKS_PER_S)
    beside = Result("placement", f"{work.name}: adjust", "tasks/s", None, peer_name="whole-instance versions")
    conflicts = Result(
        "placement",
        f"{work.name}: conflicts, adjust",
        "%",
        None,
        more_is_better=False,
        peer_name="% whole-instance versions",
    )
    for round_ in range(bench.rounds):
        fine = await measure(bench, journal, work, Mode.ADJUST, round_)
        for result, found in (
            (rate, fine.tasks_per_s),
            (beside, fine.tasks_per_s),
            (conflicts, fine.conflicts_percent),
        ):
            result.ours.append(found)
        rate.details = fine.details()
        if bench.full or not beside.peer:
            coarse = await measure(bench, journal, work, Mode.VERSIONS, round_)
            beside.peer.append(coarse.tasks_per_s)
            conflicts.peer.append(coarse.conflicts_percent)
            beside.details = coarse.details()
    allowed = Result(
        "placement",
        f"{work.name}: conflicts",
        "%",
        1.0,
        more_is_better=False,
        peer_name="% are allowed",
    )
    allowed.ours, allowed.peer = conflicts.ours, [CONFLICTS_PERCENT_MAX]
    return [rate, beside, conflicts, allowed]
