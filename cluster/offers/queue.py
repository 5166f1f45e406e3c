"""Runs that wait for capacity. PURE."""

from __future__ import annotations

from cluster import keys
from cluster.offers.common import label_of
from cluster.records import QueuedRun
from journal.offers import Delete, Offer, Put
from journal.types import Revision


def enqueue(cluster: str, name: str, run: QueuedRun) -> Offer:
    """Queue a run under ``keys.run_name``; rejected if there is one of that name."""
    key = keys.queued(cluster, name)
    return Offer(mutations=(Put(key, run.pack()),), expect=((key, 0),), label=label_of(f"enqueue {name}"))


def change_queued(cluster: str, name: str, run: QueuedRun, revision: Revision) -> Offer:
    """Replace a queued run that is at ``revision``; ``together`` with the tasks that it was given."""
    key = keys.queued(cluster, name)
    return Offer(
        mutations=(Put(key, run.pack()),), expect=((key, revision),), label=label_of(f"queued run {name}")
    )


def dequeue(cluster: str, name: str, revision: Revision) -> Offer:
    """Delete a queued run that is at ``revision``: placed whole (``together`` with that), or given up."""
    key = keys.queued(cluster, name)
    return Offer(mutations=(Delete(key),), expect=((key, revision),), label=label_of(f"dequeue {name}"))
