"""``synod node``, ``agent`` and ``scheduler``: the programs that a cluster is made of."""

from __future__ import annotations

from pathlib import Path

import click

from synod.cli.common import examples, parse_endpoints
from synod.cli.failures import misuse

log_options = (
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
    ),
    click.option("--log-format", type=click.Choice(["kv", "json"]), default="kv", show_default=True),
)


def parse_members(text: str, option: str = "--members") -> tuple[tuple[int, str], ...]:
    """Return (node, endpoint) pairs of ``1=host:port,2=…``. Raises BadParameter naming the wrong one."""
    members: dict[int, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        number, equals, endpoint = part.partition("=")
        if not (equals and number.isascii() and number.isdigit() and 0 < int(number) < 2**32):
            raise click.BadParameter(
                f"{part!r} is not NODE=HOST:PORT (such as 1=10.0.0.1:7401)", param_hint=f"'{option}'"
            )
        if int(number) in members:
            raise click.BadParameter(f"node {number} is named twice", param_hint=f"'{option}'")
        try:
            [members[int(number)]] = parse_endpoints(endpoint)
        except (click.BadParameter, ValueError):
            raise click.BadParameter(
                f"{endpoint!r} of node {number} is not host:port", param_hint=f"'{option}'"
            ) from None
    if len(set(members.values())) < len(members):
        raise click.BadParameter("two nodes have the same endpoint", param_hint=f"'{option}'")
    return tuple(sorted(members.items()))


@click.command(
    epilog=examples(
        "synod node --node 1 --dir /var/lib/synod --listen 0.0.0.0:7401 --cluster prod \\",
        "  --members 1=10.0.0.1:7401,2=10.0.0.2:7401,3=10.0.0.3:7401 --create",
        "",
        "synod node --node 4 --dir /var/lib/synod --listen 10.0.0.4:7401 --cluster prod \\",
        "  --members 1=10.0.0.1:7401,2=10.0.0.2:7401,3=10.0.0.3:7401 --join",
        "",
        "Leave --create or --join out from the second start on (--members is not needed then either): a",
        "node whose folder was lost says so, in place of voting again about what it has forgotten.",
    )
)
@click.option("--node", type=click.IntRange(1, 2**32 - 1), required=True, help="This node's number.")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its data."
)
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where it listens.")
@click.option("--cluster", required=True, metavar="ID", help="The cluster's id; the same on all nodes.")
@click.option(
    "--members",
    default="",
    metavar="N=HOST:PORT,…",
    help="At its first start: all nodes, this one included; with --join the present members, without it.",
)
@click.option(
    "--retain-revisions",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Compact history older than the last N revisions, while it leads.  [default: never]",
)
@click.option(
    "--retain-hours",
    type=click.FloatRange(0),
    default=0.0,
    metavar="HOURS",
    help="Compact history older than this, while it leads. With both, what either keeps is kept.",
)
@click.option(
    "--log-slots-retained",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    metavar="N",
    help="The last N slots stay in the log whatever is compacted: who is less behind needs no snapshot.",
)
@click.option(
    "--direct-listen",
    metavar="HOST:PORT",
    help="Where peers and clients go past gRPC's own server, at a fraction of the cost: with offers, with"
    " what nodes say to each other, and with any gRPC client's calls that take one request. Nodes and"
    " this project's clients find it by themselves, on the host by which they reach --listen. Without it all"
    " goes there.",
)
@click.option(
    "--http-listen",
    metavar="HOST:PORT",
    help="Where /metrics, /livez and /readyz are served. Without it: nowhere.",
)
@click.option(
    "--disk-reserve-mib",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="MIB",
    help="With less than this free for its data, offers that need more space are refused.",
)
@click.option(
    "--alarm-disk-free-mib",
    type=click.IntRange(0),
    default=512,
    show_default=True,
    metavar="MIB",
    help="Raise an alarm when less than this is left on the disk.",
)
@click.option("--create", is_flag=True, help="Make the data folder: only at this node's very first start.")
@click.option(
    "--join", is_flag=True, help="The same for a node that `synod member add` lets into a running cluster."
)
@click.option(
    "--rejoin",
    type=click.Choice(["learner", "voter"]),
    help="If its data is lost: come back by itself under a new number, as a learner, or to vote again when it"
    " has caught up. Needs --members.  [default: say what to do, and stop]",
)
@click.option(
    "--election-timeout-ms", type=click.IntRange(50, 60_000), default=1_000, show_default=True, metavar="MS"
)
@click.option(
    "--heartbeat-interval-ms", type=click.IntRange(5, 10_000), default=100, show_default=True, metavar="MS"
)
@log_options[0]
@log_options[1]
def node(
    node: int,
    folder: Path,
    listen: str,
    cluster: str,
    members: str,
    retain_revisions: int,
    retain_hours: float,
    log_slots_retained: int,
    direct_listen: str | None,
    http_listen: str | None,
    alarm_disk_free_mib: int,
    disk_reserve_mib: int,
    create: bool,
    join: bool,
    rejoin: str | None,
    election_timeout_ms: int,
    heartbeat_interval_ms: int,
    log_level: str,
    log_format: str,
) -> int:
    """Run one node of the journal, until SIGTERM. It hands leadership over before it stops.

    Exit codes: 0 stopped, 1 wrong settings or folder, 3 the disk failed.
    """
    known = dict(parse_members(members))
    if create and join:
        raise misuse("--create is for the nodes of a new cluster, --join for a later one: not both")
    if (create or join) and not known:
        raise misuse("--members is needed with --create and --join")
    if create and node not in known:
        raise misuse(f"--members does not name node {node} itself: {members}")
    if join and node in known:
        raise misuse(f"--members names node {node} itself, which is only to join: {members}")
    if rejoin and (create or join):
        raise misuse("--rejoin is for later starts than the first: not with --create or --join")
    if rejoin and not known.keys() - {node}:
        raise misuse("--rejoin needs --members, to know whom to ask")
    from journal.limits import Limits
    from journal.rpc.program import NodeOptions, run

    return run(
        NodeOptions(
            node=node,
            dir=folder,
            listen=parse_endpoints(listen, "--listen")[0],
            cluster=cluster,
            members=known,
            create=create,
            join=join,
            rejoin=rejoin or "",
            election_timeout_s=election_timeout_ms / 1000,
            heartbeat_interval_s=heartbeat_interval_ms / 1000,
            retain_revisions=retain_revisions,
            retain_s=retain_hours * 3600,
            direct_listen=parse_endpoints(direct_listen, "--direct-listen")[0] if direct_listen else "",
            http_listen=parse_endpoints(http_listen, "--http-listen")[0] if http_listen else "",
            disk_free_bytes_min=alarm_disk_free_mib << 20,
            limits=Limits(
                disk_reserve_bytes=disk_reserve_mib << 20, log_slots_retained_min=log_slots_retained
            ),
            log_level=log_level,
            log_format=log_format,
        )
    )


@click.command(
    epilog=examples(
        "synod scheduler --endpoints 10.0.0.1:7401,10.0.0.2:7401",
        "synod scheduler --endpoints 10.0.0.1:7401 --grace 120      slow networks, long reboots",
        "",
        "Run as many as you like, on any machines: they need no election and keep nothing. One is enough",
        "for the work; the others are there for when it dies.",
    )
)
@click.option(
    "--endpoints", required=True, envvar="SYNOD_ENDPOINTS", metavar="HOST:PORT,…", help="The journal."
)
@click.option("--cluster", metavar="ID", help="Refuse nodes of another cluster than this.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an agent may be away before its services' tasks are replaced elsewhere.",
)
@log_options[0]
@log_options[1]
def scheduler(endpoints: str, cluster: str | None, grace: float, log_level: str, log_format: str) -> int:
    """Run a scheduler: it keeps services at what is wanted of them.

    Killed at any time it loses nothing: whatever it knows is in the journal.
    """
    from schedulers.main import SchedulerOptions, run

    return run(
        SchedulerOptions(
            endpoints=parse_endpoints(endpoints),
            journal=cluster,
            grace_s=grace,
            log_level=log_level,
            log_format=log_format,
        )
    )
