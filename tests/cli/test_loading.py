"""The command load: good and bad files, pipes, Ctrl-C, and waiting for the graph."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.serving import running_server
from tests.waiting import HANG_S, eventually
from vecdb_cli import command_line
from vecdb_cli.commands.loading import batch_rows_for


@pytest.fixture(params=["--data", "--url"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """The options that name a database, which is empty."""
    if request.param == "--data":
        yield ["--data", str(tmp_path / "data")]
        return
    with running_server(tmp_path / "data") as address:
        yield ["--url", address]


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
    assert "collection 'X' exists with M 8, got 9" in capsys.readouterr().err


def test_load_creates_a_collection_with_the_options_of_create(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "X.npy", np.eye(3, dtype=np.float32))
    load = ["load", str(tmp_path / "X.npy")]
    fields = ["--index-field", "lang", "--index-field", "a.b"]
    assert command_line.run([*load, "X", *fields, "--target-recall", "0.9", *where]) == 0
    assert command_line.run([*load, "none", "--no-index-fields", *where]) == 0
    assert command_line.run([*load, "plain", *where]) == 0
    with opened(where) as database:
        configs = {each.name: each.config for each in database.list_collections()}
    chosen = {name: (each.index_fields, each.target_recall) for name, each in configs.items()}
    assert chosen == {
        "X": (("a.b", "lang"), 0.9),
        "none": ((), 0.95),
        "plain": (None, 0.95),
    }
    # The same again, in another order; what was chosen must fit, what was not may be anything.
    same = ["--index-field", "a.b", "--index-field", "lang"]
    assert command_line.run([*load, "X", *same, *where]) == 0
    assert command_line.run([*load, "X", *where]) == 0
    capsys.readouterr()
    for options, message in (
        (["--target-recall", "0.8"], "exists with target_recall 0.9, got 0.8"),
        (["--no-index-fields"], "exists with index_fields ('a.b', 'lang'), got ()"),
        (["--no-index-fields", *same], "give --index-field or --no-index-fields, not both"),
        (["--target-recall", "2"], "target_recall: expected a number above 0, up to 1, got 2"),
    ):
        assert command_line.run([*load, "X", *options, *where]) == 1
        assert message in capsys.readouterr().err
    assert command_line.run([*load, "new", "--index-field", "$a", *where]) == 1
    assert "new" not in names_in(where)


def opened(where: list[str]) -> Any:
    return vecdb.open(where[1]) if where[0] == "--data" else vecdb.connect(where[1])


def names_in(where: list[str]) -> list[str]:
    with opened(where) as database:
        return [each.name for each in database.list_collections()]


def count_in(where: list[str]) -> int:
    with opened(where) as database:
        return database.collection("words").count()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2 3\nb 1 2\nc 1 2 3\n", "line 2: expected a word and 3 numbers"),
        ("3 3\na 1 2 3\nb 1 2 3\n", "the header says 3 rows, got 2"),
        ("a 1 2 3\nb 0 0 0\n", "line 2, id 'b': has length 0"),
        ("2 3\na 1 2 3\nb 1 nan 3\n", "line 3, id 'b': has nan at component 1"),
        ("a 1 2 3\n" + 501 * "b" + " 1 2 3\n", "line 2, id 'bbb"),
    ],
)
def test_load_of_a_bad_file_makes_no_collection(
    where: list[str], text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text(text)
    load = ["load", str(tmp_path / "words.txt"), "words"]
    assert command_line.run([*load, "--batch-rows", "1", *where]) == 1
    said = capsys.readouterr()
    assert message in said.err and said.out == ""
    assert names_in(where) == []
    # Nor does it change one that is there.
    (tmp_path / "good.txt").write_text("z 1 2 3\n")
    assert command_line.run(["load", str(tmp_path / "good.txt"), "words", *where]) == 0
    assert command_line.run([*load, "--batch-rows", "1", *where]) == 1
    capsys.readouterr()
    assert command_line.run(["stats", "words", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["stats"]["seq"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("there", [False, True], ids=["made", "found"])
def test_load_of_an_invalid_pipe_drops_the_collection_it_created(
    where: list[str], there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(f"w{i} {'1 ' * 5000}\n" for i in range(1200))  # Two blocks.
    if there:
        with opened(where) as database:
            database.create_collection("words", dim=5000)
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "w") as stream, contextlib.suppress(BrokenPipeError):
            stream.write(f"1201 5000\n{text}")

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading):
        load = ["load", f"/dev/fd/{reading}", "words", "--format", "vec", *where]
        assert command_line.run(load) == 1
    writer.join()
    said = capsys.readouterr()
    assert "the header says 1201 rows, got 1200" in said.err
    assert ("is dropped again" in said.err) is not there
    assert names_in(where) == (["words"] if there else [])


def test_load_skips_bad_rows_where_that_is_asked_for(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = np.eye(9)
    matrix[1], matrix[4] = 0, np.inf
    np.save(tmp_path / "X.npy", matrix)
    (tmp_path / "X.ids.txt").write_text("a\nb\n\nd\ne\nf\ng\nh\ni\n")
    lines = ["{}"] * 9
    lines[5:8] = ["{", '{"n": 1e400}', '{"n": 7}']
    (tmp_path / "X.metadata.jsonl").write_text("\n".join(lines))
    load = ["load", str(tmp_path / "X.npy"), "X", "--on-bad-row"]
    assert command_line.run([*load, "refuse", *where]) == 1
    assert "--on-bad-row skip" in capsys.readouterr().err
    assert command_line.run([*load, "skip", *where]) == 0
    said = capsys.readouterr()
    assert "4 rows in" in said.out and "5 bad rows skipped" in said.out
    assert said.err.count("skipped ") == 5
    assert "X.ids.txt: line 3: the id is empty" in said.err
    assert "X.metadata.jsonl: line 6: not JSON" in said.err
    assert "row 1, id 'b': has length 0" in said.err
    assert command_line.run(["get", "X", "a", "d", "h", "i", "--vectors", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    assert [np.argmax(row["vector"]) for row in found] == [0, 3, 7, 8]
    assert found[2]["metadata"] == {"n": 7}
    # Where no row is good, nothing is made.
    np.save(tmp_path / "X.npy", np.zeros((9, 9)))
    load = ["load", str(tmp_path / "X.npy"), "Y", "--on-bad-row", "skip"]
    assert command_line.run([*load, *where]) == 1
    assert "none of 9 rows is good" in capsys.readouterr().err
    assert names_in(where) == ["X"]


def test_load_of_another_dim_reports_both_numbers(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("a 1 2 3\n")
    assert command_line.run(["create", "X", "--dim", "8", *where]) == 0
    assert "created collection X: dim 8, cosine" in capsys.readouterr().out
    assert command_line.run(["load", str(tmp_path / "words.txt"), "X", *where]) == 1
    said = capsys.readouterr().err
    assert "exists with dim 8" in said and "has dim 3" in said
    assert command_line.run(["create", "X", "--dim", "3", *where]) == 1
    said = capsys.readouterr().err
    assert "with dim 8, cosine" in said and "asked for dim 3" in said and said.count("\n") == 1


@pytest.mark.slow
def test_load_stopped_by_ctrl_c_reports_its_progress(where: list[str], tmp_path: Path) -> None:
    """The file is a pipe that stays open, so that the load is in its middle for certain."""
    os.mkfifo(tmp_path / "words.vec")
    command = [sys.executable, "-m", "vecdb_server", "load", str(tmp_path / "words.vec"), "words"]
    rows = "".join(f"w{i} {'1 ' * 5000}\n" for i in range(900))
    with (
        subprocess.Popen(
            [*command, *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        open(tmp_path / "words.vec", "w") as stream,
    ):
        stream.write(f"10000 5000\n{rows}")
        stream.flush()
        eventually(lambda: "words" in names_in(where) and count_in(where) >= 400)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 130, errors
    assert "created collection words" in said
    found = re.search(r"interrupted: at least ([0-9,]+) of 10,000 rows are on disk", errors)
    assert found is not None, errors
    assert 400 <= int(found[1].replace(",", "")) <= 900
    assert "Traceback" not in errors


def test_batches_of_wide_vectors_are_small() -> None:
    assert batch_rows_for(8) == 1000
    assert batch_rows_for(1536) == 682
    assert batch_rows_for(16_384) == 64


def rows_of(where: list[str], name: str) -> tuple[int, int]:
    """Live rows, and those in no graph."""
    with opened(where) as database:
        stats = database.collection(name).stats()
        return stats.live_count, stats.unindexed_rows


def test_load_optimize_waits_for_the_graph(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "X.npy", np.random.default_rng(0).standard_normal((5000, 4)))
    assert command_line.run(["load", str(tmp_path / "X.npy"), "X", "--optimize", *where]) == 0
    said = capsys.readouterr()
    assert "X: 5,000 of 5,000 rows in graphs after" in said.out
    assert "in no graph" not in said.out
    assert rows_of(where, "X") == (5000, 0)
