"""``ClusterState``: the cluster as a scheduler sees it, folded from commits. PURE.

The state library: typed and indexed, and it says at which revision it stands. Feed it a
snapshot with ``load`` and then every commit with ``apply``; ``cluster.feed`` does that from
a tail. Anyone may write to the journal, so a record that breaks its form is treated as
absent and kept in ``invalid`` with the reason: one bad record must not stop a scheduler.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from cluster import keys
from cluster.codec import Record, RecordInvalid
from cluster.keys import Kind, Parsed
from cluster.records import (
    AccountSetting,
    Alive,
    Capacity,
    Cluster,
    ContainerInstance,
    DesiredStatus,
    InstanceSettings,
    InstanceStatus,
    LastStatus,
    QueuedRun,
    Rollout,
    Service,
    ServiceTask,
    Task,
    TaskDefinition,
    TaskStatus,
    Token,
)
from journal.types import Revision

R = TypeVar("R", bound=Record)


class ChangeLike(Protocol):
    """A resolved change, as ``journal.space.Change``."""

    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes | None: ...


class CommitLike(Protocol):
    """A commit, as ``journal.space.Commit``."""

    @property
    def revision(self) -> Revision: ...
    @property
    def changes(self) -> Iterable[ChangeLike]: ...


@dataclass(frozen=True, slots=True)
class At(Generic[R]):
    """A record, and the revision that wrote it."""

    record: R
    revision: Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """All that the journal has of one container instance."""

    cluster: str
    id: str
    registration: At[ContainerInstance] | None = None
    settings: At[InstanceSettings] | None = None
    capacity: At[Capacity] | None = None
    alive: At[Alive] | None = None

    @property
    def status(self) -> InstanceStatus | None:
        return self.registration.record.status if self.registration else None

    @property
    def connected(self) -> bool:
        return self.alive is not None

    @property
    def attributes(self) -> Mapping[str, str]:
        """Return the attributes by name: the operators' over the agent's. One without a value is ""."""
        registered = self.registration.record.attributes if self.registration else ()
        custom = self.settings.record.attributes if self.settings else ()
        return {attribute.name: attribute.value or "" for attribute in (*registered, *custom)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """All that the journal has of one task."""

    cluster: str
    instance: str
    id: str
    desired: At[Task] | None = None
    observed: At[TaskStatus] | None = None

    @property
    def task(self) -> Task:
        """Return the desired record. Only for views that ``ClusterState`` hands out: they have one."""
        assert self.desired is not None, f"task {self.id} has a status and no record"
        return self.desired.record

    @property
    def status(self) -> TaskStatus | None:
        return self.observed.record if self.observed else None

    @property
    def last_status(self) -> LastStatus:
        return self.observed.record.last_status if self.observed else LastStatus.PENDING

    @property
    def stopped(self) -> bool:
        return self.last_status is LastStatus.STOPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """All that the journal has of one service, but for its tasks."""

    cluster: str
    name: str
    desired: At[Service] | None = None
    progress: At[Rollout] | None = None

    @property
    def service(self) -> Service:
        """Return the service's record. Only for views that ``ClusterState`` hands out: they have one."""
        assert self.desired is not None, f"service {self.name} has no record"
        return self.desired.record

    @property
    def rollout(self) -> Rollout:
        """Return how far it is; an empty one where nothing was written yet."""
        return self.progress.record if self.progress else Rollout()


@dataclass(slots=True)
class _Cluster:
    record: At[Cluster] | None = None
    instances: dict[str, InstanceView] = field(default_factory=dict)
    tasks: dict[tuple[str, str], TaskView] = field(default_factory=dict)
    """By (instance, task): one dictionary, because a status may come without its task."""
    by_id: dict[str, tuple[str, str]] = field(default_factory=dict)
    by_instance: dict[str, set[str]] = field(default_factory=dict)
    services: dict[str, ServiceView] = field(default_factory=dict)
    service_tasks: dict[str, dict[str, At[ServiceTask]]] = field(default_factory=dict)
    tokens: dict[bytes, At[Token]] = field(default_factory=dict)
    queue: dict[str, At[QueuedRun]] = field(default_factory=dict)


class ClusterState:
    """Every cluster and task definition of a journal, at one revision."""

    def __init__(self) -> None:
        self.revision = Revision(0)
        self.invalid: dict[bytes, str] = {}
        """Keys whose record breaks its form, with the reason."""
        self._clusters: dict[str, _Cluster] = {}
        self._definitions: dict[str, dict[int, At[TaskDefinition]]] = {}
        self._accounts: dict[bytes, At[AccountSetting]] = {}

    # -- feeding it ---------------------------------------------------------------

    def load(self, items: Iterable[tuple[bytes, bytes, Revision]], revision: Revision) -> None:
        """Forget everything and start from (key, value, modification revision) at ``revision``."""
        self.invalid.clear()
        self._clusters.clear()
        self._definitions.clear()
        self._accounts.clear()
        for key, value, modified in items:
            self._put(key, value, modified)
        self.revision = revision

    def apply(self, commit: CommitLike) -> None:
        """Fold one commit. Raises ``ValueError`` if it is not after the state's revision."""
        if commit.revision <= self.revision:
            raise ValueError(f"commit {commit.revision} comes after revision {self.revision} was folded")
        for change in commit.changes:
            self._put(change.key, change.value, commit.revision)
        self.revision = commit.revision

    def advance(self, revision: Revision) -> None:
        """Nothing of the cluster changed up to ``revision``."""
        self.revision = max(self.revision, revision)

    # -- looking at it ------------------------------------------------------------

    @property
    def clusters(self) -> Mapping[str, Cluster]:
        """Return the clusters that exist, by name, in order."""
        return {
            name: found.record.record
            for name, found in sorted(self._clusters.items())
            if found.record is not None
        }

    def instances(self, cluster: str) -> list[InstanceView]:
        """Return every registered instance of a cluster, in the order of ids."""
        found = self._clusters.get(cluster)
        if found is None:
            return []
        return [found.instances[i] for i in sorted(found.instances) if found.instances[i].registration]

    def instance(self, cluster: str, instance: str) -> InstanceView | None:
        found = self._clusters.get(cluster)
        view = found.instances.get(instance) if found else None
        return view if view and view.registration else None

    def tasks(
        self,
        cluster: str,
        *,
        instance: str | None = None,
        group: str | None = None,
        started_by: str | None = None,
        desired: DesiredStatus | None = None,
        last: LastStatus | None = None,
    ) -> list[TaskView]:
        """Return the tasks of a cluster that fit, oldest first."""
        views = [
            view
            for view in self._task_views(cluster, instance)
            if (group is None or view.task.group == group)
            and (started_by is None or view.task.started_by == started_by)
            and (desired is None or view.task.desired_status is desired)
            and (last is None or view.last_status is last)
        ]
        return sorted(views, key=lambda view: (view.task.created_at, view.id))

    def task(self, cluster: str, task_id: str) -> TaskView | None:
        found = self._clusters.get(cluster)
        where = found.by_id.get(task_id) if found else None
        view = found.tasks.get(where) if found and where else None
        return view if view and view.desired else None

    def tasks_with_prefix(self, cluster: str, prefix: str) -> list[TaskView]:
        """Return the tasks whose id starts with ``prefix``, as people abbreviate ids; the exact one alone."""
        exact = self.task(cluster, prefix)
        if exact:
            return [exact]
        return [view for view in self.tasks(cluster) if view.id.startswith(prefix)]

    def definition(self, name: str) -> At[TaskDefinition] | None:
        """Return ``family:revision``, or the latest ACTIVE revision of a bare ``family``."""
        if ":" in name:
            family, revision = keys.split_definition(name)
            return self._definitions.get(family, {}).get(revision)
        revisions = [at for at in self.family(name) if at.record.status == "ACTIVE"]
        return revisions[-1] if revisions else None

    def family(self, family: str) -> list[At[TaskDefinition]]:
        """Return all revisions of a family, in order."""
        found = self._definitions.get(family, {})
        return [found[revision] for revision in sorted(found)]

    def services(self, cluster: str) -> list[ServiceView]:
        """Return the services of a cluster, INACTIVE ones too, in the order of names."""
        found = self._clusters.get(cluster)
        return (
            [found.services[n] for n in sorted(found.services) if found.services[n].desired] if found else []
        )

    def service(self, cluster: str, name: str) -> ServiceView | None:
        found = self._clusters.get(cluster)
        view = found.services.get(name) if found else None
        return view if view and view.desired else None

    def service_tasks(self, cluster: str, name: str) -> list[TaskView]:
        """Return the tasks in a service's index, in the order of ids: those that count as the service's."""
        found = self._clusters.get(cluster)
        index = found.service_tasks.get(name, {}) if found else {}
        views = (self.task(cluster, task_id) for task_id in sorted(index))
        return [view for view in views if view is not None]

    def token(self, cluster: str, client_token: str) -> At[Token] | None:
        """Return what a request's ``clientToken`` stands for."""
        found = self._clusters.get(cluster)
        return found.tokens.get(keys.token(cluster, client_token)) if found else None

    def queue(self, cluster: str) -> Mapping[str, At[QueuedRun]]:
        """Return the runs that wait, by name, in the order of priority and age."""
        found = self._clusters.get(cluster)
        return {name: found.queue[name] for name in sorted(found.queue)} if found else {}

    def account_setting(self, name: str, principal_arn: str = "") -> AccountSetting | None:
        """Return a principal's setting, or everybody's where it has none of its own."""
        at = self._accounts.get(keys.account_setting(name, principal_arn))
        at = at or self._accounts.get(keys.account_setting(name))
        return at.record if at else None

    def account_settings(self) -> list[AccountSetting]:
        """Return all settings, in the order of names and principals; "" is everybody's."""
        settings = (at.record for at in self._accounts.values())
        return sorted(settings, key=lambda setting: (setting.name, setting.principal_arn))

    def claimed(self, cluster: str, instance: str) -> Capacity:
        """Return what the tasks of an instance hold: every task that was not reported STOPPED.

        Together with what is left it is always what was registered (ports: with those that the
        machine keeps for itself); tests check that.
        """
        views = [view for view in self._task_views(cluster, instance) if not view.stopped]
        named: dict[str, int] = {}
        for view in views:
            for name, number in view.task.resources.items():
                named[name] = named.get(name, 0) + number
        return Capacity(
            cpu=sum(view.task.cpu for view in views),
            memory=sum(view.task.memory for view in views),
            ports=tuple(sorted(port for view in views for port in view.task.ports)),
            ports_udp=tuple(sorted(port for view in views for port in view.task.ports_udp)),
            resources=named,
        )

    # -- folding ------------------------------------------------------------------

    def _task_views(self, cluster: str, instance: str | None) -> Iterator[TaskView]:
        found = self._clusters.get(cluster)
        if found is None:
            return
        if instance is None:
            wanted: Iterable[tuple[str, str]] = found.tasks
        else:
            wanted = ((instance, task) for task in found.by_instance.get(instance, ()))
        for where in wanted:
            view = found.tasks[where]
            if view.desired is not None:
                yield view

    def _put(self, key: bytes, value: bytes | None, revision: Revision) -> None:
        parsed = keys.parse(key)
        if parsed is None:
            return
        self.invalid.pop(key, None)
        record: At[Any] | None = None
        if value is not None:
            try:
                record = At(_RECORDS[parsed.kind].unpack(value), revision)
            except RecordInvalid as error:
                self.invalid[key] = str(error)
        if parsed.kind is Kind.TASK_DEFINITION:
            self._put_definition(parsed, record)
            return
        if parsed.kind is Kind.ACCOUNT:
            _set(self._accounts, key, record)
            return
        cluster = self._clusters.setdefault(parsed.cluster, _Cluster())
        if parsed.kind is Kind.CLUSTER:
            cluster.record = record
        elif parsed.kind in (Kind.TASK, Kind.STATUS):
            self._put_task(cluster, parsed, record)
        elif parsed.kind in (Kind.SERVICE, Kind.ROLLOUT):
            self._put_service(cluster, parsed, record)
        elif parsed.kind is Kind.SERVICE_TASK:
            _set(cluster.service_tasks.setdefault(parsed.service, {}), parsed.task, record)
        elif parsed.kind is Kind.TOKEN:
            _set(cluster.tokens, key, record)
        elif parsed.kind is Kind.QUEUE:
            _set(cluster.queue, parsed.name, record)
        else:
            self._put_instance(cluster, parsed, record)

    def _put_definition(self, parsed: Parsed, record: At[TaskDefinition] | None) -> None:
        revisions = self._definitions.setdefault(parsed.family, {})
        if record is None:
            revisions.pop(parsed.revision, None)
        else:
            revisions[parsed.revision] = record

    @staticmethod
    def _put_instance(cluster: _Cluster, parsed: Parsed, record: At[Any] | None) -> None:
        view = cluster.instances.get(parsed.instance)
        if view is None:
            view = InstanceView(cluster=parsed.cluster, id=parsed.instance)
        match parsed.kind:
            case Kind.INSTANCE:
                view = replace(view, registration=record)
            case Kind.SETTINGS:
                view = replace(view, settings=record)
            case Kind.CAPACITY:
                view = replace(view, capacity=record)
            case Kind.ALIVE:
                view = replace(view, alive=record)
        if view.registration or view.settings or view.capacity or view.alive:
            cluster.instances[parsed.instance] = view
        else:
            cluster.instances.pop(parsed.instance, None)

    @staticmethod
    def _put_service(cluster: _Cluster, parsed: Parsed, record: At[Any] | None) -> None:
        view = cluster.services.get(parsed.service)
        if view is None:
            view = ServiceView(cluster=parsed.cluster, name=parsed.service)
        view = (
            replace(view, desired=record) if parsed.kind is Kind.SERVICE else replace(view, progress=record)
        )
        _set(cluster.services, parsed.service, view if view.desired or view.progress else None)

    @staticmethod
    def _put_task(cluster: _Cluster, parsed: Parsed, record: At[Any] | None) -> None:
        where = (parsed.instance, parsed.task)
        view = cluster.tasks.get(where)
        if view is None:
            view = TaskView(cluster=parsed.cluster, instance=parsed.instance, id=parsed.task)
        observed = parsed.kind is Kind.STATUS
        view = replace(view, observed=record) if observed else replace(view, desired=record)
        if view.desired or view.observed:
            cluster.tasks[where] = view
            cluster.by_instance.setdefault(parsed.instance, set()).add(parsed.task)
        else:
            cluster.tasks.pop(where, None)
            cluster.by_instance.get(parsed.instance, set()).discard(parsed.task)
        if view.desired:
            cluster.by_id[parsed.task] = where
        elif cluster.by_id.get(parsed.task) == where:
            del cluster.by_id[parsed.task]


K = TypeVar("K")
V = TypeVar("V")


def _set(into: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value


_RECORDS: Mapping[Kind, type[Record]] = {
    Kind.CLUSTER: Cluster,
    Kind.INSTANCE: ContainerInstance,
    Kind.CAPACITY: Capacity,
    Kind.ALIVE: Alive,
    Kind.TASK: Task,
    Kind.STATUS: TaskStatus,
    Kind.SETTINGS: InstanceSettings,
    Kind.SERVICE: Service,
    Kind.ROLLOUT: Rollout,
    Kind.SERVICE_TASK: ServiceTask,
    Kind.TOKEN: Token,
    Kind.QUEUE: QueuedRun,
    Kind.TASK_DEFINITION: TaskDefinition,
    Kind.ACCOUNT: AccountSetting,
}
