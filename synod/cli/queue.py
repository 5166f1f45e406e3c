"""``synod queue`` and ``unqueue``: the runs that wait for capacity."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

import click

from synod.cli.common import Target, examples, target_options, with_journal
from synod.cli.failures import DONE, FAILED
from synod.cli.output import emit_json, table
from synod.cli.tasks import cluster_name_option, open_feed

if TYPE_CHECKING:
    from journal.client import Journal


@click.command(epilog=examples("synod queue", "synod queue --json | jq -r '.runs[] | .run'"))
@target_options
@cluster_name_option
def queue(target: Target, cluster_name: str) -> None:
    """List the runs that wait for capacity, in the order of their next task."""

    async def show(journal: Journal) -> None:
        from schedulers.queue.order import owner_of, turns

        async with open_feed(journal, target) as feed:
            runs = feed.state.queue(cluster_name)
            order = list(dict.fromkeys(turns(runs, {})))
            if target.as_json:
                found = [{"run": name, **runs[name].record.to_map()} for name in order]
                emit_json({"cluster": cluster_name, "revision": feed.state.revision, "runs": found})
                return
            rows = []
            for name in order:
                run = runs[name].record
                since = datetime.datetime.fromtimestamp(run.submitted_at).strftime("%m-%d %H:%M:%S")
                done = f"{len(run.placed)} of {len(run.placed) + run.count}"
                place = (name.rpartition("-")[2], run.priority, owner_of(run), run.task_definition)
                rows.append((*place, done, since, run.reason))
            columns = ("run", "priority", "owner", "definition", "placed", "since", "why it waits")
            table(columns, rows, right=("priority",))

    with_journal(target, show)


@click.command(epilog=examples("synod unqueue 3f2a91aa         what it was given goes on running"))
@target_options
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@cluster_name_option
def unqueue(target: Target, runs: tuple[str, ...], cluster_name: str) -> int:
    """Take runs out of the queue. Exit code 1 where one is not in it."""

    async def take(journal: Journal) -> int:
        from schedulers.queue.people import find_run, take_out

        async with open_feed(journal, target) as feed:
            taken, missing = [], []
            for text in runs:
                names = find_run(feed.state.queue(cluster_name), text)
                if len(names) == 1 and await take_out(journal, cluster_name, names[0]):
                    taken.append(names[0])
                else:
                    missing.append(text)
        if target.as_json:
            emit_json({"taken": taken, "missing": missing})
        else:
            for name in taken:
                click.echo(f"{name.rpartition('-')[2]} is out of the queue")
            for text in missing:
                click.echo(f"synod: no run {text} waits in cluster {cluster_name}", err=True)
        return FAILED if missing else DONE

    return with_journal(target, take)
