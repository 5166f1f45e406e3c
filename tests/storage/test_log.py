"""The acceptor's records: what is written is recovered, and damage is never taken for absence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.checksum import crc32
from journal.entries import pack_membership
from journal.errors import RecordDamaged, VoteLost
from journal.limits import Limits
from journal.paxos.effects import Effects
from journal.paxos.membership import Member, Membership
from journal.paxos.messages import AcceptedValue, LostValue
from journal.storage import Storage, Write
from journal.storage.leveldb import LevelDBStorage
from journal.storage.log import LogStore, membership_writes
from journal.storage.memory import MemoryStorage
from journal.storage.records import (
    ACCEPTED,
    IDENTIFIER,
    MEMBERSHIP,
    MEMBERSHIP_AGAIN,
    PROMISED,
    PROMISED_AGAIN,
    number_key,
)
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
    assert found == (Ballot.ZERO, (), ((Slot(1), FIRST),), (), ())


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
    await storage.write(membership_writes(Slot(7), SECOND.pack()), sync=True)
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


async def test_a_value_with_any_byte_damaged_is_known_to_be_lost(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(Effects(promised=Ballot(3, NodeId(2)), accepted=[value(1), value(2), value(3)])),
        sync=True,
    )
    for damaged in every_byte_damaged(storage, number_key(ACCEPTED, 2)):
        await storage.write([damaged], sync=False)
        found = log.recover(Slot(0), FIRST, 32)
        assert found.accepted == (value(1), value(3)), "what follows is not dropped"
        assert found.lost == (LostValue(Slot(2), Ballot(1, NodeId(2))),)
        assert log.recover(Slot(2), FIRST, 32).lost == ()
        assert log.read(Slot(1), Slot(3), 1 << 20) == [value(1)]
        with pytest.raises(RecordDamaged):
            log.read(Slot(2), Slot(3), 1 << 20)


async def test_a_value_lost_without_a_trace_is_known_by_its_identifier(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(Effects(promised=Ballot(3, NodeId(2)), accepted=[value(1), value(2)])), sync=True
    )
    await storage.write([(number_key(ACCEPTED, 2), None)], sync=True)
    assert log.recover(Slot(0), FIRST, 32).lost == (LostValue(Slot(2), Ballot(1, NodeId(2))),)
    assert log.identifier(Slot(2)) == (Ballot(1, NodeId(2)), crc32(b"value 2"))


async def test_an_older_value_is_not_taken_for_a_newer_one(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    old = log.writes_for(Effects(promised=Ballot(1, NodeId(2)), accepted=[value(1)]))
    new = log.writes_for(Effects(promised=Ballot(2, NodeId(2)), accepted=[value(1, 2)]))
    await storage.write(old, sync=True)
    await storage.write(new, sync=True)
    await storage.write([write for write in old if write[0] == number_key(ACCEPTED, 1)], sync=True)
    assert log.recover(Slot(0), FIRST, 32).lost == (LostValue(Slot(1), Ballot(2, NodeId(2))),)


async def test_a_slot_with_nothing_readable_is_bounded_by_the_promise_of_then(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(Effects(promised=Ballot(3, NodeId(2)), accepted=[value(1), value(2)])), sync=True
    )
    for key in (number_key(ACCEPTED, 2), number_key(IDENTIFIER, 2)):
        await storage.write([next(every_byte_damaged(storage, key))], sync=True)
    found = log.recover(Slot(0), FIRST, 32)
    assert found.lost == (LostValue(Slot(2), Ballot(3, NodeId(2))),)
    # The bound is written down: what is promised later does not loosen it.
    await storage.write(found.mended, sync=True)
    await storage.write(log.writes_for(Effects(promised=Ballot(9, NodeId(1)))), sync=True)
    again = log.recover(Slot(0), FIRST, 32)
    assert (again.lost, again.mended) == (found.lost, ())
    # A new acceptance gives it a record again.
    await storage.write(log.writes_for(Effects(accepted=[value(2, 9)])), sync=True)
    assert log.recover(Slot(0), FIRST, 32).accepted == (value(1), value(2, 9))


async def test_a_damaged_identifier_is_made_again(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(Effects(promised=Ballot(3, NodeId(2)), accepted=[value(1), value(2)])), sync=True
    )
    whole = storage.get(number_key(IDENTIFIER, 2))
    for write in (*every_byte_damaged(storage, number_key(IDENTIFIER, 2)), (number_key(IDENTIFIER, 2), None)):
        await storage.write([write], sync=False)
        found = log.recover(Slot(0), FIRST, 32)
        assert (found.accepted, found.lost) == ((value(1), value(2)), ())
        await storage.write(found.mended, sync=False)
        assert storage.get(number_key(IDENTIFIER, 2)) == whole


@pytest.mark.parametrize("key", [PROMISED, PROMISED_AGAIN])
async def test_one_copy_of_the_promise_is_enough(storage: Storage, key: bytes) -> None:
    log = LogStore(storage, Limits())
    await storage.write(log.writes_for(Effects(promised=Ballot(2, NodeId(2)))), sync=True)
    older = storage.get(key)
    await storage.write(log.writes_for(Effects(promised=Ballot(3, NodeId(2)))), sync=True)
    for write in (*every_byte_damaged(storage, key), (key, None), (key, older)):
        await storage.write([write], sync=False)
        found = log.recover(Slot(0), FIRST, 32)
        assert found.promised == Ballot(3, NodeId(2))
        await storage.write(found.mended, sync=False)
        assert log.recover(Slot(0), FIRST, 32).mended == ()


@pytest.mark.parametrize("gone", [False, True], ids=["damaged", "gone"])
async def test_without_either_copy_of_its_promise_a_node_does_not_vote(storage: Storage, gone: bool) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(Effects(promised=Ballot(3, NodeId(2)), accepted=[value(1)])), sync=True
    )
    for key in (PROMISED, PROMISED_AGAIN):
        await storage.write([(key, None) if gone else next(every_byte_damaged(storage, key))], sync=True)
    with pytest.raises(VoteLost):
        log.recover(Slot(0), FIRST, 32)


@pytest.mark.parametrize("family", [MEMBERSHIP, MEMBERSHIP_AGAIN])
async def test_one_copy_of_a_membership_is_enough(storage: Storage, family: bytes) -> None:
    log, key = LogStore(storage, Limits()), number_key(family, 7)
    await storage.write(membership_writes(Slot(7), SECOND.pack()), sync=True)
    for write in ((key, None), next(every_byte_damaged(storage, key))):
        await storage.write([write], sync=True)
        found = log.recover(Slot(9), FIRST, 32)
        assert found.memberships == ((Slot(1), FIRST), (Slot(39), SECOND))
        assert found.mended == tuple(membership_writes(Slot(7), SECOND.pack()))


async def test_a_membership_damaged_twice_is_read_from_the_log(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    await storage.write(membership_writes(Slot(7), SECOND.pack()), sync=True)
    for family in (MEMBERSHIP, MEMBERSHIP_AGAIN):
        await storage.write([next(every_byte_damaged(storage, number_key(family, 7)))], sync=True)
    with pytest.raises(RecordDamaged):
        log.recover(Slot(9), FIRST, 32)
    entry = value(7, content=pack_membership(SECOND.pack()))
    await storage.write(log.writes_for(Effects(promised=Ballot(1, NodeId(2)), accepted=[entry])), sync=True)
    assert log.recover(Slot(9), FIRST, 32).memberships == ((Slot(1), FIRST), (Slot(39), SECOND))


async def test_a_value_is_not_taken_for_that_of_another_slot(storage: Storage) -> None:
    log = LogStore(storage, Limits())
    await storage.write(
        log.writes_for(Effects(promised=Ballot(1, NodeId(2)), accepted=[value(1), value(2)])), sync=True
    )
    one, two = storage.get(number_key(ACCEPTED, 1)), storage.get(number_key(ACCEPTED, 2))
    await storage.write([(number_key(ACCEPTED, 1), two), (number_key(ACCEPTED, 2), one)], sync=True)
    found = log.recover(Slot(0), FIRST, 32)
    assert found.accepted == ()
    assert [lost.slot for lost in found.lost] == [1, 2]


async def test_a_record_under_a_strange_key_stops_recovery(storage: Storage) -> None:
    await storage.write([(ACCEPTED + b"?", b"")], sync=True)
    with pytest.raises(RecordDamaged):
        LogStore(storage, Limits()).recover(Slot(0), FIRST, 32)


def every_byte_damaged(storage: Storage, key: bytes) -> Iterator[Write]:
    sealed = storage.get(key)
    assert sealed is not None
    for index in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[index] ^= 0x40
        yield key, bytes(damaged)
