"""``synod plan``: what a run would do, without doing it."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import Target, examples, target_options, with_journal
from synod.cli.failures import DONE, REJECTED, misuse
from synod.cli.output import emit_json, table
from synod.cli.tasks import (
    SHOWN_INSTANCE,
    cluster_name_option,
    constraint_option,
    numbers,
    open_feed,
    pairs,
    placement_of,
    strategy_option,
)

if TYPE_CHECKING:
    from cluster.feasible import Need
    from cluster.state import ClusterState
    from journal.client import Journal
    from schedulers.dry_run import DryRun

REASONS_SHOWN_MAX = 20


@click.command(
    epilog=examples(
        "synod plan --cpu 512 --memory 256 --count 5",
        "synod plan web:3 --count 6 --strategy spread:attribute:ecs.availability-zone",
        "synod plan web --constraint 'attribute:rack in [a,b]' --json | jq .changes",
    )
)
@target_options
@click.argument("definition", required=False, metavar="[FAMILY[:REVISION]]")
@click.option("--cpu", type=click.IntRange(0), help="CPU units of a task; 1024 is one core.")
@click.option("--memory", type=click.IntRange(0), help="MiB of a task.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many tasks.")
@click.option("--port", "ports", type=click.IntRange(1, 65_535), multiple=True, help="A host port it needs.")
@click.option("--resource", multiple=True, metavar="NAME=NUMBER", help="A further resource it needs.")
@click.option("--attributes", multiple=True, metavar="NAME=VALUE", help="What an instance must have.")
@strategy_option
@constraint_option
@click.option("--group", default="", help="Whose tasks spread and distinctInstance count.  [family:FAMILY]")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws among instances that are equal.")
@cluster_name_option
def plan(target: Target, definition: str | None, cluster_name: str, **options: Any) -> int:
    """Show where tasks would be placed, and why not. Nothing is placed.

    The tasks are of a registered definition, or of what --cpu, --memory and --port say. For tasks
    without a place, each instance's reasons are shown, and the least that would let one more in.
    Exit code 2 where some have no place.
    """

    async def show(journal: Journal) -> int:
        async with open_feed(journal, target) as feed:
            return _plan(target, feed.state, definition, cluster_name, options)

    return with_journal(target, show)


def _plan(
    target: Target, state: ClusterState, definition: str | None, cluster: str, options: dict[str, Any]
) -> int:
    from cluster.query import QueryInvalid
    from schedulers.dry_run import dry_run
    from schedulers.placement import Request, StrategyInvalid

    try:
        strategy, constraints = placement_of(options["strategy"], options["constraints"])
        need = _need(state, definition, constraints, options)
        request = Request(cluster=cluster, need=need, count=options["count"], strategy=strategy)
        done = dry_run(state, request, random.Random(options["seed"]))
    except (StrategyInvalid, QueryInvalid) as error:
        raise misuse(str(error)) from None
    if target.as_json:
        emit_json(_as_json(done))
    else:
        _show(done)
    return REJECTED if done.plan.unplaced else DONE


def _need(state: ClusterState, definition: str | None, constraints: Any, options: dict[str, Any]) -> Need:
    """Return what a task needs. Raises ``CommandFailed``."""
    from cluster.feasible import Need, need_of
    from cluster.keys import NameInvalid
    from cluster.records import Claim

    attributes = pairs(options["attributes"], "--attributes")
    if definition is None:
        claim = Claim(
            cpu=options["cpu"] or 0,
            memory=options["memory"] or 0,
            ports=tuple(sorted(set(options["ports"]))),
            resources=numbers(options["resource"], "--resource"),
        )
        return Need(claim=claim, group=options["group"], constraints=constraints, attributes=attributes)
    if options["cpu"] is not None or options["memory"] is not None or options["ports"] or options["resource"]:
        raise misuse(
            f"task definition {definition} says itself what a task needs: leave --cpu and the like away"
        )
    try:
        found = state.definition(definition)
    except NameInvalid as error:
        raise misuse(str(error)) from None
    if found is None:
        raise misuse(f"there is no ACTIVE task definition {definition}")
    return need_of(found.record, group=options["group"], constraints=constraints, attributes=attributes)


def _show(done: DryRun) -> None:
    made = done.plan
    if made.placements:
        placed = Counter(made.placements)
        rows = [(instance, placed[instance]) for instance in dict.fromkeys(made.placements)]
        table(("instance", "tasks"), rows, right=("tasks",))
    if not made.unplaced:
        return
    tasks = "task" if made.unplaced == 1 else "tasks"
    click.echo(f"{made.unplaced} {tasks} without a place, at revision {made.at}:")
    for instance, refusals in list(done.refusals.items())[:REASONS_SHOWN_MAX]:
        click.echo(f"  instance {instance[:SHOWN_INSTANCE]} {'; '.join(one.reason for one in refusals)}")
    if len(done.refusals) > REASONS_SHOWN_MAX:
        click.echo(f"  … and {len(done.refusals) - REASONS_SHOWN_MAX} more instances (all with --json)")
    if not done.refusals:
        click.echo("  the cluster has no container instances")
    click.echo("One more would have a place with, the least first:")
    for change in done.changes:
        click.echo(f"  {change}")


def _as_json(done: DryRun) -> dict[str, Any]:
    made = done.plan
    return {
        "revision": made.at,
        "placements": list(made.placements),
        "unplaced": made.unplaced,
        "refused": {
            instance: [{"code": one.code, "reason": one.reason} for one in refusals]
            for instance, refusals in done.refusals.items()
        },
        "changes": [
            {
                "change": str(change),
                "needs": list(change.needs),
                "instances": list(change.instances),
                "zones": list(change.zones),
            }
            for change in done.changes
        ],
    }
