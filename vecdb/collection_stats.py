"""The results of ``stats``: the state of a collection and of its segments, and its recall."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CollectionStats", "MeasuredRecall", "SegmentStats"]


@dataclass(frozen=True)
class MeasuredRecall:
    """The recall of a sample of real queries, each compared with an exact search.

    Attributes:
        measured: mean over the queries of recall@k, with the k that each asked for.
        low, high: two standard errors below and above.
        queries: number of queries.
        promised: mean of the recall that they asked for (``target_recall``).
    """

    measured: float
    low: float
    high: float
    queries: int
    promised: float


@dataclass(frozen=True)
class SegmentStats:
    """One segment of a collection.

    Attributes:
        number: its name on disk; never reused.
        kind: "flat" (scanned) or "graph" (walked).
        first_row, end_row: the interval of row numbers that it covers, end excluded.
        rows: rows in it. dead: those of them that were deleted after it was built.
        bytes: size of its files.
        codes: which codes of its rows searches may use, "sketch, 2 lines, 98 % explained; 8-bit
            codes" for example; "" if there are none.
        codes_left_out: why it has no codes, or which kind it lacks and why; "" if it lacks none,
            and for small flat segments.
        columns: which fields of its metadata are indexed, "2 fields: lang, year" for example; "" if
            it has no columns, so that filters read the records of its rows.
        columns_left_out: which fields are not indexed and why, or why it has no columns; "" if all
            are.
    """

    number: int
    kind: str
    first_row: int
    end_row: int
    rows: int
    dead: int
    bytes: int
    codes: str = ""
    codes_left_out: str = ""
    columns: str = ""
    columns_left_out: str = ""


@dataclass(frozen=True)
class CollectionStats:
    """The state of a collection at one seq.

    Attributes:
        live_count: rows that a search can return.
        seq: number of the last batch.
        generation: number of changes to the set of segments so far.
        next_row: number of the next row to add, which is the count of rows ever added.
        sealed_to: rows below it were flushed to segments; those from it on are in the memtable.
        fresh_rows: live rows in the memtable.
        unindexed_rows: live rows that are not in a graph, see ``SearchInfo``.
        store_bytes: size of the LMDB file on disk. segment_bytes: size of all segments.
        segments: list of SegmentStats, by first_row.
        indexer: state of this process's indexer: "idle", "building", "waiting after a crash" or
            "off", followed by details.
        oldest_pin_seq: the oldest seq with a snapshot lease (of an open scroll); None without one.
        oldest_pin_expires_s: seconds until that lease expires unless a page is requested.
        readers: open read transactions of all processes.
        oldest_reader_lag: commits since the oldest of them began; the file grows until it ends.
        backlog_bytes: size of the rows that are not in a graph, as of this process's last write.
        write_delay_s: delay of an upsert in seconds, by which the indexer can keep up.
        recall_hour, recall_day: recall that this process measured in the last hour and day; None
            if it measured nothing.
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
    recall_hour: MeasuredRecall | None = None
    recall_day: MeasuredRecall | None = None
