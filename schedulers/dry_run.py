"""What would be placed where, why the rest has no place, and the least that would change that. PURE.

The same placement and the same judgement as in earnest; nothing is offered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.feasible import Judge, Need, Refusal
from cluster.state import ClusterState, InstanceView
from schedulers.placement import ZONE_ATTRIBUTE, Plan, Request, place

CHANGES_MAX = 5
"""Changes that are told, the least first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something that would let one task more be placed, on any of these instances."""

    needs: tuple[str, ...]
    """What would have to be there, such as ``512 more MiB``; all of it."""
    instances: tuple[str, ...]
    """Empty: none of those there are."""
    zones: tuple[str, ...] = ()
    """The zones that these instances are in."""

    def __str__(self) -> str:
        """Return ``512 more MiB on any of 3 instances in us-east-1b``."""
        what = " and ".join(self.needs)
        if not self.instances:
            return what
        where = f"instance {self.instances[0]}"
        if len(self.instances) > 1:
            where = f"any of {len(self.instances)} instances"
        return f"{what} on {where}{' in ' + ', '.join(self.zones) if self.zones else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    plan: Plan
    refusals: Mapping[str, tuple[Refusal, ...]]
    """Where tasks are without a place: every reason of each instance."""
    changes: tuple[Change, ...]
    """What would let one task more be placed, the least first."""


def dry_run(state: ClusterState, request: Request, rng: random.Random) -> DryRun:
    """Return what would become of a request. Raises what ``place`` raises."""
    plan = place(state, request, rng)
    if not plan.unplaced:
        return DryRun(plan=plan, refusals={}, changes=())
    judge = Judge(state, request.need)
    refusals = {
        view.id: tuple(judge.refusals(view, plan.placements.count(view.id)))
        for view in state.instances(request.cluster)
    }
    views = {view.id: view for view in state.instances(request.cluster)}
    return DryRun(plan=plan, refusals=refusals, changes=_changes(request.need, views, refusals))


def _changes(
    need: Need, views: Mapping[str, InstanceView], refusals: Mapping[str, Sequence[Refusal]]
) -> tuple[Change, ...]:
    """Return the least changes: instances that lack the same are told together."""
    by_needs: dict[tuple[str, ...], list[str]] = {}
    sizes: dict[tuple[str, ...], tuple[int, float]] = {}
    for instance, refused in refusals.items():
        needs = tuple(refusal.needs for refusal in refused)
        by_needs.setdefault(needs, []).append(instance)
        sizes[needs] = _size(refused)
    ordered = sorted(by_needs, key=lambda needs: (*sizes[needs], -len(by_needs[needs]), needs))
    changes = [
        Change(needs=needs, instances=tuple(sorted(by_needs[needs])), zones=_zones(views, by_needs[needs]))
        for needs in ordered[: CHANGES_MAX - 1]
    ]
    return (*changes, _one_more(need))


def _size(refused: Sequence[Refusal]) -> tuple[int, float]:
    """Return how much a change is: what is not a matter of amounts first, then the amounts.

    An amount is measured by what a task claims of it, so that CPU units and MiB can be compared.
    """
    return sum(not refusal.short for refusal in refused), sum(refusal.short for refusal in refused)


def _zones(views: Mapping[str, InstanceView], instances: Sequence[str]) -> tuple[str, ...]:
    zones = {views[instance].attributes.get(ZONE_ATTRIBUTE, "") for instance in instances}
    return tuple(sorted(zones)) if "" not in zones else ()


def _one_more(need: Need) -> Change:
    claim = need.claim
    needs = [f"{n} {unit}" for n, unit in ((claim.cpu, "CPU units"), (claim.memory, "MiB")) if n]
    needs += [f"{number} {name}" for name, number in sorted(claim.resources.items()) if number]
    needs += [f"host port {port}" for port in claim.ports]
    needs += [f"UDP host port {port}" for port in claim.ports_udp]
    wanted = [f"{name}={value}" for name, value in sorted(need.attributes.items())]
    wanted += [constraint.expression for constraint in need.constraints if constraint.expression]
    of = f", {' and '.join(wanted)}" if wanted else ""
    free = f" with {', '.join(needs)} free" if needs else ""
    return Change(needs=(f"one more instance{free}{of}",), instances=())
