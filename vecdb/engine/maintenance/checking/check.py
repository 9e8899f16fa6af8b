"""Checking a data folder, in a process of its own; for ``vecdb.check``.

    python -m vecdb.engine.maintenance.checking.check FOLDER

For each collection, one after the other:

    one read transaction      all that LMDB holds, and the rows of its segments, of one committed
                              state; writers go on, and meanwhile the store's file grows under them
    after it                  checksums of the segments' files, the graphs, how findable rows are
    the store once more       what was found wrong with files is told if it still speaks of them

Nothing is changed; LMDB writes into its file for locks as for any reader. This runs in a process of
its own, as LMDB may crash on a damaged file, and must not open a path twice in one process. The
first line of the input says what to check, the end of the input ends it; what is found goes out as
lines of JSON. ``process`` starts it again for the rest if it dies.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from vecdb.checking import WARNING, CheckedCollection, Problem
from vecdb.engine.kv.environment import Environment
from vecdb.engine.maintenance.checking.catalog import (
    check_catalog,
    is_elsewhere,
    is_ready,
    tell_missing,
)
from vecdb.engine.maintenance.checking.findings import Findings
from vecdb.engine.maintenance.checking.segments import (
    Leftovers,
    Suspect,
    check_graphs,
    findable_share,
    open_segments,
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
from vecdb.engine.maintenance.checking.vectors import BlockWalk, check_segment_rows
from vecdb.engine.maintenance.checking.walk import Facts, Walk, read_entries, read_facts
from vecdb.engine.segments.segment import Segment
from vecdb.engine.store import layout
from vecdb.engine.store.segment_table import in_place
from vecdb.engine.system.child_process import give_way
from vecdb.errors import NotFoundError, VecdbError
from vecdb.types import CollectionConfig

__all__ = ["CollectionCheck", "end_with_input", "main", "read_job", "say"]

_MAP_BYTES: Final = 64 * 1024**2
"""Address space of a store at first: it is twice the file's size at least, and follows others."""


class CollectionCheck:
    """The check of one collection.

    Args:
        root: the data folder.
        name, collection_id: the collection's.
        entry: its configuration as the catalogue has it, or None.
        findable: least share of rows that must be found by their own vector; None asks nothing.
        sample: how many rows are searched for that.
        tell: called with each problem.
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
        tell: Callable[[Problem], None],
    ) -> None:
        self._root, self._name, self._id = root, name, collection_id
        self._folder = root / "collections" / collection_id
        self._entry = entry
        self._findable, self._sample = findable, sample
        self._findings = Findings(name, tell)
        self._suspects: list[Suspect] = []

    def run(self) -> CheckedCollection | None:
        """Check it; None if it could not be read, or was dropped meanwhile.

        Raises:
            UnavailableError, ResourceExhaustedError, FailedPreconditionError: something other than
                the data keeps it from being read.
        """
        leftovers = Leftovers(self._root, self._folder)
        try:
            environment = Environment(
                self._folder / "store", layout.DATABASES, create=False, map_bytes=_MAP_BYTES
            )
        except NotFoundError:
            tell_missing(self._root, self._name, self._id, self._findings)
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
                segments = self._check_state(walk, facts)
            if facts.dropped:
                if is_ready(self._root, self._name, self._id):
                    what = "the store is marked as dropped, the catalogue says that it is ready"
                    self._findings.add("META", what)
                return None
            share = self._check_files(facts, segments)
            self._tell_suspects(environment)
        finally:
            environment.close()
        leftovers.tell(facts, self._findings)
        return CheckedCollection(
            self._name,
            self._id,
            0 if facts.state is None else facts.state.seq,
            len(facts.live_rows),
            len(in_place(facts.segments)),
            share,
        )

    def _check_state(self, walk: Walk, facts: Facts) -> list[Segment]:
        """All that needs the transaction; returns the segments that could be opened."""
        findings = self._findings
        config = self._check_meta(facts)
        check_counters(facts, findings)
        check_ids(walk, facts, findings)
        check_entries(facts, findings)
        check_leases(walk, facts, findings)
        check_requests(walk, facts, findings)
        if config is None:
            return []
        segments, self._suspects = open_segments(self._folder, self._id, facts, config, findings)
        blocks = BlockWalk(walk, facts, config, segments)
        blocks.run()
        for segment in segments:
            check_segment_rows(segment, facts, findings)
        check_log(walk, facts, blocks.rows, findings)
        return segments

    def _check_meta(self, facts: Facts) -> CollectionConfig | None:
        """The configuration against the catalogue's; whichever can be read."""
        config = facts.config()
        if config is None:
            what = "the store has no configuration that can be read"
            self._findings.add("META", what)
            facts.entry = self._entry
            return facts.config()
        assert facts.entry is not None
        if facts.entry.get("id") != self._id:
            what = f"the store is that of collection {facts.entry.get('id')}, expected {self._id}"
            self._findings.add("META", what)
        for name in ("dim", "metric", "M", "ef_construction") if self._entry else ():
            said = self._entry.get(name) if self._entry else None
            if facts.entry[name] != said:
                what = f"{name} is {facts.entry[name]} in the store, {said} in the catalogue"
                self._findings.add("CATALOG", what)
        return config

    def _check_files(self, facts: Facts, segments: list[Segment]) -> float | None:
        """All that needs the segments' files alone."""
        config = facts.config()
        if config is None:
            return None
        self._suspects += verify(segments, config.metric)
        walkable = check_graphs(segments, facts, config, self._findings)
        if self._findable is None:
            return None
        share = findable_share(walkable, facts, config, self._sample)
        if share is not None and share < self._findable:
            self._findings.add(
                "NOT_FINDABLE",
                f"{share:.2%} of {min(self._sample, len(facts.live_rows)):,} rows are found by "
                f"their own vector, expected {self._findable:.2%}",
                WARNING,
            )
        return share

    def _tell_suspects(self, environment: Environment) -> None:
        """Tell what is wrong with segments that have not been replaced since."""
        if not self._suspects:
            return
        with environment.read() as transaction:
            now = read_entries(Walk(environment, transaction, Findings("", lambda problem: None)))
        told = set()
        for suspect in self._suspects:
            entry = now.segments.get(suspect.number)
            there = entry is not None and entry.is_published and not now.dropped
            if there and suspect.number not in told:
                told.add(suspect.number)
                self._findings.add(suspect.kind, suspect.detail, WARNING, segment=suspect.number)


def say(event: dict[str, Any]) -> None:
    """One line of the answer."""
    print(json.dumps(event), flush=True)


def _tell(problem: Problem) -> None:
    say({"event": "problem", "problem": dataclasses.asdict(problem)})


def _run(root: Path, job: dict[str, Any]) -> None:
    """Say what is found in the collections of the job: [name, id, entry] each; None for all."""
    if job["collections"] is None:
        ready = check_catalog(root, _tell)
        job["collections"] = [[name, e["id"], e] for name, e in sorted(ready.items())]
        say({"event": "listed", "collections": job["collections"]})
    for name, collection_id, entry in job["collections"]:
        say({"event": "begin", "id": collection_id})
        check = CollectionCheck(
            root,
            name,
            collection_id,
            entry,
            findable=job["findable"],
            sample=job["sample"],
            tell=_tell,
        )
        try:
            checked = check.run()
        except Exception as error:
            if not isinstance(error, VecdbError):
                traceback.print_exc()
            _tell(Problem(name, "CHECK_FAILED", f"{type(error).__name__}: {error}"))
            checked = None
        found = None if checked is None else dataclasses.asdict(checked)
        say({"event": "end", "id": collection_id, "checked": found})
    say({"event": "finished"})


def end_with_input() -> None:
    """The thread that notices the parent's end."""
    # Not by way of sys.stdin, which the interpreter wants to itself when it ends.
    while os.read(0, 4096):
        pass
    os._exit(1)


def read_job() -> dict[str, Any]:
    """The first line of the input, byte by byte: what comes after it is for ``end_with_input``."""
    raw = b""
    while not raw.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(1)
        raw += byte
    job: dict[str, Any] = json.loads(raw)
    return job


def main() -> None:
    """Check what the input says."""
    program = "python -m vecdb.engine.maintenance.checking.check"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("folder")
    arguments = parser.parse_args()
    give_way()
    job = read_job()
    threading.Thread(target=end_with_input, name="input", daemon=True).start()
    _run(Path(arguments.folder), job)


if __name__ == "__main__":
    main()
