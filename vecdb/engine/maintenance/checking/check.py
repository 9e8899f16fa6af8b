"""Child process of ``vecdb.check``: checks the collections of a data folder.

    python -m vecdb.engine.maintenance.checking.check FOLDER

Each collection is checked in three steps:

    1. one read transaction   all LMDB databases, and the rows of segments, in one committed state;
                              writers continue, but can't reuse free pages until it ends
    2. without transaction    checksums of the segments' files, deep checks, self-recall
    3. the store again        problems of files are reported if the store still lists the segment

Nothing is changed, except that LMDB writes to its lock file as for any reader. The check needs its
own process because LMDB may crash on a damaged file and must not open a path twice in one process.
The first line of stdin is the job, a line of JSON; the end of stdin ends the process. Results are
lines of JSON on stdout. If the process crashes, ``process`` starts it again for the collections
that are left.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from vecdb import limits
from vecdb.checking import WARNING, CheckedCollection, Problem
from vecdb.engine.kv.environment import Environment
from vecdb.engine.maintenance.checking.catalog import (
    check_catalog,
    is_elsewhere,
    is_ready,
    report_missing,
)
from vecdb.engine.maintenance.checking.findings import Findings
from vecdb.engine.maintenance.checking.parts import PartChecks
from vecdb.engine.maintenance.checking.segments import (
    Leftovers,
    Suspect,
    open_segments,
    self_recall,
    verify,
)
from vecdb.engine.maintenance.checking.store import (
    check_counters,
    check_entries,
    check_ids,
    check_leases,
    check_log,
    check_requests,
)
from vecdb.engine.maintenance.checking.vectors import BlockWalk
from vecdb.engine.maintenance.checking.walk import Facts, Walk, read_entries, read_facts
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.system.child_process import lower_priority
from vecdb.errors import NotFoundError, VecdbError
from vecdb.types import CollectionConfig

__all__ = ["CollectionCheck", "emit", "end_with_input", "main", "read_job"]

_CONFIGURED: Final = ("dim", "metric", "M", "ef_construction", "target_recall")
"""What the store and the catalogue both have of a collection's configuration."""

_MAP_BYTES: Final = 64 * 1024**2
"""Initial address space of a store; it is at least twice the file's size, and grows with it."""


class CollectionCheck:
    """The check of one collection.

    Args:
        root: the data folder.
        name, collection_id: name and id of the collection.
        entry: its entry in the catalogue, with its configuration, or None.
        findable: minimum self-recall: share of rows that must be found by their own vector; None
            skips this check.
        sample: number of rows that are searched for it.
        report: called with each problem.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        collection_id: str,
        entry: dict[str, Any] | None,
        *,
        findable: float | None,
        sample: int,
        report: Callable[[Problem], None],
    ) -> None:
        self._root, self._name, self._id = root, name, collection_id
        self._folder = root / "collections" / collection_id
        self._entry = entry
        self._findable, self._sample = findable, sample
        self._findings = Findings(name, report)
        self._suspects: list[Suspect] = []

    def run(self) -> CheckedCollection | None:
        """Check the collection; return None if it can't be read or was dropped during the check.

        Raises:
            UnavailableError, ResourceExhaustedError, FailedPreconditionError: it can't be read for
                a reason that is not in the data.
        """
        leftovers = Leftovers(self._root, self._folder)
        try:
            environment = Environment(
                self._folder / "store", layout.DATABASES, create=False, map_bytes=_MAP_BYTES
            )
        except NotFoundError:
            report_missing(self._root, self._name, self._id, self._findings)
            return None
        except VecdbError as error:
            if is_elsewhere(error):
                raise
            self._findings.add("STORE_DAMAGED", error.message)
            return None
        try:
            with environment.read() as transaction:
                walk = Walk(environment, transaction, self._findings)
                facts = read_facts(walk)
                segments, parts = self._check_state(walk, facts)
            if facts.dropped:
                if is_ready(self._root, self._name, self._id):
                    what = "the store is marked as dropped, but the catalogue has it as ready"
                    self._findings.add("META", what)
                return None
            share = self._check_files(facts, segments, parts)
            self._report_suspects(environment)
        finally:
            environment.close()
        leftovers.report(facts, self._findings)
        return CheckedCollection(
            self._name,
            self._id,
            0 if facts.state is None else facts.state.seq,
            len(facts.live_rows),
            len(in_place(facts.segments)),
            share,
        )

    def _check_state(self, walk: Walk, facts: Facts) -> tuple[list[Segment], PartChecks | None]:
        """Check everything that needs the transaction.

        Returns:
            The segments that can be opened, and the deep checks of their parts; None without a
            configuration.
        """
        findings = self._findings
        config = self._check_meta(facts)
        check_counters(facts, findings)
        check_ids(walk, facts, findings)
        check_entries(facts, findings)
        check_leases(walk, facts, findings)
        check_requests(walk, facts, findings)
        if config is None:
            return [], None
        segments, self._suspects = open_segments(self._folder, self._id, facts, config, findings)
        parts = PartChecks(segments, config, findings)
        blocks = BlockWalk(walk, facts, config, parts)
        blocks.run()
        parts.compare_records(facts, walk)
        check_log(walk, facts, blocks.rows, findings)
        return segments, parts

    def _check_meta(self, facts: Facts) -> CollectionConfig | None:
        """Compare the store's configuration with the catalogue's; return one that is readable."""
        config = facts.config()
        if config is None:
            what = "the store has no readable configuration"
            self._findings.add("META", what)
            facts.entry = self._entry
            return facts.config()
        assert facts.entry is not None
        if facts.entry.get("id") != self._id:
            what = f"the store has collection id {facts.entry.get('id')}, expected {self._id}"
            self._findings.add("META", what)
        for name in _CONFIGURED if self._entry else ():
            default = limits.TARGET_RECALL if name == "target_recall" else None
            stored = facts.entry.get(name, default)
            listed = self._entry.get(name, default) if self._entry else None
            if stored != listed:
                what = f"{name} is {stored} in the store, {listed} in the catalogue"
                self._findings.add("CATALOG", what)
        return config

    def _check_files(
        self, facts: Facts, segments: list[Segment], parts: PartChecks | None
    ) -> float | None:
        """Check the segments' files and parts; return the self-recall, if it was requested."""
        config = facts.config()
        if config is None or parts is None:
            return None
        self._suspects += verify(segments)
        parts.examine(facts)
        if self._findable is None:
            return None
        walkable = [segment for segment in segments if parts.is_usable(segment, GRAPH)]
        share = self_recall(walkable, facts, config, self._sample)
        if share is not None and share < self._findable:
            self._findings.add(
                "NOT_FINDABLE",
                f"{share:.2%} of {min(self._sample, len(facts.live_rows)):,} rows are found by "
                f"their own vector, expected {self._findable:.2%}",
                WARNING,
            )
        return share

    def _report_suspects(self, environment: Environment) -> None:
        """Report problems of segments that were not replaced since."""
        if not self._suspects:
            return
        with environment.read() as transaction:
            now = read_entries(Walk(environment, transaction, Findings("", lambda problem: None)))
        reported = set()
        for suspect in self._suspects:
            entry = now.segments.get(suspect.number)
            current = entry is not None and entry.is_published and not now.dropped
            if current and suspect.number not in reported:
                reported.add(suspect.number)
                self._findings.add(suspect.kind, suspect.detail, WARNING, segment=suspect.number)


def emit(event: Mapping[str, object]) -> None:
    """Print an event as a line of JSON."""
    print(json.dumps(event), flush=True)


def _report(problem: Problem) -> None:
    emit({"event": "problem", "problem": dataclasses.asdict(problem)})


def _run(root: Path, job: dict[str, Any]) -> None:
    """Check the job's collections, a list of [name, id, entry], or None for all of them."""
    if job["collections"] is None:
        ready = check_catalog(root, _report)
        job["collections"] = [[name, e["id"], e] for name, e in sorted(ready.items())]
        emit({"event": "listed", "collections": job["collections"]})
    for name, collection_id, entry in job["collections"]:
        emit({"event": "begin", "id": collection_id})
        check = CollectionCheck(
            root,
            name,
            collection_id,
            entry,
            findable=job["findable"],
            sample=job["sample"],
            report=_report,
        )
        try:
            checked = check.run()
        except Exception as error:
            if not isinstance(error, VecdbError):
                traceback.print_exc()
            _report(Problem(name, "CHECK_FAILED", f"{type(error).__name__}: {error}"))
            checked = None
        found = None if checked is None else dataclasses.asdict(checked)
        emit({"event": "end", "id": collection_id, "checked": found})
    emit({"event": "finished"})


def end_with_input() -> None:
    """End this process at the end of stdin, which also comes when the parent is killed."""
    # os.read instead of sys.stdin: the interpreter locks sys.stdin when it exits.
    while os.read(0, 4096):
        pass
    os._exit(1)


def read_job() -> dict[str, Any]:
    """Read the first line of stdin, unbuffered: ``end_with_input`` reads the rest."""
    raw = b""
    while not raw.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)
        raw += byte
    job: dict[str, Any] = json.loads(raw)
    return job


def main() -> None:
    """Run the job that stdin has."""
    program = "python -m vecdb.engine.maintenance.checking.check"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("folder")
    arguments = parser.parse_args()
    lower_priority()
    job = read_job()
    threading.Thread(target=end_with_input, name="input", daemon=True).start()
    _run(Path(arguments.folder), job)


if __name__ == "__main__":
    main()
