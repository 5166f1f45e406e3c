"""The group of all commands, and the one place that turns faults into words and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from synod import __version__
from synod.cli import failures
from synod.cli.admin import compact, transfer_leader
from synod.cli.agent import agent
from synod.cli.api import api
from synod.cli.cluster import down, status, up
from synod.cli.data import delete, get, put, scan
from synod.cli.inside import exec_in, logs
from synod.cli.lease import lease
from synod.cli.member import member
from synod.cli.offer import offer
from synod.cli.plan import plan
from synod.cli.programs import node, scheduler
from synod.cli.queue import queue, unqueue
from synod.cli.quorum import quorum
from synod.cli.snapshot import diff, snapshot, verify
from synod.cli.sql import sql
from synod.cli.tail import tail
from synod.cli.tasks import ps, run_task, stop

SECTIONS: dict[str, Sequence[click.Command]] = {
    "A cluster on this machine": (up, down, status),
    "The journal": (put, get, scan, delete, offer, tail, diff, lease),
    "Operations": (member, quorum, transfer_leader, compact, snapshot, verify),
    "Tasks": (run_task, plan, ps, logs, exec_in, stop, queue, unqueue, sql),
    "Programs": (node, agent, scheduler, api),
}


class Sections(click.Group):
    """A group that lists its commands by what they are about."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.commands)
        for title, commands in SECTIONS.items():
            rows = [(f"{command.name:<{width}}", command.get_short_help_str(80)) for command in commands]
            with formatter.section(title):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if isinstance(failures.unwrap(error), BrokenPipeError):
                raise ReaderGone from None  # click would end the process with code 1
            raise


class ReaderGone(Exception):
    """Nobody reads our standard output any more (``synod tail | head``): that is no fault."""


@click.group(
    cls=Sections,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nStart here:\n  synod up             three nodes and two agents, in this terminal\n"
    "  synod put greeting hello && synod get greeting\n  synod tail           watch what is committed\n",
)
@click.version_option(__version__, prog_name="synod")
def app() -> None:
    """A replicated transaction journal, and the cluster manager that stands on it.

    Exit codes: 0 done, 1 failed, 2 rejected, 3 unavailable, 64 misuse.
    """


for _commands in SECTIONS.values():
    for _command in _commands:
        app.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. Raises only what is a bug of ours."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app.main(args=given, prog_name="synod", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else failures.DONE
    except (BrokenPipeError, ReaderGone):
        failures.silence_standard_output()
        return failures.DONE
    except BaseException as raised:
        error = failures.unwrap(raised)
        if isinstance(error, SystemExit):
            raise
        known = failures.code_of(error)
        if known is None:
            raise
        options = given[: given.index("--")] if "--" in given else given
        failures.report(error, known, as_json="--json" in options)
        return known
