"""What a filter from outside may hold: how much of it, which operands, and paths as text.

Part of ``vecdb.filters``. Both readers of filters use it: that of the form in Python, and that of
messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np

from vecdb import limits
from vecdb.errors import InvalidArgumentError
from vecdb.filter_nodes import Path, Scalar
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = ["Budget", "bad_filter", "path_text", "split_path"]

_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_INTEGER_ID_END: Final = 10**limits.ID_BYTES.maximum


def bad_filter(place: str, what: str) -> InvalidArgumentError:
    """Return the error of a filter that is not valid at a place."""
    return InvalidArgumentError(f"{place}: {what}", Reason.BAD_FILTER)


class Budget:
    """Counts terms, operands and bytes while a filter is read from untrusted input."""

    __slots__ = ("_bytes", "_operands", "_terms")

    def __init__(self) -> None:
        self._terms = limits.FILTER_TERMS_MAX
        self._operands = limits.FILTER_OPERANDS_MAX
        self._bytes = limits.FILTER_BYTES_MAX

    def enter(self, depth: int, place: str) -> None:
        """Check the depth of a filter inside a filter; the outermost one has depth 1."""
        if depth > limits.FILTER_DEPTH_MAX:
            raise bad_filter(place, f"nests deeper than {limits.FILTER_DEPTH_MAX} levels")

    def term(self, place: str, path: Path = ()) -> None:
        """Count a condition on the field at a path, or an empty object or list."""
        for key in path:
            self.text(key, place)
        self._terms -= 1
        if self._terms < 0:
            raise bad_filter(place, f"the filter has more than {limits.FILTER_TERMS_MAX} terms")

    def operands(self, count: int, place: str) -> None:
        """Count the operands in a list; a single one is not counted as a list."""
        self._operands -= count if count > 1 else 0
        if self._operands < 0:
            most = limits.FILTER_OPERANDS_MAX
            raise bad_filter(place, f"the lists of the filter have more than {most} values")

    def each(
        self, read: Callable[[Any, str], Any], values: Iterable[object], place: str
    ) -> tuple[Any, ...]:
        """Return the operands in a list at a place, as ``scalar`` or ``id`` reads each."""
        found: list[Any] = []
        try:
            for value in values:
                found.append(read(value, place))
        except InvalidArgumentError as error:
            # The place of each is not written unless it is needed, since lists may be long.
            text = f"{place}[{len(found)}]{error.message[len(place) :]}"
            raise InvalidArgumentError(text, error.reason) from None
        return tuple(found)

    def text(self, value: str, place: str) -> str:
        """Return a string as str, and count its bytes."""
        text = value if type(value) is str else str.__str__(value)
        if text.isascii():
            size = len(text)
        else:
            try:
                size = len(text.encode())
            except UnicodeEncodeError as error:
                code = ord(text[error.start])
                what = f"lone surrogate U+{code:04X} at character {error.start}"
                raise bad_filter(place, what) from None
        self._bytes -= size
        if self._bytes < 0:
            most = limits.FILTER_BYTES_MAX
            raise bad_filter(place, f"the strings of the filter have more than {most} bytes")
        return text

    def scalar(self, value: object, place: str, hint: str = "") -> Scalar:
        """Return an operand: null, a boolean, a number or a string."""
        if isinstance(value, str):
            return self.text(value, place)
        if value is None or value is True or value is False:
            return value
        if isinstance(value, np.bool_):
            return bool(value)
        if isinstance(value, int | np.integer):
            return _integer(int(value), place)
        if isinstance(value, float | np.floating):
            return _number(float(value), place)
        raise bad_filter(
            place, f"expected a string, a number, a boolean or null, got {_kind(value)}{hint}"
        )

    def ordered(self, value: object, place: str) -> int | float | str:
        """Return the operand of an order: a number or a string."""
        # A boolean is an int of Python, but not a number of JSON.
        if isinstance(value, bool) or not isinstance(
            value, str | int | float | np.integer | np.floating
        ):
            raise bad_filter(place, f"expected a number or a string, got {_kind(value)}")
        found = self.scalar(value, place)
        assert found is not None
        return found

    def id(self, value: object, place: str) -> str:
        """Return an id; an integer becomes its decimal text."""
        if isinstance(value, str):
            text = self.text(value, place)
        elif isinstance(value, int | np.integer) and not isinstance(value, bool):
            text = str(int(value)) if abs(int(value)) < _INTEGER_ID_END else ""
        else:
            text = self.prefix(value, place)
        size = len(text) if text.isascii() else len(text.encode())
        least, most = limits.ID_BYTES.minimum, limits.ID_BYTES.maximum
        if not least <= size <= most:
            raise bad_filter(place, f"{limits.ID_BYTES.name} must be {least} to {most}, got {size}")
        return text

    def prefix(self, value: object, place: str) -> str:
        """Return an operand that has to be a string."""
        if not isinstance(value, str):
            raise bad_filter(place, f"expected a string, got {_kind(value)}")
        return self.text(value, place)


def _integer(value: int, place: str) -> int:
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise bad_filter(place, f"integers have at most 64 bits in a filter, got {shown(value)}")
    return value


def _number(value: float, place: str) -> int | float:
    if not math.isfinite(value):
        raise bad_filter(place, f"expected a finite number, got {value}")
    if value.is_integer() and _INT64_MIN <= value < 2.0**63:
        return int(value)
    return value


def _kind(value: object) -> str:
    """Name the type of an operand in the words of JSON, or of Python if JSON has none."""
    if value is None:
        return "null"
    for types, name in _KINDS:
        if isinstance(value, types):
            return name
    return f"{shown(value)} ({type(value).__name__})"


_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    ((bool, np.bool_), "a boolean"),
    (str, "a string"),
    ((int, float, np.integer, np.floating), "a number"),
    (dict, "an object"),
    ((list, tuple, set, frozenset, np.ndarray), "a list"),
)


def split_path(text: str, place: str) -> Path:
    r"""Return the keys of a dotted path; ``\.``, ``\$`` and ``\\`` stand for the character."""
    if "\\" not in text:
        keys = text.split(".") if "." in text else [text]
    else:
        keys = [""]
        characters = iter(text)
        for each in characters:
            if each == ".":
                keys.append("")
                continue
            if each == "\\" and (each := next(characters, "")) not in (".", "$", "\\"):
                raise bad_filter(place, r"a backslash in a path stands before . or $ or \ only")
            keys[-1] += each
    if len(keys) > limits.METADATA_DEPTH.maximum:
        most = limits.METADATA_DEPTH.maximum
        raise bad_filter(place, f"a path has at most {most} keys, got {len(keys)}")
    return tuple(keys)


def path_text(path: Path) -> str:
    r"""Return the dotted form of a path, such as ``author.name``; the inverse of ``split_path``."""
    keys = [key.replace("\\", "\\\\").replace(".", "\\.") for key in path]
    if keys and keys[0].startswith("$"):
        keys[0] = "\\" + keys[0]
    return ".".join(keys)
