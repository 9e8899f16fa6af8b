"""Child process of a backup.

    python -m vecdb.engine.maintenance.backup.backup FOLDER PATH

A backup is a folder with the layout of a data folder, but with backup.json instead of FORMAT, so
that it can't be opened and changed by mistake. It has to be restored into another folder.

The catalogue is copied under catalog.lock, and the stores of all its collections are opened before
the lock is released: a collection that is dropped later is still in the backup. Then, for each
collection in turn:

    1. open segment files    so that they can be read to the end even if they are unlinked
    2. copy the store        by LMDB, in one read transaction, so it is one committed state;
                             writers continue, but can't reuse free pages until the copy ends
    3. copy the segments     of that state, and verify their checksums; a segment whose files are
                             missing or damaged is "lost" in the backup
    4. settle the copy       remove reservations, retired segments and leases
    5. read it back          verify the checksum of every value, and the counters

Files are copied instead of hard-linked, as a damaged byte of a linked file would be damaged in
both. The backup needs its own process because LMDB must not open a path twice in one process, and
because a long copy would keep the database's own environment from growing. The end of stdin ends
the process, which also comes when the parent is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, Final

from vecdb._version import __version__
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.maintenance.backup.manifest import write_manifest
from vecdb.engine.runtime.catalog import copy_catalog
from vecdb.engine.segments.lifecycle import raise_generation
from vecdb.engine.segments.segment import Segment, SegmentDamagedError
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import SegmentEntry, in_place
from vecdb.engine.store.store import Store
from vecdb.engine.system.atomic_folder import LOCK_NAME, PartialFolder
from vecdb.engine.system.child_process import lower_priority
from vecdb.engine.system.files import (
    checksum_of_file,
    copy_file,
    file_lock,
    fsync_file,
    fsync_folder,
    os_errors_translated,
)
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.system.modes import is_for_group, make_folder, make_folders
from vecdb.errors import AlreadyExistsError, DataLossError, VecdbError
from vecdb.reasons import Reason
from vecdb.types import BackupReport

__all__ = ["file_entries", "finish_store", "fsync_folders", "main", "open_copy", "settle"]

_MAP_BYTES: Final = 64 * 1024**2
"""Initial address space of a store; it is at least twice the file's size, and grows with it."""

OpenFiles = dict[str, BinaryIO]
LostParts = tuple[str, ...]


def make_backup(root: Path, target: Path, *, include_segments: bool) -> BackupReport:
    """Back up the data folder ``root`` to ``target``, which must not exist.

    Raises:
        AlreadyExistsError: PATH_TAKEN: ``target`` exists.
        DataLossError: a store is damaged, so no complete backup can be written.
    """
    began = time.monotonic()
    if os.path.lexists(target):
        raise AlreadyExistsError(f"{target} exists already", Reason.PATH_TAKEN)
    with contextlib.ExitStack() as stack:
        partial = stack.enter_context(PartialFolder(target, group=is_for_group(root)))
        collections = []
        for name, store in _open_stores(root, partial.path, stack).items():
            place = Path("collections", store.environment.folder.parent.name)
            entry = _copy_collection(store, root / place, partial.path / place, include_segments)
            collections.append({"name": name, "id": place.name, **entry})
        files = file_entries(partial.path)
        fsync_folders(partial.path)
        content = {
            "collections": collections,
            "files": files,
            "include_segments": include_segments,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "vecdb": __version__,
        }
        manifest_bytes = write_manifest(partial.path, content)
        fsync_folder(partial.path)
        partial.finish()
    return BackupReport(
        path=os.fspath(target),
        collections=len(collections),
        rows=sum(entry["live_count"] for entry in collections),
        bytes=manifest_bytes + sum(entry["bytes"] for entry in files.values()),
        elapsed_s=time.monotonic() - began,
    )


def _open_stores(root: Path, partial: Path, stack: contextlib.ExitStack) -> dict[str, Store]:
    """Copy the catalogue; return name → store of its collections, open until the stack ends."""
    make_folder(partial / "catalog")
    stores = {}
    with file_lock(root / "catalog.lock", wait=True):
        for name, collection_id in copy_catalog(root, partial / "catalog").items():
            folder = root / "collections" / collection_id / "store"
            stores[name] = open_copy(folder, collection_id)
            stack.callback(stores[name].close)
    finish_store(partial / "catalog")
    return stores


def _copy_collection(
    store: Store, folder: Path, target: Path, include_segments: bool
) -> dict[str, Any]:
    """Copy one collection and read it back; return its entry for the manifest."""
    make_folders(target / "store")
    with contextlib.ExitStack() as held:
        files: dict[int, OpenFiles] = {}
        if include_segments:
            _hold(files, store, folder / "segments", held)
        store.environment.copy(target / "store")
        copy = open_copy(target / "store", folder.name)
        try:
            kept: dict[int, LostParts] = {}
            if include_segments:
                _hold(files, copy, folder / "segments", held)
                kept = _copy_segments(copy, folder.name, files, target / "segments")
            settle(copy, kept)
        finally:
            copy.close()
    finish_store(target / "store")
    # Opened again, so that it is read from the file and not from the map that it was written to.
    copy = open_copy(target / "store", folder.name)
    try:
        return _verify(copy)
    finally:
        copy.close()
        (target / "store" / "lock.mdb").unlink()


def _hold(
    files: dict[int, OpenFiles], store: Store, segments: Path, stack: contextlib.ExitStack
) -> None:
    """Open the files of published segments that are not open yet; skip missing segments."""
    with store.environment.read() as transaction:
        entries = store.read_segments(transaction)
    for number, entry in entries.items():
        if not entry.is_published or number in files:
            continue
        with contextlib.suppress(FileNotFoundError), os.scandir(segments / str(number)) as found:
            opened: OpenFiles = {}
            for each in found:
                if each.is_file(follow_symlinks=False):
                    file = open(each.path, "rb")  # noqa: SIM115  The stack closes it.
                    opened[each.name] = stack.enter_context(file)
            files[number] = opened


def _copy_segments(
    copy: Store, collection_id: str, files: dict[int, OpenFiles], target: Path
) -> dict[int, LostParts]:
    """Copy the segments that are published in the copied state.

    Returns:
        Number → lost parts of the copies that are intact otherwise.
    """
    with copy.environment.read() as transaction:
        entries = copy.read_segments(transaction)
    make_folder(target)
    kept: dict[int, LostParts] = {}
    for number, entry in entries.items():
        if not entry.is_published or number not in files:
            continue
        folder = target / str(number)
        make_folder(folder)
        for name, file in files[number].items():
            copy_file(file, folder / name)
        try:
            segment = Segment(folder, number, collection_id, entry)
            segment.verify()
            kept[number] = tuple(segment.damaged_parts)
        except (FileNotFoundError, SegmentDamagedError):
            # Damaged, or being unlinked while its files were opened.
            shutil.rmtree(folder)
    return kept


def settle(store: Store, kept: Mapping[int, LostParts]) -> None:
    """Make a copied store fit the segments that were copied with it.

    A published segment that is not in ``kept`` (number → lost parts) is quarantined. Reservations,
    retired segments and leases belong to processes of the original folder: they are removed.
    """

    def write(transaction: Transaction) -> None:
        changed = False
        for number, entry in store.read_segments(transaction).items():
            settled: SegmentEntry | None = entry
            if entry.is_reserved or entry.is_retired:
                settled = None
            elif entry.is_published and number in kept:
                settled = replace(entry, verified=True).without_parts(kept[number])
            elif entry.is_published:
                settled = entry.quarantined()
            if settled != entry:
                store.write_segment(transaction, number, settled)
                changed = True
        transaction.drop(store.environment.handles.pins, delete=False)
        store.clear_dropped(transaction)
        if changed:
            raise_generation(store, transaction)

    store.environment.transact(write)


def _verify(store: Store) -> dict[str, object]:
    """Verify every checksum and counter of a copied store; return its entry for the manifest."""
    environment = store.environment
    with environment.read() as transaction:
        for name in layout.DATABASES:
            with transaction.cursor(environment.database(name)) as cursor:
                for key, value in cursor.iternext(keys=True, values=True):
                    layout.unpack_value(key, value, f"{name.decode()} in {environment.folder}")
        state, counters = store.read_state(transaction), store.read_counters(transaction)
        placed = in_place(store.read_segments(transaction))
        ids = transaction.stat(environment.handles.ids)["entries"]
    if ids != counters.live_count:
        raise DataLossError(
            f"{environment.folder}: expected {counters.live_count} ids, got {ids}", Reason.COUNTERS
        )
    covered_to = 0
    for number, entry in placed:
        if entry.first_row != covered_to:
            raise DataLossError(
                f"{environment.folder}: expected segment {number} to begin at row {covered_to}, "
                f"got {entry.first_row}",
                Reason.INTERVALS,
            )
        covered_to = entry.end_row
    if covered_to != counters.sealed_to:
        raise DataLossError(
            f"{environment.folder}: expected the segments to end at row {counters.sealed_to}, got "
            f"{covered_to}",
            Reason.INTERVALS,
        )
    return {
        "seq": state.seq,
        "generation": state.generation,
        "live_count": counters.live_count,
        "segments": len(placed),
        "lost": sum(entry.is_quarantined for _, entry in placed),
    }


def open_copy(folder: Path, collection_id: str) -> Store:
    """Open the store in a folder; this process must not have it open."""
    environment = Environment(folder, layout.DATABASES, create=False, map_bytes=_MAP_BYTES)
    try:
        return Store(environment, collection_id)
    except BaseException:
        environment.close()
        raise


def finish_store(folder: Path) -> None:
    """Fsync the file of a closed environment, and remove LMDB's lock file."""
    (folder / "lock.mdb").unlink(missing_ok=True)
    fsync_file(folder / "data.mdb")


def file_entries(folder: Path) -> dict[str, dict[str, int]]:
    """Return path → bytes and crc32 of every file in a folder."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOCK_NAME:
            size, crc = checksum_of_file(path)
            entries[path.relative_to(folder).as_posix()] = {"bytes": size, "crc32": crc}
    return entries


def fsync_folders(folder: Path) -> None:
    """Make the entries of a folder and of all folders in it durable."""
    for place, _, _ in os.walk(folder, topdown=False):
        fsync_folder(Path(place))


def _end_with_parent() -> None:
    """End this process when the parent ends; the next backup removes its unfinished files."""
    # os.read instead of sys.stdin: the interpreter locks sys.stdin when it exits.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(1)


def _run(arguments: argparse.Namespace) -> dict[str, object]:
    """Write the backup; return the report or the error for the parent."""
    try:
        root = Path(arguments.folder)
        with os_errors_translated(arguments.target), FolderUse(root):
            report = make_backup(
                root,
                Path(arguments.target),
                include_segments=not arguments.no_segments,
            )
    except VecdbError as error:
        return {
            "error": type(error).__name__,
            "message": error.message,
            "reason": error.reason,
        }
    except Exception:
        traceback.print_exc()
        return {
            "error": "InternalError",
            "message": f"the backup failed: {traceback.format_exc(limit=-1).splitlines()[-1]}",
            "reason": Reason.BACKUP,
        }
    return {"report": dataclasses.asdict(report)}


def main() -> None:
    """Write one backup and print its report as a line of JSON."""
    program = "python -m vecdb.engine.maintenance.backup.backup"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("target")
    parser.add_argument("--no-segments", action="store_true")
    arguments = parser.parse_args()
    lower_priority()
    threading.Thread(target=_end_with_parent, name="input", daemon=True).start()
    print(json.dumps(_run(arguments)), flush=True)


if __name__ == "__main__":
    main()
