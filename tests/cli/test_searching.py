"""The command search: by id, by examples, within a distance, in groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from vecdb_cli import command_line


@pytest.fixture(params=["--data", "--url"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The options that name a database, which is empty."""
    if request.param == "--data":
        yield ["--data", str(tmp_path / "data")]
        return
    with running_server(tmp_path / "data") as address:
        yield ["--url", address]


def opened(where: list[str]) -> Any:
    return vecdb.open(where[1]) if where[0] == "--data" else vecdb.connect(where[1])


def test_search_by_id_asks_for_what_was_asked_for(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(where) as database:
        vectors = np.random.default_rng(0).standard_normal((30, 4))
        database.create_collection("X", dim=4).upsert([f"w{i}" for i in range(30)], vectors)
    for k, found in ((1, 1), (7, 7), (29, 29), (30, 29), (16_384, 29)):
        search = ["search", "X", "--id", "w3", "-k", str(k), "--json"]
        assert command_line.run([*search, *where]) == 0
        ids = [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]]
        assert len(ids) == len(set(ids)) == found and "w3" not in ids
        assert command_line.run([*search, "--ef", str(k), *where]) == 0
        capsys.readouterr()
    # What is refused is the number that was given.
    for k in (0, 16_385):
        assert command_line.run(["search", "X", "--id", "w3", "-k", str(k), *where]) == 1
        assert f"k must be 1 to 16384, got {k}" in capsys.readouterr().err


def test_search_by_id_keeps_candidates_for_one_row_more(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(where) as database:
        collection = database.create_collection("X", dim=4)
        collection.upsert(list(range(300)), np.random.default_rng(0).standard_normal((300, 4)))
        collection.optimize()
    for k, ef in ((10, 128), (63, 128), (100, 202)):
        assert command_line.run(["search", "X", "--id", "3", "-k", str(k), "--json", *where]) == 0
        assert json.loads(capsys.readouterr().out)["info"]["ef"] == ef


def test_search_by_examples_and_within_a_distance(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(where) as database:
        collection = database.create_collection("X", dim=1, metric="euclidean")
        collection.upsert(list(range(20)), [[float(i)] for i in range(20)])

    def ids(*options: str) -> list[str]:
        assert command_line.run(["search", "X", "--json", *options, *where]) == 0
        return [hit["id"] for hit in json.loads(capsys.readouterr().out)["hits"]]

    assert set(ids("--near", "4", "--near", "6", "-k", "3")) == {"5", "3", "7"}
    assert ids("--near", "4", "--away", "3", "-k", "1") == ["5"]
    assert set(ids("--vector", "7", "--max-distance", "2.5", "-k", "0")) == {*"56789"}
    assert set(ids("--id", "7", "--max-distance", "2.5", "-k", "0")) == {*"5689"}
    assert set(ids("--id", "7", "--max-distance", "1", "-k", "1")) <= {"6", "8"}
    assert command_line.run(["search", "X", "--near", "4", "--id", "3", *where]) == 1
    assert "give one of --id, --vector and --near" in capsys.readouterr().err
    assert command_line.run(["search", "X", "--near", "no", *where]) == 1
    assert "there is no 'no'" in capsys.readouterr().err


def test_search_in_groups(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with opened(where) as database:
        collection = database.create_collection("X", dim=1, metric="euclidean")
        metadata = [{"of": f"doc {i // 5}"} for i in range(20)]
        collection.upsert(list(range(20)), [[float(i)] for i in range(20)], metadata)
    search = ["search", "X", "--group-by", "of", "--group-size", "2", "-k", "2"]
    assert command_line.run([*search, "--vector", "7.4", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)["hits"]
    assert [(hit["group"], hit["id"]) for hit in found] == [
        *(("doc 1", "7"), ("doc 1", "8")),
        *(("doc 2", "10"), ("doc 2", "11")),
    ]
    assert command_line.run([*search, "--id", "8", *where]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["group", "id", "distance", "metadata"]
    assert [line.split()[1].rstrip('"') for line in shown[1:5]] == ["1", "1", "2", "2"]
    assert [line.split()[2] for line in shown[1:5]] == ["7", "9", "10", "11"]
