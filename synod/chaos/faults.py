"""Each kind of harm: done, held for its time, undone. What a round leaves undone, ``Arena.heal`` undoes."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import product

import trio

from synod.chaos.arena import Arena, ChaosCluster, NoProgress, clients_cut
from synod.chaos.clients import ClientFailed
from synod.chaos.network import Cuts
from synod.chaos.schedule import Fault, Round
from synod.local import LocalClusterError

FLAPS_MAX = 40
END_TIMEOUT_S = 5.0
"""A node whose disk has failed must have ended after so long."""
END_LOOK_S = 0.05


async def inflict(arena: Arena, fault: Fault) -> None:
    """Do one fault of a round, from its begin to its end."""
    await trio.sleep(fault.after_s)
    nodes = arena.by_rank(fault.ranks)
    if not nodes:
        return
    await _KINDS[fault.kind](arena, fault, nodes)


async def round_of(arena: Arena, each: Round) -> float:
    """Do a round's harm, undo it, and wait for progress; return how many seconds that took."""
    failures: list[Exception] = []

    async def attempt(number: int) -> None:
        try:
            await inflict(arena, each.faults[number])
        except (NoProgress, ClientFailed, LocalClusterError) as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(len(each.faults)):
            nursery.start_soon(attempt, number)
    await arena.heal()
    # While another harm goes on, no progress is no fault; it must come when all of it is undone.
    if failures and not all(isinstance(failure, NoProgress) for failure in failures):
        raise failures[0]
    after_s = await arena.progress()
    await arena.all_vote_again()
    arena.recorder.note(f"round {each.number} is over", recovery_s=round(after_s, 3))
    await trio.sleep(each.calm_s)
    return after_s


def _between(some: Sequence[int], others: Sequence[int]) -> Cuts:
    """Return the cuts of all links between two groups, both ways."""
    pairs = [*product(some, others), *product(others, some)]
    return {(one, other): 1.0 for one, other in pairs if one != other}


def _names(nodes: Sequence[int]) -> str:
    words = ", ".join(str(node) for node in sorted(nodes))
    return f"node {words}" if len(nodes) == 1 else f"nodes {words}"


async def _cut_for(arena: Arena, fault: Fault, text: str, nodes: Sequence[int], cuts: Cuts) -> None:
    with arena.fault(fault.kind, text, nodes) as number:
        await arena.cut(number, cuts)
        await trio.sleep(fault.for_s)
        await arena.cut(number, {})


async def _split(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """Two sides that do not hear each other; the clients are with both, or with one."""
    others = [node for node in arena.nodes if node not in nodes]
    cuts = dict(_between(nodes, others))
    side = fault.facts["clients"]
    if side != "both":
        cuts |= clients_cut(nodes if side == "majority" else others)
    text = f"split: {_names(nodes)} from {_names(others)}; clients reach {side}"
    await _cut_for(arena, fault, text, nodes, cuts)


async def _isolate(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    others = [node for node in arena.nodes if node not in nodes]
    cuts = dict(_between(nodes, others)) | clients_cut(nodes)
    await _cut_for(arena, fault, f"{_names(nodes)} cut off from everybody", nodes, cuts)


async def _one_way(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    node, others = nodes[0], nodes[1:] or [node for node in arena.nodes if node != nodes[0]]
    if fault.facts["way"] == "in":
        cuts = {(other, node): 1.0 for other in others}
        text = f"one way: node {node} hears nothing from {_names(others)}"
    else:
        cuts = {(node, other): 1.0 for other in others}
        text = f"one way: {_names(others)} hear nothing from node {node}"
    await _cut_for(arena, fault, text, nodes, cuts)


async def _broken_link(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    text = f"no link between nodes {nodes[0]} and {nodes[1]}"
    await _cut_for(arena, fault, text, nodes, _between(nodes[:1], nodes[1:]))


async def _flapping(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """One node's links to all others come and go."""
    node, period_s = nodes[0], fault.facts["period_s"]
    cuts = _between([node], [other for other in arena.nodes if other != node])
    with arena.fault(fault.kind, f"node {node} flaps every {period_s} s", nodes[:1]) as number:
        with trio.move_on_after(fault.for_s):
            for turn in range(FLAPS_MAX):
                await arena.cut(number, cuts if turn % 2 == 0 else {})
                await trio.sleep(period_s)
        await arena.cut(number, {})


async def _lossy(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    part = fault.facts["part"]
    cuts = {way: part for way in product(arena.nodes, arena.nodes) if way[0] != way[1]}
    await _cut_for(arena, fault, f"links between nodes lose {part:.0%} of packets", nodes, cuts)


async def _kill(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    with arena.fault(fault.kind, f"SIGKILL to {_names(nodes)}", nodes):
        for node in nodes:
            await arena.kill(node)
        await trio.sleep(fault.for_s)
        for node in nodes:
            await arena.start(node)


async def _pause(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    with arena.fault(fault.kind, f"SIGSTOP to {_names(nodes)}", nodes):
        for node in nodes:
            await arena.pause(node)
        await trio.sleep(fault.for_s)
        for node in nodes:
            await arena.resume(node)


async def _rolling_restart(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """One after the other; the next goes when the journal is making progress again."""
    sig = signal.Signals[fault.facts["signal"]]
    with arena.fault(fault.kind, f"rolling restart of {_names(nodes)} by {sig.name}", nodes):
        for node in nodes:
            await arena.kill(node, sig)
            await trio.sleep(fault.for_s / 4)
            await arena.start(node)
            await arena.progress(3)
            await trio.sleep(fault.for_s / 4)


async def _clock_jump(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    assert isinstance(arena.cluster, ChaosCluster)
    by_s, node = fault.facts["by_s"], nodes[0]
    with arena.fault(fault.kind, f"the wall clock of node {node} jumps by {by_s:+g} s", nodes):
        arena.cluster.set_clock(node, by_s)
        await trio.sleep(fault.for_s)
        arena.cluster.set_clock(node, 0.0)


async def _transfer(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    target = nodes[0]
    with arena.fault(fault.kind, f"leadership is to go to node {target}", nodes):
        arena.say(f"  {await arena.transfer(target)}")
        await trio.sleep(fault.for_s)


async def _compact(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    with arena.fault(fault.kind, "compaction", ()):
        await arena.compact()
        await trio.sleep(fault.for_s)


async def _disk_full(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """The small disk fills up. As long as a little is left, its node must go on, refuse what grows the
    space, and recover by itself; with nothing left at all it may end, but must not be wrong."""
    left_bytes = fault.facts["left_bytes"]
    for node, disk in arena.disks.items():
        if node not in arena.nodes:  # it was removed
            continue
        left = f"{left_bytes >> 20} MiB are left" if left_bytes else "nothing is left"
        text = f"the disk of node {node} ({disk.kind}) is full: {left}"
        with arena.fault(fault.kind, text, [node]):
            if not left_bytes:
                arena.may_end.add(node)
            taken = await trio.to_thread.run_sync(disk.fill, left_bytes)
            await trio.sleep(fault.for_s)
            await trio.to_thread.run_sync(disk.empty)
            arena.recorder.note(f"{taken >> 20} MiB are free again")
            if f"node-{node}" not in arena.cluster.running():
                arena.say(f"  node {node} had ended")
                await arena.start(node)
            arena.may_end.discard(node)


async def _power_loss(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """The power of these nodes goes at once: with it goes what was not synced, where their disks know."""
    keep = fault.facts["keep"]
    left = "the last write to each file is torn" if keep == "torn" else "all that was not synced is lost"
    with arena.fault(fault.kind, f"the power of {_names(nodes)} goes: {left}", nodes):
        for node in nodes:
            await arena.kill(node)
        for node in nodes:
            if node in arena.fuse:
                seed = fault.facts["seed"] + node
                await trio.to_thread.run_sync(arena.fuse[node].lose_power, keep, seed)
        await trio.sleep(fault.for_s)
        for node in nodes:
            await arena.start(node)


def _on_fuse(arena: Arena, nodes: list[int]) -> int | None:
    """Return the node that is meant, or another one whose disk can be told to fail."""
    able = [node for node in [*nodes, *arena.nodes] if node in arena.fuse and node in arena.nodes]
    return able[0] if able else None


async def _disk_error(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """One sync or write fails: the node must end at once, with the exit code that says so, and try nothing
    again. It is started when its disk is well."""
    node, operation = _on_fuse(arena, nodes), fault.facts["operation"]
    if node is None or node in arena.down:
        return
    disk, pid = arena.fuse[node], arena.cluster.pid(node)
    before = (await trio.to_thread.run_sync(disk.look))["counts"]
    with arena.fault(fault.kind, f"a {operation} to the disk of node {node} fails (EIO)", [node]):
        arena.may_end.add(node)
        # The kernel hands a write that begins within a page on in two pieces. If the second one fails, the
        # node is told that less was written than it asked for, and writes the rest: that must fail, too.
        times = 2 if operation == "write" else 1
        await trio.to_thread.run_sync(partial(disk.fail, operation, files="*.log", times=times))
        await trio.sleep(fault.for_s)
        seen = await trio.to_thread.run_sync(disk.look)
        failed = f"failed {operation}"
        if seen["counts"].get(failed, 0) > before.get(failed, 0):
            await _must_end(arena, node, pid)
        if seen["after_failed_sync"]:
            arena.problem(f"node {node} went on after a sync had failed: {seen['after_failed_sync'][:5]}")
        await trio.to_thread.run_sync(disk.heal)
        if f"node-{node}" not in arena.cluster.running():
            await arena.start(node)
        arena.may_end.discard(node)


async def _must_end(arena: Arena, node: int, pid: int | None) -> None:
    for _ in range(int(END_TIMEOUT_S / END_LOOK_S)):
        if arena.cluster.pid(node) != pid or node in arena.paused:
            return
        await trio.sleep(END_LOOK_S)
    arena.problem(f"node {node} goes on, {END_TIMEOUT_S:g} s after its disk has failed")


async def _slow_disk(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    node, slow_s = _on_fuse(arena, nodes), fault.facts["slow_s"]
    if node is None:
        return
    with arena.fault(fault.kind, f"each sync of node {node} takes {slow_s:g} s more", [node]):
        await trio.to_thread.run_sync(arena.fuse[node].slow, "sync", slow_s)
        await trio.sleep(fault.for_s)
        await trio.to_thread.run_sync(arena.fuse[node].heal)


async def _kill_client(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """A client dies; another one takes up its kinds. Nobody may have to wait for the dead one."""
    client = arena.kill_client(fault.facts["number"])
    name = f"{client.name.partition('-')[0]}-{len(arena.clients)}"
    with arena.fault(fault.kind, f"SIGKILL to client process {client.name}; {name} follows", ()):
        await trio.sleep(fault.for_s)
        arena.start_client(name, client.kinds, fault.facts["number"], late=True)


async def _members(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """Change the members again and again: one more, or one less (it may be the leader), always with as
    many as there were at first, and with two of the first, whom the clients know."""
    with (
        arena.fault(fault.kind, "a storm of membership changes", nodes),
        trio.move_on_after(fault.for_s + 20),
    ):
        end = trio.current_time() + fault.for_s
        while trio.current_time() < end:
            if arena.joining is not None or len(arena.nodes) <= len(arena.originals):
                said = await arena.grow()
            else:
                [target] = arena.by_rank(fault.ranks)
                known = [node for node in arena.nodes if node in arena.originals]
                if target in known and len(known) <= 2:
                    target = next(node for node in arena.nodes if node not in known)
                said = await arena.shrink(target)
            arena.recorder.note(said)
            arena.say(f"  {said}")


async def _wipe(arena: Arena, fault: Fault, nodes: list[int]) -> None:
    """A node loses its folder and is started as ever: it comes back by itself, under a new number."""
    able = [node for node in [*nodes, *arena.nodes] if node in arena.said and node != arena.joining]
    if not able or able[0] in arena.paused:
        return
    with arena.fault(fault.kind, f"node {able[0]} loses its folder, and is started as ever", able[:1]):
        await arena.wipe(able[0])
        await trio.sleep(fault.for_s)


_KINDS: dict[str, Callable[[Arena, Fault, list[int]], Awaitable[None]]] = {
    "split": _split,
    "isolate": _isolate,
    "one-way": _one_way,
    "broken-link": _broken_link,
    "flapping": _flapping,
    "lossy": _lossy,
    "kill": _kill,
    "kill-majority": _kill,
    "kill-all": _kill,
    "pause": _pause,
    "pause-all": _pause,
    "rolling-restart": _rolling_restart,
    "clock-jump": _clock_jump,
    "kill-client": _kill_client,
    "transfer": _transfer,
    "compact": _compact,
    "disk-full": _disk_full,
    "members": _members,
    "wipe": _wipe,
    "power-loss": _power_loss,
    "disk-error": _disk_error,
    "slow-disk": _slow_disk,
}


def kinds() -> Iterator[str]:
    """Yield the kinds that can be inflicted."""
    yield from _KINDS
