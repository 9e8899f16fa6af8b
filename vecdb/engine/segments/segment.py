"""A segment: a read-only copy of an interval of rows in the form that kernels want.

    segments/<number>/
      manifest.json       what follows, and each array's dtype, shape, size, CRC-32
      vectors.npy         float32 (n, width): dim padded with zeros to a multiple of 16,
                          unit length under cosine
      rows.npy            int64 (n,), ascending
      id_offsets.npy      int64 (n + 1,): node i is called
      id_bytes.npy        uint8: id_bytes[id_offsets[i]:id_offsets[i + 1]]
    and if it is a graph
      links.npy           int32 (n, 2M), padded with -1: neighbours on level 0
      upper_offsets.npy   int32 (n + 1,): node i's neighbours on level L of 1 and more are
      upper_links.npy     int32 (…, M), padded with -1: upper_links[upper_offsets[i] + L - 1]

Nodes ascend with rows. A segment holds every row of its interval that was live when it was built,
and may hold some that had died: who reads it asks the store which are dead. It may be deleted at
any time: everything in it comes from the store. It is written whole and fsynced before the store
says that it exists, and never changed.

Opening compares the manifest's checksum with the store's, and sizes and headers with the manifest;
the arrays themselves are compared with their checksums later (``verifying.py``), as that takes as
long as reading them. Until then their bytes may be anything: who uses them stays within the arrays,
and what cannot be right (an id that is no text, a row of nowhere) is a SegmentDamagedError.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.hnsw.graph import Graph
from vecdb.engine.store.segment_table import PUBLISHED, SegmentEntry
from vecdb.engine.system.failpoints import failpoint
from vecdb.engine.system.files import fsync_folder, write_array, write_file
from vecdb.engine.system.modes import make_folder
from vecdb.errors import DataLossError
from vecdb.reasons import Reason
from vecdb.types import Metric

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

_GATHERED_IDS_MIN: Final = 64
_CHUNK_BYTES: Final = 4 * 1024**2

FLAT_ARRAYS: Final = ("vectors", "rows", "id_offsets", "id_bytes")
GRAPH_ARRAYS: Final = ("links", "upper_offsets", "upper_links")


class SegmentDamagedError(DataLossError):
    """The files of a segment are not what the store says of them. Nothing is lost: rebuild it."""


@dataclass(frozen=True)
class RowArrays:
    """Rows in the form of a segment; the module docstring says which is which."""

    vectors: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    id_offsets: npt.NDArray[np.int64]
    id_bytes: npt.NDArray[np.uint8]

    @staticmethod
    def joined(parts: Sequence[RowArrays], width: int) -> RowArrays:
        """One after the other, as a copy."""
        if not parts:
            return RowArrays(
                np.zeros((0, width), np.float32),
                np.zeros(0, np.int64),
                np.zeros(1, np.int64),
                np.zeros(0, np.uint8),
            )
        starts = np.cumsum([0] + [int(part.id_offsets[-1]) for part in parts])
        offsets = [part.id_offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        return RowArrays(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([*offsets, starts[-1:]]),
            np.concatenate([part.id_bytes for part in parts]),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.vectors, self.rows, self.id_offsets, self.id_bytes)
        return sum(array.nbytes for array in arrays)

    def ids_of(self, nodes: npt.NDArray[np.int64]) -> list[str]:
        """The ids of nodes."""
        starts, ends = self.id_offsets.take(nodes), self.id_offsets[1:].take(nodes)
        try:
            return self._texts(starts, ends)
        except UnicodeDecodeError as error:
            raise SegmentDamagedError(
                f"an id is no UTF-8 text ({error})", Reason.SEGMENT
            ) from error

    def _texts(self, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> list[str]:
        size = len(self.id_bytes)
        if len(starts) < _GATHERED_IDS_MIN:
            text = memoryview(self.id_bytes)  # type: ignore[arg-type]
            pairs = list(zip(starts.tolist(), ends.tolist(), strict=True))
            for start, end in pairs:
                if not 0 <= start <= end <= size:
                    raise _offsets_damaged(start, end, size)
            return [str(text[start:end], "utf-8") for start, end in pairs]
        wrong = np.flatnonzero((starts < 0) | (starts > ends) | (ends > size))
        if len(wrong):
            raise _offsets_damaged(int(starts[wrong[0]]), int(ends[wrong[0]]), size)
        # Many at once: their bytes laid end to end are decoded in one go, then cut. If some are
        # not ASCII, characters and bytes do not go together, and the bytes are cut first.
        lengths = ends - starts
        cuts = np.cumsum(lengths)
        source = np.arange(cuts[-1]) + np.repeat(starts - (cuts - lengths), lengths)
        laid = self.id_bytes[source].tobytes()
        cut_at = [0, *cuts.tolist()]
        if laid.isascii():
            whole = laid.decode()
            return [whole[start:end] for start, end in pairwise(cut_at)]
        return [laid[start:end].decode() for start, end in pairwise(cut_at)]

    def without(self, dead: npt.NDArray[np.int64]) -> RowArrays:
        """Those whose row is not in ``dead`` (ascending); itself if there is none."""
        gone = np.isin(self.rows, dead, assume_unique=True)
        if not gone.any():
            return self
        kept = np.flatnonzero(~gone)
        lengths = np.diff(self.id_offsets)
        return RowArrays(
            self.vectors[kept],
            self.rows[kept],
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[kept])]),
            self.id_bytes[np.repeat(~gone, lengths)],
        )


def _offsets_damaged(start: int, end: int, size: int) -> SegmentDamagedError:
    return SegmentDamagedError(
        f"an id is said to be at bytes {start} to {end} of {size}: the offsets are damaged",
        Reason.SEGMENT,
    )


def padded_width(dim: int) -> int:
    """Floats of a stored row: dim up to the next cache line."""
    return -(-dim // ALIGNMENT_FLOATS) * ALIGNMENT_FLOATS


class Segment:
    """A mapped segment. Immutable; safe to use from many threads; lives as long as a view uses it.

    Attributes:
        number, first_row, end_row, count, width: see the module docstring; end_row is excluded.
        seq: the collection's, when the segment was begun.
        content: RowArrays over the mapped files.
        graph: Graph, or None if the segment is flat.
        file_bytes: size of its files.
        verified: False until these bytes are known to be those that were written (``verify``).
        signature: what changes when somebody writes to the files or puts others in their place.
    """

    def __init__(self, folder: Path, number: int, collection_id: str, entry: SegmentEntry) -> None:
        """Map the files that ``entry`` (the store's word on this segment) speaks of.

        Raises:
            FileNotFoundError: the folder is gone, as happens when the segment was replaced.
            SegmentDamagedError: names, sizes or headers differ from what was written.
        """
        self.folder = folder
        self.number = number
        raw = (folder / "manifest.json").read_bytes()
        if zlib.crc32(raw) != entry.manifest_crc:
            raise SegmentDamagedError(f"{folder}: the manifest's checksum is wrong", Reason.SEGMENT)
        self._manifest = manifest = json.loads(raw)
        if manifest["collection"] != collection_id or manifest["number"] != number:
            raise SegmentDamagedError(
                f"{folder} belongs to segment {manifest['number']} of collection "
                f"{manifest['collection']}, expected {number} of {collection_id}",
                Reason.SEGMENT,
            )
        self.first_row: int = manifest["first_row"]
        self.end_row: int = manifest["end_row"]
        self.seq: int = manifest["seq"]
        self.count: int = manifest["count"]
        self.width: int = manifest["width"]
        self.verified = False
        self.signature: tuple[int, ...] = ()
        arrays = {name: self._map(name) for name in manifest["arrays"]}
        self.content = RowArrays(*(arrays[name] for name in FLAT_ARRAYS))
        self.graph = (
            Graph(
                arrays["links"],
                arrays["upper_offsets"],
                arrays["upper_links"],
                manifest["entry"],
                manifest["top_level"],
            )
            if manifest["kind"] == "graph"
            else None
        )
        self.file_bytes: int = len(raw) + sum(a["bytes"] for a in manifest["arrays"].values())
        self._check_shapes()

    def _map(self, name: str) -> npt.NDArray[Any]:
        said = self._manifest["arrays"][name]
        path = self.folder / f"{name}.npy"
        found = path.stat()
        self.signature += (found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
        if found.st_size != said["bytes"]:
            raise SegmentDamagedError(
                f"{path}: expected {said['bytes']} bytes, got {found.st_size}", Reason.SEGMENT
            )
        shape, dtype = tuple(said["shape"]), np.dtype(said["dtype"])
        data_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        with open(path, "rb") as file:
            header = _read_header(file)
            if header != (shape, False, dtype, said["bytes"] - data_bytes):
                raise SegmentDamagedError(
                    f"{path}: expected a header of {dtype.str} {shape}, got {header}",
                    Reason.SEGMENT,
                )
            if data_bytes == 0:
                return np.zeros(shape, dtype)
            # A plain array over the map: kernels take it five times faster than a memmap object.
            mapped = np.memmap(file, dtype, "r", header[3], shape)
        plain: npt.NDArray[Any] = mapped.view(np.ndarray)
        return plain

    def _check_shapes(self) -> None:
        n = self.count
        fine = (
            self.content.vectors.shape == (n, self.width)
            and self.content.rows.shape == (n,)
            and self.content.id_offsets.shape == (n + 1,)
        )
        if self.graph is not None:
            fine = fine and (
                len(self.graph.links) == n and self.graph.upper_offsets.shape == (n + 1,)
            )
        if not fine:
            raise SegmentDamagedError(
                f"{self.folder}: the arrays do not fit each other", Reason.SEGMENT
            )

    def verify(self, check: Callable[[], None] | None = None) -> None:
        """Compare the checksum of every array with the manifest; reads all bytes.

        Args:
            check: called between pieces of a few milliseconds, to raise if it is to end.

        Raises:
            SegmentDamagedError: one differs.
            FileNotFoundError: the folder is gone.
        """
        for name, said in self._manifest["arrays"].items():
            with open(self.folder / f"{name}.npy", "rb") as file:
                _read_header(file)
                crc = 0
                while chunk := file.read(_CHUNK_BYTES):
                    crc = zlib.crc32(chunk, crc)
                    if check is not None:
                        check()
            if crc != said["crc32"]:
                raise SegmentDamagedError(f"{file.name}: the checksum is wrong", Reason.SEGMENT)
        self.verified = True


_NPY_HEADER: Final = re.compile(
    rb"\{'descr': '([<>|][a-z][0-9]+)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]+, ?)*[0-9]*)\), \} *\n"
)
"""The header of a .npy file of version 1.0 as NumPy writes it."""


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, whether in Fortran's order, dtype, and where the data of a .npy file begin.

    Raises:
        SegmentDamagedError: it can't be read.
    """
    # NumPy's own reader has Python parse the header, which may fail in one thread for what another
    # one is parsing: a sound segment would be taken for a damaged one.
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        header = file.read(int.from_bytes(file.read(2), "little"))
        found = _NPY_HEADER.fullmatch(header)
        if found is None:
            raise ValueError(f"{header[:80]!r}")
        shape = tuple(int(size) for size in found[3].split(b",") if size.strip())
        dtype = np.dtype(found[1].decode())
    except (ValueError, TypeError) as error:
        raise SegmentDamagedError(f"{file.name}: bad header ({error})", Reason.SEGMENT) from error
    return shape, found[2] == b"True", dtype, file.tell()


def write_segment(
    folder: Path,
    *,
    number: int,
    collection_id: str,
    metric: Metric,
    first_row: int,
    end_row: int,
    seq: int,
    content: RowArrays,
    graph: Graph | None,
) -> SegmentEntry:
    """Write the files of a segment, all on disk and read back when this returns.

    Returns:
        The entry for the store's ``segments``, state "published", verified.

    Raises:
        SegmentDamagedError: what is read back is not what was written.
    """
    if folder.exists():
        shutil.rmtree(folder)
    make_folder(folder)  # Not its parents: a data folder that was deleted must not come back.
    failpoint("segment.folder")
    arrays: dict[str, npt.NDArray[Any]] = {
        "vectors": content.vectors,
        "rows": content.rows,
        "id_offsets": content.id_offsets,
        "id_bytes": content.id_bytes,
    }
    if graph is not None:
        arrays["links"] = graph.links
        arrays["upper_offsets"] = graph.upper_offsets
        arrays["upper_links"] = graph.upper_links
    manifest: dict[str, Any] = {
        "format": MANIFEST_FORMAT,
        "collection": collection_id,
        "number": number,
        "kind": "graph" if graph is not None else "flat",
        "metric": metric.value,
        "first_row": first_row,
        "end_row": end_row,
        "seq": seq,
        "count": len(content.rows),
        "width": content.vectors.shape[1],
        "arrays": {name: write_array(folder / f"{name}.npy", a) for name, a in arrays.items()},
    }
    if graph is not None:
        manifest["entry"], manifest["top_level"] = graph.entry, graph.top_level
    failpoint("segment.arrays")
    raw = json.dumps(manifest, indent=1).encode()
    crc = write_file(folder / "manifest.json", raw)
    failpoint("segment.manifest")
    fsync_folder(folder)
    fsync_folder(folder.parent)
    failpoint("segment.synced")
    entry = SegmentEntry(
        PUBLISHED,
        first_row,
        end_row,
        seq,
        kind=manifest["kind"],
        count=len(content.rows),
        file_bytes=len(raw) + sum(a["bytes"] for a in manifest["arrays"].values()),
        manifest_crc=crc,
    )
    Segment(folder, number, collection_id, entry).verify()
    return replace(entry, verified=True)


def remove_segment_folder(folder: Path) -> bool:
    """Unlink a segment's files; processes that map them keep their copy. Gone already is fine.

    Returns:
        False if something of it could not be removed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
