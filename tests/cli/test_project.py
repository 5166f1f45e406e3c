"""The project's own rules hold, and what enforces them is shown to catch a breach."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts.purity import breaches, pure_files

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("journal", "cluster", "schedulers", "agent", "synod")
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())

PLANTED = {
    "journal/types.py": "import cluster",
    "schedulers/placement.py": "import agent",
    "journal/limits.py": "from journal import planted",
    "journal/client/planted.py": "import grpc",
    "journal/node.py": "import plyvel",
    "journal/planted.py": "import socket",
}
"""One breach of each contract; that of purity goes through another module."""

BROKEN = {
    "Imports go one way": ("journal.types -> cluster", "schedulers.placement -> agent"),
    "The modules that decide": ("journal.limits -> journal.planted",),
    "Only journal.rpc knows": ("journal.client.planted -> grpc",),
    "Only journal.storage.leveldb": ("journal.node -> plyvel",),
}


def test_each_import_contract_catches_a_planted_import(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "*.so")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, line in PLANTED.items():
        file = tmp_path / name
        before = file.read_text() if file.exists() else ""
        file.write_text(f"{before}\n{line}\n")
    program = "import sys; from importlinter.cli import lint_imports_command as main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "", "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    contracts = CONFIG["tool"]["importlinter"]["contracts"]
    assert len(BROKEN) == len(contracts)
    for contract in contracts:
        name = contract["name"]
        assert re.search(re.escape(name) + r".* BROKEN", done.stdout), done.stdout
        [chains] = [chains for start, chains in BROKEN.items() if name.startswith(start)]
        for chain in chains:
            assert chain in done.stdout


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import random\nrandom.random()", "uses random.random"),
        ("import random\nrng = random.SystemRandom()", "uses random.SystemRandom"),
        ("from random import Random, choice", "imports random.choice"),
        ("import random as r", "imports random under another name"),
        ("import datetime\ndatetime.datetime.now()", "reads the clock: datetime.datetime.now()"),
        ("from datetime import date\ndate.today()", "reads the clock: date.today()"),
        ("open('x')", "calls open()"),
        ("print(1)", "calls print()"),
        ("hash('x')", "calls hash()"),
    ],
)
def test_purity_finds(source: str, what: str) -> None:
    assert [found for _, found in breaches(source)] == [what]


def test_purity_allows_types_and_arguments() -> None:
    source = "import random\ndef place(rng: random.Random) -> int:\n    return rng.randrange(3)\n"
    assert list(breaches(source)) == []


def test_purity_looks_at_every_pure_module() -> None:
    names = {str(file.relative_to(ROOT)) for file in pure_files(ROOT)}
    assert {"journal/space.py", "journal/offers.py", "journal/paxos/core.py", "cluster/state.py"} <= names
    assert {"schedulers/placement.py", "agent/reconcile.py"} <= names


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_locks_hold_pinned_versions_and_hashes_and_nothing_else(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    requirement = re.compile(r"^[a-z0-9][a-z0-9._-]*==[0-9][A-Za-z0-9.+!]* \\$")
    digest = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")
    wrong = [line for line in lines if not requirement.match(line) and not digest.match(line)]
    assert wrong == []


def test_locks_pin_everything_that_is_asked_for_and_agree() -> None:
    def pinned(name: str) -> dict[str, str]:
        found = re.findall(r"^([a-z0-9._-]+)==(\S+) \\$", (ROOT / name).read_text(), re.MULTILINE)
        return {package.replace("_", "-"): version for package, version in found}

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=~ ]", requirement)[0].lower() for requirement in requirements}

    runtime, development = pinned("requirements.lock"), pinned("requirements-dev.lock")
    assert names(CONFIG["project"]["dependencies"]) <= set(runtime)
    assert names(CONFIG["dependency-groups"]["dev"]) <= set(development)
    assert runtime.items() <= development.items()


def test_the_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_help_lists_the_targets() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    for target in ("setup", "up", "down", "demo", "test", "check", "proto", "bench", "chaos", "help"):
        assert re.search(rf"^  make {target} ", done.stdout, re.MULTILINE), target


@pytest.mark.parametrize(
    ("body", "fails", "words"),
    [
        ("def test_it(): pass", False, "1 passed"),
        ("import pytest\ndef test_it(): pytest.skip('later')", True, "SKIPPED counts as a failure"),
        ("import pytest\npytest.skip('later', allow_module_level=True)", True, "SKIPPED counts as a failure"),
        (
            "import subprocess as s\ndef test_it():\n    p = s.Popen(['sleep', '300'])\n    p.returncode = 0",
            True,
            "left running by a test, killed",
        ),
    ],
    ids=["passes", "skip", "skipped module", "leftover process"],
)
def test_skips_and_leftovers_are_failures(body: str, fails: bool, words: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_planted.py").write_text(body + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode != 0, words in done.stdout) == (fails, True), done.stdout
