"""ARNs: made here, at the edge, and read here in every form that ECS takes. PURE.

Nothing in the journal holds an ARN, a region or an account: whoever asks signs for a region, and
that region is what the answer's ARNs name.

======================  ======================================  ===============================
what                    made                                    read as well
======================  ======================================  ===============================
cluster                 ``cluster/NAME``                        ``NAME``
container instance      ``container-instance/CLUSTER/ID``       ``container-instance/ID``, ``ID``
task                    ``task/CLUSTER/ID``                     ``task/ID``, ``ID``
service                 ``service/CLUSTER/NAME``                ``service/NAME``, ``NAME``
task definition         ``task-definition/FAMILY:REVISION``     ``task-definition/FAMILY``,
                                                                ``FAMILY:REVISION``, ``FAMILY``
======================  ======================================  ===============================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from api.errors import invalid

DEFAULT_CLUSTER = "default"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_DEFINITION = re.compile(r"[A-Za-z0-9_-]{1,255}(:[0-9]{1,10})?")
SHOWN_MAX = 120


class Named(NamedTuple):
    """A resource that a caller named. ``cluster`` is empty where the form does not name it."""

    kind: str
    cluster: str
    id: str


@dataclass(frozen=True, slots=True)
class Arns:
    """The ARNs of one region and account."""

    region: str
    account: str
    partition: str = "aws"

    # -- made -----------------------------------------------------------------------

    def of(self, resource: str) -> str:
        """Return the ARN of a resource, such as ``cluster/default``."""
        return f"arn:{self.partition}:ecs:{self.region}:{self.account}:{resource}"

    def cluster(self, name: str) -> str:
        return self.of(f"cluster/{name}")

    def instance(self, cluster: str, instance: str) -> str:
        return self.of(f"container-instance/{cluster}/{instance}")

    def task(self, cluster: str, task: str) -> str:
        return self.of(f"task/{cluster}/{task}")

    def container(self, cluster: str, task: str, container: str) -> str:
        return self.of(f"container/{cluster}/{task}/{container}")

    def service(self, cluster: str, name: str) -> str:
        return self.of(f"service/{cluster}/{name}")

    def definition(self, name: str) -> str:
        return self.of(f"task-definition/{name}")

    def principal(self, name: str = "root") -> str:
        """Return the ARN of who calls, for account settings."""
        return f"arn:{self.partition}:iam::{self.account}:{name}"

    # -- read -----------------------------------------------------------------------

    def read_cluster(self, given: str | None) -> str:
        """Return the name of the cluster that was named; none is ``default``. Raises ``ApiError``."""
        if given is None or given == "":
            return DEFAULT_CLUSTER
        named = self._read(given, "cluster")
        return named.id

    def read_instance(self, given: str, cluster: str) -> str | None:
        """Return the id; None where the ARN names another cluster. Raises ``ApiError``."""
        return self._within(given, "container-instance", cluster)

    def read_task(self, given: str, cluster: str) -> str | None:
        return self._within(given, "task", cluster)

    def read_service(self, given: str, cluster: str) -> str | None:
        return self._within(given, "service", cluster)

    def read_definition(self, given: str) -> str:
        """Return ``family`` or ``family:revision``. Raises ``ApiError``."""
        rest = self._resource(given, "task-definition") if given.startswith("arn:") else given
        if not _DEFINITION.fullmatch(rest):
            raise invalid(f"Invalid task definition {_short(given)}: family or family:revision is wanted.")
        return rest

    def read_any(self, given: str) -> Named:
        """Return the resource behind any ARN, as TagResource takes it. Raises ``ApiError``."""
        kind, slash, _ = self._resource_part(given).partition("/")
        if not slash or kind not in _KINDS:
            raise invalid(f"Invalid resource ARN {_short(given)}: it is none of {', '.join(sorted(_KINDS))}.")
        if kind == "task-definition":
            return Named(kind, "", self.read_definition(given))
        return self._read(given, kind)

    def resource_of(self, given: str) -> str:
        """Return what an ARN has after the account, such as ``task/default/1``. Raises ``ApiError``."""
        return self._resource_part(given)

    def _within(self, given: str, kind: str, cluster: str) -> str | None:
        named = self._read(given, kind)
        return named.id if named.cluster in ("", cluster) else None

    def _read(self, given: str, kind: str) -> Named:
        rest = self._resource(given, kind) if given.startswith("arn:") else given
        parts = rest.split("/")
        if not all(_NAME.fullmatch(part) for part in parts) or len(parts) > (1 if kind == "cluster" else 2):
            raise invalid(f"Invalid {kind} identifier {_short(given)}.")
        if len(parts) == 2 and not given.startswith("arn:"):
            raise invalid(f"Invalid {kind} identifier {_short(given)}: a name or an ARN is wanted.")
        return Named(kind, parts[0] if len(parts) == 2 else "", parts[-1])

    def _resource(self, given: str, kind: str) -> str:
        found, _, rest = self._resource_part(given).partition("/")
        if found != kind:
            raise invalid(f"Invalid identifier {_short(given)}: the ARN of a {kind} is wanted.")
        return rest

    def _resource_part(self, given: str) -> str:
        parts = given.split(":", 5)
        if len(parts) != 6 or parts[0] != "arn" or parts[2] != "ecs":
            raise invalid(f"Invalid identifier {_short(given)}: it is no ARN of ECS.")
        if parts[4] != self.account:
            raise invalid(
                f"Identifier is for {_short(parts[4]) or 'no account'}. Your accountId is {self.account}."
            )
        return parts[5]


_KINDS = {
    "cluster",
    "container-instance",
    "task",
    "service",
    "task-definition",
    "capacity-provider",
    "task-set",
}


def _short(text: str) -> str:
    shown = text.encode("utf-8", "backslashreplace").decode()
    return shown if len(shown) <= SHOWN_MAX else f"{shown[:SHOWN_MAX]}…"
