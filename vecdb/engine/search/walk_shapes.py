"""How many nodes walks visit in each graph: measured once, with some of its own rows."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.search.filter_plan import WalkShape
from vecdb.engine.search.hits import Found
from vecdb.engine.search.plan import UnitPlan
from vecdb.engine.search.snapshots.snapshot import SearchUnit
from vecdb.engine.system.deadline import Deadline

__all__ = ["WalkShapes"]

_QUERIES: Final = 8
_KEPT_MAX: Final = 256
_MEASURED_K_MAX: Final = 100
"""Walks for more hits are taken to visit in proportion: measuring them would take longer than the
search that asks."""

Walk = Callable[[SearchUnit, UnitPlan, npt.NDArray[np.float32], int, Deadline], Found]


class WalkShapes:
    """Measures and keeps how many nodes walks visit. Thread-safe."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[object, ...], WalkShape] = OrderedDict()

    def of(self, unit: SearchUnit, k: int, way: UnitPlan, more: UnitPlan) -> WalkShape:
        """Return the visited nodes of a graph segment; see ``plan.Shapes``."""
        if k > _MEASURED_K_MAX:
            times = k / _MEASURED_K_MAX
            fewer, fewer_more = (w._replace(ef=math.ceil(w.ef / times)) for w in (way, more))
            shape = self.of(unit, _MEASURED_K_MAX, fewer, fewer_more)
            return WalkShape(*(min(unit.count, times * visited) for visited in shape))
        if way.gamma is None and more.ef <= 2 * way.ef:
            # The same ef is kept, of rows that match.
            more = way._replace(ef=10 * way.ef)
        key = unit.number, k, way, more
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        places = np.linspace(0, unit.count - 1, min(_QUERIES, unit.count)).astype(np.int64)
        queries = np.ascontiguousarray(unit.vectors[places])
        visited = [
            float(self._walk(unit, each, queries, rows, Deadline()).visited.mean())
            for each, rows in ((way, k), (more, 10 * k))
        ]
        shape = WalkShape(*visited)
        with self._lock:
            self._known[key] = shape
            while len(self._known) > _KEPT_MAX:
                self._known.popitem(last=False)
        return shape
