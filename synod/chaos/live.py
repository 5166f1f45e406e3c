"""``synod up --chaos``: mild harm to a local cluster under a recorded load, judged as it goes.

It goes in episodes. Each begins by reading what the space holds under the load's prefixes (the base),
lets some clients work while nodes are killed, paused, restarted and hand leadership over, then ends the
load, records what every node holds, and judges it: so the verdict is never older than one episode, and
the judge's work does not grow with the time. A majority is never down, and a person may use the cluster
meanwhile; what others commit is let through and taken into account.

The history of an episode is deleted when it is judged to be right, and kept when it is not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from journal.client import Journal, connect
from journal.errors import JournalError
from journal.offers import prefix_range
from synod.chaos import faults
from synod.chaos.arena import Arena, NoProgress, first_of
from synod.chaos.clients import ClientFailed
from synod.chaos.judge import Verdict, judge
from synod.chaos.schedule import MILD, Round, rounds
from synod.history.client import record_json, text
from synod.local import LocalCluster, LocalClusterError

if TYPE_CHECKING:
    from rich.console import RenderableType

EPISODE_ROUNDS = 2
EPISODE_OPS = 1_000_000
"""Operations of episode n are numbered from n times this on: no label is ever used twice."""
PROCESSES = (
    ("up-one", ("mixed", "register", "bank")),
    ("up-two", ("lists", "counters", "sets", "schedulers", "leases", "readers")),
)
PREFIXES = (
    b"load/", b"register/", b"bank/", b"list/", b"counter/", b"set/", b"lease/", b"capacity/", b"task/"
)  # fmt: skip
PAUSE_S = 0.15
PAGE_KEYS = 1000
SHOWN_EPISODES = 6
SHOW_INTERVAL_S = 0.25


class Violated(Exception):
    """A promise was broken; the text says which, and where its history is."""


@dataclass(slots=True)
class Live:
    """What there is to see now."""

    began: float = field(default_factory=time.monotonic)
    seed: int = 0
    arena: Arena | None = None
    phase: str = "starting"
    episodes: list[tuple[int, Verdict]] = field(default_factory=list)
    acknowledged: int = 0
    """Of the episodes that are over."""

    @property
    def offers(self) -> int:
        return self.acknowledged + (self.arena.accepted() if self.arena else 0)


def harm(cluster: LocalCluster, seed: int, *, tell: Callable[[str], None], is_tty: bool) -> None:
    """Go on until interrupted, or until an episode is judged to be wrong: then ``Violated``."""
    try:
        trio.run(_harm, cluster, seed, tell, is_tty)
    except BaseExceptionGroup as group:
        raise first_of(group) from None


async def _harm(cluster: LocalCluster, seed: int, tell: Callable[[str], None], is_tty: bool) -> None:
    live = Live(seed=seed)
    folder = cluster.folder / "chaos"
    shutil.rmtree(folder, ignore_errors=True)
    # Who leads is only one among all: killing it and one other would stop a cluster of three.
    harms = (each for each in rounds(seed, len(cluster.nodes), MILD) if _is_mild(each, len(cluster.nodes)))
    async with trio.open_nursery() as nursery:
        if is_tty:
            nursery.start_soon(_show, live)
        number = 0
        while True:
            number += 1
            verdict = await _episode(cluster, live, folder / f"{number:04}", number, harms, tell, is_tty)
            live.episodes.append((number, verdict))
            if not is_tty:
                tell(f"episode {number}: {_words(verdict)}")
            if not verdict.ok:
                where = folder / f"{number:04}"
                raise Violated(f"episode {number} (seed {seed}): {verdict.problems[0]}\n  history: {where}")
            shutil.rmtree(folder / f"{number:04}", ignore_errors=True)


def _is_mild(each: Round, nodes: int) -> bool:
    """Return whether a minority at most is down at any time, even if all faults meet."""
    hit = sum(len(fault.ranks) if fault.kind in ("kill", "pause") else 1 for fault in each.faults)
    restarts = any(fault.kind == "rolling-restart" for fault in each.faults)
    return (len(each.faults) == 1) if restarts else hit <= max(1, (nodes - 1) // 2)


async def _episode(
    cluster: LocalCluster,
    live: Live,
    folder: Path,
    number: int,
    harms: Iterator[Round],
    tell: Callable[[str], None],
    is_tty: bool,
) -> Verdict:
    await trio.to_thread.run_sync(lambda: folder.mkdir(parents=True))
    arena = Arena(folder, cluster, say=(lambda _text: None) if is_tty else tell)
    live.arena = arena
    try:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(arena.watch)
                live.phase = "reading the base"
                arena.after = await _base(cluster, arena)
                arena.first_op = number * EPISODE_OPS
                for name, kinds in PROCESSES:
                    arena.start_client(name, kinds, live.seed * 1000 + number, pause_s=PAUSE_S)
                live.phase = "load"
                await arena.progress()
                for _ in range(EPISODE_ROUNDS):
                    live.phase = "harm"
                    await faults.round_of(arena, next(harms))
                live.phase = "collecting"
                await arena.finish()
                nursery.cancel_scope.cancel()
        except* (NoProgress, ClientFailed, LocalClusterError, JournalError, trio.TooSlowError) as group:
            arena.problem(f"{type(first_of(group)).__name__}: {first_of(group)}")
        live.phase = "judging"
        return await trio.to_thread.run_sync(judge, arena.files(), arena.problems)
    finally:
        live.acknowledged += arena.accepted()
        live.arena = None
        arena.close()


async def _base(cluster: LocalCluster, arena: Arena) -> int:
    """Record what the space holds under the load's prefixes at one revision; return that."""
    items = []
    journal: Journal
    async with connect(cluster.endpoints, cluster=cluster.cluster_id) as journal:
        revision = await journal.revision()
        for prefix in PREFIXES:
            start, end = prefix_range(prefix)
            reply = await journal.scan(start, end, at=revision)
            items += [[text(key), record_json(record)] for key, record in reply.items]
    if revision:
        arena.recorder.base(revision, items)
    return revision


# -- to be looked at ------------------------------------------------------------------


def _words(verdict: Verdict) -> str:
    if not verdict.ok:
        return f"VIOLATED: {verdict.problems[0]}"
    counts = verdict.counts
    names = ("accepted", "rejected", "unknown", "reads", "keep-alives")
    return "all holds (" + ", ".join(f"{counts.get(name, 0)} {name}" for name in names) + ")"


async def _show(live: Live) -> None:
    from rich.live import Live as Screen

    with Screen(_screen(live), refresh_per_second=8, transient=False) as screen:
        while True:
            await trio.sleep(SHOW_INTERVAL_S)
            screen.update(_screen(live))


_STYLES = {"leader": "bold green", "paused": "yellow", "down": "red", "unreachable": "red"}


def _screen(live: Live) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    arena = live.arena
    elapsed = time.monotonic() - live.began
    head = Text.assemble(
        ("chaos ", "bold"),
        f"seed {live.seed} · {elapsed:.0f} s · {live.offers:,} offers acknowledged · ",
        f"episode {len(live.episodes) + 1}: {live.phase}",
    )
    nodes = Table(box=None, pad_edge=False)
    for column in ("node", "state", "ballot", "revision"):
        nodes.add_column(column, justify="right" if column in ("node", "revision") else "left", min_width=8)
    if arena is not None:
        for node in arena.nodes:
            said = arena.said.get(node)
            state = (
                "paused"
                if node in arena.paused
                else "down"
                if node in arena.down
                else said.role
                if said
                else "unreachable"
            )
            facts = (said.ballot, f"{said.revision:,}") if said else ("-", "-")
            nodes.add_row(str(node), Text(state, style=_STYLES.get(state, "")), *facts)
    now = Text("now: " + ("; ".join(arena.active.values()) if arena and arena.active else "no harm"))
    verdicts = [
        Text(f"episode {number}: {_words(verdict)}", style="green" if verdict.ok else "bold red")
        for number, verdict in live.episodes[-SHOWN_EPISODES:]
    ]
    right = sum(verdict.ok for _, verdict in live.episodes)
    tally = Text(f"{right} of {len(live.episodes)} episodes hold every promise. Ctrl-C stops the cluster.")
    return Group(head, nodes, now, *verdicts, tally)
