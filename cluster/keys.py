"""Where each record of the cluster lives. PURE.

========================================  ============================  =========================
key                                       holds                         written by
========================================  ============================  =========================
``cluster/<c>``                           the cluster                   whoever creates it
``cluster/<c>/instance/<i>``              registration                  the agent; status: operators
``cluster/<c>/capacity/<i>``              what is left to claim         put once at registration, then
                                                                        only adjusted
``cluster/<c>/alive/<i>``                 liveness, bound to a lease    the agent
``cluster/<c>/task/<i>/<t>``              what is desired of a task     schedulers, and who stops it
``cluster/<c>/status/<i>/<t>``            what is observed of a task    the agent
``cluster/<c>/service/<s>[/task/<t>]``    a service and its index       the service scheduler
``taskdef/<family>/<revision>``           a task definition             who registers it
========================================  ============================  =========================

Names never hold a slash, so a key splits in one way only.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

CLUSTERS = b"cluster/"
TASK_DEFINITIONS = b"taskdef/"
PREFIXES = (CLUSTERS, TASK_DEFINITIONS)
"""Everything that is the cluster's in the journal."""

DEFAULT_CLUSTER = "default"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_DEFINITION = re.compile(r"([A-Za-z0-9_-]{1,255}):([1-9][0-9]{0,9})")


class NameInvalid(ValueError):
    """A name that ECS would refuse, and that could not be a part of a key."""


class Kind(StrEnum):
    """The family of records that a key belongs to."""

    CLUSTER = "cluster"
    INSTANCE = "instance"
    CAPACITY = "capacity"
    ALIVE = "alive"
    TASK = "task"
    STATUS = "status"
    TASK_DEFINITION = "taskdef"


class Parsed(NamedTuple):
    """A key taken apart. What a kind has no use for is empty."""

    kind: Kind
    cluster: str = ""
    instance: str = ""
    task: str = ""
    family: str = ""
    revision: int = 0


def check_name(name: str, what: str) -> str:
    """Return ``name``. Raises ``NameInvalid`` unless it is 1 to 255 letters, digits, ``-`` and ``_``."""
    if not _NAME.fullmatch(name):
        raise NameInvalid(f"{what} {name!r} is not 1 to 255 letters, digits, hyphens and underscores")
    return name


def cluster(name: str) -> bytes:
    return f"cluster/{check_name(name, 'cluster')}".encode()


def instance(cluster_name: str, instance_id: str) -> bytes:
    return cluster(cluster_name) + f"/instance/{check_name(instance_id, 'container instance')}".encode()


def capacity(cluster_name: str, instance_id: str) -> bytes:
    return cluster(cluster_name) + f"/capacity/{check_name(instance_id, 'container instance')}".encode()


def alive(cluster_name: str, instance_id: str) -> bytes:
    return cluster(cluster_name) + f"/alive/{check_name(instance_id, 'container instance')}".encode()


def tasks_of(cluster_name: str, instance_id: str) -> bytes:
    """Return the prefix of all tasks that an instance should have."""
    return cluster(cluster_name) + f"/task/{check_name(instance_id, 'container instance')}/".encode()


def statuses_of(cluster_name: str, instance_id: str) -> bytes:
    """Return the prefix of all that an instance reported."""
    return cluster(cluster_name) + f"/status/{check_name(instance_id, 'container instance')}/".encode()


def task(cluster_name: str, instance_id: str, task_id: str) -> bytes:
    return tasks_of(cluster_name, instance_id) + check_name(task_id, "task").encode()


def status(cluster_name: str, instance_id: str, task_id: str) -> bytes:
    return statuses_of(cluster_name, instance_id) + check_name(task_id, "task").encode()


def task_definition(name: str) -> bytes:
    """Return the key of ``family:revision``."""
    family, revision = split_definition(name)
    return f"taskdef/{family}/{revision}".encode()


def family(name: str) -> bytes:
    """Return the prefix of all revisions of a family."""
    return f"taskdef/{check_name(name, 'family')}/".encode()


def split_definition(name: str) -> tuple[str, int]:
    """Return (family, revision) of ``family:revision``. Raises ``NameInvalid``."""
    match = _DEFINITION.fullmatch(name)
    if not match:
        raise NameInvalid(f"task definition {name!r} is not family:revision, such as web:3")
    return match[1], int(match[2])


def parse(key: bytes) -> Parsed | None:
    """Take a key apart. None for a key that is not of this vocabulary (or not of this version of it)."""
    try:
        parts = key.decode("ascii").split("/")
    except UnicodeDecodeError:
        return None
    if any(not _NAME.fullmatch(part) for part in parts):
        return None
    match parts:
        case ["cluster", name]:
            return Parsed(Kind.CLUSTER, name)
        case ["cluster", name, ("instance" | "capacity" | "alive") as kind, instance_id]:
            return Parsed(Kind(kind), name, instance_id)
        case ["cluster", name, ("task" | "status") as kind, instance_id, task_id]:
            return Parsed(Kind(kind), name, instance_id, task_id)
        case ["taskdef", name, revision] if _DEFINITION.fullmatch(f"{name}:{revision}"):
            return Parsed(Kind.TASK_DEFINITION, family=name, revision=int(revision))
    return None
