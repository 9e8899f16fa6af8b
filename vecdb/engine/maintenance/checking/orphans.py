"""Restores catalogue entries of orphans: collections that the catalogue does not name.

A store has the collection's id and notes its last name (``stored_name.py``), which the orphan gets
back. If the name is taken, the id is appended; if there is no name, "collection" and the id are
used. If several orphans have the same name, the most recently written one gets it. A store that is
marked as dropped is moved to the trash. A store that can't be read, or has the id of another
folder, is left alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from vecdb import limits
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.runtime.catalog_entry import CatalogEntry, new_entry
from vecdb.engine.runtime.catalog_loss import stores_on_disk
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store
from vecdb.engine.store.stored_name import read_metadata, read_name
from vecdb.engine.system.files import fsync_folder
from vecdb.engine.system.modes import make_folder
from vecdb.errors import NotFoundError, VecdbError

__all__ = ["adopt_orphans", "set_aside"]

_MAP_BYTES: Final = 64 * 1024**2
_PREFIX: Final = "collection"


def adopt_orphans(root: Path, catalog: Environment, taken: set[str], named: set[str]) -> None:
    """Write entries of orphans to the catalogue. The caller holds catalog.lock.

    Args:
        catalog: the catalogue's environment.
        taken: names in use, in any state.
        named: ids that the catalogue has.
    """
    orphans = [each for each in stores_on_disk(root) if each not in named]
    orphans.sort(key=lambda each: _written_ns(root, each), reverse=True)
    for collection_id in orphans:
        folder = root / "collections" / collection_id
        try:
            wanted, entry = _noted(folder, collection_id)
        except NotFoundError:
            make_folder(root / "trash", exist_ok=True)
            folder.rename(root / "trash" / collection_id)
            fsync_folder(root / "trash")
            fsync_folder(folder.parent)
            continue
        except VecdbError:
            continue
        name = _free_name(wanted, collection_id, taken)
        taken.add(name)
        key, value = name.encode(), layout.pack_json(name.encode(), entry)

        def write(transaction: Transaction, key: bytes = key, value: bytes = value) -> None:
            transaction.put(key, value, db=catalog.handles.names)

        catalog.transact(write)


def set_aside(folder: Path) -> None:
    """Rename the folder of a catalogue that can't be opened, instead of deleting it."""
    if not folder.exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    folder.rename(aside)
    fsync_folder(folder.parent)


def _noted(folder: Path, collection_id: str) -> tuple[str | None, CatalogEntry]:
    """Return the name that a store notes, or None, and the collection's catalogue entry.

    Raises:
        NotFoundError: DROPPED.
        VecdbError: the store can't be opened, or has another collection's id.
    """
    environment = Environment(
        folder / "store", layout.DATABASES, create=False, map_bytes=_MAP_BYTES
    )
    try:
        store = Store(environment, collection_id)
        with environment.read() as transaction:
            store.check_not_dropped(transaction)
            name = read_name(environment, transaction)
            metadata = read_metadata(environment, transaction)
    finally:
        environment.close()
    return name, new_entry(collection_id, store.config, "ready", metadata)


def _free_name(wanted: str | None, collection_id: str, taken: set[str]) -> str:
    if wanted is not None and re.fullmatch(limits.NAME_PATTERN, wanted) and wanted not in taken:
        return wanted
    is_name = wanted is not None and re.fullmatch(limits.NAME_PATTERN, wanted)
    prefix = wanted if wanted is not None and is_name else _PREFIX
    name = f"{prefix[:40]}-{collection_id}"
    number = 2
    while name in taken:
        name = f"{prefix[:40]}-{collection_id}-{number}"
        number += 1
    return name


def _written_ns(root: Path, collection_id: str) -> int:
    try:
        return (root / "collections" / collection_id / "store" / "data.mdb").stat().st_mtime_ns
    except OSError:
        return 0
