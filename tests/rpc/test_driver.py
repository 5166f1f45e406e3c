"""Both drivers of a node keep the same contract."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable

import pytest
import trio

from journal.driver import Driver, TrioDriver
from journal.errors import StorageFailed
from journal.rpc import bridge
from journal.rpc.driver import HostDriver
from journal.storage import Write
from journal.storage.memory import MemoryStorage

Case = Callable[[Driver], Awaitable[None]]
PATIENCE_S = 20.0


def by_trio(case: Case) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            await case(TrioDriver())

    trio.run(main)


def by_host(case: Case) -> None:
    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            await case(HostDriver(bridge.host().loop))

    bridge.run_guest(main)


@pytest.fixture(params=[by_trio, by_host], ids=["trio", "host"])
def drive(request: pytest.FixtureRequest) -> Callable[[Case], None]:
    run: Callable[[Case], None] = request.param
    return run


class Turns:
    """Counts the turns it is given; ``upto`` waits for them."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = trio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._changed.set()

    async def upto(self, count: int) -> None:
        while self.count < count:
            await self._changed.wait()
            self._changed = trio.Event()


class GatedStorage(MemoryStorage):
    """A disk whose writes wait until they are let through, wherever they are made."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Semaphore(0)
        """Each release lets one write through."""

    async def write(self, writes: Iterable[Write], *, sync: bool) -> None:
        await trio.to_thread.run_sync(self.gate.acquire)
        MemoryStorage.write_now(self, writes, sync=sync)

    def write_now(self, writes: Iterable[Write], *, sync: bool) -> None:
        self.gate.acquire()
        super().write_now(writes, sync=sync)


class FailingStorage(MemoryStorage):
    def write_now(self, writes: Iterable[Write], *, sync: bool) -> None:
        raise StorageFailed("sync failed: EIO")


async def failure(driver: Driver, turn: Callable[[], None]) -> BaseException | None:
    """Return what ``run`` raises, alone or as the only one of a group."""
    try:
        await driver.run(turn)
    except BaseExceptionGroup as group:
        (error,) = group.exceptions
        return error
    except Exception as error:
        return error
    return None


def test_a_wake_brings_a_turn_and_many_bring_one(drive: Callable[[Case], None]) -> None:
    async def case(driver: Driver) -> None:
        turns = Turns()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run, turns)
            driver.wake()
            await turns.upto(1)
            before = turns.count
            for _ in range(50):
                driver.wake()
            await turns.upto(before + 1)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert turns.count == before + 1
            nursery.cancel_scope.cancel()

    drive(case)


def test_a_turn_that_asks_for_another_gets_it(drive: Callable[[Case], None]) -> None:
    async def case(driver: Driver) -> None:
        turns = Turns()

        def turn() -> None:
            turns()
            if turns.count < 5:
                driver.wake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run, turn)
            driver.wake()
            await turns.upto(5)
            nursery.cancel_scope.cancel()

    drive(case)


def test_a_batch_is_stored_then_told_then_there_is_a_turn(drive: Callable[[Case], None]) -> None:
    async def case(driver: Driver) -> None:
        storage, turns, told = MemoryStorage(), Turns(), []

        def written() -> None:
            told.append((storage.get(b"key"), turns.count))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run, turns)
            driver.wake()
            await turns.upto(1)
            driver.write(storage, [(b"key", b"value")], sync=True, written=written)
            await turns.upto(2)
            assert told == [(b"value", 1)]
            assert storage.unsynced_batches == 0
            nursery.cancel_scope.cancel()

    drive(case)


def test_turns_go_on_while_the_disk_is_busy(drive: Callable[[Case], None]) -> None:
    async def case(driver: Driver) -> None:
        storage, turns, told = GatedStorage(), Turns(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run, turns)
            driver.wake()
            await turns.upto(1)
            driver.write(storage, [(b"key", b"value")], sync=True, written=told.set)
            for count in (2, 3):
                driver.wake()
                await turns.upto(count)
            assert not told.is_set()
            storage.gate.release()
            await told.wait()
            nursery.cancel_scope.cancel()

    drive(case)


def test_what_a_turn_raises_ends_the_run(drive: Callable[[Case], None]) -> None:
    async def case(driver: Driver) -> None:
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            driver.wake()
            raise StorageFailed("a record is damaged")

        driver.wake()
        assert isinstance(await failure(driver, turn), StorageFailed)
        assert turns == 1

    drive(case)


def test_a_batch_that_fails_ends_the_run_and_nobody_is_told(drive: Callable[[Case], None]) -> None:
    async def case(driver: Driver) -> None:
        told: list[int] = []
        turns = Turns()

        def turn() -> None:
            turns()
            if turns.count == 1:
                driver.write(FailingStorage(), [(b"key", b"")], sync=True, written=lambda: told.append(1))

        driver.wake()
        assert isinstance(await failure(driver, turn), StorageFailed)
        assert (told, turns.count) == ([], 1)

    drive(case)


def test_a_batch_under_way_at_the_end_is_stored_and_told(drive: Callable[[Case], None]) -> None:
    """Else a hole would be left below what is written last."""

    async def case(driver: Driver) -> None:
        storage, turns, told = GatedStorage(), Turns(), []
        ended = trio.Event()

        async with trio.open_nursery() as nursery:

            async def cancelled() -> None:
                with trio.CancelScope() as scope:
                    nursery.start_soon(cancel, scope)
                    await driver.run(turns)
                ended.set()

            async def cancel(scope: trio.CancelScope) -> None:
                await turns.upto(1)
                driver.write(
                    storage, [(b"key", b"value")], sync=True, written=lambda: told.append(storage.get(b"key"))
                )
                scope.cancel()
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
                assert not ended.is_set()
                storage.gate.release()

            driver.wake()
            nursery.start_soon(cancelled)
        assert told == [b"value"]

    drive(case)


def test_a_batch_begun_in_the_turn_after_another_is_waited_for_at_the_end(
    drive: Callable[[Case], None],
) -> None:
    async def case(driver: Driver) -> None:
        storage, turns, told = GatedStorage(), Turns(), []
        ended = trio.Event()

        def write(number: int) -> None:
            driver.write(storage, [(b"key", b"")], sync=True, written=lambda: told.append(number))

        def turn() -> None:
            turns()
            if turns.count <= 2:
                write(turns.count)

        async def let_through(scope: trio.CancelScope) -> None:
            await turns.upto(1)
            storage.gate.release()
            await turns.upto(2)  # the second batch is under way
            scope.cancel()
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            assert (told, ended.is_set()) == ([1], False)
            storage.gate.release()

        async with trio.open_nursery() as nursery:
            driver.wake()
            with trio.CancelScope() as scope:
                nursery.start_soon(let_through, scope)
                await driver.run(turn)
            ended.set()
        assert told == [1, 2]

    drive(case)
