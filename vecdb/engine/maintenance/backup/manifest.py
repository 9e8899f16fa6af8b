"""backup.json, the manifest of a backup. It is written last and marks a folder as a backup.

    {"collections": [{"name", "id", "seq", "generation", "live_count", "segments", "lost"}, ...],
     "crc32": CRC-32 of this document without this entry, as ``_encoded`` writes it,
     "data_format": format number of the data folder,
     "files": {"collections/<id>/store/data.mdb": {"bytes": ..., "crc32": ...}, ...},
     "format": 1,
     "include_segments": true or false,
     "time": "2026-01-31T12:00:00+00:00",
     "vecdb": the version that wrote it}

Paths are relative, with "/". ``segments`` is the number of live segments, ``lost`` the number of
those without files in the backup, which are rebuilt after restoring. A newer ``format`` is refused.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from vecdb.engine.runtime.data_folder import MANIFEST_NAME
from vecdb.engine.store import layout
from vecdb.engine.system.files import write_file
from vecdb.errors import DataLossError, FailedPreconditionError, NotFoundError
from vecdb.reasons import Reason

__all__ = ["read_manifest", "write_manifest"]

BACKUP_FORMAT: Final = 1


def write_manifest(folder: Path, content: Mapping[str, object]) -> int:
    """Write and fsync the file; the caller fsyncs its folder. Return its size in bytes."""
    content = {**content, "format": BACKUP_FORMAT, "data_format": layout.FORMAT_NUMBER}
    raw = _encoded({**content, "crc32": zlib.crc32(_encoded(content))})
    write_file(folder / MANIFEST_NAME, raw)
    return len(raw)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a backup, after verifying its checksum.

    Raises:
        NotFoundError: NO_BACKUP: the folder has no manifest.
        FailedPreconditionError: NEWER_FORMAT.
        DataLossError: CHECKSUM: the manifest was changed. FOREIGN_PATH: it names files outside of
            the backup.
    """
    file = folder / MANIFEST_NAME
    try:
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"there is no backup in {folder} (no file {MANIFEST_NAME})", Reason.NO_BACKUP
        ) from None
    damaged = DataLossError(f"{file}: wrong checksum; the file was changed", Reason.CHECKSUM)
    try:
        content = json.loads(raw)
        numbers = {
            key: (int(content[key]), known)
            for key, known in (("format", BACKUP_FORMAT), ("data_format", layout.FORMAT_NUMBER))
        }
    except (ValueError, TypeError, KeyError):
        raise damaged from None
    for key, (number, known) in numbers.items():
        if number > known:
            raise FailedPreconditionError(
                f"{file} has {key} {number}, but this version of vecdb reads up to {known}; "
                "upgrade vecdb",
                Reason.NEWER_FORMAT,
            )
    crc = content.pop("crc32", None)
    if crc != zlib.crc32(_encoded(content)) or raw != _encoded({**content, "crc32": crc}):
        raise damaged
    if any(PurePosixPath(p).is_absolute() or ".." in p.split("/") for p in content["files"]):
        raise DataLossError(f"{file} names files outside of its folder", Reason.FOREIGN_PATH)
    return dict(content)


def _encoded(content: Mapping[str, object]) -> bytes:
    """Encode the manifest in its only form, so that its bytes can be compared."""
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"
