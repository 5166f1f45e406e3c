"""A command in a running container, with this terminal's input and output."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from agent.docker_api import DockerApi, DockerError, DockerRefused, Frames, NetworkStream
from agent.places import Place
from agent.process import beside_command
from cluster.ops import ClusterError

READ_BYTES = 1 << 16


class CannotAttach(ClusterError):
    """The command was not run."""


async def run_in(place: Place, container: str, command: Sequence[str], *, use_tty: bool) -> int:
    """Run a command in a task's container, or beside its process; return its exit code.

    Raises ``CannotAttach``.
    """
    if place.is_docker:
        return await _in_docker(place, container, command, use_tty)
    return await _beside_process(place, container, command)


async def _beside_process(place: Place, container: str, command: Sequence[str]) -> int:
    """It inherits this process's own terminal, and is in its foreground: Ctrl-C is the command's."""
    folder = place.process_folder(container)
    if not (folder / "process.json").exists() or (folder / "exit.json").exists():
        raise CannotAttach(f"container {container} of task {place.task} does not run")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command has its default again
    try:
        code = await trio.to_thread.run_sync(subprocess.call, beside_command(folder, command))
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


async def _in_docker(place: Place, container: str, command: Sequence[str], use_tty: bool) -> int:
    [name] = [
        name for name, each in zip(place.docker_names(), place.containers, strict=True) if each == container
    ]
    api = DockerApi(place.socket)
    try:
        config = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": use_tty,
            "Cmd": list(command),
            "Env": [f"TERM={os.environ['TERM']}"] if use_tty and "TERM" in os.environ else [],
        }
        exec_id = await api.exec_create(name, config)
        async with api.exec_attach(exec_id, tty=use_tty) as stream:
            with _raw_terminal() if use_tty else _as_it_is():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_send_input, stream)
                    if use_tty:
                        nursery.start_soon(_follow_size, api, exec_id)
                    await _print_output(stream, use_tty)
                    nursery.cancel_scope.cancel()
        return int((await api.exec_inspect(exec_id))["ExitCode"])
    except DockerRefused as refused:
        raise CannotAttach(f"container {container} of task {place.task}: {refused}") from refused
    except DockerError as error:
        raise CannotAttach(str(error)) from error
    finally:
        await api.aclose()


async def _print_output(stream: NetworkStream, is_raw: bool) -> None:
    frames = Frames()
    while data := await stream.read(READ_BYTES):
        if is_raw:
            os.write(1, data)
        else:
            for output in frames.feed(data):
                os.write(2 if output.is_error else 1, output.data)


async def _send_input(stream: NetworkStream) -> None:
    """Send what comes in until its end, and tell the command of that end."""
    while True:
        try:
            # A read of a terminal cannot be cancelled: its thread is left behind when we go.
            data = await trio.to_thread.run_sync(os.read, 0, READ_BYTES, abandon_on_cancel=True)
        except OSError:
            data = b""
        if not data:
            stream.get_extra_info("socket").shutdown(socket.SHUT_WR)
            return
        await stream.write(data)


async def _follow_size(api: DockerApi, exec_id: str) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        while True:
            size = os.get_terminal_size(0)
            try:
                await api.exec_resize(exec_id, size.lines, size.columns)
            except DockerRefused:
                pass  # it has ended
            await anext(changes)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)  # what was typed ahead is not dropped
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
