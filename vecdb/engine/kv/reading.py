"""The context manager of a read transaction.

A class, since reads are so short that the generators of ``contextlib`` would take as long as LMDB.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vecdb.engine.kv.lmdb_errors import raise_translated
from vecdb.engine.kv.transaction import Transaction

__all__ = ["Reading"]


class _Abortable(Transaction, Protocol):
    def abort(self) -> None: ...


class Reading:
    """Begins a read transaction and ends it. For one use, by one thread."""

    __slots__ = ("_begin", "_copies", "_end", "_folder", "_transaction")

    def __init__(
        self, begin: Callable[..., _Abortable], end: Callable[[], None], folder: Path, copies: bool
    ) -> None:
        self._begin, self._end, self._folder, self._copies = begin, end, folder, copies

    def __enter__(self) -> Transaction:
        self._transaction = self._begin(write=False, buffers=not self._copies)
        return self._transaction

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            self._transaction.abort()
        finally:
            self._end()
        if error is not None:
            raise_translated(error, self._folder)
