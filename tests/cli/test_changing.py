"""Commands that list and change rows by what they say, against a folder and a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from vecdb_cli import command_line


@pytest.fixture(params=["--data", "--url"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The options that name a database with ten rows."""
    data = tmp_path / "data"
    with vecdb.open(data, indexer=False) as database:
        docs = database.create_collection("docs", 4, metadata={"model": "minilm"})
        vectors = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
        entries = [{"n": i, "lang": "de" if i % 3 else "en"} for i in range(10)]
        docs.upsert([f"r{i}" for i in range(10)], vectors, entries)
    if request.param == "--data":
        yield ["--data", str(data)]
        return
    with running_server(data) as address:
        yield ["--url", address]


def test_rows_are_listed_and_changed_by_what_they_say(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str, status: int = 0) -> str:
        assert command_line.run([*arguments, *where]) == status
        both = capsys.readouterr()
        return both.err if status else both.out

    late = ["--filter", '{"n": {"$gte": 7}}']
    assert said("count", "docs") == "10\n"
    assert said("count", "docs", *late) == "3\n"
    assert said("list", "docs", *late, "--limit", "2") == "r7\nr8\n"
    assert said("list", "docs", "--after", "r8") == "r9\n"
    assert json.loads(said("list", "docs", "--prefix", "r1", "--json"))["ids"] == ["r1"]
    assert said("set", "docs", "r1", "r2", "--patch", '{"seen": true}') == "2 rows changed\n"
    keys = ["--mode", "delete_keys", "--patch", '["lang"]']
    assert said("set", "docs", *late, *keys, "--dry-run") == "3 rows would be changed\n"
    assert said("set", "docs", *late, *keys) == "3 rows changed\n"
    assert "--patch is not JSON" in said("set", "docs", "r1", "--patch", "{", status=1)
    assert "expected ids or a filter" in said("set", "docs", "--patch", "{}", status=1)
    assert said("metadata", "docs") == '{"model": "minilm"}\n'
    assert said("metadata", "docs", "--set", '{"a": 1}') == '{"a": 1}\n'
