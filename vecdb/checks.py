"""Validation of arguments at the public interface.

Each ``check_*`` returns its argument in the form that the internals use, or raises
InvalidArgumentError with the expected and the given value. Engine and client call these functions;
the server relies on the engine. Internal code does not validate arguments again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.index_fields import check_index_fields
from vecdb.limits import Limit
from vecdb.metadata_checks import (
    DEFAULT_BYTES,
    BytesMax,
    check_collection_metadata,
    check_metadata,
    check_raw_collection_metadata,
    check_raw_metadata,
    check_same_count,
)
from vecdb.os_errors import os_errors_translated
from vecdb.reasons import Reason
from vecdb.row_names import UNNAMED, RowNames, shown
from vecdb.scalar_checks import check_flag, check_flags, check_limit
from vecdb.types import CollectionConfig, Metric
from vecdb.vector_arrays import as_rows, plain
from vecdb.write_checks import (
    Target,
    check_condition,
    check_field,
    check_filter,
    check_id_text,
    check_request_id,
    check_target,
)

__all__ = [
    "Target",
    "check_callable",
    "check_collection_metadata",
    "check_condition",
    "check_config",
    "check_ef",
    "check_field",
    "check_filter",
    "check_flag",
    "check_flags",
    "check_id_text",
    "check_ids",
    "check_index_fields",
    "check_k",
    "check_limit",
    "check_local_path",
    "check_metadata",
    "check_name",
    "check_options",
    "check_path",
    "check_raw_collection_metadata",
    "check_raw_metadata",
    "check_raw_rows",
    "check_request_id",
    "check_rows",
    "check_same_count",
    "check_share",
    "check_target",
    "check_timeout",
    "check_token",
    "check_vectors",
]

Vectors = npt.NDArray[np.float32]

_TIMEOUT_S_MAX: Final = 1e9
"""About thirty years. A longer timeout is treated as none."""


def check_share(name: str, value: object) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidArgumentError(
            f"{name} must be a number from 0 to 1, got {shown(value)}", Reason.OUT_OF_RANGE
        )
    return float(value)


def check_timeout(timeout_s: object) -> float | None:
    """Return a timeout in seconds; None for no timeout, also if infinity was given."""
    if timeout_s is None:
        return None
    numbers = int | float | np.integer | np.floating
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, numbers) or not timeout_s > 0:
        raise InvalidArgumentError(
            f"timeout_s must be a number of seconds above 0, or None, got {shown(timeout_s)}",
            Reason.OUT_OF_RANGE,
        )
    return None if timeout_s > _TIMEOUT_S_MAX else float(timeout_s)


def check_callable(name: str, value: object) -> None:
    """Check that the value is callable or None."""
    if value is not None and not callable(value):
        raise InvalidArgumentError(
            f"{name} must be a function or None, got {shown(value)}", Reason.NOT_A_FUNCTION
        )


def check_options(options: Mapping[str, object], known: Iterable[str], of: str) -> None:
    """Reject unknown options; the message suggests those with similar names, or lists all."""
    names = sorted(known)
    for option in options:
        if option not in names:
            near = get_close_matches(option, names)
            hint = f"did you mean {' or '.join(near)}?" if near else f"options: {', '.join(names)}"
            raise InvalidArgumentError(f"{of} has no option {option!r}; {hint}", Reason.BAD_OPTION)


def check_name(name: object) -> str:
    """Return the name of a collection if it matches ``limits.NAME_PATTERN``."""
    if not isinstance(name, str) or not re.fullmatch(limits.NAME_PATTERN, name):
        raise InvalidArgumentError(
            f"a collection's name must match {limits.NAME_PATTERN}, got {shown(name)}",
            Reason.BAD_NAME,
        )
    return name


def check_path(path: object) -> str:
    """Return a path as text."""
    try:
        if not isinstance(path, str | bytes | os.PathLike):
            raise TypeError
        text = os.fsdecode(path)
        text.encode()
    except (TypeError, UnicodeError):
        raise InvalidArgumentError(
            f"a path must be a str or a pathlib.Path, in UTF-8, got {shown(path)}", Reason.BAD_PATH
        ) from None
    if not text or "\0" in text:
        raise InvalidArgumentError(f"invalid path {shown(text)}", Reason.BAD_PATH)
    return text


def check_local_path(path: object) -> Path:
    """Return a path on this machine, which need not exist; ``~`` expands to the home folder."""
    text = check_path(path)
    try:
        local = Path(text).expanduser()
    except RuntimeError as error:
        raise InvalidArgumentError(
            f"invalid path {shown(text)}: {error}", Reason.BAD_PATH
        ) from None
    with os_errors_translated(text), suppress(FileNotFoundError, NotADirectoryError):
        local.stat()  # Fails for a name too long, a cycle of links, a folder without permission.
    return local


def check_metric(metric: object) -> Metric:
    """Return the metric with this name."""
    known = [each.value for each in Metric]
    if isinstance(metric, str) and metric in known:
        return Metric(metric)
    raise InvalidArgumentError(
        f"metric must be one of {', '.join(known)}, got {shown(metric)}", Reason.BAD_METRIC
    )


def check_codes(codes: object) -> str:
    """Return the option ``codes``: "auto" or "none"."""
    if codes == "auto" or codes == "none":
        return str(codes)
    raise InvalidArgumentError(
        f"option codes must be one of auto, none, got {shown(codes)}", Reason.BAD_OPTION
    )


def check_config(
    dim: object,
    metric: object,
    M: object,
    ef_construction: object,
    index_fields: object = None,
) -> CollectionConfig:
    """Return the configuration of a new collection."""
    chosen = check_metric(metric)
    return CollectionConfig(
        dim=check_limit(limits.DIM, dim),
        metric=chosen,
        M=check_limit(limits.M, M),
        ef_construction=check_limit(limits.EF_CONSTRUCTION, ef_construction),
        index_fields=check_index_fields(index_fields),
    )


def check_vectors(
    vectors: object, dim: int, metric: Metric, what: str = "vectors", names: RowNames = UNNAMED
) -> Vectors:
    """Return vectors as C-contiguous float32, shape (n, dim); one of shape (dim,) becomes (1, dim).

    Raises:
        InvalidArgumentError: DIM_MISMATCH, NOT_A_MATRIX or MASKED, as ``as_rows``. NOT_FINITE: a
            NaN or infinity. TOO_LARGE: a squared distance could exceed float32. TOO_SMALL: not
            under cosine, a length so close to zero that scores would underflow. ZERO_VECTOR: under
            cosine, a length of zero.
    """
    array = as_rows(vectors, what, dim, names)
    # One pass: a float32 sum of squares within bounds proves that no component is NaN, infinite or
    # too large. Only if it is out of bounds, the slow path looks for the row.
    squares = np.einsum("ij,ij->i", array, array)
    least = limits.SQUARED_NORM_MIN
    if len(array) == 1 and 2 * least < float(squares[0]) <= limits.SQUARED_NORM_MAX:
        return array
    fine = squares <= np.float32(limits.SQUARED_NORM_MAX)
    fine &= squares > np.float32(2 * least)
    if metric is not Metric.COSINE and not fine.all():
        fine |= ~array.any(axis=1)
    if not fine.all():
        _explain_bad_row(
            array, np.flatnonzero(~fine), metric, lambda row: f"{what}: {names.of(row)}"
        )
    return array


def _explain_bad_row(
    array: Vectors, suspects: npt.NDArray[np.intp], metric: Metric, named: Callable[[int], str]
) -> None:
    """Raise for the first bad row; return if float64 shows that all suspects are within bounds."""
    for row in suspects:
        wide = array[row].astype(np.float64)
        finite = np.isfinite(wide)
        if not finite.all():
            column = int(np.flatnonzero(~finite)[0])
            raise InvalidArgumentError(
                f"{named(row)} has {wide[column]} at component {column}; "
                "all components must be finite",
                Reason.NOT_FINITE,
            )
        square = float(wide @ wide)
        if square > limits.SQUARED_NORM_MAX:
            raise InvalidArgumentError(
                f"{named(row)} has a squared length of {square:.3g}; "
                f"at most {limits.SQUARED_NORM_MAX:.3g} fits a float32 distance",
                Reason.TOO_LARGE,
            )
        if metric is not Metric.COSINE and 0.0 < square < limits.SQUARED_NORM_MIN:
            raise InvalidArgumentError(
                f"{named(row)} has a length of {square**0.5:.3g}; under {metric.value} a "
                f"length is 0 or at least {limits.SQUARED_NORM_MIN**0.5:.3g}, or scores vanish in "
                "float32; multiply all vectors by one number, or store zeros",
                Reason.TOO_SMALL,
            )
        if metric is Metric.COSINE and square == 0.0:
            raise InvalidArgumentError(
                f"{named(row)} has length 0; under cosine a length above 0 is needed",
                Reason.ZERO_VECTOR,
            )


_INTEGER_ID_END = 10**limits.ID_BYTES.maximum


def check_rows(
    ids: object,
    vectors: object,
    metadata: object,
    config: CollectionConfig,
    first: int = 0,
    bytes_max: BytesMax = DEFAULT_BYTES,
) -> tuple[list[str], Vectors, list[bytes] | None]:
    """Return one batch to write: ids, vectors, and metadata as JSON or None.

    Args:
        first: position of the batch's first row in the whole input, for the names of rows in
            errors.
        bytes_max: most bytes of a row's metadata.
    """
    texts = check_ids(ids, unique=True, first=first)
    names = RowNames(first, texts)
    array = _vectors_of(vectors, texts, config, names)
    return texts, array, check_metadata(metadata, len(texts), names, bytes_max)


def check_raw_rows(
    ids: object,
    vectors: object,
    metadata: Sequence[bytes],
    config: CollectionConfig,
    bytes_max: BytesMax = DEFAULT_BYTES,
) -> tuple[list[str], Vectors, list[bytes] | None]:
    """Do what ``check_rows`` does, for metadata given as JSON."""
    texts = check_ids(ids, unique=True)
    names = RowNames(0, texts)
    array = _vectors_of(vectors, texts, config, names)
    return texts, array, check_raw_metadata(metadata, len(texts), names, bytes_max)


def _vectors_of(
    vectors: object, texts: list[str], config: CollectionConfig, names: RowNames
) -> Vectors:
    if vectors is None and not texts:
        vectors = ()
    array = check_vectors(vectors, config.dim, config.metric, "vectors", names)
    check_same_count("vectors", len(array), len(texts))
    return array


def check_ids(
    ids: object, *, unique: bool, limit: Limit = limits.BATCH_ROWS, first: int = 0
) -> list[str]:
    """Return ids as a list of str, possibly empty; integers become their decimal text.

    Args:
        unique: reject duplicates, and sets, since they have no order.
        limit: bounds of the number of ids.
        first: position of the first id in the whole input.
    """
    given = _listed(ids, unique, limit)
    if all(type(each) is str for each in given):
        texts: list[str] = given
    else:
        texts = [_id_text(each, first + position) for position, each in enumerate(given)]
    try:
        sizes = [len(text.encode()) for text in texts]
    except UnicodeEncodeError:
        sizes = [_utf8_size(text, first + position) for position, text in enumerate(texts)]
    least, most = limits.ID_BYTES.minimum, limits.ID_BYTES.maximum
    if texts and (min(sizes) < least or max(sizes) > most):
        bad = next(p for p, size in enumerate(sizes) if not least <= size <= most)
        raise _bad_id(
            texts[bad],
            first + bad,
            f"{limits.ID_BYTES.name} must be {least} to {most}, got {sizes[bad]}",
        )
    if unique and len(set(texts)) != len(texts):
        seen: dict[str, int] = {}
        for position, text in enumerate(texts):
            if text in seen:
                raise InvalidArgumentError(
                    f"duplicate id {shown(text)} at positions {first + seen[text]} and "
                    f"{first + position}; a batch has each id once",
                    Reason.DUPLICATE_ID,
                )
            seen[text] = position
    return texts


def _listed(ids: object, ordered: bool, limit: Limit) -> list[Any]:
    """Return the ids as a list. Stop reading past the limit, since the input may be endless."""
    refused: Any = str | bytes | dict | (set | frozenset if ordered else str)
    given = None
    if not isinstance(ids, refused) and isinstance(ids, Iterable):
        rows = plain("ids", ids)
        if getattr(rows, "shape", True):
            given = list(islice(rows, limit.maximum + 1))
    if given is None:
        hint = "; put a single id into a list" if isinstance(ids, str | bytes) else ""
        raise InvalidArgumentError(
            f"ids must be a list of str, got {shown(ids)} ({type(ids).__name__}){hint}",
            Reason.NOT_A_LIST,
        )
    if len(given) > limit.maximum:
        count = len(ids) if isinstance(ids, Sized) else f"more than {limit.maximum}"
        raise InvalidArgumentError(
            f"{limit.name} must be at most {limit.maximum}, got {count}; upsert_many takes any "
            "number of rows",
            Reason.BATCH_SIZE,
        )
    return given


def _id_text(value: object, position: int) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # The text itself, also of a member of an enumeration.
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        if abs(int(value)) < _INTEGER_ID_END:
            return str(int(value))
        most = limits.ID_BYTES.maximum
        raise InvalidArgumentError(
            f"the id at position {position}: {limits.ID_BYTES.name} must be at most {most}, got an "
            "integer with more digits",
            Reason.BAD_ID,
        )
    raise _bad_id(value, position, f"expected a str or an integer, got {type(value).__name__}")


def _utf8_size(text: str, position: int) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise _bad_id(text, position, f"not valid Unicode: {error.reason}") from None


def _bad_id(value: object, position: int, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"id {shown(value)} at position {position}: {why}", Reason.BAD_ID)


def check_token(token: object) -> str:
    """Return the token of a scroll; without the collection only its type can be checked."""
    if not isinstance(token, str) or not token.isascii() or not token:
        raise InvalidArgumentError(
            f"a token must be the next_token of a page, got {shown(token)}", Reason.BAD_TOKEN
        )
    return token


def check_k(k: object, query_count: int) -> int:
    """Return k, the results per query. Also bound queries times k."""
    number = check_limit(limits.K, k)
    if number * query_count > limits.RESULTS_PER_CALL_MAX:
        raise InvalidArgumentError(
            f"queries times k must be at most {limits.RESULTS_PER_CALL_MAX}, "
            f"got {query_count} x {number} = {query_count * number}",
            Reason.TOO_MANY_RESULTS,
        )
    return number


def check_ef(ef: object, k: int) -> int:
    """Return the candidates that a graph walk keeps: ``ef`` or the default, but at least k."""
    if ef is None:
        assert limits.EF.default is not None
        return max(limits.EF.default, 2 * k)
    return max(check_limit(limits.EF, ef), k)


def check_target_recall(target: object) -> float:
    """Return the recall to reach: ``target`` or the default."""
    if target is None:
        return limits.TARGET_RECALL
    if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 < target <= 1:
        raise InvalidArgumentError(
            f"target_recall: expected a number above 0, up to 1, got {shown(target)}",
            Reason.BAD_TARGET_RECALL,
        )
    return float(target)
