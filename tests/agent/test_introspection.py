"""What an agent tells programs on its machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import trio
from structlog.testing import LogCapture
from trio.testing import MockClock

from agent.introspection import Names, pages, serve
from agent.loop import Agent
from agent.model import ContainerState, Phase
from agent.runtime import MemoryRuntime
from cluster.records import ContainerDefinition, HealthCheck, HealthStatus, NetworkBinding
from journal.http import Request
from tests.agent.world import memory_runtime, world

NAMES = Names("eu-west-9", "210987654321")


def ask(agent: Agent, path: str, **query: str) -> tuple[int, Any]:
    reply = pages(agent, NAMES, "1.2")[path](Request({}, query))
    assert reply.content_type == "application/json"
    return int(reply.status), json.loads(reply.body)


async def test_who_it_is_and_what_it_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with world(tmp_path) as here:
        runtime = docker_like()
        agent = (await here.start_agent(runtime)).agent
        await here.until_connected()
        assert ask(agent, "/v1/metadata") == (
            200,
            {
                "Cluster": "default",
                "ContainerInstanceArn": "arn:aws:ecs:eu-west-9:210987654321:container-instance/default/i-a",
                "Version": "Synod Agent - v1.2",
            },
        )
        assert ask(agent, "/v1/tasks") == (200, {"Tasks": []})
        check = HealthCheck(command=("CMD", "true"))
        main = ContainerDefinition(name="main", image="web:1", command=("x",), health_check=check)
        definition = await here.define(main)
        one, two = [await here.run_one(definition, seed) for seed in (1, 2)]
        for task in (one, two):
            await here.until_status(task, "RUNNING")
        told = {
            "Arn": f"arn:aws:ecs:eu-west-9:210987654321:task/default/{one}",
            "DesiredStatus": "RUNNING",
            "KnownStatus": "RUNNING",
            "Family": "f",
            "Version": "1",
            "Containers": [
                {
                    "DockerId": f"{one}-0123456789abcdef",
                    "DockerName": f"synod-{one}-main",
                    "Name": "main",
                    "Image": "web:1",
                    "KnownStatus": "RUNNING",
                    "RestartCount": 0,
                    "Health": "HEALTHY",
                    "Ports": [{"ContainerPort": 80, "Protocol": "tcp", "HostPort": 32768}],
                }
            ],
        }
        status, everything = ask(agent, "/v1/tasks")
        assert status == 200 and len(everything["Tasks"]) == 2 and told in everything["Tasks"]
        for query in ({"taskarn": told["Arn"]}, {"taskarn": one}, {"dockerid": f"{one}-0123456789abcdef"}):
            assert ask(agent, "/v1/tasks", **query) == (200, told)
        assert ask(agent, "/v1/tasks", dockerid=one[:12]) == (200, told)
        runtime.finish(two, "main", exit_code=3)
        await here.until_status(two, "STOPPED")
        status, stopped = ask(agent, "/v1/tasks", taskarn=two)
        assert (status, stopped["KnownStatus"], stopped["DesiredStatus"]) == (200, "STOPPED", "STOPPED")
        for query, code in (
            ({"taskarn": one, "dockerid": "x"}, 400),
            ({"taskarn": ""}, 400),
            ({"taskarn": "none"}, 404),
            ({"dockerid": "none"}, 404),
            ({"dockerid": one[:5]}, 404),
        ):
            status, said = ask(agent, "/v1/tasks", **query)
            assert status == code and said["error"], query


def docker_like() -> MemoryRuntime:
    runtime = memory_runtime()
    binding = NetworkBinding(bind_ip="0.0.0.0", container_port=80, host_port=32768)
    runtime.on_start = lambda local, _: ContainerState(
        phase=Phase.RUNNING,
        runtime_id=f"{local.id}-0123456789abcdef",
        health=HealthStatus.HEALTHY,
        network_bindings=(binding,),
        started_at=1.0,
    )
    return runtime


async def test_it_is_served_over_http_and_a_taken_port_harms_nobody(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    said = LogCapture()
    log = structlog.wrap_logger(None, processors=[said])
    async with world(tmp_path) as here:
        autojump_clock.autojump_threshold = float("inf")  # a real socket's answer takes real time
        autojump_clock.rate = 1.0
        agent = (await here.start_agent(memory_runtime())).agent
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, agent, "127.0.0.1:0", NAMES, "1.2", log)
                while not said.entries:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                port = said.entries[0]["port"]
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                    assert (await client.get("/v1/tasks")).json() == {"Tasks": []}
                    assert (await client.get("/v1/tasks", params={"taskarn": "a/b"})).status_code == 404
                    assert (await client.get("/else")).status_code == 404
                await serve(agent, f"127.0.0.1:{port}", NAMES, "1.2", log)
                nursery.cancel_scope.cancel()
    assert [each["event"] for each in said.entries] == [
        "introspection.listening",
        "introspection.unavailable",
    ]


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999"])
async def test_what_cannot_be_listened_on_is_told(
    tmp_path: Path, autojump_clock: MockClock, listen: str
) -> None:
    said = LogCapture()
    log = structlog.wrap_logger(None, processors=[said])
    async with world(tmp_path) as here:
        agent = (await here.start_agent(memory_runtime())).agent
        await serve(agent, listen, NAMES, "1.2", log)
    assert said.entries[0]["event"] == "introspection.unavailable"
