"""Columns of metadata after an import, an export, a backup and a restore."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

import vecdb
from tests.checking import checked
from tests.index_files import faiss_index, vectors
from tests.model import flush_now, index_now
from tests.waiting import HANG_S

N, DIM = 400, 8
ENTRIES = [{"n": i, "lang": ("en", "de")[i % 2], "author": {"name": f"a{i % 7}"}} for i in range(N)]
FIELDS = "4 fields: author, author.name, lang, n"
FILTERS: list[dict[str, Any]] = [
    {"n": {"$lt": 50}},
    {"lang": "de", "author.name": "a3"},
    {"author": {"$exists": True}, "n": {"$in": [1, 2, 399]}},
]


@pytest.fixture(autouse=True)
def _lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write sidecars as JSON Lines, as the engine reads them."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name)
    )


def imported_file(folder: Path) -> Path:
    """An index of FAISS with a graph, and a sidecar with ids and metadata."""
    path = folder / "index.faiss"
    index = faiss_index("hnsw-ids", vectors(N, DIM), faiss.METRIC_L2, M=16)
    faiss.write_index(index, str(path))
    numbers = faiss.vector_to_array(index.id_map).tolist()
    lines = [
        json.dumps({"faiss_id": number, "id": f"r{i}", "metadata": ENTRIES[i]})
        for i, number in enumerate(numbers)
    ]
    path.with_name("index.faiss.meta.jsonl").write_text("\n".join(lines) + "\n")
    return path


def check_filters(docs: Any) -> None:
    for filter in FILTERS:
        found = vecdb.parse_filter(filter)
        expected = {f"r{i}" for i in range(N) if found.matches(f"r{i}", ENTRIES[i])}
        assert docs.count(filter=filter) == len(expected) > 0
        hits = docs.search(np.zeros(DIM), k=N, filter=filter, exact=True)
        assert set(hits.ids) == expected


def test_imported_graph_has_columns_at_once(surface: Any, tmp_path: Path) -> None:
    report = surface.import_faiss(imported_file(tmp_path), "docs")
    assert report.graph == "taken over"
    docs = surface.collection("docs")
    (segment,) = docs.stats().segments
    assert (segment.columns, segment.columns_left_out) == (FIELDS, "")
    check_filters(docs)


def test_import_into_a_collection_indexes_the_fields_that_it_names(
    surface: Any, tmp_path: Path
) -> None:
    docs = surface.create_collection("docs", DIM, "euclidean", index_fields=["n"])
    assert surface.import_faiss(imported_file(tmp_path), "docs").graph == "taken over"
    (segment,) = docs.stats().segments
    assert segment.columns == "1 fields: n"
    assert segment.columns_left_out.count("not in index_fields") == 3
    check_filters(docs)


def test_exported_metadata_is_indexed_where_it_is_imported(surface: Any, tmp_path: Path) -> None:
    docs = surface.create_collection("docs", DIM, "euclidean", index_fields=["n"])
    docs.upsert([f"r{i}" for i in range(N)], vectors(N, DIM), ENTRIES)
    docs.optimize(timeout_s=HANG_S)
    docs.set_metadata(["r0"], {"n": -1})
    docs.set_metadata(["r0"], {"n": 0})
    path = tmp_path / "out.faiss"
    docs.export_faiss(path)
    report = surface.import_faiss(path, "copy")
    assert report.graph == "taken over"
    copy = surface.collection("copy")
    (segment,) = copy.stats().segments
    # The sidecar says which fields.
    assert copy.config.index_fields == ("n",) and segment.columns == "1 fields: n"
    assert segment.columns_left_out.count("not in index_fields") == 3
    check_filters(copy)


@pytest.mark.parametrize("include_segments", [True, False])
def test_restored_folder_has_columns(tmp_path: Path, include_segments: bool) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM, "euclidean", index_fields=["n", "lang"])
        docs.upsert([f"r{i}" for i in range(N)], vectors(N, DIM), ENTRIES)
        flush_now(docs)
        index_now(docs)
        docs.set_metadata(["r1"], {"lang": "fr"})
        before = docs.stats().segments
        database.backup(tmp_path / "backup", include_segments=include_segments)
    vecdb.restore(tmp_path / "backup", tmp_path / "restored")
    with vecdb.open(tmp_path / "restored", indexer=False) as database:
        docs = database.collection("docs")
        assert docs.config.index_fields == ("lang", "n")
        if include_segments:
            assert docs.stats().segments == before
        else:
            assert not any(segment.columns for segment in docs.stats().segments)
            index_now(docs)
        (segment,) = docs.stats().segments
        assert segment.columns == "2 fields: lang, n"
        # r1 changed after the columns were made; they must not decide for it.
        assert docs.count(filter={"lang": "fr"}) == 1
        docs.set_metadata(["r1"], {"lang": "de"})
        check_filters(docs)
    assert checked(tmp_path / "restored")[0] == []
