"""With a majority down, offers are refused or time out, say so clearly, and go on when it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from journal.client import OfferUnknown, connect
from journal.connection import LINEARIZABLE, LOCAL
from journal.errors import Unavailable
from journal.offers import Offer, Put
from synod.history.client import RecordingClient

Chaos = Any  # tests/chaos/conftest.py


@pytest.mark.timeout(240)
def test_majority_down_is_a_clear_error_and_passes(chaos: Callable[[int], Chaos]) -> None:
    c = chaos(3)
    trio.run(_majority, c)
    c.finish()


async def _majority(c: Chaos) -> None:
    async with connect(c.cluster.endpoints, cluster=c.cluster.cluster_id) as journal:
        client = RecordingClient(journal, c.recorder, "lone")
        accepted = await client.offer(Offer((Put(b"a", b"1"),)))
        assert isinstance(accepted, int)

        leader = await trio.to_thread.run_sync(c.leader)
        others = [node for node in c.cluster.nodes if node != leader]
        for node in others:
            c.kill(node)

        async with trio.open_nursery() as nursery:
            began = time.monotonic()
            failed = trio.Event()

            async def impatient() -> None:
                """Its outcome can only be settled once there is a majority again."""
                outcome = await client.offer(Offer((Put(b"b", b"1"),)), timeout_s=3.0, on_answer=failed.set)
                assert isinstance(outcome, OfferUnknown | Unavailable), outcome
                assert len(str(outcome)) > 20, "an error must say something"

            async def patient() -> None:
                """An offer made while there is no majority, with time enough: it succeeds in the end."""
                outcome = await client.offer(Offer((Put(b"c", b"1"),)), timeout_s=60.0)
                assert isinstance(outcome, int), outcome
                assert outcome > accepted

            nursery.start_soon(impatient)
            nursery.start_soon(patient)
            with trio.fail_after(10.0):
                await failed.wait()
            assert time.monotonic() - began < 6.0, "an error that comes late is no error"
            with pytest.raises(Unavailable, match="no node answered"):
                await journal.get_many([b"a"], consistency=LINEARIZABLE, timeout_s=1.5)
            assert await client.get([b"a"], LOCAL) is not None, "a local read needs no majority"
            await trio.to_thread.run_sync(c.restart, others[0])

        for key in (b"a", b"c"):
            assert isinstance(await client.offer(Offer((Put(key, b"2"),))), int)
