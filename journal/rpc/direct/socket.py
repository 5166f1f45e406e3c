"""A connection that calls a direct port, under trio: ``caller`` on a socket, with no thread in between."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import trio

from journal.rpc.channels import notice_silence
from journal.rpc.direct.caller import Caller

_READ_BYTES = 256 * 1024

_log = logging.getLogger("journal.client")


class Socket:
    """One connection. ``open`` it. It ends by itself when the other side is gone, or ``close`` ends it."""

    def __init__(self, connected: socket.socket, lost: Callable[[Socket], None]) -> None:
        """``lost`` is called when the connection has ended, before its calls fail."""
        self._socket = connected
        self._lost = lost
        self._is_retired = False
        self._unwritten = bytearray()
        self._why = ""
        self._settled = trio.Event()
        self.is_closed = False
        self.has_room: Callable[[], object] = lambda: None
        """Called when there is room for another call."""
        self.caller = Caller(self._write, self._close_for)
        self.caller.freed = self._freed

    @classmethod
    async def open(cls, host: str, port: int, lost: Callable[[Socket], None]) -> Socket:
        """Connect, and wait until the other side has shown that it speaks HTTP/2. Raises ``OSError``."""
        stream = await trio.open_tcp_stream(host, port)
        connected = socket.socket(fileno=stream.socket.detach())
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        notice_silence(connected)
        opened = cls(connected, lost)
        opened.caller.begin()
        trio.lowlevel.spawn_system_task(opened._run, name="synod direct port")
        try:
            await opened._settled.wait()
        except BaseException:
            opened.close()
            raise
        if opened.is_closed:
            raise OSError(opened._why or "the connection was closed")
        return opened

    def close(self) -> None:
        """End the connection: soon its calls fail. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self._unwritten.clear()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def retire(self) -> None:
        """End the connection once the calls on it have ended; none are to be added."""
        self._is_retired = True
        self._close_if_idle()

    def _freed(self) -> None:
        self._close_if_idle()
        self.has_room()

    def _close_if_idle(self) -> None:
        if self._is_retired and not self.caller.has_calls:
            self.close()

    def _close_for(self, why: str) -> None:
        self._why = self._why or why
        self.close()

    async def _run(self) -> None:
        """Read until the connection ends. Raises nothing: it is a system task."""
        try:
            while not self.is_closed:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    data = self._socket.recv(_READ_BYTES)
                except BlockingIOError:  # woken for nothing
                    continue
                if not data:
                    break
                self.caller.data_received(data)
                if self.caller.has_settled:
                    self._settled.set()
        except (OSError, trio.ClosedResourceError) as error:
            self._why = self._why or str(error)
        except Exception:
            _log.exception("a fault of the client")
        finally:
            self.close()
            self._settled.set()
            self._lost(self)
            self.caller.lost(f"the connection was lost{f' ({self._why})' if self._why else ''}")

    # -- bytes out --------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self.is_closed:
            return
        if not self._unwritten:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self._close_for(str(error))
                return
            if sent == len(data):
                return
            data = data[sent:]
            trio.lowlevel.spawn_system_task(self._write_on, name="synod direct port, writing")
        self._unwritten += data

    async def _write_on(self) -> None:
        try:
            while self._unwritten:  # none is left where the socket was closed
                await trio.lowlevel.wait_writable(self._socket)
                with suppress(BlockingIOError):  # woken for nothing
                    del self._unwritten[: self._socket.send(self._unwritten)]
        except (OSError, trio.ClosedResourceError) as error:
            self._close_for(str(error))
