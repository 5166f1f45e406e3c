"""The verdict on a recorded run: the check of the whole history, the kinds' invariants, and what the
run itself noticed (a node that ended, no progress, a client that failed)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from synod.history import HistoryInvalid, check, load
from synod.history.invariants import Invariants
from synod.history.report import Rule

SHOWN_MAX = 8
INVARIANTS = (
    "at every revision money is neither made nor lost, lists only grow, counters and capacity stay in their"
    " bounds, and no port is given out twice"
)


@dataclass(slots=True)
class Verdict:
    """``ok`` only if nothing at all was wrong."""

    text: str
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rules: dict[str, int] = field(default_factory=dict)
    """Each rule that was judged, in words, and how often it was violated."""

    @property
    def ok(self) -> bool:
        return not self.problems


def judge(files: Sequence[Path], problems: Sequence[str] = (), *, invariants: bool = True) -> Verdict:
    """Judge the history in these files. One that says too little to judge by is a problem, no pass."""
    verdict = Verdict("", list(problems))
    try:
        history = load(files)
        report = check(history)
    except (HistoryInvalid, OSError) as error:
        verdict.problems.append(f"the history cannot be judged: {error}")
        verdict.text = verdict.problems[-1]
        return verdict
    verdict.text, verdict.counts = str(report), dict(report.counts)
    violated = Counter(violation.rule for violation in report.violations)
    verdict.rules = {rule.value: violated[rule] for rule in Rule}
    if not report.ok:
        verdict.problems.append(verdict.text)
    if invariants:
        space = {key: record.value for key, record in history.base.items}
        found = Invariants(space).fold(c for c in report.commits if c.revision > history.base.revision)
        verdict.counts["invariants"] = found.judged
        verdict.rules[INVARIANTS] = len(found.violations)
        verdict.problems.extend(found.violations[:SHOWN_MAX])
        if found.violations:
            verdict.text += f"\ninvariants: VIOLATED: {found.violations[0]} (of {len(found.violations)})"
    return verdict
