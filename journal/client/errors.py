"""What a client raises beyond the journal's own errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from journal.errors import JournalError

if TYPE_CHECKING:
    from journal.offers import Rejected, Verdict


class OfferId(NamedTuple):
    """What makes an offer exactly once: who offered it, and its number there."""

    client: bytes
    sequence: int

    def __str__(self) -> str:
        return f"{self.client.hex()}:{self.sequence}"


class OfferRejected(JournalError):
    """The offer was not committed and never will be; ``receipt`` says why.

    Conditions on what was read may hold after reading again; ``transact`` does that.
    """

    def __init__(self, receipt: Rejected) -> None:
        super().__init__(f"the offer was rejected: {receipt}")
        self.receipt = receipt


class OfferUnknown(JournalError):
    """The offer was submitted, but its verdict could not be learned: it may be committed, or
    may still be.

    The client goes on to settle it in the background, without bringing it to commit where it
    is not already on its way; ``Journal.outcome(error.id)`` waits for the result.
    """

    def __init__(self, offer_id: OfferId, why: str) -> None:
        super().__init__(
            f"it is unknown what became of offer {offer_id}, and it may still be committed: {why}"
        )
        self.id = offer_id


class OffersUnresolved(JournalError):
    """Some of many offers have no verdict; ``verdicts`` holds, for each in order, its verdict or
    its error (``OfferUnknown``, or one that says that it was not committed)."""

    def __init__(self, verdicts: Sequence[Verdict | JournalError]) -> None:
        errors = [verdict for verdict in verdicts if isinstance(verdict, JournalError)]
        super().__init__(f"{len(errors)} of {len(verdicts)} offers have no verdict; the first: {errors[0]}")
        self.verdicts = verdicts


class LeaseLost(JournalError):
    """A lease that was held is gone: it expired or was revoked, and its keys are deleted."""

    def __init__(self, lease: int) -> None:
        super().__init__(
            f"lease {lease} is lost: it expired or was revoked, and the keys bound to it are gone"
        )
        self.lease = lease
