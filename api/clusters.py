"""Clusters: create, change, describe, list, delete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api import present
from api.calls import Call, Handler
from api.errors import ApiError, cluster_not_found, invalid
from api.find import cluster_of, missing, tags_of
from api.pages import page
from cluster import offers
from cluster.codec import RecordInvalid
from cluster.keys import NameInvalid, check_name
from cluster.records import Cluster, ClusterStatus, ServiceStatus
from cluster.state import At, ClusterState
from journal.offers import Offer

DESCRIBED_MAX = 100
SETTINGS = {"containerInsights": ("enabled", "disabled", "enhanced")}


async def create_cluster(call: Call) -> Mapping[str, Any]:
    """Create a cluster; where there is an ACTIVE one of that name, return it as it is."""
    name = call.get("clusterName", "default")
    try:
        check_name(name, "cluster")
    except NameInvalid as error:
        raise invalid(str(error)) from None
    wanted = _record(call, Cluster(cluster_name=name, created_at=call.now()))

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        at = state.cluster(name)
        if at is None:
            return offers.create_cluster(name, wanted), None
        if at.record.status is ClusterStatus.ACTIVE:
            return None, None
        return offers.create_cluster(name, wanted, before=at.record, revision=at.revision), None

    await call.change(decide)
    return _shown(call, name)


async def update_cluster(call: Call) -> Mapping[str, Any]:
    """Change settings, configuration and defaults; what is not given stays."""
    name = cluster_of(call)
    return await _change(call, name, lambda record: _record(call, record))


async def put_cluster_capacity_providers(call: Call) -> Mapping[str, Any]:
    """Keep which capacity providers a cluster names. None of them does anything here."""
    return await _change(call, cluster_of(call), lambda record: _record(call, record))


async def describe_clusters(call: Call) -> Mapping[str, Any]:
    named = call.get("clusters") or ["default"]
    if len(named) > DESCRIBED_MAX:
        raise invalid(f"clusters can have at most {DESCRIBED_MAX} items.")
    found, failures = [], []
    for given in named:
        name = call.arns.read_cluster(given)
        at = call.state.cluster(name)
        if at is None:
            failures.append(missing(call.arns.cluster(name)))
        else:
            found.append(present.cluster(call, at.record))
    return {"clusters": found, "failures": failures}


async def list_clusters(call: Call) -> Mapping[str, Any]:
    wanted = page("ListClusters", call.params)
    active = (
        name
        for name, record in call.state.clusters.items()
        if record.status is ClusterStatus.ACTIVE and name > wanted.after
    )
    names, token = wanted.cut(active, str)
    return {"clusterArns": [call.arns.cluster(name) for name in names], "nextToken": token}


async def delete_cluster(call: Call) -> Mapping[str, Any]:
    """Make a cluster INACTIVE that has no instances, tasks and services. It stays describable."""
    name = call.arns.read_cluster(call.get("cluster"))

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        at = state.cluster(name)
        if at is None:
            raise cluster_not_found()
        if at.record.status is ClusterStatus.INACTIVE:
            return None, None
        _require_empty(state, name)
        return offers.delete_cluster(at.record, at.revision, at=state.revision), None

    await call.change(decide)
    return _shown(call, name)


def _require_empty(state: ClusterState, name: str) -> None:
    if any(state.service_count(name, status) for status in (ServiceStatus.ACTIVE, ServiceStatus.DRAINING)):
        raise ApiError(
            "ClusterContainsServicesException", "The Cluster cannot be deleted while Services are active."
        )
    if state.instance_count(name):
        raise ApiError(
            "ClusterContainsContainerInstancesException",
            "The Cluster cannot be deleted while Container Instances are active or draining.",
        )
    if state.counts(name).live:
        raise ApiError(
            "ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active."
        )


async def _change(call: Call, name: str, changed: Any) -> Mapping[str, Any]:
    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        at = state.cluster(name)
        if at is None or at.record.status is not ClusterStatus.ACTIVE:
            raise cluster_not_found()
        new = changed(at.record)
        return (None if new == at.record else offers.change_cluster(at.record, new, at.revision)), None

    await call.change(decide)
    return _shown(call, name)


def _record(call: Call, before: Cluster) -> Cluster:
    """Return a cluster's record with what the call says of it. Raises ``ApiError``."""
    for setting in call.get("settings", []):
        allowed = SETTINGS.get(setting.get("name") or "")
        if allowed is None:
            raise invalid("settings: a setting needs the name containerInsights.")
        if setting.get("value") not in allowed:
            raise invalid(f"settings: containerInsights is one of {', '.join(allowed)}.")
    fields = before.to_map()
    for name in (
        "settings",
        "configuration",
        "capacityProviders",
        "defaultCapacityProviderStrategy",
        "serviceConnectDefaults",
    ):
        if call.get(name) is not None:
            fields[name] = call.get(name)
    try:
        record = Cluster.from_map(fields)
    except RecordInvalid as error:
        raise invalid(str(error)) from None
    tags = call.get("tags")
    return record if tags is None else replace(record, tags=tags_of(tags))


def _shown(call: Call, name: str) -> Mapping[str, Any]:
    at: At[Cluster] | None = call.state.cluster(name)
    if at is None:
        raise cluster_not_found()
    return {"cluster": present.cluster(call, at.record, everything=True)}


HANDLERS: Mapping[str, Handler] = {
    "CreateCluster": create_cluster,
    "UpdateCluster": update_cluster,
    "UpdateClusterSettings": update_cluster,
    "PutClusterCapacityProviders": put_cluster_capacity_providers,
    "DescribeClusters": describe_clusters,
    "ListClusters": list_clusters,
    "DeleteCluster": delete_cluster,
}
