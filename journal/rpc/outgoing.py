"""How parcels go to a peer: over the stream that gRPC has opened, or by the peer's direct port.

gRPC for Python spends about 100 µs on a message at each end, and HTTP/2 spoken in the node's own loop a
quarter of that (docs/performance.md). So gRPC's stream says who is who and notices when the peer is gone, and
the parcels go past it where they can: what ends one of the two ends both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from journal.errors import Unavailable
from journal.rpc import methods
from journal.rpc.direct.caller import Failure, Outgoing, headers_of
from journal.rpc.direct.dial import Dialed
from journal.rpc.eager import begin

OPEN_S = 0.5
"""Within so long the direct port must have taken the stream; else the parcels go by gRPC."""

Ended = Callable[[BaseException | None], None]


class Stream(Protocol):
    """What a link writes to. One parcel after the other: each when it ``is_ready``."""

    by: str
    """What it goes by, for people."""

    @property
    def is_ready(self) -> bool:
        """Whether nothing that was sent before still waits here."""
        ...

    def send(self, parcel: bytes) -> None:
        """Send a parcel, within this very call if the network takes it."""
        ...

    def close(self) -> None:
        """Nothing is called any more."""
        ...


class GrpcStream:
    """``Stream`` over gRPC's own. ``ready`` is called when it is so again; ``ended`` when a write failed."""

    by = "grpc"

    def __init__(self, call: Any, ready: Callable[[], None], ended: Ended) -> None:
        self._call = call
        self._ready = ready
        self._ended = ended
        self._is_closed = False
        self.is_ready = True

    def send(self, parcel: bytes) -> None:
        self.is_ready = False
        begin(self._call.write(parcel), self._written)

    def _written(self, error: BaseException | None) -> None:
        if self._is_closed:
            return
        self.is_ready = True
        if error is None:
            self._ready()
        else:
            self._ended(error)

    def close(self) -> None:
        self._is_closed = True


class DirectStream:
    """``Stream`` by the direct port. ``open`` it."""

    by = "direct port"

    def __init__(self, dialed: Dialed, ready: Callable[[], None], ended: Ended) -> None:
        self._dialed = dialed
        self._ready = ready
        self._ended = ended
        self._is_closed = self._is_over = False
        self._call: Outgoing | None = None
        self._accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        metadata: Iterable[tuple[str, str]],
        ready: Callable[[], None],
        ended: Ended,
    ) -> DirectStream:
        """Open a stream to who has sent the invitation that is in ``metadata``.

        Raises ``OSError`` or ``Unavailable``.
        """
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        async with asyncio.timeout(OPEN_S):
            dialed = await Dialed.to(host, port)
            stream = cls(dialed, ready, ended)
            try:
                stream._begin(headers_of(methods.EXCHANGE.path, authority, metadata))
                await stream._accepted
            except BaseException:
                stream.close()
                raise
        dialed.has_room = stream._has_room
        return stream

    def _begin(self, block: bytes) -> None:
        self._call = self._dialed.caller.call(
            block, None, _no_reply, self._over, partial(_set, self._accepted)
        )
        if self._call is None:
            raise Unavailable("the direct port takes no calls")

    @property
    def is_ready(self) -> bool:
        return self._dialed.is_ready and not (self._is_closed or self._is_over)

    def send(self, parcel: bytes) -> None:
        assert self._call is not None
        self._dialed.caller.send(self._call, parcel)

    def _has_room(self) -> None:
        if not self._is_closed:
            self._ready()

    def _over(self, failure: Failure | None) -> None:
        self._is_over = True
        error = Unavailable(f"the direct port: {failure.text if failure is not None else 'the stream ended'}")
        if not self._accepted.done():
            self._accepted.set_exception(error)
        elif not self._is_closed:
            self._ended(error)

    def close(self) -> None:
        self._is_closed = True
        self._dialed.close()
        if not self._accepted.done():
            self._accepted.cancel()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _no_reply(_message: bytes) -> None:
    """A peer's stream brings nothing back."""
