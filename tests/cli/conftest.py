"""A cluster of real processes for the commands, and ways to run them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synod.cli.app import run
from synod.local import LocalCluster

READY_S = 30.0
FAST = ("--election-timeout-ms", "300", "--heartbeat-interval-ms", "50")


@dataclass(frozen=True, slots=True)
class Done:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code in (0, 1, 2, 3), self
        return json.loads(self.out)


Synod = Callable[..., Done]


@pytest.fixture
def synod(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Synod:
    """Run a command in this process: ``synod("get", "key")``; ``stdin`` is what it reads."""

    def run_here(*arguments: str, stdin: str | bytes = b"") -> Done:
        file = tmp_path / "stdin"
        file.write_bytes(stdin.encode() if isinstance(stdin, str) else stdin)
        capfd.readouterr()
        with file.open() as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stream)
            code = run(arguments)
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run_here


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes, shared: a test keeps to keys of its own, and leaves all nodes running."""
    cluster = LocalCluster.create(tmp_path_factory.mktemp("cluster"), nodes=3, node_args=FAST)
    cluster.start()
    try:
        cluster.wait_ready(READY_S)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def here(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    """The shared cluster, found by every command without being named."""
    monkeypatch.setenv("SYNOD_DIR", str(cluster.folder))
    return cluster


def synod_process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "synod", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        **options,
    )


def synod_alone(*arguments: str, timeout_s: float = 60) -> Done:
    """Run a command as a process of its own."""
    with synod_process(*arguments) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return Done(process.returncode, out, err)
