"""What a search in groups keeps counts in the memory of calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from vecdb.engine.testing import runtime_of

DIM, ROWS = 8, 3_000
MIB = 1024**2
VECTORS = np.random.default_rng(3).standard_normal((ROWS, DIM), dtype=np.float32)


@pytest.mark.parametrize("indexed", [True, False])
def test_rows_in_groups_are_counted(tmp_path: Path, indexed: bool) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert_many(range(ROWS), VECTORS, [{"of": i} for i in range(ROWS)])
        if indexed:
            flush_now(docs)
            index_now(docs)

    def search(call_bytes_max: int) -> list[vecdb.Hits]:
        options: Any = {"indexer": False, "call_bytes_max": call_bytes_max}
        with vecdb.open(tmp_path / "data", **options) as database:
            try:
                hits: list[vecdb.Hits] = database.collection("docs").search(
                    VECTORS[:20], k=500, group_by="of", exact=True, include_metadata=False
                )
            finally:
                assert runtime_of(database).call_memory.bytes_used == 0
        return hits

    # 20 queries with 500 hits need 3 MiB at least; 1,000 candidates of each in groups 5 MiB more.
    with pytest.raises(vecdb.ResourceExhaustedError, match="the call needs about") as caught:
        search(5 * MIB)
    assert caught.value.reason == "CALL_MEMORY"
    assert [len(hits) for hits in search(12 * MIB)] == [500] * 20


def test_values_of_records_are_counted(tmp_path: Path) -> None:
    """A row may belong to thousands of groups."""
    options: Any = {"indexer": False, "call_bytes_max": 16 * MIB}
    with vecdb.open(tmp_path / "data", **options) as database:
        docs = database.create_collection("docs", DIM)
        tags = [{"tags": [f"{i}-{n}" for n in range(600)]} for i in range(200)]
        docs.upsert(range(200), VECTORS[:200], tags)
        wanted: Any = {"group_by": "tags", "include_metadata": False}
        with pytest.raises(vecdb.ResourceExhaustedError) as caught:
            docs.search(VECTORS[0], k=150, **wanted)
        assert caught.value.reason == "CALL_MEMORY"
        assert runtime_of(database).call_memory.bytes_used == 0
        assert len(docs.search(VECTORS[0], k=5, **wanted)) == 5
