"""The graph of an index file becomes a segment, without building it.

Node i of the file is row ``first + i``: its rows were upserted in order. Others may have written at
the same time, so all of that is compared with the store once the interval is claimed: from then on
no death in it is forgotten, not even an old one. The segment owns all rows from 0 on, of which
those before ``first`` are dead, and replaces whatever was sealed of them meanwhile; publishing it
is one transaction.

A row that died since it was written is a dead node, as in any segment, unless too many have. Any
other difference, and the graph is left: the rows are safe in the store and will be indexed.
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
from vecdb.engine.search.snapshot import DELETED_FRACTION_MAX
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
"""A graph with more nodes than this that no search can come to is no use."""

_PASSES_MAX: Final = 8


class _DiffersError(Exception):
    """The graph can't be taken over; why, for people."""


def first_row_of(store: Store, names: Names) -> int | None:
    """The row where the id of the first node lies, None if it is not live."""
    for _, _, ids, _ in names.pieces(1):
        key = ids[0].encode()
        with store.environment.read() as transaction:
            return store.rows.find(transaction, [key]).get(key)
    return None


def in_graphs(store: Store, first: int, count: int) -> bool:
    """The rows of an import that was finished earlier are in graphs already, whoever made these."""
    with store.environment.read() as transaction:
        placed = in_place(store.read_segments(transaction))
    return any(entry.end_row >= first + count for _, entry in placed) and all(
        entry.is_published and entry.has_graph
        for _, entry in placed
        if entry.overlaps(first, first + count)
    )


def take_over(
    store: Store, folder: Path, collection_id: str, index: ForeignIndex, names: Names, first: int
) -> tuple[str, int]:
    """Make the file's graph the segment of all rows. ``graph.lock`` must be held.

    Returns:
        Why it could not be done, empty if it was; and how many nodes had to be linked.
    """
    segments, end = folder / "segments", first + index.count
    make_folder(segments, exist_ok=True)
    discard_reservations(store, segments, GRAPH_LOCK)
    # Held off, or it might be sealing or joining some of the rows.
    with file_lock(folder / "seal.lock", wait=True):
        discard_reservations(store, segments, FLUSH_LOCK)
        with store.environment.read() as transaction:
            next_row = store.read_counters(transaction).next_row
        taken = (
            reserve(store, GRAPH_LOCK, 0, end, keep_tombstones=True) if end <= next_row else None
        )
    if taken is None:
        return "its rows do not lie one after the other", 0
    failpoint("import.claimed")
    try:
        return _publish(store, segments, collection_id, index, names, taken, first)
    except BaseException as error:
        # Until the claim is gone nothing of the interval is sealed.
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
) -> tuple[str, int]:
    content = _compared(store, index, names, first)
    assert index.graph is not None
    graph, connected = _connected(index.graph, content.vectors, store.config.metric)
    entry = write_segment(
        segments / str(taken.number),
        number=taken.number,
        collection_id=collection_id,
        metric=store.config.metric,
        first_row=taken.first_row,
        end_row=taken.end_row,
        seq=taken.seq,
        content=content,
        graph=graph,
    )
    failpoint("import.written")
    if not publish(store, taken, entry):
        raise _DiffersError("rows of others were sealed together with its rows")
    failpoint("import.published")
    collect_garbage(store, segments)
    return "", connected


def _connected(graph: Graph, vectors: npt.NDArray[np.float32], metric: Metric) -> tuple[Graph, int]:
    """Nodes that no search can come to get a link, where there is room if there is some."""
    n = len(graph.links)
    lost = n - int(np.count_nonzero(reachable_nodes(graph)))
    if not lost:
        return graph, 0
    if lost > _LOST_FRACTION_MAX * n:
        raise _DiffersError(f"no search could come to {lost} of the {n} nodes of the file's graph")

    def distances(node: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        euclidean = metric is Metric.EUCLIDEAN
        return distances_of(vectors[node], vectors[others], euclidean=euclidean)

    return graph, lost - connect(graph, _PASSES_MAX, distances=distances)


def _compared(store: Store, index: ForeignIndex, names: Names, first: int) -> RowArrays:
    """The file's rows as a segment holds them, each like the store's."""
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
        # As sealing does it, so that answers are the same to the bit.
        load_kernels().prepare_rows(raw, vectors[start:end], normalise)
        lengths[start:end] = [len(key) for key in keys]
        encoded += b"".join(keys)
    if deleted_count > DELETED_FRACTION_MAX * n:
        raise _DiffersError(f"{deleted_count} of its {n} rows have died since")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    rows = np.arange(first, first + n, dtype=np.int64)
    return RowArrays(vectors, rows, offsets, np.frombuffer(bytes(encoded), np.uint8))


def _check_nothing_before(store: Store, first: int) -> None:
    for start in range(0, first, _SLICE_ROWS):
        end = min(first, start + _SLICE_ROWS)
        with store.environment.read() as transaction:
            recorded = [row for row, _ in store.rows.iterate_ids(transaction, start, end)]
            dead = set(_read_deleted(store, transaction, start, end).tolist())
        if not dead.issuperset(recorded):
            raise _DiffersError("the collection was not empty")


def _compare(
    store: Store,
    transaction: Transaction,
    first_row: int,
    keys: list[bytes],
    raw: npt.NDArray[np.float32],
) -> int:
    """Rows that live are those of the file: their ids and, bit for bit, their vectors. Returns how
    many are dead."""
    end_row = first_row + len(keys)
    dead = np.zeros(len(keys), bool)
    dead[_read_deleted(store, transaction, first_row, end_row) - first_row] = True
    found = dict(store.rows.iterate_ids(transaction, first_row, end_row))
    for position in np.flatnonzero(~dead).tolist():
        if found.get(first_row + position) != keys[position]:
            raise _DiffersError("its rows do not lie one after the other")
    equal = dead.copy()
    for rows, vectors in store.rows.iterate_blocks(transaction, first_row, end_row):
        mine = raw[rows - first_row].view(np.uint32)
        equal[rows - first_row] |= (mine == vectors.view(np.uint32)).all(axis=1)
    if not equal.all():
        raise _DiffersError("another process wrote other vectors under its ids")
    return int(np.count_nonzero(dead))


def _read_deleted(
    store: Store, transaction: Transaction, first_row: int, end_row: int
) -> npt.NDArray[np.int64]:
    seq = store.read_state(transaction).seq
    return store.rows.read_deleted(transaction, first_row, end_row, seq)
