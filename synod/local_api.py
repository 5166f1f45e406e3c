"""The API process of a local cluster, as it is seen from outside."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synod.local_state import NotReady

if TYPE_CHECKING:
    from synod.local import LocalCluster


@dataclass(frozen=True, slots=True)
class ApiView:
    """The API process; ``health`` is "ok", or why it does not answer."""

    endpoint: str
    pid: int | None
    health: str

    def as_json(self) -> dict[str, object]:
        return {"endpoint": self.endpoint, "pid": self.pid, "health": self.health}


def view_api(cluster: LocalCluster, timeout_s: float = 2.0) -> ApiView | None:
    """Return how the API process of a cluster is; None where the cluster has none."""
    endpoint = cluster.api_endpoint
    if endpoint is None:
        return None
    pid = cluster.running().get("api")
    return ApiView(endpoint, pid, health(endpoint, timeout_s) if pid else "down")


def wait_api(cluster: LocalCluster, timeout_s: float = 30.0) -> None:
    """Wait until the API answers. Raises ``NotReady``; at once, where its process has ended."""
    deadline = time.monotonic() + timeout_s
    while True:
        cluster.raise_for_ended()
        view = view_api(cluster, max(0.1, min(2.0, deadline - time.monotonic())))
        if view is None or view.health == "ok":
            return
        if time.monotonic() >= deadline:
            raise NotReady(f"the API at {view.endpoint} is not ready after {timeout_s:.0f} s: {view.health}")
        time.sleep(0.05)


def health(endpoint: str, timeout_s: float) -> str:
    """Return "ok", or what an API process says of itself, or why it says nothing."""
    connection = http.client.HTTPConnection(endpoint, timeout=timeout_s)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read(1000).decode("utf-8", "replace").strip()
        return "ok" if answer.status == 200 else said
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
