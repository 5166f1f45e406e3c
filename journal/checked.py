"""What an entry must be before this node accepts it, and what was decoded of it then. PURE.

A chosen entry that no node can fold would stop them all, for good. So nothing is accepted that is not
known to fold: an entry of an unknown kind, or offers that the gate would not have let in. A quorum of
acceptors that keep this rule chooses no such entry, whatever a leader proposes (a leader of a later version,
a leader with a bad memory, a message that was spoiled on its way).

What is checked does not depend on this node's own limits: two nodes that are set differently must not
differ in what they accept. What was decoded is kept for the fold, so that it is done once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from journal.entries import (
    KIND_COMPACTION,
    KIND_MEMBERSHIP,
    KIND_OFFERS,
    kind_of,
    unpack_compaction,
    unpack_offers,
)
from journal.errors import OfferInvalid, ProtocolViolation
from journal.gate import check_batch
from journal.limits import Limits
from journal.paxos.membership import Membership

DECODED_BYTES_MAX: Final = 4 * 1024 * 1024
"""Entries, packed, of which the decoded form is kept until they are folded."""

UNLIMITED: Final = Limits(**{field.name: 2**62 for field in fields(Limits)})


def check_entry(entry: bytes) -> Sequence[Any] | None:
    """Return the decoded batches of ``entry``, None where it carries no offers.

    Raises ``ProtocolViolation`` where no node could fold it.
    """
    kind = kind_of(entry)
    if kind == KIND_OFFERS:
        time_ms, batches = unpack_offers(entry)
        if type(time_ms) is not int or type(batches) is not tuple:
            raise ProtocolViolation("an offers entry is not a time and batches")
        try:
            for batch in batches:
                check_batch(batch, UNLIMITED)
        except OfferInvalid as error:
            raise ProtocolViolation(f"an offers entry holds what no gate lets in: {error}") from error
        return batches
    if kind == KIND_MEMBERSHIP:
        Membership.unpack(entry[1:])
    elif kind == KIND_COMPACTION:
        unpack_compaction(entry)
    elif kind != 0:
        raise ProtocolViolation(f"an entry is of kind {kind}, which this version does not know")
    return None


class Checked:
    """Checks entries, and remembers what it decoded."""

    def __init__(self) -> None:
        self._decoded: OrderedDict[bytes, Sequence[Any]] = OrderedDict()
        self._bytes = 0

    def check(self, entry: bytes) -> None:
        """Raise ``ProtocolViolation`` where ``entry`` must not be accepted."""
        if entry in self._decoded:
            return
        batches = check_entry(entry)
        if batches is not None:
            self._decoded[entry] = batches
            self._bytes += len(entry)
            while self._bytes > DECODED_BYTES_MAX:
                dropped, _batches = self._decoded.popitem(last=False)
                self._bytes -= len(dropped)

    def take(self, entry: bytes) -> Sequence[Any] | None:
        """Return the decoded batches of ``entry`` and forget them; None if they are not known any more."""
        found = self._decoded.pop(entry, None)
        if found is not None:
            self._bytes -= len(entry)
        return found
