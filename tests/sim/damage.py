"""Damage at rest: what a disk does to records that were written well, and the loss of a whole disk.

Never on more than ``spoiled_max`` nodes of a run, and always the same ones: a minority. What a spoiled disk
held is remembered (``Host.ghosts``), for the checker that counts on how many disks something was.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from journal.storage.records import (
    ACCEPTED,
    BINDING,
    CURRENT,
    ENDED,
    HISTORY,
    IDENTIFIER,
    IDENTITY,
    LEASE,
    MEMBERSHIP,
    MEMBERSHIP_AGAIN,
    OUTCOME,
    PEER,
    PROMISED,
    PROMISED_AGAIN,
    RECENT,
    SESSION,
    STAGED,
    STATE,
    TRANSFER,
    TRIMMED,
    family_end,
)

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

PARTNERS = {
    ACCEPTED: IDENTIFIER,
    IDENTIFIER: ACCEPTED,
    PROMISED: PROMISED_AGAIN,
    PROMISED_AGAIN: PROMISED,
    MEMBERSHIP: MEMBERSHIP_AGAIN,
    MEMBERSHIP_AGAIN: MEMBERSHIP,
}
"""One record of each pair may be lost without a trace; that both are is more than the format promises to
notice (``journal.storage.log``)."""

FAMILIES = (
    *((ACCEPTED, IDENTIFIER) * 4),
    *((PROMISED, PROMISED_AGAIN, MEMBERSHIP, MEMBERSHIP_AGAIN) * 2),
    *((STATE, CURRENT, HISTORY, ENDED, OUTCOME, RECENT, SESSION, LEASE, BINDING)),
    *((IDENTITY, PEER, TRIMMED, STAGED, TRANSFER)),
)


def may_be_spoiled(world: World, host: Host) -> bool:
    if host.is_spoiled:
        return True
    options = world.options
    # With members that come and go: a minority of the fewest there may be.
    most = min(options.spoiled_max, 1) if options.members_s else options.spoiled_max
    return sum(other.is_spoiled for other in world.hosts.values()) < most


def victim(world: World, rng: random.Random) -> Host | None:
    """One of the few that may be harmed, if one is left."""
    hosts = [host for host in world.hosts.values() if may_be_spoiled(world, host) and not host.is_lost]
    spoiled = [host for host in hosts if host.is_spoiled]
    return rng.choice(spoiled or hosts) if hosts else None


async def damage(world: World, rng: random.Random) -> None:
    """Damage a few records; mostly the node restarts then, as what it has in memory is whole."""
    host = victim(world, rng)
    if host is None or host.is_paused:
        return
    memory = host.life.disk.memory if host.life is not None else host.memory
    host.is_spoiled = True
    if rng.random() < 0.08:
        keys = list(memory._shown)
        if keys:
            first = rng.randrange(len(keys))
            host.remember_disk()
            host.bad_block = keys[first], keys[min(len(keys) - 1, first + rng.randrange(20))]
            world.log(host.number, f"a block is unreadable: {host.bad_block}")
    else:
        for _ in range(rng.choice((1, 1, 2, 4))):
            _spoil(host, memory, rng)
    if host.is_up and rng.random() < 0.6:
        host.kill(power=rng.random() < 0.5)
        host.restart_later()


def _spoil(host: Host, memory: object, rng: random.Random) -> None:
    from journal.storage.memory import MemoryStorage

    assert isinstance(memory, MemoryStorage)
    family = rng.choice(FAMILIES)
    keys = list(memory._durable.irange(family, family_end(family), inclusive=(True, False)))
    if not keys:
        return
    keys = keys[-24:]  # those that may still matter
    key = rng.choice(keys)
    host.remember_disk()
    fate = rng.random()
    partner = PARTNERS.get(family)
    changed: list[tuple[bytes, bytes | None]]
    if fate < 0.25 and partner is not None and partner + key[1:] in memory._durable:
        changed = [(key, None)]
        what = "is lost"
    elif fate < 0.4 and family in (ACCEPTED, IDENTIFIER):
        other = rng.choice(keys)
        changed = [(key, memory._durable[other]), (other, memory._durable[key])]
        what = f"changes places with {other.hex()}"
    else:
        sealed = bytearray(memory._durable[key])
        bit = rng.randrange(8 * len(sealed))
        sealed[bit // 8] ^= 1 << bit % 8
        changed = [(key, bytes(sealed))]
        what = f"has bit {bit} flipped"
    host.world.log(host.number, f"DAMAGE {key[:1].decode()} {key[1:33].hex()} {what}")
    for place in (memory._durable, memory._shown):
        if place is memory._shown and memory._views:
            memory._shown = place = place.copy()
        for name, value in changed:
            if value is None:
                place.pop(name, None)
            elif name in place:
                place[name] = value


async def wipe(world: World, rng: random.Random) -> None:
    """The disk is gone as a whole. The node stays away, to be replaced, or is started on an empty one
    under its old number, by mistake: then its peers, who have met it, must not take it for itself."""
    host = victim(world, rng)
    if host is None or host.is_paused:
        return
    returns = world.options.wiped_returns
    if returns and not all(other.has_met(host) for other in world.hosts.values() if other is not host):
        return  # who never met it could not tell: ``journal.identities`` says so
    host.is_spoiled = True
    host.kill(power=True)
    host.wipe()
    if returns:
        host.restart_later()
