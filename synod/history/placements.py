"""What the cluster promises, checked in the journal's history: no oversubscription, nothing placed twice.

From the commits alone, revision by revision, and with an arithmetic of its own: what is left on an
instance and what its tasks claim is always what it registered, nothing left is ever negative, no
port is given out twice, and no task is on two instances.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from synod.history.format import Commit
from synod.history.model import decode

STOPPED = "STOPPED"


@dataclass(slots=True)
class Instance:
    registered: dict[str, int] = field(default_factory=dict)
    left: dict[str, Any] | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)

    def claims(self) -> list[dict[str, Any]]:
        return [task for task_id, task in self.tasks.items() if task_id not in self.stopped]


@dataclass(slots=True)
class Placements:
    """Folds commits, and remembers what was wrong."""

    instances: dict[str, Instance] = field(default_factory=dict)
    placed: dict[str, int] = field(default_factory=dict)
    """Task to the revision that placed it."""
    violations: list[str] = field(default_factory=list)
    claims_max: int = 0
    """The most tasks that held a claim at one revision."""

    def fold(self, commits: Iterable[Commit]) -> Placements:
        for commit in commits:
            touched = {name for change in commit.changes if (name := self._change(commit, *change[:2]))}
            for name in sorted(touched):
                self._judge(commit.revision, name)
            if touched:
                holding = sum(len(instance.claims()) for instance in self.instances.values())
                self.claims_max = max(self.claims_max, holding)
        return self

    def _change(self, commit: Commit, key: str, value: str | None) -> str | None:
        """Take one change in; return the instance that it is about."""
        parts = key.split("/")
        if len(parts) < 4 or parts[0] != "cluster":
            return None
        kind, name = parts[2], parts[3]
        record = decode(value) if value is not None else None
        instance = self.instances.setdefault(name, Instance())
        if kind == "instance" and record is not None:
            resources = record["registeredResources"]
            instance.registered = {
                r["name"].lower(): r["integerValue"] for r in resources if "integerValue" in r
            }
        elif kind == "capacity":
            instance.left = record
        elif kind == "task" and record is not None:
            self._placed(commit.revision, parts[4], name)
            instance.tasks[parts[4]] = record
        elif kind == "task":
            instance.tasks.pop(parts[4], None)
        elif kind == "status" and record is not None and record["lastStatus"] == STOPPED:
            instance.stopped.add(parts[4])
        return name

    def _placed(self, revision: int, task: str, name: str) -> None:
        for other, instance in self.instances.items():
            if task in instance.tasks and other != name:
                self.violations.append(f"revision {revision}: task {task} is on {other} and on {name}")
        self.placed.setdefault(task, revision)

    def _judge(self, revision: int, name: str) -> None:
        instance = self.instances[name]
        if instance.left is None or not instance.registered:
            return
        claims = instance.claims()
        for resource in ("cpu", "memory"):
            left, claimed = instance.left[resource], sum(task[resource] for task in claims)
            registered = instance.registered[resource]
            if left < 0 or left + claimed != registered:
                text = f"{resource}: {left} left and {claimed} claimed of {registered}"
                self.violations.append(f"revision {revision}: instance {name}: {text}")
        ports = sorted(port for task in claims for port in task.get("ports", ()))
        if len(set(ports)) != len(ports) or sorted(instance.left.get("ports", ())) != ports:
            taken = sorted(instance.left.get("ports", ()))
            self.violations.append(
                f"revision {revision}: instance {name}: ports {taken} taken, {ports} claimed"
            )
