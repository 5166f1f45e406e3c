"""Runs the queue's scheduler. Any number of copies may run, each for itself: as with services, who placed
last goes first next time, and what two of them do at once is decided by the journal."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import trio
from structlog.typing import FilteringBoundLogger

from cluster import keys
from cluster.feed import ClusterFeed
from cluster.keys import Kind
from journal.client import Journal, OffersUnresolved
from journal.commits import Commit
from journal.errors import JournalError
from journal.offers import Offer, Rejected, Verdict
from schedulers.queue.order import owner_of
from schedulers.queue.reconcile import TURNS_MAX, Given, Round, note_reason, reconcile
from schedulers.service.events import shortened

YIELD_S = (0.1, 0.3)
RETRY_S = 0.5
CONFLICT_S = (0.01, 0.05)
"""How long to listen after an offer was rejected. A receipt need not say at which revision the other one
won (of a run that was dequeued it cannot), so without listening the same offer would be made again."""
LOOK_S = 0.05
"""While runs wait for room, the queue is looked at at most so often."""
REASON_AGAIN_S = 10.0
"""Why a run waits is written into its record at most so often."""

_NEWS = (Kind.QUEUE, Kind.CAPACITY, Kind.INSTANCE, Kind.SETTINGS, Kind.ALIVE, Kind.TASK_DEFINITION)


class QueueScheduler:
    """One copy. ``run`` ends only by cancellation, or with what the feed raises."""

    def __init__(
        self,
        journal: Journal,
        feed: ClusterFeed,
        *,
        rng: random.Random,
        wall: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self.placed = 0
        self.conflicts = 0
        self._journal = journal
        self._feed = feed
        self._rng = rng
        self._wall = wall
        self._log = log
        self._served: dict[str, int] = {}
        self._due_at = float("-inf")
        self._not_before = float("-inf")
        self._leads = False
        self._yields_until: float | None = None
        self._turns = TURNS_MAX
        self._told_at: dict[str, float] = {}

    async def run(self) -> None:
        self._feed.listener = self._hear
        while True:
            now = trio.current_time()
            if now >= max(self._due_at, self._not_before):
                self._due_at = float("inf")
                await self._look(now)
                continue
            with trio.move_on_at(max(self._due_at, self._not_before)):
                await self._feed.step()

    def _hear(self, commit: Commit | None) -> None:
        """Take in what was committed: whose tasks were placed, and whether to look again."""
        if commit is None:
            self._due_at = float("-inf")
            return
        for change in commit.changes:
            parsed = keys.parse(change.key)
            if parsed is None or parsed.kind not in _NEWS:
                continue
            self._due_at = float("-inf")
            if parsed.kind is Kind.QUEUE and change.value is not None:
                at = self._feed.state.queue(parsed.cluster).get(parsed.name)
                if at is not None and at.record.placed:
                    self._served[owner_of(at.record)] = commit.revision

    async def _look(self, now: float) -> None:
        for cluster in self._feed.state.clusters:
            queue = self._feed.state.queue(cluster)
            if not queue:
                continue
            found = reconcile(
                self._feed.state,
                cluster,
                served=self._served,
                now=self._wall(),
                rng=self._rng,
                turns_max=self._turns,
            )
            if found.wake_at is not None:
                self._due_at = min(self._due_at, now + max(0.0, found.wake_at - self._wall()))
            if found.given and self._yields(now):
                continue
            told = self._to_tell(cluster, found, now)
            if found.given or told:
                await self._offer(cluster, found.given, told)
                self._due_at = float("-inf")
                return
            self._not_before = now + LOOK_S

    def _yields(self, now: float) -> bool:
        """Say whether to let the copy go first that placed last."""
        if self._leads:
            return False
        if self._yields_until is None:
            self._yields_until = now + self._rng.uniform(*YIELD_S)
        if now < self._yields_until:
            self._due_at = min(self._due_at, self._yields_until)
            return True
        return False

    def _to_tell(self, cluster: str, found: Round, now: float) -> list[Offer]:
        """Return offers that write down why runs wait, where that is news and not too often."""
        if not self._leads and found.given:
            return []
        told = []
        given = {one.name for one in found.given}
        queue = self._feed.state.queue(cluster)
        for name, why in found.reasons.items():
            last = self._told_at.get(name)
            why = shortened(why)
            if name in given or queue[name].record.reason == why:
                continue
            if last is not None and now < last + REASON_AGAIN_S:
                self._due_at = min(self._due_at, last + REASON_AGAIN_S)
                continue
            self._told_at[name] = now
            told.append(note_reason(cluster, name, queue[name], why))
        self._told_at = {name: at for name, at in self._told_at.items() if name in queue}
        return told

    async def _offer(self, cluster: str, given: Sequence[Given], told: Sequence[Offer]) -> None:
        verdicts = await self._verdicts([one.offer for one in given] + list(told))
        newest, lost = 0, 0
        for one, verdict in zip(given, verdicts, strict=False):
            if isinstance(verdict, int):
                newest = max(newest, verdict)
                self._accepted(cluster, one, verdict)
            elif isinstance(verdict, Rejected):
                lost += 1
                newest = max(newest, verdict.revision)
            else:
                self._log.warning("queue.unresolved", run=one.name, reason=str(verdict))
                await trio.sleep(RETRY_S * self._rng.uniform(0.5, 1.5))
        newest = max([newest, *(v for v in verdicts[len(given) :] if isinstance(v, int))])
        self.conflicts += lost
        if given:
            self._leads = lost < len(given)
        if lost:
            self._not_before = trio.current_time() + self._rng.uniform(*CONFLICT_S)
        if given:
            self._turns = max(1, self._turns // 2) if lost else min(TURNS_MAX, self._turns * 2)
        self._yields_until = None
        await self._feed.reached(newest)

    def _accepted(self, cluster: str, one: Given, revision: int) -> None:
        owner = owner_of(one.run.record)
        if one.tasks:
            self._served[owner] = revision
            self.placed += len(one.tasks)
            self._log.info(
                "queue.placed",
                cluster=cluster,
                run=one.name,
                owner=owner,
                tasks=len(one.tasks),
                revision=revision,
            )
        else:
            self._log.info("queue.given_up", cluster=cluster, run=one.name, owner=owner, revision=revision)

    async def _verdicts(self, batch: Sequence[Offer]) -> Sequence[Verdict | JournalError]:
        try:
            return await self._journal.offer_many(batch)
        except OffersUnresolved as unresolved:
            return unresolved.verdicts
        except JournalError as error:
            return [error] * len(batch)
