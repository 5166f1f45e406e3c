"""Services: what people want of one is written here, and done by the service scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api import present_services as present
from api.calls import Call, Handler
from api.errors import ApiError, invalid, service_not_found, unsupported
from api.expressions import check_constraint
from api.find import cluster_of, definition_of, missing, require_cluster, require_service, service_of, tags_of
from api.pages import page
from api.running import CONSTRAINTS_MAX, LAUNCH_TYPES, strategy_of
from cluster import offers
from cluster.codec import RecordInvalid
from cluster.keys import NameInvalid, check_name
from cluster.records import (
    Deployment,
    RolloutState,
    SchedulingStrategy,
    Service,
    ServiceStatus,
    deployment_id,
)
from cluster.state import ClusterState, ServiceView
from journal.offers import Offer

DESCRIBED_MAX = 10
LISTED = 10
COUNT_MAX = 5_000

KEPT = (
    "loadBalancers",
    "serviceRegistries",
    "networkConfiguration",
    "platformVersion",
    "healthCheckGracePeriodSeconds",
    "availabilityZoneRebalancing",
    "enableExecuteCommand",
    "enableECSManagedTags",
    "serviceConnectConfiguration",
)
"""Parameters that are kept as they come; what nothing here acts on is shown again by DescribeServices."""
DEPLOYED = ("networkConfiguration", "platformVersion", "loadBalancers", "serviceRegistries")
"""Of these, what a change of makes a new deployment."""


async def create_service(call: Call) -> Mapping[str, Any]:
    """Create a service, or find that it was created by the same call before."""
    cluster = cluster_of(call)
    name = call.get("serviceName", "")
    try:
        check_name(name, "service")
    except NameInvalid as error:
        raise invalid(str(error)) from None
    _refuse_unsupported(call)
    deployment = deployment_id(call.api.rng.getrandbits(63))

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        require_cluster(state, cluster)
        wanted = _new(call, state, deployment)
        view = state.service(cluster, name)
        if view is None or view.desired is None:
            return offers.create_service(cluster, wanted, at=state.revision), None
        before = view.service
        if before.status is ServiceStatus.ACTIVE:
            if _is_same(before, wanted):
                return None, None
            raise invalid("Creation of service was not idempotent.")
        if before.status is ServiceStatus.DRAINING:
            raise invalid("Unable to Start a service that is still Draining.")
        return offers.create_service(
            cluster, wanted, at=state.revision, before=before, revision=view.desired.revision
        ), None

    await call.change(decide)
    return _shown(call, cluster, name)


def _new(call: Call, state: ClusterState, deployment: str) -> Service:
    """Return the record of the service that the call wants. Raises ``ApiError``."""
    if call.get("taskDefinition") is None:
        raise invalid("TaskDefinition cannot be empty.")
    definition = definition_of(state, call.arns, call.get("taskDefinition"))
    strategy = SchedulingStrategy(call.get("schedulingStrategy", "REPLICA"))
    count = call.get("desiredCount")
    if strategy is SchedulingStrategy.REPLICA and count is None:
        raise invalid("desiredCount is required for a service of the scheduling strategy REPLICA.")
    if strategy is SchedulingStrategy.DAEMON and (count or call.get("placementStrategy")):
        what = "desiredCount" if count else "placementStrategy"
        raise invalid(f"The daemon scheduling strategy does not support {what}.")
    now, launch_type = call.now(), call.get("launchType", "EC2")
    fields = {
        "serviceName": call.get("serviceName"),
        "taskDefinition": definition.name,
        "schedulingStrategy": strategy,
        "desiredCount": _count(count or 0),
        "launchType": launch_type,
        "roleArn": call.get("role", ""),
        "propagateTags": call.get("propagateTags", "NONE"),
        "clientToken": call.get("clientToken", ""),
        "createdAt": now,
        "createdBy": call.arns.principal(),
        "placementConstraints": _constraints(call),
        "placementStrategy": present.maps(strategy_of(call)),
        "deploymentConfiguration": _configuration(call),
        **{name: call.get(name) for name in KEPT if call.get(name) is not None},
    }
    first = Deployment(
        id=deployment,
        task_definition=definition.name,
        created_at=now,
        updated_at=now,
        launch_type=launch_type,
    )
    return replace(_record(fields), deployments=(first,), tags=tags_of(call.get("tags", [])))


def _record(fields: Mapping[str, Any]) -> Service:
    try:
        return Service.from_map(dict(fields))
    except RecordInvalid as error:
        raise invalid(str(error)) from None


def _is_same(before: Service, wanted: Service) -> bool:
    """Say whether a service is what a repeated call to create it would create."""
    if wanted.client_token != before.client_token:
        return False
    return replace(wanted, created_at=before.created_at, deployments=before.deployments) == before


# -- changing -------------------------------------------------------------------------


async def update_service(call: Call) -> Mapping[str, Any]:
    """Change what is wanted of a service; another definition, or force, makes a new deployment."""
    cluster = cluster_of(call)
    view = require_service(call, cluster, call.get("service", ""))
    _refuse_unsupported(call)
    deployment = deployment_id(call.api.rng.getrandbits(63))

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        now = state.service(cluster, view.name)
        if now is None or now.desired is None:
            raise service_not_found()
        if now.service.status is not ServiceStatus.ACTIVE:
            raise ApiError("ServiceNotActiveException", "Service was not ACTIVE.")
        new = _changed(call, state, now, deployment)
        if new == now.service:
            return None, None
        return offers.change_service(cluster, now.service, new, now.desired.revision), None

    await call.change(decide)
    return _shown(call, cluster, view.name)


def _changed(call: Call, state: ClusterState, view: ServiceView, deployment: str) -> Service:
    """Return a service's record with what the call says of it. Raises ``ApiError``."""
    before = view.service
    fields = before.to_map()
    fields.update({name: call.get(name) for name in KEPT if call.get(name) is not None})
    if call.get("propagateTags") is not None:
        fields["propagateTags"] = call.get("propagateTags")
    if call.get("desiredCount") is not None:
        if not before.is_replica:
            raise invalid("The daemon scheduling strategy does not support desiredCount.")
        fields["desiredCount"] = _count(call.get("desiredCount"))
    if call.get("placementConstraints") is not None:
        fields["placementConstraints"] = _constraints(call)
    if call.get("placementStrategy") is not None:
        if not before.is_replica and call.get("placementStrategy"):
            raise invalid("The daemon scheduling strategy does not support placementStrategy.")
        fields["placementStrategy"] = present.maps(strategy_of(call))
    if call.get("deploymentConfiguration") is not None:
        fields["deploymentConfiguration"] = {
            **fields.get("deploymentConfiguration", {}),
            **_configuration(call),
        }
    definition = before.task_definition
    if call.get("taskDefinition") is not None:
        definition = definition_of(state, call.arns, call.get("taskDefinition")).name
        fields["taskDefinition"] = definition
    new = _record(fields)
    deploys = (
        definition != before.task_definition
        or call.get("forceNewDeployment", False)
        or any(_member(new, name) != _member(before, name) for name in DEPLOYED)
    )
    if deploys:
        now = call.now()
        latest = Deployment(
            id=deployment,
            task_definition=definition,
            created_at=now,
            updated_at=now,
            launch_type=before.launch_type,
        )
        return replace(new, deployments=(latest, *_kept(state, view)))
    if new != before and before.deployments:
        primary = replace(before.deployments[0], updated_at=call.now())
        return replace(new, deployments=(primary, *before.deployments[1:]))
    return new


def _kept(state: ClusterState, view: ServiceView) -> tuple[Deployment, ...]:
    """Return the deployments that a new one follows: those that have tasks, the PRIMARY one, and the
    newest that was completed, to roll back to. So the record stays small, whoever updates how often."""
    lines = state.service_index(view.cluster, view.name).values()
    with_tasks = {line.record.deployment for line in lines}
    kept: list[Deployment] = []
    is_completed_kept = False
    for number, one in enumerate(view.service.deployments):
        progress = view.rollout.deployment(one.id)
        is_completed = progress is not None and progress.rollout_state is RolloutState.COMPLETED
        if number == 0 or one.id in with_tasks or (is_completed and not is_completed_kept):
            kept.append(one)
        is_completed_kept = is_completed_kept or is_completed
    return tuple(kept)


def _member(service: Service, name: str) -> Any:
    return service.to_map().get(name)


async def delete_service(call: Call) -> Mapping[str, Any]:
    """Let a service end: its tasks are stopped, and then it is INACTIVE. It stays describable."""
    cluster = cluster_of(call)
    view = require_service(call, cluster, call.get("service", ""))

    def decide(state: ClusterState) -> tuple[Offer | None, None]:
        now = state.service(cluster, view.name)
        if now is None or now.desired is None:
            raise service_not_found()
        before = now.service
        if before.status is ServiceStatus.INACTIVE:
            raise service_not_found()
        if before.status is ServiceStatus.DRAINING:
            return None, None
        if before.is_replica and before.desired_count > 0 and not call.get("force", False):
            raise invalid("The service cannot be stopped while it is scaled above 0.")
        draining = replace(before, status=ServiceStatus.DRAINING, desired_count=0)
        if state.service_index(cluster, view.name):
            return offers.change_service(cluster, before, draining, now.desired.revision), None
        closed = replace(draining, status=ServiceStatus.INACTIVE, deployments=())
        offer = offers.close_service(cluster, before, closed, now.desired.revision, at=state.revision)
        return offer, None

    await call.change(decide)
    return _shown(call, cluster, view.name)


# -- looking --------------------------------------------------------------------------


async def describe_services(call: Call) -> Mapping[str, Any]:
    cluster = cluster_of(call)
    found, failures = [], []
    for given in call.limited("services", DESCRIBED_MAX):
        view = service_of(call, cluster, given)
        if view is None:
            failures.append(missing(call.arns.service(cluster, given.rpartition("/")[2])))
        else:
            found.append(present.service(call, view, with_tags=call.includes("TAGS")))
    return {"services": found, "failures": failures}


async def list_services(call: Call) -> Mapping[str, Any]:
    """List the services that are not INACTIVE, by name."""
    cluster = cluster_of(call)
    wanted = page("ListServices", call.params, usual=LISTED)
    strategy = call.get("schedulingStrategy")
    found = call.state.list_services(
        cluster,
        strategy=SchedulingStrategy(strategy) if strategy else None,
        launch_type=call.get("launchType"),
        after=wanted.after or None,
        limit=wanted.size,
    )
    return {
        "serviceArns": [call.arns.service(cluster, view.name) for view in found.items],
        "nextToken": wanted.next(found.more, found.items[-1].name if found.items else ""),
    }


# -- what calls have in common --------------------------------------------------------


def _count(count: int) -> int:
    if not 0 <= count <= COUNT_MAX:
        raise invalid(f"desiredCount must be between 0 and {COUNT_MAX}.")
    return count


def _constraints(call: Call) -> list[Mapping[str, Any]]:
    given = call.limited("placementConstraints", CONSTRAINTS_MAX, least=0)
    for constraint in given:
        check_constraint(constraint, invalid)
    return given


def _configuration(call: Call) -> dict[str, Any]:
    """Return ``deploymentConfiguration``, checked. Raises ``ApiError``."""
    given = {
        name: value
        for name, value in (call.get("deploymentConfiguration") or {}).items()
        if value is not None
    }
    if given.get("strategy", "ROLLING") != "ROLLING":
        raise unsupported("deploymentConfiguration.strategy: only ROLLING is supported here.")
    for name in ("alarms", "lifecycleHooks", "linearConfiguration", "canaryConfiguration"):
        if given.get(name):
            raise unsupported(f"deploymentConfiguration.{name} is not supported here.")
    least, most = given.get("minimumHealthyPercent"), given.get("maximumPercent")
    if least is not None and not 0 <= least <= 100:
        raise invalid("minimumHealthyPercent must be between 0 and 100.")
    if most is not None and not 0 < most <= 20_000:
        raise invalid("maximumPercent must be between 1 and 20000.")
    if (most if most is not None else 200) == 100 and least == 100:
        raise invalid("maximumPercent 100 and minimumHealthyPercent 100 would let no deployment go on.")
    return given


def _refuse_unsupported(call: Call) -> None:
    controller = (call.get("deploymentController") or {}).get("type", "ECS")
    if controller != "ECS":
        raise unsupported(f"deploymentController {controller} is not supported here.")
    launch_type = call.get("launchType", "EC2")
    if launch_type not in LAUNCH_TYPES:
        raise unsupported(f"launchType {launch_type}: tasks run on container instances of your own here.")
    for name in ("capacityProviderStrategy", "volumeConfigurations", "vpcLatticeConfigurations"):
        if call.get(name):
            raise unsupported(f"{name} is not supported here.")


def _shown(call: Call, cluster: str, name: str) -> Mapping[str, Any]:
    view: ServiceView | None = call.state.service(cluster, name)
    if view is None:
        raise service_not_found()
    return {"service": present.service(call, view, with_tags=True)}


HANDLERS: Mapping[str, Handler] = {
    "CreateService": create_service,
    "UpdateService": update_service,
    "DeleteService": delete_service,
    "DescribeServices": describe_services,
    "ListServices": list_services,
}
