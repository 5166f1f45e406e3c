"""gRPC channel and server options: one place for every number and why it is so."""

from __future__ import annotations

import socket

Options = list[tuple[str, int | str]]

MESSAGE_SLACK_BYTES = 1024 * 1024
"""What a gRPC message may be larger than the largest batch: framing, ids, receipts' requests."""

CLIENT_MESSAGE_BYTES_MAX = 3 * 1024 * 1024
"""The largest request: Limits.batch_bytes_max and the slack. Peers split what is larger."""

KEEPALIVE_TIME_MS = 2_000
KEEPALIVE_TIMEOUT_MS = 2_000
"""A peer or client whose host vanished without a word is noticed within the sum of both."""

_COMMON: Options = [
    ("grpc.enable_http_proxy", 0),  # an http_proxy in the environment is not meant for these
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    # Without this one, a ping that nobody answers ends a connection only after a minute (measured
    # with grpcio 1.85), whatever the keepalive timeout says.
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


def channel_options() -> Options:
    """Options of a channel to a node, for clients and for peers."""
    return [
        *_COMMON,
        # A node that comes back is reached again within a second. The "min" is the time that
        # one attempt to connect may take, not a backoff.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 500),
        # Another channel's backoff must not become this one's.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", -1),  # what a node sends is bounded by the node
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 0),  # what to do about a failed call is the caller's to say
    ]


def server_options(request_bytes_max: int, streams_per_connection_max: int) -> Options:
    """Options of a node's server."""
    return [
        *_COMMON,
        ("grpc.so_reuseport", 0),  # else a second node on the same port would start, and share it
        ("grpc.max_receive_message_length", request_bytes_max),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", streams_per_connection_max),
        # Clients ping every KEEPALIVE_TIME_MS, also while they have nothing to say.
        ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def host_of(endpoint: str) -> str:
    """Return the host of ``host:port``, that of IPv6 without its brackets."""
    return endpoint.rpartition(":")[0].removeprefix("[").removesuffix("]")


def notice_silence(connected: socket.socket) -> None:
    """Have the kernel end a connection whose other side vanished without a word as soon as gRPC would."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_USER_TIMEOUT", KEEPALIVE_TIME_MS + KEEPALIVE_TIMEOUT_MS),
        ("TCP_KEEPIDLE", KEEPALIVE_TIME_MS // 1_000),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", KEEPALIVE_TIMEOUT_MS // 1_000),
    ):
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
