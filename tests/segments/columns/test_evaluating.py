"""Columns find the nodes that a filter's predicate finds, for random rows and filters."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from tests.filter_model import IDS, random_filter, random_metadata
from vecdb.engine.segments.columns.columns import Columns, build_columns
from vecdb.engine.segments.columns.evaluating import term_of
from vecdb.engine.segments.row_arrays import RowIds
from vecdb.filters import parse_filter

SEED = random.SystemRandom().randrange(2**32)
Row = tuple[str, dict[str, Any]]


def ids_of(rows: list[Row]) -> RowIds:
    encoded = [id.encode() for id, _ in rows]
    offsets = np.cumsum([0, *map(len, encoded)])
    return RowIds(np.arange(len(rows)), offsets, np.frombuffer(b"".join(encoded), np.uint8))


def columns_of(
    rows: list[Row], slice_rows: int = 1_000, named: set[tuple[str, ...]] | None = None
) -> Columns:
    raw = [json.dumps(metadata).encode() if metadata else b"" for _, metadata in rows]
    slices = [raw[at : at + slice_rows] for at in range(0, len(raw), slice_rows)]
    made = build_columns(ids_of(rows), slices, 1, named)
    directory = json.loads(json.dumps(made.directory))
    read = Columns(made.blob.copy(), directory, len(rows), None)
    assert read.fits()
    return read


def random_rows(draw: random.Random, count: int) -> list[Row]:
    """Rows with distinct ids that have the prefixes of the model's."""
    return [
        (f"{draw.choice(IDS)}{node or ''}", random_metadata(draw) if draw.random() < 0.9 else {})
        for node in range(count)
    ]


def check(columns: Columns, rows: list[Row], condition: dict[str, Any]) -> tuple[int, int]:
    """Compare with the predicate; return how many nodes match, and how many are undecided."""
    found = parse_filter(condition)
    term = term_of(columns, ids_of(rows), found.root)
    expected = [node for node, row in enumerate(rows) if found.matches(*row)]
    certain, possible = term.bounds
    where = (SEED, condition)
    assert set(certain.nodes.tolist()) <= set(expected) <= set(possible.nodes.tolist()), where
    assert np.array_equal(np.unique(possible.nodes), possible.nodes), where
    for found_set in term.bounds:
        unpacked = np.unpackbits(found_set.bits, bitorder="little")
        assert np.array_equal(np.flatnonzero(unpacked), found_set.nodes), where
        assert found_set.count == len(found_set.nodes), where
    assert possible.count <= term.count_max, where
    assert term.count in (None, len(expected)), where
    some = np.arange(0, len(rows), 3)
    sure, maybe = term_of(columns, ids_of(rows), found.root).among(some)
    assert np.array_equal(sure, certain.has(some)), where
    assert np.array_equal(maybe, possible.has(some)), where
    return len(expected), term.bounds.undecided.count


@pytest.mark.parametrize(("count", "slice_rows"), [(1, 1), (7, 3), (90, 40), (90, 1), (400, 150)])
def test_random_filters_find_what_the_predicate_finds(count: int, slice_rows: int) -> None:
    draw = random.Random(SEED)
    matched = undecided = looked = 0
    for _ in range(4):
        rows = random_rows(draw, count)
        columns = columns_of(rows, slice_rows)
        for _ in range(60):
            some = check(columns, rows, random_filter(draw))
            matched, undecided = matched + some[0], undecided + some[1]
            looked += count
    assert count < 10 or 0.1 * looked < matched < 0.9 * looked
    assert undecided < 0.1 * looked
