"""Records as msgpack maps with ECS's field names. PURE.

A record is a frozen dataclass whose fields are named in Python's way; on the journal
``desired_status`` is ``desiredStatus``. What is None is left out, as ECS does, and so is
an empty text, list or map that is the field's default. A map is checked in full when it
is read, because anyone may write to the journal: the error says which field is wrong.
Fields of a later version are kept in ``extra`` and written back, so that an older program
does not erase what it does not understand.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

import msgpack

from journal.offers import INT64_MAX, INT64_MIN


class RecordInvalid(ValueError):
    """A record that breaks its form. ``where`` is a path such as ``containers[0].exitCode``."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}" if where else why)
        self.where = where
        self.why = why


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Base of all records. ``pack`` and ``unpack`` are each other's inverse."""

    extra: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Fields of a later version, kept as they are."""

    def pack(self) -> bytes:
        packed: bytes = msgpack.packb(self.to_map())
        return packed

    def to_map(self) -> dict[str, Any]:
        """Return the map of plain values under ECS's names."""
        packed: dict[str, Any] = {}
        for name, wire, _ in _fields(type(self)):
            value = getattr(self, name)
            if value is None:
                continue
            if value in ("", (), {}) and value == _default(type(self), name):
                continue  # its reader puts the same thing in its place
            packed[wire] = _plain(value)
        packed.update(self.extra)
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Return the record. Raises ``RecordInvalid``."""
        try:
            value = msgpack.unpackb(data)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise RecordInvalid("", f"not a msgpack map: {error}") from error
        return cls.from_map(value)

    @classmethod
    def from_map(cls, value: object, where: str = "") -> Self:
        """Return the record of a map under ECS's names. Raises ``RecordInvalid``."""
        if not isinstance(value, dict):
            raise RecordInvalid(where, f"a map is wanted, not {type(value).__name__}")
        rest = dict(value)
        given: dict[str, Any] = {}
        for name, wire, kind in _fields(cls):
            if rest.get(wire) is not None:
                given[name] = _checked(rest.pop(wire), kind, f"{where}.{wire}" if where else wire)
            else:
                rest.pop(wire, None)
        if not all(isinstance(key, str) for key in rest):
            raise RecordInvalid(where, "a field's name is not text")
        try:
            record = cls(extra=rest, **given)
        except TypeError as error:
            missing = [wire for name, wire, _ in _fields(cls) if name not in given and _required(cls, name)]
            raise RecordInvalid(where, f"{', '.join(missing)} missing") from error
        problem = record.problem()
        if problem:
            raise RecordInvalid(where, problem)
        return record

    def problem(self) -> str | None:
        """Return what is wrong with the record as a whole, beyond its fields' types; None if nothing is."""
        return None


def on_wire(name: str, **options: Any) -> Any:
    """Return a field that has this name on the journal: ``bindIP``, which no rule makes of ``bind_ip``."""
    return field(metadata={"wire": name}, **options)


def empty_map() -> Any:
    """Return a field that is an empty map unless given; a record that has one is still hashable."""
    return field(default_factory=dict, hash=False)


def wire_name(name: str) -> str:
    """Return ``desiredStatus`` for ``desired_status``."""
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)


_FIELDS: dict[Any, tuple[tuple[str, str, Any], ...]] = {}


def _fields(cls: type[Record]) -> tuple[tuple[str, str, Any], ...]:
    """Return (name, name on the wire, type) of each field but ``extra``."""
    known = _FIELDS.get(cls)
    if known is None:
        hints = typing.get_type_hints(cls)
        known = tuple(
            (f.name, f.metadata.get("wire") or wire_name(f.name), hints[f.name])
            for f in fields(cls)
            if f.name != "extra"
        )
        _FIELDS[cls] = known
    return known


def _required(cls: type[Record], name: str) -> bool:
    return _default(cls, name) is MISSING


def _default(cls: type[Record], name: str) -> Any:
    """Return what a field is where it is not given; ``MISSING`` where it must be."""
    parameter = cls.__dataclass_fields__[name]
    return parameter.default if parameter.default_factory is MISSING else parameter.default_factory()


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_map()
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _checked(value: Any, kind: Any, where: str) -> Any:
    """Return ``value`` as ``kind``. Raises ``RecordInvalid``. This is the whole grammar of records."""
    if kind is Any:
        return value
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):  # only ``X | None``
        (inner,) = (argument for argument in typing.get_args(kind) if argument is not type(None))
        return _checked(value, inner, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RecordInvalid(where, f"a list is wanted, not {type(value).__name__}")
        item_kind = typing.get_args(kind)[0]
        return tuple(_checked(item, item_kind, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is not None:  # Mapping[str, X]
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise RecordInvalid(where, "a map with text keys is wanted")
        item_kind = typing.get_args(kind)[1]
        return {key: _checked(item, item_kind, f"{where}.{key}") for key, item in value.items()}
    if issubclass(kind, Record):
        return kind.from_map(value, where)
    if issubclass(kind, StrEnum):
        try:
            return kind(value)
        except ValueError:
            raise RecordInvalid(where, f"{value!r} is none of {', '.join(kind)}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RecordInvalid(where, f"{kind.__name__} is wanted, not {type(value).__name__}")
    if kind is int and not INT64_MIN <= value <= INT64_MAX:
        raise RecordInvalid(where, f"{value} is not a 64-bit number")
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RecordInvalid(where, f"{value!r} is not valid UTF-8") from None
    return value
