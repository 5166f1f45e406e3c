"""The check of a whole recorded history: strict serializability, and honest tails.

The journal makes this cheap, because it says at which revision each accepted offer
stands: no order has to be searched for, only checked. In this order:

1. the tails, which give the final history (revision by revision);
2. offers against it: each acknowledged one is there, once, where it was told;
3. real time: what was seen before an operation began is below it;
4. the replay: every commit's conditions and effects against a naive model;
5. rejections: each receipt was true at some moment between question and answer;
6. reads: fresh enough, never backwards for a client, and exactly the model's state;
7. leases: none ends before its term, or is said to be gone while it lives.

The report's first violation is the earliest in time, as one fault often has many
consequences.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from itertools import zip_longest

from synod.history.format import (
    Absent,
    Accepted,
    Change,
    Commit,
    CompactAsked,
    GetAnswered,
    GetAsked,
    History,
    HistoryInvalid,
    KeepAliveAsked,
    KeptAlive,
    LeaseGone,
    OfferAsked,
    Operation,
    OutcomeAsked,
    Record,
    Refused,
    Rejected,
    ScanAnswered,
    ScanAsked,
    TailAsked,
)
from synod.history.model import Effects, Failure, Model, State, effects_of, failed_conditions, same_value
from synod.history.report import Report, Rule, Violation
from synod.history.seen import Seen, observations
from synod.history.tails import filter_fault, shape_fault

EXPIRY_LABEL = re.compile(r"lease (\d+) expired")
FLOOR_LABEL = "above the forgotten clients"
"""A revision that the leader makes so that new clients are believed (``journal.node_floor``): it is empty."""
"""How a leader labels the one kind of offer that is nobody's."""


def check(history: History, *, clock_rates: float = 0.0) -> Report:
    """Check all rules; ``HistoryInvalid`` if the history does not say enough to judge by.

    ``clock_rates``: how far any clock may run from true, as a fraction: a term may be shorter by that.
    """
    return _Check(history, clock_rates).run()


class _Check:
    def __init__(self, history: History, clock_rates: float) -> None:
        self.history = history
        self.clock_rates = clock_rates
        self.report = Report(history)
        self.commits: dict[int, Commit] = {}  # the final history
        self.last = history.base.revision
        self.offers: dict[str, Operation] = {}  # by label
        self.committed: list[tuple[int, int, Operation]] = []  # (invoked, revision, operation), in time
        self.invocations: list[int] = []
        self.lowest_later: list[int] = []  # by index of an invocation: the lowest revision from there on
        self.seen = Seen(())
        self.base = history.base.revision
        self.model = Model(self.base, history.base.items)

    def violated(self, time: int, rule: Rule, text: str, *operations: Operation | None) -> None:
        involved = tuple(operation for operation in operations if operation is not None)
        self.report.violations.append(Violation(time, rule, text, involved))

    def run(self) -> Report:
        self._index()
        self._tails()
        self._identities()
        self._real_time()
        self._replay()
        self._filtered_tails()
        self._rejections()
        self._reads()
        self._outcomes()
        self._leases()
        self._chains()
        self.report.commits = [self.commits[revision] for revision in sorted(self.commits)]
        return self.report

    def _index(self) -> None:
        counts = self.report.counts
        for operation in self.history.operations:
            asked = operation.asked
            if isinstance(asked, OfferAsked):
                if asked.label in self.offers:
                    raise HistoryInvalid(f"two offers have the label {asked.label!r}: labels must be unique")
                self.offers[asked.label] = operation
                name = type(operation.answer).__name__.lower() if operation.answer else "unknown"
                counts["offers"] += 1
                counts[name] += 1
        self.seen = Seen(
            observation for operation in self.history.operations for observation in observations(operation)
        )

    # -- 1. tails -------------------------------------------------------------------

    def _tails(self) -> None:
        source: dict[int, Operation] = {}
        finals: list[tuple[int, Operation]] = []
        covered = self.base
        whole: list[Operation] = []
        for operation in self.history.operations:
            asked = operation.asked
            if isinstance(asked, TailAsked):
                self.report.counts["tails"] += 1
                end, fault = shape_fault(operation, asked)
                if fault is not None:
                    lacking = self._offer_at(fault.expected)
                    self.violated(fault.time, fault.rule, fault.text, operation, lacking)
                if not asked.prefixes:
                    whole.append(operation)
                    if asked.final:
                        finals.append((end, operation))
        for operation in whole:
            for message in operation.messages:
                self.last = max(self.last, message.last)
                for commit in message.commits:
                    known = self.commits.setdefault(commit.revision, commit)
                    source.setdefault(commit.revision, operation)
                    if known != commit:
                        other = source[commit.revision]
                        text = f"revision {commit.revision}: {_difference(known, commit)}"
                        self.violated(message.time, Rule.TAILS_EQUAL, text, other, operation)
        for start, end in sorted(
            (message.first, message.last) for operation in whole for message in operation.messages
        ):
            if start > covered + 1:
                raise HistoryInvalid(
                    f"no unfiltered tail was recorded over revisions {covered + 1}..{start - 1}"
                )
            covered = max(covered, end)
        if not finals:
            raise HistoryInvalid("no final tail was recorded: nothing says where the history ends")
        for end, operation in finals:
            if end < self.last:
                text = f"this final tail ends at {end}, the history at {self.last}"
                self.violated(operation.completed or operation.invoked, Rule.TAIL_END, text, operation)
        self.report.counts["revisions"] = self.last

    def _offer_at(self, revision: int) -> Operation | None:
        """Return the offer that was told it was accepted at ``revision``."""
        for operation in self.offers.values():
            if isinstance(operation.answer, Accepted) and operation.answer.revision == revision:
                return operation
        return None

    def _filtered_tails(self) -> None:
        for operation in self.history.operations:
            fault = filter_fault(operation, self.commits)
            if fault is not None:
                self.violated(fault.time, fault.rule, fault.text, operation)

    # -- 2. offers and commits --------------------------------------------------------

    def _identities(self) -> None:
        ids: dict[tuple[str, int], Commit] = {}
        labels: dict[str, Commit] = {}
        for revision in sorted(self.commits):
            commit = self.commits[revision]
            operation = self.offers.get(commit.label)
            time = (operation.completed or operation.invoked) if operation else self._first_seen(revision)
            for earlier in (
                ids.get((commit.client, commit.sequence)) if commit.client else None,
                labels.get(commit.label) if operation else None,
            ):
                if earlier is not None:
                    text = f"{_name(commit)} is committed at {earlier.revision} and again at {revision}"
                    self.violated(time, Rule.DOUBLED, text, operation)
                    break
            ids.setdefault((commit.client, commit.sequence), commit)
            if operation is None:
                if not self.history.foreign_any and commit.client:
                    text = f"revision {revision} is {_name(commit)}, which nobody is recorded to have offered"
                    self.violated(time, Rule.INVENTED, text)
                continue
            if commit.label not in labels:
                self.committed.append((operation.invoked, revision, operation))
            labels.setdefault(commit.label, commit)
            self._identity(commit, operation, time)
        for label, operation in self.offers.items():
            if isinstance(operation.answer, Accepted) and label not in labels:
                revision = operation.answer.revision
                there = self.commits.get(revision)
                text = (
                    f"acknowledged at revision {revision}, where the history has "
                    f"{_name(there) if there else 'nothing'}"
                )
                self.violated(operation.completed or 0, Rule.LOST, text, operation)

    def _identity(self, commit: Commit, operation: Operation, time: int) -> None:
        asked, answer = operation.asked, operation.answer
        assert isinstance(asked, OfferAsked)
        if asked.id is not None and asked.id != (commit.client, commit.sequence):
            text = f"revision {commit.revision} carries {commit.client}/{commit.sequence}, not {asked.id}"
            self.violated(time, Rule.IDENTITY, text, operation)
        if isinstance(answer, Accepted) and answer.revision != commit.revision:
            text = f"acknowledged at revision {answer.revision}, but committed at {commit.revision}"
            self.violated(time, Rule.LOST, text, operation)
        if isinstance(answer, Rejected | Refused):
            text = f"answered as {type(answer).__name__.lower()}, but committed at {commit.revision}"
            self.violated(time, Rule.NOT_ACCEPTED, text, operation)

    def _first_seen(self, revision: int) -> int:
        times = (
            message.time
            for operation in self.history.operations
            for message in operation.messages
            if message.first <= revision <= message.last
        )
        return min(times, default=0)

    # -- 3. real time -----------------------------------------------------------------

    def _real_time(self) -> None:
        self.committed.sort(key=lambda item: item[0])
        self.invocations = [invoked for invoked, _, _ in self.committed]
        self.lowest_later = [self.last + 1]
        for _, revision, _ in reversed(self.committed):
            self.lowest_later.append(min(revision, self.lowest_later[-1]))
        self.lowest_later.reverse()
        for invoked, revision, operation in self.committed:
            highest, witness = self.seen.before(invoked)
            if highest >= revision:
                assert witness is not None
                text = (
                    f"{operation.name} stands at revision {revision}, but {witness.name} had seen "
                    f"revision {highest} before {operation.name} was invoked"
                )
                self.violated(operation.completed or invoked, Rule.REAL_TIME, text, witness, operation)

    def _window(self, operation: Operation) -> tuple[int, int]:
        """Return the (lowest, highest) revision at which ``operation`` may have taken effect."""
        lowest = max(self.base, self.seen.before(operation.invoked)[0])
        end = operation.completed if operation.completed is not None else operation.invoked
        index = bisect_right(self.invocations, end)
        highest = self.lowest_later[index] - 1
        return min(lowest, self.last), max(min(highest, self.last), min(lowest, self.last))

    # -- 4. the replay ------------------------------------------------------------------

    def _replay(self) -> None:
        for revision in range(self.base + 1, self.last + 1):
            commit = self.commits.get(revision)
            if commit is None:  # the gap was reported with the tails
                self.model.apply(revision, {})
                continue
            actual = {change.key: change for change in commit.changes}
            operation = self.offers.get(commit.label)
            effects = self._replay_offer(commit, actual, operation) if operation else None
            if operation is None and not commit.client:
                effects = self._leaders_own(commit, actual)
            self.model.apply(revision, actual, effects)

    def _replay_offer(
        self, commit: Commit, actual: dict[str, Change], operation: Operation
    ) -> Effects | None:
        asked = operation.asked
        assert isinstance(asked, OfferAsked)
        state = self.model.now
        time = operation.completed or operation.invoked
        where = f"{operation.name} was accepted at revision {commit.revision}"
        for failure in failed_conditions(asked, state):
            culprit = self.commits.get(failure.revision)
            other = self.offers.get(culprit.label) if culprit else None
            self.violated(time, Rule.CONDITIONS, f"{where}, although {failure.text}", operation, other)
            break
        effects = effects_of(asked, state)
        if isinstance(effects, Failure):
            self.violated(time, Rule.CONDITIONS, f"{where}, although {effects.text}", operation)
            return None
        for key in sorted(effects.changes.keys() | actual.keys()):
            expected, got = effects.changes.get(key), actual.get(key)
            if (
                expected is None
                or got is None
                or expected.lease != got.lease
                or not same_value(expected.value, got.value, computed=key in effects.computed)
            ):
                text = f"{where} and changed {key!r} to {_value(got)} instead of {_value(expected)}"
                self.violated(time, Rule.EFFECTS, text, operation)
                break
        return effects

    def _leaders_own(self, commit: Commit, actual: dict[str, Change]) -> Effects | None:
        """A commit of no client must be the end of a lease that says so: its keys are deleted, no more; or
        a revision above the forgotten clients, which changes nothing."""
        words = EXPIRY_LABEL.fullmatch(commit.label)
        expected: Effects | Failure | None = Effects() if commit.label == FLOOR_LABEL else None
        if words is not None:
            expected = effects_of(
                OfferAsked(commit.label, ({"lease_revoke": int(words[1])},)), self.model.now
            )
        if isinstance(expected, Effects) and expected.changes == actual:
            return expected
        if not self.history.foreign_any:
            text = f"revision {commit.revision} ({commit.label!r}) is of no client and not the leader's"
            self.violated(self._first_seen(commit.revision), Rule.INVENTED, text)
        return None

    # -- 5. rejections ---------------------------------------------------------------------

    def _rejections(self) -> None:
        for operation in self.offers.values():
            if isinstance(operation.answer, Rejected):
                self._receipt(operation, operation.answer)

    def _receipt(self, operation: Operation, receipt: Rejected) -> None:
        asked, time = operation.asked, operation.completed or 0
        assert isinstance(asked, OfferAsked)
        lowest, highest = self._window(operation)
        if receipt.reason == "limit":
            self.report.counts["receipts not judged"] += 1
            return
        if receipt.reason == "compacted":
            true = any(
                isinstance(other.asked, CompactAsked)
                and other.asked.revision > asked.at
                and other.invoked < time
                for other in self.history.operations
            )
        elif receipt.reason in ("read", "range"):
            true = self._stays_false(asked, receipt, highest)
        elif receipt.reason == "expect" and 0 < dict(asked.expect).get(receipt.key, 0) <= lowest:
            true = self._moved_on(asked, receipt, highest)
        else:
            true = any(
                self._refutes(asked, receipt, self.model.at(revision))
                for revision in self._moments(asked, receipt, lowest, highest)
            )
        if not true:
            text = (
                f"{operation.name} was rejected ({receipt.reason} {receipt.key!r} at {receipt.revision}), "
                f"which was not so at any revision from {lowest} to {highest}"
            )
            self.violated(time, Rule.RECEIPT, text, operation)
        winner = self.commits.get(receipt.revision)
        told = receipt.label and receipt.revision > self.base
        if told and (winner is None or winner.label != receipt.label):
            text = f"the receipt names {receipt.label!r} as the winner at revision {receipt.revision}"
            self.violated(time, Rule.RECEIPT, text, operation)

    def _stays_false(self, asked: OfferAsked, receipt: Rejected, highest: int) -> bool:
        """A key that was modified after ``at`` stays so: any such modification is a true reason."""
        key = receipt.key
        named = (
            key in asked.reads
            if receipt.reason == "read"
            else any(start <= key and (not end or key < end) for start, end in asked.ranges)
        )
        if receipt.revision <= self.base:  # of a key that is gone by now, perhaps
            return named and receipt.revision > asked.at
        return named and receipt.revision in self.model.modifications(key, asked.at, highest)

    def _moved_on(self, asked: OfferAsked, receipt: Rejected, highest: int) -> bool:
        """A key never returns to a modification revision that has been: any other state of it since
        is a true reason."""
        key, expected = receipt.key, dict(asked.expect)[receipt.key]
        changes = self.model.modifications(key, 0, highest)
        if receipt.revision:
            return receipt.revision != expected and receipt.revision in changes
        moments = [expected, *(revision for revision in changes if revision > expected)]
        return any(self.model.at(revision).get(key) is None for revision in moments if revision <= highest)

    def _moments(self, asked: OfferAsked, receipt: Rejected, lowest: int, highest: int) -> Iterable[int]:
        """Yield the revisions of a window at which the receipt's truth may change."""
        if any(
            {"delete_range", "lease_grant", "lease_revoke"} & m.keys() or m.get("lease")
            for m in asked.mutations
        ):
            return range(lowest, highest + 1)
        keys = {receipt.key} | {
            m[name]
            for m in asked.mutations
            for name in ("put", "delete", "adjust", "add", "remove")
            if name in m
        }
        moments = {lowest}
        for key in keys:
            moments.update(self.model.modifications(key, lowest, highest))
        return sorted(moments)

    def _refutes(self, asked: OfferAsked, receipt: Rejected, state: State) -> bool:
        claims = [*failed_conditions(asked, state)]
        effects = effects_of(asked, state)
        if isinstance(effects, Failure):
            claims.append(effects)
        return any(
            claim.reason == receipt.reason
            and (claim.reason in ("future", "lease") or claim.key == receipt.key)
            and (
                claim.reason in ("future", "lease", "absent", "expect") or claim.revision == receipt.revision
            )
            for claim in claims
        )

    # -- 6. reads ----------------------------------------------------------------------------

    def _reads(self) -> None:
        clients: dict[str, list[tuple[int, int, Operation]]] = {}
        for operation in self.history.operations:
            clients.setdefault(operation.client, []).extend(observations(operation))
        sessions = {client: Seen(seen) for client, seen in clients.items()}
        for operation in self.history.operations:
            asked, answer = operation.asked, operation.answer
            if isinstance(asked, GetAsked | ScanAsked) and isinstance(answer, GetAnswered | ScanAnswered):
                self.report.counts["reads"] += 1
                self._freshness(operation, asked, answer.revision, sessions[operation.client])
                self._content(operation, asked, answer)

    def _freshness(
        self, operation: Operation, asked: GetAsked | ScanAsked, revision: int, session: Seen
    ) -> None:
        time = operation.completed or operation.invoked
        if revision > self.last:
            text = f"{operation.name} read revision {revision}, but the history ends at {self.last}"
            self.violated(time, Rule.READ_CONTENT, text, operation)
        if asked.at is not None:
            if revision != asked.at:
                text = f"{operation.name} asked for revision {asked.at} and got {revision}"
                self.violated(time, Rule.READ_CONTENT, text, operation)
            return
        if asked.consistency == "linearizable":
            highest, witness = self.seen.before(operation.invoked)
            if revision < highest:
                assert witness is not None
                text = (
                    f"{operation.name} read revision {revision}, but {witness.name} had seen revision "
                    f"{highest} before {operation.name} was invoked"
                )
                self.violated(time, Rule.STALE_READ, text, witness, operation)
        if revision < asked.at_least:
            text = f"{operation.name} asked for revision {asked.at_least} or later and got {revision}"
            self.violated(time, Rule.STALE_READ, text, operation)
        highest, witness = session.before(operation.invoked)
        if revision < highest:
            assert witness is not None
            text = f"{operation.client} had seen revision {highest} ({witness.name}), then read {revision}"
            self.violated(time, Rule.BACKWARDS, text, witness, operation)

    def _content(
        self, operation: Operation, asked: GetAsked | ScanAsked, answer: GetAnswered | ScanAnswered
    ) -> None:
        if answer.revision < self.base:  # nobody wrote down what was there
            self.report.counts["reads not judged"] += 1
            return
        state = self.model.at(answer.revision)
        expected: list[tuple[str, Record | None]]
        got: list[tuple[str, Record | None]]
        if isinstance(asked, GetAsked) and isinstance(answer, GetAnswered):
            expected = [(key, state.get(key)) for key in asked.keys]
            got = list(zip(asked.keys, answer.records, strict=False))
        elif isinstance(asked, ScanAsked) and isinstance(answer, ScanAnswered):
            expected = [*state.scan(asked.start, answer.next_key or asked.end)]
            got = [*answer.items]
        else:
            raise HistoryInvalid(f"operation {operation.name}: the answer is not of the question's kind")
        if expected != got:
            pairs = zip_longest(expected, got, fillvalue="nothing")
            should, did = next(pair for pair in pairs if pair[0] != pair[1])
            text = f"{operation.name} at revision {answer.revision} got {did} instead of {should}"
            self.violated(operation.completed or operation.invoked, Rule.READ_CONTENT, text, operation)

    # -- the rest ------------------------------------------------------------------------------

    def _outcomes(self) -> None:
        revisions = {commit.label: revision for revision, commit in self.commits.items()}
        for operation in self.history.operations:
            asked, answer = operation.asked, operation.answer
            if not isinstance(asked, OutcomeAsked):
                continue
            revision = revisions.get(asked.label)
            if isinstance(answer, Accepted):
                wrong = answer.revision != revision
            elif isinstance(answer, Rejected | Refused):
                wrong = revision is not None
            elif isinstance(answer, Absent):
                wrong = revision is not None and revision <= self.seen.before(operation.invoked)[0]
            else:
                continue
            if wrong:
                text = f"{asked.label!r} stands at {revision or 'no revision'}"
                offer = self.offers.get(asked.label)
                self.violated(operation.completed or 0, Rule.OUTCOME, text, offer, operation)

    def _leases(self) -> None:
        """An expiry is decided before anybody can see it; so it must not be seen before the term ends
        that began, at the earliest, when the grant or the keep-alive was sent."""
        expired = {
            int(words[1]): revision
            for revision, commit in self.commits.items()
            if not commit.client and (words := EXPIRY_LABEL.fullmatch(commit.label))
        }
        shown = self._shown()
        for operation in self.history.operations:
            asked, answer = operation.asked, operation.answer
            terms: list[tuple[int, int]] = []
            if isinstance(asked, OfferAsked) and isinstance(answer, Accepted):
                terms = [(m["lease_grant"], m["ttl_ms"]) for m in asked.mutations if "lease_grant" in m]
            elif isinstance(asked, KeepAliveAsked) and isinstance(answer, KeptAlive):
                self.report.counts["keep-alives"] += 1
                terms = [(asked.lease, answer.ttl_ms)]
            elif isinstance(asked, KeepAliveAsked) and isinstance(answer, LeaseGone):
                _, highest = self._window(operation)
                if self.model.at(highest).lease_exists(asked.lease):
                    text = f"lease {asked.lease} exists at revision {highest}"
                    self.violated(operation.completed or 0, Rule.LEASE_GONE, text, operation)
            for lease, ttl_ms in terms:
                revision = expired.get(lease)
                if revision is None:
                    continue
                time, witness = shown(revision)
                early = operation.invoked + int(ttl_ms * 1_000_000 / (1 + self.clock_rates)) - time
                if early > 0:
                    text = (
                        f"lease {lease} expired at revision {revision}, which was seen {early / 1e6:.0f} ms "
                        f"before its term of {ttl_ms} ms was over"
                    )
                    self.violated(time, Rule.LEASE_TERM, text, operation, witness)

    def _shown(self) -> Callable[[int], tuple[int, Operation]]:
        """Return a function from a revision to when it was first seen to exist, and by whom."""
        seen = sorted(
            (
                (revision, time, operation)
                for each in self.history.operations
                for time, revision, operation in observations(each)
            ),
            key=lambda item: item[:2],
        )
        revisions = [revision for revision, _, _ in seen]
        earliest: list[tuple[int, Operation]] = []
        for _, time, operation in reversed(seen):
            if not earliest or time < earliest[-1][0]:
                earliest.append((time, operation))
            else:
                earliest.append(earliest[-1])
        earliest.reverse()
        return lambda revision: earliest[bisect_left(revisions, revision)]

    def _chains(self) -> None:
        by_slot: dict[int, tuple[int, str]] = {}
        for chain in self.history.chains:
            node, known = by_slot.setdefault(chain.slot, (chain.node, chain.chain))
            if known != chain.chain:
                text = f"slot {chain.slot}: node {node} has {known}, node {chain.node} has {chain.chain}"
                self.violated(chain.time, Rule.CHAINS, text)
        self.report.counts["chains"] = len(self.history.chains)


def _name(commit: Commit) -> str:
    ident = f"{commit.client}/{commit.sequence}" if commit.client else "no client"
    return f"{commit.label!r} ({ident})"


def _difference(one: Commit, other: Commit) -> str:
    if _name(one) != _name(other):
        return f"{_name(one)} in one tail, {_name(other)} in another"
    return f"{_name(one)} as {one.changes} in one tail, as {other.changes} in another"


def _value(change: Change | None) -> str:
    if change is None:
        return "nothing"
    return (
        "deleted"
        if change.value is None
        else f"{change.value!r}" + (f" lease {change.lease}" if change.lease else "")
    )
