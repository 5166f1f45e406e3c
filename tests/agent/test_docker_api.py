"""The client of the Docker engine, against a real engine."""

from __future__ import annotations

import itertools
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from agent.docker_api import DockerApi, DockerAway, DockerRefused, DockerTimeout, Frames, Output
from tests.dockerd import IMAGE, Dockerd

DEADLINE_S = 30.0
_names = (f"api-{number}" for number in itertools.count())


@asynccontextmanager
async def client(docker: Dockerd) -> AsyncIterator[DockerApi]:
    api = DockerApi(docker.socket)
    try:
        with trio.fail_after(DEADLINE_S):
            yield api
    finally:
        await api.aclose()


async def run(api: DockerApi, *command: str) -> str:
    config = {"Image": IMAGE, "Cmd": list(command), "Labels": {"test": "api"}}
    container = await api.create(next(_names), config)
    await api.start(container)
    return container


async def test_a_container_is_seen_and_heard_from_its_start_to_its_removal(docker: Dockerd) -> None:
    async with client(docker) as api:
        seen: list[str] = []
        heard = trio.Event()

        def hear(event: Mapping[str, Any]) -> None:
            seen.append(event.get("Action", "listening"))
            if seen[-1] in ("listening", "die"):
                heard.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(api.events, {"label": ["test=api"], "type": ["container"]}, hear)
            await heard.wait()
            heard = trio.Event()
            container = await run(api, "sh", "-c", "echo out; echo err >&2; exit 3")
            await heard.wait()
            nursery.cancel_scope.cancel()
        assert seen == ["listening", "create", "start", "die"]
        found = await api.inspect(container)
        assert found is not None and found["State"]["ExitCode"] == 3
        outputs: list[Output] = []
        await api.logs(container, outputs.append, follow=True)
        assert sorted((o.is_error, o.data) for o in outputs) == [(False, b"out\n"), (True, b"err\n")]
        assert [c["Id"] for c in await api.containers(["test=api"])] == [container]
        await api.remove(container)
        await api.remove(container)
        assert await api.inspect(container) is None


async def test_a_command_in_a_container_has_its_input_output_and_exit_code(docker: Dockerd) -> None:
    async with client(docker) as api:
        container = await run(api, "sleep", "600")
        command = ["sh", "-c", "cat; echo bye >&2; exit 5"]
        attach = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": command}
        exec_id = await api.exec_create(container, attach)
        async with api.exec_attach(exec_id, tty=False) as stream:
            await stream.write(b"hello\n")
            stream.get_extra_info("socket").shutdown(socket.SHUT_WR)
            frames, outputs = Frames(), list[Output]()
            while data := await stream.read(3):  # as small as it may come
                outputs += frames.feed(data)
        assert sorted((o.is_error, o.data) for o in outputs) == [(False, b"hello\n"), (True, b"bye\n")]
        assert (await api.exec_inspect(exec_id))["ExitCode"] == 5
        await api.remove(container, force=True)


async def test_refusals_carry_the_engines_words(docker: Dockerd) -> None:
    async with client(docker) as api:
        assert await api.image("no-such-image:1") is None
        with pytest.raises(DockerRefused, match="No such image: no-such-image:1") as refused:
            await api.create(next(_names), {"Image": "no-such-image:1"})
        assert refused.value.status == 404
        with pytest.raises(DockerRefused, match="connection refused"):
            await api.pull("127.0.0.1:1/x", "1")
        with pytest.raises(DockerRefused, match="No such container"):
            await api.logs("no-such-container", list[Output]().append, follow=False)


async def test_an_engine_that_is_away_or_silent_is_told_apart(tmp_path: Path) -> None:
    api = DockerApi(tmp_path / "s")
    with pytest.raises(DockerAway, match=f"Docker at {tmp_path / 's'} cannot be reached"):
        await api.version()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(DockerTimeout, match="timed out after waiting 0s"):
            await api._send("GET", "/x", versioned=False, limit_s=0.05)
    assert str(DockerTimeout(240)) == "timed out after waiting 4m0s"
    await api.aclose()
