"""From a request to its answer, and what a reader may count on: on virtual time, with nothing behind it."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from api.app import App
from api.calls import Api, Call, Handler
from api.errors import ApiError, invalid
from api.live import LiveState
from api.server import Answer, HttpServer, Request
from api.settings import ApiSettings
from cluster.state import ClusterState
from journal.errors import JournalError, Unavailable
from journal.logs import get_logger
from journal.types import Revision

TARGET = "AmazonEC2ContainerServiceV20141113"


class Standing:
    """A state that stands where the journal stands."""

    def __init__(self) -> None:
        self.state = ClusterState()

    async def latest(self) -> ClusterState:
        await trio.lowlevel.checkpoint()
        return self.state


def app_of(handlers: Mapping[str, Handler], **settings: Any) -> App:
    api = Api(
        settings=ApiSettings(**settings),
        journal=None,  # type: ignore[arg-type]
        live=Standing(),  # type: ignore[arg-type]
        wall=lambda: 5.0,
        rng=random.Random(0),
        log=get_logger(),
    )
    return App(api, handlers)


def request(operation: str = "ListClusters", body: bytes = b"{}", **headers: str) -> Request:
    return Request("POST", "/", {"x-amz-target": f"{TARGET}.{operation}", **headers}, body)


def code_of(answer: Answer) -> str:
    return str(json.loads(answer.body)["__type"])


# -- the limits ---------------------------------------------------------------------------------


async def test_more_requests_than_are_served_at_once_are_throttled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    released = trio.Event()

    async def slow(_: Call) -> Mapping[str, Any]:
        await released.wait()
        return {}

    app = app_of({"ListClusters": slow}, requests_inflight_max=2)
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await app.respond(request()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        refused = await app.respond(request())
        assert (refused.status, code_of(refused)) == (400, "ThrottlingException")
        released.set()
    assert [answer.status for answer in answers] == [200, 200]
    assert (await app.respond(request())).status == 200


async def test_a_request_that_takes_too_long_may_be_repeated(autojump_clock: trio.testing.MockClock) -> None:
    async def never(_: Call) -> Mapping[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    app = app_of({"ListClusters": never}, request_timeout_s=7.0)
    began = trio.current_time()
    answer = await app.respond(request())
    assert trio.current_time() - began == pytest.approx(7.0)
    assert (answer.status, code_of(answer)) == (500, "ServerException")
    assert app.inflight == 0


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (invalid("no"), 400, "InvalidParameterException"),
        (Unavailable("no leader"), 500, "ServerException"),
        (ApiError("ConflictException", "x", fields={"resourceIds": ["a"]}), 400, "ConflictException"),
        (ZeroDivisionError("a bug"), 500, "ServerException"),
    ],
)
async def test_whatever_a_handler_raises_is_an_answer(raised: Exception, status: int, code: str) -> None:
    async def fails(_: Call) -> Mapping[str, Any]:
        raise raised

    answer = await app_of({"ListClusters": fails}).respond(request())
    assert (answer.status, code_of(answer)) == (status, code)
    assert b"ZeroDivision" not in answer.body and b"a bug" not in answer.body
    assert len(answer.headers["x-amzn-requestid"]) == 36
    assert ("resourceIds" in json.loads(answer.body)) is (code == "ConflictException")


async def test_the_region_of_the_request_is_that_of_the_answer() -> None:
    async def tell(call: Call) -> Mapping[str, Any]:
        return {"clusterArns": [call.arns.cluster("a")]}

    app = app_of({"ListClusters": tell}, region="eu-north-1", account="000000000007")
    plain = json.loads((await app.respond(request())).body)
    assert plain["clusterArns"] == ["arn:aws:ecs:eu-north-1:000000000007:cluster/a"]
    scope = "AWS4-HMAC-SHA256 Credential=k/20260101/us-west-1/ecs/aws4_request, Signature=0"
    signed = json.loads((await app.respond(request(authorization=scope))).body)
    assert signed["clusterArns"] == ["arn:aws:ecs:us-west-1:000000000007:cluster/a"]


async def test_what_is_unknown_is_told_from_what_is_not_supported() -> None:
    app = app_of({})
    assert code_of(await app.respond(request("ListClusters"))) == "UnsupportedFeatureException"
    assert code_of(await app.respond(request("MakeCoffee"))) == "UnknownOperationException"
    assert code_of(await app.respond(Request("POST", "/x", {}, b""))) == "UnknownOperationException"
    assert code_of(await app.respond(Request("DELETE", "/", {}, b""))) == "UnknownOperationException"


# -- connections ----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[int, trio.Event]]:
    """Serve on a real socket; yields the port, and the event that stops it."""

    async def respond(_: Request) -> Answer:
        return Answer(200, b"ok", "text/plain")

    server = HttpServer(respond, ApiSettings(listen="127.0.0.1:0", **settings), get_logger())
    listeners = await server.listen()
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listeners, stop)
        yield listeners[0].socket.getsockname()[1], stop
        stop.set()


GOOD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


async def test_more_connections_than_allowed_are_closed() -> None:
    with trio.fail_after(60):
        async with serving(connections_max=2) as (port, _), await connected(port) as one:
            assert b"200 OK" in await said(one, GOOD)
            async with await connected(port) as two, await connected(port) as three:
                assert b"200 OK" in await said(two, GOOD)
                assert await said(three, b"") == b""
            answer = b""
            while b"200 OK" not in answer:  # a place is free again, soon
                async with await connected(port) as four:
                    answer = await said(four, GOOD)


async def connected(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


async def said(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send, and return what comes first; nothing where the connection is closed."""
    try:
        await stream.send_all(data)
        return bytes(await stream.receive_some(4096))
    except trio.BrokenResourceError:
        return b""


async def test_who_says_nothing_is_hung_up_on() -> None:
    with trio.fail_after(60):
        async with serving(keep_alive_s=0.1, request_timeout_s=0.2) as (port, _):
            async with await connected(port) as silent:
                assert await said(silent, b"") == b""
            async with await connected(port) as half:
                assert (await said(half, GOOD[:20])).startswith(b"HTTP/1.1 408 ")


async def test_a_stop_ends_idle_connections_at_once() -> None:
    with trio.fail_after(60):
        patient = serving(keep_alive_s=3600.0, graceful_s=3600.0)
        async with patient as (port, stop), await connected(port) as stream:
            assert b"200 OK" in await said(stream, GOOD)
            stop.set()
            assert await said(stream, b"") == b""


# -- what a reader may count on ---------------------------------------------------------------------


class SlowJournal:
    """Says where it stands after a second; counts how often it was asked."""

    def __init__(self) -> None:
        self.at = 0
        self.asked: list[int] = []
        self.trouble: JournalError | None = None

    async def revision(self, *, timeout_s: float) -> Revision:
        stood = self.at  # when the question came
        self.asked.append(stood)
        await trio.sleep(1)
        if self.trouble:
            raise self.trouble
        return Revision(stood)


class FollowingFeed:
    """A state that follows its journal a little later."""

    def __init__(self, journal: SlowJournal) -> None:
        self.state = ClusterState()
        self._journal = journal

    async def reached(self, revision: int) -> ClusterState:
        while self.state.revision < revision:
            await trio.sleep(0.1)
            self.state.advance(Revision(self._journal.at))
        return self.state


@asynccontextmanager
async def living() -> AsyncIterator[tuple[SlowJournal, LiveState]]:
    journal = SlowJournal()
    live = LiveState(journal, FollowingFeed(journal))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.run)
        yield journal, live
        nursery.cancel_scope.cancel()


async def test_readers_share_a_question_but_none_that_was_sent_before_they_came(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with living() as (journal, live), trio.open_nursery() as nursery:
        seen: list[tuple[int, int]] = []

        async def read(wanted: int) -> None:
            seen.append((wanted, (await live.latest()).revision))

        journal.at = 5
        nursery.start_soon(read, 5)
        await trio.sleep(0.5)  # the question is on its way, and would answer 5
        journal.at = 9
        for _ in range(100):
            nursery.start_soon(read, 9)
        await trio.sleep(5)
        assert len(seen) == 101
        assert all(at >= wanted for wanted, at in seen)
        assert journal.asked == [5, 9]


async def test_a_journal_that_does_not_answer_is_an_error_of_the_call_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with living() as (journal, live):
        journal.trouble = Unavailable("no leader")
        with pytest.raises(ApiError, match="no leader") as raised:
            await live.latest()
        assert raised.value.status == 500
        journal.trouble, journal.at = None, 3
        assert (await live.latest()).revision == 3


async def test_a_reader_that_gives_up_takes_nobody_with_it(autojump_clock: trio.testing.MockClock) -> None:
    async with living() as (journal, live), trio.open_nursery() as nursery:
        journal.at = 2
        with trio.move_on_after(0.2):
            await live.latest()
        done: list[int] = []

        async def read() -> None:
            done.append((await live.latest()).revision)

        nursery.start_soon(read)
        await trio.sleep(5)
        assert done == [2]


async def test_a_state_that_does_not_follow_is_said_so(autojump_clock: trio.testing.MockClock) -> None:
    async with living() as (_, live):
        with pytest.raises(ApiError, match="has not caught up") as raised:
            await live.reached(7)
        assert raised.value.status == 500
