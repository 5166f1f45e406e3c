"""The tables behind ``ClusterState``: every record, decoded, with its indexes. PURE.

Anyone may write to the journal, so a record that breaks its form is treated as absent and kept
in ``invalid`` with the reason: one bad record must not stop a scheduler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

from sortedcontainers import SortedDict

from cluster import keys
from cluster.codec import Record, RecordInvalid
from cluster.indexes import Index, Label
from cluster.keys import Kind, Parsed
from cluster.records import (
    AccountSetting,
    Alive,
    Capacity,
    Cluster,
    ContainerInstance,
    DefinitionStatus,
    InstanceSettings,
    InstanceStatus,
    QueuedRun,
    Rollout,
    Service,
    ServiceStatus,
    ServiceTask,
    Slot,
    Task,
    TaskDefinition,
    TaskStatus,
    Token,
)
from cluster.views import At, Counts, InstanceView, Phase, ServiceView, TaskView
from journal.types import Revision

ALL: Label = ("all",)
LIVE: Label = ("live",)
"""Not INACTIVE."""

RECORDS_SHARED_MAX = 20_000
"""Different records that are remembered for when their bytes come again; the longest unused goes first."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class ClusterTables:
    """One cluster."""

    record: At[Cluster] | None = None
    instances: dict[str, InstanceView] = field(default_factory=dict)
    instance_index: Index[str] = field(default_factory=Index)
    tasks: dict[tuple[str, str], TaskView] = field(default_factory=dict)
    """By (task, instance): one dictionary, because a status may come without its task."""
    task_index: Index[tuple[str, str]] = field(default_factory=Index)
    where: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By task."""
    counts: dict[Label, Counts] = field(default_factory=dict)
    """Of all tasks, and by instance, group and startedBy."""
    groups: dict[str, dict[str, int]] = field(default_factory=dict)
    """By instance: how many tasks of each group are on it that have not stopped."""
    wanted: dict[str, dict[str, int]] = field(default_factory=dict)
    """The same, without those that are to stop."""
    services: dict[str, ServiceView] = field(default_factory=dict)
    service_index: Index[str] = field(default_factory=Index)
    service_tasks: dict[str, SortedDict] = field(default_factory=dict)
    """By service: {task: At[ServiceTask]}."""
    tokens: dict[bytes, At[Token]] = field(default_factory=dict)
    queue: SortedDict = field(default_factory=SortedDict)
    slots: dict[str, SortedDict] = field(default_factory=dict)
    """By scheduler: {slot: At[Slot]}."""

    def put_instance(self, parsed: Parsed, record: At[Any] | None) -> None:
        kind = parsed.kind
        old = self.instances.get(parsed.instance)
        view = old or InstanceView(cluster=parsed.cluster, id=parsed.instance)
        # Made anew by hand: what dataclasses.replace takes was a fifth of a replica's time.
        view = InstanceView(
            cluster=view.cluster,
            id=view.id,
            registration=record if kind is Kind.INSTANCE else view.registration,
            settings=record if kind is Kind.SETTINGS else view.settings,
            capacity=record if kind is Kind.CAPACITY else view.capacity,
            alive=record if kind is Kind.ALIVE else view.alive,
            attributes=view.attributes,
        )
        if kind is Kind.INSTANCE or kind is Kind.SETTINGS:
            view = replace(view, attributes=_attributes(view))
            self.instance_index.change(parsed.instance, _instance_labels(old), _instance_labels(view))
        there = view.registration or view.settings or view.capacity or view.alive
        _set(self.instances, parsed.instance, view if there else None)

    def put_task(self, parsed: Parsed, record: At[Any] | None) -> None:
        member = (parsed.task, parsed.instance)
        old = self.tasks.get(member)
        desired, observed = (old.desired, old.observed) if old else (None, None)
        if parsed.kind is Kind.STATUS:
            observed = record
        else:
            desired = record
        view = TaskView(
            cluster=parsed.cluster,
            instance=parsed.instance,
            id=parsed.task,
            desired=desired,
            observed=observed,
        )
        _set(self.tasks, member, view if view.desired or view.observed else None)
        self.task_index.change(member, _task_labels(old), _task_labels(view))
        if _counted(old) != _counted(view):
            self._count(old, -1)
            self._count(view, 1)
        if view.desired:
            self.where[parsed.task] = member
        elif self.where.get(parsed.task) == member:
            del self.where[parsed.task]

    def put_service(self, parsed: Parsed, record: At[Any] | None) -> None:
        old = self.services.get(parsed.service)
        view = old or ServiceView(cluster=parsed.cluster, name=parsed.service)
        if parsed.kind is Kind.SERVICE:
            view = replace(view, desired=record)
        else:
            view = replace(view, progress=record)
        _set(self.services, parsed.service, view if view.desired or view.progress else None)
        self.service_index.change(parsed.service, _service_labels(old), _service_labels(view))

    def put_service_task(self, parsed: Parsed, record: At[Any] | None) -> None:
        lines = self.service_tasks.get(parsed.service)
        if lines is None:
            lines = self.service_tasks[parsed.service] = SortedDict()
        _set(lines, parsed.task, record)
        if not lines:
            del self.service_tasks[parsed.service]

    def _count(self, view: TaskView | None, by: int) -> None:
        if view is None or view.desired is None or view.phase is Phase.STOPPED:
            return
        task, phase = view.desired.record, view.phase
        for label in (
            ALL,
            ("instance", view.instance),
            ("group", task.group),
            ("startedBy", task.started_by),
        ):
            counts = self.counts.get(label)
            if counts is None:
                counts = self.counts[label] = Counts()
            counts.count(phase, by)
            if not counts.live:
                del self.counts[label]
        _tally(self.groups, view.instance, task.group, by)
        if phase is not Phase.STOPPING:
            _tally(self.wanted, view.instance, task.group, by)


class Tables:
    """Every cluster, task definition and account setting of a journal."""

    def __init__(self) -> None:
        self.invalid: dict[bytes, str] = {}
        """Keys whose record breaks its form, with the reason."""
        self.clusters: SortedDict = SortedDict()
        """{name: ClusterTables}"""
        self.families: dict[str, SortedDict] = {}
        """By family: {revision: At[TaskDefinition]}."""
        self.definition_index: Index[tuple[str, int]] = Index()
        self.family_index: Index[str] = Index()
        self.accounts: dict[bytes, At[AccountSetting]] = {}

    def put(self, key: bytes, value: bytes | None, revision: Revision) -> None:
        """Take in what a key holds now; None: nothing."""
        parsed = keys.parse(key)
        if parsed is None:
            return
        self.invalid.pop(key, None)
        record: At[Any] | None = None
        if value is not None:
            try:
                record = At(_record(parsed.kind, value), revision)
            except RecordInvalid as error:
                self.invalid[key] = str(error)
        match parsed.kind:
            case Kind.TASK_DEFINITION:
                self._put_definition(parsed, record)
            case Kind.ACCOUNT:
                _set(self.accounts, key, record)
            case _:
                self._put_in_cluster(key, parsed, record)

    def _put_in_cluster(self, key: bytes, parsed: Parsed, record: At[Any] | None) -> None:
        cluster: ClusterTables | None = self.clusters.get(parsed.cluster)
        if cluster is None:
            cluster = self.clusters[parsed.cluster] = ClusterTables()
        match parsed.kind:
            case Kind.CLUSTER:
                cluster.record = record
            case Kind.TASK | Kind.STATUS:
                cluster.put_task(parsed, record)
            case Kind.SERVICE | Kind.ROLLOUT:
                cluster.put_service(parsed, record)
            case Kind.SERVICE_TASK:
                cluster.put_service_task(parsed, record)
            case Kind.TOKEN:
                _set(cluster.tokens, key, record)
            case Kind.QUEUE:
                _set(cluster.queue, parsed.name, record)
            case Kind.SLOT:
                _set(cluster.slots.setdefault(parsed.owner, SortedDict()), parsed.name, record)
            case _:
                cluster.put_instance(parsed, record)

    def _put_definition(self, parsed: Parsed, record: At[TaskDefinition] | None) -> None:
        revisions = self.families.get(parsed.family)
        if revisions is None:
            revisions = self.families[parsed.family] = SortedDict()
        old = revisions.get(parsed.revision)
        before = _family_labels(self.definition_index, parsed.family)
        member = (parsed.family, parsed.revision)
        self.definition_index.change(
            member, _definition_labels(member, old), _definition_labels(member, record)
        )
        self.family_index.change(parsed.family, before, _family_labels(self.definition_index, parsed.family))
        _set(revisions, parsed.revision, record)
        if not revisions:
            del self.families[parsed.family]


def _counted(view: TaskView | None) -> tuple[Phase, str, str] | None:
    """Return what the counts see of a task."""
    if view is None or view.desired is None:
        return None
    return view.phase, view.desired.record.group, view.desired.record.started_by


def _attributes(view: InstanceView) -> Mapping[str, str]:
    registered = view.registration.record.attributes if view.registration else ()
    custom = view.settings.record.attributes if view.settings else ()
    return {attribute.name: attribute.value or "" for attribute in (*registered, *custom)}


def _instance_labels(view: InstanceView | None) -> list[Label]:
    if view is None or view.registration is None:
        return []
    status = view.registration.record.status
    labels: list[Label] = [ALL, ("status", status)]
    if status is not InstanceStatus.INACTIVE:
        labels.append(LIVE)
    for name, value in view.attributes.items():
        labels.append(("attribute", name))
        labels.append(("attribute", name, value))
    return labels


def _task_labels(view: TaskView | None) -> list[Label]:
    if view is None or view.desired is None:
        return []
    task = view.desired.record
    return [
        ALL,
        ("instance", view.instance),
        ("definition", task.task_definition),
        ("family", task.family),
        ("group", task.group),
        ("startedBy", task.started_by),
        ("desired", view.desired_status),
        ("last", view.last_status),
        ("launchType", task.launch_type),
    ]


def _service_labels(view: ServiceView | None) -> list[Label]:
    if view is None or view.desired is None:
        return []
    service = view.desired.record
    labels: list[Label] = [
        ALL,
        ("status", service.status),
        ("strategy", service.scheduling_strategy),
        ("launchType", service.launch_type),
    ]
    if service.status is not ServiceStatus.INACTIVE:
        labels.append(LIVE)
    if service.status is ServiceStatus.ACTIVE:
        labels.extend(("definition", deployment.task_definition) for deployment in service.deployments)
    return labels


def _definition_labels(member: tuple[str, int], at: At[TaskDefinition] | None) -> list[Label]:
    if at is None:
        return []
    status = at.record.status
    return [ALL, ("status", status), ("family", member[0]), ("family", member[0], status)]


def _family_labels(definitions: Index[tuple[str, int]], family: str) -> list[Label]:
    """A family has each status that one of its revisions has; INACTIVE only if none is ACTIVE, as in ECS."""
    there = [status for status in DefinitionStatus if definitions.count(("family", family, status))]
    if DefinitionStatus.ACTIVE in there and DefinitionStatus.INACTIVE in there:
        there.remove(DefinitionStatus.INACTIVE)
    labels: list[Label] = [("status", status) for status in there]
    return [ALL, *labels] if labels else []


def _tally(of: dict[str, dict[str, int]], instance: str, group: str, by: int) -> None:
    groups = of.setdefault(instance, {})
    groups[group] = groups.get(group, 0) + by
    if not groups[group]:
        del groups[group]
        if not groups:
            del of[instance]


def _set(into: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value


@lru_cache(maxsize=RECORDS_SHARED_MAX)
def _record(kind: Kind, value: bytes) -> Record:
    """Return the record of a value, the same one for the same bytes. Raises ``RecordInvalid``.

    Records never change, and many are alike: the tasks of a job, what is left on instances that hold
    the same. They are read and checked once, and kept once.
    """
    return _RECORDS[kind].unpack(value)


_RECORDS: Mapping[Kind, type[Record]] = {
    Kind.CLUSTER: Cluster,
    Kind.INSTANCE: ContainerInstance,
    Kind.SETTINGS: InstanceSettings,
    Kind.CAPACITY: Capacity,
    Kind.ALIVE: Alive,
    Kind.TASK: Task,
    Kind.STATUS: TaskStatus,
    Kind.SERVICE: Service,
    Kind.ROLLOUT: Rollout,
    Kind.SERVICE_TASK: ServiceTask,
    Kind.TOKEN: Token,
    Kind.QUEUE: QueuedRun,
    Kind.SLOT: Slot,
    Kind.TASK_DEFINITION: TaskDefinition,
    Kind.ACCOUNT: AccountSetting,
}
