# ruff: noqa: E501  (a table of source texts)
"""Bugs planted on purpose, one for each rule of the fold: the stories must catch every one.

A bug is a piece of source text and what it is replaced with, in a private copy of one module. A
rule whose bug goes unnoticed is a rule without a test.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from itertools import product
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.space import stories as telling

USERS: dict[str, dict[str, tuple[str, ...]]] = {
    "journal.space": {"Space": ("tests.space.world",)},
    "journal.attempt": {"Attempt": ("journal.space",)},
    "journal.conditions": {"Changed": ("journal.space",), "Conditions": ("journal.space",)},
    "journal.ended": {"Ended": ("journal.versions",), "history": ("journal.ended",)},
    "journal.slots": {"Slots": ("journal.space",)},
    "journal.versions": {
        "Versions": ("journal.space",),
        "succeed": ("journal.attempt",),
        "shown": ("journal.space",),
        "decode": ("journal.pages",),
        "parse": ("journal.pages",),
        "value_of": ("journal.attempt",),
        "ABSENT": ("journal.attempt",),
    },
    "journal.sessions": {"Sessions": ("journal.space",)},
    "journal.recent": {"RecentKeys": ("journal.space",)},
    "journal.lease_table": {"LeaseTable": ("journal.space",)},
    "journal.mutations": {
        "adjust": ("journal.attempt",),
        "set_add": ("journal.attempt",),
        "set_remove": ("journal.attempt",),
        "Refused": ("journal.attempt",),
    },
    "journal.commits": {"commits": ("tests.space.stories",)},
}
"""Where the parts of a module are imported by name: there the bugged copy is put in their place."""


@dataclass(frozen=True)
class Bug:
    rule: str
    module: str
    right: str
    wrong: str
    few_sessions: bool = False
    short_memory: bool = False
    merging: bool = False

    def __str__(self) -> str:
        return self.rule


BUGS = [
    # -- conditions
    Bug("a read changed after at", "journal.space", "if record[1] > at:\n                            where", "if record[1] > at + 1:\n                            where"),
    Bug("compacted reads", "journal.space", "if compacted <= at <= revision:", "if at <= revision:"),
    Bug("future reads", "journal.space", "if compacted <= at <= revision:", "if compacted <= at:"),
    Bug("ranges are checked", "journal.space", "if rejected is None and ranges:", "if False:"),
    Bug("a range sees its own slot", "journal.conditions", "            changed = self._changed.within(start, end)\n            key: bytes", "            changed: list[bytes] = []\n            key: bytes"),
    Bug("a range takes the lowest key", "journal.conditions", "if older is not None and (key is None or older < key):", "if older is not None:"),
    Bug("expectations are checked", "journal.space", "if rejected is None and expect:", "if False:"),
    Bug("a deleted key is not there", "journal.conditions", "            present = record[1] if record[2] else 0\n            if present != expected:", "            present = record[1]\n            if present != expected:"),
    Bug("deletions are modifications", "journal.attempt", "old = succeed(old, 0, self.revision, 0, 0, b\"\", self._space.compacted)", "old = (0, 1, 0, 0, succeed(old, 0, 1, 0, 0, b\"\", 0)[4], old[5] + 1)"),
    Bug("what came and went within an offer was never there", "journal.attempt", "        if old[2]:\n            old = succeed(", "        if True:\n            old = succeed("),
    Bug("recent keys reach back to at", "journal.recent", "if run.last <= at:", "if run.last <= at + 1:"),
    Bug("recent keys are asked for their revision", "journal.recent", "if modified(key) > at:", "if modified(key):"),
    Bug("recent keys end before the end", "journal.recent", "stop = bisect_left(keys, end) if end else len(keys)", "stop = len(keys)"),
    Bug("merged keys are sorted", "journal.recent", "                keys.sort()", "                pass", merging=True),
    Bug("a merged run ends with the newer", "journal.recent", "_Run(newer.last,", "_Run(merged[-1].last,", merging=True),
    Bug("a short memory knows where it ends", "journal.recent", "old, self.floor, old_size = self._slots.popleft()", "old, _, old_size = self._slots.popleft()", short_memory=True),
    Bug("the scan for a change finds it", "journal.conditions", "            if record[1] > at:\n                return key, True", "            if record[1] > at + 1:\n                return key, True", short_memory=True),
    # -- mutations
    Bug("all or nothing", "journal.space", "                if rejected is None:\n                    revision += 1\n                    attempt.commit", "                if rejected is not None:\n                    attempt.commit(superseded, writes)\n                else:\n                    revision += 1\n                    attempt.commit"),
    Bug("later mutations see earlier ones", "journal.attempt", "return self._staged.get(key) or self._space.versions.current(key)", "return self._space.versions.current(key)"),
    Bug("one version for one offer", "journal.attempt", "elif modified != self.revision:", "else:"),
    Bug("a new key is at version 1", "journal.attempt", "create, version = self.revision, 1", "create, version = self.revision, 2"),
    Bug("delete_range sees the offer's own puts", "journal.attempt", "record = self._staged.get(key, newest)", "record = newest"),
    Bug("bounds: minimum", "journal.mutations", "if name in minimum and", "if False and"),
    Bug("bounds: maximum", "journal.mutations", "if name in maximum and", "if False and"),
    Bug("bounds: 64 bits", "journal.mutations", "in_bounds = INT64_MIN <= result <= INT64_MAX", "in_bounds = INT64_MIN <= result"),
    Bug("a flag is not a number", "journal.mutations", "if type(present) is not int and type(present) is not float:", "if not isinstance(present, int | float):"),
    Bug("a member is added once", "journal.mutations", "        if member in present:\n", "        if False:\n"),
    Bug("a member that is not there is not removed", "journal.mutations", "        if member not in present:\n            raise", "        if False:\n            raise"),
    # -- leases
    Bug("a put names a lease that lives", "journal.attempt", "        if not self._exists(lease):\n            raise Refused(Reason.LEASE, actual=lease)\n        bound", "        bound"),
    Bug("a plain put unbinds", "journal.space", "if not lease:\n                        revision += 1", "if True:\n                        revision += 1"),
    Bug("a revoked lease takes its keys along", "journal.attempt", "self._delete(index, sorted(keys))", "self._delete(index, [])"),
    Bug("only bound keys go", "journal.attempt", "if self._current(key)[3] == lease}", "}"),
    Bug("bindings are durable", "journal.lease_table", "writes.append((record, seal(record, b\"\")))", "pass"),
    Bug("leases are durable", "journal.lease_table", "writes.append((key, seal(key, NUMBER.pack(ttl_ms) + NUMBER.pack(revision))))", "pass"),
    # -- exactly once
    Bug("a repeated id is noticed", "journal.space", "may_repeat = session is not None and", "may_repeat = False and"),
    Bug("ids below the floor are expired", "journal.sessions", "        if sequence < self.floor:\n            return EXPIRED", "        pass"),
    Bug("verdicts are durable", "journal.sessions", "writes.append((record, seal(record, payload)))", "pass"),
    Bug("the floor is durable", "journal.sessions", "session.floor, session.last, session.revision = floor, last, revision", "session.last, session.revision = last, revision"),
    Bug("a repeated batch does not count as a new one", "journal.space", "kept = [index for index in range(len(offers)) if index not in repeated]", "kept = list(range(len(offers)))"),
    Bug("the longest idle goes first", "journal.sessions", "session = self._sessions.pop(client)\n        self._sessions[client] = session", "session = self._sessions[client]", few_sessions=True),
    Bug("idleness survives a restart", "journal.sessions", "sorted(found, key=lambda item: item[0][1:])", "sorted(found)", few_sessions=True),
    Bug("what is forgotten stays refused", "journal.sessions", "session.revision + 1", "session.revision", few_sessions=True),
    Bug("the forgotten floor is durable", "journal.space", "self._sessions = Sessions(state.forgotten_floor)", "self._sessions = Sessions()", few_sessions=True),
    Bug("records of forgotten clients go", "journal.sessions", "writes.extend((chunk.record, None) for chunk in session.chunks)", "pass", few_sessions=True),
    # -- versions, cache, restart
    Bug("the state rides with what it folds", "journal.space", "        writes.append((STATE, state.seal()))\n", "        pass\n"),
    Bug("an older version is kept", "journal.space", "                            superseded.append((key, revision, old))", "                            pass"),
    Bug("the log is kept for the older versions in it", "journal.slots", "Revision(self._space.versions.log_needed_after(compacted))", "Revision(compacted)"),
    Bug("also for those that are not stored yet", "journal.versions", "floor = next(floors, compacted)", "floor = compacted"),
    Bug("but no longer than it is to reach", "journal.space", "self.slots.floor(self._log_reach_bytes)", "self.slots.floor(2**62)"),
    Bug("what is put later does not count on a log that is going", "journal.slots", "max(self.base, self._let_go, ", "max("),
    Bug("nor on one that goes in steps", "journal.slots", "max(self.base, self._let_go, ", "max(self.base, "),
    Bug("a version that a deletion ended is stored whole", "journal.versions", "if successor[2] or successor[1] != end:", "if True:"),
    Bug("a page goes with its slot", "journal.slots", "                removed.append((number_key(ENDED, head.after), None))", "                pass"),
    Bug("a tombstone has no value in the log", "journal.versions", "if is_whole or not record[2]:", "if is_whole:"),
    Bug("a head has its trail", "journal.versions", "payload[: HEAD_BYTES - 8 + 8 * record[5].bit_count()]", "payload[:HEAD_BYTES]"),
    Bug("a snapshot has what was not compacted only", "journal.ended", "        if end > compacted\n", "        if True\n"),
    Bug("and goes on where it was", "journal.ended", "        if stored_key < start:\n            continue\n", ""),
    Bug("in the order of keys", "journal.ended", "    records.sort()\n", ""),
    Bug("a value is that of its own revision", "journal.ended", "found = values.get((key, revision))", "found = next((values[at] for at in values if at[0] == key), None)"),
    Bug("a version is valid from its own revision on", "journal.versions", "while record[1] > revision:", "while record[1] >= revision > 0:"),
    Bug("a trail is cut at the revision asked for", "journal.versions", "bisect_right(trail, revision)", "bisect_left(trail, revision)"),
    Bug("a trail knows its ordinals", "journal.versions", "                ordinal &= ordinal - 1\n", "                pass\n"),
    Bug("a trail drops the low ones", "journal.versions", "trail = old[4][HEAD_BYTES : HEAD_BYTES + 8 * (ordinal & (ordinal + 1)).bit_count()]", "trail = old[4][HEAD_BYTES : HEAD_BYTES + 8 * ordinal.bit_count() - 8]"),
    Bug("a trail names the record before", "journal.versions", "+ NUMBER.pack(old[1])", "+ NUMBER.pack(revision)"),
    Bug("a trail names the record before a plain put", "journal.space", "+ pack_number(modified)", "+ pack_number(revision)"),
    Bug("a trail drops the low ones for a plain put", "journal.space", "width = 8 * (ordinal & (ordinal + 1)).bit_count()", "width = 8 * ordinal.bit_count() - 8"),
    Bug("no version where there was no key", "journal.versions", "            if ordinal == 1:\n                return ABSENT", "            if ordinal == 1:\n                return record"),
    Bug("a tombstone that may be gone counts as nothing", "journal.versions", "if not old[2] and old[1] <= compacted:", "if old is ABSENT:"),
    Bug("a tombstone that may be gone counts as nothing to a plain put", "journal.space", "if version or modified > compacted:", "if ordinal:"),
    Bug("what is not stored stays in memory", "journal.versions", "            if record[1] > flushed:\n", "            if False:\n"),
    Bug("an old generation never hides a newer record", "journal.versions", "self._old.pop(key, None)", "self._old.get(key)"),
    Bug("scans see what is not stored", "journal.versions", "overlay = merge(*(slot.keys_in(start, end) for slot in self._unflushed), extra)", "overlay = merge(extra)"),
    Bug("old versions that are not stored are found", "journal.versions", "        if end > self._flushed_revision:", "        if False:"),
    Bug("compaction keeps what can be read", "journal.versions", "self._flushed_revision) + 1)", "self._flushed_revision) + 2)"),
    Bug("compaction waits for what is not stored", "journal.versions", "NUMBER.pack(min(compacted, self._flushed_revision) + 1)", "NUMBER.pack(compacted + 1)"),
    Bug("compaction keeps tombstones that still matter", "journal.versions", "if not record[2] and record[1] == end:", "if not record[2]:"),
    Bug("compaction keeps live keys", "journal.versions", "if not record[2] and record[1] == end:", "if True:"),
    Bug("compaction removes tombstones", "journal.versions", "if not record[2] and record[1] == end:", "if False:"),
    Bug("compacted revisions cannot be read", "journal.space", "self.compacted = max(self.compacted, min(unpack_compaction(entry), before))", "self.compacted = min(unpack_compaction(entry), before)"),
    # -- commits and the early check
    Bug("rejected offers are no commits", "journal.commits", "            if index in skipped:\n                continue", "            pass"),
    Bug("a delete of nothing is no change", "journal.commits", "if (batch, offer, index) not in results:", "if True:"),
    Bug("a computed value is committed", "journal.commits", "value, lease = results[batch, offer, index]", "value, lease = b'', 0"),
    Bug("nothing is doomed by what may pass", "journal.conditions", "if 0 < expected <= revision:", "if True:"),
    Bug("nothing is doomed by the future", "journal.conditions", "            if at < compacted:\n                return bad_at", "            if not compacted <= at <= revision:\n                return bad_at"),
    Bug("what was accepted is seen before it is doomed", "journal.sessions", "        if sequence > self.last:\n            return None", "        return None"),
]  # fmt: skip


def plant(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(bug.module)
    source = inspect.getsource(module)
    assert source.count(bug.right) == 1, f"the rule's text is there {source.count(bug.right)} times"
    copy = ModuleType(bug.module)
    exec(compile(source.replace(bug.right, bug.wrong), module.__file__ or "", "exec"), vars(copy))
    for name, users in USERS[bug.module].items():
        for user in users:
            monkeypatch.setattr(f"{user}.{name}", getattr(copy, name))
    if bug.few_sessions:
        monkeypatch.setattr(copy, "FOLD_SESSIONS_MAX", 2, raising=False)
        monkeypatch.setattr(copy, "FOLD_SESSION_IDLE_REVISIONS_MAX", 3, raising=False)
        monkeypatch.setattr("journal.sessions.FOLD_SESSIONS_MAX", 2)
        monkeypatch.setattr("journal.sessions.FOLD_SESSION_IDLE_REVISIONS_MAX", 3)
    if bug.merging:
        monkeypatch.setattr(copy, "RUNS_UNMERGED", 1)
    if bug.short_memory:
        monkeypatch.setattr(copy, "FOLD_RECENT_BYTES_MAX", 200, raising=False)
        monkeypatch.setattr("journal.recent.FOLD_RECENT_BYTES_MAX", 200)


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_planted_bug_is_caught(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(bug, monkeypatch)
    options = {"sessions_max": 2, "idle_max": 3} if bug.few_sessions else {}

    @settings(
        max_examples=250,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(telling.stories)
    def survives(story: list[tuple[str, Any]]) -> None:
        telling.play(story, **options)

    def all_survive() -> None:
        for story, reach in product(telling.DIRECTED.values(), telling.REACHES):
            telling.play(story, reach, **options)
        survives()

    with pytest.raises(Exception) as caught:  # a wrong verdict, or a crash further on
        all_survive()
    assert not isinstance(caught.value, NameError), "the bug is not even a program"
