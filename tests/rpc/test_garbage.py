"""Bytes that are no message are the caller's fault: it is told so, and the node's log stays quiet.

``guest`` fails a test by whose way gRPC had to log something, as it does for a deserializer that raises.
"""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from journal.rpc import bridge, methods
from journal.rpc.methods import Method
from tests.rpc.harness import Served, guest, served

GARBAGE = b"\xff\xff\xff"


async def _throw(here: Served, method: Method) -> grpc.aio.AioRpcError:
    """Send garbage to a method, whatever kind it is, and return the error."""

    async def call() -> grpc.aio.AioRpcError:
        stream: Any = here.channel.stream_stream(method.path)()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stream.write(GARBAGE)
            while await stream.read() is not grpc.aio.EOF:
                pass
            raise AssertionError(f"{method.name} took garbage")
        return failed.value

    return await bridge.host().run(call)


@pytest.mark.parametrize("method", [m for m in methods.ALL if m != methods.EXCHANGE], ids=lambda m: m.name)
def test_garbage_is_an_invalid_argument_and_nothing_is_logged(method: Method) -> None:
    @guest
    async def run() -> None:
        async with served() as here:
            error = await _throw(here, method)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert method.request.DESCRIPTOR.full_name in (error.details() or "")
            assert await here.put(b"k") == 1

    run()
