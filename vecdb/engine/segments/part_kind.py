"""What a kind of segment part is: how it is written, read, derived and checked.

A segment is a manifest and a list of named parts. A part is one or more arrays, each in a .npy
file, and perhaps a few values in the manifest. A kind knows how to turn a value (a graph, say) into
arrays and back; the table of all kinds is in ``parts.py``, and everything else (flushing, building
graphs, verifying, backup, checking, rebuilding) goes by that table and by the manifest.

Some parts are given to the writer of a segment: its rows, its graph. Others are derived from parts
that come earlier in the table, whenever a segment is written that has those.

To add a kind: subclass ``PartKind`` in a file of its own, and add an instance to the table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from vecdb.engine.segments.array_files import ArrayRecord, SegmentDamagedError, verify_array
from vecdb.engine.segments.part_check import PartCheck
from vecdb.reasons import Reason
from vecdb.types import CollectionConfig

__all__ = [
    "CheckedSegment",
    "LeftOut",
    "MetadataReader",
    "PartData",
    "PartFiles",
    "PartKind",
    "PartSource",
    "Parts",
]

T = TypeVar("T")

MetadataReader = Callable[
    [npt.NDArray[np.int64]], tuple[int, Iterator[Sequence[bytes]]]
]  # fmt: skip
"""Reads the metadata of rows (int64, ascending): returns the seq that they are of, and slices that
together hold the JSON of each row, b"" for none. ``store.metadata_rows`` has it for a store. A row
that was deleted or changed since that seq may have none."""


@dataclass(frozen=True)
class PartData:
    """A part in the form that is written.

    Attributes:
        arrays: by the names of ``PartKind.arrays``, of any dtype and shape.
        fields: further keys of the manifest; no other kind may use the same ones.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PartFiles:
    """A part as it is found on disk.

    Attributes:
        folder: the segment's, for messages.
        arrays: mapped read-only; their bytes are not compared with the checksums yet.
        manifest: the segment's manifest, for the part's fields.
        count, width: rows of the segment, and floats of a vector as it is stored.
    """

    folder: Path
    arrays: Mapping[str, npt.NDArray[Any]]
    manifest: Mapping[str, Any]
    count: int
    width: int

    def check(self, *, fit: bool) -> None:
        """Raise SegmentDamagedError unless the arrays ``fit`` the segment."""
        if not fit:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())
            raise SegmentDamagedError(
                f"{self.folder}: expected arrays for {self.count} rows, got {shapes}",
                Reason.SEGMENT,
            )


class Parts:
    """The parts of one segment, by kind. Safe to use from many threads.

    What a segment has decides how it is searched: with ``has(GRAPH)`` it is walked, for example.
    Needed parts stay. An optional part may be dropped at any time, if its files are found damaged:
    read it once, with ``get``.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of their kinds."""
        return tuple(self._values)

    def has(self, kind: PartKind[Any]) -> bool:
        """Return whether there is a part of this kind."""
        return kind.name in self._values

    def get(self, kind: PartKind[T]) -> T | None:
        """Return the part of this kind, None if there is none."""
        value: T | None = self._values.get(kind.name)
        return value

    def __getitem__(self, kind: PartKind[T]) -> T:
        """Return the part of this kind.

        Raises:
            KeyError: there is none.
        """
        value: T = self._values[kind.name]
        return value

    def put(self, kind: PartKind[T], value: T) -> None:
        """Add a part, or replace the one of the same kind."""
        # Readers may be using the dict at this moment, so it never changes.
        self._values = {**self._values, kind.name: value}

    def drop(self, name: str) -> None:
        """Remove the part with this name, if there is one."""
        self._values = {key: value for key, value in self._values.items() if key != name}

    def with_part(self, kind: PartKind[T], value: T) -> Parts:
        """Return a copy with one more part."""
        whole = self.only(self.names)
        whole.put(kind, value)
        return whole

    def only(self, names: Collection[str]) -> Parts:
        """Return a copy with the parts of these names."""
        some = Parts()
        some._values = {name: value for name, value in self._values.items() if name in names}
        return some


@dataclass(frozen=True)
class PartSource:
    """What a part is derived from: the parts that come earlier in the table.

    A node has the same position in all of them, and its row number is in ``ROW_IDS``.

    Attributes:
        metadata: reads metadata from the store; None where there is no store, as in exports.
    """

    config: CollectionConfig
    parts: Parts
    metadata: MetadataReader | None = None


@dataclass(frozen=True)
class CheckedSegment:
    """The segment of a part that is checked. The end of its interval of rows is excluded."""

    number: int
    first_row: int
    end_row: int
    config: CollectionConfig
    parts: Parts


@dataclass(frozen=True)
class LeftOut:
    """Why a segment goes without a part that could be derived; a clause that ``stats`` shows."""

    reason: str


class PartKind(ABC, Generic[T]):
    """A kind of part, whose value in memory is a ``T``. Instances have no state.

    Attributes:
        name: in the table, in ``SegmentEntry.lost_parts`` and in messages. Never change it.
        arrays: names of the files, without .npy; unique among all kinds. Never change them.
        needed: True: a segment that has this part can't be used without it. If it is missing or
            damaged, the whole segment is quarantined and rebuilt from the store. False: the segment
            goes on serving without the part, more slowly, and the indexer derives it again.
        derived_from: the kinds that ``derive`` needs; the part is made for every segment that has
            all of them. They come earlier in the table. Empty: the caller of ``write_segment``
            gives the part; then it must be needed, as nothing could derive it again.
        from_metadata: whether it is derived from the store's metadata too; without a store the
            segment is written without the part.
        codes: whether the part only codes rows, for faster searches. With the option
            ``codes="none"`` such parts are neither written nor used.

    A segment whose manifest does not list a part was written without it, perhaps by an earlier
    version. That is no damage: it is searched without the part, and gets it when it is next merged
    or rewritten.
    """

    name: ClassVar[str]
    arrays: ClassVar[tuple[str, ...]]
    needed: ClassVar[bool] = True
    derived_from: ClassVar[tuple[PartKind[Any], ...]] = ()
    from_metadata: ClassVar[bool] = False
    codes: ClassVar[bool] = False

    @abstractmethod
    def write(self, value: T) -> PartData:
        """Return the arrays to write and the fields for the manifest."""

    @abstractmethod
    def read(self, files: PartFiles) -> T:
        """Return the value over mapped arrays; compares shapes and reads no data.

        Raises:
            SegmentDamagedError: the arrays do not fit each other or the segment.
        """

    def verify(
        self, folder: Path, records: Mapping[str, ArrayRecord], check: Callable[[], None] | None
    ) -> None:
        """Compare the files with their checksums: by default the CRC-32 of each array's data.

        Args:
            records: of this part's arrays, as ``write_array`` returned them.
            check: called between pieces of a few milliseconds, to raise if the work should end.

        Raises:
            FileNotFoundError: a file is gone.
            SegmentDamagedError: a checksum differs.
        """
        for name, record in records.items():
            verify_array(folder, name, record, check)

    def described(self, value: T) -> str:
        """Return what ``stats`` says about codes."""
        return self.name

    def applies_to(self, source: PartSource) -> bool:
        """Return whether a segment about to be written gets this part, derived from ``source``.

        By default, if it has all parts that this one is derived from. A kind may ask for more, a
        number of rows for example.
        """
        return bool(self.derived_from) and all(map(source.parts.has, self.derived_from))

    def derive(self, source: PartSource) -> T | LeftOut:
        """Return the part for a segment that it applies to, or why it does not pay for these rows.
        The same source must give the same part."""
        raise NotImplementedError(f"parts {self.name} are not derived")

    def check(self, value: T, segment: CheckedSegment) -> PartCheck:
        """Return the deep check of a part: of its content, not of its checksum."""
        return PartCheck()
