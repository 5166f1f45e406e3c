"""What every offer of the cluster shares. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from cluster.records import Capacity, Claim
from cluster.records.common import RESOURCE_FIELD
from journal.limits import LABEL_BYTES_MAX
from journal.offers import Adjust, Mutation, Offer, SetAdd, SetRemove

T = TypeVar("T")

TOGETHER_TASKS_MAX = 50
"""Tasks that ``together`` may place in one offer, of few ports each: the journal limits operations."""


def together(*offers: Offer, label: str = "") -> Offer:
    """Return one offer that is accepted where all of these would be, or not at all (a gang).

    Conditions are those of all, at the oldest revision that any stands on, and mutations follow
    one another. The label is the first one's unless given.
    """
    if not offers:
        raise ValueError("together needs at least one offer")
    return Offer(
        mutations=tuple(mutation for offer in offers for mutation in offer.mutations),
        reads=_unique(key for offer in offers for key in offer.reads),
        ranges=_unique(pair for offer in offers for pair in offer.ranges),
        expect=_unique(pair for offer in offers for pair in offer.expect),
        at=min((offer.at for offer in offers if offer.reads or offer.ranges), default=offers[0].at),
        label=label_of(label or offers[0].label),
    )


def take(key: bytes, claim: Claim) -> list[Mutation]:
    """Return what claims it from the capacity at ``key``; rejected where that would leave less than 0."""
    numbers = {name: -value for name, value in claim.numbers().items()}
    mutations: list[Mutation] = [Adjust(key, numbers, minimum=dict.fromkeys(numbers, 0))]
    for name, ports in (("ports", claim.ports), ("portsUdp", claim.ports_udp)):
        if ports:
            mutations.append(SetAdd(key, name, ports))
    return mutations


def give_back(key: bytes, claim: Claim) -> list[Mutation]:
    """Return what ``take`` undoes."""
    mutations: list[Mutation] = [Adjust(key, claim.numbers())]
    for name, ports in (("ports", claim.ports), ("portsUdp", claim.ports_udp)):
        if ports:
            mutations.append(SetRemove(key, name, ports))
    return mutations


def move(key: bytes, old: Capacity, new: Capacity) -> list[Mutation]:
    """Return what makes a capacity that was ``old`` when nothing was claimed be ``new``, claims kept."""
    names = sorted({*old.resources, *new.resources})
    before, after = _numbers(old, names), _numbers(new, names)
    deltas = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    mutations: list[Mutation] = []
    if deltas:
        mutations.append(Adjust(key, deltas, minimum=dict.fromkeys(deltas, 0)))
    for field, was, becomes in (
        ("ports", set(old.ports), set(new.ports)),
        ("portsUdp", set(old.ports_udp), set(new.ports_udp)),
    ):
        if was - becomes:
            mutations.append(SetRemove(key, field, tuple(sorted(was - becomes))))
        if becomes - was:
            mutations.append(SetAdd(key, field, tuple(sorted(becomes - was))))
    return mutations


def label_of(text: str) -> str:
    """Return a label within the journal's limit; names are ASCII, so characters are bytes."""
    return text[:LABEL_BYTES_MAX]


def _numbers(capacity: Capacity, names: Iterable[str]) -> dict[str, int]:
    named = {name: capacity.resources.get(name, 0) for name in names}
    everything = Claim(cpu=capacity.cpu, memory=capacity.memory).numbers()
    return everything | {RESOURCE_FIELD + name: value for name, value in named.items()}


def _unique(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))
