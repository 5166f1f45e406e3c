"""Every setting of an API process, documented, and checked in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

ACCOUNT_DEFAULT = "123456789012"
REGION_DEFAULT = "us-east-1"

_REGION = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Settings of one API process. ``validate`` checks them."""

    listen: str = "127.0.0.1:8400"
    """Where it serves, ``host:port``. Port 0: any free one."""
    region: str = REGION_DEFAULT
    """The region of answers to requests that are not signed for one."""
    account: str = ACCOUNT_DEFAULT
    allow_reset: bool = False
    """Whether ``POST /_synod/reset`` deletes everything. For test suites."""
    verify_signatures: bool = False
    """Whether SigV4 signatures are verified. There are no users and keys yet: True is refused."""
    local_reads: bool = False
    """Whether reads are answered from the local replica as it stands. False: only once it stands where
    the journal stood when the request came, so that a write through any other process is seen."""

    heartbeat_s: float = 3_600.0
    """How long a container instance that was registered through the API, with no agent of Synod's behind
    it, counts as connected without a word from it (DiscoverPollEndpoint, Submit…, registering again)."""

    body_bytes_max: int = 1024 * 1024
    connections_max: int = 1_024
    """Open at once; past it a new one is closed."""
    requests_inflight_max: int = 256
    """Requests that are served at once; past it comes ThrottlingException, which clients retry."""
    request_timeout_s: float = 20.0
    """How long a request may take to come, to be served, and its answer to be read: so long each."""
    keep_alive_s: float = 75.0
    """How long an idle connection is kept: longer than clients keep theirs in a pool."""
    graceful_s: float = 5.0
    """How long requests that are being served may still take when the process is told to stop."""
    token_keep_s: float = 24 * 3_600.0
    """How long a clientToken of RunTask is remembered."""
    stopped_keep_s: float = 3 * 3_600.0
    """How long stopped tasks of instances without an agent of Synod's are kept. At least an hour is usual."""
    sweep_interval_s: float = 60.0
    """How often what has outlived its time (client tokens, stopped tasks of instances without
    an agent) is looked for and deleted."""

    def validate(self) -> None:
        """Raise ValueError that names the setting that is wrong."""
        if self.verify_signatures:
            raise ValueError("verify_signatures: there are no users and keys yet to verify a signature with")
        if not re.fullmatch(r"\d{12}", self.account):
            raise ValueError(f"account {self.account!r} is not 12 digits")
        if not _REGION.fullmatch(self.region):
            raise ValueError(f"region {self.region!r} is not a name such as {REGION_DEFAULT}")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"{item.name} must be positive, not {value!r}")
        if not 0.5 <= self.heartbeat_s <= 24 * 3_600:
            raise ValueError(f"heartbeat_s {self.heartbeat_s:g} is not within 0.5 and 86400")
        host_port(self.listen)


def host_port(listen: str) -> tuple[str, int]:
    """Return the parts of ``host:port``. Raises ``ValueError``."""
    host, colon, port = listen.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ValueError(f"listen {listen!r} is not host:port (such as 127.0.0.1:8400)")
    return host.removeprefix("[").removesuffix("]"), int(port)
