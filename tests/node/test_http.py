"""The small HTTP server, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
import trio

from journal import http
from journal.http import HttpServer, Reply, Request, listeners, text
from tests.rpc.harness import Log


def _fail(_request: Request) -> Reply:
    raise RuntimeError("planted")


PAGES = {
    "/ok": lambda _request: text("fine"),
    "/no": lambda _request: text("not yet", HTTPStatus.SERVICE_UNAVAILABLE),
    "/told": lambda request: text(request.headers.get("accept") or request.query.get("q", "nothing")),
    "/bug": _fail,
}


@asynccontextmanager
async def serving(log: Log | None = None) -> AsyncIterator[int]:
    with trio.fail_after(10):
        sockets = await listeners("127.0.0.1:0")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(HttpServer(PAGES, (log or Log()).logger).serve, sockets)
            yield sockets[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()


async def said(stream: trio.SocketStream) -> str:
    """Everything until the server closes."""
    return b"".join([chunk async for chunk in stream]).decode()


async def ask(port: int, request: str) -> str:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(request.replace("\n", "\r\n").encode())
        return await said(stream)


def request(path: str, method: str = "GET", more: str = "") -> str:
    return f"{method} {path} HTTP/1.1\nhost: here\n{more}connection: close\n\n"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        (request("/ok"), "HTTP/1.1 200 OK", "fine\n"),
        (request("/ok?a=b"), "HTTP/1.1 200 OK", "fine\n"),
        (request("/no"), "HTTP/1.1 503 Service Unavailable", "not yet\n"),
        (request("/told", more="Accept: this\n"), "HTTP/1.1 200 OK", "this\n"),
        (request("/else"), "HTTP/1.1 404 Not Found", "not found: there is /bug, /no, /ok, /told\n"),
        (request("/ok", "DELETE"), "HTTP/1.1 405 Method Not Allowed", "only GET and HEAD\n"),
        (request("/ok", "HEAD"), "HTTP/1.1 200 OK", ""),
        (
            request("/bug"),
            "HTTP/1.1 500 Internal Server Error",
            "a fault of the node; its log has the details\n",
        ),
        ("GET /ok HTTP/1.0\n\n", "HTTP/1.1 200 OK", "fine\n"),
    ],
)
async def test_replies(asked: str, first: str, last: str) -> None:
    log = Log()
    async with serving(log) as port:
        reply = await ask(port, asked)
        head, _, body = reply.partition("\r\n\r\n")
        assert head.splitlines()[0] == first
        assert body == last
    assert len(log.named("http.bug")) == ("/bug" in asked)


async def test_one_connection_takes_many_requests() -> None:
    async with serving() as port:
        twice = request("/ok").replace("connection: close\n", "") + request("/told")
        reply = await ask(port, twice)
        assert reply.count("HTTP/1.1 200 OK") == 2
        assert reply.endswith("nothing\n")


@pytest.mark.parametrize("garbage", ["\x00\x01\x02\n\n", "GET /" + "a" * 40_000 + " HTTP/1.1\n\n"])
async def test_what_is_not_http_is_hung_up_on(garbage: str) -> None:
    async with serving() as port:
        try:
            assert await ask(port, garbage) == ""
        except trio.BrokenResourceError:
            pass  # it did not even read all of it
        assert "200 OK" in await ask(port, request("/ok"))


async def test_a_body_that_nobody_asked_for_does_no_harm() -> None:
    async with serving() as port:
        reply = await ask(port, request("/ok", more="content-length: 3\n") + "abc")
        assert reply.endswith("fine\n")


async def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)
    async with serving() as port:
        idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        for stream in idle:  # until it is served, it may not be counted yet
            await stream.send_all(b"GET /ok HTTP/1.1\r\nhost: here\r\n\r\n")
            assert b"fine" in await stream.receive_some(1000)
        try:
            assert await ask(port, request("/ok")) == ""
        except trio.BrokenResourceError:
            pass
        for stream in idle:
            await stream.aclose()
        while "fine" not in await _or_nothing(port):
            pass


async def _or_nothing(port: int) -> str:
    try:
        return await ask(port, request("/ok"))
    except trio.BrokenResourceError:
        return ""


async def test_an_address_that_cannot_be_listened_on() -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        await listeners("nowhere")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await listeners(f"127.0.0.1:{taken.getsockname()[1]}")
