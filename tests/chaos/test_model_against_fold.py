"""The checker's model and the journal's fold were written apart: here they must agree.

Random offers are folded by ``journal.space`` slot by slot, several a slot; what came out is
recorded as a client would see it, and judged. A wrong model would call the fold wrong.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgpack
from hypothesis import example, given, settings
from hypothesis import strategies as st

from journal.commits import commits
from journal.entries import pack_offers
from journal.offers import (
    Adjust,
    Delete,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    Mutation,
    Offer,
    Put,
    Rejected,
    SetAdd,
    SetRemove,
    pack_batch,
    pack_offer,
)
from journal.space import Space
from journal.storage.memory import MemoryStorage
from journal.types import Slot
from synod.history import Recorder, check, load
from synod.history.client import commit_json, offer_json, record_json, text, verdict_json

KEYS = [b"a", b"b", b"b\x00", b"c\xff", b"m", b"n"]
MAPS = [b"m", b"n"]


def random_mutation(rng: random.Random) -> Mutation:
    key, lease = rng.choice(KEYS), rng.randrange(1, 4)
    kinds: list[Mutation] = [
        Put(key, b"%d" % rng.randrange(100)),
        Put(key, b"bound", lease),
        Put(rng.choice(MAPS), msgpack.packb({"cpu": rng.randrange(5), "ports": [1]})),
        Delete(key),
        DeleteRange(*sorted([key, rng.choice([*KEYS, b"z"])])) if key != b"n" else DeleteRange(b"b", b""),
        Adjust(rng.choice(MAPS), {"cpu": rng.randint(-3, 3)}, {"cpu": 0}, {"cpu": 6}),
        Adjust(rng.choice(KEYS), {"gpu": 1.5}),
        SetAdd(rng.choice(MAPS), "ports", (rng.randrange(4), rng.randrange(4, 8))),
        SetRemove(rng.choice(MAPS), "ports", (rng.randrange(4),)),
        LeaseGrant(lease, 60_000),
        LeaseRevoke(lease),
    ]
    return rng.choice(kinds)


def random_offer(rng: random.Random, revision: int, label: str) -> Offer:
    mutations = tuple(random_mutation(rng) for _ in range(rng.choice([1, 1, 1, 2, 3])))
    mutations = tuple(
        m for m in mutations if not isinstance(m, DeleteRange) or m.start < (m.end or b"\xff" * 9)
    )
    at = max(0, revision - rng.randrange(6)) if rng.random() < 0.95 else revision + 5
    conditions: dict[str, Any] = {}
    if rng.random() < 0.3:
        conditions["reads"] = tuple(rng.sample(KEYS, rng.randint(1, 2)))
    if rng.random() < 0.2:
        conditions["ranges"] = ((b"a", rng.choice([b"c", b""])),)
    if rng.random() < 0.3:
        conditions["expect"] = ((rng.choice(KEYS), rng.choice([0, at])),)
    return Offer(mutations or (Put(b"a", b""),), at=at, label=label, **conditions)


@settings(max_examples=60, deadline=None)
@example(seed=212)  # an offer that puts a new key and deletes it again
@given(seed=st.integers(0, 2**32))
def test_model_agrees_with_the_fold(seed: int, tmp_path_factory: Any) -> None:
    rng = random.Random(seed)
    path: Path = tmp_path_factory.mktemp("fold") / "h.jsonl"
    recorder = Recorder(path)
    space = Space(MemoryStorage())
    everything: list[Any] = []
    sequence = 0
    for slot in range(1, 30):
        offers = []
        for _ in range(rng.randint(1, 4)):
            sequence += 1
            offers.append((sequence, random_offer(rng, space.revision, f"c/{sequence}")))
            recorder.invoke("c", sequence, "offer", **offer_json(offers[-1][1]))
        batch = pack_batch(b"c", 0, 0, [pack_offer(number, offer) for number, offer in offers])
        entry = pack_offers(0, [batch])
        folded = space.fold(Slot(slot), entry)
        for (number, _), verdict in zip(offers, folded.verdicts[0], strict=True):
            assert isinstance(verdict, int | Rejected)
            recorder.complete("c", number, **verdict_json(verdict))
        everything += [commit_json(commit) for commit in commits(Slot(slot), entry, folded.outcome)]
        number = 1_000 + slot
        recorder.invoke("r", number, "scan", start="", end="", consistency="linearizable")
        items, _next = space.scan(b"", b"", None, 1000, 10**9)
        recorder.complete(
            "r",
            number,
            revision=space.revision,
            items=[[text(key), record_json(record)] for key, record in items],
            next=None,
        )
    recorder.invoke("t", 1, "tail", after=0, final=True)
    recorder.message("t", 1, 1, space.revision, everything)
    recorder.complete("t", 1, ended=True)
    recorder.close()
    report = check(load([path]))
    assert report.ok, str(report)
