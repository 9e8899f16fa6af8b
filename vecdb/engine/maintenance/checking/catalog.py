"""Checks the catalogue against the folders: every collection must be in both.

A collection's entry is written before its folder is created and removed after its folder. If
another process is creating or dropping a collection during the check, its entry changes soon; an
entry that a killed process left does not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vecdb.checking import NOTE, WARNING, Problem
from vecdb.engine.maintenance.checking.findings import Examples, Findings, shown_id
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

__all__ = ["check_catalog", "check_format", "is_elsewhere", "is_ready", "report_missing"]

_UNDER_WAY_S: Final = 2.0
"""Creating or dropping a collection takes far less, unless the process was killed."""

_POLL_S: Final = 0.05
_STATES: Final = ("creating", "ready", "dropping")

Entries = dict[str, dict[str, Any]]


def check_format(root: Path) -> str | None:
    """Return what is wrong with the file FORMAT, or None.

    Raises:
        FailedPreconditionError: NEWER_FORMAT.
    """
    file = root / "FORMAT"
    expected = f"{FORMAT_WORD} {FORMAT_NUMBER}"
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        return f"{file} is missing, expected {expected!r}"
    words = raw.decode(errors="replace").split()
    if len(words) != 2 or words[0] != FORMAT_WORD or not words[1].isdecimal():
        return f"{file}: expected {expected!r}, got {raw[:40]!r}"
    if int(words[1]) > FORMAT_NUMBER:
        raise FailedPreconditionError(
            f"{root} has format {words[1]}, but this version of vecdb reads formats up to "
            f"{FORMAT_NUMBER}; upgrade vecdb",
            Reason.NEWER_FORMAT,
        )
    return None


def check_catalog(root: Path, report: Callable[[Problem], None]) -> Entries:
    """Report problems of the catalogue; return the entries of ready collections, by name.

    Raises:
        UnavailableError, ResourceExhaustedError, FailedPreconditionError: the catalogue can't be
            read for a reason that is not in the data.
    """
    findings = Findings("", report)
    folders = names_in(root / "collections")
    entries, whole = _read(root, findings)
    ready = {name: entry for name, entry in entries.items() if entry["state"] == "ready"}
    _report_unfinished(root, entries, report)
    ids: dict[str, str] = {}
    for name, entry in list(ready.items()):
        other = ids.setdefault(entry["id"], name)
        if other != name:
            detail = f"{name!r} and {other!r} have the same collection id {entry['id']}"
            findings.add("CATALOG", detail)
            del ready[name]
    named = {entry["id"] for entry in entries.values()}
    for folder in sorted(folders - named) if whole else ():
        path = root / "collections" / folder
        if (path / "store" / "data.mdb").is_file():
            detail = f"{path} has a store, but the catalogue has no entry for it"
            Findings(folder, report).add("COLLECTION_ORPHAN", detail)
        elif path.exists():
            detail = f"{path} has no store, and the catalogue has no entry for it"
            Findings(folder, report).add("COLLECTION_ORPHAN", detail, NOTE)
    return ready


def is_ready(root: Path, name: str, collection_id: str) -> bool:
    """Return whether the current catalogue has this collection as ready."""
    entries, _ = _read(root, Findings("", lambda problem: None))
    entry = entries.get(name)
    return entry is not None and entry["state"] == "ready" and entry["id"] == collection_id


def report_missing(root: Path, name: str, collection_id: str, findings: Findings) -> None:
    """Report a collection without a store, unless it was just dropped."""
    if is_ready(root, name, collection_id):
        store = root / "collections" / collection_id / "store"
        findings.add("COLLECTION_MISSING", f"{store} is missing, and with it all rows")


def _report_unfinished(root: Path, entries: Entries, report: Callable[[Problem], None]) -> None:
    """Report creations and drops that do not finish within two seconds, and files in trash/."""
    unfinished = {n: e for n, e in entries.items() if e["state"] != "ready"}
    trash = names_in(root / "trash")
    patience = time.monotonic() + _UNDER_WAY_S
    while (unfinished or trash) and time.monotonic() < patience:
        time.sleep(_POLL_S)
        now, _ = _read(root, Findings("", lambda problem: None))
        unfinished = {n: e for n, e in unfinished.items() if now.get(n) == e}
        trash &= names_in(root / "trash")
    for name, entry in unfinished.items():
        what = "creating" if entry["state"] == "creating" else "dropping"
        detail = f"{what} it was interrupted; opening the folder completes or undoes that"
        Findings(name, report).add("COLLECTION_UNFINISHED", detail, WARNING)
    what = "dropped collections are still in trash/"
    Findings("", report).many("TRASH", what, sorted(trash), NOTE)


def _read(root: Path, findings: Findings) -> tuple[Entries, bool]:
    """Return name → entry of all readable entries, and whether these are all entries."""
    entries: Entries = {}
    bad = Examples()
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
    bad.report(findings, "VALUE", "entries of the catalogue can't be read")
    return entries, not (walk.incomplete or bad.count or damaged)


def is_elsewhere(error: VecdbError) -> bool:
    """Return whether an error has a cause other than the data, such as missing permissions."""
    return isinstance(error, ResourceExhaustedError | UnavailableError) or (
        isinstance(error, FailedPreconditionError) and error.reason == "PERMISSION"
    )
