"""What the documents name is there: tests, planted bugs, files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.paxos.planted import BUGS

ROOT = Path(__file__).parents[2]
SAFETY = (ROOT / "docs" / "safety.md").read_text()


def _names(path: Path) -> set[str]:
    """The functions and constants that a test file has."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def test_every_test_that_a_document_names_exists() -> None:
    tests = set().union(*(_names(path) for path in (ROOT / "tests").rglob("*.py")))
    for path in sorted((ROOT / "docs").glob("*.md")):
        named = set(re.findall(r"`(test_[a-z0-9_]+)`", path.read_text()))
        assert not named - tests, f"{path.name} names tests that are not there: {sorted(named - tests)}"
    assert len(re.findall(r"`test_[a-z0-9_]+`", SAFETY)) > 20


def test_every_planted_bug_of_the_core_is_named() -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", SAFETY))
    assert not BUGS.keys() - named, f"planted, and not in safety.md: {sorted(BUGS.keys() - named)}"
    table = SAFETY[SAFETY.index("## Agreement") : SAFETY.index("## The disk")]
    stories = {
        name
        for row in table.splitlines()
        if row.startswith("| ") and row.count("|") == 4
        for name in re.findall(r"`([a-z0-9_]+)`", row.rsplit("|", 2)[1])
        if not name.startswith("test_")
    }
    assert stories and not stories - BUGS.keys(), f"no such bug is planted: {sorted(stories - BUGS.keys())}"


@pytest.mark.parametrize("path", sorted(p.name for p in (ROOT / "docs").glob("*.md")))
def test_every_file_that_a_document_names_exists(path: str) -> None:
    text = (ROOT / "docs" / path).read_text()
    for name in re.findall(
        r"`((?:journal|tests|scripts|synod|cluster|schedulers|agent|api|docs)/[\w./-]+)`", text
    ):
        assert (ROOT / name).exists(), f"docs/{path} names {name}, which is not there"
