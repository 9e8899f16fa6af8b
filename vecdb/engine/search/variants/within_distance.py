"""Hits within a distance: the k nearest, or all.

To find all, k grows until the last candidate is farther than the distance, so that no other row can
be within. Where a walk for so many candidates would cost more than a scan, the rows are scanned.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.search.call_bytes import candidates_bytes, take_answer_memory
from vecdb.engine.search.filtered import in_order
from vecdb.engine.search.hits import Best, columns_of
from vecdb.engine.search.variants.candidates import Candidates, CandidateSearch, Places
from vecdb.errors import InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import HitColumns

__all__ = ["hits_within"]

_FIRST: Final = 64
_GROWTH: Final = 4
"""Candidates of the first round if all within a distance are wanted, and how they grow."""

_FIRST_SCANNED: Final = 1_024
"""The same for scans, and the least number once graphs are scanned."""


def hits_within(
    search: CandidateSearch, own_rows: Places, max_distance: float | None, first: int | None
) -> HitColumns:
    """Return the hits of each query that are within a distance.

    Args:
        own_rows: rows that are never hits, int64, ascending.
        max_distance: None for no bound.
        first: how many, the nearest; None for all, up to ``wanted.k``.
    """
    everything = np.arange(len(search.queries))
    visited, passed = np.zeros_like(everything), np.zeros_like(everything)
    answered: list[HitColumns] = []
    done: list[Places] = []
    own_matching = search.matching(own_rows)
    most = search.wanted.k + len(own_rows)
    to_do = [(everything, most if first is not None else min(most, _first_size(search)))]
    while to_do:
        pending, size = to_do.pop()
        at_once = max(1, limits.RESULTS_PER_CALL_MAX // size)
        if len(pending) > at_once:
            to_do.append((pending[at_once:], size))
            pending = pending[:at_once]
        scans = first is None and search.scans(size)
        candidates = search.candidates(pending, size, scans=scans)
        if candidates is None:
            return search.nothing()
        is_last = first is not None or size >= min(most, search.snapshot.live_count)
        is_done = _is_done(candidates, len(pending), size, max_distance) | is_last
        for part in candidates.results.parts:
            visited[pending] += part.visited
            passed[pending] += part.deleted
        if is_done.any():
            kept = ~np.isin(candidates.rows, own_rows) & is_done[candidates.owners]
            if max_distance is not None:
                kept &= candidates.distances <= max_distance
            columns = _columns(search, candidates, np.flatnonzero(is_done), np.flatnonzero(kept))
            places = pending[is_done]
            counted = visited[places].tolist(), passed[places].tolist()
            answered.append(_with_counts(columns, *counted, own_matching))
            done.append(places)
        if not is_done.all():
            larger = max(size * _GROWTH, _FIRST_SCANNED if search.scans(size * _GROWTH) else 0)
            to_do.append((pending[~is_done], min(most, larger)))
        search.wanted.memory.release(candidates_bytes(search.snapshot, len(pending), size))
    _check_results(answered)
    return in_order(answered, done)


def _first_size(search: CandidateSearch) -> int:
    return _FIRST_SCANNED if search.scans(_FIRST) else _FIRST


def _columns(
    search: CandidateSearch, candidates: Candidates, done: Places, places: Places
) -> HitColumns:
    """Return the first hits of some of the queries.

    Args:
        done: int64 (d,), ascending, the queries.
        places: int64, ascending, which candidates are hits.
    """
    owners = candidates.owners[places]
    ranks = np.arange(len(places)) - owners.searchsorted(owners)
    places = places[ranks < search.wanted.k]
    best, owners = candidates.best, done.searchsorted(candidates.owners[places])
    chosen = Best(
        best.scores[places],
        best.nodes[places],
        None if best.origins is None else best.origins[places],
        None if best.rows is None else best.rows[places],
        np.bincount(owners, minlength=len(done)),
    )
    take_answer_memory(search.snapshot, len(places), search.wanted, search.store.config.dim)
    return columns_of(
        search.store,
        search.snapshot,
        candidates.results,
        chosen,
        len(done),
        search.wanted,
        search.deadline,
    )


def _check_results(answered: list[HitColumns]) -> None:
    total = sum(len(columns.ids) for columns in answered)
    if total > limits.RESULTS_PER_CALL_MAX:
        raise InvalidArgumentError(
            f"the hits of all queries must be at most {limits.RESULTS_PER_CALL_MAX}, got {total}; "
            "search with fewer queries at once, or a smaller max_distance",
            Reason.TOO_MANY_RESULTS,
        )


def _with_counts(
    columns: HitColumns, visited: list[int], passed: list[int], own_matching: int
) -> HitColumns:
    """Return the answer with its counts over all rounds; ``own_matching``: examples that match."""
    info = columns.info._replace(matches=columns.info.matches - own_matching)
    columns = columns._replace(info=info, visited=visited)
    if columns.gated:
        return columns._replace(gated=passed)
    return columns._replace(deleted_visited=passed)


def _is_done(
    candidates: Candidates, count: int, size: int, max_distance: float | None
) -> npt.NDArray[np.bool_]:
    """Return for each query whether its candidates include all within a distance."""
    counts = candidates.best.counts
    is_done: npt.NDArray[np.bool_] = counts < size
    if max_distance is not None:
        ends = np.cumsum(counts)
        last = candidates.distances[ends[~is_done] - 1]
        is_done[~is_done] = last > max_distance
    return is_done
