"""``h2load`` as a gRPC client: one unary method, one fixed request, so many calls in flight.

It is written in C and takes little of the machine, so what it measures is the server.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import trio

CONNECTIONS_MAX = 8
WARM_UP_S = 1


class LoadFailed(RuntimeError):
    """h2load did not run, or calls failed."""


@dataclass(frozen=True, slots=True)
class Load:
    per_s: float
    latencies_ms: list[float] = field(repr=False)


def missing() -> str:
    """Return what is to be installed, empty where it is there."""
    return "" if shutil.which("h2load") else "h2load (Debian: nghttp2-client)"


def frame(message: bytes) -> bytes:
    """Return a message as gRPC frames it: not compressed, its length in four bytes."""
    return b"\0" + len(message).to_bytes(4, "big") + message


async def run(endpoint: str, method: str, message: bytes, *, inflight: int, seconds: float) -> Load:
    """Call ``method`` (``/package.Service/Method``) again and again. Raises ``LoadFailed``."""
    connections = min(CONNECTIONS_MAX, inflight)
    with tempfile.TemporaryDirectory(prefix="synod-h2load-") as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(frame(message))
        command = [
            "h2load",
            "--threads=1",
            f"--clients={connections}",
            f"--max-concurrent-streams={-(-inflight // connections)}",
            f"--duration={max(1, round(seconds))}",
            f"--warm-up-time={WARM_UP_S}",
            f"--data={body}",
            f"--log-file={log}",
            "--header=content-type: application/grpc",
            "--header=te: trailers",
            f"http://{endpoint}{method}",
        ]
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
        said = done.stdout.decode(errors="replace")
        rate = re.search(r"finished in [\d.]+\w+, ([\d.]+) req/s", said)
        counts = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
        if done.returncode or rate is None or counts is None or any(int(count) for count in counts.groups()):
            raise LoadFailed(f"h2load {method} at {endpoint}: {said.strip()[-400:]}")
        latencies = [int(line.split("\t")[2]) / 1000 for line in log.read_text().splitlines()]
    return Load(float(rate[1]), latencies)
