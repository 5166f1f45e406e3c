"""Is everything there, and is it what it should be? Looked at offline, in a folder or a snapshot file.

What is checked, and what each finds:

* every record's seal: flipped bits, records under a wrong key;
* the identity, the state, the promise: that they decode;
* the chain: that each slot's outcome follows from the one before it and from the log's entry, up to
  the state: an entry or an outcome that was exchanged, with a good checksum too;
* the fold: where the log reaches back to slot 1, it is folded again, and must come to the very same
  records: a record that was lost, added or never written;
* what points at what: history that a trail leads to and that is missing, or that nothing leads to; keys
  and leases that do not agree; log records at or below the applied slot that are missing.

It only reads. A folder must not be in use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from struct import Struct

from journal.commits import OUTCOME_HEAD, Outcome, outcome_head
from journal.ended import unpack_page
from journal.errors import DataFolderError, JournalError, ProtocolViolation, RecordDamaged, SnapshotDamaged
from journal.snapshots.file import reading
from journal.snapshots.records import FAMILIES, walk
from journal.snapshots.records import history as whole_history
from journal.space import CHAIN_START, Space
from journal.state import State, read_state
from journal.storage import Storage
from journal.storage.identity import read_identity
from journal.storage.leveldb import LevelDBStorage
from journal.storage.records import (
    ACCEPTED,
    BINDING,
    CURRENT,
    DISOWNED,
    ENDED,
    HISTORY,
    IDENTIFIER,
    IDENTITY,
    LEASE,
    MEMBERSHIP,
    MEMBERSHIP_AGAIN,
    NUMBER,
    OUTCOME,
    PEER,
    PROMISED,
    PROMISED_AGAIN,
    REBUILD,
    RECENT,
    SESSION,
    STAGED,
    STATE,
    SWEPT,
    TRANSFER,
    TRIMMED,
    family_end,
    number_key,
    number_of,
    unseal,
)
from journal.types import Slot
from journal.versions import Stored, decode, parse

FINDINGS_MAX = 100
"""So many are told in full; the rest are counted."""

NAMES = {
    IDENTITY: "identity",
    PEER: "peer",
    DISOWNED: "disowned",
    PROMISED: "promise",
    PROMISED_AGAIN: "promise (copy)",
    ACCEPTED: "log",
    IDENTIFIER: "log identifier",
    MEMBERSHIP: "membership",
    MEMBERSHIP_AGAIN: "membership (copy)",
    REBUILD: "rebuild",
    STATE: "state",
    CURRENT: "key",
    HISTORY: "history",
    ENDED: "history in the log",
    OUTCOME: "outcome",
    RECENT: "recent keys",
    SESSION: "session",
    LEASE: "lease",
    BINDING: "binding",
    SWEPT: "compaction",
    TRIMMED: "trimmed",
    STAGED: "staged",
    TRANSFER: "transfer",
}

_BALLOT_BYTES = 12
_SLOT_AND_LENGTH = Struct(">QQ")
_BATCH = 2_000
OnProgress = Callable[[str], None]


@dataclass(slots=True)
class Report:
    """What was looked at, and what is wrong with it."""

    name: str
    kind: str
    """``folder`` or ``snapshot``."""
    facts: dict[str, object] = field(default_factory=dict)
    records: int = 0
    checked: list[str] = field(default_factory=list)
    """What was checked, in words."""
    skipped: list[str] = field(default_factory=list)
    """What could not be, and why."""
    findings: list[str] = field(default_factory=list)
    more: int = 0
    """Findings beyond those that are told."""

    def find(self, text: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)
        else:
            self.more += 1

    @property
    def is_whole(self) -> bool:
        return not self.findings


async def verify(path: Path, on_progress: OnProgress = lambda _text: None) -> Report:
    """Look at a snapshot file or a node's data folder. Raises ``DataFolderError`` or ``OSError`` where
    there is nothing to look at."""
    if _is_file(path):
        return await verify_file(path, on_progress)
    report = Report(str(path), "folder")
    try:
        storage = LevelDBStorage(path, create=False)
    except DataFolderError:
        raise
    except JournalError as error:
        report.find(f"LevelDB does not open it: {error}")
        return report
    try:
        await verify_folder(storage, report, on_progress)
    finally:
        storage.close()
    return report


def _is_file(path: Path) -> bool:
    if path.is_dir() and not (path / "CURRENT").exists():
        raise DataFolderError(f"{path} holds no data: it is neither a node's folder nor a snapshot")
    return not path.is_dir()


async def verify_file(path: Path, on_progress: OnProgress = lambda _text: None) -> Report:
    """Look at a snapshot file: blocks and whole, then its records as a space."""
    report = Report(str(path), "snapshot")
    with tempfile.TemporaryDirectory(prefix="synod-verify-") as scratch:
        storage = LevelDBStorage(Path(scratch) / "db")
        try:
            on_progress("blocks")
            with reading(path) as reader:
                header = reader.header
                report.facts = {
                    "cluster": header.cluster,
                    "node": header.node,
                    "revision": header.revision,
                    "compacted": header.compacted,
                    "slot": header.slot,
                    "chain": header.chain.hex(),
                    "time_ms": header.time_ms,
                }
                records = reader.records()
                while batch := list(islice(records, _BATCH)):
                    await storage.write(batch, sync=False)
            report.checked.append("blocks, count and checksum of the whole")
            state = _verify_records(storage, report, set(FAMILIES))
            if state is not None and (state.applied, state.revision, state.chain, state.compacted) != (
                header.slot,
                header.revision,
                header.chain,
                header.compacted,
            ):
                report.find("its header is not of the state that it holds")
            on_progress("references")
            _verify_references(storage, report, state)
        except SnapshotDamaged as error:
            report.find(f"at byte {error.position}: {error.why}")
        finally:
            storage.close()
    return report


async def verify_folder(
    storage: Storage, report: Report, on_progress: OnProgress = lambda _text: None
) -> None:
    """Look at a node's storage. Reads only; adds to ``report``."""
    on_progress("records")
    try:
        state = _verify_records(storage, report, set(NAMES))
        _verify_identity(storage, report)
        if storage.get(TRANSFER) is not None:
            report.skipped.append("chain, fold and references: a snapshot is being fetched or installed")
            return
        if storage.get(REBUILD) is not None:
            report.skipped.append("chain, fold and references: the space is being rebuilt")
            return
        on_progress("chain")
        is_whole_log = _verify_chain(storage, report, state)
        on_progress("references")
        _verify_references(storage, report, state)
        if is_whole_log and state is not None:
            on_progress("fold")
            await _verify_fold(storage, report, state)
        elif state is not None:
            report.skipped.append("fold: the log does not reach back to slot 1")
    except JournalError as error:  # LevelDB itself cannot read a part of it
        report.find(str(error))


# -- records -----------------------------------------------------------------------------------


def _shown(key: bytes) -> str:
    name = NAMES.get(key[:1], "unknown")
    rest = key[1:]
    if key[:1] in (ACCEPTED, IDENTIFIER, OUTCOME, RECENT, MEMBERSHIP, MEMBERSHIP_AGAIN) and len(rest) == 8:
        return f"{name} of slot {number_of(key)}"
    if key[:1] == ENDED and len(rest) == 8:
        return f"{name} of the slot of revision {number_of(key)}"
    if key[:1] == HISTORY and len(rest) >= 8:
        return f"{name} of {rest[8:]!r} up to revision {number_of(key[:9])}"
    return f"{name} {rest!r}" if rest else name


def _verify_records(storage: Storage, report: Report, known: set[bytes]) -> State | None:
    """Look at the seal of every record."""
    damaged = 0
    for key, sealed in storage.iterate(b"", None):
        report.records += 1
        if key[:1] not in known:
            report.find(f"{_shown(key)}: no record of this kind belongs here ({key[:40]!r})")
            continue
        try:
            unseal(key[1:] if key[:1] == STAGED else key, sealed)
        except RecordDamaged as error:
            damaged += 1
            report.find(f"{_shown(key)}: {str(error).partition(': ')[2]}")
    report.checked.append(f"the seals of {report.records} records")
    try:
        state = read_state(storage)
    except JournalError as error:
        report.find(f"state: {error}")
        return None
    if state is not None:
        report.facts |= {
            "revision": state.revision,
            "compacted": state.compacted,
            "slot": state.applied,
            "chain": state.chain.hex(),
        }
    return state


def _verify_identity(storage: Storage, report: Report) -> None:
    try:
        identity = read_identity(storage, report.name)
        if identity is None:
            report.find("identity: it is missing")
        else:
            report.facts |= {"cluster": identity.cluster, "node": identity.node}
    except JournalError as error:
        report.find(f"identity: {error}")


def _payload(storage: Storage, key: bytes) -> bytes | None:
    """Return the payload of an intact record; None for one that is missing or (told already) damaged."""
    sealed = storage.get(key)
    try:
        return None if sealed is None else unseal(key, sealed)
    except RecordDamaged:
        return None


# -- the chain ------------------------------------------------------------------------------------


def _verify_chain(storage: Storage, report: Report, state: State | None) -> bool:
    """Follow the chain from slot to slot; return whether the log is whole, from slot 1 on."""
    applied = 0 if state is None else state.applied
    first = applied + 1
    for key, _sealed in storage.iterate(OUTCOME, family_end(OUTCOME)):
        first = min(first, int(number_of(key)))
        break
    report.facts["log_first"] = first
    for key, _sealed in storage.iterate(number_key(OUTCOME, applied + 1), family_end(OUTCOME)):
        report.find(f"{_shown(key)}: it is above the applied slot {applied}")
    for family in (ACCEPTED, IDENTIFIER):
        for key, _sealed in storage.iterate(family, number_key(family, first)):
            report.find(f"{_shown(key)}: it is below the first outcome, of slot {first}")
    before: Outcome | None = Outcome(CHAIN_START, 0, 0, b"") if first == 1 else None  # type: ignore[arg-type]
    is_whole = first == 1
    checked = 0
    for slot in range(first, applied + 1):
        outcome, entry = _outcome(storage, report, slot), _entry(storage, report, slot)
        if outcome is None or entry is None:
            is_whole = False
        elif before is not None:
            checked += 1
            _verify_link(report, Slot(slot), before, outcome, entry)
        before = outcome
    last = None if state is None else (state.chain, state.revision)
    if first <= applied and before is not None and (before.chain, before.after) != last:
        report.find(f"state: its chain and revision are not those of the outcome of slot {applied}")
    report.checked.append(f"the chain over {checked} slots")
    return is_whole


def _outcome(storage: Storage, report: Report, slot: int) -> Outcome | None:
    key = number_key(OUTCOME, slot)
    payload = _payload(storage, key)
    try:
        if payload is not None:
            return outcome_head(payload)
    except ProtocolViolation as error:
        report.find(f"{_shown(key)}: {error}")
        return None
    if storage.get(key) is None:
        report.find(f"{_shown(key)}: it is missing")
    return None


def _entry(storage: Storage, report: Report, slot: int) -> bytes | None:
    key = number_key(ACCEPTED, slot)
    payload = _payload(storage, key)
    if payload is not None:
        return payload[_BALLOT_BYTES:]
    if storage.get(key) is None:
        report.find(f"{_shown(key)}: it is missing, though the slot is folded")
    return None


def _verify_link(report: Report, slot: Slot, before: Outcome, outcome: Outcome, entry: bytes) -> None:
    if outcome.before != before.after:
        report.find(f"outcome of slot {slot}: it goes on from revision {outcome.before}, not {before.after}")
        return
    link = sha256(OUTCOME_HEAD.pack(before.chain, outcome.before, outcome.after))
    link.update(_SLOT_AND_LENGTH.pack(slot, len(entry)))
    link.update(entry)
    link.update(outcome.body)
    if link.digest() != outcome.chain:
        report.find(f"slot {slot}: entry and outcome do not give the chain that the outcome names")


# -- what points at what --------------------------------------------------------------------------


def _verify_references(storage: Storage, report: Report, state: State | None) -> None:
    if state is None:
        for key, _sealed in walk(storage, families=FAMILIES):
            report.find(f"{_shown(key)}: there is no state that it could belong to")
        return
    led_to: dict[tuple[bytes, int], int] = {}  # (key, end) -> the ordinal that must be there
    bound: dict[bytes, int] = {}
    for key, sealed in storage.iterate(CURRENT, family_end(CURRENT)):
        record = _decoded(report, key, sealed)
        if record is None:
            continue
        _lead(led_to, key[1:], record, state)
        if record[1] > state.revision:
            report.find(f"{_shown(key)}: it was modified at revision {record[1]}, after the state's")
        if record[3]:
            bound[key[1:]] = record[3]
    history: dict[tuple[bytes, int], int] = {}
    for key, sealed in storage.iterate(HISTORY, family_end(HISTORY)):
        record = _decoded(report, key, sealed)
        end = int(number_of(key[:9]))
        if record is not None:
            _lead(led_to, key[9:], record, state)
            history[key[9:], end] = record[5]
        else:
            history[key[9:], end] = -1
    _verify_pages(storage, report, state, led_to, history)
    for (name, end), ordinal in led_to.items():
        found = history.pop((name, end), None)
        if found is None:
            report.find(
                f"history of {name!r} up to revision {end}: it is missing, though a record leads to it"
            )
        elif found not in (ordinal, -1):
            report.find(f"history of {name!r} up to revision {end}: it is record {found}, not {ordinal}")
    for (name, end), ordinal in history.items():
        if end > state.compacted and ordinal != -1:
            report.find(f"history of {name!r} up to revision {end}: no record leads to it")
    _verify_leases(storage, report, bound)
    report.checked.append("what history, leases and keys say of each other")


def _verify_pages(
    storage: Storage,
    report: Report,
    state: State,
    led_to: dict[tuple[bytes, int], int],
    history: dict[tuple[bytes, int], int],
) -> None:
    """Add the older versions of which the log has the values to the others, and find their values."""
    try:
        for key, sealed in storage.iterate(number_key(ENDED, state.compacted + 1), family_end(ENDED)):
            page = unpack_page(key, sealed)
            for name, end, head in zip(page.keys, page.ends, page.heads, strict=True):
                record = parse(head)
                if end > state.compacted:
                    _lead(led_to, name, record, state)
                    history[name, end] = record[5]
        for _record in whole_history(storage):
            pass
    except RecordDamaged as error:
        report.find(
            f"{_shown(error.key)}: an older version is read from it, and {str(error).partition(': ')[2]}"
        )


def _decoded(report: Report, key: bytes, sealed: bytes) -> Stored | None:
    try:
        unseal(key, sealed)
    except RecordDamaged:
        return None  # told already
    try:
        return decode(key, sealed)
    except RecordDamaged as error:
        report.find(f"{_shown(key)}: {error}")
        return None


def _lead(led_to: dict[tuple[bytes, int], int], key: bytes, record: Stored, state: State) -> None:
    """Note which record ended where ``record`` begins: its trail leads there."""
    if record[5] > 1 and record[1] > state.compacted:
        led_to[key, record[1]] = record[5] - 1


def _verify_leases(storage: Storage, report: Report, bound: dict[bytes, int]) -> None:
    leases = {int(number_of(key)) for key, _sealed in storage.iterate(LEASE, family_end(LEASE))}
    for key, _sealed in storage.iterate(BINDING, family_end(BINDING)):
        lease, name = int(NUMBER.unpack_from(key, 1)[0]), key[9:]
        if lease not in leases:
            report.find(f"binding of {name!r} to lease {lease}: there is no such lease")
        if bound.pop(name, None) != lease:
            report.find(f"binding of {name!r} to lease {lease}: the key does not say so")
    for name, lease in bound.items():
        report.find(f"key {name!r}: it is bound to lease {lease}, but there is no record of that")


# -- the fold -------------------------------------------------------------------------------------


async def _verify_fold(storage: Storage, report: Report, state: State) -> None:
    """Fold the whole log again, and compare record by record."""
    with tempfile.TemporaryDirectory(prefix="synod-verify-") as scratch:
        again = LevelDBStorage(Path(scratch) / "db")
        try:
            space = Space(again)
            for slot in range(1, state.applied + 1):
                entry = _payload(storage, number_key(ACCEPTED, slot))
                assert entry is not None, "the log was found whole"
                try:
                    folded = space.fold(Slot(slot), entry[_BALLOT_BYTES:])
                except JournalError as error:
                    report.find(f"slot {slot}: it cannot be folded: {error}")
                    return
                await again.write(folded.writes, sync=False)
                space.flushed(folded.slot)
            _compare(storage, again, report, state)
        finally:
            again.close()
    report.checked.append(f"the fold of {state.applied} slots")


def _compare(storage: Storage, again: Storage, report: Report, state: State) -> None:
    families = [family for family in FAMILIES if family not in (SWEPT, STATE)]
    there = _intact(walk(storage, families=families), report)
    expected = walk(again, families=families)
    one, other = next(there, None), next(expected, None)
    while one is not None or other is not None:
        if other is None or (one is not None and one[0] < other[0]):
            assert one is not None
            report.find(f"{_shown(one[0])}: nothing in the log made it")
            one = next(there, None)
        elif one is None or other[0] < one[0]:
            if storage.get(other[0]) is None and not _is_forgotten(*other, state):
                report.find(f"{_shown(other[0])}: it is missing, though the log made it")
            other = next(expected, None)
        else:
            if one[1] != other[1]:
                report.find(f"{_shown(one[0])}: it is not what the log makes of it")
            one, other = next(there, None), next(expected, None)
    if read_state(again) != state:
        report.find("state: it is not what the log comes to")


def _intact(records: Iterator[tuple[bytes, bytes]], report: Report) -> Iterator[tuple[bytes, bytes]]:
    for key, sealed in records:
        try:
            unseal(key, sealed)
        except RecordDamaged:
            continue  # told already
        yield key, sealed


def _is_forgotten(key: bytes, sealed: bytes, state: State) -> bool:
    """Whether compaction may have removed a record: history that has ended, a tombstone of before."""
    if key[:1] == HISTORY:
        return int(number_of(key[:9])) <= state.compacted
    if key[:1] == CURRENT:
        record = decode(key, sealed)
        return not record[2] and record[1] <= state.compacted
    return False
