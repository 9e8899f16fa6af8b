"""Types of arguments, for type checkers. At run time ``vecdb.checks`` accepts more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vecdb.filters import Filter

__all__ = [
    "Array",
    "Column",
    "FilterLike",
    "Ids",
    "Metadata",
    "MetadataEntry",
    "Patch",
    "StrPath",
    "Vector",
    "Vectors",
]

Array: TypeAlias = npt.NDArray[np.generic]


class Column(Protocol):
    """A column of pandas, Arrow or polars."""

    def to_numpy(self) -> Array:
        """Return the column as an array."""


StrPath: TypeAlias = str | os.PathLike[str]
Ids: TypeAlias = Iterable[str | int] | Array | Column
Vector: TypeAlias = Sequence[float] | Array
Vectors: TypeAlias = Vector | Sequence[Sequence[float]] | Sequence[Array] | Column
MetadataEntry: TypeAlias = Mapping[str, object] | None
Metadata: TypeAlias = Sequence[MetadataEntry]
FilterLike: TypeAlias = Mapping[str, object] | Filter
Patch: TypeAlias = Mapping[str, object] | Sequence[MetadataEntry] | Sequence[str | Sequence[str]]
