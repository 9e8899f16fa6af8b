"""The catalogue: the names and ids of a folder's collections.

    catalog/    LMDB: database "names", name → JSON {id, dim, metric, M, ef_construction, state,
                      target_recall (optional), metadata (text, optional)}
                      database "aliases", reserved

Collections are created and dropped in steps; any process can continue after each of them:

    create: entry "creating" → store created, fsynced with its folders → entry "ready"
    drop:   entry "dropping" → the store marked dropped → folder moved to trash/ → entry removed
    rename: the entry moves to another name, in one transaction

All of them hold catalog.lock. Opening the folder finishes drops and undoes creations that a killed
process left unfinished. Dropping or creating the same name again finishes an operation that failed
half way. If that fails too, for example on a full disk, the entry stays and affects no other
collection. The name of a collection stays taken until its drop has ended. Only the catalogue maps
names to collections: the store and the segments carry the id, which is never reused. The store also
notes the name, so that a lost catalogue can be rebuilt (``catalog_loss.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.lmdb_files import fill_cut_file
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.runtime.catalog_entry import (
    CatalogEntry,
    description_of,
    new_entry,
    unpacked_entry,
)
from vecdb.engine.runtime.catalog_loss import catalog_fault, catalog_lost, stores_on_disk
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store, dropped_error, mark_dropped
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import file_lock, fsync_folder, patient_lock
from vecdb.engine.system.modes import make_folder, make_folders
from vecdb.engine.system.place import not_in_place
from vecdb.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    VecdbError,
)
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, CollectionDescription

__all__ = [
    "Catalog",
    "catalog_environment",
    "copy_catalog",
    "new_catalog",
]

_DATABASES = (b"names", b"aliases")
_MAP_BYTES = 1024**3
_PATIENCE_S = 8.0
_log = logging.getLogger("vecdb.engine")


class Catalog:
    """Names and ids of the collections of one folder. Safe to use from threads and processes."""

    def __init__(self, root: Path, store_map_bytes: int) -> None:
        self._root = root
        self._store_map_bytes = store_map_bytes
        fault = catalog_fault(root)
        if fault is not None:
            raise catalog_lost(root, fault)
        self.environment = new_catalog(root)
        self._handles = self.environment.handles
        # Commit number and the entries found since. The pair is replaced as a whole, so that a
        # thread that read an older commit can't add its result to a newer dict.
        self._found: tuple[int, dict[str, tuple[str, CollectionConfig]]] = (-1, {})
        try:
            for folder in ("collections", "trash"):
                make_folder(root / folder, exist_ok=True)
            fsync_folder(root / "catalog")
            fsync_folder(root)
            self._check_not_emptied()
            self._recover()
        except BaseException:
            self.environment.close()
            raise

    def _check_not_emptied(self) -> None:
        """Raise CATALOG_LOST if there are stores on disk but no entries.

        An entry is written before its store is created and removed after its store.
        """
        if self._is_empty() and stores_on_disk(self._root):
            # Another process may be creating the first collection or dropping the last one.
            with self._locked():
                if self._is_empty() and stores_on_disk(self._root):
                    raise catalog_lost(self._root, f"{self.environment.folder} names no collection")

    def _is_empty(self) -> bool:
        with self.environment.read() as transaction:
            return not transaction.stat(self._handles.names)["entries"]

    def folder(self, collection_id: str) -> Path:
        """Return the folder of a collection."""
        return self._root / "collections" / collection_id

    def list(self) -> list[CollectionDescription]:
        """Return the ready collections, sorted by name, without those whose entry is damaged."""
        with self.environment.read() as transaction:
            entries = self._entries(transaction)
        return [
            description_of(name, entry)
            for name, entry in sorted(entries.items())
            if entry["state"] == "ready"
        ]

    def find(self, name: str) -> tuple[str, CollectionConfig]:
        """Return the id and configuration of a collection.

        Raises:
            NotFoundError: NO_COLLECTION.
        """
        # Every remote call looks up a name, so results are cached until the next commit.
        found_at, found = self._found
        if name in found and self.environment.last_commit() == found_at:
            return found[name]
        with self.environment.read() as transaction:
            commit = transaction.id()
            entry = self._entry(transaction, name)
        if commit != found_at:
            found = {}
            self._found = (commit, found)
        if entry is None or entry["state"] != "ready":
            raise NotFoundError(f"there is no collection {name!r}", Reason.NO_COLLECTION)
        found[name] = (str(entry["id"]), layout.config_of(entry))
        return found[name]

    def create(self, name: str, config: CollectionConfig, metadata: bytes = b"") -> str:
        """Create a collection and return its id; it is on disk when this returns.

        Args:
            metadata: JSON of an object, or empty.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        with self._locked():
            with self.environment.read() as transaction:
                taken = self._entry(transaction, name)
            if taken is not None and taken["state"] == "creating":
                # We hold the lock, so the process that began this creation has failed.
                self._undo_create(name, taken)
            elif taken is not None:
                raise AlreadyExistsError(f"collection {name!r} exists already", Reason.NAME_TAKEN)
            collection_id = uuid.uuid4().hex[:16]
            entry = new_entry(collection_id, config, "creating", metadata)
            self._put(name, entry)
            failpoint("create.entered")
            try:
                self._make_store(collection_id, name, config, metadata)
                failpoint("create.folder")
                self._put(name, {**entry, "state": "ready"})
                failpoint("create.ready")
            except BaseException:
                # If undoing fails too, the next creation of the name or the next open undoes it.
                with contextlib.suppress(VecdbError, OSError):
                    self._undo_create(name, entry)
                raise
        return collection_id

    def rename(self, old: str, new: str, note: Callable[[str], None] | None = None) -> None:
        """Rename a collection.

        Args:
            note: called with the collection's id while the lock is held, to note the name in its
                store. The collection is renamed even if that fails.

        Raises:
            NotFoundError: NO_COLLECTION: no ready collection has the old name.
            AlreadyExistsError: the new name is taken, in any state.
        """

        def write(transaction: Transaction) -> str:
            entry = self._entry(transaction, old)
            if entry is None or entry["state"] != "ready":
                raise NotFoundError(f"there is no collection {old!r}", Reason.NO_COLLECTION)
            if self._entry(transaction, new) is not None:
                raise AlreadyExistsError(f"collection {new!r} exists already", Reason.NAME_TAKEN)
            key = new.encode()
            transaction.put(key, layout.pack_json(key, entry), db=self._handles.names)
            transaction.delete(old.encode(), db=self._handles.names)
            return str(entry["id"])

        with self._locked():
            collection_id = self.environment.transact(write)
            try:
                if note is not None:
                    note(collection_id)
            except VecdbError as error:
                _log.warning("could not note the new name %r in the store: %s", new, error)

    def describe(self, collection_id: str) -> CollectionDescription:
        """Return the collection of an id, with its current name.

        Raises:
            NotFoundError: DROPPED.
        """
        with self.environment.read() as transaction:
            name, entry = self._ready(transaction, collection_id)
        return description_of(name, entry)

    def set_metadata(self, collection_id: str, metadata: bytes, note: Callable[[], None]) -> None:
        """Replace the metadata of a collection; JSON of an object, or empty.

        Args:
            note: called while the lock is held, to note them in the store; the change holds even if
                that fails.

        Raises:
            NotFoundError: DROPPED.
        """

        def write(transaction: Transaction) -> None:
            name, entry = self._ready(transaction, collection_id)
            changed = new_entry(collection_id, layout.config_of(entry), "ready", metadata)
            key = name.encode()
            transaction.put(key, layout.pack_json(key, changed), db=self._handles.names)

        with self._locked():
            self.environment.transact(write)
            try:
                note()
            except VecdbError as error:
                _log.warning("could not note new metadata in the store: %s", error)

    def _ready(self, transaction: Transaction, collection_id: str) -> tuple[str, CatalogEntry]:
        for name, entry in self._entries(transaction).items():
            if (entry["id"], entry["state"]) == (collection_id, "ready"):
                return name, entry
        raise dropped_error()

    def ids(self) -> set[str]:
        """Return the ids of all collections, in any state."""
        with self.environment.read() as transaction:
            return {str(entry["id"]) for entry in self._entries(transaction).values()}

    def check_there(self, collection_id: str) -> None:
        """Check that a collection of this id is ready, whatever its name.

        Raises:
            NotFoundError: DROPPED.
        """
        with self.environment.read() as transaction:
            entries = self._entries(transaction).values()
        if not any((e["id"], e["state"]) == (collection_id, "ready") for e in entries):
            raise dropped_error()

    def gone_error(self, collection_id: str) -> VecdbError:
        """Return the error for a collection whose store is not where it was opened."""
        if not self.environment.is_in_place():
            return not_in_place(self._root)
        try:
            self.check_there(collection_id)
        except VecdbError as error:
            return error
        return not_in_place(self.folder(collection_id))

    def dropped(self, ids: Iterable[str]) -> set[str]:
        """Return those of the given ids whose collections were dropped."""
        # A missing entry is not enough, as a damaged one is not listed. A drop moves the folder
        # before it removes the entry, so the folder must be missing too.
        return {each for each in set(ids) - self.ids() if not self.folder(each).exists()}

    def drop(self, name: str) -> str:
        """Begin to drop a collection, after which no process finds it, and return its id.

        If an earlier drop of the name did not finish, return that collection's id.

        Raises:
            NotFoundError: NO_COLLECTION.
        """
        with self._locked():
            with self.environment.read() as transaction:
                entry = self._entry(transaction, name)
            if entry is None or entry["state"] == "creating":
                raise NotFoundError(f"there is no collection {name!r}", Reason.NO_COLLECTION)
            if entry["state"] == "ready":
                self._begin_drop(name, entry)
            return str(entry["id"])

    def _begin_drop(self, name: str, entry: CatalogEntry) -> None:
        try:
            self._put(name, {**entry, "state": "dropping"})
            failpoint("drop.entered")
        except BaseException:
            # The caller gets an error, so the collection must stay: writes to it may continue.
            with contextlib.suppress(VecdbError):
                self._put(name, entry)
            raise

    def finish_drop(self, name: str, collection_id: str, store: Store | None) -> None:
        """Do the remaining steps of ``drop``, unless another process has done them.

        Args:
            collection_id: the id that ``drop`` returned.
            store: the collection's store if this process has it open, or None.
        """
        with self._locked():
            with self.environment.read() as transaction:
                entry = self._entry(transaction, name)
            # Another process may have finished the drop and created a new collection of the name.
            if entry is not None and (entry["id"], entry["state"]) == (collection_id, "dropping"):
                self._finish_drop(name, entry, store)

    def empty_trash(self) -> None:
        """Delete the folders of dropped collections."""
        for entry in os.scandir(self._root / "trash"):
            shutil.rmtree(entry.path, ignore_errors=True)

    def close(self) -> None:
        """Close the catalogue's environment."""
        self.environment.close()

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        """Acquire catalog.lock, which is only held for short steps."""
        # If the folder was replaced, the lock's path leads to a file of another folder.
        self.environment.check_in_place()
        return patient_lock(self._root / "catalog.lock", _PATIENCE_S)

    def _make_store(
        self, collection_id: str, name: str, config: CollectionConfig, metadata: bytes
    ) -> None:
        folder = self.folder(collection_id)
        make_folders(folder / "segments")
        map_bytes = self._store_map_bytes
        Store.create(folder / "store", collection_id, config, map_bytes, name, metadata)
        fsync_folder(folder)
        fsync_folder(folder.parent)

    def _undo_create(self, name: str, entry: CatalogEntry) -> None:
        # Written again, as a commit of unknown outcome may have set the entry to "ready".
        self._put(name, {**entry, "state": "creating"})
        folder = self.folder(entry["id"])
        if folder.exists():
            shutil.rmtree(folder)
        self._remove(name)

    def _finish_drop(self, name: str, entry: CatalogEntry, store: Store | None) -> None:
        folder = self.folder(entry["id"])
        if folder.exists():
            self._mark_dropped(folder / "store", store)
            failpoint("drop.marked")
            folder.rename(self._root / "trash" / entry["id"])
        fsync_folder(self._root / "trash")
        fsync_folder(folder.parent)
        failpoint("drop.moved")
        self._remove(name)
        failpoint("drop.removed")

    def _mark_dropped(self, folder: Path, store: Store | None) -> None:
        """Mark the store as dropped, so that processes that have it open notice at their next call.

        If the store is too damaged for that, they notice when they next read the catalogue.
        """
        try:
            if store is not None:
                mark_dropped(store.environment)
            elif (folder / "data.mdb").is_file():
                fill_cut_file(folder)
                environment = Environment(
                    folder, layout.DATABASES, create=False, map_bytes=self._store_map_bytes
                )
                try:
                    mark_dropped(environment)
                finally:
                    environment.close()
        except VecdbError as error:
            if not _is_damage(error):
                raise
            _log.warning("dropping %s without marking its store: %s", folder, error)

    def _recover(self) -> None:
        """Finish drops and undo creations that a killed process left unfinished.

        If another process holds the lock, its operation is still running: do nothing.
        """
        with file_lock(self._root / "catalog.lock", wait=False) as held:
            if not held:
                return
            with self.environment.read() as transaction:
                entries = self._entries(transaction)
            for name, entry in entries.items():
                try:
                    if entry["state"] == "creating":
                        self._undo_create(name, entry)
                    elif entry["state"] == "dropping":
                        self._finish_drop(name, entry, None)
                except (VecdbError, OSError) as error:
                    # Other collections are not affected, so opening the folder must not fail.
                    task = "undo creating" if entry["state"] == "creating" else "finish dropping"
                    _log.warning("could not %s %r; the next open retries: %s", task, name, error)
            self.empty_trash()

    def _entry(self, transaction: Transaction, name: str) -> CatalogEntry | None:
        key = name.encode()
        value = transaction.get(key, db=self._handles.names)
        return None if value is None else unpacked_entry(key, value)

    def _entries(self, transaction: Transaction) -> dict[str, CatalogEntry]:
        with transaction.cursor(self._handles.names) as cursor:
            entries = {}
            for key, value in cursor.iternext(keys=True, values=True):
                try:
                    entries[bytes(key).decode()] = unpacked_entry(key, value)
                except DataLossError as damage:
                    # Looking up this name raises the error; the other entries stay usable.
                    _log.warning("%s (%s)", damage, self.environment.folder)
            return entries

    def _put(self, name: str, entry: CatalogEntry) -> None:
        key = name.encode()
        value = layout.pack_json(key, entry)
        self.environment.transact(
            lambda transaction: transaction.put(key, value, db=self._handles.names)
        )

    def _remove(self, name: str) -> None:
        self.environment.transact(
            lambda transaction: transaction.delete(name.encode(), db=self._handles.names)
        )


def _is_damage(error: VecdbError) -> bool:
    """Return whether an error is due to a store's bytes and permanent, unlike an I/O error."""
    if isinstance(error, FailedPreconditionError):
        return error.reason == Reason.LMDB_VERSION
    return isinstance(error, DataLossError | NotFoundError | InternalError)


def new_catalog(root: Path) -> Environment:
    """Open the catalogue of a data folder and create it if there is none."""
    return Environment(root / "catalog", _DATABASES, create=True, map_bytes=_MAP_BYTES)


def catalog_environment(root: Path) -> Environment:
    """Open the catalogue of a data folder; this process must not have it open."""
    return Environment(root / "catalog", _DATABASES, create=False, map_bytes=_MAP_BYTES)


def copy_catalog(root: Path, folder: Path) -> dict[str, str]:
    """Copy the catalogue of the data folder ``root`` into ``folder``, ready collections only.

    The caller holds catalog.lock, and this process must not have the catalogue open.

    Returns:
        Name → id of the copied collections.
    """
    source = catalog_environment(root)
    try:
        source.copy(folder)
    finally:
        source.close()
    copy = Environment(folder, _DATABASES, create=False, map_bytes=_MAP_BYTES)
    names = copy.handles.names

    def keep_ready(transaction: Transaction) -> dict[str, str]:
        with transaction.cursor(names) as cursor:
            entries = {
                bytes(key): unpacked_entry(key, value)
                for key, value in cursor.iternext(keys=True, values=True)
            }
        for key, entry in entries.items():
            if entry["state"] != "ready":
                transaction.delete(key, db=names)
        return {k.decode(): str(e["id"]) for k, e in entries.items() if e["state"] == "ready"}

    try:
        return copy.transact(keep_ready)
    finally:
        copy.close()
