"""Facets: the values of a field with their numbers of rows; and the fields of the metadata.

All records are read once, at one seq, in short transactions. A value counts as filters see it: 1
and 1.0 are one value, true and 1 are two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from vecdb.engine.search.lookup import records_at_once
from vecdb.engine.search.matched_rows import MatchedRows, RowsAtSeq
from vecdb.engine.store.store import Store
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
        for entries in _slices(store, found):
            nbytes = 0
            for entry in entries:
                for each in _values_at(entry, path):
                    count = counts.get(each, 0)
                    counts[each] = count + 1
                    if count == 0:
                        nbytes += _bytes_of(each[1])
                    if type(each[1]) is int:
                        integers.add(each[1])
            memory.take(nbytes)
        best = sorted(counts.items(), key=lambda item: (-item[1], *item[0][:1], _order(item[0][1])))
        values = [
            # Of 1.0 and 1 the integer is shown, whichever came first.
            FacetValue(int(value) if value in integers and kind == 2 else value, count)
            for (kind, value), count in best[:limit]
        ]
        return Facet(values, len(counts), len(found.rows), found.seq)


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
        for entries in _slices(store, found):
            before = len(known), sum(len(each.distinct) for each in known.values())
            for entry in entries:
                _add_fields(known, entry, ())
            after = len(known), sum(len(each.distinct) for each in known.values())
            memory.take(sum(_VALUE_BYTES * (b - a) for a, b in zip(before, after, strict=True)))
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
        if len(self.distinct) <= _DISTINCT_MAX:
            for number, scalar in _scalars(value):
                self.distinct.add((number, _compared(scalar)))


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


def _slices(store: Store, found: RowsAtSeq) -> Iterator[list[dict[str, Any]]]:
    """Yield the metadata of the rows, those that have some."""
    rows = found.rows.tolist()
    step = records_at_once(store, _SLICE_ROWS)
    for start in range(0, len(rows), step):
        found.deadline.check()
        with store.environment.read() as transaction:
            some = rows[start : start + step]
            records = store.rows.read_records(transaction, some, found.seq)
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
