"""What a call can fail with: ECS's error shapes. PURE.

On the wire an error is ``{"__type": code, "message": ...}``, with HTTP status 400, and 500 only for
``ServerException``. Clients retry 5xx and ``ThrottlingException``, so only what a
repetition may cure is one of those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """A call failed as ECS would have it fail. ``fields``: further members of the error's shape."""

    def __init__(
        self, code: str, message: str, *, status: int = 400, fields: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = dict(fields or {})

    def body(self) -> dict[str, Any]:
        return {"__type": self.code, "message": self.message, **self.fields}


def invalid(message: str) -> ApiError:
    """Return the error of a parameter that is not right."""
    return ApiError("InvalidParameterException", message)


def client(message: str) -> ApiError:
    """Return the error of an action that cannot be taken, such as on what is inactive."""
    return ApiError("ClientException", message)


def server(message: str) -> ApiError:
    """Return the error of a call that may well work if it is repeated."""
    return ApiError("ServerException", message, status=500)


def throttled() -> ApiError:
    return ApiError("ThrottlingException", "Rate exceeded: too many requests are being served; try again.")


def unsupported(message: str) -> ApiError:
    return ApiError("UnsupportedFeatureException", message)


def cluster_not_found(message: str = "Cluster not found.") -> ApiError:
    return ApiError("ClusterNotFoundException", message)


def service_not_found() -> ApiError:
    return ApiError("ServiceNotFoundException", "Service not found.")


def target_not_found(message: str) -> ApiError:
    return ApiError("TargetNotFoundException", message)
