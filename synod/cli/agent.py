"""``synod agent``: the program that runs tasks on a machine."""

from __future__ import annotations

from pathlib import Path

import click

from synod.cli.common import examples, parse_endpoints
from synod.cli.programs import log_options
from synod.cli.tasks import numbers, pairs


@click.command(
    epilog=examples(
        "synod agent --endpoints 10.0.0.1:7401,10.0.0.2:7401 --dir /var/lib/synod-agent \\",
        "  --cpu 4096 --memory 8192 --attributes rack=a",
        "synod agent --endpoints 10.0.0.1:7401 --dir /var/lib/synod-agent --runtime docker",
    )
)
@click.option(
    "--endpoints", required=True, envvar="SYNOD_ENDPOINTS", metavar="HOST:PORT,…", help="The journal."
)
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Its state."
)
@click.option("--cluster-name", default="default", show_default=True, help="The cluster it joins.")
@click.option("--cpu", type=click.IntRange(1), default=4096, show_default=True, help="1024 is one core.")
@click.option("--memory", type=click.IntRange(1), default=8192, show_default=True, help="MiB.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    metavar="NAME=NUMBER",
    help="A further resource that tasks may claim, such as GPU=2; repeatable.",
)
@click.option(
    "--reserve-port",
    "reserved_ports",
    type=click.IntRange(1, 65_535),
    multiple=True,
    help="A TCP port that no task gets; repeatable.",
)
@click.option(
    "--attributes", multiple=True, metavar="NAME=VALUE", help="What placement may ask for; repeatable."
)
@click.option(
    "--lease-ttl",
    type=click.FloatRange(0.5, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long after its last word it counts as connected.",
)
@click.option(
    "--runtime",
    type=click.Choice(["process", "docker"]),
    default="process",
    show_default=True,
    help="What runs containers: processes of this machine, or a Docker engine.",
)
@click.option(
    "--docker-socket",
    type=click.Path(path_type=Path),
    default=Path("/var/run/docker.sock"),
    show_default=True,
    help="With --runtime docker: the engine's socket.",
)
@click.option(
    "--pull",
    type=click.Choice(["default", "always", "once", "prefer-cached"]),
    default="default",
    show_default=True,
    help="When images are pulled. default: each time, and what is there will do where that fails.",
)
@click.option(
    "--cgroup-parent",
    default="synod",
    show_default=True,
    metavar="NAME",
    help="Control group above those that limit tasks; '' for no limits.",
)
@click.option("--log-size-mib", type=click.IntRange(1), default=10, show_default=True, metavar="MIB")
@click.option(
    "--log-files",
    type=click.IntRange(1, 100),
    default=2,
    show_default=True,
    help="Of a process's output so many files of --log-size-mib are kept.",
)
@click.option(
    "--introspection",
    default="127.0.0.1:51678",
    show_default=True,
    metavar="HOST:PORT",
    help="Where /v1/metadata and /v1/tasks are served; 'off' (or port 0) for several agents on one machine.",
)
@log_options[0]
@log_options[1]
def agent(
    endpoints: str,
    folder: Path,
    cluster_name: str,
    cpu: int,
    memory: int,
    resources: tuple[str, ...],
    reserved_ports: tuple[int, ...],
    attributes: tuple[str, ...],
    lease_ttl: float,
    runtime: str,
    docker_socket: Path,
    pull: str,
    cgroup_parent: str,
    log_size_mib: int,
    log_files: int,
    introspection: str,
    log_level: str,
    log_format: str,
) -> int:
    """Run an agent: it offers this machine's resources and runs the tasks placed on it.

    On SIGTERM it stops, and its tasks go on; started again on the same folder, it takes them back.
    """
    from agent.docker import Pull
    from agent.introspection import OFF
    from agent.main import AgentOptions, RuntimeKind, run

    if introspection != OFF:
        listen = introspection if ":" in introspection else f"127.0.0.1:{introspection}"
        introspection = OFF if listen.endswith(":0") else parse_endpoints(listen, "--introspection")[0]

    return run(
        AgentOptions(
            endpoints=parse_endpoints(endpoints),
            folder=folder,
            cluster=cluster_name,
            cpu=cpu,
            memory=memory,
            resources=numbers(resources, "--resource"),
            reserved_ports=tuple(sorted(set(reserved_ports))),
            attributes=pairs(attributes, "--attributes"),
            lease_ttl_s=lease_ttl,
            runtime=RuntimeKind(runtime),
            docker_socket=docker_socket,
            pull=Pull(pull),
            cgroup_parent=cgroup_parent,
            log_bytes_max=log_size_mib << 20,
            log_files_max=log_files,
            introspection=introspection,
            log_level=log_level,
            log_format=log_format,
        )
    )
