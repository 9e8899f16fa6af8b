"""Lossless JSON: encode and decode objects, and reject any value that would not round-trip.

``encode`` returns the UTF-8 text of a dict, ``decode`` reads a text from outside. Both reject, with
the path of the value as in ``a.b[2]``:

    NaN, infinity, and numbers too large for a float, such as 1e999
    integers with more digits than Python converts (``sys.get_int_max_str_digits``)
    lone surrogates, in strings and in keys: UTF-8 cannot encode them
    duplicate keys of an object
    keys that are not str (``json`` writes 1, True and None as "1", "true" and "null", which may
        collide with a key of that text), and values of a type that JSON does not have

Values that compare equal after the round trip are accepted: subclasses of str, int and float
(enumerations, numpy's float64) as their base class, tuples as lists, integers of any size, -0.0.
A number with more digits than a float holds is accepted: the text is stored unchanged, and readers
round it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from vecdb import limits

__all__ = ["NotJsonError", "check_comes_back", "decode", "decode_metadata", "encode", "is_flat"]

_PLAIN: Final = {str, int, float, bool, type(None)}
_KEYS: Final = {str}
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SHOWN_KEYS: Final = (int, float, bytes, type(None))
_SHOWN_MAX: Final = 40
_PATH_MAX: Final = 200

_DEPTH_MAX: Final = limits.METADATA_DEPTH.maximum + 1
"""Levels of objects and lists that are searched; one more than of metadata, for a line of JSON
Lines that contains the metadata."""


class NotJsonError(ValueError):
    """A value does not round-trip; the message begins with its path."""


def encode(entry: dict[object, object]) -> bytes:
    """Return the text of an object. Call ``check_comes_back`` next, once its depth is known.

    Raises:
        NotJsonError: the object cannot be encoded.
        RecursionError: the object is nested too deep to be encoded.
    """
    try:
        return _encode(entry).encode()
    except (RecursionError, TypeError, ValueError) as error:
        # The message of json does not contain the path.
        loss = next(_losses(entry, "", ()), None)
        if loss is None and isinstance(error, RecursionError):
            raise
        raise NotJsonError(loss or str(error)) from None


def check_comes_back(entry: dict[object, object]) -> None:
    """Check that decoding the text of ``encode`` returns an equal object.

    Raises:
        NotJsonError: it would not.
    """
    if _is_plain(entry):
        return  # Of plain types only; the encoder has already rejected the bad values among them.
    loss = next(_losses(entry, "", ()), None)
    if loss is not None:
        raise NotJsonError(loss)


def is_flat(entry: dict[object, object]) -> bool:
    """Return whether an object holds nothing but values of exact JSON types, in one level; the text
    of ``encode`` then comes back."""
    return (
        type(entry) is dict
        and _KEYS.issuperset(map(type, entry))
        and _PLAIN.issuperset(map(type, entry.values()))
    )


def _is_plain(value: object) -> bool:
    """Return whether all values are of exact JSON types: the common case, checked fast."""
    if type(value) is dict:
        if not _KEYS.issuperset(map(type, value)):
            return False
        inside: Any = value.values()
    elif type(value) is list:
        inside = value
    else:
        return False
    return _PLAIN.issuperset(map(type, inside)) or all(
        _is_plain(each) for each in inside if type(each) not in _PLAIN
    )


def decode(text: bytes) -> Any:
    """Return the value of a text in UTF-8.

    Raises:
        NotJsonError: the text is not JSON, or a value in it would not round-trip.
        RecursionError: the text is nested too deep to be decoded.
    """
    try:
        decoded = text.decode()
        # Valid UTF-8 contains no surrogates; only an escape can produce one.
        if not (b"\\u" in text and b"\\ud" in text.lower()):
            with contextlib.suppress(_LossError):
                return _DECODER.decode(decoded)
        found = _EXPLAINING_DECODER.decode(decoded)
    except UnicodeDecodeError as error:
        raise NotJsonError(f"byte {error.start} is not UTF-8: {error.reason}") from None
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    loss = next(_losses(found, "", ()), None)
    if loss is not None:
        raise NotJsonError(loss)
    return json.loads(decoded)


def decode_metadata(raw: Sequence[bytes] | None, count: int) -> list[dict[str, Any]]:
    """Decode stored metadata to dicts; None for ``raw`` gives ``count`` empty ones."""
    if raw is None:
        return [{} for _ in range(count)]
    # All texts as one array take a third of the time.
    with contextlib.suppress(ValueError):
        found = json.loads(b"[%b]" % b",".join([text or b"{}" for text in raw]))
        if len(found) == count:
            return list(found)
    return [json.loads(text) if text else {} for text in raw]


class _LossError(Exception):
    """A value would not round-trip; the explaining decoder then finds its path."""


class _BadNumber(str):
    """The text of a number that Python cannot represent."""

    __slots__ = ()


class _Pairs(list[tuple[str, Any]]):
    """The entries of an object, including duplicate keys."""


def _losses(value: object, path: str, above: tuple[int, ...]) -> Iterator[str]:
    """Yield a message for each value that would not round-trip, in the order of the text. Values
    below the maximum depth are skipped, since they are rejected anyway.

    Args:
        above: ``id()`` of each enclosing object and list, to detect cycles.
    """
    if isinstance(value, _BadNumber):
        yield _at(path, f"{_shown(value)} is a number that does not round-trip")
    elif isinstance(value, str):
        if found := _SURROGATE.search(value):
            yield _at(path, f"lone surrogate U+{ord(found[0]):04X} at character {found.start()}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield _at(path, f"expected a finite number, got {value}")
    elif isinstance(value, dict | list | tuple):
        if id(value) in above:
            yield _at(path, f"the {type(value).__name__} contains itself")
        elif len(above) < _DEPTH_MAX:
            within = (*above, id(value))
            if isinstance(value, _Pairs | dict):
                yield from _losses_in_object(value, path, within)
            else:
                yield from _losses_in_list(value, path, within)
    elif isinstance(value, int):
        try:
            json.dumps(value)
        except ValueError as error:
            yield _at(path, str(error))
    elif value is not None:
        yield _at(path, f"{type(value).__name__} is not a JSON type")


def _losses_in_list(entries: Iterable[object], path: str, above: tuple[int, ...]) -> Iterator[str]:
    for position, each in enumerate(entries):
        yield from _losses(each, f"{path}[{position}]", above)


def _losses_in_object(
    entries: _Pairs | dict[object, object], path: str, above: tuple[int, ...]
) -> Iterator[str]:
    seen: set[str] = set()
    for key, value in entries if isinstance(entries, _Pairs) else entries.items():
        if not isinstance(key, str):
            shown = f" {_shown(key)}" if isinstance(key, _SHOWN_KEYS) else ""
            yield _at(path, f"expected keys that are str, got {type(key).__name__}{shown}")
            continue
        if found := _SURROGATE.search(key):
            where = f"at character {found.start()}"
            yield _at(path, f"key {_shown(key)} has a lone surrogate {where}")
        text = str.__str__(key)  # The text itself, also of a member of an enumeration.
        if text in seen:
            yield _at(path, f"duplicate key {_shown(text)}")
        seen.add(text)
        yield from _losses(value, _joined(path, text), above)


def _joined(path: str, key: str) -> str:
    if not key.isidentifier():
        return f"{path}[{_shown(key)}]"
    return f"{path}.{key}" if path else key


def _at(path: str, what: str) -> str:
    if len(path) > _PATH_MAX:
        path = f"...{path[3 - _PATH_MAX :]}"
    return f"at {path}: {what}" if path else what


def _shown(value: object) -> str:
    try:
        text = repr(str.__str__(value) if isinstance(value, str) else value)
    except ValueError:  # An integer with too many digits.
        return "..."
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _LossError
    return number


def _finite_or_bad(text: str) -> float | _BadNumber:
    number = float(text)
    return _BadNumber(text) if math.isinf(number) else number


def _integer_or_bad(text: str) -> int | _BadNumber:
    try:
        return int(text)
    except ValueError:
        return _BadNumber(text)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _LossError from None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _LossError
    return found


def _refuse(name: str) -> None:
    raise _LossError


def _make_encoder() -> Callable[[object], str]:
    """Return the encoder. ``JSONEncoder.encode`` creates one in C for each object, which takes as
    long as encoding a few fields; without it (not CPython), it is used as it is.

    The one in C is not asked to look for objects that contain themselves: for these it raises
    RecursionError.
    """
    whole = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return whole.encode
    text_of, of_default = json.encoder.encode_basestring, whole.default
    pieces_of = make(None, of_default, text_of, None, ":", ",", False, False, False)
    return lambda entry: "".join(pieces_of(entry, 0))


# Created once: json.dumps and json.loads create an object at each call with options.
_encode = _make_encoder()
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite, parse_int=_integer, parse_constant=_refuse
)
_EXPLAINING_DECODER = json.JSONDecoder(
    object_pairs_hook=_Pairs,
    parse_float=_finite_or_bad,
    parse_int=_integer_or_bad,
    parse_constant=_BadNumber,
)
