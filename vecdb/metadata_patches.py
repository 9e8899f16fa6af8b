"""Changes of the metadata of rows: the patches of ``set_metadata``, embedded and remote.

    mode          patch                       effect on a row
    merge         an object                   its keys are set, the row's other keys stay. Values
                                              are replaced whole, objects too; null is a value
    replace       an object, or none          the row's metadata are the patch
    delete_keys   a list of paths, as in      the fields at these paths are removed, with all that
                  filters ("author.name")     is in them; a path that the row lacks is ignored

A patch is one for all rows, or one for each id. Numbers that a patch does not touch keep their
digits.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, TypeAlias

from vecdb import json_objects
from vecdb.errors import InvalidArgumentError
from vecdb.filter_limits import split_path
from vecdb.filter_nodes import Path
from vecdb.json_objects import NotJsonError
from vecdb.metadata_checks import (
    DEFAULT_BYTES,
    BytesMax,
    check_metadata,
    check_raw_metadata,
    check_same_count,
)
from vecdb.reasons import Reason
from vecdb.row_names import UNNAMED, RowNames, shown

__all__ = ["MetadataMode", "Patcher", "check_mode", "check_patches", "check_raw_patches", "patcher"]

Patcher: TypeAlias = Callable[[bytes], bytes]
"""Returns the new metadata for stored ones: UTF-8 JSON of an object, or ``b""`` for none."""

_PATHS_MAX: Final = 1_000


class MetadataMode(str, Enum):
    """What a patch does; see the module."""

    MERGE = "merge"
    REPLACE = "replace"
    DELETE_KEYS = "delete_keys"

    def __str__(self) -> str:
        return self.value


def check_mode(mode: object) -> MetadataMode:
    """Return the mode of this name.

    Raises:
        InvalidArgumentError: BAD_MODE.
    """
    known = [each.value for each in MetadataMode]
    if isinstance(mode, str) and mode in known:
        return MetadataMode(mode)
    raise InvalidArgumentError(
        f"mode must be one of {', '.join(known)}, got {shown(mode)}", Reason.BAD_MODE
    )


def check_patches(
    patch: object,
    mode: MetadataMode,
    count: int | None,
    names: RowNames = UNNAMED,
    bytes_max: BytesMax = DEFAULT_BYTES,
) -> list[bytes]:
    """Return patches as JSON text: one for all rows, or one for each of ``count`` ids.

    Args:
        count: number of ids; None if the rows are named by a filter, which allows one patch only.

    Raises:
        InvalidArgumentError: BAD_PATCH, COUNT_MISMATCH; BAD_METADATA and others as of metadata.
    """
    if mode is MetadataMode.DELETE_KEYS:
        return _check_path_lists(patch, count, names)
    if isinstance(patch, dict):
        return [(check_metadata([patch], 1, UNNAMED, bytes_max) or [b""])[0]]
    if not isinstance(patch, Sequence) or isinstance(patch, str | bytes):
        wanted = "a dict" if count is None else "a dict, or a list with a dict for each id"
        raise _bad_patch(f"patch must be {wanted}, got {shown(patch)} ({type(patch).__name__})")
    check_same_count("patch", len(patch), _count_of_list(count))
    return check_metadata(patch, len(patch), names, bytes_max) or []


def _check_path_lists(patch: object, count: int | None, names: RowNames) -> list[bytes]:
    wanted = "a list of fields, such as ['year', 'author.name']"
    if not isinstance(patch, list | tuple):
        raise _bad_patch(
            f"patch of mode delete_keys must be {wanted}, got {shown(patch)} "
            f"({type(patch).__name__})"
        )
    if patch and all(isinstance(each, list | tuple) for each in patch):
        check_same_count("patch", len(patch), _count_of_list(count))
        return [_encoded_paths(each, names.of(row), wanted) for row, each in enumerate(patch)]
    return [_encoded_paths(patch, "patch", wanted)]


def _encoded_paths(paths: Any, where: str, wanted: str) -> bytes:
    texts = []
    for each in paths:
        if not isinstance(each, str):
            raise _bad_patch(f"patch: {where} must be {wanted}, got {shown(each)} in it")
        texts.append(str.__str__(each))
    try:
        raw = json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        raise _bad_patch(f"patch: {where} has a field with a lone surrogate") from None
    _paths_of(raw, where)
    return raw


def check_raw_patches(
    raw: Sequence[bytes],
    mode: MetadataMode,
    count: int | None,
    names: RowNames = UNNAMED,
    bytes_max: BytesMax = DEFAULT_BYTES,
) -> list[bytes]:
    """Do what ``check_patches`` does, for patches given as JSON text: an object each, or for
    delete_keys a list of strings each."""
    if len(raw) != 1:
        check_same_count("patch", len(raw), _count_of_list(count))
    if mode is MetadataMode.DELETE_KEYS:
        for row, each in enumerate(raw):
            _paths_of(each, names.of(row))
        return list(raw)
    named = names if len(raw) != 1 else UNNAMED
    return check_raw_metadata(raw, len(raw), named, bytes_max) or []


def _count_of_list(count: int | None) -> int:
    if count is None:
        raise _bad_patch("patch must be one for all rows that match the filter, got a list")
    return count


def _paths_of(raw: bytes, where: str = "patch") -> list[Path]:
    """Return the paths of a patch of delete_keys.

    Raises:
        InvalidArgumentError: BAD_PATCH.
    """
    if len(raw) > DEFAULT_BYTES:
        raise _bad_patch(f"patch: {where} has {len(raw)} bytes, too many")
    try:
        texts = json_objects.decode(raw)
    except (NotJsonError, RecursionError) as error:
        raise _bad_patch(f"patch: {where} is not JSON: {error}") from None
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise _bad_patch(f"patch: {where} must be a list of fields, got {shown(texts)}")
    if len(texts) > _PATHS_MAX:
        raise _bad_patch(f"patch: {where} has {len(texts)} fields, at most {_PATHS_MAX}")
    try:
        return [split_path(text, shown(text)) for text in texts]
    except InvalidArgumentError as error:
        raise _bad_patch(f"patch: {where}: {error.message}") from None


def _bad_patch(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, Reason.BAD_PATCH)


# ---------------------------------------------------------------------------------------- applying


def patcher(mode: MetadataMode, raw: bytes) -> Patcher:
    """Return the function that applies a checked patch. It returns its argument itself if the
    patch changes nothing, or text that may be equal to it."""
    if mode is MetadataMode.REPLACE:
        return lambda stored: raw
    if mode is MetadataMode.MERGE:
        return _merger(raw) if raw else lambda stored: stored
    paths = _paths_of(raw)
    return lambda stored: _without(stored, paths) if stored else stored


class _InexactError(Exception):
    """A number of the text is not the shortest one of its float: it would lose digits."""


def _exact(text: str) -> float:
    number = float(text)
    if repr(number) != text:
        raise _InexactError
    return number


_DECODER = json.JSONDecoder(parse_float=_exact)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _merger(raw: bytes) -> Patcher:
    try:
        patch = _DECODER.decode(raw.decode())
    except _InexactError:
        return lambda stored: _keeping_digits(lambda decode: {**decode(stored), **decode(raw)})
    decode, encode = _DECODER.decode, _ENCODER.encode

    def merged(stored: bytes) -> bytes:
        if not stored:
            return raw
        try:
            entry = decode(stored.decode())
        except _InexactError:
            return _keeping_digits(lambda decode: {**decode(stored), **patch})
        entry.update(patch)
        return encode(entry).encode()

    return merged


def _without(stored: bytes, paths: list[Path]) -> bytes:
    try:
        entry = _DECODER.decode(stored.decode())
        if not _remove(entry, paths):
            return stored
        return _ENCODER.encode(entry).encode() if entry else b""
    except _InexactError:
        if not _remove(json.loads(stored), paths):
            return stored

    def removed(decode: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
        entry = decode(stored)
        _remove(entry, paths)
        return entry

    return _keeping_digits(removed)


def _remove(entry: dict[str, Any], paths: list[Path]) -> bool:
    """Remove the fields at the paths; return whether there were any."""
    found = False
    for *outer, last in paths:
        inside: Any = entry
        for key in outer:
            inside = inside.get(key)
            if type(inside) is not dict:
                break
        else:
            if last in inside:
                del inside[last]
                found = True
    return found


def _keeping_digits(make: Callable[[Callable[[bytes], dict[str, Any]]], dict[str, Any]]) -> bytes:
    """Return the text of an object that ``make`` makes of decoded ones, with all digits of their
    numbers: these are strings with a mark in the meantime."""
    mark = uuid.uuid4().hex
    decoder = json.JSONDecoder(parse_float=lambda text: f"{mark}{text}")
    entry = make(lambda raw: decoder.decode(raw.decode()) if raw else {})
    text = _ENCODER.encode(entry) if entry else ""
    return re.sub(f'"{mark}([^"]*)"', r"\1", text).encode()
