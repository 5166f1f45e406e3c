from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Parcel(_message.Message):
    __slots__ = ("envelopes", "part", "more", "ping", "pong")
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    envelopes: _containers.RepeatedCompositeFieldContainer[Envelope]
    part: bytes
    more: bool
    ping: int
    pong: int
    def __init__(self, envelopes: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ..., part: _Optional[bytes] = ..., more: _Optional[bool] = ..., ping: _Optional[int] = ..., pong: _Optional[int] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("pre_vote", "pre_vote_reply", "prepare", "promise", "nack", "accept", "accepted", "heartbeat", "heartbeat_reply", "learn", "learned", "read_index", "read_index_reply", "take_over", "trimmed", "snapshot_ask", "snapshot_chunk", "snapshot_refused", "show", "shown")
    PRE_VOTE_FIELD_NUMBER: _ClassVar[int]
    PRE_VOTE_REPLY_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_REPLY_FIELD_NUMBER: _ClassVar[int]
    LEARN_FIELD_NUMBER: _ClassVar[int]
    LEARNED_FIELD_NUMBER: _ClassVar[int]
    READ_INDEX_FIELD_NUMBER: _ClassVar[int]
    READ_INDEX_REPLY_FIELD_NUMBER: _ClassVar[int]
    TAKE_OVER_FIELD_NUMBER: _ClassVar[int]
    TRIMMED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ASK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_CHUNK_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_REFUSED_FIELD_NUMBER: _ClassVar[int]
    SHOW_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    pre_vote: PreVote
    pre_vote_reply: PreVoteReply
    prepare: Prepare
    promise: Promise
    nack: Nack
    accept: Accept
    accepted: Accepted
    heartbeat: Heartbeat
    heartbeat_reply: HeartbeatReply
    learn: Learn
    learned: Learned
    read_index: ReadIndex
    read_index_reply: ReadIndexReply
    take_over: TakeOver
    trimmed: Trimmed
    snapshot_ask: SnapshotAsk
    snapshot_chunk: SnapshotChunk
    snapshot_refused: SnapshotRefused
    show: Show
    shown: Shown
    def __init__(self, pre_vote: _Optional[_Union[PreVote, _Mapping]] = ..., pre_vote_reply: _Optional[_Union[PreVoteReply, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., promise: _Optional[_Union[Promise, _Mapping]] = ..., nack: _Optional[_Union[Nack, _Mapping]] = ..., accept: _Optional[_Union[Accept, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., heartbeat_reply: _Optional[_Union[HeartbeatReply, _Mapping]] = ..., learn: _Optional[_Union[Learn, _Mapping]] = ..., learned: _Optional[_Union[Learned, _Mapping]] = ..., read_index: _Optional[_Union[ReadIndex, _Mapping]] = ..., read_index_reply: _Optional[_Union[ReadIndexReply, _Mapping]] = ..., take_over: _Optional[_Union[TakeOver, _Mapping]] = ..., trimmed: _Optional[_Union[Trimmed, _Mapping]] = ..., snapshot_ask: _Optional[_Union[SnapshotAsk, _Mapping]] = ..., snapshot_chunk: _Optional[_Union[SnapshotChunk, _Mapping]] = ..., snapshot_refused: _Optional[_Union[SnapshotRefused, _Mapping]] = ..., show: _Optional[_Union[Show, _Mapping]] = ..., shown: _Optional[_Union[Shown, _Mapping]] = ...) -> None: ...

class Ballot(_message.Message):
    __slots__ = ("round", "node")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    round: int
    node: int
    def __init__(self, round: _Optional[int] = ..., node: _Optional[int] = ...) -> None: ...

class AcceptedValue(_message.Message):
    __slots__ = ("slot", "ballot", "value")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    slot: int
    ballot: Ballot
    value: bytes
    def __init__(self, slot: _Optional[int] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., value: _Optional[bytes] = ...) -> None: ...

class LostValue(_message.Message):
    __slots__ = ("slot", "ballot")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    slot: int
    ballot: Ballot
    def __init__(self, slot: _Optional[int] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ...) -> None: ...

class PreVote(_message.Message):
    __slots__ = ("ballot", "chosen")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    chosen: int
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., chosen: _Optional[int] = ...) -> None: ...

class PreVoteReply(_message.Message):
    __slots__ = ("ballot", "granted", "promised", "chosen")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    granted: bool
    promised: Ballot
    chosen: int
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., granted: _Optional[bool] = ..., promised: _Optional[_Union[Ballot, _Mapping]] = ..., chosen: _Optional[int] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("ballot", "first")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    first: int
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., first: _Optional[int] = ...) -> None: ...

class Promise(_message.Message):
    __slots__ = ("ballot", "first", "chosen", "accepted", "lost")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    first: int
    chosen: int
    accepted: _containers.RepeatedCompositeFieldContainer[AcceptedValue]
    lost: _containers.RepeatedCompositeFieldContainer[LostValue]
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., first: _Optional[int] = ..., chosen: _Optional[int] = ..., accepted: _Optional[_Iterable[_Union[AcceptedValue, _Mapping]]] = ..., lost: _Optional[_Iterable[_Union[LostValue, _Mapping]]] = ...) -> None: ...

class Nack(_message.Message):
    __slots__ = ("ballot", "promised")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    promised: Ballot
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., promised: _Optional[_Union[Ballot, _Mapping]] = ...) -> None: ...

class Accept(_message.Message):
    __slots__ = ("ballot", "slot", "value", "chosen")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    slot: int
    value: bytes
    chosen: int
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., slot: _Optional[int] = ..., value: _Optional[bytes] = ..., chosen: _Optional[int] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("ballot", "slots")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    slots: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., slots: _Optional[_Iterable[int]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("ballot", "chosen", "probe")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    chosen: int
    probe: int
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., chosen: _Optional[int] = ..., probe: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("ballot", "probe", "chosen", "full")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    probe: int
    chosen: int
    full: bool
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., probe: _Optional[int] = ..., chosen: _Optional[int] = ..., full: _Optional[bool] = ...) -> None: ...

class Learn(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class Learned(_message.Message):
    __slots__ = ("chosen", "entries")
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    chosen: int
    entries: _containers.RepeatedCompositeFieldContainer[AcceptedValue]
    def __init__(self, chosen: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[AcceptedValue, _Mapping]]] = ...) -> None: ...

class ReadIndex(_message.Message):
    __slots__ = ("read",)
    READ_FIELD_NUMBER: _ClassVar[int]
    read: int
    def __init__(self, read: _Optional[int] = ...) -> None: ...

class ReadIndexReply(_message.Message):
    __slots__ = ("read", "slot")
    READ_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    read: int
    slot: int
    def __init__(self, read: _Optional[int] = ..., slot: _Optional[int] = ...) -> None: ...

class TakeOver(_message.Message):
    __slots__ = ("ballot", "chosen")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    chosen: int
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., chosen: _Optional[int] = ...) -> None: ...

class Trimmed(_message.Message):
    __slots__ = ("first", "chosen")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    first: int
    chosen: int
    def __init__(self, first: _Optional[int] = ..., chosen: _Optional[int] = ...) -> None: ...

class SnapshotAsk(_message.Message):
    __slots__ = ("view", "after")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    view: int
    after: bytes
    def __init__(self, view: _Optional[int] = ..., after: _Optional[bytes] = ...) -> None: ...

class SnapshotChunk(_message.Message):
    __slots__ = ("view", "after", "records", "end", "checksum")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    view: int
    after: bytes
    records: bytes
    end: bytes
    checksum: int
    def __init__(self, view: _Optional[int] = ..., after: _Optional[bytes] = ..., records: _Optional[bytes] = ..., end: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class SnapshotRefused(_message.Message):
    __slots__ = ("view", "gone", "reason")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    view: int
    gone: bool
    reason: str
    def __init__(self, view: _Optional[int] = ..., gone: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class Show(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class Shown(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AcceptedValue]
    def __init__(self, entries: _Optional[_Iterable[_Union[AcceptedValue, _Mapping]]] = ...) -> None: ...
