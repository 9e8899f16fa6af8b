"""The settings of an import's collection, from file, sidecar, caller and existing collection.

If two sources disagree, the import is refused with both values, since one of them would be ignored.
A setting that no source has gets a default; the report lists those of the graph. An existing
collection keeps its M and ef_construction, as these only affect how graphs are built, and its
index_fields and target_recall, which say how it is searched.
"""

from __future__ import annotations

from typing import Any

from vecdb import limits
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex, Lengths
from vecdb.errors import InvalidArgumentError
from vecdb.limits import Limit
from vecdb.reasons import Reason
from vecdb.sidecar_header import SidecarHeader
from vecdb.types import CollectionConfig, Metric

__all__ = ["Settings"]


class Settings:
    """The settings that an import uses.

    Args:
        index: the parsed file.
        name: name of the collection. existing: its configuration, None if it does not exist.
        wanted: the metric that the caller gave, or None.
        header: the header of the sidecar. side: name of the sidecar in messages, None without one.

    Attributes:
        metric: the collection's metric.

    Raises:
        InvalidArgumentError: DIM_MISMATCH, METRIC_MISMATCH, CONFIG_MISMATCH: two sources differ.
            BAD_METRIC: no source has the metric.
    """

    def __init__(
        self,
        index: ForeignIndex,
        name: str,
        existing: CollectionConfig | None,
        wanted: Metric | None,
        header: SidecarHeader,
        side: str | None,
    ) -> None:
        self._index, self._existing, self._header, self._side = index, existing, header, side
        self._check_dim(name)
        self._called = index.rows.file.called
        given = _agreed(
            Reason.METRIC_MISMATCH,
            "metric",
            (f"collection {name} has", existing and existing.metric),
            ("the caller gave", wanted),
            (f"{side} has", header.metric),
        )
        self._metric_is_given = given is not None
        by = "" if existing or wanted or given is None else f" in {side}"
        self.metric = index.metric_for(given, by)
        sources = f"{side} has", f"the graph in {self._called} has"
        for what, of_side, of_file in (
            ("M", header.M, index.M),
            ("ef_construction", header.ef_construction, index.ef_construction),
        ):
            _agreed(Reason.CONFIG_MISMATCH, what, (sources[0], of_side), (sources[1], of_file))

    def _check_dim(self, name: str) -> None:
        index, header = self._index, self._header
        if self._existing is not None and self._existing.dim != index.dim:
            raise InvalidArgumentError(
                f"collection {name} has {self._existing.dim} dimensions, the file {index.dim}",
                Reason.DIM_MISMATCH,
            )
        if header.dim not in (None, index.dim):
            raise InvalidArgumentError(
                f"{self._side} has {header.dim} dimensions, the file has {index.dim}",
                Reason.DIM_MISMATCH,
            )

    def check_lengths(self, lengths: Lengths) -> None:
        """Check that the lengths of the vectors fit the metric and the sidecar.

        Raises:
            InvalidArgumentError: METRIC_MISMATCH: a vector's length does not fit; BAD_FILE: a
                vector is zero.
        """
        self._index.check_lengths(self.metric, lengths)
        if self._header.normalized and not lengths.unit:
            raise InvalidArgumentError(
                f"{self._side} has normalized true, which needs vectors of length 1; row "
                f"{lengths.oddest_row} of {self._called} has length {lengths.oddest:.6g}",
                Reason.METRIC_MISMATCH,
            )

    @property
    def M(self) -> int:
        """The collection's M."""
        return self._of_graph(limits.M, self._index.M, self._header.M)

    @property
    def ef_construction(self) -> int:
        """The collection's ef_construction."""
        return self._of_graph(
            limits.EF_CONSTRUCTION, self._index.ef_construction, self._header.ef_construction
        )

    def _of_graph(self, limit: Limit, of_file: int | None, of_side: int | None) -> int:
        if self._existing is not None:
            return int(getattr(self._existing, limit.name))
        assert limit.default is not None
        given = of_file or of_side or limit.default
        # Other libraries allow values outside of our limits.
        return min(max(given, limit.minimum), limit.maximum)

    @property
    def index_fields(self) -> tuple[str, ...] | None:
        """The collection's index_fields."""
        return (self._existing or self._header).index_fields

    @property
    def target_recall(self) -> float | None:
        """The collection's target_recall; None for the default."""
        return (self._existing or self._header).target_recall

    def assumed(self, lengths: Lengths) -> tuple[str, ...]:
        """Return the settings that were assumed or changed, one sentence each, for people."""
        found = [] if self._side else ["ids are the file's numbers, without metadata: no sidecar"]
        if self._index.measure == "inner product" and not self._metric_is_given:
            found.append(f"metric {self.metric}: the file has inner product")
            if lengths.unit and self._index.count:
                found[-1] += ", but all vectors have length 1, so it may have been cosine"
        for limit, of_file, of_side, now in (
            (limits.M, self._index.M, self._header.M, self.M),
            (
                *(limits.EF_CONSTRUCTION, self._index.ef_construction),
                *(self._header.ef_construction, self.ef_construction),
            ),
        ):
            given = of_file or of_side
            if self._existing is not None and given not in (None, now):
                found.append(f"{limit.name} {now} of the collection, not the file's {given}")
            elif self._existing is None and given is None:
                found.append(f"{limit.name} {now}: the file has no graph")
            elif self._existing is None and given != now:
                found.append(f"{limit.name} {now}: the file's {given} is out of range")
        for name in ("index_fields", "target_recall"):
            given, kept = getattr(self._header, name), getattr(self, name)
            if given not in (None, kept):
                what = f"{_shown(kept)} of the collection, not the sidecar's {_shown(given)}"
                found.append(f"{name} {what}")
        return tuple(found)


def _shown(setting: tuple[str, ...] | float | None) -> str:
    return str(list(setting) if isinstance(setting, tuple) else setting)


def _agreed(reason: str, name: str, *sources: tuple[str, Any]) -> Any:
    """Return the value that all sources with a value agree on, or None if none has one.

    Args:
        sources: the beginning of a sentence that names the source, and its value or None.

    Raises:
        InvalidArgumentError: two values differ; both are in the message.
    """
    known = [(source, value) for source, value in sources if value is not None]
    for source, value in known[1:]:
        if value != known[0][1]:
            raise InvalidArgumentError(
                f"{known[0][0]} {name} {known[0][1]}, but {source} {name} {value}", reason
            )
    return known[0][1] if known else None
