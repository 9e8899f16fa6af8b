"""Access for tests to the internals of a client; see ``vecdb.engine.testing``."""

from __future__ import annotations

from typing import Final

from vecdb_client.calls import Calls
from vecdb_client.client import Client
from vecdb_client.collection import Collection
from vecdb_client.connection import Connection

PLACES: Final = {
    # Constants.
    "client_ping_after_s": "vecdb_client.connection:_PING_AFTER_S",
    "client_ping_answer_s": "vecdb_client.connection:_PING_ANSWER_S",
    "import_chunk_bytes": "vecdb_client.imports:_CHUNK_BYTES",
    # Tables and functions.
    "error_of_status": "vecdb_client.statuses:_ERROR_OF_STATUS",
    "metric_of_wire": "vecdb_client.translation:_METRIC_OF_WIRE",
    "send_call": "vecdb_client.calls:Calls._send",
    "wire_of_metric": "vecdb_client.translation:_WIRE_OF_METRIC",
}


def calls_of(client: Client | Collection) -> Calls:
    """Return the calls of a client, which send any message."""
    return client._calls


def connection_of(calls: Calls) -> Connection:
    """Return the connection that the next call uses."""
    return calls._connection


def open_streams(connection: Connection) -> int:
    """Return the number of streams that a connection keeps open for searches."""
    return len(connection.streams._open)
