"""The examples: short, runnable, and saying what they are meant to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synod.local import LocalCluster

FOLDER = Path(__file__).parents[2] / "scripts" / "examples"
SAID = {
    "failover.py": ["each exactly once: True 500 offers"],
    "lease.py": ["sure to be alive: True True", "after the block: None", "is lost"],
    "offer.py": ["the second claim is refused", "'cpu' is at 1", "1000 of 1000 accepted"],
    "read.py": ["b'blue'", "it was b'red'", "page of 5000 keys"],
    "replica.py": ["with 1 keys", "deleted", "b'example/replica/b' b'2'"],
    "tail.py": ["step 0", "step 4", "value 4", "read up to revision"],
    "transact.py": ["ann, bob: [b'0', b'10']"],
    "without_trio.py": ["b'1'", "counted to [1, 2, 3]", "gone with its lease: None", "revisions"],
}


def test_every_example_is_known() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_is_short(name: str) -> None:
    assert len((FOLDER / name).read_text().splitlines()) <= 40


@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_runs(name: str, processes: LocalCluster) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(FOLDER / name), ",".join(processes.endpoints)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for words in SAID[name]:
        assert words in done.stdout, done.stdout
