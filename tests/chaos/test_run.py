"""The chaos run itself: its short form against real nodes, and each of its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from synod.chaos import faults
from synod.chaos.fuse.disk import FuseMissing
from synod.chaos.judge import judge
from synod.chaos.network import ChaosImpossible, enclosed, require
from synod.chaos.page import page
from synod.chaos.run import Options, main, with_or_without_fuse
from synod.chaos.schedule import BY_NAME, KINDS, LEADER, MILD, rounds
from synod.chaos.timeline import draw
from synod.history import check, load
from synod.history.report import Rule

ROOT = Path(__file__).resolve().parents[2]
SHORT_MINUTES = 0.5
SHORT_SEED = 3916
"""Draws a wiped node while links lose packets, a loss of power of all nodes, a split and a failing disk."""
BOUND_S = 30.0


def enclosed_python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an enclosure of its own, within a time."""
    return subprocess.run(
        enclosed([sys.executable, "-c", program]),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


# -- the whole ------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_short_run_on_real_nodes_holds_every_promise(tmp_path: Path) -> None:
    """Where this machine has no network namespaces it fails, with the words of ``require``."""
    folder = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "synod.chaos", "--dir", str(folder)]
    command += ["--minutes", str(SHORT_MINUTES), "--seed", str(SHORT_SEED)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert f"PASSED, seed {SHORT_SEED}" in done.stdout

    report = check(load([folder / "history.jsonl"]))  # one file, as another checker would get it
    assert report.ok, str(report)
    assert report.counts["accepted"] > 300
    assert report.counts["reads"] > 100
    assert report.counts["keep-alives"] > 5
    about = json.loads((folder / "run.json").read_text())
    assert about["ok"] is True
    assert about["rounds"] >= 3
    assert {"wipe", "power-loss"} <= {event["fault"] for event in faults_of(folder)}
    assert about["counts"]["invariants"] > 100
    html = (folder / "report.html").read_text()
    assert "PASSED" in html
    assert "<svg" in html


def faults_of(folder: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [event for event in events if event.get("phase") == "begin"]


# -- the schedule ------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [3, 5])
def test_schedule_is_the_same_for_the_same_seed(nodes: int) -> None:
    names = list(BY_NAME)
    one, same = (list(islice(rounds(7, nodes, names), 60)) for _ in range(2))
    assert one == same
    assert one != list(islice(rounds(8, nodes, names), 60))


def test_schedule_does_not_hang_on_the_hash_seed() -> None:
    program = (
        "from itertools import islice\nfrom synod.chaos.schedule import *\n"
        "print(*islice(rounds(3, 5, set(BY_NAME)), 30), sep='\\n')"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=BOUND_S,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1


def test_each_kind_comes_once_before_any_comes_again() -> None:
    drawn = [each.faults[0].kind for each in islice(rounds(5, 3, list(BY_NAME)), 2 * len(KINDS))]
    assert sorted(drawn[: len(KINDS)]) == sorted(drawn[len(KINDS) :]) == sorted(BY_NAME)


def test_faults_name_nodes_that_exist_and_last_within_their_bounds() -> None:
    for nodes in (3, 5, 7):
        for each in islice(rounds(1, nodes, list(BY_NAME)), 300):
            for fault in each.faults:
                low, high = BY_NAME[fault.kind].seconds
                assert low <= fault.for_s <= high
                assert set(fault.ranks) <= set(range(nodes))
                assert len(set(fault.ranks)) == len(fault.ranks) > 0
                if fault.kind == "split":
                    assert len(fault.ranks) <= (nodes - 1) // 2
                if fault.kind == "kill-majority":
                    assert len(fault.ranks) > nodes // 2


def test_the_leader_is_hit_more_often_than_by_chance() -> None:
    hit = [LEADER in fault.ranks for each in islice(rounds(1, 5, ["kill"]), 400) for fault in each.faults]
    assert sum(hit) / len(hit) > 0.4


def test_every_kind_that_is_drawn_can_be_done() -> None:
    assert set(faults.kinds()) <= set(BY_NAME)
    assert set(MILD) <= set(faults.kinds())
    assert not [name for name in MILD if BY_NAME[name].network]


# -- the enclosure ------------------------------------------------------------------------


def test_machine_without_the_commands_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synod.chaos.network.COMMANDS", {"no-such-command": "iproute2"})
    with pytest.raises(ChaosImpossible, match=r"chaos needs iproute2; .* apt-get install iproute2"):
        require()


def test_machine_that_forbids_namespaces_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synod.chaos.network.PROBE", "echo 'not here' >&2; false")
    with pytest.raises(ChaosImpossible, match=r"run it as root.*\n.*not here"):
        require()


CUTS = """
import subprocess, sys
from synod.chaos.network import *
network = Network([1, 2, 3])
network.make()
SEND = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\\n"
SEND += "for _ in range(20): s.sendto(sys.argv[2].encode(), (sys.argv[1], 5000))"
HEAR = "import socket, select; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5000))\\n"
HEAR += "print('up', flush=True); heard = set()\\n"
HEAR += "while True:\\n  word = s.recv(99).decode()\\n  if word == 'end': break\\n  heard.add(word)\\n"
HEAR += "print(*sorted(heard))"
def heard_by(node):
    "Everybody sends to node; return who was heard. The node's own word, over lo, ends it."
    hear = subprocess.Popen([*inside(node), sys.executable, "-c", HEAR], stdout=subprocess.PIPE, text=True)
    hear.stdout.readline()
    for other in (0, 1, 2, 3):
        if other != node:
            prefix = inside(other) if other else []
            subprocess.run([*prefix, sys.executable, "-c", SEND, address(node), str(other)], check=True)
    subprocess.run([*inside(node), sys.executable, "-c", SEND, "127.0.0.1", "end"], check=True)
    return hear.communicate(timeout=10)[0].split()
print("whole", heard_by(1), heard_by(2))
network.cut({(2, 1): 1.0})
print("one way", heard_by(1), heard_by(2))
network.cut({(0, 2): 1.0, (3, 2): 1.0})
print("others", heard_by(1), heard_by(2))
network.heal()
print("healed", heard_by(1), heard_by(2))
"""


def test_cuts_stop_exactly_what_they_name() -> None:
    done = enclosed_python(CUTS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "whole ['0', '2', '3'] ['0', '1', '3']",
        "one way ['0', '3'] ['0', '1', '3']",
        "others ['0', '2', '3'] ['1']",
        "healed ['0', '2', '3'] ['0', '1', '3']",
    ]


def test_everything_ends_when_the_run_is_killed_and_nothing_was_visible_outside() -> None:
    program = (
        "import subprocess, sys; from synod.chaos.network import *\n"
        "Network([1]).make()\n"
        "subprocess.Popen([*inside(1), 'sleep', '300'], start_new_session=True)\n"
        "print('made', flush=True); sys.stdin.read()"
    )
    outer = subprocess.Popen(
        enclosed([sys.executable, "-c", program]),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert outer.stdout is not None
    assert outer.stdin is not None
    assert outer.stdout.readline() == b"made\n"
    inner = psutil.Process(outer.pid).children(recursive=True)
    assert len(inner) >= 2
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    assert "synod" not in links
    outer.kill()
    outer.wait(BOUND_S)
    _gone, alive = psutil.wait_procs(inner, timeout=BOUND_S)
    assert not alive
    outer.stdin.close()
    outer.stdout.close()


def test_small_disk_fills_and_empties(tmp_path: Path) -> None:
    program = (
        f"from pathlib import Path; from synod.chaos.disk import *\n"
        f"disk = SmallDisk(Path({str(tmp_path)!r}) / 'disk'); disk.mount()\n"
        "disk.fill(2**25); print(2**24 < disk.free_bytes() <= 2**25); disk.empty(); taken = disk.fill()\n"
        "assert DISK_BYTES // 2 < taken <= DISK_BYTES, taken\n"
        "try: (disk.folder / 'more').write_bytes(b'x' * 9000)\n"
        "except OSError as error: print(error.errno)\n"
        "disk.empty(); (disk.folder / 'more').write_bytes(b'x' * 9000); print('room')"
    )
    done = enclosed_python(program)
    assert done.stdout.split() == ["True", "28", "room"], done.stderr


def test_wall_clock_moves_and_the_monotonic_one_does_not(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text("0")
    program = (
        "import sys, time; from pathlib import Path; from synod.chaos.clock import move_clock\n"
        "file = Path(sys.argv[1]); move_clock(file); wall, mono = time.time(), time.monotonic()\n"
        "file.write_text('-3600'); print(round((time.time() - wall) / 60), time.monotonic() - mono < 60)\n"
        "file.write_text('86400'); print(round((time.time_ns() / 1e9 - wall) / 60))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=BOUND_S,
    )
    assert done.stdout.split() == ["-60", "True", "1440"]


def test_kinds_that_need_fuse_are_left_out_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise FuseMissing("no /dev/fuse")

    monkeypatch.setattr("synod.chaos.run.python", missing)
    wanted = Options(60.0, 1, 3, Path("/nowhere"), ("kill", "power-loss"))
    left_out = (["power-loss"], "no /dev/fuse")
    assert with_or_without_fuse(wanted) == (replace(wanted, kinds=("kill",)), left_out)
    for impossible in (replace(wanted, fuse="yes"), replace(wanted, kinds=("power-loss",))):
        with pytest.raises(FuseMissing):
            with_or_without_fuse(impossible)
    without = replace(wanted, kinds=("kill",))
    assert with_or_without_fuse(without) == (without, None)


# -- the verdict and the page --------------------------------------------------------------


def events() -> list[dict[str, Any]]:
    """A small run: two offers, one fault, two nodes, the end."""
    commit = [1, "aa", 1, "c/1", [["k", "v", 0]], 1]
    ms = 1_000_000
    tail = {"client": "end", "op": 1}
    kill = {"fault": "kill", "number": 1, "nodes": [2]}
    return [
        {"event": "begin", "format": "synod-history", "version": 1, "t": 0},
        {"event": "invoke", "client": "c", "op": 1, "t": 0, "kind": "offer", "label": "c/1"}
        | {"mutations": [{"put": "k", "value": "v"}]},
        {"event": "complete", "client": "c", "op": 1, "t": 20 * ms, "accepted": 1},
        {"event": "note", "t": 500 * ms, "text": "SIGKILL to <node 2>", "phase": "begin", **kill},
        {"event": "note", "t": 1500 * ms, "text": "end of kill", "phase": "end", **kill},
        {"event": "invoke", "client": "c", "op": 2, "t": 600 * ms, "kind": "offer", "label": "c/2"}
        | {"mutations": [{"delete": "x"}]},
        {"event": "complete", "client": "c", "op": 2, "t": 4000 * ms, "unknown": "nobody answered"},
        {"event": "invoke", **tail, "t": 5000 * ms, "kind": "tail", "after": 0, "final": True},
        {"event": "message", **tail, "t": 5100 * ms, "first": 1, "last": 1, "commits": [commit]},
        {"event": "complete", **tail, "t": 5200 * ms, "ended": True},
    ]


OFFER = {"kind": "offer", "label": "c/9", "mutations": [{"put": "k", "value": "v"}]}


def samples() -> list[dict[str, Any]]:
    ms = 1_000_000
    leading, following = {"state": "leader", "ballot": "1.1"}, {"state": "follower", "ballot": "1.1"}
    return [
        {"event": "sample", "t": 0, "nodes": {"1": leading, "2": following}},
        {"event": "sample", "t": 600 * ms, "nodes": {"1": leading, "2": {"state": "down"}}},
        {"event": "sample", "t": 1600 * ms, "nodes": {"1": leading, "2": following, "3": following}},
        {"event": "sample", "t": 2600 * ms, "nodes": {"1": leading, "2": following}},
    ]


def test_timeline_counts_what_was_recorded() -> None:
    timeline = draw(events(), samples())
    assert timeline.seconds == pytest.approx(5.2)
    assert sum(bucket.outcomes["accepted"] for bucket in timeline.buckets) == 1
    assert sum(bucket.outcomes["unknown"] for bucket in timeline.buckets) == 1
    assert timeline.latencies_s == [0.02]
    assert [(s.begin, s.end, s.what) for s in timeline.faults] == [(0.5, 1.5, "kill")]
    assert [(s.silence_s, s.back_s) for s in timeline.faults] == [(1.0, None)]
    assert [(s.what, s.begin) for s in timeline.states["2"]] == [
        ("follower", 0.0),
        ("down", 0.6),
        ("follower", 1.6),
    ]
    assert [(s.what, s.begin, s.end) for s in timeline.states["3"]] == [("follower", 1.6, 2.6)]


def test_timeline_says_how_long_harm_silenced_the_journal_and_what_each_kind_of_client_got() -> None:
    more = events()
    for number, (asked_ms, answered_ms) in enumerate([(700, 900), (1000, 1700)], 10):
        more.append({"event": "invoke", "client": "c-tail", "op": number, "t": asked_ms * 10**6} | OFFER)
        more.append(
            {"event": "complete", "client": "c-tail", "op": number, "t": answered_ms * 10**6, "accepted": 2}
        )
    timeline = draw(more, samples(), {"c": "bank"})
    [kill] = timeline.faults
    assert [kill.silence_s, kill.back_s] == pytest.approx([0.6, 0.2])
    bank = timeline.kinds["bank"]
    assert (bank.clients, bank.outcomes["accepted"], bank.outcomes["unknown"]) == ({"c"}, 3, 1)
    assert bank.latencies_s == pytest.approx([0.02, 0.2, 0.7])
    assert timeline.longest_gap_s == pytest.approx(0.88)


@pytest.mark.parametrize("good", [True, False])
def test_page_needs_nothing_else_and_escapes_what_it_shows(good: bool) -> None:
    about = {"ok": good, "seed": 5, "nodes": 3, "rounds": 1, "again": "make chaos SEED=5", "counts": {}}
    about |= {"problems": [] if good else ["node <2> ended"], "verdict": "all holds"}
    about |= {"rules": {"nothing <acknowledged> is lost": 0 if good else 3}}
    html = page(about, draw(events(), samples(), {"c": "bank"}))
    assert "transfers between accounts" in html
    assert ("violated 3 times" in html) is not good
    assert "nothing &lt;acknowledged&gt; is lost" in html
    assert ("PASSED" in html) is good
    assert ("node &lt;2&gt; ended" in html) is not good
    assert "SIGKILL to &lt;node 2&gt;" in html
    assert "<node 2>" not in html
    assert "make chaos SEED=5" in html
    outside = html.replace("http://www.w3.org/2000/svg", "")
    assert "http" not in outside
    assert "src=" not in outside
    assert "NaN" not in html


def test_page_of_a_run_without_any_operation_says_so() -> None:
    about = {"ok": False, "seed": 5, "nodes": 3, "rounds": 0, "again": "", "counts": {}}
    assert "Nothing was recorded" in page(about | {"problems": ["x"], "verdict": ""}, draw([], []))


def _judged(folder: Path, lines: list[dict[str, Any]], problems: tuple[str, ...] = ()) -> Any:
    file = folder / "h.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return judge([file], problems)


def test_verdict_is_good_only_if_nothing_at_all_was_wrong(tmp_path: Path) -> None:
    assert _judged(tmp_path, events()).ok
    assert not _judged(tmp_path, events(), ("node 2 ended by itself",)).ok
    lost = events()
    lost[2]["accepted"] = 2
    verdict = _judged(tmp_path, lost)
    assert not verdict.ok
    assert "[LOST]" in verdict.text
    assert {rule for rule, count in verdict.rules.items() if count} >= {Rule.LOST.value}
    unjudgeable = _judged(tmp_path, events()[:-3])
    assert not unjudgeable.ok
    assert "no final tail" in unjudgeable.text
    wrong = events()
    wrong[1]["mutations"] = [{"put": "bank/0", "value": "7"}]
    wrong[-2]["commits"][0][4] = [["bank/0", "7", 0]]
    assert "invariants: VIOLATED" in _judged(tmp_path, wrong).text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "x"], "'x' is no whole number"),
        (["--kinds", "kill,dance"], "there is no kind 'dance'"),
        (["--minutes", "0"], "between 0.1 and 600"),
    ],
)
def test_wrong_arguments_are_named(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err


def test_folder_with_something_in_it_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("keep")
    began = time.monotonic()
    assert main(["--dir", str(tmp_path), "--seed", "1"]) == 64
    assert "is not empty" in capsys.readouterr().err
    assert time.monotonic() - began < BOUND_S
