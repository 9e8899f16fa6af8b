"""Which fields of the metadata a collection indexes: all within limits, or those that it names.

Part of ``vecdb.checks``, which re-exports ``check_index_fields``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filters import Path, path_text, split_path
from vecdb.reasons import Reason
from vecdb.row_names import shown
from vecdb.scalar_checks import check_limit
from vecdb.types import CollectionConfig

__all__ = ["check_index_fields", "named_paths"]


def check_index_fields(given: object) -> tuple[str, ...] | None:
    """Return the names of fields, distinct and sorted; None for all fields.

    Raises:
        InvalidArgumentError: BAD_INDEX_FIELDS, with the position in the list: not the path of a
            field. OUT_OF_RANGE: too many.
    """
    if given is None:
        return None
    # A text is iterable, too: each of its letters would be a field.
    if isinstance(given, str | bytes | Mapping) or (fields := _listed(given)) is None:
        raise _bad(f"index_fields must be a list of fields such as ['lang'], got {shown(given)}")
    paths = {_path(field, f"index_fields[{at}]") for at, field in enumerate(fields)}
    check_limit(limits.INDEX_FIELDS, len(paths))
    return tuple(sorted(map(path_text, paths)))


def named_paths(config: CollectionConfig) -> frozenset[Path] | None:
    """Return the paths of the fields that a collection indexes; None for all within limits."""
    if config.index_fields is None:
        return None
    return frozenset(split_path(name, "index_fields") for name in config.index_fields)


def _listed(given: object) -> list[object] | None:
    """Return the elements; None if there are none to go through, as in an array of no axes."""
    if not isinstance(given, Iterable):
        return None
    try:
        return list(given)
    except TypeError:
        return None


def _path(field: object, place: str) -> Path:
    if not isinstance(field, str):
        raise _bad(f"{place}: expected a str such as 'author.name', got {shown(field)}")
    if field.startswith("$"):
        raise _bad(
            f"{place}: expected a field, got {shown(field)}; ids are always indexed, and a field "
            r"whose name begins with $ is written '\$name'"
        )
    try:
        field.encode()
        return split_path(str.__str__(field), place)
    except UnicodeEncodeError:
        raise _bad(f"{place}: a lone surrogate") from None
    except InvalidArgumentError as error:
        raise _bad(error.message) from None


def _bad(why: str) -> InvalidArgumentError:
    return InvalidArgumentError(why, Reason.BAD_INDEX_FIELDS)
