"""``python -m vecdb_bench NAME...``: run benchmarks and print their figures."""

from __future__ import annotations

import argparse
import json
import runpy
import sys

from vecdb_bench.common import machine


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(prog="python -m vecdb_bench", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        default=["kernel", "query", "batch", "ingest", "indexing"],
        help="kernel, query, batch, ingest, indexing; all without",
    )
    names = parser.parse_args().names
    print(json.dumps(machine()), flush=True)
    for name in names:
        if name == "kernel":
            sys.argv = ["kernel"]
            runpy.run_module("vecdb_bench.kernel", run_name="__main__")
        elif name == "query":
            from vecdb_bench.query import measure_query

            measure_query()
        elif name == "batch":
            from vecdb_bench.query import measure_batch

            measure_batch()
        elif name == "ingest":
            from vecdb_bench.ingest import measure_ingest

            measure_ingest()
        elif name == "indexing":
            from vecdb_bench.indexing import measure_indexing

            measure_indexing()
        else:
            parser.error(f"no benchmark {name!r}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
