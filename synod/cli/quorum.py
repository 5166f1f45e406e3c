"""``synod quorum``: who reaches whom, and why there is or is no leader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from synod.cli.common import dir_option, examples, json_option, load_local, parse_endpoints
from synod.cli.failures import UNAVAILABLE
from synod.cli.output import emit_json, table

if TYPE_CHECKING:
    from synod.quorum import Asked, Diagnosis, Reach

ROUNDS_MAX = 3
"""Nodes name members that were not asked yet; those may name others."""


@click.command(
    epilog=examples(
        "synod quorum",
        "synod quorum --endpoints 10.0.0.1:7401      it is enough to know one",
        "synod quorum --json | jq -r .diagnosis",
    )
)
@click.option(
    "--endpoints",
    envvar="SYNOD_ENDPOINTS",
    metavar="HOST:PORT,…",
    help="Nodes to begin with (env SYNOD_ENDPOINTS). Without it: those of the cluster in --dir.",
)
@dir_option
@click.option("--timeout", "timeout_s", type=float, default=2.0, show_default=True, metavar="SECONDS")
@json_option
def quorum(endpoints: str | None, folder: Path, timeout_s: float, as_json: bool) -> int:
    """Explain who can reach whom, and why there is or is no leader.

    Asks every node for what it knows of every other. A row says whom a node reaches: "no" where the
    other one has not heard it for three seconds, "?" where neither can be asked.
    Exit code 3 where nobody leads.
    """
    from synod.quorum import diagnose

    asked = _ask(parse_endpoints(endpoints) if endpoints is not None else None, folder, timeout_s)
    found = diagnose(asked)
    if as_json:
        emit_json(found.as_json(asked))
    else:
        _show(found, asked)
    return 0 if found.leader is not None else UNAVAILABLE


def _ask(endpoints: Sequence[str] | None, folder: Path, timeout_s: float) -> list[Asked]:
    """Ask the named nodes, or those of the local cluster, and then every member that those name."""
    from journal.types import NodeId
    from synod.probe import statuses
    from synod.quorum import Asked

    asked: dict[str, Asked] = {}
    if endpoints is None:
        for view in load_local(folder).status(timeout_s):
            state = view.role if view.role in ("down", "paused") else "silent"
            asked[view.endpoint] = Asked(view.endpoint, view.said, NodeId(view.node), state, view.why)
        more: list[str] = []
    else:
        more = list(endpoints)
    for _ in range(ROUNDS_MAX):
        numbers = {
            member.endpoint: member.node
            for one in asked.values()
            if one.said is not None
            for member in one.said.members
        }
        known = {one.said.node for one in asked.values() if one.said is not None}
        more += [at for at, node in numbers.items() if at not in asked and node not in known]
        if not more:
            break
        for endpoint, answer in statuses(more, None, timeout_s).items():
            if isinstance(answer, str):
                asked[endpoint] = Asked(endpoint, None, numbers.get(endpoint), why=answer)
            else:
                asked[endpoint] = Asked(endpoint, answer, answer.node)
        more = []
    # Who was asked before anybody had said its number.
    return [
        Asked(one.endpoint, one.said, one.node or numbers.get(one.endpoint), one.state, one.why)
        for one in asked.values()
    ]


def _show(found: Diagnosis, asked: Sequence[Asked]) -> None:
    said = {one.said.node: one.said for one in asked if one.said is not None}
    silent = {one.node: one for one in asked if one.said is None}
    nodes = [member.node for member in found.members]
    rows = []
    for member in found.members:
        links = [_cell(found.matrix.get((member.node, to))) for to in nodes]
        status, one = said.get(member.node), silent.get(member.node)
        facts: tuple[object, ...]
        if status is not None:
            role = status.role if member.voter else "learner"
            facts = (role, status.ballot, status.leader or "-", status.lag, status.health)
        else:
            facts = (one.state if one else "silent", "-", "-", "-", (one.why if one else "") or "no answer")
        rows.append((member.node, *links, *facts))
    if rows:
        columns = ("from", *(f"to {node}" for node in nodes), "role", "ballot", "leader", "lag", "health")
        table(columns, rows, right=("from", "lag"))
        click.echo()
    click.echo(found.sentence)
    for detail in found.details:
        click.echo(f"  {detail}")


def _cell(reach: Reach | None) -> str:
    if reach is None:
        return "·"
    if reach.ok is None:
        return "?"
    if not reach.ok:
        return "no"
    return "yes" if reach.round_trip_s is None else f"{reach.round_trip_s * 1000:.1f} ms"
