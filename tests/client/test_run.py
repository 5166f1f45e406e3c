"""``journal.client.run``: trio and gRPC in one thread."""

from __future__ import annotations

import threading

import pytest
import trio

from journal.client import connect, run
from synod.local import LocalCluster


def test_a_client_runs_with_no_thread_for_grpc(processes: LocalCluster) -> None:
    async def main(key: bytes) -> tuple[bytes, set[str]]:
        async with connect(processes.endpoints, cluster=processes.cluster_id) as journal:
            await journal.put(key, b"here")
            record = await journal.get(key)
            assert record is not None
            value = record.value
            threads = {thread.name for thread in threading.enumerate()}
        return value, threads

    value, threads = run(main, b"run/guest")
    assert value == b"here"
    assert "synod-asyncio" not in threads
    value, threads = trio.run(main, b"run/plain")
    assert value == b"here"
    assert "synod-asyncio" in threads


def test_what_it_raises_comes_out() -> None:
    async def main() -> None:
        raise ValueError("of the program's own")

    with pytest.raises(ValueError, match="of the program's own"):
        run(main)
