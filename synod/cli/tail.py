"""``synod tail``: what is committed, as it is committed."""

from __future__ import annotations

import datetime
import sys
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import Target, examples, target_options, until_interrupted, with_journal
from synod.cli.data import key_bytes
from synod.cli.output import emit_json

if TYPE_CHECKING:
    from journal.client import Journal
    from journal.space import Commit


@click.command(
    epilog=examples(
        "synod tail                        everything from now on, until Ctrl-C",
        "synod tail --after 0              the whole history first",
        "synod tail jobs/ locks/           only changes of keys that begin so",
        "synod tail --after 17 --limit 1   the first commit after revision 17",
        "synod tail --json | jq -c .changes",
    )
)
@target_options
@click.argument("prefixes", nargs=-1)
@click.option("--after", type=click.IntRange(0), metavar="REVISION", help="Start after it.  [default: now]")
@click.option("--limit", type=click.IntRange(1), metavar="COMMITS", help="End after so many commits.")
def tail(target: Target, prefixes: tuple[str, ...], after: int | None, limit: int | None) -> None:
    """Follow the commits, one line each (with --json: one JSON document a line).

    It goes on across failures of nodes and changes of leader, without a gap or a repetition.
    """
    names = [key_bytes(prefix) for prefix in prefixes]
    with until_interrupted():
        with_journal(target, lambda journal: _follow(journal, target, names, after, limit), forever=True)


async def _follow(
    journal: Journal, target: Target, prefixes: list[bytes], after: int | None, limit: int | None
) -> None:
    shown = 0
    async with journal.tail(after, prefixes) as tail:
        if sys.stderr.isatty():
            click.echo(f"following from revision {tail.revision} on; Ctrl-C ends", err=True)
        async for commit in tail.commits():
            _show(commit, target.as_json)
            shown += 1
            if shown == limit:
                return


def _show(commit: Commit, as_json: bool) -> None:
    if as_json:
        emit_json(_commit_json(commit))
        return
    from synod.values import to_text

    when = datetime.datetime.fromtimestamp(commit.time_ms / 1000).strftime("%H:%M:%S.%f")[:-3]
    label = f"  [{to_text(commit.label.encode())}]" if commit.label else ""
    changes = [
        f"{to_text(change.key)} deleted"
        if change.value is None
        else f"{to_text(change.key)} = {_short(to_text(change.value))}"
        for change in commit.changes
    ]
    click.echo(f"{commit.revision:>8}  {when}{label}  {'; '.join(changes) or '(no change)'}")


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _commit_json(commit: Commit) -> dict[str, Any]:
    from synod.values import to_json

    return {
        "revision": commit.revision,
        "slot": commit.slot,
        "time_ms": commit.time_ms,
        "client": commit.client.hex(),
        "sequence": commit.sequence,
        "label": commit.label,
        "changes": [
            {"key": to_json(change.key), "deleted": True}
            if change.value is None
            else {"key": to_json(change.key), "value": to_json(change.value), "lease": change.lease}
            for change in commit.changes
        ],
    }
