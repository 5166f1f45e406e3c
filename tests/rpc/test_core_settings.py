"""What gRPC's core is told before it starts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from journal.rpc.core_settings import EXPERIMENTS, POLLERS_OWN_IO, VERBOSITY, apply


@pytest.mark.parametrize(
    ("release", "experiments"),
    [("1.80.0", POLLERS_OWN_IO), ("1.85.1", POLLERS_OWN_IO), ("1.86.0", None), ("1.79.9", None), ("2", None)],
)
def test_names_go_to_releases_that_know_them(release: str, experiments: str | None) -> None:
    environ: dict[str, str] = {}
    apply(environ, release)
    assert environ.get(EXPERIMENTS) == experiments
    assert environ[VERBOSITY] == "NONE"


def test_what_a_user_has_set_stays() -> None:
    environ = {EXPERIMENTS: "", VERBOSITY: "DEBUG"}
    apply(environ, "1.85.1")
    assert environ == {EXPERIMENTS: "", VERBOSITY: "DEBUG"}


def test_the_installed_core_takes_them_without_a_word() -> None:
    """It prints an error for a name that it does not know, whatever its verbosity."""
    program = (
        "import journal.rpc, asyncio, grpc, grpc.aio\n"
        "async def main():\n"
        "    async with grpc.aio.insecure_channel('127.0.0.1:1') as channel:\n"
        "        channel.get_state(try_to_connect=True)\n"
        "asyncio.run(main())\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
