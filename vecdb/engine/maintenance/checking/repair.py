"""Child process of ``vecdb.check`` with ``repair=True``.

    python -m vecdb.engine.maintenance.checking.repair FOLDER

It rebuilds caches and never changes stored data:

    segments     a damaged or missing segment, or one that differs from the store, is quarantined;
                 if the entries contradict each other, all segments are forgotten. Then rows are
                 flushed and graphs built as usual. Segments stay if records or vectors are damaged,
                 as a segment may have the last copy
    counters     live_count, metadata_count and next_segment are computed again
    leftovers    files of unknown segments, drafts and dropped collections are removed
    catalogue    interrupted creations and drops are finished, as on opening; collections without
                 an entry get one (``orphans.py``), also if the whole catalogue is lost
    FORMAT       is written again

All changes are transactions, under the same locks as the normal work, so that other processes may
continue. The first line of stdin has the problems that the check before has found; the check that
follows finds what is left.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from vecdb.engine.indexing.indexer import CollectionIndexer
from vecdb.engine.indexing.merge_policy import graph_row_bytes
from vecdb.engine.kv.environment import Environment
from vecdb.engine.kv.transaction import Transaction
from vecdb.engine.maintenance.checking.check import emit, end_with_input, read_job
from vecdb.engine.maintenance.checking.findings import Findings
from vecdb.engine.maintenance.checking.orphans import adopt_orphans, set_aside
from vecdb.engine.maintenance.checking.store import check_entries
from vecdb.engine.maintenance.checking.walk import Facts, Walk, read_entries, read_facts
from vecdb.engine.runtime.catalog import Catalog, catalog_environment, new_catalog
from vecdb.engine.runtime.catalog_loss import catalog_fault
from vecdb.engine.runtime.data_folder import COMPACTION_DRAFT, FORMAT_LINE
from vecdb.engine.runtime.options import Options
from vecdb.engine.segments.flushing import flat_rows_max, flush
from vecdb.engine.segments.lifecycle import forget_segments, quarantine, remove_drafts
from vecdb.engine.store import layout
from vecdb.engine.store.store import Store
from vecdb.engine.system.files import fsync_folder, names_in, patient_lock, write_file
from vecdb.engine.system.folder_use import FolderUse
from vecdb.engine.system.modes import make_folder

__all__ = ["CollectionRepair", "main", "repair_folder"]

_MAP_BYTES: Final = 64 * 1024**2
_PATIENCE_S: Final = 600.0
"""Time limit for locks, as other processes hold them while they build a graph."""

_POLL_S: Final = 0.05


class CollectionRepair:
    """The repair of one collection.

    Args:
        folder: the collection's folder. collection_id: its id.
        damaged: numbers of the segments to rebuild.
        rebuild: False keeps the segments, if the store may lack some of their rows.
    """

    def __init__(
        self, folder: Path, collection_id: str, damaged: set[int], *, rebuild: bool = True
    ) -> None:
        self._folder, self._id = folder, collection_id
        self._damaged, self._may_rebuild = damaged, rebuild
        self._segments = folder / "segments"

    def run(self) -> None:
        """Repair the collection.

        Raises:
            VecdbError: the store can't be opened or written.
        """
        environment = Environment(
            self._folder / "store", layout.DATABASES, create=False, map_bytes=_MAP_BYTES
        )
        try:
            store = Store(environment, self._id)
            with environment.read() as transaction:
                facts = read_facts(Walk(environment, transaction, _ignored()))
            _correct_sums(store, facts)
            make_folder(self._segments, exist_ok=True)
            with self._locked():
                wanting = self._may_rebuild and self._forget(store)
                self._remove_leftovers(store)
            if wanting:
                self._rebuild(store)
        finally:
            environment.close()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the locks of flushes and graph work, so that all reservations are abandoned ones."""
        with _lock(self._folder / "graph.lock"), _lock(self._folder / "seal.lock"):
            yield

    def _forget(self, store: Store) -> bool:
        """Quarantine the damaged segments, or forget all if their entries contradict each other.

        Returns:
            Whether segments have to be rebuilt.
        """
        with store.environment.read() as transaction:
            facts = read_entries(Walk(store.environment, transaction, _ignored()))
        faults = _ignored()
        check_entries(facts, faults)
        if facts.bad_segments or faults.count:
            forget_segments(store)
            return True
        for number in sorted(self._damaged):
            # With both locks held the generation only changes when others quarantine a segment.
            quarantine(store, number, store.current_state().generation)
        with store.environment.read() as transaction:
            return any(
                e.is_quarantined or e.lost_parts for e in store.read_segments(transaction).values()
            )

    def _remove_leftovers(self, store: Store) -> None:
        with store.environment.read() as transaction:
            facts = read_entries(Walk(store.environment, transaction, _ignored()))
        if facts.bad_segments or facts.incomplete:
            return
        entries = facts.segments
        known = {str(number) for number in entries}
        for name in names_in(self._segments):
            path = self._segments / name
            if name in known:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        remove_drafts(self._folder)
        # This process has the folder open, so no compaction is running.
        shutil.rmtree(self._folder / COMPACTION_DRAFT, ignore_errors=True)

    def _rebuild(self, store: Store) -> None:
        """Flush the memtable if it is large enough and do all graph work, as a writer would."""
        options, config = Options(), store.config
        rows_max = max(1, options.segment_bytes_max // graph_row_bytes(config.dim, config.M))
        indexer = CollectionIndexer(
            store,
            self._folder,
            self._id,
            threads=options.threads,
            rows_max=rows_max,
            report=lambda event: None,
            should_stop=lambda: False,
        )
        patience = time.monotonic() + _PATIENCE_S
        while True:
            flushed = flush(
                store,
                self._folder,
                self._id,
                bytes_min=options.seal_bytes,
                rows_max=flat_rows_max(store, options.seal_bytes, rows_max),
                joined_rows_max=rows_max,
            )
            if (not indexer.run("optimizing") and flushed) or time.monotonic() > patience:
                return
            time.sleep(_POLL_S)


def _correct_sums(store: Store, facts: Facts) -> None:
    """Compute counters again from the entries that they count."""
    if facts.incomplete or facts.counters is None:
        return
    versions = facts.metadata_versions
    ids = store.environment.handles.ids

    def write(transaction: Transaction) -> None:
        counters = store.read_counters(transaction)
        before = counters.pack()
        counters.live_count = transaction.stat(ids)["entries"]
        if counters.metadata_count < versions:
            # Writers may have raised the counter since the versions were counted. It may be
            # too large, which costs nothing, but never too small; so the sum of both is safe.
            counters.metadata_count += versions
        numbers = [*facts.segments, *facts.bad_segments]
        counters.next_segment = max([counters.next_segment, *(n + 1 for n in numbers)])
        if counters.pack() != before:
            store.write_counters(transaction, counters)

    store.environment.transact(write)


def repair_folder(root: Path, kinds: set[str]) -> None:
    """Repair problems of the folder itself; ``kinds`` are those that were found."""
    if "FORMAT" in kinds:
        draft = root / f"FORMAT.{os.getpid()}"
        write_file(draft, FORMAT_LINE)
        draft.rename(root / "FORMAT")
        fsync_folder(root)
    if "CATALOG_LOST" in kinds:
        _create_catalog(root)
    if not (root / "catalog" / "data.mdb").is_file():
        return
    if kinds & {"COLLECTION_UNFINISHED", "TRASH"}:
        Catalog(root, _MAP_BYTES).close()
    if kinds & {"COLLECTION_ORPHAN", "CATALOG_LOST"}:
        with _lock(root / "catalog.lock"):
            _repair_orphans(root)


def _create_catalog(root: Path) -> None:
    """Replace a catalogue that is missing or can't be opened by an empty one."""
    with _lock(root / "catalog.lock"):
        if catalog_fault(root) is not None:
            set_aside(root / "catalog")
            new_catalog(root).close()


def _repair_orphans(root: Path) -> None:
    """Restore entries of collections with a store; remove folders without store and entry."""
    environment = catalog_environment(root)
    try:
        with environment.read() as transaction:
            walk = Walk(environment, transaction, _ignored())
            bad: list[bytes] = []
            entries = dict(walk.values("names", repr, bad.append))
        if bad or walk.incomplete:
            return
        values = b"".join(entries.values())
        folders = names_in(root / "collections")
        named = {each for each in folders if each.encode() in values}
        adopt_orphans(root, environment, {key.decode() for key in entries}, named)
    finally:
        environment.close()
    for name in folders - named:
        folder = root / "collections" / name
        if not (folder / "store" / "data.mdb").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _lock(path: Path) -> contextlib.AbstractContextManager[None]:
    return patient_lock(path, _PATIENCE_S)


def _ignored() -> Findings:
    """Return findings that are not reported."""
    return Findings("", lambda problem: None)


def _run(root: Path, job: dict[str, Any]) -> None:
    """Repair the folder, then the collections.

    Args:
        job: {"kinds": kinds of problems of the folder,
            "collections": [[name, id, numbers of damaged segments, rebuild], …]}.
    """
    emit({"event": "begin", "id": ""})
    try:
        repair_folder(root, set(job["kinds"]))
    except Exception:
        traceback.print_exc()
    for name, collection_id, damaged, rebuild in job["collections"]:
        emit({"event": "begin", "id": collection_id, "name": name})
        error = None
        try:
            folder = root / "collections" / collection_id
            CollectionRepair(folder, collection_id, set(damaged), rebuild=rebuild).run()
        except Exception as failure:
            traceback.print_exc()
            error = f"{type(failure).__name__}: {failure}"
        emit({"event": "end", "id": collection_id, "error": error})
    emit({"event": "finished"})


def main() -> None:
    """Run the job that stdin has."""
    program = "python -m vecdb.engine.maintenance.checking.repair"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("folder")
    arguments = parser.parse_args()
    job = read_job()
    threading.Thread(target=end_with_input, name="input", daemon=True).start()
    with FolderUse(Path(arguments.folder)):
        _run(Path(arguments.folder), job)


if __name__ == "__main__":
    main()
