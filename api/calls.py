"""What a handler is given: one call, the cluster's state, and the way to change it.

A handler is ``async (Call) -> answer``. It looks at ``call.state``; to change something it gives
``call.change`` a function that decides from a state what to offer. That function runs again, on
a newer state, where somebody else was faster; so it must have no effect of its own.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from api.arns import Arns
from api.errors import ApiError, client, invalid, server
from api.live import LiveState
from api.settings import ApiSettings
from cluster.state import ClusterState
from journal.client import Journal, OfferRejected
from journal.errors import JournalError, OfferInvalid
from journal.offers import Offer, Reason

T = TypeVar("T")

CHANGES_MAX = 50
"""How often a change is decided anew before the call gives up on conflicts."""

AGAIN = frozenset(Reason) - {Reason.TYPE, Reason.LIMIT}
"""Rejections that deciding again, from a newer state, may cure."""

Decide = Callable[[ClusterState], tuple[Offer | None, T]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The process's own: what all calls share."""

    settings: ApiSettings
    journal: Journal
    live: LiveState
    wall: Callable[[], float]
    """Seconds since the epoch."""
    rng: random.Random
    log: FilteringBoundLogger


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, checked against its operation's input."""

    api: Api
    operation: str
    params: Mapping[str, Any]
    arns: Arns
    here: str
    """Where the caller reached this process, ``host:port``."""

    @property
    def state(self) -> ClusterState:
        return self.api.live.state

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter; ``default`` where it is absent or null."""
        value = self.params.get(name)
        return default if value is None else value

    def includes(self, what: str) -> bool:
        """Say whether ``include`` names ``what``, such as TAGS."""
        return what in self.get("include", [])

    def now(self) -> float:
        return self.api.wall()

    def new_id(self) -> str:
        """Return a new id as ECS makes them: 32 hexadecimal digits."""
        return f"{self.api.rng.getrandbits(128):032x}"

    async def change(self, decide: Decide[T]) -> T:
        """Offer what ``decide`` returns, and return its other value once the state shows the change.

        ``decide(state)`` returns (offer, value); None for an offer says that nothing is to be
        changed. Raises ``ApiError``.
        """
        for _ in range(CHANGES_MAX):
            offer, value = decide(self.state)
            if offer is None:
                return value
            try:
                revision = await self.api.journal.offer(offer)
            except OfferRejected as rejected:
                if rejected.receipt.reason not in AGAIN:
                    raise client(f"The change is not possible: {rejected.receipt}") from None
                await self.api.live.latest()
                continue
            except OfferInvalid as error:
                raise invalid(f"The request is too large, or not fit to be kept: {error}") from None
            except JournalError as error:
                raise server(f"The journal did not take the change: {error}") from None
            await self.api.live.reached(revision)
            return value
        raise server(f"Gave up after {CHANGES_MAX} attempts that met others' changes.")

    def limited(self, name: str, most: int, *, least: int = 1) -> list[Any]:
        """Return a list parameter of ``least`` to ``most`` items. Raises ``ApiError``."""
        items: list[Any] = self.get(name, [])
        if len(items) < least:
            raise invalid(f"{name} cannot be empty.")
        if len(items) > most:
            raise invalid(f"{name} can have at most {most} items, not {len(items)}.")
        return items


Handler = Callable[[Call], Awaitable[Mapping[str, Any]]]

__all__ = ["CHANGES_MAX", "Api", "ApiError", "Call", "Decide", "Handler"]
