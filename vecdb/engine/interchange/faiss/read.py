"""Reads an untrusted FAISS index file; ``layout.py`` draws it.

The file consists of nested indexes: the vectors may be inside a graph, and that inside a
normalisation, an id map or both, each at most once. Errors name the byte and the field. All sizes
and headers are checked against each other and against the file first, then the ids and the graph.
The vectors stay in the file; ``ForeignIndex.survey`` checks them.

FAISS itself checks less: it accepts invalid vectors and duplicate ids. It has many more types of
indexes; ``refusals.py`` explains why they are refused here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.interchange.faiss import layout
from vecdb.engine.interchange.faiss.read_graph import GraphFields, read_graph, read_graph_fields
from vecdb.engine.interchange.faiss.refusals import METRICS, explain, explain_transform
from vecdb.engine.interchange.importing.foreign_index import (
    ForeignIndex,
    Measure,
    Rows,
    check_ids_unique,
)
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason

__all__ = ["read_faiss"]

_FOURCC: Final = struct.Struct("<4s")
_INT: Final = struct.Struct("<i")
_ROWS_MAX: Final = 2**31 - 1
_ID_MAPS: Final = {layout.ID_MAP: "IndexIDMap", layout.ID_MAP_2: "IndexIDMap2"}
_FLATS: Final = {
    layout.FLAT_L2: layout.L2,
    layout.FLAT_INNER_PRODUCT: layout.INNER_PRODUCT,
    layout.FLAT: None,
}


class _Header(NamedTuple):
    d: int
    ntotal: int
    metric: int


@dataclass
class _Nest:
    """The result so far, while reading the nest from the outside to the inside and back."""

    file: UntrustedFile
    header: _Header | None = None
    names: tuple[str, ...] = ()
    normalised: bool = False
    vectors_at: int = 0
    graph: GraphFields | None = None
    ids: npt.NDArray[np.int64] | None = None


def read_faiss(file: UntrustedFile) -> ForeignIndex:
    """Read a file's ids and graph; the file must stay open as long as vectors are read.

    Raises:
        InvalidArgumentError: BAD_FILE: a field is invalid; the message has its byte. FAISS_INDEX:
            an unsupported type of index; the message has an alternative.
    """
    nest = _Nest(file)
    _read_index(nest)
    file.check_end()
    assert nest.header is not None
    d, n, metric = nest.header
    fields = nest.graph
    graph = None if fields is None or n == 0 else read_graph(file, fields, n)
    measure: Measure = "l2" if metric == layout.L2 else "inner product"
    kind = nest.names[-1]
    for name in reversed(nest.names[:-1]):
        kind = f"{name}({kind})"
    return ForeignIndex(
        kind=kind,
        dim=d,
        count=n,
        measure="cosine" if nest.normalised else measure,
        ids=nest.ids,
        rows=Rows(file, nest.vectors_at, 4 * d, d, n),
        graph=graph,
        M=None if fields is None else fields.M,
        ef_construction=None if fields is None else fields.ef_construction,
        no_graph="the file has no graph" if n else "the file has no rows",
    )


def _read_index(nest: _Nest) -> None:
    """Read an index and the indexes inside it.

    The recursion is at most four deep, as each type of wrapper is accepted once.
    """
    file = nest.file
    at = file.position
    (fourcc,) = file.take(_FOURCC, "fourcc")
    if fourcc in _ID_MAPS:
        _check_first(nest, at, "IndexIDMap")
        _read_header(nest, f"header of {fourcc.decode()}")
        nest.names += (_ID_MAPS[fourcc],)
        _read_index(nest)
        _read_id_map(nest)
    elif fourcc == layout.PRE_TRANSFORM:
        _check_first(nest, at, "IndexPreTransform")
        _read_header(nest, "header of IxPT")
        nest.names += ("IndexPreTransform",)
        _read_normalisation(nest)
        _read_index(nest)
    elif fourcc == layout.HNSW_FLAT:
        header = _read_header(nest, "header of IHNf")
        nest.names += ("IndexHNSWFlat",)
        nest.graph = read_graph_fields(file, header.ntotal)
        at = file.position
        (storage,) = file.take(_FOURCC, "fourcc of the storage")
        if storage not in _FLATS:
            raise _unsupported(nest, at, explain(storage))
        _read_flat(nest, at, storage)
    elif fourcc in _FLATS:
        nest.names += ("IndexFlat",)
        _read_flat(nest, at, fourcc)
    else:
        raise _unsupported(nest, at, explain(fourcc))


def _check_first(nest: _Nest, at: int, name: str) -> None:
    if any(known.startswith(name) for known in nest.names):
        raise nest.file.wrong(at, "fourcc", f"{name} is nested twice")


def _read_header(nest: _Nest, field: str) -> _Header:
    """Read an index header and check that it agrees with the outer one."""
    file, at = nest.file, nest.file.position
    d, ntotal, _, _, is_trained, metric = file.take(layout.INDEX_HEADER, field)
    if metric not in (layout.INNER_PRODUCT, layout.L2):
        name = METRICS.get(metric, f"of number {metric}")
        what = f"metric {name} is not supported: expected L2 or inner product"
        raise _unsupported(nest, at + 29, what)
    if not limits.DIM.minimum <= d <= limits.DIM.maximum:
        raise file.wrong(at, f"{field}, d", f"expected 1 to {limits.DIM.maximum}, got {d}")
    if not 0 <= ntotal <= _ROWS_MAX:
        raise file.wrong(at + 4, f"{field}, ntotal", f"expected 0 to {_ROWS_MAX}, got {ntotal}")
    if is_trained != 1:
        raise file.wrong(at + 28, f"{field}, is_trained", f"expected 1, got {is_trained}")
    found = _Header(d, ntotal, metric)
    if nest.header is None:
        nest.header = found
    elif found != nest.header:
        outer = nest.header
        what = (
            f"expected d {outer.d}, ntotal {outer.ntotal}, metric {outer.metric} as in the outer "
            f"index, got {d}, {ntotal}, {metric}"
        )
        raise file.wrong(at, field, what)
    return found


def _read_normalisation(nest: _Nest) -> None:
    file, at = nest.file, nest.file.position
    (count,) = file.take(_INT, "transforms of IxPT")
    if count != 1:
        what = f"expected 1 transform, NormalizationTransform, got {count}"
        raise file.wrong(at, "transforms of IxPT", what)
    at = file.position
    (fourcc,) = file.take(_FOURCC, "fourcc of the transform")
    if fourcc != layout.NORMALIZATION:
        raise _unsupported(nest, at, explain_transform(fourcc))
    at = file.position
    norm, d_in, d_out, is_trained = file.take(layout.NORMALIZATION_BODY, "VNrm")
    assert nest.header is not None
    d = nest.header.d
    if (norm, d_in, d_out, is_trained) != (2.0, d, d, 1):
        what = (
            f"expected norm 2, d_in {d}, d_out {d}, is_trained 1, "
            f"got {norm:g}, {d_in}, {d_out}, {is_trained}"
        )
        raise file.wrong(at, "VNrm", what)
    nest.normalised = True


def _read_flat(nest: _Nest, fourcc_at: int, fourcc: bytes) -> None:
    file = nest.file
    d, n, metric = _read_header(nest, f"header of {fourcc.decode()}")
    if _FLATS[fourcc] not in (None, metric):
        what = f"{fourcc.decode()} has metric {_FLATS[fourcc]}, its header {metric}"
        raise file.wrong(fourcc_at, "fourcc", what)
    _take_count(file, n * d, "vectors")
    nest.vectors_at = file.skip(n * d, 4, "vectors")


def _read_id_map(nest: _Nest) -> None:
    file = nest.file
    assert nest.header is not None
    n = nest.header.ntotal
    _take_count(file, n, "id_map")
    at = file.skip(n, 8, "id_map")
    ids = file.array(at, "<i8", n, "id_map")
    negative = np.flatnonzero(ids < 0)
    if len(negative):
        row = int(negative[0])
        raise file.wrong(at + 8 * row, "id_map", f"the id of row {row} is negative, {ids[row]}")
    check_ids_unique(file, ids, at, 8, "id_map")
    nest.ids = ids


def _take_count(file: UntrustedFile, expected: int, field: str) -> None:
    at = file.position
    (count,) = file.take(layout.COUNT, f"count of {field}")
    if count != expected:
        raise file.wrong(at, f"count of {field}", f"expected {expected}, got {count}")


def _unsupported(nest: _Nest, at: int, what: str) -> InvalidArgumentError:
    """Return the error for an unsupported or unknown type of index."""
    return InvalidArgumentError(nest.file.wrong(at, "index", what).message, Reason.FAISS_INDEX)
