"""The header of a sidecar: the configuration of the exported collection.

An index file holds less than a collection's configuration: FAISS stores the same metric (inner
product) for dot and cosine, a flat index has no graph parameters, hnswlib's file has no metric. The
header is JSON; each field is optional:

    metric            cosine, euclidean or dot
    normalized        true: the index has the vectors at unit length, not as they were given
    dim               components of a vector
    M                 links of a node on the upper levels of the graph
    ef_construction   candidates kept while a node was linked
    index_fields      fields of the metadata that are indexed; missing if all are
    target_recall     recall of searches that ask for none

It is stored where readers of rows ignore it, and where a sidecar without it is still complete:

    Parquet      in the metadata of the table's schema, under ``KEY``
    JSON Lines   as an extra field of the first row's object, named ``KEY``, so that the file still
                 has one line per row. Without rows, the file holds that object alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vecdb import checks, limits
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, Metric

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["KEY", "SidecarHeader"]

KEY: Final = "vecdb.collection"
"""Never change it: existing sidecars contain it."""


class SidecarHeader(NamedTuple):
    """The header; a field that it does not contain is None."""

    metric: Metric | None = None
    normalized: bool | None = None
    dim: int | None = None
    M: int | None = None
    ef_construction: int | None = None
    index_fields: tuple[str, ...] | None = None
    target_recall: float | None = None

    @classmethod
    def of(cls, config: CollectionConfig, *, normalized: bool) -> Self:
        """Return the header for an export of a collection with this configuration."""
        return cls(
            config.metric,
            normalized,
            config.dim,
            config.M,
            config.ef_construction,
            config.index_fields,
            config.target_recall,
        )

    @classmethod
    def read(cls, found: object) -> Self:
        """Return the header from its decoded JSON. Unknown fields are ignored.

        Raises:
            InvalidArgumentError: BAD_META: the value is not a valid header.
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
            known["index_fields"] = checks.check_index_fields(known["index_fields"])
            if known["target_recall"] is not None:
                known["target_recall"] = checks.check_target_recall(known["target_recall"])
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{KEY}, {error.message}", Reason.BAD_META) from None
        return cls(**known)

    def as_json(self) -> dict[str, object]:
        """Return the header as a dict that ``read`` accepts."""
        return {name: value for name, value in self._asdict().items() if value is not None}
