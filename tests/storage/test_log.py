"""The acceptor's records: what is written is recovered, and damage is never taken for absence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.errors import RecordDamaged
from journal.limits import Limits
from journal.paxos.effects import Effects
from journal.paxos.membership import Member, Membership
from journal.paxos.messages import AcceptedValue
from journal.storage import Storage
from journal.storage.leveldb import LevelDBStorage
from journal.storage.log import LogStore, membership_write
from journal.storage.memory import MemoryStorage
from journal.storage.records import ACCEPTED, PROMISED, number_key
from journal.types import Ballot, NodeId, Slot

FIRST = Membership(
    voters=(Member(NodeId(1), "h:1"), Member(NodeId(2), "h:2"), Member(NodeId(3), "h:3")), learners=()
)
SECOND = Membership(voters=FIRST.voters[:2], learners=FIRST.voters[2:])


@pytest.fixture(params=["memory", "leveldb"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    found: Storage = MemoryStorage() if request.param == "memory" else LevelDBStorage(tmp_path / "db")
    yield found
    found.close()


def value(slot: int, round_: int = 1, content: bytes | None = None) -> AcceptedValue:
    return AcceptedValue(
        Slot(slot), Ballot(round_, NodeId(2)), b"value %d" % slot if content is None else content
    )


async def test_an_empty_log_has_promised_nothing(storage: Storage) -> None:
    found = LogStore(storage, Limits()).recover(Slot(0), FIRST, 32)
    assert found == (Ballot.ZERO, (), ((Slot(1), FIRST),))


async def test_promise_and_values_are_recovered(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(
            Effects(
                promised=Ballot(3, NodeId(2)), accepted=[value(1), value(2), value(3), value(5, content=b"")]
            )
        ),
        sync=True,
    )
    await storage.write(log.writes_for(Effects(accepted=[value(3, round_=2)])), sync=True)
    found = log.recover(Slot(1), FIRST, 32)
    assert found.promised == Ballot(3, NodeId(2))
    assert found.accepted == (value(2), value(3, round_=2), value(5, content=b""))
    await storage.write(log.writes_for(Effects(promised=Ballot(2**40, NodeId(2**32 - 1)))), sync=True)
    assert log.recover(Slot(5), FIRST, 32).promised == Ballot(2**40, NodeId(2**32 - 1))
    assert log.recover(Slot(5), FIRST, 32).accepted == ()


async def test_nothing_to_persist_writes_nothing(storage: Storage) -> None:
    assert LogStore(storage, Limits()).writes_for(Effects()) == []


async def test_a_chosen_membership_rules_a_window_later(storage: Storage) -> None:
    await storage.write([membership_write(Slot(7), SECOND.pack())], sync=True)
    found = LogStore(storage, Limits()).recover(Slot(9), FIRST, 32)
    assert found.memberships == ((Slot(1), FIRST), (Slot(39), SECOND))


async def test_entries_are_read_in_one_piece_and_within_bounds(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    written = [value(slot) for slot in (1, 2, 3, 4, 6)]
    await storage.write(log.writes_for(Effects(accepted=written)), sync=True)
    assert log.read(Slot(1), Slot(9), 1 << 20) == written[:4]
    assert log.read(Slot(2), Slot(3), 1 << 20) == written[1:3]
    assert log.read(Slot(1), Slot(9), 1) == written[:1]
    assert log.read(Slot(1), Slot(9), 50) == written[:2]
    assert log.read(Slot(5), Slot(9), 1 << 20) == []
    assert log.read(Slot(7), Slot(9), 1 << 20) == []


@pytest.mark.parametrize("key", [PROMISED, number_key(ACCEPTED, 2)], ids=["promise", "value"])
async def test_a_damaged_record_stops_recovery_at_every_byte(storage: Storage, key: bytes) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(Effects(promised=Ballot(3, NodeId(2)), accepted=[value(1), value(2)])), sync=True
    )
    sealed = storage.get(key)
    assert sealed is not None
    for index in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[index] ^= 0x40
        await storage.write([(key, bytes(damaged))], sync=False)
        with pytest.raises(RecordDamaged):
            log.recover(Slot(0), FIRST, 32)
        if key != PROMISED:
            with pytest.raises(RecordDamaged):
                log.read(Slot(1), Slot(2), 1 << 20)


async def test_a_value_is_not_taken_for_that_of_another_slot(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    [(key, sealed)] = log.writes_for(Effects(accepted=[value(1)]))
    assert key == number_key(ACCEPTED, 1)
    await storage.write([(number_key(ACCEPTED, 2), sealed)], sync=True)
    with pytest.raises(RecordDamaged):
        log.recover(Slot(0), FIRST, 32)
