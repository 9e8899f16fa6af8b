"""An open folder: the catalogue, the collections in use, the writer, sealing and the indexer.

    data/
      FORMAT                                 "vecdb 1"
      catalog/                               LMDB: names (catalog.py)
      collections/<id>/store/                LMDB: the truth (store.py)
      collections/<id>/segments/<number>/    arrays that kernels read (segment.py)
      trash/, incoming/                      what is dropped, what is imported

Opening a folder twice in a process gives the same database, counted. After a fork every call of the
child fails, opening the folder too: LMDB's locks and maps do not survive it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from vecdb import checks
from vecdb.database_surface import DatabaseSurface
from vecdb.engine.backpressure import NO_PROGRESS_S
from vecdb.engine.backup.process import run_backup
from vecdb.engine.batch import DeleteBatch, UpsertBatch
from vecdb.engine.call_memory import MemoryBudget
from vecdb.engine.catalog import Catalog
from vecdb.engine.collection import Collection
from vecdb.engine.compiled import warn_when_compiling
from vecdb.engine.data_folder import prepare_folder, raise_file_limit, remove_leftovers
from vecdb.engine.deadline import Deadline
from vecdb.engine.files import os_errors_translated
from vecdb.engine.folder_use import FolderUse
from vecdb.engine.importing.import_file import ImportRequest, import_file
from vecdb.engine.kernel_pool import KernelPool
from vecdb.engine.open_collection import OpenCollection
from vecdb.engine.options import Options
from vecdb.engine.place import not_in_place
from vecdb.engine.planning import plan
from vecdb.engine.resting import Resting
from vecdb.engine.supervisor import Supervisor
from vecdb.engine.turns import Turns
from vecdb.engine.upkeep import Upkeep
from vecdb.engine.verifying import Verifier
from vecdb.engine.view_budget import ViewBudget
from vecdb.engine.writer import Writer
from vecdb.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    VecdbError,
)
from vecdb.types import BackupReport, CollectionDescription, ImportReport, Receipt

__all__ = ["Database"]

_OPTIMIZE_POLL_S, _FAILURES_MAX = 0.02, 3
_log = logging.getLogger("vecdb.engine")


class Database(DatabaseSurface[Collection]):
    """An open database. Made by ``vecdb.open``; safe to use from many threads; a context
    manager."""

    _open: ClassVar[dict[str, Database]] = {}
    _open_lock: ClassVar[threading.Lock] = threading.Lock()
    _of_parent: ClassVar[dict[str, str]] = {}  # Folders that were open at a fork, why not again.

    @classmethod
    def open(cls, path: str | os.PathLike[str], **options: Any) -> Database:
        """Open the folder, made if it is not there; the same object if it is open already.

        Raises:
            FailedPreconditionError: no vecdb folder, or one of a newer format.
            NotFoundError: NO_FOLDER: it can't be made there.
            InvalidArgumentError: an option is wrong, or differs from those it is open with.
        """
        root, chosen = checks.check_local_path(path).absolute(), Options.of(options)
        with cls._open_lock:
            key = os.path.realpath(root)
            if key in cls._of_parent:
                # LMDB can't be opened beside what the fork copied, nor may that be closed here.
                raise FailedPreconditionError(cls._of_parent[key], "FORKED")
            known = cls._open.get(key)
            if known is not None and known._unusable is not None:
                raise UnavailableError(f"{root} is being closed; close it again", "CLOSING")
            if known is not None:
                if options and chosen != known.options:
                    text = f"{root} is open in this process with other options"
                    raise InvalidArgumentError(text, "BAD_OPTION")
                known._references += 1
                return known
            with os_errors_translated(str(root), missing=True):
                database = cls(Path(key), chosen)
            cls._open[key] = database
            return database

    def __init__(self, root: Path, options: Options) -> None:
        self.path = root
        self.options = options
        self._references = 1
        self._unusable: str | None = None
        self._closed = self._forked_away = False
        self._lock = threading.Lock()
        self._turns = Turns()
        self._collections: dict[str, OpenCollection] = {}
        self._resting = Resting(options.open_collections_max)
        raise_file_limit()
        warn_when_compiling()
        prepare_folder(root, group_access=options.group_access)
        self._use = FolderUse(root)
        try:
            remove_leftovers(root)
            self._catalog = Catalog(root, options.map_bytes)
        except BaseException:
            self._use.close()
            raise
        self.pool = KernelPool(options.threads)
        self._writer = Writer(options.queue_bytes_max)
        self.verifier = Verifier()
        self.view_budget = ViewBudget(options.view_bytes_max)
        self.call_memory = MemoryBudget(options.call_bytes_max)
        self._supervisor = Supervisor(root, options, on_progress=self._indexer_progressed)
        self._dropped_looked_at = self._catalog.environment.last_commit()
        wake, look = self._supervisor.wake, self._let_dropped_go
        self._upkeep = Upkeep(self._collections.get, on_sealed=wake, on_look=look)
        _living.add(self)

    def check_usable(self) -> None:
        """Raise if the database was closed or this is a forked child."""
        if self._unusable is not None:
            raise FailedPreconditionError(self._unusable, "CLOSED")

    def create_collection(
        self,
        name: str,
        dim: int,
        metric: str = "cosine",
        *,
        M: int = 16,
        ef_construction: int = 128,
    ) -> Collection:
        """Make a collection; on disk when this returns.

        Args:
            name: letters, digits, "_" and "-", 1 to 64.
            dim: components of each vector, 1 to 16,384.
            metric: "cosine", "euclidean" or "dot".
            M, ef_construction: of the graph; see ``CollectionConfig``.

        Raises:
            AlreadyExistsError: the name is taken.
            InvalidArgumentError: one of the arguments is wrong.
        """
        self.check_usable()
        config = checks.check_config(dim, metric, M, ef_construction)
        with os_errors_translated(str(self.path)):
            collection_id = self._catalog.create(checks.check_name(name), config)
            return Collection(self, name, self._open_collection(collection_id))

    def collection(self, name: str) -> Collection:
        """A handle on a collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        self.check_usable()
        collection_id, _ = self._catalog.find(checks.check_name(name))
        while True:
            opened = self._collections.get(collection_id)
            try:
                return Collection(self, name, opened or self._open_collection(collection_id))
            except NotFoundError:
                # Dropped since it was found? Then the name is free, or has another one.
                found_id, _ = self._catalog.find(name)
                if found_id == collection_id:
                    raise
                collection_id = found_id

    def collection_of_id(self, collection_id: str, name: str) -> Collection:
        """The handle on the collection of an id, or NotFoundError, DROPPED; for servers."""
        self.check_usable()
        opened = self._collections.get(collection_id)
        if opened is None:
            self._catalog.check_there(collection_id)
            opened = self._open_collection(collection_id)
        return Collection(self, name, opened)

    def list_collections(self) -> list[CollectionDescription]:
        """All collections, by name."""
        self.check_usable()
        return self._catalog.list()

    def rename_collection(self, old: str, new: str) -> None:
        """Give a collection another name, in one step for every process. Handles are bound to the
        collection and go on working; their ``name`` stays what they were opened by.

        Raises:
            NotFoundError: there is none of the name ``old``.
            AlreadyExistsError: the name ``new`` is taken, be it by the collection itself.
        """
        self.check_usable()
        old, new, note = checks.check_name(old), checks.check_name(new), None
        with contextlib.suppress(VecdbError):  # What is wrong with names the catalogue says.
            note = self.collection(old)._opened.note_name(new)
        with os_errors_translated(str(self.path)):
            self._catalog.rename(old, new, note)

    def drop_collection(self, name: str) -> None:
        """Drop a collection with all that is in it, for every process that has it open.

        If it fails half way, the name stays taken until it is dropped again or the folder opened.

        Raises:
            NotFoundError: there is none of that name.
        """
        self.check_usable()
        with os_errors_translated(str(self.path)):
            collection_id = self._catalog.drop(checks.check_name(name))
            with self._turns.of(collection_id):
                opened = self._collections.get(collection_id)
                store = opened.store if opened else None
                self._upkeep.forget(collection_id)
                try:
                    self._catalog.finish_drop(name, collection_id, store)
                finally:
                    self._let_go(collection_id)
            self._catalog.empty_trash()

    def backup(
        self, path: str | os.PathLike[str], *, include_segments: bool = True
    ) -> BackupReport:
        """Make a backup, to be turned into a data folder by ``vecdb.restore``; writes and searches
        of all processes go on.

        It holds the collections that are there when it begins, each in one committed state of its
        own: every batch up to some seq and nothing of those after it. It is fsynced and was read
        back when this returns; until then there is nothing at ``path``. While a store is copied,
        space that writers free in it is not used again, so its file may grow by what is written
        meanwhile.

        Args:
            path: a folder that is not there yet, in one that is, outside of the data folder.
            include_segments: False saves their space; after restoring, they are built again.

        Raises:
            AlreadyExistsError: something is at ``path``.
            NotFoundError: the folder that it should lie in is not there.
            DataLossError: stored bytes fail their checksum, so that no good backup can be made.
            ResourceExhaustedError: the disk is full. Nothing is left of the backup.
            InvalidArgumentError: the path is none, or lies in the data folder.
        """
        return self.run_backup(path, Deadline(), include_segments=include_segments)

    def run_backup(
        self, path: str | os.PathLike[str], deadline: Deadline, *, include_segments: bool
    ) -> BackupReport:
        """``backup`` with a deadline that can be cancelled; for servers."""
        self.check_usable()
        include_segments = checks.check_flag("include_segments", include_segments)
        target = checks.check_local_path(path).absolute()
        if Path(os.path.realpath(target)).is_relative_to(self.path):
            raise InvalidArgumentError(f"{target} lies in the data folder {self.path}", "BAD_PATH")

        try:
            with os_errors_translated(str(target)):
                segments, check = include_segments, deadline.also(self.check_usable).check
                return run_backup(self.path, target, include_segments=segments, check=check)
        except BaseException:
            # If it was killed while it copied a store, that store would never use a page again.
            for opened in list(self._collections.values()):
                with contextlib.suppress(VecdbError):
                    opened.store.environment.forget_dead_readers()
            raise

    def import_faiss(
        self,
        path: str | os.PathLike[str],
        collection: str,
        *,
        metric: str | None = None,
        meta: str | os.PathLike[str] | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        """Bring in a FAISS index file: IndexFlat or IndexHNSWFlat, in IndexIDMap(2) or after a
        normalisation or not. ``importing/import_file.py`` says what becomes of its graph.

        Args:
            path: the file. It is not trusted: all of it is checked before anything is written.
            collection: made if it is not there, with the dim, M and metric of file and sidecar.
            metric: None for that of collection, sidecar or file: L2 is "euclidean", inner product
                "dot", after a normalisation "cosine". "cosine": all vectors have length 1.
            meta: JSON Lines or Parquet of ``faiss_id``, ``id`` and ``metadata``; None for what is
                there of ``<path>.meta.parquet`` and ``.jsonl``, False for none. Without it the
                FAISS ids, or the row numbers, become ids by their decimal text.
            timeout_s: seconds, None for no end; what was written when they are over stays.

        Raises:
            InvalidArgumentError: BAD_FILE, with byte and field; FAISS_INDEX: of a kind that can't
                be taken; DIM_MISMATCH, METRIC_MISMATCH, CONFIG_MISMATCH: two say different things.
            NotFoundError: NO_FILE. Otherwise as for ``upsert``: run it again to go on.
        """
        self.check_usable()
        return import_file(self, path, ImportRequest("faiss", collection, metric), meta, timeout_s)

    def import_hnswlib(
        self,
        path: str | os.PathLike[str],
        collection: str,
        *,
        dim: int,
        metric: str,
        meta: str | os.PathLike[str] | bool | None = None,
        timeout_s: float | None = None,
    ) -> ImportReport:
        """Bring in a file of ``hnswlib.Index.save_index``; everything else as ``import_faiss``.

        Args:
            dim, metric: what the file does not say. "euclidean" is hnswlib's l2, "dot" its ip.
        """
        self.check_usable()
        request = ImportRequest("hnswlib", collection, metric, dim)
        return import_file(self, path, request, meta, timeout_s)

    def close(self) -> None:
        """Close it once for each time it was opened; the last one waits for batches at hand.

        If that is interrupted, closing again goes on with it.
        """
        with Database._open_lock:  # Who opens the folder meanwhile waits until it is closed.
            if self._closed or self._forked_away:
                return
            self._references = max(0, self._references - 1)
            if self._references > 0:
                return
            self._unusable = f"the database in {self.path} is closed"
            self._writer.close()
            self._upkeep.close()
            self._supervisor.close(list(self._collections.values()))
            self.verifier.close()
            self.pool.close()
            with self._lock:
                for opened in self._collections.values():
                    opened.close()
                self._collections.clear()
            self._catalog.close()
            self._use.close()
            self._closed = True
            Database._open.pop(str(self.path), None)

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r})"

    # What collections ask of their database.

    def submit(self, opened: OpenCollection, batch: UpsertBatch | DeleteBatch) -> Future[Receipt]:
        """Queue a checked batch."""
        self.check_usable()
        return self._writer.submit(opened.store, batch, lambda: self._committed(opened))

    def indexer_status(self, opened: OpenCollection) -> str:
        """What the indexer does for a collection."""
        status = self._supervisor.status(opened.id)
        status += self._upkeep.status(opened.id)
        if opened.backpressure.is_stalled:
            status += f"; writers are not delayed: no progress for {NO_PROGRESS_S:.0f} s"
        return status

    def optimize(self, opened: OpenCollection, deadline: Deadline) -> None:
        """Seal everything, wait until the indexer has finished, and verify what it leaves."""
        if not self.options.indexer:
            raise UnavailableError("this database was opened with indexer=False", "NO_INDEXER")
        with os_errors_translated(str(opened.folder)):
            while not opened.seal(1):
                deadline.check()
                time.sleep(_OPTIMIZE_POLL_S)
        wanted_row = opened.views.view().counters.sealed_to
        failures, last_wake = self._supervisor.failures(opened.id), 0.0
        check = deadline.also(self.check_usable).check
        while True:
            # What is sealed meanwhile is not waited for, or writers could keep this from ending.
            segments = opened.views.view().segments
            asked = tuple(s for s in segments if s.first_row < wanted_row)
            if plan(asked, opened.graph_rows_max, pace="optimizing") is None:
                if opened.views.verify(check):
                    return
                continue
            if time.monotonic() - last_wake > 1.0:
                self._supervisor.wake(opened.id, urgent=True)
                last_wake = time.monotonic()
            if self._supervisor.failures(opened.id) >= failures + _FAILURES_MAX:
                raise InternalError(self._supervisor.status(opened.id), "INDEXER_CRASHED")
            check()
            time.sleep(_OPTIMIZE_POLL_S)

    def wake_indexer(self, collection_id: str) -> None:
        """There may be graph work in a collection."""
        self._supervisor.wake(collection_id)

    def _indexer_progressed(self, collection_id: str) -> None:
        opened = self._collections.get(collection_id)
        if opened is not None:
            opened.backpressure.progress()

    def woke(self, opened: OpenCollection) -> None:
        """A collection at rest was opened again by its use."""
        self._resting.woke(opened)

    def gone_error(self) -> VecdbError | None:
        """What to say of a store that is not in its place, if all of the folder isn't."""
        return None if self._catalog.environment.is_in_place() else not_in_place(self.path)

    def _open_collection(self, collection_id: str) -> OpenCollection:
        with self._turns.of(collection_id), os_errors_translated(str(self.path)):
            opened = self._collections.get(collection_id)
            if opened is None:
                self._catalog.environment.check_in_place()
                opened = OpenCollection(self, collection_id, self._catalog.folder(collection_id))
                with self._lock:
                    if self._unusable is not None:
                        opened.close()
                        self.check_usable()
                    self._collections[collection_id] = opened
                self._resting.woke(opened)
                try:
                    self._take_up_work(opened)
                except DataLossError as damage:
                    # Only what needs the segments fails; rows can be read.
                    _log.warning("opening %s: %s", opened.folder, damage)
            return opened

    def _take_up_work(self, opened: OpenCollection) -> None:
        """What an earlier process left to do."""
        with opened.store.environment.read() as transaction:
            entries = opened.store.read_segments(transaction)
        if any(e["state"] != "published" or e["kind"] == "flat" for e in entries.values()):
            self._supervisor.wake(opened.id)
        self._look_for_work(opened)

    def _committed(self, opened: OpenCollection) -> None:
        """After a commit, in the writer's thread: who writes pays for the space that it takes."""
        self._look_for_work(opened)
        if opened.relieve():
            self._upkeep.purge_now(opened.id)

    def _look_for_work(self, opened: OpenCollection) -> None:
        work = opened.work()
        if work == "seal":
            self._upkeep.seal(opened.id)
        elif work == "index":
            self._supervisor.wake(opened.id)
        if opened.garbage:
            self._upkeep.purge_later(opened.id)

    def _let_dropped_go(self) -> None:
        """Close what other processes have dropped, so that the space of its files becomes free."""
        commit = self._catalog.environment.last_commit()
        if commit == self._dropped_looked_at:
            return
        for collection_id in self._catalog.dropped(list(self._collections)):
            with self._turns.of(collection_id):
                self._let_go(collection_id)
        self._dropped_looked_at = commit

    def _let_go(self, collection_id: str) -> None:
        """Close a collection that was dropped, in its turn."""
        opened = self._collections.pop(collection_id, None)
        if opened is not None:
            self._resting.forget(opened)
            opened.close(dropped=True)

    def _forked(self) -> None:
        self._forked_away = True
        self._unusable = (
            f"the database in {self.path} was opened before a fork and can't be used after it, nor "
            "opened anew in the child: open it after forking, or start a process of its own"
        )


_living: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork() -> None:
    for database in list(_living):
        if not database._closed:
            database._forked()
            Database._of_parent[str(database.path)] = str(database._unusable)
    Database._open = {}
    Database._open_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
