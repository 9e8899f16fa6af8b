"""What graph work a collection needs next: a pure function of its segments.

After ``optimize`` or a bulk load there is one graph for the whole collection, or as few as the cap
on a segment's size allows, none with many dead nodes. Otherwise there may be smaller ones to the
right of a large graph, each a fraction of the one before: writing the large one again for every few
rows would wear the disk out.
"""

from __future__ import annotations

from typing import Literal

from vecdb.engine.search.snapshot import DELETED_FRACTION_MAX, SegmentSnapshot, is_clean
from vecdb.engine.segments.segment import padded_width

__all__ = ["GROUP_SEGMENTS_MAX", "Pace", "graph_row_bytes", "plan"]

Pace = Literal["writing", "pausing", "optimizing"]
"""Work that pays while writes go on; work for a pause between them; all that can be done."""

_WORTH: dict[Pace, tuple[float, int]] = {"writing": (1 / 8, 4_000), "pausing": (1 / 32, 0)}
"""Rows beside a graph, as a fraction of those inside, at which extending it pays, as that writes
the whole segment again. Until then they get a graph of their own, from so many rows on: walking one
costs about what scanning 2,500 rows costs."""

GROUP_SEGMENTS_MAX = 10
"""Segments that are merged at once. What a merge has claimed can't be joined meanwhile, so that
this is what leaves room for what is sealed during a merge (``sealing.SEGMENTS_MAX``)."""

FLAT_SEGMENTS_MAX = 6
"""Segments beside the graphs past which they are merged even if it is early."""


def graph_row_bytes(dim: int, M: int) -> int:
    """About what a row takes in a graph segment."""
    return 4 * padded_width(dim) + 8 * M + 32


def plan(
    segments: tuple[SegmentSnapshot, ...],
    rows_max: int,
    *,
    pace: Pace,
    deleted_fraction_max: float = DELETED_FRACTION_MAX,
) -> list[SegmentSnapshot] | None:
    """The neighbours to make one graph of next; None if there is nothing to do.

    Args:
        segments: in place, by first row.
        rows_max: live rows that a graph may have.
        deleted_fraction_max: a graph with more dead nodes than this is built anew.
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
        paying = group if pace == "optimizing" else _paying(group, *_WORTH[pace])
        if paying:
            return paying
    return None


def _paying(group: list[SegmentSnapshot], fraction: float, tier_rows: int) -> list[SegmentSnapshot]:
    """The right part of a group whose merging pays; none if that is nothing.

    All of it if there is much beside its largest graph; otherwise the same is asked of what lies to
    the right of that, and so on. So steady writing leaves graphs that are each a fraction of the
    one before, and few rows in none.
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
