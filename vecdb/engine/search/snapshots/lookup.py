"""Read rows by id or row number, in short transactions whatever their number and size.

A result belongs to one seq. The first transaction finds the rows that are live at that seq. Their
records and vectors never change, so later transactions read them in slices. A row that is deleted
during the look-up is normally still there, since purging waits a minute unless there is too much
garbage. If it was purged, the look-up is repeated under a lease, which prevents purging.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store.leases import leased
from vecdb.engine.store.rows import Record
from vecdb.engine.store.store import Store
from vecdb.engine.system.call_memory import CallMemory
from vecdb.engine.system.deadline import Deadline
from vecdb.errors import DataLossError
from vecdb.metadata_checks import DEFAULT_BYTES
from vecdb.types import Records

__all__ = [
    "get_records",
    "read_few_records",
    "read_records",
    "read_vectors",
    "records_at_once",
]

_SLICE_ROWS = 2_000
"""Rows per transaction. Each may need a block or a record of 64 KiB, so about 60 ms at most."""

_SLICE_RECORDS = 500
"""Records per transaction if their size counts against the call's memory."""

_ROW_BYTES = 400
"""Memory of a row's Python objects, without the bytes of its metadata."""


def get_records(store: Store, texts: list[str]) -> Records:
    """Return the live rows of validated ids, in the order of ``texts``, and the missing ids.

    Raises:
        ResourceExhaustedError: the answer would be too large, or memory is short.
        NotFoundError: the collection was dropped.
        DataLossError: a row is damaged.
    """
    with store.call_memory.of_call() as memory:
        return _get(store, texts, memory)


def _get(store: Store, texts: list[str], memory: CallMemory) -> Records:
    encoded = [text.encode() for text in texts]
    seq, row_of = _find(store, encoded)
    try:
        return _read(store, texts, encoded, seq, row_of, memory)
    except DataLossError:
        # Without a write since then no row was deleted or purged, so the row is damaged.
        if store.current_state().seq == seq:
            raise
    memory.begin_again()
    with leased(store):
        seq, row_of = _find(store, encoded)
        return _read(store, texts, encoded, seq, row_of, memory)


def _find(store: Store, encoded: list[bytes]) -> tuple[int, dict[bytes, int]]:
    """Return the latest seq, and id → row of the ids live at it."""
    with store.environment.read() as transaction:
        store.check_not_dropped(transaction)
        seq = store.read_state(transaction).seq
        return seq, store.rows.find(transaction, sorted(set(encoded)))


def _read(
    store: Store,
    texts: list[str],
    encoded: list[bytes],
    seq: int,
    row_of: dict[bytes, int],
    memory: CallMemory,
) -> Records:
    rows = [row_of[key] for key in encoded if key in row_of]
    memory.answer(sum(map(len, encoded)) + len(rows) * 4 * store.config.dim)
    memory.take(len(rows) * _ROW_BYTES)
    vectors = read_vectors(store, rows)
    raw = [record.metadata for record in read_records(store, rows, seq, None, memory)]
    pairs = list(zip(texts, encoded, strict=True))
    found = [text for text, key in pairs if key in row_of]
    missing = [text for text, key in pairs if key not in row_of]
    return Records(found, vectors, raw, missing, seq)


def read_records(
    store: Store,
    rows: Sequence[int],
    seq: int,
    deadline: Deadline | None = None,
    memory: CallMemory | None = None,
) -> list[Record]:
    """Return the records of rows as a reader at ``seq`` sees them, in the order given.

    Args:
        memory: the call's memory, against which the size of the metadata counts; None for no
            limit.

    Raises:
        ResourceExhaustedError: the answer would be too large, or memory is short.
        DataLossError: a row has no record at that seq, or a record is damaged.
        DeadlineExceededError, CancelledError: between two slices.
    """
    read = store.rows.read_records
    most = _SLICE_ROWS if memory is None else min(_SLICE_ROWS, _SLICE_RECORDS)
    slice_rows = records_at_once(store, most)
    if len(rows) <= slice_rows:
        with store.environment.read(copies=True) as transaction:
            records = read(transaction, rows, seq)
        _count(records, memory)
        return records
    filled: list[Any] = [None] * len(rows)

    def fill(transaction: Transaction, places: npt.NDArray[np.int64], some: list[int]) -> None:
        found = read(transaction, some, seq)
        _count(found, memory)
        for place, record in zip(places.tolist(), found, strict=True):
            filled[place] = record

    _in_slices(store, rows, deadline, fill, slice_rows)
    return filled


def read_few_records(store: Store, rows: Sequence[int], seq: int) -> list[tuple[bytes, bytes]]:
    """Return id (UTF-8) and metadata of a few rows as a reader at ``seq`` sees them, in the order
    given, in one transaction: ``records_at_once`` at most. Raises as ``read_records``."""
    with store.environment.read(copies=True) as transaction:
        return store.rows.read_encoded(transaction, rows, seq)


def records_at_once(store: Store, count: int) -> int:
    """Return how many records to read in one piece: ``count``, or fewer if they may be large."""
    fewer = count * DEFAULT_BYTES // max(DEFAULT_BYTES, store.metadata_bytes_max)
    return max(min(16, count), fewer)


def _count(records: list[Record], memory: CallMemory | None) -> None:
    if memory is not None:
        memory.answer(sum([len(record.metadata) for record in records]))


def read_vectors(
    store: Store, rows: Sequence[int], deadline: Deadline | None = None
) -> npt.NDArray[np.float32]:
    """Return vectors as written, float32 (n, dim), in the order of ``rows``. Raises as
    ``read_records``."""
    read = store.rows.read_vectors
    if len(rows) <= _SLICE_ROWS:
        with store.environment.read() as transaction:
            return read(transaction, rows)
    vectors = np.empty((len(rows), store.config.dim), np.float32)

    def fill(transaction: Transaction, places: npt.NDArray[np.int64], some: list[int]) -> None:
        vectors[places] = read(transaction, some)

    _in_slices(store, rows, deadline, fill, _SLICE_ROWS)
    return vectors


def _in_slices(
    store: Store,
    rows: Sequence[int],
    deadline: Deadline | None,
    fill: Callable[[Transaction, npt.NDArray[np.int64], list[int]], None],
    slice_rows: int,
) -> None:
    """Call ``fill(transaction, positions, rows)`` per slice, in ascending order of rows.

    Ascending order reads each block only once.
    """
    numbers = np.array(rows, np.int64)
    order = np.argsort(numbers, kind="stable")
    for start in range(0, len(order), slice_rows):
        if deadline is not None:
            deadline.check()
        places = order[start : start + slice_rows]
        with store.environment.read() as transaction:
            fill(transaction, places, numbers[places].tolist())
