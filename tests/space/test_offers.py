# ruff: noqa: E501  (a table of malformed offers)
"""Offers: packing, and the gate that nothing malformed passes."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import OfferInvalid, ProtocolViolation
from journal.gate import unpack_batch
from journal.limits import FOLD_SESSION_WINDOW_OFFERS_MAX, KEY_BYTES_MAX, Limits
from journal.offers import (
    EXPIRED,
    Adjust,
    Delete,
    DeleteRange,
    Expired,
    LeaseGrant,
    LeaseRevoke,
    Mutation,
    Offer,
    Put,
    Reason,
    Rejected,
    SetAdd,
    SetRemove,
    Verdict,
    offer_from_raw,
    offer_to_raw,
    pack_batch,
    pack_offer,
    pack_raw_offers,
    pack_verdicts,
    prefix_range,
    unpack_verdicts,
)

LIMITS = Limits()
SMALL = Limits(
    value_bytes_max=100,
    offer_bytes_max=200,
    offer_operations_max=4,
    batch_offers_max=3,
    batch_bytes_max=500,
    entry_bytes_max=2000,
)
PLAIN = [0, "", 0, [], [], [], [[0, b"k", b"v", 0]]]


def gate(*offers: Any, client: Any = b"c", acked: Any = 0, base: Any = 0, limits: Limits = LIMITS) -> None:
    unpack_batch(msgpack.packb([client, acked, base, list(offers)]), limits)


def offer(**parts: Any) -> list[Any]:
    names = ["sequence", "label", "at", "reads", "ranges", "expect", "mutations"]
    return [parts.get(name, PLAIN[index]) for index, name in enumerate(names)]


def refused(where: str, why: str, *offers: Any, **options: Any) -> None:
    with pytest.raises(OfferInvalid) as caught:
        gate(*offers, **options)
    assert caught.value.where == where
    assert why in caught.value.why


EVERY_MUTATION: tuple[Mutation, ...] = (
    Put(b"a", b"1"),
    Put(b"a", b"", 7),
    Delete(b"a"),
    DeleteRange(b"", b""),
    DeleteRange(b"a", b"a\x00"),
    Adjust(b"a", {"cpu": -1, "memory": 0.5}, {"cpu": 0}, {"memory": 2**63 - 1}),
    SetAdd(b"a", "ports", (1, "x")),
    SetRemove(b"a", "ports", (1,)),
    LeaseGrant(1, 500),
    LeaseRevoke(2**63 - 1),
)


def test_every_offer_travels_whole() -> None:
    full = Offer(
        EVERY_MUTATION,
        reads=(b"a", b"b"),
        ranges=((b"a", b"b"), (b"", b"")),
        expect=((b"a", 0), (b"b", 2**63 - 1)),
        at=17,
        label="réplica",
    )
    data = pack_batch(b"client", 5, 3, [pack_offer(5, full), pack_offer(9, Offer((Put(b"k", b"v"),)))])
    raw = unpack_batch(data, LIMITS)
    assert (raw.client, raw.acked, raw.base, raw.data) == (b"client", 5, 3, data)
    assert offer_from_raw(raw.offers[0]) == (5, full)
    assert offer_from_raw(raw.offers[1]) == (9, Offer((Put(b"k", b"v"),)))
    part = unpack_batch(pack_raw_offers(raw, [raw.offers[1]]), LIMITS)
    assert part.offers == (raw.offers[1],)
    assert part[:3] == raw[:3]


def test_conditions_alone_are_an_offer() -> None:
    gate(offer(mutations=[], reads=[b"a"]))
    refused("offers[0]", "neither conditions nor mutations", offer(mutations=[]))


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"", b""), (b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff", b""), (b"a\x00", b"a\x01")],
)
def test_prefix_range(prefix: bytes, end: bytes) -> None:
    assert prefix_range(prefix) == (prefix, end)


@settings(deadline=None)
@given(st.binary(max_size=3), st.binary(max_size=4))
def test_a_prefix_range_holds_exactly_what_begins_so(prefix: bytes, key: bytes) -> None:
    start, end = prefix_range(prefix)
    assert key.startswith(prefix) == (start <= key and (not end or key < end))


def test_the_batch_itself() -> None:
    for data in (
        b"",
        b"\xc1",
        b"\x94\x00",
        msgpack.packb([b"", 0, 0, [PLAIN]]) + b"\x00",
        b"\xdd\xff\xff\xff\xff",
    ):
        with pytest.raises(OfferInvalid, match="batch: is not msgpack"):
            unpack_batch(data, LIMITS)
    malformed: list[Any] = [7, None, {}, [b"", 0, 0], [b"", 0, 0, [PLAIN], 1]]
    for found in malformed:
        with pytest.raises(OfferInvalid, match="batch: must be a list"):
            unpack_batch(msgpack.packb(found), LIMITS)
    refused("client", "CLIENT_ID_BYTES_MAX=64", PLAIN, client="c")
    refused("client", "CLIENT_ID_BYTES_MAX=64", PLAIN, client=b"c" * 65)
    refused("acked", "must be an int, not bool", PLAIN, acked=True)
    refused("acked", "not within", PLAIN, acked=-1)
    refused("base", "not within", PLAIN, base=2**63)
    refused("offers", "at least one")
    refused("offers", "4 offers is over batch_offers_max=3", *[PLAIN] * 4, client=b"", limits=SMALL)
    with pytest.raises(OfferInvalid) as long:
        gate(offer(ranges=[[b"b" * 4000, b"a" * 4000]]))
    assert len(str(long.value)) < 300
    refused("batch", "is over batch_bytes_max=500", offer(label="x" * 500), limits=SMALL)


def test_sequences_rise_from_acked_within_the_window() -> None:
    gate(offer(sequence=5), offer(sequence=6), offer(sequence=9), acked=5)
    refused("offers[0].sequence", "4 is below 5", offer(sequence=4), acked=5)
    refused("offers[1].sequence", "5 is below 6", offer(sequence=5), offer(sequence=5), acked=5)
    refused(
        "offers[1].sequence", "4 is below 6", offer(sequence=5, label="x" * 65), offer(sequence=4), acked=3
    )
    end = 5 + FOLD_SESSION_WINDOW_OFFERS_MAX
    gate(offer(sequence=end - 1), acked=5)
    refused("offers[0].sequence", "FOLD_SESSION_WINDOW_OFFERS_MAX=65536", offer(sequence=end), acked=5)
    gate(*[offer(sequence=0)] * 2, client=b"")  # without a client they mean nothing
    gate(offer(sequence=9), offer(sequence=0), acked=5, client=b"")


REFUSED = [
    ("offers[0]", "must be a list of sequence", 7),
    ("offers[0]", "must be a list of sequence", "abcdefg"),
    ("offers[0]", "must be a list of sequence", b"abcdefg"),
    ("offers[0]", "must be a list of sequence", PLAIN[:6]),
    ("offers[0].sequence", "must be an int, not str", offer(sequence="0")),
    ("offers[0].sequence", "must be an int, not float", offer(sequence=0.0)),
    ("offers[0].label", "must be str, not bytes", offer(label=b"x")),
    ("offers[0].label", "258 bytes is over LABEL_BYTES_MAX=256", offer(label="é" * 129)),
    ("offers[0].at", "not within", offer(at=-1)),
    ("offers[0].at", "not within", offer(at=2**63)),
    ("offers[0].at", "must be an int, not NoneType", offer(at=None)),
    ("offers[0].reads", "must be a list", offer(reads=b"k")),
    ("offers[0].reads[0]", "must be bytes, not str", offer(reads=["k"])),
    ("offers[0].reads[0]", "must not be empty", offer(reads=[b""])),
    ("offers[0].reads[1]", "4097 bytes is over KEY_BYTES_MAX=4096", offer(reads=[b"k", b"k" * 4097])),
    ("offers[0].ranges", "must be a list", offer(ranges={})),
    ("offers[0].ranges[0]", "must be a list of start and end", offer(ranges=[b"ab"])),
    ("offers[0].ranges[0]", "must be a list of start and end", offer(ranges=[[b"a"]])),
    ("offers[0].ranges[0].end", "must be bytes, not NoneType", offer(ranges=[[b"a", None]])),
    ("offers[0].ranges[0]", "is not below end", offer(ranges=[[b"b", b"a"]])),
    ("offers[0].ranges[0]", "is not below end", offer(ranges=[[b"a", b"a"]])),
    ("offers[0].ranges[0].start", "over KEY_BYTES_MAX", offer(ranges=[[b"a" * 4098, b""]])),
    ("offers[0].expect", "must be a list", offer(expect=0)),
    ("offers[0].expect[0]", "must be a list of key and revision", offer(expect=[[b"a"]])),
    ("offers[0].expect[0].key", "must not be empty", offer(expect=[[b"", 1]])),
    ("offers[0].expect[0].revision", "not within", offer(expect=[[b"a", -1]])),
    ("offers[0].mutations", "must be a list", offer(mutations="abc")),
    ("offers[0].mutations[0]", "must be a list that begins", offer(mutations=[0])),
    ("offers[0].mutations[0]", "must be a list that begins", offer(mutations=[[]])),
    ("offers[0].mutations[0]", "unknown kind of mutation 8", offer(mutations=[[8, b"k"]])),
    ("offers[0].mutations[0]", "unknown kind of mutation -1", offer(mutations=[[-1, b"k"]])),
    ("offers[0].mutations[0]", "unknown kind of mutation 'put'", offer(mutations=[["put", b"k"]])),
    ("offers[0].mutations[0]", "unknown kind of mutation False", offer(mutations=[[False, b"k", b"v", 0]])),
    ("offers[0].mutations[0]", "unknown kind of mutation (0,)", offer(mutations=[[[0], b"k"]])),
    ("offers[0].mutations[0]", "must be a list of 0, key, value and lease", offer(mutations=[[0, b"k", b"v"]])),
    ("offers[0].mutations[1]", "must be a list of 1 and key", offer(mutations=[[1, b"k"], [1]])),
    ("offers[0].mutations[0].key", "must not be empty", offer(mutations=[[0, b"", b"v", 0]])),
    ("offers[0].mutations[0].key", "must be bytes", offer(mutations=[[1, "k"]])),
    ("offers[0].mutations[0].value", "must be bytes, not str", offer(mutations=[[0, b"k", "v", 0]])),
    ("offers[0].mutations[0].value", "must be bytes, not NoneType", offer(mutations=[[0, b"k", None, 0]])),
    ("offers[0].mutations[0].value", "over value_bytes_max=524288", offer(mutations=[[0, b"k", bytes(524289), 0]])),
    ("offers[0].mutations[0].lease", "must be an int, not bool", offer(mutations=[[0, b"k", b"v", False]])),
    ("offers[0].mutations[0].lease", "not within", offer(mutations=[[0, b"k", b"v", -1]])),
    ("offers[0].mutations[0]", "is not below end", offer(mutations=[[2, b"b", b"a"]])),
    ("offers[0].mutations[0].deltas", "must be a map", offer(mutations=[[3, b"k", [], {}, {}]])),
    ("offers[0].mutations[0].deltas", "at least one field", offer(mutations=[[3, b"k", {}, {}, {}]])),
    ("offers[0].mutations[0].deltas", "must be str, not int", offer(mutations=[[3, b"k", {1: 1}, {}, {}]])),
    ("offers[0].mutations[0].deltas[cpu]", "finite 64-bit", offer(mutations=[[3, b"k", {"cpu": True}, {}, {}]])),
    ("offers[0].mutations[0].deltas[cpu]", "finite 64-bit", offer(mutations=[[3, b"k", {"cpu": 2**63}, {}, {}]])),
    ("offers[0].mutations[0].deltas[cpu]", "finite 64-bit", offer(mutations=[[3, b"k", {"cpu": float("nan")}, {}, {}]])),
    ("offers[0].mutations[0].minimum[cpu]", "finite 64-bit", offer(mutations=[[3, b"k", {"cpu": 1}, {"cpu": float("-inf")}, {}]])),
    ("offers[0].mutations[0].maximum[mem]", "has no delta", offer(mutations=[[3, b"k", {"cpu": 1}, {}, {"mem": 1}]])),
    ("offers[0].mutations[0].deltas", "over FIELD_BYTES_MAX=256", offer(mutations=[[3, b"k", {"x" * 257: 1}, {}, {}]])),
    ("offers[0].mutations[0].field", "must be str", offer(mutations=[[4, b"k", b"f", [1]]])),
    ("offers[0].mutations[0].members", "at least one", offer(mutations=[[4, b"k", "f", []]])),
    ("offers[0].mutations[0].members[1]", "must be int or str", offer(mutations=[[5, b"k", "f", [1, 1.0]]])),
    ("offers[0].mutations[0].members[0]", "must be int or str", offer(mutations=[[5, b"k", "f", [True]]])),
    ("offers[0].mutations[0].members", "twice", offer(mutations=[[4, b"k", "f", [1, 2, 1]]])),
    ("offers[0].mutations[0].lease", "0 is not within 1 to", offer(mutations=[[6, 0, 1000]])),
    ("offers[0].mutations[0].ttl_ms", "499 is not within 500 to 86400000", offer(mutations=[[6, 1, 499]])),
    ("offers[0].mutations[0].lease", "0 is not within 1 to", offer(mutations=[[7, 0]])),
]  # fmt: skip


@pytest.mark.parametrize(("where", "why", "bad"), REFUSED, ids=range(len(REFUSED)))
def test_a_malformed_offer_is_refused_with_its_place(where: str, why: str, bad: Any) -> None:
    refused(where, why, bad)
    # Alone, and behind others: the place is the right one.
    refused(where.replace("offers[0]", "offers[2]"), why, PLAIN, PLAIN, bad, client=b"")


def test_named_limits_of_a_node() -> None:
    read = offer(reads=[b"k"] * 4, mutations=[])
    gate(read, limits=SMALL)
    refused("offers[0]", "5 operations is over offer_operations_max=4", offer(reads=[b"k"] * 4), limits=SMALL)
    refused(
        "offers[0]",
        "5 operations is over offer_operations_max=4",
        offer(mutations=[[4, b"k", "f", [1, 2, 3, 4]], [1, b"k"]]),
        limits=SMALL,
    )
    gate(offer(mutations=[[0, b"k", bytes(100), 0]]), limits=SMALL)
    refused(
        "offers[0].mutations[0].value",
        "101 bytes is over value_bytes_max=100",
        offer(mutations=[[0, b"k", bytes(101), 0]]),
        limits=SMALL,
    )
    large = offer(sequence=1, mutations=[[0, b"k", bytes(100), 0]] * 2)
    refused("offers[1]", "is over offer_bytes_max=200", PLAIN, large, limits=SMALL)


def test_a_key_of_the_longest_kind_and_its_own_range_pass() -> None:
    key = b"k" * KEY_BYTES_MAX
    gate(offer(reads=[key], ranges=[[key, key + b"\x00"]], expect=[[key, 0]], mutations=[[0, key, b"", 0]]))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    try:
        raw = unpack_batch(data, LIMITS)
    except OfferInvalid:
        return
    assert offer_from_raw(raw.offers[0])


anything = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.binary(max_size=3),
        st.text(max_size=3),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_passes_the_gate_can_be_read_back(data: st.DataObject) -> None:
    """Any one part of a good offer replaced by anything: refused, or a good offer still."""
    found: list[Any] = offer_to_raw(0, Offer(EVERY_MUTATION, (b"a",), ((b"a", b"b"),), ((b"a", 0),), 3, "l"))
    spot = found
    while True:
        index = data.draw(st.integers(0, len(spot) - 1))
        if isinstance(spot[index], list) and spot[index] and data.draw(st.booleans()):
            spot = spot[index]
        else:
            spot[index] = data.draw(anything)
            break
    try:
        raw = unpack_batch(msgpack.packb([b"c", 0, 0, [found]]), LIMITS)
    except OfferInvalid as error:
        assert error.where.startswith("offers[0]")
        return
    sequence, again = offer_from_raw(raw.offers[0])
    assert unpack_batch(pack_batch(b"c", 0, 0, [pack_offer(sequence, again)]), LIMITS).offers == raw.offers


def test_what_cannot_be_packed_is_refused_by_name() -> None:
    with pytest.raises(OfferInvalid, match="cannot be packed"):
        pack_offer(0, Offer((Put(b"k", object()),)))  # type: ignore[arg-type]
    with pytest.raises(OfferInvalid, match="cannot be packed"):
        pack_offer(0, Offer((Put(b"k", b"v", 2**64),)))


VERDICTS: list[Verdict] = [
    1,
    2**63 - 1,
    EXPIRED,
    Rejected(Reason.READ, "reads[0]", b"k", 7),
    Rejected(Reason.BOUNDS, "mutations[0]", b"\xff", 0, "who won", b"value", -0.5, "cpu"),
    Rejected(Reason.SET, "mutations[0]", b"k", 3, actual="tcp", field="ports"),
]


def test_verdicts_travel_whole() -> None:
    assert unpack_verdicts(pack_verdicts(VERDICTS)) == VERDICTS
    assert type(unpack_verdicts(pack_verdicts([EXPIRED]))[0]) is Expired
    assert unpack_verdicts(pack_verdicts([])) == []


@pytest.mark.parametrize(
    "found", [7, {}, ["x"], [[1]], [["NO SUCH REASON", "", b"", 0, "", None, None, ""]], [None]]
)
def test_malformed_verdicts_are_a_violation(found: Any) -> None:
    with pytest.raises(ProtocolViolation):
        unpack_verdicts(msgpack.packb(found))
    with pytest.raises(ProtocolViolation):
        unpack_verdicts(b"\xc1")


def test_every_receipt_reads_as_a_sentence() -> None:
    sentences = {
        str(Rejected(reason, "mutations[0]", b"task/1", 7, "run-task", None, 3, "cpu")) for reason in Reason
    }
    assert len(sentences) == len(Reason) - 1  # READ and RANGE say the same at the same place
    assert "mutations[0]: task/1 was modified at revision 7 by 'run-task'" in sentences
    assert "mutations[0]: task/1: field 'cpu' is at 3 and would leave its bounds" in sentences
    assert str(Rejected(Reason.EXPECT, "expect[0]", b"a")) == "expect[0]: a does not exist"
    assert "forgotten" in str(EXPIRED)
