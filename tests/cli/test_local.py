"""The local cluster's life: up, down, killed, brought back, and what must not confuse it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from synod.local import LocalCluster, LocalClusterError, NoCluster, NotReady, PortInUse
from synod.processes import ProcessRef
from tests.cli.conftest import FAST, READY_S, Synod, synod_alone, synod_process


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for one cluster; whatever runs in it in the end is killed."""
    folder = tmp_path / "cluster"
    yield folder
    try:
        LocalCluster.load(folder).kill_all()
    except LocalClusterError:
        pass


@pytest.fixture
def small(folder: Path) -> LocalCluster:
    """A planned cluster of one node: the quickest to start."""
    return LocalCluster.create(folder, nodes=1, node_args=FAST)


def free_base_port() -> str:
    """A base port whose next three ports were free a moment ago."""
    from synod.local_state import free_ports

    return str(free_ports(3)[0] - 1)


def test_up_down_and_up_again_keeps_the_data(synod: Synod, folder: Path) -> None:
    where = ("--dir", str(folder))
    up = synod("up", "--detach", "--nodes", "3", "--agents", "0", "--base-port", free_base_port(), *where)
    assert up.code == 0, up.err
    assert up.out.count("127.0.0.1:") == 3
    assert synod("put", "key", "value", *where).code == 0
    pids = LocalCluster.load(folder).running()

    again = synod("up", "--detach", "--json", *where)
    assert again.code == 0
    assert LocalCluster.load(folder).running() == pids
    wrong = synod("up", "--detach", "--nodes", "1", *where)
    assert wrong.code == 64
    assert "has 3 nodes, not 1" in wrong.err
    assert "`synod member remove 3`, `synod member remove 2`" in wrong.err

    down = synod("down", *where)
    assert down.code == 0
    assert down.out.startswith("stopped 3 nodes; the data stays in")
    assert all(ProcessRef.of(pid) is None for pid in pids.values())
    assert synod("down", *where).out.startswith("nothing runs in")
    status = synod("status", "--json", *where)
    assert status.code == 3
    assert [node["role"] for node in status.json["nodes"]] == ["down"] * 3
    get = synod("get", "key", *where)
    assert get.code == 3
    assert "no node of the cluster" in get.err and "synod up" in get.err

    assert synod("up", "--detach", *where).code == 0
    assert synod("get", "key", *where).out == "value"


def test_up_lets_a_cluster_grow_running_or_not(synod: Synod, folder: Path) -> None:
    where = ("--dir", str(folder))
    cluster = LocalCluster.create(folder, nodes=1, node_args=FAST)
    cluster.start()
    cluster.wait_ready(READY_S)
    assert synod("put", "key", "value", *where).code == 0
    grown = synod("up", "--detach", "--nodes", "2", "--agents", "0", "--json", *where)
    assert grown.code == 0, grown.err
    assert [node["member"] for node in grown.json["nodes"]] == ["voter"] * 2
    assert synod("down", *where).code == 0
    grown = synod("up", "--detach", "--nodes", "3", "--agents", "0", "--json", *where)
    assert grown.code == 0, grown.err
    assert [(node["node"], node["member"]) for node in grown.json["nodes"]] == [
        (node, "voter") for node in (1, 2, 3)
    ]
    assert synod("get", "key", *where).out == "value"
    assert cluster.endpoint(3).endswith(f":{int(cluster.endpoint(1).rpartition(':')[2]) + 2}")

    # The first one may go, too; its number does not come back.
    assert synod("member", "remove", "1", *where).code == 0
    assert sorted(cluster.running()) == ["node-2", "node-3"]
    assert synod("up", "--detach", "--nodes", "3", "--agents", "0", *where).code == 0
    assert cluster.nodes == [2, 3, 4]
    assert synod("get", "key", *where).out == "value"
    assert synod("down", *where).code == 0
    assert synod("up", "--detach", "--agents", "0", *where).code == 0
    assert synod("get", "key", *where).out == "value"


def test_a_killed_node_is_shown_and_brought_back(synod: Synod, folder: Path) -> None:
    cluster = LocalCluster.create(folder, nodes=3, node_args=FAST)
    cluster.start()
    cluster.wait_ready(READY_S)
    leader = cluster.leader()
    assert leader is not None
    cluster.kill_node(leader)
    where = ("--dir", str(folder))
    assert synod("put", "key", "one of three is down", *where).code == 0
    roles = {node["node"]: node["role"] for node in synod("status", "--json", *where).json["nodes"]}
    assert roles.pop(leader) == "down"
    assert sorted(roles.values()) == ["follower", "leader"]

    second = cluster.leader()
    assert second is not None
    cluster.kill_node(second)
    refused = synod("put", "key", "a majority is down", "--timeout", "1", *where)
    assert refused.code == 3
    assert "Traceback" not in refused.err
    local = synod("get", "key", "--consistency", "local", *where)
    assert local.out == "one of three is down"

    assert synod("up", "--detach", *where).code == 0
    assert len(cluster.running()) == 3
    assert synod("get", "key", *where).out == "one of three is down"


def test_a_paused_node_is_shown_and_can_be_stopped(small: LocalCluster, synod: Synod) -> None:
    small.start()
    small.wait_ready(READY_S)
    small.pause_node(1)
    [node] = synod("status", "--json", "--dir", str(small.folder)).json["nodes"]
    assert node["role"] == "paused"
    assert "SIGSTOP" in node["health"]
    small.resume_node(1)
    small.wait_ready(READY_S)
    small.pause_node(1)
    assert synod("down", "--dir", str(small.folder)).code == 0
    assert small.running() == {}


def test_everything_killed_at_once_loses_nothing(small: LocalCluster, synod: Synod) -> None:
    small.start()
    small.wait_ready(READY_S)
    where = ("--dir", str(small.folder))
    assert synod("put", "key", "value", *where).code == 0
    small.kill_all()
    assert small.running() == {}
    small.start()
    small.wait_ready(READY_S)
    assert synod("get", "key", *where).out == "value"


def test_a_stale_cluster_file_does_not_confuse_it(small: LocalCluster, synod: Synod) -> None:
    """After a reboot the recorded pids may be anybody's: here, this test's own."""
    state = json.loads((small.folder / "cluster.json").read_text())
    state["running"] = {
        "node-1": {"pid": os.getpid(), "started": "another boot:1"},
        "up": {"pid": os.getpid(), "started": "another boot:2"},
    }
    (small.folder / "cluster.json").write_text(json.dumps(state))
    assert small.running() == {}
    assert synod("down", "--dir", str(small.folder)).out.startswith("nothing runs")
    assert synod("up", "--detach", "--dir", str(small.folder)).code == 0
    assert list(small.running()) == ["node-1"]


def test_a_port_in_use_is_named_and_nothing_is_left(synod: Synod, folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = synod("up", "--detach", "--nodes", "1", "--base-port", str(port - 1), "--dir", str(folder))
        assert done.code == 1
        assert f"another process has port {port}" in done.err
        assert "--base-port" in done.err
        assert LocalCluster.load(folder).running() == {}
        with pytest.raises(PortInUse):
            LocalCluster.load(folder).start()
        moved = free_base_port()
        up = ("up", "--detach", "--nodes", "1", "--agents", "0", "--dir", str(folder), "--base-port")
        assert synod(*up, moved).code == 0
        again = synod(*up, str(port - 1))
        assert again.code == 64
        assert f"has the address 127.0.0.1:{int(moved) + 1}" in again.err


def test_a_node_that_lost_its_folder_says_so(small: LocalCluster, synod: Synod) -> None:
    small.start()
    small.wait_ready(READY_S)
    small.stop()
    shutil.rmtree(small.node_folder(1))
    done = synod("up", "--detach", "--dir", str(small.folder))
    assert done.code == 3
    assert "node-1 ended by itself with exit code 1" in done.err
    assert "lost" in done.err and "promises" in done.err
    assert small.running() == {}


def test_a_folder_of_another_cluster_is_refused(small: LocalCluster, tmp_path: Path) -> None:
    small.start()
    small.wait_ready(READY_S)
    small.stop()
    other = LocalCluster.create(tmp_path / "other", nodes=1, node_args=FAST)
    shutil.copytree(small.node_folder(1), other.node_folder(1))
    other.start()
    try:
        with pytest.raises(NotReady, match=f"belongs to cluster '{small.cluster_id}'"):
            other.wait_ready(READY_S)
    finally:
        other.stop()


def test_a_folder_that_a_live_node_uses_is_refused(small: LocalCluster) -> None:
    small.start()
    small.wait_ready(READY_S)
    endpoint = small.endpoint(1)
    options = ["--node", "1", "--dir", str(small.node_folder(1)), "--cluster", small.cluster_id]
    done = synod_alone("node", *options, "--listen", "127.0.0.1:0", "--members", f"1={endpoint}")
    assert done.code == 64  # port 0 is no address for a member
    other = free_base_port()
    done = synod_alone("node", *options, "--listen", f"127.0.0.1:{other}", "--members", f"1={endpoint}")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "lock" in done.err


def test_up_in_the_foreground_ends_with_ctrl_c(folder: Path) -> None:
    options = ("--nodes", "3", "--agents", "0", "--base-port", free_base_port(), "--dir", str(folder))
    with synod_process("up", *options) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            shown = ""
            while "Ctrl-C" not in shown:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                shown += line
            assert "leader" in shown and "Logs: " in shown
            cluster = LocalCluster.load(folder)
            assert len(cluster.running()) == 3
            second = synod_alone("up", "--dir", str(folder))
            assert second.code == 1
            assert f"runs already for {folder} (pid {process.pid})" in second.err
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert re.search(r"stopped 3 nodes; the data stays in", out)
    assert "Traceback" not in err
    assert cluster.running() == {}


def test_up_in_the_foreground_ends_when_somebody_says_down(folder: Path, synod: Synod) -> None:
    options = ("--nodes", "1", "--agents", "0", "--base-port", free_base_port(), "--dir", str(folder))
    with synod_process("up", *options) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            while "Ctrl-C" not in process.stdout.readline():
                assert process.poll() is None
            assert synod("down", "--dir", str(folder)).code == 0
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "node-1 ended" in err
    assert "nothing runs any more" in out


def test_ctrl_c_while_it_starts_leaves_nothing(folder: Path) -> None:
    cluster = LocalCluster.create(folder, nodes=3, node_args=["--election-timeout-ms", "60000"])
    with synod_process("up", "--dir", str(folder)) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "starting 3 nodes\n"
        while len(cluster.running()) < 3:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "synod: interrupted"
    assert cluster.running() == {}


def test_a_node_that_ends_at_once_is_named_with_its_log(folder: Path, synod: Synod) -> None:
    cluster = LocalCluster.create(folder, nodes=1, node_args=["--log-level", "shout"])
    done = synod("up", "--detach", "--dir", str(folder))
    assert (done.code, done.out) == (3, "")
    assert "node-1 ended by itself with exit code 64" in done.err and "'shout' is not one of" in done.err
    assert cluster.running() == {}


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalClusterError, match="1 to 9 nodes, not 10"):
        LocalCluster.create(tmp_path / "a", nodes=10)
    with pytest.raises(LocalClusterError, match="leaves no valid ports"):
        LocalCluster.create(tmp_path / "b", base_port=65_533)
    LocalCluster.create(tmp_path / "c")
    with pytest.raises(LocalClusterError, match="holds a cluster already"):
        LocalCluster.create(tmp_path / "c")
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalClusterError, match="cannot make the folder"):
        LocalCluster.create(tmp_path / "file" / "d")
    with pytest.raises(NoCluster):
        LocalCluster.load(tmp_path / "file" / "d")
    with pytest.raises(LocalClusterError, match="there is no node 4: this cluster has 1, 2, 3"):
        LocalCluster.load(tmp_path / "c").start_node(4)
    with pytest.raises(LocalClusterError, match="node-1 does not run"):
        LocalCluster.load(tmp_path / "c").kill_node(1)
