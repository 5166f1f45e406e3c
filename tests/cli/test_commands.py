"""The commands that speak to the journal, against three real nodes."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pytest

from synod.local import LocalCluster
from tests.cli.conftest import READY_S, Synod, synod_process

pytestmark = pytest.mark.usefixtures("here")


def revision(text: str) -> int:
    word, number = text.split()
    assert word == "revision"
    return int(number)


def test_put_get_del(synod: Synod) -> None:
    first = revision(synod("put", "a/greeting", "hello").out)
    second = revision(synod("put", "a/greeting", "hi", "--label", "polite").out)
    assert second > first
    assert synod("get", "a/greeting").out == "hi"
    assert synod("get", "a/greeting", "--at", str(first)).out == "hello"
    record = synod("get", "a/greeting", "--json").json["records"][0]
    assert record == {
        "key": "a/greeting",
        "value": "hi",
        "create": first,
        "mod": second,
        "version": 2,
        "lease": 0,
    }
    assert synod("del", "a/greeting").code == 0
    gone = synod("get", "a/greeting")
    assert (gone.code, gone.out) == (1, "")
    assert "a/greeting does not exist at revision" in gone.err
    assert synod("get", "a/greeting", "--at", str(second)).out == "hi"


def test_values_from_standard_input_are_bytes(synod: Synod) -> None:
    data = bytes(range(256))
    assert synod("put", "b/bytes", "-", stdin=data).code == 0
    [record] = synod("get", "b/bytes", "--json").json["records"]
    assert set(record["value"]) == {"base64"}


def test_several_keys_are_a_table_at_one_revision(synod: Synod) -> None:
    synod("put", "c/1", "one")
    synod("put", "c/2", "two")
    done = synod("get", "c/1", "c/2")
    assert "c/1" in done.out and "two" in done.out and "modified" in done.out
    some = synod("get", "c/1", "c/3")
    assert some.code == 1
    assert "one" in some.out and "c/3 does not exist" in some.err


def test_scan(synod: Synod) -> None:
    for number in range(5):
        synod("put", f"d/{number}", str(number))
    whole = synod("scan", "d/", "--json").json
    assert [record["key"] for record in whole["records"]] == [f"d/{number}" for number in range(5)]
    assert synod("scan", "d/", "--keys", "--limit", "2").out == "d/0\nd/1\n"
    assert synod("scan", "--start", "d/1", "--end", "d/3", "--keys").out == "d/1\nd/2\n"
    before = str(whole["revision"])
    assert synod("del", "d/", "--prefix").code == 0
    assert synod("scan", "d/", "--keys").out == ""
    assert synod("scan", "d/", "--keys", "--at", before).out.count("\n") == 5


def test_a_rejection_is_2_with_a_receipt(synod: Synod) -> None:
    first = revision(synod("put", "e/key", "x", "--expect", "0", "--label", "winner").out)
    again = synod("put", "e/key", "y", "--expect", "0")
    assert again.code == 2
    assert f"e/key is at revision {first}" in again.err
    assert synod("put", "e/key", "y", "--expect", str(first)).code == 0
    fault = json.loads(synod("del", "e/key", "--expect", "1", "--json").err)["error"]
    assert fault["code"] == 2


def test_offers_from_standard_input_each_with_its_verdict(synod: Synod) -> None:
    offers = [
        {"expect": {"f/lock": 0}, "mutations": [{"put": "f/lock", "value": "me"}], "label": "first"},
        {"expect": {"f/lock": 0}, "mutations": [{"put": "f/lock", "value": "you"}]},
    ]
    done = synod("offer", "--json", stdin=json.dumps(offers))
    assert done.code == 2
    accepted, rejected = done.json["verdicts"]
    assert accepted["verdict"] == "accepted"
    assert rejected["verdict"] == "rejected"
    assert (rejected["reason"], rejected["where"], rejected["key"]) == ("EXPECT", "expect[0]", "f/lock")
    assert rejected["revision"] == accepted["revision"]


def test_claims_by_adjust_within_bounds(synod: Synod, tmp_path: Path) -> None:
    assert synod("put", "g/pool", '{"cpu": 3, "ports": []}', "--map").code == 0
    file = tmp_path / "claim.json"
    claim = {"adjust": "g/pool", "deltas": {"cpu": -2}, "minimum": {"cpu": 0}}
    ports = {"add": "g/pool", "field": "ports", "members": [80]}
    file.write_text(json.dumps({"mutations": [claim, ports]}))
    assert synod("offer", str(file)).out.startswith("accepted at revision ")
    second = synod("offer", str(file))
    assert second.code == 2
    assert "field 'cpu' is at 1 and would leave its bounds" in second.out
    [record] = synod("get", "g/pool", "--json").json["records"]
    assert record["value"] == {"msgpack": {"cpu": 1, "ports": [80]}}


def test_an_offer_past_a_limit_is_misuse(synod: Synod) -> None:
    offer = {"mutations": [{"put": "k" * 5000, "value": ""}]}
    done = synod("offer", stdin=json.dumps(offer))
    assert done.code == 64
    assert "mutations[0].key: 5000 bytes is over KEY_BYTES_MAX" in done.out


def test_tail_of_the_past(synod: Synod) -> None:
    first = revision(synod("put", "h/1", "one", "--label", "alice").out)
    synod("put", "h/2", "two")
    synod("del", "h/1")
    done = synod("tail", "h/", "--after", str(first - 1), "--limit", "3", "--json")
    commits = [json.loads(line) for line in done.out.splitlines()]
    assert [commit["changes"] for commit in commits] == [
        [{"key": "h/1", "value": "one", "lease": 0}],
        [{"key": "h/2", "value": "two", "lease": 0}],
        [{"key": "h/1", "deleted": True}],
    ]
    assert commits[0]["revision"] == first
    assert commits[0]["label"] == "alice"
    text = synod("tail", "h/", "--after", str(first - 1), "--limit", "1").out
    assert f"{first}" in text and "[alice]" in text and "h/1 = one" in text


def test_tail_ends_quietly_when_its_reader_goes(synod: Synod, here: LocalCluster) -> None:
    first = revision(synod("put", "i/1", "one").out)
    process = synod_process("tail", "i/", "--after", str(first - 1), "--dir", str(here.folder))
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert "i/1 = one" in process.stdout.readline()
        process.stdout.close()
        synod("put", "i/2", "two")
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


def test_ctrl_c_is_the_ordinary_end_of_a_tail(synod: Synod, here: LocalCluster) -> None:
    first = revision(synod("put", "k/1", "one").out)
    with synod_process("tail", "k/", "--after", str(first - 1), "--dir", str(here.folder)) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "k/1 = one" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


def test_a_revision_in_the_future_is_refused(synod: Synod) -> None:
    done = synod("get", "x", "--at", "999999999")
    assert done.code == 1
    assert "revision 999999999 is in the future" in done.err
    assert "`synod status`" in done.err


def test_leases(synod: Synod) -> None:
    lease = synod("lease", "grant", "60").out.strip()
    assert synod("put", "j/alive", "yes", "--lease", lease).code == 0
    assert synod("get", "j/alive", "--json").json["records"][0]["lease"] == int(lease)
    assert synod("lease", "keep", lease, "--once").out == f"lease {lease} has 60 s from now\n"
    assert synod("lease", "revoke", lease).code == 0
    assert synod("get", "j/alive").code == 1
    assert synod("lease", "revoke", lease).code == 2
    assert synod("put", "j/alive", "yes", "--lease", lease).code == 2
    gone = synod("lease", "keep", lease)
    assert gone.code == 1
    assert f"lease {lease} does not exist" in gone.err and "synod lease grant" in gone.err


def test_status(synod: Synod, here: LocalCluster) -> None:
    data = synod("status", "--json").json
    assert data["cluster"] == here.cluster_id
    assert [node["node"] for node in data["nodes"]] == [1, 2, 3]
    assert sorted(node["role"] for node in data["nodes"]) == ["follower", "follower", "leader"]
    for node in data["nodes"]:
        assert node["pid"] == here.pid(node["node"])
        assert node["health"] == "ok"
        assert {"endpoint", "ballot", "revision", "applied", "lag", "disk_bytes", "leader"} <= node.keys()
    table = synod("status").out
    for column in ("node", "role", "ballot", "revision", "applied", "lag", "disk", "health"):
        assert column in table.splitlines()[0]
    strangers = synod("status", "--endpoints", f"{here.endpoints[1]},127.0.0.1:1", "--json").json
    assert [(node["node"], node["pid"]) for node in strangers["nodes"]] == [(2, None), (0, None)]
    assert strangers["nodes"][1]["role"] == "unreachable"
    assert synod("status", "--endpoints", "127.0.0.1:1").code == 3


def test_transfer_leader(synod: Synod, here: LocalCluster) -> None:
    before = here.leader()
    target = next(node for node in here.nodes if node != before)
    done = synod("transfer-leader", str(target))
    assert done.code == 0, done.err
    here.wait_ready(READY_S)
    assert here.leader() == target
    assert synod("transfer-leader", "99").code == 64


def test_another_cluster_is_refused(synod: Synod, here: LocalCluster) -> None:
    done = synod("get", "x", "--endpoints", ",".join(here.endpoints), "--cluster", "other", "--timeout", "2")
    assert done.code in (1, 3)
    assert "other" in done.err and here.cluster_id in done.err


def test_nobody_at_the_endpoints_is_3_and_quick(synod: Synod) -> None:
    done = synod("put", "x", "y", "--endpoints", "127.0.0.1:1", "--timeout", "1")
    assert done.code == 3
    assert "127.0.0.1:1" in done.err


def test_compact(synod: Synod) -> None:
    first = revision(synod("put", "z/key", "old").out)
    second = revision(synod("put", "z/key", "new").out)
    assert synod("compact", str(second)).code == 0
    done = synod("get", "z/key", "--at", str(first))
    assert done.code == 1
    assert f"revision {first} is compacted" in done.err
    assert synod("get", "z/key", "--at", str(second)).out == "new"
    assert synod("compact", "--json").json["compacted"] >= second


def test_the_exit_code_reaches_the_shell(here: LocalCluster) -> None:
    with synod_process("get", "no/such/key", "--dir", str(here.folder)) as process:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "Traceback" not in err


def test_completed_process_writes_raw_bytes(here: LocalCluster, synod: Synod) -> None:
    synod("put", "y/bytes", "-", stdin=b"\xff\x00\n")
    with synod_process("get", "y/bytes", "--dir", str(here.folder)) as process:
        assert isinstance(process.stdout, io.TextIOWrapper)
        assert process.stdout.buffer.read() == b"\xff\x00\n"
        assert process.wait(timeout=30) == 0
