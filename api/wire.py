"""A request taken apart, before anybody knows what it asks for. PURE.

JSON 1.1: ``POST /``, the operation in ``X-Amz-Target``, the parameters as one JSON object in the
body. The region is the one that the client signed for (SigV4's credential scope).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.errors import ApiError

TARGET_PREFIX = "AmazonEC2ContainerServiceV20141113"
CONTENT_TYPE = "application/x-amz-json-1.1"

_TARGET = re.compile(rf"{TARGET_PREFIX}\.([A-Za-z]{{1,100}})")
_CREDENTIAL = re.compile(
    r"AWS4-HMAC-SHA256 +(?:.*[, ])?Credential=(?P<key>[^/, ]{1,128})/(?P<date>\d{8})/"
    r"(?P<region>[a-z0-9-]{1,32})/(?P<service>[a-z0-9-]{1,32})/aws4_request",
)


@dataclass(frozen=True, slots=True)
class Credential:
    """Who says to have signed a request, and for where. Nothing of it has been verified."""

    access_key: str
    date: str
    region: str
    service: str


def credential(authorization: str) -> Credential | None:
    """Return the credential of an ``Authorization`` header; None if there is none that can be read."""
    found = _CREDENTIAL.match(authorization)
    return Credential(found["key"], found["date"], found["region"], found["service"]) if found else None


def target(header: str | None) -> str:
    """Return the operation that ``X-Amz-Target`` names. Raises ``ApiError``."""
    found = _TARGET.fullmatch(header or "")
    if found is None:
        said = "is missing" if not header else "names no operation of ECS"
        raise unknown_operation(f"The header X-Amz-Target {said}: {TARGET_PREFIX}.<Operation> is wanted.")
    return found[1]


def unknown_operation(message: str) -> ApiError:
    return ApiError("UnknownOperationException", message)


def parameters(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body; an empty body is an empty object. Raises ``ApiError``."""
    if not body.strip():
        return {}
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise ApiError("SerializationException", f"The body is not JSON: {why}") from None
    if not isinstance(value, dict):
        raise ApiError("SerializationException", "The body is not a JSON object.")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def dump(value: Mapping[str, Any]) -> bytes:
    """Return the body of an answer."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "replace"
    )
