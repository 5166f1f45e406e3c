"""A client that was forgotten and comes back: its old offers are not taken for new ones.

Found by the simulator (seed 27 of its first version: ``sessions=3``, four clients, lost replies).
"""

from __future__ import annotations

import pytest

from journal.client.submitter import WITHDRAWN
from journal.node_floor import FLOOR_LABEL
from journal.offers import EXPIRED, Offer, Put, Rejected
from journal.sessions import Sessions
from journal.storage import Write
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


def withdrawn_and_forgotten() -> World:
    """At revision 1, x has withdrawn its offer 1, and is forgotten for y, which was rejected, too."""
    world = World()
    assert world.offer(put(b"a")) == [1]
    for client in (b"x", b"y"):
        [verdict] = world.offer(WITHDRAWN, client=client, first=1, acked=1, base=1)
        assert isinstance(verdict, Rejected)
    assert b"x" not in world.space._sessions
    assert world.space.revision == 1
    return world


@pytest.mark.parametrize("crash", [False, True])
def test_a_late_copy_of_what_was_withdrawn_is_not_applied_though_its_client_is_forgotten(
    crash: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The withdrawal was rejected at the present revision, and its caller told: it never will be."""
    monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 1)
    world = withdrawn_and_forgotten()
    if crash:
        world.flush()
        world.crash()
    assert world.space.seen(b"x", 1, 1) == EXPIRED, "the early check says what the fold says"
    assert world.offer(put(), client=b"x", first=1, acked=1, base=1) == [EXPIRED]
    assert world.space.revision == 1


def test_planted_a_floor_at_the_present_revision_lets_it_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that the module's text argues against."""
    forget = Sessions._forget

    def lower(self: Sessions, client: bytes, writes: list[Write]) -> None:
        forget(self, client, writes)
        self.forgotten_floor -= 1

    monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 1)
    monkeypatch.setattr(Sessions, "_forget", lower)
    world = withdrawn_and_forgotten()
    assert world.offer(put(), client=b"x", first=1, acked=1, base=1) == [2], "and its caller was told: never"


def test_a_new_client_is_believed_from_the_next_revision_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 1)
    world = withdrawn_and_forgotten()
    assert world.space.forgotten_floor == 2
    assert world.offer(put(), client=b"z", first=1, base=1) == [EXPIRED], "no base is high enough"
    assert world.offer(Offer((), reads=(b"k",), at=1, label=FLOOR_LABEL)) == [2]
    assert world.offer(put(), client=b"z", first=1, base=2) == [3]
