"""New clients where the clients that are forgotten were rejected last: the leader brings the revision up.

Found by the simulator (seeds 767 and 875, with ``sessions=3``): every new client was told ``Expired``,
spent no slot, and so the revision that it waited for never came.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from trio.testing import MockClock

from journal.admission import Admission, Reply
from journal.client import Journal, OfferRejected, connect
from journal.commits import Commit
from journal.connection_local import LocalConnector
from journal.errors import Overloaded, Unavailable
from journal.node import Node
from journal.node_floor import FLOOR_LABEL, FloorKeeper
from journal.offers import Offer, Put, RawBatch
from journal.types import Revision

from .cluster import ByEndpoint, Cluster, running


@asynccontextmanager
async def client(cluster: Cluster, number: int) -> AsyncIterator[Journal]:
    connector = LocalConnector(ByEndpoint(cluster))
    async with connect(cluster.endpoints, connector=connector, rng=random.Random(number)) as journal:
        yield journal


async def rejected(cluster: Cluster, number: int) -> None:
    """A client comes, is rejected, and goes."""
    async with client(cluster, number) as journal:
        with pytest.raises(OfferRejected):
            await journal.offer(Offer((Put(b"a", b""),), expect=((b"a", 99),)))


def commits(node: Node) -> list[Commit]:
    return list(node.tails.read(Revision(0), 1 << 20).commits)


@pytest.fixture(autouse=True)
def few_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 2)


async def test_a_new_client_is_served_though_all_that_are_remembered_were_rejected(
    autojump_clock: MockClock,
) -> None:
    async with running(3) as cluster:
        async with client(cluster, 0) as journal:
            await journal.put(b"a", b"1")
        for number in range(1, 6):
            await rejected(cluster, number)
        async with client(cluster, 6) as journal:
            await journal.put(b"b", b"2")
        await cluster.converge()
        for node in cluster.nodes.values():
            made = [commit for commit in commits(node) if commit.label == FLOOR_LABEL]
            assert made, "the leader made the revision"
            assert not any(commit.client or commit.changes for commit in made)
            assert len(made) <= 5, "one for each time that somebody was forgotten at the present revision"
            assert node.space.forgotten_floor <= node.space.revision
            assert node._admission.idle, "a follower offers nothing"


async def test_nothing_is_made_where_clients_that_commit_are_forgotten(autojump_clock: MockClock) -> None:
    async with running(3) as cluster:
        for number in range(5):
            async with client(cluster, number) as journal:
                await journal.put(b"a", b"%d" % number)
                await journal.put(b"b", b"%d" % number)
        leader = await cluster.leader()
        assert leader.space.forgotten_floor > 0
        assert FLOOR_LABEL not in {commit.label for commit in commits(leader)}


async def test_a_new_leader_makes_the_revision_that_the_old_one_owed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(3) as cluster:
        with monkeypatch.context() as patch:
            patch.setattr(FloorKeeper, "tend", lambda self: None)
            async with client(cluster, 0) as journal:
                await journal.put(b"a", b"1")
            for number in range(1, 3):
                await rejected(cluster, number)
            old = await cluster.leader()
            assert old.space.forgotten_floor > old.space.revision
            await cluster.kill(int(old.config.node))
        new = await cluster.leader()
        await cluster.until(lambda: new.space.forgotten_floor <= new.space.revision)


async def test_it_is_offered_again_where_there_was_no_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = Admission.submit
    refused: list[RawBatch] = []

    def full_at_first(self: Admission, raw: RawBatch, reply: Reply) -> None:
        if not raw.client and not refused:
            refused.append(raw)
            raise Overloaded("offers_inflight_max", 1, 10)
        submit(self, raw, reply)

    monkeypatch.setattr(Admission, "submit", full_at_first)
    async with running(3) as cluster:
        async with client(cluster, 0) as journal:
            await journal.put(b"a", b"1")
        for number in range(1, 6):
            await rejected(cluster, number)
        leader = await cluster.leader()
        await cluster.until(lambda: leader.space.forgotten_floor <= leader.space.revision)
    assert refused


async def test_planted_without_the_leaders_revision_new_clients_are_refused_for_ever(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FloorKeeper, "tend", lambda self: None)
    async with running(3) as cluster:
        async with client(cluster, 0) as journal:
            await journal.put(b"a", b"1")
        for number in range(1, 3):
            await rejected(cluster, number)
        for number in range(3, 6):
            with pytest.raises(Unavailable, match="believes no base yet"):
                await rejected(cluster, number)
