"""What the commands share: where the cluster is, how long to wait, and in which form to answer."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from synod.cli.failures import UNAVAILABLE, CommandFailed, unwrap

if TYPE_CHECKING:
    from journal.client import Journal
    from synod.local import LocalCluster

T = TypeVar("T")

DEFAULT_DIR = ".synod"
DEFAULT_TIMEOUT_S = 10.0
PATIENCE_S = 5.0
"""How much longer than one call's timeout a whole command may take."""

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
dir_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="SYNOD_DIR",
    default=DEFAULT_DIR,
    show_default=True,
    help="Folder of a local cluster (env SYNOD_DIR).",
)


@dataclass(frozen=True, slots=True)
class Target:
    """Which cluster a command speaks to, and how."""

    endpoints: tuple[str, ...]
    cluster: str | None
    """The cluster id that the nodes must have; None: whichever they have."""
    timeout_s: float
    as_json: bool
    folder: Path | None = None
    """Of the cluster of `synod up`, where it is one that was found by its folder."""


def parse_endpoints(text: str, option: str = "--endpoints") -> tuple[str, ...]:
    """Return ``host:port`` addresses from a list with commas. Raises BadParameter naming the wrong one."""
    endpoints = tuple(part.strip() for part in text.split(",") if part.strip())
    for endpoint in endpoints:
        host, colon, port = endpoint.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise click.BadParameter(
                f"{endpoint!r} is not host:port (such as 127.0.0.1:7401)", param_hint=f"'{option}'"
            )
    if not endpoints:
        raise click.BadParameter("no endpoint in it", param_hint=f"'{option}'")
    return endpoints


def find_target(
    endpoints: str | None, folder: Path, cluster: str | None, timeout_s: float, as_json: bool
) -> Target:
    """Return the target: the named endpoints, else those of the cluster in ``folder``."""
    if endpoints is not None:
        return Target(parse_endpoints(endpoints), cluster, timeout_s, as_json)
    from synod.local import LocalCluster

    local = LocalCluster.load(folder)
    if not any(name.startswith("node-") for name in local.running()):
        raise CommandFailed(
            f"no node of the cluster in {local.folder} runs",
            code=UNAVAILABLE,
            hint=f"Start it again with `synod up --dir {folder}`.",
        )
    return Target(tuple(local.endpoints), cluster or local.cluster_id, timeout_s, as_json, local.folder)


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where the cluster is; it gets a ``Target`` first."""

    @click.option(
        "--endpoints",
        envvar="SYNOD_ENDPOINTS",
        metavar="HOST:PORT,…",
        help="Nodes of the cluster (env SYNOD_ENDPOINTS). Without it: those of the cluster in --dir.",
    )
    @dir_option
    @click.option(
        "--cluster",
        metavar="ID",
        help="Refuse nodes of another cluster than this.",
    )
    @click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=DEFAULT_TIMEOUT_S,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an answer.",
    )
    @json_option
    @functools.wraps(command)
    def with_target(
        *args: Any,
        endpoints: str | None,
        folder: Path,
        cluster: str | None,
        timeout_s: float,
        as_json: bool,
        **options: Any,
    ) -> Any:
        return command(find_target(endpoints, folder, cluster, timeout_s, as_json), *args, **options)

    return with_target


def with_journal(target: Target, use: Callable[[Journal], Awaitable[T]], *, forever: bool = False) -> T:
    """Connect, run ``use`` with the client, and return what it returns.

    Each call that it makes has the target's timeout, and all of it a little more than that, unless
    it may go on ``forever``.
    """
    import trio

    from journal.client import ClientConfig, connect

    config = ClientConfig(timeout_s=target.timeout_s)

    async def main() -> T:
        with trio.CancelScope() as scope:
            if not forever:
                scope.deadline = trio.current_time() + target.timeout_s + PATIENCE_S
            async with connect(target.endpoints, cluster=target.cluster, config=config) as journal:
                return await use(journal)
        raise CommandFailed(
            f"not done within {target.timeout_s:g} s by {', '.join(target.endpoints)}",
            code=UNAVAILABLE,
            hint="`synod status` shows which nodes run and whether they have a leader.",
        )

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        raise unwrap(group) from None


@contextlib.contextmanager
def until_interrupted() -> Iterator[None]:
    """Let Ctrl-C be the ordinary end of what goes on for ever."""
    try:
        yield
    except KeyboardInterrupt:
        pass


def load_local(folder: Path) -> LocalCluster:
    from synod.local import LocalCluster

    return LocalCluster.load(folder)


def shown_path(path: Path) -> str:
    """Return a path as short as it can be said from here, if it is below here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative


def examples(*lines: str) -> str:
    """Return the epilog of a command's help: the examples, line by line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
