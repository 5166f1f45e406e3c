"""docs/api.md says which operations are served."""

from __future__ import annotations

import re
from pathlib import Path

from api.model import operations
from api.operations import HANDLERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def test_the_table_of_operations_is_what_is_served() -> None:
    table = PAGE.read_text().partition("| operations | |")[2].partition("\n\n")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines() if row.strip().endswith("supported |")]
    named = [name for operations_of_row, _ in rows for name in re.findall(r"[A-Za-z]+", operations_of_row)]
    assert len(set(named)) == len(named)
    assert set(named) == set(HANDLERS)
    assert set(named) <= set(operations())
