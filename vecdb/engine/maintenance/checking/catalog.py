"""Checking the catalogue against the folders: every collection is in both.

A collection's entry is made before its folder and removed after it, so what another process is just
making or dropping can be told from what was left half done: that stays as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vecdb.checking import NOTE, WARNING, Problem
from vecdb.engine.maintenance.checking.findings import Few, Findings, shown_id
from vecdb.engine.maintenance.checking.walk import BAD_VALUE, Walk
from vecdb.engine.runtime.catalog import catalog_environment
from vecdb.engine.runtime.data_folder import FORMAT_NUMBER, FORMAT_WORD
from vecdb.engine.system.files import names_in
from vecdb.errors import (
    FailedPreconditionError,
    ResourceExhaustedError,
    UnavailableError,
    VecdbError,
)
from vecdb.reasons import Reason

__all__ = ["check_catalog", "check_format", "is_elsewhere", "is_ready", "tell_missing"]

_UNDER_WAY_S: Final = 2.0
"""Making or dropping a collection takes far less, unless the process has died."""

_POLL_S: Final = 0.05
_STATES: Final = ("creating", "ready", "dropping")

Entries = dict[str, dict[str, Any]]


def check_format(root: Path) -> str | None:
    """What is wrong with the file FORMAT, or None.

    Raises:
        FailedPreconditionError: it is of a newer version.
    """
    file = root / "FORMAT"
    expected = f"{FORMAT_WORD} {FORMAT_NUMBER}"
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return f"{file} is gone, expected {expected!r}"
    words = raw.decode(errors="replace").split()
    if len(words) != 2 or words[0] != FORMAT_WORD or not words[1].isdecimal():
        return f"{file} says {raw[:40]!r}, expected {expected!r}"
    if int(words[1]) > FORMAT_NUMBER:
        raise FailedPreconditionError(
            f"{root} has format {words[1]}, this vecdb knows up to {FORMAT_NUMBER}",
            Reason.NEWER_FORMAT,
        )
    return None


def check_catalog(root: Path, tell: Callable[[Problem], None]) -> Entries:
    """Entries of the collections that are ready, by name; what is wrong with the others is told.

    Raises:
        UnavailableError, ResourceExhaustedError, FailedPreconditionError: something other than the
            data keeps it from being read.
    """
    findings = Findings("", tell)
    folders = names_in(root / "collections")
    entries, whole = _read(root, findings)
    ready = {name: entry for name, entry in entries.items() if entry["state"] == "ready"}
    _report_unfinished(root, entries, tell)
    ids: dict[str, str] = {}
    for name, entry in list(ready.items()):
        other = ids.setdefault(entry["id"], name)
        if other != name:
            findings.add("CATALOG", f"{name!r} and {other!r} name one collection, {entry['id']}")
            del ready[name]
    named = {entry["id"] for entry in entries.values()}
    for folder in sorted(folders - named) if whole else ():
        path = root / "collections" / folder
        if (path / "store" / "data.mdb").is_file():
            detail = f"{path} holds a store, and no name leads to it"
            Findings(folder, tell).add("COLLECTION_ORPHAN", detail)
        elif path.exists():
            detail = f"{path} holds no store and belongs to nobody"
            Findings(folder, tell).add("COLLECTION_ORPHAN", detail, NOTE)
    return ready


def is_ready(root: Path, name: str, collection_id: str) -> bool:
    """Whether the catalogue, as it is now, still says that this collection is ready."""
    entries, _ = _read(root, Findings("", lambda problem: None))
    entry = entries.get(name)
    return entry is not None and entry["state"] == "ready" and entry["id"] == collection_id


def tell_missing(root: Path, name: str, collection_id: str, findings: Findings) -> None:
    """A collection without a store, unless it was just dropped."""
    if is_ready(root, name, collection_id):
        store = root / "collections" / collection_id / "store"
        findings.add("COLLECTION_MISSING", f"{store} is gone, all rows with it")


def _report_unfinished(root: Path, entries: Entries, tell: Callable[[Problem], None]) -> None:
    """What is half made, half dropped or dropped and not unlinked, and stays so."""
    unfinished = {n: e for n, e in entries.items() if e["state"] != "ready"}
    trash = names_in(root / "trash")
    patience = time.monotonic() + _UNDER_WAY_S
    while (unfinished or trash) and time.monotonic() < patience:
        time.sleep(_POLL_S)
        now, _ = _read(root, Findings("", lambda problem: None))
        unfinished = {n: e for n, e in unfinished.items() if now.get(n) == e}
        trash &= names_in(root / "trash")
    for name, entry in unfinished.items():
        what = "made" if entry["state"] == "creating" else "dropped"
        detail = f"it is half {what}; opening the folder finishes that"
        Findings(name, tell).add("COLLECTION_UNFINISHED", detail, WARNING)
    what = "dropped collections are not unlinked"
    Findings("", tell).many("TRASH", what, sorted(trash), NOTE)


def _read(root: Path, findings: Findings) -> tuple[Entries, bool]:
    """Name → entry of all that can be read, and whether that is all."""
    entries: Entries = {}
    bad = Few()
    try:
        environment = catalog_environment(root)
    except VecdbError as error:
        if is_elsewhere(error):
            raise
        findings.add("STORE_DAMAGED", f"the catalogue: {error.message}")
        return {}, False
    damaged: list[bytes] = []
    try:
        with environment.read() as transaction:
            walk = Walk(environment, transaction, findings)
            for key, payload in walk.values("names", shown_id, damaged.append):
                try:
                    entry = json.loads(payload)
                    if entry["state"] not in _STATES or not entry["id"].isalnum():
                        raise ValueError(entry)
                    entries[key.decode()] = entry
                except (*BAD_VALUE, AttributeError):
                    bad.add(shown_id(key))
            for _ in walk.values("aliases", shown_id):
                pass
    finally:
        environment.close()
    bad.tell(findings, "VALUE", "entries of the catalogue can't be read")
    return entries, not (walk.incomplete or bad.count or damaged)


def is_elsewhere(error: VecdbError) -> bool:
    """The reason why something can't be read is not in the data."""
    return isinstance(error, ResourceExhaustedError | UnavailableError) or (
        isinstance(error, FailedPreconditionError) and error.reason == "PERMISSION"
    )
