"""backup.json: what a backup says of itself. It is written last and makes a folder a backup.

    {"collections": [{"name", "id", "seq", "generation", "live_count", "segments", "lost"}, ...],
     "crc32": of this document without this entry, as ``_encoded`` writes it,
     "data_format": of the data folder,
     "files": {"collections/<id>/store/data.mdb": {"bytes": ..., "crc32": ...}, ...},
     "format": 1,
     "include_segments": true or false,
     "time": "2026-01-31T12:00:00+00:00",
     "vecdb": the version that made it}

Paths are relative, with "/". ``segments`` counts those in place, ``lost`` those of them that have
no files here and are built again after restoring. A newer ``format`` is refused.
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
    """Write and fsync it; its folder is the caller's. Returns its size in bytes."""
    content = {**content, "format": BACKUP_FORMAT, "data_format": layout.FORMAT_NUMBER}
    raw = _encoded({**content, "crc32": zlib.crc32(_encoded(content))})
    write_file(folder / MANIFEST_NAME, raw)
    return len(raw)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a backup says of itself, its own checksum compared.

    Raises:
        NotFoundError: there is no backup in the folder.
        FailedPreconditionError: it is of a newer version.
        DataLossError: it has changed since it was written.
    """
    file = folder / MANIFEST_NAME
    try:
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"there is no backup in {folder} (no file {MANIFEST_NAME})", Reason.NO_BACKUP
        ) from None
    damaged = DataLossError(f"{file}: its bytes have changed", Reason.CHECKSUM)
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
                f"{file} has {key} {number}, this vecdb knows up to {known}", Reason.NEWER_FORMAT
            )
    crc = content.pop("crc32", None)
    if crc != zlib.crc32(_encoded(content)) or raw != _encoded({**content, "crc32": crc}):
        raise damaged
    if any(PurePosixPath(p).is_absolute() or ".." in p.split("/") for p in content["files"]):
        raise DataLossError(f"{file} names files outside of its folder", Reason.FOREIGN_PATH)
    return dict(content)


def _encoded(content: Mapping[str, object]) -> bytes:
    """The one way in which it is written, so that its bytes can be compared."""
    return json.dumps(content, sort_keys=True, indent=1).encode() + b"\n"
