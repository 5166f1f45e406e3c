"""``synod snapshot save`` and ``restore``, ``verify`` and ``diff``: backups, and whether to trust them."""

from __future__ import annotations

import datetime
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import Target, examples, json_option, shown_path, target_options, with_journal
from synod.cli.data import key_bytes
from synod.cli.failures import FAILED, CommandFailed, misuse
from synod.cli.output import emit_json, progress, size, table

if TYPE_CHECKING:
    from journal.client import Journal
    from journal.snapshots.format import Header
    from journal.snapshots.verify import Report
    from synod.diff import Difference

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group(
    epilog=examples(
        "synod snapshot save backup.synod          from a running cluster",
        "synod verify backup.synod                 is it whole?",
        "synod snapshot restore --help             a new cluster of it",
    )
)
def snapshot() -> None:
    """Save the whole journal to a file, and make new clusters of it."""


@snapshot.command(
    epilog=examples("synod snapshot save backup.synod", "synod snapshot save $(date +%F).synod --json")
)
@target_options
@file_argument
def save(target: Target, file: Path) -> None:
    """Write a consistent copy of the whole journal to FILE, while it goes on.

    It holds everything that was answered before: keys with their kept history, leases, and what is
    remembered of clients. FILE is there when it is whole and on the disk, or not at all.
    """
    from journal.snapshots.file import SnapshotWriter
    from journal.snapshots.verify import verify_file

    async def run(journal: Journal) -> tuple[Header, int, int]:
        with SnapshotWriter(file) as writer, progress(f"saving to {file}", quiet=target.as_json) as tell:
            header: Header | None = None
            async with aclosing(journal.snapshot()) as parts:
                async for part in parts:
                    if header is None:
                        header = part.header
                        writer.header(header)
                    writer.records(part.records)
                    tell(size(writer.bytes))
                    if part.end is not None:
                        writer.end(part.end.pack())
                        records = part.end.records
            assert header is not None
            tell("checking")
            report = await verify_file(writer.partial)
            if not report.is_whole:
                raise CommandFailed(f"what the node sent is damaged: {report.findings[0]}")
        return header, records, writer.bytes

    if file.exists():
        raise misuse(f"{file} is there already", "Choose another name, or remove it.")
    header, records, count = with_journal(target, run, forever=True)
    if target.as_json:
        emit_json({**_facts(header), "records": records, "bytes": count, "file": str(file)})
    else:
        click.echo(
            f"saved revision {header.revision} of cluster {header.cluster} to {file}:"
            f" {records} records, {size(count)}"
        )


@snapshot.command(
    epilog=examples(
        "synod snapshot restore backup.synod --dir restored",
        "synod snapshot restore backup.synod --dir restored --revision 4711   as it was then",
        "synod snapshot restore backup.synod --dir /var/lib/synod --only 1 --cluster prod-2 \\",
        "  --members 1=10.0.0.1:7401,2=10.0.0.2:7401,3=10.0.0.3:7401      on each machine its own node",
    )
)
@file_argument
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where the node folders are made: DIR/node-1, DIR/node-2, …",
)
@click.option("--cluster", metavar="ID", help="The id of the new cluster.  [default: a new one]")
@click.option(
    "--members",
    metavar="N=HOST:PORT,…",
    default="1=127.0.0.1:7401,2=127.0.0.1:7402,3=127.0.0.1:7403",
    show_default=True,
    help="The new cluster's nodes.",
)
@click.option(
    "--only",
    type=click.IntRange(1, 2**32 - 1),
    multiple=True,
    metavar="N",
    help="Make the folder of this node only; repeatable. Give --cluster then, the same for all.",
)
@click.option(
    "--revision",
    "--at",
    "at",
    type=click.IntRange(0),
    metavar="REVISION",
    help="Restore the state of this revision, of the history that the file holds.",
)
@json_option
def restore(
    file: Path,
    folder: Path,
    cluster: str | None,
    members: str,
    only: tuple[int, ...],
    at: int | None,
    as_json: bool,
) -> None:
    """Make the nodes of a NEW cluster from FILE. Prints the commands that start them."""
    import secrets

    import trio

    from journal.snapshots.restore import restore as restore_file
    from journal.types import Revision
    from synod.cli.programs import parse_members

    endpoints = dict(parse_members(members))
    unknown = sorted(set(only) - endpoints.keys())
    if unknown:
        raise misuse(f"--only {unknown[0]}: --members names no such node")
    if only and cluster is None:
        raise misuse("--only needs --cluster: all nodes must be given the same id")
    name = cluster or f"restored-{secrets.token_hex(4)}"
    folders = {node: folder / f"node-{node}" for node in sorted(only or endpoints)}

    async def run() -> Header:
        with progress(f"restoring {file}", quiet=as_json) as tell:
            return await restore_file(
                file,
                folders,
                cluster=name,
                endpoints=endpoints,
                at=None if at is None else Revision(at),
                on_progress=tell,
            )

    header = trio.run(run)
    commands = [_start_command(node, path, endpoints[node], name) for node, path in folders.items()]
    revision = header.revision if at is None else at
    if as_json:
        emit_json(
            {
                "cluster": name,
                "revision": revision,
                "from": _facts(header),
                "folders": {str(node): str(path) for node, path in folders.items()},
                "commands": commands,
            }
        )
        return
    click.echo(f"restored revision {revision} of cluster {header.cluster} as the new cluster {name}")
    click.echo("Start its nodes:")
    for command in commands:
        click.echo(f"  {command}")


def _start_command(node: int, path: Path, endpoint: str, cluster: str) -> str:
    return f"synod node --node {node} --dir {shown_path(path)} --listen {endpoint} --cluster {cluster}"


@click.command(
    epilog=examples(
        "synod verify backup.synod",
        "synod verify /var/lib/synod            the folder of a node that does not run",
        "synod verify .synod                    all nodes of a local cluster that does not run",
    )
)
@click.argument("path", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@json_option
def verify(path: tuple[Path, ...], as_json: bool) -> int:
    """Check snapshot files and data folders: checksums, the hash chain, the fold, what points at what.

    Offline, and it only reads. Exit code 1 where something is damaged; it is said what.
    """
    import trio

    from journal.snapshots.verify import verify as verify_path

    targets: list[Path] = []
    for one in path:
        nodes = sorted(one.glob("node-*/CURRENT")) if one.is_dir() else []
        targets += [found.parent for found in nodes] or [one]

    async def run() -> list[Report]:
        reports = []
        with progress("verifying", quiet=as_json) as tell:
            for each in targets:

                def on_progress(text: str, each: Path = each) -> None:
                    tell(f"{each}: {text}")

                reports.append(await verify_path(each, on_progress))
        return reports

    reports = trio.run(run)
    if as_json:
        emit_json(
            {"ok": all(report.is_whole for report in reports), "reports": [_report(r) for r in reports]}
        )
    else:
        for report in reports:
            _show_report(report)
    return 0 if all(report.is_whole for report in reports) else FAILED


def _report(report: Report) -> dict[str, Any]:
    return {
        "name": report.name,
        "kind": report.kind,
        "ok": report.is_whole,
        "records": report.records,
        "facts": report.facts,
        "checked": report.checked,
        "skipped": report.skipped,
        "findings": report.findings,
        "more_findings": report.more,
    }


def _show_report(report: Report) -> None:
    facts = report.facts
    what = f"revision {facts.get('revision', 0)}, slot {facts.get('slot', 0)}"
    if "cluster" in facts:
        what = f"cluster {facts['cluster']}, node {facts.get('node')}, {what}"
    click.echo(f"{report.name} ({report.kind}): {what}")
    for text in report.checked:
        click.echo(f"  checked: {text}")
    for text in report.skipped:
        click.echo(f"  not checked: {text}")
    for text in report.findings:
        click.echo(f"  DAMAGED: {text}")
    if report.more:
        click.echo(f"  … and {report.more} more")
    if report.is_whole:
        click.echo("  whole")


@click.command(
    epilog=examples(
        "synod diff 41 57                     what changed from revision 41 to 57",
        "synod diff 41 57 --prefix jobs/ --json | jq -c '.changes[]'",
    )
)
@target_options
@click.argument("first", metavar="R1", type=click.IntRange(0))
@click.argument("second", metavar="R2", type=click.IntRange(0))
@click.option("--prefix", default="", help="Only keys that begin so.")
def diff(target: Target, first: int, second: int, prefix: str) -> None:
    """Show which keys differ between two revisions: + made, - deleted, ~ changed.

    What was changed and changed back in between does not show; `synod tail` shows every step.
    """
    from synod.diff import differences
    from synod.values import to_text

    found = with_journal(target, lambda journal: differences(journal, first, second, key_bytes(prefix)))
    if target.as_json:
        emit_json({"from": first, "to": second, "changes": [_difference(each) for each in found]})
        return
    if not found:
        click.echo(f"nothing differs between revisions {first} and {second}")
        return
    rows = [
        (
            each.sign,
            to_text(each.key),
            "" if each.before is None else _short(to_text(each.before.value)),
            "" if each.after is None else _short(to_text(each.after.value)),
        )
        for each in found
    ]
    table(("", "key", f"at {first}", f"at {second}"), rows)


def _difference(each: Difference) -> dict[str, Any]:
    from synod.values import to_json

    shown: dict[str, Any] = {"key": to_json(each.key)}
    for name, record in (("before", each.before), ("after", each.after)):
        shown[name] = (
            None
            if record is None
            else {
                "value": to_json(record.value),
                "mod": record.mod,
                "version": record.version,
                "lease": record.lease,
            }
        )
    return shown


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _facts(header: Header) -> dict[str, Any]:
    when = datetime.datetime.fromtimestamp(header.time_ms / 1000, datetime.UTC)
    return {
        "cluster": header.cluster,
        "node": header.node,
        "revision": header.revision,
        "compacted": header.compacted,
        "slot": header.slot,
        "chain": header.chain.hex(),
        "time": when.isoformat(),
    }
