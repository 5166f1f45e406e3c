"""docs/cluster.md says what is."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from cluster import records, sql
from cluster.keys import Kind
from cluster.query import QueryInvalid, parse
from cluster.sql import query
from cluster.state import ClusterState
from cluster.transitions import CLUSTER, DEFINITION, INSTANCE, ROLLOUT, SERVICE, TASK_DESIRED, TASK_LAST
from schedulers.placement import strategy_of

TEXT = (Path(__file__).resolve().parents[2] / "docs/cluster.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_kind_of_key_has_its_row_and_its_record() -> None:
    table = rows(section("Keys"))
    assert len(table) == len(Kind)
    for _, record, _ in table:
        name = re.match(r"`(\w+)`", record)
        assert name and hasattr(records, name[1]), record


def test_the_tables_of_status_are_those_of_the_code() -> None:
    told = section("Offers").split("The legal changes")[1]
    written = dict(rows(told))
    tables: dict[str, Any] = {
        "desired status of a task": TASK_DESIRED,
        "last status of a task": TASK_LAST,
        "container instance": INSTANCE,
        "task definition": DEFINITION,
        "service": SERVICE,
        "deployment": ROLLOUT,
        "cluster": CLUSTER,
    }
    for what, table in tables.items():
        for status in table:
            if status is not None:
                assert str(status) in written[what], (what, status)


def test_the_tables_of_sql_are_those_of_the_code() -> None:
    told = {name.strip("`"): columns.split(", ") for name, columns in rows(section("SQL"))}
    assert told == {name: list(columns) for name, columns in sql.TABLES.items()}
    assert f"{sql.STEPS_MAX:,} steps" in TEXT and f"{sql.ROWS_MAX:,} rows" in TEXT


def test_the_statements_can_be_run() -> None:
    statements = re.findall(r'^synod sql (?:--json )?"(.+)"$', section("SQL"), re.M)
    assert len(statements) == 4
    for statement in statements:
        query(ClusterState(), statement)


def test_the_error_is_the_one_that_is_shown() -> None:
    with pytest.raises(QueryInvalid) as caught:
        parse("attribute:rack = r2")
    assert f"```\n{caught.value}\n```" in section("The query language")


def test_the_strategies_are_known() -> None:
    told = section("Placement").split("| strategy |")[1]
    for names, _ in rows("| strategy |" + told):
        for name in re.findall(r"`([^`]+)`", names):
            strategy_of(name.replace("<name>", "zone"))


def test_the_grammar_is_the_one_that_is_read() -> None:
    code = import_module("cluster.query.parse")  # the package has a function of that name
    assert code.__doc__ is not None
    shown = section("The query language").split("```")[1]
    assert _rules(shown) == _rules(code.__doc__.split("NAME      :=")[0].split("::")[1])


def _rules(text: str) -> str:
    return " ".join(text.split())
