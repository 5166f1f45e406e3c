"""A Docker engine of the tests' own: its own socket, data, bridge; nothing of the machine's is touched.

Debian's ``docker.io`` and ``busybox-static`` are enough, and root. The engine writes no firewall
rule and forwards nothing; published ports go through its own proxy. Its one image is imported from
busybox: nothing is pulled.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from agent.docker_api import DockerApi, DockerAway, DockerError

IMAGE = "synod-test:1"
START_S_MAX = 60.0
STOP_S_MAX = 30.0
BUSYBOX = Path("/bin/busybox")


class Dockerd:
    """The engine, which may be stopped and started again; its containers live on (live-restore)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self.bridge = f"syn{os.getpid():x}"
        self._subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 256}.1/24"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.folder / "daemon.json").write_text("{}")
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--config-file", str(self.folder / "daemon.json")),
                    *("--host", f"unix://{self.socket}", "--pidfile", str(self.folder / "pid")),
                    *("--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec")),
                    *("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
                    *("--bridge", self.bridge, "--live-restore", "--log-level", "warn"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"},
            )
        trio.run(self._until_ready)

    def stop(self) -> None:
        """Stop the engine, and leave its containers running."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S_MAX)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None

    def make_bridge(self) -> None:
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("addr", "add", self._subnet, "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    def remove_bridge(self) -> None:
        _ip("link", "del", self.bridge)

    def import_image(self) -> None:
        name, _, tag = IMAGE.partition(":")

        async def load(api: DockerApi) -> None:
            await api.import_image(image_tar(), name, tag)

        self.call(load)

    def remove_containers(self) -> None:
        async def clear(api: DockerApi) -> None:
            for container in await api.containers([]):
                await api.remove(container["Id"], force=True)

        self.call(clear)

    def call(self, act: Callable[[DockerApi], object]) -> None:
        """Run ``act`` with a client of its own, from a test that has no loop."""

        async def run() -> None:
            api = DockerApi(self.socket)
            try:
                await act(api)  # type: ignore[misc]
            finally:
                await api.aclose()

        trio.run(run)

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        api = DockerApi(self.socket)
        try:
            while True:
                try:
                    await api.version()
                    return
                except (DockerAway, DockerError):
                    assert self._process is not None
                    log = self.folder / "dockerd.log"
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise RuntimeError(f"dockerd did not start:\n{log.read_text()[-4000:]}") from None
                    await trio.sleep(0.05)
        finally:
            await api.aclose()


@contextmanager
def dockerd() -> Iterator[Dockerd]:
    """Start an engine with its image; stop it, with everything in it, at the end."""
    # Not under pytest's folder: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="synod-docker-", dir="/tmp"))
    engine = Dockerd(folder)
    engine.make_bridge()
    try:
        try:
            engine.start()
            engine.import_image()
            yield engine
            engine.remove_containers()
        finally:
            engine.stop()
    finally:
        engine.remove_bridge()
        # With live-restore an engine leaves its data mounted on itself.
        subprocess.run(["umount", str(folder / "data")], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def image_tar() -> bytes:
    """Return the files of the image: busybox under all its names, and a place to write."""
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("tmp", 0o1777), ("etc", 0o755), ("root", 0o700)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        _add(tar, "etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        for name in names:
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return packed.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _ip(*words: str) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    subprocess.run(["ip", *words], check=True, capture_output=True, env={**os.environ, "PATH": path})
