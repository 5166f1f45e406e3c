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
==================  ===================================================================

Its output goes to the file that ``spec.json`` names, ``log``; older pieces are ``log.1`` and so on.
Called with ``--beside FOLDER COMMAND…`` it runs a command as if in the container: in its control
groups, with its user, limits, environment and working folder (health checks, ``synod exec``).

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
import resource
import select
import signal
import sys
import time
from typing import Any, NoReturn

LOCK_TRIES = 40
LOCK_RETRY_S = 0.025
END_RETRY_S = 1.0
READ_BYTES = 65536
FAILED_BYTES_MAX = 1024
GROUP_EMPTY_S_MAX = 2.0
"""How long killed processes may take to leave a control group."""
KILLED = 128 + signal.SIGKILL
OUT_OF_MEMORY = "OutOfMemoryError: Container killed due to memory usage"
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
    """The newest output in files of ``bytes_max`` each, ``files_max`` of them.

    A full disk, or whatever else the file system does, loses output and never the task.
    """

    def __init__(self, path: str, bytes_max: int, files_max: int) -> None:
        self.path = path
        self.bytes_max = max(bytes_max, 1)
        self.files_max = max(files_max, 1)
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
                    self.rotate()
                    continue
                written = os.write(self.fd, view[: self.bytes_max - self.size])
                self.size += written
                view = view[written:]
            self.lost = False
        except OSError as error:
            if not self.lost:
                print(f"output is lost: {error}", file=sys.stderr, flush=True)
            self.lost = True

    def rotate(self) -> None:
        """Put the file aside, and drop the oldest."""
        if self.files_max == 1:
            os.truncate(self.path, 0)
        for number in range(self.files_max - 1, 0, -1):
            older = self.path if number == 1 else f"{self.path}.{number - 1}"
            try:
                os.replace(older, f"{self.path}.{number}")  # noqa: PTH105
            except FileNotFoundError:
                pass  # there are not so many yet


def enter(spec: dict[str, Any]) -> None:
    """Become like the container's process: its groups, limits, working folder, user. Raises ``Refused``."""
    what = "control group"
    try:
        for procs in spec.get("cgroups", ()):
            with open(procs, "w", encoding="ascii") as file:  # noqa: PTH123
                file.write("0")
        for number, soft, hard in spec.get("limits", ()):
            what = f"ulimit {number} {soft}:{hard}"
            resource.setrlimit(number, (soft, hard))
        what = f"user {spec.get('user')}"
        if spec.get("user"):
            uid, gid, groups = spec["user"]
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
        what = f"working directory {spec['cwd']}"
        os.chdir(spec["cwd"])
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise Refused(f"{what}: {why}", 126) from None


def execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    """Execute a command in place of this process. Raises ``Refused``."""
    for number in CHILD_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise Refused(f"command not found: {argv[0]}", 127) from None
        raise Refused(f"{argv[0]}: {os.strerror(error.errno or 0)}", 126) from None


class Refused(Exception):
    """The container's process could not become what it should: why, and a shell's exit code for it."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code


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
        enter(spec)
        execute(spec["argv"], spec["env"])
    except Refused as refused:
        os.write(failed, f"{refused.code} {refused}".encode()[:FAILED_BYTES_MAX])
    except BaseException as error:
        os.write(failed, f"126 {error!r}".encode()[:FAILED_BYTES_MAX])
    finally:
        os._exit(125)


def beside(folder: str, argv: list[str]) -> NoReturn:
    """Run a command as if in the container, with this process's own input and output."""
    with open(f"{folder}/spec.json", encoding="utf-8") as file:  # noqa: PTH123
        spec = json.load(file)
    try:
        enter(spec)
        execute(argv, {**spec["env"], **({"TERM": os.environ["TERM"]} if "TERM" in os.environ else {})})
    except Refused as refused:
        print(refused, file=sys.stderr)
        sys.exit(refused.code)


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
    refused = os.read(failed, FAILED_BYTES_MAX)  # ends at once when the command is executed
    if refused:
        os.waitpid(child, 0)
        exit_code, _, why = refused.decode("utf-8", "replace").partition(" ")
        write_end(folder, not_started(f"CannotStartContainerError: {why}", int(exit_code)))
        remove_groups(spec)
        return
    os.close(failed)
    try:
        os.write(ready, b"r")
    except BrokenPipeError:
        pass  # the agent that waited for it was killed: that is no reason to leave the container alone
    os.close(ready)

    log = Log(spec["log"], spec["logBytesMax"], spec["logFilesMax"])
    code = pump(child, output, wake_out, log, spec)
    end: dict[str, Any] = {"exitCode": code, "startedAt": started_at, "stoppedAt": time.time()}
    if code == KILLED and killed_for_memory(spec):
        end["reason"] = OUT_OF_MEMORY
    remove_groups(spec)
    write_end(folder, end)


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


def killed_for_memory(spec: dict[str, Any]) -> bool:
    """Say whether the kernel killed a process of the container's group because its memory was used up."""
    events = spec.get("memoryEvents")
    if not events:
        return False
    try:
        with open(events, encoding="ascii") as file:  # noqa: PTH123
            counts = dict(line.split() for line in file if len(line.split()) == 2)
    except OSError:
        return False
    return int(counts.get("oom_kill", 0)) > 0


def kill_groups(spec: dict[str, Any]) -> None:
    """Kill all that is left in the container's control groups: also what left its process group."""
    deadline = time.monotonic() + GROUP_EMPTY_S_MAX
    for procs in spec.get("cgroups", ()):
        while time.monotonic() < deadline:
            try:
                with open(procs, encoding="ascii") as file:  # noqa: PTH123
                    pids = file.read().split()
            except OSError:
                break
            if not pids:
                break
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(LOCK_RETRY_S)


def remove_groups(spec: dict[str, Any]) -> None:
    """Remove the container's control groups, and its task's where no other is left."""
    for procs in spec.get("cgroups", ()):
        group = os.path.dirname(procs)  # noqa: PTH120
        for folder in (group, os.path.dirname(group)):  # noqa: PTH120
            try:
                os.rmdir(folder)  # noqa: PTH106
            except OSError:
                break


def pump(child: int, output: int, wake: int, log: Log, spec: dict[str, Any]) -> int:
    """Copy output and pass signals on until the child has ended; return its exit code.

    Whatever of its process group and control groups is left then is killed, as with a container.
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
    kill_groups(spec)
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
    if sys.argv[1] == "--beside":
        beside(sys.argv[2], sys.argv[3:])
    os.set_inheritable(3, False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    main(sys.argv[1])
