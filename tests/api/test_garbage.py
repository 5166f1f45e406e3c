"""Whatever comes over the wire is answered or hung up on: never a traceback, never a dead process."""

from __future__ import annotations

import json
import random
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.model import operations
from synod.local_api import health
from tests.api.test_shapes import dummy
from tests.api.world import Served, address_of, start_api, stop_process

TARGET = "AmazonEC2ContainerServiceV20141113"
HERE = "garbage"
"""The cluster that all of this happens to: the other tests' stay as they are."""
GOOD = (
    b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: AmazonEC2ContainerServiceV20141113.ListClusters\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)


def post(served: Served, target: str | None, body: bytes, **headers: str) -> httpx.Response:
    given = {"X-Amz-Target": target} if target else {}
    return httpx.post(f"http://{served.endpoints[0]}/", content=body, headers={**given, **headers})


def test_errors_have_ecs_form(served: Served) -> None:
    for target, body, code, status in (
        (None, b"{}", "UnknownOperationException", 400),
        (f"{TARGET}.MakeCoffee", b"{}", "UnknownOperationException", 400),
        (f"{TARGET}.CreateGateway", b"{}", "UnsupportedFeatureException", 400),
        (f"{TARGET}.ListClusters", b"{", "SerializationException", 400),
        (f"{TARGET}.ListClusters", b'{"maxResults":"x"}', "InvalidParameterException", 400),
        (f"{TARGET}.RunTask", b"{}", "InvalidParameterException", 400),
        (f"{TARGET}.DescribeTasks", b'{"cluster":"none","tasks":["a"]}', "ClusterNotFoundException", 400),
    ):
        answer = post(served, target, body)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/x-amz-json-1.1"
        assert len(answer.headers["x-amzn-requestid"]) == 36
        assert answer.json()["__type"] == code
        assert answer.json()["message"]


def test_every_operation_of_the_model_is_served_or_refused(served: Served) -> None:
    """With nothing but its required members; a fault of ours would be an answer of 500."""
    post(served, f"{TARGET}.CreateCluster", json.dumps({"clusterName": HERE}).encode())
    for name, operation in operations().items():
        params = {**dummy(operation.input), **_here(operation.input)}
        answer = post(served, f"{TARGET}.{name}", json.dumps(params).encode())
        assert answer.status_code in (200, 400), f"{name}: {answer.text}"


def test_the_limits_of_a_request(served: Served) -> None:
    answer = post(served, f"{TARGET}.ListClusters", b" " * (1024 * 1024 + 1))
    assert answer.status_code == 413
    assert post(served, f"{TARGET}.ListClusters", b" " * (1024 * 1024)).status_code == 200
    with socket.create_connection(_where(served)) as stream:
        stream.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"a" * 100_000)
        said = stream.recv(4096)
        assert said.startswith(b"HTTP/1.1 431 ") and b"x-amzn-requestid: " in said.lower()
    assert httpx.get(f"http://{served.endpoints[0]}/nowhere").status_code == 404
    alive = httpx.get(f"http://{served.endpoints[0]}/livez")
    assert (alive.text, len(alive.headers["x-amzn-requestid"])) == ("ok\n", 36)
    assert httpx.put(f"http://{served.endpoints[0]}/").status_code == 400


def test_a_connection_serves_many_requests_and_pipelined_ones(served: Served) -> None:
    with socket.create_connection(_where(served)) as stream:
        stream.settimeout(20)
        stream.sendall(GOOD * 5)
        said = b""
        while said.count(b"HTTP/1.1 200 OK") < 5 or said.count(b"clusterArns") < 5:
            piece = stream.recv(65_536)
            assert piece, said
            said += piece
    with httpx.Client() as client:
        for _ in range(20):
            answer = client.post(
                f"http://{served.endpoints[0]}/", headers={"X-Amz-Target": f"{TARGET}.ListClusters"}
            )
            assert answer.status_code == 200


def _where(served: Served) -> tuple[str, int]:
    host, _, port = served.endpoints[0].rpartition(":")
    return host, int(port)


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_no_request(served: Served, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(60):
        with socket.create_connection(_where(served)) as stream:
            stream.settimeout(20)
            try:
                stream.sendall(_garbage(rng))
                if rng.random() < 0.3:  # gone without a goodbye
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    continue
                stream.shutdown(socket.SHUT_WR)
                while stream.recv(65_536):
                    pass
            except OSError:
                pass
    assert health(served.endpoints[0], 10) == "ok"
    _no_bug(served.logs[0])


def _garbage(rng: random.Random) -> bytes:
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(1, 3000))
        case 1:
            harmed = bytearray(GOOD)
            for _ in range(rng.randrange(1, 6)):
                harmed[rng.randrange(len(harmed))] = rng.randrange(256)
            return bytes(harmed)
        case 2:
            return GOOD[: rng.randrange(len(GOOD))]
        case 3:
            return GOOD.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked")[:-2] + b'5\r\n{"a":\r\nz'
        case 4:
            return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(100)
    return b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + rng.randbytes(
        50
    )


@pytest.mark.parametrize("seed", range(2))
def test_parameters_that_make_no_sense(served: Served, seed: int) -> None:
    """Values of the right types and of wrong ones, for all operations: 200 or 400, never 500."""
    rng = random.Random(seed)
    names = sorted(operations())
    with httpx.Client(base_url=f"http://{served.endpoints[0]}") as client:
        for number in range(250):
            if number % 25 == 0:  # now and then one of the calls deletes it
                target = {"X-Amz-Target": f"{TARGET}.CreateCluster"}
                client.post("/", content=json.dumps({"clusterName": HERE}), headers=target)
            name = rng.choice(names)
            shape = operations()[name].input
            body = json.dumps({**_value(rng, shape, 0), **_here(shape)})
            answer = client.post("/", content=body, headers={"X-Amz-Target": f"{TARGET}.{name}"})
            assert answer.status_code in (200, 400), f"{name} {body[:500]}: {answer.text}"
            assert "null" not in answer.text or answer.status_code == 400
    _no_bug(served.logs[0])


def _here(shape: Any) -> dict[str, str]:
    """Return what keeps a call to this module's own cluster."""
    return {"cluster": HERE} if "cluster" in shape.members else {}


TEXTS = (
    "garbage",
    "",
    "a",
    "garbage-1",
    "web:1",
    "x" * 300,
    "arn:aws:ecs:us-east-1:123456789012:task/a/b",
    "ä\0",
)


def _value(rng: random.Random, shape: Any, depth: int) -> Any:
    """Return a value for a shape; now and then one that does not fit."""
    if depth > 0 and rng.random() < 0.03:
        return rng.choice([None, 1, "x", [], {}, True, -1.5])
    match shape.type_name:
        case "structure":
            required = set(shape.required_members)
            names = [n for n in shape.members if n in required or rng.random() < (0.4 if depth < 3 else 0.1)]
            return {name: _value(rng, shape.members[name], depth + 1) for name in names}
        case "list":
            return [_value(rng, shape.member, depth + 1) for _ in range(rng.choice([0, 1, 1, 2]))]
        case "map":
            return {rng.choice(TEXTS): _value(rng, shape.value, depth + 1)}
        case "boolean":
            return rng.random() < 0.5
        case "string":
            allowed = shape.metadata.get("enum")
            return rng.choice(allowed) if allowed else rng.choice(TEXTS)
        case "double" | "timestamp":
            return rng.choice([0, 1.5, -1, 1e300])
    return rng.choice([0, 1, 2, 100, -1, 2**31 - 1])


def _no_bug(log: Path) -> None:
    said = log.read_text()
    assert "Traceback" not in said and "api.bug" not in said, said[-4000:]


def test_reset_is_refused_unless_it_is_allowed(served: Served) -> None:
    answer = httpx.post(f"http://{served.endpoints[1]}/_synod/reset")
    assert (answer.status_code, answer.json()["__type"]) == (400, "AccessDeniedException")


def test_a_client_that_does_not_read_does_not_hold_up_the_end(served: Served, tmp_path: Path) -> None:
    process: subprocess.Popen[bytes] = start_api(served.cluster, tmp_path, "api")
    try:
        host, _, port = address_of(process, tmp_path, "api").rpartition(":")
        with (
            socket.create_connection((host, int(port))) as silent,
            socket.create_connection((host, int(port))),
        ):
            silent.sendall(GOOD[:50])
            assert stop_process(process) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
