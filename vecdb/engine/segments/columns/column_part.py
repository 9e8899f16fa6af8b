"""The part of a segment that holds its columns; ``blob`` has the layout.

It is derived from the records of the store, for segments with a graph: these are written by the
indexer, and live long. For rows of flat segments searches make columns in memory
(``search/filters/recent_columns.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from vecdb.engine.segments.columns.columns import Columns, build_columns
from vecdb.engine.segments.columns.comparing import ColumnsCheck
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_check import PartCheck
from vecdb.engine.segments.part_kind import (
    CheckedSegment,
    LeftOut,
    PartData,
    PartFiles,
    PartKind,
    Parts,
    PartSource,
)
from vecdb.engine.segments.row_arrays import ROW_IDS
from vecdb.filters import path_text
from vecdb.index_fields import named_paths

__all__ = ["COLUMNS", "columns_left_out_text", "columns_text"]

_ARRAY: Final = "columns"

_NAMED_MAX: Final = 10
"""Fields that ``stats`` names."""


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
        return build_columns(ids, slices, seq, named_paths(source.config))

    def check(self, value: Columns, segment: CheckedSegment) -> PartCheck:
        return ColumnsCheck(value, segment)


COLUMNS: Final = _ColumnsPart()


def columns_text(parts: Parts) -> str:
    """Return which fields of a segment are indexed, as ``stats`` says it."""
    columns = parts.get(COLUMNS)
    if columns is None:
        return ""
    names = sorted(path_text(path) for path in columns.paths)
    return f"{len(names)} fields" + (f": {_some(names, ', ')}" if names else "")


def columns_left_out_text(parts: Parts) -> str:
    """Return which fields of a segment are not indexed and why, as ``stats`` says it."""
    columns = parts.get(COLUMNS)
    if columns is None:
        return "in no graph yet" if not parts.has(GRAPH) else "written without, or damaged"
    reasons = [f"{path_text(path)}: {reason}" for path, reason in columns.left_out.items()]
    if columns.has_unlisted:
        reasons.append("further fields: too many to name")
    return _some(reasons, "; ")


def _some(texts: Iterable[str], separator: str) -> str:
    named = list(texts)
    more = [f"{len(named) - _NAMED_MAX} more"] if len(named) > _NAMED_MAX else []
    return separator.join([*named[:_NAMED_MAX], *more])
