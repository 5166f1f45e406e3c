"""``synod run``, ``ps``, ``logs`` and ``stop``: tasks on the cluster."""

from __future__ import annotations

import click

from synod.cli.common import Target, target_options


@click.command("run")
@target_options
@click.argument("command", nargs=-1, required=True)
def run_task(target: Target, command: tuple[str, ...]) -> None:
    """Run COMMAND as a task."""
    raise NotImplementedError


@click.command()
@target_options
def ps(target: Target) -> None:
    """List tasks."""
    raise NotImplementedError


@click.command()
@target_options
@click.argument("task")
def logs(target: Target, task: str) -> None:
    """Print a task's output."""
    raise NotImplementedError


@click.command()
@target_options
@click.argument("task")
def stop(target: Target, task: str) -> None:
    """Stop a task."""
    raise NotImplementedError
