"""A data folder as a whole: whether it is one, and of which format.

    FORMAT    "vecdb 1" and a newline. Never change the word; another number is another layout.

What else lies in it is drawn in ``database.py``.
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
"""File that makes a folder a backup."""

INCOMING: Final = Path("incoming", "import")
"""Prefix of the folders of imports under way, in the data folder."""

COMPACTION_DRAFT: Final = "store.compact"
"""What a compaction writes beside a store, until it takes the store's place."""


def raise_file_limit() -> None:
    """Each segment takes several files: ask for as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):
            pass


def _write_format(root: Path, file: Path) -> None:
    """Written aside and renamed, so that the file is whole whenever it is there."""
    draft = root / f"FORMAT.{os.getpid()}"
    try:
        write_file(draft, FORMAT_LINE)
        draft.rename(file)
    except FileNotFoundError:
        if not file.exists():  # Another process was here first, and took this for a leftover.
            raise
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    for leftover in root.glob("FORMAT.*"):
        leftover.unlink(missing_ok=True)


def prepare_folder(root: Path, *, group_access: bool = False) -> None:
    """Make the folder or check that it is ours."""
    for each in (root, *root.parents):
        if each.exists() and not each.is_dir():
            raise FailedPreconditionError(f"{each} is not a folder", Reason.NOT_A_FOLDER)
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    make_root(root, group=group_access)
    if group_access and not is_for_group(root):
        raise FailedPreconditionError(
            f"{root} is there and not for its group (group_access): chmod -R g+rwX {root}",
            Reason.PERMISSION,
        )
    file = root / "FORMAT"
    _check_format(root, file)
    if not (root / "catalog").exists():
        # A process that wrote FORMAT may have been killed before it came to this.
        for folder in {root, root.parent, *(each.parent for each in made)}:
            fsync_folder(folder)


def _check_format(root: Path, file: Path) -> None:
    if not file.exists():
        others = [entry for entry in root.iterdir() if not entry.name.startswith("FORMAT")]
        if (root / MANIFEST_NAME).exists():
            raise FailedPreconditionError(
                f"{root} is a backup, which is not opened but restored into a folder of its own: "
                f"vecdb restore {root} DIR",
                Reason.IS_BACKUP,
            )
        if others and not file.exists():  # Asked again: another process may just have made it.
            text = f"{root} is not empty and holds no vecdb database (no file FORMAT)"
            if stores_on_disk(root):
                text = f"{file} is gone, and collections are there: run vecdb check --repair {root}"
            raise FailedPreconditionError(text, Reason.NOT_VECDB)
        _write_format(root, file)
        return
    words = file.read_text(errors="replace").split()
    known = len(words) == 2 and words[0] == FORMAT_WORD and words[1].isascii()
    if not (known and words[1].isdigit() and int(words[1]) > 0):
        raise FailedPreconditionError(
            f"{file} says {file.read_bytes()[:40]!r}, expected '{FORMAT_WORD} {FORMAT_NUMBER}'",
            Reason.NOT_VECDB,
        )
    if int(words[1]) > FORMAT_NUMBER:
        raise FailedPreconditionError(
            f"{root} has format {words[1]}, this vecdb knows up to {FORMAT_NUMBER}",
            Reason.NEWER_FORMAT,
        )


def remove_leftovers(root: Path) -> None:
    """Remove what compactions and imports that were killed have left. For who holds the folder's
    lock, shared or alone: then no other compaction is under way."""
    if (root / INCOMING).parent.is_dir():
        remove_stale(root / INCOMING)
    for draft in (root / "collections").glob(f"*/{COMPACTION_DRAFT}"):
        shutil.rmtree(draft, ignore_errors=True)
