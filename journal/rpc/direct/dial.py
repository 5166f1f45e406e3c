"""A connection that calls a direct port, in asyncio's loop: ``caller`` on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from journal.rpc.channels import notice_silence
from journal.rpc.direct.caller import Caller

UNWRITTEN_BYTES = 256 * 1024
"""While the kernel has not taken so much of what was sent, the connection is not ready for more."""


class Dialed(asyncio.Protocol):
    """See the module. Everything is called in the loop."""

    def __init__(self) -> None:
        self.caller = Caller(self._write, self._close_for)
        self.has_room: Callable[[], None] = lambda: None
        """Called when the connection is ready again."""
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._why = ""

    @classmethod
    async def to(cls, host: str, port: int) -> Dialed:
        """Connect. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        _transport, dialed = await loop.create_connection(cls, host, port)
        return dialed

    @property
    def is_ready(self) -> bool:
        """Whether all that was sent is on its way."""
        return not self._is_paused and not self.caller.has_unsent

    def close(self) -> None:
        """End the connection, and with it all calls."""
        if self._transport is not None:
            self._transport.abort()

    def _close_for(self, why: str) -> None:
        self._why = why
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # -- asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNWRITTEN_BYTES)
        notice_silence(self._transport.get_extra_info("socket"))
        self.caller.begin()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.caller.lost(self._why or f"the connection was lost{f': {error}' if error else ''}")

    def data_received(self, data: bytes) -> None:
        waited = self.caller.has_unsent
        self.caller.data_received(data)
        if waited and self.is_ready:
            self.has_room()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        if self.is_ready:
            self.has_room()
