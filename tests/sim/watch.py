"""The checkers that are always on. They see all nodes at once, as nobody in the cluster can.

Hooks, not copies: ``started`` when a node comes up from its disk, ``sent`` for every message it
sends, ``folded`` for every slot it folds, ``answered`` for every reply to a submit. Each raises no
exception, but notes a ``Violation``, which ends the run. What clients saw is checked at the end, by
``synod.history``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgpack

from journal.client.leases import Lease
from journal.commits import Commit, commits
from journal.entries import KIND_COMPACTION, KIND_MEMBERSHIP, kind_of, unpack_compaction
from journal.errors import JournalError
from journal.node import INBOX_MESSAGES_MAX
from journal.offers import Verdict
from journal.paxos.membership import Membership
from journal.paxos.messages import Accept, Accepted, Envelope, Promise
from journal.space import Folded
from journal.storage.records import ACCEPTED, PROMISED, number_key
from journal.types import Ballot, NodeId, Slot

if TYPE_CHECKING:
    from tests.sim.host import Life
    from tests.sim.world import World

_BALLOT_BYTES = 12
EXPIRED_LABEL = "lease "


class Watch:
    """Everything that must hold at every moment."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.values: dict[int, bytes] = {}
        """The entry of each slot, as first folded by anybody."""
        self.chains: dict[int, bytes] = {0: bytes(32)}
        self.revisions: dict[int, int] = {0: 0}
        """The revision after each slot."""
        self.commits: list[Commit] = []
        """All commits in revision order: the history as the folds made it."""
        self.times: list[float] = []
        """When each commit was first folded."""
        self.ids: dict[tuple[bytes, int], int] = {}
        """At which revision each offer id was applied."""
        self.applied = 0
        self.memberships: list[tuple[int, Membership]] = []
        """(The first slot that it rules, membership), as the folded entries say, oldest first."""
        self.leases: dict[int, Lease] = {}
        """Leases that clients hold: the production client's own objects."""
        self.told: dict[int, Ballot] = {}
        """The highest ballot that a node has told anybody it promised, or accepted at."""
        self.told_slots: dict[int, dict[int, Ballot]] = {}
        """By node: the slots it said it accepted, and at which ballot."""
        self.proposed: dict[tuple[int, Ballot], bytes] = {}
        self.peaks: dict[str, int] = {}
        self._entry_bytes_max = 64
        """The largest entry so far, and what is beside it in a record."""
        self._recovered: dict[int, int] = {}

    # -- a node comes up -------------------------------------------------------------------

    def started(self, life: Life) -> None:
        node, number = life.node, life.host.number
        space = node.space
        known = self.chains.get(space.applied)
        there = known.hex()[:12] if known else "nothing"
        if known != space.chain or self.revisions.get(space.applied) != space.revision:
            self._world.violate(
                "a node restarts with a state that the history has",
                f"node {number} stands at slot {space.applied}, revision {space.revision}, chain"
                f" {space.chain.hex()[:12]}, where the others have {there}",
            )
        if life.host.is_disowned:
            return  # it cannot know: ``let_in`` sees to it that nobody listens
        promised = node._core.ballot
        told = self.told.get(number, Ballot.ZERO)
        if promised < told:
            self._world.violate(
                "a promise that was told survives a crash",
                f"node {number} restarts with promise {promised}, after it told of {told}",
            )
        log, lost = node._core._acceptor.log, node._core.lost
        self._recovered[number] = len(log)
        for slot, ballot in self.told_slots.get(number, {}).items():
            if slot <= node._core.chosen or (slot in lost and life.host.is_spoiled):
                continue
            if slot not in log or log[Slot(slot)].ballot < ballot:
                self._world.violate(
                    "an acceptance that was told survives a crash",
                    f"node {number} restarts without slot {slot}, after it told of accepting it at {ballot}",
                )
                break
        self._watch_folds(life)

    def _watch_folds(self, life: Life) -> None:
        space = life.node.space
        fold: Callable[..., Folded] = space.fold

        def watched(slot: Slot, entry: bytes, batches: Sequence[Any] | None = None) -> Folded:
            folded = fold(slot, entry, batches)
            if life.is_alive:
                self.folded(life, slot, entry, folded)
            return folded

        space.fold = watched  # type: ignore[method-assign]

    def let_in(self, sender: Life, to: Life) -> None:
        """``to`` takes ``sender`` for the node whose number it has."""
        if sender.host.is_disowned and to.host.number != sender.host.number:
            self._world.violate(
                "a node that lost its disk is not taken for itself",
                f"node {to.host.number} lets in node {sender.host.number}, which has forgotten its promises",
            )

    # -- messages -----------------------------------------------------------------------------

    def sent(self, life: Life, envelope: Envelope) -> None:
        message = envelope.message
        if isinstance(message, Accept):
            key = (int(message.slot), message.ballot)
            known = self.proposed.setdefault(key, message.value)
            if known != message.value:
                self._world.violate(
                    "one ballot has one value for a slot",
                    f"node {life.host.number} proposes a second value for slot {message.slot}"
                    f" at ballot {message.ballot}",
                )
        elif isinstance(message, Promise):
            self._tell(life, message.ballot)
        elif isinstance(message, Accepted):
            self._tell(life, message.ballot)
            durable = life.disk.memory._durable
            told = self.told_slots.setdefault(life.host.number, {})
            for slot in message.slots:
                sealed = durable.get(number_key(ACCEPTED, slot))
                if sealed is None and slot > life.node._core.chosen and not life.host.is_spoiled:
                    self._world.violate(
                        "nothing is told before it is durable",
                        f"node {life.host.number} says it accepted slot {slot} at {message.ballot},"
                        " and a power loss would take that from it",
                    )
                    return
                if slot > life.node._core.chosen and sealed is not None:
                    told[int(slot)] = max(message.ballot, told.get(int(slot), Ballot.ZERO))
                    if _ballot(sealed) < message.ballot and not life.host.is_spoiled:
                        self._world.violate(
                            "nothing is told before it is durable",
                            f"node {life.host.number} says it accepted slot {slot} at {message.ballot},"
                            f" and its disk has ballot {_ballot(sealed)}",
                        )
                        return

    def _tell(self, life: Life, ballot: Ballot) -> None:
        number = life.host.number
        if ballot > self.told.get(number, Ballot.ZERO):
            self.told[number] = ballot
            # Accepting promises: what is durable is the higher of the two.
            sealed = life.disk.memory._durable.get(PROMISED)
            if (sealed is None or _ballot(sealed) < ballot) and not life.host.is_spoiled:
                self._world.violate(
                    "nothing is told before it is durable",
                    f"node {number} tells of its promise {ballot}, and a power loss would take it",
                )

    # -- folds --------------------------------------------------------------------------------

    def folded(self, life: Life, slot: Slot, entry: bytes, folded: Folded) -> None:
        world, number = self._world, life.host.number
        known = self.values.get(slot)
        if known is None:
            if slot != self.applied + 1:
                world.violate("slots are folded in order", f"node {number}: {slot} after {self.applied}")
                return
            self._first(life, slot, entry, folded)
            return
        if known != entry:
            world.violate(
                "a slot has one value",
                f"slot {slot}: node {number} folds {_described(entry)}, others {_described(known)}",
            )
        elif self.chains[slot] != folded.chain:
            world.violate(
                "nodes that folded the same slots are in the same state",
                f"slot {slot}: node {number} has chain {folded.chain.hex()[:12]}, others"
                f" {self.chains[slot].hex()[:12]}",
            )

    def _first(self, life: Life, slot: Slot, entry: bytes, folded: Folded) -> None:
        """Nobody has folded this slot before."""
        world = self._world
        voters = self.membership_at(slot).voter_ids
        holders = sum(1 for number in voters if _holds(world.hosts[int(number)], slot, entry))
        if holders <= len(voters) // 2:
            world.violate(
                "what is folded is durable on a quorum",
                f"node {life.host.number} folds slot {slot}, which is on the disks of {holders} of the voters"
                f" {sorted(voters)}",
            )
        self.applied = slot
        self.values[slot] = entry
        self.chains[slot] = folded.chain
        self.revisions[slot] = folded.revision
        self._entry_bytes_max = max(self._entry_bytes_max, len(entry) + 64)
        world.digest("fold", slot, folded.chain)
        kind = kind_of(entry)
        if kind == KIND_MEMBERSHIP:
            self.memberships.append((slot + world.options.window_slots, Membership.unpack(entry[1:])))
        elif kind == KIND_COMPACTION:
            world.recorder.invoke(
                "operator", world.recorder.number(), "compact", revision=unpack_compaction(entry)
            )
        for commit in commits(slot, entry, folded.outcome):
            if commit.revision != len(self.commits) + 1:
                world.violate("revisions are dense", f"revision {commit.revision} in slot {slot}")
                return
            self.commits.append(commit)
            self.times.append(world.now)
            if commit.client:
                earlier = self.ids.setdefault((commit.client, commit.sequence), commit.revision)
                if earlier != commit.revision:
                    world.violate(
                        "an offer id is applied at most once",
                        f"{commit.client.hex()[:8]}:{commit.sequence} ({commit.label}) is applied at"
                        f" {earlier} and again at {commit.revision}",
                    )
            elif commit.label.startswith(EXPIRED_LABEL):
                self._expired(life, int(commit.label.split()[1]))

    def membership_at(self, slot: int) -> Membership:
        return next(rules for first, rules in reversed(self.memberships) if first <= slot)

    def _expired(self, life: Life, lease: int) -> None:
        """A lease may not end within a term of a keep-alive that its holder saw confirmed."""
        held = self.leases.get(lease)
        if held is None:
            return
        # Clocks are assumed to run at the same rate but for this.
        spread = self._world.options.clock_rates
        asked = held.sure_until - held.ttl_s
        term = held.ttl_s * (1 - spread) / (1 + spread)
        if self._world.now < asked + term:
            self._world.violate(
                "a lease that is kept alive does not expire",
                f"lease {lease} of {held.ttl_s:g} s was confirmed for {asked:.3f}, and ended"
                f" {self._world.now - asked:.3f} s later",
            )

    # -- answers --------------------------------------------------------------------------------

    def answered(self, life: Life, data: bytes, result: list[Verdict] | JournalError) -> None:
        """A node answers a submit: what it calls accepted must have been folded there, by somebody."""
        if isinstance(result, JournalError) or not life.is_alive:
            return
        client, _acked, _base, offers = msgpack.unpackb(data)
        for offer, verdict in zip(offers, result, strict=True):
            if type(verdict) is not int:
                continue
            commit = self.commits[verdict - 1] if verdict <= len(self.commits) else None
            if commit is None or (commit.client, commit.sequence) != (client, offer[0]):
                there = "nothing" if commit is None else f"{commit.client.hex()[:8]}:{commit.sequence}"
                self._world.violate(
                    "an answer tells what was folded",
                    f"node {life.host.number} answers {client.hex()[:8]}:{offer[0]} with revision"
                    f" {verdict}, where the history has {there}",
                )
                return

    # -- memory ---------------------------------------------------------------------------------

    def measure(self) -> None:
        """No node's memory is past its named limits."""
        for host in self._world.hosts.values():
            node = host.node
            if node is None:
                continue
            limits, core = node.config.limits, node._core
            ahead = node.config.paxos.accept_ahead_slots_max
            recent = node.tails._recent
            trimmable = sum(1 for item in recent if item.slot <= node.tails._flushed)
            for name, size, limit in (
                ("inbox", len(node._inbox), INBOX_MESSAGES_MAX),
                ("offers in flight", node._admission.offers, limits.offers_inflight_max),
                ("bytes in flight", node._admission.bytes, limits.inflight_bytes_max),
                ("reads in flight", node._reads.waiting, limits.reads_inflight_max),
                # What a restart found above the applied slot is in memory until it is learned again.
                (
                    "accepted slots ahead",
                    len(core._acceptor.log),
                    ahead + limits.window_slots_max + self._recovered.get(host.number, 0),
                ),
                (
                    "tail buffer",
                    node.tails._recent_bytes if trimmable else 0,
                    limits.tail_recent_bytes_max,
                ),
                (
                    "bytes waiting for the disk",
                    node._writer.log_bytes,
                    # Beyond the limit goes the last message that was taken in, and what a new leader proposes
                    # again.
                    limits.write_queue_bytes_max
                    + limits.learn_bytes_max
                    + (ahead + limits.window_slots_max) * self._entry_bytes_max,
                ),
                ("slots in flight", core.slots_in_flight, limits.window_slots_max),
            ):
                self.peaks[name] = max(self.peaks.get(name, 0), size)
                if size > limit:
                    self._world.violate(
                        "memory stays within the named limits",
                        f"node {host.number}: {name} is {size}, over {limit}",
                    )
            for name, size in (
                (
                    "writes waiting for the disk",
                    len(node._writer.log_writes) + len(node._writer.space_writes),
                ),
                ("folds waiting for the disk", len(node.space.versions._unflushed)),
                ("slots to fold", len(node._to_fold)),
            ):
                self.peaks[name] = max(self.peaks.get(name, 0), size)


def _ballot(sealed: bytes) -> Ballot:
    round_ = int.from_bytes(sealed[4:12], "big")
    return Ballot(round_, NodeId(int.from_bytes(sealed[12:16], "big")))


def _holds(host: Any, slot: int, entry: bytes) -> bool:
    """Whether a power loss now would leave ``entry`` on the disk of ``host``."""
    memory = host.life.disk.memory if host.life is not None else host.memory
    key = number_key(ACCEPTED, slot)
    # What was there before the disk was spoiled counts: that it went was no fault of who counted on it.
    copies = [memory._durable.get(key), *(ghost.get(key) for ghost in host.ghosts)]
    return any(sealed is not None and sealed[4 + _BALLOT_BYTES :] == entry for sealed in copies)


def _described(entry: bytes) -> str:
    return f"{len(entry)} bytes {entry[:24]!r}"
