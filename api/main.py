"""The API process as a program: ``run(options)``. Expected faults are one log line and an exit code."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio

from api.app import App
from api.calls import Api
from api.live import LiveState
from api.operations import HANDLERS
from api.server import HttpServer
from api.settings import ApiSettings
from api.sweep import sweep
from cluster.feed import share
from journal.client import Journal, connect
from journal.collector import calm_the_collector
from journal.errors import JournalError
from journal.logs import configure, get_logger

EXIT_OK = 0
EXIT_FAILED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """What ``synod api`` is told."""

    endpoints: tuple[str, ...]
    """Nodes of the journal, ``host:port``."""
    journal: str | None = None
    """The journal's cluster id that the nodes must have; None: whichever they have."""
    settings: ApiSettings = field(default_factory=ApiSettings)
    address_file: Path | None = None
    """Where the address that it serves is written once it serves, for who started it on port 0."""
    log_level: str = "info"
    log_format: str = "kv"


def run(options: ApiOptions) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code."""
    configure(level=options.log_level, form=options.log_format)
    log = get_logger()
    try:
        options.settings.validate()
    except ValueError as error:
        log.error("api.refused", reason=str(error))
        return EXIT_FAILED
    faults: list[BaseException] = []
    try:
        trio.run(_run, options)
    except* (JournalError, OSError) as group:
        faults = _leaves(group)
    for fault in faults:
        log.error("api.failed", reason=str(fault))
    if faults:
        return EXIT_FAILED
    log.info("api.stopped")
    return EXIT_OK


@dataclass(slots=True)
class _Run:
    """Where a run is: told to stop while it serves, it ends what it serves first."""

    stop: trio.Event
    serves: bool = False


async def _run(options: ApiOptions) -> None:
    run = _Run(trio.Event())
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, run, nursery.cancel_scope)
        async with connect(options.endpoints, cluster=options.journal) as journal:
            get_logger().info("api.connects", pid=os.getpid(), endpoints=",".join(options.endpoints))
            async with share(journal) as feed:
                run.serves = True
                calm_the_collector()
                await _serve(options, journal, LiveState(journal, feed), run.stop)
        nursery.cancel_scope.cancel()


async def _serve(options: ApiOptions, journal: Journal, live: LiveState, stop: trio.Event) -> None:
    """Serve until ``stop`` is set; what is being served then may end first."""
    log = get_logger()
    api = Api(
        settings=options.settings,
        journal=journal,
        live=live,
        wall=time.time,
        rng=random.SystemRandom(),
        log=log,
    )

    server = HttpServer(App(api, HANDLERS).respond, options.settings, log)
    listeners = await server.listen()
    _announce(options, listeners, live)
    async with trio.open_nursery() as background:
        background.start_soon(live.run)
        background.start_soon(sweep, api)
        await server.serve(listeners, stop)
        background.cancel_scope.cancel()


def _announce(options: ApiOptions, listeners: list[trio.SocketListener], live: LiveState) -> None:
    """Say where it serves, to the log and to who started it."""
    host = options.settings.listen.rpartition(":")[0]
    address = f"{host}:{listeners[0].socket.getsockname()[1]}"
    get_logger().info("api.serves", address=address, revision=live.state.revision)
    if options.address_file:
        temporary = options.address_file.with_suffix(".tmp")
        temporary.write_text(f"{address}\n")
        temporary.replace(options.address_file)


async def _stop_on_signal(
    run: _Run,
    everything: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            get_logger().info("api.stopping", signal=signal.Signals(number).name)
            run.stop.set()
            if not run.serves:
                everything.cancel()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
