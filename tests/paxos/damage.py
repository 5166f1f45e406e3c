"""Disks that damage what is on them: the harness's disk over the real log store and its records.

Each record is what production writes, in memory storage; ``Spoiler`` flips bits of them, loses
them, or swaps two. What a restart makes of it is ``LogStore.recover``, as in production.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from journal.errors import RecordDamaged
from journal.limits import Limits
from journal.paxos import Effects, Membership, Recovered
from journal.paxos.messages import AcceptedValue, Envelope, Message, Shown
from journal.repair import LogRepair
from journal.storage.log import LogStore
from journal.storage.memory import MemoryStorage
from journal.storage.records import ACCEPTED, IDENTIFIER, PROMISED, PROMISED_AGAIN, family_end, number_key
from journal.types import NodeId, Slot
from tests.paxos.harness import Disk, Host
from tests.paxos.storm import Storm

PARTNERS = {ACCEPTED: IDENTIFIER, IDENTIFIER: ACCEPTED, PROMISED: PROMISED_AGAIN, PROMISED_AGAIN: PROMISED}


class RecordDisk(Disk):
    """Keeps real records. The fields of ``Disk`` stay what was written: what the checker compares with."""

    def __init__(self, first_membership: Membership) -> None:
        super().__init__(first_membership)
        self.storage = MemoryStorage()
        self.log = LogStore(self.storage, Limits())
        self.damaged: set[Slot] = set()
        """Chosen slots that a read found damaged."""
        self.repair: LogRepair | None = None

    def recovered(self, window: int) -> Recovered:
        """Raises ``VoteLost``."""
        memberships = super().recovered(window).memberships  # a record of the fold's: not of interest here
        found = self.log.recover(self.applied, self.first_membership, window)
        if found.mended:
            self.storage.write_now(list(found.mended), sync=True)
        return Recovered(found.promised, self.applied, found.accepted, memberships, found.lost)

    def persist(self, effects: Effects) -> None:
        super().persist(effects)
        self.storage.write_now(self.log.writes_for(effects), sync=True)

    def read(self, first: Slot, last: Slot) -> tuple[AcceptedValue, ...]:
        found: tuple[AcceptedValue, ...] = ()
        try:
            found = tuple(self.log.read(first, last, 1 << 30))
        except RecordDamaged:
            pass
        if len(found) < last - first + 1:
            self.damaged.add(Slot(first + len(found)))
        return found

    def show(self, first: Slot, last: Slot) -> tuple[AcceptedValue, ...]:
        return tuple(self.log.held(first, last, 1 << 30))

    def repairs(self, message: Message, node: NodeId, peers: Iterable[NodeId], now: float) -> list[Envelope]:
        """What the node does beside the core (``journal.repair``)."""
        if self.repair is None:
            self.repair = LogRepair(node, self.log, retry_s=0.2)
        for slot in self.damaged:
            self.repair.noticed(slot)
        self.damaged.clear()
        if isinstance(message, Shown):
            # In place of the space's chain: what was written here first, before it was damaged.
            right = self.repair.take(message, lambda slot, value: self.records[slot].value == value)
            self.storage.write_now(right, sync=True)
        return self.repair.ask(now, peers)

    def flip(self, key: bytes, bit: int) -> None:
        sealed = bytearray(self.storage.get(key) or b"")
        sealed[bit // 8 % len(sealed)] ^= 1 << bit % 8
        self.storage.write_now([(key, bytes(sealed))], sync=True)

    def lose(self, key: bytes) -> bool:
        """Lose a record, if its partner would show that it was there. Both without a trace is more than
        the format promises to notice: see ``journal.storage.log``."""
        if self.storage.get(PARTNERS[key[:1]] + key[1:]) is None:
            return False
        self.storage.write_now([(key, None)], sync=True)
        return True

    def swap(self, one: bytes, other: bytes) -> None:
        self.storage.write_now([(one, self.storage.get(other)), (other, self.storage.get(one))], sync=True)

    def keys(self, families: Sequence[bytes] = tuple(PARTNERS)) -> list[bytes]:
        return [
            key for family in families for key, _value in self.storage.iterate(family, family_end(family))
        ]

    def damage_value(self, slot: int) -> None:
        self.flip(number_key(ACCEPTED, slot), 8 * 17)  # in the value, if it has one

    def damage_identifier(self, slot: int) -> None:
        self.flip(number_key(IDENTIFIER, slot), 77)

    def heavier(self, rng: random.Random) -> None:
        """Damage something: mostly values and identifiers, seldom the promise."""
        keys = self.keys((ACCEPTED, IDENTIFIER))[-24:]  # those that may be above the applied slot
        if rng.random() < 0.1:
            keys = self.keys((PROMISED, PROMISED_AGAIN))
        if not keys:
            return
        key = rng.choice(keys)
        fate = rng.random()
        if fate < 0.3:
            self.lose(key)
        elif fate < 0.5:
            self.swap(key, rng.choice(keys))
        else:
            self.flip(key, rng.randrange(1 << 16))


class DamageStorm(Storm):
    """A storm in which disks damage records too: those of a minority, which stays the same."""

    def __init__(self, seed: int, *, victims: int, **settings: object) -> None:
        super().__init__(seed, disk_class=RecordDisk, **settings)  # type: ignore[arg-type]
        voters = sorted(self.cluster.membership.voter_ids)
        self.victims = self.rng.sample(voters, victims)
        self.damages = 0

    def damage(self) -> None:
        host: Host = self.cluster.hosts[self.rng.choice(self.victims)]
        assert isinstance(host.disk, RecordDisk)
        for _ in range(self.rng.randrange(1, 4)):
            host.disk.heavier(self.rng)
            self.damages += 1
        if host.up and self.rng.random() < 0.7:
            # It is noticed when it is read: what a node that runs has in memory is whole.
            host.crash(keep=self.rng.randrange(len(host.unsynced) + 1))
            host.start()

    ODDS = (*Storm.ODDS, (damage, 8))
