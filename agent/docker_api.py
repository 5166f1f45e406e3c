"""The Docker Engine API over its unix socket: as much of it as an agent needs.

One class, one method a call, no policy: what a fault means for a task is ``agent.docker``'s to say.
Three kinds of fault: ``DockerRefused`` (the engine answered, and said no), ``DockerTimeout`` (it did
not answer within the limit named for that call) and ``DockerAway`` (nobody answers at that socket).

Streams are pushed into a callback that must not raise, not pulled from a generator: a generator that
its reader leaves early would be closed by the garbage collector, which trio rightly warns about.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import httpx

SOCKET_DEFAULT = Path("/var/run/docker.sock")
VERSION_MAX = (1, 47)
"""The newest version of the API that this module was written for."""

CALL_S_MAX = 30.0
CREATE_S_MAX = 240.0
START_S_MAX = 180.0
PULL_IDLE_S_MAX = 60.0
"""A pull takes as long as it takes, but must show progress at least so often."""
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""One line of a stream of JSON."""
CONNECTIONS_MAX = 100


class DockerError(Exception):
    """A call of the engine that did not do what was asked."""


class DockerRefused(DockerError):
    """The engine's own answer: an HTTP status of 400 or more."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class DockerTimeout(DockerError):
    """No answer in time; what was asked may still happen."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"timed out after waiting {_go_duration(limit_s)}")


class DockerAway(DockerError, OSError):
    """The engine cannot be reached at present."""


class NetworkStream(Protocol):
    """The two ends of a connection that left HTTP behind."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...
    async def write(self, buffer: bytes, timeout: float | None = None) -> None: ...
    async def aclose(self) -> None: ...
    def get_extra_info(self, info: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a container wrote."""

    is_error: bool
    data: bytes


class DockerApi:
    """A client of one engine. Close it with ``aclose``."""

    def __init__(self, socket: Path = SOCKET_DEFAULT) -> None:
        self.socket = socket
        transport = httpx.AsyncHTTPTransport(
            uds=str(socket), limits=httpx.Limits(max_connections=CONNECTIONS_MAX)
        )
        self._http = httpx.AsyncClient(transport=transport, base_url="http://docker", timeout=CALL_S_MAX)
        self._prefix: str | None = None

    async def aclose(self) -> None:
        await self._http.aclose()

    # -- the engine -----------------------------------------------------------------------

    async def version(self) -> dict[str, Any]:
        return cast(dict[str, Any], (await self._send("GET", "/version", versioned=False)).json())

    async def info(self) -> dict[str, Any]:
        return cast(dict[str, Any], (await self._send("GET", "/info")).json())

    async def events(
        self, filters: Mapping[str, Sequence[str]], hear: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Hear events until the stream ends. The first one, ``{}``, says that from here on none is missed."""
        params = {"filters": json.dumps(filters)}
        async with self._stream("GET", "/events", params=params, idle_s=None) as response:
            hear({})
            await _json_lines(response, hear)

    # -- images ---------------------------------------------------------------------------

    async def image(self, name: str) -> dict[str, Any] | None:
        """Return an image that is on this machine; None where it is not."""
        return await self._find(f"/images/{name}/json")

    async def pull(self, name: str, tag: str, auth: Mapping[str, str] | None = None) -> None:
        """Pull one image. Raises ``DockerRefused`` with the registry's words."""
        headers = (
            {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()} if auth else {}
        )
        params = {"fromImage": name, "tag": tag}
        errors: list[str] = []

        def hear(line: Mapping[str, Any]) -> None:
            if "error" in line:
                errors.append(str(line["error"]))

        async with self._stream(
            "POST", "/images/create", params=params, headers=headers, idle_s=PULL_IDLE_S_MAX
        ) as response:
            await _json_lines(response, hear)
        if errors:
            raise DockerRefused(500, errors[0])

    async def import_image(self, tar: bytes, name: str, tag: str) -> None:
        """Make an image of a tar of its files."""
        params = {"fromSrc": "-", "repo": name, "tag": tag}
        await self._send("POST", "/images/create", params=params, content=tar)

    async def remove_image(self, name: str) -> None:
        await self._send("DELETE", f"/images/{name}")

    # -- containers -----------------------------------------------------------------------

    async def containers(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """Return all containers with these labels (``name`` or ``name=value``), stopped ones too."""
        params = {"all": "true", "filters": json.dumps({"label": list(labels)})}
        return cast(list[dict[str, Any]], (await self._send("GET", "/containers/json", params=params)).json())

    async def inspect(self, container: str) -> dict[str, Any] | None:
        """Return everything about a container, by id or name; None where there is none."""
        return await self._find(f"/containers/{container}/json")

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Create a container; return its id. Refused with 409 where the name is taken."""
        response = await self._send(
            "POST", "/containers/create", params={"name": name}, json=config, limit_s=CREATE_S_MAX
        )
        return str(response.json()["Id"])

    async def start(self, container: str) -> None:
        await self._send("POST", f"/containers/{container}/start", limit_s=START_S_MAX)

    async def kill(self, container: str, signal: str) -> None:
        """Send a signal. Refused with 409 where it does not run."""
        await self._send("POST", f"/containers/{container}/kill", params={"signal": signal})

    async def stop(self, container: str, patience_s: float) -> None:
        """Send its stop signal, and SIGKILL after ``patience_s``; return when it has ended."""
        limit_s = patience_s + CALL_S_MAX
        path = f"/containers/{container}/stop"
        await self._send("POST", path, params={"t": str(round(patience_s))}, limit_s=limit_s, absent_ok=True)

    async def remove(self, container: str, *, force: bool = False) -> None:
        """Remove a container and its anonymous volumes; one that is not there is fine."""
        params = {"v": "true", "force": "true" if force else "false"}
        await self._send("DELETE", f"/containers/{container}", params=params, absent_ok=True)

    async def logs(
        self, container: str, hear: Callable[[Output], None], *, follow: bool, tail: int | None = None
    ) -> None:
        """Hear what a container has written, and with ``follow`` also what it writes until it stops."""
        found = await self.inspect(container)
        if found is None:
            raise DockerRefused(404, f"No such container: {container}")
        is_raw = bool(found["Config"].get("Tty"))
        params = {
            "stdout": "true",
            "stderr": "true",
            "follow": "true" if follow else "false",
            "tail": "all" if tail is None else str(tail),
        }
        path = f"/containers/{container}/logs"
        frames = Frames()
        async with self._stream("GET", path, params=params, idle_s=None) as response:
            async for data in response.aiter_raw():
                for output in [Output(False, data)] if is_raw else frames.feed(data):
                    hear(output)

    # -- commands in a container ------------------------------------------------------------

    async def exec_create(self, container: str, config: Mapping[str, Any]) -> str:
        response = await self._send("POST", f"/containers/{container}/exec", json=config)
        return str(response.json()["Id"])

    async def exec_run(self, exec_id: str) -> None:
        """Run it to its end, without its output."""
        async with self._stream(
            "POST", f"/exec/{exec_id}/start", json={"Detach": False, "Tty": False}, idle_s=None
        ) as response:
            async for _ in response.aiter_raw():
                pass

    @asynccontextmanager
    async def exec_attach(self, exec_id: str, *, tty: bool) -> AsyncIterator[NetworkStream]:
        """Start it and give the connection to its input and output (framed unless ``tty``)."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        async with self._stream(
            "POST",
            f"/exec/{exec_id}/start",
            json={"Detach": False, "Tty": tty},
            headers=headers,
            idle_s=None,
        ) as response:
            if response.status_code != 101:
                raise DockerRefused(response.status_code, "the engine did not hand the connection over")
            yield cast(NetworkStream, response.extensions["network_stream"])

    async def exec_resize(self, exec_id: str, rows: int, columns: int) -> None:
        await self._send("POST", f"/exec/{exec_id}/resize", params={"h": str(rows), "w": str(columns)})

    async def exec_inspect(self, exec_id: str) -> dict[str, Any]:
        return cast(dict[str, Any], (await self._send("GET", f"/exec/{exec_id}/json")).json())

    # -- volumes ----------------------------------------------------------------------------

    async def volume(self, name: str) -> dict[str, Any] | None:
        return await self._find(f"/volumes/{name}")

    async def create_volume(self, config: Mapping[str, Any]) -> None:
        """Create a named volume; one that is there already is fine."""
        await self._send("POST", "/volumes/create", json=config)

    async def remove_volume(self, name: str) -> None:
        await self._send("DELETE", f"/volumes/{name}", absent_ok=True)

    # -- HTTP ---------------------------------------------------------------------------------

    async def _find(self, path: str) -> dict[str, Any] | None:
        try:
            return cast(dict[str, Any], (await self._send("GET", path)).json())
        except DockerRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def _send(
        self,
        method: str,
        path: str,
        *,
        limit_s: float = CALL_S_MAX,
        versioned: bool = True,
        absent_ok: bool = False,
        **request: Any,
    ) -> httpx.Response:
        prefix = await self._version_prefix() if versioned else ""
        try:
            response = await self._http.request(method, prefix + path, timeout=limit_s, **request)
        except httpx.TimeoutException as error:
            raise DockerTimeout(limit_s) from error
        except httpx.TransportError as error:
            raise self._away(error) from error
        if response.status_code >= 400 and not (absent_ok and response.status_code == 404):
            raise DockerRefused(response.status_code, _message(response.content))
        return response

    @asynccontextmanager
    async def _stream(
        self, method: str, path: str, *, idle_s: float | None, **request: Any
    ) -> AsyncIterator[httpx.Response]:
        """Open a stream; ``idle_s``: how long nothing may come (None: forever)."""
        prefix = await self._version_prefix()
        timeout = httpx.Timeout(CALL_S_MAX, read=idle_s)
        try:
            async with self._http.stream(method, prefix + path, timeout=timeout, **request) as response:
                if response.status_code >= 400:
                    raise DockerRefused(response.status_code, _message(await response.aread()))
                yield response
        except httpx.TimeoutException as error:
            raise DockerTimeout(idle_s or CALL_S_MAX) from error
        except httpx.TransportError as error:
            raise self._away(error) from error

    async def _version_prefix(self) -> str:
        """Agree with the engine on a version of the API, once."""
        if self._prefix is None:
            told = await self.version()
            newest, oldest = _version(told["ApiVersion"]), _version(told.get("MinAPIVersion") or "1.24")
            chosen = max(oldest, min(newest, VERSION_MAX))
            self._prefix = f"/v{chosen[0]}.{chosen[1]}"
        return self._prefix

    def _away(self, error: Exception) -> DockerAway:
        return DockerAway(f"Docker at {self.socket} cannot be reached: {str(error) or type(error).__name__}")


class Frames:
    """Takes the engine's multiplexed stream apart: 8 bytes of header (stream, length), then the data."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Output]:
        buffer, outputs = self._buffer, []
        buffer += data
        while len(buffer) >= 8:
            size = int.from_bytes(buffer[4:8], "big")
            if len(buffer) < 8 + size:
                break
            outputs.append(Output(buffer[0] == 2, bytes(buffer[8 : 8 + size])))
            del buffer[: 8 + size]
        return outputs


async def _json_lines(response: httpx.Response, hear: Callable[[Mapping[str, Any]], None]) -> None:
    """Hear JSON objects, which come one a line, in pieces of any size."""
    buffer = bytearray()
    async for data in response.aiter_raw():
        buffer += data
        *lines, rest = buffer.split(b"\n")
        for line in lines:
            _hear_line(line, hear)
        buffer = rest
        if len(buffer) > MESSAGE_BYTES_MAX:
            buffer.clear()
    _hear_line(buffer, hear)


def _hear_line(line: bytearray, hear: Callable[[Mapping[str, Any]], None]) -> None:
    try:
        hear(json.loads(line))
    except ValueError:
        pass  # blank, or the rest of a line that was too long


def _message(body: bytes) -> str:
    """Return the words of a refusal."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace").strip() or "no reason was given"


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _go_duration(seconds: float) -> str:
    """Return ``4m0s`` for 240, as the ECS agent writes it."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
