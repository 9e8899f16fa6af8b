"""The thin client of vecdb: the embedded interface over gRPC; see also ``vecdb.connect``.

client = Client("127.0.0.1:7801")
docs = client.create_collection("docs", dim=384)
docs.upsert(["a", "b"], vectors)
hits = docs.search(vector, k=10)

client        collections by name
collection    one collection: reading and writing rows
address       check of a server's address
ingest        upsert_many: batches, two of them in flight at a time
cutting       calls that exceed the maximum message size, in pieces
searching     searches, and answers that exceed the maximum message size
exports       the stream of an export
imports       sending an index file
credentials   access token and files of TLS
calls         deadlines and retries of calls
connection    a channel with its stub and streams; translates gRPC's errors
streams       calls that stay open, for searches
interrupts    recovering from KeyboardInterrupt inside gRPC
translation   messages to types of the vocabulary and back
statuses      gRPC statuses to errors of vecdb
filters       filters to messages
testing       access for tests to internals
"""

from __future__ import annotations

from vecdb_client.client import Client
from vecdb_client.collection import Collection

__all__ = ["Client", "Collection"]
