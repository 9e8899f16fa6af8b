"""The benchmarks run, small: they check their own answers, so that figures cannot come from rot."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from vecdb_bench.__main__ import BENCHMARKS
from vecdb_bench.beside import measure_beside
from vecdb_bench.export import measure_export
from vecdb_bench.indexing import measure_indexing
from vecdb_bench.ingest import measure_ingest
from vecdb_bench.opening import measure_memory, measure_opening, measure_snapshot_check
from vecdb_bench.query import measure_batch, measure_query


@pytest.mark.slow
def test_query(capsys: pytest.CaptureFixture[str]) -> None:
    result = measure_query(rows=2000, rounds=1, count=20)
    assert result["recall"] > 0.98
    assert set(result["figures"]) == {"echo", "in_process", "over_grpc"}
    assert "recall@10" in capsys.readouterr().out


@pytest.mark.slow
def test_batch() -> None:
    result = measure_batch(rows=2000, rounds=1, size=50)
    for callers in ("callers_1", "callers_2"):
        assert set(result[callers]["figures"]) == {"in_process", "over_grpc"}
        assert result[callers]["ratio"] > 0


@pytest.mark.slow
def test_ingest() -> None:
    result = measure_ingest(dim=16, before=400, rows=400, batch=100, rounds=1)
    assert set(result["figures"]) == {"bare_lmdb", "engine", "over_grpc"}
    assert result["engine_ratio"] > 0 < result["wire_ratio"]


@pytest.mark.slow
def test_indexing() -> None:
    result = measure_indexing(rows=3000, rounds=1)
    assert result["ratio"] > 0
    assert result["recall"] > 0.95


@pytest.mark.slow
def test_opening() -> None:
    result = measure_opening(small=500, large=1000, fresh=100, rounds=1)
    assert set(result["figures"]) == {"small", "large"} and result["ratio"] > 0


@pytest.mark.slow
def test_memory_and_view_check() -> None:
    assert measure_memory(rows=2000)["private_bytes"] > 1e6
    assert measure_snapshot_check(rows=500, count=10)["view_check_us"] > 0


@pytest.mark.slow
def test_beside() -> None:
    result = measure_beside(rows=4000, seconds=1.0)
    assert result["sustained"]["rows_per_s"] > 0 < result["full"]["rows_per_s"]


@pytest.mark.slow
def test_export() -> None:
    result = measure_export(rows=3000, dim=24)
    assert result["ratio"] > 0 and result["alike"] > 0.95


def test_an_unknown_benchmark_is_refused() -> None:
    command = [sys.executable, "-m", "vecdb_bench", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "nothing" in done.stderr


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_name_on_the_command_line_has_a_function(name: str) -> None:
    module, function = BENCHMARKS[name]
    assert callable(getattr(importlib.import_module(f"vecdb_bench.{module}"), function))
