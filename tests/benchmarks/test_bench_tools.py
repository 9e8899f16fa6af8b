"""Parts of the benchmark suite, each alone: results, workers, ids, the user's own collection."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from vecdb.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnsupportedError,
)
from vecdb_bench import own, suite
from vecdb_bench.report.lookup import at_recall
from vecdb_bench.results import Results, read_results
from vecdb_bench.scenarios import SCENARIOS
from vecdb_bench.targets.base import Ids
from vecdb_bench.targets.process import TargetFailedError, WorkerProcess
from vecdb_bench.targets.registry import TARGETS, describe
from vecdb_cli import command_line

pytestmark = pytest.mark.slow


def test_results_survive_being_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    key = {"scenario": "s", "target": "t", "dataset": "d", "data": "", "settings": {}}
    file = Results(path)
    file.add(**key, point={"k": 1}, status="measured", figures={"x": 1}, provenance={})
    file.add(**key, point={"k": 2}, status="failed", error="it broke", provenance={})
    path.write_bytes(path.read_bytes() + b'{"format": 1, "scen')
    again = Results(path)
    assert again.known(**key, point={"k": 1}) and not again.known(**key, point={"k": 2})
    again.add(**key, point={"k": 2}, status="cannot", error="it can't", provenance={})
    assert [line["status"] for line in read_results(path)] == ["measured", "cannot"]
    assert Results(path, again=True).known(**key, point={"k": 1}) is None
    path.write_text("{\n" + path.read_text())
    with pytest.raises(DataLossError, match="line 1"):
        read_results(path)
    path.write_text(json.dumps({**key, "point": {}, "format": 99, "status": "measured"}) + "\n")
    with pytest.raises(FailedPreconditionError, match="99"):
        read_results(path)


def test_speed_at_a_recall_lies_between_the_efforts_around_it() -> None:
    def line(recall: float, speed: float) -> dict[str, Any]:
        spread = {"median": speed, "min": speed / 2, "max": speed * 2}
        return {"figures": {"recall_10": recall, "queries_per_s": spread}}

    sweep = [line(0.9, 10_000), line(1.0, 100)]
    assert at_recall(sweep, 0.95) == pytest.approx(1000)
    assert at_recall(sweep, 1.0) == pytest.approx(100)
    assert at_recall(sweep, 0.5) == 10_000
    assert at_recall(sweep[:1], 0.95) is None
    assert at_recall(sweep, 0.95, of_rounds="min") == pytest.approx(500)


def test_a_worker_says_what_went_wrong(tmp_path: Path) -> None:
    with WorkerProcess("hnswlib", tmp_path / "cache") as worker:
        place = {"folder": str(tmp_path / "h"), "dim": 4, "settings": {}}
        with pytest.raises(TargetFailedError, match="manhattan"):
            worker.call("open", metric="manhattan", **place)
        worker.call("open", metric="cosine", **place)  # It goes on.
        with pytest.raises(UnsupportedError, match="one process"):
            worker.call("address")
        worker.kill()
        with pytest.raises(TargetFailedError, match="ended"):
            worker.call("finish")


def test_what_left_the_group_of_a_worker_is_killed_with_it(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with (
        subprocess.Popen(sleep, start_new_session=True) as server,
        subprocess.Popen(sleep, start_new_session=True) as other,
        WorkerProcess("hnswlib", tmp_path / "cache") as worker,
    ):
        worker.watch([server.pid])
        worker.kill()
        assert server.wait(10) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_ids_come_back() -> None:
    for kind in ("integer", "uuid"):
        ids = Ids(kind)
        texts = ids.encode(range(200))
        assert ids.decode(texts) == list(range(200))
        assert (texts == sorted(texts)) is False
        assert ids.matrix([texts[:2], []], 3).tolist() == [[0, 1, -1], [-1, -1, -1]]


def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="elsewhere"):
        describe("elsewhere")
    with pytest.raises(InvalidArgumentError, match="nothing"):
        suite.run(replace(suite.TINY, scenarios=("nothing",)), tmp_path / "r", tmp_path / "cache")
    folder = Path(suite.__file__).parent
    for each in TARGETS.values():
        assert (folder / "targets" / f"{each.module}.py").exists()
    for name in SCENARIOS:
        assert (folder / "scenarios" / f"{name}.py").exists()


def test_own_collection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = np.random.default_rng(2).standard_normal((800, 8), dtype=np.float32)
    with vecdb.open(tmp_path / "data") as database:
        docs = database.create_collection("docs", dim=8)
        docs.upsert_many((str(at) for at in range(800)), vectors)
        docs.optimize()
        before = docs.stats()
        asked, ids = own.sample(docs, 20)
        assert all((vectors[int(name)] == row).all() for name, row in zip(ids, asked, strict=True))
        assert own.sample(docs, 20)[1] == ids and len(set(ids)) == 20
        rows = own.measure(docs, asked, ids, efforts=(16, 256), targets=(), sleep=lambda _: None)
        assert rows[1].recall > 0.99 and rows[0].recall <= rows[1].recall
        assert rows[0].visited < rows[1].visited and 0 < rows[1].p50_ms <= rows[1].p99_ms
        assert docs.stats().seq == before.seq
        ends = time.monotonic() + 20
        while docs.stats().readers > before.readers:  # The database's own come and go.
            assert time.monotonic() < ends
        with pytest.raises(InvalidArgumentError, match="8 dimensions"):
            own.measure(docs, vectors[:, :3], None)
    command = ["bench", "own", "docs", "--data", str(tmp_path / "data"), "--count", "5", "--json"]
    assert command_line.run(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][-1]["recall"] == 1.0
    assert [row["target"] for row in told["rows"][:4]] == list(own.TARGETS)
    assert [row["ef"] for row in told["rows"][4:]] == list(own.EFFORTS)
