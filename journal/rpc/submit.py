"""Offers at the edge: the Submit stream and its unary form.

Packed batches pass through untouched, and so do their verdicts, unless the client asked for
the present values of the keys that it lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from journal.errors import InvalidRequest, JournalError
from journal.offers import Rejected, Verdict, pack_verdicts
from journal.rpc.codec import pack_typed_batch, pack_verdict
from journal.rpc.duplex import Duplex
from journal.rpc.edge import Context, Edge, TakenIn
from journal.rpc.errors import pack_error
from journal.rpc.pb import journal_pb2 as pb

_REPLY_OFFERS_MAX = 4_096
_RECEIPT_VALUES_BYTES_MAX = 64 * 1024


class Answer(NamedTuple):
    """What became of one request, not yet a message."""

    id: int
    packed: bool
    values: bool
    result: list[Verdict] | JournalError
    taken_in: bool


class Submissions:
    """Serves Submit and SubmitOnce."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def stream(self, context: Context) -> None:
        """Serve one Submit stream."""
        duplex = Duplex[Answer](
            self._edge, context, self.take, self._pack, message_weight_max=_REPLY_OFFERS_MAX
        )
        await duplex.run()

    def take(self, request: pb.SubmitRequest, reply: Callable[[Answer, int], None]) -> None:
        """Hand a request to the node; ``reply`` gets its answer and what that weighs, now or later."""
        packed = request.HasField("packed")
        number, values = request.id, request.receipt_values

        def replied(result: list[Verdict] | JournalError) -> None:
            weight = len(result) if isinstance(result, list) else 1
            reply(Answer(number, packed, values, result, True), weight)

        try:
            self._edge.node.submit(self._packed_batch(request), replied)
        except JournalError as error:
            reply(Answer(number, packed, values, error, False), 1)

    def _pack(self, answers: list[Answer]) -> pb.SubmitReply:
        return pb.SubmitReply(results=[self.result(answer) for answer in answers])

    async def once(self, request: pb.SubmitRequest) -> pb.SubmitResult:
        """Serve one SubmitOnce of gRPC's server. The direct port has ``take`` and ``result``."""
        answered: asyncio.Future[Answer] = self._edge.loop.create_future()

        def reply(answer: Answer, _weight: int) -> None:
            if not answered.done():  # done: the caller was cancelled
                answered.set_result(answer)

        self.take(request, reply)
        answer = await answered
        if isinstance(answer.result, JournalError):
            raise TakenIn(answer.result) if answer.taken_in else answer.result
        return self.result(answer)

    def _packed_batch(self, request: pb.SubmitRequest) -> bytes:
        form = request.WhichOneof("form")
        if form == "packed":
            return request.packed
        if form == "batch":
            return pack_typed_batch(request.batch, self._edge.node.space.revision)
        raise InvalidRequest("form", "must be packed or batch")

    def result(self, answer: Answer) -> pb.SubmitResult:
        """Return an answer as its message."""
        result = answer.result
        if isinstance(result, JournalError):
            self._edge.refused(result)
            return pb.SubmitResult(id=answer.id, error=pack_error(result, taken_in=answer.taken_in))
        verdicts = self._with_values(result) if answer.values else result
        if answer.packed:
            return pb.SubmitResult(id=answer.id, packed=pack_verdicts(verdicts))
        return pb.SubmitResult(
            id=answer.id, verdicts=pb.Verdicts(verdicts=[pack_verdict(verdict) for verdict in verdicts])
        )

    def _with_values(self, verdicts: list[Verdict]) -> list[Verdict]:
        """Put the present values into receipts, as long as they are small together."""
        room = _RECEIPT_VALUES_BYTES_MAX
        completed: list[Verdict] = []
        for verdict in verdicts:
            if isinstance(verdict, Rejected) and verdict.key:
                value = self._value_of(verdict.key, room)
                room -= len(value or b"")
                completed.append(replace(verdict, value=value))
            else:
                completed.append(verdict)
        return completed

    def _value_of(self, key: bytes, bytes_max: int) -> bytes | None:
        record = self._edge.node.space.get(key)
        return record.value if record is not None and len(record.value) <= bytes_max else None
