"""Values of the query language: versions, instants, numbers, patterns. PURE."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from cluster.query.ast import MATCHING, Operator, SubjectKind
from cluster.query.pattern import Pattern, PatternInvalid

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,9}", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)
_INSTANT = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}):(\d{2}):(\d{2})(\.\d{1,9})?(Z|[+-]\d{2}:?\d{2})?)?", re.ASCII
)


class ValueUnreadable(ValueError):
    """A literal that its subject cannot be compared with."""


def check_value(kind: SubjectKind, operator: Operator | None, value: str) -> None:
    """Raise ``ValueUnreadable`` where a literal is none of its subject's."""
    if operator in MATCHING:
        pattern(value)
    elif kind is SubjectKind.AGENT_VERSION and version(value) is None:
        raise ValueUnreadable(f"{value!r} is no version, such as 1.105.0")
    elif kind is SubjectKind.RUNNING_TASKS_COUNT:
        number(value)
    elif kind is SubjectKind.REGISTERED_AT:
        instant(value)


def pattern(value: str) -> Pattern:
    """Return a regular expression. Raises ``ValueUnreadable``."""
    try:
        return Pattern(value)
    except PatternInvalid as error:
        raise ValueUnreadable(f"{value!r} is no regular expression: {error}") from error


def version(value: str) -> tuple[int, ...] | None:
    """Return a version's parts without zeros at the end, so that 1.2 is 1.2.0; None if it is none."""
    if not _VERSION.fullmatch(value):
        return None
    parts = [int(part) for part in value.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def number(value: str) -> float:
    """Return a number. Raises ``ValueUnreadable``."""
    if not _NUMBER.fullmatch(value):
        raise ValueUnreadable(f"{value!r} is no number")
    return float(value)


def instant(value: str) -> float:
    """Return seconds since the epoch; without a zone it is UTC, without a time midnight.

    Raises ``ValueUnreadable``.
    """
    match = _INSTANT.fullmatch(value)
    if match is None:
        raise ValueUnreadable(f"{value!r} is no instant, such as 2018-06-18T22:28:28+00:00 or 2018-06-18")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_zone(match[8] or "Z"))
    except ValueError as error:
        raise ValueUnreadable(f"{value!r} is no instant: {error}") from error
    return moment.timestamp() + float(match[7] or 0)


def _zone(text: str) -> timezone:
    if text == "Z":
        return UTC
    digits = text[1:].replace(":", "")
    offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
    return timezone(-offset if text[0] == "-" else offset)
