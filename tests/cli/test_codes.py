"""Codes of rows on the command line: ``vecdb stats`` names them, ``vecdb serve --codes`` rules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.segments.codecs.hostile import low_rank
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb_cli import command_line

ROWS = low_rank(np.random.default_rng(5), 1_100, 50)
IDS = [f"row-{i}" for i in range(len(ROWS))]


@pytest.mark.parametrize("codes", ["auto", "none"])
def test_stats_say_which_codes_a_segment_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], codes: str
) -> None:
    with vecdb.open(tmp_path / "data", indexer=False, codes=codes) as database:
        docs = database.create_collection("docs", 50, "euclidean")
        docs.upsert_many(IDS, ROWS)
        flush_now(docs)
        index_now(docs)
        (segment,) = docs.stats().segments
    wanted = segment.codes if codes == "auto" else f"none: {segment.codes_left_out}"
    assert command_line.run(["stats", "docs", "--data", str(tmp_path / "data")]) == 0
    table = capsys.readouterr().out.splitlines()
    (heading,) = [at for at, line in enumerate(table) if line.split()[-1:] == ["codes"]]
    assert table[heading + 1].endswith(wanted)
    assert command_line.run(["stats", "docs", "--data", str(tmp_path / "data"), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["stats"]["segments"]
    assert (shown["codes"], shown["codes_left_out"]) == (segment.codes, segment.codes_left_out)


@pytest.mark.usefixtures("main_program")
def test_serve_refuses_other_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--data", str(tmp_path / "data"), "--codes", "sketch"]
    assert command_line.run(arguments) != 0
    said = capsys.readouterr()
    assert "option codes must be one of auto, none, got 'sketch'" in said.err + said.out


@pytest.mark.slow
@pytest.mark.parametrize("codes", ["auto", "none"])
def test_server_writes_segments_with_or_without_codes(tmp_path: Path, codes: str) -> None:
    with (
        running_server(tmp_path / "data", codes=codes) as address,
        vecdb.connect(address) as client,
    ):
        docs = client.create_collection("docs", 50, "euclidean")
        docs.upsert_many(IDS, ROWS)
        docs.optimize(timeout_s=HANG_S)
        (segment,) = docs.stats().segments
        assert bool(segment.codes) == (codes == "auto")
        assert ('option codes "none"' in segment.codes_left_out) == (codes == "none")
