"""Task definitions: register, describe, list, deregister, delete."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from api import present
from api.calls import Call, Handler
from api.errors import client, invalid
from api.expressions import check_constraint
from api.find import tags_of, valid_revision
from api.pages import page
from cluster import offers
from cluster.codec import RecordInvalid
from cluster.keys import NameInvalid, check_name
from cluster.records import DefinitionStatus, Tag, TaskDefinition
from cluster.state import At, ClusterState
from journal.offers import Offer

CONTAINERS_MAX = 10
DELETED_MAX = 10
REVISION_DIGITS = 10

_CPU = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(vcpu)?\s*", re.IGNORECASE)
_MEMORY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(gb|mb)?\s*", re.IGNORECASE)


async def register_task_definition(call: Call) -> Mapping[str, Any]:
    """Register the next revision of a family. Its number was never used before."""
    family = call.get("family", "")
    try:
        check_name(family, "family")
    except NameInvalid as error:
        raise client(f"Invalid family: {error}") from None
    fields, tags = _fields(call), tags_of(call.get("tags", []))

    def decide(state: ClusterState) -> tuple[Offer | None, TaskDefinition]:
        known = state.family(family)
        revision = known[-1].record.revision + 1 if known else 1
        record = _record({**fields, "revision": revision}, tags)
        return offers.register_task_definition(record), record

    record = await call.change(decide)
    return {"taskDefinition": present.definition(call, record), "tags": present.tags(tags) or None}


def _fields(call: Call) -> dict[str, Any]:
    """Return the record's fields of what is registered. Raises ``ApiError``."""
    fields = {name: value for name, value in call.params.items() if value is not None and name != "tags"}
    containers = call.get("containerDefinitions", [])
    if not containers:
        raise client("Container list cannot be empty.")
    if len(containers) > CONTAINERS_MAX:
        raise client(f"Too many containers: at most {CONTAINERS_MAX} are allowed.")
    fields["containerDefinitions"] = [_container(container) for container in containers]
    if call.get("cpu") is not None:
        fields["cpu"] = cpu_units(call.get("cpu"))
    if call.get("memory") is not None:
        fields["memory"] = memory_mib(call.get("memory"))
    for container in containers:
        if call.get("memory") is None and not (container.get("memory") or container.get("memoryReservation")):
            raise client(
                f"Invalid setting for container '{container.get('name')}'. "
                "At least one of 'memory' or 'memoryReservation' must be specified."
            )
    for constraint in call.get("placementConstraints", []):
        check_constraint(constraint, client)
    fields["registeredAt"] = call.now()
    return fields


def _container(given: Mapping[str, Any]) -> dict[str, Any]:
    if not given.get("name"):
        raise client("Container.name should not be null or empty.")
    if not given.get("image"):
        raise client("Container.image should not be null or empty.")
    return {name: value for name, value in given.items() if value is not None}


def _record(fields: Mapping[str, Any], tags: tuple[Tag, ...]) -> TaskDefinition:
    try:
        return replace(TaskDefinition.from_map(fields), tags=tags)
    except RecordInvalid as error:
        raise client(f"Invalid task definition: {error}") from None


def cpu_units(text: str) -> int:
    """Return the CPU units of ``256``, ``.5 vCPU``. Raises ``ApiError``."""
    found = _CPU.fullmatch(text)
    number = float(found[1]) if found and len(text) < 32 else -1.0
    units = number * 1024 if found and found[2] else number
    if units < 0 or units != int(units):
        raise client("Invalid 'cpu' setting for task: a number of CPU units, or such as '1 vCPU', is wanted.")
    return int(units)


def memory_mib(text: str) -> int:
    """Return the MiB of ``512``, ``1 GB``. Raises ``ApiError``."""
    found = _MEMORY.fullmatch(text)
    number = float(found[1]) if found and len(text) < 32 else -1.0
    mib = number * 1024 if found and (found[2] or "").lower() == "gb" else number
    if mib < 0 or mib != int(mib):
        raise client("Invalid 'memory' setting for task: a number of MiB, or such as '1 GB', is wanted.")
    return int(mib)


# -- looking --------------------------------------------------------------------------


async def describe_task_definition(call: Call) -> Mapping[str, Any]:
    """Describe any revision, ACTIVE or not; of a bare family, the latest ACTIVE one."""
    at = find(call, call.state, call.get("taskDefinition", ""))
    if at is None:
        raise client("Unable to describe task definition.")
    shown: dict[str, Any] = {"taskDefinition": present.definition(call, at.record)}
    if call.includes("TAGS"):
        shown["tags"] = present.tags(at.record.tags)
    return shown


def find(call: Call, state: ClusterState, given: str) -> At[TaskDefinition] | None:
    name = call.arns.read_definition(given)
    return state.definition(name) if valid_revision(name) else None


async def list_task_definitions(call: Call) -> Mapping[str, Any]:
    """List revisions by family and number. ``familyPrefix`` is, despite its name, a whole family's name."""
    status = call.get("status", "ACTIVE")
    family = call.get("familyPrefix")
    newest_first = call.get("sort", "ASC") == "DESC"
    wanted = page("ListTaskDefinitions", call.params)
    found = call.state.list_definitions(
        family=family,
        status=DefinitionStatus(status),
        after=_place(wanted.after),
        limit=wanted.size,
        descending=newest_first,
    )
    return {
        "taskDefinitionArns": [call.arns.definition(at.record.name) for at in found.items],
        "nextToken": wanted.next(found.more, found.items[-1].record.name if found.items else ""),
    }


def _place(after: str) -> tuple[str, int] | None:
    family, colon, revision = after.rpartition(":")
    if not colon:
        return None
    if not revision.isdecimal() or len(revision) > REVISION_DIGITS:
        raise invalid("Invalid token.")
    return family, int(revision)


async def list_task_definition_families(call: Call) -> Mapping[str, Any]:
    """List families: ACTIVE ones have an ACTIVE revision, INACTIVE ones none."""
    status, prefix = call.get("status", "ACTIVE"), call.get("familyPrefix", "")
    wanted = page("ListTaskDefinitionFamilies", call.params)

    found = call.state.list_families(
        prefix=prefix,
        status=None if status == "ALL" else DefinitionStatus(status),
        after=wanted.after or None,
        limit=wanted.size,
    )
    return {
        "families": list(found.items),
        "nextToken": wanted.next(found.more, found.items[-1] if found.items else ""),
    }


# -- their end ------------------------------------------------------------------------


async def deregister_task_definition(call: Call) -> Mapping[str, Any]:
    """Make a revision INACTIVE: what runs goes on, and nothing new is made of it."""
    given = call.get("taskDefinition", "")
    if ":" not in call.arns.read_definition(given):
        raise client("Invalid revision number. Number: a revision must be given.")

    def decide(state: ClusterState) -> tuple[Offer | None, TaskDefinition]:
        at = find(call, state, given)
        if at is None:
            raise client("The specified task definition does not exist.")
        if at.record.status is not DefinitionStatus.ACTIVE:
            raise client("The specified task definition is inactive.")
        new = replace(at.record, status=DefinitionStatus.INACTIVE, deregistered_at=call.now())
        return offers.change_task_definition(at.record, new, at.revision), new

    return {"taskDefinition": present.definition(call, await call.change(decide))}


async def delete_task_definitions(call: Call) -> Mapping[str, Any]:
    """Ask for INACTIVE revisions to be deleted. Their numbers are never used again."""
    found, failures = [], []
    for given in call.limited("taskDefinitions", DELETED_MAX):
        name = call.arns.read_definition(given)
        if ":" not in name:
            raise client("The specified task definition identifier is invalid: a revision must be given.")
        record, why = await call.change(partial(_deletion, call, given))
        if record is None:
            failures.append({"arn": call.arns.definition(name), "reason": why})
        else:
            found.append(present.definition(call, record))
    return {"taskDefinitions": found, "failures": failures}


def _deletion(
    call: Call, given: str, state: ClusterState
) -> tuple[Offer | None, tuple[TaskDefinition | None, str]]:
    at = find(call, state, given)
    if at is None:
        return None, (None, "The specified task definition does not exist.")
    if at.record.status is DefinitionStatus.ACTIVE:
        return None, (None, "The specified task definition is still in ACTIVE status. Deregister it first.")
    if at.record.status is DefinitionStatus.DELETE_IN_PROGRESS:
        return None, (at.record, "")
    new = replace(at.record, status=DefinitionStatus.DELETE_IN_PROGRESS, delete_requested_at=call.now())
    return offers.change_task_definition(at.record, new, at.revision), (new, "")


HANDLERS: Mapping[str, Handler] = {
    "RegisterTaskDefinition": register_task_definition,
    "DescribeTaskDefinition": describe_task_definition,
    "ListTaskDefinitions": list_task_definitions,
    "ListTaskDefinitionFamilies": list_task_definition_families,
    "DeregisterTaskDefinition": deregister_task_definition,
    "DeleteTaskDefinitions": delete_task_definitions,
}
