"""Which rows have got other metadata since a seq: what was derived from metadata before is stale.

The log says so, batch by batch. Where it is purged or damaged, or long, the records do: a row whose
metadata changed has a record of that seq or a later one, as long as it is live. Only their keys are
read. What was found is kept, and brought up to date by the log.

Reading the keys of many records takes long. While a thread does, others get what is known, and read
the log.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, overload

import numpy as np
import numpy.typing as npt

from vecdb.engine.kv.environment import Environment
from vecdb.engine.store.rows import RowReader
from vecdb.errors import DataLossError

__all__ = ["ChangedRows"]

Rows = npt.NDArray[np.int64]

_BATCHES_AT_ONCE: Final = 1_000
_BATCHES_MAX: Final = 50_000
"""More batches are not read one by one; that takes about 0.1 s."""

_SLICE_ROWS: Final = 50_000
"""Rows whose keys one transaction reads: about 20 ms."""

_LOG_ROWS_MAX: Final = 1_000_000
_INTERVALS_MAX: Final = 64

_NO_ROWS: Rows = np.zeros(0, np.int64)


class ChangedRows:
    """The changed rows of one store. Thread-safe."""

    def __init__(self, environment: Environment, rows: RowReader) -> None:
        self._environment, self._rows = environment, rows
        self._lock = threading.Lock()  # Of what is known; held for no read.
        self._log_lock, self._records_lock = threading.Lock(), threading.Lock()
        self._known: OrderedDict[tuple[int, int, int], tuple[int, Rows]] = OrderedDict()
        # Changes of the batches from one seq (excluded) to another, those without any left out.
        self._log_from = self._log_to = 0
        self._log: list[tuple[int, Rows]] = []

    @overload
    def since(self, seq: int, to: int, first_row: int, end_row: int) -> Rows: ...

    @overload
    def since(
        self, seq: int, to: int, first_row: int, end_row: int, *, by_records: bool
    ) -> Rows | None: ...

    def since(
        self, seq: int, to: int, first_row: int, end_row: int, *, by_records: bool = True
    ) -> Rows | None:
        """Return the rows of an interval that the batches ``seq + 1`` to ``to`` gave other
        metadata, int64, ascending. Rows that changed after ``to`` may be among them, and rows that
        are deleted may not.

        Args:
            to: the seq of a committed state.
            by_records: whether to read the keys of records if the log is purged. False: return None
                then.
        """
        key = (seq, first_row, end_row)
        known_to, rows = self._newest(key)
        if known_to >= to:
            return rows
        with self._log_lock:
            new = self._by_log(known_to, to, first_row, end_row)
        if new is not None:
            return self._keep(key, to, rows, new)
        if not by_records:
            return None
        with self._records_lock:
            known_to, rows = self._newest(key)  # Another thread may have read them.
            if known_to >= to:
                return rows
            return self._keep(key, to, rows, self._by_records(known_to, first_row, end_row))

    def _newest(self, key: tuple[int, int, int]) -> tuple[int, Rows]:
        """Return what is known of an interval, and up to which seq."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key, (key[0], _NO_ROWS))

    def _keep(self, key: tuple[int, int, int], to: int, rows: Rows, new: Rows) -> Rows:
        """Return all rows of an interval up to a seq; keep them unless later ones are known."""
        rows = np.union1d(rows, new) if len(new) else rows
        with self._lock:
            if self._known.get(key, (key[0],))[0] < to:
                self._known[key] = to, rows
                self._known.move_to_end(key)
            while len(self._known) > _INTERVALS_MAX:
                self._known.popitem(last=False)
        return rows

    def _by_log(self, after: int, to: int, first_row: int, end_row: int) -> Rows | None:
        """Return the changed rows of an interval; None if the log does not go back as far."""
        if not self._log_from <= after <= self._log_to:
            self._log_from = self._log_to = after
            self._log = []
        if to - max(self._log_to, after) > _BATCHES_MAX:
            return None
        while self._log_to < to:
            end = min(to, self._log_to + _BATCHES_AT_ONCE)
            with self._environment.read() as transaction:
                try:
                    entries = self._rows.read_log(transaction, self._log_to, end)
                except DataLossError:
                    entries = None
            if entries is None:
                return None
            self._log += [
                (seq, entry.changed.astype(np.int64))
                for seq, entry in enumerate(entries, self._log_to + 1)
                if len(entry.changed)
            ]
            self._log_to = end
        chosen = [rows for seq, rows in self._log if after < seq <= to]
        if sum(len(rows) for _, rows in self._log) > _LOG_ROWS_MAX:
            self._log, self._log_from = [], self._log_to
        rows = np.unique(np.concatenate([_NO_ROWS, *chosen]))
        return rows[np.searchsorted(rows, first_row) : np.searchsorted(rows, end_row)]

    def _by_records(self, after: int, first_row: int, end_row: int) -> Rows:
        """Return the rows of an interval that have a record of a later seq."""
        parts = [_NO_ROWS]
        for start in range(first_row, end_row, _SLICE_ROWS):
            with self._environment.read() as transaction:
                rows, seqs = self._rows.read_versions(
                    transaction, start, min(start + _SLICE_ROWS, end_row)
                )
            parts.append(rows[seqs > after])
        return np.unique(np.concatenate(parts))
