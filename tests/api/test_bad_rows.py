"""Bad rows and queries, embedded and remote: errors have their position in the input and id."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.serving import running_server

DIM = 8
COUNT = 2_600


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, DIM)).astype(np.float32)


def spoiled(entry: Any) -> list[Any]:
    """Return vectors as lists, one of which is replaced by another value."""
    vectors: list[Any] = rows(COUNT).tolist()
    vectors[2500] = entry
    return vectors


def array_with(number: float) -> np.ndarray:
    vectors = rows(COUNT)
    vectors[2500, 5] = number
    return vectors


NAMES = [f"doc-{row}" for row in range(COUNT)]
OBJECTS: list[Any] = [{}] * COUNT
AT = r"row 2500 \(id 'doc-2500'\)"
BAD_ROWS: dict[str, tuple[Any, Any, Any, str]] = {
    "NaN": (NAMES, array_with(np.nan), None, f"vectors: {AT} has nan at component 5"),
    "NaN in lists": (NAMES, array_with(np.nan).tolist(), None, f"vectors: {AT} has nan"),
    "NaN from an iterator": (
        lambda: iter(NAMES),
        lambda: iter(array_with(np.nan)),
        None,
        f"{AT} has nan",
    ),
    "overflow": (NAMES, array_with(1e20), None, f"vectors: {AT} has a squared length"),
    "zero length": (NAMES, spoiled([0.0] * 8), None, f"vectors: {AT} has length 0"),
    "short row": (
        NAMES,
        spoiled([1.0] * 7),
        None,
        f"{AT} has 7 components, expected 8",
    ),
    "empty row": (NAMES, spoiled([]), None, f"{AT} has 0 components, expected 8"),
    "number for a row": (
        NAMES,
        spoiled(1.5),
        None,
        f"{AT} must be a list of 8 numbers",
    ),
    "None for a row": (NAMES, spoiled(None), None, f"{AT} .*, got None"),
    "text for a row": (NAMES, spoiled("hello"), None, f"{AT} .*, got 'hello'"),
    "nested row": (NAMES, spoiled([[1.0] * 8]), None, f"{AT} .*shape \\(1, 8\\)"),
    "text in a row": (
        NAMES,
        spoiled([1.0] * 6 + ["2", 3.0]),
        None,
        f"vectors: {AT} has '2' \\(str\\) at component 6, expected a real number",
    ),
    "None in a row": (
        NAMES,
        spoiled([1.0, None, *[2.0] * 6]),
        None,
        f"{AT} has None \\(NoneType\\) at component 1",
    ),
    "complex in a row": (NAMES, spoiled([1j] * 8), None, f"{AT} has 1j .* component 0"),
    "huge integer": (
        NAMES,
        spoiled([1, 10**400, *[1] * 6]),
        None,
        f"{AT} has a number at component 1 that no float32 holds",
    ),
    "empty id": ([*NAMES[:2500], "", *NAMES[2501:]], rows(COUNT), None, "id '' at position 2500: "),
    "long id": (
        [*NAMES[:2500], "x" * 501, *NAMES[2501:]],
        rows(COUNT),
        None,
        "id 'xxx.*' at position 2500: .* 1 to 500, got 501",
    ),
    "number as id": (
        [*NAMES[:2500], 2.5, *NAMES[2501:]],
        rows(COUNT),
        None,
        "id 2.5 at position 2500: expected a str or an integer, got float",
    ),
    "bytes as id": (
        [*NAMES[:2500], b"a", *NAMES[2501:]],
        rows(COUNT),
        None,
        "b'a' at position 2500",
    ),
    "surrogate as id": (
        [*NAMES[:2500], "\ud800", *NAMES[2501:]],
        rows(COUNT),
        None,
        "at position 2500: not valid Unicode",
    ),
    "id twice": (
        [*NAMES[:2500], "doc-2499", *NAMES[2501:]],
        rows(COUNT),
        None,
        "duplicate id 'doc-2499' at positions 2499 and 2500",
    ),
    "metadata no object": (
        NAMES,
        rows(COUNT),
        [*OBJECTS[:2500], [1], *OBJECTS[2501:]],
        f"metadata: {AT} must be a JSON object, got list",
    ),
    "metadata an array": (
        NAMES,
        rows(COUNT),
        [*OBJECTS[:2500], np.ones(2), *OBJECTS[2501:]],
        f"metadata: {AT} must be a JSON object, got ndarray",
    ),
    "metadata no JSON": (
        NAMES,
        rows(COUNT),
        lambda: iter([*OBJECTS[:2500], {"a": {1}}, *OBJECTS[2501:]]),
        f"metadata: {AT} is not JSON",
    ),
    "metadata too large": (
        NAMES,
        rows(COUNT),
        [*OBJECTS[:2500], {"a": "x" * 70_000}, *OBJECTS[2501:]],
        f"metadata: {AT} has 70008 bytes",
    ),
    "metadata ends early": (
        NAMES,
        rows(COUNT),
        lambda: iter(OBJECTS[:2550]),
        "metadata has 2550, ids has",
    ),
}


@pytest.fixture(scope="module", params=["embedded", "remote"])
def docs_of_8(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A collection that only receives the good batches of failing calls."""
    data = tmp_path_factory.mktemp("rows") / "data"
    with contextlib.ExitStack() as stack:
        database: Any = stack.enter_context(
            vecdb.open(data, indexer=False)
            if request.param == "embedded"
            else vecdb.connect(stack.enter_context(running_server(data, indexer=False)))
        )
        yield database.create_collection("docs", 8)


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_of_upsert_many_is_reported_by_its_position_in_the_input(
    docs_of_8: Any, case: str
) -> None:
    *given, said = BAD_ROWS[case]
    ids, vectors, metadata = (each() if callable(each) else each for each in given)
    with pytest.raises(vecdb.InvalidArgumentError, match=said) as caught:
        docs_of_8.upsert_many(ids, vectors, metadata, batch_rows=1000)
    assert caught.value.progress.rows == 2000
    # The batches before the bad one are written, the bad one is not.
    assert docs_of_8.get(NAMES[2000:]).ids == []
    docs_of_8.delete(NAMES)


@pytest.mark.parametrize("case", [c for c, row in BAD_ROWS.items() if not any(map(callable, row))])
def test_bad_row_of_an_upsert_is_reported_by_position_and_id(docs_of_8: Any, case: str) -> None:
    ids, vectors, metadata, said = BAD_ROWS[case]
    seq = docs_of_8.stats().seq
    with pytest.raises(vecdb.InvalidArgumentError, match=said):
        docs_of_8.upsert(ids, vectors, metadata)
    assert docs_of_8.stats().seq == seq


def test_bad_query_is_reported_by_its_position(docs_of_8: Any) -> None:
    good = [1.0] * 8
    for query, said in (
        (None, "give a query or near .*, got neither"),
        ("hello", "query must be numbers, .* got 'hello'; text becomes a vector by an embedding"),
        ([good, "hello"], "query: row 1 must be a list of 8 numbers, got 'hello'"),
        ([good, good, good[:5]], "query: row 2 has 5 components, expected 8"),
        ([good, [*good[:7], float("inf")]], "query: row 1 has inf at component 7"),
        (good[:5], "query: expected 8 dimensions, got 5"),
        ((each for each in good), "query must be a list or an array, .* got generator"),
    ):
        with pytest.raises(vecdb.InvalidArgumentError, match=said):
            docs_of_8.search(query)


def test_missing_vectors_are_requested(docs_of_8: Any) -> None:
    for call in (
        lambda: docs_of_8.upsert(["a", "b"], None),
        lambda: docs_of_8.upsert(["a", "b"]),
        lambda: docs_of_8.upsert_many(["a", "b"], None),
    ):
        with pytest.raises(vecdb.InvalidArgumentError, match=r"vectors must be .* got None"):
            call()


def test_infinite_ids_are_refused(docs_of_8: Any) -> None:
    for call in (docs_of_8.get, docs_of_8.delete, lambda ids: docs_of_8.upsert(ids, rows(1))):
        with pytest.raises(vecdb.InvalidArgumentError, match="at most 10000, got more than 10000"):
            call(itertools.count())


def test_rows_of_any_number_type_are_accepted(docs_of_8: Any) -> None:
    """Object arrays, as columns of data frames are."""
    column = np.empty(2, object)
    column[:] = [np.arange(1, 9), [Decimal("0.5")] * 8]
    wanted = np.array([np.arange(1, 9), [0.5] * 8], np.float32)
    for vectors in (
        column,
        list(column),
        [[*range(1, 9)], [Fraction(1, 2)] * 8],
        wanted.astype("O"),
    ):
        docs_of_8.upsert(["x", "y"], vectors)
        assert np.array_equal(docs_of_8.get(["x", "y"]).vectors, wanted)
        assert docs_of_8.search(vectors, k=1)[1].ids == ["y"]
    docs_of_8.delete(["x", "y"])


def test_rows_of_another_dimension_are_reported_by_the_first(docs_of_8: Any) -> None:
    rows = [[1.0] * 8] * 20 + [[1.0] * 5] * 10
    message = r"vectors: row 20 \(id '20'\) has 5 components, expected 8"
    with pytest.raises(vecdb.InvalidArgumentError, match=message):
        docs_of_8.upsert_many([str(i) for i in range(30)], rows, batch_rows=10)


def test_deques_are_read_in_order(docs_of_8: Any) -> None:
    ids, rows = deque(["a", "b", "c"]), deque(np.eye(3, 8))
    docs_of_8.upsert_many(ids, rows, deque([{"n": 1}, None, {"n": 3}]), batch_rows=2)
    assert [hits.ids[0] for hits in docs_of_8.search(list(rows), k=1)] == list(ids)
