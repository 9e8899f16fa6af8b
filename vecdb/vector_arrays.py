"""Conversion of callers' vectors to float32 arrays, with errors that name the first bad row.

``as_floats`` converts only; ``vecdb.checks`` validates the numbers. If numpy fails, or would
convert text to numbers, the rows are converted one by one, so that the error names the first bad
row: lists of different lengths, a None or a text among numbers.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, Final, NoReturn, cast

import numpy as np
import numpy.typing as npt

from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.row_names import UNNAMED, RowNames, shown

__all__ = ["as_floats", "as_queries", "as_rows", "check_unmasked", "plain"]

Floats = npt.NDArray[np.float32]

_REAL_KINDS: Final = "biuf"
_NONE_SHAPES: Final = ((0,), (0, 0))
"""Shapes of arrays without vectors; such an array has no number of components to check."""

_TEXT_HINT: Final = "; text becomes a vector by an embedding model, outside of vecdb"


def as_floats(vectors: object, what: str, dim: int, names: RowNames = UNNAMED) -> Floats:
    """Return the vectors as float32, C-contiguous, of any shape but ().

    Args:
        vectors: an array or a list of rows.
        what: the argument's name.
        dim: expected components of a row, for messages.
        names: names of the rows, for messages.

    Raises:
        InvalidArgumentError: NOT_A_MATRIX: the vectors cannot be converted; MASKED.
    """
    if type(vectors) is np.ndarray and vectors.dtype == np.float32 and vectors.ndim:
        return np.ascontiguousarray(vectors)
    check_unmasked(vectors, what, names)
    try:
        given, why = np.asarray(vectors), ""
    except Exception as error:  # Ragged; or a caller's object whose array interface fails.
        given, why = None, f" ({shown(error)})"
    if given is not None and given.ndim and given.dtype.kind in _REAL_KINDS:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(given, dtype=np.float32)
    if isinstance(vectors, list | tuple):
        rows = list(vectors)
    elif given is not None and given.ndim:
        rows = list(given)
    else:
        _refuse(vectors, what, dim, why)
    check_unmasked(rows, what, names)  # Rows of an array of objects.
    if all(_is_scalar(each) for each in rows):
        return _components(rows, what, "")
    return np.stack(list(_each_row(rows, what, dim, names)))


def as_queries(query: object, dim: int) -> Floats:
    """Return queries as float32: one query as (dim,), several as (q, dim), an empty list as
    (0, dim).

    Raises:
        InvalidArgumentError: as ``as_floats``; DIM_MISMATCH.
    """
    if type(query) is np.ndarray and query.dtype == np.float32 and query.shape == (dim,):
        return np.ascontiguousarray(query)  # The common case: one query.
    array = as_floats(query, "query", dim)
    if array.shape in _NONE_SHAPES:
        return np.zeros((0, dim), np.float32)
    _check_shape(array, "query", dim)
    return array


def as_rows(vectors: object, what: str, dim: int, names: RowNames = UNNAMED) -> Floats:
    """Return vectors as float32 with two axes. One vector of shape (dim,) becomes (1, dim), an
    empty list (0, dim).

    Raises:
        InvalidArgumentError: as ``as_floats``; DIM_MISMATCH.
    """
    array = as_floats(vectors, what, dim, names)
    if array.shape in _NONE_SHAPES:
        return np.zeros((0, dim), np.float32)
    if names.first and array.ndim == 2 and array.shape[1] != dim:
        raise InvalidArgumentError(
            f"{what}: {names.of(0)} has {array.shape[1]} components, expected {dim}",
            Reason.DIM_MISMATCH,
        )
    _check_shape(array, what, dim)
    return array.reshape(1, -1) if array.ndim == 1 else array


def _check_shape(array: Floats, what: str, dim: int) -> None:
    if array.ndim <= 2:
        if array.shape[-1] != dim:
            raise InvalidArgumentError(
                f"{what}: expected {dim} dimensions, got {array.shape[-1]}", Reason.DIM_MISMATCH
            )
        return
    raise InvalidArgumentError(
        f"{what} must have 2 axes, (n, {dim}), got {array.ndim}, of shape {array.shape}",
        Reason.NOT_A_MATRIX,
    )


def plain(what: str, rows: object) -> Any:
    """Convert columns of pandas, Arrow and polars to numpy arrays; return anything else unchanged.

    Slices of a pandas column select by label, not by position.

    Raises:
        InvalidArgumentError: NOT_A_LIST: the column's ``to_numpy`` failed.
    """
    convert = getattr(rows, "to_numpy", None)
    if not callable(convert):
        return rows
    try:
        return convert()
    except Exception as error:
        raise InvalidArgumentError(
            f"{what}: to_numpy() of a {type(rows).__name__} failed: {shown(error)}",
            Reason.NOT_A_LIST,
        ) from error


def check_unmasked(vectors: object, what: str, names: RowNames = UNNAMED) -> None:
    """Reject masked arrays of numpy, alone or as rows of a list, that have a masked component.

    Call it before ``np.asarray``, which drops the mask and keeps the values under it.

    Raises:
        InvalidArgumentError: MASKED.
    """
    if isinstance(vectors, np.ma.MaskedArray):
        masks = [(0, np.atleast_2d(np.ma.getmaskarray(vectors)))]
    elif isinstance(vectors, list | tuple):
        masks = [
            (row, np.atleast_2d(np.ma.getmaskarray(each)))
            for row, each in enumerate(vectors)
            if isinstance(each, np.ma.MaskedArray)
        ]
    else:
        return
    for first, mask in masks:
        for place in np.argwhere(mask)[:1].tolist():
            raise InvalidArgumentError(
                f"{what}: {names.of(first + place[0])} is masked at component {place[-1]}; "
                "fill it (numpy.ma.filled) or leave the row out",
                Reason.MASKED,
            )


def _refuse(vectors: object, what: str, dim: int, why: str) -> NoReturn:
    expected = f"float32 of shape (n, {dim})"
    if vectors is None:
        text = f"{what} must be {expected}, got None"
    elif isinstance(vectors, str | bytes):
        text = f"{what} must be numbers, {expected}, got {shown(vectors)}{_TEXT_HINT}"
    elif isinstance(vectors, Iterator):
        text = (
            f"{what} must be a list or an array, {expected}, got {type(vectors).__name__}; "
            "upsert_many takes iterables"
        )
    else:
        text = f"{what} must be a list or an array, {expected}, got {type(vectors).__name__}{why}"
    raise InvalidArgumentError(text, Reason.NOT_A_MATRIX)


def _each_row(rows: list[object], what: str, dim: int, names: RowNames) -> Iterator[Floats]:
    for position, row in enumerate(rows):
        where = f": {names.of(position)}"
        if _is_scalar(row):
            raise InvalidArgumentError(
                f"{what}{where} must be a list of {dim} numbers, got {shown(row)}",
                Reason.NOT_A_MATRIX,
            )
        try:
            array = np.asarray(row)
        except Exception:
            array = np.asarray(None)
        if array.ndim != 1:
            raise InvalidArgumentError(
                f"{what}{where} must be a list of {dim} numbers, got {type(row).__name__}"
                + (f" of shape {array.shape}" if array.ndim else ""),
                Reason.NOT_A_MATRIX,
            )
        if len(array) != dim:
            raise InvalidArgumentError(
                f"{what}{where} has {len(array)} components, expected {dim}", Reason.NOT_A_MATRIX
            )
        if array.dtype.kind in _REAL_KINDS:
            with np.errstate(over="ignore"):
                yield array.astype(np.float32)
        else:
            yield _components(list(cast("Iterable[object]", row)), what, where)


def _components(values: list[object], what: str, where: str) -> Floats:
    """Convert one vector of numbers of any type. An error names the component that is not one."""
    out = np.empty(len(values), np.float32)
    for place, value in enumerate(values):
        if not isinstance(value, numbers.Real | Decimal):
            hint = _TEXT_HINT if isinstance(value, str | bytes) else ""
            raise InvalidArgumentError(
                f"{what}{where} has {shown(value)} ({type(value).__name__}) at component "
                f"{place}, expected a real number{hint}",
                Reason.NOT_A_MATRIX,
            )
        try:
            with np.errstate(over="ignore"):
                out[place] = float(value)
        except (OverflowError, ValueError):
            raise InvalidArgumentError(
                f"{what}{where} has a number at component {place} that no float32 holds",
                Reason.NOT_A_MATRIX,
            ) from None
    return out


def _is_scalar(value: object) -> bool:
    return value is None or np.isscalar(value) or isinstance(value, numbers.Number | Decimal)
