"""Offers as JSON: every form is read, and whatever is wrong is named by its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Offer,
    Put,
    SetAdd,
    SetRemove,
)
from synod.offer_json import OfferJsonInvalid, parse_offers

WHOLE = {
    "label": "deploy 7",
    "at": 41,
    "reads": ["config", {"base64": "/w=="}],
    "ranges": [["jobs/", "jobs0"], ["x", ""]],
    "prefixes": ["locks/"],
    "expect": {"leader": 0},
    "mutations": [
        {"put": "leader", "value": "me", "lease": 99},
        {"delete": "old"},
        {"delete_range": ["tmp/", "tmp0"]},
        {"adjust": "pool", "deltas": {"cpu": -2.5}, "minimum": {"cpu": 0}, "maximum": {"cpu": 9}},
        {"add": "pool", "field": "ports", "members": [8080, "x"]},
        {"remove": "pool", "field": "ports", "members": [8081]},
        {"lease_grant": 99, "ttl_ms": 5000},
        {"lease_revoke": 98},
    ],
}


def test_a_whole_offer() -> None:
    [offer] = parse_offers(json.dumps(WHOLE), "stdin")
    assert offer == Offer(
        label="deploy 7",
        at=41,
        reads=(b"config", b"\xff"),
        ranges=((b"jobs/", b"jobs0"), (b"x", b""), (b"locks/", b"locks0")),
        expect=((b"leader", 0),),
        mutations=(
            Put(b"leader", b"me", 99),
            Delete(b"old"),
            DeleteRange(b"tmp/", b"tmp0"),
            Adjust(b"pool", {"cpu": -2.5}, {"cpu": 0}, {"cpu": 9}),
            SetAdd(b"pool", "ports", (8080, "x")),
            SetRemove(b"pool", "ports", (8081,)),
            LeaseGrant(99, 5000),
            LeaseRevoke(98),
        ),
    )


def test_a_list_of_offers_and_expect_as_pairs() -> None:
    text = json.dumps([{"mutations": []}, {"expect": [[{"base64": "/w=="}, 3]]}])
    assert parse_offers(text, "stdin") == [Offer(()), Offer((), expect=((b"\xff", 3),))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "offer.json:1:1: Expecting value"),
        ('{\n  "mutations": [}', "offer.json:2:17: Expecting value"),
        ('{"at": 1, "at": 2}', "offer.json: 'at' stands twice in one object"),
        ('{"at": NaN}', "offer.json: NaN is not JSON"),
        ("[" * 100_000, "offer.json: it is nested too deeply"),
        ("[]", "offer.json: offers: the list is empty"),
        ("3", "offer.json: offer: must be an object, not 3"),
        ('[{}, "x"]', 'offer.json: offers[1]: must be an object, not "x"'),
    ],
)
def test_text_that_is_no_offer_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(OfferJsonInvalid) as error:
        parse_offers(text, "offer.json")
    assert str(error.value).startswith(message)


def _mutation(**fields: Any) -> dict[str, Any]:
    return {"mutations": [{"delete": "fine"}, fields]}


@pytest.mark.parametrize(
    ("offer", "message"),
    [
        ({"mutation": []}, "offer.mutation: is unknown here; did you mean 'mutations'?"),
        ({"colour": 1}, "offer.colour: is unknown here; known are "),
        ({"reads": ["a"]}, "offer.at: is missing"),
        ({"prefixes": ["a"]}, "offer.at: is missing"),
        ({"reads": "a", "at": 1}, 'offer.reads: must be a list, not "a"'),
        ({"reads": [1], "at": 1}, "offer.reads[0]: must be text"),
        ({"at": -1}, "offer.at: must be a whole number from 0"),
        ({"at": True}, "offer.at: must be a whole number from 0"),
        ({"at": 2**63}, "offer.at: must be a whole number from 0"),
        ({"label": 1}, "offer.label: must be text"),
        ({"ranges": [["a"]], "at": 1}, "offer.ranges[0]: must be [start, end]"),
        ({"expect": {"k": "x"}}, "offer.expect.k: must be a whole number"),
        ({"expect": [["k"]]}, "offer.expect[0]: must be [key, revision]"),
        (_mutation(), "offer.mutations[1]: a mutation has exactly one of put, delete"),
        (_mutation(putt="k"), "this has putt"),
        (_mutation(put="k", delete="k"), "this has put and delete"),
        (_mutation(put="k"), "offer.mutations[1].value: is missing"),
        (_mutation(put=1, value=""), "offer.mutations[1].put: must be text"),
        (
            _mutation(put="k", value="", leese=1),
            "offer.mutations[1].leese: is unknown here; did you mean 'lease'?",
        ),
        (_mutation(delete_range=["a"]), "offer.mutations[1].delete_range: must be [start, end]"),
        (_mutation(adjust="k"), "offer.mutations[1].deltas: is missing"),
        (
            _mutation(adjust="k", deltas={"cpu": "1"}),
            'offer.mutations[1].deltas.cpu: must be a number, not "1"',
        ),
        (_mutation(adjust="k", deltas=[]), "offer.mutations[1].deltas: must be an object"),
        (_mutation(add="k", field="f"), "offer.mutations[1].members: is missing"),
        (
            _mutation(add="k", field="f", members=[1.5]),
            "offer.mutations[1].members[0]: must be a whole number or",
        ),
        (_mutation(add="k", members=[1]), "offer.mutations[1].field: is missing"),
        (_mutation(lease_grant=1), "offer.mutations[1].ttl_ms: is missing"),
        (_mutation(lease_grant="1", ttl_ms=1), "offer.mutations[1].lease_grant: must be a whole number"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(offer: dict[str, Any], message: str) -> None:
    with pytest.raises(OfferJsonInvalid) as error:
        parse_offers(json.dumps(offer), "x")
    assert message in str(error.value)
    assert str(error.value).startswith("x: offer")
