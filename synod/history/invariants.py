"""What must hold of each client kind's keys at every revision, judged from the commits alone.

The check (``synod.history.check``) judges every offer by the conditions that it named. This judges
the outcome, and knows nothing of conditions: money is neither made nor lost, lists only grow, by one
element that is new, counters stay in their bounds, capacity that is left and capacity that is claimed
are all there is. A fault that both the journal and the replay took for right would still show here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from synod.history.format import Change, Commit
from synod.history.model import decode

ACCOUNTS = 5
BALANCE = 100
INSTANCES = 3
INSTANCE_CPU = 10
COUNTER_MAX = 20


@dataclass(slots=True)
class Invariants:
    """Folds commits in revision order, and collects what was wrong."""

    space: dict[str, str] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    judged: int = 0
    """How many commits touched keys that are judged here."""
    _elements: set[str] = field(default_factory=set)

    def fold(self, commits: Iterable[Commit]) -> Invariants:
        for commit in commits:
            kinds = set()
            for change in commit.changes:
                kind, _, rest = change.key.partition("/")
                if kind == "list":
                    self._list(commit, change)
                if change.value is None:
                    self.space.pop(change.key, None)
                else:
                    self.space[change.key] = change.value
                kinds.add((kind, rest.partition("/")[0] if kind in ("capacity", "task") else ""))
            judges = {"bank": self._bank, "capacity": self._instance, "task": self._instance}
            for kind, name in sorted(kinds):
                if kind in judges:
                    judges[kind](commit, name)
                if kind == "counter":
                    self._counters(commit)
                self.judged += kind in judges or kind in ("counter", "list")
        return self

    def _wrong(self, commit: Commit, text: str) -> None:
        self.violations.append(f"revision {commit.revision} ({commit.label}): {text}")

    def _list(self, commit: Commit, change: Change) -> None:
        before, after = self.space.get(change.key, ""), change.value
        if after is None or not after.startswith(before) or after.count(",") != before.count(",") + 1:
            self._wrong(commit, f"{change.key} was {before!r} and became {after!r}: not one element more")
            return
        element = after[len(before) :]
        if element in self._elements:
            self._wrong(commit, f"{change.key}: {element!r} is appended a second time")
        self._elements.add(element)

    def _bank(self, commit: Commit, _name: str) -> None:
        accounts = {key: value for key, value in self.space.items() if key.startswith("bank/")}
        total = sum(int(value) for value in accounts.values())
        if total != ACCOUNTS * BALANCE or any(int(value) < 0 for value in accounts.values()):
            self._wrong(commit, f"the accounts hold {accounts}, in all {total} of {ACCOUNTS * BALANCE}")

    def _counters(self, commit: Commit) -> None:
        for change in commit.changes:
            if change.key.startswith("counter/"):
                fields = decode(change.value)
                if not all(0 <= value <= COUNTER_MAX for value in fields.values()):
                    self._wrong(commit, f"{change.key} is {fields}, beyond 0 to {COUNTER_MAX}")

    def _instance(self, commit: Commit, name: str) -> None:
        tasks: list[dict[str, Any]] = [
            decode(value) for key, value in self.space.items() if key.startswith(f"task/{name}/")
        ]
        left = decode(self.space.get(f"capacity/{name}"))
        if left is None:
            self._wrong(commit, f"instance {name} has tasks, and no capacity")
            return
        claimed = sum(task["cpu"] for task in tasks)
        if left["cpu"] < 0 or left["cpu"] + claimed != INSTANCE_CPU:
            self._wrong(
                commit, f"instance {name}: {left['cpu']} left and {claimed} claimed of {INSTANCE_CPU}"
            )
        ports = sorted(port for task in tasks for port in task["ports"])
        if len(set(ports)) != len(ports) or sorted(left["ports"]) != ports:
            self._wrong(commit, f"instance {name}: ports {sorted(left['ports'])} taken, {ports} claimed")
