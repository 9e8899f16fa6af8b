"""Benchmarks of vecdb, each measured in the same run as its baseline.

    python -m vecdb_bench kernel      graph search; baseline: hnswlib's own search
    python -m vecdb_bench query       one query over gRPC; baselines: bare echo, in-process search
    python -m vecdb_bench batch       batches of queries over gRPC; baseline: in-process
    python -m vecdb_bench ingest      durable writes; baselines: in-process, bare LMDB
    python -m vecdb_bench indexing    time until all rows are in one graph; baseline: hnswlib
    python -m vecdb_bench opening     time from open to the first answer, by number of rows
    python -m vecdb_bench memory      private memory of an idle server
    python -m vecdb_bench view        time to check that a snapshot is the newest
    python -m vecdb_bench beside      search latency while another process writes
    python -m vecdb_bench export      export to and import from FAISS; baseline: FAISS's build

Absolute figures depend on the machine and its load. Quote the ratios of interleaved runs instead.
"""
