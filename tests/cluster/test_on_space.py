"""The journal's own fold decides the cluster's offers as the naive journal does.

So what ``test_offers`` shows on the naive one holds on the real one.
"""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.keys import CLUSTERS, TASK_DEFINITIONS
from cluster.state import ClusterState
from journal.commits import commits
from journal.entries import pack_offers
from journal.offers import Offer, pack_batch, pack_offer, prefix_range
from journal.space import Space
from journal.storage.memory import MemoryStorage
from journal.types import Revision, Slot
from journal.versions import Record
from tests.cluster.naive import NaiveJournal, Refused
from tests.cluster.test_offers import Anarchy
from tests.cluster.test_state import facts


class Both(NaiveJournal):
    """Offers to the naive journal and to the real fold, and compares them."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Space(MemoryStorage())
        self.followed_state = ClusterState()

    def offer(self, offer: Offer) -> Revision:
        slot = Slot(self.space.applied + 1)
        entry = pack_offers(0, [pack_batch(b"", 0, 0, [pack_offer(1, offer)])])
        folded = self.space.fold(slot, entry)
        verdict = folded.verdicts[0][0]
        for commit in commits(slot, entry, folded.outcome):
            self.followed_state.apply(commit)
        try:
            revision = super().offer(offer)
        except Refused as refused:
            assert not isinstance(verdict, int), (
                f"the fold accepted what the naive journal refused: {refused}"
            )
            raise
        assert verdict == revision, verdict
        return revision

    def scanned(self, prefix: bytes) -> list[tuple[bytes, Record]]:
        start, end = prefix_range(prefix)
        items, next_key = self.space.scan(start, end, None, limit_keys=10_000, limit_bytes=2**30)
        assert next_key is None
        return items

    def real_state(self) -> ClusterState:
        state = ClusterState()
        items = [
            (key, record.value, record.mod)
            for prefix in (CLUSTERS, TASK_DEFINITIONS)
            for key, record in self.scanned(prefix)
            if record.value is not None
        ]
        state.load(items, self.space.revision)
        return state


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_the_fold_and_the_naive_journal_agree_on_every_offer(seed: int) -> None:
    both = Both()
    world = Anarchy(random.Random(seed), journal=both)
    for _ in range(120):
        world.step()
    assert facts(both.real_state()) == facts(both.state())
    assert facts(both.followed_state) == facts(both.state())
