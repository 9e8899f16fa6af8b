"""How single queries go through the units of a snapshot: kernels and their arguments, prepared.

What would be decided for each query is decided once for equal wishes on one snapshot: which kernel
searches each unit, with which effort, and what ``info`` says. ``single`` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from vecdb import limits
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.search.call_bytes import candidates_bytes
from vecdb.engine.search.plan import CODED_ROWS_A_HIT, HEAP_FLOATS, SearchPlan, UnitPlan
from vecdb.engine.search.snapshots.snapshot import SearchUnit, Snapshot
from vecdb.engine.segments.codecs.byte_codes import BYTE_CODES, ByteCodes
from vecdb.engine.segments.codecs.sketch import Sketch
from vecdb.engine.segments.codecs.sketch_part import SKETCH
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.types import CollectionConfig, Metric

__all__ = ["CANDIDATES_BYTES_MAX", "SCANNED_FLOATS_MAX", "UNITS_MAX", "Way", "way_through"]

UNITS_MAX: Final = 16
"""Units of a snapshot, so that their walks together are short."""

SCANNED_FLOATS_MAX: Final = 8_000_000
"""Floats that one query compares at most in all units together: about 5 ms without a check of the
deadline."""

CANDIDATES_BYTES_MAX: Final = 64 * 1024
"""Up to this size of the candidates of all units, and the k of ``single``, the memory of a call is
below what is counted (``system/call_memory.py``)."""

_LEAST, _MOST = 4 * limits.SQUARED_NORM_MIN, limits.SQUARED_NORM_MAX / 2
"""Squared lengths that ``check_vectors`` accepts, however they are rounded."""

_RESCORED: Final = 5
"""Place of that number among the whole ones that kernels take."""

_NO_OFFSETS = np.zeros(0, np.int64)
_NO_BYTES = np.zeros(0, np.uint8)
_NO_CODES = ByteCodes(
    np.zeros((0, 0), np.uint8), np.zeros((0, 4, 16), np.float32), np.zeros(0, np.float32)
)

Kernel = Callable[..., int]


class _UnitWay(NamedTuple):
    """The way through one unit: a kernel, its last arguments, and those of ``Scratch.reserve``."""

    kernel: Kernel
    arguments: tuple[Any, ...]
    space: tuple[int, int, int, bool]


class Way:
    """How one snapshot is searched for one k and one wish; kept in ``Snapshot.ways``.

    Attributes:
        steps: for each unit its turn, the kernel, and its last arguments.
        asks: whether walks ask the system for the rows to score again.
        space: arguments of ``Scratch.reserve``.
        shape: of a prepared query.
        count: hits of each query. text_max: bytes that the ids of all units' hits may take.
        name, exact, ef, recall: as in ``SearchInfo``.
        is_sampled: whether the recall meter takes samples of such queries.
        with_metadata: whether any row has metadata.
        verified: whether the snapshot was found to be verified.
    """

    __slots__ = (
        *(
            "asks",
            "count",
            "ef",
            "exact",
            "is_sampled",
            "name",
            "recall",
            "shape",
            "space",
            "steps",
        ),
        *("text_max", "verified", "with_metadata"),
    )

    def __init__(
        self, snapshot: Snapshot, k: int, plan: SearchPlan, units: list[_UnitWay]
    ) -> None:  # fmt: skip
        kernels, last = load_kernels(), len(units) - 1
        turns = [kernels.FIRST * (i == 0) + kernels.LAST * (i == last) for i in range(len(units))]
        self.steps = tuple(
            (turn, unit.kernel, unit.arguments) for turn, unit in zip(turns, units, strict=True)
        )
        n, ef, slots, has_deleted = zip(*(unit.space for unit in units), strict=True)
        self.space = (max(n), max(ef), max(slots), any(has_deleted))
        self.shape = (1, snapshot.units[0].vectors.shape[1])
        self.count, self.asks = min(k, snapshot.live_count), False
        named = sum(min(k, unit.count) for unit in snapshot.units if unit.content is not None)
        self.text_max = named * limits.ID_BYTES.maximum
        walks = [unit.walks for unit in plan.units]
        self.name = "graph" if all(walks) else "graph+scan" if any(walks) else "scan"
        self.exact = not any(walks)
        self.ef = max(unit.ef for unit in plan.units)
        self.recall, self.is_sampled = plan.recall, plan.curves > 0
        self.with_metadata, self.verified = snapshot.counters.metadata_count > 0, False

    def ask(self, asks: bool) -> None:
        """Ask the system for the rows to score again from now on, or no longer."""
        for _, _, (whole, *_) in self.steps:
            rescored = abs(int(whole[_RESCORED]))
            whole[_RESCORED] = -rescored if asks else rescored
        self.asks = asks


def way_through(
    snapshot: Snapshot,
    plan: SearchPlan,
    k: int,
    config: CollectionConfig,
    commits_at: tuple[int, int],
    *,
    codes: bool,
) -> Way | None:
    """Return the way of a plan; None if the general path has to do it: with many units or hits, or
    long scans.

    Args:
        commits_at: as in ``OpenedFile``.
        codes: whether searches may use the codes of segments that have some.
    """
    if len(snapshot.units) > UNITS_MAX or candidates_bytes(snapshot, 1, k) > CANDIDATES_BYTES_MAX:
        return None
    given = _Given(config, k, commits_at, snapshot.counters.next_row)
    units, floats = [], 0
    for unit, way in zip(snapshot.units, plan.units, strict=True):
        if way.walks:
            units.append(_walk(unit, way, unit.parts.get(SKETCH) if codes else None, given))
            continue
        hits = min(k, unit.count)
        coded = unit.parts.get(BYTE_CODES) if codes else None
        if hits * CODED_ROWS_A_HIT > unit.count:
            coded = None
        if coded is None and unit.parts.has(GRAPH):
            return None  # Its pages have to be read in order.
        width = unit.vectors.shape[1] if coded is None else unit.vectors.shape[1] // 2
        floats += unit.count * (width + HEAP_FLOATS * hits.bit_length())
        units.append(_scan(unit, coded, given))
    return Way(snapshot, k, plan, units) if floats <= SCANNED_FLOATS_MAX else None


class _Given(NamedTuple):
    """What the ways of all units of a snapshot have in common, see ``kernels/single.py``."""

    config: CollectionConfig
    k: int
    commits_at: tuple[int, int]
    next_row: int


def _walk(unit: SearchUnit, way: UnitPlan, sketch: Sketch | None, given: _Given) -> _UnitWay:
    kernels, graph = load_kernels(), unit.parts[GRAPH]
    k = min(given.k, unit.count)
    gamma = kernels.NO_GAMMA if way.gamma is None else way.gamma
    own: tuple[Any, ...]
    if sketch is None:
        # Of unit vectors, score plus 1 is half the squared distance.
        far = way.far if given.config.metric is Metric.EUCLIDEAN else way.far / 2
        effort, kernel = _Effort(way.ef, 0, way.ef_far, gamma, far=far), kernels.find_by_graph
        own = (graph.upper_offsets, graph.upper_links, graph.entry, graph.top_level)
    else:
        ef, rescored = kernels.effort_by_sketches(sketch, k, way.ef)
        effort = _Effort(ef, rescored, way.ef_far, gamma, sketch.slope, sketch.slack, way.far)
        kernel = kernels.find_by_sketches
        own = (
            *(sketch.codes, sketch.hubs, sketch.hub_codes),
            *(sketch.query_mean, sketch.basis, sketch.basis_steps),
        )
    has_deleted = len(unit.delete_bitmap) > 0
    space = (len(unit.vectors), max(effort.ef, k), graph.links.shape[1], has_deleted)
    return _UnitWay(kernel, (*_common(unit, effort, given), graph.links, *own), space)


def _scan(unit: SearchUnit, coded: ByteCodes | None, given: _Given) -> _UnitWay:
    codes = coded or _NO_CODES
    arguments = (*_common(unit, _Effort(), given), codes.codes, codes.factors, codes.mean)
    return _UnitWay(load_kernels().find_by_scan, arguments, (0, 0, 0, False))


class _Effort(NamedTuple):
    """How hard a graph is searched, as kernels take it."""

    ef: int = 0
    rescored: int = 0
    ef_far: int = 0
    gamma: float = 0
    slope: float = 0
    slack: float = 0
    far: float = 0


def _common(unit: SearchUnit, effort: _Effort, given: _Given) -> tuple[npt.NDArray[Any], ...]:
    """Return the arguments that all kernels have."""
    kernels, config, k = load_kernels(), given.config, min(given.k, unit.count)
    scores, distances, shift = {
        Metric.EUCLIDEAN: (kernels.EUCLIDEAN, kernels.SQUARED, 0.0),
        Metric.COSINE: (kernels.INNER, kernels.COSINE, 1.0),
        Metric.DOT: (kernels.INNER, kernels.DOT, 1.0),
    }[config.metric]
    whole = (
        *(config.dim, unit.count, k, min(k, unit.live_count)),
        *(effort.ef, effort.rescored, effort.ef_far, scores, distances),
        *(*given.commits_at, given.next_row),
    )
    parts = (effort.gamma, shift, effort.slope, effort.slack, effort.far, _LEAST, _MOST)
    content = unit.content
    ids = (_NO_OFFSETS, _NO_BYTES) if content is None else (content.id_offsets, content.id_bytes)
    return (
        *(np.array(whole, np.int64), np.array(parts, np.float32)),
        *(unit.vectors, unit.delete_bitmap, unit.rows, *ids),
    )
