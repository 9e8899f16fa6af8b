"""A segment: a read-only copy of an interval of rows in the form that kernels want.

    segments/<number>/
      manifest.json       what follows, and each array's dtype, shape, size, CRC-32
      <array>.npy         the arrays of its parts: vectors and ids (``row_arrays.py``), perhaps a
                          graph (``graph_part.py``), and what else ``parts.py`` lists

Nodes ascend with rows. A segment holds every row of its interval that was live when it was built,
and may hold deleted ones: its reader asks the store which are deleted. It may be removed at any
time, since everything in it is derived from the store. It is written as a whole and fsynced before
the store publishes it, and is never changed.

Opening compares the manifest's checksum with the store's, and sizes and headers with the manifest.
The arrays are compared with their checksums later (``verifying.py``), as that takes as long as
reading them. Until then their bytes may be anything: readers stay within the arrays, and an
impossible value (an id that is not text, a row outside of the collection) is a SegmentDamagedError.

A part that is needed and missing or damaged makes the segment unusable. One that is not needed is
left out: ``damaged_parts`` names it, and the indexer writes the segment with that part again.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from vecdb.engine.segments.array_files import (
    ArrayRecord,
    SegmentDamagedError,
    array_path,
    map_array,
    verify_array,
)
from vecdb.engine.segments.graph_part import GRAPH
from vecdb.engine.segments.part_kind import MetadataReader, PartFiles, Parts
from vecdb.engine.segments.parts import (
    PART_KINDS,
    RecordedPart,
    recorded_parts,
    with_derived,
    write_parts,
)
from vecdb.engine.segments.row_arrays import ROW_IDS, VECTORS, RowArrays
from vecdb.engine.store.segment_table import FLAT_KIND, GRAPH_KIND, PUBLISHED, SegmentEntry
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import fsync_folder, write_file
from vecdb.engine.system.modes import make_folder
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig

__all__ = [
    "RowArrays",
    "Segment",
    "SegmentDamagedError",
    "padded_width",
    "remove_segment_folder",
    "write_segment",
]

MANIFEST_FORMAT: Final = 1
ALIGNMENT_FLOATS: Final = 16


def padded_width(dim: int) -> int:
    """Return the floats of a stored row: ``dim`` rounded up to whole cache lines."""
    return -(-dim // ALIGNMENT_FLOATS) * ALIGNMENT_FLOATS


class Segment:
    """A mapped segment. Safe to use from many threads; the files stay mapped while it is used.

    Attributes:
        number, kind, first_row, end_row, count, width: see ``SegmentEntry``; end_row is excluded,
            width is in floats.
        seq: the collection's, when the rows were read.
        parts: the mapped parts of known kinds; a damaged optional one is dropped.
        content: RowArrays over the mapped files.
        file_bytes: size of its files, as they were written.
        left_out: why optional parts were not written, by name.
        lost_parts: optional parts that the store knows to be lost; they are not mapped.
        damaged_parts: optional parts found missing or damaged here, and why; they are dropped.
        verified: False until these bytes are known to be the written ones (``verify``).
    """

    def __init__(self, folder: Path, number: int, collection_id: str, entry: SegmentEntry) -> None:
        """Map the files of a segment whose entry in the store is ``entry``.

        Raises:
            FileNotFoundError: the folder is gone, as when the segment was replaced.
            SegmentDamagedError: names, sizes or headers differ from what was written.
        """
        self.folder = folder
        self.number = number
        raw = (folder / "manifest.json").read_bytes()
        if zlib.crc32(raw) != entry.manifest_crc:
            raise SegmentDamagedError(
                f"{folder}/manifest.json: expected CRC-32 {entry.manifest_crc:08x}, got "
                f"{zlib.crc32(raw):08x}",
                Reason.SEGMENT,
            )
        self._manifest = manifest = json.loads(raw)
        if manifest["collection"] != collection_id or manifest["number"] != number:
            raise SegmentDamagedError(
                f"{folder} belongs to segment {manifest['number']} of collection "
                f"{manifest['collection']}, expected {number} of {collection_id}",
                Reason.SEGMENT,
            )
        self.kind: str = manifest["kind"]
        self.first_row: int = manifest["first_row"]
        self.end_row: int = manifest["end_row"]
        self.seq: int = manifest["seq"]
        self.count: int = manifest["count"]
        self.width: int = manifest["width"]
        self.file_bytes: int = len(raw) + sum(a["bytes"] for a in manifest["arrays"].values())
        self.verified = False
        self._signatures: dict[str, tuple[int, ...]] = {}
        self.parts = Parts()
        self.left_out: Mapping[str, str] = manifest.get("left_out", {})
        self.lost_parts = entry.lost_parts
        self.damaged_parts: Mapping[str, str] = {}
        self._recorded = [
            part
            for part in recorded_parts(manifest)
            if part.needed or part.name not in entry.lost_parts
        ]
        for part in self._recorded:
            self._using(part, self._map)
        self.content = RowArrays.of_parts(self.parts, folder)

    @property
    def signature(self) -> tuple[int, ...]:
        """Inodes and times of the used files: it changes when they are written to or replaced."""
        used = (s for name, s in self._signatures.items() if name not in self.damaged_parts)
        return tuple(chain.from_iterable(used))

    def files_of(self, names: Collection[str]) -> dict[str, tuple[Path, ArrayRecord]]:
        """Return the files of the parts of these names that it has, and what is recorded of them,
        by the names of their arrays."""
        return {
            name: (array_path(self.folder, name), record)
            for part in self._recorded
            if part.name in names and part.name in self.parts.names
            for name, record in part.records.items()
        }

    def verify(self, check: Callable[[], None] | None = None) -> None:
        """Compare all files with their checksums; reads all bytes. Drops damaged optional parts.

        Args:
            check: called between pieces of a few milliseconds, to raise if the work should end.

        Raises:
            SegmentDamagedError: a checksum of a needed part differs.
            FileNotFoundError: the folder is gone.
        """
        for part in self._recorded:
            if part.name not in self.damaged_parts:
                self._using(part, lambda part: self._compare(part, check))
        self.verified = True

    def _using(self, part: RecordedPart, function: Callable[[RecordedPart], None]) -> None:
        """Call ``function``; drop the part if it is damaged and the segment can do without it."""
        try:
            function(part)
        except (FileNotFoundError, NotADirectoryError, SegmentDamagedError) as damage:
            if part.needed:
                raise
            self.parts.drop(part.name)
            self.damaged_parts = {**self.damaged_parts, part.name: str(damage)}

    def _map(self, part: RecordedPart) -> None:
        arrays: dict[str, Any] = {}
        signatures: list[int] = []
        for name, record in part.records.items():
            arrays[name], signature = map_array(self.folder, name, record)
            signatures.extend(signature)
        self._signatures[part.name] = tuple(signatures)
        if part.kind is not None:
            files = PartFiles(self.folder, arrays, self._manifest, self.count, self.width)
            self.parts.put(part.kind, part.kind.read(files))

    def _compare(self, part: RecordedPart, check: Callable[[], None] | None) -> None:
        if part.kind is not None:
            part.kind.verify(self.folder, part.records, check)
            return
        for name, record in part.records.items():
            verify_array(self.folder, name, record, check)


def write_segment(
    folder: Path,
    *,
    number: int,
    collection_id: str,
    config: CollectionConfig,
    first_row: int,
    end_row: int,
    seq: int,
    given: Parts,
    codes: bool = True,
    metadata: MetadataReader | None = None,
    kept: Segment | None = None,
    threads: int = 1,
) -> SegmentEntry:
    """Write the files of a segment, all fsynced and read back when this returns.

    Args:
        given: its rows (``RowArrays.parts``) and perhaps a graph. Parts that are derived from these
            are written too.
        codes: whether the parts that only code rows, for faster searches, are among them.
        metadata: reads the metadata of rows, for parts that are derived from them; None: none is.
        kept: a verified segment of the same rows and graph, whose files are used again for all
            parts that do not depend on metadata.
        threads: threads that may be used to derive parts.

    Returns:
        The entry for the store's table, published and verified.

    Raises:
        SegmentDamagedError: what is read back differs from what was written.
    """
    _make_empty(folder)
    count, width = len(given[ROW_IDS].rows), given[VECTORS].shape[1]
    names: Collection[str] = ()
    if kept is not None:
        names = [kind.name for kind in PART_KINDS if not kind.from_metadata]
        given = kept.parts
    parts, left_out = with_derived(
        given, config, codes=codes, metadata=metadata, kept=names, threads=threads
    )
    linked = {} if kept is None else kept.files_of(names)
    manifest: dict[str, Any] = {
        "format": MANIFEST_FORMAT,
        "collection": collection_id,
        "number": number,
        "kind": GRAPH_KIND if given.has(GRAPH) else FLAT_KIND,
        "metric": config.metric.value,
        "first_row": first_row,
        "end_row": end_row,
        "seq": seq,
        "count": count,
        "width": width,
        **write_parts(folder, parts, left_out, linked),
    }
    failpoint("segment.arrays")
    raw = json.dumps(manifest, indent=1).encode()
    crc = write_file(folder / "manifest.json", raw)
    failpoint("segment.manifest")
    fsync_folder(folder)
    fsync_folder(folder.parent)
    failpoint("segment.synced")
    entry = _entry_of(manifest, len(raw), crc)
    _check_written(Segment(folder, number, collection_id, entry))
    return replace(entry, verified=True)


def _entry_of(manifest: dict[str, Any], manifest_bytes: int, manifest_crc: int) -> SegmentEntry:
    return SegmentEntry(
        PUBLISHED,
        manifest["first_row"],
        manifest["end_row"],
        manifest["seq"],
        kind=manifest["kind"],
        count=manifest["count"],
        file_bytes=manifest_bytes + sum(a["bytes"] for a in manifest["arrays"].values()),
        manifest_crc=manifest_crc,
    )


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    # Not its parents: a data folder that was deleted must not be created again.
    make_folder(folder)
    failpoint("segment.folder")


def _check_written(segment: Segment) -> None:
    segment.verify()
    if segment.damaged_parts:
        raise SegmentDamagedError("; ".join(segment.damaged_parts.values()), Reason.SEGMENT)


def remove_segment_folder(folder: Path) -> bool:
    """Unlink a segment's files; processes that map them keep their copy. It may be gone already.

    Returns:
        False if some of it could not be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
