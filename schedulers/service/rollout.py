"""How far a service's deployments are: failures, the circuit breaker, completion, events. PURE.

``Progress`` is the working copy of a rollout record during one step: what it was, and what the
step makes of it. It is written back with the step, or not at all.
"""

from __future__ import annotations

import random
from dataclasses import replace

from cluster.records import (
    Deployment,
    DeploymentRollout,
    Rollout,
    RolloutState,
    Service,
    ServiceEvent,
    service_events,
)
from schedulers.service import events
from schedulers.service.bounds import backoff_s, breaker_threshold

EVENT_AGAIN_S = 300.0
"""What goes on being true (no room, tasks keep failing) is told again after so long."""
EVENT_OTHER_S = 10.0
"""...and with other words of the same kind after so long: reasons may change with every commit."""

STARTED = "ECS deployment {id} in progress."
DONE = "ECS deployment {id} completed."
FAILED = "ECS deployment circuit breaker: tasks failed to start."
BACK = "ECS deployment circuit breaker: rolling back to deploymentId {id}."


class Progress:
    """The rollout of a service while a step is made. ``now``: seconds since the epoch."""

    def __init__(self, service: Service, rollout: Rollout, now: float, rng: random.Random) -> None:
        self.service = service
        self.steady = rollout.steady
        self.counted_to = rollout.counted_to
        self.broke = False
        """Whether the circuit breaker gave a deployment up in this very step."""
        self._before = rollout
        self._now = now
        self._rng = rng
        self._events: list[ServiceEvent] = []
        self._deployments: dict[str, DeploymentRollout] = {}
        for deployment in service.deployments:
            known = rollout.deployment(deployment.id)
            self._deployments[deployment.id] = known or DeploymentRollout(
                id=deployment.id,
                rollout_state_reason=STARTED.format(id=deployment.id),
                updated_at=deployment.created_at,
            )

    @property
    def primary(self) -> Deployment:
        return self.service.deployments[0]

    def of(self, deployment: str) -> DeploymentRollout | None:
        return self._deployments.get(deployment)

    @property
    def current(self) -> DeploymentRollout:
        return self._deployments[self.primary.id]

    def rollout(self) -> Rollout:
        """Return the record as this step leaves it."""
        kept = tuple(self._deployments[d.id] for d in self.service.deployments)
        added = tuple(reversed(self._events))
        return replace(
            self._before,
            deployments=kept,
            events=service_events(added, self._before.events) if added else self._before.events,
            steady=self.steady,
            counted_to=self.counted_to,
        )

    # -- events ---------------------------------------------------------------------

    def tell(self, message: str) -> None:
        event_id = f"{self._rng.getrandbits(128):032x}"
        shown = "-".join((event_id[:8], event_id[8:12], event_id[12:16], event_id[16:20], event_id[20:]))
        message = events.shortened(message)
        self._events.append(ServiceEvent(id=shown, created_at=self._now, message=message))

    def tell_again(self, message: str, kind: str) -> float | None:
        """Tell of something that goes on being true, but not too often; return when it may be told again.

        ``kind``: a piece of the text that all events of its kind have.
        """
        message = events.shortened(message)
        last = next((event for event in self._before.events if kind in event.message), None)
        if last is not None:
            due = last.created_at + (EVENT_AGAIN_S if last.message == message else EVENT_OTHER_S)
            if self._now < due:
                return due
        self.tell(message)
        return None

    # -- failures -------------------------------------------------------------------

    def failed_tasks(self, deployment: str, count: int, reason: str) -> None:
        """Take note of ``count`` tasks of a deployment that failed."""
        known = self._deployments.get(deployment)
        if known is None or count == 0:
            return
        failures = known.failed_tasks + count
        wait_s = backoff_s(failures, self.service.desired_count)
        self._deployments[deployment] = replace(
            known, failed_tasks=failures, next_attempt_at=self._now + wait_s, updated_at=self._now
        )
        if deployment == self.primary.id:
            self.tell_again(events.inconsistent(self.service.service_name, reason), "unable to consistently")

    def ran_well(self, deployment: str) -> None:
        """A task of it ran long enough: what fails next is not in a row with what failed before."""
        known = self._deployments.get(deployment)
        if known is not None and known.failed_tasks:
            self._deployments[deployment] = replace(known, failed_tasks=0, next_attempt_at=0.0)

    def break_circuit(self) -> None:
        """Give the primary up if its circuit breaker says so; make the last completed one PRIMARY again
        if it is to be rolled back."""
        breaker = self.service.deployment_configuration.deployment_circuit_breaker
        current = self.current
        if breaker is None or not breaker.enable or current.rollout_state is not RolloutState.IN_PROGRESS:
            return
        if current.failed_tasks < breaker_threshold(self.service.desired_count):
            return
        self.broke = True
        self._set(current.id, RolloutState.FAILED, FAILED)
        self.tell(events.failed(self.service.service_name, current.id))
        back = self._last_completed()
        if not breaker.rollback or back is None:
            return
        others = tuple(d for d in self.service.deployments if d.id != back.id)
        again = replace(back, rolls_back=current.id, updated_at=self._now)
        self.service = replace(
            self.service, deployments=(again, *others), task_definition=back.task_definition
        )
        self._deployments[back.id] = replace(self._deployments[back.id], failed_tasks=0, next_attempt_at=0.0)
        self._set(back.id, RolloutState.IN_PROGRESS, BACK.format(id=back.id))
        self.tell(events.rolling_back(self.service.service_name, back.id))

    def _last_completed(self) -> Deployment | None:
        for deployment in self.service.deployments[1:]:
            if self._deployments[deployment.id].rollout_state is RolloutState.COMPLETED:
                return deployment
        return None

    def _set(self, deployment: str, state: RolloutState, reason: str) -> None:
        self._deployments[deployment] = replace(
            self._deployments[deployment],
            rollout_state=state,
            rollout_state_reason=reason,
            updated_at=self._now,
        )

    # -- the end of a rollout ---------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether the primary was given up and nothing takes its place."""
        return self.current.rollout_state is RolloutState.FAILED

    def complete(self) -> None:
        """Everything is as it should be: say so, once, and drop the deployments that are over."""
        if self.stalled:
            return
        name = self.service.service_name
        current = self.current
        if len(self.service.deployments) > 1:
            self.service = replace(self.service, deployments=self.service.deployments[:1])
        if current.rollout_state is RolloutState.IN_PROGRESS:
            self._set(current.id, RolloutState.COMPLETED, DONE.format(id=current.id))
            self._deployments[current.id] = replace(
                self._deployments[current.id], failed_tasks=0, next_attempt_at=0.0
            )
            self.tell(events.completed(name, current.id))
        if not self.steady:
            self.steady = True
            self.tell(events.steady(name))

    def drop_superseded(self, occupied: set[str]) -> None:
        """Drop deployments that have no task and that nothing will ever be rolled back to.

        The last completed one stays until the primary is complete too, and so does one that was
        given up: people are to see that.
        """
        back = self._last_completed()
        kept = tuple(
            d
            for i, d in enumerate(self.service.deployments)
            if i == 0
            or d.id in occupied
            or d is back
            or self._deployments[d.id].rollout_state is RolloutState.FAILED
        )
        if len(kept) < len(self.service.deployments):
            self.service = replace(self.service, deployments=kept)
