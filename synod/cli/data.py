"""``synod put``, ``get``, ``scan`` and ``del``: single keys."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import Target, examples, target_options, with_journal
from synod.cli.failures import FAILED, misuse
from synod.cli.output import emit_bytes, emit_json, table

if TYPE_CHECKING:
    from journal.connection import Consistency
    from journal.offers import Mutation
    from journal.space import Record

consistency_option = click.option(
    "--consistency",
    default="linearizable",
    show_default=True,
    metavar="LEVEL",
    help="linearizable, local, or a revision that the answering node must have reached.",
)
at_option = click.option("--at", type=click.IntRange(0), metavar="REVISION", help="Read as of this revision.")
expect_option = click.option(
    "--expect",
    type=click.IntRange(0),
    metavar="REVISION",
    help="Only if the key's modification revision is this (0: only if it does not exist).",
)
label_option = click.option(
    "--label", default="", help="A word on who does it; others see it in their receipts."
)


def parse_consistency(text: str) -> Consistency:
    from journal.connection import LINEARIZABLE, LOCAL, at_least

    if text == "linearizable":
        return LINEARIZABLE
    if text == "local":
        return LOCAL
    if text.isascii() and text.isdigit():
        return at_least(int(text))
    raise click.BadParameter(
        f"{text!r} is none of linearizable, local, or a revision", param_hint="'--consistency'"
    )


@click.command(
    epilog=examples(
        "synod put greeting hello",
        "synod put greeting hi --expect 0            only if it does not exist",
        "echo -n hello | synod put greeting -        the value from standard input",
        "synod put pool '{\"cpu\": 4096}' --map        a map, for `adjust`",
        "synod put alive yes --lease 4711            goes when the lease goes",
    )
)
@target_options
@click.argument("key")
@click.argument("value")
@click.option("--map", "as_map", is_flag=True, help="VALUE is a JSON object; store it as a msgpack map.")
@click.option("--lease", type=click.IntRange(0), default=0, help="Bind the key to this lease.")
@expect_option
@label_option
def put(
    target: Target, key: str, value: str, as_map: bool, lease: int, expect: int | None, label: str
) -> None:
    """Set KEY to VALUE ("-": standard input). Prints the revision."""
    from journal.offers import Put

    data = sys.stdin.buffer.read() if value == "-" else value.encode("utf-8", "surrogateescape")
    if as_map:
        data = _map(data)
    _offer_one(target, Put(key_bytes(key), data, lease), expect, label)


@click.command(
    "del",
    epilog=examples("synod del greeting", "synod del jobs/ --prefix", "synod del greeting --expect 41"),
)
@target_options
@click.argument("key")
@click.option("--prefix", is_flag=True, help="Delete every key that begins with KEY.")
@expect_option
@label_option
def delete(target: Target, key: str, prefix: bool, expect: int | None, label: str) -> None:
    """Delete KEY. Prints the revision. Deleting what does not exist is no fault."""
    from journal.offers import Delete, DeleteRange, prefix_range

    if prefix and expect is not None:
        raise click.UsageError("--expect names one key's revision: it does not go with --prefix.")
    name = key_bytes(key)
    _offer_one(target, DeleteRange(*prefix_range(name)) if prefix else Delete(name), expect, label)


@click.command(
    epilog=examples(
        "synod get greeting",
        "synod get greeting farewell          several keys, at one revision",
        "synod get greeting --at 17           as it was at revision 17",
        "synod get greeting --consistency local --json",
    )
)
@target_options
@click.argument("keys", nargs=-1, required=True)
@at_option
@consistency_option
def get(target: Target, keys: tuple[str, ...], at: int | None, consistency: str) -> int:
    """Read KEYS. One key: prints its value and nothing else; several: a table.

    Exit code 1 where a key does not exist.
    """
    level = parse_consistency(consistency)
    names = [key_bytes(key) for key in keys]
    revision, records = with_journal(
        target, lambda journal: journal.get_many(names, at=at, consistency=level)
    )
    missing = [key for key, record in zip(keys, records, strict=True) if record is None]
    if target.as_json:
        shown = [_record_json(name, record) for name, record in zip(names, records, strict=True)]
        emit_json({"revision": revision, "records": shown})
    elif len(keys) == 1 and records[0] is not None:
        value = records[0].value or b""
        emit_bytes(value + b"\n" if sys.stdout.isatty() and not value.endswith(b"\n") else value)
    elif not missing or len(missing) < len(keys):
        found = [(name, record) for name, record in zip(names, records, strict=True) if record is not None]
        _record_table(found)
    for key in missing:
        click.echo(f"synod: {key} does not exist at revision {revision}", err=True)
    return FAILED if missing else 0


@click.command(
    epilog=examples(
        "synod scan                           everything",
        "synod scan jobs/                     every key that begins with jobs/",
        "synod scan --start a --end c         a <= key < c",
        "synod scan jobs/ --keys --limit 10",
        "synod scan jobs/ --at 17 --json",
    )
)
@target_options
@click.argument("prefix", default="")
@click.option("--start", help="The first key; not with PREFIX.")
@click.option("--end", help="The key to stop before; not with PREFIX.")
@click.option("--limit", type=click.IntRange(1), metavar="KEYS", help="Stop after so many keys.")
@click.option("--keys", "keys_only", is_flag=True, help="Print the keys only, one a line.")
@at_option
@consistency_option
def scan(
    target: Target,
    prefix: str,
    start: str | None,
    end: str | None,
    limit: int | None,
    keys_only: bool,
    at: int | None,
    consistency: str,
) -> None:
    """List keys in order, with their values, all at one revision."""
    from journal.offers import prefix_range

    if prefix and (start is not None or end is not None):
        raise click.UsageError("Give PREFIX, or --start and --end, not both.")
    bounds = prefix_range(key_bytes(prefix)) if prefix else (key_bytes(start or ""), key_bytes(end or ""))
    level = parse_consistency(consistency)
    revision, items, _next = with_journal(
        target, lambda journal: journal.scan(*bounds, at=at, consistency=level, limit=limit)
    )
    if target.as_json:
        emit_json({"revision": revision, "records": [_record_json(key, record) for key, record in items]})
    elif keys_only:
        emit_bytes(b"".join(key + b"\n" for key, _ in items))
    else:
        _record_table(items)


def _offer_one(target: Target, mutation: Mutation, expect: int | None, label: str) -> None:
    from journal.offers import Offer
    from synod.cli.offer import submit

    key = getattr(mutation, "key", b"")
    conditions = () if expect is None else ((key, expect),)
    revision = submit(target, Offer((mutation,), expect=conditions, label=label))
    if target.as_json:
        emit_json({"revision": revision})
    else:
        click.echo(f"revision {revision}")


def key_bytes(text: str) -> bytes:
    """Return an argument's bytes, also of one that was not UTF-8."""
    return text.encode("utf-8", "surrogateescape")


def _map(data: bytes) -> bytes:
    from synod.values import pack_map

    try:
        fields = json.loads(data)
        if isinstance(fields, dict):
            return pack_map(fields, "VALUE")
        raise misuse(f"VALUE: --map takes a JSON object, not {data.decode(errors='replace')[:40]!r}")
    except ValueError as error:
        raise misuse(f"VALUE: is not JSON: {error}") from None


def _record_json(key: bytes, record: Record | None) -> dict[str, Any]:
    from synod.values import to_json

    if record is None:
        return {"key": to_json(key), "value": None}
    return {
        "key": to_json(key),
        "value": to_json(record.value or b""),
        "create": record.create,
        "mod": record.mod,
        "version": record.version,
        "lease": record.lease,
    }


def _record_table(items: Iterable[tuple[bytes, Record]]) -> None:
    from synod.values import to_text

    rows = [
        (
            to_text(key),
            to_text(record.value or b""),
            record.create,
            record.mod,
            record.version,
            record.lease or "-",
        )
        for key, record in items
    ]
    columns = ("key", "value", "created", "modified", "version", "lease")
    table(columns, rows, right=columns[2:])
