"""The catalogue: which collections a folder holds.

    catalog/    LMDB: database "names", name → JSON {id, dim, metric, M, ef_construction, state}
                      database "aliases", kept for later

A collection is made and dropped in steps that each leave a state from which any process can go on:

    create: entry "creating" → store made, fsynced with its folders → entry "ready"
    drop:   entry "dropping" → the store marked dropped → folder moved to trash/ → entry removed
    rename: the entry under another name, in one transaction

All hold catalog.lock; who opens the folder finishes drops and undoes creations that a dead process
left behind, and who drops or creates the same name again finishes what failed half way. What can't
be finished then, as on a full disk, stays as it is and hinders nothing else. The name of a
collection that is being dropped stays taken until the end. The catalogue alone decides what a
collection is called: its store and segments bear its id, which is never given again. The store has
a note of the name, for the case that the catalogue is lost (``catalog_loss.py``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict, cast

from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.lmdb_files import fill_cut_file
from vecdb.engine.kv.named_database import NamedDatabase
from vecdb.engine.kv.transaction import Transaction
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
    "CatalogEntry",
    "catalog_environment",
    "copy_catalog",
    "new_catalog",
    "new_entry",
]

_DATABASES = (b"names", b"aliases")
_MAP_BYTES = 1024**3
_PATIENCE_S = 8.0
_log = logging.getLogger("vecdb.engine")


class CatalogEntry(TypedDict):
    """The JSON object of a collection; state: "creating", "ready" or "dropping"."""

    id: str
    dim: int
    metric: str
    M: int
    ef_construction: int
    state: str


class Catalog:
    """Names and ids of the collections of one folder. Safe to use from threads and processes."""

    _names = NamedDatabase(b"names")

    def __init__(self, root: Path, store_map_bytes: int) -> None:
        self._root = root
        self._store_map_bytes = store_map_bytes
        fault = catalog_fault(root)
        if fault is not None:
            raise catalog_lost(root, fault)
        self.environment = new_catalog(root)
        # What was found since which commit; replaced as a whole, so that nothing old gets into it.
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
        """Raise if there are collections on disk and not one entry: an entry is there before its
        store and goes after it."""
        if self._is_empty() and stores_on_disk(self._root):
            # Another process may just make the first one, or drop the last one.
            with self._locked():
                if self._is_empty() and stores_on_disk(self._root):
                    raise catalog_lost(self._root, f"{self.environment.folder} names no collection")

    def _is_empty(self) -> bool:
        with self.environment.read() as transaction:
            return not transaction.stat(self._names)["entries"]

    def folder(self, collection_id: str) -> Path:
        """Where a collection lies."""
        return self._root / "collections" / collection_id

    def list(self) -> list[CollectionDescription]:
        """The collections that are ready, by name; one whose entry is damaged is left out."""
        with self.environment.read() as transaction:
            entries = self._entries(transaction)
        return [
            CollectionDescription(name, layout.config_of(entry))
            for name, entry in sorted(entries.items())
            if entry["state"] == "ready"
        ]

    def find(self, name: str) -> tuple[str, CollectionConfig]:
        """Id and configuration of a collection.

        Raises:
            NotFoundError: there is none of that name.
        """
        # Every remote call comes through here: what was found is found again until a commit.
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

    def create(self, name: str, config: CollectionConfig) -> str:
        """Make a collection; on disk when this returns its id.

        Raises:
            AlreadyExistsError: the name is taken.
        """
        with self._locked():
            with self.environment.read() as transaction:
                taken = self._entry(transaction, name)
            if taken is not None and taken["state"] == "creating":
                self._undo_create(name, taken)  # The lock is ours: who began it has failed.
            elif taken is not None:
                raise AlreadyExistsError(f"collection {name!r} exists already", Reason.NAME_TAKEN)
            collection_id = uuid.uuid4().hex[:16]
            entry = new_entry(collection_id, config, "creating")
            self._put(name, entry)
            failpoint("create.entered")
            try:
                self._make_store(collection_id, name, config)
                failpoint("create.made")
                self._put(name, {**entry, "state": "ready"})
                failpoint("create.ready")
            except BaseException:
                # If that fails too, who wants the name or opens the folder next will do it.
                with contextlib.suppress(VecdbError, OSError):
                    self._undo_create(name, entry)
                raise
        return collection_id

    def rename(self, old: str, new: str, note: Callable[[str], None] | None = None) -> None:
        """Give a collection another name.

        Args:
            note: called with the collection's id in the lock, to note the name in its store. The
                renaming counts if that fails.

        Raises:
            NotFoundError: there is none of the old name.
            AlreadyExistsError: the new name is taken, in whatever state.
        """

        def write(transaction: Transaction) -> str:
            entry = self._entry(transaction, old)
            if entry is None or entry["state"] != "ready":
                raise NotFoundError(f"there is no collection {old!r}", Reason.NO_COLLECTION)
            if self._entry(transaction, new) is not None:
                raise AlreadyExistsError(f"collection {new!r} exists already", Reason.NAME_TAKEN)
            key = new.encode()
            transaction.put(key, layout.pack_json(key, entry), db=self._names)
            transaction.delete(old.encode(), db=self._names)
            return str(entry["id"])

        with self._locked():
            collection_id = self.environment.transact(write)
            try:
                if note is not None:
                    note(collection_id)
            except VecdbError as error:
                _log.warning("the store of %r has no note of that name: %s", new, error)

    def ids(self) -> set[str]:
        """Ids of all collections, in whatever state."""
        with self.environment.read() as transaction:
            return {str(entry["id"]) for entry in self._entries(transaction).values()}

    def check_there(self, collection_id: str) -> None:
        """Check that there is a collection of this id, whatever its name is.

        Raises:
            NotFoundError: DROPPED.
        """
        with self.environment.read() as transaction:
            entries = self._entries(transaction).values()
        if not any((e["id"], e["state"]) == (collection_id, "ready") for e in entries):
            raise dropped_error()

    def gone_error(self, collection_id: str) -> VecdbError:
        """What to say of a collection whose store is not in its place."""
        if not self.environment.is_in_place():
            return not_in_place(self._root)
        try:
            self.check_there(collection_id)
        except VecdbError as error:
            return error
        return not_in_place(self.folder(collection_id))

    def dropped(self, ids: Iterable[str]) -> set[str]:
        """Those of some collections that were there and are not any more."""
        # No entry is not enough, as it may be there and damaged; the folder goes before the entry.
        return {each for each in set(ids) - self.ids() if not self.folder(each).exists()}

    def drop(self, name: str) -> str:
        """The first step of dropping a collection, after which nobody finds it; returns its id. One
        that was begun and not finished is begun again.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._locked():
            with self.environment.read() as transaction:
                entry = self._entry(transaction, name)
            if entry is None or entry["state"] == "creating":
                raise NotFoundError(f"there is no collection {name!r}", Reason.NO_COLLECTION)
            if entry["state"] == "ready":
                self._enter_drop(name, entry)
            return str(entry["id"])

    def _enter_drop(self, name: str, entry: CatalogEntry) -> None:
        try:
            self._put(name, {**entry, "state": "dropping"})
            failpoint("drop.entered")
        except BaseException:
            # Nobody was told that it is dropped, so writes to it may go on and must not be lost.
            with contextlib.suppress(VecdbError):
                self._put(name, entry)
            raise

    def finish_drop(self, name: str, collection_id: str, store: Store | None) -> None:
        """The later steps of ``drop``, if nobody else has done them.

        Args:
            collection_id: what ``drop`` returned.
            store: the open one of this process, or None.
        """
        with self._locked():
            with self.environment.read() as transaction:
                entry = self._entry(transaction, name)
            # Another process may have finished it, and even made one of that name since.
            if entry is not None and (entry["id"], entry["state"]) == (collection_id, "dropping"):
                self._finish_drop(name, entry, store)

    def empty_trash(self) -> None:
        """Unlink what was dropped."""
        for entry in os.scandir(self._root / "trash"):
            shutil.rmtree(entry.path, ignore_errors=True)

    def close(self) -> None:
        """Close the catalogue's environment."""
        self.environment.close()

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        """catalog.lock, which no step holds for long; not that of another folder."""
        self.environment.check_in_place()
        return patient_lock(self._root / "catalog.lock", _PATIENCE_S)

    def _make_store(self, collection_id: str, name: str, config: CollectionConfig) -> None:
        folder = self.folder(collection_id)
        make_folders(folder / "segments")
        Store.create(folder / "store", collection_id, config, self._store_map_bytes, name)
        fsync_folder(folder)
        fsync_folder(folder.parent)

    def _undo_create(self, name: str, entry: CatalogEntry) -> None:
        # Said again, as a commit of unknown outcome may have made it ready.
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
        """Tell everyone who has the store open, if its damage allows it: else the catalogue tells
        them, a little later."""
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
            _log.warning("%s is dropped without a mark in it: %s", folder, error)

    def _recover(self) -> None:
        """Finish or undo what a process left half done; if one is at it now, it is not half
        done."""
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
                    # The others can be read, and this one isn't found: it waits for a better time.
                    what = "made" if entry["state"] == "creating" else "dropped"
                    _log.warning("%r stays half %s for now: %s", name, what, error)
            self.empty_trash()

    def _entry(self, transaction: Transaction, name: str) -> CatalogEntry | None:
        key = name.encode()
        value = transaction.get(key, db=self._names)
        return None if value is None else _unpacked(key, value)

    def _entries(self, transaction: Transaction) -> dict[str, CatalogEntry]:
        with transaction.cursor(self._names) as cursor:
            entries = {}
            for key, value in cursor.iternext(keys=True, values=True):
                try:
                    entries[bytes(key).decode()] = _unpacked(key, value)
                except DataLossError as damage:
                    # Who asks for it by its name is told; the others are there as ever.
                    _log.warning("%s (%s)", damage, self.environment.folder)
            return entries

    def _put(self, name: str, entry: CatalogEntry) -> None:
        key = name.encode()
        value = layout.pack_json(key, entry)
        self.environment.transact(lambda transaction: transaction.put(key, value, db=self._names))

    def _remove(self, name: str) -> None:
        self.environment.transact(
            lambda transaction: transaction.delete(name.encode(), db=self._names)
        )


def _is_damage(error: VecdbError) -> bool:
    """It comes of the bytes of a store and will come again, unlike an error of the disk."""
    if isinstance(error, FailedPreconditionError):
        return error.reason == Reason.LMDB_VERSION
    return isinstance(error, DataLossError | NotFoundError | InternalError)


def new_catalog(root: Path) -> Environment:
    """The catalogue of a data folder, made if there is none."""
    return Environment(root / "catalog", _DATABASES, create=True, map_bytes=_MAP_BYTES)


def catalog_environment(root: Path) -> Environment:
    """The catalogue of a data folder that this process does not have open."""
    return Environment(root / "catalog", _DATABASES, create=False, map_bytes=_MAP_BYTES)


def new_entry(collection_id: str, config: CollectionConfig, state: str) -> CatalogEntry:
    """Return the entry of a collection."""
    entry = {**layout.config_entry(collection_id, config), "state": state}
    return cast("CatalogEntry", entry)


def _unpacked(key: bytes | memoryview, value: memoryview) -> CatalogEntry:
    return cast("CatalogEntry", layout.unpack_json(key, value, "catalogue entry"))


def copy_catalog(root: Path, folder: Path) -> dict[str, str]:
    """Copy the catalogue of the data folder ``root`` into a folder, without what is half made or
    half dropped. catalog.lock must be held, and this process must not have the catalogue open.

    Returns:
        Name → id of the collections that are in it.
    """
    source = catalog_environment(root)
    try:
        source.copy(folder)
    finally:
        source.close()
    copy = Environment(folder, _DATABASES, create=False, map_bytes=_MAP_BYTES)
    names = copy.database(b"names")

    def keep_ready(transaction: Transaction) -> dict[str, str]:
        with transaction.cursor(names) as cursor:
            entries = {
                bytes(key): _unpacked(key, value)
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
