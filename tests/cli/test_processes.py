"""A process is signalled only if it is still the one that was started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synod.processes import Children, ProcessRef, last_lines, stop_all, wait_ended

SLEEPER = [sys.executable, "-S", "-c", "import signal; print('up', flush=True); signal.pause()"]
STUBBORN = [
    sys.executable,
    "-S",
    "-c",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\n"
    "while True: signal.pause()",
]


@pytest.fixture
def children() -> Iterator[Children]:
    children = Children()
    yield children
    for pid in list(children._popen):
        ref = ProcessRef.of(pid)
        if ref:
            stop_all([ref], children, patience_s=0, force=True)


def spawn(children: Children, command: list[str], log: Path) -> ProcessRef:
    ref = children.spawn(command, log, os.environ)
    while not last_lines(log):  # it prints when its handlers stand; pytest's timeout is the deadline
        assert ref.alive
    return ref


def test_a_process_is_told_from_another_with_its_pid(children: Children, tmp_path: Path) -> None:
    ref = spawn(children, SLEEPER, tmp_path / "log")
    assert ref.alive
    impostor = ProcessRef(ref.pid, "another:1")
    assert not impostor.alive
    assert not impostor.signal(signal.SIGKILL)
    assert ref.alive


def test_stopping_collects_the_child(children: Children, tmp_path: Path) -> None:
    ref = spawn(children, SLEEPER, tmp_path / "log")
    assert stop_all([ref], children, patience_s=10) == []
    assert not ref.alive
    assert children.exit_code(ref.pid) == -signal.SIGTERM
    assert not ref.signal(signal.SIGTERM)


def test_who_does_not_end_is_killed_and_named(children: Children, tmp_path: Path) -> None:
    ref = spawn(children, STUBBORN, tmp_path / "log")
    assert stop_all([ref], children, patience_s=0.05) == [ref]
    assert not ref.alive


def test_a_paused_process_is_seen_and_can_be_stopped(children: Children, tmp_path: Path) -> None:
    ref = spawn(children, SLEEPER, tmp_path / "log")
    ref.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, ref.pid, os.WSTOPPED)
    assert ref.paused
    assert ref.alive
    assert stop_all([ref], children, patience_s=10) == []


def test_a_zombie_has_ended(children: Children, tmp_path: Path) -> None:
    ref = spawn(children, SLEEPER, tmp_path / "log")
    ref.signal(signal.SIGKILL)
    os.waitid(os.P_PID, ref.pid, os.WEXITED | os.WNOWAIT)  # ended, and not collected
    assert not ref.alive
    assert ProcessRef.of(ref.pid) is None
    assert wait_ended([ref], children, 1) == []


def test_no_process_has_no_reference() -> None:
    assert ProcessRef.of(2**22 + 1) is None


def test_last_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n\ntwo\nthree\xff\n")
    assert last_lines(log, 2) == ["two", "three\ufffd"]
    assert last_lines(tmp_path / "none") == []
