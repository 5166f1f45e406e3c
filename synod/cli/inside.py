"""``synod logs`` and ``synod exec``: into a task, from the machine that runs it."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from synod.cli.common import Target, examples, target_options, until_interrupted, with_journal
from synod.cli.failures import CommandFailed
from synod.cli.output import emit_bytes
from synod.cli.tasks import cluster_name_option, open_feed

if TYPE_CHECKING:
    from agent.docker_api import Output
    from agent.places import Place
    from cluster.feed import ClusterFeed
    from cluster.views import TaskView
    from journal.client import Journal

FOLLOW_INTERVAL_S = 0.2
LOG_PIECE_BYTES = 1 << 16


@click.command(
    epilog=examples(
        "synod logs 3f2a91                the first letters of the task's id are enough",
        "synod logs 3f2a91 --follow       until the task has stopped",
        "synod logs 3f2a91 --lines 20",
    )
)
@target_options
@click.argument("task")
@click.option("--follow", "-f", is_flag=True, help="Go on until the task has stopped.")
@click.option("--lines", "-n", type=click.IntRange(0), help="Only the last so many lines.")
@click.option("--container", help="Only this container's.")
@cluster_name_option
def logs(
    target: Target, task: str, follow: bool, lines: int | None, container: str | None, cluster_name: str
) -> None:
    """Print what a task has written. Its agent must be on this machine."""

    async def show(journal: Journal) -> None:
        from agent.places import find_place
        from cluster.ops import find_task

        async with open_feed(journal, target) as feed:
            view = find_task(feed.state, cluster_name, task)
            place = find_place(feed.state, view, container)
            if place.is_docker:
                await _docker_logs(feed, view, place, follow, lines)
            else:
                await _process_logs(feed, view, place, follow, lines)

    with until_interrupted() if follow else contextlib.nullcontext():
        with_journal(target, show, forever=follow)


@click.command(
    "exec",
    epilog=examples(
        "synod exec 3f2a91 -- ps                 the first letters of the task's id are enough",
        "synod exec 3f2a91 -- sh                 a shell, if this is a terminal",
        "synod exec 3f2a91 --container db -- cat /etc/hosts",
        "echo hello | synod exec 3f2a91 -- tee greeting",
    ),
)
@target_options
@click.argument("task")
@click.argument("command", nargs=-1, required=True)
@click.option("--container", help="Which of the task's containers.  [default: the only one]")
@click.option("--tty/--no-tty", default=None, help="Give it a terminal.  [default: if this is one]")
@cluster_name_option
def exec_in(
    target: Target,
    task: str,
    command: tuple[str, ...],
    container: str | None,
    tty: bool | None,
    cluster_name: str,
) -> int:
    """Run COMMAND in a task's container, or beside its process, with its environment and folder.

    Its agent must be on this machine. The exit code is the command's.
    """
    import trio

    from agent.attach import run_in

    async def find(journal: Journal) -> Place:
        from agent.places import find_place
        from cluster.ops import find_task

        async with open_feed(journal, target) as feed:
            place = find_place(feed.state, find_task(feed.state, cluster_name, task), container)
            if len(place.containers) > 1:
                raise CommandFailed(
                    f"task {place.task} has {len(place.containers)} containers",
                    hint=f"Choose one with --container: {', '.join(place.containers)}.",
                )
            return place

    place = with_journal(target, find)
    use_tty = tty if tty is not None else sys.stdin.isatty() and sys.stdout.isatty()
    return trio.run(partial(run_in, place, place.containers[0], command, use_tty=use_tty))


async def _process_logs(
    feed: ClusterFeed, view: TaskView, place: Place, follow: bool, lines: int | None
) -> None:
    import trio

    with _LogReader(place) as reader:
        reader.print_new(lines)
        while follow and not _has_stopped(feed, view):
            with trio.move_on_after(FOLLOW_INTERVAL_S):
                await feed.step()
            reader.print_new()


async def _docker_logs(
    feed: ClusterFeed, view: TaskView, place: Place, follow: bool, lines: int | None
) -> None:
    """Print what the engine kept; to follow, wait for each container to be there first."""
    import trio

    from agent.docker_api import DockerApi, DockerError, DockerRefused

    api = DockerApi(place.socket)

    def hear(output: Output) -> None:
        emit_bytes(output.data)

    async def show(name: str) -> None:
        while True:
            try:
                await api.logs(name, hear, follow=follow, tail=lines)
                return
            except DockerRefused as refused:
                is_there_later = refused.status == 404 and follow and not _has_stopped(feed, view)
                if not is_there_later:
                    if refused.status != 404:
                        raise
                    return
            await trio.sleep(FOLLOW_INTERVAL_S)

    async def watch() -> None:
        while not _has_stopped(feed, view):
            await feed.step()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            async with trio.open_nursery() as shows:
                for name in place.docker_names():
                    shows.start_soon(show, name)
            nursery.cancel_scope.cancel()
    except* DockerError as group:
        raise CommandFailed(f"the logs of task {place.task}: {group.exceptions[0]}") from group
    finally:
        await api.aclose()


def _has_stopped(feed: ClusterFeed, view: TaskView) -> bool:
    now = feed.state.task(view.cluster, view.id)
    return now is None or now.stopped


class _LogReader:
    """Prints what is new in a task's log files, also where a file was put aside for a new one."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._open: dict[tuple[int, int], BinaryIO] = {}

    def __enter__(self) -> _LogReader:
        return self

    def __exit__(self, *_exception: object) -> None:
        for file in self._open.values():
            file.close()

    def print_new(self, lines: int | None = None) -> None:
        """Print all that was not printed yet; of that only the last ``lines``, if given."""
        data = bytearray()
        for path in self._place.log_files():
            file = self._file(path)
            while piece := file.read(LOG_PIECE_BYTES):
                data += piece
                if lines is None:
                    emit_bytes(bytes(data))
                    data.clear()
        if lines:
            emit_bytes(b"".join(data.splitlines(keepends=True)[-lines:]))

    def _file(self, path: Path) -> BinaryIO:
        """Return the open file: known by its inode, it stays the same one after a renaming."""
        fresh = path.open("rb")
        facts = path.stat()
        known = self._open.setdefault((facts.st_dev, facts.st_ino), fresh)
        if known is not fresh:
            fresh.close()
        return known
