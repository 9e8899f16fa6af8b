"""The command line: commands against a folder and against a server, errors in one line."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from tests.waiting import HANG_S
from vecdb_cli import command_line
from vecdb_cli.commands.child import ServerProcess


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
    assert "created collection words: dim 8, euclidean" in said.out
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
    graph = {"M": 16, "ef_construction": 128}
    assert document["config"] == {"dim": 8, "metric": "euclidean", **graph, "index_fields": None}
    assert command_line.run(["stats", *where]) == 0
    assert "2,498" in capsys.readouterr().out
    assert command_line.run(["stats", "words", *where]) == 0
    assert "2,498, dim 8, euclidean" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "none", "--id", "a"], "none"),
        (["search", "X", "--id", "nobody"], "holds no id 'nobody'"),
        (["search", "X"], "give one of --id, --vector and --near"),
        (["search", "X", "--vector", "1,x"], "a vector is"),
        (["search", "X", "--vector", "1_0,2,3"], "a vector is"),
        (["search", "X", "--vector", "\u0663,2,3"], "a vector is"),
        (["search", "X", "--vector", "1,1e99,3"], "has inf at component 1"),
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
    with opened(where) as database:
        database.create_collection("X", dim=3).upsert(["a"], [[1, 2, 3]])
    assert command_line.run([*arguments, *where]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert message in said.err and said.err.startswith("vecdb: ")
    assert said.err.count("\n") == 1


def opened(where: list[str]) -> Any:
    return vecdb.open(where[1]) if where[0] == "--data" else vecdb.connect(where[1])


def names_in(where: list[str]) -> list[str]:
    with opened(where) as database:
        return [each.name for each in database.list_collections()]


@pytest.mark.parametrize("module", ["vecdb_cli.command_line", "typer"])
def test_ctrl_c_before_a_command_runs_is_no_traceback(module: str) -> None:
    code = (
        f"import builtins, os, signal, sys\nfrom vecdb_cli.__main__ import main\n"
        f"real = builtins.__import__\n"
        f"def importing(name, *rest):\n"
        f"    if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        f"    return real(name, *rest)\n"
        f"builtins.__import__ = importing\nsys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "stats"], capture_output=True, text=True, timeout=HANG_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_create_rename_get_and_drop(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = command_line.run
    assert run(["create", "A", "--dim", "2", "--metric", "dot", "--M", "8", *where]) == 0
    assert run(["create", "B", "--dim", "2", "--ef-construction", "99", *where]) == 0
    with opened(where) as database:
        config = database.collection("A").config
        assert (config.metric, config.M) == ("dot", 8)
        assert database.collection("B").config.ef_construction == 99
        database.collection("A").upsert(["x", "[b]y[/b]"], [[1, 0.1], [0, 1]], [{"n": 1}, None])
    assert run(["rename", "A", "C", *where]) == 0
    capsys.readouterr()
    assert run(["get", "C", "[b]y[/b]", "x", "--vectors", *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["[b]y[/b]", "0.0,1.0"],
        ["x", '{"n":', "1}", "1.0,0.1"],
    ]
    assert run(["get", "C", "x", "none", *where]) == 1
    said = capsys.readouterr()
    assert "x" in said.out and "vector" not in said.out and "no id 'none'" in said.err
    assert run(["get", "C", "none", "--json", *where]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["missing"]) == ([], ["none"])
    # Nothing is dropped without a word, nor if one of the names is wrong.
    assert run(["drop", "C", "B", *where]) == 1
    said = capsys.readouterr()
    assert "to drop C (2 rows), B (0 rows), add --yes" in said.err and said.out == ""
    assert run(["drop", "C", "none", "--yes", *where]) == 1
    assert names_in(where) == ["B", "C"]
    assert run(["drop", "C", "B", "--yes", *where]) == 0
    assert "dropped collection C with 2 rows" in capsys.readouterr().out
    assert names_in(where) == []


@pytest.mark.slow
def test_drop_on_a_terminal_asks(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data") as database:
        database.create_collection("X", dim=3)
    where = ["--data", str(tmp_path / "data")]
    for answer, status, left in (("n", 1, ["X"]), ("y", 0, [])):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "vecdb_server", "drop", "X", *where]
        with subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True) as process:
            os.write(ours, f"{answer}\n".encode())
            _, said = process.communicate(timeout=HANG_S)
        os.close(ours)
        os.close(theirs)
        assert (process.returncode, names_in(where)) == (status, left)
        assert "Drop X (0 rows)?" in said


@pytest.mark.slow
def test_tables_in_a_pipe_are_not_cut(tmp_path: Path) -> None:
    name, text = "n" * 64, "m" * 5000
    long_id = "i" * 400
    with vecdb.open(tmp_path / "data") as database:
        collection = database.create_collection(name, dim=3)
        collection.upsert([long_id], [[1, 2, 3]], [{"text": text}])
    where = ["--data", str(tmp_path / "data")]
    for command in (
        ["search", name, "--vector", "1,2,3"],
        ["get", name, long_id, "--vectors"],
        ["stats"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "vecdb_server", *command, *where],
            capture_output=True, text=True, timeout=HANG_S, env={**os.environ, "COLUMNS": "80"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        if command[0] == "stats":
            assert any(name in line for line in done.stdout.splitlines())
        else:
            assert any(long_id in line and text in line for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("address", "of_client", "of_server"),
    [
        ("127.0.0.1:99999", " with a port of 1 to 65535", " with a port of 0 to 65535"),
        ("http://127.0.0.1:7801", "; write it without http://: 127.0.0.1:7801", ", as in 127.0"),
        ("127.0.0.1:-1", ", as in 127.0.0.1:7801", ", as in 127.0.0.1:7801"),
        ("", ", as in 127.0.0.1:7801", ", as in 127.0.0.1:7801"),
    ],
)
def test_an_address_that_is_none_is_refused_with_a_sentence(
    address: str,
    of_client: str,
    of_server: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.run(["stats", "--url", address]) == 1
    said = capsys.readouterr().err
    assert said == f"vecdb: address must be host:port{of_client}, got {address!r}\n"
    data = ["--data", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-m", "vecdb_server", "serve", *data, "--listen", address],
        capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert f"listen must be host:port{of_server}" in done.stderr and address in done.stderr
    assert not (tmp_path / "data").exists()


def test_missing_folder_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["stats", "--data", str(tmp_path / "none")]) == 1
    assert "there is no database in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert command_line.run(["stats", "--data", "a", "--url", "b:1"]) == 1
    assert "not both" in capsys.readouterr().err


def test_missing_server_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["stats", "--url", "127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert "127.0.0.1:9" in said and said.count("\n") == 1


def test_version_help_and_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.run(["--version"]) == 0
    assert capsys.readouterr().out == f"vecdb {vecdb.__version__}\n"
    assert command_line.run(["--help"]) == 0
    said = capsys.readouterr().out
    named = {line.split()[1] for line in said.splitlines() if line.startswith("│ ")}
    headings = re.findall(r"^╭─ ([A-Z][a-z ]+) ─", said, re.MULTILINE)
    assert headings == [
        *("Options", "Serving", "Collections", "Rows", "Import and export", "Maintenance"),
        "Trying and measuring",
    ]
    # The module's docstring names them all, too.
    assert (
        named - {"--version", "--help"}
        >= set(re.findall(r"vecdb ([a-z]+) ", str(command_line.__doc__)))
        >= {"serve", "load", "create", "rename", "drop", "get", "search", "stats", "optimize"}
    )
    assert command_line.run(["search"]) == 2
    assert command_line.run(["nothing"]) == 2


@pytest.mark.slow
def test_serve_in_a_process_of_its_own(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        address = server.wait_ready()
        command = [sys.executable, "-m", "vecdb_server", "stats", "--url", address]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=HANG_S, env=environment
        )
        assert (done.returncode, done.stdout) == (0, "no collections\n"), done.stderr
        assert server.stop() == 0


def test_serve_refuses_addresses_of_other_machines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vecdb_server", "serve", "--listen", "0.0.0.0:0"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "data")], capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 2
    assert "NOT_LOOPBACK" in done.stderr


def rows_of(where: list[str], name: str) -> tuple[int, int]:
    """Live rows, and those in no graph."""
    with opened(where) as database:
        stats = database.collection(name).stats()
        return stats.live_count, stats.unindexed_rows


@pytest.mark.slow
def test_optimize_waits_until_all_is_in_graphs(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "X.npy", np.random.default_rng(0).standard_normal((4100, 4)))
    load = ["load", str(tmp_path / "X.npy")]
    assert command_line.run([*load, "few", "--limit", "3999", *where]) == 0
    capsys.readouterr()
    # A few rows are no matter; more are said, with the command that helps.
    assert command_line.run(["search", "few", "--id", "1", *where]) == 0
    assert command_line.run(["stats", "few", *where]) == 0
    assert "vecdb optimize" not in capsys.readouterr().out
    assert command_line.run([*load, "many", *where]) == 0
    hint = f"vecdb optimize many {' '.join(where)}"
    assert (hint in capsys.readouterr().out) is (where[0] == "--data")
    for command in (["search", "many", "--id", "1"], ["stats", "many"], ["stats"]):
        assert command_line.run([*command, *where]) == 0
        said = capsys.readouterr().out
        assert "4,100 of 4,100 rows are in no graph yet" in said and hint in said
        assert "optimize few" not in said
    search = ["search", "many", "--vector", "1,2,3,4", "--json", *where]
    assert command_line.run(search) == 0
    assert json.loads(capsys.readouterr().out)["info"]["unindexed_rows"] == 4100

    assert command_line.run(["optimize", "many", *where]) == 0
    said = capsys.readouterr()
    assert "many: 4,100 of 4,100 rows in graphs after" in said.out and "1 graph" in said.out
    assert "indexing many: 0 of 4,100 rows in graphs" in said.err
    assert rows_of(where, "many") == (4100, 0)
    assert command_line.run(search) == 0
    info = json.loads(capsys.readouterr().out)["info"]
    assert (info["unindexed_rows"], info["plan"]) == (0, "graph")
    assert command_line.run(["optimize", *where]) == 0
    said = capsys.readouterr().out
    assert "few: 3,999 of 3,999 rows in graphs" in said and "many: 4,100 of" in said
    assert rows_of(where, "few") == (3999, 0)
    assert command_line.run(["optimize", "none", *where]) == 1
