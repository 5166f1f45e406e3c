"""What goes wrong while the storm lasts. One task for each kind of fault that a run has drawn.

A new kind is an async function of the world that goes on for ever, an option that says how often,
and a line in ``KINDS``. What it breaks must be mended by ``run.heal`` or by itself.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from journal.client import OfferRejected
from journal.errors import JournalError
from journal.paxos import Role
from journal.paxos.messages import (
    Accept,
    Accepted,
    Heartbeat,
    HeartbeatReply,
    Learned,
    Nack,
    Prepare,
    Promise,
)
from tests.sim.damage import damage, wipe
from tests.sim.members import operate

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

Fault = Callable[["World", random.Random], Awaitable[None]]


def leader_of(world: World) -> Host | None:
    """The node that leads at the highest ballot, as nobody in the cluster can know."""
    leaders = [
        (host.node._core.ballot, host)
        for host in world.hosts.values()
        if host.node is not None and host.node._core.role is Role.LEADER
    ]
    return max(leaders, key=lambda found: found[0])[1] if leaders else None


def _victim(world: World, rng: random.Random) -> Host:
    leader = leader_of(world)
    if leader is not None and rng.random() < world.options.crash_leader:
        return leader
    return rng.choice(list(world.hosts.values()))


async def partition(world: World, rng: random.Random) -> None:
    """Cut links: two halves, a node alone, one pair, or one direction; with or without clients."""
    nodes = list(world.hosts)
    clients = [-1 - client for client in range(world.options.clients)]
    kind = rng.choice(("halves", "alone", "leader", "pair", "one way", "deaf", "mute"))
    leader = leader_of(world)
    one = leader.number if leader is not None and rng.random() < 0.6 else rng.choice(nodes)
    others = [node for node in nodes if node != one]
    if kind == "halves":
        group = set(rng.sample(nodes, rng.randint(1, len(nodes) - 1)))
        group |= {client for client in clients if rng.random() < 0.4}
        rest = [place for place in (*nodes, *clients) if place not in group]
        links = [(a, b) for a in sorted(group) for b in rest] + [(b, a) for a in sorted(group) for b in rest]
    elif kind in ("alone", "leader"):
        one = leader.number if kind == "leader" and leader is not None else one
        others = [node for node in nodes if node != one]
        links = [(one, other) for other in others] + [(other, one) for other in others]
    elif kind == "pair":
        other = rng.choice(others)
        links = [(one, other), (other, one)]
    elif kind == "one way":
        links = [(one, rng.choice(others))]
    elif kind == "deaf":
        links = [(other, one) for other in others]
    else:
        links = [(one, other) for other in others]
    lasts = rng.choice((0.3, 1.5, 4.0)) * world.options.election_timeout_s * rng.uniform(0.5, 1.5)
    world.log(0, f"partition ({kind}, {one}) for {lasts:.2f} s: {sorted(links)[:12]}")
    world.after(lasts, world.network.cut(links))


async def clog(world: World, rng: random.Random) -> None:
    """A link stands still; what was sent comes later, all at once."""
    nodes = list(world.hosts)
    one, other = rng.sample(nodes, 2)
    lasts = rng.uniform(0.1, 2.5) * world.options.election_timeout_s
    world.log(0, f"clog {one}->{other} for {lasts:.2f} s")
    world.network.clog((one, other), world.now + lasts)


PICKED: tuple[tuple[type, ...], ...] = (
    (Accepted,),  # accepted everywhere, and the leader does not know
    (Accept,),  # accepted by some
    (Heartbeat,),  # the leader works, and seems dead
    (Heartbeat, Accept),
    (Accepted, HeartbeatReply),
    (Promise,),
    (Learned,),
    (Prepare, Nack),
)


async def picky(world: World, rng: random.Random) -> None:
    """Links lose messages of one kind: what a protocol fears is not loss, but loss at the wrong moment."""
    nodes = list(world.hosts)
    kinds = rng.choice(PICKED)
    leader = leader_of(world)
    one = leader.number if leader is not None and rng.random() < 0.7 else rng.choice(nodes)
    others = [node for node in nodes if node != one]
    some = rng.sample(others, rng.randint(1, len(others)))
    links = [(one, other) for other in some]
    if rng.random() < 0.3 or kinds[0] in (Accepted, Promise):
        links += [(other, one) for other in some]
    lasts = rng.choice((0.5, 1.5, 3.0)) * world.options.election_timeout_s * rng.uniform(0.5, 1.5)
    names = "/".join(kind.__name__ for kind in kinds)
    world.log(0, f"{names} lost for {lasts:.2f} s: {links}")
    world.after(lasts, world.network.lose_kinds(links, kinds))


async def crash(world: World, rng: random.Random) -> None:
    host = _victim(world, rng)
    if host.is_up:
        host.kill(power=rng.random() < 0.3)
        host.restart_later()


async def power(world: World, rng: random.Random) -> None:
    """Power goes: for one machine, for some, for all."""
    hosts = list(world.hosts.values())
    count = rng.choice((1, len(hosts) // 2, len(hosts) // 2 + 1, len(hosts)))
    for host in rng.sample(hosts, count):
        if host.is_up:
            host.kill(power=True)
            host.restart_later()


async def sync_error(world: World, rng: random.Random) -> None:
    host = _victim(world, rng)
    if host.life is not None:
        host.life.disk.fails_next_sync = True


async def slow_disk(world: World, rng: random.Random) -> None:
    host = _victim(world, rng)
    if host.life is not None:
        disk = host.life.disk
        disk.slow_factor = rng.choice((30.0, 300.0, 3000.0))
        lasts = rng.uniform(0.2, 2.0)
        disk.slow_until = world.now + lasts
        world.log(host.number, f"slow disk (x{disk.slow_factor:g}) for {lasts:.2f} s")


async def pause_node(world: World, rng: random.Random) -> None:
    host = _victim(world, rng)
    if host.is_up and not host.is_paused:
        host.pause()
        world.after(rng.uniform(0.2, 4.0) * world.options.election_timeout_s, host.resume)


async def clock_jump(world: World, rng: random.Random) -> None:
    """The wall clock jumps anywhere; the monotonic one only forward, as after a suspension."""
    host = rng.choice(list(world.hosts.values()))
    forward = rng.choice((0.0, 0.0, rng.uniform(0.6, 4.0)))
    wall = rng.randint(-5_000_000, 5_000_000)
    world.log(host.number, f"clock jumps by {forward:.2f} s, wall clock by {wall} ms")
    host.clock.jump(forward, wall)


async def transfer(world: World, rng: random.Random) -> None:
    leader = leader_of(world)
    if leader is None or leader.is_paused or leader.node is None:
        return
    to = rng.choice([None, *world.hosts])
    try:
        leader.node.transfer_leadership(to, lambda result: world.log(leader.number, f"transfer: {result}"))  # type: ignore[arg-type]
    except JournalError as error:
        world.log(leader.number, f"transfer to {to} refused: {error}")


async def coup(world: World, rng: random.Random) -> None:
    """The leader hands over, and hears nothing from then on: it leads on in its own eyes, until its
    check of the quorum fails. Those who ask it now must not be told the past."""
    leader = leader_of(world)
    if leader is None or leader.is_paused or leader.node is None:
        return
    heirs = [number for number in world.hosts if number != leader.number]
    try:
        leader.node.transfer_leadership(rng.choice(heirs), lambda _result: None)  # type: ignore[arg-type]
    except JournalError:
        return
    ballot = leader.node._core.ballot
    lasts = rng.uniform(0.5, 2.0) * world.options.election_timeout_s

    def when_it_stands(tries: int) -> None:
        stands = any(
            host.node is not None and host.number != leader.number and host.node._core.ballot > ballot
            for host in world.hosts.values()
        )
        if stands:
            world.log(leader.number, f"deaf to its peers for {lasts:.2f} s, after its hand-over")
            world.after(lasts, world.network.cut([(heir, leader.number) for heir in heirs]))
        elif tries and world.is_storm:
            world.after(0.0005, lambda: when_it_stands(tries - 1))

    when_it_stands(400)


async def compact(world: World, rng: random.Random) -> None:
    leader = leader_of(world)
    if leader is None or leader.is_paused or leader.node is None:
        return
    revision = leader.node.space.revision
    wanted = revision - rng.choice((0, 3, 20, 100))
    if wanted <= 0:
        return
    world.log(leader.number, f"compact to {wanted}")
    try:
        leader.node.compact(wanted, lambda _result: None)  # type: ignore[arg-type]
    except (JournalError, OfferRejected) as error:
        world.log(leader.number, f"compaction refused: {error}")


async def outage(world: World, rng: random.Random) -> None:
    """A node is away for long: the others compact and trim what it lacks, and send it a snapshot."""
    host = rng.choice(list(world.hosts.values()))
    if any(other.is_out for other in world.hosts.values()):
        return
    lasts = rng.uniform(4.0, 15.0) * world.options.election_timeout_s
    host.is_out = True
    world.log(host.number, f"away for {lasts:.2f} s")
    links = [(other, host.number) for other in world.hosts if other != host.number]
    links += [(to, sender) for sender, to in links]
    if rng.random() < 0.5:
        host.kill(power=rng.random() < 0.5)
        mend = None
    else:
        mend = world.network.cut(links)

    def back() -> None:
        host.is_out = False
        if mend is not None:
            mend()
        else:
            host.start_if_down()

    world.after(lasts, back)


async def full_disk(world: World, rng: random.Random) -> None:
    """A file system fills up: down to the reserve, into it, or for good. Later there is space again."""
    host = _victim(world, rng)
    life = host.life
    if life is None or life.disk.memory.capacity_bytes is not None:
        return
    reserve = world.options.disk_reserve_bytes
    left = rng.choice((0, reserve // 2, reserve + reserve // 8, 2 * reserve))
    lasts = rng.uniform(1.0, 10.0) * world.options.election_timeout_s
    life.disk.memory.capacity_bytes = life.disk.memory.size_bytes() + left
    world.log(host.number, f"{left} bytes are left on the disk, for {lasts:.2f} s")
    world.after(lasts, host.make_space)


async def stop(world: World, rng: random.Random) -> None:
    host = _victim(world, rng)
    if host.node is not None and not host.is_paused:
        host.node.stop()


KINDS: dict[str, Fault] = {
    "partition_s": partition,
    "picky_s": picky,
    "clog_s": clog,
    "crash_s": crash,
    "power_s": power,
    "sync_error_s": sync_error,
    "slow_disk_s": slow_disk,
    "pause_node_s": pause_node,
    "clock_jump_s": clock_jump,
    "transfer_s": transfer,
    "coup_s": coup,
    "compact_s": compact,
    "stop_s": stop,
    "outage_s": outage,
    "damage_s": damage,
    "wipe_s": wipe,
    "full_disk_s": full_disk,
}


async def _again_and_again(world: World, name: str, fault: Fault, mean_s: float) -> None:
    rng = world.rng(f"fault/{name}")
    while world.is_storm:
        await trio.sleep(rng.expovariate(1 / mean_s))
        if world.is_storm and not world.is_lull:
            await fault(world, rng)


async def storm(world: World) -> None:
    """Everything that this run has drawn, until the time is over."""
    await trio.sleep(2 * world.options.election_timeout_s)  # let there be a leader first, mostly
    with trio.move_on_after(world.options.storm_s):
        async with trio.open_nursery() as nursery:
            for name, fault in KINDS.items():
                mean_s = getattr(world.options, name)
                if mean_s > 0:
                    nursery.start_soon(_again_and_again, world, name, fault, mean_s)
            if world.options.members_s:
                nursery.start_soon(operate, world, world.rng("operator"))
            nursery.start_soon(trio.sleep_forever)
