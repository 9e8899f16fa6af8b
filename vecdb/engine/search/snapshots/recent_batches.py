"""The vectors of the newest batches, from the process that wrote them to its next snapshot.

A snapshot reads new rows from the store, block by block: beside a writer at full rate that is most
of what a search takes, and Python's lock is given up at each block. So the vectors of batches that
this process has committed are kept until a snapshot has them, which then copies them in one go.

They only spare reading: which rows there are, and which of them were deleted, is read from the
store. A batch counts if its log entry says that all its vectors became rows, and if no row deleted
since can have been purged. Kept are arrays that cannot change, as those of a server's messages
are, and only while a search has used a snapshot recently.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.store.store import Store
from vecdb.errors import DataLossError

__all__ = ["RecentBatches"]

_BYTES_MIN: Final = 64 * 1024
"""Smaller batches are read from the store, where they are in one block."""

_BYTES_MAX: Final = 16 * 1024**2
"""If batches take more than this, no search has asked for them lately."""

Vectors = npt.NDArray[np.float32]


class RecentBatches:
    """The newest batches of one collection, ascending by seq. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, Vectors]] = deque()
        self._bytes = 0
        self._is_wanted = False

    def keep(self, seq: int, vectors: Vectors) -> None:
        """Keep the vectors of a committed batch, float32 (n, dim), as written by the user."""
        if not self._is_wanted or vectors.nbytes < _BYTES_MIN or not _is_fixed(vectors):
            return
        with self._lock:
            if self._bytes + vectors.nbytes > _BYTES_MAX:
                self._forget()
                return
            self._kept.append((seq, vectors))
            self._bytes += vectors.nbytes

    def taken_to(self, seq: int) -> None:
        """Drop the batches up to ``seq``, which a snapshot has now; from now on keep later ones."""
        with self._lock:
            while self._kept and self._kept[0][0] <= seq:
                self._bytes -= self._kept.popleft()[1].nbytes
            self._is_wanted = True

    def forget(self) -> None:
        """Drop all batches, and keep none until ``taken_to`` is called."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self._bytes, self._is_wanted = 0, False

    def within(
        self, store: Store, transaction: Transaction, first_row: int, end_row: int
    ) -> Iterator[tuple[int, Vectors]]:
        """Yield first row and vectors of batches within an interval of rows, ascending; of those
        that begin before it or end after it, the part within."""
        with self._lock:
            kept = list(self._kept)
        if not kept:
            return
        purged_to = store.purged_to(transaction)
        for seq, vectors in kept:
            # A row is deleted after its own batch, and purged once purged_to has reached that.
            if seq <= purged_to:
                continue
            try:
                log = store.rows.read_log(transaction, seq - 1, seq)
            except DataLossError:
                continue
            if log is None or log[0].added != len(vectors):
                continue  # Committed after this transaction began, or not all became rows.
            begins, ends = log[0].first_row, log[0].first_row + len(vectors)
            first, end = max(begins, first_row), min(ends, end_row)
            if first < end:
                yield first, vectors[first - begins : end - begins]


def _is_fixed(vectors: Vectors) -> bool:
    """Return whether an array is a view of bytes, so that it cannot change."""
    base: object = vectors
    while isinstance(base, np.ndarray):
        base = base.base
    return type(base) is bytes
