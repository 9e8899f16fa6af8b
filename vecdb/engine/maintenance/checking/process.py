"""``vecdb.check``: starts the child processes that check and repair, and builds the report.

A child reports which collection it begins. If it crashes there, as LMDB may on a damaged file, the
crash is a problem of that collection, and another child continues with the next one. A child ends
at the end of its stdin, which also comes when this process is killed.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from vecdb import checks
from vecdb.checking import ERROR, NOTE, WARNING, CheckedCollection, CheckReport, Problem
from vecdb.engine.maintenance.checking.catalog import check_format
from vecdb.engine.runtime.catalog_loss import catalog_fault, has_bytes, stores_on_disk
from vecdb.engine.runtime.data_folder import MANIFEST_NAME
from vecdb.engine.system.child_task import ChildTask
from vecdb.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from vecdb.limits import Limit
from vecdb.reasons import Reason
from vecdb.row_names import shown

__all__ = ["check"]

_CRASHES: Final = tuple(
    -number
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
)
_ORDER: Final = {ERROR: 0, WARNING: 1, NOTE: 2}

_SAMPLE: Final = Limit("sample", 1, 1_000, 2**62)

_NOT_REPAIRED: Final = {
    *("STORE_CRASHED", "STORE_DAMAGED", "COLLECTION_MISSING", "CHECK_FAILED", "CATALOG"),
}
"""A collection with a problem of these kinds is not repaired."""

_TRUTH: Final = {"CHECKSUM", "VALUE", "VECTORS", "META"}
"""With errors of these kinds a store may lack rows, so its segments must not be rebuilt."""

Job = dict[str, Any]


def check(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    findable: float | None = None,
    sample: int = 1_000,
    progress: Callable[[str], None] | None = None,
) -> CheckReport:
    """Check a data folder; see ``vecdb.check``."""
    began = time.monotonic()
    root = checks.check_local_path(path).absolute()
    checks.check_flag("repair", repair)
    checks.check_callable("progress", progress)
    checks.check_limit(_SAMPLE, sample)
    is_number = isinstance(findable, int | float) and not isinstance(findable, bool)
    if findable is not None and not (is_number and 0 <= findable <= 1):
        raise InvalidArgumentError(
            f"findable must be a number from 0 to 1, got {shown(findable)}", Reason.BAD_OPTION
        )
    _check_folder(root)
    show = progress or (lambda sentence: None)
    found = _Round(root, {"findable": findable, "sample": sample}, show)
    found.run()
    problems = found.problems
    if repair and problems:
        _repair(root, found, show)
        left = _Round(root, {"findable": findable, "sample": sample}, show)
        left.run()
        problems, found = _compared(problems, left.problems), left
    problems.sort(key=lambda p: (p.repaired, _ORDER[p.severity]))
    return CheckReport(
        os.fspath(root), tuple(found.checked), tuple(problems), time.monotonic() - began
    )


def _check_folder(root: Path) -> None:
    """Raise unless the folder is a data folder, or the remains of one."""
    if not root.is_dir():
        raise NotFoundError(f"{root} is not a folder", Reason.NO_FOLDER)
    if (root / MANIFEST_NAME).exists():
        raise FailedPreconditionError(
            f"{root} is a backup; restoring it verifies all of its files: vecdb restore {root} DIR",
            Reason.IS_BACKUP,
        )
    known = (root / "FORMAT").exists() or (root / "catalog" / "data.mdb").exists()
    if not known and not stores_on_disk(root):
        raise FailedPreconditionError(
            f"{root} is not a vecdb database: it has no file FORMAT, no catalogue and no "
            "collections",
            Reason.NOT_VECDB,
        )


class _Round:
    """One check of a whole folder.

    Attributes:
        problems, checked: the results.
        listed: [name, id, entry] of each collection.
    """

    def __init__(self, root: Path, options: Job, progress: Callable[[str], None]) -> None:
        self._root, self._options, self._progress = root, options, progress
        self.problems: list[Problem] = []
        self.checked: list[CheckedCollection] = []
        self.listed: list[Any] = []

    def run(self) -> None:
        fault = check_format(self._root)
        if fault is not None:
            self.problems.append(Problem("", "FORMAT", fault, WARNING))
        self._progress("checking the catalogue")
        waiting: list[Any] | None = None
        lost = catalog_fault(self._root)
        if lost is None and not has_bytes(self._root / "catalog" / "data.mdb"):
            return  # No collection was ever created in the folder.
        if lost is not None:
            self.problems.append(Problem("", "CATALOG_LOST", lost))
            waiting = self._found_on_disk()
        while waiting is None or waiting:
            waiting = self._some(waiting)

    def _some(self, waiting: list[Any] | None) -> list[Any]:
        """Check collections in one child; return those that are left if the child ended early.

        Args:
            waiting: [name, id, entry] each; None: the catalogue and all collections in it.
        """
        at: str | None = None
        for event in _events(
            "vecdb.engine.maintenance.checking.check",
            self._root,
            {**self._options, "collections": waiting},
        ):
            kind = event["event"]
            if kind == "problem":
                self.problems.append(Problem(**event["problem"]))
            elif kind == "listed":
                waiting = self.listed = event["collections"]
            elif kind == "begin":
                at = event["id"]
                self._progress(f"checking {self._name(at)}")
            elif kind == "end":
                waiting = [each for each in waiting or () if each[1] != event["id"]]
                if event["checked"] is not None:
                    self.checked.append(CheckedCollection(**event["checked"]))
                at = None
            elif kind == "finished":
                return []
            elif kind == "ended":
                self._report_end(at, event)
        if waiting is None:
            return self._found_on_disk()
        return [each for each in waiting if each[1] != at] if at is not None else []

    def _report_end(self, at: str | None, event: Job) -> None:
        name = "" if at is None else self._name(at)
        what = "the catalogue" if at is None else "its store"
        if event["status"] in _CRASHES:
            number = signal.Signals(-event["status"]).name
            detail = f"the process crashed with {number} while reading {what}: its file is damaged"
            self.problems.append(Problem(name, "STORE_CRASHED", detail))
        else:
            status, output = event["status"], event["output"]
            detail = f"the process ended with status {status} while reading {what}: {output}"
            self.problems.append(Problem(name, "CHECK_FAILED", detail))

    def _found_on_disk(self) -> list[Any]:
        """List the collections by their folders, as the catalogue can't be read."""
        self.listed = [[each, each, None] for each in stores_on_disk(self._root)]
        return self.listed

    def _name(self, collection_id: str) -> str:
        for name, known, _ in self.listed:
            if known == collection_id:
                return str(name)
        return collection_id


def _repair(root: Path, found: _Round, progress: Callable[[str], None]) -> None:
    """Repair what can be repaired; the next round finds what is left."""
    by_name: dict[str, list[Problem]] = {}
    for problem in found.problems:
        by_name.setdefault(problem.collection, []).append(problem)
    jobs = []
    for name, collection_id, _ in found.listed:
        problems = by_name.get(name, [])
        if problems and not any(p.kind in _NOT_REPAIRED for p in problems):
            damaged = {p.segment for p in problems if p.severity == WARNING} - {None}
            whole = not any(p.kind in _TRUTH and p.severity == ERROR for p in problems)
            jobs.append([name, collection_id, list(damaged), whole])
    kinds = sorted({problem.kind for problem in found.problems})
    if any(p.kind.startswith("STORE_") for p in by_name.get("", [])):
        kinds = []
    while True:
        at, name = None, ""
        for event in _events(
            "vecdb.engine.maintenance.checking.repair", root, {"kinds": kinds, "collections": jobs}
        ):
            if event["event"] == "begin":
                at, name = event["id"], event.get("name", "the folder")
                progress(f"repairing {name}")
            elif event["event"] == "end" and event["error"] is not None:
                progress(f"{name} could not be repaired: {event['error']}")
        # Continue after the collection where it crashed, as it would crash there again.
        rest = [each[1] for each in jobs]
        jobs = jobs[rest.index(at) + 1 :] if at in rest else []
        kinds = []
        if not jobs:
            return


def _compared(before: list[Problem], after: list[Problem]) -> list[Problem]:
    """Return the problems that are left, and those that are gone, marked as repaired."""
    same = {(p.collection, p.kind, p.detail) for p in after}
    # The numbers in an error's detail may change while other processes write.
    kinds = {(p.collection, p.kind) for p in after if p.severity == ERROR}
    gone = [
        dataclasses.replace(p, repaired=True)
        for p in before
        if (p.collection, p.kind, p.detail) not in same
        and not (p.severity == ERROR and (p.collection, p.kind) in kinds)
    ]
    return after + gone


def _events(module: str, root: Path, job: Job) -> Iterator[Job]:
    """Send a job to a child process and yield its events.

    If the child ends without "finished", the last event is {"event": "ended", "status", "output"}.
    """
    try:
        with ChildTask(module, "--", os.fspath(root)) as child:
            child.send(job)
            finished = False
            for event in child.answers():
                finished = event["event"] == "finished"
                yield event
            if not finished:
                status, output = child.ended()
                yield {"event": "ended", "status": status, "output": output}
    except OSError as error:
        raise UnavailableError(
            f"can't talk to the process that checks: {error}", Reason.CHECK_ENDED
        ) from error
