"""Rows with five fields of metadata beside rows without; counts, changes and deletes by filter.

    ingest      acknowledged rows a second, and until all are indexed, with fields and without
    reads       a count of half of the rows beside a search without a filter; values of a field, the
                fields, and ids of a hundredth of the rows
    changes     rows whose metadata a call changes by filter, and rows that a call deletes

Fields and none are written in turns, each time into an empty folder. Reads, and changes, are made
in one graph segment with all rows; each round of changes begins with a copy of that folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import vecdb
from vecdb_bench.data.dataset import SEED
from vecdb_bench.figures import summary
from vecdb_bench.scenarios.context import Bench, Context
from vecdb_bench.targets.embedded import NAME

__all__ = ["TITLE", "run"]

TITLE = "Rows with metadata"
TARGET = "vecdb"
CHANGED_ROWS = 100_000
"""Most rows that a call changes or deletes; at most a quarter of all."""

_INGEST, _READS, _CHANGES = "ingest", "reads", "changes"
_VALUES = 1_000_000
_COUNTS = 20
"""Calls of a round that counts, of each kind."""

Metadata = list[dict[str, Any]]


def run(context: Context) -> None:
    """Measure the points that are not in the results."""
    if TARGET not in context.targets:
        return
    rows = min(context.scale.ingest_rows, len(context.dataset.base))
    point = {"what": _INGEST, "rows": rows}
    if context.known(TARGET, **point) is None:
        with context.attempt(TARGET, **point):
            context.record(TARGET, point, _ingested(context, rows))
    points = [{"what": what, "rows": rows} for what in (_READS, _CHANGES)]
    if all(context.known(TARGET, **point) for point in points):
        return
    with context.attempt(TARGET, **points[0]), Bench(context) as bench:
        context.say(f"{TARGET}: {rows:,} rows with metadata")
        filled = bench.folder / "filled"
        with _opened(context, filled) as docs:
            docs.upsert_many(_ids(rows), np.asarray(context.dataset.base[:rows]), _metadata(rows))
            docs.optimize()
            if context.known(TARGET, **points[0]) is None:
                context.record(TARGET, points[0], _read(context, docs))
        if context.known(TARGET, **points[1]) is None:
            context.record(TARGET, points[1], _changed(context, bench, filled, rows))


def _ids(rows: int) -> list[str]:
    return [str(row) for row in range(rows)]


def _metadata(rows: int) -> Metadata:
    """Return five fields of each row; ``number`` is random, from 0 to a million."""
    random = np.random.default_rng(SEED)
    languages = ("en", "de", "fr", "es", "it", "pl", "nl", "sv", "fi", "pt", "cs", "da")
    columns = {
        "number": random.integers(0, _VALUES, rows).tolist(),
        "year": random.integers(1950, 2030, rows).tolist(),
        "score": random.random(rows).tolist(),
        "lang": [languages[at] for at in random.integers(0, len(languages), rows).tolist()],
        "draft": (random.random(rows) < 0.1).tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@contextmanager
def _opened(context: Context, folder: Path) -> Iterator[Any]:
    """Open a collection, creating it if missing."""
    with vecdb.open(folder, recall_meter=0, indexer_outlives_parent=False) as database:
        if NAME in {each.name for each in database.list_collections()}:
            yield database.collection(NAME)
        else:
            settings = context.settings
            yield database.create_collection(
                NAME,
                context.dataset.dim,
                context.dataset.metric,
                M=settings.M,
                ef_construction=settings.ef_construction,
            )


def _timed(call: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    began = time.perf_counter()
    call(*arguments, **options)
    return time.perf_counter() - began


def _ingested(context: Context, rows: int) -> dict[str, Any]:
    base, ids = np.asarray(context.dataset.base[:rows]), _ids(rows)
    kinds: dict[str, Metadata | None] = {"bare": None, "with_fields": _metadata(rows)}
    seen: dict[str, list[float]] = {}
    for _ in range(context.scale.rounds):
        for kind, metadata in kinds.items():
            context.say(f"{TARGET}: writing {rows:,} rows, {kind.replace('_', ' ')}")
            with Bench(context) as bench, _opened(context, bench.folder / kind) as docs:
                sent = _timed(docs.upsert_many, ids, base, metadata)
                indexed = sent + _timed(docs.optimize)
            seen.setdefault(f"{kind}_rows_per_s", []).append(rows / sent)
            seen.setdefault(f"{kind}_indexed_rows_per_s", []).append(rows / indexed)
    for what in ("rows_per_s", "indexed_rows_per_s"):
        pairs = zip(seen[f"with_fields_{what}"], seen[f"bare_{what}"], strict=True)
        seen[f"ratio_{what}"] = [given / bare for given, bare in pairs]
    return {name: summary(values) for name, values in seen.items()}


def _read(context: Context, docs: Any) -> dict[str, Any]:
    queries = np.asarray(context.dataset.queries)
    random = np.random.default_rng(SEED)
    seen: dict[str, list[float]] = {}

    def add(name: str, seconds: float) -> None:
        seen.setdefault(name, []).append(1e6 * seconds)

    docs.search(queries[0], 10)
    for _ in range(context.scale.rounds):
        counts, searches = [], []
        for number in range(_COUNTS):
            low = int(random.integers(0, _VALUES // 2))
            half = {"number": {"$gte": low, "$lt": low + _VALUES // 2}}
            query = queries[number % len(queries)]
            counts.append(_timed(docs.count, filter=half))
            searches.append(_timed(docs.search, query, 10))
        add("count_us", float(np.median(counts)))
        add("search_us", float(np.median(searches)))
        add("facet_of_12_values_us", _timed(docs.facet, "lang"))
        add("fields_us", _timed(docs.fields))
        for name, read in (("list_ids", _listed), ("scroll", _scrolled)):
            low = int(random.integers(0, _VALUES * 99 // 100))
            few = {"number": {"$gte": low, "$lt": low + _VALUES // 100}}
            add(f"{name}_of_1_percent_us", _timed(read, docs, few))
    return {name: summary(values) for name, values in seen.items()}


def _listed(docs: Any, filter: dict[str, Any]) -> int:
    return len(docs.list_ids(filter=filter))


def _scrolled(docs: Any, filter: dict[str, Any]) -> int:
    return sum(1 for _ in docs.scroll(filter=filter))


def _changed(context: Context, bench: Bench, filled: Path, rows: int) -> dict[str, Any]:
    """Change and delete as many rows as ``CHANGED_ROWS``, by a range of their numbers."""
    share = min(CHANGED_ROWS, rows // 4) / rows
    filter = {"number": {"$lt": int(_VALUES * share)}}
    calls: dict[str, Callable[[Any], Any]] = {
        "set_metadata": lambda docs: docs.set_metadata(filter=filter, patch={"seen": True}),
        "delete": lambda docs: docs.delete(filter=filter),
    }
    seen: dict[str, list[float]] = {}
    for _ in range(context.scale.rounds):
        for name, call in calls.items():
            copy = bench.folder / name
            shutil.copytree(filled, copy)
            with _opened(context, copy) as docs:
                docs.search(context.dataset.queries[0], 10)
                began = time.perf_counter()
                count = call(docs).count
                seen.setdefault(f"{name}_rows_per_s", []).append(
                    count / (time.perf_counter() - began)
                )
            shutil.rmtree(copy)
    return {"rows_changed": count, **{name: summary(values) for name, values in seen.items()}}
