"""A node as a program of its own: exit codes, signals, and logs without tracebacks."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from journal.errors import JournalError
from journal.offers import Offer, Put
from journal.paxos.membership import Member, Membership
from journal.rpc.connection import GrpcConnection, GrpcConnector
from journal.rpc.program import EXIT_REFUSED, EXIT_STOPPED, NodeOptions
from journal.types import NodeId
from tests.rpc.harness import batch

PROGRAM = """
import json, sys
from pathlib import Path
from journal.rpc.program import NodeOptions, run
options = json.loads(sys.argv[1])
options["dir"] = Path(options["dir"])
options["members"] = {int(node): endpoint for node, endpoint in options["members"].items()}
sys.exit(run(NodeOptions(**options)))
"""

DEADLINE_S = 30


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def options(folder: Path, **changed: Any) -> dict[str, Any]:
    endpoint = f"127.0.0.1:{free_port()}"
    return {
        "node": 1,
        "dir": str(folder / "node-1"),
        "listen": endpoint,
        "cluster": "c",
        "members": {"1": endpoint},
        "create": True,
        "election_timeout_s": 0.2,
        "heartbeat_interval_s": 0.05,
        **changed,
    }


@contextmanager
def node_process(told: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps(told)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; return (exit code, what was logged)."""
    out, err = process.communicate(timeout=DEADLINE_S)
    assert out == ""
    assert "Traceback" not in err
    return process.returncode, err


async def until_leading(connection: GrpcConnection) -> None:
    with trio.fail_after(DEADLINE_S):
        while True:
            try:
                if (await connection.status()).role == "leader":
                    return
            except JournalError:
                pass
            await trio.sleep(0.02)


def talk_to(endpoint: str, talk: Any) -> Any:
    async def main() -> Any:
        connector = GrpcConnector("c")
        try:
            connection = await connector.connect(endpoint)
            await until_leading(connection)
            return await talk(connection)
        finally:
            await connector.aclose()

    return trio.run(main)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_gracefully_and_what_it_said_is_kept(
    tmp_path: Path, number: signal.Signals
) -> None:
    told = options(tmp_path)
    with node_process(told) as process:
        offer = batch(Offer((Put(b"k", b"v"),)))
        assert talk_to(told["listen"], lambda connection: connection.submit(offer)) == [1]
        process.send_signal(number)
        code, log = end_of(process)
    assert code == EXIT_STOPPED
    assert "event='node.stopped'" in log
    with node_process({**told, "create": False}):
        assert talk_to(told["listen"], lambda connection: connection.submit(offer)) == [2]


def test_it_logs_json_if_told_so(tmp_path: Path) -> None:
    told = options(tmp_path, log_format="json")
    with node_process(told) as process:
        talk_to(told["listen"], lambda connection: connection.status())
        process.terminate()
        code, log = end_of(process)
    assert code == EXIT_STOPPED
    events = [json.loads(line) for line in log.splitlines()]
    assert {"rpc.listening", "leader.elected", "node.signal", "node.stopped"} <= {
        event["event"] for event in events
    }
    assert all(event["node"] == 1 for event in events)


def refused(told: dict[str, Any]) -> str:
    with node_process(told) as process:
        code, log = end_of(process)
    assert code == EXIT_REFUSED, log
    (line,) = log.splitlines()
    return line


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "the port is in use" in refused(options(tmp_path, listen=listen))


def test_an_empty_folder_without_create(tmp_path: Path) -> None:
    assert "holds no data" in refused(options(tmp_path, create=False))


def test_folders_of_others_and_of_a_live_node(tmp_path: Path) -> None:
    told = options(tmp_path)
    with node_process(told) as process:
        talk_to(told["listen"], lambda connection: connection.status())
        assert "lock" in refused({**told, "listen": f"127.0.0.1:{free_port()}"})
        process.terminate()
        assert end_of(process)[0] == EXIT_STOPPED
    assert "belongs to cluster 'c', not to 'other'" in refused({**told, "cluster": "other"})
    members = {"1": told["listen"], "2": "127.0.0.1:1"}
    assert "belongs to node 1, not to node 2" in refused({**told, "node": 2, "members": members})


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"node": 3}, "node 3 is not among the members [1]"),
        ({"listen": "nowhere"}, "must be host:port"),
        ({"cluster": ""}, "cluster must have 1 to 64 characters"),
        ({"election_timeout_s": 0.01}, "election_timeout_s"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    assert why in refused(options(tmp_path, **changed))


def test_options_give_a_valid_configuration(tmp_path: Path) -> None:
    def told(node: int, **more: Any) -> NodeOptions:
        return NodeOptions(node=node, dir=tmp_path, listen="h:2", cluster="c", **more)

    founder = told(1, members={1: "h:1"}, create=True)
    assert founder.config().endpoint == "h:1"
    assert founder.membership() == Membership((Member(NodeId(1), "h:1"),))
    assert told(1).membership() is None, "the folder knows"
    assert told(2, members={1: "h:1"}, join=True).config().endpoint == "h:2"
    for node, more, why in (
        (2, {"members": {1: "h:1"}, "create": True}, "not among"),
        (1, {"members": {1: "h:1"}, "join": True}, "not itself"),
        (1, {"join": True}, "must be told the present members"),
        (1, {"members": {1: "h:1"}, "join": True, "create": True}, "not both"),
    ):
        with pytest.raises(ValueError, match=why):
            told(node, **more).membership()


def test_later_members_do_not_change_history(tmp_path: Path) -> None:
    """The folder keeps the first membership: another one is warned about, and none is needed."""
    told = options(tmp_path)
    with node_process(told) as process:
        talk_to(told["listen"], lambda connection: connection.status())
        process.terminate()
        assert end_of(process)[0] == EXIT_STOPPED
    other = {"1": told["listen"], "2": "127.0.0.1:1", "3": "127.0.0.1:2"}
    for members, warnings in ((other, 1), ({}, 0)):
        with node_process({**told, "create": False, "members": members}) as process:
            status = talk_to(told["listen"], lambda connection: connection.status())
            assert [member.node for member in status.members] == [1]
            assert status.endpoint == told["listen"]
            process.terminate()
            code, log = end_of(process)
        assert code == EXIT_STOPPED
        assert log.count("node.members_ignored") == warnings
