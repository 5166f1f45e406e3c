"""``synod member``: who agrees on the journal, and how that is changed while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import Target, examples, shown_path, target_options, with_journal
from synod.cli.failures import misuse
from synod.cli.output import emit_json, progress, table

if TYPE_CHECKING:
    from journal.client import Journal
    from journal.node import NodeMember, NodeStatus
    from synod.local import LocalCluster

number = click.IntRange(1, 2**32 - 1)
PATIENCE_S = 600.0


@click.group(
    epilog=examples(
        "synod member list",
        "synod member add 4=10.0.0.4:7401      a learner: it follows, and does not vote",
        "synod member promote 4                it votes from now on",
        "synod member remove 3                 for good: its number is never given again",
        "synod member replace 3 4=10.0.0.4:7401",
    )
)
def member() -> None:
    """Show and change the members of a running cluster.

    Voters agree on what is committed; learners follow, and serve reads and tails. One change is made
    at a time. Exit code 2, with the reason, where a change would lose the majority.
    """


@member.command("list", epilog=examples("synod member list", "synod member list --json | jq '.members'"))
@target_options
def list_(target: Target) -> None:
    """List the members, and how each is."""

    async def ask(journal: Journal) -> list[tuple[NodeMember, NodeStatus | str]]:
        import trio

        from journal.errors import JournalError

        found: dict[int, NodeStatus | str] = {}
        members = await journal.members()

        async def look(node: int, endpoint: str) -> None:
            try:
                found[node] = await journal.status(endpoint, timeout_s=min(2.0, target.timeout_s))
            except JournalError as error:
                found[node] = str(error)

        async with trio.open_nursery() as nursery:
            for each in members:
                nursery.start_soon(look, each.node, each.endpoint)
        return [(each, found[each.node]) for each in sorted(members)]

    rows = with_journal(target, ask)
    if target.as_json:
        emit_json({"members": [_row_json(*row) for row in rows]})
        return
    columns = ("node", "endpoint", "member", "role", "applied", "lag", "health")
    cells: list[tuple[object, ...]] = []
    for each, said in rows:
        kind = _kind(each)
        if isinstance(said, str):
            cells.append((each.node, each.endpoint, kind, "unreachable", "-", "-", said))
        else:
            cells.append((each.node, each.endpoint, kind, said.role, said.applied, said.lag, said.health))
    table(columns, cells, right=("node", "applied", "lag"))


@member.command(
    epilog=examples(
        "synod member add 4=10.0.0.4:7401",
        "",
        "It prints the command that starts the new node; `synod member promote 4` lets it vote when it",
        "has caught up. In a cluster of `synod up` the node is started as well.",
    )
)
@target_options
@click.argument("new", metavar="NODE=HOST:PORT")
@click.option("--node-dir", metavar="DIR", help="The new node's data, for the command.  [default: node-N]")
def add(target: Target, new: str, node_dir: str | None) -> None:
    """Add a node as a learner, under a number that was never used."""
    node, endpoint = _parse_new(new)
    local = _local(target, endpoint)

    async def run(journal: Journal) -> tuple[bool, str, tuple[NodeMember, ...]]:
        from journal.paxos.changes import AddLearner
        from journal.types import NodeId
        from synod.members import ensure, settled

        change = AddLearner(NodeId(node), endpoint)
        made = await ensure(journal, change)
        members = await settled(journal, change)
        return made, (await journal.status()).cluster, members

    made, cluster_id, members = with_journal(target, run)
    command = _command(node, endpoint, cluster_id, members, node_dir, local)
    if local is not None:
        local.add_joiner(node, endpoint)
        local.start_node(node)
    if target.as_json:
        emit_json(
            {"added": made, "members": _json(members), "command": command, "started": local is not None}
        )
        return
    click.echo(f"node {node} at {endpoint} is {'now' if made else 'already'} a member; it does not vote yet")
    _say_start(node, command, local)
    click.echo(f"When it has caught up:  synod member promote {node}")


@member.command(epilog=examples("synod member promote 4"))
@target_options
@click.argument("node", type=number)
def promote(target: Target, node: int) -> None:
    """Let a learner that has caught up vote."""
    from journal.paxos.changes import Promote
    from journal.types import NodeId

    _change(target, Promote(NodeId(node)), f"node {node} votes", f"node {node} voted already")


@member.command(
    epilog=examples(
        "synod member remove 3",
        "synod member remove 1         the leader too: it hands over first",
    )
)
@target_options
@click.argument("node", type=number)
def remove(target: Target, node: int) -> None:
    """Remove a voter or learner, for good.

    Its process goes on until it is stopped, and takes no part; a node of `synod up` is stopped too.
    To come back, it needs an empty folder and a new number.
    """
    from journal.paxos.changes import Remove
    from journal.types import NodeId

    _change(target, Remove(NodeId(node)), f"node {node} was removed", f"node {node} was removed before")
    local = _local(target)
    if local is not None and node in local.nodes:
        local.forget_node(node)
        if not target.as_json:
            click.echo(
                f"it is stopped; its data in {shown_path(local.node_folder(node))} is not needed any more"
            )


@member.command(
    epilog=examples(
        "synod member replace 3 4=10.0.0.4:7401",
        "",
        "Run it again if it was interrupted: it goes on from where things are.",
    )
)
@target_options
@click.argument("old", type=number)
@click.argument("new", metavar="NEW=HOST:PORT")
@click.option("--node-dir", metavar="DIR", help="The new node's data, for the command.  [default: node-N]")
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(min=0, min_open=True),
    default=PATIENCE_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the new node has caught up.",
)
def replace(target: Target, old: int, new: str, node_dir: str | None, patience_s: float) -> None:
    """Put a new node in the place of OLD, whose disk or machine is gone.

    The new one is added, catches up and is promoted; then OLD is removed.
    """
    node, endpoint = _parse_new(new)
    local = _local(target, endpoint)

    async def run(journal: Journal, tell: Callable[[str], None]) -> tuple[NodeMember, ...]:
        from synod.members import replace as replace_node

        status = await journal.status()
        members = await journal.members()

        def start() -> None:
            command = _command(node, endpoint, status.cluster, members, node_dir, local)
            if local is not None:
                local.add_joiner(node, endpoint)
                local.start_node(node)
            if not target.as_json:
                _say_start(node, command, local)

        return await replace_node(journal, old, node, endpoint, patience_s, tell, start)

    with _steps(f"replacing node {old} with node {node}", target.as_json) as tell:
        members = with_journal(target, lambda journal: run(journal, tell), forever=True)
    here = _local(target)
    if here is not None and old in here.nodes:
        here.forget_node(old)
    if target.as_json:
        emit_json({"replaced": old, "by": node, "members": _json(members)})
    else:
        click.echo(f"node {node} votes in the place of node {old}, which is removed")


def _change(target: Target, change: Any, done: str, already: str) -> None:
    async def run(journal: Journal) -> tuple[bool, tuple[NodeMember, ...]]:
        from synod.members import ensure, settled

        made = await ensure(journal, change)
        return made, await settled(journal, change)

    made, members = with_journal(target, run)
    if target.as_json:
        emit_json({"changed": made, "members": _json(members)})
    else:
        click.echo(done if made else already)


def _parse_new(text: str) -> tuple[int, str]:
    from synod.cli.programs import parse_members

    found = parse_members(text, "NODE=HOST:PORT")
    if len(found) != 1:
        raise click.BadParameter(f"{text!r} is not one NODE=HOST:PORT", param_hint="'NODE=HOST:PORT'")
    return found[0]


def _local(target: Target, endpoint: str | None = None) -> LocalCluster | None:
    """Return the cluster of `synod up` that is spoken to, if it is one (and ``endpoint`` is of its host)."""
    if target.folder is None:
        return None
    from synod.local import LocalCluster
    from synod.local_state import HOST

    if endpoint is not None and endpoint.rpartition(":")[0] != HOST:
        raise misuse(
            f"the cluster in {shown_path(target.folder)} is on this machine only, at {HOST}",
            "Name the nodes with --endpoints to add one of another machine.",
        )
    return LocalCluster.load(target.folder)


def _command(
    node: int,
    endpoint: str,
    cluster: str,
    members: Sequence[NodeMember],
    node_dir: str | None,
    local: LocalCluster | None,
) -> str:
    from synod.members import join_command

    folder = node_dir or (f"node-{node}" if local is None else shown_path(local.node_folder(node)))
    return join_command(node, endpoint, cluster, members, folder)


def _say_start(node: int, command: str, local: LocalCluster | None) -> None:
    if local is None:
        click.echo(
            f"Start it on its machine (later starts need neither --members nor --join):\n\n  {command}\n"
        )
    else:
        click.echo(f"node {node} runs; its log: {shown_path(local.log(f'node-{node}'))}")


@contextlib.contextmanager
def _steps(text: str, quiet: bool) -> Any:
    """Show each step once where nobody sees a spinner: what a long command waits for must be known."""
    import sys

    with progress(text, quiet=quiet) as tell:
        if quiet or sys.stderr.isatty():
            yield tell
            return
        last = ""

        def say(more: str) -> None:
            nonlocal last
            if more != last:
                click.echo(f"  {more}", err=True)
            last = more

        yield say


def _kind(each: NodeMember) -> str:
    return "voter" if each.voter else "learner"


def _json(members: Sequence[NodeMember]) -> list[dict[str, Any]]:
    return [each._asdict() for each in sorted(members)]


def _row_json(each: NodeMember, said: NodeStatus | str) -> dict[str, Any]:
    row: dict[str, Any] = each._asdict()
    if isinstance(said, str):
        return {**row, "role": "unreachable", "health": said}
    return {**row, "role": said.role, "applied": said.applied, "lag": said.lag, "health": said.health}
