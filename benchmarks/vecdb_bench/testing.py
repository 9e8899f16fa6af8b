"""Access for tests to the internals of the benchmarks; see ``vecdb.engine.testing``."""

from __future__ import annotations

from typing import Final

PLACES: Final = {"truth_block_bytes": "vecdb_bench.data.truth:_BLOCK_BYTES"}
