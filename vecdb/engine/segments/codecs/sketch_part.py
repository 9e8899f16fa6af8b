"""The part of a graph segment that holds sketches of its rows, and which segments get one.

sketches.npy             uint8 (n, 64 * lines)
sketch_hubs.npy          int32 (h,): nodes at which walks begin, spread over the segment at random;
                         every node can be reached from one of them
sketch_hub_codes.npy     uint8 (h, 64 * lines): their sketches
sketch_mean.npy          float32 (width,)
sketch_basis.npy         uint8 (heads, width to 64): direction i is step i * (byte - 128)
sketch_basis_steps.npy   float32 (heads,)
sketch                   in the manifest: slope, slack (standard deviation of what estimates miss,
                         in squared distances), explained (share of the variance that the heads
                         hold), rescored (candidates to score again for k = 1, 10, 100), and
                         centred (whether the mean is subtracted from queries, too)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.reachability import unreached_starts
from vecdb.engine.segments.codecs.basis import LINE, heads_in, train
from vecdb.engine.segments.codecs.sketch import (
    Sketch,
    build_sketch,
    choose_hubs,
    differing,
)
from vecdb.engine.segments.codecs.trial import rescored_by_trial
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_check import PartCheck, PartFinding, StoreRecords
from vecdb.engine.segments.part_kind import (
    CheckedSegment,
    LeftOut,
    PartData,
    PartFiles,
    PartKind,
    PartSource,
)
from vecdb.engine.segments.row_arrays import ROW_IDS, VECTORS
from vecdb.engine.system.mapped_pages import use_large_pages

__all__ = ["SKETCH"]

ROWS_MIN: Final = 1_000
"""Smaller graphs are walked in float32: their rows lie in the processor's cache anyway."""

WIDTH_MIN: Final = 48
"""Rows of fewer floats, up to two cache lines, are hardly larger than a sketch with its row."""


class _SketchPart(PartKind[Sketch]):
    name = "sketch"
    arrays = (
        "sketches",
        "sketch_hubs",
        "sketch_hub_codes",
        "sketch_mean",
        "sketch_basis",
        "sketch_basis_steps",
    )
    needed = False
    derived_from = (VECTORS, GRAPH)
    codes = True

    def write(self, value: Sketch) -> PartData:
        arrays: dict[str, npt.NDArray[Any]] = dict(
            zip(
                self.arrays,
                (
                    value.codes,
                    value.hubs,
                    value.hub_codes,
                    value.mean,
                    value.basis,
                    value.basis_steps,
                ),
                strict=True,
            )
        )
        fields = {
            "slope": value.slope,
            "slack": value.slack,
            "explained": value.explained,
            "rescored": list(value.rescored),
            "centred": value.centred,
        }
        return PartData(arrays, {"sketch": fields})

    def read(self, files: PartFiles) -> Sketch:
        codes, hubs, hub_codes, mean, basis, steps = (files.arrays[name] for name in self.arrays)
        fields = files.manifest["sketch"]
        few, some, many = fields["rescored"]
        files.check(
            fit=codes.ndim == 2
            and hubs.ndim == 1
            and len(codes) == files.count
            and codes.shape[1] % LINE == 0
            and hub_codes.shape == (len(hubs), codes.shape[1])
            and mean.shape == (files.width,)
            and basis.ndim == 2
            and basis.shape[1] == -(-files.width // LINE) * LINE
            and steps.shape == (len(basis),)
            and len(basis) <= heads_in(codes.shape[1] // LINE)
        )
        use_large_pages(codes)
        return Sketch(
            codes,
            hubs,
            hub_codes,
            mean,
            basis,
            steps,
            float(fields["slope"]),
            float(fields["slack"]),
            float(fields["explained"]),
            (int(few), int(some), int(many)),
            bool(fields["centred"]),
        )

    def described(self, value: Sketch) -> str:
        lines = "1 line" if value.lines == 1 else f"{value.lines} lines"
        return f"{self.name}, {lines}, {100 * value.explained:.0f} % explained"

    def applies_to(self, source: PartSource) -> bool:
        return super().applies_to(source) and not _too_small(source.parts[VECTORS])

    def derive(self, source: PartSource) -> Sketch | LeftOut:
        vectors, graph = source.parts[VECTORS], source.parts[GRAPH]
        metric = source.config.metric
        hubs = choose_hubs(graph)
        if hubs is None:
            return LeftOut("the graph falls apart into too many pieces")
        bases = train(vectors)
        if isinstance(bases, LeftOut):
            return bases
        for basis in bases:
            with np.errstate(over="ignore", invalid="ignore"):
                sketch = build_sketch(vectors, graph, basis, hubs, metric)
            if sketch is None:
                return LeftOut("the squared lengths of some rows are too large for float32")
            rescored = rescored_by_trial(vectors, sketch, metric)
            if rescored is not None:
                return replace(sketch, rescored=rescored)
        return LeftOut(f"even with {basis.lines} lines too many candidates would be scored again")

    def check(self, value: Sketch, segment: CheckedSegment) -> PartCheck:
        return _SketchCheck(value, segment)


class _SketchCheck(PartCheck):
    """Checks that sketches are those of the rows, and that walks from the hubs reach every row."""

    def __init__(self, sketch: Sketch, segment: CheckedSegment) -> None:
        self._sketch, self._segment = sketch, segment

    def examine(self, records: StoreRecords) -> Iterator[PartFinding]:
        vectors, number = self._segment.parts[VECTORS], self._segment.number
        hubs, graph = self._sketch.hubs, self._segment.parts[GRAPH]
        if not ((hubs >= 0) & (hubs < len(vectors))).all():
            what = f"segment {number}: a hub is not one of the rows"
            yield PartFinding("SKETCH", what, unusable=True)
            return
        if not np.array_equal(self._sketch.hub_codes, self._sketch.codes[hubs]):
            what = f"segment {number}: the sketches of hubs differ from those of their rows"
            yield PartFinding("SKETCH", what)
        lone = unreached_starts(graph.links, hubs.astype(np.int64), len(vectors))
        what = f"rows of segment {number} can't be reached from a hub, or only from one another"
        yield PartFinding("SKETCH", what, rows=self._rows_of(lone))
        what = f"rows of segment {number} have sketches that are not those of their vectors"
        yield PartFinding("SKETCH", what, rows=self._rows_of(differing(vectors, self._sketch)))

    def _rows_of(self, nodes: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
        rows: npt.NDArray[np.int64] = self._segment.parts[ROW_IDS].rows
        return rows[nodes] if nodes is not None else rows


def _too_small(vectors: npt.NDArray[np.float32]) -> bool:
    return len(vectors) < ROWS_MIN or vectors.shape[1] < WIDTH_MIN


SKETCH = _SketchPart()
