"""A coroutine that begins at once, and needs no task."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from journal.rpc.eager import begin


def begun(coroutine: Coroutine[Any, Any, object]) -> asyncio.Future[BaseException | None]:
    """Begin it; return what gets its error, or None, when it has ended."""
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    begin(coroutine, ended.set_result)
    return ended


def test_it_goes_as_far_as_it_can_before_anything_else_runs() -> None:
    async def main() -> None:
        steps: list[str] = []
        gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def inner() -> None:
            steps.append("begun")
            steps.append(await gate)
            await asyncio.sleep(0)
            steps.append("ended")

        ended = begun(inner())
        assert steps == ["begun"] and not ended.done()
        gate.set_result("went on")
        assert await ended is None
        assert steps == ["begun", "went on", "ended"]

    asyncio.run(main())


def test_what_never_waits_has_ended_at_once() -> None:
    async def main() -> None:
        async def inner() -> str:
            return "unused"

        async def bad() -> None:
            raise ValueError("at once")

        assert begun(inner()).result() is None
        assert isinstance(begun(bad()).result(), ValueError)

    asyncio.run(main())


@pytest.mark.parametrize("error", [ValueError("later"), asyncio.CancelledError()])
def test_what_it_waits_for_fails_within_it(error: BaseException) -> None:
    async def main() -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        caught: list[BaseException] = []

        async def inner() -> None:
            try:
                await gate
            except BaseException as raised:
                caught.append(raised)
                raise

        ended = begun(inner())
        if isinstance(error, asyncio.CancelledError):
            gate.cancel()
        else:
            gate.set_exception(error)
        assert caught == [await ended] and type(caught[0]) is type(error)

    asyncio.run(main())


def test_a_task_may_wait_for_the_same() -> None:
    async def main() -> None:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def inner() -> None:
            await gate

        ended = begun(inner())
        asyncio.get_running_loop().call_soon(gate.set_result, None)
        await asyncio.wait_for(asyncio.ensure_future(inner()), 30)
        assert await ended is None

    asyncio.run(main())
