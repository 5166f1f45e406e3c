"""What a recorded history is made of, and how it is read from JSON lines.

The format is described in ``docs/history-format.md``. Keys and values are bytes; in
JSON, and everywhere in this package, they are strings whose characters are the
bytes' own numbers (latin-1): readable for plain text, reversible for the rest, and
ordered as the bytes are. Client ids are hexadecimal. Times are nanoseconds of the
machine's monotonic clock, which all processes of one machine share.

This package judges the journal, so it must not use what it judges: nothing but the
recorder's client (``synod.history.client``) imports from ``journal``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = "synod-history"
VERSION = 1


class HistoryInvalid(ValueError):
    """The history itself cannot be read: nothing can be said about the journal."""


# -- what was asked ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OfferAsked:
    """One offer. ``label`` is unique in the whole history: it ties the offer to its commit."""

    label: str
    mutations: tuple[Mapping[str, Any], ...]
    reads: tuple[str, ...] = ()
    ranges: tuple[tuple[str, str], ...] = ()
    expect: tuple[tuple[str, int], ...] = ()
    at: int = 0
    id: tuple[str, int] | None = None
    """(client id, sequence) if the recording client knew it beforehand."""


@dataclass(frozen=True, slots=True)
class GetAsked:
    keys: tuple[str, ...]
    consistency: str
    at_least: int = 0
    at: int | None = None


@dataclass(frozen=True, slots=True)
class ScanAsked:
    start: str
    end: str
    consistency: str
    at_least: int = 0
    at: int | None = None


@dataclass(frozen=True, slots=True)
class TailAsked:
    after: int
    prefixes: tuple[str, ...] = ()
    node: int | None = None
    """The node that was asked, if the recorder chose one."""
    final: bool = False
    """Taken when all was over: must reach the end of the history."""


@dataclass(frozen=True, slots=True)
class OutcomeAsked:
    """What became of the offer with this label?"""

    label: str


@dataclass(frozen=True, slots=True)
class CompactAsked:
    revision: int


@dataclass(frozen=True, slots=True)
class KeepAliveAsked:
    """Give a lease a full term from now."""

    lease: int


Asked = OfferAsked | GetAsked | ScanAsked | TailAsked | OutcomeAsked | CompactAsked | KeepAliveAsked


# -- what was answered ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    revision: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A receipt. ``revision`` is the modification that won; ``label`` who made it, if told."""

    reason: str
    key: str = ""
    revision: int = 0
    where: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody knows whether it had its effect (also: the client died)."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It certainly had no effect and never will."""

    why: str


class Record(NamedTuple):
    create: int
    mod: int
    version: int
    lease: int
    value: str


@dataclass(frozen=True, slots=True)
class GetAnswered:
    revision: int
    records: tuple[Record | None, ...]


@dataclass(frozen=True, slots=True)
class ScanAnswered:
    revision: int
    items: tuple[tuple[str, Record], ...]
    next_key: str | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """An outcome query: not applied so far."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A tail was closed, or a compaction was done."""


@dataclass(frozen=True, slots=True)
class KeptAlive:
    """The lease lives for ``ttl_ms`` at least, counted from the invocation."""

    ttl_ms: int


@dataclass(frozen=True, slots=True)
class LeaseGone:
    """A keep-alive: there is no such lease any more."""


Answer = (
    Accepted
    | Rejected
    | Unknown
    | Refused
    | GetAnswered
    | ScanAnswered
    | Absent
    | Ended
    | KeptAlive
    | LeaseGone
)


class Change(NamedTuple):
    key: str
    value: str | None
    """None: deleted."""
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    revision: int
    client: str
    sequence: int
    label: str
    changes: tuple[Change, ...]
    slot: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a tail, received at ``time``."""

    time: int
    first: int
    last: int
    commits: tuple[Commit, ...]


@dataclass(slots=True)
class Operation:
    """One invocation, and its completion if there was one."""

    client: str
    op: int
    invoked: int
    asked: Asked
    completed: int | None = None
    answer: Answer | None = None
    messages: list[Message] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.client}/{self.op}"


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody did to the cluster meanwhile; shown around a violation."""

    time: int
    text: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A node's hash chain after it folded ``slot``."""

    time: int
    node: int
    slot: int
    chain: str


@dataclass(frozen=True, slots=True)
class Base:
    """What the space held when the recording began, where that was not its own beginning."""

    revision: int = 0
    items: tuple[tuple[str, Record], ...] = ()


@dataclass(slots=True)
class History:
    operations: list[Operation] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    foreign_any: bool = False
    """Commits of clients that were not recorded are expected (demo: schedulers, agents)."""
    base: Base = field(default_factory=Base)


# -- JSON to objects --------------------------------------------------------------


def _asked(kind: str, o: Mapping[str, Any]) -> Asked:
    if kind == "offer":
        ident = o.get("id")
        return OfferAsked(
            label=o["label"],
            mutations=tuple(o["mutations"]),
            reads=tuple(o.get("reads", ())),
            ranges=tuple((start, end) for start, end in o.get("ranges", ())),
            expect=tuple((key, revision) for key, revision in o.get("expect", ())),
            at=o.get("at", 0),
            id=(ident[0], ident[1]) if ident else None,
        )
    if kind == "get":
        return GetAsked(tuple(o["keys"]), o["consistency"], o.get("at_least", 0), o.get("at"))
    if kind == "scan":
        return ScanAsked(o["start"], o["end"], o["consistency"], o.get("at_least", 0), o.get("at"))
    if kind == "tail":
        return TailAsked(o["after"], tuple(o.get("prefixes", ())), o.get("node"), o.get("final", False))
    if kind == "outcome":
        return OutcomeAsked(o["label"])
    if kind == "compact":
        return CompactAsked(o["revision"])
    if kind == "keep_alive":
        return KeepAliveAsked(o["lease"])
    raise HistoryInvalid(f"unknown kind {kind!r}")


def _record(o: list[Any]) -> Record:
    create, mod, version, lease, value = o
    return Record(create, mod, version, lease, value)


def _answer(o: Mapping[str, Any]) -> Answer:
    if "accepted" in o:
        return Accepted(o["accepted"])
    if "rejected" in o:
        return Rejected(**o["rejected"])
    if "unknown" in o:
        return Unknown(o["unknown"])
    if "refused" in o:
        return Refused(o["refused"])
    if "records" in o:
        return GetAnswered(o["revision"], tuple(_record(r) if r else None for r in o["records"]))
    if "items" in o:
        items = tuple((key, _record(record)) for key, record in o["items"])
        return ScanAnswered(o["revision"], items, o.get("next"))
    if "absent" in o:
        return Absent()
    if "ended" in o:
        return Ended()
    if "ttl_ms" in o:
        return KeptAlive(o["ttl_ms"])
    if "lease_gone" in o:
        return LeaseGone()
    raise HistoryInvalid(f"a completion without a known answer: {sorted(o)}")


def _commit(o: list[Any]) -> Commit:
    revision, client, sequence, label, changes, slot = o
    return Commit(revision, client, sequence, label, tuple(Change(*change) for change in changes), slot)


def _objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place, object) of a file. A torn last line is what a killed recorder leaves: ignored."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{path.name}:{number}"
            try:
                parsed = json.loads(line)
            except ValueError as error:
                if line.endswith("\n"):
                    raise HistoryInvalid(f"{place}: not JSON: {error}") from None
                return
            if not isinstance(parsed, dict):
                raise HistoryInvalid(f"{place}: not an object")
            yield place, parsed


def load(paths: Iterable[Path]) -> History:
    """Read the files of one history: each process that took part wrote its own."""
    history = History()
    running: dict[tuple[str, int], Operation] = {}
    for path in paths:
        for place, o in _objects(path):
            try:
                _take(history, running, o)
            except HistoryInvalid as error:
                raise HistoryInvalid(f"{place}: {error}") from None
            except (KeyError, TypeError, ValueError) as error:
                raise HistoryInvalid(f"{place}: {type(error).__name__}: {error}") from None
    history.operations.sort(key=lambda operation: operation.invoked)
    history.notes.sort(key=lambda note: note.time)
    return history


def _take(history: History, running: dict[tuple[str, int], Operation], o: Mapping[str, Any]) -> None:
    event = o["event"]
    if event == "begin":
        if (o["format"], o["version"]) != (FORMAT, VERSION):
            raise HistoryInvalid(
                f"format {o['format']!r} version {o['version']}: this reads {FORMAT} {VERSION}"
            )
        history.foreign_any = history.foreign_any or bool(o.get("foreign_any", False))
    elif event == "invoke":
        key = (o["client"], o["op"])
        if key in running:
            raise HistoryInvalid(f"operation {key[0]}/{key[1]} is invoked twice")
        operation = Operation(*key, invoked=o["t"], asked=_asked(o["kind"], o))
        running[key] = operation
        history.operations.append(operation)
    elif event == "complete":
        operation = running[(o["client"], o["op"])]
        if operation.completed is not None:
            raise HistoryInvalid(f"operation {operation.name} completes twice")
        if o["t"] < operation.invoked:
            raise HistoryInvalid(f"operation {operation.name} completes before its invocation")
        operation.completed, operation.answer = o["t"], _answer(o)
    elif event == "message":
        operation = running[(o["client"], o["op"])]
        commits = tuple(_commit(commit) for commit in o["commits"])
        operation.messages.append(Message(o["t"], o["first"], o["last"], commits))
    elif event == "note":
        history.notes.append(Note(o["t"], o["text"]))
    elif event == "base":
        if history.base.revision:
            raise HistoryInvalid("a second base: a history has one beginning")
        items = tuple((key, _record(record)) for key, record in o["items"])
        history.base = Base(o["revision"], items)
    elif event == "chain":
        history.chains.append(Chain(o["t"], o["node"], o["slot"], o["chain"]))
    else:
        raise HistoryInvalid(f"unknown event {event!r}")
