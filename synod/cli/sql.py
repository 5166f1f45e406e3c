"""``synod sql``: questions about the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from synod.cli.common import Target, examples, target_options, with_journal
from synod.cli.failures import misuse
from synod.cli.output import emit_json, table
from synod.cli.tasks import open_feed

if TYPE_CHECKING:
    from journal.client import Journal


@click.command(
    epilog=examples(
        "synod sql                                       what tables and columns there are",
        "synod sql 'select zone, sum(cpu_left) from instances group by zone'",
        "synod sql \"select id, reason from tasks where last_status = 'STOPPED' and exit_code <> 0\"",
        "synod sql --json 'select name, desired, running from services where running < desired'",
    )
)
@target_options
@click.argument("statement", required=False)
def sql(target: Target, statement: str | None) -> None:
    """Ask the cluster's state with one SELECT: it is a SQLite of one revision, that only reads.

    Times are seconds since the epoch: datetime(created_at, 'unixepoch').
    """
    from cluster.sql import TABLES, SqlInvalid, query

    if statement is None:
        if target.as_json:
            emit_json({name: dict(columns) for name, columns in TABLES.items()})
        else:
            table(("table", "columns"), [(name, ", ".join(columns)) for name, columns in TABLES.items()])
        return

    async def ask(journal: Journal) -> None:
        async with open_feed(journal, target) as feed:
            try:
                answer = query(feed.state, statement)
            except SqlInvalid as error:
                raise misuse(str(error)) from None
        rows = [[_shown(value) for value in row] for row in answer.rows]
        if target.as_json:
            emit_json({"revision": answer.at, "columns": list(answer.columns), "rows": rows})
        else:
            table(answer.columns, [["" if value is None else value for value in row] for row in rows])

    with_journal(target, ask)


def _shown(value: object) -> object:
    """Return a value that JSON has: SQL can make bytes."""
    return value.hex() if isinstance(value, bytes) else value
