"""The part of a segment that holds its columns; ``blob`` has the layout.

It is derived from the records of the store, for segments with a graph: these are written by the
indexer, and live long. Rows of flat segments are decided by their records.
"""

from __future__ import annotations

from typing import Final

from vecdb.engine.segments.columns.columns import Columns, made_columns
from vecdb.engine.segments.columns.comparing import ColumnsCheck
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_check import PartCheck
from vecdb.engine.segments.part_kind import (
    CheckedSegment,
    LeftOut,
    PartData,
    PartFiles,
    PartKind,
    PartSource,
)
from vecdb.engine.segments.row_arrays import ROW_IDS

__all__ = ["COLUMNS"]

_ARRAY: Final = "columns"


class _ColumnsPart(PartKind[Columns]):
    name = "columns"
    arrays = (_ARRAY,)
    needed = False
    derived_from = (ROW_IDS, GRAPH)
    from_metadata = True

    def write(self, value: Columns) -> PartData:
        return PartData({_ARRAY: value.blob}, {_ARRAY: dict(value.directory)})

    def read(self, files: PartFiles) -> Columns:
        blob, directory = files.arrays[_ARRAY], files.manifest[_ARRAY]
        crc = files.manifest["arrays"][_ARRAY]["crc32"]
        columns = Columns(blob, directory, files.count, crc)
        files.check(fit=blob.ndim == 1 and columns.fits())
        return columns

    def derive(self, source: PartSource) -> Columns | LeftOut:
        assert source.metadata is not None
        ids = source.parts[ROW_IDS]
        seq, slices = source.metadata(ids.rows)
        return made_columns(ids, slices, seq)

    def check(self, value: Columns, segment: CheckedSegment) -> PartCheck:
        return ColumnsCheck(value, segment)


COLUMNS: Final = _ColumnsPart()
