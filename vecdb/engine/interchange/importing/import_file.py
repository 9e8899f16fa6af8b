"""Another library's index file becomes rows of a collection, and its graph the collection's.

First all of the file is looked at, so that a bad one leaves no trace. Then its rows are upserted in
the order of its nodes, a batch at a time, each whole or not at all. A row that is there bit for bit
stays as it is: who runs an import again after it was stopped goes on where it ended.

The graph is taken over (``take_over.py``) if the rows lie in the store one after the other, with
nothing alive before them, as they do in a collection that was empty. Meanwhile ``graph.lock`` keeps
the indexer from building one. Otherwise the rows are indexed as any others are, and the report says
why.

A deadline ends an import between two batches; what was written stays. Taking the graph over is not
interrupted.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from vecdb import checks, limits
from vecdb.engine.interchange.faiss.read import read_faiss
from vecdb.engine.interchange.hnswlib_file import read_hnswlib
from vecdb.engine.interchange.importing.foreign_index import ForeignIndex
from vecdb.engine.interchange.importing.names import Names
from vecdb.engine.interchange.importing.settings import Settings
from vecdb.engine.interchange.importing.take_over import first_row_of, in_graphs, take_over
from vecdb.engine.interchange.untrusted_file import UntrustedFile
from vecdb.engine.runtime.open_collection import OpenCollection, gone_is_dropped
from vecdb.engine.runtime.runtime import Runtime
from vecdb.engine.store.batch import make_batch
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import file_lock, os_errors_translated
from vecdb.errors import NotFoundError
from vecdb.import_files import SideFile, side_lines
from vecdb.types import CollectionConfig, ImportReport, Metric

__all__ = ["ImportRequest", "import_file", "run_import"]

_BATCH_BYTES: Final = 8 * 1024**2
_LOCK_WAIT_S: Final = 30.0
"""So long an import waits for graph work of another process once all rows are written."""

_LOCK_POLL_S: Final = 0.05


class ImportRequest(NamedTuple):
    """What is to come in, and where to.

    Attributes:
        kind: the library whose file it is.
        collection: its name; made if it is not there.
        metric: None for the usual one; hnswlib's files don't say theirs.
        dim: for hnswlib's alone.
    """

    kind: Literal["faiss", "hnswlib"]
    collection: Any
    metric: Any = None
    dim: Any = None

    def checked(self) -> ImportRequest:
        """The same, as far as it can be known to be right without the file.

        Raises:
            InvalidArgumentError: BAD_NAME, BAD_METRIC; OUT_OF_RANGE: dim.
        """
        metric = self.metric
        if self.kind == "hnswlib" or metric is not None:
            metric = checks.check_metric(metric)
        dim = checks.check_limit(limits.DIM, self.dim) if self.kind == "hnswlib" else None
        return ImportRequest(self.kind, checks.check_name(self.collection), metric, dim)


def import_file(
    runtime: Runtime, path: object, request: ImportRequest, meta: object, timeout_s: float | None
) -> ImportReport:
    """``Database.import_faiss`` and ``import_hnswlib``: a file of the caller's own."""
    runtime.check_usable()
    deadline = Deadline(timeout_s)
    file_path, chosen = checks.check_local_path(path), request.checked()
    with (
        os_errors_translated(str(file_path)),
        UntrustedFile(file_path) as file,
        side_lines(file_path, meta) as side,
    ):
        return run_import(runtime, chosen, file, side, deadline)


def run_import(
    runtime: Runtime,
    request: ImportRequest,
    file: UntrustedFile,
    side: SideFile | None,
    deadline: Deadline,
) -> ImportReport:
    """Import a file that is open; the request is checked.

    Raises:
        As ``Database.import_faiss``.
    """
    if request.kind == "faiss":
        index = read_faiss(file)
    else:
        index = read_hnswlib(file, request.dim, request.metric)
    return _Import(runtime, request, index, side, deadline).run()


class _Import:
    """One import, from a file that was read to the report."""

    def __init__(
        self,
        runtime: Runtime,
        request: ImportRequest,
        index: ForeignIndex,
        side: SideFile | None,
        deadline: Deadline,
    ) -> None:
        self._began = time.monotonic()
        self._runtime, self._name, self._index = runtime, request.collection, index
        self._wanted: Metric | None = request.metric
        self._side, self._deadline = side, deadline
        self._connected = 0

    def run(self) -> ImportReport:
        """Check all of it, write the rows, take the graph over."""
        index = self._index
        there = self._find()
        names = Names(index, self._side)
        settings = Settings(
            index,
            self._name,
            None if there is None else there.store.config,
            self._wanted,
            names.header,
            self._side and self._side.called,
        )
        lengths = index.survey(self._deadline.check)
        settings.check_lengths(lengths)
        self._deadline.check()
        opened = there or self._make(settings)
        with contextlib.ExitStack() as stack:
            stack.enter_context(gone_is_dropped(opened.folder))
            lock = opened.folder / "graph.lock"
            why = self._why_not(opened.store.config)
            held = not why and stack.enter_context(file_lock(lock, wait=False))
            before = _rows_ever(opened)
            first = first_row_of(opened.store, names)
            if first is None:
                first = before
            indexed = in_graphs(opened.store, first, index.count)
            seq = self._write(opened, names, delayed=bool(why))
            indexed = indexed and _rows_ever(opened) == before
            if not why and not indexed:
                held = held or self._wait_for(lock, stack)
                why = "another process is building a graph"
                if held:
                    # Where its rows lie now: those that were there may have been replaced.
                    now = first_row_of(opened.store, names)
                    first = first if now is None else now
                    why, self._connected = take_over(
                        opened.store, opened.folder, opened.id, index, names, first
                    )
        self._settle(opened)
        return ImportReport(
            collection=self._name,
            made=there is None,
            kind=index.kind,
            rows=index.count,
            skipped=index.skipped,
            graph=f"to be built: {why}" if why else "there already" if indexed else "taken over",
            connected=self._connected,
            seq=seq,
            elapsed_s=time.monotonic() - self._began,
            assumed=settings.assumed(lengths),
        )

    def _find(self) -> OpenCollection | None:
        try:
            return self._runtime.collection(self._name)
        except NotFoundError:
            return None

    def _make(self, settings: Settings) -> OpenCollection:
        config = checks.check_config(
            self._index.dim, settings.metric.value, settings.M, settings.ef_construction
        )
        return self._runtime.create_collection(self._name, config)

    def _why_not(self, config: CollectionConfig) -> str:
        """Why the graph can't be the collection's, whatever lies in it; empty if it can."""
        index = self._index
        if index.graph is None:
            return index.no_graph
        if index.M != config.M:
            return f"the collection's M is {config.M}, the file's {index.M}"
        return ""

    def _write(self, opened: OpenCollection, names: Names, *, delayed: bool) -> int:
        """Upsert all rows; the seq of the last batch."""
        index, config = self._index, opened.store.config
        rows = max(1, min(limits.BATCH_ROWS.maximum, _BATCH_BYTES // (4 * index.dim)))
        seq = opened.store.current_state().seq
        for first, end, ids, raw in names.pieces(rows):
            self._deadline.check()
            vectors = index.rows.read(first, end)
            batch = make_batch(*checks.check_raw_rows(ids, vectors, raw, config))
            if delayed:
                receipt = self._runtime.write(opened, batch)
            else:
                # Not slowed down for the indexer, which will have nothing to do with these.
                receipt = self._runtime.submit(opened, batch).result()
            seq = max(seq, receipt.seq)
        return seq

    def _wait_for(self, lock: os.PathLike[str], stack: contextlib.ExitStack) -> bool:
        ends = time.monotonic() + _LOCK_WAIT_S
        while time.monotonic() < ends:
            if stack.enter_context(file_lock(Path(lock), wait=False)):
                return True
            self._runtime.check_usable()
            self._deadline.check()
            time.sleep(_LOCK_POLL_S)
        return False

    def _settle(self, opened: OpenCollection) -> None:
        opened.note_backlog()
        self._runtime.wake_indexer(opened.id)


def _rows_ever(opened: OpenCollection) -> int:
    """Row numbers given so far: it has not risen if all rows were there already."""
    with opened.store.environment.read() as transaction:
        return opened.store.read_counters(transaction).next_row
