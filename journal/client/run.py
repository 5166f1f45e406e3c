"""Run a program of this client's with one thread less."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


def run(async_main: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run ``async_main`` like ``trio.run``, with gRPC in the same thread; return or raise what it does.

    Under a plain ``trio.run`` gRPC's asyncio loop has a second thread, and each call passes from one to the
    other and back. Here trio is the guest of that loop (``trio.lowlevel.start_guest_run``): a lone offer is
    back about a tenth sooner. Ctrl-C cancels ``async_main`` and raises KeyboardInterrupt, as under trio.
    """
    from journal.rpc.bridge import run_guest

    return run_guest(async_main, *arguments)
