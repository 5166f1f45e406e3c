"""The schedulers as a program: ``run(options)``. Expected faults are one log line and an exit code.

It keeps nothing: whatever it knows is in the journal, so it may be killed and started at any time,
and any number of copies may run at once.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass

import trio

from cluster.feed import follow
from journal.client import Journal, connect
from journal.collector import calm_the_collector
from journal.errors import JournalError
from journal.logs import configure, get_logger
from schedulers.queue.loop import QueueScheduler
from schedulers.service.loop import ServiceScheduler
from schedulers.service.losses import GRACE_S_DEFAULT

EXIT_OK = 0
EXIT_FAILED = 1

SERVICE = "service"
QUEUE = "queue"
KINDS = (SERVICE, QUEUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerOptions:
    """What a scheduler process is started with. ``validate`` checks it."""

    endpoints: tuple[str, ...]
    """Nodes of the journal, ``host:port``."""
    journal: str | None = None
    """The journal's cluster id; None: whichever the nodes have."""
    kinds: tuple[str, ...] = KINDS
    grace_s: float = GRACE_S_DEFAULT
    """How long an agent may be away before its services' tasks are replaced elsewhere."""
    log_level: str = "info"
    log_format: str = "kv"

    def validate(self) -> None:
        """Raise ``ValueError`` that names the option that is wrong."""
        if not self.endpoints:
            raise ValueError("endpoints must name at least one node")
        if self.grace_s < 0:
            raise ValueError(f"grace_s must not be negative, but is {self.grace_s}")
        unknown = set(self.kinds) - set(KINDS)
        if unknown or not self.kinds:
            raise ValueError(f"kinds must be some of {', '.join(KINDS)}, not {', '.join(sorted(unknown))!r}")


def run(options: SchedulerOptions) -> int:
    """Run the schedulers until SIGTERM or SIGINT; return the exit code."""
    configure(level=options.log_level, form=options.log_format)
    log = get_logger()
    try:
        options.validate()
    except ValueError as error:
        log.error("scheduler.refused", reason=str(error))
        return EXIT_FAILED
    faults: list[BaseException] = []
    try:
        trio.run(_run, options)
    except* JournalError as group:
        faults = _leaves(group)
    for fault in faults:
        log.error("scheduler.failed", reason=str(fault))
    if faults:
        return EXIT_FAILED
    log.info("scheduler.stopped")
    return EXIT_OK


async def _run(options: SchedulerOptions) -> None:
    log = get_logger()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_on_signal, nursery.cancel_scope)
        async with connect(options.endpoints, cluster=options.journal) as journal:
            log.info("scheduler.started", pid=os.getpid(), kinds=",".join(options.kinds))
            nursery.start_soon(_serve, journal, options, QUEUE)
            await _serve(journal, options, SERVICE)


async def _serve(journal: Journal, options: SchedulerOptions, kind: str) -> None:
    """Run one kind of scheduler, if it is wanted, until cancelled."""
    if kind not in options.kinds:
        await trio.sleep_forever()
    log = get_logger()
    rng = random.SystemRandom()
    async with follow(journal) as feed:
        calm_the_collector()
        log.info("scheduler.ready", kind=kind, revision=feed.state.revision)
        if kind == QUEUE:
            await QueueScheduler(journal, feed, rng=rng, wall=time.time, log=log).run()
        else:
            await ServiceScheduler(
                journal, feed, rng=rng, wall=time.time, log=log, grace_s=options.grace_s
            ).run()


async def _cancel_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            get_logger().info("scheduler.stopping", signal=signal.Signals(number).name)
            scope.cancel()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
