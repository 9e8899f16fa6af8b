"""Imports another library's index file: its rows, and its graph if possible.

The whole file is checked before anything is written, so an invalid file changes nothing. Then the
rows are upserted in the order of the nodes, in atomic batches. A row that exists already, bit for
bit, is not written again; so an interrupted import continues where it stopped when it is repeated.

The graph is taken over (``take_over.py``) if the rows are consecutive in the store and no live rows
precede them, as in a collection that was empty. During the import ``graph.lock`` keeps the indexer
from building a graph. Otherwise the indexer builds a graph of the rows, and the report says why.

A deadline ends an import between two batches; written batches stay. Taking over the graph is not
interrupted.
"""

from __future__ import annotations

import contextlib
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
from vecdb.engine.system.files import file_lock, os_errors_translated, patient_lock
from vecdb.errors import NotFoundError, UnavailableError
from vecdb.import_files import Sidecar, sidecar_lines
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, ImportReport, Metric

__all__ = ["ImportRequest", "import_file", "run_import"]

_BATCH_BYTES: Final = 8 * 1024**2
_LOCK_WAIT_S: Final = 30.0
"""Time that an import waits for graph.lock after all rows are written."""


class ImportRequest(NamedTuple):
    """The library, target collection and settings of an import.

    Attributes:
        kind: the library that wrote the file.
        collection: name of the collection; created if it does not exist.
        metric: None: the metric of the file. Required for hnswlib, whose files don't store it.
        dim: only for hnswlib.
    """

    kind: Literal["faiss", "hnswlib"]
    collection: Any
    metric: Any = None
    dim: Any = None

    def checked(self) -> ImportRequest:
        """Return the request with its arguments checked as far as possible without the file.

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
    """Import a local file, for ``Database.import_faiss`` and ``import_hnswlib``."""
    runtime.check_usable()
    deadline = Deadline(timeout_s)
    file_path, chosen = checks.check_local_path(path), request.checked()
    with (
        os_errors_translated(str(file_path)),
        UntrustedFile(file_path) as file,
        sidecar_lines(file_path, meta) as side,
    ):
        return run_import(runtime, chosen, file, side, deadline)


def run_import(
    runtime: Runtime,
    request: ImportRequest,
    file: UntrustedFile,
    side: Sidecar | None,
    deadline: Deadline,
) -> ImportReport:
    """Import an open file; the request has been checked.

    Raises:
        As ``Database.import_faiss``.
    """
    if request.kind == "faiss":
        index = read_faiss(file)
    else:
        index = read_hnswlib(file, request.dim, request.metric)
    return _Import(runtime, request, index, side, deadline).run()


class _Import:
    """One import, from the parsed file to the report."""

    def __init__(
        self,
        runtime: Runtime,
        request: ImportRequest,
        index: ForeignIndex,
        side: Sidecar | None,
        deadline: Deadline,
    ) -> None:
        self._began = time.monotonic()
        self._runtime, self._name, self._index = runtime, request.collection, index
        self._wanted: Metric | None = request.metric
        self._side, self._deadline = side, deadline
        self._metadata_bytes_max = runtime.options.metadata_bytes_max
        self._connected = 0

    def run(self) -> ImportReport:
        """Check the file, write the rows, take over the graph."""
        index = self._index
        existing = self._find()
        names = Names(index, self._side, self._metadata_bytes_max)
        settings = Settings(
            index,
            self._name,
            None if existing is None else existing.store.config,
            self._wanted,
            names.header,
            self._side and self._side.called,
        )
        lengths = index.survey(self._deadline.check)
        settings.check_lengths(lengths)
        self._deadline.check()
        opened = existing or self._create(settings)
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
                    # Looked up again, as earlier rows of these ids may have been replaced.
                    now = first_row_of(opened.store, names)
                    first = first if now is None else now
                    why, self._connected = take_over(
                        opened.store,
                        opened.folder,
                        opened.id,
                        index,
                        names,
                        first,
                        codes=self._runtime.options.codes == "auto",
                    )
        self._notify_indexer(opened)
        return ImportReport(
            collection=self._name,
            made=existing is None,
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

    def _create(self, settings: Settings) -> OpenCollection:
        config = checks.check_config(
            self._index.dim,
            settings.metric.value,
            settings.M,
            settings.ef_construction,
            settings.index_fields,
            settings.target_recall,
        )
        return self._runtime.create_collection(self._name, config)

    def _why_not(self, config: CollectionConfig) -> str:
        """Return why the graph does not fit the collection's configuration; empty if it does."""
        index = self._index
        if index.graph is None:
            return index.no_graph
        if index.M != config.M:
            return f"the collection has M {config.M}, the file M {index.M}"
        return ""

    def _write(self, opened: OpenCollection, names: Names, *, delayed: bool) -> int:
        """Upsert all rows and return the seq of the last batch."""
        index, config = self._index, opened.store.config
        rows = max(1, min(limits.BATCH_ROWS.maximum, _BATCH_BYTES // (4 * index.dim)))
        seq = opened.store.current_state().seq
        for first, end, ids, raw in names.pieces(rows):
            self._deadline.check()
            vectors = index.rows.read(first, end)
            batch = make_batch(
                *checks.check_raw_rows(ids, vectors, raw, config, self._metadata_bytes_max)
            )
            if delayed:
                receipt = self._runtime.write(opened, batch)
            else:
                # No back-pressure: the file brings the graph, so the indexer has no work here.
                receipt = self._runtime.submit(opened, batch).result()
            seq = max(seq, receipt.seq)
        return seq

    def _wait_for(self, lock: Path, stack: contextlib.ExitStack) -> bool:
        """Return whether the lock is held; if so, until the stack is closed."""
        try:
            stack.enter_context(patient_lock(lock, _LOCK_WAIT_S, self._check))
        except UnavailableError as error:
            if error.reason != Reason.LOCKED:
                raise
            return False
        return True

    def _check(self) -> None:
        self._runtime.check_usable()
        self._deadline.check()

    def _notify_indexer(self, opened: OpenCollection) -> None:
        opened.note_backlog()
        self._runtime.wake_indexer(opened.id)


def _rows_ever(opened: OpenCollection) -> int:
    """Return the number of row numbers assigned so far; unchanged if all rows existed already."""
    with opened.store.environment.read() as transaction:
        return opened.store.read_counters(transaction).next_row
