"""A node's Prometheus metrics, made of its counters and its status at the time of a scrape.

Nothing here runs between two scrapes. A metric's name is ``synod_``, what it counts, and its
unit last (``_total`` behind that for what only grows). ``docs/operations.md`` has the table of
all of them, and a test compares it with what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from journal.counters import Histogram
from journal.http import Page, Reply, Request, text
from journal.status import ALARMS, WRITE_STUCK_S, NodeStatus

if TYPE_CHECKING:
    from journal.node import Node


class NodeCollector(Collector):
    """All ``synod_`` metrics of one node. Collect it in the node's own thread."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        status = self._node.status()
        yield from self._leadership(status)
        yield from self._entries()
        yield from self._offers(status)
        yield from self._edge(status)
        yield from self._peers(status)
        yield from self._state(status)

    def _leadership(self, status: NodeStatus) -> Iterator[Metric]:
        node, counters = self._node, self._node.counters
        info = {"node": str(status.node), "cluster": status.cluster, "endpoint": status.endpoint}
        family = GaugeMetricFamily(
            "synod_node_info", "Always 1; the labels say who this is.", labels=list(info)
        )
        family.add_metric(list(info.values()), 1)
        yield family
        yield _gauge("synod_has_leader", "1 if the node knows a leader.", status.leader is not None)
        yield _gauge("synod_is_leader", "1 if the node leads.", status.role == "leader")
        yield _gauge("synod_ready", "1 if /readyz says so.", not node.not_ready())
        yield _counter(
            "synod_leader_changes", "How often another leader became known.", counters.leader_changes
        )
        yield _gauge(
            "synod_ballot_round", "The round of the promised ballot.", int(status.ballot.split(".")[0])
        )
        on = {alarm.name for alarm in node.alarms()}
        yield _gauges(
            "synod_alarm", "1 while the alarm is on.", "alarm", {name: name in on for name in ALARMS}
        )
        yield _gauge("synod_uptime_seconds", "Since the node started.", status.uptime_s)

    def _entries(self) -> Iterator[Metric]:
        counters = self._node.counters
        yield _counter(
            "synod_entries_proposed", "Entries of offers proposed as leader.", counters.entries_proposed
        )
        yield _counter("synod_entries_committed", "Entries chosen.", counters.entries_committed)
        yield _counter("synod_entries_applied", "Entries folded.", counters.entries_applied)
        yield _gauge("synod_entries_pending", "Slots in flight as leader.", self._node.slots_in_flight)
        yield _histogram(
            "synod_entry_offers", "Offers in an entry proposed (the batch size).", counters.entry_offers
        )
        yield _histogram(
            "synod_commit_seconds",
            "From proposing an entry to its fold, as leader: a round trip and the slower of the syncs.",
            counters.commit_s,
        )
        yield _histogram("synod_log_sync_seconds", "A synced write of the log.", counters.sync_s)
        yield _histogram("synod_fold_seconds", "Folding one entry.", counters.fold_s)

    def _offers(self, status: NodeStatus) -> Iterator[Metric]:
        node, counters = self._node, self._node.counters
        yield _counter("synod_offers_proposed", "Offers proposed as leader.", counters.offers_proposed)
        yield _counter(
            "synod_offers_applied", "Offers folded, whatever became of them.", counters.offers_applied
        )
        yield _counter("synod_offers_accepted", "Offers that got a revision.", counters.offers_accepted)
        yield _counters(
            "synod_offers_rejected",
            "Offers rejected in the fold, by reason.",
            "reason",
            counters.offers_rejected,
        )
        yield _counters(
            "synod_offers_rejected_early",
            "Offers answered by the leader's early check, without a slot; by reason.",
            "reason",
            node.rejected_early,
        )
        yield _gauge("synod_offers_pending", "Offers taken in and not yet answered.", status.offers_inflight)

    def _edge(self, status: NodeStatus) -> Iterator[Metric]:
        counters = self._node.counters
        yield _counters(
            "synod_requests_refused",
            "Requests answered with an error, by its name.",
            "error",
            counters.requests_refused,
        )
        yield _counters(
            "synod_limits_hit", "Requests refused because of a named limit.", "limit", counters.limits_hit
        )
        yield _counters(
            "synod_reads",
            "Reads served (and first looks of tails), by consistency.",
            "consistency",
            counters.reads,
        )
        yield _gauge("synod_tails", "Tails that are open.", status.tails)
        lag = self._node.tails.lag
        yield _gauge("synod_tail_lag_revisions", "Of the tail that is furthest behind.", lag)

    def _peers(self, status: NodeStatus) -> Iterator[Metric]:
        peers = {str(peer.node): peer for peer in status.peers}
        links = {str(node): link for node, link in self._node.links().items()}
        yield _gauges(
            "synod_peer_connected",
            "1 if the stream to the peer stands.",
            "peer",
            {node: peer.connected for node, peer in peers.items()},
        )
        yield _gauges(
            "synod_peer_lag_slots",
            "How far the peer is behind this node, as far as it has said.",
            "peer",
            {node: peer.lag for node, peer in peers.items()},
        )
        yield _gauges(
            "synod_peer_silence_seconds",
            "Since the peer last said anything.",
            "peer",
            {node: peer.heard_ago_s for node, peer in peers.items() if peer.heard_ago_s is not None},
        )
        round_trips = HistogramMetricFamily(
            "synod_peer_round_trip_seconds", "Of a ping, one each second.", labels=["peer"]
        )
        for node, link in links.items():
            if link.round_trips is not None:
                _add(round_trips, [node], link.round_trips)
        yield round_trips
        yield _gauges(
            "synod_peer_queue_bytes",
            "What waits to be sent to the peer.",
            "peer",
            {node: link.queue_bytes for node, link in links.items()},
        )
        yield _counters(
            "synod_peer_dropped_messages",
            "Messages that did not fit the queue.",
            "peer",
            {node: link.dropped for node, link in links.items()},
        )
        yield _counter(
            "synod_inbox_dropped_messages",
            "Messages the node could not take in.",
            self._node.counters.inbox_dropped,
        )

    def _state(self, status: NodeStatus) -> Iterator[Metric]:
        counters = self._node.counters
        yield _gauge("synod_revision", "The journal's revision here.", status.revision)
        yield _gauge("synod_compacted_revision", "The oldest revision that can be read.", status.compacted)
        yield _gauge(
            "synod_compacting",
            "1 while what was compacted is being removed from the disk.",
            self._node.is_compacting,
        )
        yield _gauge("synod_applied_slot", "The last slot folded.", status.applied)
        yield _gauge("synod_chosen_slot", "The last slot known chosen, without gaps.", status.chosen)
        yield _gauge("synod_lag_slots", "How far behind the node is, as far as it knows.", status.lag)
        yield _gauge(
            "synod_log_first_slot", "The first slot that the log still has.", self._node.space.slots.first
        )
        yield _gauge(
            "synod_snapshot_fetching",
            "1 while the node fetches or installs a snapshot to catch up.",
            self._node.is_fetching_snapshot,
        )
        yield _counter("synod_snapshots_installed", "Snapshots installed here.", counters.snapshots_installed)
        yield _counter(
            "synod_snapshot_sent_bytes", "Of snapshots, to nodes that catch up.", counters.snapshot_sent_bytes
        )
        yield _counter(
            "synod_snapshot_received_bytes", "Of snapshots, from peers.", counters.snapshot_received_bytes
        )
        yield _gauge("synod_leases", "Leases that live.", status.leases)
        yield _counter(
            "synod_leases_expired", "Leases expired by this node as leader.", counters.leases_expired
        )
        yield _gauge("synod_disk_used_bytes", "The data folder, about.", status.disk_bytes)
        family = GaugeMetricFamily(
            "synod_disk_free_bytes", "Left on the data folder's file system.", labels=()
        )
        if status.disk_free_bytes is not None:
            family.add_metric((), status.disk_free_bytes)
        yield family


def pages(node: Node) -> dict[str, Page]:
    """Return what a node serves over HTTP, by path."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(node))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)

    def metrics(request: Request) -> Reply:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Reply(encode(registry), content_type=content_type)

    def livez(_request: Request) -> Reply:
        stuck_s = node.write_under_way_s
        if stuck_s > WRITE_STUCK_S:
            return text(f"the disk has not answered for {stuck_s:.0f} s", HTTPStatus.SERVICE_UNAVAILABLE)
        return text("ok")

    def readyz(_request: Request) -> Reply:
        reason = node.not_ready()
        return text(reason, HTTPStatus.SERVICE_UNAVAILABLE) if reason else text("ok")

    return {"/metrics": metrics, "/livez": livez, "/readyz": readyz}


# -- families -----------------------------------------------------------------------------


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=value)


def _gauges(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(name, help, value=value)


def _counters(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, help, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _histogram(name: str, help: str, values: Histogram) -> Metric:
    family = HistogramMetricFamily(name, help, labels=[])
    _add(family, [], values)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], values: Histogram) -> None:
    name: Callable[[float], str] = floatToGoString
    buckets = [(name(bound), count) for bound, count in values.cumulative()]
    family.add_metric(labels, buckets, values.total)
