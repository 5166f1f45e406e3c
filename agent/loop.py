"""The agent's loop: what it hears of the journal and of its containers, and what it does about it.

Tasks in one nursery, and one short task per offer, start or stop under way:

* ``Presence`` (``agent.presence``) keeps the instance registered and alive;
* ``_follow`` tails what is desired of this instance;
* ``Machine`` (``agent.machine``) knows and changes what runs here, through the runtime;
* ``_act`` asks ``reconcile`` what to do after every change, and does it.

All of them only ever add to what is known and set ``_changed``. None of them stops a task
because the journal is away: without it they wait, and what runs goes on running.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio
from structlog.typing import FilteringBoundLogger

from agent.admission import Room, waiting_ports
from agent.folder import AgentFolder
from agent.machine import MACHINE_RETRY_S, Machine
from agent.model import LocalTask
from agent.ports import busy_ports
from agent.presence import Presence, StaleState, TakenOver
from agent.reconcile import (
    KEEP_STOPPED_S_DEFAULT,
    Action,
    Confirm,
    FetchDefinition,
    ForgetFolder,
    ForgetRecords,
    Kill,
    Report,
    Start,
    Terminate,
    View,
    WriteDown,
    reconcile,
)
from agent.runtime import Runtime
from cluster import keys, offers
from cluster.codec import Record, RecordInvalid
from cluster.keys import Kind
from cluster.records import Alive, ContainerInstance, Task, TaskDefinition, TaskStatus
from cluster.state import At
from journal.client import Journal, OfferRejected, SnapshotPage, at_least
from journal.errors import JournalError, RevisionInFuture
from journal.types import Revision

R = TypeVar("R", bound=Record)

RETRY_S = 0.5
"""After an offer or a read that failed. The client has tried for its ``timeout_s`` before."""
CONFIRM_AGAIN_S = 5.0
LOOK_AGAIN_S = 60.0
"""At least so often everything is looked at again: stopped tasks grow old without an event."""


class Agent:
    """One container instance. ``run`` ends only by cancellation or an ``AgentError``."""

    def __init__(
        self,
        journal: Journal,
        folder: AgentFolder,
        runtime: Runtime,
        registration: ContainerInstance,
        *,
        incarnation: str,
        wall: Callable[[], float],
        rng: random.Random,
        log: FilteringBoundLogger,
        lease_ttl_s: float = 10.0,
        keep_stopped_s: float = KEEP_STOPPED_S_DEFAULT,
    ) -> None:
        identity = folder.identity
        self.cluster, self.instance = identity.cluster, identity.instance
        self.presence = Presence(
            journal,
            folder,
            registration,
            incarnation=incarnation,
            wall=wall,
            rng=rng,
            log=log,
            ttl_s=lease_ttl_s,
        )
        self._journal = journal
        self._folder = folder
        self._room = (registration.cpu, registration.memory)
        self._wall = wall
        self._rng = rng
        self._log = log
        self._keep_stopped_s = keep_stopped_s
        # What is known.
        self._desired: dict[str, At[Task]] | None = None
        self._unreadable: set[str] = set()
        self._definitions: dict[str, TaskDefinition | None] = {}
        self._reported: dict[str, At[TaskStatus]] = {}
        self._local: dict[str, LocalTask] = dict(folder.tasks())
        self._gone: set[str] = set()
        self._settled: set[str] = set()
        self._settled_until = float("-inf")
        self._revision = Revision(0)
        # What is under way: an offer or read is not made twice at once.
        self._busy: set[tuple[str, str]] = set()
        self._confirmed_at: dict[str, float] = {}
        self._retry_at = float("inf")
        self._changed = trio.Event()
        self.machine = Machine(runtime, under_way=self._under_way, wake=self._wake, log=log)

    @property
    def local(self) -> Mapping[str, LocalTask]:
        """The tasks that are written down here."""
        return self._local

    @property
    def reported(self) -> Mapping[str, At[TaskStatus]]:
        """What the journal has of this agent's reports, by task."""
        return self._reported

    @property
    def revision(self) -> Revision:
        """How much of the journal this agent knows."""
        return self._revision

    async def run(self) -> None:
        """Register, take back what runs, and run tasks until cancelled. Raises ``AgentError``."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.machine.expect(self._local)
            nursery.start_soon(self.machine.runtime.run)
            nursery.start_soon(self.machine.adopt)
            nursery.start_soon(self.presence.run)
            nursery.start_soon(self._follow)
            nursery.start_soon(self._act)

    # -- what is desired ----------------------------------------------------------------

    async def _follow(self) -> None:
        """Tail everything of this instance. Raises ``StaleState`` or ``TakenOver``."""
        mine = (
            keys.instance(self.cluster, self.instance),
            keys.alive(self.cluster, self.instance),
            keys.tasks_of(self.cluster, self.instance),
            keys.statuses_of(self.cluster, self.instance),
        )
        items: list[tuple[bytes, bytes | None, Revision]] = []
        try:
            async with self._journal.tail(None, mine, snapshot=True) as tail:
                async for message in tail:
                    if isinstance(message, SnapshotPage):
                        items = [] if message.first else items
                        items.extend((key, record.value, record.mod) for key, record in message.items)
                        if message.last:
                            self._load(items, message.revision)
                        continue
                    changes = [
                        (change.key, change.value, commit.revision)
                        for commit in message.commits
                        for change in commit.changes
                    ]
                    self._hear(changes, message.last)
        except RevisionInFuture as error:
            raise StaleState(f"the journal lost what this agent has seen: {error}") from error

    def _load(self, items: Sequence[tuple[bytes, bytes | None, Revision]], revision: Revision) -> None:
        seen = max(self._folder.identity.seen, self._revision)
        if revision < seen:
            raise StaleState(
                f"the journal is at revision {revision}, and this agent has acted on revision {seen}: it was"
                " restored from an older copy, or is another journal; nothing is touched"
            )
        self._desired, self._unreadable = {}, set()
        self._reported = {}
        self._settled.clear()
        self._hear(items, revision)
        self._log.info("journal.heard", revision=revision, tasks=len(self._desired))

    def _hear(self, changes: Sequence[tuple[bytes, bytes | None, Revision]], revision: Revision) -> None:
        """Take in what was committed up to ``revision``; remember durably that it was, before acting."""
        is_news = False
        for key, value, modified in changes:
            parsed = keys.parse(key)
            if parsed is None or parsed.instance != self.instance:
                continue
            is_news = True
            self._settled.discard(parsed.task)
            if parsed.kind is Kind.TASK:
                self._hear_task(parsed.task, value, modified)
            elif parsed.kind is Kind.STATUS:
                self._hear_status(parsed.task, value, modified)
            else:
                self._hear_instance(parsed.kind, value, modified)
        self._revision = max(self._revision, revision)
        if is_news:
            self._folder.update(seen=max(self._folder.identity.seen, revision))
            self._wake()

    def _hear_task(self, task: str, value: bytes | None, revision: Revision) -> None:
        assert self._desired is not None
        self._unreadable.discard(task)
        self._desired.pop(task, None)
        if value is None:
            return
        self._gone.discard(task)
        record = self._decode(Task, value, f"task {task}")
        if record is None:
            self._unreadable.add(task)
        else:
            self._desired[task] = At(record, revision)

    def _hear_status(self, task: str, value: bytes | None, revision: Revision) -> None:
        known = self._reported.get(task)
        if known is not None and known.revision > revision:
            return  # our own report was answered before the tail brought its predecessor
        record = self._decode(TaskStatus, value, f"status of task {task}") if value is not None else None
        if record is None:
            self._reported.pop(task, None)
        else:
            self._reported[task] = At(record, revision)

    def _hear_instance(self, kind: Kind, value: bytes | None, revision: Revision) -> None:
        if kind is Kind.ALIVE and value is not None:
            alive = self._decode(Alive, value, "liveness")
            if alive is not None and self.presence.is_rival(alive, revision):
                raise TakenOver(
                    f"another agent registered as container instance {self.instance}: was its folder copied?"
                )

    def _decode(self, kind: type[R], value: bytes, what: str) -> R | None:
        try:
            return kind.unpack(value)
        except RecordInvalid as error:
            self._log.warning("record.invalid", what=what, reason=str(error))
            return None

    # -- what to do ---------------------------------------------------------------------

    async def _act(self) -> None:
        while True:
            self._changed = trio.Event()
            self._retry_at = float("inf")
            now = trio.current_time()
            if now >= self._settled_until:
                self._settled.clear()
                self._settled_until = now + LOOK_AGAIN_S
            decision = reconcile(self._view())
            self._settled.update(decision.settled)
            did = False
            for action in decision.actions:
                did |= self._perform(action)
            if did:
                await trio.lowlevel.checkpoint()
                continue
            deadline = min(
                decision.wake_at if decision.wake_at is not None else float("inf"),
                self._retry_at,
                self._settled_until,
            )
            with trio.move_on_at(deadline):
                await self._changed.wait()

    def _view(self) -> View:
        pending = (local for task, local in self._local.items() if task not in self._settled)
        cpu, memory = self._room
        busy = busy_ports(waiting_ports(pending, self.machine.containers))
        return View(
            room=Room(cpu, memory, busy),
            desired=self._desired,
            unreadable=frozenset(self._unreadable),
            definitions=self._definitions,
            reported=self._reported,
            local=self._local,
            containers=self.machine.containers,
            signalled=self.machine.signalled,
            gone=frozenset(self._gone),
            settled=self._settled,
            now=trio.current_time(),
            wall=self._wall(),
            keep_stopped_s=self._keep_stopped_s,
        )

    def _perform(self, action: Action) -> bool:
        """Do it, or begin to. True: something is known now that was not before, so decide again."""
        try:
            match action:
                case Terminate(task, container):
                    self.machine.signal(task, container, kill=False)
                case Kill(task, container):
                    self.machine.signal(task, container, kill=True)
                case WriteDown(local):
                    self._folder.write(local)
                    self._local[local.id] = local
                    self._log.info("task.written", task=local.id, desired=str(local.task.desired_status))
                    return True
                case ForgetFolder(task):
                    self._under_way("remove", task, lambda: self._forget(task))
                case Start(local, container, attempt):
                    self.machine.start(local, container, attempt)
                case Report(task):
                    self._under_way("report", task, lambda: self._report(action))
                case FetchDefinition(name, revision):
                    self._under_way("fetch", name, lambda: self._fetch(name, revision))
                case Confirm(task):
                    if trio.current_time() >= self._confirmed_at.get(task, float("-inf")) + CONFIRM_AGAIN_S:
                        self._under_way("confirm", task, lambda: self._confirm(task))
                case ForgetRecords(task):
                    self._under_way("forget", task, lambda: self._forget_records(action))
        except OSError as error:
            self._log.error("machine.refused", action=type(action).__name__, reason=str(error))
            self._try_again(MACHINE_RETRY_S)
        return False

    def _under_way(self, kind: str, what: str, act: Callable[[], Awaitable[None]]) -> None:
        """Run ``act`` in the background, once at a time for each thing."""
        token = (kind, what)
        if token in self._busy:
            return
        self._busy.add(token)

        async def run() -> None:
            try:
                await act()
            finally:
                self._busy.discard(token)
                self._wake()

        self._nursery.start_soon(run, name=f"{kind} {what}")

    def _wake(self) -> None:
        self._changed.set()

    def _try_again(self, delay: float) -> None:
        self._retry_at = min(self._retry_at, trio.current_time() + delay)

    async def _forget(self, task: str) -> None:
        """Delete a task from this machine: first what the runtime has of it, then its record."""
        local = self._local[task]
        try:
            await self.machine.runtime.remove(local)
            self._folder.remove(task)
        except OSError as error:
            self._log.error("machine.refused", action="ForgetFolder", task=task, reason=str(error))
            await trio.sleep(MACHINE_RETRY_S)
            return
        del self._local[task]
        self.machine.forget(local)
        self._confirmed_at.pop(task, None)
        self._gone.discard(task)

    # -- towards the journal --------------------------------------------------------------

    async def _report(self, action: Report) -> None:
        before = action.before
        offer = offers.report(
            self.cluster,
            self.instance,
            action.task,
            action.desired.record,
            action.desired.revision,
            action.status,
            before=before.record if before else None,
            before_revision=before.revision if before else Revision(0),
        )
        try:
            revision = await self._journal.offer(offer)
        except OfferRejected as rejected:
            # The tail brings what was newer, and then there is something else to report, or nothing.
            self._log.info("report.rejected", task=action.task, reason=str(rejected))
            await self._pause()
        except JournalError as error:
            self._log.warning("report.delayed", task=action.task, reason=str(error))
            await self._pause()
        else:
            known = self._reported.get(action.task)
            if known is None or known.revision < revision:
                self._reported[action.task] = At(action.status, revision)
            self._log.info(
                "task.reported",
                task=action.task,
                status=str(action.status.last_status),
                revision=revision,
                reason=action.status.stopped_reason,
            )

    async def _fetch(self, name: str, revision: Revision) -> None:
        """Read a definition. The task that names it was placed while it was there."""
        try:
            record = await self._journal.get(keys.task_definition(name), consistency=at_least(revision))
        except keys.NameInvalid:
            record = None
        except JournalError as error:
            self._log.warning("definition.delayed", definition=name, reason=str(error))
            await self._pause()
            return
        value = record.value if record is not None else None
        self._definitions[name] = (
            self._decode(TaskDefinition, value, f"task definition {name}") if value is not None else None
        )

    async def _confirm(self, task: str) -> None:
        """Ask by a consistent read whether a task that the tail does not name is really gone."""
        try:
            record = await self._journal.get(keys.task(self.cluster, self.instance, task))
        except JournalError as error:
            self._log.warning("confirm.delayed", task=task, reason=str(error))
            await self._pause()
            return
        self._confirmed_at[task] = trio.current_time()
        if record is None:
            self._log.warning("task.orphaned", task=task, why="the journal does not have it any more")
            self._gone.add(task)

    async def _forget_records(self, action: ForgetRecords) -> None:
        offer = offers.forget(
            self.cluster,
            self.instance,
            action.task,
            action.desired.revision,
            action.reported.record,
            action.reported.revision,
        )
        try:
            await self._journal.offer(offer)
        except JournalError as error:
            self._log.info("forget.delayed", task=action.task, reason=str(error))
            await trio.sleep(LOOK_AGAIN_S)

    async def _pause(self) -> None:
        await trio.sleep(RETRY_S * self._rng.uniform(0.5, 1.5))
