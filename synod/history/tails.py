"""One tail by itself: contiguous, in order, nothing twice; and a filtered one against the history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from synod.history.format import Commit, Operation, TailAsked
from synod.history.report import Rule


class Fault(NamedTuple):
    """The first thing that is wrong with a tail."""

    time: int
    rule: Rule
    text: str
    expected: int
    """The revision that should have come."""


def shape_fault(operation: Operation, asked: TailAsked) -> tuple[int, Fault | None]:
    """Return (where the tail ends, its first fault)."""
    end = asked.after
    for message in operation.messages:
        if message.first != end + 1:
            return end, _fault(message.time, operation, end, message.first)
        previous = end
        for commit in message.commits:
            revision = commit.revision
            skipped = not asked.prefixes and revision != previous + 1
            if revision <= previous or revision > message.last or skipped:
                return message.last, _fault(message.time, operation, previous, revision)
            previous = revision
        if not asked.prefixes and previous != message.last:
            return message.last, _fault(message.time, operation, previous, message.last + 1)
        end = max(end, message.last)
    return end, None


def _fault(time: int, operation: Operation, previous: int, got: int) -> Fault:
    delivered = [commit.revision for message in operation.messages for commit in message.commits]
    if got <= previous and delivered.count(got) > 1:
        rule, text = Rule.TAIL_DOUBLED, f"revision {got} is delivered twice"
    elif got <= previous:
        rule, text = Rule.TAIL_ORDER, f"revision {got} is delivered after revision {previous}"
    elif previous + 1 in delivered:
        rule, text = Rule.TAIL_ORDER, f"revision {got} is delivered before revision {previous + 1}"
    else:
        missing = f"{previous + 1}" if got == previous + 2 else f"{previous + 1} to {got - 1}"
        rule, text = Rule.TAIL_GAP, f"revision {missing} is left out"
    return Fault(time, rule, text, previous + 1)


def filter_fault(operation: Operation, commits: Mapping[int, Commit]) -> Fault | None:
    """Return the first message of a filtered tail that does not carry what touches its prefixes."""
    asked = operation.asked
    if not isinstance(asked, TailAsked) or not asked.prefixes:
        return None
    for message in operation.messages:
        expected = {
            revision: filtered
            for revision in range(message.first, message.last + 1)
            if revision in commits and (filtered := _filtered(commits[revision], asked.prefixes)) is not None
        }
        got = {commit.revision: commit for commit in message.commits}
        if got != expected:
            wrong = min(r for r in got.keys() | expected.keys() if got.get(r) != expected.get(r))
            text = f"prefixes {list(asked.prefixes)}: revision {wrong} is not delivered as it was"
            return Fault(message.time, Rule.TAIL_FILTER, text, wrong)
    return None


def _filtered(commit: Commit, prefixes: tuple[str, ...]) -> Commit | None:
    changes = tuple(change for change in commit.changes if change.key.startswith(prefixes))
    if not changes:
        return None
    return Commit(commit.revision, commit.client, commit.sequence, commit.label, changes, commit.slot)
