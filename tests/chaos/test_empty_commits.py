"""Found by the first chaos run: an accepted offer that changes nothing must still be in every tail."""

from __future__ import annotations

from journal.commits import Change, Commit
from journal.rpc.pb import journal_pb2 as pb
from journal.rpc.tails import _encode
from journal.tail import TailChunk
from journal.types import Revision, Slot


def _chunk() -> TailChunk:
    """Revision 2 deletes what is absent: it is accepted, and changes nothing."""
    changes = [(Change(b"a/x", b"1", 0),), (), (Change(b"b/x", None, 0),)]
    commits = [
        Commit(Revision(number), Slot(7), 0, b"client", number, "", changed)
        for number, changed in enumerate(changes, 1)
    ]
    return TailChunk(Revision(1), Revision(3), commits)


def _sent(prefixes: tuple[bytes, ...]) -> tuple[int, list[int]]:
    ((last, body),) = _encode(_chunk(), prefixes, packed=False, bytes_max=1000)
    return last, [commit.revision for commit in pb.TailMessage.FromString(body).commits]


def test_unfiltered_tail_has_a_commit_for_every_revision() -> None:
    assert _sent(()) == (3, [1, 2, 3])


def test_filtered_tail_leaves_it_out_and_still_covers_its_revision() -> None:
    assert _sent((b"a/",)) == (3, [1])
