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

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from struct import Struct
from typing import Any, Final

import msgpack

from journal.commits import OUTCOME_HEAD, Change, Commit, commits, outcome_head
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
    RecordDamaged,
    RevisionCompacted,
    RevisionInFuture,
)
from journal.lease_table import Lease, LeaseTable
from journal.limits import (
    FOLD_BINDINGS_MAX,
    FOLD_DELETE_RANGE_KEYS_MAX,
    FOLD_LEASE_KEYS_MAX,
    FOLD_LEASES_MAX,
    FOLD_SCAN_RECORDS_MAX,
)
from journal.mutations import Refused, adjust, set_add, set_remove
from journal.offers import (
    ADJUST,
    DELETE,
    DELETE_RANGE,
    EXPIRED,
    LEASE_GRANT,
    PUT,
    SET_ADD,
    Reason,
    Rejected,
    Verdict,
    verdict_to_raw,
)
from journal.recent import RecentKeys
from journal.sessions import Session, Sessions
from journal.state import FORMAT, State, read_state
from journal.storage import Write
from journal.storage.log import trimmed_write
from journal.storage.records import (
    BINDING,
    LEASE,
    LOG_FAMILIES,
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
    ABSENT,
    HEAD,
    HEAD_BYTES,
    Record,
    SpaceReader,
    Stored,
    Versions,
    shown,
    succeed,
    value_of,
)

CHAIN_START: Final = bytes(32)
CACHE_BYTES_MAX: Final = 256 * 1024 * 1024

_SLOT_AND_LENGTH = Struct(">QQ")


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


MISSING: Final[SpaceReader] = _Missing()
"""The reader of a space that is not there yet: ``Space.reload`` gives it one."""


class Space:
    """The state that the history folds into, and the one function that moves it: ``fold``."""

    def __init__(
        self,
        reader: SpaceReader,
        *,
        cache_records_max: int = 200_000,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> None:
        """Make the empty space over an empty ``reader``; use ``load`` for one that has records."""
        self.revision = Revision(0)
        self.applied = Slot(0)
        self.chain = CHAIN_START
        self.compacted = Revision(0)
        """The oldest revision that can be read; history before it is forgotten."""
        self.log_first = Slot(1)
        """The first slot that the log, and what was recorded about its outcome, reaches back to."""
        self._trim_before: tuple[Revision, Slot] | None = None
        self._reader = reader
        self._cache_records_max, self._cache_bytes_max = cache_records_max, cache_bytes_max
        self._versions = Versions(
            reader, cache_records_max=cache_records_max, cache_bytes_max=cache_bytes_max
        )
        self._sessions = Sessions()
        self._leases = LeaseTable()
        self._recent = RecentKeys()
        self._is_broken = False
        # Keys changed by the slot being folded, sorted as far as somebody asked; see _changed_in.
        self._changed: dict[bytes, Stored] = {}
        self._changed_sorted: list[bytes] = []

    @classmethod
    def load(
        cls,
        reader: SpaceReader,
        *,
        cache_records_max: int = 200_000,
        cache_bytes_max: int = CACHE_BYTES_MAX,
    ) -> Space:
        """Restore the space from its records. Raises ``RecordDamaged`` or ``DataFolderError``."""
        space = cls(reader, cache_records_max=cache_records_max, cache_bytes_max=cache_bytes_max)
        space._restore()
        return space

    def reload(self, reader: SpaceReader) -> None:
        """Become what ``reader`` holds, as ``load`` makes it: a snapshot was put in this one's place."""
        Space.__init__(
            self,
            reader,
            cache_records_max=self._cache_records_max,
            cache_bytes_max=self._cache_bytes_max,
        )
        self._restore()

    def read_from(self, reader: SpaceReader) -> None:
        """Read from ``reader`` from now on, which holds this very state, all of it flushed."""
        self._reader = reader
        self._versions.read_from(reader)

    def _restore(self) -> None:
        reader = self._reader
        state = read_state(reader)
        if state is None:
            return
        self.applied, self.revision = state.applied, state.revision
        self.chain, self.compacted = state.chain, state.compacted
        self._versions.restore(self.revision)
        self._sessions = Sessions(state.forgotten_floor)
        self._sessions.restore(_family(reader, SESSION))
        for key, payload in _family(reader, LEASE):
            self._leases.restore_lease(number_of(key), payload)
        for key, _payload in _family(reader, BINDING):
            self._leases.restore_binding(key)
        self._recent = RecentKeys(state.recent_floor)
        for key, payload in _family(reader, RECENT):
            last, *keys = msgpack.unpackb(payload)
            dropped = self._recent.add(number_of(key), last, keys, len(payload))
            assert not dropped, "the records of recent keys are bounded when they are made"
        self.log_first = Slot(self.applied + 1)
        for key, _sealed in reader.iterate(OUTCOME, family_end(OUTCOME)):
            self.log_first = min(self.log_first, number_of(key))
            break

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
        superseded: list[tuple[bytes, int, bytes]] = []
        writes: list[Write] = []
        self._changed, self._changed_sorted = {}, []
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
        link = sha256(OUTCOME_HEAD.pack(self.chain, before, self.revision))
        link.update(_SLOT_AND_LENGTH.pack(slot, len(entry)))
        link.update(entry)
        link.update(body)
        self.chain = chain = link.digest()
        outcome = OUTCOME_HEAD.pack(chain, before, self.revision) + body
        self.applied = slot
        self._finish(slot, len(entry), superseded, outcome, writes)
        self._is_broken = False
        return Folded(
            slot, kind, time_ms, before, self.revision, batches or (), verdicts, outcome, writes, chain
        )

    def _fold_batch(
        self,
        place: tuple[Slot, int],
        batch: Sequence[Any],
        superseded: list[tuple[bytes, int, bytes]],
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
        changed = self._changed
        load = self._versions.load
        records = self._versions.young
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
                    rejected = _bad_at(at, compacted, revision)
            if rejected is None and ranges:
                rejected = self._check_ranges(at, ranges, revision)
            if rejected is None and expect:
                rejected = self._check_expect(expect)
            if rejected is None:
                if len(mutations) == 1 and mutations[0][0] == PUT and not mutations[0][3]:
                    _put, key, value, _lease = mutations[0]
                    create, modified, version, lease, payload, ordinal = find(key) or load(key)
                    if not lease:
                        revision += 1
                        if version or modified > compacted:
                            superseded.append((key, revision, payload))
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
                attempt = _Attempt(self, revision + 1)
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
        entry_bytes: int,
        superseded: list[tuple[bytes, int, bytes]],
        outcome: bytes,
        writes: list[Write],
    ) -> None:
        """Append the slot's own records to ``writes``."""
        changed = self._changed
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
        self._versions.commit(slot, self.revision, changed, superseded, outcome, writes, entry_bytes)

    # -- conditions ---------------------------------------------------------------

    def _check_ranges(self, at: int, ranges: Sequence[Sequence[bytes]], revision: int) -> Rejected | None:
        if not self.compacted <= at <= revision:
            return _bad_at(at, self.compacted, revision)
        for index, (start, end) in enumerate(ranges):
            changed = self._changed_in(start, end)
            key: bytes | None = None
            for candidate in changed:
                if self._modified(candidate) > at:
                    key = candidate
                    break
            if at >= self._recent.floor:
                older = self._recent.changed_after(at, start, end, self._modified)
                if older is not None and (key is None or older < key):
                    key = older
            else:
                key, looked_at_all = self._scan_for_change(at, start, end, changed)
                if not looked_at_all:
                    return Rejected(Reason.LIMIT, f"ranges[{index}]", start, field="FOLD_SCAN_RECORDS_MAX")
            if key is not None:
                return Rejected(Reason.RANGE, f"ranges[{index}]", key, self._modified(key))
        return None

    def _scan_for_change(
        self, at: int, start: bytes, end: bytes, changed: list[bytes]
    ) -> tuple[bytes | None, bool]:
        """Look for the lowest key of the range that was modified after ``at``, record by record.

        Returns (key or None, whether the answer is complete). Tombstones that compaction may
        have removed are passed over uncounted, as other nodes may not have them any more.
        """
        looked = 0
        for key, record in self._versions.scan_current(start, end, changed):
            if record[1] > at:
                return key, True
            if record[2] or record[1] > self.compacted:
                looked += 1
                if looked >= FOLD_SCAN_RECORDS_MAX:
                    return None, False
        return None, True

    def _check_expect(self, expect: Sequence[Sequence[Any]]) -> Rejected | None:
        for index, (key, expected) in enumerate(expect):
            record = self._versions.current(key)
            present = record[1] if record[2] else 0
            if present != expected:
                return Rejected(Reason.EXPECT, f"expect[{index}]", key, present)
        return None

    def _modified(self, key: bytes) -> int:
        return self._versions.current(key)[1]

    def _changed_in(self, start: bytes, end: bytes) -> list[bytes]:
        """Return the keys of the range that the slot being folded has changed so far, sorted.

        The dict of changed keys only grows, at its end, so what came since the last call is sorted in.
        """
        keys = self._changed_sorted
        if len(keys) < len(self._changed):
            new = list(islice(self._changed, len(keys), None))
            if len(new) > 16:
                keys.extend(new)
                keys.sort()
            else:
                for key in new:
                    insort(keys, key)
        return keys[bisect_left(keys, start) : bisect_left(keys, end) if end else len(keys)]

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
        self._versions.trim()
        session = self._sessions.get(client) if client else None
        if client and base < (self._sessions.forgotten_floor if session is None else session.opened):
            sequences = enumerate(offer[0] for offer in offers)
            return {
                index: self._sessions.find(client, sequence, base) or EXPIRED for index, sequence in sequences
            }
        last = -1 if session is None else session.last
        compacted = self.compacted
        find, load = self._versions.young.get, self._versions.load
        found: dict[int, Verdict] = {}
        for index, offer in enumerate(offers):
            sequence, _label, at, reads, ranges, expect, _mutations = offer
            if sequence <= last and session is not None:
                verdict = session.find(sequence)
                if verdict is not None:
                    found[index] = verdict
                    continue
            if ranges or expect or (reads and at < compacted):
                rejected = self._doomed(offer)
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
        self._versions.trim()
        return self._doomed(offer)

    def _doomed(self, offer: Sequence[Any]) -> Rejected | None:
        at, reads, ranges, expect = offer[2:6]
        current = self._versions.current
        if reads or ranges:
            if at < self.compacted:
                return _bad_at(at, self.compacted, self.revision)
            for index, key in enumerate(reads):
                modified = current(key)[1]
                if modified > at:
                    return Rejected(Reason.READ, f"reads[{index}]", key, modified)
        if ranges and self._recent.floor <= at <= self.revision:
            for index, (start, end) in enumerate(ranges):
                changed = self._recent.changed_after(at, start, end, self._modified)
                if changed is not None:
                    return Rejected(Reason.RANGE, f"ranges[{index}]", changed, self._modified(changed))
        for index, (key, expected) in enumerate(expect):
            if 0 < expected <= self.revision:
                record = current(key)
                present = record[1] if record[2] else 0
                if present != expected:
                    return Rejected(Reason.EXPECT, f"expect[{index}]", key, present)
        return None

    # -- reads ----------------------------------------------------------------------

    @property
    def leases(self) -> Mapping[int, Lease]:
        """The leases that live, by id. Not to be changed."""
        return self._leases.leases

    @property
    def sessions(self) -> int:
        """How many clients' offer ids are remembered."""
        return len(self._sessions)

    def get(self, key: bytes, at: int | None = None) -> Record | None:
        """Return the record of ``key`` now, or as of revision ``at``; None if it did not exist.

        Raises ``RevisionCompacted``, ``RevisionInFuture``, ``RecordDamaged``.
        """
        revision = self._readable(at)
        self._versions.trim()
        record = self._versions.at(key, self._versions.current(key), revision)
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
        revision = self._readable(at)
        found: list[tuple[bytes, Record]] = []
        size = 0
        looks = 4 * limit_keys + 1000
        for key, newest in self._versions.scan_current(start, end):
            record = self._versions.at(key, newest, revision)
            looks -= 1
            if record[2]:
                size += len(key) + len(value_of(record))
                if found and (len(found) >= limit_keys or size > limit_bytes):
                    return found, key
                found.append((key, shown(record)))
            elif looks <= 0:
                return found, key + b"\0"
        return found, None

    def _readable(self, at: int | None) -> int:
        if at is None:
            return self.revision
        if at > self.revision:
            raise RevisionInFuture(Revision(at), self.revision)
        if at < self.compacted:
            raise RevisionCompacted(Revision(at), self.compacted)
        return at

    def outcome_record(self, slot: Slot) -> bytes | None:
        """Return what the fold recorded about ``slot``; None if that is trimmed or not folded."""
        found = self._versions.outcome(slot)
        if found is None and 0 < slot <= self.applied:
            key = number_key(OUTCOME, slot)
            sealed = self._reader.get(key)
            found = None if sealed is None else unseal(key, sealed)
        return found

    def chain_at(self, slot: Slot) -> bytes | None:
        """Return the chain after ``slot``, to compare nodes by; None if it is not known here."""
        if slot == 0:
            return CHAIN_START
        if slot == self.applied:
            return self.chain  # after a snapshot there is no record of it
        record = self.outcome_record(slot)
        return None if record is None else outcome_head(record).chain

    def vouches(self, slot: Slot, entry: bytes) -> bool | None:
        """Whether ``entry`` is what was folded in ``slot``, by the chain; None if that is not known here."""
        before = self.chain_at(Slot(slot - 1))
        outcome = self.outcome_record(slot)
        if before is None or outcome is None:
            return None
        head = outcome_head(outcome)
        link = sha256(OUTCOME_HEAD.pack(before, head.before, head.after))
        link.update(_SLOT_AND_LENGTH.pack(slot, len(entry)))
        link.update(entry)
        link.update(outcome[OUTCOME_HEAD.size :])
        return link.digest() == head.chain

    def slot_of(self, revision: Revision) -> Slot:
        """Return the slot in which the offer of ``revision`` (1 or above) was accepted.

        Raises ``RevisionInFuture``, or ``RevisionCompacted`` where the log does not reach back.
        """
        if revision > self.revision:
            raise RevisionInFuture(revision, self.revision)
        low, high = int(self.log_first), int(self.applied)
        if low > high:
            raise RevisionCompacted(revision, Revision(self.revision + 1))
        first = self._outcome_at(low)
        if revision <= first.before:
            raise RevisionCompacted(revision, Revision(first.before + 1))
        while low < high:
            middle = (low + high) // 2
            if self._outcome_at(middle).after >= revision:
                high = middle
            else:
                low = middle + 1
        return Slot(low)

    def _outcome_at(self, slot: int) -> Any:
        record = self.outcome_record(Slot(slot))
        if record is None:
            raise RecordDamaged(number_key(OUTCOME, slot), "it is missing between others")
        return outcome_head(record)

    # -- what the caller reports ------------------------------------------------------

    def flushed(self, slot: Slot) -> None:
        """The writes of every fold up to ``slot`` are in storage and may be forgotten here."""
        self._versions.flushed(slot)

    def compact_step(self, max_records: int) -> list[Write]:
        """Return removals of forgotten history, looking at up to ``max_records`` records.

        Empty when there is nothing left to do, but also where nothing was found on the way.
        Store them behind the writes of every slot folded so far and before those of later ones.
        """
        return self._versions.compact_step(self.compacted, max_records)

    def trim_step(self, keep_from: Slot, slots_max: int) -> list[Write]:
        """Return removals of log and outcome records that nobody is served from any more.

        Those of slots whose revisions are all at or below the compacted one, and that are before
        ``keep_from``, which must be folded and flushed; up to ``slots_max`` slots of them.
        """
        if self._trim_before is None or self._trim_before[0] != self.compacted:
            needed = Revision(self.compacted + 1)
            try:
                before = self.slot_of(needed) if needed <= self.revision else Slot(self.applied + 1)
            except RevisionCompacted:
                before = self.log_first
            self._trim_before = self.compacted, before
        first = self.log_first
        last = min(self._trim_before[1], keep_from, first + slots_max)
        if not self.compacted or last <= first:
            return []
        self.log_first = Slot(last)
        removed: list[Write] = [
            (number_key(family, slot), None) for slot in range(first, last) for family in LOG_FAMILIES
        ]
        return [*removed, trimmed_write(Slot(last - 1))]

    @property
    def oldest_tail(self) -> Revision:
        """The lowest revision after which commits can be told: those of the log, and not compacted."""
        if self.log_first > self.applied:
            return self.revision
        before: Revision = self._outcome_at(self.log_first).before
        return max(self.compacted, before)

    @property
    def is_compacting(self) -> bool:
        """Whether ``compact_step`` still has something to do."""
        return self._versions.is_compacting(self.compacted)


class _Attempt:
    """The mutations of one offer, tried on the side: committed as a whole, or dropped."""

    __slots__ = ("_bound", "_leases", "_space", "_staged", "computed", "revision")

    def __init__(self, space: Space, revision: int) -> None:
        self.revision = revision
        self.computed: list[list[Any]] = []
        """[mutation index, result], as in ``commits``."""
        self._space = space
        self._staged: dict[bytes, Stored] = {}
        self._leases: dict[int, int] = {}  # lease -> ttl in ms; 0: revoked
        self._bound: dict[int, int] = {}  # lease -> keys that this offer binds to it

    def apply(self, mutations: Sequence[Sequence[Any]]) -> Rejected | None:
        """Try all mutations in order; return the receipt of the first that cannot be made."""
        for index, mutation in enumerate(mutations):
            try:
                self._apply(index, mutation)
            except Refused as refused:
                key = mutation[1] if mutation[0] < LEASE_GRANT else b""
                if refused.reason is Reason.LEASE:
                    assert type(refused.actual) is int
                    found = self._space.leases.get(refused.actual)
                    revision = found.granted_revision if found else 0
                else:
                    record = self._current(key) if key else ABSENT
                    revision = record[1] if record[2] and record[1] < self.revision else 0
                return Rejected(
                    refused.reason,
                    f"mutations[{index}]",
                    key,
                    revision,
                    actual=refused.actual,
                    field=refused.field,
                )
        return None

    def _apply(self, index: int, mutation: Sequence[Any]) -> None:
        kind = mutation[0]
        if kind == PUT:
            self._put(mutation[1], mutation[2], mutation[3])
        elif kind == DELETE:
            if self._current(mutation[1])[2]:
                self._bury(mutation[1])
            else:
                self.computed.append([index, None])
        elif kind == DELETE_RANGE:
            self._delete(index, self._keys_in(mutation[1], mutation[2]))
        elif kind == LEASE_GRANT:
            self._grant(mutation[1], mutation[2])
        elif kind > LEASE_GRANT:
            self._revoke(index, mutation[1])
        else:
            self._compute(index, mutation)

    def commit(self, superseded: list[tuple[bytes, int, bytes]], writes: list[Write]) -> None:
        """Make the attempt real."""
        space = self._space
        versions, leases, revision = space._versions, space._leases, self.revision
        for lease, ttl_ms in self._leases.items():
            if ttl_ms and lease not in leases.leases:
                leases.grant(lease, ttl_ms, revision, writes)
        for key, record in self._staged.items():
            old = versions.current(key)
            if record is old:
                continue
            if old[2] or old[1] > space.compacted:
                superseded.append((key, revision, old[4]))
            if old[3] != record[3]:
                leases.rebind(key, old[3], record[3], writes)
            versions.young[key] = space._changed[key] = record
        for lease, ttl_ms in self._leases.items():
            if not ttl_ms and lease in leases.leases:
                leases.revoke(lease, writes)

    # -- keys -----------------------------------------------------------------------

    def _current(self, key: bytes) -> Stored:
        return self._staged.get(key) or self._space._versions.current(key)

    def _stage(self, key: bytes, value: bytes, lease: int) -> None:
        """Give ``key`` a new record. Several mutations of a key in one offer make one version."""
        old = self._space._versions.current(key)
        create, modified, version = self._current(key)[:3]
        if not version:
            create, version = self.revision, 1
        elif modified != self.revision:
            version += 1
        compacted = self._space.compacted
        self._staged[key] = succeed(old, create, self.revision, version, lease, value, compacted)

    def _bury(self, key: bytes) -> None:
        """Give ``key`` a tombstone; where this very offer made it, nothing remains to bury."""
        old = self._space._versions.current(key)
        if old[2]:
            old = succeed(old, 0, self.revision, 0, 0, b"", self._space.compacted)
        self._staged[key] = old

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        if lease and self._current(key)[3] != lease:
            self._bind(lease)
        self._stage(key, value, lease)

    def _compute(self, index: int, mutation: Sequence[Any]) -> None:
        kind, key = mutation[0], mutation[1]
        record = self._current(key)
        if not record[2]:
            raise Refused(Reason.ABSENT)
        present = value_of(record)
        if kind == ADJUST:
            value = adjust(present, mutation[2], mutation[3], mutation[4])
        elif kind == SET_ADD:
            value = set_add(present, mutation[2], mutation[3])
        else:
            value = set_remove(present, mutation[2], mutation[3])
        self._stage(key, value, record[3])
        self.computed.append([index, [value, record[3]]])

    def _keys_in(self, start: bytes, end: bytes) -> list[bytes]:
        """Return the live keys of the range, sorted."""
        space = self._space
        staged = sorted(key for key in self._staged if key >= start and (not end or key < end))
        extra = sorted({*staged, *space._changed_in(start, end)}) if staged else space._changed_in(start, end)
        found: list[bytes] = []
        looked = 0
        for key, newest in space._versions.scan_current(start, end, extra):
            record = self._staged.get(key, newest)
            if record[2]:
                found.append(key)
                if len(found) > FOLD_DELETE_RANGE_KEYS_MAX:
                    raise Refused(Reason.LIMIT, "FOLD_DELETE_RANGE_KEYS_MAX")
            elif record[1] > space.compacted:
                looked += 1
                if looked > FOLD_SCAN_RECORDS_MAX:
                    raise Refused(Reason.LIMIT, "FOLD_SCAN_RECORDS_MAX")
        return found

    def _delete(self, index: int, keys: list[bytes]) -> None:
        for key in keys:
            self._bury(key)
        self.computed.append([index, keys])

    # -- leases ---------------------------------------------------------------------

    def _exists(self, lease: int) -> bool:
        staged = self._leases.get(lease)
        return lease in self._space.leases if staged is None else staged > 0

    def _bind(self, lease: int) -> None:
        """Count one more key for ``lease``; counted per offer, so it may err to the safe side."""
        if not self._exists(lease):
            raise Refused(Reason.LEASE, actual=lease)
        bound = self._bound[lease] = self._bound.get(lease, 0) + 1
        found = self._space.leases.get(lease)
        if bound + (len(found.keys) if found else 0) > FOLD_LEASE_KEYS_MAX:
            raise Refused(Reason.LIMIT, "FOLD_LEASE_KEYS_MAX")
        if self._space._leases.bindings + sum(self._bound.values()) > FOLD_BINDINGS_MAX:
            raise Refused(Reason.LIMIT, "FOLD_BINDINGS_MAX")

    def _grant(self, lease: int, ttl_ms: int) -> None:
        # An id that this offer has revoked stays taken: one offer does not end a lease and renew it.
        if lease in self._leases or lease in self._space.leases:
            raise Refused(Reason.LEASE, actual=lease)
        if len(self._space.leases) + len(self._leases) >= FOLD_LEASES_MAX:
            raise Refused(Reason.LIMIT, "FOLD_LEASES_MAX")
        self._leases[lease] = ttl_ms

    def _revoke(self, index: int, lease: int) -> None:
        if not self._exists(lease):
            raise Refused(Reason.LEASE, actual=lease)
        found = self._space.leases.get(lease)
        keys = {key for key in (found.keys if found else ()) if self._current(key)[3] == lease}
        keys.update(key for key, record in self._staged.items() if record[3] == lease)
        self._delete(index, sorted(keys))
        self._leases[lease] = 0


def _bad_at(at: int, compacted: int, revision: int) -> Rejected:
    if at < compacted:
        return Rejected(Reason.COMPACTED, "at", revision=compacted)
    return Rejected(Reason.FUTURE, "at", revision=revision)


def _family(reader: SpaceReader, family: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, unseal(key, sealed)) for key, sealed in reader.iterate(family, family_end(family))]


__all__ = [
    "CHAIN_START",
    "Change",
    "Commit",
    "Folded",
    "Lease",
    "Record",
    "Space",
    "SpaceReader",
    "commits",
]
