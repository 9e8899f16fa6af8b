"""The results of a search, as returned by the engine and the client alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from vecdb.json_objects import decode_metadata

__all__ = [
    "GroupValue",
    "Hit",
    "HitColumns",
    "HitGroup",
    "Hits",
    "RecallInfo",
    "SearchInfo",
    "SegmentPlan",
]


class RecallInfo(NamedTuple):
    """The recall@k to expect of a search: the share of the true k nearest rows that are returned.

    It is the average over queries like those that it was measured with.

    Attributes:
        expected: as measured when the graphs were built; 1 if every row was compared.
        lower: a lower bound: 2.33 standard errors below, and less for rows deleted since.
        target: what was asked for.
        rows: live rows that the search covered.
        queries: queries that each graph was measured with, the fewest; 0 if none was walked.
        measured_at: time of the oldest of these measurements, in seconds since 1970; None if none
            was used or it is unknown.
    """

    expected: float
    lower: float
    target: float
    rows: int
    queries: int
    measured_at: float | None


class SearchInfo(NamedTuple):
    """How a search was executed.

    Attributes:
        plan: "graph", "scan" or "graph+scan": how the segments and the memtable were searched.
        exact: True if every live row was compared, so that no nearer row can have been missed.
        ef: most candidates kept by a graph walk, 0 if no graph was walked.
        visited: vectors compared with the query.
        matches: live rows that could have been returned: all, or those that match the filter.
        seq: the searched state: it includes every batch up to this one and none after it.
        verified: True if the bytes of all segments used were compared with their checksums since
            this process opened their files, or were written since it opened the collection. False
            for a while after opening; then a result may be wrong if a segment is damaged.
        unindexed_rows: live rows that are not in a graph yet; each was compared with the query.
            A few thousand take no longer than a graph. If there are more for a long time, no
            indexer is running: call ``Collection.optimize``, or open the folder with
            ``optimize=True``.
        deleted_visited: deleted rows that the graph walk passed through.
        recall: what recall to expect; None if it is unknown: ef was given, or a graph was not
            measured, being small or of an earlier version.
        gated: rows that the graph walk passed through and could not return, as they do not match
            the filter or are deleted; 0 without a filter.
        explain: how each segment was searched, if that was asked for; else empty.
    """

    plan: str
    exact: bool
    ef: int
    visited: int
    matches: int
    seq: int
    verified: bool
    unindexed_rows: int = 0
    deleted_visited: int = 0
    recall: RecallInfo | None = None
    gated: int = 0
    explain: tuple[SegmentPlan, ...] = ()


class SegmentPlan(NamedTuple):
    """How a search went through one segment, or through rows that are in none. All are listed.

    Attributes:
        segment: its number; None for rows in no segment.
        way: "graph": its graph was walked; "sketches": its matching rows were compared by their
            sketches, and the nearest scored exactly; "matches": its matching rows were compared;
            "rows": all its rows were; "none": no row matches the filter.
        rows: how many it holds, deleted ones included.
        matches: live rows that could have been returned.
        costs_us: estimated microseconds for a query, of all ways that were possible; empty without
            a filter.
    """

    segment: int | None
    way: str
    rows: int
    matches: int
    costs_us: dict[str, float]


GroupValue: TypeAlias = bool | int | float | str


class Hit(NamedTuple):
    """One result of a search."""

    id: str
    distance: float
    metadata: dict[str, Any]


class Hits(Sequence[Hit]):
    """The results of one query, nearest first; ties are in the order in which rows were written.

    If they are grouped, all hits of the nearest group come first, then those of the next.

    Attributes:
        ids: list of str, length k, or fewer if the collection has fewer live rows.
        distances: float32, shape (len(ids),), ascending.
        metadata: list of dict, one per hit; empty if none is stored or it was not requested.
        vectors: float32, shape (len(ids), dim), bit for bit as given; None if not requested.
        info: SearchInfo.
    """

    __slots__ = ("_groups", "_metadata", "_raw_metadata", "distances", "ids", "info", "vectors")

    def __init__(
        self,
        ids: list[str],
        distances: npt.NDArray[np.float32],
        raw_metadata: Sequence[bytes] | None,
        vectors: npt.NDArray[np.float32] | None,
        info: SearchInfo,
        groups: Sequence[tuple[GroupValue, int]] | None = None,
    ) -> None:
        """Create the hits of a query.

        groups: value and number of hits of each group, if hits are grouped.
        """
        self.ids = ids
        self.distances = distances
        self.vectors = vectors
        self.info = info
        self._raw_metadata = raw_metadata
        self._metadata: list[dict[str, Any]] | None = None
        self._groups = groups

    @property
    def groups(self) -> list[HitGroup] | None:
        """The groups, nearest first by their nearest hit; None if hits are not grouped."""
        if self._groups is None:
            return None
        found, end = [], 0
        for value, count in self._groups:
            some, end = slice(end, end + count), end + count
            raw = None if self._raw_metadata is None else self._raw_metadata[some]
            vectors = None if self.vectors is None else self.vectors[some]
            hits = Hits(self.ids[some], self.distances[some], raw, vectors, self.info)
            found.append(HitGroup(value, hits))
        return found

    @property
    def group_sizes(self) -> Sequence[tuple[GroupValue, int]] | None:
        """Value and number of hits of each group; None if hits are not grouped."""
        return self._groups

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """Metadata as dicts; parsed on first access, since many callers need only ids."""
        if self._metadata is None:
            self._metadata = decode_metadata(self._raw_metadata, len(self.ids))
        return self._metadata

    @property
    def raw_metadata(self) -> Sequence[bytes] | None:
        """Metadata as stored: UTF-8 JSON per hit, empty for none; None if not requested."""
        return self._raw_metadata

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Hit(self.ids[index], float(self.distances[index]), self.metadata[index])

    def __iter__(self) -> Iterator[Hit]:
        for i in range(len(self.ids)):
            yield self[i]

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{i!r} {d:.4f}" for i, d in zip(self.ids[:5], self.distances[:5], strict=True)
        )
        more = ", …" if len(self) > 5 else ""
        return f"Hits({len(self)}: {shown}{more}; {self.info.plan}, seq {self.info.seq})"


class HitGroup(NamedTuple):
    """The hits of one query that have the same value in the field ``group_by``.

    Attributes:
        value: bool, int, float or str.
        hits: Hits, nearest first; at most ``group_size``.
    """

    value: GroupValue
    hits: Hits


class HitColumns(NamedTuple):
    """The results of all queries of a call as concatenated columns, as in the wire format.

    Attributes:
        counts: list of int, hits of each query. The columns below have sum(counts) entries.
        ids: list of str.
        distances: float32, shape (sum(counts),).
        raw_metadata: UTF-8 JSON per hit, empty for none; None if no hit has any.
        vectors: float32, shape (sum(counts), dim); None if not requested.
        info: SearchInfo of all queries, except for ``visited`` and ``deleted_visited``.
        visited: list of int, vectors compared with each query.
        deleted_visited: list of int, deleted rows that each query's walk passed through.
        gated: the same of ``SearchInfo.gated``; empty if there is no filter.
        infos: SearchInfo of each query if they differ, as each has a filter of its own; else empty.
        groups: for each query, value and number of hits of each group, if hits are grouped; else
            empty.
    """

    counts: list[int]
    ids: list[str]
    distances: npt.NDArray[np.float32]
    raw_metadata: Sequence[bytes] | None
    vectors: npt.NDArray[np.float32] | None
    info: SearchInfo
    visited: list[int]
    deleted_visited: list[int]
    gated: Sequence[int] = ()
    infos: Sequence[SearchInfo] = ()
    groups: Sequence[Sequence[tuple[GroupValue, int]]] = ()

    def hits(self) -> list[Hits]:
        """Return one ``Hits`` per query; its arrays are views, not copies."""
        ids, distances, raw, vectors = self.ids, self.distances, self.raw_metadata, self.vectors
        answers = []
        start = 0
        columns = zip(
            self.counts,
            self.visited,
            self.deleted_visited,
            self.gated or repeat(0),
            self.infos or repeat(self.info),
            self.groups or repeat(None),
            strict=False,
        )
        for count, visited, deleted, gated, info, groups in columns:
            end = start + count
            answers.append(
                Hits(
                    ids[start:end],
                    distances[start:end],
                    None if raw is None else raw[start:end],
                    None if vectors is None else vectors[start:end],
                    info._replace(visited=visited, deleted_visited=deleted, gated=gated),
                    groups,
                )
            )
            start = end
        return answers
