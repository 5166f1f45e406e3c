from journal.rpc.pb import journal_pb2 as _journal_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TransferLeadershipRequest(_message.Message):
    __slots__ = ("to",)
    TO_FIELD_NUMBER: _ClassVar[int]
    to: int
    def __init__(self, to: _Optional[int] = ...) -> None: ...

class TransferLeadershipReply(_message.Message):
    __slots__ = ("leader",)
    LEADER_FIELD_NUMBER: _ClassVar[int]
    leader: int
    def __init__(self, leader: _Optional[int] = ...) -> None: ...

class CompactRequest(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class CompactReply(_message.Message):
    __slots__ = ("compacted",)
    COMPACTED_FIELD_NUMBER: _ClassVar[int]
    compacted: int
    def __init__(self, compacted: _Optional[int] = ...) -> None: ...

class ChangeMembersRequest(_message.Message):
    __slots__ = ("add", "promote", "remove")
    ADD_FIELD_NUMBER: _ClassVar[int]
    PROMOTE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    add: AddLearner
    promote: int
    remove: int
    def __init__(self, add: _Optional[_Union[AddLearner, _Mapping]] = ..., promote: _Optional[int] = ..., remove: _Optional[int] = ...) -> None: ...

class AddLearner(_message.Message):
    __slots__ = ("node", "endpoint")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    node: int
    endpoint: str
    def __init__(self, node: _Optional[int] = ..., endpoint: _Optional[str] = ...) -> None: ...

class ChangeMembersReply(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[_journal_pb2.MemberStatus]
    def __init__(self, members: _Optional[_Iterable[_Union[_journal_pb2.MemberStatus, _Mapping]]] = ...) -> None: ...

class ChainRequest(_message.Message):
    __slots__ = ("slot",)
    SLOT_FIELD_NUMBER: _ClassVar[int]
    slot: int
    def __init__(self, slot: _Optional[int] = ...) -> None: ...

class ChainReply(_message.Message):
    __slots__ = ("slot", "chain", "applied", "revision")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    slot: int
    chain: bytes
    applied: int
    revision: int
    def __init__(self, slot: _Optional[int] = ..., chain: _Optional[bytes] = ..., applied: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class ReadSnapshotRequest(_message.Message):
    __slots__ = ("view", "after", "consistency")
    VIEW_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    view: int
    after: bytes
    consistency: _journal_pb2.Consistency
    def __init__(self, view: _Optional[int] = ..., after: _Optional[bytes] = ..., consistency: _Optional[_Union[_journal_pb2.Consistency, str]] = ...) -> None: ...

class ReadSnapshotReply(_message.Message):
    __slots__ = ("header", "records", "end")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    records: bytes
    end: bytes
    def __init__(self, header: _Optional[bytes] = ..., records: _Optional[bytes] = ..., end: _Optional[bytes] = ...) -> None: ...
