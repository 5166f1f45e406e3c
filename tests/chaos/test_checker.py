"""The history checker catches every fault that is planted for it, and nothing else.

A small journal that is right by construction (one list, one lock, the naive model)
serves random clients on a made-up clock; each test then spoils its recording in one
way and names the rule that must notice. The recordings go through the file format,
so the recorder and the loader are tested with them.
"""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synod.history
from synod.history import HistoryInvalid, Recorder, Report, Rule, check, load
from synod.history.__main__ import main
from synod.history.format import Change, History, OfferAsked, _asked
from synod.history.model import Effects, Failure, Model, effects_of, encode, failed_conditions

MS = 1_000_000

Event = dict[str, Any]


# -- a journal that is right by construction --------------------------------------


@dataclass
class Perfect:
    """Applies offers one at a time to the naive model, and remembers commits as a tail gives them."""

    model: Model = field(default_factory=Model)
    commits: list[list[Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def offer(self, asked: OfferAsked, client: str, sequence: int) -> dict[str, Any]:
        state = self.model.now
        failure: Failure | None = next(failed_conditions(asked, state), None)
        effects = effects_of(asked, state) if failure is None else failure
        if isinstance(effects, Failure):
            receipt = {"reason": effects.reason, "key": effects.key, "revision": effects.revision}
            if effects.revision:
                receipt["label"] = self.labels[effects.revision - 1]
            return {"rejected": receipt}
        self._commit(effects, client, sequence, asked.label)
        return {"accepted": self.model.revision}

    def _commit(self, effects: Effects, client: str, sequence: int, label: str) -> None:
        revision = self.model.revision + 1
        self.model.apply(revision, effects.changes, effects)
        changes = [list(change) for change in effects.changes.values()]
        self.commits.append([revision, client, sequence, label, changes, revision])
        self.labels.append(label)

    def expire(self, lease: int) -> None:
        asked = OfferAsked("expiry", ({"lease_revoke": lease},))
        effects = effects_of(asked, self.model.now)
        assert isinstance(effects, Effects)
        self._commit(effects, "", 0, f"lease {lease} expired")

    def move_on(self) -> None:
        """What a leader offers to get above the clients that are forgotten."""
        self._commit(Effects(), "", 0, "above the forgotten clients")


def random_offer(rng: random.Random, label: str, at: int) -> dict[str, Any]:
    """Return an offer in the recorded form. Few keys, so that conflicts are common."""
    key = f"k{rng.randrange(6)}"
    offer: dict[str, Any] = {"label": label, "at": at}
    bounds = {"minimum": {"cpu": 0}, "maximum": {"cpu": 10}}
    kind = rng.randrange(11)
    if kind <= 2:
        offer |= {"reads": [key], "mutations": [{"put": key, "value": label}]}
    elif kind == 3:
        offer |= {"ranges": [["k", "k3"]], "mutations": [{"put": key, "value": label}]}
    elif kind == 4:
        offer |= {"expect": [[key, rng.choice([0, at])]], "mutations": [{"delete": key}]}
    elif kind == 5:
        offer |= {"mutations": [{"adjust": "capacity", "deltas": {"cpu": rng.choice([-4, 3])}, **bounds}]}
    elif kind == 6:
        offer |= {"mutations": [{"delete_range": ["k2", "k4"]}, {"put": "last", "value": label}]}
    elif kind == 7:
        verb = rng.choice(["add", "remove"])
        offer |= {"mutations": [{verb: "capacity", "field": "ports", "members": [rng.randrange(4)]}]}
    elif kind == 8:
        offer |= {"mutations": [{"put": key, "value": label, "lease": 7}]}
    else:
        offer |= {"mutations": [{"adjust": "capacity", "deltas": {"cpu": -2}, **bounds}]}
    return offer


def record(seed: int, steps: int = 220) -> list[Event]:
    """Return the events of a correct run: 4 clients, 2 nodes, some outcomes unknown."""
    rng = random.Random(seed)
    journal = Perfect()
    now = 0
    events: list[Event] = [{"event": "begin", "format": "synod-history", "version": 1}]
    numbers = iter(range(1, 1_000_000))
    busy: dict[str, tuple[int, dict[str, Any]]] = {}
    seen: dict[str, int] = {}

    def emit(event: str, **more: Any) -> None:
        nonlocal now
        now += rng.randrange(1, 3) * MS
        events.append({"event": event, "t": now, **more})

    def do(client: str, op: int, kind: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Serve one operation at this moment; None: its answer is lost."""
        if kind == "offer":
            offer = _asked(kind, asked)
            assert isinstance(offer, OfferAsked)
            answer = journal.offer(offer, client.encode().hex(), op)
            lost = rng.random() < 0.1
            return {"unknown": "the connection broke"} if lost else answer
        revision = journal.model.revision
        state = journal.model.at(revision)
        if kind == "get":
            records = [list(found) if (found := state.get(key)) else None for key in asked["keys"]]
            return {"revision": revision, "records": records}
        items = [[key, list(record)] for key, record in state.scan(asked["start"], asked["end"])]
        return {"revision": revision, "items": items}

    capacity = {"put": "capacity", "value": encode({"cpu": 8, "ports": []})}
    grant = {"lease_grant": 7, "ttl_ms": 100}
    setup: dict[str, Any] = {"label": "setup", "mutations": [capacity, grant]}
    emit("invoke", client="c0", op=0, kind="offer", **setup)
    answer = do("c0", 0, "offer", setup)
    emit("complete", client="c0", op=0, **(answer or {}))
    for step in range(steps):
        client = f"c{rng.randrange(4)}"
        if step in (5, steps // 2 + 9):
            emit("invoke", client="keeper", op=step, kind="keep_alive", lease=7)
            gone = {"lease_gone": True} if step > steps // 2 else {"ttl_ms": 100}
            emit("complete", client="keeper", op=step, **gone)
        if step == steps // 2:
            journal.expire(7)
        if step == steps // 3:
            journal.move_on()
        if client in busy:
            op, answer = busy.pop(client)
            emit("complete", client=client, op=op, **answer)
            seen[client] = max(seen.get(client, 0), answer.get("accepted", 0), answer.get("revision", 0))
            continue
        op = next(numbers)
        kind = rng.choice(["offer", "offer", "offer", "get", "scan"])
        asked: dict[str, Any]
        if kind == "offer":
            asked = random_offer(rng, f"{client}/{op}", max(0, journal.model.revision - rng.randrange(4)))
        else:
            consistency = rng.choice(["linearizable", "local"])
            asked = {"keys": ["k1", "capacity"]} if kind == "get" else {"start": "k", "end": "k4"}
            asked["consistency"] = consistency
        emit("invoke", client=client, op=op, kind=kind, **asked)
        busy[client] = (op, do(client, op, kind, asked) or {})
    for client, (op, answer) in busy.items():
        emit("complete", client=client, op=op, **answer)
    for node in (1, 2):
        tail(emit, f"tail{node}", journal, node=node, final=True)
    tail(emit, "filtered", journal, prefixes=["k1", "cap"])
    for node in (1, 2):
        emit("chain", node=node, slot=9, chain="ab" * 32)
    return events


def tail(emit: Callable[..., None], client: str, journal: Perfect, **asked: Any) -> None:
    emit("invoke", client=client, op=1, kind="tail", after=0, **asked)
    prefixes = tuple(asked.get("prefixes", ()))
    for first in range(1, len(journal.commits) + 1, 10):
        last = min(first + 9, len(journal.commits))
        commits = [json.loads(json.dumps(commit)) for commit in journal.commits[first - 1 : last]]
        if prefixes:
            for commit in commits:
                commit[4] = [change for change in commit[4] if change[0].startswith(prefixes)]
            commits = [commit for commit in commits if commit[4]]
        emit("message", client=client, op=1, first=first, last=last, commits=commits)
    emit("complete", client=client, op=1, ended=True)


def judged(events: list[Event], folder: Path) -> Report:
    """Write the events to two files, as two processes would, and check them."""
    paths = [folder / "one.jsonl", folder / "two.jsonl"]
    lines: list[list[str]] = [[], []]
    for event in events:
        lines[event.get("client", "") in ("c1", "c2")].append(json.dumps(event) + "\n")
    for path, text in zip(paths, lines, strict=True):
        path.write_text("".join(text))
    return check(load(paths))


# -- reading the recording -----------------------------------------------------------


def messages(events: list[Event], client: str) -> list[Event]:
    return [event for event in events if event["event"] == "message" and event["client"] == client]


def commits_of(events: list[Event], client: str) -> list[list[Any]]:
    return [commit for message in messages(events, client) for commit in message["commits"]]


def pairs(events: list[Event], answer: str) -> list[tuple[Event, Event]]:
    """Return (invoke, complete) of the operations whose answer has the word ``answer``, in time."""
    asked = {(e["client"], e["op"]): e for e in events if e["event"] == "invoke"}
    return [(asked[(e["client"], e["op"])], e) for e in events if e["event"] == "complete" and answer in e]


def everywhere(events: list[Event], change: Callable[[list[list[Any]]], None]) -> None:
    """Change the commits of all unfiltered tails alike: the journal itself is wrong, not one node.

    The commits are put into one message from revision 1 to the last, renumbered densely.
    """
    for client in ("tail1", "tail2"):
        whole = messages(events, client)
        commits = commits_of(events, client)
        change(commits)
        for number, commit in enumerate(commits, 1):
            commit[0] = number
        whole[-1] |= {"first": 1, "last": len(commits), "commits": commits}
        for message in whole[:-1]:
            events.remove(message)
    without(events, "filtered")


def without(events: list[Event], client: str) -> None:
    events[:] = [event for event in events if event.get("client") != client]


# -- the faults ----------------------------------------------------------------------


def dropped_from_one_tail(events: list[Event]) -> None:
    del messages(events, "tail2")[1]["commits"][4]


def dropped_from_all_tails(events: list[Event]) -> None:
    for client in ("tail1", "tail2"):
        del messages(events, client)[1]["commits"][4]


def dropped_message(events: list[Event]) -> None:
    events.remove(messages(events, "tail1")[1])


def dropped_at_the_end(events: list[Event]) -> None:
    message = messages(events, "tail1")[-1]
    message["commits"].pop()
    message["last"] -= 1


def doubled_in_a_tail(events: list[Event]) -> None:
    commits = messages(events, "tail1")[1]["commits"]
    commits.insert(4, commits[3])


def reordered_in_a_tail(events: list[Event]) -> None:
    commits = messages(events, "tail1")[1]["commits"]
    commits[3], commits[4] = commits[4], commits[3]


def reordered_messages(events: list[Event]) -> None:
    one, two = messages(events, "tail1")[:2]
    first, second = events.index(one), events.index(two)
    events[first], events[second] = events[second], events[first]


def one_node_differs(events: list[Event]) -> None:
    commit = commits_of(events, "tail2")[12]
    commit[4] = [["k5", "something else", 0]]


def lost_acknowledged(events: list[Event]) -> None:
    label = pairs(events, "accepted")[-1][0]["label"]
    everywhere(events, lambda commits: commits.remove(next(c for c in commits if c[3] == label)))


def lost_in_the_middle(events: list[Event]) -> None:
    label = pairs(events, "accepted")[8][0]["label"]
    everywhere(events, lambda commits: commits.remove(next(c for c in commits if c[3] == label)))


def doubled_commit(events: list[Event]) -> None:
    everywhere(events, lambda commits: commits.append(list(commits[-1])))


def doubled_commit_under_a_new_id(events: list[Event]) -> None:
    """The same offer, resubmitted by its client as if it were another."""

    def change(commits: list[list[Any]]) -> None:
        again = [*commits[5]]
        again[2] += 100_000
        commits.append(again)

    everywhere(events, change)


def invented_commit(events: list[Event]) -> None:
    everywhere(events, lambda commits: commits.append([0, "ff", 1, "who?", [["k1", "x", 0]], 0]))


def invented_without_client(events: list[Event]) -> None:
    everywhere(events, lambda commits: commits.append([0, "", 0, "lease 3 expired", [["k1", None, 0]], 0]))


def invented_by_no_leader(events: list[Event]) -> None:
    """What the leader offers by itself, but for leases, changes nothing."""
    floor = [0, "", 0, "above the forgotten clients", [["k1", "x", 0]], 0]
    everywhere(events, lambda commits: commits.append(floor))


def rejected_but_committed(events: list[Event]) -> None:
    done = pairs(events, "accepted")[5][1]
    del done["accepted"]
    done["rejected"] = {"reason": "read", "key": "k1", "revision": 1}


def refused_but_committed(events: list[Event]) -> None:
    done = pairs(events, "accepted")[5][1]
    del done["accepted"]
    done["refused"] = "too large"


def told_another_revision(events: list[Event]) -> None:
    pairs(events, "accepted")[5][1]["accepted"] += 1


def carries_another_id(events: list[Event]) -> None:
    asked = pairs(events, "accepted")[5][0]
    asked["id"] = [asked["client"].encode().hex(), asked["op"] + 1]


def real_time_inversion(events: list[Event]) -> None:
    """Two offers that did not overlap stand the other way round."""
    free = [pair for pair in pairs(events, "accepted") if not pair[0].get("reads") and pair[0]["op"]]
    early, late = next(
        (a, b)
        for a in free
        for b in free
        if a[1]["t"] < b[0]["t"] and a[1]["accepted"] + 1 == b[1]["accepted"]
    )
    early[1]["accepted"], late[1]["accepted"] = late[1]["accepted"], early[1]["accepted"]

    def change(commits: list[list[Any]]) -> None:
        at = late[1]["accepted"] - 1
        commits[at], commits[at + 1] = commits[at + 1], commits[at]

    everywhere(events, change)


def accepted_before_it_was_invoked(events: list[Event]) -> None:
    """Its revision had been read by somebody before the offer was made."""
    asked, done = pairs(events, "accepted")[10]
    late = max(event.get("t", 0) for event in events) + MS
    events.remove(asked)
    events.remove(done)
    asked["t"], done["t"] = late, late + MS
    events += [asked, done]


def accepted_against_its_reads(events: list[Event]) -> None:
    """A read key was modified after ``at``, and the offer went through."""
    asked = next(a for a, d in pairs(events, "accepted") if a.get("reads") and a["at"] >= 8)
    changed = [c for c in commits_of(events, "tail1") if any(k == "capacity" for k, *_ in c[4])]
    asked["reads"] = [*asked["reads"], "capacity"]
    asked["at"] = changed[0][0] - 1


def accepted_against_its_range(events: list[Event]) -> None:
    asked = next(a for a, d in pairs(events, "accepted") if d["accepted"] > 20)
    asked["ranges"], asked["at"] = [["", ""]], 3


def accepted_against_its_expectation(events: list[Event]) -> None:
    asked = next(a for a, d in pairs(events, "accepted") if d["accepted"] > 20)
    asked["expect"] = [["capacity", 0]]


def oversubscribed(events: list[Event]) -> None:
    """Two claims that cannot both fit were both accepted, and the sum was written."""
    asked = next(a for a, _ in pairs(events, "accepted") if "adjust" in a["mutations"][0])
    asked["mutations"][0]["deltas"]["cpu"] -= 20


def wrong_sum(events: list[Event]) -> None:
    """An adjust was lost: the result is what it would be without the other."""

    def change(commits: list[list[Any]]) -> None:
        commit = next(c for c in commits if c[0] > 5 and any(k == "capacity" for k, *_ in c[4]))
        commit[4] = [["capacity", encode({"cpu": 999, "ports": []}), 0]]

    everywhere(events, change)


def half_applied(events: list[Event]) -> None:
    """One of an offer's two mutations is missing from its commit."""

    def change(commits: list[list[Any]]) -> None:
        commit = next(c for c in commits if any(k == "last" for k, *_ in c[4]))
        commit[4] = [item for item in commit[4] if item[0] != "last"]

    everywhere(events, change)


def wrong_receipt(events: list[Event]) -> None:
    done = next(d for a, d in pairs(events, "rejected") if d["rejected"]["reason"] in ("read", "range"))
    done["rejected"] |= {"revision": 1, "label": ""}


def rejected_without_reason(events: list[Event]) -> None:
    """It would have fitted at every moment that it can have been tried."""
    done = next(d for a, d in pairs(events, "rejected") if d["rejected"]["reason"] == "bounds")
    asked = next(e for e in events if e["event"] == "invoke" and e["op"] == done["op"])
    asked["mutations"] = [{"adjust": "capacity", "deltas": {"cpu": 0}}]


def wrong_winner(events: list[Event]) -> None:
    done = next(d for a, d in pairs(events, "rejected") if d["rejected"].get("label"))
    done["rejected"]["label"] = "somebody else"


def stale_read(events: list[Event]) -> None:
    """A linearizable read returns an older state, which it once was, exactly."""
    asked, done = next(
        (a, d) for a, d in reversed(pairs(events, "records")) if a["consistency"] == "linearizable"
    )
    _, old = next((a, d) for a, d in pairs(events, "records") if d["revision"] < done["revision"] - 5)
    done |= {"revision": old["revision"], "records": old["records"]}
    done["client"] = asked["client"] = "somebody new"


def older_than_asked(events: list[Event]) -> None:
    asked, done = pairs(events, "records")[-1]
    asked |= {"consistency": "at_least", "at_least": done["revision"] + 1}


def backwards_read(events: list[Event]) -> None:
    asked, done = pairs(events, "records")[-1]
    _, old = next((a, d) for a, d in pairs(events, "records") if d["revision"] < done["revision"] - 5)
    asked["consistency"] = "local"
    done |= {"revision": old["revision"], "records": old["records"]}


def dirty_read(events: list[Event]) -> None:
    """A value that was never there."""
    done = next(d for a, d in pairs(events, "records") if d["records"][1])
    done["records"][1][4] = encode({"cpu": -1})


def read_of_another_revision(events: list[Event]) -> None:
    """The content is of another revision than the one the reply names."""
    _, done = next(
        (a, d) for a, d in pairs(events, "items") if any(record[1] > 1 for _, record in d["items"])
    )
    done["items"] = done["items"][1:]


def read_from_the_future(events: list[Event]) -> None:
    _, done = pairs(events, "items")[-1]
    done["revision"] += 1000


def scan_leaves_one_out(events: list[Event]) -> None:
    _, done = next((a, d) for a, d in pairs(events, "items") if len(d["items"]) > 1)
    del done["items"][-1]


def filter_leaves_one_out(events: list[Event]) -> None:
    message = next(m for m in messages(events, "filtered") if m["commits"])
    message["commits"].pop()


def filter_lets_one_through(events: list[Event]) -> None:
    commit = commits_of(events, "filtered")[0]
    commit[4].append(["somewhere else", "x", 0])


def chains_differ(events: list[Event]) -> None:
    events[-1]["chain"] = "cd" * 32


def wrong_outcome(events: list[Event]) -> None:
    asked, done = pairs(events, "accepted")[5]
    t = done["t"]
    events.append(
        {"event": "invoke", "client": "q", "op": 1, "t": t, "kind": "outcome", "label": asked["label"]}
    )
    events.append({"event": "complete", "client": "q", "op": 1, "t": t + 1, "accepted": done["accepted"] + 1})


def forgotten_outcome(events: list[Event]) -> None:
    asked, done = pairs(events, "accepted")[5]
    t = done["t"] + 1
    events.append(
        {"event": "invoke", "client": "q", "op": 1, "t": t, "kind": "outcome", "label": asked["label"]}
    )
    events.append({"event": "complete", "client": "q", "op": 1, "t": t + 1, "absent": True})


def expired_too_early(events: list[Event]) -> None:
    """Seen to be expired while the term of an answered keep-alive was still running."""
    pairs(events, "ttl_ms")[0][1]["ttl_ms"] = 1000


def granted_for_less(events: list[Event]) -> None:
    pairs(events, "accepted")[0][0]["mutations"][1]["ttl_ms"] = 1000


def said_to_be_gone(events: list[Event]) -> None:
    done = pairs(events, "ttl_ms")[0][1]
    del done["ttl_ms"]
    done["lease_gone"] = True


FAULTS: list[tuple[Callable[[list[Event]], None], Rule]] = [
    (dropped_from_one_tail, Rule.TAIL_GAP),
    (dropped_from_all_tails, Rule.TAIL_GAP),
    (dropped_message, Rule.TAIL_GAP),
    (dropped_at_the_end, Rule.TAIL_END),
    (doubled_in_a_tail, Rule.TAIL_DOUBLED),
    (reordered_in_a_tail, Rule.TAIL_ORDER),
    (reordered_messages, Rule.TAIL_ORDER),
    (one_node_differs, Rule.TAILS_EQUAL),
    (lost_acknowledged, Rule.LOST),
    (lost_in_the_middle, Rule.LOST),
    (doubled_commit, Rule.DOUBLED),
    (doubled_commit_under_a_new_id, Rule.DOUBLED),
    (invented_commit, Rule.INVENTED),
    (invented_without_client, Rule.INVENTED),
    (invented_by_no_leader, Rule.INVENTED),
    (rejected_but_committed, Rule.NOT_ACCEPTED),
    (refused_but_committed, Rule.NOT_ACCEPTED),
    (told_another_revision, Rule.LOST),
    (carries_another_id, Rule.IDENTITY),
    (real_time_inversion, Rule.REAL_TIME),
    (accepted_before_it_was_invoked, Rule.REAL_TIME),
    (accepted_against_its_reads, Rule.CONDITIONS),
    (accepted_against_its_range, Rule.CONDITIONS),
    (accepted_against_its_expectation, Rule.CONDITIONS),
    (oversubscribed, Rule.CONDITIONS),
    (wrong_sum, Rule.EFFECTS),
    (half_applied, Rule.EFFECTS),
    (wrong_receipt, Rule.RECEIPT),
    (rejected_without_reason, Rule.RECEIPT),
    (wrong_winner, Rule.RECEIPT),
    (stale_read, Rule.STALE_READ),
    (older_than_asked, Rule.STALE_READ),
    (backwards_read, Rule.BACKWARDS),
    (dirty_read, Rule.READ_CONTENT),
    (read_of_another_revision, Rule.READ_CONTENT),
    (read_from_the_future, Rule.READ_CONTENT),
    (scan_leaves_one_out, Rule.READ_CONTENT),
    (filter_leaves_one_out, Rule.TAIL_FILTER),
    (filter_lets_one_through, Rule.TAIL_FILTER),
    (chains_differ, Rule.CHAINS),
    (wrong_outcome, Rule.OUTCOME),
    (forgotten_outcome, Rule.OUTCOME),
    (expired_too_early, Rule.LEASE_TERM),
    (said_to_be_gone, Rule.LEASE_GONE),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("fault", "rule"), FAULTS, ids=[f"{f.__name__}-{r.name}" for f, r in FAULTS])
def test_planted_fault_is_caught(
    fault: Callable[[list[Event]], None], rule: Rule, seed: int, tmp_path: Path
) -> None:
    events = record(seed)
    fault(events)
    report = judged(events, tmp_path)
    assert rule in report.rules(), f"{fault.__name__} was not caught as {rule.name}:\n{report}"
    assert "VIOLATED" in str(report)


def test_every_rule_has_a_planted_fault() -> None:
    assert {rule for _, rule in FAULTS} == set(Rule)


def test_lease_that_ends_before_the_term_of_its_grant_is_caught(tmp_path: Path) -> None:
    events = next(events for seed in range(9) if "accepted" in (events := record(seed))[2])
    granted_for_less(events)
    assert Rule.LEASE_TERM in judged(events, tmp_path).rules()


def test_history_that_begins_later_is_judged_from_its_base_on(tmp_path: Path) -> None:
    """Recorded from a revision on, with what the space held there: a correct one passes, also with
    offers on keys from before; and a base that is wrong is noticed."""
    events = since(record(3), 15)
    report = judged(events, tmp_path)
    assert report.ok, str(report)
    assert report.counts["accepted"] > 5
    end = max(event.get("t", 0) for event in events)
    past = {"client": "late", "op": 1}
    events += [
        {"event": "invoke", **past, "t": end + 1, "kind": "get", "keys": ["k1"], "consistency": "local"}
        | {"at": 3},
        {"event": "complete", **past, "t": end + 2, "revision": 3, "records": [[1, 1, 1, 0, "long ago"]]},
    ]
    report = judged(events, tmp_path)
    assert report.ok, str(report)
    assert report.counts["reads not judged"] == 1
    held = next(event for event in events if event["event"] == "base")
    held["items"] = [[key, [*record[:4], "wrong"]] for key, record in held["items"]]
    assert not judged(events, tmp_path).ok


def since(events: list[Event], revision: int) -> list[Event]:
    """Return what a recording would hold that began when ``revision`` was the last one."""
    model = Model()
    for commit in commits_of(events, "tail1")[:revision]:
        changes = {change[0]: Change(*change) for change in commit[4]}
        effects = Effects(granted={7}) if commit[3] == "setup" else None
        model.apply(commit[0], changes, effects)
    items = [[key, list(record)] for key, record in model.now.scan("", "")]
    began = next(done["t"] for _, done in pairs(events, "accepted") if done["accepted"] > revision)
    without(events, "filtered")
    early = {(e["client"], e["op"]) for e in events if e["event"] == "invoke" and e["t"] < began}
    kept = [e for e in events if (e.get("client"), e.get("op")) not in early]
    for client in ("tail1", "tail2"):
        for event in kept:
            if event.get("client") == client and event["event"] == "invoke":
                event["after"] = revision
        for message in messages(kept, client):
            message["commits"] = [commit for commit in message["commits"] if commit[0] > revision]
            message["first"] = max(message["first"], revision + 1)
            if message["last"] <= revision:
                kept.remove(message)
    kept[0]["foreign_any"] = True  # what was under way at the base
    kept.insert(1, {"event": "base", "t": began, "revision": revision, "items": items})
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_correct_history_passes(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    report = judged(record(seed), tmp_path_factory.mktemp("history"))
    assert report.ok, str(report)
    assert report.counts["revisions"] > 10
    assert report.counts["rejected"] > 0


def test_report_names_the_first_violation_and_who_was_involved(tmp_path: Path) -> None:
    events = record(1)
    asked, done = pairs(events, "accepted")[8]
    events.insert(1, {"event": "note", "t": 2, "text": "SIGKILL to node 1"})
    lost_in_the_middle(events)
    text = str(judged(events, tmp_path))
    assert "an acknowledged offer is in the history at the revision it was told [LOST]" in text
    assert f"{asked['client']}/{asked['op']} [" in text
    assert f"accepted at {done['accepted']}" in text
    assert "SIGKILL to node 1" in text
    assert "and also:" in text


def test_unknown_outcome_may_be_committed_or_not(tmp_path: Path) -> None:
    events = record(2)
    assert pairs(events, "unknown")
    labels = {commit[3] for commit in commits_of(events, "tail1")}
    assert any(asked["label"] in labels for asked, _ in pairs(events, "unknown"))
    assert judged(events, tmp_path).ok


def test_killed_client_leaves_an_unknown_outcome(tmp_path: Path) -> None:
    """No completion, and a torn last line: what SIGKILL leaves."""
    events = record(3)
    _, done = pairs(events, "accepted")[-1]
    events.remove(done)
    report = judged(events, tmp_path)
    assert report.ok, str(report)
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"event":"compl')
    assert check(load([tmp_path / "one.jsonl", tmp_path / "two.jsonl"])).ok


def test_foreign_clients_are_let_through_only_if_expected(tmp_path: Path) -> None:
    events = record(1)
    invented_commit(events)
    assert not judged(events, tmp_path).ok
    events[0]["foreign_any"] = True
    report = judged(events, tmp_path)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([{"event": "begin", "format": "other", "version": 1}], "format 'other'"),
        ([{"event": "surprise"}], "unknown event"),
        ([{"event": "invoke", "client": "c", "op": 1, "t": 1, "kind": "dance"}], "unknown kind"),
        ([{"event": "complete", "client": "c", "op": 1, "t": 1, "accepted": 1}], "KeyError"),
        ([], "no final tail"),
    ],
)
def test_unreadable_history_is_refused_not_passed(events: list[Event], why: str, tmp_path: Path) -> None:
    with pytest.raises(HistoryInvalid, match=why):
        judged(events, tmp_path)


def test_missing_stretch_of_the_tails_is_refused_not_passed(tmp_path: Path) -> None:
    events = record(1)
    for node in (1, 2):
        del events[events.index(messages(events, f"tail{node}")[0])]
    with pytest.raises(HistoryInvalid, match=r"no unfiltered tail was recorded over revisions 1\.\.10"):
        judged(events, tmp_path)


def test_two_offers_with_one_label_are_refused(tmp_path: Path) -> None:
    events = record(1)
    first, second = pairs(events, "accepted")[3:5]
    second[0]["label"] = first[0]["label"]
    with pytest.raises(HistoryInvalid, match="labels must be unique"):
        judged(events, tmp_path)


def test_recorder_writes_what_the_loader_reads(tmp_path: Path) -> None:
    times = iter(range(100, 200))
    recorder = Recorder(tmp_path / "h.jsonl", clock_ns=lambda: next(times))
    op = recorder.number()
    recorder.invoke("c", op, "offer", label="c/1", mutations=[{"put": "k\xff", "value": "\x00"}])
    recorder.complete("c", op, accepted=1)
    recorder.invoke("t", 2, "tail", after=0, final=True)
    recorder.message("t", 2, 1, 1, [[1, "aa", 1, "c/1", [["k\xff", "\x00", 0]], 1]])
    recorder.complete("t", 2, ended=True)
    recorder.note("done")
    recorder.chain(1, 1, "00")
    recorder.close()
    history = load([tmp_path / "h.jsonl"])
    assert [operation.name for operation in history.operations] == ["c/1", "t/2"]
    assert history.notes[0].text == "done"
    assert check(history).ok
    assert main([str(tmp_path / "h.jsonl")]) == 0


def test_command_line_tells_a_violation_from_a_bad_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = record(1)
    stale_read(events)
    judged(events, tmp_path)
    files = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    assert main(files) == 1
    assert "STALE_READ" in capsys.readouterr().out
    (tmp_path / "one.jsonl").write_text("{]\n")
    assert main(files) == 64
    assert "one.jsonl:1: not JSON" in capsys.readouterr().err
    assert main([]) == 64


def test_judge_does_not_use_what_it_judges() -> None:
    """Only the recording client, its load and its kinds of load may import the journal."""
    for path in sorted(Path(synod.history.__file__).parent.glob("*.py")):
        if path.name in ("client.py", "load.py", "kinds.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "journal"], path.name


def test_empty_history_object_has_nothing_to_judge_by() -> None:
    with pytest.raises(HistoryInvalid):
        check(History())
