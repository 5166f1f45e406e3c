"""Concurrent gets share calls, and nothing else: each has its own answer, error, time and end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
import trio.testing

from journal.client.gather import CALL_KEYS_MAX, CALLS_INFLIGHT_MAX, Gather
from journal.connection import LINEARIZABLE, LOCAL, Consistency, GetReply, at_least
from journal.errors import InvalidRequest, Unavailable
from journal.types import Revision
from journal.versions import Record

CALL_S = 1.0


class Node:
    """Answers each call after a second; what a key holds is when its call was sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, ...]] = []
        self.inflight = self.inflight_max = 0
        self.refused: set[bytes] = set()

    async def get_many(
        self, keys: Sequence[bytes], at: int | None, consistency: Consistency, timeout_s: float | None
    ) -> GetReply:
        assert at is None
        self.calls.append(tuple(keys))
        sent = trio.current_time()
        self.inflight += 1
        self.inflight_max = max(self.inflight_max, self.inflight)
        try:
            with trio.move_on_after(float("inf") if timeout_s is None else timeout_s) as scope:
                await trio.sleep(CALL_S)
            if scope.cancelled_caught:
                raise Unavailable("too slow")
        finally:
            self.inflight -= 1
        if refused := self.refused.intersection(keys):
            raise InvalidRequest("keys", f"{sorted(refused)} refused")
        revision = Revision(1)
        return GetReply(
            revision, [Record(revision, revision, 1, 0, b"%s at %.1f" % (key, sent)) for key in keys]
        )


class Readers:
    """Tasks that read, and what each got."""

    def __init__(self, node: Node, nursery: trio.Nursery) -> None:
        self.gather = Gather(node.get_many)
        self.nursery = nursery
        self.values: dict[bytes, bytes] = {}
        self.errors: dict[bytes, Exception] = {}
        self.ended: dict[bytes, float] = {}

    async def read(
        self, key: bytes, consistency: Consistency = LINEARIZABLE, timeout_s: float | None = None
    ) -> None:
        try:
            record = await self.gather.get(key, consistency, timeout_s)
        except Exception as error:
            self.errors[key] = error
        else:
            assert record is not None
            self.values[key] = record.value
        self.ended[key] = trio.current_time()

    async def start(self, *keys: bytes, timeout_s: float | None = None) -> None:
        """Let readers begin one after the other."""
        for key in keys:
            self.nursery.start_soon(self.read, key, LINEARIZABLE, timeout_s)
            await trio.testing.wait_all_tasks_blocked()


def names(count: int, prefix: str = "k") -> list[bytes]:
    return [b"%s%d" % (prefix.encode(), n) for n in range(count)]


async def test_gets_that_wait_go_together_and_each_gets_its_own_record(autojump_clock: object) -> None:
    node, count = Node(), 3 * CALL_KEYS_MAX
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        readers = Readers(node, nursery)
        await readers.start(*names(count))
    assert {key: value.split()[0] for key, value in readers.values.items()} == {
        key: key for key in names(count)
    }
    assert sorted(key for call in node.calls for key in call) == sorted(names(count))
    assert len(node.calls) <= 2 * CALLS_INFLIGHT_MAX
    assert max(len(call) for call in node.calls) <= CALL_KEYS_MAX
    assert node.inflight_max == CALLS_INFLIGHT_MAX
    assert trio.current_time() - began <= 2 * CALL_S + 0.1


async def test_a_get_never_rides_in_a_call_that_was_sent_before_it(autojump_clock: object) -> None:
    """Else it would miss an offer that was answered in between."""
    node = Node()
    async with trio.open_nursery() as nursery:
        readers = Readers(node, nursery)
        began = trio.current_time()
        for key in names(40):
            nursery.start_soon(readers.read, key)
            await trio.sleep(0.13)
    for number, key in enumerate(names(40)):
        assert float(readers.values[key].split()[-1]) >= round(began + 0.13 * number) - 0.5


async def test_one_consistency_does_not_answer_for_another(autojump_clock: object) -> None:
    node = Node()
    async with trio.open_nursery() as nursery:
        readers = Readers(node, nursery)
        await readers.start(*names(CALLS_INFLIGHT_MAX + 1))
        nursery.start_soon(readers.read, b"local", LOCAL)
        nursery.start_soon(readers.read, b"later", at_least(7))
        await trio.testing.wait_all_tasks_blocked()
        assert (b"local",) in node.calls and (b"later",) in node.calls


async def test_an_error_is_only_for_those_who_caused_it(autojump_clock: object) -> None:
    node = Node()
    node.refused = {b"w3"}
    async with trio.open_nursery() as nursery:
        readers = Readers(node, nursery)
        await readers.start(*names(CALLS_INFLIGHT_MAX), *names(8, "w"))
    assert list(readers.errors) == [b"w3"]
    assert isinstance(readers.errors[b"w3"], InvalidRequest)
    assert len(readers.values) == CALLS_INFLIGHT_MAX + 7


async def test_a_carrier_without_time_left_takes_none_from_the_others(autojump_clock: object) -> None:
    node = Node()
    async with trio.open_nursery() as nursery:
        readers = Readers(node, nursery)
        await readers.start(*names(CALLS_INFLIGHT_MAX))
        await readers.start(b"short", timeout_s=1.5)
        await readers.start(b"long", timeout_s=10.0)
        await readers.start(b"shortest", timeout_s=0.5)
        began = trio.current_time()
    assert isinstance(readers.errors[b"short"], Unavailable)
    assert isinstance(readers.errors[b"shortest"], Unavailable)
    assert readers.ended[b"shortest"] - began == pytest.approx(0.5, abs=0.1)
    assert readers.ended[b"short"] - began == pytest.approx(1.5, abs=0.1)
    assert b"long" in readers.values


async def test_whoever_is_cancelled_leaves_nobody_waiting(autojump_clock: object) -> None:
    node = Node()
    async with trio.open_nursery() as nursery:
        readers = Readers(node, nursery)
        scopes: list[trio.CancelScope] = []

        async def cancellable(key: bytes) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await readers.read(key)

        for key in names(CALLS_INFLIGHT_MAX + 6):  # carriers, the next carrier, and those it will carry
            nursery.start_soon(cancellable, key)
            await trio.testing.wait_all_tasks_blocked()
        await readers.start(*names(10, "stays"))
        for scope in scopes[::2]:
            scope.cancel()
        await trio.sleep(1.2 * CALL_S)  # one of them carries the others now
        for scope in scopes:
            scope.cancel()
    assert len([key for key in readers.values if key.startswith(b"stays")]) == 10
    assert not readers.errors
    began = trio.current_time()
    assert (
        await readers.gather.get(b"again", LINEARIZABLE, None) is not None
    )  # no call is thought to be on its way
    assert trio.current_time() - began == pytest.approx(CALL_S)
    assert [(lane.calls, list(lane.waiting)) for lane in readers.gather._lanes.values()] == [(0, []), (0, [])]
