"""A client whose opening is cancelled leaves nothing open. Found by the simulator."""

from __future__ import annotations

import random

import trio

from journal.client import connect
from tests.client.fake import FakeCluster


async def test_opening_a_client_in_a_cancelled_scope_leaves_no_nursery_behind() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with connect(["node-1"], connector=FakeCluster(), rng=random.Random(1)):
            raise AssertionError("cancelled before it opens")
    assert scope.cancelled_caught
    await trio.lowlevel.checkpoint()
