"""``synod transfer-leader`` and ``compact``: what an operator does now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from synod.cli.common import Target, examples, target_options, with_journal
from synod.cli.output import emit_json

if TYPE_CHECKING:
    from journal.client import Journal


@click.command(
    "transfer-leader", epilog=examples("synod transfer-leader", "synod transfer-leader 2       to node 2")
)
@target_options
@click.argument("node", type=click.IntRange(1, 2**32 - 1), required=False)
def transfer_leader(target: Target, node: int | None) -> None:
    """Hand leadership over to NODE, or to whichever is furthest. Offers pause for a moment."""
    with_journal(target, lambda journal: journal.transfer_leadership(node))
    if target.as_json:
        emit_json({"transferred": True, "to": node})
    else:
        click.echo(f"leadership handed over to {f'node {node}' if node else 'another node'}")


@click.command(
    epilog=examples(
        "synod compact                 history up to now",
        "synod compact --keep 10000    but the last 10000 revisions",
        "synod compact 41              what came before revision 41",
    )
)
@target_options
@click.argument("revision", type=click.IntRange(1), required=False)
@click.option("--keep", type=click.IntRange(0), default=0, metavar="REVISIONS", help="Keep so many.")
def compact(target: Target, revision: int | None, keep: int) -> None:
    """Forget old versions below REVISION: they can no longer be read with --at."""

    async def run(journal: Journal) -> int:
        wanted = revision
        if wanted is None:
            wanted = await journal.revision() - keep
        if wanted > 0:
            await journal.compact(wanted)
        return max(wanted, 0)

    compacted = with_journal(target, run)
    if target.as_json:
        emit_json({"compacted": compacted})
    else:
        click.echo(f"history below revision {compacted} is forgotten" if compacted else "nothing to forget")
