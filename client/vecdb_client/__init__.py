"""The thin client of vecdb: the embedded interface over gRPC. ``vecdb.connect`` makes one too.

client = Client("127.0.0.1:7801")
docs = client.create_collection("docs", dim=384)
docs.upsert(["a", "b"], vectors)
hits = docs.search(vector, k=10)

client        collections by name
collection    one collection: rows in and out
ingest        upsert_many: batches, two of them under way at a time
exports       the stream of an export
imports       sending an index file
calls         every call's way out and back: deadlines, what is sent again
connection    a channel and what hangs on it; gRPC's errors become ours here
streams       calls that stay open, for searches
interrupts    Ctrl-C in the middle of a call
translation   messages to the vocabulary, and gRPC's errors to ours
"""

from __future__ import annotations

from vecdb_client.client import Client
from vecdb_client.collection import Collection

__all__ = ["Client", "Collection"]
