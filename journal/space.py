"""The space, and the fold: what a history of entries comes to. PURE.

``Space.fold`` takes the next chosen entry and decides every offer in it, in order: an accepted
offer gets the next revision and changes the versioned keys (``versions``); a rejected one gets a
receipt. Every node folds the same entries and must come to the same state, bit for bit. So nothing
here depends on a cache, on how far compaction or the disk have come, on a node's own limits, or on
time; the ``chain``, a hash over all entries and all decisions, shows that it worked.

The fold writes nothing. It returns the writes of each slot, among them the state record with the
applied slot, to be stored in one batch; the caller reports with ``flushed`` what is stored, and
until then reads are answered from memory. A crash loses a suffix of folds, which are folded again.

An offer is decided in this order, and the first that fails is its receipt: ``reads``, ``ranges``,
``expect``, then the mutations one by one, each seeing what the ones before it did. Nothing of a
rejected offer remains.

Sources: optimistic validation as in Kung and Robinson, "On Optimistic Methods for Concurrency
Control" (1981), section 4, with the log order as the serial order; incremental and gang commits as
in Schwarzkopf et al., "Omega" (2013), section 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from journal.attempt import Attempt
from journal.commits import OUTCOME_HEAD, Change, Commit, commits
from journal.conditions import Changed, Conditions, bad_at
from journal.entries import (
    KIND_COMPACTION,
    KIND_MEMBERSHIP,
    KIND_OFFERS,
    kind_of,
    unpack_compaction,
    unpack_offers,
)
from journal.errors import (
    ProtocolViolation,
    RevisionCompacted,
    RevisionInFuture,
)
from journal.lease_table import Lease, LeaseTable
from journal.offers import (
    EXPIRED,
    PUT,
    Reason,
    Rejected,
    Verdict,
    verdict_to_raw,
)
from journal.pages import Page, read_page
from journal.recent import RecentKeys
from journal.sessions import Session, Sessions
from journal.slots import CHAIN_START, Slots, chain_link
from journal.state import FORMAT, State, read_state
from journal.storage import Reader, Write
from journal.storage.records import (
    BINDING,
    LEASE,
    MEMBERSHIP,
    MEMBERSHIP_AGAIN,
    NUMBER,
    OUTCOME,
    RECENT,
    SESSION,
    STATE,
    family_end,
    number_key,
    number_of,
    seal,
    unseal,
)
from journal.types import Revision, Slot
from journal.versions import (
    HEAD,
    HEAD_BYTES,
    Record,
    Superseded,
    Versions,
    shown,
)

CACHE_BYTES_MAX: Final = 384 * 1024 * 1024
"""Of the payloads of cached records. Python takes about 350 bytes more for each."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What the fold of one slot decided."""

    slot: Slot
    kind: int
    """0 for a no-op, else the entry's kind (``entries.KIND_*``)."""
    time_ms: int
    """The leader's wall clock when it made the entry; 0 where the entry carries none."""
    before: Revision
    """The journal's revision before this slot."""
    revision: Revision
    """The journal's revision after it: ``revision - before`` offers were accepted."""
    batches: Sequence[Any]
    """The entry's batches in packed form, decoded (``offers``)."""
    verdicts: list[list[Verdict]]
    """For each batch the verdicts of its offers, in order."""
    outcome: bytes
    """The outcome record: with the entry, all that ``commits`` needs."""
    writes: list[Write]
    """For storage, all in one batch, in this order, after those of earlier slots."""
    chain: bytes

    @property
    def first_revision(self) -> Revision:
        """The revision of this slot's first accepted offer, if it has one."""
        return Revision(self.before + 1)


class _Missing:
    """Nothing, where a reader is wanted."""

    def get(self, _key: bytes) -> bytes | None:
        return None

    def iterate(
        self, _start: bytes, _stop: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        return iter(())


MISSING: Final[Reader] = _Missing()
"""The reader of a space that is not there yet: ``Space.reload`` gives it one."""


class Space:
    """The state that the history folds into, and the one function that moves it: ``fold``."""

    def __init__(
        self,
        reader: Reader,
        *,
        cache_records_max: int = 200_000,
        cache_bytes_max: int = CACHE_BYTES_MAX,
        log_reach_bytes: int = 0,
    ) -> None:
        """Make the empty space over an empty ``reader``; use ``load`` for one that has records.

        ``log_reach_bytes``: the reader has the log as well, and of so much of it the values are not stored
        again when others take their place (``ended``).
        """
        self.revision = Revision(0)
        self.applied = Slot(0)
        self.chain = CHAIN_START
        self.compacted = Revision(0)
        """The oldest revision that can be read; history before it is forgotten."""
        self.slots = Slots(self)
        self.reader = reader
        self._cache_records_max, self._cache_bytes_max = cache_records_max, cache_bytes_max
        self._log_reach_bytes = log_reach_bytes
        self.versions = Versions(
            reader,
            cache_records_max=cache_records_max,
            cache_bytes_max=cache_bytes_max,
            place_of=self.slots.place_of,
        )
        self._sessions = Sessions()
        self.lease_table = LeaseTable()
        self._recent = RecentKeys()
        self._is_broken = False
        self._conditions = Conditions(self.versions, self._recent)
        self.changed = Changed()

    @classmethod
    def load(
        cls,
        reader: Reader,
        *,
        cache_records_max: int = 200_000,
        cache_bytes_max: int = CACHE_BYTES_MAX,
        log_reach_bytes: int = 0,
    ) -> Space:
        """Restore the space from its records. Raises ``RecordDamaged`` or ``DataFolderError``."""
        space = cls(
            reader,
            cache_records_max=cache_records_max,
            cache_bytes_max=cache_bytes_max,
            log_reach_bytes=log_reach_bytes,
        )
        space._restore()
        return space

    def reload(self, reader: Reader) -> None:
        """Become what ``reader`` holds, as ``load`` makes it: a snapshot was put in this one's place."""
        Space.__init__(
            self,
            reader,
            cache_records_max=self._cache_records_max,
            cache_bytes_max=self._cache_bytes_max,
            log_reach_bytes=self._log_reach_bytes,
        )
        self._restore()

    def read_from(self, reader: Reader) -> None:
        """Read from ``reader`` from now on, which holds this very state, all of it flushed."""
        self.reader = reader
        self.versions.read_from(reader)

    def _restore(self) -> None:
        reader = self.reader
        state = read_state(reader)
        if state is None:
            return
        self.applied, self.revision = state.applied, state.revision
        self.chain, self.compacted = state.chain, state.compacted
        self.versions.restore(self.revision)
        self._sessions = Sessions(state.forgotten_floor)
        self._sessions.restore(_family(reader, SESSION))
        for key, payload in _family(reader, LEASE):
            self.lease_table.restore_lease(number_of(key), payload)
        for key, _payload in _family(reader, BINDING):
            self.lease_table.restore_binding(key)
        self._recent = RecentKeys(state.recent_floor)
        for key, payload in _family(reader, RECENT):
            last, *keys = msgpack.unpackb(payload)
            dropped = self._recent.add(number_of(key), last, keys, len(payload))
            assert not dropped, "the records of recent keys are bounded when they are made"
        self._conditions = Conditions(self.versions, self._recent)
        self.slots.restore()

    # -- the fold -----------------------------------------------------------------

    def fold(self, slot: Slot, entry: bytes, batches: Sequence[Any] | None = None) -> Folded:
        """Fold the entry chosen in ``slot``, which must be the next one.

        ``batches``: what ``unpack_offers(entry)`` would give, where the caller has it decoded
        already. Raises ``RecordDamaged``, ``StorageFailed`` or ``ProtocolViolation``; after that
        the space is in no defined state and refuses to go on: load it again.
        """
        assert slot == self.applied + 1, (slot, self.applied)
        assert not self._is_broken, "an earlier fold failed: load the space again"
        self._is_broken = True
        kind = kind_of(entry)
        before = self.revision
        time_ms = 0
        verdicts: list[list[Verdict]] = []
        not_applied: list[list[Any]] = []
        computed: list[Any] = []
        superseded: list[Superseded] = []
        writes: list[Write] = []
        self.changed = Changed()
        self._conditions.begin_slot(self.changed)
        if kind == KIND_OFFERS:
            if batches is None:
                time_ms, batches = unpack_offers(entry)
            else:
                time_ms = int.from_bytes(entry[3:11], "big")
            self._sessions.forget_idle(before, writes)
            for index, batch in enumerate(batches):
                decided, skipped = self._fold_batch((slot, index), batch, superseded, computed, writes)
                verdicts.append(decided)
                not_applied.append(skipped)
        elif kind == KIND_COMPACTION:
            self.compacted = max(self.compacted, min(unpack_compaction(entry), before))
        elif kind == KIND_MEMBERSHIP:
            copies = (number_key(MEMBERSHIP, slot), number_key(MEMBERSHIP_AGAIN, slot))
            writes.extend((key, seal(key, entry[1:])) for key in copies)
        elif kind != 0:
            raise ProtocolViolation(f"slot {slot} holds an entry of unknown kind {kind}")

        body = msgpack.packb([not_applied, computed])
        self.chain = chain = chain_link(self.chain, (before, self.revision), slot, entry, body)
        outcome = OUTCOME_HEAD.pack(chain, before, self.revision) + body
        self.applied = slot
        self.slots.folded(len(entry))
        self._finish(slot, superseded, outcome, writes)
        self._is_broken = False
        return Folded(
            slot, kind, time_ms, before, self.revision, batches or (), verdicts, outcome, writes, chain
        )

    def _fold_batch(
        self,
        place: tuple[Slot, int],
        batch: Sequence[Any],
        superseded: list[Superseded],
        computed: list[Any],
        writes: list[Write],
    ) -> tuple[list[Verdict], list[Any]]:
        """Decide the offers of one batch; return (verdicts, the packed form of those not applied)."""
        client, acked, base, offers = batch
        session: Session | None = None
        if client:
            session = self._sessions.open(client, acked, base, writes)
            if session is None:
                known = [self._sessions.find(client, offer[0], base) or EXPIRED for offer in offers]
                return known, [[index, verdict_to_raw(verdict)] for index, verdict in enumerate(known)]
        may_repeat = session is not None and offers[0][0] <= session.last
        verdicts: list[Verdict] = []
        skipped: list[Any] = []
        repeated: set[int] = set()
        revision: int = self.revision
        compacted = self.compacted
        changed, conditions = self.changed.records, self._conditions
        load = self.versions.load
        records = self.versions.young
        find = records.get
        pack_head, pack_number = HEAD.pack, NUMBER.pack

        # The hot loop. What it handles inline is one put without lease and conditions on keys;
        # everything else goes through methods. ``find(key) or load(key)`` is Versions.current.
        for index, offer in enumerate(offers):
            if may_repeat:
                assert session is not None
                earlier = session.find(offer[0])
                if earlier is not None:
                    verdicts.append(earlier)
                    skipped.append([index, verdict_to_raw(earlier)])
                    repeated.add(index)
                    continue
            _sequence, _label, at, reads, ranges, expect, mutations = offer
            rejected: Rejected | None = None
            if reads:
                if compacted <= at <= revision:
                    for key in reads:
                        record = find(key) or load(key)
                        if record[1] > at:
                            where = f"reads[{reads.index(key)}]"
                            rejected = Rejected(Reason.READ, where, key, record[1])
                            break
                else:
                    rejected = bad_at(at, compacted, revision)
            if rejected is None and ranges:
                rejected = conditions.check_ranges(at, ranges, compacted, revision)
            if rejected is None and expect:
                rejected = conditions.check_expect(expect)
            if rejected is None:
                if len(mutations) == 1 and mutations[0][0] == PUT and not mutations[0][3]:
                    _put, key, value, _lease = mutations[0]
                    old = find(key) or load(key)
                    create, modified, version, lease, payload, ordinal = old
                    if not lease:
                        revision += 1
                        if version or modified > compacted:
                            superseded.append((key, revision, old))
                            if ordinal & 1:  # as in versions.succeed
                                width = 8 * (ordinal & (ordinal + 1)).bit_count()
                                value = payload[HEAD_BYTES : HEAD_BYTES + width] + value
                            else:
                                width = 8 * ordinal.bit_count() - 8
                                trail = payload[HEAD_BYTES : HEAD_BYTES + width] + pack_number(modified)
                                value = trail + value
                        else:
                            ordinal = 0
                        if not version:
                            create = revision
                        version += 1
                        ordinal += 1
                        payload = pack_head(create, revision, version, 0, ordinal) + value
                        records[key] = changed[key] = (create, revision, version, 0, payload, ordinal)
                        verdicts.append(revision)
                        continue
                attempt = Attempt(self, revision + 1)
                rejected = attempt.apply(mutations)
                if rejected is None:
                    revision += 1
                    attempt.commit(superseded, writes)
                    computed.extend([place[1], index, *result] for result in attempt.computed)
                    verdicts.append(revision)
                    continue
            verdicts.append(rejected)
            skipped.append([index, verdict_to_raw(rejected)])

        self.revision = Revision(revision)
        if session is not None:
            sequences = [offer[0] for offer in offers]
            decided = verdicts
            last = sequences[-1]
            if repeated:
                kept = [index for index in range(len(offers)) if index not in repeated]
                sequences = [sequences[index] for index in kept]
                decided = [verdicts[index] for index in kept]
            self._sessions.close(client, place, revision, last, sequences, decided, writes)
        return verdicts, skipped

    def _finish(
        self,
        slot: Slot,
        superseded: list[Superseded],
        outcome: bytes,
        writes: list[Write],
    ) -> None:
        """Append the slot's own records to ``writes``."""
        changed = self.changed.records
        if changed:
            key = number_key(RECENT, slot)
            payload = msgpack.packb([self.revision, *changed])
            dropped = self._recent.add(slot, self.revision, list(changed), len(payload))
            writes.append((key, seal(key, payload)))
            writes.extend((number_key(RECENT, old), None) for old in dropped)
        key = number_key(OUTCOME, slot)
        writes.append((key, seal(key, outcome)))
        state = State(
            FORMAT,
            slot,
            self.revision,
            self.chain,
            self.compacted,
            self._sessions.forgotten_floor,
            self._recent.floor,
        )
        writes.append((STATE, state.seal()))
        floor = self.slots.floor(self._log_reach_bytes)
        self.versions.commit(slot, self.revision, changed, superseded, outcome, writes, floor)

    # -- the early check ------------------------------------------------------------

    def seen(self, client: bytes, sequence: int, base: int | None = None) -> Verdict | None:
        """Return the verdict of an offer id that was decided before, ``EXPIRED`` for one that is
        forgotten (of an unknown client only if ``base`` is given), else None."""
        return self._sessions.find(client, sequence, base)

    def outcome(self, client: bytes, sequence: int) -> Verdict | None:
        """Return what became of an offer id; None: not folded here so far, or its client is forgotten."""
        return self._sessions.find(client, sequence)

    def early_verdicts(self, client: bytes, base: int, offers: Sequence[Sequence[Any]]) -> dict[int, Verdict]:
        """Return what can be said of a batch before it is proposed: verdicts by index in ``offers``.

        That is ``seen``, else ``doomed``, of each offer; those of which nothing is known yet are not in it.
        """
        self.versions.trim()
        session = self._sessions.get(client) if client else None
        if client and base < (self._sessions.forgotten_floor if session is None else session.opened):
            sequences = enumerate(offer[0] for offer in offers)
            return {
                index: self._sessions.find(client, sequence, base) or EXPIRED for index, sequence in sequences
            }
        last = -1 if session is None else session.last
        compacted, conditions = self.compacted, self._conditions
        find, load = self.versions.young.get, self.versions.load
        found: dict[int, Verdict] = {}
        for index, offer in enumerate(offers):
            sequence, _label, at, reads, ranges, expect, _mutations = offer
            if sequence <= last and session is not None:
                verdict = session.find(sequence)
                if verdict is not None:
                    found[index] = verdict
                    continue
            if ranges or expect or (reads and at < compacted):
                rejected = conditions.doomed(offer, compacted, self.revision)
                if rejected is not None:
                    found[index] = rejected
                continue
            for key in reads:
                record = find(key) or load(key)
                if record[1] > at:
                    found[index] = Rejected(Reason.READ, f"reads[{reads.index(key)}]", key, record[1])
                    break
        return found

    def doomed(self, offer: Sequence[Any]) -> Rejected | None:
        """Return the receipt of an offer (packed form) that no later slot can accept, else None.

        Only what stays false for ever counts: a key that was modified after ``at`` stays so, and
        a modification revision that has passed does not come back. The receipt may differ
        from the one that the fold would give later, but it is a rejection there too. The caller
        must have asked ``seen`` first: an offer that was accepted dooms its own repetition.
        """
        self.versions.trim()
        return self._conditions.doomed(offer, self.compacted, self.revision)

    # -- reads ----------------------------------------------------------------------

    @property
    def leases(self) -> Mapping[int, Lease]:
        """The leases that live, by id. Not to be changed."""
        return self.lease_table.leases

    @property
    def forgotten_floor(self) -> int:
        """The lowest base with which a client that is not known may offer."""
        return self._sessions.forgotten_floor

    @property
    def sessions(self) -> int:
        """How many clients' offer ids are remembered."""
        return len(self._sessions)

    def get(self, key: bytes, at: int | None = None) -> Record | None:
        """Return the record of ``key`` now, or as of revision ``at``; None if it did not exist.

        Raises ``RevisionCompacted``, ``RevisionInFuture``, ``RecordDamaged``.
        """
        revision = self._readable(at)
        self.versions.trim()
        record = self.versions.at(key, self.versions.current(key), revision)
        return shown(record) if record[2] else None

    def scan(
        self, start: bytes, end: bytes, at: int | None, limit_keys: int, limit_bytes: int
    ) -> tuple[list[tuple[bytes, Record]], bytes | None]:
        """Return (a page of (key, record) of the range in order, the key where the next one starts).

        A page ends at ``limit_keys``, or when keys and values pass ``limit_bytes`` (it holds one
        record at least), or after looking at many deleted keys, so it may be short or even empty:
        only a next key of None means the end. Pass the same ``at`` for every page to read all
        of them from one revision. Raises like ``get``.
        """
        page, following = self.page(start, end, at, limit_keys, limit_bytes)
        return list(page), following

    def page(
        self, start: bytes, end: bytes, at: int | None, limit_keys: int, limit_bytes: int
    ) -> tuple[Page, bytes | None]:
        """Like ``scan``, but return the page in columns."""
        return read_page(self.versions, start, end, self._readable(at), limit_keys, limit_bytes)

    def _readable(self, at: int | None) -> int:
        if at is None:
            return self.revision
        if at > self.revision:
            raise RevisionInFuture(Revision(at), self.revision)
        if at < self.compacted:
            raise RevisionCompacted(Revision(at), self.compacted)
        return at

    # -- what the caller reports ------------------------------------------------------

    def flushed(self, slot: Slot) -> None:
        """The writes of every fold up to ``slot`` are in storage and may be forgotten here."""
        self.versions.flushed(slot)

    def compact_step(self, max_records: int) -> list[Write]:
        """Return removals of forgotten history, looking at up to ``max_records`` records.

        Empty when there is nothing left to do, but also where nothing was found on the way.
        Store them behind the writes of every slot folded so far and before those of later ones.
        """
        return self.versions.compact_step(self.compacted, max_records)

    @property
    def is_compacting(self) -> bool:
        """Whether ``compact_step`` still has something to do."""
        return self.versions.is_compacting(self.compacted)


def _family(reader: Reader, family: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, unseal(key, sealed)) for key, sealed in reader.iterate(family, family_end(family))]


__all__ = [
    "CHAIN_START",
    "Change",
    "Commit",
    "Folded",
    "Lease",
    "Record",
    "Space",
    "commits",
]
