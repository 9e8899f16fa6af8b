"""The results of ``facet`` and ``fields``: what the metadata of rows say."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Facet", "FacetValue", "FieldInfo"]


class FacetValue(NamedTuple):
    """A value of a field, and the number of rows that ``{field: value}`` matches."""

    value: bool | int | float | str | None
    rows: int


class Facet(NamedTuple):
    """The result of ``facet``.

    Attributes:
        values: list of FacetValue, the most frequent first; of equal counts in the order null,
            booleans, numbers, strings.
        distinct: number of different values, more than ``values`` if the limit was lower.
        rows: rows that match the filter; all live rows without one.
        seq: the state that was read.
    """

    values: list[FacetValue]
    distinct: int
    rows: int
    seq: int


class FieldInfo(NamedTuple):
    """A field of the metadata of a collection's rows.

    Attributes:
        name: its path as in filters, such as "author.name".
        rows: rows that have it.
        types: type → number of values: "null", "boolean", "integer", "double", "string", "list",
            "object". The elements of a list count, too.
        distinct: number of different values; None if there are more than 10,000.
    """

    name: str
    rows: int
    types: dict[str, int]
    distinct: int | None
