"""Found by a long run: a lease that expires while the end is recorded is no gap in the other nodes' tails."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import cast

from journal.commits import Change, Commit
from journal.connection import Connection, TailMessage
from journal.types import Revision, Slot
from synod.history import Recorder, load
from synod.history.client import record_tail


class Node:
    """A node whose tail comes in these messages."""

    def __init__(self, *ranges: tuple[int, int]) -> None:
        self._ranges = ranges

    @asynccontextmanager
    async def tail(
        self, _after: Revision, _prefixes: Sequence[bytes]
    ) -> AsyncIterator[AsyncIterator[TailMessage]]:
        async with aclosing(self._messages()) as messages:
            yield messages

    async def _messages(self) -> AsyncGenerator[TailMessage, None]:
        for first, last in self._ranges:
            commits = [
                Commit(Revision(n), Slot(n), 0, b"c", n, "", (Change(b"k", b"v", 0),))
                for n in range(first, last + 1)
            ]
            yield TailMessage(Revision(first), Revision(last), commits, Revision(last))


async def test_final_tails_end_at_one_revision_for_all_nodes(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "h.jsonl")
    for number, node in enumerate([Node((1, 3), (4, 5)), Node((1, 6)), Node((1, 5), (6, 6))]):
        await record_tail(cast(Connection, node), recorder, f"end-{number}", upto=5, final=True)
    recorder.close()
    history = load([tmp_path / "h.jsonl"])
    told = [
        [commit.revision for message in each.messages for commit in message.commits]
        for each in history.operations
    ]
    assert told == [[1, 2, 3, 4, 5]] * 3
    assert [each.messages[-1].last for each in history.operations] == [5, 5, 5]
