"""An agent that kills itself with SIGKILL at one certain step: ``python -m tests.agent.mortal JSON``.

The program is the real one; only its steps towards the outside are wrapped: each is a place where a
machine could lose its power.
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agent.docker
import agent.process
from agent.docker_api import DockerApi
from agent.folder import AgentFolder
from agent.loop import Agent
from agent.main import AgentOptions, RuntimeKind, run
from agent.process import ProcessRuntime

STEPS: dict[str, tuple[Any, str]] = {
    "write": (AgentFolder, "write"),
    "report": (Agent, "_report"),
    "forget": (Agent, "_forget_records"),
    "remove": (AgentFolder, "remove"),
    "spec": (agent.process, "write_json"),
    "spawn": (ProcessRuntime, "_spawn"),
    "signal": (ProcessRuntime, "signal"),
    "create": (DockerApi, "create"),
    "note": (agent.docker, "write_json"),
    "start": (DockerApi, "start"),
    "kill": (DockerApi, "kill"),
    "discard": (DockerApi, "remove"),
}


def die_at(step: str, when: str, nth: int) -> None:
    """Arrange for the ``nth`` call of a step to be the last thing: ``before`` or ``after`` it."""
    owner, name = STEPS[step]
    act: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def is_last() -> bool:
        nonlocal calls
        calls += 1
        return calls == nth

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def mortal_async(*arguments: Any, **options: Any) -> Any:
        last = is_last()
        if last and when == "before":
            end()
        result = await act(*arguments, **options)
        if last:
            end()
        return result

    def mortal(*arguments: Any, **options: Any) -> Any:
        last = is_last()
        if last and when == "before":
            end()
        result = act(*arguments, **options)
        if last:
            end()
        return result

    setattr(owner, name, mortal_async if inspect.iscoroutinefunction(act) else mortal)


def main() -> int:
    told = json.loads(sys.argv[1])
    if told["step"]:
        die_at(*told["step"])
    return run(
        AgentOptions(
            endpoints=tuple(told["endpoints"]),
            folder=Path(told["folder"]),
            cpu=100_000,
            memory=100_000,
            runtime=RuntimeKind(told["runtime"]),
            docker_socket=Path(told["socket"]),
            pull=agent.docker.Pull.PREFER_CACHED,
            lease_ttl_s=60.0,
            keep_stopped_s=told["keep_s"],
        )
    )


if __name__ == "__main__":
    sys.exit(main())
