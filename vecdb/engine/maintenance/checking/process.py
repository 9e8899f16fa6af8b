"""``vecdb.check``: starts the processes that check and repair, hears them out, makes the report.

A child tells which collection it is at. If it dies there, as LMDB may on a damaged file, that is a
problem of the collection, and another child goes on with the next one. Children are told to stop by
the end of their input, which also comes when this process is killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from vecdb import checks
from vecdb.checking import ERROR, NOTE, WARNING, CheckedCollection, CheckReport, Problem
from vecdb.engine.maintenance.checking.catalog import check_format
from vecdb.engine.runtime.catalog_loss import catalog_fault, has_bytes, stores_on_disk
from vecdb.engine.runtime.data_folder import MANIFEST_NAME
from vecdb.engine.system.child_process import start_child
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

_OUTPUT_TAIL: Final = 20
_CRASHES: Final = tuple(
    -number
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
)
_ORDER: Final = {ERROR: 0, WARNING: 1, NOTE: 2}

_SAMPLE: Final = Limit("sample", 1, 1_000, 2**62)

_NOT_REPAIRED: Final = {
    *("STORE_CRASHED", "STORE_DAMAGED", "COLLECTION_MISSING", "CHECK_FAILED", "CATALOG"),
}
"""A collection of which these were found is left alone."""

_TRUTH: Final = {"CHECKSUM", "VALUE", "VECTORS", "META"}
"""Errors with which a store may not be able to give all that a segment holds."""

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
            f"findable is a share of 0 to 1, got {shown(findable)}", Reason.BAD_OPTION
        )
    _check_folder(root)
    tell = progress or (lambda sentence: None)
    found = _Round(root, {"findable": findable, "sample": sample}, tell)
    found.run()
    problems = found.problems
    if repair and problems:
        _repair(root, found, tell)
        left = _Round(root, {"findable": findable, "sample": sample}, tell)
        left.run()
        problems, found = _compared(problems, left.problems), left
    problems.sort(key=lambda p: (p.repaired, _ORDER[p.severity]))
    return CheckReport(
        os.fspath(root), tuple(found.checked), tuple(problems), time.monotonic() - began
    )


def _check_folder(root: Path) -> None:
    """That it is a data folder, or was one."""
    if not root.is_dir():
        raise NotFoundError(f"{root} is no folder", Reason.NO_FOLDER)
    if (root / MANIFEST_NAME).exists():
        raise FailedPreconditionError(
            f"{root} is a backup, which is checked whole when it is restored", Reason.IS_BACKUP
        )
    known = (root / "FORMAT").exists() or (root / "catalog" / "data.mdb").exists()
    if not known and not stores_on_disk(root):
        raise FailedPreconditionError(
            f"{root} holds no vecdb database (no file FORMAT, no catalogue, no collections)",
            Reason.NOT_VECDB,
        )


class _Round:
    """One check of all that is in a folder.

    Attributes:
        problems, checked: what was found.
        listed: [name, id, entry] of the collections.
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
            return  # Nothing was ever made in it.
        if lost is not None:
            self.problems.append(Problem("", "CATALOG_LOST", lost))
            waiting = self._found_on_disk()
        while waiting is None or waiting:
            waiting = self._some(waiting)

    def _some(self, waiting: list[Any] | None) -> list[Any]:
        """Have these checked (None: the catalogue and all that it names); those that are left."""
        at: str | None = None
        for event in _Child("vecdb.engine.maintenance.checking.check", self._root).events(
            {**self._options, "collections": waiting}
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
            elif kind == "died":
                self._report_death(at, event)
        if waiting is None:
            return self._found_on_disk()
        return [each for each in waiting if each[1] != at] if at is not None else []

    def _report_death(self, at: str | None, event: Job) -> None:
        name = "" if at is None else self._name(at)
        what = "the catalogue" if at is None else "its store"
        if event["status"] in _CRASHES:
            number = signal.Signals(-event["status"]).name
            detail = f"reading {what} ended in {number}: its file is damaged"
            self.problems.append(Problem(name, "STORE_CRASHED", detail))
        else:
            detail = f"the process ended with status {event['status']} at {what}: {event['said']}"
            self.problems.append(Problem(name, "CHECK_FAILED", detail))

    def _found_on_disk(self) -> list[Any]:
        """Collections by their folders, where the catalogue can't be read."""
        self.listed = [[each, each, None] for each in stores_on_disk(self._root)]
        return self.listed

    def _name(self, collection_id: str) -> str:
        for name, known, _ in self.listed:
            if known == collection_id:
                return str(name)
        return collection_id


def _repair(root: Path, found: _Round, progress: Callable[[str], None]) -> None:
    """Have repaired what can be; what could not is found again by the next round."""
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
        for event in _Child("vecdb.engine.maintenance.checking.repair", root).events(
            {"kinds": kinds, "collections": jobs}
        ):
            if event["event"] == "begin":
                at, name = event["id"], event.get("name", "the folder")
                progress(f"repairing {name}")
            elif event["event"] == "end" and event["error"] is not None:
                progress(f"{name} could not be repaired: {event['error']}")
        # Where it died, it would again.
        rest = [each[1] for each in jobs]
        jobs = jobs[rest.index(at) + 1 :] if at in rest else []
        kinds = []
        if not jobs:
            return


def _compared(before: list[Problem], after: list[Problem]) -> list[Problem]:
    """What is left, and what was there before and is not any more."""
    same = {(p.collection, p.kind, p.detail) for p in after}
    # An error may be told in other numbers while others go on writing.
    kinds = {(p.collection, p.kind) for p in after if p.severity == ERROR}
    gone = [
        dataclasses.replace(p, repaired=True)
        for p in before
        if (p.collection, p.kind, p.detail) not in same
        and not (p.severity == ERROR and (p.collection, p.kind) in kinds)
    ]
    return after + gone


class _Child:
    """A process that is given one line and answers in lines of JSON."""

    def __init__(self, module: str, root: Path) -> None:
        self._process = start_child(module, "--", os.fspath(root), own_session=True)

    def events(self, job: Job) -> Iterator[Job]:
        """What it says of the job; at last, if it did not say that it has finished,
        {"event": "died", "status", "said"}."""
        process, lines = self._process, deque[str](maxlen=_OUTPUT_TAIL)
        assert process.stdin is not None and process.stdout is not None
        finished = False
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job) + "\n")
                process.stdin.flush()
            for line in process.stdout:
                event = _event(line)
                if event is None:
                    lines.append(line.strip())
                    continue
                finished = event["event"] == "finished"
                yield event
            status = process.wait()
            if not finished:
                said = lines[-1] if lines else "without a word"
                yield {"event": "died", "status": status, "said": said}
        except OSError as error:
            raise UnavailableError(
                f"the process that checks: {error}", Reason.CHECK_ENDED
            ) from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdout.close()


def _event(line: str) -> Job | None:
    with contextlib.suppress(ValueError):
        event = json.loads(line)
        if isinstance(event, dict) and "event" in event:
            return event
    return None
