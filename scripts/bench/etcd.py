"""Three etcd nodes on loopback, as Debian packages them: what a user would pick instead."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from synod.local_state import free_ports


def missing() -> str:
    """Return what is to be installed, empty where it is there."""
    names = [name for name in ("etcd", "etcdctl") if not shutil.which(name)]
    return f"{' and '.join(names)} (Debian: etcd-server etcd-client)" if names else ""


def put(key: bytes, value: bytes) -> bytes:
    """Return an ``etcdserverpb.PutRequest``."""
    return _field(1, key) + _field(2, value)


def range_of(key: bytes, *, end: bytes = b"", serializable: bool = False) -> bytes:
    """Return an ``etcdserverpb.RangeRequest``."""
    return _field(1, key) + (_field(2, end) if end else b"") + (bytes([7 << 3, 1]) if serializable else b"")


def txn(puts: Sequence[bytes]) -> bytes:
    """Return an ``etcdserverpb.TxnRequest`` of these ``put``s, without a condition."""
    return b"".join([_field(2, _field(2, put)) for put in puts])


def watch(prefix: bytes) -> bytes:
    """Return an ``etcdserverpb.WatchRequest`` for all keys that begin with ``prefix``, from now on."""
    end = prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else b"\0"
    return _field(1, _field(1, prefix or b"\0") + _field(2, end))


PUT = "/etcdserverpb.KV/Put"
RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
WATCH = "/etcdserverpb.Watch/Watch"


def _field(number: int, data: bytes) -> bytes:
    length, size = len(data), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


class Etcd:
    """Three nodes in ``folder``. Start it, use ``leader()``, stop it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ports = free_ports(6)
        self._clients = [f"127.0.0.1:{port}" for port in ports[:3]]
        self._peers = [f"127.0.0.1:{port}" for port in ports[3:]]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def endpoints(self) -> list[str]:
        return self._clients

    @property
    def pids(self) -> dict[str, int]:
        return {f"etcd-{n}": process.pid for n, process in self._processes.items()}

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            self.start_node(number)
        self.wait_ready()

    def start_node(self, number: int) -> None:
        cluster = ",".join(f"n{n}=http://{peer}" for n, peer in enumerate(self._peers))
        client, peer = f"http://{self._clients[number]}", f"http://{self._peers[number]}"
        with (self._folder / f"{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [
                    "etcd",
                    f"--name=n{number}",
                    f"--data-dir={self._folder / str(number)}",
                    f"--listen-client-urls={client}",
                    f"--advertise-client-urls={client}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={cluster}",
                    "--initial-cluster-state=new",
                    "--log-level=error",
                ],
                stdout=log,
                stderr=log,
            )

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            statuses = self._statuses()
            if len(statuses) == len(self._processes) and all(s["Status"].get("leader") for s in statuses):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"etcd is not ready after {timeout_s:.0f} s; its logs: {self._folder}")
            time.sleep(0.1)

    def leader(self) -> int:
        """Return the number of the node that leads."""
        for found in self._statuses():
            status = found["Status"]
            if status["leader"] == status["header"]["member_id"]:
                return self._clients.index(found["Endpoint"])
        raise RuntimeError("etcd has no leader")

    def wait_readable(self, number: int, timeout_s: float) -> None:
        """Wait until a linearizable read that is sent to node ``number`` is answered."""
        with grpc.insecure_channel(self._clients[number]) as channel:
            read: Any = channel.unary_unary(RANGE)
            read(range_of(b"bench"), timeout=timeout_s, wait_for_ready=True)

    def kill(self, number: int) -> None:
        process = self._processes.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def _statuses(self) -> list[dict[str, Any]]:
        asked = ",".join(self._clients[number] for number in sorted(self._processes))
        done = subprocess.run(
            ["etcdctl", f"--endpoints={asked}", "--command-timeout=2s", "endpoint", "status", "-w", "json"],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            check=False,
        )
        try:
            found: list[dict[str, Any]] = json.loads(done.stdout)
        except ValueError:
            return []
        return found
