"""The journal's own objects as protobuf messages, both ways.

Peers' messages (``pack_envelope``) and the typed forms for clients of any language. The
offers of this project's own client do not pass through here: they travel packed, as the
bytes that the journal stores (``journal.offers``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgpack

from journal.errors import InvalidRequest, OfferInvalid, ProtocolViolation
from journal.offers import (
    ADJUST,
    DELETE,
    DELETE_RANGE,
    EXPIRED,
    LEASE_GRANT,
    LEASE_REVOKE,
    PUT,
    SET_ADD,
    SET_REMOVE,
    Expired,
    Reason,
    Rejected,
    Verdict,
)
from journal.paxos.messages import (
    Accept,
    Accepted,
    AcceptedValue,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    Learn,
    Learned,
    LostValue,
    Message,
    Nack,
    Prepare,
    PreVote,
    PreVoteReply,
    Promise,
    ReadIndex,
    ReadIndexReply,
    Show,
    Shown,
    SnapshotAsk,
    SnapshotChunk,
    SnapshotRefused,
    TakeOver,
    Trimmed,
)
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.pb import paxos_pb2 as px
from journal.types import Ballot, NodeId, Slot
from journal.versions import Record

# -- peers' messages --------------------------------------------------------------------


def _ballot(ballot: Ballot) -> px.Ballot:
    return px.Ballot(round=ballot.round, node=ballot.node)


def _ballot_back(ballot: px.Ballot) -> Ballot:
    return Ballot(ballot.round, NodeId(ballot.node))


def _values(values: Sequence[AcceptedValue]) -> list[px.AcceptedValue]:
    return [
        px.AcceptedValue(slot=slot, ballot=_ballot(ballot), value=value) for slot, ballot, value in values
    ]


def _values_back(values: Iterable[px.AcceptedValue]) -> tuple[AcceptedValue, ...]:
    return tuple(AcceptedValue(Slot(item.slot), _ballot_back(item.ballot), item.value) for item in values)


def pack_message(message: Message) -> px.Envelope:
    """Return a peer message as its envelope; sender and receiver are the stream's."""
    match message:
        case Accept(ballot, slot, value, chosen):
            return px.Envelope(
                accept=px.Accept(ballot=_ballot(ballot), slot=slot, value=value, chosen=chosen)
            )
        case Accepted(ballot, slots):
            return px.Envelope(accepted=px.Accepted(ballot=_ballot(ballot), slots=slots))
        case Heartbeat(ballot, chosen, probe):
            return px.Envelope(heartbeat=px.Heartbeat(ballot=_ballot(ballot), chosen=chosen, probe=probe))
        case HeartbeatReply(ballot, probe, chosen, full):
            return px.Envelope(
                heartbeat_reply=px.HeartbeatReply(
                    ballot=_ballot(ballot), probe=probe, chosen=chosen, full=full
                )
            )
        case PreVote(ballot, chosen):
            return px.Envelope(pre_vote=px.PreVote(ballot=_ballot(ballot), chosen=chosen))
        case PreVoteReply(ballot, granted, promised, chosen):
            return px.Envelope(
                pre_vote_reply=px.PreVoteReply(
                    ballot=_ballot(ballot), granted=granted, promised=_ballot(promised), chosen=chosen
                )
            )
        case Prepare(ballot, first):
            return px.Envelope(prepare=px.Prepare(ballot=_ballot(ballot), first=first))
        case Promise(ballot, first, chosen, accepted, lost):
            return px.Envelope(
                promise=px.Promise(
                    ballot=_ballot(ballot),
                    first=first,
                    chosen=chosen,
                    accepted=_values(accepted),
                    lost=[px.LostValue(slot=slot, ballot=_ballot(above)) for slot, above in lost],
                )
            )
        case Nack(ballot, promised):
            return px.Envelope(nack=px.Nack(ballot=_ballot(ballot), promised=_ballot(promised)))
        case Learn(first, last):
            return px.Envelope(learn=px.Learn(first=first, last=last))
        case Learned(chosen, entries):
            return px.Envelope(learned=px.Learned(chosen=chosen, entries=_values(entries)))
        case ReadIndex(read):
            return px.Envelope(read_index=px.ReadIndex(read=read))
        case ReadIndexReply(read, reply_slot):
            return px.Envelope(read_index_reply=px.ReadIndexReply(read=read, slot=reply_slot))
        case TakeOver(ballot, chosen):
            return px.Envelope(take_over=px.TakeOver(ballot=_ballot(ballot), chosen=chosen))
        case Show(first, last):
            return px.Envelope(show=px.Show(first=first, last=last))
        case Shown(entries):
            return px.Envelope(shown=px.Shown(entries=_values(entries)))
        case Trimmed(first, chosen):
            return px.Envelope(trimmed=px.Trimmed(first=first, chosen=chosen))
        case SnapshotAsk(view, after):
            return px.Envelope(snapshot_ask=px.SnapshotAsk(view=view, after=after))
        case SnapshotChunk(view, after, records, end, checksum):
            return px.Envelope(
                snapshot_chunk=px.SnapshotChunk(
                    view=view, after=after, records=records, end=end, checksum=checksum
                )
            )
        case SnapshotRefused(view, is_gone, reason):
            return px.Envelope(snapshot_refused=px.SnapshotRefused(view=view, gone=is_gone, reason=reason))


_MESSAGES_BACK: Mapping[str, Callable[[Any], Message]] = {
    "accept": lambda m: Accept(_ballot_back(m.ballot), Slot(m.slot), m.value, Slot(m.chosen)),
    "accepted": lambda m: Accepted(_ballot_back(m.ballot), tuple(m.slots)),
    "heartbeat": lambda m: Heartbeat(_ballot_back(m.ballot), Slot(m.chosen), m.probe),
    "heartbeat_reply": lambda m: HeartbeatReply(_ballot_back(m.ballot), m.probe, Slot(m.chosen), m.full),
    "pre_vote": lambda m: PreVote(_ballot_back(m.ballot), Slot(m.chosen)),
    "pre_vote_reply": lambda m: PreVoteReply(
        _ballot_back(m.ballot), m.granted, _ballot_back(m.promised), Slot(m.chosen)
    ),
    "prepare": lambda m: Prepare(_ballot_back(m.ballot), Slot(m.first)),
    "promise": lambda m: Promise(
        _ballot_back(m.ballot),
        Slot(m.first),
        Slot(m.chosen),
        _values_back(m.accepted),
        tuple(LostValue(Slot(item.slot), _ballot_back(item.ballot)) for item in m.lost),
    ),
    "nack": lambda m: Nack(_ballot_back(m.ballot), _ballot_back(m.promised)),
    "learn": lambda m: Learn(Slot(m.first), Slot(m.last)),
    "learned": lambda m: Learned(Slot(m.chosen), _values_back(m.entries)),
    "read_index": lambda m: ReadIndex(m.read),
    "read_index_reply": lambda m: ReadIndexReply(m.read, Slot(m.slot) if m.HasField("slot") else None),
    "take_over": lambda m: TakeOver(_ballot_back(m.ballot), Slot(m.chosen)),
    "show": lambda m: Show(Slot(m.first), Slot(m.last)),
    "shown": lambda m: Shown(_values_back(m.entries)),
    "trimmed": lambda m: Trimmed(Slot(m.first), Slot(m.chosen)),
    "snapshot_ask": lambda m: SnapshotAsk(m.view, m.after),
    "snapshot_chunk": lambda m: SnapshotChunk(m.view, m.after, m.records, m.end, m.checksum),
    "snapshot_refused": lambda m: SnapshotRefused(m.view, m.gone, m.reason),
}


def unpack_message(envelope: px.Envelope, sender: NodeId, to: NodeId) -> Envelope:
    """Return the envelope that ``pack_message`` made. Raises ``ProtocolViolation``."""
    kind = envelope.WhichOneof("message")
    if kind is None:
        raise ProtocolViolation(f"node {sender} sent an envelope without a message that is known here")
    return Envelope(sender, to, _MESSAGES_BACK[kind](getattr(envelope, kind)))


# -- typed offers -------------------------------------------------------------------------


def pack_typed_batch(batch: pb.Batch, revision: int) -> bytes:
    """Return the packed form of a typed batch; ``revision`` stands in for a base that is not given.

    Raises ``OfferInvalid`` for a mutation, number or member without a kind; all else is
    checked where the packed form is.
    """
    packed: bytes = msgpack.packb(
        [
            batch.client,
            batch.acked,
            batch.base or revision,
            [
                [
                    offer.sequence,
                    offer.label,
                    offer.at,
                    list(offer.reads),
                    [[item.start, item.end] for item in offer.ranges],
                    [[item.key, item.revision] for item in offer.expect],
                    [
                        _mutation(mutation, f"offers[{index}].mutations[{number}]")
                        for number, mutation in enumerate(offer.mutations)
                    ],
                ]
                for index, offer in enumerate(batch.offers)
            ],
        ]
    )
    return packed


def _mutation(mutation: pb.Mutation, where: str) -> list[Any]:
    match mutation.WhichOneof("kind"):
        case "put":
            return [PUT, mutation.put.key, mutation.put.value, mutation.put.lease]
        case "delete":
            return [DELETE, mutation.delete.key]
        case "delete_range":
            bounds = mutation.delete_range.range
            return [DELETE_RANGE, bounds.start, bounds.end]
        case "adjust":
            adjust = mutation.adjust
            return [
                ADJUST,
                adjust.key,
                _numbers(adjust.deltas, f"{where}.deltas"),
                _numbers(adjust.minimum, f"{where}.minimum"),
                _numbers(adjust.maximum, f"{where}.maximum"),
            ]
        case "set_add":
            add = mutation.set_add
            return [SET_ADD, add.key, add.field, _members(add.members, where)]
        case "set_remove":
            remove = mutation.set_remove
            return [SET_REMOVE, remove.key, remove.field, _members(remove.members, where)]
        case "grant_lease":
            return [LEASE_GRANT, mutation.grant_lease.lease, mutation.grant_lease.ttl_ms]
        case "revoke_lease":
            return [LEASE_REVOKE, mutation.revoke_lease.lease]
        case _:
            raise OfferInvalid(where, "is of no kind that is known here")


def _numbers(numbers: Mapping[str, pb.Number], where: str) -> dict[str, int | float]:
    # The order of a protobuf map is not defined; the packed form should be.
    return {name: _number(numbers[name], f"{where}[{name}]") for name in sorted(numbers)}


def _number(number: pb.Number, where: str) -> int | float:
    match number.WhichOneof("kind"):
        case "integer":
            return number.integer
        case "real":
            return number.real
        case _:
            raise OfferInvalid(where, "must be an integer or a real number")


def _members(members: Iterable[pb.SetMember], where: str) -> list[int | str]:
    found: list[int | str] = []
    for index, member in enumerate(members):
        match member.WhichOneof("kind"):
            case "integer":
                found.append(member.integer)
            case "text":
                found.append(member.text)
            case _:
                raise OfferInvalid(f"{where}.members[{index}]", "must be an integer or a text")
    return found


# -- verdicts -----------------------------------------------------------------------------

_REASONS: Mapping[Reason, Any] = {reason: pb.Reason.Value(f"REASON_{reason.value}") for reason in Reason}
_REASONS_BACK = {number: reason for reason, number in _REASONS.items()}


def pack_verdict(verdict: Verdict) -> pb.Verdict:
    """Return a verdict as a message."""
    if isinstance(verdict, Rejected):
        return pb.Verdict(
            rejected=pb.Rejected(
                reason=_REASONS[verdict.reason],
                where=verdict.where,
                key=verdict.key,
                revision=verdict.revision,
                label=verdict.label,
                value=verdict.value,
                actual="" if verdict.actual is None else str(verdict.actual),
                field=verdict.field,
                message=str(verdict),
            )
        )
    if isinstance(verdict, Expired):
        return pb.Verdict(expired=pb.Expired())
    return pb.Verdict(accepted=verdict)


def unpack_verdict(verdict: pb.Verdict) -> Verdict:
    """Return the verdict of a message (``actual`` stays a text). Raises ``ProtocolViolation``."""
    match verdict.WhichOneof("kind"):
        case "accepted":
            return verdict.accepted
        case "rejected":
            lost = verdict.rejected
            if lost.reason not in _REASONS_BACK:
                raise ProtocolViolation(f"a receipt gives reason {lost.reason}, which is not known here")
            return Rejected(
                _REASONS_BACK[lost.reason],
                lost.where,
                lost.key,
                lost.revision,
                lost.label,
                lost.value if lost.HasField("value") else None,
                lost.actual or None,
                lost.field,
            )
        case "expired":
            return EXPIRED
        case _:
            raise ProtocolViolation("a verdict is of no kind that is known here")


# -- records and requests -------------------------------------------------------------------


def pack_record(key: bytes, record: Record | None, *, keys_only: bool = False) -> pb.Record:
    """Return a key with its record, or with none."""
    if record is None:
        return pb.Record(key=key)
    return pb.Record(
        key=key,
        value=b"" if keys_only else record.value,
        create=record.create,
        mod=record.mod,
        version=record.version,
        lease=record.lease,
    )


def check_range(where: str, start: bytes, end: bytes) -> None:
    """Raise ``InvalidRequest`` where a range cannot hold a key."""
    if end and start >= end:
        raise InvalidRequest(where, f"start {start!r} is not below end {end!r}")


def check_keys(where: str, keys: Iterable[bytes], bytes_max: int) -> None:
    """Raise ``InvalidRequest`` where one of ``keys`` is empty or over ``KEY_BYTES_MAX``."""
    for index, key in enumerate(keys):
        if not key:
            raise InvalidRequest(f"{where}[{index}]", "must not be empty")
        if len(key) > bytes_max:
            raise InvalidRequest(f"{where}[{index}]", f"{len(key)} bytes is over KEY_BYTES_MAX={bytes_max}")
