"""Bytes as JSON: output can be input again."""

from __future__ import annotations

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synod.values import from_json, to_json, to_text

FIELDS = st.dictionaries(
    st.text(),
    st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(st.text() | st.integers(0, 99)),
)


@given(st.binary() | st.text().map(str.encode) | FIELDS.map(msgpack.packb))
def test_bytes_survive_json(data: bytes) -> None:
    assert from_json(json.loads(json.dumps(to_json(data))), "value") == data


def test_each_form_is_the_shortest() -> None:
    assert to_json(b"hello") == "hello"
    assert to_json(b"") == ""
    assert to_json(msgpack.packb({"cpu": 4})) == {"msgpack": {"cpu": 4}}
    assert to_json(b"\xff\x00") == {"base64": "/wA="}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "key: must be text"),
        (7, "not the number 7"),
        (True, "not true or false"),
        ([], "not a list"),
        ({"base64": "?"}, "key.base64: "),
        ({"base64": "AA==", "more": 1}, "not an object with base64, more"),
        ({"msgpack": 4}, "not an object with msgpack"),
        ({"msgpack": {"n": 2**70}}, "key.msgpack: "),
        ("\ud800", "key: the text holds half of a surrogate pair"),
    ],
)
def test_what_stands_for_no_bytes_is_named(value: object, message: str) -> None:
    with pytest.raises(ValueError, match="key") as error:
        from_json(value, "key")
    assert message in str(error.value)


def test_text_for_tables_holds_no_control_characters() -> None:
    assert to_text(b"a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert to_text(b"\xff\xfe") == "\\xff\\xfe"
    assert to_text(msgpack.packb({"cpu": 4})) == '{"cpu": 4}'
    assert to_text("grüß".encode()) == "grüß"
