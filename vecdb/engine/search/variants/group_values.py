"""The values of one field in candidates, by which they are put into groups.

They come from the columns of segments, and from records where there are none: for rows in no
segment, for rows whose metadata changed since the columns were made, and for values that are not
indexed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from vecdb.engine.search.call_bytes import GROUP_VALUE_BYTES
from vecdb.engine.search.filters.column_matches import usable_columns
from vecdb.engine.search.snapshots.lookup import read_records, records_at_once
from vecdb.engine.search.snapshots.memtable import nodes_of
from vecdb.engine.search.snapshots.snapshot import SearchUnit
from vecdb.engine.search.variants.candidates import Candidates, CandidateSearch, Places
from vecdb.engine.segments.columns.field import Field
from vecdb.filters import Path
from vecdb.types import GroupValue

__all__ = ["GroupValues", "Key"]

_INT64_END = 2**63

_VALUES_MAX = 1_000
_READ_MAX = 1_000
"""Values, and records read, up to which all groups are listed."""

_READ_AT_ONCE = 500
"""Records that are read before their memory is counted."""

_UNKNOWN: frozenset[Any] = frozenset({"unknown"})

Key: TypeAlias = tuple[int, GroupValue]
"""Class (boolean, number, string) and value: 1 and 1.0 are one group, 1 and true are two."""


class _Column:
    """The field in one segment."""

    def __init__(self, field: Field | None, changed: Places) -> None:
        """Create a column.

        field: None if no row has it. changed: rows that are to be decided by their records.
        """
        self._field, self._changed = field, changed
        self._keys: dict[int, tuple[Key, ...]] = {-1: (), 0: ()}

    def all_keys(self) -> Iterator[Key]:
        """Yield the keys of all indexed values."""
        if self._field is not None:
            for code in np.flatnonzero(self._field.value_counts).tolist():
                yield from self._key_of(code)

    @property
    def value_count(self) -> int:
        """An upper bound of the number of values."""
        return 0 if self._field is None else self._field.code_count

    def read_nodes(self, rows: Places) -> Places:
        """Return the nodes that their records decide. rows: of all nodes, ascending."""
        odd = np.zeros(0, np.int32) if self._field is None else self._field.odd.nodes
        return np.union1d(nodes_of(rows, self._changed), odd)

    def keys_of(self, nodes: Places, rows: Places) -> list[tuple[Key, ...] | None]:
        """Return the keys of some nodes; None for those that their records decide."""
        field = self._field
        found: list[Any] = [()] * len(nodes)
        if field is not None and len(nodes):
            codes, owners = field.holders.of(nodes)
            keys = [self._key_of(code) for code in codes.tolist()]
            if owners is None:
                found = list(keys)
            else:
                for owner, key in zip(owners.tolist(), keys, strict=True):
                    found[owner] += key
            for place in np.flatnonzero(field.odd.has(nodes)).tolist():
                found[place] = None
        for place in np.flatnonzero(np.isin(rows, self._changed)).tolist():
            found[place] = None
        return found

    def _key_of(self, code: int) -> tuple[Key, ...]:
        known = self._keys.get(code)
        if known is None:
            assert self._field is not None
            value = self._field.value_of(code)
            known = self._keys[code] = () if value is None else (_key(value),)
        return known


class GroupValues:
    """The values of a field in rows of one snapshot, read once. Not thread-safe."""

    def __init__(self, search: CandidateSearch, path: Path) -> None:
        self.path = path
        self._search = search
        self._known: dict[int, tuple[Key, ...]] = {}
        self._units = {id(unit.content): unit for unit in search.snapshot.units if unit.content}
        self._columns: dict[int, _Column | None] = {}
        self._all: frozenset[Key] | None = _UNKNOWN

    def of(self, candidates: Candidates, count: int) -> list[tuple[Key, ...]]:
        """Return the keys of the groups that each of the first candidates belongs to.

        Raises:
            DataLossError: a record is damaged.
            DeadlineExceededError, CancelledError: between two slices of rows.
        """
        rows = candidates.rows[:count]
        numbers = rows.tolist()
        new = np.array([row not in self._known for row in numbers], bool)
        self._search.wanted.memory.take(GROUP_VALUE_BYTES * int(new.sum()))
        nodes, origins = candidates.best.nodes[:count], candidates.best.origins
        for number, part in enumerate(candidates.results.parts):
            unit = self._units.get(id(part.content))
            column = None if part.content is None or unit is None else self._column_of(unit)
            if column is None:
                continue
            at = new if origins is None else new & (origins[:count] == number)
            some = rows[at]
            for row, keys in zip(some.tolist(), column.keys_of(nodes[at], some), strict=True):
                if keys is not None:
                    self._known[row] = keys
        self._read([row for row in numbers if row not in self._known])
        return [self._known[row] for row in numbers]

    def all_keys(self) -> frozenset[Key] | None:
        """Return the keys of all groups in the snapshot, and perhaps of some whose rows are
        deleted; None if there are too many, or too many records would have to be read."""
        if self._all is _UNKNOWN:
            self._all = self._found_keys()
        return self._all

    def _found_keys(self) -> frozenset[Key] | None:
        if not self._search.snapshot.holds_all:
            return None
        keys: set[Key] = set()
        to_read: list[int] = []
        for unit in self._search.snapshot.units:
            rows = unit.rows[: unit.count]
            column = None if unit.content is None else self._column_of(unit)
            if column is None:
                nodes = np.arange(unit.count)
            elif column.value_count <= _VALUES_MAX:
                keys.update(column.all_keys())
                nodes = column.read_nodes(rows)
            else:
                return None
            if len(unit.delete_bitmap):
                deleted = (unit.delete_bitmap[nodes >> 3] >> (nodes & 7).astype(np.uint8)) & 1
                nodes = nodes[deleted == 0]
            to_read += rows[nodes].tolist()
            if len(to_read) > _READ_MAX or len(keys) > _VALUES_MAX:
                return None
        self._read([row for row in to_read if row not in self._known])
        return frozenset(keys.union(*(self._known[row] for row in to_read)))

    def _read(self, rows: Sequence[int]) -> None:
        """Read the values of rows from their records, and reserve memory for what is kept."""
        search, memory = self._search, self._search.wanted.memory
        step = records_at_once(search.store, _READ_AT_ONCE)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            records = read_records(search.store, some, search.snapshot.state.seq, search.deadline)
            raw_bytes, kept = sum(len(record.metadata) for record in records), 0
            memory.take(raw_bytes)
            for row, record in zip(some, records, strict=True):
                keys = self._known[row] = _keys(record.metadata, self.path)
                kept += GROUP_VALUE_BYTES * len(keys)
                kept += sum(len(value) for _, value in keys if isinstance(value, str))
            memory.take(kept)
            memory.release(raw_bytes)

    def _column_of(self, unit: SearchUnit) -> _Column | None:
        """Return the column of a segment; None if its columns do not hold the values."""
        key = id(unit.content)
        if key not in self._columns:
            self._columns[key] = self._new_column(unit)
        return self._columns[key]

    def _new_column(self, unit: SearchUnit) -> _Column | None:
        seq = self._search.snapshot.state.seq
        columns = usable_columns(unit, seq)
        if columns is None or not unit.count:
            return None
        field = columns.field(self.path)
        if field is None and not columns.is_absent(self.path):
            return None
        first, end = int(unit.rows[0]), int(unit.rows[unit.count - 1]) + 1
        return _Column(field, self._search.store.changed_rows.since(columns.seq, seq, first, end))


def _keys(raw: bytes, path: Path) -> tuple[Key, ...]:
    value: Any = json.loads(raw) if raw else None
    for key in path:
        if not isinstance(value, dict):
            return ()
        value = value.get(key)
    if isinstance(value, list):
        return tuple(dict.fromkeys(_key(each) for each in value if _is_scalar(each)))
    return (_key(value),) if _is_scalar(value) else ()


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _key(value: GroupValue) -> Key:
    if isinstance(value, bool):
        return 0, value
    if isinstance(value, float) and value.is_integer() and abs(value) < _INT64_END:
        return 1, int(value)
    return (2 if isinstance(value, str) else 1), value
