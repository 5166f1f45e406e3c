"""Sealed records: any damage is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.errors import RecordDamaged
from journal.storage import records
from journal.storage.records import family_end, number_key, number_of, seal, unseal
from journal.types import Slot


@settings(deadline=None)
@given(st.binary(max_size=50), st.binary(max_size=50))
def test_what_is_sealed_is_unsealed(key: bytes, payload: bytes) -> None:
    assert unseal(key, seal(key, payload)) == payload


def test_every_flipped_bit_is_noticed() -> None:
    sealed = seal(b"key", b"some payload")
    for index in range(len(sealed)):
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[index] ^= 1 << bit
            with pytest.raises(RecordDamaged, match="checksum"):
                unseal(b"key", bytes(damaged))


def test_every_cut_and_every_wrong_key_is_noticed() -> None:
    sealed = seal(b"key", b"some payload")
    for length in range(len(sealed)):
        with pytest.raises(RecordDamaged):
            unseal(b"key", sealed[:length])
    with pytest.raises(RecordDamaged):
        unseal(b"kez", sealed)


def test_no_two_families_share_a_letter() -> None:
    families = {
        name: value for name, value in vars(records).items() if name.isupper() and type(value) is bytes
    }
    assert len(families) >= 13
    assert len(set(families.values())) == len(families), families
    assert all(len(value) == 1 for value in families.values())


@settings(deadline=None)
@given(st.integers(0, 2**64 - 2))
def test_number_keys_sort_like_numbers(number: int) -> None:
    key = number_key(b"o", number)
    assert key < number_key(b"o", number + 1) < family_end(b"o")
    assert number_of(key) == Slot(number)
