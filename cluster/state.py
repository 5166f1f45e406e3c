"""``ClusterState``: the cluster as a scheduler sees it, folded from commits. PURE.

The state library: typed and indexed, and it says at which revision it stands. Feed it a
snapshot with ``load`` (or page by page with ``loading``) and then every commit with ``apply``;
``cluster.feed`` does that from a tail. A reload swaps everything at once: whoever looks sees
the state before it or after it.

A listing costs what its page holds, a lookup does not grow with the cluster (``cluster.indexes``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from cluster import keys
from cluster.indexes import Label, Page
from cluster.records import (
    AccountSetting,
    Capacity,
    Cluster,
    DefinitionStatus,
    DesiredStatus,
    InstanceStatus,
    LastStatus,
    QueuedRun,
    SchedulingStrategy,
    ServiceStatus,
    ServiceTask,
    Slot,
    TaskDefinition,
    Token,
)
from cluster.tables import ALL, LIVE, ClusterTables, Tables
from cluster.views import At, Counts, InstanceView, Phase, ServiceView, TaskView
from journal.types import Revision

__all__ = [
    "At",
    "ClusterState",
    "Counts",
    "InstanceView",
    "Loading",
    "Page",
    "Phase",
    "ServiceView",
    "TaskView",
]

_NO_TABLES = ClusterTables()
_NO_COUNTS = Counts()


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


class Loading:
    """A state that is being read in pages. Nothing is seen of it before ``finish``."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._tables = Tables()

    def put(self, items: Iterable[tuple[bytes, bytes, Revision]]) -> None:
        """Take in (key, value, modification revision)."""
        for key, value, modified in items:
            self._tables.put(key, value, modified)

    def finish(self, revision: Revision) -> None:
        """Let everybody see it, at ``revision``."""
        self._state._tables = self._tables
        self._state.revision = revision


class ClusterState:
    """Every cluster and task definition of a journal, at one revision."""

    def __init__(self) -> None:
        self.revision = Revision(0)
        self._tables = Tables()

    # -- feeding it ---------------------------------------------------------------

    def loading(self) -> Loading:
        """Begin to forget everything and start anew."""
        return Loading(self)

    def load(self, items: Iterable[tuple[bytes, bytes, Revision]], revision: Revision) -> None:
        """Forget everything and start from (key, value, modification revision) at ``revision``."""
        loading = self.loading()
        loading.put(items)
        loading.finish(revision)

    def apply(self, commit: CommitLike) -> None:
        """Fold one commit. Raises ``ValueError`` if it is not after the state's revision."""
        if commit.revision <= self.revision:
            raise ValueError(f"commit {commit.revision} comes after revision {self.revision} was folded")
        for change in commit.changes:
            self._tables.put(change.key, change.value, commit.revision)
        self.revision = commit.revision

    def advance(self, revision: Revision) -> None:
        """Nothing of the cluster changed up to ``revision``."""
        self.revision = max(self.revision, revision)

    @property
    def invalid(self) -> Mapping[bytes, str]:
        """Return the keys whose record breaks its form (and counts as absent), with the reason."""
        return self._tables.invalid

    def _of(self, cluster: str) -> ClusterTables:
        found: ClusterTables = self._tables.clusters.get(cluster, _NO_TABLES)
        return found

    # -- clusters -----------------------------------------------------------------

    @property
    def clusters(self) -> Mapping[str, Cluster]:
        """Return the clusters that have a record, INACTIVE ones too, by name, in order."""
        return {name: of.record.record for name, of in self._tables.clusters.items() if of.record is not None}

    def cluster_names(self) -> list[str]:
        """Return the names of all clusters of which there is anything, in order."""
        return list(self._tables.clusters)

    def cluster(self, name: str) -> At[Cluster] | None:
        return self._of(name).record

    def counts(
        self,
        cluster: str,
        *,
        instance: str | None = None,
        group: str | None = None,
        started_by: str | None = None,
    ) -> Counts:
        """Return how many tasks run, are pending and are stopping: of all, or of one of these.

        What is returned goes with the state: copy what is to stay.
        """
        given = (("instance", instance), ("group", group), ("startedBy", started_by))
        labels: list[Label] = [(name, value) for name, value in given if value is not None]
        if len(labels) > 1:
            raise ValueError("counts are kept by instance, by group or by startedBy, not by two of them")
        return self._of(cluster).counts.get(labels[0] if labels else ALL, _NO_COUNTS)

    def instance_count(self, cluster: str, status: InstanceStatus | None = None) -> int:
        """Return how many instances are registered (of one status; None: all but INACTIVE ones)."""
        return self._of(cluster).instance_index.count(("status", status) if status else LIVE)

    def service_count(self, cluster: str, status: ServiceStatus = ServiceStatus.ACTIVE) -> int:
        return self._of(cluster).service_index.count(("status", status))

    # -- container instances --------------------------------------------------------

    def instances(self, cluster: str) -> list[InstanceView]:
        """Return every registered instance of a cluster, in the order of ids."""
        of = self._of(cluster)
        return [of.instances[member] for member in of.instance_index.of(ALL)]

    def instance_ids(self, cluster: str) -> Sequence[str]:
        """Return the ids of every registered instance, in order. It goes with the state."""
        return self._of(cluster).instance_index.members(ALL)

    def instance(self, cluster: str, instance: str) -> InstanceView | None:
        view = self._of(cluster).instances.get(instance)
        return view if view and view.registration else None

    def list_instances(
        self,
        cluster: str,
        *,
        status: InstanceStatus | None = None,
        keep: Callable[[InstanceView], bool] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[InstanceView]:
        """Return a page of instances, in the order of ids; ``status`` None: all but INACTIVE ones."""
        of = self._of(cluster)

        def make(member: str) -> InstanceView | None:
            view = of.instances[member]
            return view if keep is None or keep(view) else None

        labels: list[Label] = [("status", status) if status else LIVE]
        return of.instance_index.page(labels, after, limit, make)

    def instances_with(self, cluster: str, attribute: str, value: str | None = None) -> list[InstanceView]:
        """Return the instances that have an attribute (of that value; None: any), in the order of ids."""
        label: Label = ("attribute", attribute) if value is None else ("attribute", attribute, value)
        of = self._of(cluster)
        return [of.instances[member] for member in of.instance_index.of(label)]

    def groups_on(self, cluster: str, instance: str) -> Mapping[str, int]:
        """Return how many tasks of each group are on an instance that have not stopped."""
        return self._of(cluster).groups.get(instance, {})

    def wanted_on(self, cluster: str, instance: str) -> Mapping[str, int]:
        """Return the same without the tasks that are to stop: what ``distinctInstance`` and ``spread`` count,
        as ECS does."""
        return self._of(cluster).wanted.get(instance, {})

    def wanted(self, cluster: str) -> Mapping[str, Mapping[str, int]]:
        """Return that of every instance that has any, by instance. It goes with the state."""
        return self._of(cluster).wanted

    def claimed(self, cluster: str, instance: str) -> Capacity:
        """Return what the tasks of an instance hold: every task that was not reported STOPPED.

        Together with what is left it is always what was registered (ports: with those that the
        machine keeps for itself); tests check that.
        """
        claims = [view.task.claim for view in self.tasks(cluster, instance=instance) if not view.stopped]
        named: dict[str, int] = {}
        for claim in claims:
            for name, number in claim.resources.items():
                named[name] = named.get(name, 0) + number
        return Capacity(
            cpu=sum(claim.cpu for claim in claims),
            memory=sum(claim.memory for claim in claims),
            ports=tuple(sorted(port for claim in claims for port in claim.ports)),
            ports_udp=tuple(sorted(port for claim in claims for port in claim.ports_udp)),
            resources=named,
        )

    # -- tasks ----------------------------------------------------------------------

    def tasks(
        self,
        cluster: str,
        *,
        instance: str | None = None,
        family: str | None = None,
        group: str | None = None,
        started_by: str | None = None,
        desired: DesiredStatus | None = None,
        last: LastStatus | None = None,
    ) -> list[TaskView]:
        """Return the tasks of a cluster that fit, oldest first."""
        of = self._of(cluster)
        labels = _task_labels(instance, family, group, started_by, desired, last, None)
        views = [of.tasks[member] for member in of.task_index.walk(labels)]
        return sorted(views, key=lambda view: (view.task.created_at, view.id))

    def list_tasks(
        self,
        cluster: str,
        *,
        instance: str | None = None,
        family: str | None = None,
        service: str | None = None,
        started_by: str | None = None,
        desired: DesiredStatus | None = None,
        last: LastStatus | None = None,
        launch_type: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[TaskView]:
        """Return a page of the tasks that fit, in the order of ids."""
        of = self._of(cluster)
        group = None if service is None else f"service:{service}"
        labels = _task_labels(instance, family, group, started_by, desired, last, launch_type)
        # Nothing is between an id and itself with the highest instance's name.
        place = None if after is None else (after, "\U0010ffff")
        return of.task_index.page(labels, place, limit, of.tasks.__getitem__)

    def task(self, cluster: str, task_id: str) -> TaskView | None:
        of = self._of(cluster)
        where = of.where.get(task_id)
        return of.tasks[where] if where else None

    def tasks_with_prefix(self, cluster: str, prefix: str) -> list[TaskView]:
        """Return the tasks whose id starts with ``prefix``, as people abbreviate ids; the exact one alone.

        Oldest first.
        """
        exact = self.task(cluster, prefix)
        if exact:
            return [exact]
        of = self._of(cluster)
        views: list[TaskView] = []
        for member in of.task_index.walk([ALL], start=(prefix, "")):
            if not member[0].startswith(prefix):
                break
            views.append(of.tasks[member])
        return sorted(views, key=lambda view: (view.task.created_at, view.id))

    # -- task definitions -----------------------------------------------------------

    def definition(self, name: str) -> At[TaskDefinition] | None:
        """Return ``family:revision``, or the latest ACTIVE revision of a bare ``family``."""
        if ":" in name:
            family, revision = keys.split_definition(name)
            found: At[TaskDefinition] | None = self._tables.families.get(family, {}).get(revision)
            return found
        labels: list[Label] = [("family", name, DefinitionStatus.ACTIVE)]
        latest = next(self._tables.definition_index.walk(labels, descending=True), None)
        return self._tables.families[name][latest[1]] if latest else None

    def family(self, family: str) -> list[At[TaskDefinition]]:
        """Return all revisions of a family, in order."""
        return list(self._tables.families.get(family, {}).values())

    def family_names(self) -> list[str]:
        """Return all families, in order."""
        return sorted(self._tables.families)

    def list_definitions(
        self,
        *,
        family: str | None = None,
        status: DefinitionStatus | None = DefinitionStatus.ACTIVE,
        after: tuple[str, int] | None = None,
        limit: int = 100,
        descending: bool = False,
    ) -> Page[At[TaskDefinition]]:
        """Return a page of revisions, by family and number; ``after`` is (family, revision)."""
        label: Label = (("family", family) if family is not None else ()) + ((str(status),) if status else ())
        if family is None:
            label = ("status", *label) if status else ALL
        return self._tables.definition_index.page(
            [label], after, limit, lambda one: self._tables.families[one[0]][one[1]], descending=descending
        )

    def list_families(
        self,
        *,
        prefix: str = "",
        status: DefinitionStatus | None = DefinitionStatus.ACTIVE,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[str]:
        """Return a page of families that begin with ``prefix`` and have a revision of that status.

        INACTIVE: those that have no ACTIVE one.
        """
        labels: list[Label] = [("status", status) if status else ALL]
        names: list[str] = []
        for name in self._tables.family_index.walk(labels, after, start=prefix):
            if not name.startswith(prefix):
                break
            if len(names) == limit:
                return Page(tuple(names), more=True)
            names.append(name)
        return Page(tuple(names), more=False)

    # -- services -------------------------------------------------------------------

    def services(self, cluster: str) -> list[ServiceView]:
        """Return the services of a cluster, INACTIVE ones too, in the order of names."""
        of = self._of(cluster)
        return [of.services[member] for member in of.service_index.of(ALL)]

    def service(self, cluster: str, name: str) -> ServiceView | None:
        view = self._of(cluster).services.get(name)
        return view if view and view.desired else None

    def list_services(
        self,
        cluster: str,
        *,
        strategy: SchedulingStrategy | None = None,
        launch_type: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[ServiceView]:
        """Return a page of the services that are not INACTIVE, in the order of names."""
        of = self._of(cluster)
        labels = [LIVE, *_given(strategy=strategy, launchType=launch_type)]
        return of.service_index.page(labels, after, limit, of.services.__getitem__)

    def services_of_definition(self, cluster: str, name: str) -> list[ServiceView]:
        """Return the ACTIVE services that have a deployment of a definition (``family:revision``)."""
        of = self._of(cluster)
        return [of.services[member] for member in of.service_index.of(("definition", name))]

    def service_tasks(self, cluster: str, name: str) -> list[TaskView]:
        """Return the tasks in a service's index, in the order of ids: those that count as the service's."""
        views = (self.task(cluster, task_id) for task_id in self.service_index(cluster, name))
        return [view for view in views if view is not None]

    def service_index(self, cluster: str, name: str) -> Mapping[str, At[ServiceTask]]:
        """Return the lines of a service's index, by task."""
        lines: Mapping[str, At[ServiceTask]] = self._of(cluster).service_tasks.get(name, {})
        return lines

    # -- the rest ---------------------------------------------------------------------

    def token(self, cluster: str, client_token: str) -> At[Token] | None:
        """Return what a request's ``clientToken`` stands for."""
        return self._of(cluster).tokens.get(keys.token(cluster, client_token))

    def tokens(self, cluster: str) -> Mapping[bytes, At[Token]]:
        """Return all tokens' records by key, for whoever forgets the old ones."""
        return self._of(cluster).tokens

    def queue(self, cluster: str) -> Mapping[str, At[QueuedRun]]:
        """Return the runs that wait, by name, in the order of priority and age."""
        waiting: Mapping[str, At[QueuedRun]] = self._of(cluster).queue
        return waiting

    def slots(self, cluster: str, owner: str) -> Mapping[str, At[Slot]]:
        """Return the slots that a scheduler has filled or freed, by name, in order."""
        found: Mapping[str, At[Slot]] = self._of(cluster).slots.get(owner, {})
        return found

    def account_setting(self, name: str, principal_arn: str = "") -> AccountSetting | None:
        """Return a principal's setting, or everybody's where it has none of its own."""
        accounts = self._tables.accounts
        at = accounts.get(keys.account_setting(name, principal_arn)) or accounts.get(
            keys.account_setting(name)
        )
        return at.record if at else None

    def account_settings(self) -> list[AccountSetting]:
        """Return all settings, in the order of names and principals; "" is everybody's."""
        settings = (at.record for at in self._tables.accounts.values())
        return sorted(settings, key=lambda setting: (setting.name, setting.principal_arn))


def _task_labels(
    instance: str | None,
    family: str | None,
    group: str | None,
    started_by: str | None,
    desired: DesiredStatus | None,
    last: LastStatus | None,
    launch_type: str | None,
) -> list[Label]:
    return _given(
        instance=instance,
        family=family,
        group=group,
        startedBy=started_by,
        desired=desired,
        last=last,
        launchType=launch_type,
    ) or [ALL]


def _given(**labels: str | None) -> list[Label]:
    return [(name, value) for name, value in labels.items() if value is not None]
