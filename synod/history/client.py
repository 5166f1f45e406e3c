"""A client that writes down what it does, and the collection of what the nodes hold at the end.

The only module of this package that knows ``journal``. It translates and records; it
decides nothing, so that what is checked is what the journal's own client did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import trio

from journal.client import Journal, OfferRejected, OffersUnresolved, OfferUnknown
from journal.client.journal import DEFAULT, Timeout
from journal.connection import LINEARIZABLE, Connection, Connector, Consistency, Level
from journal.errors import JournalError, LeaseNotFound, RevisionCompacted
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
    Verdict,
)
from journal.space import Commit, Record
from journal.types import Revision, Slot
from synod.history.record import Recorder


def text(data: bytes) -> str:
    """Return bytes as a history writes them."""
    return data.decode("latin-1")


def mutation_json(mutation: Mutation) -> dict[str, Any]:
    match mutation:
        case Put(key, value, lease):
            bound = {"lease": lease} if lease else {}
            return {"put": text(key), "value": text(value), **bound}
        case Delete(key):
            return {"delete": text(key)}
        case DeleteRange(start, end):
            return {"delete_range": [text(start), text(end)]}
        case Adjust(key, deltas, minimum, maximum):
            bounds = {"minimum": dict(minimum), "maximum": dict(maximum)}
            return {"adjust": text(key), "deltas": dict(deltas), **bounds}
        case SetAdd(key, field, members):
            return {"add": text(key), "field": field, "members": list(members)}
        case SetRemove(key, field, members):
            return {"remove": text(key), "field": field, "members": list(members)}
        case LeaseGrant(lease, ttl_ms):
            return {"lease_grant": lease, "ttl_ms": ttl_ms}
        case LeaseRevoke(lease):
            return {"lease_revoke": lease}


def offer_json(offer: Offer) -> dict[str, Any]:
    return {
        "label": offer.label,
        "at": offer.at,
        "reads": [text(key) for key in offer.reads],
        "ranges": [[text(start), text(end)] for start, end in offer.ranges],
        "expect": [[text(key), revision] for key, revision in offer.expect],
        "mutations": [mutation_json(mutation) for mutation in offer.mutations],
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    if isinstance(verdict, int):
        return {"accepted": verdict}
    if isinstance(verdict, Rejected):
        receipt = {"reason": verdict.reason.value.lower(), "where": verdict.where, "key": text(verdict.key)}
        return {"rejected": {**receipt, "revision": verdict.revision, "label": verdict.label}}
    return {"unknown": str(verdict)}


def record_json(record: Record | None) -> list[Any] | None:
    if record is None:
        return None
    assert record.value is not None
    return [record.create, record.mod, record.version, record.lease, text(record.value)]


def commit_json(commit: Commit) -> list[Any]:
    changes = [
        [text(change.key), None if change.value is None else text(change.value), change.lease]
        for change in commit.changes
    ]
    return [commit.revision, commit.client.hex(), commit.sequence, commit.label, changes, commit.slot]


def error_json(error: JournalError) -> dict[str, Any]:
    """Return what an operation that ended in ``error`` came to.

    The client promises: only ``OfferUnknown`` leaves it open; after any other error the
    offer was not committed and never will be. The check holds it to that.
    """
    if isinstance(error, OfferUnknown):
        return {"unknown": str(error)}
    return {"refused": f"{type(error).__name__}: {error}"}


def _asked(consistency: Consistency, at: int | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"consistency": consistency.level.value}
    if consistency.level is Level.AT_LEAST:
        asked["at_least"] = consistency.revision
    if at is not None:
        asked["at"] = at
    return asked


class RecordingClient:
    """A ``Journal`` whose offers and reads are recorded under ``name``.

    One session in the sense of the check: what it sees never goes backwards.
    """

    def __init__(
        self,
        journal: Journal,
        recorder: Recorder,
        name: str,
        patience_s: Callable[[], Timeout] = lambda: DEFAULT,
        nodes: Sequence[Connection] = (),
    ) -> None:
        """``patience_s`` says for each offer how long it may take, where the caller does not.
        ``nodes``: connections of its own to certain nodes, for what is asked of one of them."""
        self.journal = journal
        self.name = name
        self._recorder = recorder
        self._patience_s = patience_s
        self.nodes = nodes

    async def offer(
        self, offer: Offer, *, timeout_s: Timeout = DEFAULT, on_answer: Callable[[], None] = lambda: None
    ) -> Verdict | JournalError:
        """Make an offer under a label of its own. What went wrong is returned, not raised.

        An offer of unknown outcome is asked about after ``on_answer``; that answer is recorded too.
        """
        number, named = self._invoke(offer)
        if timeout_s is DEFAULT:
            timeout_s = self._patience_s()
        outcome: Verdict | JournalError
        try:
            outcome = await self.journal.offer(named, timeout_s=timeout_s)
        except OfferRejected as rejected:
            outcome = rejected.receipt
        except JournalError as error:
            outcome = error
        self._complete(number, outcome)
        on_answer()
        if isinstance(outcome, OfferUnknown):
            await self._settle(outcome, named.label)
        return outcome

    async def offer_many(self, offers: Sequence[Offer]) -> Sequence[Verdict | JournalError]:
        """Make offers that travel together."""
        invoked = [self._invoke(offer) for offer in offers]
        outcomes: Sequence[Verdict | JournalError]
        try:
            outcomes = await self.journal.offer_many([named for _, named in invoked])
        except OffersUnresolved as unresolved:
            outcomes = unresolved.verdicts
        except JournalError as error:
            outcomes = [error] * len(invoked)
        for (number, _), outcome in zip(invoked, outcomes, strict=True):
            self._complete(number, outcome)
        return outcomes

    def _invoke(self, offer: Offer) -> tuple[int, Offer]:
        number = self._recorder.number()
        named = replace(offer, label=f"{self.name}/{number}")
        self._recorder.invoke(self.name, number, "offer", **offer_json(named))
        return number, named

    def _complete(self, number: int, outcome: Verdict | JournalError) -> None:
        answer = error_json(outcome) if isinstance(outcome, JournalError) else verdict_json(outcome)
        self._recorder.complete(self.name, number, **answer)

    async def _settle(self, unknown: OfferUnknown, label: str) -> None:
        number = self._recorder.number()
        self._recorder.invoke(self.name, number, "outcome", label=label)
        try:
            verdict = await self.journal.outcome(unknown.id)
        except JournalError as error:
            self._recorder.complete(self.name, number, unknown=str(error))
            return
        never = {"refused": "settled: not committed, and never will be"}
        self._recorder.complete(self.name, number, **(never if verdict is None else verdict_json(verdict)))

    async def get(
        self, keys: Sequence[bytes], consistency: Consistency = LINEARIZABLE, at: int | None = None
    ) -> tuple[Revision, list[Record | None]] | None:
        """Read keys; None: no answer (recorded as such)."""
        number = self._recorder.number()
        asked = _asked(consistency, at)
        self._recorder.invoke(self.name, number, "get", keys=[text(key) for key in keys], **asked)
        try:
            reply = await self.journal.get_many(keys, consistency=consistency, at=at)
        except JournalError as error:
            self._recorder.complete(self.name, number, **error_json(error))
            return None
        records = [record_json(record) for record in reply.records]
        self._recorder.complete(self.name, number, revision=reply.revision, records=records)
        return reply.revision, reply.records

    async def scan(
        self, start: bytes, end: bytes, consistency: Consistency = LINEARIZABLE, at: int | None = None
    ) -> Revision | None:
        """Read a whole range; returns its revision. None: no answer."""
        number = self._recorder.number()
        asked = _asked(consistency, at)
        self._recorder.invoke(self.name, number, "scan", start=text(start), end=text(end), **asked)
        try:
            reply = await self.journal.scan(start, end, consistency=consistency, at=at)
        except JournalError as error:
            self._recorder.complete(self.name, number, **error_json(error))
            return None
        items = [[text(key), record_json(record)] for key, record in reply.items]
        next_key = None if reply.next_key is None else text(reply.next_key)
        self._recorder.complete(self.name, number, revision=reply.revision, items=items, next=next_key)
        return reply.revision

    async def get_from(self, node: Connection, keys: Sequence[bytes], timeout_s: float) -> None:
        """Read linearizably at one certain node, whoever leads: nothing of the client library is
        between it and us."""
        number, name = self._recorder.number(), f"{self.name}-direct"
        asked = _asked(LINEARIZABLE, None)
        self._recorder.invoke(name, number, "get", keys=[text(key) for key in keys], **asked)
        try:
            with trio.fail_after(timeout_s):
                reply = await node.get(keys, at=None, consistency=LINEARIZABLE)
        except JournalError as error:
            self._recorder.complete(name, number, **error_json(error))
        except trio.TooSlowError:
            self._recorder.complete(name, number, unknown=f"no answer within {timeout_s:g} s")
        else:
            records = [record_json(record) for record in reply.records]
            self._recorder.complete(name, number, revision=reply.revision, records=records)

    async def keep_alive(
        self, lease: int, node: Connection | None = None, timeout_s: float = 10.0
    ) -> bool | None:
        """Give a lease a full term, at whoever leads or at one certain node; False: it is gone; None:
        nobody knows."""
        number = self._recorder.number()
        self._recorder.invoke(self.name, number, "keep_alive", lease=lease)
        try:
            if node is None:
                ttl_ms = await self.journal.keep_alive(lease)
            else:
                with trio.fail_after(timeout_s):
                    ttl_ms = await node.lease_keep_alive(lease)
        except LeaseNotFound:
            self._recorder.complete(self.name, number, lease_gone=True)
            return False
        except JournalError as error:
            self._recorder.complete(self.name, number, **error_json(error))
            return None
        except trio.TooSlowError:
            self._recorder.complete(self.name, number, unknown=f"no answer within {timeout_s:g} s")
            return None
        self._recorder.complete(self.name, number, ttl_ms=ttl_ms)
        return True

    async def tail(self, after: int, prefixes: Sequence[bytes] = ()) -> None:
        """Follow until cancelled, or until the history before is compacted away."""
        number = self._recorder.number()
        name = f"{self.name}-tail-{number}"
        asked = [text(prefix) for prefix in prefixes]
        self._recorder.invoke(name, number, "tail", after=after, prefixes=asked)
        try:
            async with self.journal.tail(after, prefixes) as messages:
                async for message in messages:
                    if message.last >= message.first:
                        commits = [commit_json(commit) for commit in message.commits]
                        self._recorder.message(name, number, message.first, message.last, commits)
        except JournalError as error:
            self._recorder.complete(name, number, **error_json(error))


async def record_tail(
    connection: Connection,
    recorder: Recorder,
    name: str,
    *,
    upto: int,
    node: int | None = None,
    after: int = 0,
    prefixes: Sequence[bytes] = (),
    final: bool = False,
) -> None:
    """Record one node's tail from ``after`` until it has covered ``upto``, and nothing after that: a lease
    that expires meanwhile would be in the tail of one node, and not in that of another."""
    number = recorder.number()
    asked = {"after": after, "prefixes": [text(prefix) for prefix in prefixes], "node": node, "final": final}
    recorder.invoke(name, number, "tail", **asked)
    position = after
    if position < upto:
        async with connection.tail(Revision(after), prefixes) as messages:
            async for message in messages:
                last = min(message.last, upto)
                commits = [commit_json(commit) for commit in message.commits if commit.revision <= last]
                if last >= message.first:
                    recorder.message(name, number, message.first, last, commits)
                    position = last
                if position >= upto:
                    break
    recorder.complete(name, number, ended=True)


async def record_end(
    connector: Connector,
    nodes: dict[int, str],
    recorder: Recorder,
    *,
    after: int = 0,
    timeout_s: float = 20.0,
) -> int:
    """Record what every node holds now that all is over; return the last revision.

    The last revision is learned by a linearizable read; then each node's whole tail up to it (from
    ``after`` on, where the history before is compacted), and each node's chain at some slots that
    all of them have folded. Nobody may offer meanwhile.
    """
    with trio.fail_after(timeout_s):
        connections = {node: await connector.connect(endpoint) for node, endpoint in nodes.items()}
        first = next(iter(connections.values()))
        reply = await first.get([b"x"], at=None, consistency=LINEARIZABLE)
        last = reply.revision
        async with trio.open_nursery() as nursery:
            for node, connection in connections.items():
                nursery.start_soon(_record_node, connection, recorder, node, after, last)
        applied = [(await connection.status()).applied for connection in connections.values()]
        lowest = min(applied)
        for slot in sorted({max(1, lowest * part // 4) for part in range(1, 5)}):
            for node, connection in connections.items():
                chain = await connection.chain(Slot(slot))
                if chain is not None:
                    recorder.chain(node, slot, chain.hex())
        return last


async def _first_told(connection: Connection, after: int) -> int:
    """Return from where on this node can tell the history: one that caught up by a snapshot has no log
    from before it. That all of it is told by somebody, the check demands."""
    try:
        async with connection.tail(Revision(after), ()) as messages:
            async for _message in messages:
                break
    except RevisionCompacted as compacted:
        return compacted.compacted - 1
    return after


async def _record_node(connection: Connection, recorder: Recorder, node: int, after: int, last: int) -> None:
    name = f"end-of-node-{node}"
    after = await _first_told(connection, after)
    await record_tail(connection, recorder, name, upto=last, node=node, after=after, final=True)
