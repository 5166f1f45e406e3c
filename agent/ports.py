"""Ports of this machine: which are held by somebody, and free ones to give away."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from agent.admission import Port
from cluster.records import Protocol

PICK_TRIES = 20


def busy_ports(ports: Iterable[Port]) -> frozenset[Port]:
    """Return those of ``ports`` that cannot be bound at present, on IPv4 or IPv6."""
    return frozenset(port for port in ports if not is_free(port))


def is_free(port: Port) -> bool:
    """Say whether a program could bind a port on all addresses now."""
    protocol, number = port
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with _socket(family, protocol) as probe:
                probe.bind((address, number))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def pick_port(protocol: Protocol, taken: Iterable[int] = ()) -> int:
    """Return a port that nobody holds at present, other than ``taken``. Raises ``OSError``."""
    avoided = set(taken)
    for _ in range(PICK_TRIES):
        with _socket(socket.AF_INET, protocol) as probe:
            probe.bind(("0.0.0.0", 0))
            number = int(probe.getsockname()[1])
        if number not in avoided and is_free((protocol, number)):
            return number
    raise OSError(errno.EADDRINUSE, f"no free {protocol} port was found in {PICK_TRIES} tries")


def _socket(family: socket.AddressFamily, protocol: Protocol) -> socket.socket:
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    made = socket.socket(family, kind)
    if protocol is Protocol.TCP:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what lingers of a closed one is no owner
    if family is socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
