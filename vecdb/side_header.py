"""What the file beside an index says of the collection that went out: the header of a sidecar.

An index file says less than a collection knows: FAISS has inner products for dot and for cosine, a
flat index no graph parameters, hnswlib's file no metric. The header is JSON, each of its fields
optional:

    metric            cosine, euclidean or dot
    normalized        true: the index has the vectors at unit length, not as they were given
    dim               components of a vector
    M                 links of a node on the upper levels of the graph
    ef_construction   candidates kept while a node was linked in

It lies where readers of rows do not stumble over it, and where a sidecar without it is complete:

    Parquet      in the metadata of the table's schema, under ``KEY``
    JSON Lines   as one more field of the first row's object, called ``KEY``, so that there is still
                 a line a row. Of no rows, that object alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vecdb import checks, limits
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, Metric

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["KEY", "SideHeader"]

KEY: Final = "vecdb.collection"
"""Never change it: sidecars that were written have it."""


class SideHeader(NamedTuple):
    """The header; None for what it does not say."""

    metric: Metric | None = None
    normalized: bool | None = None
    dim: int | None = None
    M: int | None = None
    ef_construction: int | None = None

    @classmethod
    def of(cls, config: CollectionConfig, *, normalized: bool) -> Self:
        """The header of an export."""
        return cls(config.metric, normalized, config.dim, config.M, config.ef_construction)

    @classmethod
    def read(cls, found: Any) -> Self:
        """The header from its JSON. Fields that are not known here are passed over.

        Raises:
            InvalidArgumentError: it is no header.
        """
        if not isinstance(found, dict):
            raise InvalidArgumentError(
                f"{KEY} must be a JSON object, got {type(found).__name__}", Reason.BAD_META
            )
        known = {name: found.get(name) for name in cls._fields}
        normalized = known["normalized"]
        if normalized is not None and not isinstance(normalized, bool):
            raise InvalidArgumentError(
                f"{KEY}, normalized must be true or false, got {type(normalized).__name__}",
                Reason.BAD_META,
            )
        try:
            if known["metric"] is not None:
                known["metric"] = checks.check_metric(known["metric"])
            for limit in (limits.DIM, limits.M, limits.EF_CONSTRUCTION):
                if known[limit.name] is not None:
                    known[limit.name] = checks.check_limit(limit, known[limit.name])
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{KEY}, {error.message}", Reason.BAD_META) from None
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """What ``read`` reads."""
        return {name: value for name, value in self._asdict().items() if value is not None}
