"""Validation of the options of writes: conditions, request ids, and which rows are meant; also of
lists.

Part of ``vecdb.checks``, which re-exports these functions; the rest of vecdb imports them there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filters import Filter, Path, bad_filter, parse_filter, split_path
from vecdb.limits import Limit
from vecdb.reasons import Reason
from vecdb.row_names import shown
from vecdb.scalar_checks import check_flag, check_limit

__all__ = [
    "Target",
    "check_condition",
    "check_field",
    "check_filter",
    "check_id_text",
    "check_request_id",
    "check_target",
]

_ON_EXISTING: Final = ("replace", "refuse", "skip")


def check_condition(
    insert_only: object, if_seq: object, on_existing: object = "replace"
) -> tuple[str, int | None]:
    """Return the conditions of a write: "replace", "refuse" or "skip", and a seq. Reject a
    combination that no batch can satisfy."""
    seq = None if if_seq is None else check_limit(limits.IF_SEQ, if_seq)
    must_be_new = check_flag("insert_only", insert_only)
    if not isinstance(on_existing, str) or on_existing not in _ON_EXISTING:
        raise InvalidArgumentError(
            f"on_existing must be one of {', '.join(_ON_EXISTING)}, got {shown(on_existing)}",
            Reason.BAD_MODE,
        )
    existing = str.__str__(on_existing)
    if existing == "skip" and (must_be_new or seq is not None):
        raise InvalidArgumentError(
            "on_existing 'skip' leaves ids that exist as they are; insert_only and if_seq refuse "
            "the batch because of them: give only one",
            Reason.BAD_CONDITION,
        )
    must_be_new = must_be_new or existing == "refuse"
    if must_be_new and seq:
        raise InvalidArgumentError(
            f"insert_only needs ids that do not exist, if_seq {seq} needs ids that exist: "
            "give only one of them",
            Reason.BAD_CONDITION,
        )
    return "refuse" if must_be_new else existing, seq


def check_request_id(request_id: object, limit: Limit = limits.REQUEST_ID_BYTES) -> str | None:
    """Return the request id of a write, or None."""
    if request_id is None:
        return None
    try:
        if not isinstance(request_id, str):
            raise TypeError
        size = len(request_id.encode())
    except (TypeError, UnicodeError):
        raise InvalidArgumentError(
            f"a request_id must be a str of valid Unicode, got {shown(request_id)}",
            Reason.BAD_REQUEST_ID,
        ) from None
    if not limit.minimum <= size <= limit.maximum:
        raise InvalidArgumentError(
            f"{limit.name} must have at least {limit.minimum} and at most {limit.maximum} bytes, "
            f"got {size}",
            Reason.OUT_OF_RANGE,
        )
    return request_id


class Target(NamedTuple):
    """Which rows a delete or a change of metadata is for.

    Attributes:
        filter: the rows that match; None if they are named by id.
        limit: most rows to change, of those that match; None for all.
        dry_run: only count the rows that would be changed.
    """

    filter: Filter | None
    limit: int | None
    dry_run: bool


def check_filter(filter: object) -> Filter | None:
    """Return the filter of a call, or None.

    Raises:
        InvalidArgumentError: BAD_FILTER.
    """
    return None if filter is None else parse_filter(filter)


def check_target(ids: object, filter: object, limit: object, dry_run: object) -> Target:
    """Check that rows are named either by ids, which are not looked at, or by a filter.

    Raises:
        InvalidArgumentError: BAD_TARGET; BAD_FILTER and others.
    """
    if (ids is None) == (filter is None):
        given = "neither" if ids is None else "both"
        raise InvalidArgumentError(
            f"expected ids or a filter, got {given}; {{}} as filter matches all rows",
            Reason.BAD_TARGET,
        )
    if ids is not None and limit is not None:
        raise InvalidArgumentError(
            "limit goes with a filter; ids name the rows themselves", Reason.BAD_TARGET
        )
    return Target(
        check_filter(filter),
        None if limit is None else check_limit(limits.CHANGED_ROWS, limit, "limit"),
        check_flag("dry_run", dry_run),
    )


def check_id_text(name: str, value: object) -> str:
    """Return a prefix of ids, or an id to go on after: text that may be empty.

    Raises:
        InvalidArgumentError: BAD_ID.
    """
    try:
        if not isinstance(value, str):
            raise TypeError
        size = len(value.encode())
    except (TypeError, UnicodeError):
        raise InvalidArgumentError(
            f"{name} must be a str of valid Unicode, got {shown(value)}", Reason.BAD_ID
        ) from None
    if size > limits.ID_BYTES.maximum:
        raise InvalidArgumentError(
            f"{name} must have at most {limits.ID_BYTES.maximum} bytes, got {size}", Reason.BAD_ID
        )
    return str.__str__(value)


def check_field(field: object) -> Path:
    """Return the path of a field of the metadata, given as in filters.

    Raises:
        InvalidArgumentError: BAD_FILTER.
    """
    if not isinstance(field, str):
        raise bad_filter("field", f"expected a str such as 'author.name', got {shown(field)}")
    try:
        field.encode()
    except UnicodeEncodeError:
        raise bad_filter("field", "a lone surrogate") from None
    return split_path(str.__str__(field), "field")
