"""RunTask and StartTask.

All tasks of a call are placed by one offer, as many as have a place; with a ``clientToken`` the same
offer puts what the token stands for. So the call has happened, whole, or it has not, and the token
says which: a repetition, through whichever process, after whatever trouble, finds the token and answers
the same. A repetition that runs beside the first one cannot place a second time, because
the token must be absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api import present
from api.calls import Call, Handler
from api.definitions import cpu_units, memory_mib
from api.errors import ApiError, invalid, unsupported
from api.expressions import check_constraint
from api.find import cluster_of, definition_of, instance_of, require_cluster, tags_of
from api.placing import Placement, alone, choose, refusal
from cluster import offers
from cluster.codec import RecordInvalid
from cluster.records import (
    PlacementConstraint,
    PlacementStrategy,
    Task,
    TaskDefinition,
    TaskOverride,
    Token,
    TokenFailure,
    task_of,
)
from cluster.state import ClusterState
from journal.offers import Offer

COUNT_MAX = 10
CONSTRAINTS_MAX = 10
STRATEGIES_MAX = 5
TOKEN_CHARACTERS_MAX = 64
TEXT_CHARACTERS_MAX = 255
LAUNCH_TYPES = ("EC2", "EXTERNAL")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call has come to: ids of tasks, and failures."""

    tasks: tuple[str, ...]
    failures: tuple[TokenFailure, ...]


# -- RunTask --------------------------------------------------------------------------


async def run_task(call: Call) -> Mapping[str, Any]:
    """Place ``count`` tasks, as far as there is room; say of the rest why not."""
    cluster = cluster_of(call)
    count = call.get("count", 1)
    if not 1 <= count <= COUNT_MAX:
        raise invalid(f"count must be between 1 and {COUNT_MAX}.")
    _refuse_unsupported(call)
    constraints, strategy = constraints_of(call), strategy_of(call)
    token = call.get("clientToken")
    if token is not None and not 1 <= len(token) <= TOKEN_CHARACTERS_MAX:
        raise invalid(f"clientToken must have 1 to {TOKEN_CHARACTERS_MAX} characters.")
    digest = _digest(call)
    ids = _ids(call, cluster, count, token)

    def decide(state: ClusterState) -> tuple[Offer | None, Outcome]:
        known = state.token(cluster, token) if token is not None else None
        if known is not None:
            return None, _repeated(call, cluster, known.record, digest)
        require_cluster(state, cluster)
        definition, task = _task(call, state)
        where = choose(
            call,
            state,
            cluster,
            definition,
            task,
            count,
            (*definition.placement_constraints, *constraints),
            strategy,
        )
        return _placing(call, state, cluster, task, where, ids, token, digest)

    return _answer(call, cluster, await call.change(decide))


def _placing(
    call: Call,
    state: ClusterState,
    cluster: str,
    task: Task,
    where: Placement,
    ids: Sequence[str],
    token: str | None,
    digest: str,
) -> tuple[Offer | None, Outcome]:
    outcome = Outcome(tuple(ids[: len(where.instances)]), where.failures)
    if not outcome.tasks:
        return None, outcome
    parts = [
        offers.place(cluster, instance, task_id, task, at=state.revision, by="RunTask", alone=where.alone)
        for instance, task_id in zip(where.instances, ids, strict=False)
    ]
    if token is not None:
        record = Token(request=digest, tasks=outcome.tasks, failures=outcome.failures, created_at=call.now())
        parts.append(offers.claim_token(cluster, token, record))
    return offers.together(*parts, label=f"RunTask: place {len(outcome.tasks)}"), outcome


def _repeated(call: Call, cluster: str, token: Token, digest: str) -> Outcome:
    if token.request != digest:
        raise ApiError(
            "ConflictException",
            "The clientToken was used for a request with other parameters.",
            fields={"resourceIds": [call.arns.task(cluster, task_id) for task_id in token.tasks]},
        )
    return Outcome(token.tasks, token.failures)


def _digest(call: Call) -> str:
    """Return what tells the call's request from any other but for its token."""
    said = {name: value for name, value in call.params.items() if name != "clientToken" and value is not None}
    return hashlib.sha256(json.dumps([call.operation, said], sort_keys=True).encode()).hexdigest()


def _ids(call: Call, cluster: str, count: int, token: str | None) -> list[str]:
    """Return ids for the tasks: always the same for a token."""
    if token is None:
        return [call.new_id() for _ in range(count)]
    return [
        hashlib.sha256(json.dumps([cluster, token, number]).encode()).hexdigest()[:32]
        for number in range(count)
    ]


# -- StartTask ------------------------------------------------------------------------


async def start_task(call: Call) -> Mapping[str, Any]:
    """Place a task on each of the instances named, where it has room. Constraints are not asked for."""
    cluster = cluster_of(call)
    named = call.limited("containerInstances", COUNT_MAX)
    _refuse_unsupported(call)
    ids = [call.new_id() for _ in named]

    def decide(state: ClusterState) -> tuple[Offer | None, Outcome]:
        require_cluster(state, cluster)
        definition, task = _task(call, state)
        placed, failures, parts = [], [], []
        taken: set[str] = set()
        for given, task_id in zip(named, ids, strict=True):
            view = instance_of(call, cluster, given)
            if view is None:
                failures.append(TokenFailure(instance=given.rpartition("/")[2], reason="MISSING"))
                continue
            why = refusal(state, cluster, view.id, definition, task)
            if why is None and view.id in taken:
                why = TokenFailure(instance=view.id, reason="MISSING", detail="It is named twice.")
            if why is not None:
                failures.append(why)
                continue
            taken.add(view.id)
            placed.append(task_id)
            parts.append(
                offers.place(
                    cluster,
                    view.id,
                    task_id,
                    task,
                    at=state.revision,
                    by="StartTask",
                    alone=alone(state, definition, task),
                )
            )
        offer = offers.together(*parts, label=f"StartTask: place {len(parts)}") if parts else None
        return offer, Outcome(tuple(placed), tuple(failures))

    return _answer(call, cluster, await call.change(decide))


# -- what both share ------------------------------------------------------------------


def _task(call: Call, state: ClusterState) -> tuple[TaskDefinition, Task]:
    """Return the definition to run, and the record of a task as the call wants it. Raises ``ApiError``."""
    definition = definition_of(state, call.arns, call.get("taskDefinition", ""))
    propagate = call.get("propagateTags", "NONE")
    if propagate == "SERVICE":
        raise invalid("propagateTags: only tasks of a service can have its tags.")
    tags = {tag.key: tag for tag in definition.tags} if propagate == "TASK_DEFINITION" else {}
    tags.update({tag.key: tag for tag in tags_of(call.get("tags", []))})
    group = call.get("group", "")
    if group.startswith("service:"):
        raise invalid("Invalid namespace for group: service: is for the tasks of services.")
    for name in ("group", "startedBy", "referenceId"):
        if len(call.get(name, "")) > TEXT_CHARACTERS_MAX:
            raise invalid(f"{name} can have at most {TEXT_CHARACTERS_MAX} characters.")
    task = task_of(
        definition,
        created_at=call.now(),
        overrides=overrides_of(call.get("overrides"), definition),
        group=group,
        started_by=call.get("startedBy", ""),
        tags=tuple(tags.values()),
        propagate_tags="" if propagate == "NONE" else propagate,
        enable_execute_command=call.get("enableExecuteCommand", False),
        enable_ecs_managed_tags=call.get("enableECSManagedTags", False),
        launch_type=call.get("launchType", "EC2"),
        reference_id=call.get("referenceId", ""),
    )
    problem = task.problem()
    if problem:
        raise invalid(f"overrides: {problem}")
    return definition, task


def overrides_of(given: Mapping[str, Any] | None, definition: TaskDefinition) -> TaskOverride | None:
    """Return overrides as a record, None where there are none. Raises ``ApiError``."""
    if not given:
        return None
    fields = {name: value for name, value in given.items() if value is not None}
    if "cpu" in fields:
        fields["cpu"] = cpu_units(fields["cpu"])
    if "memory" in fields:
        fields["memory"] = memory_mib(fields["memory"])
    names = [container.name for container in definition.container_definitions]
    for override in fields.get("containerOverrides", []):
        if override.get("name") not in names:
            raise invalid(
                f"Override for container named {str(override.get('name'))[:60]} is not a container in the "
                "TaskDefinition."
            )
    try:
        record = TaskOverride.from_map(fields, "overrides")
        for container in definition.containers(record):
            problem = container.problem()
            if problem:
                raise invalid(f"overrides: container {container.name}: {problem}")
    except RecordInvalid as error:
        raise invalid(str(error)) from None
    return record


def constraints_of(call: Call) -> tuple[PlacementConstraint, ...]:
    """Return the call's placement constraints, checked. Raises ``ApiError``."""
    given = call.limited("placementConstraints", CONSTRAINTS_MAX, least=0)
    for constraint in given:
        check_constraint(constraint, invalid)
    return tuple(PlacementConstraint.from_map(dict(constraint)) for constraint in given)


def strategy_of(call: Call) -> tuple[PlacementStrategy, ...]:
    """Return the call's placement strategies, checked. Raises ``ApiError``."""
    found = []
    for given in call.limited("placementStrategy", STRATEGIES_MAX, least=0):
        kind, field = given.get("type"), given.get("field") or ""
        if kind is None:
            raise invalid("placementStrategy: a type is required.")
        if kind == "random" and field:
            raise invalid("placementStrategy: random takes no field.")
        if kind == "binpack":
            field = field.lower()
            if field not in ("cpu", "memory"):
                raise invalid("placementStrategy: the field of binpack must be cpu or memory.")
        if kind == "spread" and not (
            field in ("instanceId", "host") or (field.startswith("attribute:") and len(field) > 10)
        ):
            raise invalid(
                "placementStrategy: the field of spread must be instanceId, host or attribute:<name>."
            )
        found.append(PlacementStrategy.from_map({"type": kind, "field": field}))
    return tuple(found)


def _refuse_unsupported(call: Call) -> None:
    launch_type = call.get("launchType", "EC2")
    if launch_type not in LAUNCH_TYPES:
        raise unsupported(f"launchType {launch_type}: tasks run on container instances of your own here.")
    if call.get("capacityProviderStrategy"):
        raise unsupported("capacityProviderStrategy is not supported here.")
    if call.get("volumeConfigurations"):
        raise unsupported("volumeConfigurations are not supported here.")


def _answer(call: Call, cluster: str, outcome: Outcome) -> Mapping[str, Any]:
    views = [call.state.task(cluster, task_id) for task_id in outcome.tasks]
    return {
        "tasks": [present.task(call, view, with_tags=True) for view in views if view is not None],
        "failures": [
            {
                "arn": call.arns.instance(cluster, failure.instance) if failure.instance else None,
                "reason": failure.reason,
                "detail": failure.detail or None,
            }
            for failure in outcome.failures
        ],
    }


HANDLERS: Mapping[str, Handler] = {"RunTask": run_task, "StartTask": start_task}
