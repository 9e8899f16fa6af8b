"""The thin client of vecdb: the embedded interface over gRPC. ``vecdb.connect`` makes one too.

client = Client("127.0.0.1:7801")
docs = client.create_collection("docs", dim=384)
docs.upsert(["a", "b"], vectors)
hits = docs.search(vector, k=10)

client        the connection: collections by name, and every call's way out and back
collection    one collection: rows in and out
ingest        upsert_many: batches, two of them under way at a time
translation   messages to the vocabulary, and gRPC's errors to ours
"""

from __future__ import annotations

from vecdb_client.client import Client
from vecdb_client.collection import Collection

__all__ = ["Client", "Collection"]
