"""The one table of the journal's errors and how they travel.

An error is a ``pb.Error`` message: inside a stream it is part of a reply, and a call that
fails carries it in its trailing metadata (``synod-error-bin``) beside the gRPC status that
people and other languages read. Both ways go through ``TABLE``, so what a node raises is
what a client of this project catches, fields and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError

from journal.connection import NotSent
from journal.errors import (
    ChangeRefused,
    Disowned,
    InvalidRequest,
    JournalError,
    LeaseNotFound,
    NotLeader,
    OfferInvalid,
    Overloaded,
    ProtocolViolation,
    RevisionCompacted,
    RevisionInFuture,
    SpaceFull,
    StorageError,
    Unavailable,
    WrongCluster,
)
from journal.rpc.methods import MD_ERROR, MD_LEADER, MD_LEADER_ENDPOINT, MD_RETRY_AFTER
from journal.rpc.pb import journal_pb2 as pb
from journal.types import NodeId, Revision

Status = grpc.StatusCode


class _Row(NamedTuple):
    """How one class of errors travels."""

    error: type[JournalError]
    code: pb.ErrorCode
    status: grpc.StatusCode
    back: Callable[[pb.Error], JournalError]


def _why(error: pb.Error) -> str:
    """Return an invalid request's reason without the place that its text begins with."""
    return error.message.removeprefix(f"{error.where}: ")


# The first row whose class fits an error is its row, so subclasses stand above their bases.
TABLE: tuple[_Row, ...] = (
    _Row(
        OfferInvalid,
        pb.ERROR_CODE_OFFER_INVALID,
        Status.INVALID_ARGUMENT,
        lambda error: OfferInvalid(error.where, _why(error)),
    ),
    _Row(
        InvalidRequest,
        pb.ERROR_CODE_INVALID,
        Status.INVALID_ARGUMENT,
        lambda error: InvalidRequest(error.where, _why(error)),
    ),
    _Row(
        RevisionCompacted,
        pb.ERROR_CODE_REVISION_COMPACTED,
        Status.OUT_OF_RANGE,
        lambda error: RevisionCompacted(Revision(error.asked), Revision(error.bound)),
    ),
    _Row(
        RevisionInFuture,
        pb.ERROR_CODE_REVISION_IN_FUTURE,
        Status.OUT_OF_RANGE,
        lambda error: RevisionInFuture(Revision(error.asked), Revision(error.bound)),
    ),
    _Row(
        Disowned,
        pb.ERROR_CODE_DISOWNED,
        Status.FAILED_PRECONDITION,
        lambda error: Disowned(error.message),
    ),
    _Row(
        WrongCluster,
        pb.ERROR_CODE_WRONG_CLUSTER,
        Status.FAILED_PRECONDITION,
        lambda error: WrongCluster(error.message),
    ),
    _Row(
        LeaseNotFound,
        pb.ERROR_CODE_LEASE_NOT_FOUND,
        Status.NOT_FOUND,
        lambda error: LeaseNotFound(error.asked),
    ),
    _Row(
        NotLeader,
        pb.ERROR_CODE_NOT_LEADER,
        Status.FAILED_PRECONDITION,
        lambda error: NotLeader(NodeId(error.leader) if error.leader else None, error.endpoint or None),
    ),
    _Row(
        ChangeRefused,
        pb.ERROR_CODE_CHANGE_REFUSED,
        Status.FAILED_PRECONDITION,
        lambda error: ChangeRefused(error.message),
    ),
    _Row(
        Unavailable,
        pb.ERROR_CODE_UNAVAILABLE,
        Status.UNAVAILABLE,
        lambda error: Unavailable(error.message),
    ),
    _Row(
        Overloaded,
        pb.ERROR_CODE_OVERLOADED,
        Status.RESOURCE_EXHAUSTED,
        lambda error: Overloaded(error.where, error.bound, error.retry_after_ms),
    ),
    _Row(
        SpaceFull,
        pb.ERROR_CODE_SPACE_FULL,
        Status.RESOURCE_EXHAUSTED,
        lambda error: SpaceFull(NodeId(error.leader), error.asked if error.where else None, error.bound),
    ),
    _Row(
        ProtocolViolation,
        pb.ERROR_CODE_PROTOCOL_VIOLATION,
        Status.FAILED_PRECONDITION,
        lambda error: ProtocolViolation(error.message),
    ),
    # A client cannot mend the node's disk: to it the node is out of service.
    _Row(
        StorageError,
        pb.ERROR_CODE_STORAGE,
        Status.UNAVAILABLE,
        lambda error: Unavailable(error.message),
    ),
    _Row(
        JournalError,
        pb.ERROR_CODE_UNSPECIFIED,
        Status.INTERNAL,
        lambda error: JournalError(error.message),
    ),
)

_NOT_CONNECTED = "failed to connect to all addresses"
"""How gRPC begins to say that a call found no connection to be sent on. It has no code of its
own for that; should the words change, the caller only learns less: "unknown" for "not sent"."""

_BY_CODE = {row.code: row for row in TABLE}


def status_of(error: JournalError) -> grpc.StatusCode:
    """Return the gRPC status that a call ends with because of ``error``."""
    return _row_of(error).status


def _row_of(error: JournalError) -> _Row:
    return next(row for row in TABLE if isinstance(error, row.error))


def pack_error(error: JournalError, *, taken_in: bool = False) -> pb.Error:
    """Return ``error`` as a message. ``taken_in``: the offers had been taken in when it came up."""
    packed = pb.Error(code=_row_of(error).code, message=str(error))
    if isinstance(error, NotLeader):
        packed.leader = error.leader or 0
        packed.endpoint = error.endpoint or ""
    elif isinstance(error, InvalidRequest):
        packed.where = error.where
    elif isinstance(error, Overloaded):
        packed.where = error.limit
        packed.bound = error.value
        packed.retry_after_ms = error.retry_after_ms
    elif isinstance(error, SpaceFull):
        packed.leader, packed.asked, packed.bound = error.node, error.free or 0, error.reserve
        packed.where = "" if error.free is None else "disk_reserve_bytes"
    elif isinstance(error, RevisionCompacted):
        packed.asked, packed.bound = error.asked, error.compacted
    elif isinstance(error, RevisionInFuture):
        packed.asked, packed.bound = error.asked, error.current
    elif isinstance(error, LeaseNotFound):
        packed.asked = error.lease
    # A node refuses with NotLeader what it never proposed; whatever else befalls an offer that
    # it took in leaves the outcome open.
    packed.outcome_unknown = taken_in and not isinstance(error, NotLeader)
    return packed


def unpack_error(packed: pb.Error) -> JournalError:
    """Return the error that ``pack_error`` was given, as its class, with its fields."""
    row = _BY_CODE.get(packed.code)
    return row.back(packed) if row is not None else JournalError(packed.message)


def trailers(error: JournalError, *, taken_in: bool = False) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata of a call that fails with ``error``."""
    found: list[tuple[str, str | bytes]] = [
        (MD_ERROR, pack_error(error, taken_in=taken_in).SerializeToString())
    ]
    if isinstance(error, NotLeader) and error.leader:
        found.append((MD_LEADER, str(error.leader)))
        found.append((MD_LEADER_ENDPOINT, error.endpoint or ""))
    if isinstance(error, Overloaded):
        found.append((MD_RETRY_AFTER, str(error.retry_after_ms)))
    return tuple(found)


def error_of_call(
    status: grpc.StatusCode,
    details: str | None,
    trailing: Iterable[tuple[str, str | bytes]] | None,
    endpoint: str,
) -> JournalError:
    """Return what a failed call means, from its status and trailing metadata.

    Without this project's own trailer the status came from gRPC itself, from something in
    between, or from a server that is no node.
    """
    for key, value in trailing or ():
        if key == MD_ERROR and isinstance(value, bytes):
            try:
                return unpack_error(pb.Error.FromString(value))
            except DecodeError:
                break
    text = details or "no details"
    if status is Status.RESOURCE_EXHAUSTED:
        return InvalidRequest("message", text)
    if status is Status.UNIMPLEMENTED:
        return WrongCluster(f"what answers at {endpoint} is not a node of a journal: {text}")
    if status is Status.UNAVAILABLE and text.startswith(_NOT_CONNECTED):
        return NotSent(f"{endpoint}: {text}")
    return Unavailable(f"{endpoint}: {text} ({status.name})")
