"""The transport between nodes: delivery, reconnection, refusals, bounds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import trio
import trio.testing

from journal.errors import Disowned, JournalError, WrongCluster
from journal.node import Node
from journal.paxos.messages import Accept, AcceptedValue, Envelope, Heartbeat, Learn, Promise
from journal.rpc import bridge, methods, peers, pulse
from journal.rpc.channels import channel_options
from journal.rpc.codec import pack_message
from journal.rpc.pb import paxos_pb2 as px
from journal.rpc.peers import GrpcTransport
from journal.rpc.server import Server
from journal.types import Ballot, NodeId, Slot
from tests.rpc.harness import CLUSTER, DIRECT, FakeNode, Log, guest, make_transport, until

BALLOT = Ballot(3, NodeId(1))

_direct_listen = ""


@pytest.fixture(params=["", DIRECT], ids=["stream", "direct"], autouse=True)
def _way(request: pytest.FixtureRequest) -> None:
    """All that is tested here holds by gRPC's stream and by the direct port."""
    global _direct_listen
    _direct_listen = request.param


class Peer:
    """A transport behind a server, and what it was sent."""

    def __init__(
        self, node: int, listen: str = "127.0.0.1:0", direct: bool | None = None, **options: Any
    ) -> None:
        """``direct``: whether it has a direct port. None: what the test is run with."""
        self.log = Log()
        self.transport = make_transport(node, log=self.log, **options)
        self.server = Server(
            cast(Node, FakeNode()),
            self.transport,
            listen=listen,
            log=self.log.logger,
            direct_listen=_direct_listen if direct is None else DIRECT * direct,
        )
        self.got: list[Envelope] = []
        self.hung_up: list[NodeId] = []
        self.transport.start(self.got.append, self.hung_up.append)

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    async def start(self) -> Peer:
        await bridge.host().run(self.server.start)
        return self

    async def stop(self) -> None:
        with trio.CancelScope(shield=True):
            await bridge.host().run(self.server.aclose)


@contextlib.asynccontextmanager
async def peer(node: int, **options: Any) -> AsyncIterator[Peer]:
    found = await Peer(node, **options).start()
    try:
        yield found
    finally:
        await found.stop()


def send(transport: GrpcTransport, to: int, *messages: Any) -> None:
    transport.send([Envelope(NodeId(1), NodeId(to), message) for message in messages])


def learn(number: int) -> Learn:
    return Learn(Slot(number), Slot(number))


@guest
async def test_messages_arrive_in_order_and_to_whom_they_are_for() -> None:
    async with peer(1) as one, peer(2) as two, peer(3) as three:
        one.transport.set_peers({NodeId(2): two.endpoint, NodeId(3): three.endpoint})
        for number in range(100):
            send(one.transport, 2, learn(number))
        send(one.transport, 3, Heartbeat(BALLOT, Slot(1), 2))
        send(one.transport, 9, learn(1))  # nobody: lost
        await until(lambda: len(two.got) == 100 and three.got)
        assert two.got == [Envelope(NodeId(1), NodeId(2), learn(number)) for number in range(100)]
        assert three.got == [Envelope(NodeId(1), NodeId(3), Heartbeat(BALLOT, Slot(1), 2))]


@guest
async def test_both_directions_at_once() -> None:
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        two.transport.set_peers({NodeId(1): one.endpoint})
        send(one.transport, 2, learn(1))
        two.transport.send([Envelope(NodeId(2), NodeId(1), learn(2))])
        await until(lambda: one.got and two.got)
        assert one.got[0].sender == 2 and two.got[0].sender == 1


@guest
async def test_news_that_nobody_waits_for_rides_with_the_next_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parcels: list[int] = []
    deliver_parcel = GrpcTransport._deliver_parcel

    def count(self: GrpcTransport, sender: NodeId, parcel: px.Parcel) -> None:
        if parcel.envelopes:
            parcels.append(len(parcel.envelopes))
        deliver_parcel(self, sender, parcel)

    monkeypatch.setattr(GrpcTransport, "_deliver_parcel", count)
    monkeypatch.setattr(peers, "_NEWS_DELAY_S", 60.0)
    monkeypatch.setattr(pulse, "PING_INTERVAL_S", 600.0)  # no ping comes to the news' help
    news, probe = Heartbeat(BALLOT, Slot(1), 0), Heartbeat(BALLOT, Slot(1), 7)
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        send(one.transport, 2, news)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not two.got
        send(one.transport, 2, probe)
        await until(lambda: two.got)
        assert [envelope.message for envelope in two.got] == [news, probe]
        monkeypatch.setattr(peers, "_NEWS_DELAY_S", 0.001)
        send(one.transport, 2, news)  # alone, and still not lost
        await until(lambda: len(two.got) == 3)
    assert parcels == [2, 1]


@guest
async def test_news_that_an_accept_brings_as_well_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_NEWS_DELAY_S", 60.0)
    other, probe = Ballot(2, NodeId(2)), Heartbeat(BALLOT, Slot(1), 7)
    accept = Accept(BALLOT, Slot(9), b"value", Slot(5))
    kept = [Heartbeat(other, Slot(5), 0), Heartbeat(BALLOT, Slot(6), 0), probe, learn(1)]
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        send(one.transport, 2, Heartbeat(BALLOT, Slot(5), 0), accept)
        await until(lambda: two.got)
        assert [envelope.message for envelope in two.got] == [accept]
        for earlier in kept:
            two.got.clear()
            send(one.transport, 2, earlier, accept)
            await until(lambda: len(two.got) == 2)
            assert [envelope.message for envelope in two.got] == [earlier, accept]


@guest
async def test_news_that_had_no_company_is_not_waited_with_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_NEWS_DELAY_S", 0.001)
    monkeypatch.setattr(pulse, "PING_INTERVAL_S", 600.0)
    news, probe = Heartbeat(BALLOT, Slot(1), 0), Heartbeat(BALLOT, Slot(1), 7)
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        send(one.transport, 2, news)
        await until(lambda: len(two.got) == 1)
        monkeypatch.setattr(peers, "_NEWS_DELAY_S", 60.0)
        send(one.transport, 2, news)  # at once
        await until(lambda: len(two.got) == 2)
        send(one.transport, 2, probe)  # soon after that: the news would have had company
        await until(lambda: len(two.got) == 3)
        send(one.transport, 2, news)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(two.got) == 3, "it waits again"


@guest
async def test_who_goes_has_hung_up_and_who_comes_again_has_not() -> None:
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        send(one.transport, 2, learn(1))
        await until(lambda: two.got)
        assert two.hung_up == []
        one.transport.set_peers({})
        await until(lambda: two.hung_up == [1])


@guest
async def test_large_messages_travel_in_parts() -> None:
    """A Promise for a full window is far above what one gRPC message may be."""
    async with peer(1, queue=64 << 20) as one, peer(2, queue=64 << 20) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        accepted = tuple(AcceptedValue(Slot(slot), BALLOT, bytes([slot]) * 2_000_000) for slot in range(1, 9))
        await until(lambda: one.log.named("peer.connected"))
        large = Promise(BALLOT, Slot(1), Slot(0), accepted)
        sent = [learn(1), large, learn(2), large]
        send(one.transport, 2, *sent)
        await until(lambda: len(two.got) == 4)
        assert [envelope.message for envelope in two.got] == sent


@guest
async def test_one_message_over_the_whole_queue_still_gets_through() -> None:
    async with peer(1, queue=1000) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        accept = Accept(BALLOT, Slot(1), bytes(100_000), Slot(0))
        send(one.transport, 2, accept)
        await until(lambda: two.got)
        assert two.got[0].message == accept


@guest
async def test_a_full_queue_drops_and_says_so_once() -> None:
    async with peer(1, queue=10_000) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        send(one.transport, 2, *(learn(number) for number in range(1000)))  # no chance to write between
        assert len(one.log.named("peer.queue_full")) == 1
        await until(lambda: two.got)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert 50 < len(two.got) < 200
        assert [envelope.message for envelope in two.got] == [learn(number) for number in range(len(two.got))]
        send(one.transport, 2, learn(7777))  # and goes on
        await until(lambda: two.got[-1].message == learn(7777))


@guest
async def test_while_a_peer_is_away_only_the_latest_are_kept() -> None:
    async with peer(1) as one:
        two = Peer(2)
        await two.start()
        endpoint = two.endpoint
        await two.stop()
        one.transport.set_peers({NodeId(2): endpoint})
        value = bytes(100_000)
        for number in range(1, 101):
            send(one.transport, 2, Accept(BALLOT, Slot(number), value, Slot(0)))
        back = Peer(2, listen=endpoint)
        await back.start()
        try:
            await until(lambda: len(back.got) == 10)
            await trio.testing.wait_all_tasks_blocked(0.05)
            slots = [cast(Accept, envelope.message).slot for envelope in back.got]
            assert slots == list(range(91, 101))
        finally:
            await back.stop()


@guest
async def test_a_restarted_peer_is_reached_again_within_a_second() -> None:
    async with peer(1) as one:
        two = await Peer(2).start()
        endpoint = two.endpoint
        one.transport.set_peers({NodeId(2): endpoint})
        for _ in range(3):
            await until(lambda: one.transport._links[NodeId(2)]._connected)
            await two.stop()
            await until(lambda: not one.transport._links[NodeId(2)]._connected)
            await trio.sleep(0.3)  # long enough that a backoff has begun to grow
            two = await Peer(2, listen=endpoint).start()
            with trio.fail_after(1):
                send(one.transport, 2, learn(1))
                await until(lambda two=two: two.got)  # type: ignore[misc]
        await two.stop()
        await until(lambda: len(one.log.named("peer.lost")) == 4)


def test_no_backoff_is_long() -> None:
    """gRPC's own grows to two minutes, and the test above is too short to see that."""
    options = dict(channel_options())
    assert int(options["grpc.max_reconnect_backoff_ms"]) <= 500
    assert int(options["grpc.min_reconnect_backoff_ms"]) <= 1_000


@pytest.mark.parametrize(
    ("options", "node", "reason"),
    [
        ({"cluster": "another"}, 2, "cluster here is another, but the caller expects 'test-cluster'"),
        ({}, 3, "node here is 3, but the caller expects '2'"),
        ({"window": 16}, 2, "window_slots_max here is 16, but the caller expects '32'"),
    ],
    ids=["cluster", "receiver", "window"],
)
def test_a_peer_that_does_not_fit_is_refused_and_logged_once(
    options: dict[str, Any], node: int, reason: str
) -> None:
    @guest
    async def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(peers, "_REFUSED_RETRY_S", 0.01)  # else nothing could repeat within the test
            async with peer(1) as one, peer(node, **options) as other:
                calls = []
                check = other.transport.check

                def counted(metadata: Any) -> NodeId:
                    calls.append(1)
                    return check(metadata)

                other.transport.check = counted  # type: ignore[method-assign]
                one.transport.set_peers({NodeId(2): other.endpoint})
                send(one.transport, 2, learn(1))
                await until(lambda: len(calls) > 3)
                assert len(one.log.named("peer.refused")) == 1, one.log.entries
                (refused,) = one.log.named("peer.refused")
                assert reason in refused["reason"]
                assert other.got == []

    run()


def test_a_refusal_is_not_asked_about_again_at_full_speed() -> None:
    assert peers._REFUSED_RETRY_S >= 1


@guest
async def test_a_peer_that_fits_at_last_is_taken() -> None:
    """Such as a node that was started with a wrong cluster id, and then with the right one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "_REFUSED_RETRY_S", 0.05)
        async with peer(1) as one:
            wrong = await Peer(2, cluster="another").start()
            one.transport.set_peers({NodeId(2): wrong.endpoint})
            await until(lambda: one.log.named("peer.refused"))
            await wrong.stop()
            right = await Peer(2, listen=wrong.endpoint).start()
            try:
                await until(lambda: one.log.named("peer.connected"))
                send(one.transport, 2, learn(5))
                await until(lambda: right.got)
            finally:
                await right.stop()


@pytest.mark.parametrize("sender", ["0", "2", "-1", "x", "", "4294967296", "٣"])
def test_a_sender_must_be_another_node(sender: str) -> None:
    transport = make_transport(2)
    metadata = {
        methods.MD_PROTOCOL: methods.PEER_PROTOCOL,
        methods.MD_CLUSTER: CLUSTER,
        methods.MD_RECEIVER: "2",
        methods.MD_WINDOW: "32",
        methods.MD_SENDER: sender,
    }
    with pytest.raises(WrongCluster):
        transport.check(metadata)
    assert transport.check({**metadata, methods.MD_SENDER: "1"}) == 1


@guest
async def test_peers_come_and_go_with_the_membership() -> None:
    async with peer(1) as one, peer(2) as two, peer(2) as moved:
        one.transport.set_peers({NodeId(1): one.endpoint, NodeId(2): two.endpoint})
        send(one.transport, 2, learn(1))
        await until(lambda: two.got)
        one.transport.set_peers({NodeId(2): moved.endpoint})
        send(one.transport, 2, learn(2))
        await until(lambda: moved.got)
        assert len(two.got) == 1
        one.transport.set_peers({})
        send(one.transport, 2, learn(3))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(moved.got) == 1


def raw_stream(target: Peer, sender: int = 1) -> Any:
    """Open a peer's stream by hand."""
    channel = grpc.aio.insecure_channel(target.endpoint, options=channel_options())
    metadata = (
        (methods.MD_PROTOCOL, methods.PEER_PROTOCOL),
        (methods.MD_CLUSTER, CLUSTER),
        (methods.MD_SENDER, str(sender)),
        (methods.MD_RECEIVER, "2"),
        (methods.MD_WINDOW, "32"),
    )
    return channel, channel.stream_stream(methods.EXCHANGE.path)(metadata=metadata)


async def _status_after(target: Peer, *parcels: bytes) -> tuple[grpc.StatusCode, str]:
    channel, call = raw_stream(target)
    try:
        for parcel in parcels:
            await call.write(parcel)
        return await call.code(), await call.details()
    finally:
        await channel.close()


@guest
async def test_what_no_correct_node_sends_harms_nobody() -> None:
    async with peer(2, queue=1000) as two:
        run = bridge.host().run
        broken = px.Parcel(part=b"\xff\xff", more=False).SerializeToString()
        code, details = await run(_status_after, two, broken)
        assert code is grpc.StatusCode.FAILED_PRECONDITION and "does not decode" in details
        endless = px.Parcel(part=bytes(3000), more=True).SerializeToString()
        code, details = await run(_status_after, two, endless, endless)
        assert code is grpc.StatusCode.FAILED_PRECONDITION and "over 4000 bytes" in details

        async def send_unknown_and_known() -> None:
            channel, call = raw_stream(two)
            known = px.Envelope(learn=px.Learn(first=1, last=1))
            await call.write(px.Parcel(envelopes=[px.Envelope(), known]).SerializeToString())
            await until_delivered()
            await channel.close()

        delivered = bridge.host().loop.create_future()

        async def until_delivered() -> None:
            await delivered

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, send_unknown_and_known)
            await until(lambda: two.got)
            delivered.set_result(None)
        assert two.got[0].message == learn(1)
        assert len(two.log.named("peer.violation")) == 1
        assert two.log.named("rpc.bug") == []


@guest
async def test_a_newer_stream_of_the_same_peer_ends_the_older_one() -> None:
    """The older one may be half dead: a connection whose other end is gone without a word."""
    async with peer(2) as two:

        async def replace() -> tuple[grpc.StatusCode, str]:
            old_channel, old = raw_stream(two)
            await old.initial_metadata()
            new_channel, new = raw_stream(two)
            await new.initial_metadata()
            ended = await old.code(), await old.details()
            assert not new.done()
            await old_channel.close()
            await new_channel.close()
            return ended

        code, details = await bridge.host().run(replace)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "newer stream" in details


@guest
async def test_stopping_is_quick_on_both_sides() -> None:
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        two.transport.set_peers({NodeId(1): one.endpoint})
        await until(lambda: one.log.named("peer.connected") and two.log.named("peer.connected"))
        began = trio.current_time()
        await one.stop()
        assert trio.current_time() - began < 0.5


# -- incarnations ---------------------------------------------------------------------------


class Known:
    """A registry that admits when the test lets it, and refuses whom the test names."""

    def __init__(self, incarnation: bytes = b"11111111") -> None:
        self.incarnation = incarnation
        self.asked: list[tuple[int, bytes]] = []
        self.replies: list[Callable[[NodeId | JournalError], None]] = []
        self.disowned: set[int] = set()
        self.refused: list[tuple[int, JournalError | None]] = []
        self.at_once = True
        self.member_endpoint = ""

    def admit_peer(
        self, peer: NodeId, incarnation: bytes, reply: Callable[[NodeId | JournalError], None]
    ) -> None:
        self.asked.append((peer, incarnation))
        if peer in self.disowned:
            raise Disowned(f"node {peer} lost its folder")
        if self.at_once:
            reply(peer)
        else:
            self.replies.append(reply)

    def peer_refused(self, peer: NodeId, error: JournalError | None) -> None:
        self.refused.append((peer, error))


@contextlib.asynccontextmanager
async def known_pair() -> AsyncIterator[tuple[Peer, Known, Peer, Known]]:
    async with peer(1) as one, peer(2) as two:
        registries = Known(b"11111111"), Known(b"22222222")
        one.transport.identify(registries[0])
        two.transport.identify(registries[1])
        yield one, registries[0], two, registries[1]


@guest
async def test_each_side_tells_its_incarnation_and_waits_until_it_is_admitted() -> None:
    async with known_pair() as (one, first, two, second):
        first.at_once = second.at_once = False
        one.transport.set_peers({NodeId(2): two.endpoint})
        send(one.transport, 2, learn(1))
        await until(lambda: second.replies)
        assert second.asked == [(1, b"11111111")]
        assert first.asked == []
        second.replies.pop()(NodeId(1))
        await until(lambda: first.replies)
        assert first.asked == [(2, b"22222222")]
        assert not one.log.named("peer.connected")
        first.replies.pop()(NodeId(2))
        await until(lambda: two.got)
        assert first.refused == [(2, None)]


@guest
async def test_a_sender_with_another_incarnation_is_refused_and_told_so() -> None:
    async with known_pair() as (one, first, two, second):
        second.disowned = {1}
        one.transport.set_peers({NodeId(2): two.endpoint})
        send(one.transport, 2, learn(1))
        await until(lambda: first.refused)
        [(by, error)] = first.refused
        assert by == 2 and type(error) is Disowned and str(error) == "node 1 lost its folder"
        (logged,) = one.log.named("peer.refused")
        assert "node 1 lost its folder" in logged["reason"]
        assert two.got == []


@guest
async def test_nothing_is_sent_to_a_receiver_with_another_incarnation() -> None:
    async with known_pair() as (one, first, two, _second):
        first.disowned = {2}
        one.transport.set_peers({NodeId(2): two.endpoint})
        send(one.transport, 2, learn(1))
        await until(lambda: one.log.named("peer.refused"))
        assert first.refused == [], "it is not this node that was refused"
        assert two.got == []


@guest
@pytest.mark.parametrize("told", [None, "", "11", "no hex", "11" * 9])
async def test_a_stream_without_an_incarnation_is_refused(told: str | None) -> None:
    transport = make_transport(2)
    transport.identify(Known())
    with pytest.raises(WrongCluster, match="synod-incarnation must be 8 bytes in hex"):
        await transport.admit(NodeId(1), {} if told is None else {methods.MD_INCARNATION: told})


@guest
async def test_who_becomes_a_member_opens_a_new_stream_to_be_recorded() -> None:
    async with known_pair() as (one, _first, two, second):
        two.transport.set_peers({})
        one.transport.set_peers({NodeId(2): two.endpoint})
        await until(lambda: one.log.named("peer.connected"))
        two.transport.set_peers({NodeId(1): one.endpoint})
        await until(lambda: [peer for peer, _incarnation in second.asked].count(1) == 2)
        two.transport.set_peers({})
        await until(lambda: second.asked.count((1, b"11111111")) > 2)


@guest
async def test_who_calls_is_answered_though_it_is_no_member_that_is_known() -> None:
    """A node that was away while all others were replaced knows none of those that lead now."""
    async with known_pair() as (one, first, two, _second):
        first.member_endpoint = one.endpoint
        two.transport.set_peers({})
        one.transport.set_peers({NodeId(2): two.endpoint})
        send(one.transport, 2, learn(1))
        await until(lambda: two.got)
        two.transport.send([Envelope(NodeId(2), NodeId(1), learn(7))])
        await until(lambda: one.got == [Envelope(NodeId(2), NodeId(1), learn(7))])
        one.transport.set_peers({})  # it calls no more
        await until(lambda: not two.transport.links())


@guest
async def test_who_does_not_say_where_it_is_reached_is_not_answered() -> None:
    async with known_pair() as (one, first, two, _second):
        first.member_endpoint = "nowhere"
        two.transport.set_peers({})
        one.transport.set_peers({NodeId(2): two.endpoint})
        send(one.transport, 2, learn(1))
        await until(lambda: two.got)
        assert not two.transport.links()


@guest
async def test_a_message_to_all_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[object] = []

    def counted(message: Any) -> px.Envelope:
        packed.append(message)
        return pack_message(message)

    monkeypatch.setattr("journal.rpc.peers.pack_message", counted)
    async with peer(1) as sender, peer(2) as second, peer(3) as third:
        sender.transport.set_peers({NodeId(2): second.endpoint, NodeId(3): third.endpoint})
        sent = [Accept(BALLOT, Slot(slot), bytes([slot]) * 300, Slot(0)) for slot in range(1, 4)]
        for message in sent:
            sender.transport.send([Envelope(NodeId(1), to, message) for to in (NodeId(2), NodeId(3))])
        await until(lambda: len(second.got) == len(third.got) == 3)
        assert [envelope.message for envelope in second.got] == sent
        assert [envelope.message for envelope in third.got] == sent
        assert packed == sent


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16_383, 16_384, 2**21, 2**32])
def test_lengths_are_written_as_protobuf_reads_them(number: int) -> None:
    parcel = px.Parcel(ping=number).SerializeToString()
    assert parcel[1:] == (peers._varint(number) if number else b"")
