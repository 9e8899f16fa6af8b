"""Validation of metadata: one JSON object per row, within the limits, or none.

Part of ``vecdb.checks``, which re-exports these functions; the rest of vecdb imports them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from vecdb import json_objects, limits
from vecdb.errors import InvalidArgumentError
from vecdb.json_objects import NotJsonError
from vecdb.reasons import Reason
from vecdb.row_names import UNNAMED, RowNames

__all__ = [
    "DEFAULT_BYTES",
    "BytesMax",
    "check_collection_metadata",
    "check_metadata",
    "check_raw_collection_metadata",
    "check_raw_metadata",
    "check_same_count",
]

_COLLECTION = RowNames(0, ())


BytesMax: TypeAlias = int | Callable[[], int]
"""Most bytes of a row's metadata, or a function that returns it, called only if a row has more than
``DEFAULT_BYTES``."""

DEFAULT_BYTES: Final = limits.METADATA_BYTES.default or 0


def check_metadata(
    metadata: object, count: int, names: RowNames = UNNAMED, bytes_max: BytesMax = DEFAULT_BYTES
) -> list[bytes] | None:
    """Return metadata as UTF-8 JSON, one per row, empty for none; None if no row has any."""
    if metadata is None:
        return None
    if isinstance(metadata, dict | str | bytes) or not isinstance(metadata, Sequence):
        raise InvalidArgumentError(
            f"metadata must be a list of dict or None, got {type(metadata).__name__}",
            Reason.BAD_METADATA,
        )
    check_same_count("metadata", len(metadata), count)
    return [_encoded(entry, row, names, bytes_max) for row, entry in enumerate(metadata)]


def check_collection_metadata(metadata: object) -> bytes:
    """Return the metadata of a collection as UTF-8 JSON, empty for none."""
    if metadata is not None and not isinstance(metadata, dict):
        raise _not_object(metadata, "that of a collection")
    return _encoded(metadata, 0, _COLLECTION)


def check_raw_collection_metadata(raw: bytes) -> bytes:
    """Do the same for metadata given as JSON text."""
    return (check_raw_metadata([raw], 1, _COLLECTION) or [b""])[0]


def _encoded(
    entry: object, row: int, names: RowNames, bytes_max: BytesMax = DEFAULT_BYTES
) -> bytes:
    if entry is None or (isinstance(entry, dict) and not entry):
        return b""
    if not isinstance(entry, dict):
        raise _not_object(entry, names.of(row))
    try:
        raw = json_objects.encode(entry)
        _check_metadata_size(raw, row, names, bytes_max)
        if not json_objects.is_flat(entry):
            _check_brackets(raw, entry, row, names)
            json_objects.check_comes_back(entry)
    except RecursionError:
        _check_depth(entry, row, names)
        raise
    except NotJsonError as error:
        raise InvalidArgumentError(
            f"metadata: {names.of(row)} is not JSON: {error}", Reason.BAD_METADATA
        ) from None
    return raw


def _not_object(entry: object, where: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"metadata: {where} must be a JSON object, got {type(entry).__name__}", Reason.BAD_METADATA
    )


def check_raw_metadata(
    raw: Sequence[bytes],
    count: int,
    names: RowNames = UNNAMED,
    bytes_max: BytesMax = DEFAULT_BYTES,
) -> list[bytes] | None:
    """Check metadata given as JSON text: each an object within the limits, or empty for none.

    The text is stored unchanged, so that numbers keep their digits.
    """
    if not raw:
        return None
    check_same_count("metadata", len(raw), count)
    out: list[bytes] = []
    for row, text in enumerate(raw):
        if text in (b"", b"{}"):
            out.append(b"")
            continue
        _check_metadata_size(text, row, names, bytes_max)
        try:
            entry = json_objects.decode(text)
        except (NotJsonError, RecursionError) as error:
            raise InvalidArgumentError(
                f"metadata: {names.of(row)} is not JSON: {error}", Reason.BAD_METADATA
            ) from None
        if not isinstance(entry, dict):
            raise _not_object(entry, names.of(row))
        _check_brackets(text, entry, row, names)
        out.append(bytes(text))
    return out


def _check_brackets(raw: bytes, entry: object, row: int, names: RowNames) -> None:
    """Check the depth, but only if the text has enough brackets to exceed the limit."""
    if raw.count(b"{") + raw.count(b"[") > limits.METADATA_DEPTH.maximum:
        _check_depth(entry, row, names)


def _check_metadata_size(raw: bytes, row: int, names: RowNames, bytes_max: BytesMax) -> None:
    if len(raw) <= DEFAULT_BYTES and not isinstance(bytes_max, int):
        return
    most = bytes_max if isinstance(bytes_max, int) else bytes_max()
    if len(raw) > most:
        raise InvalidArgumentError(
            f"metadata: {names.of(row)} has {len(raw)} bytes, at most {most} (the option "
            f"metadata_bytes_max, up to {limits.METADATA_BYTES.maximum})",
            Reason.METADATA_TOO_LARGE,
        )


def _check_depth(entry: object, row: int, names: RowNames) -> None:
    """Check the nesting of objects and lists, without recursion, since the input is untrusted."""
    layer: list[Any] = [entry]
    depth = 0
    while layer:
        depth += 1
        if depth > limits.METADATA_DEPTH.maximum:
            raise InvalidArgumentError(
                f"metadata: {names.of(row)} nests deeper than "
                f"{limits.METADATA_DEPTH.maximum} levels (at least {depth})",
                Reason.METADATA_TOO_DEEP,
            )
        below: list[Any] = []
        for value in layer:
            children = value.values() if isinstance(value, dict) else value
            below.extend(child for child in children if isinstance(child, dict | list | tuple))
        layer = below


def check_same_count(what: str, got: int, expected: int) -> None:
    """Check that there is one entry per id."""
    if got != expected:
        raise InvalidArgumentError(
            f"{what}: expected {expected} rows, got {got}; there must be one per id",
            Reason.COUNT_MISMATCH,
        )
