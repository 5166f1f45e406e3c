"""SQL over the cluster's state: an in-memory SQLite, filled from one revision, that only reads.

Everything that somebody might send is bounded: one statement, of so many steps, with so many
rows, of values of so many bytes; and nothing but reading is authorized.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.codec import Record
from cluster.state import ClusterState, InstanceView, ServiceView, TaskView
from journal.types import Revision

ROWS_MAX = 100_000
STEPS_MAX = 200_000_000
"""Instructions of SQLite's machine: some seconds."""
VALUE_BYTES_MAX = 10_000_000
_STEPS_AT_ONCE = 100_000

TABLES: Mapping[str, Mapping[str, str]] = {
    "instances": {
        "cluster": "text",
        "id": "text",
        "status": "text",
        "connected": "integer",
        "zone": "text",
        "instance_type": "text",
        "host": "text",
        "ec2_instance_id": "text",
        "agent_version": "text",
        "cpu": "integer",
        "memory": "integer",
        "cpu_left": "integer",
        "memory_left": "integer",
        "running_tasks": "integer",
        "pending_tasks": "integer",
        "registered_at": "real",
        "ports": "text",
        "ports_udp": "text",
        "resources_left": "text",
        "attributes": "text",
        "tags": "text",
    },
    "attributes": {"cluster": "text", "instance": "text", "name": "text", "value": "text"},
    "tasks": {
        "cluster": "text",
        "id": "text",
        "instance": "text",
        "definition": "text",
        "family": "text",
        "task_group": "text",
        "service": "text",
        "started_by": "text",
        "desired_status": "text",
        "last_status": "text",
        "health": "text",
        "cpu": "integer",
        "memory": "integer",
        "ports": "text",
        "created_at": "real",
        "started_at": "real",
        "stopped_at": "real",
        "stop_code": "text",
        "reason": "text",
        "exit_code": "integer",
        "tags": "text",
    },
    "task_definitions": {
        "family": "text",
        "revision": "integer",
        "status": "text",
        "cpu": "integer",
        "memory": "integer",
        "network_mode": "text",
        "registered_at": "real",
        "containers": "text",
        "tags": "text",
    },
    "services": {
        "cluster": "text",
        "name": "text",
        "status": "text",
        "strategy": "text",
        "definition": "text",
        "desired": "integer",
        "running": "integer",
        "pending": "integer",
        "rollout": "text",
        "created_at": "real",
        "deployments": "text",
        "tags": "text",
    },
}
"""Columns and types, by table. Lists and maps are JSON, for ``json_extract`` and ``json_each``;
times are seconds since the epoch. ``group`` is a word of SQL, so a task's is ``task_group``."""


class SqlInvalid(ValueError):
    """A statement that cannot be run; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a statement found in the state of one revision."""

    at: Revision
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def query(state: ClusterState, statement: str, *, rows_max: int = ROWS_MAX) -> Answer:
    """Run one SELECT. Raises ``SqlInvalid``."""
    connection = database(state)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += _STEPS_AT_ONCE
        return int(steps > STEPS_MAX)

    try:
        connection.set_progress_handler(count, _STEPS_AT_ONCE)
        cursor = connection.execute(statement)
        if cursor.description is None:
            raise SqlInvalid("only SELECT says something here")
        rows = cursor.fetchmany(rows_max + 1)
        columns = tuple(column[0] for column in cursor.description)
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise SqlInvalid(_why(error, steps)) from error
    finally:
        connection.close()
    if len(rows) > rows_max:
        raise SqlInvalid(f"more than {rows_max} rows: add a LIMIT")
    return Answer(at=state.revision, columns=columns, rows=tuple(rows))


def database(state: ClusterState) -> sqlite3.Connection:
    """Return a database of the state that can only be read; close it."""
    connection = sqlite3.connect(":memory:")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)
    fillers: Mapping[str, Iterable[Sequence[Any]]] = {
        "instances": _instances(state),
        "attributes": _attributes(state),
        "tasks": _tasks(state),
        "task_definitions": _definitions(state),
        "services": _services(state),
    }
    for table, columns in TABLES.items():
        connection.execute(f"create table {table} ({', '.join(f'{n} {t}' for n, t in columns.items())})")
        marks = ", ".join("?" * len(columns))
        connection.executemany(f"insert into {table} values ({marks})", fillers[table])
    for function in ("json_each", "json_tree"):  # the first use sets one up, which is no reading
        connection.execute(f"select * from {function}('[]')").fetchall()
    connection.commit()
    connection.execute("pragma query_only = on")
    connection.set_authorizer(_authorize)
    return connection


_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}


def _authorize(action: int, _: str | None, name: str | None, *__: str | None) -> int:
    if action in _ALLOWED:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (name or "").lower() not in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def _why(error: Exception, steps: int) -> str:
    text = str(error)
    if steps > STEPS_MAX:
        return f"the statement takes more than {STEPS_MAX} steps"
    if "no such table" in text:
        return f"{text}; there are {', '.join(TABLES)}"
    if "no such column" in text:
        return f"{text}; `synod sql` without a statement lists them"
    if "not authorized" in text or "prohibited" in text:
        return f"the state is only read: {text}"
    return text


# -- rows ------------------------------------------------------------------------------


def _instances(state: ClusterState) -> Iterator[Sequence[Any]]:
    for cluster in state.cluster_names():
        for view in state.instances(cluster):
            yield _instance(state, view)


def _instance(state: ClusterState, view: InstanceView) -> Sequence[Any]:
    record, left = view.record, view.capacity.record if view.capacity else None
    counts = state.counts(view.cluster, instance=view.id)
    return (
        view.cluster,
        view.id,
        str(record.status),
        int(view.connected),
        view.attributes.get("ecs.availability-zone"),
        view.attributes.get("ecs.instance-type"),
        record.host or None,
        record.ec2_instance_id or None,
        record.version_info.agent_version if record.version_info else None,
        record.cpu,
        record.memory,
        left.cpu if left else None,
        left.memory if left else None,
        counts.running,
        counts.pending,
        record.registered_at,
        _json(left.ports if left else ()),
        _json(left.ports_udp if left else ()),
        _json(dict(left.resources) if left else {}),
        _json(dict(view.attributes)),
        _json(_pairs(view.settings.record.tags if view.settings else ())),
    )


def _attributes(state: ClusterState) -> Iterator[Sequence[Any]]:
    for cluster in state.cluster_names():
        for view in state.instances(cluster):
            for name, value in sorted(view.attributes.items()):
                yield cluster, view.id, name, value


def _tasks(state: ClusterState) -> Iterator[Sequence[Any]]:
    for cluster in state.cluster_names():
        for view in state.tasks(cluster):
            yield _task(view)


def _task(view: TaskView) -> Sequence[Any]:
    task, status = view.task, view.status
    return (
        view.cluster,
        view.id,
        view.instance,
        task.task_definition,
        task.family,
        task.group,
        task.service or None,
        task.started_by,
        str(task.desired_status),
        str(view.last_status),
        str(status.health_status) if status and status.health_status else None,
        task.cpu,
        task.memory,
        _json(task.ports),
        task.created_at,
        status.started_at if status else None,
        status.stopped_at if status else None,
        str((status and status.stop_code) or task.stop_code or "") or None,
        (status and status.stopped_reason) or task.stopped_reason,
        status.exit_code if status else None,
        _json(_pairs(task.tags)),
    )


def _definitions(state: ClusterState) -> Iterator[Sequence[Any]]:
    for family in state.family_names():
        for at in state.family(family):
            record = at.record
            claim = record.claim()
            yield (
                record.family,
                record.revision,
                str(record.status),
                claim.cpu,
                claim.memory,
                str(record.network_mode or "bridge"),
                record.registered_at,
                _json([container.to_map() for container in record.container_definitions]),
                _json(_pairs(record.tags)),
            )


def _services(state: ClusterState) -> Iterator[Sequence[Any]]:
    for cluster in state.cluster_names():
        for view in state.services(cluster):
            yield _service(state, view)


def _service(state: ClusterState, view: ServiceView) -> Sequence[Any]:
    service = view.service
    counts = state.counts(view.cluster, group=service.group)
    primary = service.primary
    rollout = view.rollout.deployment(primary.id) if primary else None
    return (
        view.cluster,
        view.name,
        str(service.status),
        str(service.scheduling_strategy),
        service.task_definition,
        service.desired_count,
        counts.running,
        counts.pending,
        str(rollout.rollout_state) if rollout else None,
        service.created_at,
        _json([deployment.to_map() for deployment in service.deployments]),
        _json(_pairs(service.tags)),
    )


def _pairs(tags: Sequence[Any]) -> dict[str, str]:
    return {tag.key: tag.value for tag in tags}


def _json(value: Any) -> str:
    """Return JSON; bytes that a later version may have put into a record are told as text."""
    return json.dumps(value.to_map() if isinstance(value, Record) else value, default=repr)
