"""``vecdb search --explain`` and ``vecdb stats``: how it searches, and what is indexed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.model import flush_now, index_now
from tests.serving import running_server
from vecdb_cli import command_line


@pytest.fixture(params=["--data", "--url"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The options that name a database: a graph of 300 rows, and 20 rows in none."""
    vectors = np.random.default_rng(5).standard_normal((320, 8), dtype=np.float32)
    entries = [{"n": i, "text": "x" * (600 if i == 7 else 6), "part": i // 300} for i in range(320)]
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 8, index_fields=["n", "part"])
        docs.upsert(range(300), vectors[:300], entries[:300])
        flush_now(docs)
        index_now(docs)
        docs.upsert(range(300, 320), vectors[300:], entries[300:])
    if request.param == "--data":
        yield ["--data", str(tmp_path / "data")]
        return
    with running_server(tmp_path / "data", indexer=False) as address:
        yield ["--url", address]


def explained(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[str]:
    assert command_line.run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    (heading,) = [at for at, line in enumerate(lines) if line.startswith("segment")]
    return [" ".join(line.split()) for line in lines[heading + 1 :]]


def test_explain_shows_every_segment(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    search = ["search", "docs", "--id", "5", "-k", "3", *where]
    assert command_line.run(search) == 0
    assert "way" not in capsys.readouterr().out
    graph, memtable = explained(capsys, [*search, "--explain"])
    assert graph.endswith(" walk the graph 300 300")
    assert memtable == "in none compare all rows 20 20"
    matching = [*search, "--explain", "--filter"]
    graph, memtable = explained(capsys, [*matching, '{"n": {"$lt": 2}}'])
    assert " compare the matching rows 300 2 matches " in graph
    assert graph.endswith(" µs") and "rows " in graph.split("matches ", 1)[1]
    assert memtable == "in none nothing matches 20 0"
    graph, memtable = explained(capsys, [*matching, '{"part": 1}'])
    assert graph.endswith(" nothing matches 300 0")
    assert memtable.startswith("in none compare ") and " 20 20 " in memtable


def test_explain_is_in_the_document(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    search = ["search", "docs", "--id", "5", "--filter", '{"n": 1}', "--explain", "--json", *where]
    assert command_line.run(search) == 0
    graph, memtable = json.loads(capsys.readouterr().out)["info"]["explain"]
    assert graph["way"] in graph["costs_us"]
    assert (graph["rows"], graph["matches"]) == (300, 1)
    expected = {"segment": None, "way": "none", "rows": 20, "matches": 0, "costs_us": {}}
    assert memtable == expected


def test_stats_show_what_is_indexed(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["stats", "docs", *where]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "index fields n, part" in lines
    assert lines[-2] == "segment indexed metadata not indexed"
    assert lines[-1].endswith(" 2 fields: n, part text: not in index_fields")
