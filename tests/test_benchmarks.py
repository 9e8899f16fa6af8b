"""The benchmarks run, small: they check their own answers, so that figures cannot come from rot."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vecdb_bench.indexing import measure_indexing
from vecdb_bench.ingest import measure_ingest
from vecdb_bench.query import measure_batch, measure_query


def test_query(capsys: pytest.CaptureFixture[str]) -> None:
    result = measure_query(rows=2000, rounds=1, count=20)
    assert result["recall"] > 0.98
    assert set(result["figures"]) == {"echo", "in_process", "over_grpc"}
    assert "recall@10" in capsys.readouterr().out


def test_batch() -> None:
    result = measure_batch(rows=2000, rounds=1, size=50)
    for callers in ("callers_1", "callers_2"):
        assert set(result[callers]["figures"]) == {"in_process", "over_grpc"}
        assert result[callers]["ratio"] > 0


def test_ingest() -> None:
    result = measure_ingest(dim=16, before=400, rows=400, batch=100, rounds=1)
    assert set(result["figures"]) == {"bare_lmdb", "engine", "over_grpc"}
    assert result["engine_ratio"] > 0 < result["wire_ratio"]


def test_indexing() -> None:
    result = measure_indexing(rows=3000, rounds=1)
    assert result["ratio"] > 0
    assert result["recall"] > 0.95


def test_an_unknown_benchmark_is_refused() -> None:
    command = [sys.executable, "-m", "vecdb_bench", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "nothing" in done.stderr
