"""What ``DIR/cluster.json`` holds: the plan of a local cluster, and which processes run it.

It is written whole and renamed into place, under a lock, so any process may read it at any
time; and it is only believed as far as it can be checked (``ProcessRef``), so a stale one, after a
crash of everything or a reboot, misleads nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import random
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from synod.processes import ProcessRef

FORMAT = 1
HTTP_PORT_ABOVE = 100
"""A node serves its metrics so far above the port of its endpoint."""
DIRECT_PORT_ABOVE = 200
"""The same for its direct port."""
HOST = "127.0.0.1"

# Below the range from which the kernel takes ports for outgoing connections (32768 and up on
# Linux): there a port could be taken by a client while its node is down.
_FREE_PORTS = range(15_000, 32_000)


class LocalClusterError(Exception):
    """Something about the local cluster that a person can mend; the text says how."""


class NoCluster(LocalClusterError):
    """There is no cluster in the folder."""


class PortInUse(LocalClusterError):
    """Another process listens where a node should."""


class NotReady(LocalClusterError):
    """The cluster did not become ready in time; the text says what each node was up to."""


ADD = "add"
"""It is planned, but the cluster may not know of it yet: it is not started."""
PROMOTE = "promote"
"""It is a learner that is to vote when it has caught up."""


@dataclass(slots=True)
class NodePlan:
    node: int
    endpoint: str
    created: bool = False
    """It was ready once: from then on an empty folder means that its promises are lost."""
    joins: bool = False
    """It is not of the first members: it was, or is to be, added to the cluster while that runs."""
    todo: str = ""
    """What is left to do until it votes: ``ADD``, ``PROMOTE``, or nothing."""

    @property
    def name(self) -> str:
        return f"node-{self.node}"

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    @property
    def http(self) -> str:
        """Where it serves ``/metrics``, ``/livez`` and ``/readyz``."""
        return self._above(HTTP_PORT_ABOVE)

    @property
    def direct(self) -> str:
        """Where its direct port is."""
        return self._above(DIRECT_PORT_ABOVE)

    @property
    def listens(self) -> dict[int, str]:
        """Every port that it needs, and what that is for."""
        return {
            self.port: self.endpoint,
            self.port + HTTP_PORT_ABOVE: f"{self.http} for its metrics",
            self.port + DIRECT_PORT_ABOVE: f"{self.direct} for the direct port",
        }

    def _above(self, ports: int) -> str:
        return f"{self.endpoint.rpartition(':')[0]}:{self.port + ports}"


@dataclass(slots=True)
class AgentPlan:
    agent: int
    cpu: int = 4096
    memory: int = 8192
    attributes: dict[str, str] = field(default_factory=dict)
    docker_socket: str = ""
    """The engine that runs its containers; "": they are processes."""

    @property
    def name(self) -> str:
        return f"agent-{self.agent}"


@dataclass(slots=True)
class State:
    """What cluster.json holds."""

    cluster: str
    nodes: list[NodePlan]
    agents: list[AgentPlan]
    node_args: list[str]
    agent_args: list[str]
    running: dict[str, ProcessRef] = field(default_factory=dict)
    schedulers: int = 0
    """How many scheduler processes there are to be."""
    scheduler_args: list[str] = field(default_factory=list)
    api_port: int = 0
    """Where the ECS API is served on this machine; 0: nowhere."""
    last_node: int = 0
    """The highest number that a node ever had: the numbers of removed ones are not given again."""
    rejoin: str = ""
    """As what a node comes back by itself whose data is lost (``journal.rejoin.WAYS``); "": not at all."""

    def dump(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str) -> State:
        data = json.loads(text)
        if data.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        return cls(
            cluster=data["cluster"],
            nodes=[NodePlan(**plan) for plan in data["nodes"]],
            agents=[AgentPlan(**plan) for plan in data["agents"]],
            node_args=data["node_args"],
            agent_args=data["agent_args"],
            running={name: ProcessRef(**ref) for name, ref in data["running"].items()},
            last_node=data.get("last_node", 0),
            schedulers=data.get("schedulers", 0),
            scheduler_args=data.get("scheduler_args", []),
            api_port=data.get("api_port", 0),
            rejoin=data.get("rejoin", ""),
        )


class StateFile:
    """Reads and writes the state of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "cluster.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock: one at a time changes what runs. Raises ``NoCluster``."""
        if not self.folder.is_dir():
            raise NoCluster(f"there is no cluster in {self.folder}")
        with (self.folder / "cluster.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self) -> State:
        """Return the state. Raises ``NoCluster``, or ``LocalClusterError`` if it cannot be understood."""
        try:
            return State.parse(self.path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise NoCluster(f"there is no cluster in {self.folder}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LocalClusterError(
                f"{self.path} cannot be understood ({error!r}): it was not written by this version of synod"
            ) from error

    def write(self, state: State) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(state.dump())
        temporary.replace(self.path)


def port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def next_joiner(state: State) -> NodePlan:
    """Return a node that is to be added: under a number that none ever had, and next to the others."""
    number = max([state.last_node, *(plan.node for plan in state.nodes)]) + 1
    first = min(state.nodes, key=lambda plan: plan.node)
    host = first.endpoint.rpartition(":")[0]
    plan = NodePlan(number, f"{host}:{first.port - first.node + number}", joins=True, todo=ADD)
    try:
        require_free(plan)
    except (PortInUse, OverflowError):
        plan.endpoint = f"{host}:{free_ports(1)[0]}"
    return plan


def start_words(state: State, plan: NodePlan) -> list[str]:
    """Return what ``synod node`` is told of the cluster: at a node's first start whom it belongs to; later
    its folder knows that, and it is only told how to come back without one, if it is to."""
    if not plan.created:
        members, way = first_peers(state, plan), ["--join" if plan.joins else "--create"]
    else:
        members, way = [other for other in state.nodes if other.todo != ADD], ["--rejoin", state.rejoin]
        if not state.rejoin or members == [plan]:  # alone, it has nobody who would let it in again
            return []
    return ["--members", ",".join(f"{other.node}={other.endpoint}" for other in members), *way]


def first_peers(state: State, plan: NodePlan) -> list[NodePlan]:
    """Return whom a node is told of at its first start: the first members, or those that it joins."""
    if plan.joins:
        return [other for other in state.nodes if other is not plan and other.todo != ADD]
    return [other for other in state.nodes if not other.joins]


def require_free(plan: NodePlan) -> None:
    for port, what in plan.listens.items():
        if not port_is_free(port):
            raise PortInUse(
                f"node {plan.node} cannot listen on {what}: another process has port {port}. "
                "Stop that one, or choose other ports for a new cluster with --base-port and --dir"
            )


def free_ports(count: int) -> list[int]:
    """Return ``count`` neighbouring ports on which nobody listens now, nor on nodes' other ports above."""
    rng = random.SystemRandom()
    for _ in range(200):
        first = rng.choice(_FREE_PORTS[:-count])
        ports = list(range(first, first + count))
        above = (0, HTTP_PORT_ABOVE, DIRECT_PORT_ABOVE)
        if all(port_is_free(port + more) for port in ports for more in above):
            return ports
    raise LocalClusterError("no free ports found on this machine; choose some with --base-port")
