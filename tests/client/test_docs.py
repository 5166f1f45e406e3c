"""docs/write-a-client.md names things that exist."""

from __future__ import annotations

import re
from pathlib import Path

import journal.client
from journal.client import ClientConfig, Counters, Journal

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "write-a-client.md").read_text()


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target


def test_every_example_is_mentioned() -> None:
    for path in (ROOT / "scripts" / "examples").glob("*.py"):
        assert f"scripts/examples/{path.name}" in TEXT, path.name


def test_methods_that_are_named_exist() -> None:
    for name in re.findall(r"\bjournal\.(\w+)\(", TEXT):
        assert hasattr(Journal, name), name
    for name in re.findall(r"from journal\.client import ([\w, ]+)", TEXT):
        assert all(hasattr(journal.client, part.strip()) for part in name.split(","))


def test_numbers_are_the_real_ones() -> None:
    config = ClientConfig()
    assert (config.backoff_min_s, config.backoff_max_s) == (0.01, 0.25)
    assert config.message_offers_max == 4_096
    assert config.tail_silence_max_s == 4.0
    assert config.tail_progress_interval_s == 1.0
    assert hasattr(Counters(), "stale_answers")


def test_code_blocks_compile() -> None:
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        wrapped = "async def _():\n" + "".join(f"    {line}\n" for line in block.splitlines())
        compile(wrapped, "docs/write-a-client.md", "exec")
