"""A cluster of real processes, for what only gRPC and processes can show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from synod.local import LocalCluster


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes, shared by the tests of this folder: each keeps to keys of its own."""
    fast = ("--election-timeout-ms", "300", "--heartbeat-interval-ms", "50")
    cluster = LocalCluster.create(tmp_path_factory.mktemp("client"), nodes=3, node_args=fast)
    cluster.start()
    try:
        cluster.wait_ready(30.0)
        yield cluster
    finally:
        cluster.stop()
