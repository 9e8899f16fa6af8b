"""Keys of candidates in a sorted array."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numba import types

from vecdb.engine.kernels.candidates import insert, node_of, pack, score_of
from vecdb.engine.kernels.compiling import kernel, read, written


@pytest.fixture(scope="module")
def insert_all() -> Any:
    @kernel(types.void(written(types.uint64, 1), read(types.uint64, 1), written(types.int64, 1)))
    def insert_all(pool: Any, keys: Any, out_places: Any) -> None:
        for count in range(keys.shape[0]):
            out_places[count] = insert(pool, count, keys[count])

    return insert_all


def _expected(keys: npt.NDArray[np.uint64]) -> tuple[list[int], list[int]]:
    entries: list[int] = []
    places = []
    for key in keys.tolist():
        places.append(bisect.bisect_left(entries, key))
        entries.insert(places[-1], key)
    return entries, places


@pytest.mark.parametrize("order", ["random", "ascending", "descending"])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 10, 16, 17, 18, 100, 1_000])
def test_inserted_keys_ascend_and_nothing_behind_them_is_written(
    insert_all: Any, count: int, order: str
) -> None:
    random = np.random.default_rng(count)
    keys = np.unique(random.integers(0, 2**64, 2 * count + 1, dtype=np.uint64))
    keys = random.permutation(keys)[:count]
    if order != "random":
        keys = np.sort(keys)[:: 1 if order == "ascending" else -1].copy()
    behind = random.integers(0, 2**64, 16, dtype=np.uint64)
    pool = np.concatenate([random.integers(0, 2**64, count, dtype=np.uint64), behind])
    places = np.empty(count, np.int64)
    insert_all(pool, keys, places)
    entries, expected = _expected(keys)
    assert pool[:count].tolist() == entries
    assert places.tolist() == expected
    assert pool[count:].tolist() == behind.tolist()


def test_keys_are_ordered_as_scores_are_and_hold_score_and_node() -> None:
    scores = np.array([-np.inf, -2.5, -0.0, 0.0, 1e-40, 3.0, np.inf], np.float32)
    keys = [int(pack(score, 7)) for score in scores]
    assert keys == sorted(keys)
    for score, key in zip(scores, keys, strict=True):
        assert np.float32(score_of(np.uint64(key))).view(np.uint32) == score.view(np.uint32)
        assert node_of(np.uint64(key)) == 7
