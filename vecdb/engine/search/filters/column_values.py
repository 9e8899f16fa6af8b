"""Values of fields by the columns of segments: how many rows have each, and of which types.

Rows are found in columns if these are of their metadata: they are in a segment with columns, and
their metadata did not change since. Where columns do not tell what records would, the rows are
returned, and their records are read:

- values that are not indexed (``Field.odd``);
- a number such as 1, in a field with integers and doubles: columns hold 1 and 1.0 as one value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.filters.column_matches import usable_columns
from vecdb.engine.search.filters.matched_rows import RowsAtSeq
from vecdb.engine.search.snapshots.memtable import nodes_of
from vecdb.engine.segments.columns.columns import Columns
from vecdb.engine.segments.columns.field import FALSE_CODE, FIRST_NUMBER, NULL_CODE, Field, Scalar
from vecdb.engine.segments.columns.node_sets import Mask
from vecdb.engine.store.store import Store
from vecdb.filters import Path

__all__ = [
    "FieldSummary",
    "InColumns",
    "classified",
    "field_summaries",
    "in_columns",
    "value_counts",
]

Rows = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]

_NULL, _BOOLEAN, _NUMBER, _STRING = range(4)
"""The classes of values, as ``facets`` has them."""

_NO_ROWS: Final = np.zeros(0, np.int64)


class InColumns(NamedTuple):
    """Rows of a segment that its columns tell about: int64 (n,), ascending, and their nodes."""

    columns: Columns
    rows: Rows
    nodes: npt.NDArray[np.int64]


class FieldSummary(NamedTuple):
    """What columns tell of a field in some rows.

    Attributes:
        rows: how many have the field.
        type_counts: number of values by type.
        field: the field. counts: rows that have each of its values, int64 (codes,).
        odd_rows: rows with values that ``counts`` lacks.
    """

    rows: int
    type_counts: dict[str, int]
    field: Field
    counts: Counts
    odd_rows: Rows


def in_columns(store: Store, found: RowsAtSeq) -> tuple[list[InColumns], Rows]:
    """Return the rows that columns tell about, segment by segment, and all others."""
    parts, others, rest = [], [], found.rows
    for unit in found.snapshot.units:
        columns = usable_columns(unit, found.seq)
        rows = unit.rows[: unit.count]
        if columns is None or not len(rows):
            continue
        low, high = np.searchsorted(rest, (rows[0], rows[-1] + 1)).tolist()
        inside = rest[low:high]
        changed = store.changed_rows.since(columns.seq, found.seq, int(rows[0]), int(rows[-1]) + 1)
        nodes = nodes_of(rows, np.setdiff1d(inside, changed, True) if len(changed) else inside)
        told = rows[nodes]
        others += [rest[:low], np.setdiff1d(inside, told, True)]
        rest = rest[high:]
        parts.append(InColumns(columns, told, nodes))
    return parts, np.concatenate([_NO_ROWS, *others, rest])


def value_counts(part: InColumns, path: Path) -> tuple[Field | None, Counts, Rows]:
    """Return a field, the rows that have each of its values, int64 (codes,), and the rows that are
    not counted."""
    columns = part.columns
    field = columns.field(path)
    if field is None:
        return None, _NO_ROWS, _NO_ROWS if columns.is_absent(path) else part.rows
    if field.type_counts is None:
        return None, _NO_ROWS, part.rows
    left = field.odd.has(part.nodes) | _with_unclear_number(field, part.nodes)
    if len(part.nodes) == columns.size and not left.any():
        return field, field.value_counts, _NO_ROWS
    return field, _counted(field, part.nodes[~left]), part.rows[left]


def classified(field: Field, counts: Counts) -> Iterator[tuple[int, Scalar, int]]:
    """Yield class, value and number of rows of each value that some rows have. Of a field with
    integers and doubles, an integer stands for both."""
    assert field.type_counts is not None
    is_double = "integer" not in field.type_counts
    for code in np.flatnonzero(counts).tolist():
        value, count = field.value_of(code), int(counts[code])
        if code < FIRST_NUMBER:
            yield _NULL if code == NULL_CODE else _BOOLEAN, value, count
        elif code < field.first_text:
            assert value is not None and not isinstance(value, str)
            yield _NUMBER, float(value) if is_double else value, count
        else:
            yield _STRING, value, count


def field_summaries(part: InColumns) -> dict[Path, FieldSummary] | None:
    """Return what columns tell of all fields of the rows; None if only records do."""
    columns = part.columns
    if columns.left_out or columns.has_unlisted:
        return None
    gone = np.setdiff1d(np.arange(columns.size), part.nodes, True)
    summaries = {}
    for path in columns.paths:
        field = columns.field(path)
        assert field is not None
        summary = _summary(field, part, gone)
        if summary is None:
            return None
        if summary.rows:
            summaries[path] = summary
    return summaries


def _summary(field: Field, part: InColumns, gone: Rows) -> FieldSummary | None:
    """Return what a column tells of all nodes but those that are gone; None if it does not know
    what their values were."""
    if field.type_counts is None:
        return None
    rows, types, counts = field.present.count, dict(field.type_counts), field.value_counts
    if len(gone):
        lists, odd = field.lists.has(gone), field.odd.has(gone)
        if lists.any() or odd.any() or _with_unclear_number(field, gone).any():
            return None
        present = field.present.has(gone)
        without = _counted(field, gone)
        rows, counts = rows - int(present.sum()), counts - without
        for name, count in _types_of(field, without).items():
            types[name] = types.get(name, 0) - count
        # A node that has the field and none of its values has an object.
        types["object"] = types.get("object", 0) - int(present.sum()) + int(without.sum())
    odd_rows = part.rows[field.odd.has(part.nodes)] if field.odd.count else _NO_ROWS
    return FieldSummary(rows, {n: c for n, c in types.items() if c}, field, counts, odd_rows)


def _types_of(field: Field, counts: Counts) -> dict[str, int]:
    """Return the number of values by type, of nodes that are no lists."""
    assert field.type_counts is not None
    numbers = int(counts[FIRST_NUMBER : field.first_text].sum())
    kinds = {
        "null": int(counts[NULL_CODE]),
        "boolean": int(counts[FALSE_CODE:FIRST_NUMBER].sum()),
        "string": int(counts[field.first_text :].sum()),
    }
    # Where a field has both, only doubles are counted here.
    kinds["double" if "double" in field.type_counts else "integer"] = numbers
    return kinds


def _counted(field: Field, nodes: Rows) -> Counts:
    """Return how many of some nodes have each value, int64 (codes,)."""
    codes, _ = field.holders.of(nodes)
    return np.bincount(codes[codes >= 0], minlength=field.code_count).astype(np.int64)


def _with_unclear_number(field: Field, nodes: Rows) -> Mask:
    """Return which of some nodes have a number that may be an integer or a double."""
    found = np.zeros(len(nodes), np.bool_)
    types = field.type_counts
    if types is None or "integer" not in types or "double" not in types:
        return found
    unclear = np.zeros(field.code_count + 1, np.bool_)  # The last is that of code -1.
    inside = unclear[FIRST_NUMBER : field.first_text]
    inside[:] = True if field.fraction is None else field.fraction == 0
    codes, owners = field.holders.of(nodes)
    if owners is None:
        return np.asarray(unclear[codes])
    found[owners[unclear[codes]]] = True
    return found
