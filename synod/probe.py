"""Ask several nodes how they are, synchronously and within a time."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import outcome
import trio

from journal.errors import JournalError

T = TypeVar("T")

if TYPE_CHECKING:
    from journal.connection import Connector
    from journal.node import NodeStatus


def statuses(endpoints: Sequence[str], cluster: str | None, timeout_s: float) -> dict[str, NodeStatus | str]:
    """Return by endpoint what each node says of itself, or in words why it says nothing."""
    answers: dict[str, NodeStatus | str] = {}
    in_thread(partial(_ask_all, endpoints, cluster, timeout_s, answers))
    return answers


def alive_instances(endpoints: Sequence[str], cluster: str, timeout_s: float) -> set[str]:
    """Return the container instances of the default cluster whose agents are connected.

    Raises what ``Journal.scan`` raises.
    """
    return in_thread(partial(_alive_instances, endpoints, cluster, timeout_s))


def in_thread(function: Callable[[], Awaitable[T]]) -> T:
    """Run trio in a thread of its own, so that this may be called from anywhere: a script, a
    notebook, or (blocking it) a trio task."""
    result: list[outcome.Outcome[T]] = []
    thread = threading.Thread(
        target=lambda: result.append(outcome.capture(trio.run, function)), name="synod-probe"
    )
    thread.start()
    thread.join()
    return result[0].unwrap()


async def _alive_instances(endpoints: Sequence[str], cluster: str, timeout_s: float) -> set[str]:
    from cluster.keys import DEFAULT_CLUSTER, alive, parse
    from journal.client import ClientConfig, connect
    from journal.offers import prefix_range

    prefix = alive(DEFAULT_CLUSTER, "x")[:-1]
    config = ClientConfig(timeout_s=timeout_s)
    async with connect(endpoints, cluster=cluster, config=config) as journal:
        reply = await journal.scan(*prefix_range(prefix))
    return {parsed.instance for key, _record in reply.items if (parsed := parse(key))}


async def _ask_all(
    endpoints: Sequence[str], cluster: str | None, timeout_s: float, answers: dict[str, NodeStatus | str]
) -> None:
    from journal.rpc.connection import GrpcConnector

    connector = GrpcConnector(cluster=cluster)
    try:
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for endpoint in endpoints:
                    nursery.start_soon(_ask, connector, endpoint, answers)
    finally:
        with trio.CancelScope(shield=True):
            await connector.aclose()
    for endpoint in endpoints:
        answers.setdefault(endpoint, f"no answer within {timeout_s:g} s")


async def _ask(connector: Connector, endpoint: str, answers: dict[str, NodeStatus | str]) -> None:
    try:
        connection = await connector.connect(endpoint)
        try:
            answers[endpoint] = await connection.status()
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose()
    except JournalError as error:
        answers[endpoint] = str(error)
