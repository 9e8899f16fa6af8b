"""Splitting inputs into batches: every kind of input, and every way in which lengths can differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecdb.batching import Batch, attach_progress, batches
from vecdb.errors import InvalidArgumentError, UnavailableError
from vecdb.types import IngestProgress

DIM = 3


def rows_of(n: int) -> np.ndarray:
    return np.arange(n * DIM, dtype=np.float32).reshape(n, DIM)


def joined(parts: list[Batch]) -> tuple[list[str], np.ndarray, list[Any] | None]:
    """Return all batches as one, after checking their sizes."""
    ids: list[str] = []
    vectors: list[np.ndarray] = []
    metadata: list[Any] | None = None
    for part in parts:
        assert len(part.ids) == len(part.vectors) > 0
        ids.extend(str(i) for i in part.ids)
        vectors.append(np.asarray(part.vectors, dtype=np.float32).reshape(-1, DIM))
        if part.metadata is not None:
            assert len(part.metadata) == len(part.ids)
            metadata = (metadata or []) + list(part.metadata)
    return ids, np.concatenate(vectors) if vectors else np.zeros((0, DIM), np.float32), metadata


IDS: dict[str, Callable[[int], Any]] = {
    "list of str": lambda n: [str(i) for i in range(n)],
    "tuple": lambda n: tuple(str(i) for i in range(n)),
    "range": range,
    "int array": np.arange,
    "str array": lambda n: np.array([str(i) for i in range(n)]),
    "object array": lambda n: np.array([str(i) for i in range(n)], dtype=object),
    "generator": lambda n: (str(i) for i in range(n)),
    "dict keys": lambda n: {str(i): 0 for i in range(n)}.keys(),
}
VECTORS: dict[str, Callable[[int], Any]] = {
    "array": rows_of,
    "float64 array": lambda n: rows_of(n).astype(np.float64),
    "fortran order": lambda n: np.asfortranarray(rows_of(n)),
    "list of lists": lambda n: rows_of(n).tolist(),
    "list of arrays": lambda n: list(rows_of(n)),
    "generator of arrays": lambda n: (row for row in rows_of(n)),
    "generator of lists": lambda n: (row.tolist() for row in rows_of(n)),
}
METADATA: dict[str, Callable[[int], Any]] = {
    "none": lambda n: None,
    "list": lambda n: [{"row": i} for i in range(n)],
    "generator": lambda n: ({"row": i} for i in range(n)),
}


def fault_of_batches(ids: str, vectors: str, metadata: str, n: int) -> str:
    """Return what is wrong with the batches of an input; empty if nothing is."""
    parts = batches(IDS[ids](n), VECTORS[vectors](n), METADATA[metadata](n), DIM, 10)
    known = {"generator", "generator of arrays", "generator of lists", "none"}
    if parts.total != (None if {ids, vectors, metadata} <= known else n):
        return f"total {parts.total}"
    cut = list(parts)
    sizes = [len(part.ids) for part in cut]
    if sizes != [10] * (n // 10) + ([n % 10] if n % 10 else []):
        return f"sizes {sizes}"
    got_ids, got_vectors, got_metadata = joined(cut)
    if got_ids != [str(i) for i in range(n)] or not np.array_equal(got_vectors, rows_of(n)):
        return "other ids or vectors"
    wanted = [{"row": i} for i in range(n)] if metadata != "none" and n else None
    return "" if got_metadata == wanted else f"metadata {got_metadata}"


def test_batches_of_any_input_contain_all_rows() -> None:
    kinds = list(product(IDS, VECTORS, METADATA, (0, 1, 9, 10, 11, 25)))
    assert len(kinds) == 1_008
    faults = {kind: fault_of_batches(*kind) for kind in kinds}
    assert {kind: fault for kind, fault in faults.items() if fault} == {}


def test_array_is_sliced_without_a_copy() -> None:
    vectors = rows_of(20)
    for part in batches(range(20), vectors, None, DIM, 8):
        assert np.shares_memory(part.vectors, vectors)


def test_memory_map_is_read_batch_by_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, rows_of(25))
    mapped = np.load(path, mmap_mode="r")
    parts = list(batches(range(25), mapped, None, DIM, 10))
    assert all(isinstance(part.vectors, np.memmap) for part in parts)
    assert np.array_equal(joined(parts)[1], rows_of(25))


def test_iterators_are_read_only_as_far_as_requested() -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        for number in count():
            read += 1
            yield number

    parts = batches(endless(), (np.zeros(DIM) for _ in count()), None, DIM, 10)
    assert parts.total is None
    assert read == 0
    next(parts)
    assert read == 10


def test_single_vector_is_one_row() -> None:
    (part,) = batches(["a"], np.ones(DIM, np.float32), None, DIM, 10)
    assert part.vectors.shape == (1, DIM)


@pytest.mark.parametrize(
    ("ids", "vectors", "metadata", "numbers"),
    [
        (range(3), rows_of(4), None, ("3", "4")),
        (range(4), rows_of(3).tolist(), None, ("4", "3")),
        (range(4), rows_of(4), [{}] * 5, ("4", "5")),
        ((str(i) for i in range(4)), rows_of(4), [{}] * 5, ("4", "5")),
    ],
)
def test_known_lengths_are_compared_at_once(
    ids: Any, vectors: Any, metadata: Any, numbers: tuple[str, str]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        batches(ids, vectors, metadata, DIM, 10)
    assert caught.value.reason == "COUNT_MISMATCH"
    assert all(number in str(caught.value) for number in numbers)


@pytest.mark.parametrize(
    ("ids", "vectors", "metadata", "good_batches", "numbers"),
    [
        (iter(range(12)), rows_of(15), None, 1, ("12", "15")),
        (iter(range(20)), rows_of(10), None, 1, ("10", "20")),
        (range(10), iter(rows_of(11)), None, 1, ("10", "11")),
        (range(11), iter(rows_of(10)), None, 1, ("10", "11")),
        (range(15), rows_of(15), iter([{}] * 3), 0, ("3", "10")),
    ],
)
def test_iterator_of_another_length_is_refused_at_its_end(
    ids: Any, vectors: Any, metadata: Any, good_batches: int, numbers: tuple[str, str]
) -> None:
    parts = batches(ids, vectors, metadata, DIM, 10)
    for _ in range(good_batches):
        assert len(next(parts).ids) == 10
    with pytest.raises(InvalidArgumentError) as caught:
        next(parts)
    assert caught.value.reason == "COUNT_MISMATCH"
    assert all(number in str(caught.value) for number in numbers)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("abc", rows_of(3), None, DIM, 10), "NOT_A_LIST"),
        ((7, rows_of(3), None, DIM, 10), "NOT_A_LIST"),
        ((range(3), 1.5, None, DIM, 10), "NOT_A_LIST"),
        ((range(3), rows_of(3), {"a": 1}, DIM, 10), "BAD_METADATA"),
        ((range(3), rows_of(3), "abc", DIM, 10), "NOT_A_LIST"),
        ((range(3), rows_of(3), None, DIM + 1, 10), "DIM_MISMATCH"),
        ((range(3), np.zeros((3, DIM, 1)), None, DIM, 10), "NOT_A_MATRIX"),
        ((range(3), rows_of(3), None, DIM, 0), "OUT_OF_RANGE"),
        ((range(3), rows_of(3), None, DIM, 10_001), "OUT_OF_RANGE"),
        ((range(3), rows_of(3), None, DIM, 2.5), "NOT_AN_INTEGER"),
    ],
)
def test_invalid_input_is_refused_before_the_first_batch(
    arguments: tuple[Any, ...], reason: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        batches(*arguments)
    assert caught.value.reason == reason


def test_columns_of_other_libraries_are_converted_to_numpy() -> None:
    class Column:
        """Like a pandas Series: iterable and with a length, but its slices can't be relied on."""

        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def to_numpy(self) -> np.ndarray:
            return self.values

        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("to_numpy should have been used")

    parts = list(batches(Column(np.arange(12)), Column(rows_of(12)), None, DIM, 10))
    ids, vectors, _ = joined(parts)
    assert ids == [str(i) for i in range(12)]
    assert np.array_equal(vectors, rows_of(12))


@pytest.mark.parametrize("error", [UnavailableError("gone"), KeyError("of the caller")])
def test_failure_has_the_progress(error: Exception) -> None:
    progress = IngestProgress(rows=2000, total=5000, seq=7, elapsed_s=0.5)
    attach_progress(error, progress)
    assert error.progress == progress  # type: ignore[attr-defined]
    assert "2000 of 5000 rows" in error.__notes__[0]
