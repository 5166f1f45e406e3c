"""The benchmark's histories: what is put, under which identity."""

from __future__ import annotations

import random
from typing import Any, cast

import msgpack
import trio

from journal.connection import Connection
from scripts.bench import fill


class Taker:
    """A connection that accepts every second offer."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    async def submit(self, data: bytes) -> list[int | None]:
        await trio.lowlevel.checkpoint()
        batch = msgpack.unpackb(data)
        self.batches.append(batch)
        return [number if number % 2 else None for number, _offer in enumerate(batch[3])]


async def test_each_worker_goes_on_with_its_own_sequences_and_shares_the_keys() -> None:
    taker = Taker()
    puts = fill.Puts(cast("Connection", taker), fill.in_turn(1_000), b"value", base=7)
    for worker in (0, 1, 0):
        assert await puts.round(worker) == (fill.MESSAGE_OFFERS // 2, fill.MESSAGE_OFFERS // 2)
    first, other, second = taker.batches
    assert first[0] == second[0] != other[0]
    assert [batch[1:3] for batch in taker.batches] == [[0, 7], [0, 7], [fill.MESSAGE_OFFERS, 7]]
    keys = [offer[6][0][1] for batch in taker.batches for offer in batch[3]]
    assert len(set(keys)) == 3 * fill.MESSAGE_OFFERS


def test_random_keys_are_of_those_that_were_filled() -> None:
    there = {fill.key(number) for number in range(50)}
    found = fill.at_random(50, random.Random(1))
    assert {next(found) for _ in range(2_000)} == there
