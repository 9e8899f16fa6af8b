"""Which builder the indexer uses: by trial, as earlier ones chose, recorded with the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pytest

from tests.model import flush_now, indexer_of
from tests.places import override
from vecdb.engine.hnsw.choice import Trial
from vecdb.engine.hnsw.graph import BATCHES, HNSWLIB, HNSWLIB_BY_TRIAL
from vecdb.engine.indexing import indexer
from vecdb.engine.testing import opened_of

DIM = 24


class Trials:
    """Stands in for ``run_trial`` with a given result, and counts the trials."""

    def __init__(self, built_by: str) -> None:
        self.built_by, self.count = built_by, 0

    def __call__(self, blocks: Any, **how: Any) -> Trial:
        self.count += 1
        return Trial(self.built_by, 0.0, 0.0, 0.5)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    override(monkeypatch, "trial_rows_min", 400)
    override(monkeypatch, "trial_new_rows_min", 100)
    override(monkeypatch, "extended_rows_min", 0)


def decided(monkeypatch: pytest.MonkeyPatch, built_by: str) -> Trials:
    trials = Trials(built_by)
    monkeypatch.setattr(indexer, "run_trial", trials)
    return trials


def rows_of(n: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def add(docs: Any, start: int, n: int) -> None:
    docs.upsert(list(map(str, range(start, start + n))), rows_of(n, seed=start))
    flush_now(docs)


def index(docs: Any) -> list[dict[str, object]]:
    """Do all graph work; return the events."""
    events: list[dict[str, object]] = []
    assert indexer_of(docs, report=events.append).run("optimizing") is False
    return events


def built_by(docs: Any) -> list[str]:
    manifests = sorted(Path(opened_of(docs).folder).glob("segments/*/manifest.json"))
    return [json.loads(path.read_bytes()).get("built_by", HNSWLIB) for path in manifests]


def near(docs: Any, n: int) -> float:
    queries = rows_of(50, seed=1_000_000)
    found, exact = docs.search(queries, 10, ef=64), docs.search(queries, 10, exact=True)
    shared = [len(set(a.ids) & set(b.ids)) for a, b in zip(found, exact, strict=True)]
    assert docs.count() == n
    return float(np.mean(shared)) / 10


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_few_rows_are_hnswlibs_and_a_trial_decides_once_there_are_more(
    metric: str, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = decided(monkeypatch, BATCHES)
    docs = database.create_collection("docs", DIM, metric)
    add(docs, 0, 300)
    index(docs)
    assert (built_by(docs), trials.count) == ([HNSWLIB], 0)
    add(docs, 300, 300)
    events = index(docs)
    assert (built_by(docs), trials.count) == ([BATCHES], 1)
    trial = next(event for event in events if event["event"] == "trial")
    assert trial["built_by"] == BATCHES and trial["cpu_fraction"] == 0.5
    assert [e["built_by"] for e in events if e["event"] == "built"] == [BATCHES]
    assert near(docs, 600) > 0.9
    add(docs, 600, 300)
    index(docs)
    assert (built_by(docs), trials.count) == ([BATCHES], 1), "the graph says who built it"
    assert near(docs, 900) > 0.9


@pytest.mark.usefixtures("small_limits")
def test_trial_that_chose_hnswlib_is_not_repeated(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = decided(monkeypatch, HNSWLIB_BY_TRIAL)
    docs = database.create_collection("docs", DIM)
    for start in (0, 500, 1_000):
        add(docs, start, 500)
        index(docs)
        assert (built_by(docs), trials.count) == ([HNSWLIB_BY_TRIAL], 1)
    assert near(docs, 1_500) > 0.9


@pytest.mark.usefixtures("small_limits")
def test_small_extension_of_hnswlibs_graph_is_not_tried(
    database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = decided(monkeypatch, BATCHES)
    docs = database.create_collection("docs", DIM)
    add(docs, 0, 390)
    index(docs)
    add(docs, 390, 50)
    index(docs)
    assert (built_by(docs), trials.count) == ([HNSWLIB], 0)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_graph_built_in_batches_is_exported_to_faiss_and_hnswlib(
    metric: str, database: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    decided(monkeypatch, BATCHES)
    docs = database.create_collection("docs", DIM, metric)
    add(docs, 0, 1_000)
    index(docs)
    assert built_by(docs) == [BATCHES]
    queries = rows_of(50, seed=2_000_000)
    if metric == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    ours = np.array([list(map(int, hits.ids)) for hits in docs.search(queries, 10, ef=128)])
    flat_index = faiss.read_index(str(docs.export_faiss(tmp_path / "x.faiss").path))
    faiss.downcast_index(flat_index.index).hnsw.efSearch = 128
    _, found = flat_index.search(queries, 10)
    assert np.mean(found == ours) > 0.99
    report = docs.export_hnswlib(tmp_path / "x.hnsw")
    theirs = hnswlib.Index({"euclidean": "l2", "dot": "ip"}.get(metric, metric), DIM)
    theirs.load_index(report.path)
    theirs.set_ef(128)
    found, _ = theirs.knn_query(queries, 10)
    assert np.mean(found.astype(np.int64) == ours) > 0.99
