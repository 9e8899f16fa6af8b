"""The option ``--filter`` of commands: a filter as JSON text."""

from __future__ import annotations

from vecdb import json_objects
from vecdb.errors import InvalidArgumentError
from vecdb.filters import Filter, parse_filter
from vecdb.json_objects import NotJsonError
from vecdb.reasons import Reason

__all__ = ["read_filter"]

_EXAMPLE = """--filter '{"year": {"$gte": 2020}}'"""


def read_filter(text: str | None) -> Filter | None:
    """Return the filter of a command; None if the option is not given.

    Raises:
        InvalidArgumentError: BAD_FILTER; the text is not JSON, or not a filter.
    """
    if text is None:
        return None
    try:
        given = json_objects.decode(text.encode("utf-8", "surrogateescape"))
    except (NotJsonError, RecursionError) as error:
        what = "nests too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgumentError(
            f"--filter is not JSON: {what}; write it in single quotes, as in {_EXAMPLE}",
            Reason.BAD_FILTER,
        ) from None
    try:
        return parse_filter(given)
    except InvalidArgumentError as error:
        if '""' in text.replace(" ", ""):
            # What a shell leaves of "$gte" inside double quotes.
            hint = f"; if the shell removed a $..., use single quotes, as in {_EXAMPLE}"
            raise InvalidArgumentError(f"{error.message}{hint}", error.reason) from None
        raise
