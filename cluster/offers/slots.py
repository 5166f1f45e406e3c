"""Slots: places that a scheduler fills with one task at a time. PURE."""

from __future__ import annotations

from cluster import keys
from cluster.offers.common import label_of, together
from cluster.offers.tasks import place
from cluster.records import Slot, Task
from journal.offers import Delete, Offer, Put
from journal.types import Revision


def fill_slot(
    cluster: str,
    owner: str,
    name: str,
    slot: Slot,
    task: Task,
    revision: Revision,
    *,
    at: Revision,
    alone: bool = False,
) -> Offer:
    """Place a task and put it into a slot that is at ``revision`` (0: it was never filled).

    Of several copies of a scheduler that saw the same slot free, one fills it.
    """
    placed = place(cluster, slot.instance, slot.task, task, at=at, by=owner, alone=alone)
    key = keys.slot(cluster, owner, name)
    filled = Offer(mutations=(Put(key, slot.pack()),), expect=((key, revision),))
    return together(placed, filled, label=f"{owner}: fill {name} with {slot.task}")


def forget_slot(cluster: str, owner: str, name: str, revision: Revision) -> Offer:
    """Delete a slot that is at ``revision`` and is not wanted any more."""
    key = keys.slot(cluster, owner, name)
    return Offer(
        mutations=(Delete(key),), expect=((key, revision),), label=label_of(f"{owner}: forget {name}")
    )
