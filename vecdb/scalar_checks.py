"""Validation of numbers and flags.

Part of ``vecdb.checks``, which re-exports these functions; the rest of vecdb imports them there.
"""

from __future__ import annotations

import numpy as np

from vecdb.errors import InvalidArgumentError
from vecdb.limits import Limit
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = ["check_flag", "check_flags", "check_limit"]


def check_limit(limit: Limit, value: object, name: str | None = None) -> int:
    """Return an integer within the limit. ``name`` is the argument's name if the limit has
    another."""
    if type(value) is int and limit.minimum <= value <= limit.maximum:
        return value
    name = name or limit.name
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidArgumentError(
            f"{name} must be an integer, got {shown(value)} ({type(value).__name__})",
            Reason.NOT_AN_INTEGER,
        )
    number = int(value)
    if not limit.minimum <= number <= limit.maximum:
        raise InvalidArgumentError(
            f"{name} must be {limit.minimum} to {limit.maximum}, got {shown(number)}",
            Reason.OUT_OF_RANGE,
        )
    return number


def check_flag(name: str, value: object) -> bool:
    """Return a flag given as True, False, 1 or 0."""
    if value is True or value is False:
        return value
    if isinstance(value, np.bool_) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise InvalidArgumentError(
        f"{name} must be True or False, got {shown(value)}", Reason.NOT_A_FLAG
    )


def check_flags(**given: object) -> dict[str, bool]:
    """Return several flags by name; see ``check_flag``."""
    return {name: check_flag(name, value) for name, value in given.items()}
