"""Which node to ask: who leads, who answers reads, and when to try again.

One router serves all parts of a client, so that what one of them learns (the leader
moved, a node is dead) helps all, and so that a cluster in trouble sees few calls:

* While it is not known who leads, one caller at a time probes; the others wait for what
  it finds. A redirect is followed at once the first time; after that each further probe
  waits, with jitter, up to ``backoff_max_s``. A report about a leader that has been
  replaced meanwhile is ignored, so a burst of failures moves the client on once.
* Reads and tails stay with one node until it fails, and then all move on together.
* Nodes come and go: once in a while a node is asked who the members are (``learn_members``). Members
  are asked before the endpoints that the client was given and that are none any more; these are kept, as
  the last resort, because they may be other names of the same nodes.

The router also keeps ``seen``, the highest revision the client has been told of. A read
is refused if it is older than what was seen before it began: the client never goes
backwards, whatever node it is talking to.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from journal.client.config import ClientConfig
from journal.connection import Connection, Connector, NotSent
from journal.errors import (
    InvalidRequest,
    JournalError,
    NotLeader,
    Overloaded,
    ProtocolViolation,
    StorageError,
    Unavailable,
    WrongCluster,
)
from journal.types import Revision, Slot

log = logging.getLogger("journal.client")

T = TypeVar("T")


class StaleAnswer(Unavailable):
    """A node answered from before what this client has already seen; another one is asked."""


class NoAnswer(Unavailable):
    """A node did not answer in the time of one try."""


ANOTHER_NODE = (Unavailable, StorageError, ProtocolViolation)
"""Errors that are about the node which was asked: another one may do better."""


@dataclass(slots=True)
class Counters:
    """What a client went through; for people, benchmarks and tests."""

    messages: int = 0
    """Submit messages sent, repeats included."""
    offers: int = 0
    resubmissions: int = 0
    """Messages that had to be sent again, for whatever reason."""
    redirects: int = 0
    overloads: int = 0
    withdrawals: int = 0
    """Offers whose caller had gone before their fate was known, and which were settled."""
    conflicts: int = 0
    """Runs of ``transact``'s function that ended in a conflict."""
    stale_answers: int = 0
    """Reads that a node answered from the past, and that were refused."""
    tail_resumptions: int = 0
    tail_violations: int = 0
    """Tail messages with a gap, a repetition or a step back, and which were refused."""


class Backoff:
    """Delays that double up to a limit, each drawn between half of it and the whole."""

    def __init__(self, minimum_s: float, maximum_s: float, rng: random.Random) -> None:
        self._minimum_s = minimum_s
        self._maximum_s = maximum_s
        self._rng = rng
        self._steps = 0

    def reset(self) -> None:
        self._steps = 0

    def next_s(self) -> float:
        delay = min(self._maximum_s, self._minimum_s * 2.0 ** min(self._steps, 32))
        self._steps += 1
        return delay * self._rng.uniform(0.5, 1.0)


class Router:
    """Connections to the nodes of one cluster, and what is known about them."""

    def __init__(
        self, endpoints: Sequence[str], connector: Connector, config: ClientConfig, rng: random.Random
    ) -> None:
        if not endpoints:
            raise InvalidRequest("endpoints", "at least one is needed, such as 127.0.0.1:7401")
        self.config = config
        self.rng = rng
        self.counters = Counters()
        self.seen = Revision(0)
        """The highest revision that any answer has shown."""
        self.trouble: JournalError | None = None
        """The last thing that went wrong, for the text of a timeout. None while all is well."""

        self._connector = connector
        self._connections: dict[str, Connection] = {}
        self._locks: dict[str, trio.Lock] = {}
        self.closed = False
        self._wrong: dict[str, WrongCluster] = {}

        # In random order, so that many clients do not all begin with the same node.
        self._ring = list(dict.fromkeys(endpoints))
        rng.shuffle(self._ring)
        self._given = tuple(self._ring)
        self._learned = Slot(0)
        self.reached = trio.Event()
        """Set by the first answer of any node."""
        self._home = 0

        self._leader = self._ring[0]
        self._ring_next = 1 % len(self._ring)
        self._confirmed = False
        self._epoch = 0  # counts the changes of ``_leader``: reports about an older one are ignored
        self._probing = False
        self._probe_waiters = trio.lowlevel.ParkingLot()
        self._probes_failed = 0
        self._probe_not_before = -math.inf
        self._probe_backoff = self.backoff()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The members' endpoints, as far as they were learned, and those the client was given."""
        return tuple(self._ring)

    @property
    def leader(self) -> str | None:
        """Where the leader was last found, if it still seems to be there."""
        return self._leader if self._confirmed else None

    def backoff(self) -> Backoff:
        return Backoff(self.config.backoff_min_s, self.config.backoff_max_s, self.rng)

    def saw(self, revision: int) -> None:
        """Remember that the journal has reached ``revision``."""
        if revision > self.seen:
            self.seen = Revision(revision)

    # -- connections --------------------------------------------------------------

    async def connection(self, endpoint: str) -> Connection:
        """Return the one connection to ``endpoint``, made on first use."""
        found = self._connections.get(endpoint)
        if found is not None:
            return found
        async with self._locks.setdefault(endpoint, trio.Lock()):
            if self.closed:
                raise NotSent("this client is closed")
            found = self._connections.get(endpoint)
            if found is None:
                try:
                    found = self._connections[endpoint] = await self._connector.connect(endpoint)
                except InvalidRequest as error:  # an address that a node named, not the caller
                    raise Unavailable(f"{endpoint} cannot be connected to: {error}") from error
            return found

    async def aclose(self) -> None:
        self.closed = True
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.aclose()
        await self._connector.aclose()

    def refuse_cluster(self, endpoint: str, error: WrongCluster) -> None:
        """Note a node of another cluster; raises ``error`` if there is no other node to ask."""
        self._wrong[endpoint] = error
        if all(one in self._wrong for one in self._ring):
            raise error

    def learn_members(self, applied: Slot, endpoints: Sequence[str]) -> None:
        """A node that has folded ``applied`` says that the members are at ``endpoints``."""
        if applied < self._learned or not endpoints:
            return  # from before what was learned already
        self._learned = applied
        there = [endpoint for endpoint in self._ring if endpoint in endpoints]
        others = [endpoint for endpoint in self._given if endpoint not in endpoints]
        ring = [*there, *(endpoint for endpoint in endpoints if endpoint not in there), *others]
        if ring == self._ring:
            return
        log.info("the members are at %s", ", ".join(endpoints))
        home = self.home
        self._ring = ring
        self._home = ring.index(home) if home in ring else 0
        self._ring_next %= len(ring)

    # -- the leader -----------------------------------------------------------------

    async def at_leader(
        self, call: Callable[[Connection], Awaitable[T]], timeout_s: float, *, is_urgent: bool = False
    ) -> T:
        """Make one try of ``call`` at whoever is thought to lead, and learn from what it says.

        Waits for its turn first while the leader is being looked for, unless it ``is_urgent``: who
        looks for it may be an offer that waits for a slow disk, and what must not wait for a disk
        must not wait for that. Raises what ``call`` raised, or ``Unavailable`` after ``timeout_s``; the
        caller decides whether to try again, and need not wait before it does (an urgent one paces itself).
        """
        if not is_urgent:
            await self._turn()
        endpoint, epoch = self._leader, self._epoch
        try:
            with trio.move_on_after(timeout_s):
                result = await call(await self.connection(endpoint))
                self._confirm(epoch)
                return result
            raise NoAnswer(f"{endpoint} did not answer within {timeout_s:g} s")
        except NotLeader as error:
            self._move_on(epoch, error, error.endpoint)
            raise
        except Unavailable as error:
            self._move_on(epoch, error, None)
            raise
        except (StorageError, ProtocolViolation) as error:
            self._move_on(epoch, error, None)
            raise Unavailable(f"{endpoint}: {error}") from error
        except WrongCluster as error:
            self._move_on(epoch, error, None)
            self.refuse_cluster(endpoint, error)
            raise Unavailable(str(error)) from error
        except JournalError:
            self._confirm(epoch)  # it did not take the call, but as a leader
            raise
        finally:
            if not is_urgent and self._probing and epoch == self._epoch and not self._confirmed:
                self._end_probe(wake_all=False)  # cancelled: the next one probes

    async def _turn(self) -> None:
        """Return once the leader is known, or it is this caller's turn to look for it."""
        while not self._confirmed:
            if self._probing:
                await self._probe_waiters.park()
                continue
            self._probing = True
            try:
                await trio.sleep_until(max(self._probe_not_before, trio.current_time()))
            except BaseException:
                self._end_probe(wake_all=False)
                raise
            return

    def _end_probe(self, *, wake_all: bool) -> None:
        self._probing = False
        if wake_all:
            self._probe_waiters.unpark_all()
        else:
            self._probe_waiters.unpark()

    def _confirm(self, epoch: int) -> None:
        self.reached.set()
        if epoch != self._epoch or self._confirmed:
            return
        self._confirmed = True
        self._probes_failed = 0
        self._probe_backoff.reset()
        self.trouble = None
        self._end_probe(wake_all=True)

    def _move_on(self, epoch: int, error: JournalError, hint: str | None) -> None:
        """The node of ``epoch`` does not lead or does not answer: choose who is asked next."""
        if epoch != self._epoch:
            return
        if not isinstance(error, NotLeader) or self.trouble is None:
            self.trouble = error
        was = self._leader
        if isinstance(error, NotLeader):
            self.counters.redirects += 1
        if hint is not None and hint != was:
            self._leader = hint
        else:
            self._leader = self._next_in_ring(was)
        log.debug("%s: %s; next: %s", was, error, self._leader)
        self._epoch += 1
        self._probes_failed += 1
        self._confirmed = False
        # The first redirect or failure costs nothing; from the second on there is trouble.
        delay = self._probe_backoff.next_s() if self._probes_failed > 1 else 0.0
        self._probe_not_before = trio.current_time() + delay
        self._end_probe(wake_all=False)

    def _next_in_ring(self, unlike: str) -> str:
        for _ in range(len(self._ring)):
            endpoint = self._ring[self._ring_next]
            self._ring_next = (self._ring_next + 1) % len(self._ring)
            if endpoint != unlike and endpoint not in self._wrong:
                return endpoint
        return unlike

    # -- any node -------------------------------------------------------------------

    @property
    def home(self) -> str:
        """The node that reads and tails are with at present."""
        return self._ring[self._home]

    def leave(self, endpoint: str) -> None:
        """Reads and tails had trouble with ``endpoint``: the next ones go to another node."""
        if self._ring[self._home] == endpoint:
            for _ in range(len(self._ring)):
                self._home = (self._home + 1) % len(self._ring)
                if self._ring[self._home] not in self._wrong:
                    break

    async def anywhere(
        self,
        call: Callable[[Connection], Awaitable[T]],
        timeout_s: float | None,
        *,
        leader_first: bool = False,
    ) -> T:
        """Try ``call`` at one node after the other until it works or ``timeout_s`` is over.

        ``Unavailable`` (so also ``StaleAnswer``), ``NotLeader``, ``Overloaded`` and ``WrongCluster``
        mean "another node"; any other error is the answer. Raises ``Unavailable`` in the end,
        or ``Overloaded`` if that was the last thing heard.
        """
        error: JournalError | None = None
        backoff = self.backoff()
        tries = 0
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            while True:
                if self.closed:
                    raise NotSent("this client is closed")
                endpoint = self._leader if leader_first and tries == 0 and self._confirmed else self.home
                delay = 0.0
                try:
                    with trio.move_on_after(self.config.attempt_timeout_s):
                        result = await call(await self.connection(endpoint))
                        self.reached.set()
                        return result
                    error = NoAnswer(f"{endpoint} did not answer within {self.config.attempt_timeout_s:g} s")
                except Overloaded as overloaded:
                    error = overloaded
                    self.counters.overloads += 1
                    delay = overloaded.retry_after_ms / 1000 * self.rng.uniform(1.0, 1.5)
                except WrongCluster as wrong:
                    error = wrong
                    self.refuse_cluster(endpoint, wrong)
                except ANOTHER_NODE as unavailable:
                    error = unavailable
                    self.counters.stale_answers += isinstance(unavailable, StaleAnswer)
                log.debug("read at %s: %s", endpoint, error)
                self.leave(endpoint)
                tries += 1
                if tries >= len(self._ring):
                    delay = max(delay, backoff.next_s())
                await trio.sleep(delay)
        if isinstance(error, Overloaded):
            raise error
        within = "" if timeout_s is None else f" within {timeout_s:g} s"
        raise Unavailable(
            f"no node answered{within}; the last trouble: {error or 'none was reached'}"
        ) from error
