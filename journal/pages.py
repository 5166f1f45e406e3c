"""A page of a scan, in columns. PURE.

Thousands of records go from storage to the caller of a scan, and a page is what they have in common on the
way: what a node reads, what travels, what a client takes apart. In columns, each step over them is one call
that runs in C, where an object for each record, or for each of its numbers, would cost several times as much.
So a record becomes an object only when somebody looks at it. (Ten thousand that are kept for no one are also
what Python's garbage collector goes through again and again: that was a fifth of a scan's time.)
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, compress, islice
from operator import add, itemgetter
from struct import pack, unpack_from
from typing import Any, Final, overload

import msgpack

from journal.checksum import crc32
from journal.errors import ProtocolViolation
from journal.storage.records import CHECKSUM_BYTES, CURRENT
from journal.versions import HEAD, HEAD_BYTES, Record, Stored, Versions, decode, parse

NUMBERS_BYTES: Final = 32
"""Of one record: create and modification revision, version and lease, each 8 bytes, big-endian."""


HEAD_NUMBERS: Final = HEAD_BYTES // 8
SEALED_WORDS: Final = (CHECKSUM_BYTES + HEAD_BYTES) // 4
"""What a record in storage begins with, checksum and ``HEAD``, in words of 4 bytes."""
NOTHING: Final = bytes(HEAD_BYTES)
"""In the place of a payload: there is no record."""
SEALED_BYTES: Final = len(CURRENT) + CHECKSUM_BYTES + HEAD_BYTES
"""What a record takes in storage beside its key, trail and value."""
VALUE_START: Final = [0, *(HEAD_BYTES + 8 * count for count in range(64))]
"""Where in a payload the value starts, by the number of one bits in the ordinal."""

ROWS_TOGETHER_MAX: Final = 64
"""Records taken from storage at once: what may be read too much, where large ones follow small ones."""

_without_checksum = itemgetter(slice(CHECKSUM_BYTES, None))
_without_family = itemgetter(slice(len(CURRENT), None))
_record: Any = partial(tuple.__new__, Record)
"""``Record._make`` without its own Python frame."""


class Page(Sequence[tuple[bytes, Record]]):
    """Keys in order, each with its record: a sequence of pairs, which are made when they are looked at."""

    __slots__ = ("_keys", "_numbers", "_size", "_values")  # ``dict`` takes what has ``keys`` for a mapping

    def __init__(
        self,
        keys: list[bytes] | None = None,
        numbers: bytes | array[int] = b"",
        values: list[bytes] | None = None,
    ) -> None:
        """``numbers``: for each key ``NUMBERS_BYTES``. The lists are the page's own from here on."""
        self._keys = [] if keys is None else keys
        self._numbers = bytearray(numbers)
        self._values = [] if values is None else values
        self._size: int | None = None

    # -- as a sequence ------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[bytes, Record]]:
        numbers = _big_endian(array("Q", self._numbers))
        create, mod, version, lease = (numbers[column::4] for column in range(4))
        records = map(_record, zip(create, mod, version, lease, self._values, strict=True))
        return zip(self._keys, records, strict=True)

    @overload
    def __getitem__(self, index: int) -> tuple[bytes, Record]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[bytes, Record]]: ...

    def __getitem__(self, index: int | slice) -> tuple[bytes, Record] | list[tuple[bytes, Record]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self._keys)))]
        number = range(len(self._keys))[index]
        create, mod, version, lease = unpack_from(">4Q", self._numbers, NUMBERS_BYTES * number)
        return self._keys[number], Record(create, mod, version, lease, self._values[number])

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Page):
            return (self._keys, self._numbers, self._values) == (other._keys, other._numbers, other._values)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Page({list(self)!r})"

    # -- as columns ---------------------------------------------------------------

    def size(self) -> int:
        """Return how many bytes keys and values are."""
        if self._size is None:
            self._size = sum(map(len, self._keys)) + sum(map(len, self._values))
        return self._size

    def append(self, key: bytes, record: Record) -> None:
        """Append one key, which follows these."""
        self._size = None
        self._keys.append(key)
        self._numbers += pack(">4Q", *record[:4])
        self._values.append(record.value)

    def extend(self, other: Page) -> None:
        """Append the keys of ``other``, which follow these."""
        self._size = None if other._size is None else self.size() + other._size
        self._keys += other._keys
        self._numbers += other._numbers
        self._values += other._values

    def fitting(self, size: int) -> int:
        """Return how many of the first keys, with their values, are no more than ``size`` bytes."""
        sizes = accumulate(map(add, map(len, self._keys), map(len, self._values)))
        return sum(1 for total in sizes if total <= size)

    def cut(self, count: int) -> bytes | None:
        """Keep the first ``count`` keys; return the one that then follows, if there is one."""
        if count >= len(self._keys):
            return None
        following = self._keys[count]
        self._size = None
        del self._keys[count:], self._values[count:], self._numbers[NUMBERS_BYTES * count :]
        return following

    # -- as bytes -----------------------------------------------------------------

    def pack(self, *, keys_only: bool = False) -> bytes:
        """Return it as bytes; with ``keys_only`` all values are empty."""
        values = [b""] * len(self._keys) if keys_only else self._values
        packed: bytes = msgpack.packb((self._keys, self._numbers, values))
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Page:
        """Return the page of ``pack``. Raises ``ProtocolViolation``."""
        try:
            keys, numbers, values = msgpack.unpackb(data)
            if type(keys) is not list or type(numbers) is not bytes or type(values) is not list:
                raise TypeError("it is not keys, numbers and values")
            if not set(map(type, keys)) | set(map(type, values)) <= {bytes}:
                raise TypeError("keys and values must be bytes")
            if len(values) != len(keys) or len(numbers) != NUMBERS_BYTES * len(keys):
                raise ValueError("its columns are not of one length")
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ProtocolViolation(f"a page of a scan does not decode: {error}") from error
        return cls(keys, numbers, values)


# -- from the key space ------------------------------------------------------------------


def read_page(
    versions: Versions, start: bytes, end: bytes, at: int, limit_keys: int, limit_bytes: int
) -> tuple[Page, bytes | None]:
    """Return what ``Space.page`` promises, as of ``at``, which can be read."""
    page = Page()
    following: bytes | None = start
    looks = 4 * limit_keys + 1000
    rows_max, rows_min = limit_keys, 16
    while following is not None and len(page) < limit_keys and looks > 0:
        rows = _current_rows(versions, following, end, min(rows_max, looks), limit_bytes)
        _step_back(versions, rows, at, limit_bytes)
        following = rows.following
        looks -= len(rows.keys)
        more = rows.page()
        limit_bytes -= more.size()
        if limit_bytes < 0:
            fitting = more.fitting(limit_bytes + more.size())
            following = more.cut(fitting if page or fitting else 1) or following
        page.extend(more)
        if limit_bytes < 0 or (rows.are_heavy and page):
            break
        rows_max, rows_min = max(limit_keys - len(page), rows_min), 2 * rows_min  # so many are deleted
    return page, page.cut(limit_keys) or following


class _Rows:
    """Rows of the key space, in key order: records that are live at some revision, or not."""

    __slots__ = ("are_heavy", "following", "heads", "keys", "payloads")

    def __init__(self, keys: list[bytes], payloads: list[bytes], heads: bytes) -> None:
        self.keys, self.payloads = keys, payloads
        self.heads = _big_endian(array("Q", heads))
        """The numbers of ``HEAD``, row after row."""
        self.following: bytes | None = None
        """The next key of the range, if there are more."""
        self.are_heavy = False
        """Whether there are no more because of their bytes."""

    def cut(self, count: int, *, are_heavy: bool) -> None:
        """Keep the first ``count`` rows of more."""
        self.are_heavy = are_heavy
        self.following = self.keys[count]
        del self.keys[count:], self.payloads[count:], self.heads[HEAD_NUMBERS * count :]

    def replace(self, index: int, record: Stored) -> None:
        """Put ``record`` in the place of a row's."""
        self.payloads[index] = record[4] or NOTHING
        self.heads[HEAD_NUMBERS * index : HEAD_NUMBERS * (index + 1)] = array(
            "Q", HEAD.unpack_from(self.payloads[index])
        )

    def page(self) -> Page:
        """Return the live ones."""
        keys, payloads, heads = self.keys, self.payloads, self.heads
        versions = heads[2::HEAD_NUMBERS]
        if 0 in versions:
            keys, payloads = list(compress(keys, versions)), list(compress(payloads, versions))
            heads = _Rows(keys, payloads, _heads(payloads)).heads
        numbers = array("Q", bytes(NUMBERS_BYTES * len(keys)))
        for column in range(4):
            numbers[column::4] = heads[column::HEAD_NUMBERS]
        starts = map(VALUE_START.__getitem__, map(int.bit_count, heads[4::HEAD_NUMBERS]))
        values = [payload[start:] for payload, start in zip(payloads, starts, strict=True)]
        return Page(keys, _big_endian(numbers), values)


def _heads(payloads: list[bytes]) -> bytes:
    """Return what payloads begin with, one after the other: it is shorter where one of them is too short."""
    return b"".join([payload[:HEAD_BYTES] for payload in payloads])


def _big_endian(numbers: array[int]) -> array[int]:
    """Turn numbers from this machine's order of bytes into big-endian, or back."""
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _current_rows(versions: Versions, start: bytes, end: bytes, rows_max: int, bytes_max: int) -> _Rows:
    """Return the present rows of the range: ``rows_max`` at most, and one or what ``bytes_max`` holds."""
    stored_keys, values, is_heavy = _stored_rows(versions.stored(start, end), rows_max, bytes_max)
    rows = _decoded(stored_keys, values)
    if is_heavy or len(values) > rows_max:
        # The one too many was decoded as well: a scan goes on from its key.
        rows.cut(len(values) - 1, are_heavy=is_heavy)
    changed = versions.unflushed(start, end if rows.following is None else rows.following)
    return _overlaid(versions, rows, changed, rows_max) if changed else rows


def _stored_rows(
    found: Iterator[tuple[bytes, bytes]], rows_max: int, bytes_max: int
) -> tuple[list[bytes], list[bytes], bool]:
    """Return keys and values of storage: one more than ``rows_max``, or one more than ``bytes_max`` holds
    (two at least), or as many as there are; and whether it was the bytes that ended it.

    They are taken many together, as there is room for if they are as large as those before them.
    """
    stored_keys: list[bytes] = []
    values: list[bytes] = []
    room, together = bytes_max, 1
    while some := tuple(zip(*islice(found, min(together, rows_max + 1 - len(values))), strict=True)):
        keys, more = some
        size = max(0, sum(map(len, keys)) + sum(map(len, more)) - SEALED_BYTES * len(keys))
        if size <= room:
            stored_keys += keys
            values += more
            room -= size
            together = min(ROWS_TOGETHER_MAX, 1 + room * len(values) // (bytes_max - room + 1))
            continue
        for stored_key, value in zip(keys, more, strict=True):
            stored_keys.append(stored_key)
            values.append(value)
            room -= len(stored_key) + len(value) - SEALED_BYTES
            if room < 0 and len(values) > 1:
                return stored_keys, values, True
        together = 1
    return stored_keys, values, False


def _decoded(stored_keys: list[bytes], values: list[bytes]) -> _Rows:
    """Return storage's records as rows. Raises ``RecordDamaged``.

    It is ``versions.decode`` of each, and each checksum is compared, but in loops that run in C.
    """
    payloads = list(map(_without_checksum, values))
    heads = b"".join([value[: CHECKSUM_BYTES + HEAD_BYTES] for value in values])
    if len(heads) == (CHECKSUM_BYTES + HEAD_BYTES) * len(values):  # so each of them is long enough
        words = array("I", heads)
        computed = map(crc32, payloads, map(crc32, stored_keys))
        if words[::SEALED_WORDS].tobytes() == pack(f">{len(values)}I", *computed):
            del words[::SEALED_WORDS]
            return _Rows(list(map(_without_family, stored_keys)), payloads, words.tobytes())
    for stored_key, value in zip(stored_keys, values, strict=True):
        decode(stored_key, value)
    raise AssertionError("records that are damaged together are each whole")


def _overlaid(versions: Versions, stored: _Rows, changed: set[bytes], rows_max: int) -> _Rows:
    """Return ``stored`` with the news of ``changed``, keys of the same stretch."""
    found = dict(zip(stored.keys, stored.payloads, strict=True))
    keys = sorted(changed.union(stored.keys))
    following = stored.following
    if len(keys) > rows_max:
        following = keys[rows_max]
        del keys[rows_max:]
    for key in changed.intersection(keys):
        found[key] = versions.current(key)[4] or NOTHING
    payloads = [found[key] for key in keys]
    rows = _Rows(keys, payloads, _heads(payloads))
    rows.following, rows.are_heavy = following, stored.are_heavy
    return rows


def _step_back(versions: Versions, rows: _Rows, at: int, bytes_max: int) -> None:
    """Put in place of each record that is newer than ``at`` the one that the key had then."""
    mods = rows.heads[1::HEAD_NUMBERS]
    if max(mods, default=0) <= at:
        return
    for index, mod in enumerate(mods):
        if mod > at:
            rows.replace(index, versions.at(rows.keys[index], parse(rows.payloads[index]), at))
            bytes_max -= len(rows.payloads[index])
            if bytes_max < 0 and index + 1 < len(rows.keys):
                rows.cut(index + 1, are_heavy=True)  # what is small now may have been large
                return
