"""Reads the HNSW graph of a FAISS file as a ``Graph`` and checks every link.

The tables must be those of a graph with M links on the upper levels and 2M on level 0, as FAISS
builds it. Checked is what walks, and hnswlib when it extends the graph, rely on: neighbours are
nodes that reach the level of the list, and the entry point is on the highest level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.interchange.faiss import layout
from vecdb.engine.interchange.untrusted_file import UntrustedFile

__all__ = ["GraphFields", "read_graph", "read_graph_fields"]

_LEVELS_MAX: Final = 64
"""Maximum number of levels; a higher one has probability 2**-64 even at M = 2."""

_LINKS_MAX: Final = 2**31 - 1
_PIECE_LINKS: Final = 1024**2


@dataclass(frozen=True)
class GraphFields:
    """Byte offsets (``…_at``) of a graph's large parts, sizes checked, and its small fields."""

    M: int
    cum: npt.NDArray[np.int64]
    levels_at: int
    offsets_at: int
    neighbors_at: int
    neighbors: int
    end_at: int
    entry_point: int
    max_level: int
    ef_construction: int


def read_graph_fields(file: UntrustedFile, n: int) -> GraphFields:
    """Skip the graph of an index of n vectors and check every size."""
    _section(file, 8, None, "assign_probas")
    cum_at, count = _section(file, 4, None, "cum_nneighbor_per_level")
    if not 2 <= count <= _LEVELS_MAX + 1:
        what = f"expected 2 to {_LEVELS_MAX + 1} entries, got {count}"
        raise file.wrong(cum_at - 8, "cum_nneighbor_per_level", what)
    cum = file.array(cum_at, "<i4", count, "cum_nneighbor_per_level").astype(np.int64)
    M = _links_per_level(file, cum_at, cum)
    levels_at, _ = _section(file, 4, n, "levels")
    offsets_at, _ = _section(file, 8, n + 1, "offsets")
    neighbors_at, neighbors = _section(file, 4, None, "neighbors")
    end_at = file.position
    entry_point, max_level, ef_construction, _, _ = file.take(layout.GRAPH_END, "entry_point")
    if not n and (entry_point, max_level, neighbors) != (-1, -1, 0):
        what = (
            "expected entry_point -1, max_level -1 and no neighbors without a vector, "
            f"got {entry_point}, {max_level} and {neighbors}"
        )
        raise file.wrong(end_at, "entry_point", what)
    if ef_construction < 1:
        what = f"expected 1 or more, got {ef_construction}"
        raise file.wrong(end_at + 8, "efConstruction", what)
    return GraphFields(
        M,
        cum,
        levels_at,
        offsets_at,
        neighbors_at,
        neighbors,
        end_at,
        entry_point,
        max_level,
        ef_construction,
    )


def _section(
    file: UntrustedFile, item_bytes: int, count: int | None, field: str
) -> tuple[int, int]:
    """Skip a vector; return the byte offset and number of its items.

    Args:
        count: the expected number of items, or None.
    """
    at = file.position
    (found,) = file.take(layout.COUNT, f"count of {field}")
    if count is not None and found != count:
        raise file.wrong(at, f"count of {field}", f"expected {count}, got {found}")
    return file.skip(found, item_bytes, field), found


def _links_per_level(file: UntrustedFile, at: int, cum: npt.NDArray[np.int64]) -> int:
    """Return M, from a table that must rise by 2M and then by M each."""
    field = "cum_nneighbor_per_level"
    steps = np.diff(cum)
    M = int(steps[0]) // 2
    wanted = np.concatenate([[0, 2 * M], 2 * M + M * np.arange(1, len(steps))])
    wrong = np.flatnonzero(cum != wanted)
    if len(wrong):
        level = int(wrong[0])
        what = (
            f"expected {wanted[level]} at entry {level} for 2M neighbours on level 0 and M above, "
            f"got {cum[level]}; if the index used set_nb_neighbors, write index.storage (the "
            "vectors) and import that file"
        )
        raise file.wrong(at + 4 * level, field, what)
    if not limits.M.minimum <= M <= limits.M.maximum:
        what = f"expected M {limits.M.minimum} to {limits.M.maximum}, got {M}"
        raise file.wrong(at + 4, field, what)
    return M


def read_graph(file: UntrustedFile, fields: GraphFields, n: int) -> Graph:
    """Return the graph of n nodes, 1 or more.

    Raises:
        InvalidArgumentError: BAD_FILE: a link is invalid.
    """
    levels, offsets = _read_places(file, fields, n)
    _check_entry(file, fields, levels)
    M, upper = fields.M, levels - 1
    upper_offsets = np.zeros(n + 1, np.int64)
    np.cumsum(upper, out=upper_offsets[1:])
    if upper_offsets[-1] * M > _LINKS_MAX:
        what = f"{upper_offsets[-1]} lists above level 0 do not fit into a segment"
        raise file.wrong(fields.levels_at, "levels", what)
    links = np.empty((n, 2 * M), np.int32)
    upper_links = np.empty((int(upper_offsets[-1]), M), np.int32)
    node = 0
    while node < n:
        end = int(np.searchsorted(offsets, offsets[node] + _PIECE_LINKS, "right")) - 1
        end = max(node + 1, min(end, n))
        start = fields.neighbors_at + 4 * int(offsets[node])
        flat = file.array(start, "<i4", int(offsets[end] - offsets[node]), "neighbors")
        _check_neighbors(file, start, flat, n)
        places = offsets[node:end] - offsets[node]
        at_zero = places[:, None] + np.arange(2 * M)
        links[node:end] = flat[at_zero]
        above = np.ones(len(flat), bool)
        above[at_zero] = False
        lists = flat[above].reshape(-1, M)
        upper_links[upper_offsets[node] : upper_offsets[end]] = lists
        _check_levels(file, fields, (node, end), lists, offsets, levels)
        _check_padding(file, start, links[node:end], places)
        _check_padding(file, start, lists, np.flatnonzero(above)[::M])
        node = end
    return Graph(
        links, upper_offsets.astype(np.int32), upper_links, fields.entry_point, fields.max_level
    )


def _read_places(
    file: UntrustedFile, fields: GraphFields, n: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return the number of levels of each node, and the offsets of its neighbours."""
    levels = file.array(fields.levels_at, "<i4", n, "levels")
    top = len(fields.cum) - 1
    wrong = np.flatnonzero((levels < 1) | (levels > top))
    if len(wrong):
        node = int(wrong[0])
        what = f"expected 1 to {top} levels, node {node} has {levels[node]}"
        raise file.wrong(fields.levels_at + 4 * node, "levels", what)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(fields.cum[levels], out=offsets[1:])
    found = file.array(fields.offsets_at, "<u8", n + 1, "offsets")
    wrong = np.flatnonzero(found != offsets.astype(np.uint64))
    if len(wrong):
        node = int(wrong[0])
        what = f"expected {offsets[node]} at entry {node} from the levels, got {found[node]}"
        raise file.wrong(fields.offsets_at + 8 * node, "offsets", what)
    if fields.neighbors != offsets[-1]:
        what = f"expected {offsets[-1]} from the levels, got {fields.neighbors}"
        raise file.wrong(fields.neighbors_at - 8, "count of neighbors", what)
    return levels, offsets


def _check_entry(file: UntrustedFile, fields: GraphFields, levels: npt.NDArray[np.int32]) -> None:
    entry, highest = fields.entry_point, int(levels.max()) - 1
    if not 0 <= entry < len(levels):
        what = f"expected a node, 0 to {len(levels) - 1}, got {entry}"
        raise file.wrong(fields.end_at, "entry_point", what)
    if fields.max_level != highest:
        what = f"expected {highest}, the highest level of a node, got {fields.max_level}"
        raise file.wrong(fields.end_at + 4, "max_level", what)
    if levels[entry] - 1 != highest:
        what = f"node {entry} reaches level {levels[entry] - 1}, but the graph level {highest}"
        raise file.wrong(fields.end_at, "entry_point", what)


def _check_neighbors(file: UntrustedFile, start: int, flat: npt.NDArray[np.int32], n: int) -> None:
    wrong = np.flatnonzero((flat < -1) | (flat >= n))
    if len(wrong):
        at = int(wrong[0])
        what = f"expected -1 or a node below {n}, got {flat[at]}"
        raise file.wrong(start + 4 * at, "neighbors", what)


def _check_levels(
    file: UntrustedFile,
    fields: GraphFields,
    nodes: tuple[int, int],
    lists: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    levels: npt.NDArray[np.int32],
) -> None:
    """Check that neighbours on a level above 0 reach that level."""
    first, end = nodes
    above = levels[first:end] - 1
    owner = np.repeat(np.arange(first, end), above)
    begins = np.cumsum(above) - above
    level = np.arange(len(lists)) - np.repeat(begins, above) + 1
    missing = np.argwhere((lists >= 0) & (levels[lists] - 1 < level[:, None]))
    if len(missing):
        at, place = missing[0].tolist()
        offset = int(offsets[owner[at]] + fields.cum[level[at]]) + place
        what = (
            f"node {owner[at]} has neighbour {lists[at, place]} on level {level[at]}, which only "
            f"reaches level {levels[lists[at, place]] - 1}"
        )
        raise file.wrong(fields.neighbors_at + 4 * offset, "neighbors", what)


def _check_padding(
    file: UntrustedFile,
    start: int,
    lists: npt.NDArray[np.int32],
    places: npt.NDArray[np.int64],
) -> None:
    """Check that no neighbour follows the first -1 of a list.

    Args:
        places: offset of each list in the neighbours, in numbers.
    """
    behind = np.argwhere((lists[:, :-1] < 0) & (lists[:, 1:] >= 0))
    if len(behind):
        at, place = behind[0].tolist()
        what = f"neighbour {lists[at, place + 1]} follows a -1, which ends a list"
        raise file.wrong(start + 4 * (int(places[at]) + place + 1), "neighbors", what)
