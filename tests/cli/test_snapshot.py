"""Saving a running cluster, starting a new one from the file, and whether to trust either."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from synod.local import LocalCluster
from tests.cli.conftest import FAST, READY_S, Synod


def revision(text: str) -> int:
    return int(text.split()[1])


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@contextlib.contextmanager
def started(commands: Sequence[str]) -> Iterator[None]:
    """Run the commands that `synod snapshot restore` printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *shlex.split(command), *FAST],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            assert process.wait(timeout=20) == 0


@pytest.mark.usefixtures("here")
def test_save_and_restore_into_a_new_cluster_at_two_points_in_time(
    synod: Synod, cluster: LocalCluster, tmp_path: Path
) -> None:
    synod("put", "snap/a", "first")
    middle = revision(synod("put", "snap/b", "1").out)
    synod("put", "snap/a", "second")
    last = revision(synod("del", "snap/b").out)

    file = tmp_path / "saved.synod"
    saved = synod("snapshot", "save", str(file), "--json").json
    assert saved["revision"] >= last and saved["cluster"] == cluster.cluster_id
    assert saved["bytes"] == file.stat().st_size
    assert synod("snapshot", "save", str(file)).code == 64, "nothing is overwritten"
    whole = synod("verify", str(file))
    assert whole.code == 0 and "whole" in whole.out

    ports = free_ports(3)
    members = ",".join(f"{node}=127.0.0.1:{port}" for node, port in enumerate(ports, 1))
    endpoints = ",".join(f"127.0.0.1:{port}" for port in ports)
    folder = tmp_path / "restored"
    restored = synod(
        "snapshot", "restore", str(file), "--dir", str(folder), "--members", members, "--json"
    ).json
    assert restored["cluster"] != cluster.cluster_id and len(restored["commands"]) == 3
    there = ("--endpoints", endpoints, "--cluster", restored["cluster"], "--timeout", "20")
    with started(restored["commands"]):
        deadline = time.monotonic() + READY_S
        while synod("put", "snap/c", "new", *there).code != 0:
            assert time.monotonic() < deadline
        assert synod("get", "snap/a", *there).out == "second"
        assert synod("get", "snap/b", "--at", str(middle), *there).out == "1", "its history is there"
        assert synod("get", "snap/a", "--endpoints", endpoints, "--cluster", cluster.cluster_id).code != 0
    checked = synod("verify", str(folder))
    assert checked.code == 0 and checked.out.count("whole") == 3

    past = synod(
        "snapshot", "restore", str(file), "--dir", str(tmp_path / "past"), "--revision", str(middle),
        "--members", f"1=127.0.0.1:{ports[0]}",
    )  # fmt: skip
    [command] = re.findall(r"^  (synod node .*)$", past.out, re.M)
    name = command.split()[-1]
    one = ("--endpoints", f"127.0.0.1:{ports[0]}", "--cluster", name, "--timeout", "20")
    with started([command]):
        assert synod("get", "snap/a", *one).out == "first"
        assert synod("get", "snap/b", *one).out == "1"
        assert revision(synod("put", "snap/b", "2", *one).out) == middle + 1


@pytest.mark.usefixtures("here")
def test_a_revision_whose_history_is_gone_is_refused(
    synod: Synod, cluster: LocalCluster, tmp_path: Path
) -> None:
    first = revision(synod("put", "kept/a", "1").out)
    kept = revision(synod("put", "kept/a", "2").out)
    last = revision(synod("put", "kept/a", "3").out)
    assert synod("compact", str(kept)).code == 0
    file = tmp_path / "saved.synod"
    saved = synod("snapshot", "save", str(file), "--json").json
    for wanted, why in ((first, f"revision {first} is compacted"), (saved["revision"] + 1, "in the future")):
        done = synod(
            "snapshot", "restore", str(file), "--dir", str(tmp_path / "no"), "--revision", str(wanted)
        )
        assert done.code == 1 and why in done.err and str(wanted) in done.err, done.err
    assert not list((tmp_path / "no").glob("*")), "nothing is left of what was refused"
    # The oldest revision that is kept can be had, and so can those since.
    [port] = free_ports(1)
    for wanted, value in ((kept, "2"), (last, "3")):
        folder = tmp_path / f"at-{wanted}"
        options = ("--revision", str(wanted), "--members", f"1=127.0.0.1:{port}", "--json")
        restored = synod("snapshot", "restore", str(file), "--dir", str(folder), *options).json
        assert restored["revision"] == wanted and restored["cluster"] != cluster.cluster_id
        there = ("--endpoints", f"127.0.0.1:{port}", "--cluster", restored["cluster"], "--timeout", "20")
        with started(restored["commands"]):
            assert synod("get", "kept/a", *there).out == value
            assert synod("get", "kept/a", "--at", str(first), *there).code == 1
        assert synod("verify", str(folder)).code == 0


@pytest.mark.usefixtures("here")
def test_diff(synod: Synod) -> None:
    first = revision(synod("put", "diff/gone", "x").out)
    synod("put", "diff/changed", "1")
    synod("put", "diff/back", "1")
    start = revision(synod("put", "diff/other", "1").out)
    synod("put", "diff/changed", "2")
    synod("del", "diff/gone")
    synod("put", "elsewhere", "2")
    end = revision(synod("put", "diff/made", "new").out)
    found = synod("diff", str(start), str(end), "--prefix", "diff/", "--json").json
    shown = {
        change["key"]: tuple(side and side["value"] for side in (change["before"], change["after"]))
        for change in found["changes"]
    }
    assert shown == {"diff/changed": ("1", "2"), "diff/gone": ("x", None), "diff/made": (None, "new")}
    backwards = synod("diff", str(end), str(start), "--prefix", "diff/", "--json").json["changes"]
    assert {change["key"] for change in backwards} == set(shown)
    table = synod("diff", str(first), str(end)).out
    assert re.search(r"^\+ +diff/made", table, re.M) and re.search(r"^- +diff/gone", table, re.M)
    assert "nothing differs" in synod("diff", str(end), str(end)).out
    future = synod("diff", "1", "99999999")
    assert future.code == 1 and "future" in future.err


@pytest.mark.usefixtures("here")
def test_verify_says_what_is_damaged(synod: Synod, cluster: LocalCluster, tmp_path: Path) -> None:
    locked = synod("verify", str(cluster.node_folder(1)))
    assert locked.code == 1 and "locked" in locked.err
    file = tmp_path / "saved.synod"
    synod("put", "verify/a", "x")
    synod("snapshot", "save", str(file))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(bytes(data))
    damaged = synod("verify", str(file))
    assert damaged.code == 1 and "DAMAGED: at byte" in damaged.out
    report = synod("verify", str(file), "--json").json
    assert report["ok"] is False and report["reports"][0]["findings"]
    refused = synod("snapshot", "restore", str(file), "--dir", str(tmp_path / "new"))
    assert refused.code == 1 and "damaged" in refused.err
    assert not list((tmp_path / "new").glob("*"))
    assert synod("verify", str(tmp_path / "nothing")).code == 64


def test_restore_says_what_it_needs(synod: Synod, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"not a snapshot")
    done = synod("snapshot", "restore", str(file), "--dir", str(tmp_path / "new"))
    assert done.code == 1 and "does not begin like a snapshot" in done.err
    options = ("snapshot", "restore", str(file), "--dir", str(tmp_path / "new"))
    assert synod(*options, "--only", "1").code == 64
    assert synod(*options, "--only", "9", "--cluster", "c").code == 64
    assert synod("snapshot", "restore", str(tmp_path / "none"), "--dir", str(tmp_path / "new")).code == 1
