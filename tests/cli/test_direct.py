"""The direct port of real nodes, as plain gRPC clients see it, also when a node dies under their calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from journal.rpc import methods
from journal.rpc.channels import channel_options
from journal.rpc.pb import journal_pb2 as pb
from synod.local import LocalCluster
from tests.cli.conftest import READY_S, Synod

PATIENT = ("--election-timeout-ms", "2000", "--heartbeat-interval-ms", "50")
"""A leader that hears of nobody stays one for so long: a call to it waits."""
DEADLINE_S = 20.0


def unary(channel: grpc.Channel, method: methods.Method) -> Any:
    return channel.unary_unary(
        method.path, request_serializer=methods.encode, response_deserializer=method.decode_reply
    )


def channel_to(cluster: LocalCluster, node: int) -> grpc.Channel:
    return grpc.insecure_channel(cluster.direct_endpoint(node), options=channel_options())


def put(key: bytes, *, client: bytes = b"", base: int = 0) -> pb.SubmitRequest:
    offer = pb.Offer(sequence=1, mutations=[pb.Mutation(put=pb.Put(key=key, value=b"v"))])
    return pb.SubmitRequest(batch=pb.Batch(client=client, base=base, offers=[offer]))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalCluster]:
    cluster = LocalCluster.create(tmp_path / "own", nodes=3, node_args=PATIENT)
    cluster.start()
    try:
        cluster.wait_ready(READY_S)
        yield cluster
    finally:
        cluster.kill_all()


def test_status_says_where_each_nodes_direct_port_is(synod: Synod, here: LocalCluster) -> None:
    nodes = synod("status", "--json").json["nodes"]
    assert [node["direct"] for node in nodes] == here.direct_endpoints
    for node, endpoint in zip(nodes, here.direct_endpoints, strict=True):
        with grpc.insecure_channel(endpoint, options=channel_options()) as channel:
            status = unary(channel, methods.STATUS)(pb.StatusRequest(), timeout=DEADLINE_S)
        assert (status.node, status.pid) == (node["node"], node["pid"])


def test_a_follower_says_who_leads(here: LocalCluster) -> None:
    leader = here.leader()
    assert leader is not None
    follower = next(node for node in here.nodes if node != leader)
    with channel_to(here, follower) as channel, pytest.raises(grpc.RpcError) as failed:
        unary(channel, methods.SUBMIT_ONCE)(put(b"unary/follower"), timeout=DEADLINE_S)
    error: Any = failed.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    trailers = dict(error.trailing_metadata())
    assert trailers["synod-leader"] == str(leader)
    assert trailers["synod-leader-endpoint"] == here.endpoint(leader)


def test_a_node_that_is_killed_leaves_its_calls_unknown_and_an_id_settles_them(own: LocalCluster) -> None:
    leader = own.leader()
    assert leader is not None
    followers = [node for node in own.nodes if node != leader]
    with channel_to(own, leader) as channel:
        base = unary(channel, methods.GET)(pb.GetRequest(), timeout=DEADLINE_S).revision
        request = put(b"unary/killed", client=b"plain", base=base)
        for node in followers:
            own.pause_node(node)  # nothing is committed, so the calls wait
        waiting = [
            unary(channel, methods.SUBMIT_ONCE).future(request, timeout=DEADLINE_S),
            unary(channel, methods.GET).future(pb.GetRequest(keys=[b"k"]), timeout=DEADLINE_S),
        ]
        status = unary(channel, methods.STATUS)
        while not status(pb.StatusRequest(), timeout=DEADLINE_S).offers_inflight:
            assert not any(call.done() for call in waiting)
        own.kill_node(leader)
        for call in waiting:
            assert call.exception().code() is grpc.StatusCode.UNAVAILABLE
    for node in followers:
        own.resume_node(node)
    own.start_node(leader)
    own.wait_ready(READY_S)
    after = own.leader()
    assert after is not None
    with channel_to(own, after) as channel:
        submit = unary(channel, methods.SUBMIT_ONCE)
        first, again = (submit(request, timeout=DEADLINE_S) for _ in range(2))
        assert first == again
        (record,) = unary(channel, methods.GET)(pb.GetRequest(keys=[b"unary/killed"])).records
        assert (record.mod, record.version) == (first.verdicts.verdicts[0].accepted, 1)
