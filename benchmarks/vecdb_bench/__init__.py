"""Benchmarks of vecdb: what it costs, measured beside what it is compared with, in one run.

    python -m vecdb_bench kernel      the graph walk beside hnswlib's own search
    python -m vecdb_bench query       one query over gRPC beside a bare echo and the in-process
    search python -m vecdb_bench batch       batches of queries over gRPC beside in-process
    python -m vecdb_bench ingest      durable writes: gRPC beside in-process beside bare LMDB
    python -m vecdb_bench indexing    time until one graph, beside hnswlib alone

Machines differ and are shared, so the figures to quote are ratios of runs taken in turns.
"""
