"""A revision above the forgotten floor, at the leader: new clients must not wait for other people's offers.

The forgotten floor (``journal.sessions``) is one above the revision at which a forgotten client was last
decided. If that is the present revision (its last offer was rejected), the floor is ahead of the journal:
no client can know a base that reaches it, so each new one is told ``Expired``, spends no slot, and moves
nothing. Unless somebody who is still known commits, that stays so for ever. So the leader moves the journal
on by one, with an offer that changes nothing: once for each time that the floor gets ahead.
"""

from __future__ import annotations

from typing import Final

from journal.admission import Admission
from journal.errors import JournalError, Overloaded
from journal.gate import unpack_batch
from journal.limits import Limits
from journal.offers import Offer, Verdict, pack_batch, pack_offer
from journal.space import Space
from journal.standing import Standing

FLOOR_LABEL: Final = "above the forgotten clients"
"""The label of the leader's own offer: what a tail shows of it."""

_KEY: Final = b"synod/floor"


class FloorKeeper:
    """Sees to it that some base is high enough for a new client."""

    def __init__(self, space: Space, standing: Standing, admission: Admission, limits: Limits) -> None:
        self._space = space
        self._standing = standing
        self._admission = admission
        self._limits = limits
        self._is_offered = False

    def tend(self) -> None:
        """Offer a revision, where it is this node's to do, and none is on its way. Costs a comparison."""
        space = self._space
        if space.forgotten_floor <= space.revision or self._is_offered or not self._standing.leads:
            return
        # A condition and no mutation: accepted at a revision of its own, unless the key was written
        # above the revision that is read here, and then the journal has moved on by that.
        offer = Offer(mutations=(), reads=(_KEY,), at=space.revision, label=FLOOR_LABEL)
        batch = unpack_batch(pack_batch(b"", 0, space.revision, [pack_offer(0, offer)]), self._limits)
        self._is_offered = True
        try:
            self._admission.submit(batch, self._answered)
        except Overloaded:
            self._is_offered = False  # the next fold or tick asks again, if what is in flight moved nothing

    def _answered(self, _result: list[Verdict] | JournalError) -> None:
        self._is_offered = False
