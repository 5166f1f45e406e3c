"""``POST /_synod/reset``: an empty cluster again, for people's test suites.

Deletes what the cluster holds in the journal, range by range. What else is in the journal stays.
An agent that runs will not register again by itself: this is for clusters without agents, or
between runs that start new ones.
"""

from __future__ import annotations

from api.calls import Api
from cluster.keys import PREFIXES
from journal.limits import FOLD_DELETE_RANGE_KEYS_MAX
from journal.offers import DeleteRange, Offer, prefix_range

PIECE_KEYS = FOLD_DELETE_RANGE_KEYS_MAX // 2


async def reset(api: Api) -> None:
    """Delete everything of every cluster. Raises ``JournalError``."""
    revision = 0
    for prefix in PREFIXES:
        start, end = prefix_range(prefix)
        while True:  # in pieces: one offer may delete so many keys only
            found = await api.journal.scan_page(start, end, limit_keys=PIECE_KEYS)
            if not found.items and found.next_key is None:
                break
            piece_end = end if found.next_key is None else found.next_key
            revision = await api.journal.offer(Offer((DeleteRange(start, piece_end),), label="reset"))
    await api.live.reached(revision)
