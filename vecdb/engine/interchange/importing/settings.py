"""How the collection of an import is set up: what file, sidecar, caller and collection say of it.

What two of them say differently is refused with both values, since one of them would be ignored.
What none of them says is assumed, and told in the report. Of a collection that is there its own M
and ef_construction stay, as they only say how graphs are built.
"""

from __future__ import annotations

from typing import Any

from vecdb import limits
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex, Lengths
from vecdb.errors import InvalidArgumentError
from vecdb.limits import Limit
from vecdb.reasons import Reason
from vecdb.side_header import SideHeader
from vecdb.types import CollectionConfig, Metric

__all__ = ["Settings"]


class Settings:
    """What an import was told.

    Args:
        name: of the collection. there: its configuration, None if it is to be made.
        wanted: the metric that the caller gave, or None.
        header: of the sidecar. side: what messages call that; None if there is none.

    Raises:
        InvalidArgumentError: DIM_MISMATCH, METRIC_MISMATCH, CONFIG_MISMATCH: they differ.
            BAD_METRIC: none says the metric.
    """

    def __init__(
        self,
        index: ForeignIndex,
        name: str,
        there: CollectionConfig | None,
        wanted: Metric | None,
        header: SideHeader,
        side: str | None,
    ) -> None:
        self._index, self._there, self._header, self._side = index, there, header, side
        self._check_dim(name)
        self._called = index.rows.file.called
        told = _agreed(
            Reason.METRIC_MISMATCH,
            "metric",
            (f"collection {name} has", there and there.metric),
            ("the caller gave", wanted),
            (f"{side} says", header.metric),
        )
        self._metric_is_told = told is not None
        by = "" if there or wanted or told is None else f", which {side} says"
        self.metric = index.metric_for(told, by)
        """Of the collection."""
        sources = f"{side} says", f"the graph in {self._called} has"
        for what, of_side, of_file in (
            ("M", header.M, index.M),
            ("ef_construction", header.ef_construction, index.ef_construction),
        ):
            _agreed(Reason.CONFIG_MISMATCH, what, (sources[0], of_side), (sources[1], of_file))

    def _check_dim(self, name: str) -> None:
        index, header = self._index, self._header
        if self._there is not None and self._there.dim != index.dim:
            raise InvalidArgumentError(
                f"collection {name} has {self._there.dim} dimensions, the file {index.dim}",
                Reason.DIM_MISMATCH,
            )
        if header.dim not in (None, index.dim):
            raise InvalidArgumentError(
                f"{self._side} says {header.dim} dimensions, the file has {index.dim}",
                Reason.DIM_MISMATCH,
            )

    def check_lengths(self, lengths: Lengths) -> None:
        """The vectors are as long as they should be.

        Raises:
            InvalidArgumentError: METRIC_MISMATCH: one is not; BAD_FILE: one is zero.
        """
        self._index.check_lengths(self.metric, lengths)
        if self._header.normalized and not lengths.unit:
            raise InvalidArgumentError(
                f"{self._side} says that vectors are normalized to length 1, row "
                f"{lengths.oddest_row} of {self._called} has length {lengths.oddest:.6g}",
                Reason.METRIC_MISMATCH,
            )

    @property
    def M(self) -> int:
        """Of the collection."""
        return self._of_graph(limits.M, self._index.M, self._header.M)

    @property
    def ef_construction(self) -> int:
        """Of the collection."""
        return self._of_graph(
            limits.EF_CONSTRUCTION, self._index.ef_construction, self._header.ef_construction
        )

    def _of_graph(self, limit: Limit, of_file: int | None, of_side: int | None) -> int:
        if self._there is not None:
            return int(getattr(self._there, limit.name))
        assert limit.default is not None
        told = of_file or of_side or limit.default
        # What the file was built with may be less or more than is allowed here.
        return min(max(told, limit.minimum), limit.maximum)

    def assumed(self, lengths: Lengths) -> tuple[str, ...]:
        """What nobody said, or had to be changed; for people."""
        found = [] if self._side else ["ids are the file's numbers, without metadata: no sidecar"]
        if self._index.measure == "inner product" and not self._metric_is_told:
            found.append(f"metric {self.metric}: the file says inner product")
            if lengths.unit and self._index.count:
                found[-1] += ", and all its vectors have length 1, as if it had been cosine"
        for limit, of_file, of_side, now in (
            (limits.M, self._index.M, self._header.M, self.M),
            (
                *(limits.EF_CONSTRUCTION, self._index.ef_construction),
                *(self._header.ef_construction, self.ef_construction),
            ),
        ):
            told = of_file or of_side
            if self._there is not None and told not in (None, now):
                found.append(f"{limit.name} {now} of the collection, not the file's {told}")
            elif self._there is None and told is None:
                found.append(f"{limit.name} {now}: the file has no graph")
            elif self._there is None and told != now:
                found.append(f"{limit.name} {now}: the file's {told} is not allowed here")
        return tuple(found)


def _agreed(reason: str, what: str, *said: tuple[str, Any]) -> Any:
    """What all sources say that say something; None if none does.

    Args:
        said: who says it, as a sentence begins, and what, or None.
    """
    known = [(source, value) for source, value in said if value is not None]
    for source, value in known[1:]:
        if value != known[0][1]:
            raise InvalidArgumentError(
                f"{known[0][0]} {what} {known[0][1]}, {source} {what} {value}", reason
            )
    return known[0][1] if known else None
