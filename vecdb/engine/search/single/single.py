"""Single queries of a few search units: the short way.

The general path (``search``) takes many steps, most of them in Python. The short way takes a call
of a kernel for each unit (``kernels/single.py``): they compare the number of the store's last
commit, check and prepare the query, walk or scan, merge, and gather the ids. What to call is
decided once for each snapshot (``single_ways``). Metadata, and the ids of rows in no segment, are
read from the store in one transaction.

Whatever is unusual is left to the general path, which also finds all errors: a query out of bounds,
too few live rows found, long scans, rows that are not held in memory, damage.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb import checks
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.search.disk_reads import DiskReads
from vecdb.engine.search.plan import Wish, expect_pages, plan_search
from vecdb.engine.search.recall.real_curves import RealCurves
from vecdb.engine.search.recall.samples import SampleTap
from vecdb.engine.search.single.single_hits import Results, hits_of, room_for
from vecdb.engine.search.single.single_ways import Way, way_through
from vecdb.engine.search.snapshots.lookup import records_at_once
from vecdb.engine.search.snapshots.snapshot import Snapshot
from vecdb.engine.search.snapshots.snapshot_manager import SnapshotManager
from vecdb.engine.store.store import Store
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.place import OpenedFile
from vecdb.types import Hits, SearchInfo

__all__ = ["SingleSearch"]

_K_MAX: Final = 100
"""Up to this k the memory of a call is below what is counted (``system/call_memory.py``)."""

_RECORDS_MAX: Final = 2_000
"""Records of the usual size that are read in one transaction."""

_WAYS_MAX: Final = 64
"""Ways that are kept with one snapshot."""

_NO_DEADLINE: Final = Deadline()


class SingleSearch:
    """Answers single queries of one collection, or leaves them to a ``Searcher``. Thread-safe."""

    def __init__(
        self,
        store: Store,
        snapshots: SnapshotManager,
        pool: KernelPool,
        tap: SampleTap,
        real_curves: RealCurves,
        disk_reads: DiskReads,
        *,
        codes: bool = True,
    ) -> None:
        """Arguments: as for ``Searcher``, and its own."""
        self._store, self._snapshots, self._pool, self._codes = store, snapshots, pool, codes
        self._tap, self._real_curves, self._disk_reads = tap, real_curves, disk_reads
        self._environment, kernels = store.environment, load_kernels()
        self._found, self._changed = kernels.FOUND, kernels.CHANGED
        self._current = kernels.CURRENT

    def answer(
        self,
        query: npt.NDArray[np.float32],
        k: int,
        ef: int | None,
        target: float | None,
        with_metadata: bool,
        deadline: Deadline | None,
    ) -> Hits | None:
        """Return the hits of a query; None to leave it to the general path.

        Args:
            query: float32 (dim,), C-contiguous.
            k, ef, target: as given by the caller, not checked.
            deadline: None for no deadline.

        Raises:
            InvalidArgumentError: k, ef or target is invalid.
            DeadlineExceededError, CancelledError: before the kernels begin.
            Others, as ``SnapshotManager.snapshot``: if there is a newer commit.
        """
        commit, snapshot = self._snapshots.known
        while snapshot is not None and (file := self._environment.watched_file()) is not None:
            way = self._way(snapshot, file, k, ef, target)
            if way is None or (way.is_sampled and self._tap.armed):
                return None  # The general path leaves the sample.
            results = room_for(way.count, way.text_max)
            status = self._find(way, file, commit, query, results, deadline or _NO_DEADLINE)
            if status == self._found:
                return self._hits(way, snapshot, results, with_metadata)
            if status != self._changed:
                return None
            # This one is current, whatever the file says: in the middle of a commit that is not
            # acknowledged yet, the file has its number already.
            with self._store.call_memory.of_call():
                commit, snapshot = self._current, self._snapshots.snapshot()
        return None

    def _find(
        self,
        way: Way,
        file: OpenedFile,
        commit: int,
        query: npt.NDArray[np.float32],
        results: Results,
        deadline: Deadline,
    ) -> int | None:
        """Search all units; return the status of the last kernel, None if the file was closed."""
        if (asks := self._disk_reads.wait_for(1)) is not way.asks:
            way.ask(asks)
        descriptor, size, prepared = file.descriptor, file.size_max, np.empty(way.shape, np.float32)
        status = self._found
        scratch = self._pool.acquire(deadline)
        try:
            if scratch.reserved != way.space:
                scratch.reserve(*way.space)
            for turn, kernel, arguments in way.steps:
                status = kernel(
                    turn, descriptor, size, commit, query, prepared, scratch.visited,
                    scratch.seen, scratch.pool, *results, *arguments,
                )  # fmt: skip
                if status != self._found:
                    break
        finally:
            self._pool.release(scratch)
        return status if file.descriptor == descriptor else None

    def _hits(
        self, way: Way, snapshot: Snapshot, results: Results, with_metadata: bool
    ) -> Hits | None:
        """Return what was found; None as ``hits_of``."""
        numbers = results[0].tolist()
        if not way.verified:
            way.verified = snapshot.verified
        seq = snapshot.state.seq
        info = SearchInfo(
            way.name, way.exact, way.ef, numbers[0], snapshot.live_count, seq, way.verified,
            snapshot.unindexed_count, numbers[1], way.recall,
        )  # fmt: skip
        with_metadata = with_metadata and way.with_metadata
        return hits_of(self._store, numbers, results, seq, with_metadata, info)

    def _way(
        self, snapshot: Snapshot, file: OpenedFile, k: int, ef: int | None, target: float | None
    ) -> Way | None:
        """Return the way of a query, prepared once for equal ones."""
        edition = self._real_curves.edition
        # Equal keys of other types, such as True or 10.0, have not been checked.
        if type(k) is int and (ef is None or type(ef) is int):
            way: Way | None = snapshot.ways.get((k, ef, target, edition))
            if way is not None:
                return way
        units = snapshot.units
        if not units or not snapshot.holds_all:
            return None
        number = checks.check_k(k, 1)
        if number > min(_K_MAX, records_at_once(self._store, _RECORDS_MAX)):
            return None
        effort = None if ef is None else checks.check_ef(ef, number)
        wanted = checks.check_target_recall(target, self._store.config.target_recall)
        wish = Wish(effort, wanted, exact=False)
        plan = plan_search(units, 0, number, wish, self._real_curves, codes=self._codes)
        config, codes = self._store.config, self._codes
        way = way_through(snapshot, plan, number, config, file.commits_at, codes=codes)
        if way is None:
            return None
        expect_pages(units, plan.units)
        if len(snapshot.ways) < _WAYS_MAX:
            snapshot.ways[number, None if ef is None else int(ef), target, edition] = way
        return way
