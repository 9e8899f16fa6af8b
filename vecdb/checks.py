"""Checks at the border: every ``check_*`` returns its argument in the form that the inside works
with, or raises InvalidArgumentError with both numbers. Engine and client both call these, the
server relies on the engine's; behind them nothing is checked again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.errors import InvalidArgumentError, UnsupportedError
from vecdb.limits import Limit
from vecdb.types import CollectionConfig, Metric

__all__ = [
    "check_condition",
    "check_config",
    "check_effort",
    "check_ids",
    "check_k",
    "check_limit",
    "check_metadata",
    "check_name",
    "check_path",
    "check_raw_metadata",
    "check_request_id",
    "check_reserved",
    "check_same_count",
    "check_token",
    "check_vectors",
]

Vectors = npt.NDArray[np.float32]


def check_limit(limit: Limit, value: Any) -> int:
    """An integer within a limit."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidArgumentError(
            f"{limit.name} must be an integer, got {type(value).__name__}", "NOT_AN_INTEGER"
        )
    number = int(value)
    if not limit.minimum <= number <= limit.maximum:
        raise InvalidArgumentError(
            f"{limit.name} must be {limit.minimum} to {limit.maximum}, got {number}", "OUT_OF_RANGE"
        )
    return number


def check_name(name: Any) -> str:
    """A collection's name."""
    if not isinstance(name, str) or not re.fullmatch(limits.NAME_PATTERN, name):
        raise InvalidArgumentError(
            f"a collection's name must match {limits.NAME_PATTERN}, got {_shown(name)}", "BAD_NAME"
        )
    return name


def check_path(path: Any) -> str:
    """A path as text."""
    try:
        text = os.fsdecode(path)
        text.encode()
    except (TypeError, UnicodeError):
        raise InvalidArgumentError(
            f"a path is a str or a pathlib.Path, in UTF-8, got {_shown(path)}", "BAD_PATH"
        ) from None
    if not text or "\0" in text:
        raise InvalidArgumentError(f"this is no path: {_shown(text)}", "BAD_PATH")
    return text


def check_metric(metric: Any) -> Metric:
    """One of the metrics, by its name."""
    try:
        return Metric(metric)
    except ValueError:
        known = ", ".join(m.value for m in Metric)
        raise InvalidArgumentError(
            f"metric must be one of {known}, got {_shown(metric)}", "BAD_METRIC"
        ) from None


def check_config(dim: Any, metric: Any, M: Any, ef_construction: Any) -> CollectionConfig:
    """The configuration of a new collection."""
    chosen = check_metric(metric)
    return CollectionConfig(
        dim=check_limit(limits.DIM, dim),
        metric=chosen,
        M=check_limit(limits.M, M),
        ef_construction=check_limit(limits.EF_CONSTRUCTION, ef_construction),
    )


def check_vectors(vectors: Any, dim: int, metric: Metric, what: str = "vectors") -> Vectors:
    """Vectors as C-contiguous float32, shape (n, dim); one vector of shape (dim,) becomes (1, dim).

    Refused: a wrong dimension, a NaN or infinity, under cosine a length of zero, components whose
    squared distance would not fit a float32.
    """
    try:
        if isinstance(vectors, np.ndarray) and vectors.dtype == np.float32:
            array = np.ascontiguousarray(vectors)
        else:
            given = np.asarray(vectors)
            if given.dtype.kind not in "biufO":
                raise TypeError(given.dtype)
            with np.errstate(over="ignore"):
                array = np.ascontiguousarray(given, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgumentError(
            f"{what} must be float32 of shape (n, {dim}), got {_shown(type(vectors).__name__)} "
            "that does not convert",
            "NOT_A_MATRIX",
        ) from None
    if array.ndim == 1:
        array = array.reshape(1, -1)
    if array.ndim != 2:
        raise InvalidArgumentError(
            f"{what} must have 2 axes, (n, {dim}), got {array.ndim}", "NOT_A_MATRIX"
        )
    if array.shape[1] != dim:
        raise InvalidArgumentError(
            f"expected {dim} dimensions, got {array.shape[1]}", "DIM_MISMATCH"
        )
    # A float32 sum of squares that is within bounds proves at one pass that no component is NaN,
    # infinite or too large; only when it does not, the slow look finds out which.
    squares = np.einsum("ij,ij->i", array, array)
    if len(array) == 1 and 1e-30 < float(squares[0]) <= limits.SQUARED_NORM_MAX:
        return array
    fine = squares <= np.float32(limits.SQUARED_NORM_MAX)
    if metric is Metric.COSINE:
        fine &= squares > np.float32(1e-30)
    if not fine.all():
        _explain_bad_row(array, np.flatnonzero(~fine), metric, what)
    return array


def _explain_bad_row(array: Vectors, suspects: npt.NDArray[Any], metric: Metric, what: str) -> None:
    """Raise for the first row that is really bad; return if all suspects are merely small."""
    for row in suspects:
        wide = array[row].astype(np.float64)
        finite = np.isfinite(wide)
        if not finite.all():
            column = int(np.flatnonzero(~finite)[0])
            raise InvalidArgumentError(
                f"{what}: row {row} has {wide[column]} at component {column}; "
                "all components must be finite",
                "NOT_FINITE",
            )
        square = float(wide @ wide)
        if square > limits.SQUARED_NORM_MAX:
            raise InvalidArgumentError(
                f"{what}: row {row} has a squared length of {square:.3g}; "
                f"at most {limits.SQUARED_NORM_MAX:.3g} fits a float32 distance",
                "TOO_LARGE",
            )
        if metric is Metric.COSINE and square == 0.0:
            raise InvalidArgumentError(
                f"{what}: row {row} has length 0; under cosine a length above 0 is needed",
                "ZERO_VECTOR",
            )


_INTEGER_ID_END = 10**limits.ID_BYTES.maximum


def check_ids(ids: Any, *, unique: bool, limit: Limit = limits.BATCH_ROWS) -> list[str]:
    """Ids as a list of str; integers become their decimal text.

    Args:
        unique: refuse an id that stands there twice.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidArgumentError(
            f"ids must be a list of str, got {_shown(type(ids).__name__)}", "NOT_A_LIST"
        )
    texts = [i if type(i) is str else _id_text(i) for i in ids]
    if not limit.minimum <= len(texts) <= limit.maximum:
        raise InvalidArgumentError(
            f"{limit.name} must be {limit.minimum} to {limit.maximum}, got {len(texts)}",
            "BATCH_SIZE",
        )
    try:
        sizes = [len(text.encode()) for text in texts]
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"an id is not valid Unicode: {error.reason}", "BAD_ID"
        ) from None
    if min(sizes) < limits.ID_BYTES.minimum or max(sizes) > limits.ID_BYTES.maximum:
        bad = next(s for s in sizes if not limits.ID_BYTES.minimum <= s <= limits.ID_BYTES.maximum)
        raise InvalidArgumentError(
            f"{limits.ID_BYTES.name} must be {limits.ID_BYTES.minimum} to "
            f"{limits.ID_BYTES.maximum}, got {bad}",
            "BAD_ID",
        )
    if unique and len(set(texts)) != len(texts):
        seen: set[str] = set()
        for position, text in enumerate(texts):
            if text in seen:
                raise InvalidArgumentError(
                    f"id {_shown(text)} stands twice in the batch, first at {texts.index(text)}, "
                    f"again at {position}",
                    "DUPLICATE_ID",
                )
            seen.add(text)
    return texts


def _id_text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if abs(int(value)) >= _INTEGER_ID_END:
            raise InvalidArgumentError(
                f"{limits.ID_BYTES.name} must be at most {limits.ID_BYTES.maximum}, "
                "got an integer with more digits",
                "BAD_ID",
            )
        return str(int(value))
    raise InvalidArgumentError(
        f"an id must be a str or an integer, got {type(value).__name__}", "BAD_ID"
    )


def check_metadata(metadata: Any, count: int) -> list[bytes] | None:
    """Metadata as UTF-8 JSON, one a row, empty for none; None if no row has any."""
    if metadata is None:
        return None
    if isinstance(metadata, dict | str | bytes) or not isinstance(metadata, Sequence):
        raise InvalidArgumentError(
            f"metadata must be a list of dict or None, got {type(metadata).__name__}",
            "BAD_METADATA",
        )
    check_same_count("metadata", len(metadata), count)
    return [_encoded(entry, row) for row, entry in enumerate(metadata)]


def _encoded(entry: Any, row: int) -> bytes:
    if not entry and (entry is None or isinstance(entry, dict)):
        return b""
    if not isinstance(entry, dict):
        raise InvalidArgumentError(
            f"metadata: row {row} must be a JSON object, got {type(entry).__name__}", "BAD_METADATA"
        )
    try:
        raw = _ENCODER.encode(entry).encode()
    except RecursionError:
        _check_depth(entry, row)
        raise
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"metadata: row {row} is not JSON: {error}", "BAD_METADATA"
        ) from None
    _check_metadata_size(raw, row)
    _check_brackets(raw, entry, row)
    return raw


def check_raw_metadata(raw: Sequence[bytes], count: int) -> list[bytes] | None:
    """Metadata that comes as JSON bytes: each an object within the limits, or empty for none.

    What is stored is the text itself, so that numbers keep the digits that they were given with.
    """
    if not raw:
        return None
    check_same_count("metadata", len(raw), count)
    out: list[bytes] = []
    for row, text in enumerate(raw):
        if text in (b"", b"{}"):
            out.append(b"")
            continue
        _check_metadata_size(text, row)
        try:
            entry = _DECODER.decode(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError(
                f"metadata: row {row} is not JSON: {error}", "BAD_METADATA"
            ) from None
        if not isinstance(entry, dict):
            raise InvalidArgumentError(
                f"metadata: row {row} must be a JSON object, got {type(entry).__name__}",
                "BAD_METADATA",
            )
        _check_brackets(text, entry, row)
        out.append(bytes(text))
    return out


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Made once: the functions of json make one anew at each call with options.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _check_brackets(raw: bytes, entry: Any, row: int) -> None:
    """The depth, which only needs a look where there are brackets enough for it."""
    if raw.count(b"{") + raw.count(b"[") > limits.METADATA_DEPTH.maximum:
        _check_depth(entry, row)


def _check_metadata_size(raw: bytes, row: int) -> None:
    if len(raw) > limits.METADATA_BYTES.maximum:
        raise InvalidArgumentError(
            f"metadata: row {row} has {len(raw)} bytes, at most {limits.METADATA_BYTES.maximum}",
            "METADATA_TOO_LARGE",
        )


def _check_depth(entry: Any, row: int) -> None:
    """Objects and lists within each other; walked without recursion, as the input is untrusted."""
    layer, depth = [entry], 0
    while layer:
        depth += 1
        if depth > limits.METADATA_DEPTH.maximum:
            raise InvalidArgumentError(
                f"metadata: row {row} nests deeper than {limits.METADATA_DEPTH.maximum} levels "
                f"(at least {depth})",
                "METADATA_TOO_DEEP",
            )
        below: list[Any] = []
        for value in layer:
            children = value.values() if isinstance(value, dict) else value
            below.extend(child for child in children if isinstance(child, dict | list | tuple))
        layer = below


def check_same_count(what: str, got: int, expected: int) -> None:
    """As many entries as there are ids."""
    if got != expected:
        raise InvalidArgumentError(f"{what}: expected {expected} rows, got {got}", "COUNT_MISMATCH")


def check_token(token: Any) -> str:
    """The token of a scroll, as far as it can be checked without the collection: some text."""
    if not isinstance(token, str) or not token.isascii() or not token:
        raise InvalidArgumentError(
            f"a token is what next_token of a page was, got {_shown(token)}", "BAD_TOKEN"
        )
    return token


def check_k(k: Any, query_count: int) -> int:
    """Results a query; queries times k is bounded too."""
    number = check_limit(limits.K, k)
    if number * query_count > limits.RESULTS_PER_CALL_MAX:
        raise InvalidArgumentError(
            f"queries times k must be at most {limits.RESULTS_PER_CALL_MAX}, "
            f"got {query_count} x {number} = {query_count * number}",
            "TOO_MANY_RESULTS",
        )
    return number


def check_effort(ef: Any, k: int) -> int:
    """Candidates that a graph walk keeps: what was asked for, or the default; never less than k."""
    if ef is None:
        assert limits.EF.default is not None
        return max(limits.EF.default, 2 * k)
    return max(check_limit(limits.EF, ef), k)


def check_condition(insert_only: Any, if_seq: Any) -> tuple[bool, int | None]:
    """The conditions of a write; together they are refused where they can never hold."""
    seq = None if if_seq is None else check_limit(limits.IF_SEQ, if_seq)
    if insert_only and seq:
        raise InvalidArgumentError(
            f"insert_only wants ids that are not there, if_seq {seq} wants ids that are: "
            "no batch can have both",
            "BAD_CONDITION",
        )
    return bool(insert_only), seq


def check_request_id(request_id: Any, limit: Limit = limits.REQUEST_ID_BYTES) -> str | None:
    """The id of a write, None for none."""
    if request_id is None:
        return None
    try:
        if not isinstance(request_id, str):
            raise TypeError
        size = len(request_id.encode())
    except (TypeError, UnicodeError):
        raise InvalidArgumentError(
            f"a request_id is a str of valid Unicode, got {_shown(request_id)}", "BAD_REQUEST_ID"
        ) from None
    if not limit.minimum <= size <= limit.maximum:
        raise InvalidArgumentError(
            f"{limit.name} must have at least {limit.minimum} and at most {limit.maximum} bytes, "
            f"got {size}",
            "OUT_OF_RANGE",
        )
    return request_id


def check_reserved(**given: Any) -> None:
    """Arguments that have their place but no code yet are refused rather than ignored."""
    for name, value in given.items():
        if value is not None:
            raise UnsupportedError(f"{name} is reserved and not supported yet", "RESERVED")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
