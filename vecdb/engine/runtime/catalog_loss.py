"""A catalogue that is gone, empty or cut short while collections are on disk.

LMDB would make a new one without a word, and a folder full of collections would open as an empty
database. So it is refused instead; ``vecdb check --repair`` makes a catalogue of what the stores
say of themselves (``checking/orphans.py``).
"""

from __future__ import annotations

from pathlib import Path

from vecdb.engine.kv.lmdb_pages import check_whole
from vecdb.engine.system.files import names_in
from vecdb.errors import DataLossError
from vecdb.reasons import Reason

__all__ = ["catalog_fault", "catalog_lost", "has_bytes", "stores_on_disk"]


def has_bytes(file: Path) -> bool:
    """It is there and not empty."""
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def stores_on_disk(root: Path) -> list[str]:
    """Ids of the collections that have a store on disk, whatever the catalogue says."""
    folder = root / "collections"
    return sorted(n for n in names_in(folder) if (folder / n / "store" / "data.mdb").is_file())


def catalog_fault(root: Path) -> str | None:
    """Why the catalogue's file is none that may be opened; None if it is whole.

    A folder without collections has none yet, or an empty file of a process that was killed.
    """
    file = root / "catalog" / "data.mdb"
    try:
        if file.stat().st_size == 0:
            return f"{file} is empty" if stores_on_disk(root) else None
        check_whole(file)
    except (FileNotFoundError, NotADirectoryError):
        return f"{file} is gone" if stores_on_disk(root) else None
    except DataLossError as error:
        return error.message
    return None


def catalog_lost(root: Path, why: str) -> DataLossError:
    """What opening such a folder raises."""
    return DataLossError(
        f"the catalogue can't be used: {why}; {len(stores_on_disk(root))} collections are on disk. "
        f"Restore a backup, or run: vecdb check --repair {root}",
        Reason.CATALOG_LOST,
    )
