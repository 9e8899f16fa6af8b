"""The columns of a segment: its fields by path, and its nodes by id."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.columns.blob import BlobWriter, Entry, field_in, section_of, sections_fit
from vecdb.engine.segments.columns.building import build_fields
from vecdb.engine.segments.columns.collecting import Collector, Path
from vecdb.engine.segments.columns.field import Field
from vecdb.engine.segments.columns.node_sets import Nodes, NodeSet
from vecdb.engine.segments.row_arrays import RowArrays, RowIds

__all__ = ["Columns", "build_columns", "slice_rows"]

LISTED_MAX: Final = 256
"""Fields that are not indexed are named up to this number."""

SLICE_ROWS: Final = 4_000
_IDS_IN_TURN: Final = 8
"""From one id in so many nodes on, all ids of the segment are compared with them."""


class Columns:
    """The columns of a segment. Immutable, but for what is cached; safe for threads.

    Attributes:
        seq: the state of the collection whose metadata these are. Rows that have changed since are
            to be decided by their records.
        size: nodes of the segment.
        directory: see ``blob``.
    """

    def __init__(
        self, blob: npt.NDArray[np.uint8], directory: Entry, size: int, crc: int | None
    ) -> None:
        """Create columns over a blob, which may be mapped.

        Args:
            crc: CRC-32 that the blob must have; None if it was not read from a file.
        """
        self.blob = blob
        self.directory = directory
        self.seq: int = directory["seq"]
        self.size = size
        self._crc = crc
        self._comparing = threading.Lock()
        self._entries = {tuple(entry["path"]): entry for entry in directory["fields"]}
        self._fields: dict[Path, Field] = {}
        self.left_out: Mapping[Path, str] = {
            tuple(entry["path"]): entry["reason"] for entry in directory["left_out"]
        }
        self.has_unlisted: bool = directory["unlisted"]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The paths of all fields that are indexed."""
        return tuple(self._entries)

    def is_intact(self) -> bool:
        """Compare the blob with its checksum, once; return whether it is as it was written."""
        if self._crc is None:
            return True
        with self._comparing:
            if self._crc is not None and zlib.crc32(self.blob.data) == self._crc:
                self._crc = None
        return self._crc is None

    def fits(self) -> bool:
        """Return whether the directory fits the blob; reads none of it."""
        size = self.blob.size
        return sections_fit({"ids": self.directory["ids"]}, size) and all(
            sections_fit(entry["sections"], size) for entry in self._entries.values()
        )

    def field(self, path: Path) -> Field | None:
        """Return the field at a path; None if it is not indexed, or no row has it."""
        found = self._fields.get(path)
        if found is None:
            entry = self._entries.get(path)
            if entry is None:
                return None
            found = self._fields[path] = field_in(self.blob, entry, self.size)
        return found

    def is_absent(self, path: Path) -> bool:
        """Return whether no row has a field at a path."""
        return not (path in self._entries or path in self.left_out or self.has_unlisted)

    @property
    def by_id(self) -> Nodes:
        """All nodes, ascending by the bytes of their ids; int32."""
        return section_of(self.blob, self.directory["ids"])

    def nodes_with_ids(self, ids: RowIds | RowArrays, wanted: Sequence[str]) -> NodeSet:
        """Return the nodes that have one of some ids.

        ids: of the segment. wanted: distinct.
        """
        encoded = [text.encode() for text in wanted]
        if len(encoded) * _IDS_IN_TURN > self.size:
            among = set(encoded)
            found = [node for node, each in enumerate(_all_ids(ids)) if each in among]
            return NodeSet.of_nodes(self.size, np.array(found, np.int32))
        order, found = self.by_id, []
        for each in encoded:
            at = _position(ids, order, each)
            if at < len(order) and _id_of(ids, int(order[at])) == each:
                found.append(int(order[at]))
        return NodeSet.of_nodes(self.size, np.sort(np.array(found, np.int32)))

    def nodes_with_prefix(self, ids: RowIds | RowArrays, prefix: str) -> NodeSet:
        """Return the nodes whose ids begin with a prefix, which is not empty."""
        low, high = self.range_of_prefix(ids, prefix)
        return NodeSet.of_nodes(self.size, np.sort(self.by_id[low:high]))

    def range_of_prefix(self, ids: RowIds | RowArrays, prefix: str) -> tuple[int, int]:
        """Return where in ``by_id`` the nodes are whose ids begin with a prefix, not empty."""
        encoded = prefix.encode()
        order = self.by_id
        low = _position(ids, order, encoded)
        # No UTF-8 text has a byte 0xFF, so this is a prefix's end without exception.
        return low, _position(ids, order, encoded[:-1] + bytes([encoded[-1] + 1]))


def _id_of(ids: RowIds | RowArrays, node: int) -> bytes:
    return ids.id_bytes[int(ids.id_offsets[node]) : int(ids.id_offsets[node + 1])].tobytes()


def _position(ids: RowIds | RowArrays, order: Nodes, wanted: bytes) -> int:
    """Return how many ids are less than ``wanted``."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) >> 1
        if _id_of(ids, int(order[middle])) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


def _all_ids(ids: RowIds | RowArrays) -> Iterator[bytes]:
    whole, edges = ids.id_bytes.tobytes(), ids.id_offsets.tolist()
    for start, end in pairwise(edges):
        yield whole[start:end]


def slice_rows(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows in slices that are read in one transaction."""
    for start in range(0, len(rows), SLICE_ROWS):
        yield rows[start : start + SLICE_ROWS]


def build_columns(
    ids: RowIds | RowArrays,
    metadata: Iterable[Sequence[bytes]],
    seq: int,
    named: Collection[Path] | None = None,
) -> Columns:
    """Return the columns of a segment.

    Args:
        ids: of the segment.
        metadata: slices that together hold the JSON of each node, b"" for none.
        seq: the state of the collection whose metadata these are.
        named: paths of the fields to index; None for all within limits.
    """
    collector = Collector(named)
    for some in metadata:
        collector.add(some)
    size = len(ids.rows)
    assert collector.count == size
    fields, left_out = build_fields(collector)
    encoded = list(_all_ids(ids))
    by_id = np.array(sorted(range(size), key=encoded.__getitem__), np.int32)
    writer = BlobWriter()
    listed = list(left_out.items())[:LISTED_MAX]
    directory = {
        "seq": seq,
        "ids": writer.section(by_id),
        "fields": [writer.field(path, field) for path, field in fields.items()],
        "left_out": [{"path": list(path), "reason": reason} for path, reason in listed],
        "unlisted": collector.unlisted or len(listed) < len(left_out),
    }
    return Columns(writer.blob(), directory, size, None)
