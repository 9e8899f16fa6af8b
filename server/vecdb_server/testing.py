"""Access for tests to the internals of a server; see ``vecdb.engine.testing``."""

from __future__ import annotations

from typing import Final

from vecdb_server.process import Server

PLACES: Final = {
    # Constants.
    "call_patience_s": "vecdb_server.admission:_PATIENCE_S",
    "calls_max": "vecdb_server.process:_CALLS_MAX",
    "calls_of_connection_max": "vecdb_server.process:_CALLS_OF_CONNECTION_MAX",
    "connections_max": "vecdb_server.process:_CONNECTIONS_MAX",
    "handshake_s": "vecdb_server.process:_HANDSHAKE_S",
    "health_checks_max": "vecdb_server.health:_CHECKS_MAX",
    "health_watchers_max": "vecdb_server.health:_WATCHERS_MAX",
    "idle_connection_s": "vecdb_server.process:_IDLE_CONNECTION_S",
    "idle_stream_s": "vecdb_server.transport:_IDLE_STREAM_S",
    "idle_thread_s": "vecdb_server.call_threads:_IDLE_S",
    "idle_transfer_s": "vecdb_server.transport:_IDLE_TRANSFER_S",
    "server_features": "vecdb_server.service:_FEATURES",
    "server_ping_after_s": "vecdb_server.process:_PING_AFTER_S",
    "server_ping_answer_s": "vecdb_server.process:_PING_ANSWER_S",
    "server_pings_apart_s": "vecdb_server.process:_PINGS_APART_S",
    "slow_calls_max": "vecdb_server.process:_SLOW_CALLS_MAX",
    "unread_answer_s": "vecdb_server.transport:_UNREAD_S",
    # Functions.
    "load_server_kernels": "vecdb_server.process:_load_kernels",
}


def open_calls(server: Server) -> int:
    """Return the number of open calls, those without a message included."""
    return server._open_calls.open_count


def running_calls(server: Server) -> int:
    """Return the number of calls that occupy a worker."""
    return server._activity.count


def has_reaper(server: Server) -> bool:
    """Return whether a thread watches for slow messages."""
    return server._open_calls._reaper is not None
