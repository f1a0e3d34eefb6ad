"""How router and workers notice that the other side is gone although no connection was closed."""

from typing import Final

HEARTBEAT_SECONDS: Final = 2.0
"""A router sends a Heartbeat this often, and a worker a LoadReport, however little there is to say."""

SILENCE_SECONDS: Final = 10.0
"""A side that has heard nothing for so long gives the other one up: several heartbeats were lost or never sent."""

_KEEPALIVE_MS: Final = 5000

KEEPALIVE: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Options of the channels between router and workers: the transport pings, and closes when nobody answers."""

CLIENT_KEEPALIVE: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_time_ms", 2 * _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 2 * _KEEPALIVE_MS),
    ("grpc.http2.max_pings_without_data", 0),
)
"""The same for the channel of a client, while a call of it runs."""

KEEPALIVE_SERVER: Final[tuple[tuple[str, int], ...]] = (
    *KEEPALIVE,
    ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),  # the transport's own bandwidth probes are pings, too
)
"""The same for the servers of workers and router, which would otherwise take such pings for an attack and hang up."""

RECONNECT: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 5000),  # how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 1000),
)
"""Options of a channel to somebody who is expected back: by default pauses between attempts grow to two minutes."""
