"""What goes in and comes out: the same objects embedded and remote. numpy only, no engine, no
gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "BackupReport",
    "CollectionConfig",
    "CollectionDescription",
    "CollectionStats",
    "CompactionReport",
    "ExportEnd",
    "ExportReport",
    "Hit",
    "HitColumns",
    "Hits",
    "ImportReport",
    "IngestProgress",
    "Metric",
    "Receipt",
    "Records",
    "ScrollPage",
    "SearchInfo",
    "SegmentStats",
]


class Metric(str, Enum):
    """How far two vectors are apart; smaller is nearer under each.

    COSINE: 1 - cos(a, b), 0 to 2. EUCLIDEAN: ‖a - b‖, not its square. DOT: -a·b.
    """

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"
    DOT = "dot"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class CollectionConfig:
    """What is fixed when a collection is created.

    Attributes:
        dim: components of each vector.
        metric: how distances are measured.
        M: links a node of the graph keeps on its upper levels, twice as many on the lowest. More
            gives better recall for memory (8·M bytes a vector) and build time.
        ef_construction: candidates kept while a node is linked in; more gives a better graph and a
            slower build.
    """

    dim: int
    metric: Metric = Metric.COSINE
    M: int = 16
    ef_construction: int = 128


@dataclass(frozen=True)
class CollectionDescription:
    """A collection as ``list_collections`` shows it."""

    name: str
    config: CollectionConfig


@dataclass(frozen=True)
class Receipt:
    """The answer to a write that is on disk (fsynced) and visible to every later read.

    Attributes:
        seq: the batch's number in its collection; searches report the seq that they saw.
        count: rows upserted, or ids that were there and are deleted now.
        repeated: this is the stored answer to an earlier write with the same request id: this time
            nothing was written.
    """

    seq: int
    count: int
    repeated: bool = False


@dataclass(frozen=True)
class BackupReport:
    """What a backup or a restore has put on disk, all of it compared with its checksums.

    Attributes:
        path: the folder that was made, absolute.
        collections: how many are in it.
        rows: live rows of all of them.
        bytes: size of all files.
        elapsed_s: seconds that it took.
    """

    path: str
    collections: int
    rows: int
    bytes: int
    elapsed_s: float


@dataclass(frozen=True)
class ImportReport:
    """What came in from another library's index file.

    Attributes:
        collection: name of the collection that it went into.
        made: whether it was made for it.
        kind: what the file's library calls what is in it, "IndexIDMap2(IndexHNSWFlat)".
        rows: rows of the file that were written, or were there already bit for bit.
        skipped: rows of the file that are marked deleted in it.
        graph: "taken over"; or "to be built: " and why; or "there already", if its rows were.
        connected: nodes of the file's graph that no search could come to, and that were linked.
        seq: the collection's when the last of the rows were there.
        elapsed_s: seconds that it took.
        assumed: what neither file nor sidecar nor caller said and was taken to be so, or could not
            be as they said; a sentence each, for people.
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
    """What compacting a data folder has brought.

    Attributes:
        path: the folder, absolute.
        collections: how many are in it.
        bytes_before, bytes_after: size of all files.
        elapsed_s: seconds that it took.
    """

    path: str
    collections: int
    bytes_before: int
    bytes_after: int
    elapsed_s: float


class ExportEnd(NamedTuple):
    """What is known of an export when its last byte has gone out; see ``ExportReport``.

    Attributes:
        numbered: the rows have their ids as numbers, instead of being counted from 0.
        token: of a scroll at the export's seq, for ids and metadata in the order of its rows.
        config: of the collection; None if a server does not say it.
        normalized: vectors went out at unit length, not as they were given.
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
    """A file that a collection was exported to, fsynced, and what it took.

    Attributes:
        path: the file, absolute. side_path: the file beside it with each row's ``faiss_id`` (its
            number in the export), ``id`` and ``metadata`` (JSON text).
        rows: rows in it, all that were live at one seq. seq: that one.
        bytes: its size. sha256: of its bytes, in hexadecimal digits.
        work: what had to be done to the graph first: "nothing", "healed 1,234 dead" or "merged 3
            segments and 56 fresh rows", or such things one after the other.
        work_s: seconds that this took.
        elapsed_s: seconds for all of it.
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
    """How far ``upsert_many`` has come: only what was acknowledged counts.

    Attributes:
        rows: rows acknowledged, a prefix of the input.
        total: rows of the input where its length is known, else None.
        seq: seq of the last acknowledged batch, 0 before the first.
        elapsed_s: seconds since the call began.
    """

    rows: int
    total: int | None
    seq: int
    elapsed_s: float


class SearchInfo(NamedTuple):
    """The receipt of an answer: how it was found and what it rests on.

    Attributes:
        plan: "graph", "scan" or "graph+scan": which ways the parts of the collection were searched.
        exact: True if every live row was compared, so that no nearer row can have been missed.
        ef: candidates kept by the graph walk, 0 if no graph was walked.
        visited: vectors compared with the query.
        matches: live rows that could have been returned (all of them, as there is no filter).
        seq: every batch up to this one was seen, and none after it.
        verified: True if all bytes that it rests on are known to be those that were written:
            those of segments were compared with their checksums since the files were opened, or
            written meanwhile. False for a while after opening; the answer is as good as the bytes.
        unindexed_rows: live rows that are in no graph yet, so that each was compared with the
            query. Up to a few thousand take no longer than a graph. If there are more for long,
            no indexer is at work: call ``Collection.optimize``, or open the folder with
            ``optimize=True``.
        deleted_visited: deleted rows that the graph walk passed through.
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


class Hit(NamedTuple):
    """One row of ``Hits``."""

    id: str
    distance: float
    metadata: dict[str, Any]


class Hits(Sequence[Hit]):
    """The nearest rows of one query, nearest first; ties by the order in which rows were written.

    Attributes:
        ids: list of str, length k or fewer if fewer rows are live.
        distances: float32, shape (len(ids),), ascending.
        metadata: list of dict, one a hit; empty where nothing is stored or it was not asked for.
        vectors: float32, shape (len(ids), dim), bit for bit as given, or None if not asked for.
        info: SearchInfo.
    """

    __slots__ = ("_metadata", "_raw_metadata", "distances", "ids", "info", "vectors")

    def __init__(
        self,
        ids: list[str],
        distances: npt.NDArray[np.float32],
        raw_metadata: Sequence[bytes] | None,
        vectors: npt.NDArray[np.float32] | None,
        info: SearchInfo,
    ) -> None:
        self.ids = ids
        self.distances = distances
        self.vectors = vectors
        self.info = info
        self._raw_metadata = raw_metadata
        self._metadata: list[dict[str, Any]] | None = None

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """Parsed when first asked for, since many callers want only ids."""
        if self._metadata is None:
            self._metadata = decode_metadata(self._raw_metadata, len(self.ids))
        return self._metadata

    @property
    def raw_metadata(self) -> Sequence[bytes] | None:
        """Metadata as stored: UTF-8 JSON a hit, empty for none. None if it was not asked for."""
        return self._raw_metadata

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
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


class HitColumns(NamedTuple):
    """The answers to all queries of a call, laid end to end: so they are found and so they travel.

    Attributes:
        counts: list of int, hits of each query. The columns below have sum(counts) entries.
        ids: list of str.
        distances: float32, shape (sum(counts),).
        raw_metadata: UTF-8 JSON a hit, empty for none; None if no hit has any.
        vectors: float32, shape (sum(counts), dim), or None if not asked for.
        info: SearchInfo that holds for every query but for ``visited`` and ``deleted_visited``.
        visited: list of int, vectors compared with each query.
        deleted_visited: list of int, deleted rows that each query's walk passed through.
    """

    counts: list[int]
    ids: list[str]
    distances: npt.NDArray[np.float32]
    raw_metadata: Sequence[bytes] | None
    vectors: npt.NDArray[np.float32] | None
    info: SearchInfo
    visited: list[int]
    deleted_visited: list[int]

    def hits(self) -> list[Hits]:
        """One ``Hits`` a query; arrays are cut, not copied."""
        ids, distances, raw, vectors = self.ids, self.distances, self.raw_metadata, self.vectors
        answers = []
        start = 0
        columns = zip(self.counts, self.visited, self.deleted_visited, strict=True)
        for count, visited, deleted in columns:
            end = start + count
            answers.append(
                Hits(
                    ids[start:end],
                    distances[start:end],
                    None if raw is None else raw[start:end],
                    None if vectors is None else vectors[start:end],
                    self.info._replace(visited=visited, deleted_visited=deleted),
                )
            )
            start = end
        return answers


class Records:
    """What ``get`` found, in the order asked for, or one page of a scroll.

    Attributes:
        ids: list of str, those that are live.
        vectors: float32, shape (len(ids), dim), bit for bit as given (under cosine too); None for a
            scroll without vectors.
        metadata: list of dict; empty ones for a scroll without metadata.
        missing: list of str, asked for and not there; none in a scroll.
        seq: the seq at which this is the state.
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
        """Parsed when first asked for."""
        if self._metadata is None:
            self._metadata = decode_metadata(self._raw_metadata, len(self.ids))
        return self._metadata

    @property
    def raw_metadata(self) -> Sequence[bytes]:
        """Metadata as stored: UTF-8 JSON a record, empty for none."""
        return self._raw_metadata

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Records({len(self.ids)} found, {len(self.missing)} missing, seq {self.seq})"


class ScrollPage(NamedTuple):
    """Some rows of a collection as they were at one seq, and where the next ones begin.

    Attributes:
        records: ``Records``, by the order in which rows were added; may be empty in the last page.
        next_token: given to ``scroll_page`` for what comes next; None when that was all.
    """

    records: Records
    next_token: str | None


@dataclass(frozen=True)
class SegmentStats:
    """One segment of a collection.

    Attributes:
        number: its name on disk; never used again.
        kind: "flat" (scanned) or "graph" (walked).
        first_row, end_row: the interval of row numbers that it stands for, end excluded.
        rows: nodes in it. dead: nodes that have died since it was built.
        bytes: size of its files.
    """

    number: int
    kind: str
    first_row: int
    end_row: int
    rows: int
    dead: int
    bytes: int


@dataclass(frozen=True)
class CollectionStats:
    """The state of a collection at one seq.

    Attributes:
        live_count: rows that a search can return.
        seq: number of the last batch. generation: changes of the set of segments so far.
        next_row: rows ever added. sealed_to: rows below it are in segments, those above are fresh.
        fresh_rows: live rows that are in no segment. unindexed_rows: live rows in no graph, see
            ``SearchInfo``.
        store_bytes: size of the LMDB file on disk. segment_bytes: size of all segments.
        segments: list of SegmentStats, by first_row.
        indexer: what this process's indexer does: "idle", "building", "waiting after a crash"
            or "off", with details behind it.
        oldest_pin_seq: the oldest seq that a scroll under way holds; None without any.
        oldest_pin_expires_s: seconds until that scroll ends if it is asked for no further page.
        readers: open read transactions of all processes. oldest_reader_lag: commits since the
            oldest of them began; beside one that stays open the file grows.
        backlog_bytes: rows in no graph, as of the last write in this process.
        write_delay_s: what an upsert waits now, seconds, for the indexer to follow.
    """

    live_count: int
    seq: int
    generation: int
    next_row: int
    sealed_to: int
    fresh_rows: int
    unindexed_rows: int
    store_bytes: int
    segment_bytes: int
    indexer: str
    segments: list[SegmentStats] = field(default_factory=list)
    oldest_pin_seq: int | None = None
    oldest_pin_expires_s: float | None = None
    readers: int = 0
    oldest_reader_lag: int = 0
    backlog_bytes: int = 0
    write_delay_s: float = 0.0


def decode_metadata(raw: Sequence[bytes] | None, count: int) -> list[dict[str, Any]]:
    """Metadata as dicts from what is stored; ``raw`` None stands for ``count`` empty ones."""
    if raw is None:
        return [{} for _ in range(count)]
    return [json.loads(text) if text else {} for text in raw]
