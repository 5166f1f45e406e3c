"""What the tests of the edge share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from journal.rpc import outgoing
from journal.rpc.direct import client
from tests.rpc.harness import way


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is not to decide which way a test goes."""
    monkeypatch.setattr(outgoing, "OPEN_S", 15.0)
    monkeypatch.setattr(client, "OPEN_S", 15.0)


@pytest.fixture(params=[False, True], ids=["grpc", "direct"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with nodes that have no direct port, and with nodes that do."""
    way.direct = request.param
    yield
    way.direct = True
