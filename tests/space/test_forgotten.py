"""A client that was forgotten and comes back: its old offers are not taken for new ones.

Found by the simulator (seed 27 of its first version: ``sessions=3``, four clients, lost replies).
"""

from __future__ import annotations

import pytest

from journal.offers import EXPIRED, Offer, Put
from tests.space.world import World


def put(key: bytes = b"k") -> Offer:
    return Offer((Put(key, b""),))


@pytest.mark.parametrize("crash", [False, True])
def test_a_late_copy_from_before_a_client_was_forgotten_is_not_applied_again(
    crash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 1)
    world = World()
    assert world.offer(put(), client=b"x", first=1) == [1]  # its answer is lost
    assert world.offer(put(), client=b"y", base=1) == [2]  # x is forgotten
    assert world.offer(put(b"z")) == [3]
    assert world.offer(put(), client=b"x", first=2, acked=1, base=3) == [4]  # x is back, with a new offer
    if crash:
        world.flush()
        world.crash()
    seen = world.space.seen(b"x", 1, 0)
    assert seen == EXPIRED, "the early check says what the fold says"
    assert world.offer(put(), client=b"x", first=1, acked=1) == [EXPIRED]
    assert world.space.revision == 4
    assert world.space.outcome(b"x", 2) == 4, "what the new session decided is remembered"
