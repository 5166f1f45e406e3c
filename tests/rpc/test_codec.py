"""Messages, typed offers and verdicts as protobuf: what goes in comes out."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.errors import OfferInvalid, ProtocolViolation
from journal.gate import unpack_batch
from journal.limits import Limits
from journal.offers import (
    EXPIRED,
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Offer,
    Put,
    Reason,
    Rejected,
    SetAdd,
    SetRemove,
    Verdict,
    offer_from_raw,
    pack_batch,
    pack_offer,
)
from journal.paxos import messages
from journal.paxos.messages import Message, message_bytes
from journal.rpc.codec import (
    pack_message,
    pack_typed_batch,
    pack_verdict,
    unpack_message,
    unpack_verdict,
)
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.pb import paxos_pb2 as px
from journal.types import Ballot, NodeId, Slot

numbers = st.integers(0, 2**64 - 1)
ballots = st.builds(Ballot, numbers, st.integers(0, 2**32 - 1).map(NodeId))
slots = numbers.map(Slot)

BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    Ballot: ballots,
    Slot: slots,
    int: numbers,
    bool: st.booleans(),
    bytes: st.binary(max_size=30),
}

BY_NAME: dict[str, st.SearchStrategy[Any]] = {"checksum": st.integers(0, 2**32 - 1)}


def instance_of(kind: Any) -> st.SearchStrategy[Any]:
    """Build any instance of a message, or of what it is made of, from the types of its fields: so
    a new message or a new part of one is tested without a word here."""
    if kind in BY_TYPE:
        return BY_TYPE[kind]
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        return st.lists(instance_of(parts[0]), max_size=3).map(tuple)
    if type(None) in parts:
        return st.none() | instance_of(next(part for part in parts if part is not type(None)))
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: BY_NAME.get(name, instance_of(hints[name])) for name in hints})


any_message = st.one_of([instance_of(kind) for kind in typing.get_args(messages.Message)])


@given(any_message)
def test_every_peer_message_survives(message: Message) -> None:
    data = pack_message(message).SerializeToString()
    envelope = unpack_message(px.Envelope.FromString(data), NodeId(1), NodeId(2))
    assert envelope == (1, 2, message)


@given(any_message)
def test_the_estimate_of_a_messages_size_is_never_far_below_it(message: Message) -> None:
    accepted = len(getattr(message, "slots", ()))
    assert message_bytes(message) + 10 * accepted >= pack_message(message).ByteSize()


def test_an_envelope_without_a_message_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="node 1"):
        unpack_message(px.Envelope(), NodeId(1), NodeId(2))


def test_a_typed_batch_is_the_packed_one() -> None:
    """Every kind of condition and mutation, said in both forms."""
    offer = Offer(
        mutations=(
            Put(b"k", b"v", 3),
            Delete(b"d"),
            DeleteRange(b"a", b"b"),
            Adjust(b"m", {"cpu": -5, "load": 0.5}, {"cpu": 0}, {"cpu": 10}),
            SetAdd(b"m", "ports", (80, "http")),
            SetRemove(b"m", "ports", (81,)),
            LeaseGrant(7, 5_000),
            LeaseRevoke(7),
        ),
        reads=(b"r1", b"r2"),
        ranges=((b"a", b"b"), (b"c", b"")),
        expect=((b"e", 4), (b"n", 0)),
        at=11,
        label="label",
    )
    typed = pb.Offer(
        sequence=2,
        label="label",
        at=11,
        reads=[b"r1", b"r2"],
        ranges=[pb.Range(start=b"a", end=b"b"), pb.Range(start=b"c")],
        expect=[pb.Expect(key=b"e", revision=4), pb.Expect(key=b"n")],
        mutations=[
            pb.Mutation(put=pb.Put(key=b"k", value=b"v", lease=3)),
            pb.Mutation(delete=pb.Delete(key=b"d")),
            pb.Mutation(delete_range=pb.DeleteRange(range=pb.Range(start=b"a", end=b"b"))),
            pb.Mutation(
                adjust=pb.Adjust(
                    key=b"m",
                    deltas={"load": pb.Number(real=0.5), "cpu": pb.Number(integer=-5)},
                    minimum={"cpu": pb.Number(integer=0)},
                    maximum={"cpu": pb.Number(integer=10)},
                )
            ),
            pb.Mutation(
                set_add=pb.SetAdd(
                    key=b"m", field="ports", members=[pb.SetMember(integer=80), pb.SetMember(text="http")]
                )
            ),
            pb.Mutation(set_remove=pb.SetRemove(key=b"m", field="ports", members=[pb.SetMember(integer=81)])),
            pb.Mutation(grant_lease=pb.GrantLease(lease=7, ttl_ms=5_000)),
            pb.Mutation(revoke_lease=pb.RevokeLease(lease=7)),
        ],
    )
    batch = pb.Batch(client=b"me", acked=1, base=9, offers=[typed])
    packed = unpack_batch(pack_typed_batch(batch, 100), Limits())
    wanted = unpack_batch(pack_batch(b"me", 1, 9, [pack_offer(2, offer)]), Limits())
    assert (packed.client, packed.acked, packed.base) == (wanted.client, wanted.acked, wanted.base)
    assert offer_from_raw(packed.offers[0]) == (2, offer)


def test_a_base_that_is_not_given_is_the_nodes_revision() -> None:
    batch = pb.Batch(offers=[pb.Offer(reads=[b"k"])])
    assert unpack_batch(pack_typed_batch(batch, 42), Limits()).base == 42


@pytest.mark.parametrize(
    ("mutation", "where"),
    [
        (pb.Mutation(), "offers[0].mutations[0]"),
        (pb.Mutation(adjust=pb.Adjust(deltas={"a": pb.Number()})), "offers[0].mutations[0].deltas[a]"),
        (pb.Mutation(set_add=pb.SetAdd(members=[pb.SetMember()])), "offers[0].mutations[0].members[0]"),
    ],
)
def test_a_kind_that_is_not_given_is_named(mutation: pb.Mutation, where: str) -> None:
    with pytest.raises(OfferInvalid) as invalid:
        pack_typed_batch(pb.Batch(offers=[pb.Offer(mutations=[mutation])]), 1)
    assert invalid.value.where == where


@pytest.mark.parametrize(
    "verdict",
    [
        17,
        EXPIRED,
        *(Rejected(reason, "reads[0]", b"k", 5, "label", b"v", "actual", "field") for reason in Reason),
        Rejected(Reason.ABSENT, "mutations[0]", b"k"),
    ],
)
def test_a_verdict_survives_the_typed_form(verdict: Verdict) -> None:
    assert unpack_verdict(pb.Verdict.FromString(pack_verdict(verdict).SerializeToString())) == verdict


def test_a_verdict_that_is_not_known_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation):
        unpack_verdict(pb.Verdict())
    with pytest.raises(ProtocolViolation):
        unpack_verdict(pb.Verdict(rejected=pb.Rejected()))
