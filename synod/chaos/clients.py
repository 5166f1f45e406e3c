"""The client processes of a run: each a ``synod.history.load``, watched through what it records."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class ClientFailed(Exception):
    """A client process ended by itself, or badly: the client library misbehaved."""


class ClientProcess:
    """One process; its history is ``FOLDER/NAME.jsonl``, its output ``FOLDER/NAME.log``."""

    def __init__(
        self,
        folder: Path,
        name: str,
        kinds: Sequence[str],
        *,
        endpoints: Sequence[str],
        cluster: str,
        seed: int,
        workers: int = 2,
        pause_s: float = 0.04,
        after: int = 0,
        impatient: float = 0.2,
        first_op: int = 0,
    ) -> None:
        self.name = name
        self.kinds = tuple(kinds)
        self.killed = False
        self.file = folder / f"{name}.jsonl"
        self.log = folder / f"{name}.log"
        self._counted = 0
        self._accepted = 0
        command = [sys.executable, "-P", "-m", "synod.history.load", "--endpoints", ",".join(endpoints)]
        command += ["--cluster", cluster, "--file", str(self.file), "--name", name]
        command += ["--kinds", ",".join(kinds), "--clients", str(len(kinds)), "--workers", str(workers)]
        command += ["--pause-s", str(pause_s), "--seed", str(seed), "--after", str(after)]
        command += ["--impatient", str(impatient), "--first-op", str(first_op)]
        source = str(Path(__file__).resolve().parents[2])
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": source},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def names(self) -> dict[str, str]:
        """Return the kind of each of its clients, as the history names them."""
        return {f"{self.name}{number}": kind for number, kind in enumerate(self.kinds)}

    def accepted(self) -> int:
        """Return how many offers it has had acknowledged."""
        if self.file.exists():
            with self.file.open("rb") as file:
                file.seek(self._counted)
                new = file.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._counted += len(whole)
            self._accepted += whole.count(b'"accepted":')
        return self._accepted

    def require_alive(self) -> None:
        if not self.killed and self.process.poll() is not None:
            raise ClientFailed(self._explain("ended by itself"))

    def stop(self, timeout_s: float) -> None:
        """Let it end what it has begun. Raises ``ClientFailed``."""
        if self.killed:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ClientFailed(self._explain(f"has not ended {timeout_s:g} s after SIGTERM")) from None
        if self.process.returncode:
            raise ClientFailed(self._explain("failed"))

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _explain(self, what: str) -> str:
        output = self.log.read_text(errors="replace")[-1200:]
        return f"client process {self.name} {what} (code {self.process.returncode}):\n{output}"
