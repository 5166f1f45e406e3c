"""What happens when: drawn from a seed, so that a run can be had again. PURE: no clock, no I/O.

A run is a sequence of rounds. In each some harm is done for a while, sometimes two kinds at once; then
all of it is undone, and the journal must make progress again before the next round: faults that never
end would only show that a cluster without a majority stands still. Kinds come in a shuffled order, each
once before any comes again, so that even a short run sees many.

Which node is meant is drawn as a *rank*: the leader, or a number among the others. Who leads when the
moment comes is the run's own business. The same seed gives the same faults in the same order; real
processes take real time, so they do not give the same history.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

LEADER = 0
"""The rank of who leads; 1, 2, … are the others in the order of their numbers."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of harm is drawn."""

    name: str
    seconds: tuple[float, float]
    """How long it lasts, from and to."""
    beside: bool = False
    """It is mild enough to go on beside another kind."""
    network: bool = False
    """It needs nodes in namespaces of their own."""
    fuse: bool = False
    """It needs nodes on disks in userspace (``synod.chaos.fuse``)."""


KINDS = (
    Kind("split", (2.5, 7.0), network=True),
    Kind("isolate", (2.5, 7.0), network=True),
    Kind("one-way", (2.5, 7.0), network=True),
    Kind("broken-link", (2.5, 7.0), beside=True, network=True),
    Kind("flapping", (4.0, 8.0), network=True),
    Kind("lossy", (3.0, 6.0), beside=True, network=True),
    Kind("kill", (0.0, 4.0), beside=True),
    Kind("kill-majority", (0.5, 3.0)),
    Kind("kill-all", (0.0, 2.0)),
    Kind("pause", (2.5, 7.0), beside=True),
    Kind("pause-all", (2.0, 5.0)),
    Kind("rolling-restart", (1.0, 3.0)),
    Kind("clock-jump", (2.0, 5.0), beside=True, network=True),
    Kind("kill-client", (0.2, 1.0), beside=True),
    Kind("transfer", (0.5, 1.5), beside=True),
    Kind("compact", (0.2, 0.5), beside=True),
    Kind("disk-full", (2.0, 5.0), network=True),
    Kind("members", (2.0, 5.0), network=True),
    Kind("wipe", (1.0, 4.0), network=True),
    Kind("power-loss", (0.0, 2.0), network=True, fuse=True),
    Kind("disk-error", (1.0, 4.0), beside=True, network=True, fuse=True),
    Kind("slow-disk", (3.0, 6.0), beside=True, network=True, fuse=True),
)
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}
MILD = ("kill", "pause", "rolling-restart", "transfer")
"""What ``synod up --chaos`` does: nothing that needs a network of its own, and never a majority down."""
BESIDE_PROBABILITY = 0.4


@dataclass(frozen=True, slots=True)
class Fault:
    """One harm: ``after_s`` from the round's begin on, for ``for_s``."""

    kind: str
    after_s: float
    for_s: float
    ranks: tuple[int, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        facts = "".join(f" {name}={value}" for name, value in self.facts.items())
        who = ", ".join("leader" if rank == LEADER else f"#{rank}" for rank in self.ranks)
        return f"{self.kind} [{who}]{facts} for {self.for_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Round:
    number: int
    faults: tuple[Fault, ...]
    calm_s: float
    """How long the load goes on undisturbed afterwards."""


def rounds(seed: int, nodes: int, kinds: Collection[str]) -> Iterator[Round]:
    """Yield rounds without end. The same arguments yield the same rounds."""
    rng = random.Random(f"synod chaos {seed}")
    chosen = [kind for kind in KINDS if kind.name in kinds]
    if not chosen:
        raise ValueError("no kind of fault is left to draw from")
    bag: list[Kind] = []
    number = 0
    while True:
        number += 1
        if not bag:
            bag = rng.sample(chosen, len(chosen))
        main = bag.pop()
        faults = [_draw(main, nodes, rng)]
        besides = [kind for kind in chosen if kind.beside and kind is not main]
        if besides and rng.random() < BESIDE_PROBABILITY:
            faults.append(_draw(rng.choice(besides), nodes, rng, after_s=rng.uniform(0.0, 1.5)))
        yield Round(number, tuple(faults), rng.uniform(0.3, 1.5))


_OF_ONE = frozenset(("isolate", "kill", "pause", "clock-jump", "transfer", "disk-full", "members", "wipe"))
_OF_ONE |= {"disk-error", "slow-disk"}


def _draw(kind: Kind, nodes: int, rng: random.Random, after_s: float = 0.0) -> Fault:
    ranks = rng.sample(range(nodes), nodes)
    if rng.random() < 0.5:  # who leads is hit more often than by chance
        ranks.remove(LEADER)
        ranks.insert(0, LEADER)
    minority = (nodes - 1) // 2
    count = nodes
    facts: dict[str, Any] = {}
    if kind.name == "split":
        count = rng.randint(1, minority)
        facts["clients"] = rng.choice(["both", "majority", "minority"])
    elif kind.name in _OF_ONE:
        count = 1
    elif kind.name in ("one-way", "broken-link", "flapping"):
        count = 2
    elif kind.name == "lossy":
        facts["part"] = round(rng.uniform(0.02, 0.25), 3)
    elif kind.name == "kill-majority":
        count = nodes - minority
    if kind.name == "one-way":
        facts["way"] = rng.choice(["in", "out"])
        count = rng.choice([1, 2])  # from or to everybody, or between two
    elif kind.name == "flapping":
        facts["period_s"] = round(rng.uniform(0.2, 1.6), 2)
    elif kind.name == "clock-jump":
        facts["by_s"] = rng.choice([-86_400.0, -3_600.0, -30.0, -2.0, 2.0, 30.0, 3_600.0, 86_400.0])
    elif kind.name == "rolling-restart":
        facts["signal"] = rng.choice(["SIGTERM", "SIGKILL"])
    elif kind.name == "disk-full":
        facts["left_bytes"] = rng.choice([0, 32 * 1024 * 1024])
    elif kind.name == "kill-client":
        facts["number"] = rng.randrange(10**6)
    elif kind.name == "power-loss":
        count = rng.choice([1, nodes])
        facts |= {"keep": rng.choice(["nothing", "torn"]), "seed": rng.randrange(10**6)}
    elif kind.name == "disk-error":
        facts["operation"] = rng.choice(["sync", "write"])
    elif kind.name == "slow-disk":
        facts["slow_s"] = round(rng.uniform(0.02, 0.6), 2)
    return Fault(kind.name, after_s, rng.uniform(*kind.seconds), tuple(ranks[:count]), facts)
