"""Which rows changed since a seq: from the log, from records, and by several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.waiting import HANG_S
from vecdb.engine.store.purging import purge_all
from vecdb.engine.store.store import Store
from vecdb.engine.testing import opened_of

ROWS = 40


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    """A collection with a batch of rows; row i has the id i."""
    with vecdb.open(tmp_path, indexer=False) as database:
        docs = database.create_collection("docs", 2, "euclidean")
        docs.upsert(range(ROWS), np.ones((ROWS, 2)), [{"n": i} for i in range(ROWS)])
        yield docs


def store_of(docs: Any) -> Store:
    store: Store = opened_of(docs).store
    return store


def change(docs: Any, *ids: int) -> int:
    return int(docs.set_metadata(ids, {"changed": True}).seq)


def test_log_and_records_tell_the_same(docs: Any) -> None:
    changed = store_of(docs).changed_rows
    first, second = change(docs, 3, 30), change(docs, 5)
    assert changed.since(1, first, 0, ROWS).tolist() == [3, 30]
    assert changed.since(1, second, 0, ROWS).tolist() == [3, 5, 30]
    assert changed.since(first, second, 0, ROWS).tolist() == [5]
    assert changed.since(1, second, 4, 20).tolist() == [5]
    purge_all(store_of(docs), grace_s=0.0)
    third = change(docs, 7)
    # Of an interval that was asked for before, the log still has what is new.
    assert changed.since(1, third, 0, ROWS).tolist() == [3, 5, 7, 30]
    assert changed.since(0, third, 10, ROWS, by_records=False) is None
    assert changed.since(1, third, 2, 20).tolist() == [3, 5, 7]


def test_what_is_known_is_found_while_records_are_read(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(docs)
    changed, seq = store.changed_rows, change(docs, 3, 30)
    assert changed.since(1, seq, 0, ROWS).tolist() == [3, 30]
    purge_all(store, grace_s=0.0)
    later = change(docs, 5)
    begun, go_on, real, read = threading.Event(), threading.Event(), store.rows.read_versions, []

    def read_versions(*arguments: Any) -> Any:
        read.append(arguments)
        begun.set()
        assert go_on.wait(HANG_S)
        return real(*arguments)

    monkeypatch.setattr(store.rows, "read_versions", read_versions)
    with ThreadPoolExecutor() as threads:
        try:
            readers = [threads.submit(changed.since, 0, later, 0, 20) for _ in range(2)]
            assert begun.wait(HANG_S)
            known = threads.submit(changed.since, 1, seq, 0, ROWS).result(HANG_S)
            brought_up = threads.submit(changed.since, 1, later, 0, ROWS).result(HANG_S)
        finally:
            go_on.set()
        assert known.tolist() == [3, 30] and brought_up.tolist() == [3, 5, 30]
        # Whoever waited for the same rows does not read them again.
        assert [reader.result(HANG_S).tolist() for reader in readers] == [[*range(20)]] * 2
    assert len(read) == 1
