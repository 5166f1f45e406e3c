"""The benchmark's readers and writers: what they find in bytes, and what they send."""

from __future__ import annotations

import asyncio

import msgpack
import pytest

from journal.commits import Change, Commit
from journal.rpc.direct import frames
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.tails import pack_commits
from journal.types import Revision, Slot
from scripts.bench import etcd, fill, h2, streams
from scripts.bench.streams import Readers, Writer

WRITER = Writer("synod", "", per_s=100, a_message=3, seconds=1, value_bytes=40)


def test_marks_are_found_wherever_they_are() -> None:
    value = streams.marked(bytes(40), 123_456_789)
    assert len(value) == 40
    other = streams.marked(bytes(40), 5)
    assert list(streams.marks(b"head" + value + b"between" + other + b"tail")) == [123_456_789, 5]
    assert list(streams.marks(bytes(1000))) == []


def test_the_oldest_commit_says_when_it_was_proposed() -> None:
    commits = [
        Commit(Revision(2**40 + number), Slot(2**33), 1_790_000_000_000 + number, b"client", 7, "label", ())
        for number in range(20)
    ]
    changes: list[Change] = []
    packed = pack_commits([(commit, changes) for commit in commits])
    assert streams.proposed_ms(packed) == 1_790_000_000_000


def test_a_writer_marks_the_first_value_of_a_message_only() -> None:
    value = bytes(40)
    message = streams._message(WRITER, 4, streams.marked(value, 77), value, b"client00")
    assert list(streams.marks(message)) == [77]
    _client, _acked, _base, offers = msgpack.unpackb(pb.SubmitRequest.FromString(message).packed)
    assert [offer[0] for offer in offers] == [12, 13, 14]
    assert [offer[6][0][1] for offer in offers] == [b"paced/4/0", b"paced/4/1", b"paced/4/2"]


def test_a_writer_goes_round_the_prefixes() -> None:
    writer = Writer("synod", "", 100, 1, 1, 40, prefixes=["a/", "b/"])
    assert [streams._key(writer, number, 0) for number in range(3)] == [b"a/0", b"b/0", b"a/0"]


def test_gaps_ends_and_what_is_open_are_counted() -> None:
    async def main() -> streams.Heard:
        heard = streams.Heard()
        handler = streams._tail(4, heard)
        handler(pb.TailMessage(first=5, last=4).SerializeToString())
        await heard.opened(1)
        heard.record()
        handler(pb.TailMessage(first=5, last=9).SerializeToString())
        assert heard.gaps == 0
        handler(pb.TailMessage(first=11, last=12).SerializeToString())
        handler(None)
        await heard.opened(2)  # nobody else will open: it does not wait for that
        return heard

    heard = asyncio.run(main())
    assert (heard.open, heard.gaps, heard.ended, heard.messages) == (1, 1, 1, 2)


def test_a_watch_opens_with_its_first_message() -> None:
    heard = streams.Heard()
    handler = streams._watch(heard)
    handler(b"created")
    assert (heard.open, heard.messages) == (1, 0)
    handler(b"event")
    assert heard.messages == 1


def test_what_etcd_is_asked() -> None:
    # etcdserverpb: WatchRequest.create_request = 1 {key = 1, range_end = 2}; TxnRequest.success = 2 {put = 2}
    assert etcd.watch(b"ab") == b"\x0a\x08\x0a\x02ab\x12\x02ac"
    assert etcd.watch(b"") == b"\x0a\x06\x0a\x01\0\x12\x01\0"
    put = etcd.put(b"k", b"v")
    assert etcd.txn([put, put]) == b"\x12\x08\x12\x06" + put + b"\x12\x08\x12\x06" + put


def test_a_tail_is_asked_for_with_its_own_prefix() -> None:
    request = streams._request(Readers("synod", [], 10, prefix="watched/", after=7), 3)
    asked = pb.TailRequest.FromString(request)
    assert (list(asked.prefixes), asked.after, asked.packed) == ([b"watched/3/"], 7, True)
    assert not pb.TailRequest.FromString(streams._request(Readers("synod", [], 10), 3)).prefixes


@pytest.mark.parametrize("keys", [1, 7, 100, 1000])
def test_a_history_touches_every_key_in_turn(keys: int) -> None:
    found = fill.in_turn(keys)
    assert sorted(next(found) for _ in range(keys)) == [fill.key(number) for number in range(keys)]


# -- HTTP/2 -------------------------------------------------------------------------------------


class Pipe(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data


def connected() -> tuple[h2.Connection, Pipe, list[bytes | None]]:
    connection, pipe = h2.Connection("host:1"), Pipe()
    connection.connection_made(pipe)
    got: list[bytes | None] = []
    connection.call("/a.B/C", b"request", got.append)
    pipe.written.clear()
    return connection, pipe, got


def grpc_message(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_messages_are_put_together_however_they_are_cut(cut: int) -> None:
    connection, _pipe, got = connected()
    body = grpc_message(b"one") + grpc_message(b"") + grpc_message(b"x" * 300)
    sent = b"".join(frames.frame(frames.DATA, 0, 1, body[at : at + 11]) for at in range(0, len(body), 11))
    sent = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, b"whatever") + sent
    for at in range(0, len(sent), cut):
        connection.data_received(sent[at : at + cut])
    assert got == [b"one", b"", b"x" * 300]


def test_a_stream_that_ends_says_so_once() -> None:
    connection, _pipe, got = connected()
    connection.data_received(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, b""))
    connection.data_received(frames.frame(frames.RST_STREAM, 0, 1, bytes(4)))
    connection.connection_lost(None)
    assert got == [None]


def test_pings_settings_and_windows_are_answered() -> None:
    connection, pipe, _got = connected()
    connection.data_received(
        frames.frame(frames.SETTINGS, 0, 0, b"") + frames.frame(frames.PING, 0, 0, b"12345678")
    )
    assert bytes(pipe.written) == frames.frame(frames.SETTINGS, frames.ACK, 0) + frames.frame(
        frames.PING, frames.ACK, 0, b"12345678"
    )
    pipe.written.clear()
    piece = bytes(2**20)
    for _ in range(h2.REPLENISH_BYTES // len(piece)):
        connection.data_received(frames.frame(frames.DATA, 0, 9, piece))
    assert bytes(pipe.written) == frames.window_update(0, h2.REPLENISH_BYTES)
