"""Division of an input of any size into batches, for ``upsert_many``, embedded and remote.

    for batch in batches(ids, vectors, metadata, dim, batch_rows):
        check_rows(batch.ids, batch.vectors, batch.metadata, config, batch.first)

Each of the three inputs is sliceable (a list, a range, an array, a memory map, an HDF5 data set) or
an iterator, which is read batch by batch. Known lengths are compared before the first batch. If an
iterator ends earlier or later than the others, the batch in which this happens raises and is not
returned.

This module checks only counts and the dimension of an array; ``vecdb.checks`` validates the rows of
each batch when it is written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np

from vecdb import limits
from vecdb.checks import check_limit
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.row_names import shown
from vecdb.types import IngestProgress
from vecdb.vector_arrays import as_rows, plain

__all__ = ["Batch", "Batches", "attach_progress", "batches", "request_id_of_part"]


_NO_ROWS: Final = (str, bytes, dict, set, frozenset)
"""Iterable types that are not ordered rows."""


class Batch(NamedTuple):
    """One batch; its fields are arguments of ``upsert``.

    Attributes:
        ids: list of str or int.
        vectors: an array of shape (n, dim), or a list of rows.
        metadata: list of dict or None; None if the whole input has no metadata.
        first: position of the batch's first row in the whole input.
    """

    ids: Sequence[Any]
    vectors: Any
    metadata: Sequence[Any] | None
    first: int


def batches(ids: object, vectors: object, metadata: object, dim: int, batch_rows: int) -> Batches:
    """Return an iterator of batches of ``batch_rows`` rows; the last one may be shorter.

    Args:
        ids: str or int; a sequence, an array or an iterable of them.
        vectors: an array of shape (n, dim), a sequence of rows or an iterable of rows.
        metadata: dict or None per row, in a sequence or an iterable; None for no metadata.
        dim: components of a vector.
        batch_rows: rows of a batch, within ``limits.BATCH_ROWS``.

    Raises:
        InvalidArgumentError: known lengths differ, an array has a wrong dimension, or an argument
            is not a collection of rows. While iterating: one input ended before another.
    """
    check_limit(limits.BATCH_ROWS, batch_rows, "batch_rows")
    if isinstance(metadata, dict):
        raise InvalidArgumentError(
            "metadata must be a list or iterable of dict or None, got dict", Reason.BAD_METADATA
        )
    named = _Source("ids", ids)
    if vectors is None and named.length == 0:
        vectors = ()
    sources = [named, _Source("vectors", _as_rows(vectors, dim))]
    if metadata is not None:
        sources.append(_Source("metadata", metadata))
    return Batches(sources, batch_rows)


class Batches(Iterator[Batch]):
    """An iterator of ``Batch``, created by ``batches``. Not thread-safe.

    Attributes:
        total: rows of the whole input, None if no part of it has a known length.
    """

    def __init__(self, sources: list[_Source], batch_rows: int) -> None:
        self._sources = sources
        self._batch_rows = batch_rows
        self._rows = 0
        self.total = _common_length(sources)

    def __next__(self) -> Batch:
        parts = [source.take(self._batch_rows) for source in self._sources]
        counts = [len(part) for part in parts]
        if min(counts) != max(counts):
            short, long = counts.index(min(counts)), counts.index(max(counts))
            raise _mismatch(
                self._sources[short].what,
                self._rows + counts[short],
                self._sources[long].what,
                f"at least {self._rows + counts[long]}",
            )
        if counts[0] == 0:
            raise StopIteration
        first, self._rows = self._rows, self._rows + counts[0]
        return Batch(parts[0], parts[1], parts[2] if len(parts) > 2 else None, first)


def attach_progress(
    error: BaseException, progress: IngestProgress, what: str = "upsert_many"
) -> None:
    """Add the progress to an exception that ended ``upsert_many``.

    Any exception gets a note as well, also one of the caller's own iterator: otherwise the caller
    would not see that a part of the input is stored.
    """
    with suppress(AttributeError):
        error.progress = progress  # type: ignore[attr-defined]
    total = "" if progress.total is None else f" of {progress.total}"
    if hasattr(error, "add_note"):  # Python 3.10 has no notes.
        error.add_note(f"{what}: {progress.rows}{total} rows were acknowledged before this")


def request_id_of_part(prefix: str | None, number: int) -> str | None:
    """Return the request id of a batch: the request id of ``upsert_many`` and the batch's number,
    counted from 1."""
    return None if prefix is None else f"{prefix}/{number}"


class _Source:
    """One of the three inputs: sliced if it supports that, else iterated."""

    def __init__(self, what: str, rows: object) -> None:
        self.what = what
        self.length: int | None = None
        self._position = 0
        self._sliceable: Any = None
        self._iterator: Iterator[Any] = iter(())
        if isinstance(rows, _NO_ROWS) or not isinstance(rows, Iterable):
            raise _not_rows(what, rows)
        given = plain(what, rows)
        has_shape = hasattr(given, "shape")
        if has_shape and given.shape == ():
            raise _not_rows(what, given)
        with suppress(TypeError, AttributeError):
            self.length = len(given)
        # A deque is a Sequence but does not support slices.
        if has_shape or (isinstance(given, Sequence) and not isinstance(given, deque)):
            self._sliceable = given
        else:
            self._iterator = iter(given)

    def take(self, count: int) -> Any:
        """Return the next ``count`` rows, fewer at the end, in an object with a length."""
        if self._sliceable is None:
            return list(islice(self._iterator, count))
        part = self._sliceable[self._position : self._position + count]
        self._position += len(part)
        if isinstance(part, np.ndarray) and (part.ndim == 1 or part.dtype == object):
            return part.tolist()
        return part


def _common_length(sources: list[_Source]) -> int | None:
    known = [source for source in sources if source.length is not None]
    for source in known[1:]:
        if source.length != known[0].length:
            raise _mismatch(source.what, source.length, known[0].what, known[0].length)
    return known[0].length if known else None


def _not_rows(what: str, rows: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{what} must be a list, an array or an iterable of rows, "
        f"got {shown(rows)} ({type(rows).__name__})",
        Reason.NOT_A_LIST,
    )


def _as_rows(vectors: object, dim: int) -> Any:
    """Check the axes of an array of vectors; return any other input unchanged."""
    rows = plain("vectors", vectors)
    shape = getattr(rows, "shape", None)
    if not isinstance(shape, tuple) or not shape or str(getattr(rows, "dtype", "")) == "object":
        return rows
    if len(shape) == 1 or shape == (0, 0):
        # As in upsert, one vector is one row, and an empty array is no rows.
        rows = as_rows(rows, "vectors", dim)
        shape = rows.shape
    if len(shape) != 2:
        raise InvalidArgumentError(
            f"vectors must have 2 axes, (n, {dim}), got {len(shape)}, of shape {shape}",
            Reason.NOT_A_MATRIX,
        )
    if shape[1] != dim:
        raise InvalidArgumentError(
            f"vectors: expected {dim} dimensions, got {shape[1]}", Reason.DIM_MISMATCH
        )
    return rows


def _mismatch(what: str, got: object, other: str, expected: object) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{what} and {other} must have the same number of rows: "
        f"{what} has {got}, {other} has {expected}",
        Reason.COUNT_MISMATCH,
    )
