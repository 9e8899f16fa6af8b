"""``vecdb check`` compares columns with records, and their arrays with each other."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checking import change_entry, checked, collection_folder, rewrite_segment, segments_of
from tests.metadata_world import SEED, World
from tests.model import flush_now, index_now

Change = Callable[[dict[str, Any]], dict[str, Any]]

LIES: dict[str, Change] = {
    "a value": lambda row: {**row, "kind": "other"},
    "a value of another class": lambda row: {**row, "n": str(row["n"])},
    "true for one": lambda row: {**row, "n": True},
    "a list of one": lambda row: {**row, "n": [row["n"]]},
    "an element less": lambda row: {**row, "tags": row["tags"][1:]},
    "a field less": lambda row: {key: row[key] for key in row if key != "kind"},
    "a field more": lambda row: {**row, "more": None},
    "an object less": lambda row: {**row, "inner": {}},
    "a longer string": lambda row: {**row, "kind": "x" * 600},
}


def row_of(node: int) -> dict[str, Any]:
    kind = ("a", "b", "c")[node % 3]
    return {"n": node, "kind": kind, "tags": ["x", f"t{node}"], "inner": {"x": node / 2}}


def filled(folder: Path) -> World:
    """A graph segment; rows that were changed or deleted since, some of them purged."""
    world = World(folder, random.Random(SEED))
    names = [f"r{node}" for node in range(200)]
    vectors = np.random.default_rng(SEED).standard_normal((200, 4), dtype=np.float32)
    world.docs.upsert(names, vectors, [row_of(node) for node in range(200)])
    flush_now(world.docs)
    index_now(world.docs)
    for purged in (True, False):
        some = range(10 if purged else 30, 40, 2)
        world.docs.upsert([names[i] for i in some], vectors[some], [{"n": -1} for _ in some])
        world.docs.delete([names[i] for i in range(100 if purged else 120, 140, 3)])
        if purged:
            world.purge()
    return world


def problems_of(world: World) -> list[tuple[str, str]]:
    world.database.close()
    return [(problem.kind, problem.detail) for problem in checked(world.folder)[0]]


def graph_number(folder: Path) -> int:
    return next(n for n, entry in segments_of(folder) if entry.kind == "graph")


def test_columns_of_random_rows_are_found_right(tmp_path: Path) -> None:
    world = World(tmp_path / "data", random.Random(SEED))
    world.index()
    for _ in range(2):
        world.change(40)
        world.delete(20)
        world.purge()
    world.change(10)
    world.delete(5)
    assert world.with_columns() == 1
    assert problems_of(world) == []


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_column_is_found(tmp_path: Path, lie: str) -> None:
    world = filled(tmp_path / "data")
    assert problems_of(world) == []

    def metadata(rows: Any) -> Any:
        entries = [row_of(row) for row in rows.tolist()]
        entries[77] = LIES[lie](entries[77])
        return 1, iter([[json.dumps(entry).encode() for entry in entries]])

    rewrite_segment(world.folder, graph_number(world.folder), metadata=metadata)
    problems = problems_of(world)
    assert {kind for kind, _ in problems} == {"COLUMNS"}, problems
    assert all("1 rows of" in detail and detail.endswith(": 77") for _, detail in problems), (
        problems
    )


@pytest.mark.parametrize("name", ["order", "codes", "starts", "text", "whole", "ids"])
def test_arrays_that_contradict_each_other_are_found(tmp_path: Path, name: str) -> None:
    world = filled(tmp_path / "data")
    world.database.close()
    number = graph_number(world.folder)
    folder = collection_folder(world.folder) / "segments" / str(number)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    columns = manifest["columns"]
    [field] = [each for each in columns["fields"] if each["path"] == ["kind"]]
    if name == "whole":
        [field] = [each for each in columns["fields"] if each["path"] == ["n"]]
    dtype, at, length = columns["ids"] if name == "ids" else field["sections"][name]
    raw = bytearray((folder / "columns.npy").read_bytes())
    at += len(raw) - manifest["arrays"]["columns"]["shape"][0]
    array = np.frombuffer(raw, dtype, length, at)
    array[1], array[2] = array[2], array[1] if array[1] != array[2] else array[1] + 1
    record = manifest["arrays"]["columns"]
    record["crc32"] = zlib.crc32(raw[len(raw) - record["shape"][0] :])
    (folder / "columns.npy").write_bytes(raw)
    text = json.dumps(manifest, indent=1).encode()
    (folder / "manifest.json").write_bytes(text)
    size = len(text) + sum(each["bytes"] for each in manifest["arrays"].values())
    change_entry(world.folder, number, manifest_crc=zlib.crc32(text), bytes=size)
    problems = problems_of(world)
    assert {kind for kind, _ in problems} == {"COLUMNS"}, problems
