"""From a request to its answer.

``POST /`` serves the API; ``GET /livez`` and ``/readyz`` say how the process is; ``POST
/_synod/reset`` empties the cluster's state where a setting allows it. Everything that can be
wrong with a request ends as an error of ECS's form, with a request id, and never ends the process.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from api import wire
from api.arns import Arns
from api.calls import Api, Call, Handler
from api.errors import ApiError, server, throttled, unsupported
from api.model import Operation, operations
from api.reset import reset
from api.server import TEXT, Answer, Request
from api.shapes import answer, check
from journal.errors import JournalError


@dataclass(slots=True)
class App:
    """What one process answers."""

    api: Api
    handlers: Mapping[str, Handler]
    inflight: int = 0
    _model: Mapping[str, Operation] = field(default_factory=operations)

    async def respond(self, request: Request) -> Answer:
        """Return the answer to any request. Raises nothing but ``trio.Cancelled``."""
        request_id = str(uuid.uuid4())
        try:
            if request.method in ("GET", "HEAD"):
                found = await self._page(request.path)
            else:
                found = await self._bounded(request)
        except ApiError as error:
            found = _failed(error)
        except JournalError as error:
            found = _failed(server(f"The journal does not answer: {error}"))
        except Exception as error:
            self.api.log.error("api.bug", request=request_id, exc_info=error)
            found = _failed(server(f"An unexpected fault of this server (request {request_id})."))
        headers = {"x-amzn-requestid": request_id, **found.headers}
        return Answer(found.status, found.body, found.content_type, headers)

    async def _bounded(self, request: Request) -> Answer:
        """Answer within the limits of time and number. Raises ``ApiError`` and ``JournalError``."""
        settings = self.api.settings
        if self.inflight >= settings.requests_inflight_max:
            raise throttled()
        self.inflight += 1
        try:
            with trio.fail_after(settings.request_timeout_s):
                return await self._post(request)
        except trio.TooSlowError:
            raise server(f"The request took longer than {settings.request_timeout_s:g} s.") from None
        finally:
            self.inflight -= 1

    async def _post(self, request: Request) -> Answer:
        if request.path == "/_synod/reset" and request.method == "POST":
            if not self.api.settings.allow_reset:
                raise ApiError("AccessDeniedException", "Resetting is not allowed here (--allow-reset).")
            await reset(self.api)
            return Answer(200, b"{}", wire.CONTENT_TYPE)
        if request.method != "POST" or request.path != "/":
            raise wire.unknown_operation("The API is at POST /.")
        return await self._call(request)

    async def _call(self, request: Request) -> Answer:
        name = wire.target(request.headers.get("x-amz-target"))
        operation = self._model.get(name)
        if operation is None:
            raise wire.unknown_operation(f"ECS has no operation {name}.")
        handler = self.handlers.get(name)
        if handler is None:
            raise unsupported(f"{name} is not supported here.")
        params = wire.parameters(request.body)
        if operation.input is not None:
            check(operation.input, params)
        settings = self.api.settings
        signed = wire.credential(request.headers.get("authorization", ""))
        arns = Arns(signed.region if signed else settings.region, settings.account)
        if not settings.local_reads:
            await self.api.live.latest()
        here = request.headers.get("host", settings.listen)
        call = Call(api=self.api, operation=name, params=params, arns=arns, here=here)
        said = await handler(call)
        shown = answer(operation.output, said) if operation.output is not None else {}
        headers = {"x-synod-revision": str(self.api.live.state.revision)}
        return Answer(200, wire.dump(shown), wire.CONTENT_TYPE, headers)

    async def _page(self, path: str) -> Answer:
        if path in ("/", "/livez"):
            return Answer(200, b"ok\n", TEXT)
        if path == "/readyz":
            try:
                state = await self.api.live.latest()
            except ApiError as error:
                return Answer(503, f"{error.message}\n".encode(), TEXT)
            return Answer(200, f"ready at revision {state.revision}\n".encode(), TEXT)
        return Answer(404, b"The API is at POST /; see also /livez and /readyz.\n", TEXT)


def _failed(error: ApiError) -> Answer:
    return Answer(error.status, wire.dump(error.body()), wire.CONTENT_TYPE, {"x-amzn-errortype": error.code})
