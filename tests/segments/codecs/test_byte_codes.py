"""8-bit codes as a part of segments: written, used by exact scans, checked, done without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from vecdb.engine.kernels import compiled as kernels
from vecdb.engine.segments.codecs import byte_codes as codec
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import LeftOut, Parts, PartSource
from vecdb.engine.segments.row_arrays import VECTORS
from vecdb.engine.testing import opened_of
from vecdb.types import CollectionConfig, Metric

METRICS = pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
ROWS = 5_000


def prepared(raw: Any, metric: str) -> Any:
    rows = np.empty((len(raw), -(-raw.shape[1] // 16) * 16), np.float32)
    kernels.prepare_rows(np.ascontiguousarray(raw, np.float32), rows, metric == "cosine")
    return rows


def source_of(rows: Any, metric: str) -> PartSource:
    parts = Parts()
    parts.put(VECTORS, rows)
    return PartSource(CollectionConfig(rows.shape[1], Metric(metric)), parts)


def bits(hits: Any) -> list[tuple[str, int]]:
    return [(hit.id, int(np.float32(hit.distance).view(np.int32))) for hit in hits]


def segments_of(collection: Any) -> list[Any]:
    return [s.segment for s in opened_of(collection).snapshots.snapshot().segments]


@METRICS
def test_codes_and_factors_are_what_they_stand_for(glove: np.ndarray, metric: str) -> None:
    rows = prepared(glove[: ROWS + 7], metric)
    coded = codec.BYTE_CODES.derive(source_of(rows, metric))
    assert isinstance(coded, codec.ByteCodes)
    assert len(codec.differing(rows, coded, Metric(metric))) == 0
    values = codec.codes_of(coded, 0, len(rows))
    scale, constant, error, length = codec.factors_of(coded, 0, len(rows))
    mean = coded.mean.astype(np.float64)
    assert np.abs(values).max() == 127
    left = rows - mean - scale[:, None] * values
    assert (np.abs(left).max(1) <= scale * 0.500_01).all()
    lengths = np.linalg.norm(rows - mean, axis=1)
    assert (error < 0.02 * lengths).all()
    np.testing.assert_allclose(error, np.linalg.norm(left, axis=1), rtol=1e-5)
    np.testing.assert_allclose(length, lengths, rtol=0.01)
    expected = lengths**2 if metric == "euclidean" else -(rows - mean) @ mean
    np.testing.assert_allclose(constant, expected, rtol=1e-5, atol=1e-7)
    assert (constant <= expected).all()


def test_small_segments_and_narrow_rows_are_not_coded(glove: np.ndarray) -> None:
    rows = prepared(glove[:ROWS], "dot")
    assert codec.BYTE_CODES.applies_to(source_of(rows, "dot"))
    assert not codec.BYTE_CODES.applies_to(source_of(rows[:1_500], "dot"))
    narrow = np.zeros((100_000, 16), np.float32)
    assert not codec.BYTE_CODES.applies_to(source_of(narrow, "dot"))
    wide = np.zeros((1_000, 4_096), np.float32)
    assert not codec.BYTE_CODES.applies_to(source_of(wide, "dot"))


def test_rows_that_bounds_can_not_tell_apart_go_without() -> None:
    """All distances are nearly equal, closer to each other than bounds are."""
    raw = np.eye(2_048, dtype=np.float32)
    raw += 0.001 * np.random.default_rng(0).standard_normal(raw.shape, np.float32)
    left_out = codec.BYTE_CODES.derive(source_of(prepared(raw, "euclidean"), "euclidean"))
    assert isinstance(left_out, LeftOut) and "% of the rows" in left_out.reason


def test_a_few_huge_rows_do_not_blunt_the_others(glove: np.ndarray) -> None:
    raw = glove[:ROWS].copy()
    raw[::500] *= 1e6
    coded = codec.BYTE_CODES.derive(source_of(prepared(raw, "euclidean"), "euclidean"))
    assert isinstance(coded, codec.ByteCodes)
    raw[3] *= np.float32(1e30)
    rows = prepared(raw, "euclidean")
    coded = codec.BYTE_CODES.derive(source_of(rows, "euclidean"))
    assert isinstance(coded, codec.ByteCodes)
    assert np.isinf(coded.factors[0, 2, 3])
    assert len(codec.differing(rows, coded, Metric.EUCLIDEAN)) == 0


@METRICS
def test_planted_codes_are_found_by_a_check(glove: np.ndarray, metric: str) -> None:
    rows, kind = prepared(glove[:ROWS], metric), Metric(metric)
    coded = codec.encode(rows, kind)
    assert len(codec.differing(rows, coded, kind)) == 0
    codes, factors = coded.codes.copy(), coded.factors.copy()
    codes[20, 64 + 4 * 3] += 3  # Component 4 of row 3 of block 20.
    factors[5, 0, 1] *= 1.01
    factors[6, 1, 2] += 0.01
    factors[7, 2, 3] *= 0.99
    factors[7, 2, 4] = np.inf
    factors[7, 2, 5] = np.nan
    factors[8, 3, 4] *= 0.99
    planted = [81, 98, 115, 116, 117, 132, 323]
    wrong = replace(coded, codes=codes, factors=factors)
    assert codec.differing(rows, wrong, kind).tolist() == planted
    moved = replace(coded, mean=coded.mean + np.float32(0.01))
    assert len(codec.differing(rows, moved, kind)) == ROWS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fill(folder: Path, glove: np.ndarray, metric: str, **options: Any) -> None:
    """Write a graph of some rows and a flat segment of others, with duplicates and deleted rows."""
    with vecdb.open(folder, indexer=False, **options) as database:
        words = database.create_collection("words", 50, metric)
        rows = np.concatenate([glove[:ROWS], glove[100:ROWS]])
        words.upsert_many([str(i) for i in range(ROWS)], rows[:ROWS])
        flush_now(words)
        index_now(words)
        words.upsert_many([str(i) for i in range(ROWS, len(rows))], rows[ROWS:])
        flush_now(words)
        words.delete([str(i) for i in range(0, len(rows), 7)])


@METRICS
def test_exact_searches_return_the_same_with_and_without(
    folder: Path, glove: np.ndarray, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, glove, metric)
    queries = np.concatenate([glove[60_000:60_040], glove[200:210]])
    found, scored = [], []
    scan = kernels.scan_by_codes

    def counted(*arguments: Any) -> None:
        scan(*arguments)
        scored.append(int(arguments[-1].sum()))

    monkeypatch.setattr(kernels, "scan_by_codes", counted)
    for kept in (True, False):
        with vecdb.open(folder, indexer=False) as database:
            words = database.collection("words")
            segments = segments_of(words)
            assert sorted(s.parts.has(GRAPH) for s in segments) == [False, True]
            assert all(s.parts.has(codec.BYTE_CODES) for s in segments)
            if not kept:
                for segment in segments:
                    segment.parts.drop(codec.BYTE_CODES.name)
            for k in (1, 10, 300):
                found.append([bits(h) for h in words.search(queries, k=k, exact=True)])
            found.append([bits(words.search(q, k=10, exact=True)) for q in queries[:5]])
            count = len(scored)
            words.search(queries[0], k=ROWS // 20, exact=True)
            assert len(scored) == count, "too few rows for so many hits"
    assert found[:4] == found[4:]
    assert count == len(scored) > 0, "without codes, rows are scanned"


def test_without_the_option_none_are_written_or_used(
    folder: Path, glove: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, glove, "cosine", codes="none")
    queries = glove[60_000:60_020]
    with vecdb.open(folder, indexer=False) as database:
        words = database.collection("words")
        assert not any(s.parts.has(codec.BYTE_CODES) for s in segments_of(words))
        reasons = {s.codes_left_out for s in words.stats().segments}
        assert reasons == {'written with the option codes "none"'}
        before = [bits(h) for h in words.search(queries, exact=True)]
        index_now(words)
        assert [s.codes.split("; ")[-1] for s in words.stats().segments] == ["8-bit codes"]
        assert {s.codes_left_out for s in words.stats().segments} == {""}
    monkeypatch.delattr(kernels, "scan_by_codes")
    with vecdb.open(folder, indexer=False, codes="none") as database:
        words = database.collection("words")
        assert [bits(h) for h in words.search(queries, exact=True)] == before


def test_damaged_codes_are_done_without_and_derived_again(folder: Path, glove: np.ndarray) -> None:
    fill(folder, glove, "cosine")
    queries = glove[60_000:60_020]
    with vecdb.open(folder, indexer=False) as database:
        before = [bits(h) for h in database.collection("words").search(queries, exact=True)]
    for path in folder.glob("collections/*/segments/*/byte_codes.npy"):
        content = bytearray(path.read_bytes())
        content[-5_000] ^= 1
        path.write_bytes(content)
    with vecdb.open(folder, indexer=False) as database:
        words = database.collection("words")
        while not opened_of(words).snapshots.verify(lambda: None):
            pass
        assert not any(s.parts.has(codec.BYTE_CODES) for s in segments_of(words))
        assert [bits(h) for h in words.search(queries, exact=True)] == before
        index_now(words)
        assert all(s.parts.has(codec.BYTE_CODES) for s in segments_of(words))
        assert [bits(h) for h in words.search(queries, exact=True)] == before


def test_check_finds_codes_of_other_rows_and_repairs_them(
    folder: Path, glove: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their checksums are right, so only a comparison with the vectors can find them."""

    def exchanged(*arguments: Any) -> Any:
        coded = encode(*arguments)
        return replace(coded, codes=np.roll(coded.codes, 1, axis=0))

    encode = codec.encode
    with monkeypatch.context() as patch:
        patch.setattr(codec, "encode", exchanged)
        patch.setattr(codec, "SCORED_MAX", 1.0)
        fill(folder, glove, "cosine")
    problems = vecdb.check(folder).problems
    assert {problem.kind for problem in problems} == {"BYTE_CODES"} and len(problems) == 2
    assert all(problem.severity == "warning" for problem in problems)
    assert vecdb.check(folder, repair=True).problems
    assert not vecdb.check(folder).problems
