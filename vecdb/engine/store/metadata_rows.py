"""Reads the metadata of many rows, in short transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.store.store import Store

__all__ = ["metadata_reader"]

_SLICE_ROWS: Final = 4_000

Rows = npt.NDArray[np.int64]


def metadata_reader(store: Store) -> Callable[[Rows], tuple[int, Iterator[Sequence[bytes]]]]:
    """Return a function that returns the latest seq, and the metadata of rows as of it in slices.

    Rows are int64, ascending. Metadata are JSON, b"" for none. A row that was deleted or changed
    since that seq may have none, since the record that it had may be purged.
    """

    def read(rows: Rows) -> tuple[int, Iterator[Sequence[bytes]]]:
        with store.environment.read() as transaction:
            seq = store.read_state(transaction).seq
            has_any = store.read_counters(transaction).metadata_count > 0
        return seq, _slices(store, rows, seq) if has_any else _none(len(rows))

    return read


def _slices(store: Store, rows: Rows, seq: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(rows), _SLICE_ROWS):
        some = rows[start : start + _SLICE_ROWS]
        with store.environment.read() as transaction:
            records = store.rows.iterate_records(transaction, int(some[0]), int(some[-1]) + 1, seq)
            found = {row: metadata for row, _, metadata in records}
        yield [found.get(row, b"") for row in some.tolist()]


def _none(count: int) -> Iterator[Sequence[bytes]]:
    for start in range(0, count, _SLICE_ROWS):
        yield [b""] * min(_SLICE_ROWS, count - start)
