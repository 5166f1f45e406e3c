"""What the machine itself needs: no journal is faster than its disk and its sockets."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import trio

from scripts.bench.results import percentiles

APPEND_BYTES = 4096
UNARY = "/Echo/Unary"
STREAM = "/Echo/Stream"


def synced_appends(folder: Path, seconds: float) -> dict[str, Any]:
    """Append 4 KiB and sync, again and again: what this disk needs for what a node must do."""
    latencies: list[float] = []
    block = os.urandom(APPEND_BYTES)
    path = folder / "append"
    with path.open("wb", buffering=0) as file:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            file.write(block)
            os.fdatasync(file.fileno())
            latencies.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return {
        "bytes": APPEND_BYTES,
        "appends_per_s": round(len(latencies) / (sum(latencies) / 1000)),
        "latency_ms": percentiles(latencies),
    }


def python_loop_ms(rounds: int = 1_000_000, times: int = 5) -> float:
    """Return the shortest time of a loop over a dict of tuples, in ms: what the interpreter makes of a core.

    Builds of one version differ by a quarter: Debian's is optimized by a profile, one that was merely
    compiled is not.
    """
    return min(_python_loop_s(rounds) for _ in range(times)) * 1000


def _python_loop_s(rounds: int) -> float:
    found: dict[int, tuple[int, int]] = {}
    began = time.perf_counter()
    for number in range(rounds):
        key = number % 1000
        found[key] = (number, key)
        first, second = found[key]
        if first < second:
            break
    return time.perf_counter() - began


@asynccontextmanager
async def echo_server() -> AsyncIterator[str]:
    """A bare grpc.aio server of bytes, in a process of its own; yields its endpoint."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "scripts.bench.machine"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(await process.stdout.receive_some(32))}"
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def stream_echo_us(endpoint: str, trips: int = 1_000) -> float:
    """Return the median of a lone message's way to the server and back over one stream, in µs."""
    return await trio.to_thread.run_sync(lambda: asyncio.run(_stream_echo(endpoint, trips)))


async def _stream_echo(endpoint: str, trips: int) -> float:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        call: Any = channel.stream_stream(STREAM)()
        taken = []
        for _ in range(trips):
            began = time.perf_counter()
            await call.write(bytes(300))
            await call.read()
            taken.append((time.perf_counter() - began) * 1e6)
        call.cancel()
    return sorted(taken)[trips // 2]


async def _serve() -> None:
    async def unary(message: bytes, _context: Any) -> bytes:
        return message

    async def stream(_requests: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)

    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
