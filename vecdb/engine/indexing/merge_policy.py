"""The merge policy: which segments to merge into one graph next, a pure function of the segments.

After ``optimize`` or a bulk load there is one graph for the whole collection, or as few as the
limit on a segment's size allows, none with many deleted nodes. Otherwise a large graph may be
followed by smaller ones of newer rows, each a fraction of the size of the one before. Rewriting the
large graph for every few rows would multiply the bytes written to disk.
"""

from __future__ import annotations

from typing import Literal

from vecdb.engine.search.snapshots.snapshot import DELETED_FRACTION_MAX, SegmentSnapshot, is_clean
from vecdb.engine.segments.segment import padded_width

__all__ = ["GROUP_SEGMENTS_MAX", "Pace", "graph_row_bytes", "plan"]

Pace = Literal["writing", "pausing", "optimizing"]
"""Which work to do: what pays during writes, what pays in a pause between writes, or all of it."""

_MERGE_THRESHOLDS: dict[Pace, tuple[float, int]] = {
    "writing": (1 / 8, 4_000),
    "pausing": (1 / 32, 0),
}
"""Per pace: rows beside a graph, as a fraction of those in it, from which extending it pays, since
that rewrites the whole segment; and rows from which newer rows get a graph of their own before
that. Walking a graph costs about as much as scanning 2,500 rows."""

GROUP_SEGMENTS_MAX = 10
"""Most segments merged at a time. A flush cannot join segments that a merge has reserved, so this
limit leaves room for segments flushed during a merge (``segments/flushing.py``)."""

FLAT_SEGMENTS_MAX = 6
"""With more segments than this beside the graphs they are merged early."""


def graph_row_bytes(dim: int, M: int) -> int:
    """Return the approximate size of a row in a graph segment, in bytes."""
    return 4 * padded_width(dim) + 8 * M + 32


def plan(
    segments: tuple[SegmentSnapshot, ...],
    rows_max: int,
    *,
    pace: Pace,
    deleted_fraction_max: float = DELETED_FRACTION_MAX,
) -> list[SegmentSnapshot] | None:
    """Return the neighbouring segments to merge into one graph next; None if none pays.

    Args:
        segments: the live segments, by first row.
        rows_max: most live rows of a graph.
        pace: which work to do.
        deleted_fraction_max: a graph with a larger fraction of deleted nodes is rebuilt.
    """
    groups: list[list[SegmentSnapshot]] = []
    room = 0
    for segment in segments:
        if not groups or segment.live_count > room or len(groups[-1]) == GROUP_SEGMENTS_MAX:
            groups.append([])
            room = rows_max
        groups[-1].append(segment)
        room -= segment.live_count
    for group in groups:
        if len(group) == 1 and is_clean(group[0], deleted_fraction_max):
            continue
        paying = group if pace == "optimizing" else _paying(group, *_MERGE_THRESHOLDS[pace])
        if paying:
            return paying
    return None


def _paying(group: list[SegmentSnapshot], fraction: float, tier_rows: int) -> list[SegmentSnapshot]:
    """Return the trailing segments of a group that pay to merge; empty if none do.

    The whole group pays if the segments beside its largest graph have enough rows. Otherwise the
    same test is applied to the segments after that graph, and so on. So steady writing results in
    graphs that are each a fraction of the one before, and few rows in no graph.
    """
    least = 0
    while group:
        graphs = [i for i, segment in enumerate(group) if is_clean(segment)]
        largest = max(graphs, key=lambda i: group[i].live_count, default=None)
        inside = 0 if largest is None else group[largest].live_count
        outside = sum(s.live_count for s in group) - inside
        others = len(group) - (largest is not None)
        if others and outside >= max(least, fraction * inside):
            return group
        if largest is None:
            break
        least = tier_rows
        group = group[largest + 1 :]
    return group if len(group) > FLAT_SEGMENTS_MAX else []
