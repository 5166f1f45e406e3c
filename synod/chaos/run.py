"""The chaos run as a program: enclose, start, harm, judge, and leave a report.

What it leaves in its folder: ``history.jsonl`` (everything that was recorded, ordered by time, in the
format of ``docs/history-format.md``), ``samples.jsonl``, ``run.json`` (seed, options, verdict, counts),
``report.html``, the nodes' logs, and each client's own history.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from journal.errors import JournalError
from synod.chaos import faults
from synod.chaos.arena import Arena, ChaosCluster, NoProgress, first_of
from synod.chaos.clients import ClientFailed
from synod.chaos.disk import SmallDisk
from synod.chaos.fuse.disk import FuseDisk, FuseMissing, python
from synod.chaos.judge import Verdict, judge
from synod.chaos.network import ChaosImpossible, Network, enclosed, endpoint, require
from synod.chaos.page import write_page
from synod.chaos.schedule import BY_NAME, rounds
from synod.local import LocalClusterError

EXIT_FAILED = 1
EXIT_IMPOSSIBLE = 3
EXIT_MISUSE = 64
INSIDE = "SYNOD_CHAOS_INSIDE"
PROCESSES = (
    ("one", ("mixed", "register", "readers")),
    ("two", ("bank", "lists")),
    ("three", ("counters", "sets", "schedulers")),
    ("four", ("leases", "leases", "tails")),
)
"""Client processes, and the kinds of clients in each."""
EXTRA_S = 240.0
"""Beyond its minutes a run may take so long for starting, the last round and the verdict."""


@dataclass(frozen=True, slots=True)
class Options:
    seconds: float
    seed: int
    nodes: int
    folder: Path
    kinds: tuple[str, ...]
    fuse: str = "auto"

    def command(self) -> str:
        """Return what to type to run this again."""
        words = f"make chaos MINUTES={self.seconds / 60:g} SEED={self.seed} NODES={self.nodes}"
        if set(self.kinds) != set(faults.kinds()):
            words += " " + shlex.quote(f"ARGS=--kinds {','.join(self.kinds)}")
        return words


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parse(given)
    if os.environ.get(INSIDE) != "1":
        try:
            require()
            options, without = with_or_without_fuse(options)
        except (ChaosImpossible, FuseMissing) as impossible:
            print(f"chaos: {impossible}", file=sys.stderr)
            return EXIT_IMPOSSIBLE
        if options.folder.exists() and any(options.folder.iterdir()):
            print(f"chaos: {options.folder} is not empty: name another --dir, or remove it", file=sys.stderr)
            return EXIT_MISUSE
        os.environ[INSIDE] = "1"
        source = str(Path(__file__).resolve().parents[2])
        os.environ["PYTHONPATH"] = source
        if without:
            print(f"chaos: without {', '.join(without[0])}: {without[1]}", file=sys.stderr)
        again = [*given, "--seed", str(options.seed), "--dir", str(options.folder)]
        again += ["--kinds", ",".join(options.kinds)]
        command = enclosed([sys.executable, "-P", "-m", "synod.chaos", *again])
        sys.stdout.flush()
        os.execvp(command[0], command)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return _run_inside(options)


def with_or_without_fuse(
    options: Options,
) -> tuple[Options, tuple[list[str], str] | None]:
    """Leave out the kinds that need FUSE where there is none and none was asked for; return why as well.

    Raises ``FuseMissing``.
    """
    needing = [kind for kind in options.kinds if BY_NAME[kind].fuse]
    if not needing:
        return options, None
    try:
        python()
    except FuseMissing as missing:
        if options.fuse == "yes" or len(needing) == len(options.kinds):
            raise
        rest = tuple(kind for kind in options.kinds if kind not in needing)
        return replace(options, kinds=rest), (needing, str(missing))
    return options, None


def _parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m synod.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", default="", help="draws what happens; default: a new one")
    parser.add_argument("--nodes", type=int, default=3, choices=[3, 5, 7])
    parser.add_argument("--dir", default="", help="where the report goes; default: a new folder in /tmp")
    parser.add_argument("--kinds", default="", help="kinds of faults, with commas; default: all")
    parser.add_argument(
        "--fuse",
        choices=["auto", "yes", "no"],
        default="auto",
        help="whether nodes have disks in userspace that lose power and fail; auto: where there is FUSE",
    )
    o = parser.parse_args(arguments)
    try:
        seed = int(o.seed) if o.seed else random.SystemRandom().randrange(10**6)
    except ValueError:
        parser.error(f"--seed: {o.seed!r} is no whole number")
    kinds = tuple(o.kinds.split(","))
    if not o.kinds:
        kinds = tuple(kind for kind in faults.kinds() if o.fuse != "no" or not BY_NAME[kind].fuse)
    if unknown := [kind for kind in kinds if kind not in set(faults.kinds())]:
        parser.error(f"--kinds: there is no kind {unknown[0]!r}: {', '.join(faults.kinds())}")
    if not 0.1 <= o.minutes <= 600:
        parser.error("--minutes: between 0.1 and 600")
    name = time.strftime(f"synod-chaos-%Y%m%d-%H%M%S-seed-{seed}")
    folder = Path(o.dir) if o.dir else Path("/tmp") / name
    return Options(o.minutes * 60, seed, o.nodes, folder.absolute(), kinds, o.fuse)


def _run_inside(options: Options) -> int:
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"chaos: seed {options.seed}, {options.nodes} nodes, {options.seconds:g} s; {options.folder}")
    sys.stdout.flush()
    nodes = list(range(1, options.nodes + 1))
    network = Network(nodes)
    network.make()
    cluster = ChaosCluster.create(
        options.folder / "cluster",
        nodes=options.nodes,
        endpoints=[endpoint(node) for node in nodes],
        rejoin="voter",
    )
    cluster.in_network = True
    for node in nodes:
        cluster.set_clock(node, 0.0)
    disks: dict[int, SmallDisk] = {}
    fuse: dict[int, FuseDisk] = {}
    if "disk-full" in options.kinds:
        node = random.Random(options.seed).choice(nodes)
        disks[node] = SmallDisk(options.folder / f"disk-{node}")
        disks[node].mount()
    if any(BY_NAME[kind].fuse for kind in options.kinds):
        for node in [node for node in nodes if node not in disks]:
            folder = options.folder / f"disk-{node}"
            fuse[node] = FuseDisk(folder, log=options.folder / f"disk-{node}.log")
    cluster.disks = {each: disk.folder for each, disk in disks.items()} | {
        each: disk.folder for each, disk in fuse.items()
    }
    arena = Arena(options.folder, cluster, network=network, disks=disks, fuse=fuse, say=_say)
    try:
        facts = trio.run(_run, arena, options)
        print("chaos: judging")
        sys.stdout.flush()
        verdict = judge(arena.files(), arena.problems)
    finally:
        cluster.kill_all()
        arena.close()
    _leave(arena, options, verdict, facts)
    return 0 if verdict.ok else EXIT_FAILED


def _say(text: str) -> None:
    print(text, flush=True)


async def _run(arena: Arena, options: Options) -> dict[str, Any]:
    facts: dict[str, Any] = {"rounds": 0, "recovery_s": []}
    with trio.move_on_after(options.seconds + EXTRA_S) as bound:
        async with trio.open_nursery() as nursery:
            try:
                await trio.to_thread.run_sync(arena.cluster.start)
                await trio.to_thread.run_sync(arena.cluster.wait_ready, 60.0)
                nursery.start_soon(arena.watch)
                _start_clients(arena, options)
                await arena.progress(30)
                end = trio.current_time() + options.seconds
                for each in rounds(options.seed, options.nodes, options.kinds):
                    if trio.current_time() >= end or arena.problems:
                        break
                    facts["rounds"] = each.number
                    facts["recovery_s"].append(round(await faults.round_of(arena, each), 2))
                await arena.finish()
            except* (NoProgress, ClientFailed, LocalClusterError, JournalError, trio.TooSlowError) as group:
                error = first_of(group)
                arena.problem(f"{type(error).__name__}: {error}")
            nursery.cancel_scope.cancel()
    if bound.cancelled_caught:
        arena.problem(f"the run was not over {EXTRA_S:g} s after its time")
    return facts


def _start_clients(arena: Arena, options: Options) -> None:
    for number, (name, kinds) in enumerate(PROCESSES):
        arena.start_client(name, kinds, options.seed * 100 + number)


def _leave(arena: Arena, options: Options, verdict: Verdict, facts: dict[str, Any]) -> None:
    """Write what remains of the run, and say where."""
    files = [*arena.files()]
    _merge(files, options.folder / "history.jsonl")
    about = {
        "seed": options.seed,
        "nodes": options.nodes,
        "seconds": options.seconds,
        "kinds": list(options.kinds),
        "again": options.command(),
        "ok": verdict.ok,
        "problems": verdict.problems,
        "verdict": verdict.text,
        "counts": verdict.counts,
        "rules": verdict.rules,
        "clients": {name: kind for client in arena.clients for name, kind in client.names().items()},
        "disks": {str(node): disk.kind for node, disk in arena.disks.items()}
        | {str(node): "in userspace" for node in arena.fuse},
        **facts,
    }
    (options.folder / "run.json").write_text(json.dumps(about, indent=2) + "\n")
    write_page(options.folder)
    if verdict.ok:
        for disk in arena.disks.values():
            disk.folder.with_suffix(".img").unlink(missing_ok=True)
    print(verdict.text)
    for problem in arena.problems:
        print(f"PROBLEM: {problem}")
    slowest = max(facts["recovery_s"], default=0.0)
    print(f"chaos: {facts['rounds']} rounds; at most {slowest:.1f} s from the end of harm to progress")
    print(f"chaos: report {options.folder / 'report.html'}")
    if verdict.ok:
        print(f"chaos: PASSED, seed {options.seed}")
    else:
        print(f"chaos: FAILED, seed {options.seed}; again: {options.command()}")


def _merge(files: Sequence[Path], target: Path) -> None:
    """Write the files' lines into one, by time; a torn last line is left out."""
    lines = [
        (json.loads(line)["t"], line)
        for file in files
        if file.exists()
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
    lines.sort(key=lambda item: item[0])
    target.write_text("".join(line for _, line in lines), encoding="utf-8")


assert set(faults.kinds()) <= set(BY_NAME), "every kind of fault can be drawn"
