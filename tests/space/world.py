"""A space over a storage, driven as a node drives it: folds, late writes, crashes, compaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from journal.entries import pack_compaction, pack_offers
from journal.gate import unpack_batch
from journal.limits import Limits
from journal.offers import Offer, Verdict, offer_to_raw, pack_batch, pack_offer
from journal.paxos.effects import Effects
from journal.paxos.messages import AcceptedValue
from journal.space import Folded, Space
from journal.storage import Write
from journal.storage.log import LogStore
from journal.storage.memory import MemoryStorage
from journal.types import Ballot, NodeId, Revision, Slot

LIMITS = Limits()


def batch(*offers: Offer, client: bytes = b"", first: int = 0, acked: int = 0, base: int = 0) -> bytes:
    """Return a packed batch, checked like at the edge, of consecutive sequences."""
    packed = [pack_offer(first + index, offer) for index, offer in enumerate(offers)]
    return unpack_batch(pack_batch(client, acked, base, packed), LIMITS).data


def entry(*batches: bytes, time_ms: int = 1_700_000_000_000) -> bytes:
    return pack_offers(time_ms, batches)


@dataclass
class World:
    """One node's space. Its writes wait in ``pending`` until ``flush``."""

    cache_records_max: int = 200_000
    cache_bytes_max: int = 1 << 28
    log_reach_bytes: int = 0
    storage: MemoryStorage = field(default_factory=MemoryStorage)
    entries: list[bytes] = field(default_factory=list)
    pending: list[tuple[Slot, list[Write]]] = field(default_factory=list)
    chains: list[bytes] = field(default_factory=lambda: [bytes(32)])

    def __post_init__(self) -> None:
        self.space = self._load()

    def _load(self) -> Space:
        return Space.load(
            self.storage,
            cache_records_max=self.cache_records_max,
            cache_bytes_max=self.cache_bytes_max,
            log_reach_bytes=self.log_reach_bytes,
        )

    def fold(self, value: bytes) -> Folded:
        """Fold a new entry."""
        self.entries.append(value)
        folded = self._fold(value)
        self.chains.append(folded.chain)
        return folded

    def _fold(self, value: bytes) -> Folded:
        folded = self.space.fold(Slot(self.space.applied + 1), value)
        accepted = Effects(accepted=[AcceptedValue(folded.slot, Ballot(1, NodeId(1)), value)])
        logged = LogStore(self.storage, LIMITS).writes_for(accepted)
        self.pending.append((folded.slot, [*logged, *folded.writes]))
        return folded

    def offer(self, *offers: Offer, **batch_options: Any) -> list[Verdict]:
        """Fold a slot of one batch and return its verdicts."""
        [verdicts] = self.fold(entry(batch(*offers, **batch_options))).verdicts
        return verdicts

    def compact(self, revision: int) -> Folded:
        return self.fold(pack_compaction(Revision(revision)))

    def flush(self, count: int | None = None, report: bool = True) -> None:
        """Write the first ``count`` pending batches as one; ``report`` it to the space."""
        taken = self.pending[:count]
        self.pending = self.pending[len(taken) :]
        if taken:
            self.storage.write_now([write for _slot, writes in taken for write in writes], sync=True)
            if report:
                self.space.flushed(taken[-1][0])

    def compact_step(self, records_max: int) -> None:
        writes = self.space.compact_step(records_max)
        if writes:
            self.pending.append((self.space.applied, writes))

    def trim_step(self, slots_max: int) -> None:
        """Let go of the log like a node: of what is on the disk."""
        flushed = self.pending[0][0] if self.pending else Slot(self.space.applied + 1)
        writes = self.space.slots.trim_step(flushed, slots_max)
        if writes:
            self.pending.append((self.space.applied, writes))

    def crash(self) -> None:
        """Lose what is not written, load, fold again what the log still has; chains must match."""
        self.pending = []
        self.storage = self.storage.crashed()
        self.space = self._load()
        assert self.space.chain == self.chains[self.space.applied], f"loaded at slot {self.space.applied}"
        for value in self.entries[self.space.applied :]:
            folded = self._fold(value)
            assert folded.chain == self.chains[folded.slot], f"folded slot {folded.slot} again"


__all__ = ["LIMITS", "World", "batch", "entry", "offer_to_raw"]
