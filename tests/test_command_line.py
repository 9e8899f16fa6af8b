"""The command line: commands against a folder and against a server, errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from vecdb_server import command_line
from vecdb_server.commands.child import ServerProcess
from vecdb_server.commands.loading import batch_rows_for


@pytest.fixture(params=["--data", "--url"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The options that name a database, which is empty."""
    if request.param == "--data":
        yield ["--data", str(tmp_path / "data")]
        return
    with running_server(tmp_path / "data") as address:
        yield ["--url", address]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """2,500 words of 8 dimensions, w7 twice within a batch and w0 twice in all."""
    vectors = np.random.default_rng(3).standard_normal((2500, 8), dtype=np.float32)
    names = [f"w{i}" for i in range(2500)]
    names[8], names[2400] = "w7", "w0"
    path = tmp_path / "words.vec"
    lines = (
        f"{name} {' '.join(map(repr, map(float, vector)))}\n"
        for name, vector in zip(names, vectors, strict=True)
    )
    path.write_text("2500 8\n" + "".join(lines))
    np.save(tmp_path / "vectors.npy", vectors)
    return path


def test_load_search_stats(
    where: list[str], words: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.load(words.with_name("vectors.npy"))
    assert command_line.run(["load", str(words), "words", "--metric", "euclidean", *where]) == 0
    said = capsys.readouterr()
    assert "made collection words: dim 8, euclidean" in said.out
    assert "2,500 rows in" in said.out and "rows/s" in said.out
    assert "2 of them replaced rows with the same id" in said.out
    assert "loading words.vec: 2,500 rows" in said.err

    # Of a repeated word the last row stays, whether it came in the same batch or in a later one.
    for name, row in (("w7", 8), ("w0", 2400), ("w3", 3)):
        text = ",".join(map(str, vectors[row]))
        query = ["search", "words", "--vector", text, "--exact", "-k", "1", "--json"]
        assert command_line.run([*query, *where]) == 0
        (hit,) = json.loads(capsys.readouterr().out)["hits"]
        assert hit["id"] == name and hit["distance"] == pytest.approx(0, abs=1e-6)

    assert command_line.run(["search", "words", "--id", "w3", "-k", "4", *where]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["id", "distance"]
    assert len(table) == 6 and not any(line.startswith("w3 ") for line in table)
    assert "vectors compared" in table[-1]

    assert command_line.run(["stats", "--json", *where]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["stats"]["live_count"] == 2498
    assert document["config"] == {"dim": 8, "metric": "euclidean", "M": 16, "ef_construction": 128}
    assert command_line.run(["stats", *where]) == 0
    assert "2,498" in capsys.readouterr().out
    assert command_line.run(["stats", "words", *where]) == 0
    assert "2,498 × 8, euclidean" in capsys.readouterr().out


def test_load_an_npy_with_metadata_and_a_limit(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "X.npy", np.eye(6, dtype=np.float64))
    (tmp_path / "X.ids.txt").write_text("".join(f"[b]id {i}[/b]\n" for i in range(6)))
    (tmp_path / "X.metadata.jsonl").write_text("".join(f'{{"n": {i}}}\n' for i in range(6)))
    load = ["load", str(tmp_path / "X.npy"), "X", "--limit", "5", "--batch-rows", "2", "--M", "8"]
    assert command_line.run([*load, *where]) == 0
    assert "5 rows in" in capsys.readouterr().out
    np.save(tmp_path / "q.npy", np.eye(6)[4])
    search = ["search", "X", "--vector", str(tmp_path / "q.npy"), "-k", "2"]
    assert command_line.run([*search, *where]) == 0
    first = capsys.readouterr().out.splitlines()[1]
    assert first.split() == ["[b]id", "4[/b]", "0.000000", '{"n":', "4}"]
    # Again: nothing is new, and what was chosen must fit.
    assert command_line.run([*load, *where]) == 0
    assert "5 of them replaced" in capsys.readouterr().out
    assert command_line.run(["load", str(tmp_path / "X.npy"), "X", "--M", "9", *where]) == 1
    assert "collection X exists with M 8, got 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "none", "--id", "a"], "none"),
        (["search", "X", "--id", "nobody"], "holds no id 'nobody'"),
        (["search", "X"], "give --id or --vector"),
        (["search", "X", "--vector", "1,x"], "a vector is"),
        (["search", "X", "--vector", "1,2"], "expected 3 dimensions, got 2"),
        (["search", "X", "--vector", "missing.npy"], "missing.npy: No such file"),
        (["search", "X", "--vector", "1,2,3", "-k", "0"], "k must be 1 to 16384, got 0"),
        (["stats", "none"], "none"),
        (["load", "missing.vec", "X"], "missing.vec: No such file"),
        (["load", "a.csv", "X"], "must end with one of"),
    ],
)
def test_errors_are_one_line(
    where: list[str], arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    opened = vecdb.open(where[1]) if where[0] == "--data" else vecdb.connect(where[1])
    with opened as database:
        database.create_collection("X", dim=3).upsert(["a"], [[1, 2, 3]])
    assert command_line.run([*arguments, *where]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert message in said.err and said.err.startswith("vecdb: ")
    assert said.err.count("\n") == 1


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["stats", "--data", str(tmp_path / "none")]) == 1
    assert "there is no database in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert command_line.run(["stats", "--data", "a", "--url", "b:1"]) == 1
    assert "not both" in capsys.readouterr().err


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["stats", "--url", "127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert "127.0.0.1:9" in said and said.count("\n") == 1


def test_version_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["--version"]) == 0
    assert capsys.readouterr().out == f"vecdb {vecdb.__version__}\n"
    assert command_line.run(["--help"]) == 0
    said = capsys.readouterr().out
    for command in ("serve", "load", "search", "stats", "warm", "demo"):
        assert command in said
    assert command_line.run(["search"]) == 2
    assert command_line.run(["nothing"]) == 2


def test_serve_in_a_process_of_its_own(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        address = server.wait_ready()
        command = [sys.executable, "-m", "vecdb_server", "stats", "--url", address]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert (done.returncode, done.stdout) == (0, "no collections\n"), done.stderr
        assert server.stop() == 0


def test_serve_refuses_addresses_of_other_machines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vecdb_server", "serve", "--listen", "0.0.0.0:0"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "data")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "NOT_LOOPBACK" in done.stderr


def test_batches_of_wide_vectors_are_small() -> None:
    assert batch_rows_for(8) == 1000
    assert batch_rows_for(1536) == 682
    assert batch_rows_for(16_384) == 64
