"""A client that outlives the nodes it was given: it learns who came after them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from journal.client import ClientConfig, Journal, connect
from journal.client.router import Router
from journal.connection_local import LocalConnector
from journal.errors import Unavailable
from journal.paxos.changes import AddLearner, Promote, Remove
from journal.types import NodeId, Slot
from tests.node.cluster import ByEndpoint, Cluster, endpoint_of, running

WITHIN_S = 20.0


@asynccontextmanager
async def exchanged() -> AsyncIterator[tuple[Cluster, Journal]]:
    """Three nodes and a client of them; they grow to five, and then two further ones take the place of the
    original three, which are gone for good."""
    async with running(3) as cluster:
        connector = LocalConnector(ByEndpoint(cluster))
        config = ClientConfig(timeout_s=WITHIN_S, members_interval_s=5.0)
        operator = ClientConfig(timeout_s=60)
        async with (
            connect([endpoint_of(node) for node in (1, 2, 3)], connector=connector, config=config) as journal,
            connect(cluster.endpoints, connector=LocalConnector(ByEndpoint(cluster)), config=operator) as op,
        ):
            await journal.put(b"before", b"1")
            for node in (4, 5, 6):
                await cluster.join(node)
                await op.change_members(AddLearner(NodeId(node), endpoint_of(node)))
                await cluster.until(lambda node=node: cluster.nodes[node].status().leader)  # type: ignore[misc]
                await op.change_members(Promote(NodeId(node)))
            for node in (1, 2, 3):
                await op.change_members(Remove(NodeId(node)), timeout_s=60)
            await trio.sleep(12)
            for node in (1, 2, 3):
                await cluster.kill(node)
            yield cluster, journal


async def test_it_goes_on_when_all_that_it_was_given_are_gone(autojump_clock: MockClock) -> None:
    async with exchanged() as (cluster, journal):
        assert set(cluster.nodes) == {4, 5, 6}
        await journal.put(b"after", b"2")
        record = await journal.get(b"before")
        assert record is not None and record.value == b"1"
        async with journal.tail(after=0) as tail:
            async for message in tail:
                if any(change.key == b"after" for commit in message.commits for change in commit.changes):
                    break


async def test_planted_a_client_that_does_not_learn_is_lost(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Router, "learn_members", lambda *_arguments: None)
    async with exchanged() as (_cluster, journal):
        journal._router._confirmed = False  # nor was it redirected
        journal._router._leader = endpoint_of(1)
        with pytest.raises(Unavailable):
            await journal.get(b"before")


async def test_an_older_list_of_members_is_not_believed() -> None:
    import random

    router = Router(["a:1", "b:2"], LocalConnector({}), ClientConfig(), random.Random(1))
    router.learn_members(Slot(10), ["b:2", "c:3"])
    assert router.endpoints == ("b:2", "c:3", "a:1"), "those that are no members come last"
    home = router.home
    router.learn_members(Slot(9), ["a:1"])
    assert router.endpoints == ("b:2", "c:3", "a:1") and router.home == home
    router.learn_members(Slot(11), ["c:3"])
    first, *given = router.endpoints
    assert first == "c:3" and sorted(given) == ["a:1", "b:2"]
