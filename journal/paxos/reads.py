"""Linearizable reads by read-index: on the leader, and on a node that asks it. PURE.

A read that came in while the leader of ballot b had chosen every slot up to r is answered
from slot r, but only after a quorum has answered a probe that was **sent after the read came
in**. Why that is enough: suppose something above r had been answered to anybody before the
read came in. Folding is in slot order, so slot t = r + 1 was chosen by then; let c be the
lowest ballot at which it was.

* c = b: only this leader counts at b, and it did not know of t. Impossible.
* c < b: a quorum of t's membership accepted t at c. The promises for b hold a quorum of the
  same membership (``Leadership.is_recovered`` checks it for slot r + 1), so one of them
  reported t as accepted or as known chosen. But reads wait until **all slots open at the end
  of phase 1** are chosen, so t <= r. Impossible.
* c > b: before t was proposed at c, a quorum of t's membership promised c. One of them
  answered the probe, later than it promised, though the probe speaks for b < c. An
  acceptor refuses that. Impossible.

Hence a probe's quorum is counted in the membership that rules slot r + 1. Durability of the
answers does not matter: a promise is durable before it is told, so a node that crashed and
came back refuses as well. Clocks do not matter either.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from journal.paxos.messages import ReadIndex, ReadIndexReply
from journal.paxos.outbox import Outbox
from journal.paxos.quorum import quorum_reached
from journal.types import NodeId, Slot


@dataclass(slots=True)
class _Round:
    """The reads that one probe confirms. ``slot`` is what was chosen when it was sent, ``voters``
    are those of the slot after it."""

    probe: int
    slot: Slot
    voters: frozenset[NodeId]
    reads: list[tuple[NodeId, int]]


class LeaderReads:
    """Reads at the leader, its own and those that peers ask for. Lives as long as its leadership."""

    def __init__(self, node: NodeId, outbox: Outbox) -> None:
        self.probe = 1
        """The number of the last probe sent. Numbers are per ballot, and ballots are never reused."""
        self.waiting: list[tuple[NodeId, int]] = []
        """(who asks, its number of the read): came in since the last probe was sent."""
        self._node = node
        self._outbox = outbox
        self._rounds: deque[_Round] = deque()

    def add(self, origin: NodeId, read: int) -> None:
        self.waiting.append((origin, read))

    def start_round(self, chosen: Slot, voters: frozenset[NodeId]) -> int:
        """Tie the waiting reads to a new probe; return its number, which is to be sent now."""
        assert self.waiting
        self.probe += 1
        self._rounds.append(_Round(self.probe, chosen, voters, self.waiting))
        self.waiting = []
        return self.probe

    def confirm(self, answered: Mapping[NodeId, int]) -> None:
        """Answer the rounds whose probe, or a later one, a quorum has answered."""
        while self._rounds:
            head = self._rounds[0]
            if quorum_reached(answered, head.voters, 0) < head.probe:
                return
            self._rounds.popleft()
            for origin, read in head.reads:
                self._answer(origin, read, head.slot)

    @property
    def is_confirming(self) -> bool:
        return bool(self._rounds)

    def fail_all(self) -> None:
        """The leadership ended: whoever asked must ask its successor."""
        for head in self._rounds:
            self.waiting.extend(head.reads)
        self._rounds.clear()
        for origin, read in self.waiting:
            self._answer(origin, read, None)
        self.waiting = []

    def _answer(self, origin: NodeId, read: int, slot: Slot | None) -> None:
        if origin == self._node:
            self._outbox.read_ready(read, slot)
        else:
            self._outbox.send(origin, ReadIndexReply(read, slot))


@dataclass(slots=True)
class _Question:
    """Reads of this node that one ReadIndex asks for."""

    reads: list[int] = field(default_factory=list)
    fails_at: float = 0.0
    retry_at: float = 0.0


class FollowerReads:
    """Reads of this node while another one leads, or nobody. Those of one drain share a ReadIndex.

    The number of a ReadIndex starts at a random one, so that an answer to a question that this
    node asked before a crash is never taken for one to a question of now.
    """

    def __init__(
        self, outbox: Outbox, rng: random.Random, now: float, *, timeout_s: float, retry_s: float
    ) -> None:
        self._outbox = outbox
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        # The time is added for simulations that restart a node with the seed it had before.
        self._next = (rng.getrandbits(62) + int(now * 1e9)) % 2**62
        self._new: list[int] = []
        self._asked: dict[int, _Question] = {}

    def add(self, read: int) -> None:
        self._new.append(read)

    def flush(self, leader: NodeId | None, now: float) -> None:
        """Put the reads that came since the last drain into one question."""
        if not self._new:
            return
        question = _Question(self._new, now + self._timeout_s, now + self._retry_s)
        self._new = []
        self._asked[self._next] = question
        if leader is not None:
            self._outbox.send(leader, ReadIndex(self._next))
        self._next += 1

    def leader_changed(self, now: float) -> None:
        """There is a new leader: it is asked at the next tick."""
        for question in self._asked.values():
            question.retry_at = now

    def on_reply(self, number: int, slot: Slot | None) -> None:
        if slot is None:
            return  # who was asked leads no more: the next retry goes to its successor
        question = self._asked.pop(number, None)
        if question is not None:
            for read in question.reads:
                self._outbox.read_ready(read, slot)

    def tick(self, leader: NodeId | None, now: float) -> None:
        """Ask again, or give up, where an answer is overdue."""
        for number, question in list(self._asked.items()):
            if now >= question.fails_at:
                del self._asked[number]
                for read in question.reads:
                    self._outbox.read_ready(read, None)
            elif now >= question.retry_at:
                question.retry_at = now + self._retry_s
                if leader is not None:
                    self._outbox.send(leader, ReadIndex(number))

    def next_deadline(self) -> float:
        return min(
            (min(question.fails_at, question.retry_at) for question in self._asked.values()), default=1e300
        )

    def take_all(self) -> list[int]:
        """This node leads now: return its reads, for it to confirm itself."""
        reads = self._new + [read for question in self._asked.values() for read in question.reads]
        self._new, self._asked = [], {}
        return reads
