"""Rules that hold for every test: a skip is a failure, and nothing is left running.

A skipped test proves nothing, and CI does not read the yellow lines. A node that outlives
its test would hold a port or a data folder and break a later one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import psutil
import pytest

from tests.dockerd import Dockerd, dockerd

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    children = psutil.Process().children(recursive=True)
    leftovers = [process for process in children if process.status() != psutil.STATUS_ZOMBIE]
    for process in leftovers:
        try:
            print(f"\nleft running by a test, killed: {process.pid} {' '.join(process.cmdline())}")
            process.kill()
        except psutil.NoSuchProcess:
            pass
    if leftovers:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for nodeid in _skipped:
        terminalreporter.write_line(f"SKIPPED counts as a failure: {nodeid}", red=True)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's own SYNOD_* variables must not decide what a test sees."""
    for name in os.environ:
        if name.startswith("SYNOD_") and name != "SYNOD_REWRITE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def docker() -> Iterator[Dockerd]:
    """Return the session's one Docker engine, started when the first test asks for it."""
    with dockerd() as engine:
        yield engine
