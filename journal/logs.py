"""Structured logs: one event a line, as ``key=value`` for people or JSON for programs.

Events are short fixed names (``leader.elected``), and what varies is in fields
(``node``, ``ballot``, ``slot``, ``revision``). An expected fault is a warning with
its reason in a field; a traceback in a log means a bug of ours.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("kv", "json")


def configure(*, level: str = "info", form: str = "kv", stream: TextIO | None = None) -> None:
    """Set up the process's logs. Raises ValueError on an unknown level or form."""
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(LEVELS)}")
    if form not in FORMATS:
        raise ValueError(f"log format {form!r} is none of {', '.join(FORMATS)}")
    stream = stream or sys.stderr
    render: Processor
    if form == "json":
        render = structlog.processors.JSONRenderer()
    else:
        render = structlog.processors.KeyValueRenderer(
            key_order=["timestamp", "level", "event"], drop_missing=True
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def get_logger(**fields: object) -> FilteringBoundLogger:
    """Return a logger whose every event carries ``fields``."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger.bind(**fields)
