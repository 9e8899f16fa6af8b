"""Hits in groups: the k nearest groups of rows that have the same value in a field.

A row belongs to the group of its value, or of each scalar in it if it is a list; rows without the
field, or with null or an object there, belong to none. Groups are ordered by their nearest row.

The nearest candidates give the nearest groups, and the nearest rows of each. If they give too few,
their number grows a few times. Then the rest is asked for by filters, which find what is far away
without all that lies between: first rows of other groups, as long as there are fewer than k; then
more rows of those groups that are not full. A filter that finds fewer rows than were asked for
shows that there are no more. So there are k groups whenever there are so many, and each is full if
it can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from vecdb.engine.search.call_bytes import GROUPED_BYTES, candidates_bytes, take_answer_memory
from vecdb.engine.search.hits import explained, info_of
from vecdb.engine.search.snapshots.lookup import read_records, read_vectors
from vecdb.engine.search.variants.candidates import Candidates, CandidateSearch, Places
from vecdb.engine.search.variants.group_values import GroupValues, Key
from vecdb.errors import InvalidArgumentError
from vecdb.filters import And, Contains, Exists, Filter, In, Node, Not, Path, distinct
from vecdb.types import GroupValue, HitColumns, SearchInfo

__all__ = ["grouped_hits"]

_FIRST_FACTOR, _FIRST_LEAST = 2, 32
"""Candidates of the first round: by how many hits are wanted, and at least."""

_GROWTH: Final = 4
"""Factor by which the number of candidates grows."""

_WIDEST_FACTOR, _WIDEST_LEAST = 8, 256
"""Most candidates before filters are used: by how many hits are wanted, and at least."""

_COUNTED_AT_ONCE: Final = 1_000
"""Rows in groups whose memory is reserved at once."""

_INT64_END: Final = 2**63

Place: TypeAlias = tuple[float, int]
"""Score and row: the order of hits."""


def grouped_hits(
    search: CandidateSearch,
    own_rows: Places,
    max_distance: float | None,
    path: Path,
    group_size: int,
) -> HitColumns:
    """Return the nearest groups of each query, ``wanted.k`` of them.

    Args:
        own_rows: rows that are never hits, int64, ascending.
        max_distance: rows that are farther belong to no group; None for no bound.
        path: of the field.
        group_size: most hits of a group.
    """
    values = GroupValues(search, path)
    queries = range(len(search.queries))
    found = [
        _Grouping(search, query, own_rows, max_distance, values, group_size) for query in queries
    ]
    for each in found:
        each.run()
    return _columns(search, found, search.matching(own_rows))


class _Grouping:
    """The groups of one query.

    Attributes:
        groups: key → hits, as place → distance.
        visited, passed: as in ``SearchInfo``, over all rounds.
        infos: of each round.
    """

    def __init__(
        self,
        search: CandidateSearch,
        query: int,
        own_rows: Places,
        max_distance: float | None,
        values: GroupValues,
        group_size: int,
    ) -> None:
        self._search, self._query, self._values = search, np.array([query]), values
        self._own_rows, self._max_distance = frozenset(own_rows.tolist()), max_distance
        self._k, self._size = search.wanted.k, group_size
        self._by_rows = len(own_rows)
        self.groups: dict[Key, dict[Place, float]] = {}
        self.visited = self.passed = 0
        self.infos: list[SearchInfo] = []

    def run(self) -> None:
        """Find the groups."""
        hits = self._k * self._size
        size = max(_FIRST_LEAST, _FIRST_FACTOR * hits) + self._by_rows
        widest = max(_WIDEST_LEAST, _WIDEST_FACTOR * hits) + self._by_rows
        while not self._add(size) and not self._are_full():
            size *= _GROWTH
            if size > widest and self._by_filters(size):
                return

    def best(self) -> list[tuple[GroupValue, list[tuple[Place, float]]]]:
        """Return the nearest groups with their nearest hits."""
        return [(key[1], sorted(self.groups[key].items())[: self._size]) for key in self._nearest()]

    def _nearest(self) -> list[Key]:
        return sorted(self.groups, key=lambda key: min(self.groups[key]))[: self._k]

    def _are_full(self) -> bool:
        nearest = self._nearest()
        full = all(len(self.groups[key]) >= self._size for key in nearest)
        return full and len(nearest) == self._k

    def _add(self, size: int, filter: Filter | None = None) -> bool:
        """Add the nearest rows, all or those that match, to their groups. Return whether these are
        all rows that there are."""
        search = self._search
        found = search.candidates(self._query, size, scans=search.scans(size), filter=filter)
        if found is None:
            self.infos += [] if self.infos else [search.nothing().info]
            return True
        results = found.results
        self.visited += sum(int(part.visited[0]) for part in results.parts)
        self.passed += sum(int(part.deleted[0]) for part in results.parts)
        info = info_of(search.snapshot, results.parts, results.plan)
        if search.wanted.explain:
            info = info._replace(explain=explained(results))
        if results.matching is not None and filter is None:
            info = info._replace(matches=results.matching)
        self.infos.append(info)
        count = len(found.rows)
        if self._max_distance is not None:
            count = int(found.distances.searchsorted(self._max_distance, side="right"))
        self._put(found, count)
        search.wanted.memory.release(candidates_bytes(search.snapshot, 1, size))
        return count < size

    def _put(self, found: Candidates, count: int) -> None:
        """Put the first candidates into their groups."""
        memory, new = self._search.wanted.memory, 0
        rows, scores = found.rows[:count].tolist(), found.best.scores[:count].tolist()
        distances = found.distances[:count].tolist()
        for row, score, distance, keys in zip(
            rows, scores, distances, self._values.of(found, count), strict=True
        ):
            if row in self._own_rows:
                continue
            for key in keys:
                group = self.groups.setdefault(key, {})
                new += (score, row) not in group
                group[score, row] = distance
            if new >= _COUNTED_AT_ONCE:
                memory.take(new * GROUPED_BYTES)
                new = 0
        memory.take(new * GROUPED_BYTES)

    def _by_filters(self, size: int) -> bool:
        """Find the missing groups, and then the missing hits, by filters. Return False if a filter
        can't express that."""
        while len(self.groups) < self._k:
            known = len(self.groups)
            all_keys = self._values.all_keys()
            if all_keys is None:
                others = self._filter(self._others(list(self.groups)), self.groups)
            elif rest := [key for key in all_keys if key not in self.groups]:
                others = self._filter(In(self._values.path, _operands(rest)), rest)
            else:
                break
            if others is None:
                return False
            if self._add(size, others):
                break
            size *= 1 if len(self.groups) > known else _GROWTH
        size = max(_FIRST_LEAST, _FIRST_FACTOR * self._k * self._size) + self._by_rows
        while True:
            short = [key for key in self._nearest() if len(self.groups[key]) < self._size]
            if not short:
                return True
            more = self._filter(In(self._values.path, _operands(short)), short)
            if more is None:
                return False
            if self._add(size, more):
                return True
            size *= _GROWTH

    def _others(self, keys: list[Key]) -> Node:
        """Return the condition of rows that may belong to other groups. If a row's field is a list,
        it may belong to both."""
        path, values = self._values.path, _operands(keys)
        of_these_alone = And((In(path, values), Not(Contains(path, values, False))))
        return And((Exists(path), Not(of_these_alone)))

    def _filter(self, node: Node, keys: Iterable[Key]) -> Filter | None:
        """Return a condition on the values of some keys, together with the search's filter; None if
        that is impossible."""
        given = self._search.filter
        if any(type(value) is int and abs(value) >= _INT64_END for _, value in keys):
            return None
        try:
            return Filter(node if given is None else And((given.root, node)))
        except InvalidArgumentError:
            return None  # It exceeds a limit.


def _operands(keys: list[Key]) -> tuple[Any, ...]:
    return distinct(key[1] for key in keys)


def _columns(search: CandidateSearch, found: Sequence[_Grouping], own_matching: int) -> HitColumns:
    """Return the hits of all queries, group after group."""
    counts, groups, places, distances = [], [], [], []
    for each in found:
        best = each.best()
        groups.append([(value, len(hits)) for value, hits in best])
        counts.append(sum(len(hits) for _, hits in best))
        for _, hits in best:
            places += [place[1] for place, _ in hits]
            distances += [distance for _, distance in hits]
    wanted, snapshot = search.wanted, search.snapshot
    take_answer_memory(snapshot, len(places), wanted, search.store.config.dim)
    records = read_records(
        search.store, places, snapshot.state.seq, search.deadline,
        wanted.memory if wanted.metadata else None,
    )  # fmt: skip
    infos = [_joined(each.infos, own_matching) for each in found]
    passed, nothing = [each.passed for each in found], [0] * len(found)
    gated = search.filter is not None
    return HitColumns(
        counts,
        [record.id for record in records],
        np.array(distances, np.float32),
        [record.metadata for record in records] if wanted.metadata else None,
        read_vectors(search.store, places, search.deadline) if wanted.vectors else None,
        infos[0] if infos else search.nothing().info,
        [each.visited for each in found],
        nothing if gated else passed,
        passed if gated else (),
        infos,
        groups,
    )


def _joined(infos: Sequence[SearchInfo], own_matching: int) -> SearchInfo:
    """Return one info for all rounds."""
    plans = {part for info in infos for part in info.plan.split("+")}
    return infos[0]._replace(
        plan="+".join(sorted(plans)),
        exact=all(info.exact for info in infos),
        ef=max(info.ef for info in infos),
        matches=infos[0].matches - own_matching,
    )
