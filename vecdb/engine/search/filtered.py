"""Searches with filters: their units, and answers to queries of several filters.

Nodes that do not match are marked as deleted in the unit that is searched. So they are treated as
deleted ones are: walks pass through them, and k hits are returned if there are k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.filters.matching import Matcher, Selection
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.system.deadline import Deadline
from vecdb.filters import Filter, check_filter_count
from vecdb.types import GroupValue, HitColumns, SearchInfo

__all__ = ["Group", "Selected", "by_filter", "groups_of", "in_order", "select", "select_unit"]


class Selected(NamedTuple):
    """A unit of which only the rows that match are live.

    Attributes:
        unit: its delete bitmap also marks the nodes that do not match; its live ones all match.
        selection: what matches.
    """

    unit: SearchUnit
    selection: Selection


def select(
    matcher: Matcher, snapshot: Snapshot, filter: Filter, deadline: Deadline
) -> list[Selected]:
    """Return the units of a snapshot, those included of which nothing matches. Raises as
    ``matches_of``."""
    return [select_unit(matcher, snapshot, u, filter, deadline) for u in snapshot.units]


def select_unit(
    matcher: Matcher, snapshot: Snapshot, unit: SearchUnit, filter: Filter, deadline: Deadline
) -> Selected:
    """Return a unit of which only the rows that match are live. Raises as ``matches_of``."""
    selection = matcher.selection_of(snapshot, unit, filter, deadline)
    return Selected(
        replace(unit, delete_bitmap=selection.mask, live_count=selection.count), selection
    )


class Group(NamedTuple):
    """Queries of a call that have the same filter; places: int64, ascending, which queries."""

    filter: Filter
    places: npt.NDArray[np.int64]


def groups_of(given: Filter | Sequence[Filter] | None, queries: int) -> list[Group]:
    """Return the queries of a call by their filters; nothing without a filter.

    Args:
        given: a filter for all queries, or a list with one for each.

    Raises:
        InvalidArgumentError: BAD_FILTER: not one for each.
    """
    if given is None:
        return []
    if isinstance(given, Filter):
        return [Group(given, np.arange(queries))]
    check_filter_count(len(given), queries)
    places: dict[Filter, list[int]] = {}
    for place, filter in enumerate(given):
        places.setdefault(filter, []).append(place)
    return [Group(filter, np.array(some, np.int64)) for filter, some in places.items()]


def by_filter(
    queries: npt.NDArray[np.float32],
    groups: Sequence[Group],
    answer: Callable[[npt.NDArray[np.float32], Filter | None], HitColumns],
) -> HitColumns:
    """Return the answers to all queries; ``answer`` gets those of each group with their filter."""
    if not groups:
        return answer(queries, None)
    answered = []
    for filter, places in groups:
        some = queries if len(places) == len(queries) else queries[places]
        answered.append(answer(some, filter))
    return in_order(answered, [group.places for group in groups])


def in_order(answered: Sequence[HitColumns], places: Sequence[npt.NDArray[np.int64]]) -> HitColumns:
    """Return several answers, one at least, as one, in the order of the queries.

    places: for each answer int64, ascending, which queries it is for.
    """
    if len(answered) == 1:
        return answered[0]
    counts: dict[int, int] = {}
    spans: dict[int, tuple[int, int]] = {}
    groups: dict[int, Sequence[tuple[GroupValue, int]]] = {}
    infos: dict[int, SearchInfo] = {}
    numbers: dict[int, tuple[int, int, int]] = {}
    before = 0
    for columns, some in zip(answered, places, strict=True):
        each = zip(
            some.tolist(),
            columns.counts,
            columns.visited,
            columns.deleted_visited,
            columns.gated or repeat(0),
            columns.infos or repeat(columns.info),
            columns.groups or repeat(()),
            strict=False,
        )
        for place, count, visited, deleted, gated, info, grouped in each:
            counts[place], infos[place], groups[place] = count, info, grouped
            spans[place], before = (before, before + count), before + count
            numbers[place] = visited, deleted, gated
    order = [at for place in range(len(spans)) for at in range(*spans[place])]
    ids = [id for columns in answered for id in columns.ids]
    raw = [
        text for columns in answered for text in columns.raw_metadata or [b""] * len(columns.ids)
    ]
    vectors = [columns.vectors for columns in answered if columns.vectors is not None]
    return HitColumns(
        [counts[place] for place in range(len(counts))],
        [ids[at] for at in order],
        np.concatenate([columns.distances for columns in answered])[order],
        [raw[at] for at in order] if any(raw) else None,
        np.concatenate(vectors)[order] if vectors else None,
        answered[0].info,
        [numbers[place][0] for place in range(len(numbers))],
        [numbers[place][1] for place in range(len(numbers))],
        [numbers[place][2] for place in range(len(numbers))],
        [infos[place] for place in range(len(infos))],
        [groups[place] for place in range(len(groups))] if answered[0].groups else (),
    )
