"""Where each record of the cluster lives. PURE.

========================================  ============================  =============================
key                                       holds                         written by
========================================  ============================  =============================
``cluster/<c>``                           the cluster                   the API
``cluster/<c>/instance/<i>``              registration                  the agent; status: operators
``cluster/<c>/settings/<i>``              custom attributes, tags       operators
``cluster/<c>/capacity/<i>``              what is left to claim         put once at registration, then
                                                                        only adjusted
``cluster/<c>/alive/<i>``                 liveness, bound to a lease    the agent
``cluster/<c>/task/<i>/<t>``              what is desired of a task     schedulers, and who stops it
``cluster/<c>/status/<i>/<t>``            what is observed of a task    the agent
``cluster/<c>/service/<s>``               what people want of a         the API
                                          service
``cluster/<c>/service/<s>/rollout``       how far its deployments are   the service scheduler
``cluster/<c>/service/<s>/task/<t>``      its tasks that have not       put with the task, deleted with
                                          stopped                       the report that it stopped
``cluster/<c>/token/<digest>``            RunTask's clientToken         the API
``cluster/<c>/queue/<order>-<id>``        a run that waits for          who queues it; the queue
                                          capacity                      scheduler
``cluster/<c>/slot/<owner>/<slot>``       a place that one scheduler    schedulers of other people's
                                          fills with one task           making (``schedulers.sdk``)
``taskdef/<family>/<revision>``           a task definition             who registers it
``account/<name>[/<principal>]``          an account setting            the API
========================================  ============================  =============================

Names never hold a slash, so a key splits in one way only.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

CLUSTERS = b"cluster/"
TASK_DEFINITIONS = b"taskdef/"
ACCOUNTS = b"account/"
PREFIXES = (CLUSTERS, TASK_DEFINITIONS, ACCOUNTS)
"""Everything that is the cluster's in the journal."""

DEFAULT_CLUSTER = "default"

PRIORITY_MAX = 9_999
"""Of queued runs; the lowest is 0."""

REMEMBERED_MAX = 20_000
"""Keys of instances that are not made anew for each task; the longest unused goes first."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_NAMES = re.compile(rb"[A-Za-z0-9_-]{1,255}(?:/[A-Za-z0-9_-]{1,255})*")
_DEFINITION = re.compile(r"([A-Za-z0-9_-]{1,255}):([1-9][0-9]{0,9})")


class NameInvalid(ValueError):
    """A name that ECS would refuse, and that could not be a part of a key."""


class Kind(StrEnum):
    """The family of records that a key belongs to."""

    CLUSTER = "cluster"
    INSTANCE = "instance"
    SETTINGS = "settings"
    CAPACITY = "capacity"
    ALIVE = "alive"
    TASK = "task"
    STATUS = "status"
    SERVICE = "service"
    ROLLOUT = "rollout"
    SERVICE_TASK = "service task"
    TOKEN = "token"
    QUEUE = "queue"
    SLOT = "slot"
    TASK_DEFINITION = "taskdef"
    ACCOUNT = "account"


_OF_TASKS = {str(kind): kind for kind in (Kind.TASK, Kind.STATUS)}
_OF_INSTANCES = {str(kind): kind for kind in (Kind.INSTANCE, Kind.SETTINGS, Kind.CAPACITY, Kind.ALIVE)}


class Parsed(NamedTuple):
    """A key taken apart. What a kind has no use for is empty."""

    kind: Kind
    cluster: str = ""
    instance: str = ""
    task: str = ""
    family: str = ""
    revision: int = 0
    service: str = ""
    name: str = ""
    """Of a token, a queued run, a slot, or an account setting (``name`` or ``name/principal``)."""
    owner: str = ""
    """Of a slot."""


def check_name(name: str, what: str) -> str:
    """Return ``name``. Raises ``NameInvalid`` unless it is 1 to 255 letters, digits, ``-`` and ``_``."""
    if not _NAME.fullmatch(name):
        raise NameInvalid(f"{what} {name!r} is not 1 to 255 letters, digits, hyphens and underscores")
    return name


@lru_cache(maxsize=REMEMBERED_MAX)
def cluster(name: str) -> bytes:
    return f"cluster/{check_name(name, 'cluster')}".encode()


@lru_cache(maxsize=REMEMBERED_MAX)
def instance(cluster_name: str, instance_id: str) -> bytes:
    return cluster(cluster_name) + f"/instance/{check_name(instance_id, 'container instance')}".encode()


@lru_cache(maxsize=REMEMBERED_MAX)
def capacity(cluster_name: str, instance_id: str) -> bytes:
    return cluster(cluster_name) + f"/capacity/{check_name(instance_id, 'container instance')}".encode()


@lru_cache(maxsize=REMEMBERED_MAX)
def settings(cluster_name: str, instance_id: str) -> bytes:
    return cluster(cluster_name) + f"/settings/{check_name(instance_id, 'container instance')}".encode()


@lru_cache(maxsize=REMEMBERED_MAX)
def alive(cluster_name: str, instance_id: str) -> bytes:
    return cluster(cluster_name) + f"/alive/{check_name(instance_id, 'container instance')}".encode()


@lru_cache(maxsize=REMEMBERED_MAX)
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


def within(cluster_name: str, kind: Kind) -> bytes:
    """Return the prefix of all records of a kind in a cluster: of ``instance``, ``task``, ``service``…"""
    return cluster(cluster_name) + f"/{kind}/".encode()


def service(cluster_name: str, name: str) -> bytes:
    return cluster(cluster_name) + f"/service/{check_name(name, 'service')}".encode()


def rollout(cluster_name: str, name: str) -> bytes:
    return service(cluster_name, name) + b"/rollout"


def service_tasks_of(cluster_name: str, name: str) -> bytes:
    """Return the prefix of a service's index: as many keys as it has tasks that have not stopped."""
    return service(cluster_name, name) + b"/task/"


def service_task(cluster_name: str, name: str, task_id: str) -> bytes:
    return service_tasks_of(cluster_name, name) + check_name(task_id, "task").encode()


def token(cluster_name: str, client_token: str) -> bytes:
    """Return the key of a ``clientToken``, which may be any text."""
    return cluster(cluster_name) + f"/token/{_digest(client_token)}".encode()


def queued(cluster_name: str, run: str) -> bytes:
    """Return the key of a queued run (``run_name``)."""
    return cluster(cluster_name) + f"/queue/{check_name(run, 'queued run')}".encode()


def slots_of(cluster_name: str, owner: str) -> bytes:
    """Return the prefix of the slots of one scheduler."""
    return cluster(cluster_name) + f"/slot/{check_name(owner, 'scheduler')}/".encode()


def slot(cluster_name: str, owner: str, name: str) -> bytes:
    return slots_of(cluster_name, owner) + check_name(name, "slot").encode()


def run_name(priority: int, submitted_at: float, run_id: str) -> str:
    """Return a name whose order is: the highest priority first, then the oldest (seconds)."""
    if not 0 <= priority <= PRIORITY_MAX:
        raise NameInvalid(f"priority {priority} is outside 0 to {PRIORITY_MAX}")
    micros = min(max(0, round(submitted_at * 1e6)), 10**16 - 1)
    return f"{PRIORITY_MAX - priority:04d}{micros:016d}-{run_id}"


def account_setting(name: str, principal_arn: str = "") -> bytes:
    """Return the key of an account setting: everybody's, or one principal's."""
    key = ACCOUNTS + check_name(name, "account setting").encode()
    return key + b"/" + _digest(principal_arn).encode() if principal_arn else key


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=REMEMBERED_MAX)
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
    if not _NAMES.fullmatch(key):
        return None
    parts = key.decode("ascii").split("/")
    # What there is most of comes first: a replica takes apart every key that is written.
    if len(parts) == 5 and parts[0] == "cluster" and (of_task := _OF_TASKS.get(parts[2])):
        return Parsed(of_task, parts[1], parts[3], parts[4])
    if len(parts) == 4 and parts[0] == "cluster" and (of_instance := _OF_INSTANCES.get(parts[2])):
        return Parsed(of_instance, parts[1], parts[3])
    match parts:
        case ["cluster", name]:
            return Parsed(Kind.CLUSTER, name)
        case ["cluster", name, "service", service_name]:
            return Parsed(Kind.SERVICE, name, service=service_name)
        case ["cluster", name, "service", service_name, "rollout"]:
            return Parsed(Kind.ROLLOUT, name, service=service_name)
        case ["cluster", name, "service", service_name, "task", task_id]:
            return Parsed(Kind.SERVICE_TASK, name, task=task_id, service=service_name)
        case ["cluster", name, ("token" | "queue") as kind, item]:
            return Parsed(Kind(kind), name, name=item)
        case ["cluster", name, "slot", owner, item]:
            return Parsed(Kind.SLOT, name, name=item, owner=owner)
        case ["account", name]:
            return Parsed(Kind.ACCOUNT, name=name)
        case ["account", name, principal]:
            return Parsed(Kind.ACCOUNT, name=f"{name}/{principal}")
        case ["taskdef", name, revision] if _DEFINITION.fullmatch(f"{name}:{revision}"):
            return Parsed(Kind.TASK_DEFINITION, family=name, revision=int(revision))
    return None
