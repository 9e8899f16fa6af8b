"""Facets: the values of a field with their numbers of rows; and the fields of the metadata.

Columns answer it for most rows (``column_values``). The records of the others are read once, at one
seq, in short transactions. A value counts as filters see it: 1 and 1.0 are one value, true and 1
are two.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.filters.column_values import (
    FieldSummary,
    classified,
    field_summaries,
    in_columns,
    value_counts,
)
from vecdb.engine.search.filters.matched_rows import MatchedRows, RowsAtSeq
from vecdb.engine.search.snapshots.lookup import records_at_once
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter, Path, Scalar, path_text
from vecdb.types import Facet, FacetValue, FieldInfo

__all__ = ["facet", "fields"]

_SLICE_ROWS: Final = 2_000
"""Records that one transaction reads: about 10 ms."""

_DISTINCT_MAX: Final = 10_000
"""Distinct values of a field that ``fields`` counts."""

_TYPES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "double",
    str: "string",
    list: "list",
    dict: "object",
}
_CLASSES: Final[dict[type, int]] = {type(None): 0, bool: 1, int: 2, float: 2, str: 3}
"""Values of different classes are never equal; also the order of values with equal counts."""

_VALUE_BYTES: Final = 200
"""Memory of a distinct value, without the text of a string."""

_TAKEN_BYTES: Final = 1024**2
"""Memory of values that is taken in one piece."""

_TEXT_MAX: Final = 100
"""Characters up to which ``fields`` compares texts; of longer ones it compares hashes."""


def facet(
    store: Store,
    matched: MatchedRows,
    path: Path,
    filter: Filter | None,
    limit: int,
    deadline: Deadline,
) -> Facet:
    """Count the values of a field in the rows that match; see ``CollectionSurface.facet``.

    Raises:
        ResourceExhaustedError: CALL_MEMORY: there are too many different values.
        DataLossError: a record is damaged.
        DeadlineExceededError, CancelledError.
    """
    counts: dict[tuple[int, Scalar], int] = {}
    integers: set[int] = set()
    with (
        matched.at_one_seq(filter, deadline) as found,
        store.call_memory.of_call() as memory,
    ):
        parts, rows = in_columns(store, found)
        for part in parts:
            field, in_rows, left = value_counts(part, path)
            rows = np.concatenate([rows, left])
            if field is not None:
                given = ((kind, each, n) for kind, each, n in classified(field, in_rows))
                _add(counts, integers, given, memory)
            found.deadline.check()
        for entries in _slices(store, found, np.sort(rows)):
            each_value = (each for entry in entries for each in _values_at(entry, path))
            _add(counts, integers, ((*each, 1) for each in each_value), memory)
        best = sorted(counts.items(), key=lambda item: (-item[1], *item[0][:1], _order(item[0][1])))
        values = [
            # Of 1.0 and 1 the integer is shown, whichever came first.
            FacetValue(int(value) if value in integers and kind == 2 else value, count)
            for (kind, value), count in best[:limit]
        ]
        return Facet(values, len(counts), len(found.rows), found.seq)


def _add(
    counts: dict[tuple[int, Scalar], int],
    integers: set[int],
    given: Iterable[tuple[int, Scalar, int]],
    memory: CallMemory,
) -> None:
    """Add classes and values with numbers of rows."""
    nbytes = 0
    for kind, value, rows in given:
        key = kind, value
        count = counts.get(key, 0)
        counts[key] = count + rows
        if count == 0:
            nbytes += _bytes_of(value)
        if type(value) is int:
            integers.add(value)
        if nbytes > _TAKEN_BYTES:
            memory.take(nbytes)
            nbytes = 0
    memory.take(nbytes)


def _order(value: Scalar) -> Any:
    return 0 if value is None else value


def fields(store: Store, matched: MatchedRows, deadline: Deadline) -> list[FieldInfo]:
    """Return the fields of all live rows, by name; see ``CollectionSurface.fields``. Raises as
    ``facet``."""
    known: dict[Path, _Field] = {}
    with (
        matched.at_one_seq(None, deadline) as found,
        store.call_memory.of_call() as memory,
    ):
        parts, rows = in_columns(store, found)
        for part in parts:
            summaries = field_summaries(part)
            if summaries is None:
                rows = np.concatenate([rows, part.rows])
                continue
            with _taken(known, memory):
                for path, summary in summaries.items():
                    known.setdefault(path, _Field()).add_all(summary)
                    for entries in _slices(store, found, summary.odd_rows):
                        for entry in entries:
                            known[path].add_distinct(_values_at(entry, path))
        for entries in _slices(store, found, np.sort(rows)):
            with _taken(known, memory):
                for entry in entries:
                    _add_fields(known, entry, ())
    named = sorted((path_text(path), each) for path, each in known.items())
    return [
        FieldInfo(
            name,
            each.rows,
            {kind: each.types[kind] for kind in _TYPES.values() if kind in each.types},
            len(each.distinct) if len(each.distinct) <= _DISTINCT_MAX else None,
        )
        for name, each in named
    ]


@contextlib.contextmanager
def _taken(known: dict[Path, _Field], memory: CallMemory) -> Iterator[None]:
    """Take the memory of the fields and values that are added meanwhile."""

    def size() -> int:
        return _VALUE_BYTES * (len(known) + sum(len(each.distinct) for each in known.values()))

    before = size()
    yield
    memory.take(size() - before)


class _Field:
    """What is known of a field so far."""

    __slots__ = ("distinct", "rows", "types")

    def __init__(self) -> None:
        self.rows = 0
        self.types: dict[str, int] = {}
        self.distinct: set[tuple[int, Scalar | bytes]] = set()

    def __lt__(self, other: object) -> bool:
        return False  # Names are distinct.

    def add(self, value: Any) -> None:
        self.rows += 1
        types = self.types
        for each in (value, *value) if type(value) is list else (value,):
            kind = _TYPES[type(each)]
            types[kind] = types.get(kind, 0) + 1
        self.add_distinct(_scalars(value))

    def add_distinct(self, values: Iterable[tuple[int, Scalar]]) -> None:
        if len(self.distinct) <= _DISTINCT_MAX:
            for kind, scalar in values:
                self.distinct.add((kind, _compared(scalar)))

    def add_all(self, summary: FieldSummary) -> None:
        self.rows += summary.rows
        for kind, count in summary.type_counts.items():
            self.types[kind] = self.types.get(kind, 0) + count
        # More need not be told apart.
        some = np.flatnonzero(summary.counts)[: _DISTINCT_MAX + 1]
        counts = np.zeros_like(summary.counts)
        counts[some] = 1
        self.add_distinct((kind, value) for kind, value, _ in classified(summary.field, counts))


def _bytes_of(value: Scalar) -> int:
    return _VALUE_BYTES + (4 * len(value) if type(value) is str else 0)


def _compared(value: Scalar) -> Scalar | bytes:
    if type(value) is not str or len(value) <= _TEXT_MAX:
        return value
    return hashlib.blake2b(value.encode(), digest_size=16).digest()


def _add_fields(known: dict[Path, _Field], entry: dict[str, Any], above: Path) -> None:
    for key, value in entry.items():
        path = (*above, key)
        field = known.get(path)
        if field is None:
            field = known[path] = _Field()
        field.add(value)
        if type(value) is dict:
            _add_fields(known, value, path)


def _slices(
    store: Store, found: RowsAtSeq, some: npt.NDArray[np.int64]
) -> Iterator[list[dict[str, Any]]]:
    """Yield the metadata of some of the rows, those that have some."""
    rows = some.tolist()
    step = records_at_once(store, _SLICE_ROWS)
    for start in range(0, len(rows), step):
        found.deadline.check()
        with store.environment.read() as transaction:
            records = store.rows.read_records(transaction, rows[start : start + step], found.seq)
        texts = [record.metadata for record in records if record.metadata]
        yield json.loads(b"[%b]" % b",".join(texts))


def _values_at(entry: dict[str, Any], path: Path) -> Iterable[tuple[int, Scalar]]:
    """Return the different values of the field at a path by which ``$eq`` finds the row."""
    value: Any = entry
    for key in path:
        if type(value) is not dict or key not in value:
            return ()
        value = value[key]
    return _scalars(value)


def _scalars(value: Any) -> Iterable[tuple[int, Scalar]]:
    kind = _CLASSES.get(type(value))
    if kind is not None:
        return ((kind, value),)
    if type(value) is list:
        return {(_CLASSES[type(each)], each) for each in value if type(each) in _CLASSES}
    return ()
