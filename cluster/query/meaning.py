"""What an expression means for an instance, compiled once to a function. PURE.

* Strings compare case-sensitively, and as strings; ``agentVersion`` part by part as numbers,
  ``runningTasksCount`` as a number, ``registeredAt`` as an instant.
* What an instance does not have makes every operator false, the negated ones too: only
  ``!exists``, and a ``not`` around, are true then. An attribute without a value exists.
* ``task:group`` stands for the groups of all tasks on the instance: a positive operator holds
  if any of them fits, its negation if none does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from cluster.query.ast import (
    And,
    Compare,
    Exists,
    Expression,
    In,
    Not,
    Operator,
    Or,
    Subject,
    SubjectKind,
    subjects,
)
from cluster.query.parse import parse
from cluster.query.values import instant, number, pattern, version
from cluster.state import ClusterState, InstanceView

REMEMBERED_MAX = 1_000
"""Expressions that stay compiled; the longest unused goes first."""

Value = str | float | tuple[int, ...]
Check = Callable[["Facts"], bool]
Test = Callable[[Value], bool]

_ORDER: Mapping[Operator, Callable[[Value, Value], bool]] = {
    Operator.EQUALS: operator.eq,
    Operator.NOT_EQUALS: operator.eq,
    Operator.GREATER: operator.gt,
    Operator.GREATER_EQUAL: operator.ge,
    Operator.LESS: operator.lt,
    Operator.LESS_EQUAL: operator.le,
}
"""A negated operator has the test of its positive one."""
_NEGATED = (Operator.NOT_EQUALS, Operator.NOT_MATCHES)
_OF_TASKS = (SubjectKind.TASK_GROUP, SubjectKind.RUNNING_TASKS_COUNT)


class Facts(Protocol):
    """What an expression may ask of an instance."""

    @property
    def attributes(self) -> Mapping[str, str]: ...
    @property
    def connected(self) -> bool: ...
    @property
    def agent_version(self) -> str: ...
    @property
    def ec2_instance_id(self) -> str: ...
    @property
    def registered_at(self) -> float: ...
    @property
    def running_tasks(self) -> int: ...
    @property
    def groups(self) -> Collection[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFacts:
    """``Facts`` as they are given. "" and 0.0 of what an instance does not say."""

    attributes: Mapping[str, str]
    connected: bool = True
    agent_version: str = ""
    ec2_instance_id: str = ""
    registered_at: float = 0.0
    running_tasks: int = 0
    groups: Collection[str] = ()


def facts_of(state: ClusterState, view: InstanceView) -> InstanceFacts:
    """Return the facts of an instance of the state."""
    record = view.record
    return InstanceFacts(
        attributes=view.attributes,
        connected=view.connected,
        agent_version=record.version_info.agent_version if record.version_info else "",
        ec2_instance_id=record.ec2_instance_id,
        registered_at=record.registered_at,
        running_tasks=state.counts(view.cluster, instance=view.id).running,
        groups=state.groups_on(view.cluster, view.id),
    )


@dataclass(frozen=True, slots=True)
class Query:
    """A compiled expression."""

    text: str
    expression: Expression
    matches: Check
    """Say whether an instance is meant."""

    @property
    def looks_at_tasks(self) -> bool:
        """Say whether it asks about the tasks of an instance, which change with every placement."""
        return any(subject.kind in _OF_TASKS for subject in subjects(self.expression))

    @property
    def attributes(self) -> frozenset[str]:
        """Return the names of the attributes that it asks about."""
        return frozenset(subject.name for subject in subjects(self.expression) if subject.name)


@lru_cache(maxsize=REMEMBERED_MAX)
def compiled(text: str) -> Query:
    """Return an expression ready to be asked. Raises ``QueryInvalid``. Remembered."""
    expression = parse(text)
    return Query(text, expression, check_of(expression))


def check_of(expression: Expression) -> Check:
    """Return the function that says whether an instance is meant."""
    match expression:
        case And(items):
            checks = tuple(map(check_of, items))
            return lambda facts: all(check(facts) for check in checks)
        case Or(items):
            checks = tuple(map(check_of, items))
            return lambda facts: any(check(facts) for check in checks)
        case Not(item):
            inner = check_of(item)
            return lambda facts: not inner(facts)
        case Exists(subject, negated):
            return _holds(subject, lambda _: True, negated, if_missing=negated)
        case In(subject, values, negated):
            wanted = frozenset(values)
            return _holds(subject, lambda value: value in wanted, negated, if_missing=False)
        case Compare(subject, how, value):
            return _holds(subject, _test(subject, how, value), how in _NEGATED, if_missing=False)


def _holds(subject: Subject, test: Test, negated: bool, *, if_missing: bool) -> Check:
    if subject.kind is SubjectKind.TASK_GROUP:
        return lambda facts: any(test(group) for group in facts.groups) != negated
    read = _reader(subject)

    def check(facts: Facts) -> bool:
        value = read(facts)
        return if_missing if value is None else test(value) != negated

    return check


def _test(subject: Subject, how: Operator, value: str) -> Test:
    if how in (Operator.MATCHES, Operator.NOT_MATCHES):
        matches = pattern(value).matches
        return lambda found: matches(str(found))
    compare = _ORDER[how]
    wanted = _wanted(subject.kind, value)
    return lambda found: compare(found, wanted)


def _wanted(kind: SubjectKind, value: str) -> Value:
    match kind:
        case SubjectKind.AGENT_VERSION:
            return version(value) or ()
        case SubjectKind.RUNNING_TASKS_COUNT:
            return number(value)
        case SubjectKind.REGISTERED_AT:
            return instant(value)
    return value


def _reader(subject: Subject) -> Callable[[Facts], Value | None]:
    """Return what reads a subject of an instance; None where it does not have it."""
    name = subject.name
    match subject.kind:
        case SubjectKind.ATTRIBUTE:
            return lambda facts: facts.attributes.get(name)
        case SubjectKind.AGENT_CONNECTED:
            return lambda facts: "true" if facts.connected else "false"
        case SubjectKind.AGENT_VERSION:
            return lambda facts: version(facts.agent_version)
        case SubjectKind.EC2_INSTANCE_ID:
            return lambda facts: facts.ec2_instance_id or None
        case SubjectKind.REGISTERED_AT:
            return lambda facts: facts.registered_at or None
    assert subject.kind is SubjectKind.RUNNING_TASKS_COUNT, subject
    return lambda facts: float(facts.running_tasks)
