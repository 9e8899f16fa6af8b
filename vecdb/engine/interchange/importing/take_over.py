"""Publishes the graph of an index file as a segment, without building it.

The rows were upserted in order, so node i of the file should be row ``first + i``. Other writers
may have interfered, so all rows are compared with the store after the interval was reserved: from
then on no tombstone of it is removed, not even an old one. The segment owns all rows from 0; those
before ``first`` are deleted. It replaces segments of these rows that were flushed in the meantime.
Publishing is one transaction.

A row that was deleted after the import wrote it becomes a deleted node, as in any segment, unless
there are too many. On any other difference the graph is not used; the rows are in the store, and
the indexer builds a graph of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.hnsw.reachability import connect, distances_of, reachable_nodes
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex
from vecdb.engine.interchange.importing.names import Names
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.search.snapshots.snapshot import DELETED_FRACTION_MAX
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import (
    FLUSH_LOCK,
    GRAPH_LOCK,
    Reservation,
    collect_garbage,
    discard_reservations,
    publish,
    reserve,
)
from vecdb.engine.segments.segment import RowArrays, padded_width, write_segment
from vecdb.engine.store.metadata_rows import metadata_reader
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.store.store import Store
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import file_lock
from vecdb.engine.system.modes import make_folder
from vecdb.types import Metric

__all__ = ["first_row_of", "in_graphs", "take_over"]

_SLICE_ROWS: Final = 4_000
"""Rows that are compared in one transaction."""

_SLICE_BYTES: Final = 16 * 1024**2


_LOST_FRACTION_MAX: Final = 0.5
"""A graph of which a larger fraction of nodes can't be reached by a search is not used."""

_PASSES_MAX: Final = 8


class _DiffersError(Exception):
    """The graph can't be taken over; the message says why."""


def first_row_of(store: Store, names: Names) -> int | None:
    """Return the row of the first node's id, or None if that id is not live."""
    for _, _, ids, _ in names.pieces(1):
        key = ids[0].encode()
        with store.environment.read() as transaction:
            return store.rows.find(transaction, [key]).get(key)
    return None


def in_graphs(store: Store, first: int, count: int) -> bool:
    """Return whether all rows [first, first + count) are in published graphs."""
    with store.environment.read() as transaction:
        placed = in_place(store.read_segments(transaction))
    return any(entry.end_row >= first + count for _, entry in placed) and all(
        entry.is_published and entry.has_graph
        for _, entry in placed
        if entry.overlaps(first, first + count)
    )


def take_over(
    store: Store,
    folder: Path,
    collection_id: str,
    index: ForeignIndex,
    names: Names,
    first: int,
    *,
    codes: bool = True,
) -> tuple[str, int]:
    """Publish the file's graph as the segment of all rows. The caller holds ``graph.lock``.

    Args:
        codes: whether the segment gets parts that only code rows.

    Returns:
        Why the graph was not taken over (empty if it was), and the number of nodes that were linked
        because no search could reach them.
    """
    segments, end = folder / "segments", first + index.count
    make_folder(segments, exist_ok=True)
    discard_reservations(store, segments, GRAPH_LOCK)
    # The lock is held so that no process flushes or joins some of the rows.
    with file_lock(folder / "seal.lock", wait=True):
        discard_reservations(store, segments, FLUSH_LOCK)
        with store.environment.read() as transaction:
            next_row = store.read_counters(transaction).next_row
        taken = (
            reserve(store, GRAPH_LOCK, 0, end, keep_tombstones=True) if end <= next_row else None
        )
    if taken is None:
        return "its rows are not consecutive in the store", 0
    failpoint("import.reserved")
    try:
        return _publish(store, segments, collection_id, index, names, taken, first, codes)
    except BaseException as error:
        # A leftover reservation would block flushes of the interval.
        discard_reservations(store, segments, GRAPH_LOCK)
        if isinstance(error, _DiffersError):
            return str(error), 0
        raise


def _publish(
    store: Store,
    segments: Path,
    collection_id: str,
    index: ForeignIndex,
    names: Names,
    taken: Reservation,
    first: int,
    codes: bool,
) -> tuple[str, int]:
    content = _compared(store, index, names, first)
    assert index.graph is not None
    graph, connected = _connected(index.graph, content.vectors, store.config.metric)
    entry = write_segment(
        segments / str(taken.number),
        number=taken.number,
        collection_id=collection_id,
        config=store.config,
        first_row=taken.first_row,
        end_row=taken.end_row,
        seq=taken.seq,
        given=content.parts.with_part(GRAPH, graph),
        codes=codes,
        metadata=metadata_reader(store),
    )
    failpoint("import.written")
    if not publish(store, taken, entry):
        raise _DiffersError("rows of other writers were flushed together with its rows")
    failpoint("import.published")
    collect_garbage(store, segments)
    return "", connected


def _connected(graph: Graph, vectors: npt.NDArray[np.float32], metric: Metric) -> tuple[Graph, int]:
    """Link nodes that no search can reach; return the graph and the number of linked nodes."""
    n = len(graph.links)
    lost = n - int(np.count_nonzero(reachable_nodes(graph)))
    if not lost:
        return graph, 0
    if lost > _LOST_FRACTION_MAX * n:
        raise _DiffersError(f"no search can reach {lost} of the {n} nodes of the file's graph")

    def distances(node: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        euclidean = metric is Metric.EUCLIDEAN
        return distances_of(vectors[node], vectors[others], euclidean=euclidean)

    return graph, lost - connect(graph, _PASSES_MAX, distances=distances)


def _compared(store: Store, index: ForeignIndex, names: Names, first: int) -> RowArrays:
    """Return the file's rows as segment arrays, after comparing each with the store."""
    _check_nothing_before(store, first)
    n, dim = index.count, store.config.dim
    vectors = np.empty((n, padded_width(dim)), np.float32)
    lengths, encoded = np.empty(n, np.int64), bytearray()
    deleted_count = 0
    normalise = store.config.metric is Metric.COSINE
    step = max(1, min(_SLICE_ROWS, _SLICE_BYTES // (4 * dim)))
    for start, end, ids, _ in names.pieces(step):
        raw = index.rows.read(start, end)
        keys = [text.encode() for text in ids]
        with store.environment.read() as transaction:
            deleted_count += _compare(store, transaction, first + start, keys, raw)
        # The same kernel as in a flush, so that scores are identical to the bit.
        load_kernels().prepare_rows(raw, vectors[start:end], normalise)
        lengths[start:end] = [len(key) for key in keys]
        encoded += b"".join(keys)
    if deleted_count > DELETED_FRACTION_MAX * n:
        raise _DiffersError(f"{deleted_count} of its {n} rows were deleted since")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    rows = np.arange(first, first + n, dtype=np.int64)
    return RowArrays(vectors, rows, offsets, np.frombuffer(bytes(encoded), np.uint8))


def _check_nothing_before(store: Store, first: int) -> None:
    for start in range(0, first, _SLICE_ROWS):
        end = min(first, start + _SLICE_ROWS)
        with store.environment.read() as transaction:
            recorded = [row for row, _ in store.rows.iterate_ids(transaction, start, end)]
            deleted = set(_read_deleted(store, transaction, start, end).tolist())
        if not deleted.issuperset(recorded):
            raise _DiffersError("the collection was not empty")


def _compare(
    store: Store,
    transaction: Transaction,
    first_row: int,
    keys: list[bytes],
    raw: npt.NDArray[np.float32],
) -> int:
    """Compare ids and vectors of the live rows with the file's; return the number of deleted rows.

    Raises:
        _DiffersError: an id differs, or a vector in any bit.
    """
    end_row = first_row + len(keys)
    deleted = np.zeros(len(keys), bool)
    deleted[_read_deleted(store, transaction, first_row, end_row) - first_row] = True
    found = dict(store.rows.iterate_ids(transaction, first_row, end_row))
    for position in np.flatnonzero(~deleted).tolist():
        if found.get(first_row + position) != keys[position]:
            raise _DiffersError("its rows are not consecutive in the store")
    equal = deleted.copy()
    for rows, vectors in store.rows.iterate_blocks(transaction, first_row, end_row):
        mine = raw[rows - first_row].view(np.uint32)
        equal[rows - first_row] |= (mine == vectors.view(np.uint32)).all(axis=1)
    if not equal.all():
        raise _DiffersError("another writer has replaced vectors of its ids")
    return int(np.count_nonzero(deleted))


def _read_deleted(
    store: Store, transaction: Transaction, first_row: int, end_row: int
) -> npt.NDArray[np.int64]:
    seq = store.read_state(transaction).seq
    return store.rows.read_deleted(transaction, first_row, end_row, seq)
