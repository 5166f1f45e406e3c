"""HTTP/2's compressed headers: the examples of RFC 7541, and what a peer must not send."""

from __future__ import annotations

import random
from base64 import b85decode

import pytest

from journal.rpc.unary.hpack import STATIC, Decoder, HpackError, encode, unpack_huffman

ROOM = 16 * 1024

FIRST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
SECOND = [*FIRST, (b"cache-control", b"no-cache")]
THIRD = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":path", b"/index.html"),
    (b":authority", b"www.example.com"),
    (b"custom-key", b"custom-value"),
]

PLAIN = (
    "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    "8286 84be 5808 6e6f 2d63 6163 6865",
    "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
)
"""Appendix C.3."""
HUFFMAN = (
    "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
    "8286 84be 5886 a8eb 1064 9cbf",
    "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
)
"""Appendix C.4."""


@pytest.mark.parametrize("blocks", [PLAIN, HUFFMAN], ids=["plain", "huffman"])
def test_requests_of_the_rfc(blocks: tuple[str, ...]) -> None:
    decoder = Decoder(ROOM)
    assert [decoder.decode(bytes.fromhex(block)) for block in blocks] == [FIRST, SECOND, THIRD]


def test_a_small_table_lets_its_oldest_headers_go() -> None:
    """Appendix C.6, whose table has 256 bytes."""
    decoder = Decoder(ROOM)
    date, location = (b"date", b"Mon, 21 Oct 2013 20:13:21 GMT"), (b"location", b"https://www.example.com")
    private = (b"cache-control", b"private")
    begin = "3fe1 01"
    first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d"
    first += "29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3"
    assert decoder.decode(bytes.fromhex(begin + first)) == [(b":status", b"302"), private, date, location]
    assert decoder.decode(bytes.fromhex("4883 640e ffc1 c0bf")) == [
        (b":status", b"307"),
        private,
        date,
        location,
    ]
    with pytest.raises(HpackError, match="no header has index 66"):
        decoder.decode(b"\xc2")  # the fifth entry: the first had to go


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("80", "index 0"),
        ("be", "index 62"),
        ("ff ff ff ff ff ff 00", "without an end"),
        ("ff", "without an end"),
        ("40", "within a header"),
        ("00 05 61", "within a text"),
        ("00 01 61", "within a header"),
        ("82 3f 00", "in the middle"),
        ("3f e2 1f", "a table of 4097 bytes"),
        ("00 84 ff ff ff ff 00", "end's own code"),
        ("00 82 07 ff 00", "no padding"),  # '0', and 11 bits of ones
        ("00 81 00 00", "no padding"),  # '0', and three zeros
    ],
)
def test_what_is_no_block_is_refused(block: str, why: str) -> None:
    with pytest.raises(HpackError, match=why):
        Decoder(ROOM).decode(bytes.fromhex(block))


def test_the_largest_table_is_taken() -> None:
    assert Decoder(ROOM).decode(bytes.fromhex("3fe11f 82")) == [(b":method", b"GET")]


def remembered(name: bytes, value: bytes) -> bytes:
    """Return a header that enters the table."""
    return b"\x40" + encode([(name, value)])[1:]


def test_headers_have_a_bound_also_where_few_bytes_name_many() -> None:
    """A block of indexes alone is a bomb: each byte may stand for an entry of 4 KiB."""
    decoder = Decoder(ROOM)
    large = decoder.decode(remembered(b"x", b"v" * 4_000))
    assert large == [(b"x", b"v" * 4_000)]
    assert len(decoder.decode(b"\xbe" * 4)) == 4
    with pytest.raises(HpackError, match="more than 16384 bytes"):
        decoder.decode(b"\xbe" * 5)


def test_a_table_never_holds_more_than_its_size() -> None:
    decoder = Decoder(1 << 20)
    for number in range(1_000):
        decoder.decode(remembered(b"x", b"%04d" % number * 224))
        assert decoder._table_bytes == sum(len(n) + len(v) + 32 for n, v in decoder._table) <= 4_096
    assert decoder.decode(b"\xbe") == [(b"x", b"0999" * 224)]


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder(ROOM)
    decoder.decode(remembered(b"a", b"b"))
    decoder.decode(remembered(b"x", b"v" * 5_000))
    with pytest.raises(HpackError, match="index 62"):
        decoder.decode(b"\xbe")


def test_only_what_changes_the_table_counts_as_a_change() -> None:
    decoder = Decoder(ROOM)
    decoder.decode(bytes.fromhex("8286 0001 6101 62 1001 6101 62"))
    assert decoder.changes == 0
    decoder.decode(remembered(b"a", b"b"))
    decoder.decode(b"\x20")
    assert decoder.changes == 2


def test_what_is_encoded_is_decoded_to_the_same() -> None:
    headers = [(b"n" * length, b"v" * length) for length in (0, 1, 126, 127, 128, 254, 255, 256, 4_000)]
    assert Decoder(ROOM).decode(encode(headers)) == headers


def test_random_bytes_are_headers_or_an_hpack_error() -> None:
    rng = random.Random(7)
    for _ in range(20_000):
        decoder = Decoder(ROOM)
        try:
            decoder.decode(rng.randbytes(rng.randrange(40)))
        except HpackError:
            continue


ALL_BYTES = b85decode(
    "|HuFRkN^MT|Ns6!|NrFw|NdY9|K|Vy{(t}f=>Pxf|NsB<|Nr`b|NpE1|Nr0r|Lgz%{?Gsa?f?J&@Bjbr|Ns9F|Nrs-"
    "|Nk%l|Np=L|Ih#b{XhTz*Z=?hzyJT=|Ns6!|NrOz|Ng)K|LsrX`Twu{tMUH7ukYvm{Vclx2$^ZO9eMkofBzu=zw`f4-"
    "MxPX99Z&Y&7Ve{TJ~+-"
    "zlR=Qod19K|NKAs|Kwl)M;Rn6vrcZEXr`mr+QcT_{yh5k|NH)b`~Tnn|NQ^{Z~yea|DXT*KmXJJ|5N|{U;q0*|LcGM+W-"
    "Hz|NnFU{_p?&@BjY4|NH;{{h$B+zyIt1|KR`s?*IS8|No2s{~!PUPyg<J|FQr7m;e2r|NP(o`Tzg>|Nq+m{_p?v|NpoD{^$S"
    "xkN^EY|K9)q)&KtQ|NGzn{vZF}|Nnpg|6l+9&;Rg$|A+tn5C8Fh|Ly<(hyVX~|Nj5~>i_?X|NcM!`9J^ofB(z>|2O~tAOHV@"
    "|Nr6t{=fg@|NlS#|1bagKmYxo|Nj^N|HuFT@_+yR@Bjb5|Nrv;|M>s^`+xtJ|M>s^{%`;P!T<mGfB*h}|Nq7R|K<PwPyh1&|"
    "NS5T|4;w_{{R2}KmY&9|Nr@a|Fi%9&;R>>|IPpZPyhM<|Iz>d&;S0f|N8&`{onuo|Ns9_|NmeA|EvH1r~m)g|Nr^F|NhVa|F"
    "{4D^Z)<;kN^ME|Nr{G|NmeA|Nnpg{?Gsa+yDRjzyJS#|Nrp+|NFl"
)
"""The bytes from 0 to 255 in their codes, as another implementation has them."""


def test_every_byte_has_its_code() -> None:
    assert len(STATIC) == 61
    assert unpack_huffman(ALL_BYTES) == bytes(range(256))
