"""Reads of rows that are purged at the same time are repeated, and see one state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import Model
from tests.places import override, value_of
from tests.store.replacing import DIM, check, names, replaced, rows
from tests.waiting import HANG_S
from vecdb.engine.search import search
from vecdb.engine.search.snapshots import lookup
from vecdb.engine.store import layout, leases
from vecdb.engine.store.purging import purge_all
from vecdb.engine.testing import opened_of


def test_search_whose_hit_was_purged_is_repeated(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best hit is deleted and purged between the walk and the read of metadata."""
    docs = database.create_collection("docs", DIM)
    vectors = rows(50)
    docs.upsert(names(50), vectors, [{"n": i} for i in range(50)])
    real, calls = search.answers, []

    def late(*arguments: Any) -> Any:
        if len(calls) < 2:
            docs.delete(names(1, 7 + len(calls)))
            purge_all(opened_of(docs).store, grace_s=0.0)
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(search, "answers", late)
    hits = docs.search(vectors[7], k=50)
    assert "id-7" not in hits.ids and {m["n"] for m in hits.metadata} >= set(range(9, 50))
    assert hits.info.seq >= 2
    # The second time a lease protected the rows deleted then.
    assert len(calls) == 2


@pytest.mark.parametrize("part", ["vectors", "records"])
def test_look_up_of_purged_rows_is_repeated_under_a_lease(
    database: Any, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """All rows are replaced and purged after each look-up of row numbers; the second time a lease
    protects the rows found."""
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    replaced(docs, model, 400, 1)
    real, finds = value_of("find_rows"), []

    def purging_first(*arguments: Any) -> Any:
        found = real(*arguments)
        if len(finds) == 1:
            then.rows.update(model.rows)
        finds.append(1)
        replaced(docs, model, 400, 1 + len(finds))
        purge_all(opened_of(docs).store, grace_s=0.0)
        return found

    then = Model(DIM, "cosine")
    override(monkeypatch, "find_rows", purging_first)
    if part == "records":  # The vectors were read just before.
        vectors = np.zeros((3, DIM), np.float32)
        monkeypatch.setattr(lookup, "read_vectors", lambda *_: vectors)
    got = docs.get(names(3))
    assert len(finds) == 2 and got.missing == []
    if part == "vectors":
        then.check_records(got, names(3))
    assert [m["n"] for m in got.metadata] == [2, 2, 2]
    with opened_of(docs).store.environment.read() as transaction:
        assert leases.oldest_lease(opened_of(docs).store, transaction) is None
    monkeypatch.undo()
    check(docs, model)


def test_look_up_of_damaged_rows_is_not_repeated(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = database.create_collection("docs", DIM)
    docs.upsert(names(3), rows(3))
    environment, key = opened_of(docs).store.environment, layout.record_key(1, 1)
    environment.transact(lambda t: t.put(key, b"bad", db=environment.database(b"records")))
    monkeypatch.setattr(leases, "take_lease", None)  # Called only for a repetition.
    with pytest.raises(vecdb.DataLossError):
        docs.get(names(3))


def test_snapshot_that_became_too_old_is_created_again(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, model = database.create_collection("docs", DIM), Model(DIM, "cosine")
    replaced(docs, model, 400, 1)
    real, late = value_of("fill_snapshot"), [True, True, True, True]

    def purging_first(self: Any, *arguments: Any) -> Any:
        if late:
            late.pop()
            override(monkeypatch, "fill_snapshot", real)
            replaced(docs, model, 400, 9 + len(late))
            purge_all(opened_of(docs).store, grace_s=0.0)
            override(monkeypatch, "fill_snapshot", purging_first)
        return real(self, *arguments)

    override(monkeypatch, "fill_snapshot", purging_first)
    opened_of(docs).snapshots.forget()
    query = rows(1, 3)[0]
    hits = docs.search(query, k=20, exact=True)
    assert len(late) == 1  # Two attempts without a lease, the third with one.
    assert hits.info.matches == 400 and len(hits) == 20
    check(docs, model)


READER = """
import sys, numpy as np, vecdb
rng = np.random.default_rng(0)
with vecdb.open(sys.argv[1], indexer=False) as database:
    docs = database.collection("docs")
    print("ready", flush=True)
    last, searches = 0, 0
    while docs.count() > 1:
        hits = docs.search(rng.normal(size=16).astype(np.float32), k=10)
        assert hits.info.matches in (1, 1000), hits.info
        if hits.info.matches == 1000:
            assert len(hits) == 10 and len(set(hits.ids)) == 10
            assert all("n" in m for m in hits.metadata)
        assert hits.info.seq >= last
        last, searches = hits.info.seq, searches + 1
print("searches", searches)
"""


@pytest.mark.slow
def test_reader_in_another_process_sees_whole_states_during_replacement(
    tmp_path: Path,
) -> None:
    with vecdb.open(tmp_path, seal_bytes=64 * 1024) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert(names(1_000), rows(1_000), [{"n": 0}] * 1_000)
        child = subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            for seed in range(1, 25):
                docs.upsert(names(1_000), rows(1_000, seed), [{"n": seed}] * 1_000)
            docs.delete(names(999))
            said, _ = child.communicate(timeout=HANG_S)
            assert child.returncode == 0 and said.startswith("searches ")
        finally:
            child.kill()
            child.wait()
