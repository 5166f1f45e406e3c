"""``synod up --chaos``: harm that a cluster must bear without a pause, judged while it goes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from synod.chaos import live as lives
from synod.chaos.judge import Verdict
from synod.chaos.live import Live, Violated, harm
from synod.chaos.schedule import MILD, rounds
from synod.local import LocalCluster
from synod.local_state import free_ports

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 150.0


@pytest.mark.timeout(240)
def test_up_chaos_shows_a_verdict_of_each_episode_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synod", "up", "--chaos", "--seed", "1", "--agents", "0"]
    command += ["--dir", str(tmp_path / "c"), "--base-port", str(free_ports(4)[0])]
    up = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watchdog = threading.Timer(BOUND_S, up.kill)
    watchdog.start()
    assert up.stdout is not None
    lines: list[str] = []
    try:
        for line in up.stdout:
            lines.append(line)
            if line.startswith("episode 2:"):
                up.send_signal(signal.SIGINT)
        code = up.wait(BOUND_S)
    finally:
        watchdog.cancel()
        up.stdout.close()
        LocalCluster.load(tmp_path / "c").stop()
    output = "".join(lines)
    assert code == 0, output
    verdicts = [line for line in lines if line.startswith("episode ")]
    assert len(verdicts) >= 2, output
    assert all("all holds" in line for line in verdicts), output
    assert "Traceback" not in output
    assert not LocalCluster.load(tmp_path / "c").running()


def test_up_chaos_in_the_background_is_misuse(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "synod", "up", "--chaos", "--detach", "--dir", str(tmp_path / "c")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert done.returncode == 64
    assert "--chaos needs the foreground" in done.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("nodes", [3, 5])
def test_a_majority_is_never_down(nodes: int) -> None:
    drawn = [each for each in islice(rounds(1, nodes, MILD), 200) if lives._is_mild(each, nodes)]
    assert len(drawn) > 80
    assert {fault.kind for each in drawn for fault in each.faults} == set(MILD)
    for each in drawn:
        down = sum(len(fault.ranks) for fault in each.faults if fault.kind in ("kill", "pause"))
        assert down <= (nodes - 1) // 2
        assert not (len(each.faults) > 1 and any(f.kind == "rolling-restart" for f in each.faults))


def test_first_wrong_episode_ends_it_and_keeps_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = [Verdict("fine"), Verdict("bad", ["a commit was lost"])]

    async def episode(_cluster: Any, _live: Any, folder: Path, *_rest: Any) -> Verdict:
        folder.mkdir(parents=True)  # noqa: ASYNC240
        return verdicts.pop(0)

    monkeypatch.setattr(lives, "_episode", episode)
    cluster = LocalCluster.create(tmp_path / "c", nodes=3)
    said: list[str] = []
    with pytest.raises(Violated, match=r"episode 2 \(seed 9\): a commit was lost"):
        harm(cluster, 9, tell=said.append, is_tty=False)
    assert [line.partition(":")[0] for line in said] == ["episode 1", "episode 2"]
    assert "VIOLATED: a commit was lost" in said[1]
    assert [each.name for each in (cluster.folder / "chaos").iterdir()] == ["0002"]


def test_live_table_tells_the_verdicts() -> None:
    live = Live(seed=4, episodes=[(1, Verdict("")), (2, Verdict("", ["lost"]))])
    console = Console(width=120, record=True, file=(Path("/dev/null")).open("w"))  # noqa: SIM115
    console.print(lives._screen(live))
    console.file.close()
    shown = console.export_text()
    assert "seed 4" in shown
    assert "episode 1: all holds" in shown
    assert "episode 2: VIOLATED: lost" in shown
    assert "1 of 2 episodes hold every promise" in shown
