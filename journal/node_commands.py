"""Entries that are not made of offers (memberships, compactions), and who waits for them. PURE."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from journal.errors import JournalError
from journal.types import Revision, Slot

CommandReply = Callable[[Revision | JournalError], None]


@dataclass(slots=True)
class Command:
    value: bytes
    reply: CommandReply


class Commands:
    """They go before offers, one a slot. Few: each is asked for by a person or by the leader itself."""

    def __init__(self) -> None:
        self._waiting: deque[Command] = deque()
        self._inflight: dict[Slot, Command] = {}

    def __len__(self) -> int:
        """How many wait to be proposed."""
        return len(self._waiting)

    def add(self, value: bytes, reply: CommandReply) -> None:
        self._waiting.append(Command(value, reply))

    def next(self) -> Command:
        return self._waiting.popleft()

    def proposed(self, slot: Slot, command: Command) -> None:
        self._inflight[slot] = command

    def folded(self, slot: Slot, revision: Revision) -> None:
        """Answer who waits for ``slot``."""
        command = self._inflight.pop(slot, None)
        if command is not None:
            command.reply(revision)

    def fail(self, error: JournalError) -> None:
        """Answer everybody."""
        commands = [*self._waiting, *self._inflight.values()]
        self._waiting.clear()
        self._inflight.clear()
        for command in commands:
            command.reply(error)
