"""The network between nodes, and between clients and nodes: it loses, repeats, delays, reorders.

A place is a node (its number) or a client (a negative number). A link has a direction: it may be
cut one way only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from journal.paxos.messages import Envelope
from journal.types import NodeId
from tests.sim.links import Streams

if TYPE_CHECKING:
    from tests.sim.host import Life
    from tests.sim.world import World


class Network:
    """Links, and what is wrong with each."""

    def __init__(self, world: World) -> None:
        self.world = self._world = world
        self.streams = Streams(self)
        self._options = world.options
        self._rng = world.rng("network")
        self._cut: dict[tuple[int, int], int] = {}
        """How many partitions cut a link at present."""
        self._clogged: dict[tuple[int, int], float] = {}
        """Until when nothing gets through a link; it is kept, and comes then."""
        self._last: dict[tuple[int, int], float] = {}
        """When the last message on a link arrives: streams keep their order, unless one breaks."""
        self._picky: list[tuple[frozenset[tuple[int, int]], frozenset[type]]] = []
        """Links that lose messages of some kinds only."""
        self.is_faulty = True
        self.sent = 0
        self.delivered = 0

    @property
    def now(self) -> float:
        return trio.current_time()

    # -- what faults do ------------------------------------------------------------------

    def cut(self, links: Sequence[tuple[int, int]]) -> Callable[[], None]:
        """Cut links (from, to); returns what mends them again."""
        for link in links:
            self._cut[link] = self._cut.get(link, 0) + 1

        def mend() -> None:
            for link in links:
                if self._cut.get(link, 0) > 1:
                    self._cut[link] -= 1
                else:
                    self._cut.pop(link, None)

        return mend

    def lose_kinds(self, links: Sequence[tuple[int, int]], kinds: Sequence[type]) -> Callable[[], None]:
        """Lose all messages of some kinds on links; returns what mends them again."""
        rule = (frozenset(links), frozenset(kinds))
        self._picky.append(rule)

        def mend() -> None:
            if rule in self._picky:
                self._picky.remove(rule)

        return mend

    def clog(self, link: tuple[int, int], until: float) -> None:
        self._clogged[link] = max(until, self._clogged.get(link, 0.0))

    def heal(self) -> None:
        self._cut.clear()
        self._clogged.clear()
        self._picky.clear()
        self.is_faulty = False

    def is_cut(self, sender: int, to: int) -> bool:
        return (sender, to) in self._cut

    # -- messages ---------------------------------------------------------------------------

    def arrival(self, sender: int, to: int, *, in_order: bool = True) -> float:
        """Draw when something that is sent now arrives."""
        options, rng = self._options, self._rng
        now = trio.current_time()
        link = (sender, to)
        due = now + options.latency_s * (0.5 + rng.random())
        clogged = self._clogged.get(link)
        if clogged is not None:
            if clogged <= now:
                del self._clogged[link]
            else:
                due += clogged - now
        if self.is_faulty and options.reorder and rng.random() < options.reorder:
            return due + rng.random() * options.reorder_s
        if in_order:
            due = max(due, self._last.get(link, 0.0))
            self._last[link] = due
        return due

    def is_lost(self, sender: int, to: int) -> bool:
        if (sender, to) in self._cut:
            return True
        return self.is_faulty and self._options.loss > 0 and self._rng.random() < self._options.loss

    def post(self, life: Life, envelopes: Sequence[Envelope]) -> None:
        """Send what the node of ``life`` sent."""
        world, options = self._world, self._options
        for envelope in envelopes:
            world.watch.sent(life, envelope)
            if not life.is_alive:
                continue
            sender, to = int(envelope.sender), int(envelope.to)
            self.sent += 1
            if world.is_watched_closely:
                world.trace(sender, f"-> {to} {envelope.message}")
            if self.is_lost(sender, to):
                continue
            if self._picky:
                link, kind = (sender, to), type(envelope.message)
                if any(link in links and kind in kinds for links, kinds in self._picky):
                    continue
            self._send(life, envelope)
            if self.is_faulty and options.repeat and self._rng.random() < options.repeat:
                self._send(life, envelope, in_order=False)

    def _send(self, life: Life, envelope: Envelope, *, in_order: bool = True) -> None:
        sender, to = int(envelope.sender), int(envelope.to)
        due = self.arrival(sender, to, in_order=in_order)
        self._world.at(due, lambda: self._deliver(life, envelope))

    def hang_up(self, node: int) -> None:
        """Tell the others that the connections of ``node`` have ended: those whom that reaches."""
        for number, host in sorted(self._world.hosts.items()):
            life = host.life
            if life is not None and number != node and not self.is_lost(node, number):
                self._world.at(self.arrival(node, number, in_order=True), partial(self._hung_up, life, node))

    @staticmethod
    def _hung_up(life: Life, node: int) -> None:
        if life.is_alive and not life.host.is_paused:
            life.hung_up(NodeId(node))

    def _deliver(self, sender: Life, envelope: Envelope) -> None:
        to = int(envelope.to)
        if self.is_cut(int(envelope.sender), to):
            return
        host = self._world.hosts.get(to)
        if host is None:
            return
        life = host.life
        if life is None or life.deliver is None:
            return
        if host.is_paused:
            host.hold(lambda: self._deliver(sender, envelope))
            return
        self.streams.pass_on(sender, life, envelope)
