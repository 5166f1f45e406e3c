"""Bad input to real nodes under load: each piece gets its error, and harms nobody.

What each error says exactly is tested with the code that says it (``tests/rpc``, ``tests/client``,
``tests/space``). Here it is the whole: three nodes that serve clients meanwhile go on serving them,
none ends or restarts, none logs a traceback, and the recorded history still holds.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import trio

from journal.client import connect
from journal.connection import LINEARIZABLE
from journal.errors import (
    InvalidRequest,
    JournalError,
    OfferInvalid,
    RevisionCompacted,
    RevisionInFuture,
    WrongCluster,
)
from journal.limits import KEY_BYTES_MAX, Limits
from journal.offers import Offer, Put, pack_batch, pack_offer
from journal.rpc.connection import GrpcConnector
from journal.types import Revision

Chaos = Any  # tests/chaos/conftest.py

HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Not those that change something: a few bytes may well be a valid request, and an empty one is.
METHODS = ("Submit", "SubmitOnce", "Get", "Scan", "Tail", "LeaseKeepAlive", "Outcome", "NoSuchMethod")


@pytest.mark.timeout(240)
def test_bad_input_gets_its_error_and_harms_nothing(chaos: Callable[[int], Chaos]) -> None:
    c = chaos(3)
    c.start_client("ann")
    c.progress(30)
    running = c.cluster.running()

    rng = random.Random(1)
    for endpoint in c.cluster.endpoints:
        _throw_bytes(endpoint, rng)
        _throw_garbage_at_methods(endpoint, rng)
    compacted = trio.run(_bad_requests, c)

    c.progress(30)
    assert c.cluster.running() == running, "a node ended"
    c.finish(after=compacted)
    for node in c.cluster.nodes:
        log = c.cluster.log(f"node-{node}").read_text()
        assert "Traceback" not in log, log[-3000:]


def _throw_bytes(endpoint: str, rng: random.Random) -> None:
    """Random bytes at the port: alone, after a valid preface, and on connections that just stay."""
    host, _, port = endpoint.rpartition(":")
    held = []
    for number in range(24):
        connection = socket.create_connection((host, int(port)), timeout=5)
        prefix = HTTP2 if number % 2 else b""
        held.append(connection)
        with contextlib.suppress(ConnectionError):  # the node may hang up: as it should
            connection.sendall(prefix + rng.randbytes(rng.choice([1, 9, 100, 5000])))
            if number % 3:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
    for connection in held:
        connection.close()


def _throw_garbage_at_methods(endpoint: str, rng: random.Random) -> None:
    """Valid gRPC, but what it carries is no message of ours."""
    with grpc.insecure_channel(endpoint) as channel:
        for service in ("synod.journal.v1.Journal", "synod.paxos.v1.Peer", "synod.admin.v1.Admin", "no.Such"):
            for method in METHODS if "Journal" in service else ("Exchange", "Chain", "NoSuchMethod"):
                call: Any = channel.stream_stream(f"/{service}/{method}")
                for size in (0, 5, 300):
                    replies = call(iter([rng.randbytes(size)]), timeout=5)
                    try:
                        next(replies, None)
                    except grpc.RpcError as error:
                        assert error.code() is not grpc.StatusCode.UNKNOWN, (service, method, error)
                    replies.cancel()


def _batch(*offers: bytes) -> bytes:
    return pack_batch(b"bad", 0, 0, offers)


BAD_BATCHES: list[tuple[bytes, str]] = [
    (b"", "batch"),
    (random.Random(2).randbytes(500), "batch"),
    (_batch(), "at least one offer"),
    (_batch(b"\xc0"), r"offers\[0\]"),
    # [1, "", 0, [], [], [], [[99, "k"]]]: a mutation that does not exist
    (_batch(b"\x97\x01\xa0\x00\x90\x90\x90\x91\x92\x63\xc4\x01k"), r"unknown kind of mutation 99"),
    # the same with a range that ends before it starts
    (_batch(b"\x97\x01\xa0\x00\x90\x91\x92\xc4\x01z\xc4\x01a\x90\x91\x92\x01\xc4\x01k"), r"ranges\[0\]"),
    (_batch(pack_offer(1, Offer((Put(b"", b""),)))), r"mutations\[0\]\.key"),
    (_batch(pack_offer(1, Offer((Put(b"k" * (KEY_BYTES_MAX + 1), b""),)))), "KEY_BYTES_MAX"),
    (_batch(pack_offer(1, Offer((Put(b"k", bytes(Limits().value_bytes_max + 1)),)))), "value_bytes_max"),
    (_batch(pack_offer(2, Offer((Put(b"k", b""),))), pack_offer(1, Offer((Put(b"k", b""),)))), "sequence"),
]


async def _bad_requests(c: Chaos) -> int:
    """Everything that a connection can be asked wrongly; returns the compaction revision."""
    connector = GrpcConnector(cluster=c.cluster.cluster_id)
    leader = await trio.to_thread.run_sync(c.leader)
    for node in c.cluster.nodes:
        connection = await connector.connect(c.cluster.endpoint(node))
        with trio.fail_after(20):
            if node == leader:
                for data, words in BAD_BATCHES:
                    with pytest.raises(OfferInvalid, match=words):
                        await connection.submit(data)
            else:
                with pytest.raises(JournalError):
                    await connection.submit(BAD_BATCHES[1][0])
            with pytest.raises(RevisionInFuture, match="in the future"):
                await connection.get([b"k"], at=Revision(10**12), consistency=LINEARIZABLE)
            with pytest.raises(RevisionInFuture, match="in the future"):
                async with connection.tail(Revision(10**12), ()) as messages:
                    await anext(messages)
            with pytest.raises(InvalidRequest, match="key"):
                await connection.get([b"k" * (KEY_BYTES_MAX + 1)], at=None, consistency=LINEARIZABLE)
        await connection.aclose()

    stranger = GrpcConnector(cluster="another-cluster")
    with pytest.raises(WrongCluster, match="another-cluster"):
        connection = await stranger.connect(c.cluster.endpoint(leader))
        await connection.submit(_batch(pack_offer(1, Offer((Put(b"k", b""),)))))
    await stranger.aclose()

    async with connect(c.cluster.endpoints, cluster=c.cluster.cluster_id) as journal:
        with pytest.raises(OfferInvalid, match="value_bytes_max"):
            await journal.put(b"k", bytes(Limits().value_bytes_max + 1))
    compacted = 10
    connection = await connector.connect(c.cluster.endpoint(leader))
    await connection.compact(Revision(compacted))
    with pytest.raises(RevisionCompacted, match="compacted"):
        await connection.get([b"k"], at=Revision(compacted - 1), consistency=LINEARIZABLE)
    with pytest.raises(RevisionCompacted, match="compacted"):
        async with connection.tail(Revision(0), ()) as messages:
            await anext(messages)
    await connection.aclose()
    await connector.aclose()
    return compacted
