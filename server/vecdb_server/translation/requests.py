"""What all requests share: reserved fields, and numbers of enums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from vecdb.errors import InvalidArgumentError, UnsupportedError
from vecdb.reasons import Reason

__all__ = ["enum_value", "refuse_reserved"]


class _Reserving(Protocol):
    namespace: str

    def HasField(self, field_name: Any) -> bool: ...


def refuse_reserved(request: _Reserving, *fields: str) -> None:
    """Reject fields of the contract that are not implemented yet, rather than ignore them.

    Raises:
        UnsupportedError: a reserved field is set.
    """
    if request.namespace:
        raise _reserved("namespace")
    for field in fields:
        if request.HasField(field):
            raise _reserved(field)


def _reserved(field: str) -> UnsupportedError:
    return UnsupportedError(f"{field} is reserved and not supported yet", Reason.RESERVED)


Value = TypeVar("Value")


def enum_value(table: Mapping[int, Value], given: int, field: str, reason: Reason) -> Value:
    """Return what a number of an enum stands for.

    Args:
        field: of the request, for the message.

    Raises:
        InvalidArgumentError: with the reason: a number that this server does not know.
    """
    found = table.get(int(given))
    if found is None:
        known = ", ".join(f"{number} ({name})" for number, name in table.items())
        raise InvalidArgumentError(f"{field} must be one of {known}, got {int(given)}", reason)
    return found
