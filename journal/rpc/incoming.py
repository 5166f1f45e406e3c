"""A peer's stream to this node, as it comes in: by gRPC, or by the direct port.

A peer opens its stream by gRPC, which says who it is and notices when it is gone. Where this node has a
direct port, the answer invites the peer to send its parcels there (``rpc.outgoing``). It need not follow: a
port may be shut off by whatever is in between.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from journal.errors import ProtocolViolation, Unavailable
from journal.rpc.direct.connection import Call
from journal.rpc.pb import paxos_pb2 as px
from journal.types import NodeId

_ALREADY_EXISTS = 6
"""Status of gRPC."""


class Incoming:
    """One stream of one peer. ``receive`` what it brings, and ``close`` it."""

    def __init__(
        self, sender: NodeId, deliver: Callable[[NodeId, px.Parcel], None], parcel_bytes_max: int
    ) -> None:
        """``deliver`` gets each parcel that is whole. ``parcel_bytes_max``: of one that comes in parts."""
        self.invitation = secrets.token_hex(16)
        """Names this stream when it comes by the direct port."""
        self._sender = sender
        self._deliver = deliver
        self._parcel_bytes_max = parcel_bytes_max
        self._parts = bytearray()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call: Call | None = None
        """Its stream by the direct port."""

    async def receive(self, read: Callable[[], Awaitable[px.Parcel | None]]) -> None:
        """Deliver what the peer sends until it ends the stream (``read`` gives None).

        Raises ``ProtocolViolation`` where the stream cannot be understood any more, and what ``end`` is
        told: the peer has opened a newer stream, or this node stops.
        """
        reader = asyncio.get_running_loop().create_task(self._read(read))
        try:
            futures: set[asyncio.Future[Any]] = {reader, self._ended}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                self._ended.result()
            reader.result()
        finally:
            reader.cancel()
            await asyncio.wait({reader})
            if not reader.cancelled():
                reader.exception()

    async def _read(self, read: Callable[[], Awaitable[px.Parcel | None]]) -> None:
        while (parcel := await read()) is not None:
            self._take(parcel)

    def end(self, error: Exception) -> None:
        """Have ``receive`` raise ``error``."""
        if not self._ended.done():
            self._ended.set_exception(error)

    def close(self) -> None:
        """Nothing is delivered any more."""
        if not self._ended.done():
            self._ended.set_result(None)
        elif not self._ended.cancelled():
            self._ended.exception()  # so that nobody misses it where ``receive`` was never called
        if self._call is not None:
            self._call.end()

    # -- by the direct port -----------------------------------------------------------------------

    def follow(self, call: Call) -> None:
        """The peer has followed the invitation."""
        if self._call is not None or self._ended.done():
            call.fail(_ALREADY_EXISTS, "this invitation was followed before")
            return
        self._call = call
        call.accept(self._take_bytes, self._left)

    def _left(self) -> None:
        self.end(Unavailable(f"node {self._sender} has left its stream by the direct port"))

    def _take_bytes(self, data: bytes) -> None:
        if self._ended.done():
            return
        try:
            self._take(px.Parcel.FromString(data))
        except DecodeError:
            self.end(ProtocolViolation(f"node {self._sender} sent what is no parcel"))
        except Exception as error:  # a bug is logged by who runs ``receive``, as on a stream by gRPC
            self.end(error)

    # -- parcels ----------------------------------------------------------------------------------

    def _take(self, parcel: px.Parcel) -> None:
        if parcel.part:
            sender, parts, most = self._sender, self._parts, self._parcel_bytes_max
            if len(parts) + len(parcel.part) > most:
                raise ProtocolViolation(f"node {sender} sent a parcel of over {most} bytes")
            parts += parcel.part
            if parcel.more:
                self._deliver(sender, px.Parcel())
                return
            try:
                parcel = px.Parcel.FromString(bytes(parts))
            except DecodeError as error:
                raise ProtocolViolation(f"node {sender} sent a parcel that does not decode") from error
            parts.clear()
        self._deliver(self._sender, parcel)
