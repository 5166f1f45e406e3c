"""What the leader does with offers between taking them in and answering them. PURE.

The way of an offer through here::

    submit -> queue -> next_entry (the early check) -> in flight in a slot -> folded -> reply
                          |                 |
                          |                 +-> parked behind a slot, then back into the queue
                          +-> answered at once: seen before, or doomed

**The early check never decides anything that the fold would not.** It answers only
what stays true for ever: a verdict that the space remembers for this offer id, or a
condition that no later slot can make hold again (``Space.early_verdicts``). Both are facts
about a prefix of the chosen history, so even a deposed leader that does not know of
its fall tells the truth. Everything else is proposed, and the fold decides.

An offer whose read keys are written by an entry still in flight will most likely be
rejected, but nobody can say so before that entry is chosen: it may be replaced by a
no-op under another leader. So the offer waits for that slot and is then checked
again; it waits at most once, so a hot key cannot hold it for ever. Range conditions
do not wait: finding them among the keys in flight would cost more than a slot.

Source: the early check is Omega's and Meld's "optimistic certification" run a first
time at the leader; the second run, in the fold, is the one that counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from journal.entries import pack_offers
from journal.errors import JournalError, Overloaded
from journal.limits import Limits
from journal.offers import (
    ADJUST,
    DELETE,
    PUT,
    SET_ADD,
    SET_REMOVE,
    RawBatch,
    Reason,
    Rejected,
    Verdict,
    pack_raw_offers,
)
from journal.space import Folded, Space
from journal.types import Revision, Slot

Reply = Callable[[list[Verdict] | JournalError], None]

RETRY_AFTER_MS = 50
"""What an ``Overloaded`` client is told: about ten times what a full queue takes to move."""


_KEYED = frozenset((PUT, DELETE, ADJUST, SET_ADD, SET_REMOVE))
"""Mutations whose first operand is the one key that they write."""


_UNWON = frozenset((Reason.COMPACTED, Reason.FUTURE))
"""Rejections whose revision nobody won: it says where the journal stands."""


class Submission:
    """One client batch on its way, and the verdicts it has so far."""

    __slots__ = ("missing", "raw", "reply", "verdicts")

    def __init__(self, raw: RawBatch, reply: Reply) -> None:
        self.raw = raw
        self.reply = reply
        self.verdicts: list[Verdict | None] = [None] * len(raw.offers)
        self.missing = len(raw.offers)


@dataclass(slots=True)
class _Part:
    """Some offers of a submission: all of them (``indexes`` None), or those at ``indexes``."""

    submission: Submission
    indexes: list[int] | None
    waited: bool = False


@dataclass(slots=True)
class Proposal:
    """An entry ready to be proposed, and whom its verdicts belong to, batch by batch."""

    value: bytes
    parts: list[_Part]
    batches: list[list[Any]] = field(default_factory=list)
    """What ``unpack_offers(value)`` would give: the leader has decoded it already."""
    keys: list[bytes] = field(default_factory=list)
    """Keys that the entry writes, for the check of later offers."""
    offers: int = 0
    """How many it carries."""
    proposed_at: float = 0.0


class Admission:
    """The leader's offers: queued, in flight, parked. Bounded by ``offers_inflight_max`` and
    ``inflight_bytes_max``."""

    def __init__(self, space: Space, limits: Limits, label_of: Callable[[Revision], str]) -> None:
        """``label_of`` finds the label of the offer that made a revision: a receipt names who won."""
        self._space = space
        self._label_of = label_of
        self._limits = limits
        self._queue: deque[_Part] = deque()
        self._inflight: dict[Slot, Proposal] = {}
        self._writers: dict[bytes, Slot] = {}  # key -> the last slot in flight that writes it
        self._parked: dict[Slot, list[_Part]] = {}
        self.offers = 0
        self.bytes = 0
        self.waiting_bytes = 0
        """Packed bytes of whole batches in the queue: tells whether an entry would be well filled."""
        self.rejected_early: dict[str, int] = {}
        """How many offers the early check has answered with a rejection, by its reason."""

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    @property
    def idle(self) -> bool:
        return self.offers == 0

    def submit(self, raw: RawBatch, reply: Reply) -> None:
        """Take in a batch. Raises ``Overloaded``; otherwise ``reply`` is called exactly once."""
        limits = self._limits
        if self.offers + len(raw.offers) > limits.offers_inflight_max:
            raise Overloaded("offers_inflight_max", limits.offers_inflight_max, RETRY_AFTER_MS)
        if self.bytes + len(raw.data) > limits.inflight_bytes_max:
            raise Overloaded("inflight_bytes_max", limits.inflight_bytes_max, RETRY_AFTER_MS)
        if not raw.offers:
            reply([])
            return
        self.offers += len(raw.offers)
        self.bytes += len(raw.data)
        self.waiting_bytes += len(raw.data)
        self._queue.append(_Part(Submission(raw, reply), None))

    def next_entry(self, time_ms: int) -> Proposal | None:
        """Run the early check over the head of the queue and return an entry of what passed.

        None if nothing is left to propose. The caller proposes it and calls ``proposed``.
        """
        limits = self._limits
        blobs: list[bytes] = []
        proposal = Proposal(b"", [])
        offers = size = 0
        queue = self._queue
        while queue:
            part = queue[0]
            raw = part.submission.raw
            count = len(raw.offers) if part.indexes is None else len(part.indexes)
            if blobs and (
                offers + count > limits.entry_offers_max or size + len(raw.data) + 64 > limits.entry_bytes_max
            ):
                break
            queue.popleft()
            if part.indexes is None:
                self.waiting_bytes -= len(raw.data)
            passed = self._check(part, proposal.keys)
            if passed is None or passed:
                blob, kept = raw.data, raw.offers
                if passed is not None:
                    kept = [raw.offers[index] for index in passed]
                    blob = pack_raw_offers(raw, kept)
                part.indexes = passed
                blobs.append(blob)
                proposal.batches.append([raw.client, raw.acked, raw.base, kept])
                proposal.parts.append(part)
                offers += count
                size += len(blob)
        if not blobs:
            return None
        proposal.value = pack_offers(time_ms, blobs)
        proposal.offers = offers
        return proposal

    def _check(self, part: _Part, keys: list[bytes]) -> list[int] | None:
        """Answer or park the offers of ``part`` that need not be proposed now.

        Returns the indexes of the rest (None: the whole batch, so its bytes can be used
        as they are) and notes the keys they write in ``keys``.
        """
        submission, writers = part.submission, self._writers
        raw = submission.raw
        offers = raw.offers
        indexes: Sequence[int] = range(len(offers)) if part.indexes is None else part.indexes
        asked = offers if part.indexes is None else [offers[index] for index in indexes]
        known = self._space.early_verdicts(raw.client, raw.base, asked)
        may_wait = bool(writers) and not part.waited
        if not known and not may_wait:
            keys.extend(mutation[1] for offer in asked for mutation in offer[6] if mutation[0] in _KEYED)
            return part.indexes
        passed: list[int] = []
        for position, index in enumerate(indexes):
            verdict = known.get(position)
            if verdict is not None:
                if isinstance(verdict, Rejected):
                    reason = verdict.reason.value.lower()
                    self.rejected_early[reason] = self.rejected_early.get(reason, 0) + 1
                self._settle(submission, index, verdict)
                continue
            slot = _awaited(offers[index], writers) if may_wait else None
            if slot is not None:
                self._parked.setdefault(slot, []).append(_Part(submission, [index], waited=True))
                continue
            passed.append(index)
            keys.extend(mutation[1] for mutation in offers[index][6] if mutation[0] in _KEYED)
        return part.indexes if len(passed) == len(indexes) else passed

    def proposed(self, slot: Slot, proposal: Proposal, now: float) -> None:
        """Note that ``proposal`` is in flight in ``slot``."""
        assert slot not in self._inflight, slot
        proposal.proposed_at = now
        self._inflight[slot] = proposal
        self._writers.update(dict.fromkeys(proposal.keys, slot))

    def proposed_at(self, slot: Slot) -> float | None:
        """Return when what is in flight in ``slot`` was proposed. None: nothing of this leader's is."""
        proposal = self._inflight.get(slot)
        return None if proposal is None else proposal.proposed_at

    def decoded(self, slot: Slot, value: bytes) -> list[list[Any]] | None:
        """Return the decoded batches of ``value`` if it is what this leader proposed in ``slot``."""
        proposal = self._inflight.get(slot)
        return proposal.batches if proposal is not None and proposal.value is value else None

    def folded(self, folded: Folded, value: bytes) -> None:
        """Answer what ``folded.slot`` decided, and wake what was parked behind it."""
        slot = folded.slot
        proposal = self._inflight.pop(slot, None)
        if proposal is not None:
            writers = self._writers
            for key in proposal.keys:
                if writers.get(key) == slot:
                    del writers[key]
            # While this node leads in one ballot, what is chosen in its slots is what it
            # proposed there; the node fails everything in flight when its ballot changes.
            assert proposal.value is value or proposal.value == value, slot
            for part, verdicts in zip(proposal.parts, folded.verdicts, strict=True):
                if part.indexes is None:
                    self._settle_all(part.submission, verdicts)
                else:
                    for index, verdict in zip(part.indexes, verdicts, strict=True):
                        self._settle(part.submission, index, verdict)
        for part in self._parked.pop(slot, ()):
            self._queue.append(part)

    def fail(self, queued: JournalError, inflight: JournalError) -> None:
        """Answer everything with an error: ``queued`` for what was never proposed,
        ``inflight`` for what may yet be chosen."""
        failed: dict[int, tuple[Submission, JournalError]] = {}
        for part in [*self._queue, *(part for parts in self._parked.values() for part in parts)]:
            submission = part.submission
            untouched = submission.missing == len(submission.verdicts)
            failed[id(submission)] = (submission, queued if untouched else inflight)
        for proposal in self._inflight.values():
            for part in proposal.parts:
                failed[id(part.submission)] = (part.submission, inflight)
        self._queue.clear()
        self.waiting_bytes = 0
        self._parked.clear()
        self._inflight.clear()
        self._writers.clear()
        for submission, error in failed.values():
            self._release(submission)
            submission.reply(error)
        assert self.offers == 0, self.offers
        assert self.bytes == 0, self.bytes

    # -- answers ----------------------------------------------------------------

    def _settle(self, submission: Submission, index: int, verdict: Verdict) -> None:
        assert submission.verdicts[index] is None, index
        submission.verdicts[index] = self._labelled(verdict)
        submission.missing -= 1
        if submission.missing == 0:
            self._release(submission)
            submission.reply(submission.verdicts)  # type: ignore[arg-type]  # none is None now

    def _settle_all(self, submission: Submission, verdicts: list[Verdict]) -> None:
        submission.missing = 0
        self._release(submission)
        submission.reply([v if type(v) is int else self._labelled(v) for v in verdicts])

    def _labelled(self, verdict: Verdict) -> Verdict:
        if not isinstance(verdict, Rejected) or not verdict.revision or verdict.reason in _UNWON:
            return verdict
        return replace(verdict, label=self._label_of(Revision(verdict.revision)))

    def _release(self, submission: Submission) -> None:
        self.offers -= len(submission.raw.offers)
        self.bytes -= len(submission.raw.data)


def _awaited(offer: Any, writers: dict[bytes, Slot]) -> Slot | None:
    """Return the latest slot in flight that writes a key this offer's conditions name."""
    found: Slot | None = None
    for key in offer[3]:
        slot = writers.get(key)
        if slot is not None and (found is None or slot > found):
            found = slot
    for key, _revision in offer[5]:
        slot = writers.get(key)
        if slot is not None and (found is None or slot > found):
            found = slot
    return found
