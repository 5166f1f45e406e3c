"""``synod run``, ``ps``, ``logs`` and ``stop``: tasks on the cluster."""

from __future__ import annotations

import datetime
import getpass
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import Target, examples, target_options, with_journal
from synod.cli.failures import DONE, FAILED, REJECTED, UNAVAILABLE, CommandFailed, misuse
from synod.cli.output import emit_json, table

if TYPE_CHECKING:
    from cluster.feed import ClusterFeed
    from cluster.ops import TaskRow
    from cluster.records import PlacementConstraint, PlacementStrategy
    from cluster.state import TaskView
    from journal.client import Journal
    from schedulers.run_task import RunResult

SHOWN_TASK = 12
SHOWN_INSTANCE = 8

cluster_name_option = click.option(
    "--cluster-name", default="default", show_default=True, help="The cluster of instances and tasks."
)


strategy_option = click.option(
    "--strategy",
    multiple=True,
    metavar="STRATEGY",
    help="random, spread:instanceId, spread:attribute:NAME, binpack:cpu or binpack:memory; repeatable, "
    "the first decides first.  [default: random]",
)
constraint_option = click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="EXPRESSION",
    help="What an instance must be, in the cluster query language, or distinctInstance; repeatable.",
)


@click.command(
    "run",
    epilog=examples(
        "synod run -- sleep 60",
        "synod run --cpu 512 --memory 256 --count 5 -- sh -c 'echo hello; sleep 60'",
        "synod run --wait --cwd . -- ./job.sh       exit code 1 if the job's is not 0",
        "synod run --strategy binpack:memory --attributes rack=a -- sleep 60",
        "synod run --strategy spread:attribute:rack --constraint 'attribute:rack in [a,b]' -- sleep 60",
        "synod run --wait-for-capacity --priority 5 -- ./job.sh     queued until there is room",
        "synod run --env GREETING=hello --port 8080 -- python3 -m http.server 8080",
    ),
)
@target_options
@click.argument("command", nargs=-1, required=True)
@click.option("--cpu", type=click.IntRange(1), default=128, show_default=True, help="1024 is one core.")
@click.option("--memory", type=click.IntRange(1), default=64, show_default=True, help="MiB.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many tasks.")
@strategy_option
@constraint_option
@click.option(
    "--attributes", multiple=True, metavar="NAME=VALUE", help="What an instance must have; repeatable."
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable for the command; repeatable.")
@click.option(
    "--port", "ports", type=click.IntRange(1, 65_535), multiple=True, help="A host port it needs; repeatable."
)
@click.option("--cwd", default="", help="Where it runs.  [default: a folder of its own]")
@click.option(
    "--stop-timeout",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="From SIGTERM to SIGKILL.",
)
@click.option("--family", default="", help="The task definition's family.  [default: after the command]")
@click.option("--wait", is_flag=True, help="Wait until the tasks have stopped.")
@click.option("--gang", is_flag=True, help="All of --count together, or none of them.")
@click.option("--wait-for-capacity", is_flag=True, help="Queue what has no room, until it has.")
@click.option(
    "--priority",
    type=click.IntRange(0, 9_999),
    default=0,
    show_default=True,
    help="In the queue: higher first.",
)
@click.option("--owner", default="", help="In the queue: whose turn it takes.  [default: your user name]")
@cluster_name_option
def run_task(
    target: Target,
    command: tuple[str, ...],
    attributes: tuple[str, ...],
    env: tuple[str, ...],
    ports: tuple[int, ...],
    cwd: str,
    stop_timeout: int,
    wait: bool,
    gang: bool,
    wait_for_capacity: bool,
    priority: int,
    owner: str,
    cluster_name: str,
    **what: Any,
) -> int:
    """Run COMMAND as a task (or --count of them) wherever there is room.

    Exit code 2 where some found no place: each instance's reason is printed. With --wait-for-capacity
    they wait for one: by priority, and owners in turn. Ctrl-C leaves them in the queue.
    """
    if gang and wait_for_capacity:
        raise misuse("--gang is not for the queue, which places the tasks of a run as they find room")
    options = {
        **what,
        "attributes": pairs(attributes, "--attributes"),
        "environment": pairs(env, "--env"),
        "ports": ports,
        "working_directory": str(Path(cwd).absolute()) if cwd else "",
        "stop_timeout_s": stop_timeout,
        "cluster": cluster_name,
        "started_by": "synod-run",
    }
    if wait_for_capacity:
        options |= {"priority": priority, "owner": owner or getpass.getuser()}
    else:
        options["gang"] = gang
    return with_journal(
        target,
        lambda journal: _run(journal, target, command, options, wait),
        forever=wait or wait_for_capacity,
    )


async def _run(
    journal: Journal, target: Target, command: Sequence[str], options: dict[str, Any], wait: bool
) -> int:
    from cluster.codec import RecordInvalid
    from cluster.keys import NameInvalid
    from cluster.query import QueryInvalid
    from schedulers.placement import StrategyInvalid
    from schedulers.queue.people import AttributeInvalid, queue_command
    from schedulers.run_task import run_command, wait_tasks

    async with open_feed(journal, target) as feed:
        try:
            options["strategy"], options["constraints"] = placement_of(
                options["strategy"], options["constraints"]
            )
            run = run_command
            if "priority" in options:
                run, options["tell"] = queue_command, _tell_why
            result = await run(journal, feed, command, rng=random.SystemRandom(), wall=time.time, **options)
        except (AttributeInvalid, RecordInvalid, NameInvalid, StrategyInvalid, QueryInvalid) as error:
            raise misuse(str(error)) from None
        code = _code_of_run(result)
        rows = None
        if not target.as_json:
            _show_run(result)
        if wait and result.placed:
            views = await wait_tasks(feed, options["cluster"], [placed.task for placed in result.placed])
            rows = _rows(views)
            code = code or (FAILED if any(row.exit_code != 0 for row in rows) else DONE)
        if target.as_json:
            emit_json(_run_json(result, rows))
        elif rows:
            _show_tasks(rows, options["cluster"], feed.state.revision, as_json=False)
        return code


def _tell_why(why: str) -> None:
    click.echo(f"synod: queued: {why}", err=True)


def placement_of(
    strategies: Sequence[str], constraints: Sequence[str]
) -> tuple[tuple[PlacementStrategy, ...], tuple[PlacementConstraint, ...]]:
    """Return what ``--strategy`` and ``--constraint`` say. Raises ``StrategyInvalid``."""
    from cluster.records import ConstraintType, PlacementConstraint
    from schedulers.placement import strategy_of

    return tuple(map(strategy_of, strategies)), tuple(
        PlacementConstraint(type=ConstraintType.DISTINCT_INSTANCE)
        if text == "distinctInstance"
        else PlacementConstraint(type=ConstraintType.MEMBER_OF, expression=text)
        for text in constraints
    )


@click.command(epilog=examples("synod ps", "synod ps --all", "synod ps --json | jq -r '.tasks[] | .task'"))
@target_options
@click.option("--all", "-a", "everything", is_flag=True, help="Stopped tasks too.")
@cluster_name_option
def ps(target: Target, everything: bool, cluster_name: str) -> None:
    """List the tasks that run or should run."""

    async def show(journal: Journal) -> None:
        from cluster.ops import list_tasks

        async with open_feed(journal, target) as feed:
            rows = list_tasks(feed.state, cluster_name, include_stopped=everything)
            _show_tasks(rows, cluster_name, feed.state.revision, target.as_json)

    with_journal(target, show)


@click.command(
    epilog=examples(
        "synod stop 3f2a91                the first letters of the task's id are enough",
        "synod stop 3f2a91 77b0 --wait --reason 'wrong version'",
    )
)
@target_options
@click.argument("tasks", nargs=-1, required=True, metavar="TASK…")
@click.option("--reason", default="Task stopped by user", help="Kept with the task.")
@click.option("--wait", is_flag=True, help="Wait until they have stopped.")
@cluster_name_option
def stop(target: Target, tasks: tuple[str, ...], reason: str, wait: bool, cluster_name: str) -> None:
    """Stop tasks: SIGTERM, and SIGKILL after their stop timeout."""

    async def ask(journal: Journal) -> None:
        from cluster.ops import find_task, stop_task
        from schedulers.run_task import wait_tasks

        async with open_feed(journal, target) as feed:
            views = [find_task(feed.state, cluster_name, task) for task in tasks]
            newest = 0
            for view in views:
                newest = max(newest, await stop_task(journal, view, now=time.time(), reason=reason) or 0)
            await feed.reached(newest)
            if wait:
                views = await wait_tasks(feed, cluster_name, [view.id for view in views])
            rows = _rows(feed.state.task(cluster_name, view.id) or view for view in views)
            if target.as_json or wait:
                _show_tasks(rows, cluster_name, feed.state.revision, target.as_json)
            else:
                for row in rows:
                    click.echo(
                        f"{row.task[:SHOWN_TASK]} stops"
                        if row.stopped_at is None
                        else f"{row.task} had stopped"
                    )

    with_journal(target, ask, forever=wait)


# -- the state -------------------------------------------------------------------------


@asynccontextmanager
async def open_feed(journal: Journal, target: Target) -> AsyncIterator[ClusterFeed]:
    """Open the cluster's state within the target's timeout."""
    import trio

    from cluster.feed import follow

    async with AsyncExitStack() as stack:
        with trio.move_on_after(target.timeout_s) as scope:
            feed = await stack.enter_async_context(follow(journal))
        if scope.cancelled_caught:
            raise CommandFailed(
                f"the journal did not answer within {target.timeout_s:g} s",
                code=UNAVAILABLE,
                hint="`synod status` shows which nodes run and whether they have a leader.",
            )
        yield feed


# -- what is shown -----------------------------------------------------------------------


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return a mapping of ``NAME=VALUE`` texts. Raises BadParameter naming the wrong one."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=f"'{option}'")
        found[name] = value
    return found


def numbers(given: Iterable[str], option: str) -> dict[str, int]:
    """Return a mapping of ``NAME=NUMBER`` texts. Raises BadParameter naming the wrong one."""
    found = pairs(given, option)
    for name, value in found.items():
        if not (value.isascii() and value.isdecimal()):
            raise click.BadParameter(f"{name}={value}: a number is wanted", param_hint=f"'{option}'")
    return {name: int(value) for name, value in found.items()}


def _run_json(result: RunResult, rows: Sequence[TaskRow] | None) -> dict[str, Any]:
    shown = {
        "placed": [asdict(placed) for placed in result.placed],
        "failures": [_plain(asdict(failure)) for failure in result.failures],
        "conflicts": result.conflicts,
        "revision": result.at,
    }
    return shown if rows is None else {**shown, "tasks": [_plain(asdict(row)) for row in rows]}


def _show_run(result: RunResult) -> None:
    for placed in result.placed:
        click.echo(f"{placed.task}  on instance {placed.instance[:SHOWN_INSTANCE]}")
    reasons: dict[str, int] = {}
    for failure in result.failures:
        reasons[failure.reason] = reasons.get(failure.reason, 0) + 1
    for reason, number in reasons.items():
        click.echo(f"synod: {number} task{'s' if number > 1 else ''} not placed: {reason}", err=True)


def _code_of_run(result: RunResult) -> int:
    codes = {failure.code for failure in result.failures}
    if codes & {"UNKNOWN", "UNAVAILABLE"}:
        return UNAVAILABLE
    return REJECTED if codes else DONE


def _rows(views: Iterable[TaskView]) -> list[TaskRow]:
    from cluster.ops import task_row

    return [task_row(view) for view in views]


def _show_tasks(rows: Sequence[TaskRow], cluster: str, revision: int, as_json: bool) -> None:
    if as_json:
        emit_json({"cluster": cluster, "revision": revision, "tasks": [_plain(asdict(row)) for row in rows]})
        return
    columns = ("task", "status", "instance", "definition", "cpu", "memory", "created", "exit", "reason")
    table(columns, [_cells(row) for row in rows], right=("cpu", "memory", "exit"))


def _cells(row: TaskRow) -> tuple[object, ...]:
    stopping = row.desired_status == "STOPPED" and row.last_status != "STOPPED"
    created = datetime.datetime.fromtimestamp(row.created_at).strftime("%m-%d %H:%M:%S")
    return (
        row.task[:SHOWN_TASK],
        "STOPPING" if stopping else row.last_status,
        row.instance[:SHOWN_INSTANCE],
        row.definition,
        row.cpu,
        row.memory,
        created,
        "-" if row.exit_code is None else row.exit_code,
        row.reason,
    )


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields for programs, without those that say nothing."""
    return {name: value for name, value in fields.items() if value not in (None, "", (), {})}
