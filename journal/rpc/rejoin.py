"""Does what ``journal.rejoin`` decides: a note beside the data, old files put aside, the cluster asked."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import trio
from structlog.typing import FilteringBoundLogger

from journal.client import ClientConfig, Journal, connect
from journal.client.members import is_made
from journal.errors import ChangeRefused, DataFolderError, InvalidRequest, JournalError, StorageFailed
from journal.node import Node
from journal.paxos.changes import AddLearner, MemberChange, Promote
from journal.rejoin import NotExpected, Plan, begin, next_step, taken
from journal.types import NodeId

NOTE = "rejoin.json"
LOST = "lost"
"""Where in the data folder the old files are put: kept to look at, never read again."""
RETRY_S = 1.0
SETTLE_S = 4.0
LOOK_S = 0.2
CALL_TIMEOUT_S = 4.0


def is_under_way(folder: Path) -> bool:
    """Whether a rejoin of this folder was begun, and is not over."""
    return (folder / NOTE).exists()


async def rejoin(
    plan: Plan, folder: Path, contacts: Sequence[str], cluster: str, log: FilteringBoundLogger
) -> Plan | None:
    """Have the cluster take the node in under a new number; return the plan as it was carried out. None:
    told to stop. Waits, and says what for, as long as the cluster cannot.

    Raises ``DataFolderError`` where the cluster does not know the node any more, ``StorageFailed``.
    """
    done: Plan | None = None
    failure: JournalError | None = None
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for number in signals:
                    log.info("node.signal", signal=signal.Signals(number).name)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            try:
                done = await _rejoin(plan, folder, contacts, cluster, log)
            except JournalError as error:
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return done


async def _rejoin(
    plan: Plan, folder: Path, contacts: Sequence[str], cluster: str, log: FilteringBoundLogger
) -> Plan:
    plan = await trio.to_thread.run_sync(_take_up, plan, folder)
    log.error("node.rejoins", reason=plan.reason, place=plan.node, number=plan.number)
    said = ""
    step: Plan | None = plan
    async with connect(contacts, cluster=cluster, config=ClientConfig(timeout_s=CALL_TIMEOUT_S)) as journal:
        while step is not None:
            plan = step
            try:
                step = await _step(journal, plan, folder, log)
            except NotExpected as refused:
                raise DataFolderError(str(refused)) from None
            except StorageFailed:
                raise
            except JournalError as trouble:
                if str(trouble) != said:
                    said = str(trouble)
                    log.warning("node.rejoin_waits", reason=said)
                await trio.sleep(RETRY_S)
    return plan


async def _step(journal: Journal, plan: Plan, folder: Path, log: FilteringBoundLogger) -> Plan | None:
    """Take one step; return the plan after it, None where there is none left."""
    members = await journal.members()
    if plan.number is None:
        plan = begin(plan, members)
        await _require_nobody(journal, plan)
        await trio.to_thread.run_sync(_write_note, plan, folder)
        return plan
    step = next_step(plan, members)
    if step is None:
        return None
    try:
        await journal.change_members(step)
    except InvalidRequest:
        if not await _rules(journal, step):  # neither made before, with the answer lost: it cannot be made
            if not isinstance(step, AddLearner):
                raise
            plan = taken(plan)
            await trio.to_thread.run_sync(_write_note, plan, folder)
    else:
        log.warning("node.rejoin_step", step=type(step).__name__, number=step.node)
        await _rules(journal, step)
    return plan


async def _rules(journal: Journal, change: MemberChange) -> bool:
    """Whether the members are soon as ``change`` would have them: one that was made rules a little later."""
    with trio.move_on_after(SETTLE_S):
        while True:
            if is_made(change, await journal.members()):
                return True
            await trio.sleep(LOOK_S)
    return False


async def _require_nobody(journal: Journal, plan: Plan) -> None:
    """Raise ``NotExpected`` where a node answers at the address of this one: it is alive, and to be left."""
    try:
        status = await journal.status(plan.endpoint, timeout_s=RETRY_S)
    except JournalError:
        return
    raise NotExpected(f"node {status.node} runs at {plan.endpoint}: this one does not take its place")


def finish(folder: Path) -> None:
    """The node has its new folder: forget the note. Raises ``StorageFailed``."""
    try:
        (folder / NOTE).unlink(missing_ok=True)
        _sync(folder)
    except OSError as error:
        raise StorageFailed(f"{folder}: {error}") from error


def _take_up(plan: Plan, folder: Path) -> Plan:
    """Note what is begun, or take up what was; put the old files aside. Raises ``StorageFailed``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if is_under_way(folder):
            noted = Plan.read(json.loads((folder / NOTE).read_text()))
            if (noted.node, noted.endpoint) != (plan.node, plan.endpoint):
                raise DataFolderError(
                    f"{folder / NOTE} is of node {noted.node} at {noted.endpoint}, not of node {plan.node} at"
                    f" {plan.endpoint}"
                )
            plan = noted
        else:
            shutil.rmtree(
                folder / LOST, ignore_errors=True
            )  # of an earlier time: what was in it is lost twice
            _write_note(plan, folder)
        lost = folder / LOST
        lost.mkdir(exist_ok=True)
        for path in sorted(folder.iterdir()):
            if path.name not in (NOTE, LOST):
                path.rename(lost / path.name)
        _sync(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise DataFolderError(f"{folder / NOTE} cannot be read: {error}") from error
    except OSError as error:
        raise StorageFailed(f"{folder}: {error}") from error
    return plan


def _write_note(plan: Plan, folder: Path) -> None:
    temporary = folder / f"{NOTE}.tmp"
    try:
        with temporary.open("w") as file:
            json.dump(plan.facts(), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / NOTE)
        _sync(folder)
    except OSError as error:
        raise StorageFailed(f"{folder}: {error}") from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def ask_for_vote(node: Node, contacts: Sequence[str], cluster: str, log: FilteringBoundLogger) -> None:
    """Have the node promoted as soon as it has caught up; ends when it votes, or is no member any more."""
    number = node.config.node
    async with connect(contacts, cluster=cluster, config=ClientConfig(timeout_s=CALL_TIMEOUT_S)) as journal:
        while True:
            await trio.sleep(LOOK_S)
            status = node.status()
            found = next((member for member in status.members if member.node == number), None)
            if found is not None and found.voter:
                return
            if found is None or status.leader is None or status.lag:
                continue
            try:
                await journal.change_members(Promote(NodeId(number)))
            except ChangeRefused as refused:
                log.info("node.promotion_waits", reason=str(refused))
            except JournalError as error:
                log.info("node.promotion_waits", reason=str(error))
            else:
                log.info("node.votes_again", number=number)
