"""``synod up --api-port``: the ECS API as a process of the local cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

from synod.local import LocalCluster
from synod.local_api import health
from synod.local_state import free_ports
from tests.cli.conftest import Synod


def test_the_api_comes_and_goes_with_the_cluster(tmp_path: Path, synod: Synod) -> None:
    folder, [port] = tmp_path / "cluster", free_ports(1)
    [base] = free_ports(1)
    size = ("--nodes", "1", "--agents", "0", "--base-port", str(base))
    try:
        done = synod("up", "--detach", "--dir", str(folder), *size, "--api-port", str(port))
        assert done.code == 0, done.err
        assert f"ECS API  http://127.0.0.1:{port}" in done.out
        shown = json.loads(synod("status", "--dir", str(folder), "--json").out)["api"]
        assert (shown["endpoint"], shown["health"]) == (f"127.0.0.1:{port}", "ok")

        # Killed, it is started again, where it was, by whoever starts the cluster again.
        cluster = LocalCluster.load(folder)
        cluster.kill("api")
        assert json.loads(synod("status", "--dir", str(folder), "--json").out)["api"]["health"] == "down"
        assert synod("up", "--detach", "--dir", str(folder)).code == 0
        assert health(f"127.0.0.1:{port}", 5) == "ok"
        assert cluster.running()["api"] != shown["pid"]

        refused = synod("up", "--detach", "--dir", str(folder), "--api-port", str(port + 1))
        assert refused.code == 1
        assert f"the API runs already, on port {port}" in refused.err

        assert synod("up", "--detach", "--dir", str(folder), "--api-port", "0").code == 0
        assert "api" not in json.loads(synod("status", "--dir", str(folder), "--json").out)
        assert synod("up", "--detach", "--dir", str(folder), "--api-port", str(port)).code == 0
        os.kill(cluster.running()["api"], signal.SIGSTOP)  # even one that does nothing is stopped
        assert synod("down", "--dir", str(folder)).code == 0
        assert cluster.running() == {}
        assert health(f"127.0.0.1:{port}", 1) != "ok"
    finally:
        LocalCluster.load(folder).kill_all()


def test_a_port_that_is_taken_is_said_so(tmp_path: Path, synod: Synod) -> None:
    folder = tmp_path / "cluster"
    [base] = free_ports(1)
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            size = ("--nodes", "1", "--agents", "0", "--base-port", str(base))
            done = synod("up", "--detach", "--dir", str(folder), *size, "--api-port", str(port))
        assert done.code == 1
        assert f"the API cannot listen on 127.0.0.1:{port}: another process has that port" in done.err
        assert LocalCluster.load(folder).running() == {}, "what was started is stopped again"
    finally:
        LocalCluster.load(folder).kill_all()


def test_wrong_options_of_the_program(synod: Synod) -> None:
    for option, value, said in (
        ("--account", "12", "account '12' is not 12 digits"),
        ("--listen", "8400", "listen '8400' is not host:port"),
        ("--region", "Us East", "region 'Us East' is not a name"),
        ("--heartbeat", "0", "0.5<=x<=86400"),
    ):
        done = synod("api", "--endpoints", "127.0.0.1:1", option, value)
        assert done.code == 64
        assert said in done.err
