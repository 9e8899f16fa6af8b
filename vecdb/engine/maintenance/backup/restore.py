"""Restores a backup: verifies the checksums of its files, copies them, and verifies the copies.

The new data folder is built under a temporary name and renamed when all of it is on disk. FORMAT,
which marks it as a data folder, is written last. Nothing is overwritten, and the backup is only
read.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from vecdb import checks
from vecdb.engine.maintenance.backup.backup import finish_store, fsync_folders, open_copy, settle
from vecdb.engine.maintenance.backup.manifest import read_manifest
from vecdb.engine.runtime.data_folder import FORMAT_LINE
from vecdb.engine.system.atomic_folder import PartialFolder
from vecdb.engine.system.files import (
    checksum_of_file,
    copy_file,
    fsync_folder,
    os_errors_translated,
    write_file,
)
from vecdb.engine.system.modes import is_for_group, make_folders
from vecdb.errors import AlreadyExistsError, DataLossError, InvalidArgumentError
from vecdb.reasons import Reason
from vecdb.types import BackupReport

__all__ = ["restore"]


def restore(
    backup: str | os.PathLike[str], path: str | os.PathLike[str], *, include_segments: bool = True
) -> BackupReport:
    """Create a data folder from a backup; see ``vecdb.restore``."""
    began = time.monotonic()
    checks.check_flag("include_segments", include_segments)
    source = checks.check_local_path(backup).absolute()
    target = checks.check_local_path(path).absolute()
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source)):
        raise InvalidArgumentError(f"{target} is inside the backup {source}", Reason.BAD_PATH)
    with os_errors_translated(os.fspath(target)):
        manifest = read_manifest(source)
        _check_free(target)
        with PartialFolder(target, group=is_for_group(source)) as partial:
            size = 0
            for name, listed in manifest["files"].items():
                if include_segments or not _is_of_segment(name):
                    size += _copy(source / name, partial.path / name, listed)
            for entry in manifest["collections"]:
                _check_collection(partial.path, entry, include_segments)
            size += _write_format(partial.path)
            fsync_folders(partial.path)
            partial.finish()
    return BackupReport(
        path=os.fspath(target),
        collections=len(manifest["collections"]),
        rows=sum(entry["live_count"] for entry in manifest["collections"]),
        bytes=size,
        elapsed_s=time.monotonic() - began,
    )


def _check_free(target: Path) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir() or target.is_symlink() or any(target.iterdir()):
        raise AlreadyExistsError(
            f"{target} exists already and is not an empty folder; restore into a new folder",
            Reason.PATH_TAKEN,
        )


def _is_of_segment(name: str) -> bool:
    """Return whether a path is collections/<id>/segments/…"""
    return name.split("/")[2:3] == ["segments"]


def _copy(source: Path, target: Path, listed: dict[str, int]) -> int:
    """Copy a file and verify it against its entry in the manifest; return its size."""
    make_folders(target.parent)
    expected = (listed["bytes"], listed["crc32"])
    try:
        with open(source, "rb") as file:
            _check_same(source, copy_file(file, target), expected)
    except FileNotFoundError:
        raise DataLossError(
            f"{source} is missing: the backup is not complete", Reason.FILE_MISSING
        ) from None
    _check_same(target, checksum_of_file(target), expected)
    return listed["bytes"]


def _check_same(path: Path, found: tuple[int, int], expected: tuple[int, int]) -> None:
    if found[0] != expected[0]:
        raise DataLossError(
            f"{path}: expected {expected[0]} bytes, got {found[0]}", Reason.FILE_SIZE
        )
    if found[1] != expected[1]:
        raise DataLossError(
            f"{path}: expected CRC-32 {expected[1]:08x}, got {found[1]:08x}: the file is damaged; "
            "if it belongs to a segment, restoring without segments avoids it",
            Reason.CHECKSUM,
        )


def _check_collection(root: Path, entry: dict[str, Any], include_segments: bool) -> None:
    """Check that a restored store has the expected seq, and adapt it to the restored segments."""
    folder = root / "collections" / entry["id"] / "store"
    store = open_copy(folder, entry["id"])
    try:
        seq = store.current_state().seq
        if seq != entry["seq"]:
            raise DataLossError(f"{folder}: expected seq {entry['seq']}, got {seq}", Reason.FOREIGN)
        if not include_segments:
            settle(store, {})
    finally:
        store.close()
    finish_store(folder)


def _write_format(root: Path) -> int:
    fsync_folder(root)
    write_file(root / "FORMAT", FORMAT_LINE)
    return len(FORMAT_LINE)
