"""The data folder: creating it, checking its format, and removing leftovers.

    FORMAT    "vecdb 1" and a newline. Never change the word; another number is another layout.

``runtime.py`` draws the rest of the folder.
"""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path
from typing import Final

from vecdb.engine.runtime.catalog_loss import stores_on_disk
from vecdb.engine.system.atomic_folder import remove_stale
from vecdb.engine.system.files import fsync_folder, write_file
from vecdb.engine.system.modes import is_for_group, make_root
from vecdb.errors import FailedPreconditionError
from vecdb.reasons import Reason

__all__ = [
    "COMPACTION_DRAFT",
    "FORMAT_LINE",
    "FORMAT_NUMBER",
    "FORMAT_WORD",
    "INCOMING",
    "MANIFEST_NAME",
    "prepare_folder",
    "raise_file_limit",
    "remove_leftovers",
]

FORMAT_WORD: Final = "vecdb"
FORMAT_NUMBER: Final = 1
FORMAT_LINE: Final = f"{FORMAT_WORD} {FORMAT_NUMBER}\n".encode()

MANIFEST_NAME: Final = "backup.json"
"""The file that marks a folder as a backup."""

INCOMING: Final = Path("incoming", "import")
"""Path prefix of running imports, relative to the data folder."""

COMPACTION_DRAFT: Final = "store.compact"
"""Folder that a compaction writes next to ``store`` before it replaces the store."""


def raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit, as each segment takes several."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            pass


def _write_format(root: Path, file: Path) -> None:
    """Write FORMAT under another name and rename it, so that it is complete once it exists."""
    draft = root / f"FORMAT.{os.getpid()}"
    try:
        write_file(draft, FORMAT_LINE)
        draft.rename(file)
    except FileNotFoundError:
        # Another process may have written FORMAT first and removed this draft as a leftover.
        if not file.exists():
            raise
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    for leftover in root.glob("FORMAT.*"):
        leftover.unlink(missing_ok=True)


def prepare_folder(root: Path, *, group_access: bool = False) -> None:
    """Create the folder, or check that it is a vecdb folder of a known format.

    Raises:
        FailedPreconditionError: NOT_A_FOLDER, NOT_VECDB, NEWER_FORMAT, IS_BACKUP, or PERMISSION:
            the folder exists without access for its group, and ``group_access`` is set.
    """
    for each in (root, *root.parents):
        if each.exists() and not each.is_dir():
            raise FailedPreconditionError(f"{each} is not a folder", Reason.NOT_A_FOLDER)
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    make_root(root, group=group_access)
    if group_access and not is_for_group(root):
        raise FailedPreconditionError(
            f"{root} exists without access for its group, but group_access is set; run: "
            f"chmod -R g+rwX {root}",
            Reason.PERMISSION,
        )
    file = root / "FORMAT"
    _check_format(root, file)
    if not (root / "catalog").exists():
        # The process that wrote FORMAT may have been killed before it synced these folders.
        for folder in {root, root.parent, *(each.parent for each in created)}:
            fsync_folder(folder)


def _check_format(root: Path, file: Path) -> None:
    if not file.exists():
        others = [entry for entry in root.iterdir() if not entry.name.startswith("FORMAT")]
        if (root / MANIFEST_NAME).exists():
            raise FailedPreconditionError(
                f"{root} is a backup and can't be opened; restore it into another folder: "
                f"vecdb restore {root} DIR",
                Reason.IS_BACKUP,
            )
        # Checked again, as another process may have created FORMAT in between.
        if others and not file.exists():
            text = f"{root} is not empty and not a vecdb database: it has no file FORMAT"
            if stores_on_disk(root):
                text = f"{file} is missing, but collections exist; run: vecdb check --repair {root}"
            raise FailedPreconditionError(text, Reason.NOT_VECDB)
        _write_format(root, file)
        return
    words = file.read_text(errors="replace").split()
    known = len(words) == 2 and words[0] == FORMAT_WORD and words[1].isascii()
    if not (known and words[1].isdigit() and int(words[1]) > 0):
        raise FailedPreconditionError(
            f"{file}: expected '{FORMAT_WORD} {FORMAT_NUMBER}', got {file.read_bytes()[:40]!r}",
            Reason.NOT_VECDB,
        )
    if int(words[1]) > FORMAT_NUMBER:
        raise FailedPreconditionError(
            f"{root} has format {words[1]}, but this version of vecdb reads formats up to "
            f"{FORMAT_NUMBER}; upgrade vecdb",
            Reason.NEWER_FORMAT,
        )


def remove_leftovers(root: Path) -> None:
    """Remove the leftovers of compactions and imports that were killed.

    The caller holds the folder's lock, shared or exclusive, so no compaction is running.
    """
    if (root / INCOMING).parent.is_dir():
        remove_stale(root / INCOMING)
    for draft in (root / "collections").glob(f"*/{COMPACTION_DRAFT}"):
        shutil.rmtree(draft, ignore_errors=True)
