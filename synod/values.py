"""Bytes as JSON and as text, both ways. PURE.

Keys and values are bytes; people mostly mean text. In JSON, bytes are a string where they are
UTF-8, ``{"msgpack": {...}}`` where they are a msgpack map (what ``adjust`` and the sets work on),
and ``{"base64": "..."}`` else. The same forms are read back, so output can be input again.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import msgpack


def from_json(value: Any, where: str) -> bytes:
    """Return the bytes that a JSON value stands for. Raises ValueError naming ``where``."""
    match value:
        case str():
            try:
                return value.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{where}: the text holds half of a surrogate pair") from None
        case {"base64": str(text), **rest} if not rest:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise ValueError(f"{where}.base64: {error}") from None
        case {"msgpack": dict(fields), **rest} if not rest:
            return pack_map(fields, f"{where}.msgpack")
    raise ValueError(f'{where}: must be text, {{"base64": "…"}} or {{"msgpack": {{…}}}}, not {_kind(value)}')


def pack_map(fields: dict[str, Any], where: str) -> bytes:
    """Return a map as msgpack. Raises ValueError where a number has more than 64 bits."""
    try:
        return bytes(msgpack.packb(fields))
    except (OverflowError, ValueError, UnicodeEncodeError) as error:
        raise ValueError(f"{where}: {error}") from None


def to_json(data: bytes) -> Any:
    """Return bytes in the shortest of the three forms that gives the same bytes back."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    fields = unpack_map(data)
    if fields is not None:
        return {"msgpack": fields}
    return {"base64": base64.b64encode(data).decode()}


def unpack_map(data: bytes) -> dict[str, Any] | None:
    """Return the fields of a msgpack map that JSON can say too; None for all other bytes."""
    try:
        fields = msgpack.unpackb(data)
        if isinstance(fields, dict) and msgpack.packb(fields) == data:
            json.dumps(fields, allow_nan=False)
            return fields if all(isinstance(key, str) for key in fields) else None
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        pass
    return None


def to_text(data: bytes) -> str:
    """Return bytes for a table: text as it is, control characters escaped, maps as JSON."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        fields = unpack_map(data)
        return json.dumps(fields, ensure_ascii=False) if fields is not None else repr(data)[2:-1]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {value}"
        case list():
            return "a list"
        case dict():
            return f"an object with {', '.join(sorted(value)) or 'nothing in it'}"
    return type(value).__name__
