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
from collections.abc import Callable, Mapping
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
        known = _checkers(cls)
        given: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for wire, item in value.items():
            field_of = known.get(wire)
            if field_of is None:
                if not isinstance(wire, str):
                    raise RecordInvalid(where, "a field's name is not text")
                rest[wire] = item
            elif item is not None:
                name, check = field_of
                given[name] = check(item, where, wire)
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


Checker = Callable[[Any, str, str], Any]
"""Takes a value and where it stands, in two parts that are put together only for an error."""

_CHECKERS: dict[Any, dict[str, tuple[str, Checker]]] = {}


def _checkers(cls: type[Record]) -> dict[str, tuple[str, Checker]]:
    """Return (name, checker) of each field but ``extra``, by its name on the wire."""
    known = _CHECKERS.get(cls)
    if known is None:
        known = _CHECKERS[cls] = {wire: (name, _checker(kind)) for name, wire, kind in _fields(cls)}
    return known


def _checker(kind: Any) -> Checker:
    """Return what checks a value against a type, and returns it. This is the whole grammar of records."""
    if kind is Any:
        return lambda value, where, part: value
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):  # only ``X | None``
        (inner,) = (argument for argument in typing.get_args(kind) if argument is not type(None))
        return _checker(inner)
    if origin is tuple:
        return _list_checker(_checker(typing.get_args(kind)[0]))
    if origin is not None:  # Mapping[str, X]
        return _map_checker(_checker(typing.get_args(kind)[1]))
    if issubclass(kind, Record):
        return lambda value, where, part: kind.from_map(value, _join(where, part))
    if issubclass(kind, StrEnum):
        return _enum_checker(kind)
    return _plain_checker(kind)


def _list_checker(item: Checker) -> Checker:
    def check(value: Any, where: str, part: str) -> Any:
        if not isinstance(value, list):
            raise RecordInvalid(_join(where, part), f"a list is wanted, not {type(value).__name__}")
        return tuple([item(one, where, f"{part}[{i}]") for i, one in enumerate(value)])

    return check


def _map_checker(item: Checker) -> Checker:
    def check(value: Any, where: str, part: str) -> Any:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise RecordInvalid(_join(where, part), "a map with text keys is wanted")
        return {key: item(one, where, f"{part}.{key}") for key, one in value.items()}

    return check


def _enum_checker(kind: type[StrEnum]) -> Checker:
    members = {str(member): member for member in kind}

    def check(value: Any, where: str, part: str) -> Any:
        member = members.get(value) if isinstance(value, str) else None
        if member is None:
            raise RecordInvalid(_join(where, part), f"{value!r} is none of {', '.join(kind)}")
        return member

    return check


def _plain_checker(kind: Any) -> Checker:
    def check(value: Any, where: str, part: str) -> Any:
        if type(value) is not kind:
            if kind is float and type(value) is int:
                return float(value)
            raise RecordInvalid(_join(where, part), f"{kind.__name__} is wanted, not {type(value).__name__}")
        if kind is int and not INT64_MIN <= value <= INT64_MAX:
            raise RecordInvalid(_join(where, part), f"{value} is not a 64-bit number")
        if kind is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise RecordInvalid(_join(where, part), f"{value!r} is not valid UTF-8") from None
        return value

    return check


def _join(where: str, part: str) -> str:
    return f"{where}.{part}" if where else part
