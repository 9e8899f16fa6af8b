"""What a process holds of an open folder: the catalogue, the collections in use, the writer,
flushing and the indexer.

    data/
      FORMAT                                 "vecdb 1"
      catalog/                               LMDB: names (catalog.py)
      collections/<id>/store/                LMDB: the truth (store.py)
      collections/<id>/segments/<number>/    arrays that kernels read (segment.py)
      trash/, incoming/                      dropped collections, imports under way

A runtime is reference-counted: the first ``Runtime.open`` of a folder in a process creates it,
later ones return the same object, and the last ``close`` ends it. ``Database`` and ``Collection``
are one façade on it, the server's ``Service`` is another.

After a fork every call in the child fails, and so does opening the folder there: LMDB's locks and
maps do not survive a fork.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from vecdb import checks
from vecdb.engine.indexing.backpressure import NO_PROGRESS_S
from vecdb.engine.indexing.merge_policy import plan
from vecdb.engine.indexing.supervisor import IndexerSettings, Supervisor
from vecdb.engine.kernels.loading import warn_when_compiling
from vecdb.engine.kernels.pool import KernelPool
from vecdb.engine.runtime.catalog import Catalog
from vecdb.engine.runtime.data_folder import prepare_folder, raise_file_limit, remove_leftovers
from vecdb.engine.runtime.metering import Metering
from vecdb.engine.runtime.open_collection import OpenCollection
from vecdb.engine.runtime.options import Options
from vecdb.engine.runtime.stats import collection_stats
from vecdb.engine.runtime.upkeep import Upkeep
from vecdb.engine.segments.verifying import Verifier
from vecdb.engine.store.batch import Batch, UpsertBatch
from vecdb.engine.store.stored_name import write_metadata
from vecdb.engine.store.writer import Writer
from vecdb.engine.system.call_memory import MemoryBudget
from vecdb.engine.system.deadline import Deadline
from vecdb.engine.system.files import os_errors_translated
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.system.named_locks import NamedLocks
from vecdb.engine.system.weighted_lru import WeightedLru
from vecdb.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, CollectionDescription, CollectionStats, Receipt

__all__ = ["Runtime"]

FacadeT = TypeVar("FacadeT")

_OPTIMIZE_POLL_S, _FAILURES_MAX = 0.02, 3
_log = logging.getLogger("vecdb.engine")


class Runtime:
    """An open folder in this process. Safe to use from many threads.

    Attributes:
        path: the folder, with symbolic links resolved. options: its options.
        catalog: names and ids. collections: the open collections, by id.
        writer: commits batches. upkeep: flushes and purges.
        metering: measures the recall of searches.
        pool: the cores that searches share. verifier: compares segments with their checksums.
        snapshot_budget, call_memory: memory bounds of snapshots and of running calls.
    """

    _open: ClassVar[dict[str, Runtime]] = {}
    _open_lock: ClassVar[threading.Lock] = threading.Lock()
    _of_parent: ClassVar[dict[str, str]] = {}  # Folders open at the fork → error message.

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: object) -> Runtime:
        """Open the folder and create it if it does not exist.

        If the folder is open in this process already, return the same object.

        Raises:
            FailedPreconditionError: not a vecdb folder, or a newer format.
            NotFoundError: NO_FOLDER: the folder can't be created there.
            InvalidArgumentError: an option is invalid, or differs from the options of the open
                folder.
        """
        root, chosen = checks.check_local_path(path).absolute(), Options.of(options)
        with cls._open_lock:
            key = os.path.realpath(root)
            if key in cls._of_parent:
                # LMDB can't open a file twice in a process, and the copy that the fork inherited
                # must not be closed: that would release the parent's locks.
                raise FailedPreconditionError(cls._of_parent[key], Reason.FORKED)
            known = cls._open.get(key)
            if known is not None and known._unusable is not None:
                text = f"{root} is still closing in this process; call close() again"
                raise UnavailableError(text, Reason.CLOSING)
            if known is not None:
                if options and chosen != known.options:
                    text = f"{root} is already open in this process with other options"
                    raise InvalidArgumentError(text, Reason.BAD_OPTION)
                known._references += 1
                return known
            with os_errors_translated(str(root), missing=True):
                runtime = cls(Path(key), chosen)
            cls._open[key] = runtime
            return runtime

    def __init__(self, root: Path, options: Options) -> None:
        self.path = root
        self.options = options
        self._references = 1
        self._unusable: str | None = None
        self._closed = self._forked_away = False
        self._facades: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._collection_locks = NamedLocks()
        self.collections: dict[str, OpenCollection] = {}
        self._lru = WeightedLru(options.open_collections_max)
        raise_file_limit()
        warn_when_compiling()
        prepare_folder(root, group_access=options.group_access)
        self._use = FolderUse(root)
        try:
            remove_leftovers(root)
            self.catalog = Catalog(root, options.map_bytes)
        except BaseException:
            self._use.close()
            raise
        self.pool = KernelPool(options.threads)
        self.writer = Writer(options.queue_bytes_max)
        self.verifier = Verifier()
        self.snapshot_budget = WeightedLru(options.view_bytes_max)
        self.call_memory = MemoryBudget(options.call_bytes_max)
        settings = IndexerSettings(
            enabled=options.indexer,
            finishes=options.optimize,
            outlives_parent=options.indexer_outlives_parent,
            threads=options.threads,
            map_bytes=options.map_bytes,
            seal_bytes=options.seal_bytes,
            segment_bytes_max=options.segment_bytes_max,
            codes=options.codes,
        )
        self.metering = Metering(options.recall_meter)
        self._supervisor = Supervisor(root, settings, on_progress=self._indexer_progressed)
        self._dropped_checked_at = self.catalog.environment.last_commit()
        wake, poll = self._supervisor.wake, self._close_dropped
        self.upkeep = Upkeep(self.collections.get, on_flushed=wake, on_poll=poll)
        _live.add(self)

    def facade(self, kind: Callable[[Runtime], FacadeT]) -> FacadeT:
        """Return this runtime's façade of a kind; the first call creates it."""
        with self._lock:
            if kind not in self._facades:
                self._facades[kind] = kind(self)
            facade: FacadeT = self._facades[kind]
            return facade

    def check_usable(self) -> None:
        """Raise if the database was closed or this is a forked child."""
        if self._unusable is not None:
            raise FailedPreconditionError(self._unusable, Reason.CLOSED)

    def create_collection(
        self, name: str, config: CollectionConfig, metadata: bytes = b""
    ) -> OpenCollection:
        """Create a collection; it is on disk when this returns.

        Args:
            name, config, metadata: already checked.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        self.check_usable()
        with os_errors_translated(str(self.path)):
            return self._open_collection(self.catalog.create(name, config, metadata))

    def collection(self, name: str) -> OpenCollection:
        """Return the collection that currently has the name.

        Raises:
            InvalidArgumentError: BAD_NAME.
            NotFoundError: NO_COLLECTION.
        """
        self.check_usable()
        collection_id, _ = self.catalog.find(checks.check_name(name))
        while True:
            opened = self.collections.get(collection_id)
            try:
                return opened or self._open_collection(collection_id)
            except NotFoundError:
                # The collection may have been dropped since it was found; the name may be free
                # or belong to another collection now.
                found_id, _ = self.catalog.find(name)
                if found_id == collection_id:
                    raise
                collection_id = found_id

    def collection_of_id(self, collection_id: str) -> OpenCollection:
        """Return the collection of an id, whatever its current name.

        Raises:
            NotFoundError: DROPPED.
        """
        self.check_usable()
        opened = self.collections.get(collection_id)
        if opened is None:
            self.catalog.check_there(collection_id)
            opened = self._open_collection(collection_id)
        return opened

    def list_collections(self) -> list[CollectionDescription]:
        """Return all collections, sorted by name."""
        self.check_usable()
        return self.catalog.list()

    def rename_collection(self, old: str, new: str) -> None:
        """Rename a collection atomically for every process.

        Raises:
            NotFoundError: no collection has the name ``old``.
            AlreadyExistsError: the name ``new`` is taken, also if ``new`` equals ``old``.
        """
        self.check_usable()
        old, new, note = checks.check_name(old), checks.check_name(new), None
        # Errors about the names themselves are raised by the catalogue below.
        with contextlib.suppress(VecdbError):
            note = self.collection(old).note_name(new)
        with os_errors_translated(str(self.path)):
            self.catalog.rename(old, new, note)

    def set_collection_metadata(self, opened: OpenCollection, metadata: bytes) -> None:
        """Replace the metadata of a collection; already checked, JSON or empty."""
        self.check_usable()
        environment = opened.store.environment
        with os_errors_translated(str(self.path)):
            self.catalog.set_metadata(
                opened.id, metadata, lambda: write_metadata(environment, metadata)
            )

    def drop_collection(self, name: str) -> None:
        """Drop a collection and its data, for every process that has it open.

        If the drop fails half way, the name stays taken until the drop is repeated or the folder
        is opened again.

        Raises:
            NotFoundError: NO_COLLECTION.
        """
        self.check_usable()
        with os_errors_translated(str(self.path)):
            collection_id = self.catalog.drop(checks.check_name(name))
            with self._collection_locks.of(collection_id):
                opened = self.collections.get(collection_id)
                store = opened.store if opened else None
                self.upkeep.forget(collection_id)
                try:
                    self.catalog.finish_drop(name, collection_id, store)
                finally:
                    self._close_collection(collection_id)
            self.catalog.empty_trash()

    def clear_stale_readers(self) -> None:
        """Clear stale reader slots of killed processes so that LMDB can reuse their pages."""
        for opened in list(self.collections.values()):
            with contextlib.suppress(VecdbError):
                opened.store.environment.clear_stale_readers()

    def close(self) -> None:
        """Release one reference; the last one waits for queued batches and closes the folder.

        If closing is interrupted, calling this again continues it.
        """
        with Runtime._open_lock:  # A concurrent open() waits until the folder is closed.
            if self._closed or self._forked_away:
                return
            self._references = max(0, self._references - 1)
            if self._references > 0:
                return
            self._unusable = f"the database in {self.path} is closed"
            self.writer.close()
            self.metering.close()
            self.upkeep.close()
            self._supervisor.close([opened.unfinished for opened in self.collections.values()])
            self.verifier.close()
            self.pool.close()
            with self._lock:
                for opened in self.collections.values():
                    opened.close()
                self.collections.clear()
            self.catalog.close()
            self._use.close()
            self._closed = True
            self._facades.clear()
            Runtime._open.pop(str(self.path), None)

    def __repr__(self) -> str:
        return f"Runtime({str(self.path)!r})"

    def submit(self, opened: OpenCollection, batch: Batch) -> Future[Receipt]:
        """Queue a checked batch without the delay of back-pressure."""
        self.check_usable()
        answer = self.writer.submit(opened.store, batch, lambda: self._committed(opened))
        if isinstance(batch, UpsertBatch):
            opened.keep_for_snapshots(batch, answer)
        return answer

    def indexer_status(self, opened: OpenCollection) -> str:
        """Return what the indexer does for a collection, for ``stats``."""
        status = self._supervisor.status(opened.id)
        status += self.upkeep.status(opened.id)
        if opened.backpressure.is_stalled:
            status += f"; writers are not delayed: no progress for {NO_PROGRESS_S:.0f} s"
        return status

    def submit_delayed(self, opened: OpenCollection, batch: Batch) -> Future[Receipt]:
        """Queue a checked batch; upserts first wait for the delay of back-pressure."""
        pressure = opened.backpressure
        if pressure.delay_s > 0 and isinstance(batch, UpsertBatch):
            opened.note_backlog()  # The indexer may have caught up since the last commit.
            time.sleep(pressure.delay_s)
        return self.submit(opened, batch)

    def write(self, opened: OpenCollection, batch: Batch) -> Receipt:
        """Write a checked batch and wait until it is on disk; an empty batch writes nothing."""
        if not batch.is_empty:
            return self.submit_delayed(opened, batch).result()
        self.check_usable()
        return Receipt(opened.current_seq(), 0)

    def stats(self, opened: OpenCollection) -> CollectionStats:
        """Return rows, segments and bytes at one seq."""
        self.check_usable()
        return collection_stats(opened, self.indexer_status(opened))

    def optimize(self, opened: OpenCollection, deadline: Deadline) -> None:
        """Flush the memtable, wait until all its rows are in graphs, and verify the segments.

        Raises:
            UnavailableError: NO_INDEXER.
            DeadlineExceededError: the deadline has passed; the indexer continues.
            InternalError: INDEXER_CRASHED: the indexer failed several times in a row.
        """
        self.check_usable()
        if not self.options.indexer:
            text = "optimize needs the indexer; this database was opened with indexer=False"
            raise UnavailableError(text, Reason.NO_INDEXER)
        with os_errors_translated(str(opened.folder)):
            while not opened.flush(1):
                deadline.check()
                time.sleep(_OPTIMIZE_POLL_S)
        wanted_row = opened.snapshots.snapshot().counters.sealed_to
        failures, last_wake = self._supervisor.failures(opened.id), 0.0
        check = deadline.also(self.check_usable).check
        while True:
            # Rows that are flushed later are not waited for: a steady writer could otherwise
            # keep this loop from ending.
            segments = opened.snapshots.snapshot().segments
            asked = tuple(s for s in segments if s.first_row < wanted_row)
            codes, config = self.options.codes == "auto", opened.store.config
            lacking = any(s.missing_parts(config, codes=codes) for s in asked)
            if not lacking and plan(asked, opened.graph_rows_max, pace="optimizing") is None:
                if opened.snapshots.verify(check):
                    return
                continue
            if time.monotonic() - last_wake > 1.0:
                self._supervisor.wake(opened.id, urgent=True)
                last_wake = time.monotonic()
            if self._supervisor.failures(opened.id) >= failures + _FAILURES_MAX:
                raise InternalError(self._supervisor.status(opened.id), Reason.INDEXER_CRASHED)
            check()
            time.sleep(_OPTIMIZE_POLL_S)

    def wake_indexer(self, collection_id: str) -> None:
        """Notify the indexer that a collection may have graph work."""
        self._supervisor.wake(collection_id)

    def _indexer_progressed(self, collection_id: str) -> None:
        opened = self.collections.get(collection_id)
        if opened is not None:
            opened.backpressure.progress()

    def reopened(self, opened: OpenCollection) -> None:
        """Add a collection that its use has reopened to the LRU, and evict others."""
        self._lru.evict(self._lru.put(opened))

    def gone_error(self, collection_id: str) -> VecdbError:
        """Return the error for a collection whose store is not where it was opened."""
        return self.catalog.gone_error(collection_id)

    def _open_collection(self, collection_id: str) -> OpenCollection:
        with self._collection_locks.of(collection_id), os_errors_translated(str(self.path)):
            opened = self.collections.get(collection_id)
            if opened is None:
                self.catalog.environment.check_in_place()
                opened = OpenCollection(self, collection_id, self.catalog.folder(collection_id))
                with self._lock:
                    if self._unusable is not None:
                        opened.close()
                        self.check_usable()
                    self.collections[collection_id] = opened
                self.metering.add(opened.meter)
                self.reopened(opened)
                try:
                    self._take_up_work(opened)
                except DataLossError as damage:
                    # Rows can be read without segments, so only searches fail.
                    _log.warning("opening %s: %s", opened.folder, damage)
            return opened

    def _take_up_work(self, opened: OpenCollection) -> None:
        """Schedule flushing, indexing and garbage collection that an earlier process left."""
        with opened.store.environment.read() as transaction:
            entries = opened.store.read_segments(transaction)
        if any(not e.is_published or not e.has_graph or e.lost_parts for e in entries.values()):
            self._supervisor.wake(opened.id)
        self._look_for_work(opened)

    def _committed(self, opened: OpenCollection) -> None:
        """Schedule work after a commit.

        Runs in the writer's thread: purging some garbage here slows down writers that create it
        faster than the upkeep thread can purge it.
        """
        self._look_for_work(opened)
        if opened.relieve():
            self.upkeep.purge_now(opened.id)

    def _look_for_work(self, opened: OpenCollection) -> None:
        work = opened.work()
        if work == "flush":
            self.upkeep.flush(opened.id)
        elif work == "index":
            self._supervisor.wake(opened.id)
        if opened.garbage:
            self.upkeep.purge_later(opened.id)

    def _close_dropped(self) -> None:
        """Close collections that other processes have dropped, which frees their disk space."""
        commit = self.catalog.environment.last_commit()
        if commit == self._dropped_checked_at:
            return
        for collection_id in self.catalog.dropped(list(self.collections)):
            with self._collection_locks.of(collection_id):
                self._close_collection(collection_id)
        self._dropped_checked_at = commit

    def _close_collection(self, collection_id: str) -> None:
        """Close a dropped collection. The caller holds its turn."""
        opened = self.collections.pop(collection_id, None)
        if opened is not None:
            self._lru.remove(opened)
            opened.close(dropped=True)

    def _forked(self) -> None:
        self._forked_away = True
        self._unusable = (
            f"the database in {self.path} was opened before a fork: the child can neither use it "
            "nor open it again; open it after the fork, or start the child as a new process"
        )


_live: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork() -> None:
    for runtime in list(_live):
        if not runtime._closed:
            runtime._forked()
            Runtime._of_parent[str(runtime.path)] = str(runtime._unusable)
    Runtime._open = {}
    Runtime._open_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
