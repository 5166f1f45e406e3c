from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_READ: _ClassVar[Reason]
    REASON_RANGE: _ClassVar[Reason]
    REASON_EXPECT: _ClassVar[Reason]
    REASON_BOUNDS: _ClassVar[Reason]
    REASON_SET: _ClassVar[Reason]
    REASON_ABSENT: _ClassVar[Reason]
    REASON_TYPE: _ClassVar[Reason]
    REASON_LEASE: _ClassVar[Reason]
    REASON_COMPACTED: _ClassVar[Reason]
    REASON_LIMIT: _ClassVar[Reason]
    REASON_FUTURE: _ClassVar[Reason]

class ErrorCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_CODE_UNSPECIFIED: _ClassVar[ErrorCode]
    ERROR_CODE_INVALID: _ClassVar[ErrorCode]
    ERROR_CODE_OFFER_INVALID: _ClassVar[ErrorCode]
    ERROR_CODE_REVISION_COMPACTED: _ClassVar[ErrorCode]
    ERROR_CODE_REVISION_IN_FUTURE: _ClassVar[ErrorCode]
    ERROR_CODE_WRONG_CLUSTER: _ClassVar[ErrorCode]
    ERROR_CODE_LEASE_NOT_FOUND: _ClassVar[ErrorCode]
    ERROR_CODE_UNAVAILABLE: _ClassVar[ErrorCode]
    ERROR_CODE_NOT_LEADER: _ClassVar[ErrorCode]
    ERROR_CODE_OVERLOADED: _ClassVar[ErrorCode]
    ERROR_CODE_STORAGE: _ClassVar[ErrorCode]
    ERROR_CODE_PROTOCOL_VIOLATION: _ClassVar[ErrorCode]
    ERROR_CODE_CHANGE_REFUSED: _ClassVar[ErrorCode]
    ERROR_CODE_DISOWNED: _ClassVar[ErrorCode]
    ERROR_CODE_SPACE_FULL: _ClassVar[ErrorCode]

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_LINEARIZABLE: _ClassVar[Consistency]
    CONSISTENCY_AT_LEAST: _ClassVar[Consistency]
    CONSISTENCY_LOCAL: _ClassVar[Consistency]

class SnapshotMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SNAPSHOT_MODE_NEVER: _ClassVar[SnapshotMode]
    SNAPSHOT_MODE_FIRST: _ClassVar[SnapshotMode]
    SNAPSHOT_MODE_IF_COMPACTED: _ClassVar[SnapshotMode]
REASON_UNSPECIFIED: Reason
REASON_READ: Reason
REASON_RANGE: Reason
REASON_EXPECT: Reason
REASON_BOUNDS: Reason
REASON_SET: Reason
REASON_ABSENT: Reason
REASON_TYPE: Reason
REASON_LEASE: Reason
REASON_COMPACTED: Reason
REASON_LIMIT: Reason
REASON_FUTURE: Reason
ERROR_CODE_UNSPECIFIED: ErrorCode
ERROR_CODE_INVALID: ErrorCode
ERROR_CODE_OFFER_INVALID: ErrorCode
ERROR_CODE_REVISION_COMPACTED: ErrorCode
ERROR_CODE_REVISION_IN_FUTURE: ErrorCode
ERROR_CODE_WRONG_CLUSTER: ErrorCode
ERROR_CODE_LEASE_NOT_FOUND: ErrorCode
ERROR_CODE_UNAVAILABLE: ErrorCode
ERROR_CODE_NOT_LEADER: ErrorCode
ERROR_CODE_OVERLOADED: ErrorCode
ERROR_CODE_STORAGE: ErrorCode
ERROR_CODE_PROTOCOL_VIOLATION: ErrorCode
ERROR_CODE_CHANGE_REFUSED: ErrorCode
ERROR_CODE_DISOWNED: ErrorCode
ERROR_CODE_SPACE_FULL: ErrorCode
CONSISTENCY_LINEARIZABLE: Consistency
CONSISTENCY_AT_LEAST: Consistency
CONSISTENCY_LOCAL: Consistency
SNAPSHOT_MODE_NEVER: SnapshotMode
SNAPSHOT_MODE_FIRST: SnapshotMode
SNAPSHOT_MODE_IF_COMPACTED: SnapshotMode

class SubmitRequest(_message.Message):
    __slots__ = ("id", "packed", "batch", "receipt_values")
    ID_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_VALUES_FIELD_NUMBER: _ClassVar[int]
    id: int
    packed: bytes
    batch: Batch
    receipt_values: bool
    def __init__(self, id: _Optional[int] = ..., packed: _Optional[bytes] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., receipt_values: _Optional[bool] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("client", "acked", "base", "offers")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    acked: int
    base: int
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, client: _Optional[bytes] = ..., acked: _Optional[int] = ..., base: _Optional[int] = ..., offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("sequence", "label", "at", "reads", "ranges", "expect", "mutations")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    MUTATIONS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    label: str
    at: int
    reads: _containers.RepeatedScalarFieldContainer[bytes]
    ranges: _containers.RepeatedCompositeFieldContainer[Range]
    expect: _containers.RepeatedCompositeFieldContainer[Expect]
    mutations: _containers.RepeatedCompositeFieldContainer[Mutation]
    def __init__(self, sequence: _Optional[int] = ..., label: _Optional[str] = ..., at: _Optional[int] = ..., reads: _Optional[_Iterable[bytes]] = ..., ranges: _Optional[_Iterable[_Union[Range, _Mapping]]] = ..., expect: _Optional[_Iterable[_Union[Expect, _Mapping]]] = ..., mutations: _Optional[_Iterable[_Union[Mutation, _Mapping]]] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: bytes
    end: bytes
    def __init__(self, start: _Optional[bytes] = ..., end: _Optional[bytes] = ...) -> None: ...

class Expect(_message.Message):
    __slots__ = ("key", "revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    revision: int
    def __init__(self, key: _Optional[bytes] = ..., revision: _Optional[int] = ...) -> None: ...

class Mutation(_message.Message):
    __slots__ = ("put", "delete", "delete_range", "adjust", "set_add", "set_remove", "grant_lease", "revoke_lease")
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    DELETE_RANGE_FIELD_NUMBER: _ClassVar[int]
    ADJUST_FIELD_NUMBER: _ClassVar[int]
    SET_ADD_FIELD_NUMBER: _ClassVar[int]
    SET_REMOVE_FIELD_NUMBER: _ClassVar[int]
    GRANT_LEASE_FIELD_NUMBER: _ClassVar[int]
    REVOKE_LEASE_FIELD_NUMBER: _ClassVar[int]
    put: Put
    delete: Delete
    delete_range: DeleteRange
    adjust: Adjust
    set_add: SetAdd
    set_remove: SetRemove
    grant_lease: GrantLease
    revoke_lease: RevokeLease
    def __init__(self, put: _Optional[_Union[Put, _Mapping]] = ..., delete: _Optional[_Union[Delete, _Mapping]] = ..., delete_range: _Optional[_Union[DeleteRange, _Mapping]] = ..., adjust: _Optional[_Union[Adjust, _Mapping]] = ..., set_add: _Optional[_Union[SetAdd, _Mapping]] = ..., set_remove: _Optional[_Union[SetRemove, _Mapping]] = ..., grant_lease: _Optional[_Union[GrantLease, _Mapping]] = ..., revoke_lease: _Optional[_Union[RevokeLease, _Mapping]] = ...) -> None: ...

class Put(_message.Message):
    __slots__ = ("key", "value", "lease")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    lease: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., lease: _Optional[int] = ...) -> None: ...

class Delete(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    def __init__(self, key: _Optional[bytes] = ...) -> None: ...

class DeleteRange(_message.Message):
    __slots__ = ("range",)
    RANGE_FIELD_NUMBER: _ClassVar[int]
    range: Range
    def __init__(self, range: _Optional[_Union[Range, _Mapping]] = ...) -> None: ...

class Adjust(_message.Message):
    __slots__ = ("key", "deltas", "minimum", "maximum")
    class DeltasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Number
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Number, _Mapping]] = ...) -> None: ...
    class MinimumEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Number
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Number, _Mapping]] = ...) -> None: ...
    class MaximumEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Number
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Number, _Mapping]] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    deltas: _containers.MessageMap[str, Number]
    minimum: _containers.MessageMap[str, Number]
    maximum: _containers.MessageMap[str, Number]
    def __init__(self, key: _Optional[bytes] = ..., deltas: _Optional[_Mapping[str, Number]] = ..., minimum: _Optional[_Mapping[str, Number]] = ..., maximum: _Optional[_Mapping[str, Number]] = ...) -> None: ...

class Number(_message.Message):
    __slots__ = ("integer", "real")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    integer: int
    real: float
    def __init__(self, integer: _Optional[int] = ..., real: _Optional[float] = ...) -> None: ...

class SetAdd(_message.Message):
    __slots__ = ("key", "field", "members")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    field: str
    members: _containers.RepeatedCompositeFieldContainer[SetMember]
    def __init__(self, key: _Optional[bytes] = ..., field: _Optional[str] = ..., members: _Optional[_Iterable[_Union[SetMember, _Mapping]]] = ...) -> None: ...

class SetRemove(_message.Message):
    __slots__ = ("key", "field", "members")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    field: str
    members: _containers.RepeatedCompositeFieldContainer[SetMember]
    def __init__(self, key: _Optional[bytes] = ..., field: _Optional[str] = ..., members: _Optional[_Iterable[_Union[SetMember, _Mapping]]] = ...) -> None: ...

class SetMember(_message.Message):
    __slots__ = ("integer", "text")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    integer: int
    text: str
    def __init__(self, integer: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class GrantLease(_message.Message):
    __slots__ = ("lease", "ttl_ms")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    lease: int
    ttl_ms: int
    def __init__(self, lease: _Optional[int] = ..., ttl_ms: _Optional[int] = ...) -> None: ...

class RevokeLease(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: int
    def __init__(self, lease: _Optional[int] = ...) -> None: ...

class SubmitReply(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SubmitResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SubmitResult, _Mapping]]] = ...) -> None: ...

class SubmitResult(_message.Message):
    __slots__ = ("id", "packed", "verdicts", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: int
    packed: bytes
    verdicts: Verdicts
    error: Error
    def __init__(self, id: _Optional[int] = ..., packed: _Optional[bytes] = ..., verdicts: _Optional[_Union[Verdicts, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Verdicts(_message.Message):
    __slots__ = ("verdicts",)
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    def __init__(self, verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("accepted", "rejected", "expired")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    rejected: Rejected
    expired: Expired
    def __init__(self, accepted: _Optional[int] = ..., rejected: _Optional[_Union[Rejected, _Mapping]] = ..., expired: _Optional[_Union[Expired, _Mapping]] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("reason", "where", "key", "revision", "label", "value", "actual", "field", "message")
    REASON_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    reason: Reason
    where: str
    key: bytes
    revision: int
    label: str
    value: bytes
    actual: str
    field: str
    message: str
    def __init__(self, reason: _Optional[_Union[Reason, str]] = ..., where: _Optional[str] = ..., key: _Optional[bytes] = ..., revision: _Optional[int] = ..., label: _Optional[str] = ..., value: _Optional[bytes] = ..., actual: _Optional[str] = ..., field: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Expired(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "leader", "endpoint", "retry_after_ms", "where", "asked", "bound", "outcome_unknown")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    code: ErrorCode
    message: str
    leader: int
    endpoint: str
    retry_after_ms: int
    where: str
    asked: int
    bound: int
    outcome_unknown: bool
    def __init__(self, code: _Optional[_Union[ErrorCode, str]] = ..., message: _Optional[str] = ..., leader: _Optional[int] = ..., endpoint: _Optional[str] = ..., retry_after_ms: _Optional[int] = ..., where: _Optional[str] = ..., asked: _Optional[int] = ..., bound: _Optional[int] = ..., outcome_unknown: _Optional[bool] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("keys", "at", "consistency", "at_least")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    at: int
    consistency: Consistency
    at_least: int
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., at: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., at_least: _Optional[int] = ...) -> None: ...

class GetReply(_message.Message):
    __slots__ = ("revision", "records")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, revision: _Optional[int] = ..., records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("key", "value", "create", "mod", "version", "lease")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CREATE_FIELD_NUMBER: _ClassVar[int]
    MOD_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    create: int
    mod: int
    version: int
    lease: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., create: _Optional[int] = ..., mod: _Optional[int] = ..., version: _Optional[int] = ..., lease: _Optional[int] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("range", "at", "consistency", "at_least", "limit_keys", "limit_bytes", "keys_only", "columns")
    RANGE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    LIMIT_KEYS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEYS_ONLY_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    range: Range
    at: int
    consistency: Consistency
    at_least: int
    limit_keys: int
    limit_bytes: int
    keys_only: bool
    columns: bool
    def __init__(self, range: _Optional[_Union[Range, _Mapping]] = ..., at: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., at_least: _Optional[int] = ..., limit_keys: _Optional[int] = ..., limit_bytes: _Optional[int] = ..., keys_only: _Optional[bool] = ..., columns: _Optional[bool] = ...) -> None: ...

class ScanReply(_message.Message):
    __slots__ = ("revision", "records", "next", "columns")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    records: _containers.RepeatedCompositeFieldContainer[Record]
    next: bytes
    columns: bytes
    def __init__(self, revision: _Optional[int] = ..., records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ..., next: _Optional[bytes] = ..., columns: _Optional[bytes] = ...) -> None: ...

class TailRequest(_message.Message):
    __slots__ = ("after", "prefixes", "snapshot", "consistency", "at_least", "progress_ms", "packed")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_MS_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    after: int
    prefixes: _containers.RepeatedScalarFieldContainer[bytes]
    snapshot: SnapshotMode
    consistency: Consistency
    at_least: int
    progress_ms: int
    packed: bool
    def __init__(self, after: _Optional[int] = ..., prefixes: _Optional[_Iterable[bytes]] = ..., snapshot: _Optional[_Union[SnapshotMode, str]] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., at_least: _Optional[int] = ..., progress_ms: _Optional[int] = ..., packed: _Optional[bool] = ...) -> None: ...

class TailMessage(_message.Message):
    __slots__ = ("first", "last", "commits", "packed", "current", "snapshot")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    commits: _containers.RepeatedCompositeFieldContainer[Commit]
    packed: bytes
    current: int
    snapshot: SnapshotPage
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., commits: _Optional[_Iterable[_Union[Commit, _Mapping]]] = ..., packed: _Optional[bytes] = ..., current: _Optional[int] = ..., snapshot: _Optional[_Union[SnapshotPage, _Mapping]] = ...) -> None: ...

class SnapshotPage(_message.Message):
    __slots__ = ("begin", "end", "records")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    begin: bool
    end: bool
    records: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, begin: _Optional[bool] = ..., end: _Optional[bool] = ..., records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("revision", "slot", "time_ms", "client", "sequence", "label", "changes")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    revision: int
    slot: int
    time_ms: int
    client: bytes
    sequence: int
    label: str
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    def __init__(self, revision: _Optional[int] = ..., slot: _Optional[int] = ..., time_ms: _Optional[int] = ..., client: _Optional[bytes] = ..., sequence: _Optional[int] = ..., label: _Optional[str] = ..., changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("key", "value", "lease")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    value: bytes
    lease: int
    def __init__(self, key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., lease: _Optional[int] = ...) -> None: ...

class LeaseGrantRequest(_message.Message):
    __slots__ = ("ttl_ms", "lease")
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    ttl_ms: int
    lease: int
    def __init__(self, ttl_ms: _Optional[int] = ..., lease: _Optional[int] = ...) -> None: ...

class LeaseGrantReply(_message.Message):
    __slots__ = ("lease", "ttl_ms", "revision")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    lease: int
    ttl_ms: int
    revision: int
    def __init__(self, lease: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., revision: _Optional[int] = ...) -> None: ...

class LeaseKeepAliveRequest(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: int
    def __init__(self, lease: _Optional[int] = ...) -> None: ...

class LeaseKeepAliveReply(_message.Message):
    __slots__ = ("lease", "ttl_ms", "error")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    lease: int
    ttl_ms: int
    error: Error
    def __init__(self, lease: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class LeaseRevokeRequest(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: int
    def __init__(self, lease: _Optional[int] = ...) -> None: ...

class LeaseRevokeReply(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class LeaseInfoRequest(_message.Message):
    __slots__ = ("lease", "consistency", "at_least")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    lease: int
    consistency: Consistency
    at_least: int
    def __init__(self, lease: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., at_least: _Optional[int] = ...) -> None: ...

class LeaseInfoReply(_message.Message):
    __slots__ = ("lease", "ttl_ms", "granted_revision", "keys", "revision")
    LEASE_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    GRANTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    lease: int
    ttl_ms: int
    granted_revision: int
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    revision: int
    def __init__(self, lease: _Optional[int] = ..., ttl_ms: _Optional[int] = ..., granted_revision: _Optional[int] = ..., keys: _Optional[_Iterable[bytes]] = ..., revision: _Optional[int] = ...) -> None: ...

class OutcomeRequest(_message.Message):
    __slots__ = ("client", "sequence", "consistency", "at_least")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    client: bytes
    sequence: int
    consistency: Consistency
    at_least: int
    def __init__(self, client: _Optional[bytes] = ..., sequence: _Optional[int] = ..., consistency: _Optional[_Union[Consistency, str]] = ..., at_least: _Optional[int] = ...) -> None: ...

class OutcomeReply(_message.Message):
    __slots__ = ("verdict", "revision")
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    verdict: Verdict
    revision: int
    def __init__(self, verdict: _Optional[_Union[Verdict, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeStatus(_message.Message):
    __slots__ = ("node", "cluster", "endpoint", "role", "leader", "leader_endpoint", "ballot", "revision", "applied", "chosen", "lag", "chain", "compacted", "disk_bytes", "offers_inflight", "tails", "leases", "uptime_s", "members", "health", "pid", "peers", "disk_free_bytes", "direct_port")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    LEADER_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    COMPACTED_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    OFFERS_INFLIGHT_FIELD_NUMBER: _ClassVar[int]
    TAILS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIRECT_PORT_FIELD_NUMBER: _ClassVar[int]
    node: int
    cluster: str
    endpoint: str
    role: str
    leader: int
    leader_endpoint: str
    ballot: str
    revision: int
    applied: int
    chosen: int
    lag: int
    chain: str
    compacted: int
    disk_bytes: int
    offers_inflight: int
    tails: int
    leases: int
    uptime_s: float
    members: _containers.RepeatedCompositeFieldContainer[MemberStatus]
    health: str
    pid: int
    peers: _containers.RepeatedCompositeFieldContainer[PeerStatus]
    disk_free_bytes: int
    direct_port: int
    def __init__(self, node: _Optional[int] = ..., cluster: _Optional[str] = ..., endpoint: _Optional[str] = ..., role: _Optional[str] = ..., leader: _Optional[int] = ..., leader_endpoint: _Optional[str] = ..., ballot: _Optional[str] = ..., revision: _Optional[int] = ..., applied: _Optional[int] = ..., chosen: _Optional[int] = ..., lag: _Optional[int] = ..., chain: _Optional[str] = ..., compacted: _Optional[int] = ..., disk_bytes: _Optional[int] = ..., offers_inflight: _Optional[int] = ..., tails: _Optional[int] = ..., leases: _Optional[int] = ..., uptime_s: _Optional[float] = ..., members: _Optional[_Iterable[_Union[MemberStatus, _Mapping]]] = ..., health: _Optional[str] = ..., pid: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ..., disk_free_bytes: _Optional[int] = ..., direct_port: _Optional[int] = ...) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("node", "connected", "heard_ago_s", "round_trip_s", "chosen", "lag", "why")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    HEARD_AGO_S_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_S_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    node: int
    connected: bool
    heard_ago_s: float
    round_trip_s: float
    chosen: int
    lag: int
    why: str
    def __init__(self, node: _Optional[int] = ..., connected: _Optional[bool] = ..., heard_ago_s: _Optional[float] = ..., round_trip_s: _Optional[float] = ..., chosen: _Optional[int] = ..., lag: _Optional[int] = ..., why: _Optional[str] = ...) -> None: ...

class MemberStatus(_message.Message):
    __slots__ = ("node", "endpoint", "voter")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    VOTER_FIELD_NUMBER: _ClassVar[int]
    node: int
    endpoint: str
    voter: bool
    def __init__(self, node: _Optional[int] = ..., endpoint: _Optional[str] = ..., voter: _Optional[bool] = ...) -> None: ...
