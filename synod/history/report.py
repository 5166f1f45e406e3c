"""What the check found, for a person: the first violation first, with what it involves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from synod.history.format import (
    Accepted,
    Commit,
    GetAnswered,
    GetAsked,
    History,
    KeepAliveAsked,
    KeptAlive,
    OfferAsked,
    Operation,
    OutcomeAsked,
    Refused,
    Rejected,
    ScanAnswered,
    ScanAsked,
    TailAsked,
    Unknown,
)

NOTES_SHOWN = 5


class Rule(Enum):
    """What must hold; the value is how a report says it."""

    TAIL_GAP = "a tail leaves no revision out"
    TAIL_DOUBLED = "a tail delivers each revision once"
    TAIL_ORDER = "a tail delivers revisions in order"
    TAILS_EQUAL = "all tails deliver the same commits"
    TAIL_END = "every final tail reaches the end of the history"
    TAIL_FILTER = "a filtered tail delivers what touches its prefixes, and only that"
    LOST = "an acknowledged offer is in the history at the revision it was told"
    DOUBLED = "an offer is in the history at most once"
    INVENTED = "every commit was offered by somebody"
    NOT_ACCEPTED = "a rejected or refused offer is not in the history"
    IDENTITY = "a commit carries the id of its offer"
    REAL_TIME = "an offer invoked after something was seen has a higher revision than it"
    CONDITIONS = "the conditions of an accepted offer held"
    EFFECTS = "a commit changes exactly what its offer says"
    RECEIPT = "a rejection's reason was true between its invocation and completion"
    STALE_READ = "a read sees everything that it must have seen"
    BACKWARDS = "a client never goes backwards"
    READ_CONTENT = "a read returns the space at its revision"
    LEASE_TERM = "a lease lives for a full term after it was granted or kept alive"
    LEASE_GONE = "a lease is said to be gone only when it is"
    OUTCOME = "an outcome query agrees with the history"
    CHAINS = "nodes that folded the same slots have the same chain"


@dataclass(frozen=True, slots=True)
class Violation:
    time: int
    rule: Rule
    text: str
    operations: tuple[Operation, ...] = ()


@dataclass(slots=True)
class Report:
    """``ok`` only if nothing was violated. ``counts`` says how much was looked at."""

    history: History
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    commits: list[Commit] = field(default_factory=list)
    """The final history, in revision order."""

    @property
    def ok(self) -> bool:
        return not self.violations

    @property
    def first(self) -> Violation | None:
        return min(self.violations, key=lambda violation: violation.time, default=None)

    def rules(self) -> set[Rule]:
        return {violation.rule for violation in self.violations}

    def __str__(self) -> str:
        looked = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        first = self.first
        if first is None:
            return f"history check: all holds ({looked})"
        zero = min((operation.invoked for operation in self.history.operations), default=0)
        lines = [
            f"history check: VIOLATED: {first.rule.value} [{first.rule.name}]",
            f"  {first.text}",
            *(f"    {describe(operation, zero)}" for operation in first.operations),
        ]
        before = [note for note in self.history.notes if note.time <= first.time][-NOTES_SHOWN:]
        if before:
            lines.append("  before that:")
            lines.extend(f"    {seconds(note.time, zero)} {note.text}" for note in before)
        others = Counter(violation.rule.name for violation in self.violations if violation is not first)
        if others:
            lines.append("  and also: " + ", ".join(f"{count} {name}" for name, count in others.items()))
        lines.append(f"  looked at: {looked}")
        return "\n".join(lines)


def seconds(time: int, zero: int) -> str:
    return f"{(time - zero) / 1e9:+.6f}s"


def describe(operation: Operation, zero: int = 0) -> str:
    """Return one line: who, what, when, and what came of it."""
    ended = seconds(operation.completed, zero) if operation.completed is not None else "never"
    span = f"{seconds(operation.invoked, zero)} to {ended}"
    return f"{operation.name} [{span}] {_asked(operation)} -> {_answered(operation)}"


def _asked(operation: Operation) -> str:
    asked = operation.asked
    if isinstance(asked, OfferAsked):
        parts = [f"offer {asked.label!r}"]
        if asked.reads or asked.ranges:
            parts.append(f"at {asked.at} reads {list(asked.reads)} ranges {list(asked.ranges)}")
        if asked.expect:
            parts.append(f"expect {dict(asked.expect)}")
        parts.append(f"{[dict(mutation) for mutation in asked.mutations]}")
        return _short(" ".join(parts))
    if isinstance(asked, GetAsked):
        return _short(f"get {list(asked.keys)} {_freshness(asked)}")
    if isinstance(asked, ScanAsked):
        return f"scan [{asked.start!r}, {asked.end!r}) {_freshness(asked)}"
    if isinstance(asked, TailAsked):
        node = f" of node {asked.node}" if asked.node is not None else ""
        return f"tail{node} after {asked.after}"
    if isinstance(asked, OutcomeAsked):
        return f"outcome of {asked.label!r}"
    if isinstance(asked, KeepAliveAsked):
        return f"keep lease {asked.lease} alive"
    return f"compact below {asked.revision}"


def _freshness(asked: GetAsked | ScanAsked) -> str:
    if asked.at is not None:
        return f"at revision {asked.at}"
    return f"{asked.consistency} {asked.at_least}" if asked.at_least else asked.consistency


def _answered(operation: Operation) -> str:
    answer = operation.answer
    if isinstance(answer, Accepted):
        return f"accepted at {answer.revision}"
    if isinstance(answer, Rejected):
        return f"rejected: {answer.reason} {answer.key!r} at {answer.revision}"
    if isinstance(answer, Unknown | Refused):
        return f"{type(answer).__name__.lower()}: {answer.why}"
    if isinstance(answer, GetAnswered):
        return _short(f"revision {answer.revision}: {list(answer.records)}")
    if isinstance(answer, ScanAnswered):
        return f"revision {answer.revision}: {len(answer.items)} keys"
    if isinstance(answer, KeptAlive):
        return f"alive for {answer.ttl_ms} ms"
    return type(answer).__name__.lower() if answer is not None else "no answer"


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:297] + "..."
