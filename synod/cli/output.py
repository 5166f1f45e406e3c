"""How results are shown: JSON for programs, tables for people, a spinner while they wait."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

PIPE_COLUMNS = 240
"""How wide a table may be where nobody looks at it through a window."""


def emit_json(data: Any) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(data, ensure_ascii=False))


def emit_bytes(data: bytes) -> None:
    """Print bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a table; the columns named in ``right`` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_COLUMNS)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell), style=_STYLES.get(str(cell), "")) for cell in row))
    console.print(grid)


_STYLES = {
    "ok": "green",
    "leader": "bold green",
    "RUNNING": "green",
    "down": "red",
    "paused": "yellow",
    "unreachable": "red",
    "PENDING": "yellow",
}


@contextlib.contextmanager
def progress(text: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on standard error what is being waited for; yields a function that changes the text.

    A spinner where that is a terminal; elsewhere the first text as one plain line, so that a log
    of a script says what took so long; nothing at all with ``quiet``.
    """
    if quiet or not sys.stderr.isatty():
        if not quiet:
            click.echo(text, err=True)
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield lambda more: status.update(f"{text} [dim]{more}[/dim]")


def size(count: int) -> str:
    """Return a number of bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
