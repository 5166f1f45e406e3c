"""Runs the service scheduler: looks at services that something is new about, and offers their steps.

Any number of these may run, each for itself. They would all decide the same thing at the same
moment, and all but one in vain, so who made a service's last step goes first next time, and the
others wait a moment before they step in: which one it is does not matter, and nothing is lost
when it dies. This only spares conflicts; that nothing is done twice is for the journal to say.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio
from structlog.typing import FilteringBoundLogger

from cluster.codec import RecordInvalid
from cluster.feed import ClusterFeed
from cluster.keys import NameInvalid
from cluster.transitions import IllegalTransition
from journal.client import Journal, OffersUnresolved
from journal.commits import Commit
from journal.errors import JournalError
from journal.offers import Offer, Rejected, Verdict
from schedulers.service.due import Due, Name
from schedulers.service.losses import GRACE_S_DEFAULT, Losses
from schedulers.service.offer import offer_of
from schedulers.service.reconcile import STARTS_MAX, Step, reconcile

YIELD_S = (0.1, 0.3)
"""How long a copy lets the one go first that made a service's last step."""
CONFLICT_S = 0.05
CONFLICT_MAX_S = 1.0
"""The wait after a rejected step grows with the number of them in a row: from, and up to."""
RETRY_S = 0.5
"""After an offer that could not be submitted."""
FAULT_S = 30.0
"""After records that no step can be made of."""
STEPS_MAX = 256
"""Steps that are offered at once."""


@dataclass(slots=True)
class Counters:
    """What a copy did so far."""

    steps: int = 0
    started: int = 0
    stopped: int = 0
    conflicts: int = 0
    unresolved: int = 0


@dataclass(slots=True)
class _Pace:
    """How a copy goes about one service."""

    leads: bool = False
    """It made the last step that this copy saw."""
    conflicts: int = 0
    batch: int = STARTS_MAX
    not_before: float = float("-inf")
    yields_at: int = -1
    """The revision of the rollout record at which it lets somebody else go first..."""
    yields_until: float = float("-inf")
    """...and for how long."""


class ServiceScheduler:
    """One copy. ``run`` ends only by cancellation, or with what the feed raises."""

    def __init__(
        self,
        journal: Journal,
        feed: ClusterFeed,
        *,
        rng: random.Random,
        wall: Callable[[], float],
        log: FilteringBoundLogger,
        grace_s: float = GRACE_S_DEFAULT,
    ) -> None:
        self.counters = Counters()
        self._journal = journal
        self._feed = feed
        self._rng = rng
        self._wall = wall
        self._log = log
        self._losses = Losses(grace_s)
        self._losses_at = float("-inf")
        self._look_again = True
        self._due = Due()
        self._paces: dict[Name, _Pace] = {}

    async def run(self) -> None:
        self._feed.listener = self._hear
        self._hear(None)
        while True:
            now = trio.current_time()
            self._look_at_losses(now)
            steps = self._steps(now)
            if steps:
                await self._offer(steps)
                continue
            wake_at = min(self._due.next_at(), self._losses_at)
            with trio.move_on_at(max(wake_at, now)):
                await self._feed.step()

    # -- deciding ---------------------------------------------------------------------

    def _hear(self, commit: Commit | None) -> None:
        if commit is None:
            self._due.everything(self._feed.state)
            self._look_again = True
        elif self._due.note(self._feed.state, (change.key for change in commit.changes)):
            self._look_again = True

    def _look_at_losses(self, now: float) -> None:
        state = self._feed.state
        if not self._look_again and now < self._losses_at:
            return
        if self._losses.look(state, state.clusters, now):
            self._due.everything(state)
        self._look_again, self._losses_at = False, self._losses.wake_at(now)

    def _steps(self, now: float) -> list[tuple[Name, Step, Offer]]:
        """Decide on every service that is due and whose turn it is."""
        found: list[tuple[Name, Step, Offer]] = []
        for name in self._in_order(self._due.take(now)):
            pace = self._paces.setdefault(name, _Pace())
            if now < pace.not_before:
                self._due.settled(name, waiting=False)
                self._due.again(name, pace.not_before)
                continue
            made = self._decide(name, pace, now)
            if made is not None:
                found.append((name, *made))
            if len(found) == STEPS_MAX:
                break
        return found

    def _in_order(self, names: Sequence[Name]) -> list[Name]:
        """Daemons first: a task that belongs on every instance is not to find it full."""

        def key(name: Name) -> tuple[bool, Name]:
            view = self._feed.state.service(*name)
            return (view is None or view.service.is_replica, name)

        return sorted(names, key=key)

    def _decide(self, name: Name, pace: _Pace, now: float) -> tuple[Step, Offer] | None:
        """Return the step of a service and its offer, None where there is nothing to do for now."""
        state, (cluster, service) = self._feed.state, name
        try:
            step = reconcile(
                state,
                cluster,
                service,
                lost=lambda instance: self._losses.lost(state, cluster, instance, now),
                now=self._wall(),
                rng=self._rng,
                batch=pace.batch,
            )
            offer = offer_of(step) if step is not None and not step.empty else None
        except (IllegalTransition, NameInvalid, RecordInvalid, ValueError) as error:
            self._log.error("service.fault", cluster=cluster, service=service, reason=str(error))
            self._due.settled(name, waiting=False)
            self._due.again(name, now + FAULT_S)
            return None
        self._due.settled(name, waiting=step is not None and bool(step.why))
        if step is None:
            self._paces.pop(name, None)
            return None
        if step.wake_at is not None:
            self._due.again(name, now + max(0.0, step.wake_at - step.now))
        if offer is None or self._yields(name, pace, step, now):
            return None
        return step, offer

    def _yields(self, name: Name, pace: _Pace, step: Step, now: float) -> bool:
        """Say whether to let the copy go first that made the service's last step."""
        if pace.leads:
            return False
        revision = step.before.progress.revision if step.before.progress else 0
        if pace.yields_at != revision:
            pace.yields_at, pace.yields_until = revision, now + self._rng.uniform(*YIELD_S)
        if now < pace.yields_until:
            self._due.again(name, pace.yields_until)
        return now < pace.yields_until

    # -- offering -----------------------------------------------------------------------

    async def _offer(self, steps: Sequence[tuple[Name, Step, Offer]]) -> None:
        newest = 0
        verdicts = await self._verdicts([offer for _, _, offer in steps])
        for (name, step, offer), verdict in zip(steps, verdicts, strict=True):
            pace = self._paces.setdefault(name, _Pace())
            if isinstance(verdict, int):
                newest = max(newest, verdict)
                self._accepted(name, pace, step, offer, verdict)
            elif isinstance(verdict, Rejected):
                newest = max(newest, verdict.revision)
                self._rejected(name, pace, verdict)
            else:
                self.counters.unresolved += 1
                self._log.warning("service.unresolved", service=name[1], reason=str(verdict))
                self._due.again(name, trio.current_time() + RETRY_S * self._rng.uniform(0.5, 1.5))
        await self._feed.reached(newest)

    async def _verdicts(self, batch: Sequence[Offer]) -> Sequence[Verdict | JournalError]:
        try:
            return await self._journal.offer_many(batch)
        except OffersUnresolved as unresolved:
            return unresolved.verdicts
        except JournalError as error:
            return [error] * len(batch)

    def _accepted(self, name: Name, pace: _Pace, step: Step, offer: Offer, revision: int) -> None:
        pace.leads, pace.conflicts = True, 0
        pace.batch = min(STARTS_MAX, pace.batch * 2)
        self.counters.steps += 1
        self.counters.started += len(step.starts)
        self.counters.stopped += len(step.stops)
        self._log.info("service.step", cluster=name[0], did=offer.label, revision=revision, why=step.why)

    def _rejected(self, name: Name, pace: _Pace, receipt: Rejected) -> None:
        """Somebody was faster. If it was another copy, let it go on."""
        self.counters.conflicts += 1
        pace.leads = False
        pace.conflicts += 1
        pace.batch = max(1, pace.batch // 2)
        wait_s = min(CONFLICT_MAX_S, CONFLICT_S * 2.0 ** min(pace.conflicts, 10))
        # Never at once: a receipt need not say at which revision the other one won.
        pace.not_before = trio.current_time() + self._rng.uniform(0.2, 1.0) * wait_s
        self._due.again(name, pace.not_before)
        self._log.debug("service.conflict", cluster=name[0], service=name[1], receipt=str(receipt))
