"""The deep check of columns: do they say what records say, and do their arrays fit each other?

Columns are made again from the records, as of the seq that they are of, and compared node by node.
Rows whose record of that seq is purged or damaged are left out: they are deleted, or have changed
since, and columns do not decide for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.columns.columns import Columns, build_columns
from vecdb.engine.segments.columns.field import Field, Holders, Scalar
from vecdb.engine.segments.columns.node_sets import Array, Mask, NodeSet
from vecdb.engine.segments.part_check import PartCheck, PartFinding, StoreRecords
from vecdb.engine.segments.part_kind import CheckedSegment
from vecdb.engine.segments.row_arrays import ROW_IDS, RowIds
from vecdb.index_fields import named_paths

__all__ = ["ColumnsCheck"]

_SLICE_ROWS: Final = 4_000
_UNKNOWN: Final = -2
"""For the code of a value that the other field does not have."""

Nodes = npt.NDArray[np.int64]


class ColumnsCheck(PartCheck):
    """The deep check of a segment's columns."""

    def __init__(self, columns: Columns, segment: CheckedSegment) -> None:
        self._columns, self._segment = columns, segment

    def compare_records(self, records: StoreRecords) -> Iterator[PartFinding]:
        """Compare with columns that are made of the records."""
        # The checksums are not compared yet, and columns with a wrong one are not used.
        if records.read is None or not self._columns.is_intact():
            return
        ids = self._segment.parts[ROW_IDS]
        raw, known = _metadata_of(ids.rows, self._columns.seq, records)
        slices = [raw[at : at + _SLICE_ROWS] for at in range(0, len(raw), _SLICE_ROWS)]
        named = named_paths(self._segment.config)
        expected = build_columns(ids, slices, self._columns.seq, named)
        yield from self._found(lambda: self._differing(expected, known))

    def examine(self, records: StoreRecords) -> Iterator[PartFinding]:
        """Compare the arrays with each other."""
        if self._columns.is_intact():
            yield from self._found(self._inconsistent)

    def _found(self, check: Callable[[], Iterator[tuple[str, Nodes]]]) -> Iterator[PartFinding]:
        number, rows = self._segment.number, self._segment.parts[ROW_IDS].rows
        try:
            for what, nodes in check():
                text = f"rows of segment {number} have {what}"
                yield PartFinding("COLUMNS", text, rows=rows[nodes])
        except (IndexError, ValueError) as error:
            text = f"the columns of segment {number} can't be read: {error}"
            yield PartFinding("COLUMNS", text, unusable=True)

    def _differing(self, expected: Columns, known: Mask) -> Iterator[tuple[str, Nodes]]:
        columns = self._columns
        for path in {**dict.fromkeys(columns.paths), **dict.fromkeys(expected.paths)}:
            name = ".".join(path)
            ours, theirs = columns.field(path), expected.field(path)
            if ours is not None and theirs is not None:
                nodes = _differing_nodes(ours, theirs, known)
            elif ours is not None and expected.is_absent(path):
                nodes = np.flatnonzero(_mask(ours.present) & known)
            elif theirs is not None and columns.is_absent(path):
                nodes = np.flatnonzero(_mask(theirs.present) & known)
            else:
                continue  # One of them leaves the field out.
            yield f"a column {name!r} that is not what their records say", nodes

    def _inconsistent(self) -> Iterator[tuple[str, Nodes]]:
        columns, ids = self._columns, self._segment.parts[ROW_IDS]
        every = np.arange(columns.size)
        if not np.array_equal(np.sort(columns.by_id), every) or not _ascend(columns.by_id, ids):
            yield "an order by id that is wrong", every
        for path in columns.paths:
            field = columns.field(path)
            assert field is not None
            if not _values_ascend(field):
                yield f"a column {'.'.join(path)!r} whose values do not ascend", every
                continue
            codes = np.repeat(np.arange(field.code_count), field.value_counts)
            if not (np.diff(codes * (columns.size + 1) + field.order) > 0).all():
                yield f"a column {'.'.join(path)!r} whose order does not ascend", every
                continue
            ordered = field.order.astype(np.int64) * field.code_count + codes
            owners, held = _pairs(field.holders, columns.size)
            by_node = owners * field.code_count + held
            wrong = np.setxor1d(ordered, by_node) // max(field.code_count, 1)
            yield f"a column {'.'.join(path)!r} that contradicts its order", np.unique(wrong)


def _metadata_of(rows: Nodes, seq: int, records: StoreRecords) -> tuple[list[bytes], Mask]:
    """Return the metadata of ascending rows as of a seq, and of which rows it is known."""
    raw, known = [b""] * len(rows), np.zeros(len(rows), np.bool_)
    if len(rows) and records.read is not None:
        bad = set(records.bad_record_rows.tolist())
        place = {row: at for at, row in enumerate(rows.tolist()) if row not in bad}
        for row, metadata in records.read(int(rows[0]), int(rows[-1]) + 1, seq):
            at = place.get(row)
            if at is not None:
                raw[at], known[at] = metadata, True
    return raw, known


def _mask(nodes: NodeSet) -> Mask:
    mask: Mask = np.unpackbits(nodes.bits, count=nodes.size, bitorder="little").view(np.bool_)
    return mask


def _pairs(holders: Holders, size: int) -> tuple[Nodes, Nodes]:
    """Return nodes and codes of all values by node."""
    nodes = np.arange(size)
    codes, owners = holders.of(nodes)
    whose = nodes if owners is None else owners
    return whose[codes >= 0].astype(np.int64), codes[codes >= 0].astype(np.int64)


def _values_of(field: Field) -> list[tuple[bool, Scalar]]:
    # With its class, since True == 1.
    values = [field.value_of(code) for code in range(field.code_count)]
    return [(isinstance(value, bool), value) for value in values]


def _differing_nodes(ours: Field, theirs: Field, known: Mask) -> Nodes:
    """Return the known nodes whose values are not the same in two fields."""
    wrong: list[Array] = []
    for one, other in (
        (ours.present, theirs.present),
        (ours.lists, theirs.lists),
        (ours.odd, theirs.odd),
    ):
        wrong.append(np.setxor1d(one.nodes, other.nodes))
    code_of = {value: code for code, value in enumerate(_values_of(theirs))}
    translated = np.array([code_of.get(value, _UNKNOWN) for value in _values_of(ours)], np.int64)
    span = theirs.code_count + 1 - _UNKNOWN
    pairs = []
    for field, table in ((ours, translated), (theirs, np.arange(theirs.code_count))):
        nodes, codes = _pairs(field.holders, len(known))
        pairs.append(nodes * span + table[codes] - _UNKNOWN)
    wrong.append(np.setxor1d(np.unique(pairs[0]), np.unique(pairs[1])) // span)
    nodes = np.unique(np.concatenate(wrong)).astype(np.int64)
    return nodes[known[nodes]]


def _values_ascend(field: Field) -> bool:
    # Of numbers, the parts of those that are equal in the first.
    whole, fraction = field.whole, field.fraction
    rises = whole[1:] > whole[:-1]
    if fraction is not None:
        rises |= (whole[1:] == whole[:-1]) & (fraction[1:] > fraction[:-1])
    texts = [field.texts[at] for at in range(len(field.texts))]
    return bool(rises.all()) and all(one < other for one, other in pairwise(texts))


def _ascend(order: Array, ids: RowIds) -> bool:
    edges = [ids.id_offsets[order].tolist(), ids.id_offsets[1:][order].tolist()]
    texts = [ids.id_bytes[start:end].tobytes() for start, end in zip(*edges, strict=True)]
    return all(one <= other for one, other in pairwise(texts))
