"""Reading a whole snapshot from one node, part by part, for a file.

All parts are of one view on one node, so another node cannot go on where one failed: what was read is
of no use there. Short troubles are waited out (the same question has the same answer); else the
caller begins again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import trio

from journal.client.router import Router
from journal.connection import Connection
from journal.errors import Overloaded, ProtocolViolation, Unavailable
from journal.snapshots.records import unpack_records
from journal.snapshots.serve import SnapshotPart

PART_TIMEOUT_S = 15.0
RETRIES = 5


async def snapshot_parts(router: Router, timeout_s: float | None) -> AsyncGenerator[SnapshotPart, None]:
    """Yield the parts of a snapshot that shows every offer that was answered before; the last has an end.

    ``timeout_s`` is for finding a node. Raises ``Unavailable`` where it must be begun again.
    """
    view = router.rng.getrandbits(62) + 1
    chosen: list[Connection] = []

    async def begin(connection: Connection) -> SnapshotPart:
        part = await connection.read_snapshot(view, b"")
        chosen.append(connection)
        return part

    part = await router.anywhere(begin, timeout_s)
    connection = chosen[-1]
    while True:
        yield part
        if part.end is not None:
            return
        try:
            after = unpack_records(part.records)[-1][0]
        except (ProtocolViolation, IndexError) as error:
            raise Unavailable(
                f"{connection.endpoint} sent a part of a snapshot that is damaged: {error}"
            ) from None
        part = await _next(connection, view, after)


async def _next(connection: Connection, view: int, after: bytes) -> SnapshotPart:
    trouble = f"{connection.endpoint} did not answer within {PART_TIMEOUT_S:g} s"
    for attempt in range(RETRIES):
        if attempt:
            await trio.sleep(0.2 * 2**attempt)
        with trio.move_on_after(PART_TIMEOUT_S):
            try:
                return await connection.read_snapshot(view, after)
            except (Unavailable, Overloaded) as error:
                trouble = str(error)
    raise Unavailable(f"the snapshot broke off: {trouble}")
