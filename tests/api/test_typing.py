"""The types that callers see: mypy on a snippet of theirs.

It shares the cache of ``mypy`` in the repository, which ``make test`` fills before.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SNIPPET = """\
import numpy as np
import numpy.typing as npt

import vecdb
from vecdb.surface import CollectionSurface, DatabaseSurface

one: list[float] = [0.5, 0.5]
many: list[list[float]] = [[0.5, 0.5]]
array: npt.NDArray[np.float32] = np.zeros(2, np.float32)


def search(docs: CollectionSurface) -> None:
    reveal_type(docs.search(one))
    reveal_type(docs.search(many))
    reveal_type(docs.search([array, array]))
    reveal_type(docs.search(array))
    reveal_type(docs.search(one)[0].distance)
    reveal_type(len(docs.search(one)[:2]))


def write(docs: CollectionSurface) -> None:
    docs.upsert(["a", "b"], array, [{"year": 2020, "tags": ["x"]}, None])
    docs.upsert([1, 2], many)
    docs.upsert(np.arange(2), np.zeros((2, 2)))
    docs.upsert_many((str(i) for i in range(3)), (array for _ in range(3)))


def either(local: bool) -> None:
    database: DatabaseSurface[CollectionSurface]
    database = vecdb.open("data") if local else vecdb.connect("host:1")
    search(database.collection("docs"))


def wrong(docs: CollectionSurface) -> None:
    docs.search(3)  # refused
    docs.search(one, k="10")  # refused
    docs.upsert(None, many)  # refused
    docs.upsert(["a"], many, [3])  # refused
"""
REVEALED = [
    "vecdb.search_types.Hits",
    "list[vecdb.search_types.Hits]",
    "list[vecdb.search_types.Hits]",
    "vecdb.search_types.Hits | list[vecdb.search_types.Hits]",
    "float",
    "int",
]


def test_types_of_the_surface_are_those_that_callers_need(tmp_path: Path) -> None:
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--no-color-output", str(path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = re.findall(r"snippet\.py:(\d+): (note|error): (.*)", run.stdout)
    revealed = [re.sub(r'.*is "(.*)"', r"\1", text) for _, _, text in said if "Revealed" in text]
    assert [each.replace("builtins.", "") for each in revealed] == REVEALED, run.stdout + run.stderr
    lines = SNIPPET.splitlines()
    refused = {number for number, line in enumerate(lines, 1) if "# refused" in line}
    assert {int(number) for number, kind, _ in said if kind == "error"} == refused, run.stdout
