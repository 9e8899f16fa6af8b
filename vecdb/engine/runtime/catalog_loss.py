"""Detects a catalogue that is missing, empty or truncated while collections are on disk.

LMDB would silently create a new one, and a folder full of collections would open as an empty
database. Opening raises CATALOG_LOST instead; ``vecdb check --repair`` rebuilds the catalogue from
the names that the stores note (``checking/orphans.py``).
"""

from __future__ import annotations

from pathlib import Path

from vecdb.engine.kv.lmdb_pages import check_whole
from vecdb.engine.system.files import names_in
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["catalog_fault", "catalog_lost", "has_bytes", "stores_on_disk"]


def has_bytes(file: Path) -> bool:
    """Return whether the file exists and is not empty."""
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def stores_on_disk(root: Path) -> list[str]:
    """Return the ids of collections that have a store on disk, whether catalogued or not."""
    folder = root / "collections"
    return sorted(n for n in names_in(folder) if (folder / n / "store" / "data.mdb").is_file())


def catalog_fault(root: Path) -> str | None:
    """Return why the catalogue's file can't be opened, or None if it can.

    In a folder without collections a missing file is fine, and so is an empty one, which a killed
    process may leave.
    """
    file = root / "catalog" / "data.mdb"
    try:
        if file.stat().st_size == 0:
            return f"{file} is empty" if stores_on_disk(root) else None
        check_whole(file)
    except (FileNotFoundError, NotADirectoryError):
        return f"{file} is missing" if stores_on_disk(root) else None
    except DataLossError as error:
        return error.message
    return None


def catalog_lost(root: Path, why: str) -> DataLossError:
    """Return the error for opening a folder whose catalogue is lost."""
    return DataLossError(
        f"the catalogue can't be used: {why}; {len(stores_on_disk(root))} collections are on disk. "
        f"Restore a backup, or run: vecdb check --repair {root}",
        Reason.CATALOG_LOST,
    )
