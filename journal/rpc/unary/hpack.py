"""HPACK (RFC 7541): HTTP/2's headers, as far as a server of gRPC needs it.

Decoding is whole: static and dynamic table, Huffman codes. Encoding is plain: literals that enter no table,
so a reply's headers are the same bytes on every connection and are made once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Header = tuple[bytes, bytes]
"""Name and value, as they came."""

TABLE_BYTES_MAX = 4_096
"""The dynamic table's size, as HTTP/2 has it where nobody says otherwise; we say nothing."""
ENTRY_BYTES = 32
"""What RFC 7541 (4.1) adds to an entry's name and value to get its size."""

_INTEGER_BYTES_MAX = 5
"""Bytes behind an integer's prefix: 35 bits, more than any length that is taken here."""


class HpackError(ValueError):
    """Bytes that are no header block. The connection cannot go on: its table is out of step."""


# fmt: off
STATIC: tuple[Header, ...] = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"),
    (b":path", b"/index.html"), (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"),
    (b":status", b"204"), (b":status", b"206"), (b":status", b"304"), (b":status", b"400"),
    (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""),
    (b"accept", b""), (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""),
    (b"authorization", b""), (b"cache-control", b""), (b"content-disposition", b""),
    (b"content-encoding", b""), (b"content-language", b""), (b"content-length", b""),
    (b"content-location", b""), (b"content-range", b""), (b"content-type", b""), (b"cookie", b""),
    (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""), (b"host", b""),
    (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""),
    (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b""),
    (b"max-forwards", b""), (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b""),
    (b"referer", b""), (b"refresh", b""), (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""),
    (b"strict-transport-security", b""), (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b""),
    (b"via", b""), (b"www-authenticate", b""),
)
"""RFC 7541, appendix A; the first has index 1."""

_CODE_BITS = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6,
    6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5,
    6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24,
    23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26,
    26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21,
    26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26,
    26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
)
"""How many bits the Huffman code of each byte has, and last that of the end (RFC 7541, appendix B). The code
is canonical: codes of one length are neighbours in the order of their bytes, so the lengths say all of it."""
# fmt: on

_END = 256
_PADDING_BITS_MAX = 7


def _codes() -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """Return for each length of code: (bits, the first code, the symbols from that one on)."""
    found, code, before = [], 0, 0
    for bits in sorted(set(_CODE_BITS)):
        code <<= bits - before
        symbols = tuple(symbol for symbol, length in enumerate(_CODE_BITS) if length == bits)
        found.append((bits, code, symbols))
        code, before = code + len(symbols), bits
    return tuple(found)


_CODES = _codes()


def unpack_huffman(data: bytes) -> bytes:
    """Return what ``data`` stands for. Raises ``HpackError``."""
    found = bytearray()
    window = bits = 0
    for byte in data:
        window, bits = window << 8 | byte, bits + 8
        while (symbol := _symbol(window, bits)) is not None:
            value, length = symbol
            if value == _END:
                raise HpackError("the end's own code inside a text")
            found.append(value)
            bits -= length
            window &= (1 << bits) - 1
    if bits > _PADDING_BITS_MAX or window != (1 << bits) - 1:
        raise HpackError("a text's last bits are no padding")
    return bytes(found)


def _symbol(window: int, bits: int) -> tuple[int, int] | None:
    """Return the symbol that ``bits`` bits begin with and the length of its code; None: more are needed."""
    for length, first, symbols in _CODES:
        if length > bits:
            return None
        offset = (window >> (bits - length)) - first
        if offset < len(symbols):
            return symbols[offset], length
    raise HpackError("no code has that many bits")  # pragma: no cover - the longest codes are all taken


class Decoder:
    """The headers of one connection, block after block, in the order in which they came."""

    def __init__(self, headers_bytes_max: int) -> None:
        """``headers_bytes_max``: names, values and ``ENTRY_BYTES`` each of one block, together."""
        self._headers_bytes_max = headers_bytes_max
        self._table: list[Header] = []  # the newest last
        self._table_bytes = 0
        self._table_bytes_max = TABLE_BYTES_MAX
        self.changes = 0
        """How often the table was changed: while it stands, the same bytes are the same headers."""

    def decode(self, block: bytes) -> list[Header]:
        """Return a block's headers. Raises ``HpackError``."""
        found: list[Header] = []
        room = self._headers_bytes_max
        for name, value in self._fields(block):
            room -= len(name) + len(value) + ENTRY_BYTES
            if room < 0:
                raise HpackError(f"headers of more than {self._headers_bytes_max} bytes")
            found.append((name, value))
        return found

    def _fields(self, block: bytes) -> Iterator[Header]:
        at, size, begun = 0, len(block), False
        while at < size:
            first = block[at]
            if first & 0x80:
                index, at = _integer(block, at, 7)
                yield self._entry(index)
            elif first & 0x40:
                header, at = self._literal(block, at, 6)
                self._remember(header)
                yield header
            elif first & 0x20:
                if begun:
                    raise HpackError("the table's size changes in the middle of a block")
                most, at = _integer(block, at, 5)
                self._resize(most)
                continue
            else:
                header, at = self._literal(block, at, 4)
                yield header
            begun = True

    def _entry(self, index: int) -> Header:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        if len(STATIC) < index <= len(STATIC) + len(self._table):
            return self._table[len(STATIC) - index]
        raise HpackError(f"no header has index {index}")

    def _literal(self, block: bytes, at: int, prefix_bits: int) -> tuple[Header, int]:
        index, at = _integer(block, at, prefix_bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _text(block, at)
        value, at = _text(block, at)
        return (name, value), at

    def _remember(self, header: Header) -> None:
        self.changes += 1
        self._table.append(header)
        self._table_bytes += _entry_bytes(header)
        self._evict()

    def _resize(self, most: int) -> None:
        if most > TABLE_BYTES_MAX:
            raise HpackError(f"a table of {most} bytes, more than the {TABLE_BYTES_MAX} that were allowed")
        self.changes += 1
        self._table_bytes_max = most
        self._evict()

    def _evict(self) -> None:
        gone = 0
        while self._table_bytes > self._table_bytes_max:
            self._table_bytes -= _entry_bytes(self._table[gone])
            gone += 1
        del self._table[:gone]


def _entry_bytes(header: Header) -> int:
    return len(header[0]) + len(header[1]) + ENTRY_BYTES


def _integer(block: bytes, at: int, prefix_bits: int) -> tuple[int, int]:
    """Return the integer at ``at``, which begins in the last bits of a byte, and where it ends."""
    most = (1 << prefix_bits) - 1
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    for byte in range(_INTEGER_BYTES_MAX):
        if at >= len(block):
            break
        value += (block[at] & 0x7F) << 7 * byte
        at += 1
        if block[at - 1] < 0x80:
            return value, at
    raise HpackError("an integer without an end")


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    if at >= len(block):
        raise HpackError("a block that ends within a header")
    is_huffman = block[at] & 0x80
    length, at = _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise HpackError("a block that ends within a text")
    text = block[at:end]
    return (unpack_huffman(text) if is_huffman else text), end


def encode(headers: Iterable[Header]) -> bytes:
    """Return a block of these headers that neither needs nor changes a table."""
    return b"".join(b"\x00" + _packed_text(name) + _packed_text(value) for name, value in headers)


def _packed_text(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    packed, rest = bytearray(b"\x7f"), length - 0x7F
    while rest >= 0x80:
        packed.append(rest & 0x7F | 0x80)
        rest >>= 7
    packed.append(rest)
    return bytes(packed) + text
