"""A network in which every node has an address of its own and can be cut off from any other.

The whole run lives in namespaces that nobody else sees: ``enclosed`` starts it under ``unshare``
with its own network, mounts and processes. Inside, each node gets a network namespace on a bridge;
the run and its clients sit on the bridge itself. So there is nothing to clean up, whatever happens:
when the first process of the enclosure ends, or its parent is killed, the kernel ends all the others,
and with them go the namespaces, the bridge, the rules and the mounts. No name of it was ever
visible outside, so two runs cannot collide, and no packet can leave.

Cuts are rules of iptables in the namespace of who would receive: so a link can be cut one way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CLIENTS = 0
"""The place of everything that is no node, as a number among the nodes' own."""
PORT = 7400
"""Each node listens on this port of its own address."""
COMMANDS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "iptables": "iptables"}
SUBNET = "10.77.0"
COMMAND_TIMEOUT_S = 10.0
PROBE = "mount -t tmpfs none /run && ip link add name probe type bridge && iptables -w -A INPUT -j ACCEPT"


class ChaosImpossible(Exception):
    """This machine cannot run it; the text says what is needed."""


def enclosed(command: Sequence[str]) -> list[str]:
    """Return ``command`` as it runs enclosed: as root, or as anybody where the kernel lets people
    make namespaces. The enclosure ends with the process that started it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    spaces = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["unshare", *user, *spaces, "--", *command]


def require() -> None:
    """Raise ``ChaosImpossible`` where the enclosure cannot be made here, and say why."""
    if not sys.platform.startswith("linux"):
        raise ChaosImpossible("chaos needs Linux: it puts nodes into network namespaces")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    os.environ["PATH"] = path
    missing = sorted({package for name, package in COMMANDS.items() if shutil.which(name) is None})
    if missing:
        names = " ".join(missing)
        raise ChaosImpossible(f"chaos needs {names}; on Debian, as root: apt-get install {names}")
    done = subprocess.run(
        enclosed(["sh", "-c", PROBE]), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise ChaosImpossible(
            "chaos cannot make its namespaces here: run it as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN "
            "(docker run --privileged), or where the kernel allows user namespaces.\n"
            f"  tried: unshare, a bridge, an iptables rule; it said: {done.stderr.strip()[-500:]}"
        )


def address(node: int) -> str:
    """Return a node's address; that of ``CLIENTS`` is the bridge's."""
    return f"{SUBNET}.{node or 254}"


def endpoint(node: int) -> str:
    return f"{address(node)}:{PORT}"


def inside(node: int) -> list[str]:
    """Return what a command is prefixed with to run in the place of ``node``; its pid stays its own."""
    return ["nsenter", f"--net=/run/netns/{_name(node)}", "--"]


Cuts = Mapping[tuple[int, int], float]
"""(from, to) to the part of packets that is lost on that way: 1.0 is all of them."""


class Network:
    """The bridge and the nodes' places on it; only inside an enclosure."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.nodes = sorted(nodes)
        self._cuts: dict[tuple[int, int], float] = {}

    def make(self) -> None:
        _run("mount", "-t", "tmpfs", "none", "/run")  # this mount namespace is ours alone
        Path("/run/netns").mkdir()
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "link", "add", "name", "synod", "type", "bridge")
        _run("ip", "addr", "add", f"{address(CLIENTS)}/24", "dev", "synod")
        _run("ip", "link", "set", "synod", "up")
        for node in self.nodes:
            self._place(node)

    def join(self, node: int) -> None:
        """Make a place for one more node."""
        if node not in self.nodes:
            self._place(node)
            self.nodes.append(node)

    def _place(self, node: int) -> None:
        name, port = _name(node), f"to-n{node}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", port, "master", "synod", "up")
        _run("ip", "-n", name, "addr", "add", f"{address(node)}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")

    def cut(self, cuts: Cuts) -> None:
        """Make exactly these cuts, and no others."""
        wanted = {way: part for way, part in cuts.items() if part > 0}
        for place in [CLIENTS, *self.nodes]:
            before = {source: part for (source, to), part in self._cuts.items() if to == place}
            after = {source: part for (source, to), part in wanted.items() if to == place}
            if before != after:
                self._set_rules(place, after)
        self._cuts = wanted

    def heal(self) -> None:
        self.cut({})

    def _set_rules(self, place: int, sources: Mapping[int, float]) -> None:
        """Replace the rules of one place in one step: what has no ``--noflush`` replaces a whole table."""
        lines = ["*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]"]
        for source, part in sorted(sources.items()):
            some = f"-m statistic --mode random --probability {part:.4f} " if part < 1 else ""
            lines.append(f"-A INPUT -s {address(source)}/32 {some}-j DROP")
        lines.append("COMMIT")
        prefix = inside(place) if place != CLIENTS else []
        _run(*prefix, "iptables-restore", "-w", stdin="\n".join(lines) + "\n")


def _name(node: int) -> str:
    return f"n{node}"


def _run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise ChaosImpossible(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}")
