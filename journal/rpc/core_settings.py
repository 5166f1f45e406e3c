"""What gRPC's core reads from the environment when it starts: set before ``grpc`` is first imported.

A program that imports ``grpc`` before this package keeps the core's own ways, and so does one whose
environment names them already: both are slower only.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from importlib.metadata import version

VERBOSITY = "GRPC_VERBOSITY"
EXPERIMENTS = "GRPC_EXPERIMENTS"

POLLERS_OWN_IO = "-event_engine_client,-event_engine_listener"
"""Sockets are read and written by the thread that polls them, as in gRPC up to 1.7x. The event engine hands
each readable socket to a pool of threads: a lone message over a stream and back took 0.31 ms with it and
0.15 ms without, and twice the processor time (grpcio 1.85.1, docs/performance.md)."""

KNOWN_FROM, KNOWN_BELOW = (1, 80), (1, 86)
"""Releases in which those names were tried. The core complains of names that it does not know."""


def apply(environ: MutableMapping[str, str] = os.environ, release: str = "") -> None:
    """Set what is not set. ``release``: of grpcio, as in ``1.85.1``; empty: of the installed one."""
    # The core writes its own lines to standard error (refused connections, random bytes at the
    # port): expected faults, which this project logs in its own form.
    environ.setdefault(VERBOSITY, "NONE")
    numbers = (release or version("grpcio")).split(".")[:2]
    if not all(number.isdigit() for number in numbers):
        return
    if KNOWN_FROM <= tuple(int(number) for number in numbers) < KNOWN_BELOW:
        environ.setdefault(EXPERIMENTS, POLLERS_OWN_IO)
