"""``python -m vecdb_bench NAME...``: run benchmarks and print their figures."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from vecdb_bench.common import machine

BENCHMARKS = {
    "kernel": ("kernel", "main"),
    "query": ("query", "measure_query"),
    "batch": ("query", "measure_batch"),
    "ingest": ("ingest", "measure_ingest"),
    "indexing": ("indexing", "measure_indexing"),
    "opening": ("opening", "measure_opening"),
    "memory": ("opening", "measure_memory"),
    "view": ("opening", "measure_snapshot_check"),
    "beside": ("beside", "measure_beside"),
    "export": ("export", "measure_export"),
}


def main() -> None:
    """Run the benchmarks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m vecdb_bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", default=list(BENCHMARKS), help=f"{', '.join(BENCHMARKS)}; all without"
    )
    names = parser.parse_args().names
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}")
    print(json.dumps(machine()), flush=True)
    for name in names:
        # ``kernel`` parses sys.argv itself, since it also runs as a module of its own.
        sys.argv = [name]
        module, function = BENCHMARKS[name]
        getattr(importlib.import_module(f"vecdb_bench.{module}"), function)()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
