"""Types of arguments and results, the same embedded and remote. They need numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.collection_stats import CollectionStats, MeasuredRecall, SegmentStats
from vecdb.facet_types import Facet, FacetValue, FieldInfo
from vecdb.json_objects import decode_metadata
from vecdb.search_types import (
    GroupValue,
    Hit,
    HitColumns,
    HitGroup,
    Hits,
    RecallInfo,
    SearchInfo,
    SegmentPlan,
)

__all__ = [
    "BackupReport",
    "CollectionConfig",
    "CollectionDescription",
    "CollectionStats",
    "CompactionReport",
    "ExportEnd",
    "ExportReport",
    "Facet",
    "FacetValue",
    "FieldInfo",
    "GroupValue",
    "Hit",
    "HitColumns",
    "HitGroup",
    "Hits",
    "ImportReport",
    "IngestProgress",
    "MeasuredRecall",
    "Metric",
    "RecallInfo",
    "Receipt",
    "Records",
    "ScrollPage",
    "SearchInfo",
    "SegmentPlan",
    "SegmentStats",
]


class Metric(str, Enum):
    """The distance between two vectors; for each metric, smaller is nearer.

    COSINE: 1 - cos(a, b), 0 to 2. EUCLIDEAN: ‖a - b‖, not its square. DOT: -a·b.
    """

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    DOT = "dot"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class CollectionConfig:
    """The settings of a collection; they cannot be changed after its creation.

    Attributes:
        dim: components of each vector.
        metric: the distance function.
        M: links per node on the upper levels of the graph, twice as many on the lowest. A larger M
            improves recall and costs memory (8·M bytes per vector) and build time.
        ef_construction: candidates kept while a node is linked. A larger value gives a better
            graph and a slower build.
        index_fields: paths of the fields of the metadata that are indexed, sorted; None for all
            within limits. Filters on others read the records of rows.
    """

    dim: int
    metric: Metric = Metric.COSINE
    M: int = 16
    ef_construction: int = 128
    index_fields: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CollectionDescription:
    """A collection as returned by ``list_collections``.

    Attributes:
        name: its current name.
        config: its settings.
        metadata: JSON for the caller's use; empty if there is none.
    """

    name: str
    config: CollectionConfig
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """The result of a write; it is on disk (fsynced) and visible to every later read.

    Attributes:
        seq: the number of the batch in its collection; searches report the seq that they saw.
        count: rows upserted, live ids deleted, or rows whose metadata changed. Of a dry run: how
            many rows the write would change.
        repeated: True if this is the stored result of an earlier write with the same request id;
            this call wrote nothing.
        skipped: ids of the batch that were left as they are: those that exist, of an upsert with
            ``on_existing="skip"``; those that do not exist, of ``set_metadata``.
    """

    seq: int
    count: int
    repeated: bool = False
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class BackupReport:
    """The result of a backup or a restore; all files were compared with their checksums.

    Attributes:
        path: the new folder, absolute.
        collections: number of collections in it.
        rows: live rows of all collections.
        bytes: size of all files.
        elapsed_s: duration in seconds.
    """

    path: str
    collections: int
    rows: int
    bytes: int
    elapsed_s: float


@dataclass(frozen=True)
class ImportReport:
    """The result of importing an index file of another library.

    Attributes:
        collection: name of the collection.
        made: True if the import created the collection.
        kind: the type of the index in its library, such as "IndexIDMap2(IndexHNSWFlat)".
        rows: rows of the file that were written, or that the collection held already bit for bit.
        skipped: rows that are marked deleted in the file.
        graph: "taken over"; or "to be built: " and the reason; or "there already", if the
            collection held the rows.
        connected: nodes of the file's graph that no search could reach, and that were linked.
        seq: seq of the collection once all rows were stored.
        elapsed_s: duration in seconds.
        assumed: settings that neither file nor sidecar nor caller specified, or that could not be
            used as specified; one sentence each, for people.
    """

    collection: str
    made: bool
    kind: str
    rows: int
    skipped: int
    graph: str
    connected: int
    seq: int
    elapsed_s: float
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompactionReport:
    """The result of compacting a data folder.

    Attributes:
        path: the folder, absolute.
        collections: number of collections in it.
        bytes_before, bytes_after: size of all files.
        elapsed_s: duration in seconds.
    """

    path: str
    collections: int
    bytes_before: int
    bytes_after: int
    elapsed_s: float


class ExportEnd(NamedTuple):
    """The trailer of an export, sent after its last byte; see ``ExportReport``.

    Attributes:
        numbered: True if the numbers of the rows are their ids; else they count from 0.
        token: token of a scroll at the export's seq; it returns ids and metadata in the order of
            the export's rows.
        config: configuration of the collection; None if the server does not send it.
        normalized: True if vectors were exported at unit length, not as they were given.
    """

    rows: int
    seq: int
    bytes: int
    sha256: str
    work: str
    work_s: float
    numbered: bool
    token: str
    config: CollectionConfig | None = None
    normalized: bool = False


@dataclass(frozen=True)
class ExportReport:
    """The result of an export; its files are fsynced.

    Attributes:
        path: the file, absolute.
        side_path: the sidecar with each row's ``faiss_id`` (its number in the export), ``id`` and
            ``metadata`` (JSON text).
        rows: rows in the file, all that were live at ``seq``.
        seq: the seq of the exported state.
        bytes: size of the file.
        sha256: SHA-256 of the file, in hexadecimal digits.
        work: work on the graph before the export, in words; "nothing" if none was needed.
        work_s: duration of that work in seconds.
        elapsed_s: total duration in seconds.
    """

    path: str
    side_path: str
    rows: int
    seq: int
    bytes: int
    sha256: str
    work: str
    work_s: float
    elapsed_s: float


@dataclass(frozen=True)
class IngestProgress:
    """The progress of ``upsert_many``; only acknowledged rows count.

    Attributes:
        rows: rows acknowledged, a prefix of the input.
        total: rows of the input, None if its length is not known.
        seq: seq of the last acknowledged batch, 0 before the first.
        elapsed_s: seconds since the call began.
        skipped: how many of ``rows`` were left as they are, with ``on_existing="skip"``.
    """

    rows: int
    total: int | None
    seq: int
    elapsed_s: float
    skipped: int = 0


class Records:
    """The result of ``get``, in the order of the request, or the rows of one page of a scroll.

    Attributes:
        ids: list of str, the live ones.
        vectors: float32, shape (len(ids), dim), bit for bit as given (under cosine too); None for a
            scroll without vectors.
        metadata: list of dict; each is empty for a scroll without metadata.
        missing: list of str, the requested ids that do not exist; empty in a scroll.
        seq: the seq of the state that was read.
    """

    __slots__ = ("_metadata", "_raw_metadata", "ids", "missing", "seq", "vectors")

    def __init__(
        self,
        ids: list[str],
        vectors: npt.NDArray[np.float32] | None,
        raw_metadata: Sequence[bytes],
        missing: list[str],
        seq: int,
    ) -> None:
        self.ids = ids
        self.vectors: Any = vectors
        self.missing = missing
        self.seq = seq
        self._raw_metadata = raw_metadata
        self._metadata: list[dict[str, Any]] | None = None

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """Metadata as dicts; parsed on first access."""
        if self._metadata is None:
            self._metadata = decode_metadata(self._raw_metadata, len(self.ids))
        return self._metadata

    @property
    def raw_metadata(self) -> Sequence[bytes]:
        """Metadata as stored: UTF-8 JSON per record, empty for none."""
        return self._raw_metadata

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Records({len(self.ids)} found, {len(self.missing)} missing, seq {self.seq})"


class ScrollPage(NamedTuple):
    """One page of a scroll: rows of a collection at one seq, and the token of the next page.

    Attributes:
        records: ``Records``, in the order in which rows were added; may be empty on the last page.
        next_token: argument of ``scroll_page`` for the next page; None on the last page.
    """

    records: Records
    next_token: str | None
