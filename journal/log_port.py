"""The port to the log, for modules that decide: structlog fits it. PURE."""

from __future__ import annotations

from typing import Any, Protocol


class Log(Protocol):
    """Takes one event with its facts. What it does with them decides nothing."""

    def info(self, event: str, **facts: Any) -> Any: ...
    def warning(self, event: str, **facts: Any) -> Any: ...
    def error(self, event: str, **facts: Any) -> Any: ...
