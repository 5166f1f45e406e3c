"""Offers on their way: coalesced into messages, resubmitted by id, each answered once.

The way of an offer here::

    offer() -> queue -> a message of many -> at_leader -> verdicts -> offer() returns
                 ^             |    ^  |
                 |             |    +--+ not led, overloaded, no answer: the same message again
                 +- FIFO       +-> part by part, where the node refuses it as a whole

**Exactly once.** The id is (a random client id, a sequence). Three numbers travel with each
message, and each has one rule:

* *sequence*: given once, never again to another offer.
* *acked*: the lowest sequence whose verdict this client does not know. The fold may forget
  everything below it, and refuses what arrives late from there. It is read at each sending.
* *base*: the revision this client knew when it first sent the message, kept when it is sent
  again. A journal that has forgotten the client can so tell an id that is new to it from one
  that it may have applied and forgotten; the latter comes back ``Expired``.

**No answer.** A message that may have been taken in is sent again, as it is, to whoever leads
now; the fold returns the first verdict of what it has seen. An offer whose caller has gone
(deadline, cancellation) is not brought to commit by that: if it was never sent it is dropped,
and the caller is told so; if it was, it is *withdrawn*: its id is sent again with an offer
that is always rejected. So either the first copy had been applied, and the answer is its
verdict, or the id is used up, and no late copy of it can be applied any more. ``acked`` can
pass it then, and ``outcome`` knows what became of it.

**Cost.** There is no task and no event for an offer: the caller's own task sleeps and is
rescheduled by the worker that has its verdict. A fixed number of workers each carry one
message at a time, so what arrives while all are away gathers for the next (natural batching).
Deadlines are one timer for all offers.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from journal.client.errors import OfferId, OffersUnresolved, OfferUnknown
from journal.client.router import NoAnswer, Router
from journal.connection import LINEARIZABLE, LOCAL, Connection, NotSent, at_least
from journal.errors import (
    JournalError,
    NotLeader,
    OfferInvalid,
    Overloaded,
    RevisionInFuture,
    SpaceFull,
    Unavailable,
    WrongCluster,
)
from journal.limits import FOLD_SESSION_WINDOW_OFFERS_MAX
from journal.offers import (
    EXPIRED,
    Adjust,
    Delete,
    Expired,
    Offer,
    Reason,
    Rejected,
    Verdict,
    pack_batch,
    pack_offer,
)
from journal.types import Revision

log = logging.getLogger("journal.client")

CLIENT_ID_BYTES = 16
RENEWALS_MAX = 3
TRIES_UNPACED_MAX = 4
PROBE_OFFERS_MAX = 64
PROBE_BYTES_MAX = 64 * 1024
"""What is sent to a node that may not lead."""
OUTCOMES_KEPT_MAX = 1_024
"""How many settled outcomes of abandoned offers a client remembers."""
SWEEP_INTERVAL_S = 0.005
"""Deadlines are kept to this precision, so that many of them cost one sweep."""
MANY_OUTSTANDING_MAX = 8_192
"""Offers that one ``offer_many`` has in the queue and on the way: a long list fills the
queue piece by piece, and does not make single offers wait for all of it."""

_WITHDRAWN_KEY = b"synod/withdrawn"
WITHDRAWN = Offer(
    mutations=(Delete(_WITHDRAWN_KEY), Adjust(_WITHDRAWN_KEY, {"": 0})),
    label="withdrawn by its client",
)
"""Always rejected by the fold, and never early by a leader (nothing about it is a lasting
fact): it adjusts what it has just deleted. So its rejection is remembered under its id."""

_PLACE = re.compile(r"offers\[(\d+)\]\.?(.*)", re.DOTALL)


class _NothingToSend(Exception):
    """Between waiting for its turn and getting it, all that a worker had to send was gone."""


class _Waiter:
    """A task that sleeps until at most ``wake_at`` of its offers are without a result."""

    __slots__ = ("left", "offers", "task", "wake_at")

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.left = 0
        self.wake_at = 0
        self.offers: list[_Pending] = []


class _Pending:
    """One offer from ``offer()`` until its verdict is known."""

    __slots__ = ("deadline", "done", "message", "packed", "result", "sequence", "waiter")

    def __init__(self, sequence: int, packed: bytes, waiter: _Waiter, deadline: float) -> None:
        self.sequence = sequence
        self.packed = packed
        self.waiter: _Waiter | None = waiter  # None: its caller has gone
        self.deadline = deadline
        self.message: _Message | None = None  # None: still in the queue
        self.done = False  # nothing about it can change any more; ``acked`` may pass it
        self.result: Any = None  # a Verdict, or an exception


class _Message:
    """Some offers that are submitted together, until each has its verdict."""

    __slots__ = (
        "base",
        "disbelieved",
        "error",
        "in_flight",
        "maybe",
        "offers",
        "overloads",
        "renewals",
        "sent",
        "timeouts",
        "tries",
    )

    def __init__(self, offers: list[_Pending]) -> None:
        self.offers = offers  # empty until its first try takes them from the queue
        self.sent: list[_Pending] = []  # what the last try carried, in its order
        self.base: Revision | None = None
        self.disbelieved: Revision | None = None  # the base under which it was answered ``Expired``
        self.in_flight = False  # a try is under way
        self.maybe = False  # some try may have been taken in, without an answer
        self.tries = 0
        self.timeouts = 0
        self.overloads = 0
        self.renewals = 0
        self.error: JournalError | None = None

    def part(self, offers: list[_Pending]) -> _Message:
        """Return a message of some of the offers, with the same past."""
        other = _Message(offers)
        other.base, other.maybe, other.renewals = self.base, self.maybe, self.renewals
        other.disbelieved = self.disbelieved
        for pending in offers:
            pending.message = other
        return other


class Submitter:
    """The one way of offers from a client to the journal. ``run`` it; then call it."""

    def __init__(self, router: Router) -> None:
        config = router.config
        self._router = router
        self._config = config
        self._counters = router.counters
        self.client = router.rng.randbytes(CLIENT_ID_BYTES)

        self._next = 1
        self._queue: deque[_Pending] = deque()
        self._queue_dead = 0  # abandoned offers that are still in the queue
        self._window: deque[_Pending] = deque()  # in sequence order; its head is never done
        self._idle = trio.lowlevel.ParkingLot()
        self._waking = False
        self._based = False
        self._closed: JournalError | None = NotSent("the client is not running yet")
        self._sweep: trio.CancelScope | None = None
        self._sweep_at = math.inf

        self._unsettled: dict[int, trio.Event] = {}
        self._settled: OrderedDict[int, Verdict | None] = OrderedDict()

    # -- the callers' side ----------------------------------------------------------

    @property
    def acked(self) -> int:
        """Every sequence below this one has its verdict, or was never sent and never will be."""
        return self._window[0].sequence if self._window else self._next

    async def offer(self, offer: Offer, timeout_s: float | None) -> Verdict:
        """Return the verdict of one offer.

        Raises ``OfferUnknown`` if it may be committed but that could not be learned in time;
        ``Unavailable`` or ``Overloaded`` if it could not be submitted and never will be;
        ``OfferInvalid``. If the caller is cancelled, the offer may still be committed.
        """
        waiter = _Waiter()
        pending = self._enqueue(offer, waiter, self._deadline(timeout_s))
        await self._wait(waiter, 0)
        result = pending.result
        if isinstance(result, BaseException):
            raise result
        return result  # type: ignore[no-any-return]

    async def offer_many(self, offers: Sequence[Offer], timeout_s: float | None) -> list[Verdict]:
        """Return the verdicts of many offers, each decided by itself.

        Raises ``OffersUnresolved`` with what became of each, if for some there is no verdict.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waiter = _Waiter()
        deadline = self._deadline(timeout_s)
        all_of_them: list[_Pending] = []
        for offer in offers:
            if waiter.left >= MANY_OUTSTANDING_MAX:
                await self._wait(waiter, MANY_OUTSTANDING_MAX // 2)
                waiter.offers = [pending for pending in waiter.offers if not pending.done]
            try:
                all_of_them.append(self._enqueue(offer, waiter, deadline))
            except JournalError as error:  # this one cannot be packed: the others are not to blame
                refused = _Pending(0, b"", waiter, deadline)
                refused.done, refused.result = True, error
                all_of_them.append(refused)
        if waiter.left:
            await self._wait(waiter, 0)
        results = [pending.result for pending in all_of_them]
        if any(isinstance(result, JournalError) for result in results):
            raise OffersUnresolved(results)
        return results

    async def settled(self, sequence: int) -> Verdict | None:
        """Wait until it is known what became of an offer that was given up on.

        None: it was not committed and never will be. Raises KeyError for a sequence that was
        not given up on, or so long ago that its outcome is no longer kept.
        """
        while (event := self._unsettled.get(sequence)) is not None:
            await event.wait()
            if self._closed is not None:
                raise self._closed
        return self._settled[sequence]

    def _deadline(self, timeout_s: float | None) -> float:
        return math.inf if timeout_s is None else trio.current_time() + timeout_s

    def _enqueue(self, offer: Offer, waiter: _Waiter, deadline: float) -> _Pending:
        if self._closed is not None:
            raise self._closed
        packed = pack_offer(self._next, offer)
        limit = self._config.limits.offer_bytes_max
        if len(packed) > limit:
            raise OfferInvalid("offer", f"{len(packed)} bytes is over offer_bytes_max={limit}")
        pending = _Pending(self._next, packed, waiter, deadline)
        self._next += 1
        waiter.left += 1
        waiter.offers.append(pending)
        self._queue.append(pending)
        self._window.append(pending)
        if deadline < self._sweep_at:
            self._sweep_at = deadline
            if self._sweep is not None:
                self._sweep.deadline = deadline
        self._wake_worker()
        return pending

    async def _wait(self, waiter: _Waiter, wake_at: int) -> None:
        """Sleep until at most ``wake_at`` of the waiter's offers are without a result."""
        waiter.wake_at = wake_at
        waiter.task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            waiter.task = None
            for pending in waiter.offers:
                if not pending.done and pending.waiter is not None:
                    self._abandon(pending)
            self._advance()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    # -- results ----------------------------------------------------------------------

    def _deliver(self, pending: _Pending, result: Verdict | JournalError) -> None:
        """Nothing about ``pending`` can change any more: give its caller the result."""
        pending.done = True
        pending.packed = b""
        waiter = pending.waiter
        if waiter is not None:
            pending.result = result
            self._count_down(waiter)
        elif pending.sequence in self._unsettled:
            self._settle(pending, result)

    def _count_down(self, waiter: _Waiter) -> None:
        waiter.left -= 1
        if waiter.left == waiter.wake_at and waiter.task is not None:
            trio.lowlevel.reschedule(waiter.task)
            waiter.task = None

    def _advance(self) -> None:
        """Let ``acked`` pass what is done; that may open the window for what is queued."""
        window = self._window
        while window and window[0].done:
            window.popleft()
        if self._queue:
            self._wake_worker()

    def _abandon(self, pending: _Pending) -> bool:
        """The caller of ``pending`` goes. Returns whether it may be committed all the same."""
        pending.waiter = None
        message = pending.message
        if message is not None and (message.maybe or message.in_flight):
            self._unsettled[pending.sequence] = trio.Event()
            return True
        pending.done = True
        pending.packed = b""
        if message is None:
            self._queue_dead += 1
            if self._queue_dead > 1_024 and self._queue_dead > len(self._queue) // 2:
                self._queue = deque(queued for queued in self._queue if not queued.done)
                self._queue_dead = 0
        return False

    def _settle(self, pending: _Pending, result: Verdict | JournalError) -> None:
        """It is known now what became of an abandoned offer."""
        verdict: Verdict | None = None
        if isinstance(result, JournalError):
            verdict = EXPIRED  # refused after it may have been taken in: nobody will ever know
        else:
            withdrawn = isinstance(result, Rejected) and result.key == _WITHDRAWN_KEY
            verdict = None if withdrawn else result
            self._counters.withdrawals += withdrawn
        self._remember(pending.sequence, verdict)
        self._unsettled.pop(pending.sequence).set()
        log.info("offer %s settled: %s", OfferId(self.client, pending.sequence), verdict)

    def _remember(self, sequence: int, verdict: Verdict | None) -> None:
        self._settled[sequence] = verdict
        if len(self._settled) > OUTCOMES_KEPT_MAX:
            self._settled.popitem(last=False)

    # -- deadlines ----------------------------------------------------------------------

    async def _sweeper(self) -> None:
        """Give up on offers whose deadline has passed."""
        while True:
            with trio.CancelScope(deadline=self._sweep_at) as self._sweep:
                await trio.sleep_forever()
            now = trio.current_time()
            earliest = math.inf
            for pending in self._window:
                if pending.waiter is None or pending.done:
                    continue
                if pending.deadline <= now:
                    self._give_up(pending)
                elif pending.deadline < earliest:
                    earliest = pending.deadline
            self._sweep_at = max(earliest, now + SWEEP_INTERVAL_S)
            self._advance()

    def _give_up(self, pending: _Pending) -> None:
        waiter = pending.waiter
        assert waiter is not None
        message = pending.message
        trouble = (message.error if message is not None else None) or self._router.trouble
        if self._abandon(pending):
            why = f"its deadline passed; the last trouble: {trouble or 'no answer came'}"
            pending.result = OfferUnknown(OfferId(self.client, pending.sequence), why)
        elif isinstance(trouble, Overloaded):
            pending.result = Overloaded(trouble.limit, trouble.value, trouble.retry_after_ms)
        else:
            pending.result = Unavailable(
                "the offer could not be submitted before its deadline, and will not be committed;"
                f" the last trouble: {trouble or 'its turn did not come'}"
            )
        self._count_down(waiter)

    # -- messages -----------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry messages until cancelled; then every caller that still waits gets an error."""
        self._closed = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweeper)
                for _ in range(self._config.messages_inflight_max):
                    nursery.start_soon(self._worker)
                task_status.started()
        finally:
            self._close()

    def _close(self) -> None:
        self._closed = NotSent("this client is closed")
        for pending in self._window:
            waiter = pending.waiter
            if pending.done or waiter is None:
                continue
            if self._abandon(pending):
                pending.result = OfferUnknown(
                    OfferId(self.client, pending.sequence), "the client was closed before its verdict came"
                )
            else:
                pending.result = NotSent("the client was closed before the offer was submitted")
            self._count_down(waiter)
        for event in self._unsettled.values():
            event.set()
        self._window.clear()
        self._queue.clear()

    def _wake_worker(self) -> None:
        if not self._waking and self._idle:
            self._waking = True
            self._idle.unpark()

    async def _worker(self) -> None:
        while True:
            while not self._has_next():
                await self._idle.park()
                self._waking = False
            await self._carry()

    def _has_next(self) -> bool:
        """Whether there is anything to take: queued, wanted, and within the session's window."""
        queue = self._queue
        while queue and queue[0].done:
            queue.popleft()
            self._queue_dead -= 1
        return bool(queue) and queue[0].sequence < self.acked + FOLD_SESSION_WINDOW_OFFERS_MAX

    def _take(self, message: _Message) -> None:
        """Fill ``message`` with what is queued, in order, as far as the limits allow."""
        queue, config = self._queue, self._config
        offers = message.offers
        size = 0
        sequence_end = self.acked + FOLD_SESSION_WINDOW_OFFERS_MAX
        offers_max, bytes_max = config.message_offers_max, config.message_bytes_max
        if self._router.leader is None:  # it may travel from node to node: keep it small
            offers_max, bytes_max = min(offers_max, PROBE_OFFERS_MAX), min(bytes_max, PROBE_BYTES_MAX)
        while queue and len(offers) < offers_max:
            pending = queue[0]
            if pending.done:
                queue.popleft()
                self._queue_dead -= 1
                continue
            size += len(pending.packed)
            if pending.sequence >= sequence_end or (offers and size > bytes_max):
                break
            pending.message = message
            offers.append(queue.popleft())
        if queue:
            self._wake_worker()

    async def _carry(self) -> None:
        """Take a message and submit it until each of its offers has its result or was dropped.

        It is taken when it is this worker's turn to send, in the same step: so messages leave in
        the order of the queue, and while no leader is known everything gathers in the queue.
        """
        todo = [_Message([])]
        while todo:
            message = todo.pop()
            if message.tries and all(pending.done for pending in message.offers):
                continue
            if message.tries:
                self._counters.resubmissions += 1
            message.tries += 1
            timeout_s = self._config.attempt_timeout_s * 2 ** min(message.timeouts, 2)
            if message.tries > TRIES_UNPACED_MAX:
                # The router paces the search for a leader; this paces a leader that fails quickly.
                await trio.sleep(self._config.backoff_max_s * self._router.rng.uniform(0.5, 1.0))
            try:
                verdicts = await self._router.at_leader(self._sending(message), timeout_s)
            except _NothingToSend:
                pass
            except OfferInvalid as error:
                todo.extend(self._refused(message, error))
            except WrongCluster as error:
                self._refuse_all(message, error)
            except SpaceFull as error:
                # Deletes are still taken: find the offers that are not.
                if len(message.sent) == 1:
                    self._refuse_all(message, error)
                else:
                    todo.extend(self._halves(message))
            except Overloaded as error:
                message.error = error
                self._counters.overloads += 1
                todo.extend(await self._overloaded(message, error))
            except Unavailable as error:
                message.error = error
                message.timeouts += isinstance(error, NoAnswer)
                todo.append(message)
            except JournalError as error:  # no correct node answers this to a submit
                log.warning("submit failed: %s", error)
                self._refuse_all(message, error)
                if not message.offers:  # it failed before anything was taken from the queue
                    await trio.sleep(self._config.backoff_max_s)
            else:
                todo.extend(self._answered(message, verdicts))

    def _sending(self, message: _Message) -> Callable[[Connection], Any]:
        """Return the call that sends ``message`` once, packed as things stand at that moment."""

        async def send(connection: Connection) -> list[Verdict]:
            await self._learn_base(connection, message)
            if not message.offers:
                self._take(message)
            message.sent = [pending for pending in message.offers if not pending.done]
            if not message.sent:
                raise _NothingToSend
            packed = [
                pending.packed if pending.waiter is not None else self._withdrawal(pending)
                for pending in message.sent
            ]
            assert message.base is not None
            data = pack_batch(self.client, self.acked, message.base, packed)
            self._counters.messages += 1
            self._counters.offers += len(packed)
            message.in_flight = True
            try:
                verdicts = await connection.submit(data)
                if len(verdicts) != len(packed):
                    raise Unavailable(
                        f"{connection.endpoint} answered {len(packed)} offers with {len(verdicts)} verdicts"
                    )
                return verdicts
            except (NotLeader, NotSent, Overloaded, OfferInvalid, SpaceFull, WrongCluster):
                raise  # by the port's contract nothing of this try was taken in
            except BaseException:
                message.maybe = True
                raise
            finally:
                message.in_flight = False

        return send

    def _withdrawal(self, pending: _Pending) -> bytes:
        return pack_offer(pending.sequence, WITHDRAWN)

    async def _learn_base(self, connection: Connection, message: _Message) -> None:
        """Fix the base of a message that is sent for the first time."""
        if message.base is not None:
            return
        if message.renewals or (self._router.seen == 0 and not self._based):
            consistency = LINEARIZABLE if message.renewals else LOCAL
            reply = await connection.get([], at=None, consistency=consistency)
            if message.disbelieved is not None and reply.revision <= message.disbelieved:
                # The journal has not moved since: it would not believe the same base now.
                above = at_least(message.disbelieved + 1)
                try:
                    reply = await connection.get([], at=None, consistency=above)
                except RevisionInFuture as error:
                    why = f"the journal has forgotten this client, and believes no base yet: {error}"
                    raise Unavailable(why) from error
            self._router.saw(reply.revision)
            self._based = True  # the journal may well be empty, and seen stay at 0
        message.base = self._router.seen

    # -- answers ------------------------------------------------------------------------

    def _answered(self, message: _Message, verdicts: list[Verdict]) -> list[_Message]:
        """Hand out the verdicts; returns a message of what has to be sent under a newer base."""
        forgotten: list[_Pending] = []
        highest = self._router.seen
        for pending, verdict in zip(message.sent, verdicts, strict=True):
            if type(verdict) is int:
                if verdict > highest:
                    highest = Revision(verdict)
            elif isinstance(verdict, Expired):
                forgotten.append(pending)
                continue
            elif isinstance(verdict, Rejected) and verdict.reason in _HAPPENED:
                highest = max(highest, Revision(verdict.revision))
            self._deliver(pending, verdict)
        self._router.saw(highest)
        again = self._forgotten(message, forgotten) if forgotten else []
        self._advance()
        return again

    def _forgotten(self, message: _Message, forgotten: list[_Pending]) -> list[_Message]:
        """The journal does not know this client any more, and does not believe its base.

        What cannot have been applied before may simply be offered again under a newer base.
        """
        renew: list[_Pending] = []
        for pending in forgotten:
            if pending.waiter is None:
                self._deliver(pending, EXPIRED)
            elif message.maybe:
                why = "the journal has forgotten this client; an earlier try may have been applied"
                self._deliver_unknown(pending, why)
            elif message.renewals >= RENEWALS_MAX:
                why = "the offer was not committed: the journal forgets this client as fast as it comes back"
                self._deliver(pending, Unavailable(why))
            else:
                renew.append(pending)
        if not renew:
            return []
        again = message.part(renew)
        again.base, again.disbelieved = None, message.base
        again.renewals = message.renewals + 1
        return [again]

    def _refused(self, message: _Message, error: OfferInvalid) -> list[_Message]:
        """One offer of the message is invalid: it gets the error, the others go on without it."""
        place = _PLACE.fullmatch(error.where)
        index = int(place[1]) if place else -1
        if len(message.sent) == 1:
            index = 0
        if not 0 <= index < len(message.sent):
            return self._halves(message)  # it does not say which: find out
        pending = message.sent[index]
        where = (place[2] if place else error.where) or "offer"
        self._fail(pending, message, OfferInvalid(where, error.why))
        self._advance()
        return [message]

    def _refuse_all(self, message: _Message, error: JournalError) -> None:
        for pending in message.offers:
            if not pending.done:
                self._fail(pending, message, error)
        self._advance()

    def _fail(self, pending: _Pending, message: _Message, error: JournalError) -> None:
        """An offer was refused; unless an earlier try may have been taken in, that is final."""
        if message.maybe and pending.waiter is not None:
            self._deliver_unknown(pending, f"a later try was refused: {error}")
        else:
            self._deliver(pending, error)

    def _deliver_unknown(self, pending: _Pending, why: str) -> None:
        """Nobody will ever know what became of ``pending``; ``outcome`` says ``Expired``."""
        self._remember(pending.sequence, EXPIRED)
        self._deliver(pending, OfferUnknown(OfferId(self.client, pending.sequence), why))

    async def _overloaded(self, message: _Message, error: Overloaded) -> list[_Message]:
        delay = max(error.retry_after_ms / 1000, self._config.backoff_min_s) * 2 ** min(message.overloads, 8)
        message.overloads += 1
        await trio.sleep(min(delay, self._config.overload_delay_max_s) * self._router.rng.uniform(1.0, 1.5))
        # A message that is by itself over the limit would never be taken in.
        return self._halves(message) if message.overloads >= 3 else [message]

    def _halves(self, message: _Message) -> list[_Message]:
        """Return the message in two parts, to be sent one after the other (the last one first)."""
        offers = [pending for pending in message.offers if not pending.done]
        if len(offers) < 2:
            return [message]
        middle = len(offers) // 2
        return [message.part(offers[middle:]), message.part(offers[:middle])]


_HAPPENED = frozenset(
    {
        Reason.READ,
        Reason.RANGE,
        Reason.EXPECT,
        Reason.BOUNDS,
        Reason.SET,
        Reason.ABSENT,
        Reason.TYPE,
        Reason.COMPACTED,
        Reason.FUTURE,
    }
)
"""Reasons whose receipt names a revision that the journal has certainly reached."""
