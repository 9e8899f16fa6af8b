"""Measured recall over gRPC and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.serving import running_server
from tests.waiting import eventually
from vecdb_cli import command_line

ROWS, DIM = 1_200, 16


def rows() -> np.ndarray:
    return np.random.default_rng(7).normal(size=(ROWS, DIM)).astype(np.float32)


def test_server_measures_and_stats_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", DIM)
        docs.upsert_many([str(i) for i in range(ROWS)], rows())
        flush_now(docs)
        index_now(docs)
        assert docs.stats().recall_hour is None
    with (
        running_server(tmp_path / "data", indexer=False, recall_meter=1) as address,
        vecdb.connect(address) as client,
    ):
        docs, url = client.collection("docs"), address
        assert docs.stats().recall_hour is None
        assert command_line.run(["stats", "docs", "--url", url]) == 0
        assert "recall, last hour  not measured" in capsys.readouterr().out
        query = rows()[0]
        hour = eventually(
            lambda: docs.search(query, target_recall=0.8) and docs.stats().recall_hour
        )
        assert isinstance(hour, vecdb.MeasuredRecall)
        assert 0 <= hour.low <= hour.measured <= hour.high <= 1 and hour.queries >= 1
        assert hour.promised == pytest.approx(0.8)
        assert command_line.run(["stats", "docs", "--url", url]) == 0
        out = capsys.readouterr().out
        assert "recall, last hour" in out and "promised 0.800" in out
        assert command_line.run(["stats", "docs", "--url", url, "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)["stats"]
        assert shown["recall_hour"]["queries"] >= 1
        assert shown["recall_day"]["promised"] == pytest.approx(0.8)


@pytest.mark.usefixtures("main_program")
def test_serve_refuses_a_share_above_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", "--data", str(tmp_path / "data"), "--recall-meter", "2"]
    assert command_line.run(arguments) != 0
    said = capsys.readouterr()
    assert "option recall_meter must be a number from 0 to 1, got 2" in said.err + said.out
