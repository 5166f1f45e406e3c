"""What a node counts arrives in its metrics: one node, served, with all its edges."""

from __future__ import annotations

import grpc.aio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from journal.errors import Overloaded
from journal.http import Request
from journal.limits import Limits
from journal.metrics import pages
from journal.node import Node
from journal.offers import Adjust, Offer, Put
from journal.rpc import methods
from journal.rpc.pb import journal_pb2 as pb
from journal.types import Revision
from tests.rpc.harness import batch, guest, served, until


def samples(node: Node) -> dict[tuple[str, ...], float]:
    """Scrape: (name, label values…) to value."""
    reply = pages(node)["/metrics"](Request({}))
    assert reply.content_type.startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


@guest
async def test_offers_entries_and_their_latencies() -> None:
    async with served() as found:
        offers = [Offer((Put(b"k%d" % number, b"v"),)) for number in range(10)]
        await found.connection.submit(batch(*offers))
        # One that only the fold can reject (the key may come yet), one that the early check does.
        await found.offer(Adjust(b"x", {"cpu": 1}))
        await found.offer(Put(b"x", b"v"), expect=((b"k1", Revision(1)),))
        got = samples(found.node)
        assert got["synod_offers_accepted_total",] == 10
        assert got["synod_offers_applied_total",] == got["synod_offers_proposed_total",] == 11
        assert got["synod_offers_rejected_total", "absent"] == 1
        assert got["synod_offers_rejected_early_total", "expect"] == 1
        assert got["synod_offers_pending",] == 0
        assert got["synod_entries_proposed_total",] == got["synod_entry_offers_count",] == 2
        assert got["synod_entry_offers_sum",] == 11
        assert got["synod_entry_offers_bucket", "8.0"] == 1
        assert got["synod_entries_committed_total",] == got["synod_entries_applied_total",] >= 2
        assert got["synod_commit_seconds_count",] == 2
        assert got["synod_fold_seconds_count",] == got["synod_entries_applied_total",]
        assert got["synod_log_sync_seconds_count",] >= 2
        assert 0 < got["synod_commit_seconds_sum",] < 5
        assert got["synod_revision",] == 10
        assert got["synod_has_leader",] == got["synod_is_leader",] == got["synod_ready",] == 1
        assert got["synod_leader_changes_total",] == 1
        assert got["synod_alarm", "no_leader"] == 0


@guest
async def test_reads_refusals_and_limits() -> None:
    async with served(limits=Limits(tails_max=1)) as found:
        await found.put(b"k")
        for consistency, at_least in (
            (pb.CONSISTENCY_LOCAL, 0),
            (pb.CONSISTENCY_LINEARIZABLE, 0),
            (pb.CONSISTENCY_AT_LEAST, 1),
        ):
            await found.call(
                methods.GET, pb.GetRequest(keys=[b"k"], consistency=consistency, at_least=at_least)
            )
        await found.call(methods.GET, pb.GetRequest(keys=[b"k"], at=1))
        with pytest.raises(grpc.aio.AioRpcError):
            await found.call(methods.GET, pb.GetRequest(keys=[b""]))
        async with found.connection.tail(Revision(0), ()) as tail:
            await anext(tail)
            with pytest.raises(Overloaded, match="tails_max"):
                async with found.connection.tail(Revision(0), ()) as second:
                    await anext(second)
            got = samples(found.node)
            assert got["synod_tails",] == 1
            assert got["synod_tail_lag_revisions",] == 0
        assert [got["synod_reads_total", kind] for kind in ("local", "linearizable", "at_least", "past")] == [
            1
        ] * 4
        assert got["synod_requests_refused_total", "InvalidRequest"] == 1
        assert got["synod_requests_refused_total", "Overloaded"] == 1
        assert got["synod_limits_hit_total", "tails_max"] == 1
        await until(lambda: samples(found.node)["synod_tails",] == 0)
        assert not found.node.tails.watches, "a tail that ends is forgotten"
