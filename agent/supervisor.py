"""The supervisor of one container: a tiny process that outlives the agent.

Run as a script, ``python -I -S supervisor.py FOLDER``, and it imports the standard
library only: it must start fast, stay small, and not depend on what the agent becomes.
It starts the container's process in a group of its own, copies its output into the log
file, passes signals on, and writes down how it ended. All of it lives in FOLDER:

==================  ===================================================================
``spec.json``       what to run (written by the agent before it starts a supervisor)
``lock``            held for as long as the supervisor lives
``supervisor.json`` a supervisor began: from now on no other one ever will
``process.json``    the container's process, by pid and start time; written before it
                    runs a single instruction of its own
``exit.json``       how it ended; written whole or not at all, and never again
``log``, ``log.1``  its output, the newest and the piece before that
==================  ===================================================================

So a container starts once at most, whoever crashes when: a second supervisor finds the
lock or ``supervisor.json`` and goes; the process waits for a word from its supervisor
before it executes the command, so without ``process.json`` there is none.

SIGTERM to the supervisor is passed to the container's process group, SIGUSR1 becomes
SIGKILL. Only the supervisor, who is the parent, sends signals by pid: the pid cannot be
somebody else's as long as it has not been waited for.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

LOCK_TRIES = 40
LOCK_RETRY_S = 0.025
END_RETRY_S = 1.0
READ_BYTES = 65536
CHILD_SIGNALS = (
    signal.SIGPIPE,  # Python ignores it and SIGXFSZ, and what is ignored stays so in a program
    signal.SIGXFSZ,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGCHLD,
    signal.SIGINT,
    signal.SIGHUP,
)


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write a file whole or not at all, durably."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:  # noqa: PTH123  (pathlib costs start-up time)
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)  # noqa: PTH120
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def boot_id() -> str:
    """Return what tells one start of the machine from another: pids mean nothing across them."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """Return when a process started, in ticks since the machine did; None if there is none (or a zombie).

    A pid and its start time together name one process for as long as the machine is up.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            stat = file.read()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


class Log:
    """A log file that keeps between one and two times ``bytes_max`` of the newest output.

    A full disk, or whatever else the file system does, loses output and never the task.
    """

    def __init__(self, path: str, bytes_max: int) -> None:
        self.path = path
        self.bytes_max = max(bytes_max, 1)
        self.lost = False
        self.fd = -1
        self.size = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                if self.fd < 0:
                    self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                    self.size = os.fstat(self.fd).st_size
                if self.size >= self.bytes_max:
                    os.close(self.fd)
                    self.fd = -1
                    os.replace(self.path, self.path + ".1")  # noqa: PTH105
                    continue
                written = os.write(self.fd, view[: self.bytes_max - self.size])
                self.size += written
                view = view[written:]
            self.lost = False
        except OSError as error:
            if not self.lost:
                print(f"output is lost: {error}", file=sys.stderr, flush=True)
            self.lost = True


def refusal(error: OSError, spec: dict[str, Any]) -> tuple[str, int]:
    """Return why a command could not be started, in ECS's form, and the code that a shell would exit with."""
    command, folder = spec["argv"][0], spec["cwd"]
    if not os.path.isdir(folder):  # noqa: PTH112
        return f"CannotStartContainerError: working directory {folder}: {os.strerror(error.errno or 0)}", 126
    if error.errno == errno.ENOENT:
        return f"CannotStartContainerError: command not found: {command}", 127
    return f"CannotStartContainerError: {command}: {os.strerror(error.errno or 0)}", 126


def run_child(spec: dict[str, Any], go: int, output: int, failed: int) -> NoReturn:
    """Become the container's process: wait for a word, then execute. Runs in the forked child."""
    try:
        signal.set_wakeup_fd(-1)  # it is the supervisor's pipe
        os.setsid()
        if os.read(go, 1) != b"g":
            os._exit(125)  # the supervisor died before it wrote this process down
        devnull = os.open("/dev/null", os.O_RDONLY)
        os.dup2(devnull, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for number in CHILD_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.chdir(spec["cwd"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        os.write(failed, str(error.errno or 0).encode())
    except BaseException:
        os.write(failed, b"0")
    finally:
        os._exit(125)


def supervise(folder: str, ready: int) -> None:
    """Start the container of a folder and stay until it has ended."""
    with open(f"{folder}/spec.json", encoding="utf-8") as file:  # noqa: PTH123
        spec = json.load(file)
    if os.path.exists(f"{folder}/supervisor.json"):  # noqa: PTH110
        return
    # Signals are caught before anyone can know this pid.
    wake_out, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    os.set_blocking(wake_out, False)
    signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    write_json(
        f"{folder}/supervisor.json",
        {"pid": os.getpid(), "startTime": start_time(os.getpid()), "bootId": boot_id()},
    )
    go_out, go_in = os.pipe()
    output, child_output = os.pipe()
    failed, child_failed = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_in)
        os.close(failed)
        run_child(spec, go_out, child_output, child_failed)
    os.close(go_out)
    os.close(child_output)
    os.close(child_failed)
    started_at = time.time()
    process = {"pid": child, "startTime": start_time(child), "bootId": boot_id(), "startedAt": started_at}
    try:
        write_json(f"{folder}/process.json", process)
    except OSError as error:
        os.close(go_in)  # without the word the child ends
        os.waitpid(child, 0)
        write_end(folder, not_started(f"CannotStartContainerError: {error.strerror}", 126))
        return
    os.write(go_in, b"g")
    os.close(go_in)
    refused = os.read(failed, 16)  # ends at once when the command is executed
    if refused:
        os.waitpid(child, 0)
        write_end(folder, not_started(*refusal(OSError(int(refused), ""), spec)))
        return
    os.close(failed)
    os.write(ready, b"r")
    os.close(ready)

    code = pump(child, output, wake_out, Log(f"{folder}/log", spec["logBytesMax"]))
    write_end(folder, {"exitCode": code, "startedAt": started_at, "stoppedAt": time.time()})


def not_started(reason: str, code: int) -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "failedToStart": True, "stoppedAt": time.time()}


def write_end(folder: str, end: dict[str, Any]) -> None:
    """Write down how it ended, however long the disk is full: an exit code is not lost for that."""
    while True:
        try:
            write_json(f"{folder}/exit.json", end)
        except OSError as error:
            print(f"how it ended cannot be written yet: {error}", file=sys.stderr, flush=True)
            time.sleep(END_RETRY_S)
        else:
            return


def pump(child: int, output: int, wake: int, log: Log) -> int:
    """Copy output and pass signals on until the child has ended; return its exit code.

    Whatever of its process group is left then is killed, as with a container.
    """
    os.set_blocking(output, False)
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(output, select.POLLIN)
    is_open = True
    while True:
        events = dict(poll.poll())
        if output in events:
            is_open = _copy(output, log)
            if not is_open:
                poll.unregister(output)
        if wake in events:
            for number in os.read(wake, 4096):
                if number == signal.SIGTERM:
                    _signal_group(child, signal.SIGTERM)
                elif number == signal.SIGUSR1:
                    _signal_group(child, signal.SIGKILL)
            # WNOWAIT: until it is waited for, its pid, which is its group's, stays its own.
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
    _signal_group(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if is_open:
        while _copy(output, log, until_empty=True):
            pass
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _copy(output: int, log: Log, *, until_empty: bool = False) -> bool:
    """Copy one piece of output; False at its end (or, ``until_empty``, when there is none now)."""
    try:
        data = os.read(output, READ_BYTES)
    except BlockingIOError:
        return not until_empty
    if data:
        log.write(data)
    return bool(data)


def _signal_group(child: int, number: int) -> None:
    try:
        os.killpg(child, number)
    except ProcessLookupError:
        pass
    except OSError as error:  # a process that became another user's
        print(f"signal {number} was not sent: {error}", file=sys.stderr, flush=True)


def main(folder: str) -> None:
    lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT, 0o644)
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            time.sleep(LOCK_RETRY_S)  # an agent looks at the lock for a moment; a supervisor stays
    else:
        return
    supervise(folder, ready=3)


if __name__ == "__main__":
    os.set_inheritable(3, False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    main(sys.argv[1])
