"""Readers of tails (or of etcd's watches), and a writer at a steady pace: processes of their own.

``Child`` starts one and talks to it in lines of JSON; ``python -m scripts.bench.streams`` is the other end.
A writer marks the first value of each message with the time at which it was sent, and a reader looks for
that mark in the bytes that it gets: so the latency of a delivery is from the offer to the reader, of ours and
of etcd's alike, without a clock of anybody else, and without what decoding would cost a reader in Python.
Of ours the oldest commit of each message says in addition when the leader proposed it.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import grpc.aio
import msgpack
import trio

from journal.offers import Offer, Put, pack_batch, pack_offer
from journal.rpc.methods import SUBMIT_ONCE, TAIL
from journal.rpc.pb import journal_pb2 as pb
from scripts.bench import etcd, h2
from scripts.bench.results import percentiles

OPENING_MAX = 500
"""Streams that are being opened: of more that wait for it gRPC's server drops some."""
MARK = b"\xc1sent at\xc1"
"""Not to be found in a value by chance, and no beginning of a length in msgpack or protobuf."""
STAMP_BYTES = 8
UNANSWERED_MAX = 64
"""Messages of a writer that are under way; with more it is behind, and says so."""


def marked(value: bytes, now_ns: int) -> bytes:
    """Return ``value`` with the time at its beginning, as long as before."""
    stamp = MARK + now_ns.to_bytes(STAMP_BYTES, "big")
    return stamp + value[len(stamp) :]


def marks(message: bytes) -> Iterator[int]:
    """Yield the times with which the values in ``message`` are marked."""
    at = message.find(MARK)
    while at >= 0:
        begin = at + len(MARK)
        yield int.from_bytes(message[begin : begin + STAMP_BYTES], "big")
        at = message.find(MARK, begin)


def proposed_ms(packed: bytes) -> int:
    """Return when the first of some packed commits was proposed, in milliseconds since 1970."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(packed[:64])
    unpacker.read_array_header()
    unpacker.read_array_header()
    _revision, _slot, time_ms = (int(unpacker.unpack()) for _ in range(3))
    return time_ms


@dataclass(frozen=True, slots=True)
class Readers:
    """So many tails, spread over ``endpoints``: of all keys, or (``prefix``) each of those under its own."""

    kind: str
    """``synod`` or ``etcd``."""
    endpoints: list[str]
    count: int
    connections: int = 1
    """To each endpoint."""
    prefix: str = ""
    """Of tail n: this, its number and a slash. Empty: no filter."""
    after: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """``per_s`` offers a second in messages of ``a_message``, to one node."""

    kind: str
    endpoint: str
    per_s: int
    a_message: int
    seconds: float
    value_bytes: int
    prefixes: list[str] = field(default_factory=list)
    """Each offer goes to a key under one of these, in turn; none: to keys of its own."""
    base: int = 0
    """The journal's revision when it began."""


# -- the process ------------------------------------------------------------------------------


@dataclass(slots=True)
class Heard:
    """What the readers of one process got."""

    messages: int = 0
    received: int = 0
    """Bytes."""
    gaps: int = 0
    """Messages that did not go on where the one before had ended. There must be none."""
    latencies_ms: list[float] = field(default_factory=list)
    """From the offer; of each marked value."""
    since_proposed_ms: list[float] = field(default_factory=list)
    """From the leader's proposal, of the oldest commit in each message; up to 1 ms more than it was."""
    recording: bool = False
    open: int = 0
    ended: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def opened(self, count: int) -> None:
        """Wait until so many are open, or one has ended."""
        while self.open < count and not self.ended:
            self.changed.clear()
            await self.changed.wait()

    def opens(self) -> None:
        self.open += 1
        self.changed.set()

    def ends(self) -> None:
        self.ended += 1
        self.changed.set()

    def record(self) -> None:
        self.messages = self.received = 0
        self.recording = True

    def take(self, message: bytes, now_ns: int) -> None:
        self.messages += 1
        self.received += len(message)
        if self.recording:
            self.latencies_ms.extend([(now_ns - sent) / 1e6 for sent in marks(message)])


def _tail(after: int, heard: Heard) -> h2.Handler:
    """Return what takes the messages of one tail."""
    expected, is_open = after + 1, False

    def handler(message: bytes | None) -> None:
        nonlocal expected, is_open
        if message is None:
            heard.ends()
            return
        heard.take(message, time.monotonic_ns())
        decoded = pb.TailMessage.FromString(message)
        heard.gaps += decoded.first != expected
        if not is_open:
            is_open = True
            heard.opens()
        expected = decoded.last + 1
        if heard.recording and decoded.packed:
            heard.since_proposed_ms.append(time.time() * 1000 - proposed_ms(decoded.packed))

    return handler


def _watch(heard: Heard) -> h2.Handler:
    """Return what takes the messages of one of etcd's watches."""
    created = False

    def handler(message: bytes | None) -> None:
        nonlocal created
        if message is None:
            heard.ends()
        elif created:
            heard.take(message, time.monotonic_ns())
        else:
            created = True
            heard.opens()

    return handler


def _request(readers: Readers, number: int) -> bytes:
    prefix = f"{readers.prefix}{number}/".encode() if readers.prefix else b""
    if readers.kind == "etcd":
        return etcd.watch(prefix)
    request = pb.TailRequest(after=readers.after, packed=True, prefixes=[prefix] if prefix else [])
    return request.SerializeToString()


async def _read(readers: Readers) -> None:
    """Read until told to stop; a line for each state reached, and then what was heard."""
    heard = Heard()
    connections = [
        await h2.open_connection(endpoint)
        for _ in range(readers.connections)
        for endpoint in readers.endpoints
    ]
    for number in range(readers.count):
        connection, request = connections[number % len(connections)], _request(readers, number)
        if readers.kind == "etcd":
            connection.call(etcd.WATCH, request, _watch(heard), half_close=False)
        else:
            connection.call(TAIL.path, request, _tail(readers.after, heard))
        await heard.opened(number - OPENING_MAX)
    await heard.opened(readers.count)
    _say({"open": heard.open, "ended": heard.ended})
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip() == "record":
            heard.record()
            _say({"recording": True})
            continue
        break
    ended = heard.ended
    for connection in connections:
        connection.close()
    _say(
        {
            "messages": heard.messages,
            "bytes": heard.received,
            "gaps": heard.gaps,
            "ended": ended,
            "deliveries": len(heard.latencies_ms),
            "latencies_ms": percentiles(heard.latencies_ms),
            "since_proposed_ms": percentiles(heard.since_proposed_ms),
        }
    )


async def _write(writer: Writer) -> None:
    """Send at the writer's pace, whatever the answers do; then say how many came."""
    value = os.urandom(writer.value_bytes)
    acknowledged: list[float] = []
    sent = behind = 0
    async with grpc.aio.insecure_channel(writer.endpoint) as channel, asyncio.TaskGroup() as group:
        call: Any = channel.unary_unary(etcd.TXN if writer.kind == "etcd" else SUBMIT_ONCE.path)
        client = os.urandom(8)

        async def send(number: int) -> None:
            began = time.monotonic_ns()
            await call(_message(writer, number, marked(value, began), value, client))
            acknowledged.append((time.monotonic_ns() - began) / 1e6)

        began = time.monotonic()
        interval = writer.a_message / writer.per_s
        for number in range(max(1, int(writer.seconds / interval))):
            await asyncio.sleep(began + number * interval - time.monotonic())
            if sent - len(acknowledged) >= UNANSWERED_MAX:
                behind += 1
                continue
            sent += 1
            group.create_task(send(number))
    seconds = time.monotonic() - began
    offers = len(acknowledged) * writer.a_message
    _say(
        {
            "per_s": offers / seconds,
            "offers": offers,
            "behind": behind,
            "latencies_ms": percentiles(acknowledged),
        }
    )


def _message(writer: Writer, number: int, first: bytes, value: bytes, client: bytes) -> bytes:
    """Return message ``number`` of a writer: puts, the first of them of the marked value ``first``."""
    keys = [_key(writer, number, index) for index in range(writer.a_message)]
    pairs = [(key, value if index else first) for index, key in enumerate(keys)]
    if writer.kind == "etcd":
        return etcd.txn([etcd.put(key, put) for key, put in pairs])
    sequence = number * writer.a_message
    offers = [
        pack_offer(sequence + index, Offer((Put(key, put),), reads=()))
        for index, (key, put) in enumerate(pairs)
    ]
    acknowledged = max(0, sequence - UNANSWERED_MAX * writer.a_message)
    packed = pack_batch(client, acknowledged, writer.base, offers)
    return pb.SubmitRequest(packed=packed).SerializeToString()


def _key(writer: Writer, number: int, index: int) -> bytes:
    if writer.prefixes:
        place = number * writer.a_message + index
        return f"{writer.prefixes[place % len(writer.prefixes)]}{index}".encode()
    return b"paced/%d/%d" % (number % UNANSWERED_MAX, index)


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    kind, spec = sys.argv[1], json.loads(sys.argv[2])
    asyncio.run(_read(Readers(**spec)) if kind == "Readers" else _write(Writer(**spec)))


# -- its owner --------------------------------------------------------------------------------


class Child:
    """A process that reads or writes."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hears(self) -> dict[str, Any]:
        """Return the next thing that it says. Raises ``RuntimeError`` where it ends without."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            more = await self._process.stdout.receive_some()
            if not more:
                raise RuntimeError("a process that reads or writes for the benchmark ended early")
            self._rest += more
        line, _newline, self._rest = self._rest.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    async def tell(self, word: str) -> dict[str, Any]:
        """Tell it to ``record`` or to ``stop``; return what it says to that."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{word}\n".encode())
        return await self.hears()


@asynccontextmanager
async def child(spec: Readers | Writer) -> AsyncIterator[Child]:
    """Start a process that does what ``spec`` says; it is gone in the end."""
    command = [sys.executable, "-m", "scripts.bench.streams", type(spec).__name__, json.dumps(asdict(spec))]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Child(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


if __name__ == "__main__":
    main()
