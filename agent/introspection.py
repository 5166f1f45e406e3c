"""What the agent tells programs on its machine over HTTP, in the ECS agent's own form.

``/v1/metadata`` says who it is, ``/v1/tasks`` what it runs; ``?taskarn=`` (or the task's id) and
``?dockerid=`` (a container's id at its runtime, or its beginning) pick one task. It tells, and changes
nothing; it listens on this machine only, unless told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import trio
from structlog.typing import FilteringBoundLogger

from agent.lifecycle import essential_end, states_of
from agent.loop import Agent
from agent.model import LocalTask
from agent.statuses import task_status
from cluster.records import ContainerStatus, DesiredStatus
from journal.http import HttpServer, Page, Reply, Request, listeners

LISTEN_DEFAULT = "127.0.0.1:51678"
OFF = "off"
DOCKER_ID_CHARACTERS_MIN = 12
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Names:
    """What ARNs are made of."""

    region: str = "us-east-1"
    account: str = "123456789012"

    def arn(self, kind: str, cluster: str, name: str) -> str:
        return f"arn:aws:ecs:{self.region}:{self.account}:{kind}/{cluster}/{name}"


def pages(agent: Agent, names: Names, version: str) -> dict[str, Page]:
    """Return the pages of an agent, by path."""

    def metadata(_request: Request) -> Reply:
        arn = names.arn("container-instance", agent.cluster, agent.instance)
        return _json(
            {"Cluster": agent.cluster, "ContainerInstanceArn": arn, "Version": f"Synod Agent - v{version}"}
        )

    def tasks(request: Request) -> Reply:
        known = [_task(agent, names, local) for _, local in sorted(agent.local.items())]
        arn, docker_id = request.query.get("taskarn"), request.query.get("dockerid")
        if arn is None and docker_id is None:
            return _json({"Tasks": known})
        if arn is not None and docker_id is not None:
            return _error(HTTPStatus.BAD_REQUEST, "give taskarn or dockerid, not both")
        if not (arn or docker_id):
            return _error(HTTPStatus.BAD_REQUEST, "taskarn and dockerid must not be empty")
        found = [task for task in known if _is_meant(task, arn, docker_id)]
        if len(found) > 1:
            return _error(HTTPStatus.BAD_REQUEST, f"several containers begin with {docker_id}")
        return _json(found[0]) if found else _error(HTTPStatus.NOT_FOUND, f"no such task: {arn or docker_id}")

    return {"/v1/metadata": metadata, "/v1/tasks": tasks}


async def serve(agent: Agent, listen: str, names: Names, version: str, log: FilteringBoundLogger) -> None:
    """Serve until cancelled. Where the port is not to be had, say so, and let the agent go on without."""
    try:
        sockets = await listeners(listen)
    except (OSError, ValueError) as error:
        log.error("introspection.unavailable", listen=listen, reason=str(error))
        return
    log.info("introspection.listening", port=sockets[0].socket.getsockname()[1])
    await HttpServer(pages(agent, names, version), log).serve(sockets)


def _task(agent: Agent, names: Names, local: LocalTask) -> dict[str, Any]:
    states = states_of(local, agent.machine.containers)
    end = essential_end(local.containers, states)
    is_stopping = local.task.desired_status is DesiredStatus.STOPPED or end is not None
    reported = agent.reported.get(local.id)
    status = task_status(
        local,
        states,
        before=reported.record if reported else None,
        stopping=is_stopping,
        end=end,
        waits_for=None,
        wall=trio.current_time(),
    )
    return {
        "Arn": names.arn("task", agent.cluster, local.id),
        "DesiredStatus": str(DesiredStatus.STOPPED if is_stopping else DesiredStatus.RUNNING),
        "KnownStatus": str(status.last_status),
        "Family": local.definition.family,
        "Version": str(local.definition.revision),
        "Containers": [_container(local, container) for container in status.containers],
    }


def _container(local: LocalTask, status: ContainerStatus) -> dict[str, Any]:
    told: dict[str, Any] = {
        "DockerId": status.runtime_id or "",
        "DockerName": f"synod-{local.id}-{status.name}",
        "Name": status.name,
        "Image": local.container(status.name).image,
        "KnownStatus": str(status.last_status),
        "RestartCount": status.restart_count,
    }
    if status.health_status is not None:
        told["Health"] = str(status.health_status)
    if status.network_bindings:
        told["Ports"] = [
            {
                "ContainerPort": binding.container_port,
                "Protocol": str(binding.protocol),
                "HostPort": binding.host_port,
            }
            for binding in status.network_bindings
        ]
    return told


def _is_meant(task: Mapping[str, Any], arn: str | None, docker_id: str | None) -> bool:
    if arn is not None:
        return arn in (task["Arn"], task["Arn"].rpartition("/")[2])
    assert docker_id is not None
    ids = [container["DockerId"] for container in task["Containers"]]
    is_short = len(docker_id) >= DOCKER_ID_CHARACTERS_MIN
    return docker_id in ids or (is_short and any(each.startswith(docker_id) for each in ids))


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Reply:
    return Reply(json.dumps(value).encode() + b"\n", status, JSON)


def _error(status: HTTPStatus, why: str) -> Reply:
    return _json({"error": why}, status)
