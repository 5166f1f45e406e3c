"""What a slot committed, read back from its entry and the fold's outcome record. PURE.

The outcome record holds only what the entry does not say: which offers did not take effect, what
the computed mutations came to, and the chain. So live tails and historical ones run the same code
on the same bytes, and cannot differ. Changes come out resolved: a reader sees puts and deletes,
never an ``adjust``, and does not need the space to make sense of them.

The record: chain (32 bytes), revision before and after (8 and 8), then msgpack
``[not_applied, computed]``:

* ``not_applied``: per batch a list of ``[offer index, verdict]``, rising: offers that were
  rejected, expired, or repeats whose first verdict is repeated here;
* ``computed``: ``[batch, offer, mutation, result]``, rising. The result of an adjust or set mutation
  is ``[value, lease]``, of a delete_range or lease revoke the list of deleted keys, and of a delete
  that found nothing ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from journal.entries import KIND_OFFERS, kind_of, unpack_offers
from journal.errors import ProtocolViolation
from journal.offers import DELETE, DELETE_RANGE, LEASE_GRANT, PUT
from journal.types import Revision, Slot

OUTCOME_HEAD: Final = Struct(">32sQQ")  # chain, revision before, revision after


class Change(NamedTuple):
    """What a commit did to one key; ``value`` None means that it deleted it."""

    key: bytes
    value: bytes | None
    lease: int


class Commit(NamedTuple):
    """An accepted offer, as a tail delivers it. Each key appears in ``changes`` at most once."""

    revision: Revision
    slot: Slot
    time_ms: int
    """The leader's wall clock when it proposed the entry: for people."""
    client: bytes
    sequence: int
    label: str
    changes: tuple[Change, ...]


class Outcome(NamedTuple):
    """An outcome record, decoded as far as its head."""

    chain: bytes
    before: Revision
    after: Revision
    body: bytes


def outcome_head(record: bytes) -> Outcome:
    """Return the parts of an outcome record. Raises ``ProtocolViolation``."""
    if len(record) < OUTCOME_HEAD.size:
        raise ProtocolViolation("outcome record is too short")
    chain, before, after = OUTCOME_HEAD.unpack_from(record)
    return Outcome(chain, Revision(before), Revision(after), record[OUTCOME_HEAD.size :])


def commits(slot: Slot, entry: bytes, outcome: bytes) -> list[Commit]:
    """Return the commits of ``slot`` in revision order. Raises ``ProtocolViolation``."""
    if kind_of(entry) != KIND_OFFERS:
        return []
    head = outcome_head(outcome)
    if head.after == head.before:
        return []
    not_applied, computed = msgpack.unpackb(head.body, use_list=False)
    time_ms, batches = unpack_offers(entry)
    results = {(batch, offer, mutation): result for batch, offer, mutation, result in computed}
    revision = head.before
    found: list[Commit] = []
    for batch_index, (client, _acked, _base, offers) in enumerate(batches):
        skipped = {index for index, _verdict in not_applied[batch_index]}
        for index, offer in enumerate(offers):
            if index in skipped:
                continue
            revision = Revision(revision + 1)
            mutations = offer[6]
            if len(mutations) == 1 and mutations[0][0] == PUT:
                _kind, key, value, lease = mutations[0]
                changes: tuple[Change, ...] = (Change(key, value, lease),)
            else:
                changes = _changes(mutations, batch_index, index, results)
            found.append(Commit(revision, slot, time_ms, client, offer[0], offer[1], changes))
    if revision != head.after:
        raise ProtocolViolation(f"slot {slot}: entry and outcome record do not belong together")
    return found


def _changes(
    mutations: Sequence[Any], batch: int, offer: int, results: dict[tuple[int, int, int], Any]
) -> tuple[Change, ...]:
    changes: dict[bytes, Change] = {}
    for index, mutation in enumerate(mutations):
        kind = mutation[0]
        if kind == PUT:
            changes[mutation[1]] = Change(mutation[1], mutation[2], mutation[3])
        elif kind == DELETE:
            if (batch, offer, index) not in results:
                changes[mutation[1]] = Change(mutation[1], None, 0)
        elif kind == DELETE_RANGE or kind > LEASE_GRANT:
            for key in results[batch, offer, index]:
                changes[key] = Change(key, None, 0)
        elif kind != LEASE_GRANT:
            value, lease = results[batch, offer, index]
            changes[mutation[1]] = Change(mutation[1], value, lease)
    return tuple(changes.values())
