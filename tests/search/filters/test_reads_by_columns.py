"""Scrolls and lists by filter that find their rows in columns return what the records say."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecdb
from tests.filter_model import random_filter
from tests.metadata_world import SEED, World
from tests.model import flush_now, index_now
from tests.places import override
from vecdb.engine.segments.row_arrays import RowArrays
from vecdb.engine.segments.segment import SegmentDamagedError
from vecdb.engine.store.rows import RowReader
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.testing import opened_of
from vecdb.filters import parse_filter

ALWAYS, NEVER = 0, 10**9
NAMES = [f"row {number}" for number in range(150)]
EVEN = NAMES[::9]


def pages_of(docs: Any, between: Callable[[], object], **options: Any) -> list[Any]:
    pages: list[Any] = []
    for page in docs.scroll(**options):
        assert 0 < len(page.ids) <= options["batch"]
        pages.append(page)
        if len(pages) <= 3:
            between()
    return pages


def rows_of(pages: list[Any]) -> list[tuple[str, Any, bytes]]:
    return [
        (name, entry, vector.tobytes())
        for page in pages
        for name, entry, vector in zip(page.ids, page.metadata, page.vectors, strict=True)
    ]


@pytest.mark.parametrize("turn", range(3))
def test_a_scroll_returns_one_state_whatever_is_written_meanwhile(
    tmp_path: Path, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(SEED + turn)
    world = World(tmp_path / "data", draw)

    def disturb() -> None:
        world.change(10)
        world.delete(8)
        world.write(10)
        if draw.random() < 0.3:
            flush_now(world.docs)
            index_now(world.docs)

    try:
        world.index()
        world.change(10)
        world.delete(10)
        for _ in range(8):
            options = {"filter": random_filter(draw), "batch": draw.choice([1, 7, 50])}
            override(monkeypatch, "candidate_cost", NEVER)
            expected = rows_of(pages_of(world.docs, lambda: None, **options))
            override(monkeypatch, "candidate_cost", ALWAYS)
            assert rows_of(pages_of(world.docs, lambda: None, **options)) == expected, SEED
            assert rows_of(pages_of(world.docs, disturb, **options)) == expected, SEED
    finally:
        world.database.close()


@pytest.fixture
def docs(tmp_path: Path) -> Iterator[Any]:
    """Rows in one graph; every ninth is "even"."""
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 4)
        vectors = np.random.default_rng(1).normal(size=(150, 4)).astype(np.float32)
        docs.upsert(NAMES, vectors, [{"even": name in EVEN} for name in NAMES])
        flush_now(docs)
        index_now(docs, 150)
        yield docs


def test_pages_of_few_rows_read_only_their_records(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    filter = {"even": True}
    read: list[int] = []
    whole = RowReader.read_records

    def counted(self: Any, transaction: Any, rows: Any, seq: int) -> Any:
        read.extend(rows)
        return whole(self, transaction, rows, seq)

    monkeypatch.setattr(RowReader, "read_records", counted)
    monkeypatch.setattr(RowReader, "iterate_records", lambda *_: pytest.fail("all are read"))
    page = docs.scroll_page(filter=filter, batch=5)
    assert len(page.records.ids) == 5 and page.next_token is not None
    rest = docs.scroll_page(page.next_token, filter=filter, batch=1_000)
    assert {*page.records.ids, *rest.records.ids} == set(EVEN) and rest.next_token is None
    assert len(read) <= len(EVEN) + 1


def test_ids_of_few_rows_are_those_of_segments_unless_damaged(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    override(monkeypatch, "listed_rows_few", 0)
    filter, expected = {"even": True}, sorted(EVEN)
    with monkeypatch.context() as patched:
        patched.setattr(RowReader, "read_records", lambda *_: pytest.fail("records are read"))
        assert docs.list_ids(filter=filter) == expected
        assert docs.list_ids(filter=filter, limit=3, after=expected[1]) == expected[2:5]

    def damaged(*arguments: Any) -> Any:
        raise SegmentDamagedError("an id is damaged", "SEGMENT")

    monkeypatch.setattr(RowArrays, "ids_of", damaged)
    assert docs.list_ids(filter=filter) == expected


def test_ids_that_a_damaged_segment_gives_delete_no_other_rows(
    docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, others = RowArrays.ids_of, sorted(set(NAMES) - set(EVEN))

    def exchanged(self: Any, nodes: Any) -> list[str]:
        ids = whole(self, nodes)
        return [others[0], "no such id", ids[0], *ids[3:]] if len(ids) > 3 else ids

    monkeypatch.setattr(RowArrays, "ids_of", exchanged)
    assert docs.delete(filter={"even": True}).count == len(EVEN)
    monkeypatch.undo()
    assert docs.list_ids() == others
    assert docs.count(filter={"even": False}) == docs.count() == len(others)
    assert docs.get(EVEN).missing == EVEN


def test_a_scroll_of_rows_without_columns_has_no_candidates(tmp_path: Path) -> None:
    with vecdb.open(tmp_path / "data", indexer=False) as database:
        docs = database.create_collection("docs", 2)
        docs.upsert(["a", "b"], [[1, 0], [0, 1]], [{"n": 1}, {"n": 2}])
        opened = opened_of(docs)
        assert opened.matched.candidates(parse_filter({"n": 1}), 1, Deadline()) is None
        assert [page.ids for page in docs.scroll(filter={"n": 1})] == [["a"]]
