"""What went wrong, as an exit code and as words for a person. No traceback for expected faults."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any

import click

DONE = 0
FAILED = 1
REJECTED = 2
UNAVAILABLE = 3
MISUSE = 64
INTERRUPTED = 130


class CommandFailed(Exception):
    """A command's expected fault. ``hint`` says what to do next."""

    def __init__(self, message: str, *, code: int = FAILED, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def misuse(message: str, hint: str = "") -> CommandFailed:
    """Return the fault of malformed input: its message names the place."""
    return CommandFailed(message, code=MISUSE, hint=hint)


def code_of(error: BaseException) -> int | None:
    """Return the exit code of an expected fault; None for a bug of ours."""
    match error:
        case CommandFailed():
            return error.code
        case click.UsageError():
            return MISUSE
        case click.ClickException():
            return FAILED
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
    return _code_of_library_error(error)


def _code_of_library_error(error: BaseException) -> int | None:
    """Look an error up by the names of its class and bases: finding out must not import anything."""
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] in (
            "journal",
            "cluster",
            "schedulers",
            "agent",
            "synod",
            "trio",
        ):
            code = _CODES.get(kind.__name__)
            if code is not None:
                return code
    return FAILED if isinstance(error, OSError) else None


_CODES = {
    "InvalidRequest": MISUSE,
    "OfferRejected": REJECTED,
    "ChangeRefused": REJECTED,
    "OfferUnknown": UNAVAILABLE,
    "Unavailable": UNAVAILABLE,
    "Overloaded": UNAVAILABLE,
    "SpaceFull": UNAVAILABLE,
    "TooSlowError": UNAVAILABLE,
    "NoCluster": UNAVAILABLE,
    "NotReady": UNAVAILABLE,
    "LocalClusterError": FAILED,
    "JournalError": FAILED,
    "ClusterError": FAILED,
}


def unwrap(error: BaseException) -> BaseException:
    """Return the one error inside groups of one: a nursery wraps what its tasks raise."""
    while isinstance(error, BaseExceptionGroup):
        interrupts = [each for each in error.exceptions if isinstance(each, KeyboardInterrupt)]
        if not interrupts and len(error.exceptions) != 1:
            return error
        error = interrupts[0] if interrupts else error.exceptions[0]
    return error


def report(error: BaseException, code: int, as_json: bool) -> None:
    """Say on standard error what failed and what to do next."""
    if isinstance(error, click.UsageError) and not as_json:
        error.show()
        return
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        message = "interrupted"
    hint = getattr(error, "hint", "") or _hint(error)
    if as_json:
        fault: dict[str, Any] = {"kind": type(error).__name__, "code": code, "message": message}
        if hint:
            fault["hint"] = hint
        click.echo(json.dumps({"error": fault}), err=True)
        return
    click.echo(f"synod: {message or type(error).__name__}", err=True)
    if hint:
        click.echo(f"  {hint}", err=True)


_HINTS = {
    "NoCluster": "Start one with `synod up`, or name a running one with --endpoints or --dir.",
    "ChangeRefused": "Nothing was changed. `synod member list` shows who is a member, and how each is.",
    "NotCaughtUp": "Run the command again: it goes on from where things are.",
    "Unavailable": "`synod status` shows which nodes run and whether they have a leader.",
    "NotLeader": "`synod status` shows which nodes run and whether they have a leader.",
    "TooSlowError": "`synod status` shows which nodes run and whether they have a leader.",
    "Overloaded": "Try again a little later.",
    "SpaceFull": "Delete keys and compact, or give the disk more space; `synod status` shows the alarm.",
    "WrongCluster": "The endpoints belong to another cluster than the one that was named.",
    "RevisionInFuture": "`synod status` shows each node's present revision.",
    "TaskNotFound": "`synod ps --all` lists the tasks.",
    "TaskAmbiguous": "Give more letters of its id; `synod ps --all` lists the tasks.",
    "LeaseNotFound": "Grant a new one with `synod lease grant TTL`.",
}


def _hint(error: BaseException) -> str:
    for kind in type(error).__mro__:
        if kind.__name__ in _HINTS:
            return _HINTS[kind.__name__]
    return ""


def silence_standard_output() -> None:
    """Whoever read our output has gone (``synod tail | head``): drop what is still buffered."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
