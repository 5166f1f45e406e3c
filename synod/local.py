"""A cluster on this machine: real node and agent processes under one folder.

``LocalCluster`` plans it (ports, folders, cluster id), starts, kills, pauses and stops its
processes, and says when it is ready. ``synod up`` and ``down`` use it, and so do the chaos
tests, the benchmark and the demo. It is synchronous: a caller under trio runs it in a thread.

What it knows is in ``DIR/cluster.json``, written whole and renamed into place under a lock, so
that any other process may load it, and so that a stale one (after a reboot, or a crash of
everything) confuses nobody: a process is believed to run only if the pid still is that process.

    DIR/cluster.json      the plan, and what runs
    DIR/node-1/           node 1's data
    DIR/agent-1/          agent 1's state, and its tasks' logs
    DIR/logs/node-1.log   what node 1 wrote to its standard output and error
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from synod.local_state import (
    ADD,
    DIRECT_PORT_ABOVE,
    HOST,
    AgentPlan,
    LocalClusterError,
    NoCluster,
    NodePlan,
    NotReady,
    PortInUse,
    State,
    StateFile,
    free_ports,
    next_joiner,
    port_is_free,
    require_free,
    start_words,
)
from synod.local_view import NodeView, ballot_of, view_of, what_is_missing
from synod.processes import Children, ProcessRef, last_lines, stop_all, wait_ended, wait_paused

if TYPE_CHECKING:
    from journal.node import NodeStatus

__all__ = ["LocalCluster", "LocalClusterError", "NoCluster", "NodeView", "NotReady", "PortInUse"]

NODES_MAX = 9
STOP_PATIENCE_S = 10.0
TASK_PATIENCE_S = 5.0
SCHEDULER = "scheduler-"
"""Before the number of a scheduler process."""
API = "api"
"""The name of the process that serves the ECS API."""
UP = "up"
"""The name under which a foreground ``synod up`` is recorded."""


class LocalCluster:
    """The cluster of one folder. Several processes may hold one for the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = StateFile(folder)
        self._children = Children()

    # -- making and finding it ----------------------------------------------------

    @classmethod
    def create(
        cls,
        folder: str | Path,
        nodes: int = 3,
        agents: int = 0,
        base_port: int | None = None,
        *,
        endpoints: Sequence[str] = (),
        node_args: Sequence[str] = (),
        agent_args: Sequence[str] = (),
        schedulers: int = 0,
        api_port: int = 0,
        scheduler_args: Sequence[str] = (),
        rejoin: str = "",
    ) -> Self:
        """Plan a new cluster; nothing is started. ``base_port`` None takes free ports; else node n
        listens on ``base_port + n``, or where ``endpoints`` says. ``node_args``, ``agent_args`` and
        ``scheduler_args`` are more arguments for each ``synod node``, ``agent`` and ``scheduler``;
        ``api_port``: where the ECS API is to be served, 0: nowhere. ``rejoin``: see ``set_rejoin``.

        Raises ``LocalClusterError`` where the folder holds a cluster already or cannot be made.
        """
        if not 1 <= nodes <= NODES_MAX:
            raise LocalClusterError(f"a cluster has 1 to {NODES_MAX} nodes, not {nodes} (3 or 5 are usual)")
        cluster = cls(Path(folder).absolute())
        ports = free_ports(nodes) if base_port is None else [base_port + n for n in range(1, nodes + 1)]
        if ports[-1] + DIRECT_PORT_ABOVE > 65_535 or ports[0] < 1:
            raise LocalClusterError(f"base port {base_port} leaves no valid ports for {nodes} nodes")
        state = State(
            cluster=f"synod-{secrets.token_hex(6)}",
            nodes=[
                NodePlan(n, endpoint)
                for n, endpoint in enumerate(endpoints or [f"{HOST}:{port}" for port in ports], 1)
            ],
            agents=[AgentPlan(n) for n in range(1, agents + 1)],
            node_args=list(node_args),
            agent_args=list(agent_args),
            schedulers=schedulers,
            api_port=api_port,
            scheduler_args=list(scheduler_args),
            rejoin=rejoin,
        )
        try:
            cluster._log_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LocalClusterError(f"cannot make the folder {cluster.folder}: {error.strerror}") from error
        with cluster._file.locked():
            if cluster._file.path.exists():
                raise LocalClusterError(
                    f"{cluster.folder} holds a cluster already; `synod up` starts it again"
                )
            cluster._file.write(state)
        return cluster

    @classmethod
    def load(cls, folder: str | Path) -> LocalCluster:
        """Return the cluster of a folder, running or not. Raises ``NoCluster``."""
        cluster = cls(Path(folder).absolute())
        cluster._file.read()
        return cluster

    @property
    def cluster_id(self) -> str:
        return self._file.read().cluster

    @property
    def nodes(self) -> list[int]:
        return [plan.node for plan in self._file.read().nodes]

    @property
    def agents(self) -> list[int]:
        return [plan.agent for plan in self._file.read().agents]

    @property
    def schedulers(self) -> list[int]:
        return list(range(1, self._file.read().schedulers + 1))

    @property
    def endpoints(self) -> list[str]:
        return [plan.endpoint for plan in self._file.read().nodes]

    def endpoint(self, node: int) -> str:
        return self._plan(self._file.read(), node).endpoint

    def direct_endpoint(self, node: int) -> str:
        """Return where a node's direct port is."""
        return self._plan(self._file.read(), node).direct

    @property
    def direct_endpoints(self) -> list[str]:
        return [plan.direct for plan in self._file.read().nodes]

    def node_folder(self, node: int) -> Path:
        return self.folder / f"node-{node}"

    def agent_folder(self, agent: int) -> Path:
        return self.folder / f"agent-{agent}"

    def log(self, name: str) -> Path:
        """Return the log file of a process, such as ``node-1``."""
        return self._log_folder / f"{name}.log"

    @property
    def unused(self) -> bool:
        """Whether none of its nodes ever made a folder, and nothing of it runs."""
        folders = (self.node_folder(node) for node in self.nodes)
        return not self.running() and not any(folder.exists() for folder in folders)

    def discard(self) -> None:
        """Forget a plan that was never used."""
        with self._file.locked():
            assert self.unused
            self._file.path.unlink(missing_ok=True)

    def running(self) -> dict[str, int]:
        """Return name to pid of each process that is alive, such as ``{"node-1": 4711}``."""
        return {name: ref.pid for name, ref in self._alive(self._file.read()).items() if name != UP}

    def pid(self, node: int) -> int | None:
        return self.running().get(f"node-{node}")

    def exit_code(self, name: str) -> int | None:
        """Return the exit code of a process that was started here and has ended."""
        ref = self._file.read().running.get(name)
        return self._children.exit_code(ref.pid) if ref else None

    # -- starting -----------------------------------------------------------------

    def start(self, *, agents: bool = True) -> list[str]:
        """Start every node, and every agent and scheduler, that does not run; return their names.

        ``agents`` False: nodes only.

        Raises ``PortInUse`` before anything is started.
        """
        with self._file.locked():
            state = self._file.read()
            alive = self._alive(state)
            nodes = [plan for plan in state.nodes if plan.name not in alive and plan.todo != ADD]
            idle_agents = [plan for plan in state.agents if agents and plan.name not in alive]
            for node in nodes:
                require_free(node)
            for node in nodes:
                self._spawn_node(state, node)
            for agent in idle_agents:
                self._spawn_agent(state, agent)
            started = [node.name for node in nodes] + [agent.name for agent in idle_agents]
        return started + (self.start_schedulers() if agents else [])

    def set_rejoin(self, way: str) -> None:
        """From their next start on, nodes whose data is lost come back by themselves: as a ``learner``, or a
        ``voter``. Not undone: the folder of one that did needs to be told so ever after."""
        with self._file.locked():
            state = self._file.read()
            state.rejoin = way
            self._file.write(state)

    def start_node(self, node: int) -> int:
        """Start one node and return its pid (that of the running one, if it runs)."""
        with self._file.locked():
            state = self._file.read()
            plan = self._plan(state, node)
            alive = self._alive(state).get(plan.name)
            if alive:
                return alive.pid
            require_free(plan)
            return self._spawn_node(state, plan).pid

    def start_agent(
        self,
        agent: int,
        cpu: int | None = None,
        memory: int | None = None,
        attributes: Mapping[str, str] | None = None,
        docker_socket: str | None = None,
    ) -> int:
        """Start one agent and return its pid; a new number joins the plan. Units: 1024 cpu is one core,
        memory in MiB. ``docker_socket``: of the engine that runs its containers. What is not given stays
        as planned."""
        with self._file.locked():
            state = self._file.read()
            plan = next((plan for plan in state.agents if plan.agent == agent), None)
            if plan is None:
                plan = AgentPlan(agent)
                state.agents.append(plan)
                state.agents.sort(key=lambda each: each.agent)
            alive = self._alive(state).get(plan.name)
            if alive:
                return alive.pid
            plan.cpu = cpu if cpu is not None else plan.cpu
            plan.memory = memory if memory is not None else plan.memory
            plan.attributes = dict(attributes) if attributes is not None else plan.attributes
            plan.docker_socket = docker_socket if docker_socket is not None else plan.docker_socket
            return self._spawn_agent(state, plan).pid

    def start_schedulers(self, count: int | None = None) -> list[str]:
        """Start the schedulers that do not run, ``count`` in all (None: as planned); return their names."""
        with self._file.locked():
            state = self._file.read()
            state.schedulers = state.schedulers if count is None else count
            self._file.write(state)
            alive = self._alive(state)
            names = [f"{SCHEDULER}{number}" for number in range(1, state.schedulers + 1)]
            idle = [name for name in names if name not in alive]
            for name in idle:
                self._spawn_scheduler(state, name)
            return idle

    # -- the API --------------------------------------------------------------------

    @property
    def api_endpoint(self) -> str | None:
        """Return where the ECS API is, or is to be, served: ``127.0.0.1:8400``; None: nowhere."""
        port = self._file.read().api_port
        return f"{HOST}:{port}" if port else None

    def start_api(self, port: int | None = None) -> str:
        """Start the API process, unless it runs, on ``port`` (None: as planned), and return its endpoint.
        It answers soon after.

        Raises ``PortInUse``, or ``LocalClusterError`` where it runs on another port.
        """
        with self._file.locked():
            state = self._file.read()
            alive = API in self._alive(state)
            if alive and port not in (None, state.api_port):
                raise LocalClusterError(f"the API runs already, on port {state.api_port}")
            state.api_port = port or state.api_port
            if not state.api_port:
                raise LocalClusterError("the API needs a port")
            if not alive:
                if not port_is_free(state.api_port):
                    raise PortInUse(
                        f"the API cannot listen on {HOST}:{state.api_port}: another process has that port. "
                        "Stop that one, or choose another with --api-port"
                    )
                self._spawn_api(state)
            return f"{HOST}:{state.api_port}"

    def drop_api(self) -> None:
        """Stop the API process, and serve none from now on."""
        self.stop(only={API}, tasks=False)
        with self._file.locked():
            state = self._file.read()
            state.api_port = 0
            self._file.write(state)

    # -- growing and shrinking ------------------------------------------------------

    def grow(
        self, nodes: int, timeout_s: float = 60.0, *, on_wait: Callable[[str], None] | None = None
    ) -> list[int]:
        """Let the running cluster have ``nodes`` nodes that vote; return the numbers of the new ones.

        Each is added, started, and promoted when it has caught up, one after the other. What an
        interrupted call left undone is done first. Raises ``LocalClusterError``, and what
        ``Journal.change_members`` raises.
        """
        from synod.local_growth import grow

        return grow(self, nodes, timeout_s, on_wait or (lambda _text: None))

    def plans(self) -> list[NodePlan]:
        return self._file.read().nodes

    def plan_joiner(self) -> NodePlan:
        """Plan a node that is to be added to the cluster, under a number that no node had."""
        with self._file.locked():
            state = self._file.read()
            if len(state.nodes) >= NODES_MAX:
                raise LocalClusterError(f"a cluster here has up to {NODES_MAX} nodes")
            plan = next_joiner(state)
            state.nodes.append(plan)
            state.last_node = plan.node
            self._file.write(state)
            return plan

    def add_joiner(self, node: int, endpoint: str) -> None:
        """Take a node that was added to the cluster into the plan. Nothing where it is in it."""
        with self._file.locked():
            state = self._file.read()
            if all(plan.node != node for plan in state.nodes):
                state.nodes.append(NodePlan(node, endpoint, joins=True))
                state.last_node = max(state.last_node, node)
                self._file.write(state)

    def set_todo(self, node: int, todo: str) -> None:
        with self._file.locked():
            state = self._file.read()
            self._plan(state, node).todo = todo
            self._file.write(state)

    def forget_node(self, node: int) -> None:
        """Stop a node that was removed from the cluster, and drop it from the plan. Its folder stays."""
        self.stop(only={f"node-{node}"}, tasks=False)
        with self._file.locked():
            state = self._file.read()
            state.last_node = max([state.last_node, *(plan.node for plan in state.nodes)])
            state.nodes = [plan for plan in state.nodes if plan.node != node]
            self._file.write(state)

    # -- doing harm -----------------------------------------------------------------

    def kill_node(self, node: int, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a node; with one that ends it, wait until it has ended."""
        self._kill(f"node-{node}", sig)

    def kill_agent(self, agent: int, sig: signal.Signals = signal.SIGKILL) -> None:
        """As ``kill_node``. Its tasks go on running: they outlive their agent."""
        self._kill(f"agent-{agent}", sig)

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """As ``kill_node``, for any process by its name, such as ``scheduler-1``."""
        self._kill(name, sig)

    def kill_all(self) -> None:
        """SIGKILL everything at once, as a loss of power would; the plan stays."""
        with self._file.locked():
            state = self._file.read()
            stop_all(list(self._alive(state).values()), self._children, patience_s=0, force=True)
            state.running.clear()
            self._file.write(state)

    def pause_node(self, node: int) -> None:
        """Stop a node with SIGSTOP; returns when it stands still."""
        self._kill(f"node-{node}", signal.SIGSTOP)

    def resume_node(self, node: int) -> None:
        self._kill(f"node-{node}", signal.SIGCONT)

    # -- stopping ---------------------------------------------------------------------

    def stop(
        self, patience_s: float = STOP_PATIENCE_S, *, only: Collection[str] | None = None, tasks: bool = True
    ) -> list[str]:
        """Stop agents, their tasks, then nodes: SIGTERM, and SIGKILL for who has not ended in time.

        Returns the names of those that had to be killed. Nothing running is fine. The plan and the
        data stay: ``start`` brings the same cluster back. ``only`` names the processes to stop;
        ``tasks=False`` leaves tasks running, and the next agent on the folder takes them back.
        """
        killed: list[str] = []
        with self._file.locked():
            state = self._file.read()
            alive = self._alive(state)
            wanted = {name: ref for name, ref in alive.items() if only is None or name in only}
            killed += self._stop_kind(API, wanted, patience_s)
            killed += self._stop_kind(SCHEDULER, wanted, patience_s)
            killed += self._stop_kind("agent-", wanted, patience_s)
            if tasks:
                self._stop_tasks([plan.name for plan in state.agents if only is None or plan.name in only])
            killed += self._stop_kind("node-", wanted, patience_s)
            state.running = {name: ref for name, ref in state.running.items() if ref.alive}
            self._file.write(state)
        return killed

    def _stop_kind(self, prefix: str, processes: Mapping[str, ProcessRef], patience_s: float) -> list[str]:
        names = {ref: name for name, ref in processes.items() if name.startswith(prefix)}
        return [names[ref] for ref in stop_all(list(names), self._children, patience_s=patience_s)]

    def tasks_of(self, agent: int) -> list[ProcessRef]:
        """Return the supervisors of the tasks that run under one agent's folder."""
        return self._supervisors([f"agent-{agent}"])

    def instance_of(self, agent: int) -> str | None:
        """Return the container instance of an agent; None if it has not made its folder yet."""
        return self._instance(agent)

    def tasks(self) -> list[ProcessRef]:
        """Return the supervisors of all tasks that run under this folder, whoever started them."""
        return self._supervisors([plan.name for plan in self._file.read().agents])

    def _supervisors(self, agents: Sequence[str]) -> list[ProcessRef]:
        found = []
        for agent in agents:
            for file in sorted((self.folder / agent).glob("tasks/*/**/supervisor.json")):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    facts = json.loads(file.read_text())
                    found.append(ProcessRef(int(facts["pid"]), f"{facts['bootId']}:{facts['startTime']}"))
        return [ref for ref in found if ref.alive]

    def _stop_tasks(self, agents: Sequence[str]) -> None:
        """A supervisor passes SIGTERM on, and kills its task at SIGUSR1; killed itself, it could not."""
        for sig, patience_s in ((signal.SIGTERM, TASK_PATIENCE_S), (signal.SIGUSR1, STOP_PATIENCE_S)):
            left = self._supervisors(agents)
            for ref in left:
                ref.signal(sig)
            wait_ended(left, self._children, patience_s)
        engines = [(plan, self._instance(plan.agent)) for plan in self._file.read().agents]
        for plan, instance in engines:
            if plan.docker_socket and instance and plan.name in agents:
                from agent.docker import stop_all

                stop_all(Path(plan.docker_socket), instance, TASK_PATIENCE_S)

    # -- looking ------------------------------------------------------------------------

    def status(self, timeout_s: float = 2.0) -> list[NodeView]:
        """Return every node, in order. One that does not answer within ``timeout_s`` is shown so."""
        state = self._file.read()
        alive = self._alive(state)
        paused = {name for name, ref in alive.items() if ref.paused}
        askable = [plan.endpoint for plan in state.nodes if plan.name in alive and plan.name not in paused]
        answers: dict[str, NodeStatus | str] = {}
        if askable:
            from synod.probe import statuses

            answers = statuses(askable, state.cluster, timeout_s)
        return [
            view_of(plan, alive.get(plan.name), plan.name in paused, answers.get(plan.endpoint))
            for plan in state.nodes
        ]

    def leader(self, timeout_s: float = 2.0) -> int | None:
        """Return the node that leads by the highest ballot, if any says that it does."""
        leaders = [view for view in self.status(timeout_s) if view.role == "leader" and view.said]
        return max(leaders, key=ballot_of).node if leaders else None

    def wait_ready(self, timeout_s: float = 30.0, *, on_wait: Callable[[str], None] | None = None) -> None:
        """Wait until every node that runs agrees on a leader and none lags behind it.

        ``on_wait`` is told now and then what is waited for. Raises ``NotReady``; at once, where a
        process that was started here has ended by itself.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = 0.05
        while True:
            self.raise_for_ended()
            views = self.status(timeout_s=min(1.0, timeout_s))
            waiting = what_is_missing(views)
            if not waiting:
                self.mark_created([view.node for view in views if view.said])
                return
            if time.monotonic() >= deadline:
                raise NotReady(self._explain(f"not ready after {timeout_s:.0f} s: {waiting}"))
            if on_wait:
                on_wait(waiting)
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)

    def wait_agents(self, timeout_s: float = 30.0) -> None:
        """Wait until every agent that runs is connected: tasks can be placed on it then.

        Raises ``NotReady``; at once, where one that was started here has ended by itself.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = 0.05
        while True:
            self.raise_for_ended()
            running = self.running()
            wanted = {n: self._instance(n) for n in self.agents if f"agent-{n}" in running}
            missing = sorted(wanted)
            if wanted:
                connected = self._connected(max(0.1, min(2.0, deadline - time.monotonic())))
                missing = sorted(n for n, instance in wanted.items() if instance not in connected)
            if not missing:
                return
            if time.monotonic() >= deadline:
                names = [f"agent-{n}" for n in missing]
                raise NotReady(
                    self._explain(f"not connected after {timeout_s:.0f} s: {', '.join(names)}", *names)
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)

    # -- the foreground `synod up` ----------------------------------------------------

    def adopt_supervisor(self) -> None:
        """Record this process as the one that holds the cluster in the foreground.

        Raises ``LocalClusterError`` where another one does.
        """
        with self._file.locked():
            state = self._file.read()
            other = state.running.get(UP)
            if other and other.alive and other.pid != os.getpid():
                raise LocalClusterError(
                    f"`synod up` runs already for {self.folder} (pid {other.pid}): "
                    "see `synod status`, stop it with `synod down`, let it grow with --nodes and --detach"
                )
            ref = ProcessRef.of(os.getpid())
            assert ref is not None
            state.running[UP] = ref
            self._file.write(state)

    def release_supervisor(self) -> None:
        with self._file.locked():
            state = self._file.read()
            state.running.pop(UP, None)
            self._file.write(state)

    # -- inside ---------------------------------------------------------------------------

    @property
    def _log_folder(self) -> Path:
        return self.folder / "logs"

    def _alive(self, state: State) -> dict[str, ProcessRef]:
        for ref in state.running.values():
            self._children.exit_code(ref.pid)
        return {name: ref for name, ref in state.running.items() if ref.alive}

    def _plan(self, state: State, node: int) -> NodePlan:
        for plan in state.nodes:
            if plan.node == node:
                return plan
        known = ", ".join(str(plan.node) for plan in state.nodes)
        raise LocalClusterError(f"there is no node {node}: this cluster has {known}")

    def _spawn_node(self, state: State, plan: NodePlan) -> ProcessRef:
        command = ["node", "--node", str(plan.node), "--dir", str(self.node_folder(plan.node))]
        command += ["--listen", plan.endpoint, "--cluster", state.cluster]
        command += ["--http-listen", plan.http, "--direct-listen", plan.direct]
        command += state.node_args
        command += start_words(state, plan)
        return self._spawn(state, plan.name, command)

    def _spawn_agent(self, state: State, plan: AgentPlan) -> ProcessRef:
        endpoints = ",".join(node.endpoint for node in state.nodes)
        command = ["agent", "--endpoints", endpoints, "--dir", str(self.agent_folder(plan.agent))]
        command += ["--introspection", "off"]  # there are many of them on this machine
        command += ["--cpu", str(plan.cpu), "--memory", str(plan.memory)]
        if plan.docker_socket:
            command += ["--runtime", "docker", "--docker-socket", plan.docker_socket]
        for name, value in sorted(plan.attributes.items()):
            command += ["--attributes", f"{name}={value}"]
        command += state.agent_args
        return self._spawn(state, plan.name, command)

    def _spawn_scheduler(self, state: State, name: str) -> ProcessRef:
        endpoints = ",".join(node.endpoint for node in state.nodes)
        command = ["scheduler", "--endpoints", endpoints, "--cluster", state.cluster]
        return self._spawn(state, name, [*command, *state.scheduler_args])

    def _spawn_api(self, state: State) -> ProcessRef:
        endpoints = ",".join(node.endpoint for node in state.nodes)
        command = ["api", "--endpoints", endpoints, "--cluster", state.cluster]
        command += ["--listen", f"{HOST}:{state.api_port}"]
        return self._spawn(state, API, command)

    def _spawn(self, state: State, name: str, command: Sequence[str]) -> ProcessRef:
        # The child runs this very source tree, wherever it is started from.
        source = str(Path(__file__).resolve().parent.parent)
        inherited = os.environ.get("PYTHONPATH")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SYNOD_")}
        environment["PYTHONPATH"] = f"{source}{os.pathsep}{inherited}" if inherited else source
        ref = self._children.spawn(self._command(name, command), self.log(name), environment)
        state.running[name] = ref
        self._file.write(state)
        return ref

    def _command(self, _name: str, command: Sequence[str]) -> list[str]:
        """Return how ``synod COMMAND`` is run on this machine."""
        return [sys.executable, "-P", "-m", "synod", *command]

    def _kill(self, name: str, sig: signal.Signals) -> None:
        with self._file.locked():
            state = self._file.read()
            ref = self._alive(state).get(name)
            if ref is None or not ref.signal(sig):
                raise LocalClusterError(f"{name} does not run")
            if sig == signal.SIGSTOP:
                wait_paused(ref, STOP_PATIENCE_S)
            if sig in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
                if wait_ended([ref], self._children, STOP_PATIENCE_S):
                    raise LocalClusterError(f"{name} (pid {ref.pid}) did not end after {sig.name}")
                state.running.pop(name, None)
                self._file.write(state)

    def _instance(self, agent: int) -> str | None:
        """Return the container instance of an agent; None if it has not made its folder yet."""
        try:
            facts = json.loads((self.agent_folder(agent) / "agent.json").read_text())
        except (OSError, ValueError):
            return None
        return str(facts.get("containerInstance"))

    def _connected(self, timeout_s: float) -> set[str]:
        from journal.errors import JournalError
        from synod.probe import alive_instances

        state = self._file.read()
        try:
            return alive_instances([plan.endpoint for plan in state.nodes], state.cluster, timeout_s)
        except JournalError:
            return set()

    def mark_created(self, nodes: Sequence[int]) -> None:
        """Note that these nodes have been ready: from now on an empty folder means lost promises."""
        with self._file.locked():
            state = self._file.read()
            new = [plan for plan in state.nodes if plan.node in nodes and not plan.created]
            for plan in new:
                plan.created = True
            if new:
                self._file.write(state)

    def raise_for_ended(self) -> None:
        """Raise ``NotReady`` where a process that was started here has ended by itself."""
        for name, ref in self._file.read().running.items():
            code = self._children.exit_code(ref.pid)
            if code is not None:
                raise NotReady(self._explain(f"{name} ended by itself with exit code {code}", name))

    def _explain(self, what: str, *names: str) -> str:
        """Return ``what`` with the last lines of the logs that may say why."""
        lines = [what]
        for name in names or [f"node-{node}" for node in self.nodes]:
            log = self.log(name)
            lines += [f"  {log}:", *(f"    {line[:300]}" for line in last_lines(log))]
        return "\n".join(lines)
