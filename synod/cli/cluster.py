"""``synod up``, ``down`` and ``status``: a cluster on this machine, and how it is."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from synod.cli.common import dir_option, examples, json_option, load_local, parse_endpoints, shown_path
from synod.cli.failures import UNAVAILABLE, CommandFailed, misuse
from synod.cli.output import emit_json, progress, size, table

if TYPE_CHECKING:
    from synod.local import LocalCluster, NodeView
    from synod.local_api import ApiView

NODES = 3
AGENTS = 2
SCHEDULERS = 1
BASE_PORT = 7400
API_PORT_ABOVE = 1000
WATCH_INTERVAL_S = 0.25


@click.command(
    epilog=examples(
        "synod up                           3 nodes and 2 agents; Ctrl-C stops them",
        "synod up --nodes 5 --agents 0      a journal of 5 nodes, and no agents",
        "synod up --detach --dir /tmp/c1 --base-port 7500",
        "synod up                           after Ctrl-C or a crash: the same cluster, with its data",
        "synod up --nodes 5 --detach        a cluster of 3, running or not: two more nodes join it",
        "synod up --api-port 9000           the ECS API, for boto3 and aws-cli, there and not at 8400",
        "synod up --rejoin voter            a node that loses its folder comes back under a new number",
        "synod up --runtime docker          containers at this machine's Docker, not processes",
        "synod up --chaos                   harm its nodes under load, and watch whether it keeps its word",
    )
)
@click.option("--nodes", type=click.IntRange(1, 9), help=f"How many nodes.  [default: {NODES}]")
@click.option("--agents", type=click.IntRange(0, 64), help=f"How many agents.  [default: {AGENTS}]")
@click.option(
    "--schedulers", type=click.IntRange(0, 9), help="How many schedulers.  [default: 1, without agents 0]"
)
@dir_option
@click.option(
    "--base-port",
    type=click.IntRange(1, 65_500),
    help=f"Node N listens on BASE_PORT + N.  [default: {BASE_PORT}]",
)
@click.option(
    "--api-port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help=f"Serve the ECS API there; 0: nowhere.  [default: --base-port + {API_PORT_ABOVE}; without agents 0]",
)
@click.option(
    "--runtime",
    type=click.Choice(["process", "docker"]),
    help="What runs containers of new agents.  [default: process]",
)
@click.option(
    "--docker-socket",
    type=click.Path(path_type=Path),
    default=Path("/var/run/docker.sock"),
    show_default=True,
    help="With --runtime docker: the engine's socket.",
)
@click.option(
    "--rejoin",
    type=click.Choice(["learner", "voter"]),
    help="Nodes whose data is lost come back by themselves under a new number, as a learner, or to vote again"
    " when they have caught up. Kept for the cluster.  [default: they say what to do, and stop]",
)
@click.option("--detach", is_flag=True, help="Return when the cluster is ready, and leave it running.")
@click.option("--timeout", "timeout_s", type=float, default=30.0, show_default=True, metavar="SECONDS")
@click.option(
    "--chaos", is_flag=True, help="Kill, pause and restart nodes under load; judge what comes of it."
)
@click.option(
    "--seed", type=click.IntRange(0), help="With --chaos: draws what happens.  [default: a new one]"
)
@json_option
def up(
    nodes: int | None,
    agents: int | None,
    schedulers: int | None,
    folder: Path,
    base_port: int | None,
    api_port: int | None,
    runtime: str | None,
    docker_socket: Path,
    rejoin: str | None,
    detach: bool,
    timeout_s: float,
    chaos: bool,
    seed: int | None,
    as_json: bool,
) -> None:
    """Start a cluster on this machine, or start again the one in --dir.

    Without --detach it stays in the foreground; Ctrl-C stops all of it, and the data stays. What
    runs already is left running, so `synod up --detach` also brings back a node that was killed.

    With --chaos its nodes are killed, paused and restarted while clients use it, and every answer is
    judged. Exit code 1 where a promise was broken.
    """
    if detach and chaos:
        raise misuse("--chaos needs the foreground: leave --detach out")
    cluster = _plan(folder, nodes, agents, base_port, schedulers, api_port)
    if rejoin:
        cluster.set_rejoin(rejoin)
    engine = None if runtime is None else str(docker_socket.absolute()) if runtime == "docker" else ""
    with _signals_as_interrupts():
        if detach:
            _start(cluster, agents, timeout_s, as_json, nodes, schedulers, api_port, engine)
            _show(cluster, as_json)
            return
        cluster.adopt_supervisor()
        try:
            _start(cluster, agents, timeout_s, as_json, nodes, schedulers, api_port, engine)
            try:
                _show(cluster, as_json)
                if chaos:
                    _harm(cluster, seed)
                _say_where(cluster, as_json)
                _watch(cluster, as_json)
            except KeyboardInterrupt:
                _stop_in_order(cluster, as_json)
            except BaseException:
                _stop_in_order(cluster, quiet=True)
                raise
        finally:
            cluster.release_supervisor()


@click.command(epilog=examples("synod down", "synod down --dir /tmp/c1"))
@dir_option
@json_option
def down(folder: Path, as_json: bool) -> None:
    """Stop the cluster in --dir: agents and their tasks, then nodes.

    The data stays; `synod up` starts it again. Only processes that the cluster started are
    stopped, and only if they are still the same ones.
    """
    cluster = load_local(folder)
    running = cluster.running()
    tasks = len(cluster.tasks())
    with progress(f"stopping {_count(running, tasks)}", quiet=as_json or not (running or tasks)):
        killed = cluster.stop()
    if as_json:
        emit_json({"stopped": sorted(running), "killed": sorted(killed), "tasks": tasks})
    elif not (running or tasks):
        click.echo(f"nothing runs in {shown_path(cluster.folder)}")
    else:
        click.echo(f"stopped {_count(running, tasks)}; the data stays in {shown_path(cluster.folder)}")
        if killed:
            click.echo(f"  did not end by themselves and were killed: {', '.join(sorted(killed))}", err=True)


@click.command(
    epilog=examples(
        "synod status",
        "synod status --json | jq -r '.nodes[] | select(.role == \"leader\") | .pid'",
        "synod status --endpoints 10.0.0.1:7401,10.0.0.2:7401",
    )
)
@click.option(
    "--endpoints",
    envvar="SYNOD_ENDPOINTS",
    metavar="HOST:PORT,…",
    help="Nodes to ask (env SYNOD_ENDPOINTS). Without it: those of the cluster in --dir.",
)
@dir_option
@click.option("--timeout", "timeout_s", type=float, default=2.0, show_default=True, metavar="SECONDS")
@json_option
def status(endpoints: str | None, folder: Path, timeout_s: float, as_json: bool) -> int:
    """Show each node: role, ballot, revision, applied slot, lag, disk, health.

    Exit code 3 where no node answers.
    """
    from synod.local_api import view_api

    api = None
    if endpoints is not None:
        views = _ask_strangers(parse_endpoints(endpoints), timeout_s)
        cluster_id = next((view.said.cluster for view in views if view.said), None)
    else:
        cluster = load_local(folder)
        views = cluster.status(timeout_s)
        cluster_id = cluster.cluster_id
        api = view_api(cluster, timeout_s)
    _show_views(views, cluster_id, as_json, api)
    return 0 if any(view.said for view in views) else UNAVAILABLE


def _plan(
    folder: Path,
    nodes: int | None,
    agents: int | None,
    base_port: int | None,
    schedulers: int | None,
    api_port: int | None,
) -> LocalCluster:
    """Return the cluster of ``folder``, made if there is none; refuse what contradicts its plan.

    A plan that was never used, because the first start failed, contradicts nobody.
    """
    from synod.local import LocalCluster, NoCluster

    try:
        cluster = LocalCluster.load(folder)
        contradiction, hint = _contradiction(cluster, nodes, base_port)
        if not contradiction:
            return cluster
        if not cluster.unused:
            raise misuse(contradiction, hint)
        cluster.discard()
    except NoCluster:
        pass
    base = BASE_PORT if base_port is None else base_port
    return LocalCluster.create(
        folder,
        nodes=NODES if nodes is None else nodes,
        agents=AGENTS if agents is None else agents,
        base_port=base,
        schedulers=schedulers if schedulers is not None else SCHEDULERS if agents != 0 else 0,
        api_port=_api_port(base, agents) if api_port is None else api_port,
    )


def _api_port(base_port: int, agents: int | None) -> int:
    """Return where the API of a new cluster is served: where there is something to run tasks."""
    port = base_port + API_PORT_ABOVE
    return port if agents != 0 and port < 65_536 else 0


def _contradiction(cluster: LocalCluster, nodes: int | None, base_port: int | None) -> tuple[str, str]:
    """Return what is asked for against the plan, and what to do in its place. More nodes are no
    contradiction: they join. Fewer are: which ones are to go is not for this command to guess."""
    there, present = shown_path(cluster.folder), cluster.nodes
    if nodes is not None and nodes < len(present) and not cluster.unused:
        leaving = [f"`synod member remove {node}`" for node in sorted(present)[nodes:][::-1]]
        return (
            f"the cluster in {there} has {len(present)} nodes, not {nodes}",
            f"To shrink it, remove nodes for good while it runs, such as with {', '.join(leaving)}.",
        )
    if nodes is not None and nodes != len(present) and cluster.unused:
        return f"the plan in {there} is of {len(present)} nodes", ""
    first = cluster.nodes[0]
    if base_port is not None and cluster.endpoint(first) != f"127.0.0.1:{base_port + first}":
        return (
            f"node {first} of the cluster in {there} has the address {cluster.endpoint(first)}",
            "Leave the option out to start it again, or choose another --dir for a new cluster.",
        )
    return "", ""


def _start(
    cluster: LocalCluster,
    agents: int | None,
    timeout_s: float,
    quiet: bool,
    nodes: int | None = None,
    schedulers: int | None = None,
    api_port: int | None = None,
    engine: str | None = None,
) -> None:
    """Start what does not run (of the agents: the first ``agents``) and wait until it is ready; then
    let the cluster grow to ``nodes``. The API is served on ``api_port``, or where it was before.
    ``engine``: the Docker socket of the agents, "" for processes, None for as before.

    What was started by a start that fails or is interrupted is stopped again; what ran before is
    not touched.
    """
    from synod.local_api import wait_api

    before, planned = cluster.running(), {f"node-{node}" for node in cluster.nodes}
    try:
        started = cluster.start(agents=False)
        with progress(
            f"starting {_count(started)}" if started else "waiting for the nodes", quiet=quiet
        ) as tell:
            cluster.wait_ready(timeout_s, on_wait=tell)
            if cluster.grow(nodes or 0, timeout_s, on_wait=tell):
                cluster.wait_ready(timeout_s, on_wait=tell)
            for number in cluster.agents if agents is None else range(1, agents + 1):
                cluster.start_agent(number, docker_socket=engine)
            if api_port == 0:
                cluster.drop_api()
            elif api_port or cluster.api_endpoint:
                cluster.start_api(api_port)
            tell("agents connect")
            cluster.wait_agents(timeout_s)
            cluster.start_schedulers(schedulers)
            wait_api(cluster, timeout_s)
    except BaseException:
        # But not a node that has joined since: the others may count on its vote.
        joined = {f"node-{node}" for node in cluster.nodes} - planned
        cluster.stop(only=set(cluster.running()) - set(before) - joined)
        raise


def _show(cluster: LocalCluster, as_json: bool) -> None:
    from synod.local_api import view_api

    _show_views(cluster.status(), cluster.cluster_id, as_json, view_api(cluster))


def _say_where(cluster: LocalCluster, quiet: bool) -> None:
    if quiet:
        return
    where = "" if cluster.folder == Path(".synod").absolute() else f" --dir {shown_path(cluster.folder)}"
    agents = len([name for name in cluster.running() if name.startswith("agent-")])
    click.echo(f"\n{agents} agents. Logs: {shown_path(cluster.log('node-1').parent)}/*.log")
    click.echo(f"Try in another terminal:  synod put greeting hello{where} && synod tail --after 0{where}")
    click.echo(f"                          synod run{where} -- sh -c 'echo hello; sleep 60'")
    click.echo(
        f"For calls of plain gRPC clients that take one request: {', '.join(cluster.direct_endpoints)}"
    )
    if cluster.api_endpoint:
        click.echo("The ECS API, with aws-cli or boto3 (any keys and region will do):")
        click.echo(
            f"  export AWS_ENDPOINT_URL_ECS=http://{cluster.api_endpoint} AWS_DEFAULT_REGION=us-east-1"
        )
        click.echo("  export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any")
        click.echo("  aws ecs list-container-instances")
    click.echo("Ctrl-C stops the cluster; its data stays.")


def _harm(cluster: LocalCluster, seed: int | None) -> None:
    """Harm the cluster until interrupted; fail where it breaks a promise."""
    import random

    from synod.chaos.live import Violated, harm

    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    try:
        harm(cluster, seed, tell=click.echo, is_tty=sys.stdout.isatty())
    except Violated as violated:
        raise CommandFailed(str(violated), hint=f"Again: synod up --chaos --seed {seed}") from None


def _watch(cluster: LocalCluster, quiet: bool) -> None:
    """Stay until nothing runs any more; say what ends."""
    before = set(cluster.running())
    while before:
        time.sleep(WATCH_INTERVAL_S)
        now = set(cluster.running())
        for name in sorted(before - now):
            code = cluster.exit_code(name)
            how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit code {code})"
            click.echo(f"{name} ended{how}; log: {shown_path(cluster.log(name))}", err=True)
            if now:
                click.echo("  bring it back with `synod up --detach`", err=True)
        for name in sorted(now - before):
            click.echo(f"{name} runs", err=True)
        before = now
    if not quiet:
        click.echo("nothing runs any more")


def _stop_in_order(cluster: LocalCluster, quiet: bool) -> None:
    """Stop all of it; a second Ctrl-C kills what has not ended yet."""
    running, tasks = cluster.running(), len(cluster.tasks())
    if not (running or tasks):
        return
    killed: list[str]
    try:
        with progress(f"stopping {_count(running, tasks)}", quiet=quiet):
            killed = cluster.stop()
    except KeyboardInterrupt:
        killed = list(cluster.running())
        cluster.kill_all()
    if not quiet:
        click.echo(f"stopped {_count(running, tasks)}; the data stays in {shown_path(cluster.folder)}")
    if killed:
        raise CommandFailed(f"did not end by themselves and were killed: {', '.join(sorted(killed))}")


def _count(names: Iterable[str], tasks: int = 0) -> str:
    """Return such as "3 nodes, 2 agents and 1 task"."""
    kinds = [name.partition("-")[0] for name in names] + ["task"] * tasks
    counts = [(kinds.count(kind), kind) for kind in ("node", "agent", "scheduler", "api", "task")]
    parts = [f"{number} {kind}{'s' if number > 1 else ''}" for number, kind in counts if number]
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "nothing"


def _ask_strangers(endpoints: Sequence[str], timeout_s: float) -> list[NodeView]:
    """Return the nodes behind addresses: nothing is known of them but what they say."""
    from synod.local import NodeView
    from synod.probe import statuses

    views = []
    answers = statuses(endpoints, None, timeout_s)
    for endpoint in endpoints:
        answer = answers.get(endpoint, "does not answer")
        if isinstance(answer, str):
            views.append(NodeView(0, endpoint, None, "unreachable", None, answer))
        else:
            views.append(NodeView(answer.node, endpoint, None, answer.role, answer, ""))
    return sorted(views, key=lambda view: (view.node == 0, view.node))


def _show_views(
    views: Sequence[NodeView], cluster_id: str | None, as_json: bool, api: ApiView | None = None
) -> None:
    from synod.local_view import votes_of

    votes = votes_of(views)
    if as_json:
        leader = next((view.node for view in views if view.role == "leader"), None)
        nodes: list[dict[str, Any]] = [
            {**view.as_json(), "member": votes.get(view.endpoint)} for view in views
        ]
        further = {"api": api.as_json()} if api else {}
        emit_json({"cluster": cluster_id, "leader": leader, "nodes": nodes, **further})
        return
    rows = []
    for view in views:
        said = view.said
        facts = (
            (said.ballot, said.revision, said.applied, said.lag, size(said.disk_bytes)) if said else "-----"
        )
        health = said.health if said else view.why
        votes_as = votes.get(view.endpoint, "no member" if votes and view.node else "-")
        place = (view.name, view.endpoint, view.pid or "-", votes_as, view.role)
        rows.append((*place, *facts, health))
    columns = (
        "node",
        "endpoint",
        "pid",
        "member",
        "role",
        "ballot",
        "revision",
        "applied",
        "lag",
        "disk",
        "health",
    )
    table(columns, rows, right=("node", "pid", "revision", "applied", "lag", "disk"))
    if api is not None:
        click.echo(f"\nECS API  http://{api.endpoint}  pid {api.pid or '-'}  {api.health}")


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and a closed terminal stop the cluster in order, as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
