"""What the model says a call's parameters must be, checked; and its answer, in its own order. PURE.

A shape is botocore's (``botocore.model``): ``type_name``, ``members``, ``metadata``... Nothing else
of botocore is used here. A parameter is checked in full before a handler sees it, so handlers
trust their parameters' types. An answer is made of the members of its shape and nothing else.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from api.errors import ApiError, invalid

DEPTH_MAX = 40
"""How deep parameters may be nested. The model is not recursive; a request could be."""
SHOWN_MAX = 60

INTEGERS = {"integer": 31, "long": 63}
"""Bits of a number, its sign aside."""


def check(shape: Any, value: object, where: str = "") -> None:
    """Raise ``ApiError`` (``InvalidParameterException``) that names the place where ``value`` is wrong."""
    problem = next(problems(shape, value, where), None)
    if problem is not None:
        raise problem


def problems(shape: Any, value: object, where: str, depth: int = 0) -> Iterator[ApiError]:
    """Yield what is wrong with ``value``, the first place first."""
    if depth > DEPTH_MAX:
        yield invalid(f"{where}: nested too deep")
        return
    kind = shape.type_name
    wanted, fits = _KINDS[kind]
    if not fits(value):
        yield invalid(f"{where or 'The request'}: {wanted} is wanted, not {_said(value)}.")
    elif isinstance(value, dict) and kind == "structure":
        yield from _structure(shape, value, where, depth)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from problems(shape.key, key, f"a key of {where}", depth + 1)
            yield from problems(shape.value, item, f"{where}.{_short(key)}", depth + 1)
    elif isinstance(value, list):
        yield from _bounds(shape, len(value), where, "item")
        for index, item in enumerate(value):
            yield from problems(shape.member, item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        yield from _text(shape, value, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number(shape, value, where)


def _structure(shape: Any, value: dict[str, object], where: str, depth: int) -> Iterator[ApiError]:
    members: Mapping[str, Any] = shape.members
    if shape.metadata.get("document"):
        return
    for name in shape.required_members:
        if value.get(name) is None:
            yield invalid(f"{_path(where, name)} is required.")
    for name, item in value.items():
        if name not in members:
            yield invalid(f"{_path(where, _short(name))}: no such parameter; there are {_list(members)}.")
        elif item is not None:  # null says no more than leaving it out
            yield from problems(members[name], item, _path(where, name), depth + 1)


def _text(shape: Any, value: str, where: str) -> Iterator[ApiError]:
    try:
        value.encode()
    except UnicodeEncodeError:
        yield invalid(f"{where}: it is not valid Unicode.")
        return
    yield from _bounds(shape, len(value), where, "character")
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        yield invalid(f"{where}: {_short(value)!r} is none of {', '.join(allowed)}.")
    pattern = shape.metadata.get("pattern")
    if pattern and not _matches(pattern, value):
        yield invalid(f"{where}: {_short(value)!r} has characters that are not allowed there.")


def _number(shape: Any, value: float, where: str) -> Iterator[ApiError]:
    bits = INTEGERS.get(shape.type_name)
    if bits and not -(2**bits) <= value < 2**bits:
        yield invalid(f"{where}: {_short(str(value))} is not a number of {bits + 1} bits.")
        return
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if (least is not None and value < least) or (most is not None and value > most):
        yield invalid(f"{where}: {value} is not within {least} to {most}.")


def _bounds(shape: Any, count: int, where: str, what: str) -> Iterator[ApiError]:
    least, most = shape.metadata.get("min", 0), shape.metadata.get("max")
    if count < least:
        yield invalid(f"{where}: at least {least} {what}s are wanted, not {count}.")
    if most is not None and count > most:
        yield invalid(f"{where}: at most {most} {what}s are allowed, not {count}.")


# -- answers ------------------------------------------------------------------------


def answer(shape: Any, value: object) -> Any:
    """Return ``value`` as the JSON value of an output shape.

    What is None is left out, and so is what the shape has no member for, or of another type: a
    record may have fields of its own, and whoever writes to the journal may write anything.
    """
    kind = shape.type_name
    if kind == "structure":
        assert isinstance(value, Mapping), f"{shape.name} is a structure, not {value!r}"
        members: Mapping[str, Any] = shape.members
        return {
            name: answer(member, value[name])
            for name, member in members.items()
            if value.get(name) is not None and _fits(member, value[name])
        }
    if kind == "list":
        assert isinstance(value, (list, tuple)), f"{shape.name} is a list, not {value!r}"
        return [answer(shape.member, item) for item in value if _fits(shape.member, item)]
    if kind == "map":
        assert isinstance(value, Mapping), f"{shape.name} is a map, not {value!r}"
        return {
            str(key): answer(shape.value, item) for key, item in value.items() if _fits(shape.value, item)
        }
    if kind == "timestamp":
        assert isinstance(value, (int, float)), f"{shape.name} is seconds since the epoch, not {value!r}"
        return float(value)
    return str(value) if kind == "string" else value


def _fits(shape: Any, value: object) -> bool:
    kind = shape.type_name
    if kind in ("structure", "map"):
        return isinstance(value, Mapping)
    if kind == "list":
        return isinstance(value, (list, tuple))
    return _KINDS[kind][1](value)


# -- what fits ----------------------------------------------------------------------


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "structure": ("an object", lambda value: isinstance(value, dict)),
    "map": ("an object", lambda value: isinstance(value, dict)),
    "list": ("a list", lambda value: isinstance(value, list)),
    "string": ("a string", lambda value: isinstance(value, str)),
    "boolean": ("true or false", lambda value: isinstance(value, bool)),
    "integer": ("an integer", _is_integer),
    "long": ("an integer", _is_integer),
    "double": ("a number", _is_number),
    "float": ("a number", _is_number),
    "timestamp": ("seconds since the epoch", _is_number),
    "blob": ("a string", lambda value: isinstance(value, str)),
}


def _matches(pattern: str, value: str) -> bool:
    """Say whether a value fits a pattern of the model, which may name Unicode's categories (``\\p{L}``)."""
    if "\\p{" not in pattern:
        return re.fullmatch(pattern, value) is not None
    # Only tags have such: letters, blanks, digits of any script, and some signs.
    return all(unicodedata.category(c)[0] in "LZN" or c in "_.:/=+-@" for c in value)


def _path(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _short(text: str) -> str:
    shown = text.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= SHOWN_MAX else f"{shown[:SHOWN_MAX]}…"


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none at all"


def _said(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, str)):
        return repr(_short(str(value)))
    return "a list" if isinstance(value, list) else "an object"
