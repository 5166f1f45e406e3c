"""What a node starts from: the log, the space and the core as its storage has them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from journal.checked import Checked
from journal.node_config import NodeConfig
from journal.paxos import Paxos, Recovered
from journal.paxos.membership import Membership
from journal.snapshots.fetch import Transfer, read_transfer
from journal.space import MISSING, Space
from journal.storage import Storage, Write
from journal.storage.log import LogStore, trimmed_slot
from journal.types import Slot


@dataclass(frozen=True, slots=True)
class Start:
    """The parts that hold the state of a node."""

    log: LogStore
    space: Space
    core: Paxos
    transfer: Transfer | None
    """The snapshot that it was about to fetch or install."""
    needed: Slot
    """Without a space to go on with: it takes a snapshot of this slot or a later one. Else 0."""
    mended: tuple[Write, ...]
    """Second copies that were damaged: to be written."""


def recover(
    config: NodeConfig,
    storage: Storage,
    membership: Membership,
    checked: Checked,
    *,
    rng: random.Random,
    now: float,
) -> Start:
    """Read what ``storage`` has. ``membership`` is the cluster's first; ``checked`` is asked
    before anything is accepted. Raises ``StorageError``."""
    limits, window = config.limits, config.limits.window_slots_max
    log = LogStore(storage, limits)
    cache_records_max, reach = limits.space_cache_records_max, limits.log_reach_bytes
    transfer = read_transfer(storage)
    snapshot = transfer.end if transfer is not None else None
    trimmed = trimmed_slot(storage)
    space = Space(MISSING, cache_records_max=cache_records_max, log_reach_bytes=reach)
    if snapshot is None:
        there = Space.load(storage, cache_records_max=cache_records_max, log_reach_bytes=reach)
        # What was trimmed of the log cannot be folded: a space from before it cannot go on. While a
        # snapshot is installed, what is there of a space is half of an old and half of a new one.
        if there.applied >= trimmed:
            space = there
    applied = max(space.applied, trimmed, Slot(0) if snapshot is None else snapshot.slot)
    found = log.recover(applied, membership, window)
    memberships = found.memberships if snapshot is None else snapshot.history(membership)
    core = Paxos(
        config.paxos,
        Recovered(found.promised, applied, found.accepted, memberships, found.lost),
        rng=rng,
        now=now,
        check_value=checked.check,
    )
    core.abstains = space.applied < applied
    needed = applied if core.abstains else Slot(0)
    return Start(log, space, core, transfer, needed, found.mended)
