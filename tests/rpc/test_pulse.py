"""Pings: who is heard, and whether words come back."""

from __future__ import annotations

import pytest

from journal.rpc import pulse
from journal.rpc.pb import paxos_pb2 as px
from journal.rpc.pulse import PING_INTERVAL_S, PONG_PATIENCE_S, Pulse
from journal.types import NodeId
from tests.rpc.harness import guest, until
from tests.rpc.test_peers import peer


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(pulse, "time", fake)
    return fake


def test_a_ping_goes_out_each_second_and_its_pong_tells_the_round_trip(clock: FakeTime) -> None:
    here, there = Pulse(), Pulse()
    assert here.due and here.heard_ago_s is None and here.round_trip_s is None
    ping = px.Parcel()
    here.stamp(ping)
    assert ping.ping and not ping.pong and not here.due
    assert here.next_in_s == pytest.approx(PING_INTERVAL_S)
    clock.now += 0.010
    there.stamp(px.Parcel())  # its own ping
    assert there.heard(ping), "to be answered"
    assert there.due
    pong = px.Parcel()
    there.stamp(pong)
    assert pong.pong == ping.ping and not there.due, "once"
    clock.now += 0.010
    assert not here.heard(pong), "a pong is not answered"
    assert here.round_trip_s == pytest.approx(0.020)
    assert here.round_trips.count == 1
    clock.now += PING_INTERVAL_S
    assert here.due


def test_who_does_not_answer_any_more_has_no_round_trip(clock: FakeTime) -> None:
    here = Pulse()
    parcel = px.Parcel()
    here.stamp(parcel)
    here.heard(px.Parcel(pong=parcel.ping))
    clock.now += PONG_PATIENCE_S + 0.1
    here.heard(px.Parcel())
    assert here.round_trip_s is None, "it is heard, but does not hear"
    assert here.heard_ago_s == 0
    clock.now += 5
    assert here.heard_ago_s == pytest.approx(5)


def test_a_pong_that_waited_for_a_new_stream_is_not_sent(clock: FakeTime) -> None:
    here = Pulse()
    here.stamp(px.Parcel())
    here.heard(px.Parcel(ping=7))
    here.lost()
    parcel = px.Parcel()
    here.stamp(parcel)
    assert not parcel.pong and parcel.ping, "and a ping goes out at once"


@guest
async def test_links_say_how_they_are() -> None:
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint, NodeId(3): "127.0.0.1:1"})
        two.transport.set_peers({NodeId(1): one.endpoint})
        await until(lambda: one.transport.links()[NodeId(2)].round_trip_s is not None)
        await until(lambda: two.transport.links()[NodeId(1)].round_trip_s is not None)
        good, bad = one.transport.links()[NodeId(2)], one.transport.links()[NodeId(3)]
        assert good.connected and good.why == "" and good.heard_ago_s is not None
        assert good.round_trip_s is not None and 0 < good.round_trip_s < 5
        assert not bad.connected and bad.why and bad.heard_ago_s is None and bad.round_trip_s is None
        assert one.got == [] and two.got == [], "the node hears nothing of pings"


@guest
async def test_one_way_links_are_told_from_whole_ones() -> None:
    async with peer(1) as one, peer(2) as two:
        one.transport.set_peers({NodeId(2): two.endpoint})
        two.transport.set_peers({NodeId(1): "127.0.0.1:1"})
        await until(lambda: one.transport.links()[NodeId(2)].connected)
        await until(lambda: two.transport.links()[NodeId(1)].heard_ago_s is not None)
        there, back = one.transport.links()[NodeId(2)], two.transport.links()[NodeId(1)]
        assert there.connected and there.round_trip_s is None and there.heard_ago_s is None
        assert not back.connected and back.heard_ago_s is not None
