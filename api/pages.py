"""Pages of a listing. PURE.

A listing is a sequence of keys in order, and a page goes on behind the last key of the page
before: so a token stays good whatever is added or removed between two pages, what is there all
the time is listed exactly once, and no server remembers anything. The token also names
the listing that it belongs to, and is refused by any other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from api.errors import invalid

T = TypeVar("T")

PAGE_DEFAULT = 100
PAGE_MAX = 100
MARK_BYTES = 6


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a listing is asked for: up to ``size`` items behind the key ``after``."""

    size: int
    after: str
    mark: str

    def next(self, more: bool, last: str) -> str | None:
        """Return the token of the page behind the item of key ``last``, if there is ``more``."""
        return _token(self.mark, last) if more else None

    def cut(self, items: Iterator[T], key: Callable[[T], str]) -> tuple[list[T], str | None]:
        """Return the page's items, and the token of the next page if there is more.

        ``items`` must be in the order of ``key`` and begin behind ``after``; only one more
        than the page holds is taken of it.
        """
        found: list[T] = []
        for item in items:
            if len(found) == self.size:
                return found, _token(self.mark, key(found[-1]))
            found.append(item)
        return found, None


def page(
    operation: str, params: Mapping[str, Any], *, most: int = PAGE_MAX, usual: int = PAGE_DEFAULT
) -> Page:
    """Return the page that a call asks for by ``maxResults`` and ``nextToken``. Raises ``ApiError``.

    ``most``: how large a page may be; ``usual``: how large it is where nothing is said.
    """
    size = params.get("maxResults")
    if size is None:
        size = min(usual, most)
    elif not 1 <= size <= most:
        raise invalid(f"maxResults must be between 1 and {most}.")
    filters = {name: value for name, value in params.items() if name not in ("maxResults", "nextToken")}
    mark = hashlib.sha256(json.dumps([operation, filters], sort_keys=True).encode()).digest()[:MARK_BYTES]
    marked = mark.hex()
    return Page(size, _after(params.get("nextToken"), marked), marked)


def _token(mark: str, after: str) -> str:
    return base64.urlsafe_b64encode(f"{mark}{after}".encode()).decode()


def _after(token: str | None, mark: str) -> str:
    if token is None:
        return ""
    try:
        told = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid("Invalid token: it is none that this API gave.") from None
    if not told.startswith(mark) or len(told) == len(mark):
        raise invalid("Invalid token: it belongs to a listing with other parameters.")
    return told[len(mark) :]
