"""Checks the files of segments: complete, unchanged, and with valid graphs.

Segments are opened within the transaction, so that their rows can be compared with one state of the
store. The slow checks do not need the store and run after it: checksums, deep checks, self-recall.
Other processes may replace segments during the check, so missing or damaged files are a problem
only if the store still lists the segment at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vecdb import checks
from vecdb.checking import NOTE
from vecdb.engine.kernels.loading import load_kernels
from vecdb.engine.maintenance.checking.findings import Findings
from vecdb.engine.maintenance.checking.walk import BAD_VALUE, Facts, Rows
from vecdb.engine.runtime.data_folder import COMPACTION_DRAFT
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.lifecycle import GRAPH_LOCK
from vecdb.engine.segments.part_check import is_among
from vecdb.engine.segments.segment import Segment, SegmentDamagedError, padded_width
from vecdb.engine.store.segment_table import SegmentEntry
from vecdb.engine.system.files import file_lock, names_in
from vecdb.engine.system.folder_use import FolderUse
from vecdb.errors import DataLossError, UnavailableError
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig, Metric

__all__ = ["Leftovers", "Suspect", "open_segments", "self_recall", "verify"]

_SEED: Final = 0
_DRAFT: Final = re.compile(r"graph-.*\.hnsw|export-.*", re.DOTALL)
_GONE: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True)
class Suspect:
    """A segment whose files are missing or damaged, unless it was replaced during the check."""

    number: int
    kind: str
    detail: str


def open_segments(
    folder: Path, collection_id: str, facts: Facts, config: CollectionConfig, findings: Findings
) -> tuple[list[Segment], list[Suspect]]:
    """Open the published segments; return them, and those that can't be opened.

    Args:
        folder: the collection's folder.
    """
    opened, suspects = [], []
    for number, entry in sorted(facts.segments.items()):
        if entry.is_quarantined:
            what = f"segment {number} with {entry.count:,} rows waits to be rebuilt"
            findings.add("SEGMENT_LOST", what, NOTE, segment=number)
        if not entry.is_published:
            continue
        for name in entry.lost_parts:
            what = f"part {name} of segment {number} is to be rebuilt"
            findings.add("SEGMENT_LOST", what, NOTE, segment=number)
        try:
            segment = Segment(folder / "segments" / str(number), number, collection_id, entry)
            _check_manifest(segment, entry, config)
            opened.append(segment)
        except _GONE as error:
            detail = f"segment {number}: {error.filename} is missing"
            suspects.append(Suspect(number, "SEGMENT_MISSING", detail))
        except (SegmentDamagedError, *BAD_VALUE, IndexError) as error:
            suspects.append(Suspect(number, "SEGMENT_DAMAGED", f"segment {number}: {error}"))
    return opened, suspects


def _check_manifest(segment: Segment, entry: SegmentEntry, config: CollectionConfig) -> None:
    """Compare the manifest with the store's entry.

    Raises:
        SegmentDamagedError: they differ.
    """
    manifest = {
        "first_row": segment.first_row,
        "end_row": segment.end_row,
        "seq": segment.seq,
        "count": segment.count,
        "bytes": segment.file_bytes,
        "kind": segment.kind,
    }
    recorded = entry.to_json()
    for name, value in manifest.items():
        if recorded[name] != value:
            raise SegmentDamagedError(
                f"{name} is {value} in its manifest, but {recorded[name]} in the store",
                Reason.SEGMENT,
            )
    width = padded_width(config.dim)
    if segment.width != width:
        raise SegmentDamagedError(
            f"expected rows of {width} components, got {segment.width}", Reason.SEGMENT
        )


def verify(segments: list[Segment]) -> list[Suspect]:
    """Compare every checksum; reads all bytes."""
    suspects = []
    for segment in segments:
        try:
            segment.verify()
            for name, why in segment.damaged_parts.items():
                detail = f"segment {segment.number}: part {name}: {why}"
                suspects.append(Suspect(segment.number, "SEGMENT_DAMAGED", detail))
        except _GONE as error:
            detail = f"segment {segment.number}: {error.filename} is missing"
            suspects.append(Suspect(segment.number, "SEGMENT_MISSING", detail))
        except (DataLossError, *BAD_VALUE) as error:
            detail = f"segment {segment.number}: {error}"
            suspects.append(Suspect(segment.number, "SEGMENT_DAMAGED", detail))
    return suspects


def self_recall(
    segments: list[Segment], facts: Facts, config: CollectionConfig, sample: int
) -> float | None:
    """Return the share of sampled live rows that a search for their own vector finds.

    A row counts as found if the search returns it or another row with the same score. The sample
    is the same for the same rows. None if no row is live.

    Args:
        segments: those whose graph can be walked. All other rows are scanned, and so always found.
        sample: number of rows.
    """
    live = facts.live_rows
    if len(live) == 0:
        return None
    chosen = np.sort(
        np.random.default_rng(_SEED).choice(live, min(sample, len(live)), replace=False)
    )
    missed = sum(_missed(segment, chosen, facts, config) for segment in segments)
    return 1 - missed / len(chosen)


def _missed(segment: Segment, chosen: Rows, facts: Facts, config: CollectionConfig) -> int:
    """Return how many of the chosen rows in this segment are not found."""
    kernels, content = load_kernels(), segment.content
    graph = segment.parts[GRAPH]
    nodes = np.flatnonzero(is_among(content.rows, chosen))
    if len(nodes) == 0:
        return 0
    metric = kernels.EUCLIDEAN if config.metric is Metric.EUCLIDEAN else kernels.INNER
    deleted = ~is_among(content.rows, facts.live_rows)
    delete_bitmap = np.packbits(deleted[: len(deleted) if deleted.any() else 0], bitorder="little")
    queries = np.ascontiguousarray(content.vectors[nodes])
    count = len(nodes)
    found = np.empty((count, 1), np.int64)
    scores, own = np.empty((count, 1), np.float32), np.empty((count, 1), np.float32)
    counts, own_counts = np.zeros(count, np.int64), np.zeros(count, np.int64)
    kernels.walk(
        kernels.Scratch(), content.vectors, graph, delete_bitmap, queries, 0, count, metric, 1,
        checks.check_ef(None, 1), found, scores, counts, np.zeros(count, np.int64),
    )  # fmt: skip
    no_deleted = np.zeros(0, np.uint8)
    for i, node in enumerate(nodes.tolist()):
        kernels.scan_rows(
            content.vectors, no_deleted, node, node + 1, queries, i, i + 1, metric, 1,
            own, np.empty((count, 1), np.int64), own_counts,
        )  # fmt: skip
    hit = (counts == 1) & (scores[:, 0] <= own[:, 0])
    # A search scans the segment if its walk finds nothing, so only wrong results count as missed.
    return int(np.count_nonzero(~hit & (counts == 1)))


class Leftovers:
    """Unused files and folders of a collection. Create it before the state is read.

    A segment's folder is created after its entry and removed before it. So a folder is a leftover
    if it exists before the state is read and afterwards, and the state has no entry for it. The
    same holds for the draft of a graph, if no graph is reserved. An export's draft is in use while
    ``graph.lock`` is held. A draft of a store belongs to a compaction, which holds the data folder
    ``root`` exclusively.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._before = _listed(folder)
        self._root, self._folder = root, folder

    def report(self, facts: Facts, findings: Findings) -> None:
        """Report the leftovers, with the state that was read in between."""
        draft = self._folder / COMPACTION_DRAFT
        if _is_left(self._root, draft):
            detail = f"{draft} was left by a compaction; opening the folder removes it"
            findings.add("COMPACTION_LEFTOVER", detail, NOTE)
        if facts.bad_segments or "segments" in facts.incomplete:
            return
        entries = facts.segments
        building = any(e.is_reserved and e.lock == GRAPH_LOCK for e in entries.values())
        left = [
            name
            for name in sorted(self._before & _listed(self._folder))
            if (name.startswith("segments/") and not _is_number_in(name[9:], entries))
            or (name.startswith("graph-") and not building)
            or (name.startswith("export-") and _is_free(self._folder / "graph.lock"))
        ]
        findings.many("SEGMENT_LEFTOVER", "files or folders without a segment", left, NOTE)


def _is_left(root: Path, draft: Path) -> bool:
    """Return whether the draft exists while no compaction runs; False if that is unknown."""
    if not draft.exists():
        return False
    try:
        with FolderUse(root):
            return draft.exists()
    except (UnavailableError, OSError):
        return False


def _is_free(lock: Path) -> bool:
    """Return whether no process holds a lock; False if that is unknown."""
    try:
        with file_lock(lock, wait=False) as held:
            return held
    except OSError:
        return False


def _is_number_in(name: str, entries: dict[int, SegmentEntry]) -> bool:
    return name.isdecimal() and str(int(name)) == name and int(name) in entries


def _listed(folder: Path) -> set[str]:
    names = {name for name in names_in(folder) if _DRAFT.fullmatch(name)}
    return names | {f"segments/{name}" for name in names_in(folder / "segments")}
