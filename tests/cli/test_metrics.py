"""Metrics, probes and alarms of real nodes; the documents that name metrics name those there are."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from journal.status import ALARMS
from synod.local import LocalCluster
from tests.cli.conftest import Synod

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "docs/grafana/synod.json").read_text())
DEADLINE_S = 20.0


def fetch(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=DEADLINE_S) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def full_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


@pytest.fixture
def served(synod: Synod, here: LocalCluster) -> list[dict[str, Metric]]:
    """What each node serves, after something of every kind has happened."""
    assert synod("put", "metrics/a", "1").code == 0
    for consistency in ("linearizable", "local"):
        synod("get", "metrics/a", "--consistency", consistency)
    conflict = json.dumps({"mutations": [{"put": "metrics/a", "value": "2"}], "expect": {"metrics/a": 0}})
    assert synod("offer", stdin=conflict).code == 2
    nodes = synod("status", "--json").json["nodes"]
    return [families(fetch(node["http"], "/metrics")[1]) for node in nodes]


def documented() -> dict[str, tuple[str, set[str]]]:
    """Metric to (kind, labels), of the table in docs/operations.md."""
    text = (ROOT / "docs/operations.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (gauge|counter|histogram) \| ([^|]*) \| .+ \|$", text, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_the_table_in_the_documents_is_what_is_served(served: list[dict[str, Metric]]) -> None:
    table = documented()
    for node in served:
        assert {full_name(family): family.type for family in node.values()} == {
            name: kind for name, (kind, _labels) in table.items()
        }
        for family in node.values():
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            assert labels in (table[full_name(family)][1], set()), family.name


def test_every_alarm_is_documented_in_its_order() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    section = text[text.index("### Alarms") : text.index("### Probes")]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == ALARMS


def test_names_begin_with_the_project_and_end_with_the_unit(served: list[dict[str, Metric]]) -> None:
    units = ("seconds", "bytes", "revisions", "slots", "messages")
    for family in served[0].values():
        name = family.name
        assert name.startswith(("synod_", "process_", "python_gc_"))
        assert family.documentation
        for unit in units:
            assert unit not in name.split("_")[:-1] or name.startswith("process_"), (
                f"{name}: the unit comes last"
            )


def value(node: dict[str, Metric], name: str, **labels: str) -> float:
    family = node[name.removesuffix("_total").removesuffix("_count")]
    (found,) = [s.value for s in family.samples if s.name == name and s.labels.items() >= labels.items()]
    return found


def test_what_three_nodes_tell(served: list[dict[str, Metric]]) -> None:
    assert [value(node, "synod_has_leader") for node in served] == [1, 1, 1]
    assert [value(node, "synod_ready") for node in served] == [1, 1, 1]
    (leader,) = [node for node in served if value(node, "synod_is_leader")]
    assert value(leader, "synod_offers_accepted_total") >= 1
    assert value(leader, "synod_log_sync_seconds_count") >= 1
    assert value(leader, "synod_offers_rejected_total", reason="expect") >= 1
    assert value(leader, "synod_disk_free_bytes") > 0
    assert value(leader, "process_resident_memory_bytes") > 0
    for node in served:
        assert [sample.value for sample in node["synod_peer_connected"].samples] == [1, 1]
        assert {sample.labels["alarm"] for sample in node["synod_alarm"].samples} == set(ALARMS)


# -- the dashboard ------------------------------------------------------------------------


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["label"], variable["query"]["query"]


def test_every_query_of_the_dashboard_names_metrics_that_there_are(served: list[dict[str, Metric]]) -> None:
    samples = {full_name(family) for family in served[0].values()}
    for family in served[0].values():
        if family.type == "histogram":
            samples |= {f"{family.name}_{part}" for part in ("bucket", "sum", "count")}
    assert len(list(queries())) > 30
    for title, query in queries():
        named = set(re.findall(r"\b(?:synod|process|python)_\w+", query))
        assert named and named <= samples, (title, named - samples)
        for opening, closing in ("()", "[]", "{}"):
            assert query.count(opening) == query.count(closing), title


def test_the_dashboard_has_no_two_panels_of_one_id_or_place() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    for panel in panels:
        labels = set(re.findall(r"\{\{(\w+)\}\}", json.dumps(panel)))
        assert labels <= {"instance", "peer", "reason", "error", "limit", "consistency", "alarm"}, panel[
            "title"
        ]


# -- probes and alarms --------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def lonely_node(folder: Path, *options: str) -> Iterator[tuple[str, str]]:
    """Run one node of three as ``synod node``; yield its addresses for gRPC and HTTP."""
    listen, http = (f"127.0.0.1:{free_port()}" for _ in range(2))
    command = [sys.executable, "-m", "synod", "node", "--node", "1", "--dir", str(folder), "--listen", listen]
    command += ["--http-listen", http, "--cluster", "c", "--create"]
    command += ["--members", f"1={listen},2=127.0.0.1:1,3=127.0.0.1:2", *options]
    with (folder.parent / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield listen, http
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def once_listening(address: str, path: str) -> tuple[int, str]:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return fetch(address, path)
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "it does not listen"


def test_a_node_without_leader_and_with_a_full_disk_says_so(synod: Synod, tmp_path: Path) -> None:
    with lonely_node(tmp_path / "node", "--alarm-disk-free-mib", str(1 << 30)) as (listen, http):
        assert once_listening(http, "/livez") == (200, "ok\n")
        code, reason = fetch(http, "/readyz")
        assert code == 503 and reason.startswith("no leader")
        got = families(fetch(http, "/metrics")[1])
        assert value(got, "synod_ready") == value(got, "synod_has_leader") == 0
        alarms = {sample.labels["alarm"]: sample.value for sample in got["synod_alarm"].samples}
        assert {name for name, on in alarms.items() if on} == {"no_leader", "disk_nearly_full"}
        (node,) = synod("status", "--endpoints", listen, "--json").json["nodes"]
        assert "no leader" in node["health"] and "disk nearly full" in node["health"]
        assert "alarm below 1073741824 MiB" in node["health"]
        found: Any = synod("quorum", "--endpoints", listen, "--json")
        assert found.code == 3
        assert found.json["diagnosis"].endswith("1 of 3 voters is up, 2 are needed")
        assert found.json["up"] == [1]


def test_an_http_port_in_use_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http, listen = f"127.0.0.1:{taken.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "synod", "node", "--node", "1", "--dir", str(tmp_path / "n")]
        command += ["--listen", listen, "--http-listen", http, "--cluster", "c", "--members", f"1={listen}"]
        done = subprocess.run(
            [*command, "--create"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on {http} for HTTP" in done.stderr and "Traceback" not in done.stderr
