"""The synchronous facade: the same client from threads without trio."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

from journal.client import OfferRejected, SnapshotPage, TailMessage
from journal.connection import NotSent, at_least
from journal.errors import InvalidRequest, Unavailable
from journal.offers import Offer, Put
from journal.sync import SyncJournal, SyncTransaction, connect

from .fake import FakeCluster


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def journal(cluster: FakeCluster) -> Iterator[SyncJournal]:
    with connect(cluster.endpoints, connector=cluster, rng=random.Random(1)) as journal:
        yield journal


def test_offers_and_reads(journal: SyncJournal) -> None:
    assert journal.put(b"a", b"1") == 1
    assert journal.offer(Offer((Put(b"b", b"2"),), expect=((b"b", 0),))) == 2
    assert journal.offer_many([Offer((Put(b"c", b""),))] * 3) == [3, 4, 5]
    assert journal.delete(b"c") == 6
    record = journal.get(b"a", consistency=at_least(6))
    assert record is not None
    assert record.value == b"1"
    assert journal.get(b"c") is None
    assert journal.get(b"c", at=4) is not None
    assert journal.get_many([b"a", b"b"]).revision == 6
    assert [key for key, _record in journal.scan(b"", b"").items] == [b"a", b"b"]
    assert journal.revision() == journal.seen == 6
    with pytest.raises(OfferRejected):
        journal.offer(Offer((Put(b"b", b"2"),), expect=((b"b", 0),)))
    journal.compact(3)
    journal.transfer_leadership(2)
    assert {getattr(status, "role", None) for status in journal.statuses().values()} == {"leader", "follower"}


def test_transactions_from_several_threads(journal: SyncJournal) -> None:
    def increment(transaction: SyncTransaction) -> int:
        count = int(transaction.get(b"count") or b"0") + 1
        transaction.put(b"count", b"%d" % count)
        return count

    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(journal.transact(increment))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(counts) == list(range(1, 9))

    def everything(transaction: SyncTransaction) -> None:
        assert transaction.record(b"count") is not None
        assert transaction.scan(b"", b"") == [(b"count", b"8")]
        transaction.delete(b"count")
        transaction.delete_range(b"x", b"y")

    journal.transact(everything)
    assert journal.get(b"count") is None


def test_tail(journal: SyncJournal) -> None:
    journal.put(b"a", b"1")
    with journal.tail(0) as tail:
        message = next(iter(tail))
        assert isinstance(message, TailMessage)
        assert message.commits[0].revision == 1
        assert tail.next(timeout_s=0.01) is None
        journal.put(b"a", b"2")
        assert isinstance(tail.next(timeout_s=10), TailMessage)
        assert tail.revision == 2
    with journal.tail(snapshot=True) as whole:
        assert isinstance(next(whole), SnapshotPage)


def test_replica(journal: SyncJournal) -> None:
    journal.put(b"p/a", b"1")
    with journal.replica(b"p/") as replica:
        revision = journal.put(b"p/b", b"2")
        replica.wait_for(revision)
        assert replica.revision >= revision
        assert [key for key, _record in replica.scan()] == [b"p/a", b"p/b"]
        record = replica.get(b"p/b")
        assert record is not None
        assert record.value == b"2"


def test_lease(journal: SyncJournal, cluster: FakeCluster) -> None:
    with journal.lease(5.0) as lease:
        journal.put(b"alive", b"", lease=lease.id)
        assert not lease.is_lost
    assert journal.get(b"alive") is None
    with pytest.raises(KeyError), journal.lease(5.0):
        raise KeyError
    assert not cluster.journal.leases


def test_an_error_of_the_body_is_the_bodys_and_the_thread_ends(cluster: FakeCluster) -> None:
    with pytest.raises(LookupError), connect(cluster.endpoints, connector=cluster) as journal:
        raise LookupError
    assert not [thread for thread in threading.enumerate() if thread.name == "journal-client"]
    with pytest.raises(NotSent, match="closed"):
        journal.put(b"a", b"")


def test_bad_settings_are_said_at_once(cluster: FakeCluster) -> None:
    with pytest.raises(InvalidRequest, match="endpoints"), connect([], connector=cluster):
        pass
    with pytest.raises(InvalidRequest, match="not of the form host:port"), connect("localhost"):
        pass


def test_a_journal_that_is_away(cluster: FakeCluster) -> None:
    for node in cluster.nodes.values():
        node.up = False
    with connect(cluster.endpoints, connector=cluster) as journal, pytest.raises(Unavailable):
        journal.offer(Offer((Put(b"a", b""),)), timeout_s=0.05)
