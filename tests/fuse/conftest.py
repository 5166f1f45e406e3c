"""FUSE disks, and clusters on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from synod.chaos.fuse.disk import FuseDisk, FuseMissing, python
from tests.chaos.conftest import Chaos
from tests.fuse.cluster import plan


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], dict[int, FuseDisk]]]:
    """Mount disks that end with the module. Skips where there is no FUSE: in CI a failure, as any skip."""
    try:
        python()
    except FuseMissing as missing:
        pytest.skip(str(missing))
    with ExitStack() as stack:

        def mount(count: int) -> dict[int, FuseDisk]:
            folder = tmp_path_factory.mktemp("disks")
            made = {}
            for number in range(1, count + 1):
                made[number] = FuseDisk(folder / f"disk-{number}", log=folder / f"disk-{number}.log")
                stack.callback(made[number].unmount)
            return made

        yield mount


@pytest.fixture
def stormy(tmp_path: Path, disks: Callable[[int], dict[int, FuseDisk]]) -> Iterator[Callable[..., Chaos]]:
    """Start clusters with recorded clients; ``program`` is what runs as a node."""
    made: list[Chaos] = []

    def start(program: Sequence[str] = ("-m", "synod")) -> Chaos:
        chaos = Chaos(tmp_path, 3, plan(tmp_path, disks(3), program))
        made.append(chaos)
        return chaos

    yield start
    for one in made:
        one.clean_up()
