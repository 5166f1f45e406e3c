"""The second part of ``make demo``: a service, driven with boto3 through the ECS API.

Six agents join in three zones, with schedulers and the API. A service of six tasks is created, updated
to a new revision, and loses an instance with all that ran there; each time boto3's own waiter says
when it is stable, and a table shows where its tasks are. What the journal recorded meanwhile is checked
revision by revision.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import trio
from rich.console import Console
from rich.table import Table

from cluster.state import ClusterState
from journal.client import connect
from synod.chaos.control import Broken, check_web, client, shown
from synod.local import LocalCluster
from synod.local_state import free_ports
from synod.processes import ProcessRef

ZONES = ("zone-a", "zone-b", "zone-c")
AGENTS = range(11, 17)
"""Two in each zone; the first part's agents are full."""
SERVICE, TASKS = "web", 6
SCHEDULERS = 2
STABLE_S = 60
SECONDS = 150.0

Note = Callable[[str, str, bool | None], None]


class ServicePart:
    """``say`` tells people what happens, ``note`` takes what was found."""

    def __init__(
        self, cluster: LocalCluster, console: Console, say: Callable[[str], None], note: Note
    ) -> None:
        self.cluster = cluster
        self.console = console
        self.say = say
        self.note = note
        self.lost_at_revision = 0

    async def run(self) -> None:
        with trio.fail_after(SECONDS):
            await trio.to_thread.run_sync(self._start)
            await trio.to_thread.run_sync(self._create)
            await trio.to_thread.run_sync(self._update)
            await self._check_bounds()
            await trio.to_thread.run_sync(self._lose_an_instance)

    def _start(self) -> None:
        self.say(
            f"{len(AGENTS)} more agents start in {len(ZONES)} zones, {SCHEDULERS} schedulers, the ECS API"
        )
        for agent in AGENTS:
            zone = {"ecs.availability-zone": ZONES[agent % len(ZONES)]}
            self.cluster.start_agent(agent, cpu=1024, memory=1024, attributes=zone)
        self.cluster.wait_agents()
        self.cluster.start_schedulers(SCHEDULERS)
        self.ecs = client(f"http://{self.cluster.start_api(free_ports(1)[0])}")
        deadline = time.monotonic() + STABLE_S
        while True:
            try:
                self.ecs.list_clusters()
                return
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _define(self, version: int) -> str:
        container = {
            "name": "main",
            "image": "none",
            "cpu": 64,
            "memory": 32,
            "command": ["sh", "-c", f"echo version {version}; exec sleep 3600"],
            "stopTimeout": 2,
        }
        answer = self.ecs.register_task_definition(family=SERVICE, containerDefinitions=[container])
        return str(answer["taskDefinition"]["taskDefinitionArn"])

    def _create(self) -> None:
        self.say(f"boto3: create_service({SERVICE!r}, desiredCount={TASKS})")
        self.ecs.create_service(serviceName=SERVICE, taskDefinition=self._define(1), desiredCount=TASKS)
        took = self._wait_stable()
        self._show("created")
        zones = Counter(zone for _, zone, _, _ in self._tasks())
        spread = ", ".join(f"{number} in {zone}" for zone, number in sorted(zones.items()))
        self.note(
            f"a service of {TASKS} tasks is spread over {len(ZONES)} zones",
            f"{spread}; stable after {took:.1f} s",
            sorted(zones.values()) == [TASKS // len(ZONES)] * len(ZONES),
        )

    def _update(self) -> None:
        self.say("boto3: update_service to a new revision")
        self.ecs.update_service(service=SERVICE, taskDefinition=self._define(2))
        took = self._wait_stable()
        self._show("updated")
        definitions = {definition for _, _, _, definition in self._tasks()}
        self.note(
            "all of it runs the new revision",
            f"{', '.join(sorted(definitions))}; stable after {took:.1f} s",
            definitions == {f"{SERVICE}:2"},
        )

    async def _check_bounds(self) -> None:
        """Look at every revision so far, as the journal has them."""
        state, look = ClusterState(), check_web()
        found = f"never under {TASKS} running, never over {2 * TASKS} in all"
        try:
            async with connect(self.cluster.endpoints, cluster=self.cluster.cluster_id) as journal:
                end = await journal.revision()
                async with journal.tail(0) as tail:
                    while state.revision < end:
                        message = await anext(tail)
                        for commit in message.commits:
                            state.apply(commit)
                            look(state)
                        state.advance(message.last)
        except Broken as broken:
            found = str(broken)
        self.note("the update kept its bounds at every revision", found, found.startswith("never"))

    def _lose_an_instance(self) -> None:
        where = Counter(instance for _, _, instance, _ in self._tasks())
        victim = max(sorted(where), key=lambda instance: where[instance])
        agent = next(number for number in AGENTS if self.cluster.instance_of(number) == victim)
        self.say(f"[bold red]instance {victim[:8]} is lost[/], with the {where[victim]} tasks on it")
        began = time.monotonic()
        self.cluster.kill_agent(agent)
        _kill_all([ref for ref in self.cluster.tasks_of(agent) if ref.alive])
        while any(instance == victim for _, _, instance, _ in self._tasks()):
            if time.monotonic() > began + STABLE_S:
                raise TimeoutError(f"the lost tasks were not replaced within {STABLE_S} s")
            time.sleep(0.2)
        self._wait_stable()
        took = time.monotonic() - began
        self._show("after the loss of an instance")
        self.note(
            "the loss of an instance is made good on others, in its zone",
            f"{len(self._tasks())} tasks run again after {took:.1f} s, detection and grace included",
            len(self._tasks()) == TASKS
            and Counter(zone for _, zone, _, _ in self._tasks()) == dict.fromkeys(ZONES, TASKS // len(ZONES)),
        )
        [service] = self.ecs.describe_services(services=[SERVICE])["services"]
        for event in reversed(service["events"][:4]):
            self.console.print(f"[dim]         {event['message'][:110]}[/]")

    # -- looking ------------------------------------------------------------------------

    def _wait_stable(self) -> float:
        began = time.monotonic()
        waiter = self.ecs.get_waiter("services_stable")
        try:
            waiter.wait(services=[SERVICE], WaiterConfig={"Delay": 1, "MaxAttempts": STABLE_S})
        except Exception as error:
            [service] = self.ecs.describe_services(services=[SERVICE])["services"]
            raise RuntimeError(f"not stable: {shown(service)}") from error
        return time.monotonic() - began

    def _tasks(self) -> list[tuple[str, str, str, str]]:
        """Return (task, zone, instance, definition) of each task that runs, through the API."""
        arns = self.ecs.list_tasks(serviceName=SERVICE)["taskArns"]
        if not arns:
            return []
        tasks = [t for t in self.ecs.describe_tasks(tasks=arns)["tasks"] if t["lastStatus"] == "RUNNING"]
        wanted = sorted({task["containerInstanceArn"] for task in tasks})
        found = self.ecs.describe_container_instances(containerInstances=wanted)["containerInstances"]
        zones = {instance["containerInstanceArn"]: _zone(instance) for instance in found}
        rows = [
            (
                _last(task["taskArn"]),
                zones[task["containerInstanceArn"]],
                _last(task["containerInstanceArn"]),
                _last(task["taskDefinitionArn"]),
            )
            for task in tasks
        ]
        return sorted(rows, key=lambda row: (row[1], row[2], row[0]))

    def _show(self, when: str) -> None:
        [service] = self.ecs.describe_services(services=[SERVICE])["services"]
        [deployment] = service["deployments"]
        self.console.print(
            f"[bold]service {SERVICE}, {when}:[/] {service['runningCount']} of {service['desiredCount']} run,"
            f" {deployment['status']} {deployment['rolloutState']}"
        )
        table = Table(show_lines=False)
        for column in ("task", "zone", "instance", "definition"):
            table.add_column(column)
        for task, zone, instance, definition in self._tasks():
            table.add_row(task[:12], zone, instance[:8], definition)
        self.console.print(table)


def _zone(instance: dict[str, Any]) -> str:
    named = {attribute["name"]: attribute.get("value", "") for attribute in instance["attributes"]}
    return str(named.get("ecs.availability-zone", "none"))


def _last(arn: str) -> str:
    return arn.rpartition("/")[2]


def _kill_all(supervisors: list[ProcessRef]) -> None:
    """Kill tasks with their supervisors, all at once, as a loss of power does."""
    for ref in supervisors:
        try:
            process = psutil.Process(ref.pid)
            for child in [process, *process.children(recursive=True)]:
                child.kill()
        except psutil.NoSuchProcess:
            pass
