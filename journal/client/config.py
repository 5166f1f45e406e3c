"""Every setting of a client, documented, and checked in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from journal.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """Settings of one client. The defaults suit a cluster in one data centre."""

    timeout_s: float = 10.0
    """How long a call may take in all, retries included, unless the call says otherwise."""
    attempt_timeout_s: float = 3.0
    """How long one node is given to answer before another one is asked. It doubles (up to four
    times over) for a message that timed out, so that a slow cluster is not flooded with repeats."""

    messages_inflight_max: int = 8
    """Submit messages on their way at once. Offers that arrive meanwhile gather for the next."""
    message_offers_max: int = 4_096
    """At most the nodes' ``batch_offers_max``."""
    message_bytes_max: int = 2 * 1024 * 1024 - 1024
    """At most the nodes' ``batch_bytes_max``, less the header of a batch."""
    limits: Limits = field(default_factory=Limits)
    """The nodes' limits as far as they are checked before sending (``offer_bytes_max``)."""

    backoff_min_s: float = 0.01
    backoff_max_s: float = 0.25
    """The wait between two tries while no node can serve: from min, doubling, to max, each
    drawn between half and the whole of it. Max bounds what an election costs on top."""
    overload_delay_max_s: float = 2.0
    """The longest wait after ``Overloaded``; the shortest is what the node asks for."""

    conflict_attempts_max: int = 32
    """How often ``transact`` runs its function before it gives up on conflicts."""

    members_interval_s: float = 10.0
    """How often an open client asks who the members are, so that it finds those that joined after it was
    opened when those that it was given are gone. The first time is a second after the first answer."""

    tail_progress_interval_s: float = 1.0
    """How often the node of an idle tail shows that it is alive."""
    tail_silence_max_s: float = 4.0
    """A tail that heard nothing for so long goes to another node."""
    tail_idle_check_s: float = 5.0
    """A tail that was idle for so long asks for the present revision, and leaves a node that is
    cut off from the others and does not know it."""

    def validate(self) -> None:
        """Raise ValueError that names the field that is wrong."""
        self.limits.validate()
        for item in fields(self):
            if item.name != "limits" and not getattr(self, item.name) > 0:
                raise ValueError(f"{item.name} must be positive, not {getattr(self, item.name)!r}")
        if self.backoff_min_s > self.backoff_max_s:
            raise ValueError("backoff_min_s must not exceed backoff_max_s")
        if self.tail_silence_max_s <= self.tail_progress_interval_s:
            raise ValueError("tail_silence_max_s must exceed tail_progress_interval_s")
        if self.message_offers_max > self.limits.batch_offers_max:
            raise ValueError("message_offers_max must not exceed limits.batch_offers_max")
        if self.message_bytes_max > self.limits.batch_bytes_max:
            raise ValueError("message_bytes_max must not exceed limits.batch_bytes_max")
