"""An expression as a tree. PURE. Parentheses only group, so they are not in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SubjectKind(StrEnum):
    ATTRIBUTE = "attribute"
    AGENT_CONNECTED = "agentConnected"
    AGENT_VERSION = "agentVersion"
    EC2_INSTANCE_ID = "ec2InstanceId"
    REGISTERED_AT = "registeredAt"
    RUNNING_TASKS_COUNT = "runningTasksCount"
    TASK_GROUP = "task:group"


class Operator(StrEnum):
    EQUALS = "=="
    NOT_EQUALS = "!="
    GREATER = ">"
    GREATER_EQUAL = ">="
    LESS = "<"
    LESS_EQUAL = "<="
    MATCHES = "=~"
    NOT_MATCHES = "!~"


WORDS = {
    "equals": Operator.EQUALS,
    "not_equals": Operator.NOT_EQUALS,
    "greater_than": Operator.GREATER,
    "greater_than_equal": Operator.GREATER_EQUAL,
    "less_than": Operator.LESS,
    "less_than_equal": Operator.LESS_EQUAL,
    "matches": Operator.MATCHES,
    "not_matches": Operator.NOT_MATCHES,
}

ORDERING = frozenset({Operator.GREATER, Operator.GREATER_EQUAL, Operator.LESS, Operator.LESS_EQUAL})
EQUALITY = frozenset({Operator.EQUALS, Operator.NOT_EQUALS})
MATCHING = frozenset({Operator.MATCHES, Operator.NOT_MATCHES})


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked about. ``name``: of an attribute."""

    kind: SubjectKind
    name: str = ""

    def __str__(self) -> str:
        return f"attribute:{self.name}" if self.kind is SubjectKind.ATTRIBUTE else str(self.kind)


@dataclass(frozen=True, slots=True)
class Exists:
    subject: Subject
    negated: bool = False


@dataclass(frozen=True, slots=True)
class In:
    subject: Subject
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    subject: Subject
    operator: Operator
    value: str


@dataclass(frozen=True, slots=True)
class Not:
    item: Expression


@dataclass(frozen=True, slots=True)
class And:
    """Two or more."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Two or more."""

    items: tuple[Expression, ...]


Predicate = Exists | In | Compare
Expression = Predicate | Not | And | Or


def subjects(expression: Expression) -> frozenset[Subject]:
    """Return everything that an expression asks about."""
    match expression:
        case And(items) | Or(items):
            return frozenset().union(*(subjects(item) for item in items))
        case Not(item):
            return subjects(item)
        case _:
            return frozenset({expression.subject})
