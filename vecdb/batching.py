"""Cuts an input of any size into batches: what ``upsert_many`` does first, embedded and remote.

    for batch in batches(ids, vectors, metadata, dim, batch_rows):
        check_rows(batch.ids, batch.vectors, batch.metadata, config, batch.first)

Each of the three may be a sliceable thing (list, range, array, memory map, an HDF5 data set) or an
iterator that is read only as far as batches are asked for. Lengths that can be known are compared
before the first batch; an iterator that ends early or late is found out at that point, and nothing
of the batch in which it happens is handed on.

Only counts and the dimension of an array are checked here; what is in the rows is the matter of
``vecdb.checks`` when a batch is written.
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
"""They can be iterated over, and are no rows in an order."""


class Batch(NamedTuple):
    """Rows of one batch, as ``upsert`` takes them.

    Attributes:
        ids: list of str or int. vectors: an array of shape (n, dim), or a list of rows.
        metadata: list of dict or None; None if the whole input has no metadata.
        first: position of its first row in the whole input.
    """

    ids: Sequence[Any]
    vectors: Any
    metadata: Sequence[Any] | None
    first: int


def batches(ids: Any, vectors: Any, metadata: Any, dim: int, batch_rows: int) -> Batches:
    """The input in batches of ``batch_rows`` rows, the last one shorter.

    Args:
        ids: str or int, a sequence, an array or any iterable.
        vectors: an array of shape (n, dim), a sequence of rows or an iterable of rows.
        metadata: dict or None a row, a sequence or an iterable; None for no metadata at all.
        dim: components of a vector.
        batch_rows: rows of a batch, ``limits.BATCH_ROWS``.

    Raises:
        InvalidArgumentError: lengths that are known differ, an array has another dimension, or an
            argument is no collection of rows. While iterating: one input ended before another.
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
    """An iterator of ``Batch``; made by ``batches``. One thread at a time.

    Attributes:
        total: rows of the whole input if any of its parts knows its length, else None.
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
    """Make a failure of ``upsert_many`` tell how far it had come, whatever the failure is.

    An error from outside (the caller's own generator) gets a note too, as nothing else would say
    that a part of the input is stored.
    """
    with suppress(AttributeError):
        error.progress = progress  # type: ignore[attr-defined]
    total = "" if progress.total is None else f" of {progress.total}"
    if hasattr(error, "add_note"):  # Python 3.10 has no notes.
        error.add_note(f"{what}: {progress.rows}{total} rows were acknowledged before this")


def request_id_of_part(stem: str | None, number: int) -> str | None:
    """The request id of the batch of this number, from 1, under the request id of them all."""
    return None if stem is None else f"{stem}/{number}"


class _Source:
    """One of the three inputs: sliced if it can be, read in turn if not."""

    def __init__(self, what: str, rows: Any) -> None:
        self.what = what
        self.length: int | None = None
        self._position = 0
        self._sliceable: Any = None
        self._iterator: Iterator[Any] = iter(())
        if isinstance(rows, _NO_ROWS) or not isinstance(rows, Iterable):
            raise _no_rows(what, rows)
        rows = plain(what, rows)
        if getattr(rows, "shape", None) == ():
            raise _no_rows(what, rows)
        with suppress(TypeError, AttributeError):
            self.length = len(rows)
        # A deque is a sequence that has no slices.
        if (isinstance(rows, Sequence) and not isinstance(rows, deque)) or hasattr(rows, "shape"):
            self._sliceable = rows
        else:
            self._iterator = iter(rows)

    def take(self, count: int) -> Any:
        """The next ``count`` rows, fewer at the end; something with a length."""
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


def _no_rows(what: str, rows: Any) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{what} must be a list, an array or an iterable of rows, "
        f"got {shown(rows)} ({type(rows).__name__})",
        Reason.NOT_A_LIST,
    )


def _as_rows(vectors: Any, dim: int) -> Any:
    """An array of vectors with its axes checked; anything else as it is."""
    rows = plain("vectors", vectors)
    shape = getattr(rows, "shape", None)
    if not isinstance(shape, tuple) or not shape or str(getattr(rows, "dtype", "")) == "object":
        return rows
    if len(shape) == 1 or shape == (0, 0):
        # One vector stands for one row, and an empty array for none, as in upsert.
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
