"""The command line's form: help, faults in words, exit codes. No cluster runs here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from synod.cli.app import app, run
from synod.cli.failures import unwrap

HEAVY = ("grpc", "trio", "rich", "google.protobuf", "msgpack", "plyvel", "structlog", "psutil", "asyncio")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", sorted(commands(app)), ids=" ".join)
def test_every_command_says_what_it_does_with_examples(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"synod {' '.join(path)}" in text.partition("Examples:")[2]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    text = capsys.readouterr().out
    for name in app.commands:
        assert f"\n  {name} " in text


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom synod.cli.app import run\nrun(['--help'])\nrun(['put', '--help'])\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("HEAVY []\n"), done.stdout[-200:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stat"], "No such command 'stat'"),
        (["put", "key"], "Missing argument 'VALUE'"),
        (["scan", "--limit", "0"], "0 is not in the range"),
        (["get", "k", "--at", "x"], "'x' is not a valid integer"),
        (["get", "k", "--timeout", "0"], "0.0 is not in the range"),
        (["get", "k", "--endpoints", "nowhere"], "'nowhere' is not host:port"),
        (["get", "k", "--endpoints", "a:1,b:99999"], "'b:99999' is not host:port"),
        (["get", "k", "--endpoints", ","], "no endpoint in it"),
        (["get", "k", "--endpoints", "a:1", "--consistency", "eventual"], "'eventual' is none of"),
        (["scan", "p", "--start", "a", "--endpoints", "a:1"], "not both"),
        (["del", "p", "--prefix", "--expect", "3", "--endpoints", "a:1"], "does not go with --prefix"),
        (["put", "k", "[1]", "--map", "--endpoints", "a:1"], "--map takes a JSON object"),
        (["put", "k", "{", "--map", "--endpoints", "a:1"], "VALUE: is not JSON"),
        (["lease", "grant", "0.1", "--endpoints", "a:1"], "must be 0.5 to 86400, not 0.1"),
        (["lease", "grant", "nan", "--endpoints", "a:1"], "must be 0.5 to 86400, not nan"),
        (["offer", "/no/such/file", "--endpoints", "a:1"], "cannot read /no/such/file: No such file"),
        (["up", "--nodes", "0"], "0 is not in the range"),
        (["node", "--node", "1"], "Missing option"),
    ],
)
def test_misuse_is_64_and_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 64
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ("1", "'1' is not NODE=HOST:PORT"),
        ("x=a:1", "'x=a:1' is not NODE=HOST:PORT"),
        ("1=a", "'a' of node 1 is not host:port"),
        ("1=a:1,1=b:1", "node 1 is named twice"),
        ("1=a:1,2=a:1", "the same endpoint"),
        ("2=a:1", "does not name node 1 itself"),
    ],
)
def test_wrong_members_are_named(
    members: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--node", "1", "--dir", str(tmp_path), "--listen", "127.0.0.1:1", "--cluster", "c"]
    assert run(["node", *options, "--create", "--members", members]) == 64
    assert words in capsys.readouterr().err


def test_malformed_offers_name_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "offer.json"
    file.write_text('{"mutations": [\n  {"put": "a"}]}')
    assert run(["offer", str(file), "--endpoints", "a:1"]) == 64
    assert f"{file}: offer.mutations[0].value: is missing" in capsys.readouterr().err
    file.write_bytes(b'{"label": "\xff"}')
    assert run(["offer", str(file), "--endpoints", "a:1"]) == 64
    assert "byte 11 is not UTF-8 text" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["get", "k"], ["status"], ["down"], ["ps"], ["tail"], ["offer", "x"]])
def test_without_a_cluster_it_is_3_and_says_what_to_do(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--dir", str(tmp_path / "none")]) == 3
    err = capsys.readouterr().err
    assert "there is no cluster in" in err
    assert "`synod up`" in err


def test_faults_are_json_with_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["get", "k", "--json", "--dir", str(tmp_path)]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    error = json.loads(err)["error"]
    assert (error["kind"], error["code"]) == ("NoCluster", 3)
    assert run(["get", "--json"]) == 64
    assert json.loads(capsys.readouterr().err)["error"]["code"] == 64


def test_a_cluster_file_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "cluster": 1, "nodes": [3]}'):
        (tmp_path / "cluster.json").write_text(text)
        assert run(["status", "--dir", str(tmp_path)]) == 1
        assert "cannot be understood" in capsys.readouterr().err


def test_a_bug_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("synod.cli.cluster.load_local", broken)
    with pytest.raises(ZeroDivisionError):
        run(["down"])


def test_groups_of_one_are_unwrapped() -> None:
    inner = KeyError("x")
    assert unwrap(BaseExceptionGroup("", [ExceptionGroup("", [inner])])) is inner
    two = ExceptionGroup("", [inner, ValueError()])
    assert unwrap(two) is two
    interrupt = KeyboardInterrupt()
    assert unwrap(BaseExceptionGroup("", [inner, interrupt])) is interrupt
