"""Hits in groups, embedded and remote, against a plain Python oracle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.model import distances, flush_now, index_now
from tests.serving import running_server
from vecdb.errors import DeadlineExceededError, InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import HitGroup

DIM, ROWS = 24, 1_500


def value_of(i: int) -> Any:
    """The field of row i: mostly one of few, sometimes rare, several, of another class, or none."""
    rare = {7: None, 13: [f"d{i % 5}", f"rare {i}", f"d{i % 5}", ["x"], None], 17: f"rare {i}"}
    rare |= {19: {"deep": 1}, 23: True, 29: 1, 31: 1.0, 37: 2.5, 41: [], 43: -(2**60)}
    for step, value in rare.items():
        if i % (step * 4) == 1:
            return value
    return f"d{(i * i) % 11}"


def keys_of(value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    scalars = [each for each in values if isinstance(each, bool | int | float | str)]
    keys: dict[tuple[bool, Any], None] = {}
    for each in scalars:
        keys[isinstance(each, bool), each] = None
    return list(keys)


class Oracle:
    def __init__(self, metric: str) -> None:
        rng = np.random.default_rng(11)
        self.metric = metric
        self.vectors = rng.standard_normal((ROWS, DIM), dtype=np.float32)
        self.metadata: list[dict[str, Any]] = [
            {"doc": {"id": value_of(i)}, "n": i} if i % 50 else {"n": i} for i in range(ROWS)
        ]
        self.live = set(range(ROWS))

    def fill(self, docs: Any) -> None:
        def write(first: int, end: int) -> None:
            names = [str(i) for i in range(first, end)]
            docs.upsert(names, self.vectors[first:end], self.metadata[first:end])

        write(0, 1_100)
        flush_now(docs)
        index_now(docs)
        write(1_100, 1_400)
        flush_now(docs)
        write(1_400, ROWS)
        docs.delete([str(i) for i in range(0, ROWS, 8)])
        self.live -= set(range(0, ROWS, 8))
        # A change of metadata alone moves rows to another group.
        changed = range(3, ROWS, 120)
        for i in changed:
            self.metadata[i] = {"doc": {"id": "moved"}, "n": i}
        chosen = [i for i in changed if i in self.live]
        docs.upsert(
            [str(i) for i in chosen], self.vectors[chosen], [self.metadata[i] for i in chosen]
        )

    def groups(
        self, query: np.ndarray, k: int, size: int, keep: Any = None, bound: float = np.inf
    ) -> list[tuple[Any, list[str]]]:
        found: dict[tuple[bool, Any], list[str]] = {}
        to_all = distances(self.metric, query, self.vectors)
        for i in np.argsort(to_all, kind="stable").tolist():
            if i not in self.live or to_all[i] > bound or not (keep is None or keep(i)):
                continue
            for key in keys_of(self.metadata[i].get("doc", {}).get("id")):
                found.setdefault(key, []).append(str(i))
        return [(key[1], names[:size]) for key, names in found.items()][:k]


@pytest.fixture(params=["embedded", "remote"])
def surface_of_flushed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Yield an embedded database, and the surface to search with."""
    options = {"indexer": False, "recall_meter": 0, "indexer_outlives_parent": False}
    with vecdb.open(tmp_path / "data", **options) as database:
        if request.param == "embedded":
            yield database, database
            return
        with (
            running_server(tmp_path / "data", **options) as address,
            vecdb.connect(address) as client,
        ):
            yield database, client


def listed(hits: Any) -> list[tuple[Any, list[str]]]:
    assert all(isinstance(group, HitGroup) for group in hits.groups)
    assert hits.ids == [id for group in hits.groups for id in group.hits.ids]
    for group in hits.groups:
        assert (np.diff(group.hits.distances) >= 0).all()
        assert len(group.hits) == len(group.hits.metadata)
    return [(group.value, group.hits.ids) for group in hits.groups]


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_groups_equal_those_of_the_oracle(surface_of_flushed: Any, metric: str) -> None:
    database, surface = surface_of_flushed
    oracle = Oracle(metric)
    oracle.fill(database.create_collection("docs", DIM, metric))
    docs = surface.collection("docs")
    queries = np.random.default_rng(12).standard_normal((3, DIM), dtype=np.float32)
    # Few and many groups; small ones that can't be full; more than there are.
    for k, size in [(1, 1), (5, 3), (12, 2), (20, 40), (60, 5), (500, 1)]:
        found = docs.search(queries, k, group_by="doc.id", group_size=size, exact=True)
        for query, hits in zip(queries, found, strict=True):
            expected = oracle.groups(query, k, size)
            assert listed(hits) == expected, (k, size)
            found_types = {type(value) for value, _ in listed(hits)}
            assert (bool in found_types) == any(value is True for value, _ in expected)
            assert hits.info.exact
            for group in hits.groups:
                for metadata in group.hits.metadata:
                    assert group.value in keys_of_values(metadata)

    query = queries[0]
    near = [str(i) for i in (9, 10)]
    mean = oracle.vectors[[9, 10]].astype(np.float64)
    if metric == "cosine":
        mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    hits = docs.search(near=near, k=9, group_by="doc.id", group_size=2, exact=True)
    assert listed(hits) == oracle.groups(mean.mean(axis=0), 9, 2, lambda i: i not in (9, 10))
    hits = docs.search(
        query, 30, group_by="doc.id", group_size=2, exact=True, filter={"n": {"$lt": 300}}
    )
    assert listed(hits) == oracle.groups(query, 30, 2, lambda i: i < 300)
    assert hits.info.matches == sum(i < 300 for i in oracle.live)
    ordered = np.sort(distances(metric, query, oracle.vectors[sorted(oracle.live)]))
    bound = float(ordered[40] + ordered[41]) / 2
    hits = docs.search(query, 30, group_by="doc.id", group_size=9, max_distance=bound, exact=True)
    assert listed(hits) == oracle.groups(query, 30, 9, bound=bound)


def keys_of_values(metadata: Any) -> list[Any]:
    return [value for _, value in keys_of(metadata["doc"]["id"])]


def test_walks_find_k_full_groups_too(surface_of_flushed: Any) -> None:
    database, surface = surface_of_flushed
    oracle = Oracle("euclidean")
    oracle.fill(database.create_collection("docs", DIM, "euclidean"))
    docs = surface.collection("docs")
    queries = np.random.default_rng(13).standard_normal((20, DIM), dtype=np.float32)
    same = wanted = 0
    for query, hits in zip(
        queries, docs.search(queries, 8, group_by="doc.id", group_size=3), strict=True
    ):
        expected = dict(oracle.groups(query, 8, 3))
        assert len(hits.groups) == 8
        for group in hits.groups:
            wanted += 3
            same += len({*group.hits.ids} & {*expected.get(group.value, [])})
    assert same >= 0.85 * wanted
    (hits,) = docs.search(queries[:1], 3, group_by="doc.id", include_vectors=True)
    for group in hits.groups:
        for name, vector in zip(group.hits.ids, group.hits.vectors, strict=True):
            assert vector.tobytes() == oracle.vectors[int(name)].tobytes()


def test_far_groups_are_found_beyond_thousands_of_one(database: Any) -> None:
    docs = database.create_collection("docs", 2, "euclidean")
    count = 6_000
    vectors = np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.float32)
    far = {5_500: "b", 5_700: "c", 5_701: 2**70, 5_800: "c"}
    docs.upsert_many(list(range(count)), vectors, [{"g": far.get(i, "a")} for i in range(count)])
    hits = docs.search([0, 0], 3, group_by="g", group_size=2, exact=True)
    assert listed(hits) == [("a", ["0", "1"]), ("b", ["5500"]), ("c", ["5700", "5800"])]
    # Metadata of one page of rows only was read for it.
    everything = docs.search([0, 0], 9, group_by="g", group_size=2, exact=True)
    assert listed(everything) == [*listed(hits), (2**70, ["5701"])]
    assert [type(group.value) for group in everything.groups] == [str, str, str, int]


def test_rows_that_share_a_group_by_lists_only_are_found(database: Any) -> None:
    docs = database.create_collection("docs", 1, "euclidean")
    count = 4_000
    docs.upsert_many(
        list(range(count)),
        np.arange(count, dtype=np.float32).reshape(-1, 1),
        [{"g": ["a", "b"] if i == 3_500 else "a" if i % 2 else ["a"]} for i in range(count)],
    )
    hits = docs.search([0], 5, group_by="g", exact=True)
    assert listed(hits) == [("a", ["0"]), ("b", ["3500"])]


def test_no_rows_and_no_such_field(surface: Any) -> None:
    docs = surface.create_collection("docs", 2, "euclidean")
    assert docs.search([1, 0], 3, group_by="g").groups == []
    docs.upsert(["a"], [[1, 0]], [{"h": 1}])
    hits = docs.search([1, 0], 3, group_by="g")
    assert (hits.groups, hits.ids, len(hits.distances)) == ([], [], 0)
    assert docs.search([[1, 0]] * 2, 3, group_by="h")[1].groups[0].hits.ids == ["a"]
    assert docs.search([], 3, group_by="h") == []
    assert docs.search([1, 0], 3).groups is None


def test_a_key_with_a_dot_is_escaped(surface: Any) -> None:
    docs = surface.create_collection("docs", 1, "euclidean")
    docs.upsert(["a", "b"], [[1], [2]], [{"x.y": 1, "x": {"y": 5}}, {"x.y": 2, "x": {"y": 5}}])
    assert [group.value for group in docs.search([0], 3, group_by="x\\.y").groups] == [1, 2]
    assert [group.value for group in docs.search([0], 3, group_by="x.y").groups] == [5]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"group_size": 2}, Reason.BAD_QUERY),
        ({"group_by": "g", "k": None, "max_distance": 1}, Reason.BAD_QUERY),
        ({"group_by": "g", "group_size": 0}, Reason.OUT_OF_RANGE),
        ({"group_by": "g", "group_size": 1_001}, Reason.OUT_OF_RANGE),
        ({"group_by": "g", "group_size": 1_000, "k": 17}, Reason.TOO_MANY_RESULTS),
        ({"group_by": 5}, Reason.BAD_GROUP_BY),
        ({"group_by": "a\\b"}, Reason.BAD_GROUP_BY),
        ({"group_by": ".".join("abcdefghijk")}, Reason.BAD_GROUP_BY),
    ],
)
def test_groups_that_make_no_sense_are_refused(
    surface: Any, arguments: dict[str, Any], reason: Reason
) -> None:
    docs = surface.create_collection("docs", 2, "euclidean")
    docs.upsert(["a"], [[1, 0]])
    with pytest.raises(InvalidArgumentError) as caught:
        docs.search([1, 0], **arguments)
    assert caught.value.reason == reason


def test_a_deadline_ends_the_widening(database: Any) -> None:
    docs = database.create_collection("docs", 2, "euclidean")
    vectors = np.random.default_rng(1).standard_normal((3_000, 2))
    docs.upsert_many(list(range(3_000)), vectors, [{"g": 1}] * 3_000)
    with pytest.raises(DeadlineExceededError):
        docs.search(vectors[:200], 5, group_by="g", timeout_s=1e-3)
