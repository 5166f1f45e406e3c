"""Ask several nodes how they are, synchronously and within a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from journal.errors import JournalError

if TYPE_CHECKING:
    from journal.connection import Connector
    from journal.node import NodeStatus


def statuses(endpoints: Sequence[str], cluster: str | None, timeout_s: float) -> dict[str, NodeStatus | str]:
    """Return by endpoint what each node says of itself, or in words why it says nothing.

    It runs trio in a thread of its own, so that it may be called from anywhere: a script, a
    notebook, or (blocking it) a trio task.
    """
    answers: dict[str, NodeStatus | str] = {}
    failure: list[BaseException] = []

    def run() -> None:
        try:
            trio.run(_ask_all, endpoints, cluster, timeout_s, answers)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="synod-probe")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return answers


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
