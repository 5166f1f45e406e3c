"""The table of errors: complete, and the same on both ends."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal import connection, errors
from journal.errors import (
    ChangeRefused,
    DataFolderError,
    Disowned,
    InvalidRequest,
    JournalError,
    LeaseNotFound,
    NotLeader,
    OfferInvalid,
    Overloaded,
    ProtocolViolation,
    RecordDamaged,
    RevisionCompacted,
    RevisionInFuture,
    SpaceFull,
    StorageFailed,
    Unavailable,
    WrongCluster,
)
from journal.rpc.errors import TABLE, error_of_call, pack_error, status_of, trailers, unpack_error
from journal.rpc.pb import journal_pb2 as pb
from journal.types import NodeId, Revision

EXAMPLES: list[JournalError] = [
    OfferInvalid("offers[3].mutations[0].key", "5000 bytes is over KEY_BYTES_MAX=4096"),
    InvalidRequest("keys[1]", "must not be empty: ever"),
    RevisionCompacted(Revision(3), Revision(7)),
    RevisionInFuture(Revision(9), Revision(7)),
    WrongCluster("this node is of cluster a"),
    LeaseNotFound(2**62),
    NotLeader(NodeId(3), "127.0.0.1:7403"),
    NotLeader(None, None),
    Unavailable("no majority"),
    ChangeRefused("the majority would be lost"),
    Disowned("node 3 comes with another incarnation"),
    Overloaded("offers_inflight_max", 65_536, 50),
    SpaceFull(NodeId(2), 0, 64 << 20),
    SpaceFull(NodeId(2), None, 64 << 20),
    ProtocolViolation("a verdict is of no kind that is known here"),
    JournalError("something else"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_arrives_as_it_was_sent(error: JournalError) -> None:
    back = unpack_error(pb.Error.FromString(pack_error(error).SerializeToString()))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    through_metadata = error_of_call(status_of(error), str(error), trailers(error), "127.0.0.1:1")
    assert type(through_metadata) is type(error)
    assert vars(through_metadata) == vars(error)


@pytest.mark.parametrize(
    "error", [StorageFailed("sync"), DataFolderError("locked"), RecordDamaged(b"k", "checksum")]
)
def test_a_nodes_own_disk_is_unavailability_to_others(error: JournalError) -> None:
    back = unpack_error(pack_error(error))
    assert type(back) is Unavailable
    assert str(back) == str(error)


def test_every_error_has_its_row_and_every_code_too() -> None:
    def all_of(kind: type[JournalError]) -> set[type[JournalError]]:
        return {kind}.union(*(all_of(sub) for sub in kind.__subclasses__()))

    # Raised on the client's own side only: about what was never sent, and about a file.
    local = {connection.NotSent, errors.SnapshotDamaged}
    declared = {kind for kind in all_of(JournalError) if kind.__module__ == errors.__name__} - local
    for kind in declared:
        row = next(row for row in TABLE if issubclass(kind, row.error))
        if kind not in all_of(errors.StorageError):
            assert row.error is kind, f"{kind.__name__} falls into the row of {row.error.__name__}"
    assert {row.code for row in TABLE} == set(pb.ErrorCode.values())
    statuses = {row.status for row in TABLE}
    assert grpc.StatusCode.OK not in statuses and grpc.StatusCode.CANCELLED not in statuses


def test_an_unknown_code_is_still_an_error() -> None:
    packed = pb.Error(message="from a newer node")
    packed.code = 99  # type: ignore[assignment]
    assert str(unpack_error(packed)) == "from a newer node"


@given(st.binary(max_size=60))
def test_damaged_trailers_do_not_hide_the_status(noise: bytes) -> None:
    error = error_of_call(grpc.StatusCode.UNAVAILABLE, "details", [("synod-error-bin", noise)], "host:1")
    assert isinstance(error, JournalError)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Unavailable),
        (grpc.StatusCode.INTERNAL, Unavailable),
        (grpc.StatusCode.UNKNOWN, Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, InvalidRequest),
        (grpc.StatusCode.UNIMPLEMENTED, WrongCluster),
    ],
)
def test_a_status_of_grpc_itself(status: grpc.StatusCode, kind: type[JournalError]) -> None:
    error = error_of_call(status, None, None, "host:1")
    assert type(error) is kind


def test_only_what_was_taken_in_has_an_unknown_outcome() -> None:
    assert pack_error(Unavailable("x"), taken_in=True).outcome_unknown
    assert not pack_error(Unavailable("x")).outcome_unknown
    assert not pack_error(NotLeader(None, None), taken_in=True).outcome_unknown
