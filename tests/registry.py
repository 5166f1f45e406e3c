"""A registry of container images on this machine, so that pulls can be tested: one image, any name.

It speaks as much of the distribution protocol as an engine asks for, on 127.0.0.1, where engines
use plain HTTP. ``pulls`` counts how often a manifest's digest was asked for: once by each pull.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.dockerd import image_tar

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    def __init__(self) -> None:
        tar = image_tar()
        layer = gzip.compress(tar, mtime=0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["sleep", "600"], "Env": ["FROM_IMAGE=yes"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(tar)]},
            }
        ).encode()
        self.blobs = {_digest(config): config, _digest(layer): layer}
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": _entry("application/vnd.docker.container.image.v1+json", config),
                "layers": [_entry("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
            }
        ).encode()
        self.pulls = 0
        self.is_down = False
        self.held: threading.Event | None = None
        """While it is there and not set, manifests wait."""
        self.asked = threading.Event()
        """A manifest was asked for."""
        self.port = 0

    def image(self, name: str) -> str:
        return f"127.0.0.1:{self.port}/{name}:1"


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _entry(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}


@contextmanager
def registry() -> Iterator[Registry]:
    state = Registry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(is_head=True)

        def do_GET(self) -> None:
            self._answer(is_head=False)

        def _answer(self, *, is_head: bool) -> None:
            kind, name = self.path.split("/")[-2:]
            body, content = b"{}", "application/json"
            if kind == "manifests":
                state.asked.set()
                if state.held is not None:
                    state.held.wait(30)
            if state.is_down:
                self.send_response(503)
            elif kind == "manifests" and "absent" not in self.path:
                body, content = state.manifest, MANIFEST
                state.pulls += is_head
                self.send_response(200)
            elif kind == "blobs" and name in state.blobs:
                body, content = state.blobs[name], "application/octet-stream"
                self.send_response(200)
            elif self.path.rstrip("/") == "/v2":
                self.send_response(200)
            else:
                body = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
                self.send_response(404)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", _digest(body))
            self.end_headers()
            if not is_head:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        if state.held is not None:
            state.held.set()
        server.shutdown()
        thread.join()
        server.server_close()
